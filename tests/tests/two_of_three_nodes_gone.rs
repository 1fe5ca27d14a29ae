//! Without a majority of replicas writes wait, and nothing false is said.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::mpsc;
use std::time::Duration;
use weft_tests::cluster::{Cluster, pattern};
use weft_tests::program::{output, said};

/// Long enough for leases to lapse, sets to change and impatient code to give up.
const GONE: Duration = Duration::from_secs(8);
const RETURN_PATIENCE: Duration = Duration::from_secs(180);

#[test]
fn writes_wait_while_two_of_three_nodes_are_gone_and_go_on_when_one_returns() {
    let cluster = Cluster::start();
    let path = cluster.mount().join("file");
    let before = pattern(1, 0, 8 << 20);
    fs::write(&path, &before).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.sync_all().unwrap();

    cluster.kill_node(2);
    cluster.kill_node(3);
    let (done, finished) = mpsc::channel();
    let after = pattern(2, 0, 8 << 20);
    let bytes = after.clone();
    std::thread::spawn(move || {
        let result = file.write_all_at(&bytes, 0).and_then(|()| file.sync_all());
        done.send(result).unwrap();
    });
    let early = finished.recv_timeout(GONE);
    assert!(early.is_err(), "a write was answered without a second replica: {early:?}");
    let status = said(&output(&mut cluster.weft(&["dev", "status"])));
    assert!(status.contains("down"), "{status}");
    assert!(
        status.contains("majority") || status.contains("wait") || status.contains("serve nothing"),
        "says not why: {status}"
    );
    let health = output(&mut cluster.weft(&["cluster", "health"]));
    assert_eq!(health.status.code(), Some(1), "{}", said(&health));

    cluster.start_node(2);
    let result = finished.recv_timeout(RETURN_PATIENCE).expect("the write goes on when one node returns");
    result.expect("the write succeeds");
    assert!(fs::read(&path).unwrap() == after, "the write that waited is not there whole");
    cluster.start_node(3);
    cluster.wait_healthy();
    cluster.assert_replicas_identical();
    cluster.check_memory();
}
