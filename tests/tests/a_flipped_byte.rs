//! A byte that rots on one replica: the reader gets good data, the block is repaired, and it is told.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use weft_tests::cluster::{Cluster, pattern, wait_until};

const LENGTH: usize = 48 << 20;

#[test]
fn a_flipped_byte_is_read_around_repaired_and_reported() {
    let cluster = Cluster::start();
    let path = cluster.mount().join("file");
    let good = pattern(7, 0, LENGTH);
    fs::write(&path, &good).unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    let disk = cluster.data().join("node-1/disks/0");
    // The first chunk files appear with the first checkpoint.
    let mut chunks = Vec::new();
    wait_until("the chunk files of node 1", Duration::from_secs(180), || {
        chunks = chunk_files(&disk.join("chunks"));
        chunks.len() >= LENGTH >> 22
    });
    // One byte in each chunk that node 1 has: whichever it leads are read from there.
    let flipped: Vec<(PathBuf, u64)> = chunks.iter().filter_map(|file| flip_a_byte(file)).collect();
    assert!(flipped.len() >= 4, "too few chunks hold data: {chunks:?}");

    assert!(fs::read(&path).unwrap() == good, "the reader got bad data");
    wait_until("the repair to be told", Duration::from_secs(180), || {
        let events = cluster.json(&["events"]).to_string();
        events.contains("repair")
    });
    let status = cluster.json(&["cluster", "status"]);
    let repaired = counter_sum(&status, "repair");
    assert!(repaired > 0, "no counter of repairs: {status}");

    // Every chunk of node 1 that it led is whole again on disk; scrub takes care of the others.
    let damaged = cluster.json_of_failing(&["debug", "chunk", disk.to_str().unwrap()]);
    let still_bad = damaged
        .as_array()
        .unwrap()
        .iter()
        .map(|chunk| chunk["trailer"]["bad_blocks"].as_array().map_or(0, Vec::len))
        .sum::<usize>();
    assert!(still_bad < flipped.len(), "nothing was rewritten on disk");
    eprintln!("{} bytes flipped, {repaired} blocks repaired, {still_bad} wait for scrub", flipped.len());
    cluster.check_memory();
}

fn counter_sum(status: &serde_json::Value, part: &str) -> u64 {
    let reports = status["reports"].as_array().into_iter().flatten().filter_map(|r| r[1]["counters"].as_array());
    reports.flatten().filter(|c| c[0].as_str().is_some_and(|n| n.contains(part))).filter_map(|c| c[1].as_u64()).sum()
}

fn chunk_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(chunk_files(&path));
        } else if path.extension().is_none() && entry.metadata().is_ok_and(|m| m.len() > 0) {
            found.push(path);
        }
    }
    found
}

/// Flips a byte in the first block, if that holds data.
fn flip_a_byte(path: &Path) -> Option<(PathBuf, u64)> {
    let mut block = [0u8; 4096];
    File::open(path).ok()?.read_exact(&mut block).ok()?;
    let at = block.iter().position(|byte| *byte != 0)? as u64;
    let file = OpenOptions::new().write(true).open(path).ok()?;
    file.write_all_at(&[block[at as usize] ^ 0x10], at).ok()?;
    file.sync_all().ok()?;
    Some((path.to_path_buf(), at))
}
