//! The subcommands of `weft dev`, and what it says where it cannot run.

use rustix::process::{Pid, Signal};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use weft_tests::cluster::{Cluster, is_dead, is_mounted, wait_until, weft_on};
use weft_tests::isolation::Isolation;
use weft_tests::program::{run, weft_binary};
use weft_tests::refusal::refused;

#[test]
fn every_subcommand_does_what_it_says_and_refuses_what_it_cannot() {
    let mut cluster = Cluster::start();
    let status = cluster.json(&["dev", "status"]);
    for number in 1..=3 {
        let node = &status["nodes"][number - 1];
        let pid = node["pid"].as_i64().unwrap();
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        assert_eq!(node["address"], format!("127.1.0.{number}"));
        assert_eq!(node["disks"].as_array().unwrap().len(), 1);
        // Whoever lists processes sees no token. The first node made the cluster and needed none.
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        assert_eq!(line.contains("--join\0-\0"), number > 1, "{line:?}");
    }
    let mount = &status["mounts"][0];
    assert_eq!(mount["mount_point"], cluster.mount().to_str().unwrap());
    assert!(mount["pid"].as_i64().is_some() && mount["mounted"] == true, "{mount}");
    let text = cluster.ok(&["dev", "status"]);
    assert!(text.contains("127.1.0.3") && text.contains("volume vms"), "{text}");

    let log = cluster.ok(&["dev", "logs", "2", "--lines", "3"]);
    assert_eq!(log.trim_end().lines().count(), 3, "{log}");
    assert!(log.contains("weft_"), "{log}");
    refused(&mut cluster.weft(&["dev", "logs", "9"]), &["no node 9"]);

    let _ = cluster.ok(&["dev", "kill", "2"]);
    refused(&mut cluster.weft(&["dev", "kill", "2"]), &["node 2 does not run", "weft dev start 2"]);
    assert_eq!(cluster.json(&["dev", "status"])["nodes"][1]["running"], false);
    let _ = cluster.ok(&["dev", "start", "2"]);
    assert_eq!(cluster.json(&["dev", "status"])["nodes"][1]["running"], true);
    // Whoever made the cluster was told of its first node only, and has seen the others since.
    let _ = cluster.ok(&["dev", "kill", "1"]);
    wait_until("administration without the first node", Duration::from_secs(30), || {
        cluster.json(&["dev", "status"])["cluster"]["answers"] == true
    });
    let _ = cluster.ok(&["dev", "start", "1"]);
    let other = cluster.files().join("mnt2");
    let _ = cluster.ok(&["dev", "mount", other.to_str().unwrap()]);
    assert!(is_mounted(&other));
    refused(&mut cluster.weft(&["dev", "reset", "--yes"]), &["stop it first with `weft dev stop`"]);

    let pids = cluster.process_ids();
    let stopped = cluster.ok(&["dev", "stop"]);
    assert!(stopped.contains("stopped the cluster"), "{stopped}");
    assert!(!is_mounted(cluster.mount()) && !is_mounted(&other));
    for pid in pids {
        assert!(is_dead(&pid.to_string()), "process {pid} is left");
    }
    refused(&mut cluster.weft(&["dev", "start", "2"]), &["the cluster is not running", "weft dev"]);
    refused(&mut cluster.weft(&["dev", "reset"]), &["--yes"]);
    assert!(cluster.data().join("dev.json").exists());
    // Twice is as good as once.
    let _ = cluster.ok(&["dev", "stop"]);
    let _ = cluster.ok(&["dev", "reset", "--yes"]);
    assert!(!cluster.data().exists());
    cluster.forget_foreground();
}

#[test]
fn a_reader_of_the_output_that_goes_away_leaves_no_node_behind() {
    let isolation = Isolation::enter();
    let (data, mount, said) =
        (isolation.files().join("data"), isolation.files().join("mnt"), isolation.files().join("said"));
    let script = format!(
        "'{}' dev --journal-mib 64 --dir '{}' --mount '{}' | tee '{}'",
        weft_binary().display(),
        data.display(),
        mount.display(),
        said.display()
    );
    // As in a terminal: the pipeline is one process group, and Ctrl-C goes to all of it.
    let mut shell = Command::new("sh").args(["-c", &script]).process_group(0).spawn().unwrap();
    wait_until("weft dev to be ready", Duration::from_secs(120), || {
        fs::read_to_string(&said).is_ok_and(|text| text.contains("ready:"))
    });
    let status: serde_json::Value =
        serde_json::from_str(&run(weft_on(&data, &["dev", "status"]).arg("--json"))).unwrap();
    let nodes = status["nodes"].as_array().unwrap().iter().flat_map(|node| [&node["pid"], &node["worker_pid"]]);
    let pids: Vec<i64> = nodes
        .chain([&status["mounts"][0]["pid"], &status["foreground_pid"]])
        .map(|pid| pid.as_i64().unwrap())
        .collect();
    assert_eq!(pids.len(), 8);
    rustix::process::kill_process_group(Pid::from_child(&shell), Signal::INT).unwrap();
    shell.wait().unwrap();
    wait_until("all processes to end", Duration::from_secs(90), || pids.iter().all(|pid| is_dead(&pid.to_string())));
    assert!(!is_mounted(&mount));
}

#[test]
fn without_root_or_dev_fuse_it_says_exactly_what_to_do() {
    let isolation = Isolation::enter();
    // Where others may look, since the target directory may be root's alone.
    fs::set_permissions(isolation.files(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = isolation.files().join("weft");
    fs::copy(weft_binary(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let room = isolation.files().join("room");
    fs::create_dir(&room).unwrap();
    fs::set_permissions(&room, fs::Permissions::from_mode(0o777)).unwrap();
    let data = room.join("data");

    let mut unprivileged = Command::new("setpriv");
    unprivileged.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&program);
    unprivileged.args(["dev", "--dir"]).arg(&data).current_dir(&room);
    refused(&mut unprivileged, &["takes root: run it again with `sudo`"]);

    // A machine without the device: /dev is empty, in a mount namespace that ends with the command.
    let script = format!("mount -t tmpfs none /dev && exec '{}' dev --dir '{}'", program.display(), data.display());
    let mut without = Command::new("unshare");
    without.args(["--mount", "sh", "-c", &script]).current_dir(&room);
    refused(&mut without, &["/dev/fuse does not exist", "modprobe fuse", "--device /dev/fuse --cap-add SYS_ADMIN"]);
    assert_eq!(fs::read_dir(&room).unwrap().count(), 0, "a refused start left something behind");
}
