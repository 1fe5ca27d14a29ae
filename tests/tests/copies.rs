//! copy_file_range(2) between two hosts: what is copied, while others write, and while nodes die. (docs/SEMANTICS.md, S3.12.)
//!
//! The nodes copy among themselves (decision 0015); `crates/node` tests their part with planned failovers and fences.

use rustix::fs::{FallocateFlags, copy_file_range, fallocate};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use weft_tests::cluster::{Cluster, pattern};

const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;
/// Of the file that is copied while others write it.
const BLOCKS: u64 = 2048;
/// What `copying_half_a_gibibyte_is_measured` copies.
const MEASURED: u64 = 512 * MIB;

fn create(path: &Path) -> File {
    OpenOptions::new().create_new(true).read(true).write(true).open(path).unwrap()
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// As a program calls it: again until nothing more is copied.
fn copy(from: &File, at: u64, to: &File, to_at: u64, length: u64) -> u64 {
    let (mut from_at, mut to_at, mut copied) = (at, to_at, 0);
    while copied < length {
        let wanted = usize::try_from(length - copied).unwrap();
        let piece = copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), wanted).unwrap();
        if piece == 0 {
            break;
        }
        copied += piece as u64;
    }
    copied
}

fn contents(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn copies_are_made_by_the_nodes() {
    let cluster = Cluster::start();
    let b = cluster.mount().with_file_name("mnt-b");
    let _ = cluster.ok(&["dev", "mount", b.to_str().unwrap()]);
    let a = cluster.mount().to_owned();
    type Subject = fn(&Cluster, &Path, &Path);
    let subjects: [(&str, Subject); 4] = [
        ("ranges", any_range_is_copied_and_seen_on_the_other_host),
        ("holes", holes_stay_holes_and_replace_data),
        ("writers", a_block_that_is_written_meanwhile_is_copied_whole),
        ("failover", a_copy_goes_on_while_nodes_die),
    ];
    for (name, subject) in subjects {
        fs::create_dir(a.join(name)).unwrap();
        let began = Instant::now();
        subject(&cluster, &a.join(name), &b.join(name));
        eprintln!("{name}: {} ms", began.elapsed().as_millis());
    }
    cluster.wait_healthy();
    cluster.check_memory();
    cluster.assert_replicas_identical();
}

fn any_range_is_copied_and_seen_on_the_other_host(_: &Cluster, a: &Path, b: &Path) {
    let length = 9 * MIB + 12_345;
    let source = create(&a.join("source"));
    let bytes = pattern(1, 0, usize::try_from(length.next_multiple_of(8)).unwrap());
    let bytes = &bytes[..usize::try_from(length).unwrap()];
    source.write_all_at(bytes, 0).unwrap();
    let far = open(&b.join("source"));
    // Offset, length, place: whole blocks, parts of one, across chunks, out of step, beyond the end.
    let ranges = [
        (0, length, 0),
        (0, 8 * MIB, 4 * MIB),
        (4096, 3 * MIB, 100),
        (4 * MIB - 7, 5 * MIB, 8191),
        (123, 1, 4 * MIB - 1),
        (5000, 200, 5000),
        (length - 10, 4096, 3),
        (MIB + 1, length, 77),
    ];
    for (number, (at, wanted, place)) in ranges.into_iter().enumerate() {
        let (name, old) = (format!("target-{number}"), vec![number as u8 + 1; 6 * MIB as usize]);
        let target = create(&a.join(&name));
        target.write_all_at(&old, 0).unwrap();
        // The other host copies, from its own open file, which has seen none of it.
        let there = open(&b.join(&name));
        let expected = wanted.min(length - at);
        assert_eq!(copy(&far, at, &there, place, wanted), expected, "range {number}");
        let end = usize::try_from(place + expected).unwrap();
        let mut model = old;
        model.resize(model.len().max(end), 0);
        let part = usize::try_from(at).unwrap()..usize::try_from(at + expected).unwrap();
        model[usize::try_from(place).unwrap()..end].copy_from_slice(&bytes[part]);
        assert!(contents(&target) == model, "range {number} came out wrong");
    }
    let target = open(&a.join("target-0"));
    assert_eq!(copy(&source, length, &target, 0, 10), 0, "nothing lies behind the end");
    assert_eq!(copy(&source, length + MIB, &target, 0, 10), 0);
    // Within one file, in one block: the ranges do not overlap.
    let one = create(&a.join("one"));
    one.write_all_at(&pattern(7, 0, BLOCK), 0).unwrap();
    assert_eq!(copy(&one, 0, &one, 2000, 2000), 2000);
    let mut model = pattern(7, 0, BLOCK);
    model.copy_within(..2000, 2000);
    assert_eq!(contents(&open(&b.join("one"))), model);
}

fn holes_stay_holes_and_replace_data(_: &Cluster, a: &Path, b: &Path) {
    let source = create(&a.join("source"));
    source.set_len(24 * MIB).unwrap();
    source.write_all_at(&pattern(2, 0, MIB as usize), 5 * MIB).unwrap();
    let target = create(&b.join("target"));
    target.write_all_at(&vec![9; 24 * MIB as usize], 0).unwrap();
    fallocate(&target, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 5 * MIB, MIB).unwrap();
    let source = open(&b.join("source"));
    assert_eq!(copy(&source, 0, &target, 0, 24 * MIB), 24 * MIB);
    assert!(contents(&open(&a.join("target"))) == contents(&source));
    target.sync_all().unwrap();
    assert_eq!(target.metadata().unwrap().blocks() * 512, MIB, "holes were filled");
}

/// A block tells its number and the round in which it was written.
fn block(number: u64, round: u64) -> Vec<u8> {
    [number.to_le_bytes(), round.to_le_bytes()].concat().repeat(BLOCK / 16)
}

fn a_block_that_is_written_meanwhile_is_copied_whole(_: &Cluster, a: &Path, b: &Path) {
    let source = create(&a.join("source"));
    for number in 0..BLOCKS {
        source.write_all_at(&block(number, 0), number * BLOCK as u64).unwrap();
    }
    let (round, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let writer = open(&b.join("source"));
        let (round, stop) = (&round, &stop);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let next = round.load(Ordering::SeqCst) + 1;
                for number in 0..BLOCKS / 8 {
                    writer.write_all_at(&block(number * 8, next), number * 8 * BLOCK as u64).unwrap();
                }
                round.store(next, Ordering::SeqCst);
            }
        });
        for copies in 0..4 {
            let target = create(&a.join(format!("target-{copies}")));
            // Rounds that ended before the copy began are seen; none is that had not begun when it ended.
            let oldest = round.load(Ordering::SeqCst);
            assert_eq!(copy(&source, 0, &target, 0, BLOCKS * BLOCK as u64), BLOCKS * BLOCK as u64);
            let newest = round.load(Ordering::SeqCst) + 1;
            let bytes = contents(&target);
            for (number, bytes) in (0..).zip(bytes.chunks(BLOCK)) {
                let found = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
                assert_eq!(bytes, block(number, found), "block {number} is torn");
                let expected = if number % 8 == 0 { oldest..=newest } else { 0..=0 };
                assert!(expected.contains(&found), "block {number}: round {found} is not one of {expected:?}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

fn a_copy_goes_on_while_nodes_die(cluster: &Cluster, a: &Path, b: &Path) {
    let source = create(&a.join("source"));
    let bytes = pattern(3, 0, 48 * MIB as usize);
    source.write_all_at(&bytes, 0).unwrap();
    for victim in 1..=3 {
        let (done, copies) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let (done, copies, source) = (&done, &copies, &source);
            let copier = scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    let number = copies.fetch_add(1, Ordering::SeqCst);
                    let target = create(&a.join(format!("target-{victim}-{number}")));
                    assert_eq!(copy(source, 0, &target, 0, 48 * MIB), 48 * MIB);
                }
            });
            while copies.load(Ordering::SeqCst) < 1 {
                std::thread::yield_now();
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
            cluster.kill_node(victim);
            std::thread::sleep(std::time::Duration::from_millis(1500));
            done.store(true, Ordering::SeqCst);
            copier.join().unwrap();
        });
        for number in 0..copies.load(Ordering::SeqCst) {
            let name = format!("target-{victim}-{number}");
            assert!(contents(&open(&b.join(&name))) == bytes, "{name} differs from its source");
            fs::remove_file(b.join(&name)).unwrap();
        }
        cluster.start_node(victim);
        cluster.wait_healthy();
    }
}

/// `cargo xtask workloads --only copy`.
#[test]
#[ignore = "run by `cargo xtask workloads --only copy`"]
fn copying_half_a_gibibyte_is_measured() {
    let cluster = Cluster::start();
    let source = create(&cluster.mount().join("source"));
    for at in 0..MEASURED / MIB {
        source.write_all_at(&pattern(4, at * MIB, MIB as usize), at * MIB).unwrap();
    }
    source.sync_all().unwrap();
    for round in 1..=3 {
        let target = create(&cluster.mount().join(format!("target-{round}")));
        let began = Instant::now();
        assert_eq!(copy(&source, 0, &target, 0, MEASURED), MEASURED);
        let copied = began.elapsed().as_secs_f64();
        target.sync_all().unwrap();
        let synced = began.elapsed().as_secs_f64();
        let rate = (MEASURED / MIB) as f64 / copied;
        eprintln!("copy {round}: 512 MiB in {copied:.2} s, {rate:.0} MiB/s; with fsync {synced:.2} s");
        fs::remove_file(cluster.mount().join(format!("target-{round}"))).unwrap();
    }
    cluster.check_memory();
}
