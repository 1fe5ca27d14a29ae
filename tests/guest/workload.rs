//! What runs inside the test guest: writes or checks a set of files whose content follows from their name and offset.
//!
//! Built by the harness as one static program (`rustc` alone, no crates) and placed in the guest's root image. Talks to
//! the host through its standard output (the serial console), one `weft-guest:` line per fact, so that the host needs
//! no agent. Guarantees: every byte written is checkable later from nothing but the seed; a time is reported for the
//! slowest write-and-fsync, and the gap between two completed ones, measured by the guest's own monotonic clock.

#[path = "churn.rs"]
mod churn;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

const DIRECTORY: &str = "/data";
const FILE_BYTES: u64 = 4 << 20;
const WRITE_BYTES: usize = 64 << 10;
/// Bytes between two fsyncs of a file.
const SYNC_BYTES: u64 = 256 << 10;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().unwrap_or_default();
    let megabytes: u64 = arguments.next().and_then(|a| a.parse().ok()).unwrap_or(256);
    let seed: u64 = arguments.next().and_then(|a| a.parse().ok()).unwrap_or(1);
    let outcome = match mode.as_str() {
        "write" => write_all(megabytes, seed),
        "verify" => verify_all(megabytes, seed),
        "idle" => Ok("idle".to_owned()),
        "churn" => churn::run(seed),
        "recheck" => churn::recheck(megabytes, seed),
        other => Err(format!("unknown mode `{other}`")),
    };
    match outcome {
        Ok(summary) => println!("weft-guest: ok {summary}"),
        Err(why) => {
            println!("weft-guest: failed {why}");
            std::process::exit(1);
        }
    }
}

fn write_all(megabytes: u64, seed: u64) -> Result<String, String> {
    fs::create_dir_all(DIRECTORY).map_err(|e| format!("mkdir {DIRECTORY}: {e}"))?;
    let files = (megabytes << 20) / FILE_BYTES;
    let began = Instant::now();
    let mut longest_operation = Duration::ZERO;
    let mut longest_gap = Duration::ZERO;
    let mut last_done = Instant::now();
    let mut fsyncs = 0u64;
    for number in 0..files {
        let path = file_path(number);
        let mut file = File::create(&path).map_err(|e| format!("create {path}: {e}"))?;
        let mut offset = 0;
        let mut operation_began = Instant::now();
        while offset < FILE_BYTES {
            let bytes = content(seed, number, offset);
            file.write_all(&bytes).map_err(|e| format!("write {path} at {offset}: {e}"))?;
            offset += WRITE_BYTES as u64;
            if offset % SYNC_BYTES == 0 {
                file.sync_data().map_err(|e| format!("fsync {path} at {offset}: {e}"))?;
                fsyncs += 1;
                let now = Instant::now();
                longest_operation = longest_operation.max(now - operation_began);
                longest_gap = longest_gap.max(now - last_done);
                last_done = now;
                operation_began = now;
            }
        }
        println!("weft-guest: wrote {}", (number + 1) * FILE_BYTES >> 20);
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(format!(
        "wrote_mib={megabytes} fsyncs={fsyncs} seconds={seconds:.2} longest_operation_ms={} longest_gap_ms={}",
        longest_operation.as_millis(),
        longest_gap.as_millis()
    ))
}

fn verify_all(megabytes: u64, seed: u64) -> Result<String, String> {
    // The page cache is empty after a boot; drop it anyway, so that a verification in the writing guest reads the disk.
    if let Ok(mut control) = OpenOptions::new().write(true).open("/proc/sys/vm/drop_caches") {
        control.write_all(b"3").map_err(|e| format!("drop caches: {e}"))?;
    }
    let files = (megabytes << 20) / FILE_BYTES;
    let mut buffer = vec![0u8; WRITE_BYTES];
    for number in 0..files {
        let path = file_path(number);
        let mut file = File::open(&path).map_err(|e| format!("open {path}: {e}"))?;
        let length = file.seek(SeekFrom::End(0)).map_err(|e| format!("seek {path}: {e}"))?;
        if length != FILE_BYTES {
            return Err(format!("{path} has {length} bytes, not {FILE_BYTES}"));
        }
        file.rewind().map_err(|e| format!("rewind {path}: {e}"))?;
        let mut offset = 0;
        while offset < FILE_BYTES {
            file.read_exact(&mut buffer).map_err(|e| format!("read {path} at {offset}: {e}"))?;
            if let Some(at) = first_difference(&buffer, &content(seed, number, offset)) {
                return Err(format!("{path} differs at byte {}", offset + at));
            }
            offset += WRITE_BYTES as u64;
        }
    }
    Ok(format!("verified_mib={megabytes}"))
}

fn file_path(number: u64) -> String {
    format!("{DIRECTORY}/file-{number:04}")
}

fn first_difference(read: &[u8], expected: &[u8]) -> Option<u64> {
    read.iter().zip(expected).position(|(a, b)| a != b).map(|at| at as u64)
}

/// The bytes that belong at `offset` of file `number`: splitmix64 over (seed, file, word), so no two blocks are alike.
fn content(seed: u64, number: u64, offset: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(WRITE_BYTES);
    let mut state = seed ^ (number << 40) ^ offset;
    for _ in 0..WRITE_BYTES / 8 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes
}
