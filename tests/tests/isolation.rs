//! The harness itself: clusters do not see each other, and nothing of a test stays behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier};
use std::time::Duration;
use weft_tests::cluster::{Cluster, is_mounted, wait_until};
use weft_tests::isolation::Isolation;

/// Set for the copy of this program that is to be killed.
const VICTIM: &str = "WEFT_TEST_VICTIM";

#[test]
fn two_clusters_with_the_same_addresses_run_at_once_and_do_not_see_each_other() {
    let both_up = Arc::new(Barrier::new(2));
    let run = |name: &'static str| {
        let both_up = Arc::clone(&both_up);
        std::thread::spawn(move || {
            let cluster = Cluster::start_in(Isolation::beside_others(), "data");
            let status = cluster.json(&["dev", "status"]);
            assert_eq!(status["nodes"][0]["address"], "127.1.0.1");
            both_up.wait();
            fs::write(cluster.mount().join(name), name).unwrap();
            let identity = fs::read_to_string(cluster.data().join("node-1/identity/node.json")).unwrap();
            let id = identity.lines().find(|line| line.contains("\"cluster\"")).unwrap().to_owned();
            // Everybody has written before anybody looks.
            both_up.wait();
            let found: Vec<_> = fs::read_dir(cluster.mount()).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(found, [name], "the other cluster's file is here");
            assert_eq!(fs::read_to_string(cluster.mount().join(name)).unwrap(), name);
            both_up.wait();
            id
        })
    };
    let (first, second) = (run("first"), run("second"));
    let (first, second) = (first.join().unwrap(), second.join().unwrap());
    assert!(first != second, "two clusters have one id: {first}, {second}");
}

#[test]
fn a_test_that_is_killed_leaves_no_process_mount_namespace_or_directory() {
    if std::env::var_os(VICTIM).is_some() {
        be_the_victim();
    }
    let _turn = Isolation::enter();
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "a_test_that_is_killed_leaves_no_process_mount_namespace_or_directory"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        // Its guard must not depend on ours.
        .process_group(0)
        .spawn()
        .unwrap();
    let (files, namespace) = victim_says(&mut victim);
    let mount = files.join("mnt");
    assert!(is_mounted(&mount) && files.is_dir());
    assert!(processes_in(&namespace).len() >= 8, "nodes, workers, mount and guard: {:?}", processes_in(&namespace));
    victim.kill().unwrap();
    victim.wait().unwrap();
    wait_until("everything of the killed test to go", Duration::from_secs(90), || {
        processes_in(&namespace).is_empty() && !is_mounted(&mount) && !files.exists()
    });
}

/// Starts a cluster, says where, and waits for its death.
fn be_the_victim() -> ! {
    let cluster = Cluster::start();
    let namespace = fs::read_link("/proc/thread-self/ns/net").unwrap();
    println!("\nvictim {} {}", namespace.display(), cluster.files().display());
    loop {
        std::thread::park();
    }
}

fn victim_says(victim: &mut Child) -> (PathBuf, PathBuf) {
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines().map_while(Result::ok);
    for line in lines {
        if let Some((namespace, files)) = line.strip_prefix("victim ").and_then(|rest| rest.split_once(' ')) {
            return (files.into(), namespace.into());
        }
    }
    panic!("the victim ended by itself: {:?}", victim.wait());
}

fn processes_in(namespace: &Path) -> Vec<PathBuf> {
    let everybody = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    everybody.filter(|process| fs::read_link(process.join("ns/net")).is_ok_and(|space| space == namespace)).collect()
}
