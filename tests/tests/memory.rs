//! What nodes and mounts take of memory is bounded by what they were given, also while they are given all the work that
//! there is.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use weft_tests::cluster::Cluster;
use weft_tests::host::Host;

/// The least that a node may be given; a default one takes about 50 MiB of this when it is idle.
const MEMORY_MIB: u32 = 128;
const SIZE: &str = "32M";

/// Writes of 1 MiB, more of them at a time than a mount takes.
fn write(host: &Host, number: usize, log: &Path) -> Child {
    let log = std::fs::File::create(log).unwrap();
    let mut command = Command::new("fio");
    command.args(["--rw=randwrite", "--bs=1M", "--ioengine=libaio", "--iodepth=64", "--direct=1"]);
    command
        .args(["--numjobs=4", "--time_based", "--runtime=10", "--norandommap", "--fallocate=none"])
        .arg(format!("--size={SIZE}"));
    command.arg(format!("--directory={}", host.mount().display())).arg(format!("--name=of-{number}"));
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

#[test]
fn nodes_and_mounts_stay_within_the_memory_that_they_were_given() {
    let cluster = Cluster::start_within(MEMORY_MIB);
    let hosts = [Host::first(&cluster), Host::another(&cluster, "mnt-b")];
    let logs = [0, 1].map(|number| cluster.files().join(format!("fio-{number}")));
    let mut writers = [0, 1].map(|number| write(&hosts[number], number, &logs[number]));
    for (writer, log) in writers.iter_mut().zip(&logs) {
        let status = writer.wait().unwrap();
        assert!(status.success(), "{}", std::fs::read_to_string(log).unwrap());
    }
    cluster.check_memory();
    cluster.wait_healthy();
    cluster.assert_replicas_identical();
}
