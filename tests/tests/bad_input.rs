//! Bad input gets one clear sentence and changes nothing.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Output};
use weft_tests::cluster::{Cluster, weft_on};
use weft_tests::exclusive;
use weft_tests::program::{output, run, said, weft_binary};

/// The command is refused with exit code 2 and one sentence that holds all of `says`.
fn refused(command: &mut Command, says: &[&str]) {
    let refused = output(command);
    let text = said(&refused);
    assert_eq!(refused.status.code(), Some(2), "{command:?}:\n{text}");
    one_sentence(&refused, says, command);
}

/// The same for what the cluster or the system refuses (exit code 1 or 2).
fn fails(command: &mut Command, says: &[&str]) {
    let failed = output(command);
    assert!(matches!(failed.status.code(), Some(1 | 2)), "{command:?}:\n{}", said(&failed));
    one_sentence(&failed, says, command);
}

fn one_sentence(output: &Output, says: &[&str], command: &Command) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in says {
        assert!(text.contains(part), "{command:?} does not say `{part}`:\n{text}");
    }
    assert!(text.trim_start().starts_with("weft: "), "{text}");
    assert_eq!(text.trim().lines().count(), 1, "more than one line:\n{text}");
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn a_running_cluster_refuses_bad_volumes_images_and_tokens() {
    let cluster = Cluster::start();
    let before = cluster.json(&["volume", "list"]);
    let weft = |words: &[&str]| cluster.weft(words);
    let create = |more: &[&str]| weft(&[&["volume", "create"], more].concat());

    refused(&mut create(&["x", "--replica", "0"]), &["--replica 0", "out of range"]);
    refused(&mut create(&["x", "--replica", "4"]), &["replica"]);
    refused(&mut create(&["x", "--replica", "9"]), &["--replica 9", "out of range"]);
    refused(&mut create(&[""]), &["empty"]);
    refused(&mut create(&["a/b"]), &["contains `/`"]);
    refused(&mut create(&[&"x".repeat(64)]), &["64 bytes"]);
    refused(&mut create(&["vms"]), &["already exists"]);
    refused(&mut weft(&["volume", "info", "none"]), &["no volume `none`", "vms"]);
    refused(&mut weft(&["volume", "delete", "vms"]), &["--yes"]);
    refused(&mut weft(&["client", "evict", "999999", "--yes"]), &["no session 999999"]);
    refused(&mut weft(&["node", "remove", "node-1", "--yes"]), &["is live"]);
    refused(&mut weft(&["dev", "kill", "7"]), &["no node 7"]);
    refused(&mut weft(&["dev", "start", "1"]), &["runs already"]);
    assert_eq!(cluster.json(&["volume", "list"]), before);

    images(&cluster);
    tokens(&cluster);
    mountpoints(&cluster);
    assert_eq!(cluster.json(&["volume", "list"])[0]["record"], before[0]["record"]);
    cluster.check_memory();
}

fn images(cluster: &Cluster) {
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name);
    let import = |source: &Path, target: &str| cluster.weft(&["image", "import", source.to_str().unwrap(), target]);

    fs::write(path("odd.raw"), vec![1u8; 1_000_001]).unwrap();
    refused(&mut import(&path("odd.raw"), "vms/odd"), &["truncated", "1000001 bytes"]);
    File::create(path("empty.raw")).unwrap();
    refused(&mut import(&path("empty.raw"), "vms/empty"), &["is empty"]);
    refused(&mut import(&path("none.raw"), "vms/none"), &["could not open"]);
    refused(&mut import(files.path(), "vms/dir"), &["neither a file nor a block device"]);

    let qemu_img = |words: &[&str], file: &Path| run(Command::new("qemu-img").args(words).arg(file));
    fs::write(path("data.raw"), vec![7u8; 8 << 20]).unwrap();
    let convert = |format: &str, name: &str| {
        let _ = run(Command::new("qemu-img").args(["convert", "-O", format]).arg(path("data.raw")).arg(path(name)));
    };
    convert("qcow2", "whole.qcow2");
    let length = fs::metadata(path("whole.qcow2")).unwrap().len();
    for keep in [length / 2, length - (2 << 20), 100_000, 60_000] {
        fs::copy(path("whole.qcow2"), path("cut.qcow2")).unwrap();
        File::options().write(true).open(path("cut.qcow2")).unwrap().set_len(keep).unwrap();
        refused(&mut import(&path("cut.qcow2"), "vms/cut"), &["cut.qcow2"]);
    }
    convert("vmdk", "other.vmdk");
    refused(&mut import(&path("other.vmdk"), "vms/other"), &["vmdk", "only raw and qcow2"]);
    convert("vdi", "other.vdi");
    refused(&mut import(&path("other.vdi"), "vms/other"), &["vdi", "only raw and qcow2"]);
    let backing = format!("backing_file={},backing_fmt=qcow2", path("whole.qcow2").display());
    let _ = qemu_img(&["create", "-q", "-f", "qcow2", "-o", &backing], &path("child.qcow2"));
    refused(&mut import(&path("child.qcow2"), "vms/child"), &["builds on another image"]);

    refused(&mut import(&path("data.raw"), "vms"), &["VOLUME/PATH"]);
    refused(&mut import(&path("data.raw"), "vms/../x"), &["VOLUME/PATH"]);
    refused(&mut import(&path("data.raw"), "none/x"), &["none"]);
    assert_eq!(cluster.json(&["image", "list", "vms"]).as_array().unwrap().len(), 0, "something was left behind");

    let imported = cluster.ok(&["image", "import", path("whole.qcow2").to_str().unwrap(), "vms/dir/whole.raw"]);
    assert!(imported.contains("qcow2"), "{imported}");
    assert!(fs::read(cluster.mount().join("dir/whole.raw")).unwrap() == vec![7u8; 8 << 20]);
    refused(&mut import(&path("data.raw"), "vms/dir/whole.raw"), &["exists already"]);
    let back = path("back.qcow2");
    let export = |target: &Path| {
        cluster.weft(&["image", "export", "vms/dir/whole.raw", target.to_str().unwrap(), "--format", "qcow2"])
    };
    let _ = run(&mut export(&back));
    let _ = run(Command::new("qemu-img").args(["compare", "-q"]).arg(path("data.raw")).arg(&back));
    refused(&mut export(&back), &["exists already"]);
    refused(&mut cluster.weft(&["image", "export", "vms/none", "/tmp/x"]), &["no vms/none"]);
    fails(&mut export(Path::new("/proc/nowhere/x")), &["/proc/nowhere"]);
}

fn tokens(cluster: &Cluster) {
    let files = tempfile::tempdir().unwrap();
    let join = |token: &str, name: &str| {
        let mut command = Command::new(weft_binary());
        command.args(["client", "join", token, "--bind", "127.1.1.60", "--dir"]).arg(files.path().join(name));
        command
    };
    let token = cluster.ok(&["token", "create", "--role", "client", "--name", "guest"]).trim().to_owned();
    let _ = run(&mut join(&token, "first"));
    fails(&mut join(&token, "second"), &["could not join"]);
    assert!(!files.path().join("second").exists(), "a refused join left an identity");
    refused(&mut join("weft-nonsense", "third"), &["token"]);
    let short =
        cluster.ok(&["token", "create", "--role", "client", "--name", "late", "--valid", "1s"]).trim().to_owned();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    fails(&mut join(&short, "fourth"), &["could not join"]);
    let node = cluster.ok(&["token", "create", "--role", "node", "--name", "extra"]).trim().to_owned();
    fails(&mut join(&node, "fifth"), &["could not join"]);
    refused(&mut cluster.weft(&["token", "create", "--role", "client", "--name", "a/b"]), &["contains `/`"]);

    // A client's identity opens volumes and administers nothing.
    let first = files.path().join("first");
    let mut delete = Command::new(weft_binary());
    delete.arg("--cluster").arg(&first).args(["token", "list"]);
    fails(&mut delete, &["administrator"]);
}

fn mountpoints(cluster: &Cluster) {
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("file");
    fs::write(&file, b"x").unwrap();
    let full = files.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("x"), b"x").unwrap();
    let mount = |path: &Path| cluster.weft(&["dev", "mount", path.to_str().unwrap()]);
    refused(&mut mount(&file), &["no directory"]);
    refused(&mut mount(&full), &["not empty"]);
    refused(&mut mount(Path::new("/proc")), &["busy"]);
    refused(&mut mount(cluster.mount()), &["busy"]);
    fails(&mut cluster.weft(&["mount", "none", full.join("new").to_str().unwrap()]), &["none"]);
    refused(Command::new(weft_binary()).arg("unmount").arg(&full), &["nothing is mounted"]);
}

#[test]
fn weft_dev_and_nodes_refuse_directories_ports_and_configurations_that_cannot_be() {
    let _turn = exclusive::turn();
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name);
    let dev = |data: &Path| {
        let mut command = weft_on(data, &["dev"]);
        command.arg("--mount").arg(path("mnt"));
        command
    };
    fs::create_dir(path("foreign")).unwrap();
    fs::write(path("foreign/precious"), b"x").unwrap();
    refused(&mut dev(&path("foreign")), &["not empty and holds no development cluster"]);
    assert_eq!(fs::read_dir(path("foreign")).unwrap().count(), 1);

    let taken = UdpSocket::bind("127.1.0.2:7401").unwrap();
    refused(&mut dev(&path("new")), &["127.1.0.2:7401", "in use"]);
    drop(taken);
    refused(&mut weft_on(&path("none"), &["dev", "status"]), &["no development cluster"]);
    refused(&mut weft_on(&path("none"), &["volume", "list"]), &["holds no cluster identity"]);

    // A node's configuration: unknown key, value out of bounds.
    let node = |text: &str| {
        let directory = path("node");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("node.toml"), text).unwrap();
        let mut command = Command::new(weft_binary());
        command.args(["node", "run", "--dir"]).arg(directory);
        command
    };
    fails(&mut node("jurnal_mib = 64\n"), &["node.toml", "jurnal_mib"]);
    fails(&mut node("journal_mib = 1\n"), &["journal_mib = 1", "out of bounds"]);
    fails(&mut node("listen = \"0.0.0.0\"\n"), &["0.0.0.0"]);
    fails(&mut node("listen = \"127.1.0.9\"\n"), &["join"]);
    assert!(!path("node").join("disks").exists(), "a refused node left something behind");
}
