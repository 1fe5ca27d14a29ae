//! `weft dev` from the first start to the deletion, as the README shows it.

use std::fs;
use std::process::Command;
use weft_tests::cluster::{Cluster, is_mounted, pattern, wait_until};
use weft_tests::program::{output, said};

#[test]
fn a_cluster_starts_stops_cleanly_and_resumes_with_all_data() {
    let mut cluster = Cluster::start();
    let ready = cluster.said().into_iter().find(|line| line.starts_with("ready:")).unwrap();
    assert!(ready.contains("try"), "{ready}");
    let status = cluster.json(&["dev", "status"]);
    for number in 1..=3 {
        let node = &status["nodes"][number - 1];
        assert_eq!(node["address"], format!("127.1.0.{number}"));
        assert!(node["running"].as_bool().unwrap() && node["pid"].as_i64().unwrap() > 0, "{node}");
        assert!(fs::metadata(node["disks"][0].as_str().unwrap()).unwrap().is_dir());
    }
    assert_eq!(status["mounts"][0]["address"], "127.1.1.1");

    let file = cluster.mount().join("directory/file");
    fs::create_dir(cluster.mount().join("directory")).unwrap();
    let bytes = pattern(1, 0, 3 << 20);
    fs::write(&file, &bytes).unwrap();
    cluster.stop();
    assert!(!file.exists());

    cluster.run_dev();
    assert!(fs::read(&file).unwrap() == bytes, "the file changed over a restart");
    cluster.wait_healthy();
    cluster.assert_replicas_identical();
    cluster.check_memory();

    // A second foreground command, and deletion while it runs, are refused and change nothing.
    let second = output(&mut cluster.weft(&["dev"]));
    assert_eq!(second.status.code(), Some(2));
    assert!(said(&second).contains("already runs"), "{}", said(&second));
    let reset = output(&mut cluster.weft(&["dev", "reset", "--yes"]));
    assert!(said(&reset).contains("stop it first"), "{}", said(&reset));
    cluster.stop();
    let looked = cluster.ok(&["dev", "reset", "--dry-run"]);
    assert!(looked.contains("deletes") && cluster.data().exists());
    let _ = cluster.ok(&["dev", "reset", "--yes"]);
    assert!(!cluster.data().exists());
}

#[test]
fn a_second_mount_sees_the_same_files_and_outlives_a_worker_crash() {
    let cluster = Cluster::start();
    let other = cluster.files().join("mnt2");
    let _ = cluster.ok(&["dev", "mount", other.to_str().unwrap()]);
    let status = cluster.json(&["dev", "status"]);
    assert_eq!(status["mounts"][1]["address"], "127.1.1.2");
    fs::write(cluster.mount().join("a"), b"from the first").unwrap();
    assert_eq!(fs::read(other.join("a")).unwrap(), b"from the first");
    fs::write(other.join("b"), b"from the second").unwrap();
    assert_eq!(fs::read(cluster.mount().join("b")).unwrap(), b"from the second");
    assert_eq!(cluster.json(&["client", "list"]).as_array().unwrap().len(), 2);

    // The worker dies; its parent brings it back, and nothing needs a hand.
    let before = cluster.json(&["dev", "status"])["nodes"][1]["worker_pid"].as_i64().unwrap();
    let _ = cluster.ok(&["dev", "kill", "2", "--worker-only"]);
    wait_until("another worker", std::time::Duration::from_secs(180), || {
        let now = cluster.json(&["dev", "status"])["nodes"][1]["worker_pid"].as_i64();
        now.is_some_and(|pid| pid != before)
    });
    fs::write(other.join("c"), b"after the crash").unwrap();
    assert_eq!(fs::read(cluster.mount().join("c")).unwrap(), b"after the crash");
    cluster.wait_healthy();
    cluster.assert_replicas_identical();

    let unmounted =
        weft_tests::program::run(Command::new(weft_tests::program::weft_binary()).arg("unmount").arg(&other));
    assert!(unmounted.contains("unmounted") && !is_mounted(&other));
    cluster.check_memory();
}
