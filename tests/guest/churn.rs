//! Writes and verifies without end, until told to stop on standard input or cut off.
//!
//! Each round rewrites one file of a ring, fsyncs it, notes the round in a log, fsyncs that, says the round on the console,
//! and reads another file back from the disk (O_DIRECT). Guarantees: what a file must hold follows from the log and the
//! seed, also after the guest was cut off: the file of the round that was under way may hold old and new blocks, no other.

use super::Duration;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const DIRECTORY: &str = "/data/ring";
const LOG: &str = "/data/log";
/// Enough files that an image grows for the whole of a test.
const FILES: u64 = 512;
const FILE_BYTES: usize = 256 << 10;
const BLOCK: usize = 4096;
const O_DIRECT: i32 = 0o40000;

static STOP: AtomicBool = AtomicBool::new(false);

pub fn run(seed: u64) -> Result<String, String> {
    fs::create_dir_all(DIRECTORY).map_err(|e| format!("mkdir: {e}"))?;
    std::thread::spawn(|| {
        // Anything that is said means: come to the end.
        let mut byte = [0u8];
        if std::io::stdin().read_exact(&mut byte).is_ok() {
            STOP.store(true, Ordering::Relaxed);
        }
    });
    let mut log = OpenOptions::new().create(true).append(true).open(LOG).map_err(|e| format!("log: {e}"))?;
    let (mut longest_gap, mut last_done) = (Duration::ZERO, Instant::now());
    let mut round = 0;
    while !STOP.load(Ordering::Relaxed) {
        round += 1;
        write_file(seed, round)?;
        log.write_all(&round.to_le_bytes()).and_then(|()| log.sync_data()).map_err(|e| format!("log {round}: {e}"))?;
        let now = Instant::now();
        longest_gap = longest_gap.max(now - last_done);
        last_done = now;
        println!("weft-guest: round {round}");
        // Another file each time: its last round is the latest that wrote it.
        let file = round.wrapping_mul(7) % FILES.min(round);
        let written = latest(round, file);
        verify(seed, file, &[written])?;
    }
    for file in 0..FILES.min(round) {
        verify(seed, file, &[latest(round, file)])?;
    }
    Ok(format!("rounds={round} longest_gap_ms={}", longest_gap.as_millis()))
}

/// After the guest was cut off: every round that it reported is on the disk.
pub fn recheck(reported: u64, seed: u64) -> Result<String, String> {
    let log = fs::read(LOG).map_err(|e| format!("log: {e}"))?;
    let last = log.chunks_exact(8).enumerate().try_fold(0, |before, (at, bytes)| {
        let round = u64::from_le_bytes(bytes.try_into().map_err(|_| "eight bytes".to_owned())?);
        if round == before + 1 { Ok(round) } else { Err(format!("entry {at} of the log is {round} after {before}")) }
    })?;
    if last < reported {
        return Err(format!("round {reported} was reported and only {last} are on the disk"));
    }
    for file in 0..FILES.min(last) {
        let written = latest(last, file);
        let next = last + 1;
        if next % FILES == file { verify(seed, file, &[written, next])? } else { verify(seed, file, &[written])? }
    }
    Ok(format!("rounds={last} reported={reported}"))
}

/// The latest round up to `round` that wrote the file.
fn latest(round: u64, file: u64) -> u64 {
    round - (round % FILES + FILES - file) % FILES
}

fn path(file: u64) -> String {
    format!("{DIRECTORY}/{file:04}")
}

fn write_file(seed: u64, round: u64) -> Result<(), String> {
    let path = path(round % FILES);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| format!("open {path}: {e}"))?;
    for block in 0..FILE_BYTES / BLOCK {
        let bytes = content(seed, round, block);
        file.write_all_at(&bytes, (block * BLOCK) as u64).map_err(|e| format!("write {path}: {e}"))?;
    }
    file.sync_data().map_err(|e| format!("fsync {path}: {e}"))
}

/// Each block is what one of the rounds wrote.
fn verify(seed: u64, file: u64, rounds: &[u64]) -> Result<(), String> {
    // Round 0 wrote nothing: the ring has not come to this file yet.
    if rounds == [0] {
        return Ok(());
    }
    let path = path(file);
    let file = OpenOptions::new().read(true).custom_flags(O_DIRECT).open(&path);
    let file: File = file.map_err(|e| format!("open {path}: {e}"))?;
    let mut memory = vec![0u8; FILE_BYTES + BLOCK];
    let start = memory.as_ptr().align_offset(BLOCK);
    let buffer = &mut memory[start..start + FILE_BYTES];
    file.read_exact_at(buffer, 0).map_err(|e| format!("read {path}: {e}"))?;
    for (block, bytes) in buffer.chunks_exact(BLOCK).enumerate() {
        if !rounds.iter().any(|round| *round > 0 && bytes == content(seed, *round, block)) {
            let first = u64::from_le_bytes(bytes[..8].try_into().unwrap_or_default());
            return Err(format!("block {block} of {path} is of no round of {rounds:?} (it begins with {first:x})"));
        }
    }
    Ok(())
}

/// splitmix64 over (seed, round, block), so no two blocks are alike.
fn content(seed: u64, round: u64, block: usize) -> Vec<u8> {
    let mut state = seed ^ (round << 20) ^ ((block as u64) << 48);
    let mut bytes = Vec::with_capacity(BLOCK);
    for _ in 0..BLOCK / 8 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes
}
