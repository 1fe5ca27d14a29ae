//! Directories, disks and ports that are not this node's: refused in one sentence, nothing changed, and once they are put
//! right everything goes on with all data.

use serde_json::Value;
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use weft_tests::cluster::{Cluster, pattern, weft_on};
use weft_tests::program::{output, run, said, weft_binary};
use weft_tests::refusal::{Picture, refused};

fn run_node(directory: &Path) -> Command {
    let mut command = Command::new(weft_binary());
    command.args(["node", "run", "--dir"]).arg(directory);
    command
}

/// What a node's directory says about itself.
fn identity(directory: &Path) -> Value {
    serde_json::from_slice(&fs::read(directory.join("identity/node.json")).unwrap()).unwrap()
}

/// Node id as text. Boxes join concurrently, so `node-2` need not be node 2.
fn node_id(directory: &Path) -> String {
    identity(directory)["node"].to_string()
}

/// The node is refused with these words, and nothing below `watched` changes.
fn refused_untouched(directory: &Path, watched: &Path, says: &[&str]) {
    let before = Picture::of(watched);
    refused(&mut run_node(directory), says);
    assert_eq!(Picture::of(watched), before, "a refused start changed something");
}

fn exchange(a: &Path, b: &Path) {
    let aside = a.with_extension("aside");
    fs::rename(a, &aside).unwrap();
    fs::rename(b, a).unwrap();
    fs::rename(aside, b).unwrap();
}

/// The one-node cluster of somebody else, made and never started.
fn other_cluster(files: &Path) -> PathBuf {
    let directory = files.join("other");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("node.toml"), "name = \"other\"\nlisten = \"127.1.0.40\"\njournal_mib = 64\n").unwrap();
    let mut init = Command::new(weft_binary());
    let _ = run(init.args(["cluster", "init", "--dir"]).arg(&directory).arg("--admin").arg(files.join("other-admin")));
    directory
}

#[test]
fn what_belongs_to_another_cluster_or_node_or_was_never_finished_is_refused_and_left_alone() {
    let mut cluster = Cluster::start();
    let file = cluster.mount().join("file");
    let bytes = pattern(9, 0, 6 << 20);
    fs::write(&file, &bytes).unwrap();
    let token = cluster.ok(&["token", "create", "--role", "node", "--name", "again"]).trim().to_owned();
    cluster.stop();

    let (data, other) = (cluster.data().to_path_buf(), other_cluster(cluster.files()));
    let (second, third) = (data.join("node-2"), data.join("node-3"));
    let (ours, theirs) = (identity(&second)["cluster"].clone(), identity(&other)["cluster"].clone());
    let (ours, theirs) = (ours.as_str().unwrap(), theirs.as_str().unwrap());

    // Somebody else's disk.
    exchange(&second.join("disks/0"), &other.join("disks/0"));
    refused_untouched(&second, cluster.files(), &["disks/0", &format!("belongs to cluster {theirs}, not to {ours}")]);
    exchange(&second.join("disks/0"), &other.join("disks/0"));

    // Disks of two nodes, swapped.
    exchange(&second.join("disks/0"), &third.join("disks/0"));
    let (two, three) = (node_id(&second), node_id(&third));
    let swapped = |found: &str, expected: &str| format!("belongs to node {found}, and this is node {expected}");
    refused_untouched(&second, &data, &["disks/0", &swapped(&three, &two), "disks were swapped"]);
    refused_untouched(&third, &data, &["disks/0", &swapped(&two, &three), "disks were swapped"]);
    // The whole cluster says so too, and leaves nothing running.
    let started = output(cluster.weft(&["dev"]).arg("--mount").arg(cluster.mount()));
    assert_eq!(started.status.code(), Some(1), "{}", said(&started));
    assert!(said(&started).contains("disks were swapped"), "{}", said(&started));
    assert_eq!(cluster.process_ids(), Vec::<i64>::new());
    exchange(&second.join("disks/0"), &third.join("disks/0"));

    // A disk that is not mounted, and one whose formatting was interrupted.
    let disk = second.join("disks/0");
    fs::rename(&disk, second.join("kept")).unwrap();
    fs::create_dir(&disk).unwrap();
    refused_untouched(&second, &data, &["disks/0", "no Weft disk is here"]);
    fs::create_dir(disk.join("journal")).unwrap();
    fs::write(disk.join("journal/0000"), vec![0; 4096]).unwrap();
    refused_untouched(&second, &data, &["disks/0", "formatting was interrupted"]);
    fs::remove_dir_all(&disk).unwrap();
    fs::rename(second.join("kept"), &disk).unwrap();

    // The metadata store of another cluster, and a directory that is a member already.
    exchange(&second.join("raft"), &other.join("raft"));
    let store = format!("this metadata store belongs to cluster {theirs}, not to {ours}");
    refused_untouched(&second, cluster.files(), &["node-2/raft", &store]);
    exchange(&second.join("raft"), &other.join("raft"));
    let before = Picture::of(&data);
    let member = format!("holds node {two} of cluster {ours} already; nothing was changed");
    refused(run_node(&second).args(["--join", &token]), &[&member]);
    refused(&mut weft_on(&other, &["dev"]), &["not empty and holds no development cluster"]);
    // A join that was broken off.
    fs::write(second.join("identity/unfinished"), "a join").unwrap();
    refused(&mut run_node(&second), &["a join here was interrupted", "needs a new token"]);
    fs::remove_file(second.join("identity/unfinished")).unwrap();
    // A port that somebody else has.
    for (port, key) in [(7400, "control_port"), (7401, "data_port"), (7402, "join_port")] {
        let taken = UdpSocket::bind(("127.1.0.2", port)).unwrap();
        refused(&mut run_node(&second), &[&format!("UDP port 127.1.0.2:{port} is in use"), key, "ss -ulnp"]);
        drop(taken);
    }
    // Directories apart: the test itself made and removed a file.
    assert_eq!(Picture::of(&data).files_only(), before.files_only());

    cluster.run_dev();
    assert!(fs::read(&file).unwrap() == bytes, "the file changed");
    cluster.wait_healthy();
    cluster.assert_replicas_identical();
}
