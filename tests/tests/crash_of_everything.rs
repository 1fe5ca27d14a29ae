//! kill -9 of all nodes and the mount at once: what was fsynced is there afterwards.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use weft_tests::cluster::{Cluster, wait_until};

const BLOCKS: u64 = 2048;
const BLOCK: usize = 4096;
/// Blocks written between two fsyncs.
const BATCH: u64 = 16;
/// fsyncs that must have happened before the crash, so that the test says something.
const SYNCS_BEFORE_CRASH: u64 = 100;

/// What is known of each block: the newest round that was fsynced, and the newest that was tried.
struct Ledger {
    synced: Vec<AtomicU64>,
    tried: Vec<AtomicU64>,
    syncs: AtomicU64,
    stop: AtomicBool,
}

impl Ledger {
    fn new() -> Self {
        let zeros = || (0..BLOCKS).map(|_| AtomicU64::new(0)).collect();
        Self { synced: zeros(), tried: zeros(), syncs: AtomicU64::new(0), stop: AtomicBool::new(false) }
    }
}

fn block(index: u64, round: u64) -> Vec<u8> {
    [index.to_le_bytes(), round.to_le_bytes()].concat().repeat(BLOCK / 16)
}

fn write_rounds(file: &File, ledger: &Ledger, thread: u64, threads: u64) {
    let mut state = thread + 1;
    for round in 1.. {
        let mut batch = Vec::new();
        for _ in 0..BATCH {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Each thread has blocks of its own, so that the order of writes to one block is known.
            let index = (state >> 33) % (BLOCKS / threads) * threads + thread;
            ledger.tried[index as usize].store(round, Ordering::SeqCst);
            if file.write_all_at(&block(index, round), index * BLOCK as u64).is_err() {
                return;
            }
            batch.push(index);
        }
        if file.sync_data().is_err() || ledger.stop.load(Ordering::SeqCst) {
            return;
        }
        for index in batch {
            ledger.synced[index as usize].store(round, Ordering::SeqCst);
        }
        ledger.syncs.fetch_add(1, Ordering::SeqCst);
    }
}

fn check(path: &Path, ledger: &Ledger) {
    let file = File::open(path).unwrap();
    let mut found = vec![0u8; BLOCK];
    let mut newest = 0;
    for index in 0..BLOCKS {
        file.read_exact_at(&mut found, index * BLOCK as u64).unwrap();
        let word = |at: usize| u64::from_le_bytes(found[at..at + 8].try_into().unwrap());
        let (synced, tried) =
            (ledger.synced[index as usize].load(Ordering::SeqCst), ledger.tried[index as usize].load(Ordering::SeqCst));
        let round = word(8);
        assert!(round == 0 || found == block(index, round), "block {index} is torn or misplaced");
        assert!(round >= synced, "block {index}: round {synced} was fsynced, {round} was found");
        assert!(round <= tried, "block {index}: round {round} was never written (only up to {tried})");
        newest = newest.max(round);
    }
    eprintln!("checked {BLOCKS} blocks, newest round {newest}, {} fsyncs", ledger.syncs.load(Ordering::SeqCst));
}

#[test]
fn what_was_fsynced_survives_kill_of_all_processes_at_once() {
    let mut cluster = Cluster::start();
    let path = cluster.mount().join("blocks");
    File::create(&path).unwrap().set_len(BLOCKS * BLOCK as u64).unwrap();
    for cycle in 1..=2 {
        let ledger = Arc::new(Ledger::new());
        // A fresh ledger needs fresh blocks: zeros are round 0.
        File::create(&path).unwrap().set_len(BLOCKS * BLOCK as u64).unwrap();
        let threads: Vec<_> = (0..2)
            .map(|thread| {
                let file = OpenOptions::new().write(true).open(&path).unwrap();
                let ledger = Arc::clone(&ledger);
                std::thread::spawn(move || write_rounds(&file, &ledger, thread, 2))
            })
            .collect();
        wait_until("fsyncs", Duration::from_secs(180), || {
            ledger.syncs.load(Ordering::SeqCst) >= SYNCS_BEFORE_CRASH * cycle
        });
        cluster.kill_everything();
        ledger.stop.store(true, Ordering::SeqCst);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        cluster.run_dev();
        check(&path, &ledger);
        cluster.wait_healthy();
        cluster.assert_replicas_identical();
    }
    cluster.check_memory();
}

#[test]
fn fio_verifies_what_it_wrote_before_all_processes_were_killed() {
    use std::process::Command;
    use weft_tests::program::{run, show};
    let mut cluster = Cluster::start();
    let directory = cluster.files().join("fio");
    std::fs::create_dir(&directory).unwrap();
    let path = cluster.mount().join("fio");
    let job = |more: &[&str]| {
        let mut command = Command::new("fio");
        command
            .current_dir(&directory)
            .args(["--name=verify", "--size=64M", "--bs=4k", "--rw=randwrite", "--ioengine=libaio", "--direct=1"])
            .args(["--iodepth=1", "--fsync=32", "--verify=crc32c", "--verify_fatal=1", "--randseed=11"])
            .arg(format!("--filename={}", path.display()))
            .args(more);
        command
    };
    // fio notes which writes were completed, then runs the trigger, as after a power cut. At a depth above 1 older releases
    // of fio note too much.
    let pids: Vec<String> = cluster.process_ids().iter().map(ToString::to_string).collect();
    let trigger = format!("--trigger=kill -9 {}", pids.join(" "));
    let mut writing = job(&["--do_verify=0", "--verify_state_save=1", "--trigger-timeout=4", &trigger]);
    eprintln!("$ {}", show(&writing));
    // Its own end is an I/O error: the mount is dead.
    let _ = writing.output().unwrap();
    let state = std::fs::read_dir(&directory)
        .unwrap()
        .flatten()
        .find(|e| e.file_name().to_string_lossy().contains("verify.state"));
    assert!(state.is_some(), "fio saved no state");
    cluster.kill_everything_left();
    cluster.run_dev();
    let said = run(&mut job(&["--verify_only", "--verify_state_load=1"]));
    eprintln!("{said}");
    // Opened for real direct I/O, as the guest does.
    let file = OpenOptions::new().read(true).custom_flags(0o40000).open(&path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 64 << 20);
}
