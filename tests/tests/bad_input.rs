//! Bad input gets one clear sentence and changes nothing.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use weft_tests::cluster::{Cluster, weft_on};
use weft_tests::isolation::Isolation;
use weft_tests::program::{run, weft_binary};
use weft_tests::refusal::{fails, refused};

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
    refused(&mut export(Path::new("/proc/nowhere/x")), &["could not create /proc/nowhere/x"]);

    // A target without room: nothing half-done stays.
    let small = cluster.files().join("small");
    fs::create_dir(&small).unwrap();
    let _ = run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=2M", "small"]).arg(&small));
    for format in ["raw", "qcow2"] {
        let target = small.join("no");
        let words = ["image", "export", "vms/dir/whole.raw", target.to_str().unwrap(), "--format", format];
        fails(&mut cluster.weft(&words), &["/small/no is full"]);
        assert_eq!(fs::read_dir(&small).unwrap().count(), 0, "something was left of a refused export");
    }
    let _ = run(Command::new("umount").arg(&small));
}

fn tokens(cluster: &Cluster) {
    let files = tempfile::tempdir().unwrap();
    let join = |token: &str, name: &str| {
        let mut command = Command::new(weft_binary());
        command.args(["client", "join", token, "--bind", "127.1.1.60", "--dir"]).arg(files.path().join(name));
        command
    };
    let token = cluster.ok(&["token", "create", "--role", "client", "--name", "guest"]).trim().to_owned();
    let file = files.path().join("token");
    fs::write(&file, &token).unwrap();
    let from_file = format!("@{}", file.display());
    let _ = run(&mut join(&from_file, "first"));
    let refusal = ["could not join", "the token is unknown, used, expired or of another role", "weft token create"];
    fails(&mut join(&token, "second"), &refusal);
    fails(join("-", "second").stdin(File::open(&file).unwrap()), &refusal);
    assert!(!files.path().join("second").exists(), "a refused join left an identity");
    refused(&mut join("weft-nonsense", "third"), &["could not join", "token"]);
    refused(&mut join("@/nonexistent", "third"), &["could not read the token from /nonexistent"]);
    refused(join("-", "third").stdin(std::process::Stdio::null()), &["there is no token in standard input"]);
    let short =
        cluster.ok(&["token", "create", "--role", "client", "--name", "late", "--valid", "1s"]).trim().to_owned();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    fails(&mut join(&short, "fourth"), &refusal);
    let node = cluster.ok(&["token", "create", "--role", "node", "--name", "extra"]).trim().to_owned();
    fails(&mut join(&node, "fifth"), &refusal);
    for role in ["client", "node"] {
        let named = |name: &str| cluster.weft(&["token", "create", "--role", role, "--name", name]);
        refused(&mut named("a/b"), &["contains `/`"]);
        refused(&mut named(""), &["is empty"]);
        refused(&mut named(&"x".repeat(64)), &["has 64 bytes, and 63 are allowed"]);
    }
    // It is part of the certificate.
    refused(
        &mut cluster.weft(&["token", "create", "--role", "client", "--name", "HV_1"]),
        &["`HV_1` is no name for a client"],
    );

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
    refused(
        &mut cluster.weft(&["mount", "-o", "bogus", "vms", full.to_str().unwrap()]),
        &["mount option `bogus` is not known"],
    );
    for words in [["-o", "memory_mib=63"], ["-o", "memory_mib=much"], ["--memory-mib", "16385"]] {
        let mut command = cluster.weft(&["mount"]);
        command.args(words).args(["vms", full.to_str().unwrap()]);
        refused(&mut command, &["needs a number of MiB from 64 to 16384"]);
    }
    fails(&mut cluster.weft(&["mount", "none", full.join("new").to_str().unwrap()]), &["none"]);
    refused(Command::new(weft_binary()).arg("unmount").arg(&full), &["nothing is mounted"]);
}

#[test]
fn weft_dev_and_nodes_refuse_directories_ports_and_configurations_that_cannot_be() {
    let isolation = Isolation::enter();
    let path = |name: &str| isolation.files().join(name);
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
    refused(&mut node("jurnal_mib = 64\n"), &["node.toml", "line 1", "jurnal_mib"]);
    refused(&mut node("journal_mib = 1\n"), &["node.toml", "journal_mib = 1 is out of bounds; it may be 64 to 65536"]);
    refused(&mut node("journal_mib = \"much\"\n"), &["node.toml", "line 1", "expected u32"]);
    refused(&mut node("memory_mib = 64\n"), &["node.toml", "memory_mib = 64 is out of bounds; it may be 128 to 65536"]);
    refused(&mut node("listen = \"0.0.0.0\"\n"), &["0.0.0.0 is not an address that other nodes can reach"]);
    refused(&mut node("name = \"a/b\"\n"), &["\"a/b\" is no valid name"]);
    refused(&mut node("listen = \"127.1.0.9\"\n"), &["holds no node", "--join"]);
    assert_eq!(fs::read_dir(path("node")).unwrap().count(), 1, "a refused node left something behind");
    let mut init = Command::new(weft_binary());
    init.args(["cluster", "init", "--listen", "127.1.0.9", "--name", "a/b", "--dir"]).arg(path("fresh"));
    refused(init.arg("--admin").arg(path("fresh-admin")), &["the node name `a/b` contains `/`"]);
    assert!(!path("fresh").exists() && !path("fresh-admin").exists(), "a refused cluster left something behind");
}
