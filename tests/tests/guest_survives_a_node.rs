//! The main job: a VM runs from a replicated volume and keeps running when a node dies.

use std::time::Duration;
use weft_tests::cluster::Cluster;
use weft_tests::guest::{Aio, Machine, Workload, image};

const MEBIBYTES: u64 = 256;
const KILL_AT: u64 = 64;
const RETURN_AT: u64 = 160;
/// A guest writes this much in well under this time, even on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(300);
/// Issue: the longest stall of a writing guest when a node is killed.
const LONGEST_STALL: Duration = Duration::from_secs(4);

#[test]
fn a_guest_writes_through_the_death_of_any_node_and_loses_nothing() {
    let cluster = Cluster::start();
    let source = cluster.files().join("base.img");
    image::build(&source);
    // The metadata leader first, then the others: each node once.
    let leader = cluster.leader();
    let order = [leader, leader % 3 + 1, (leader + 1) % 3 + 1];
    for (run, node) in order.into_iter().enumerate() {
        let aio = if run % 2 == 0 { Aio::Native } else { Aio::IoUring };
        let name = format!("guest-{run}.raw");
        run_guest(&cluster, &source, &name, node, aio);
    }
    cluster.check_memory();
}

fn run_guest(cluster: &Cluster, source: &std::path::Path, name: &str, node: u64, aio: Aio) {
    let seed = 1000 + node;
    eprintln!(
        "--- {name}: node {node} is killed{}, aio={aio:?}",
        if cluster.leader() == node { ", the metadata leader" } else { "" }
    );
    let in_volume = format!("vms/{name}");
    eprint!("{}", cluster.ok(&["image", "import", source.to_str().unwrap(), &in_volume]));
    let disk = cluster.mount().join(name);

    let mut guest = Machine::boot(&disk, aio, Workload::Write { mebibytes: MEBIBYTES, seed });
    guest.wait_booted();
    guest.wait_written(KILL_AT, PATIENCE);
    cluster.kill_node(node);
    guest.wait_written(RETURN_AT, PATIENCE);
    cluster.start_node(node);
    let report = guest.finish_writing(PATIENCE);
    eprintln!("longest stall: {} ms", report.longest_gap.as_millis());
    assert!(report.longest_gap < LONGEST_STALL, "the guest stalled for {:?}", report.longest_gap);

    cluster.wait_healthy();
    cluster.assert_replicas_identical();
    let exported = cluster.files().join("exported.img");
    eprint!("{}", cluster.ok(&["image", "export", &in_volume, exported.to_str().unwrap()]));
    image::assert_clean(&exported);
    std::fs::remove_file(exported).unwrap();
    let other_aio = if aio == Aio::Native { Aio::IoUring } else { Aio::Native };
    let verified = Machine::boot(&disk, other_aio, Workload::Verify { mebibytes: MEBIBYTES, seed }).finish(PATIENCE);
    eprintln!("guest: {verified}");
    std::fs::remove_file(disk).unwrap();
}
