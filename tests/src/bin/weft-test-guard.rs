//! Keeps a network namespace for one test and clears up when the test ends, however it ends.
//!
//! Started by `weft_tests::isolation` in a fresh network namespace. Responsible for: bringing the loopback device up;
//! then, as soon as standard input is closed (the test is done, failed, or was killed), ending every process in this
//! namespace, unmounting everything below the test's directory, and deleting that. Guarantees: whoever reads its
//! standard output to the end knows that nothing is left; the namespace ends with this process. Must not know: Weft.

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// A killed process has to write back what it has open before it is gone.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    let outcome = match std::env::args_os().nth(1).map(PathBuf::from) {
        Some(files) => guard(&files),
        None => Err("started by tests, with the directory that it deletes at the end".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("weft-test-guard: {why}");
            ExitCode::FAILURE
        }
    }
}

fn guard(files: &Path) -> Result<(), String> {
    // The test's own thread is in this namespace too; its process must not be ended while it fails in good order.
    let test = rustix::process::getppid();
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    if !up.as_ref().is_ok_and(std::process::ExitStatus::success) {
        return Err(format!("`ip link set lo up` failed: {up:?}"));
    }
    let mut out = std::io::stdout();
    writeln!(out, "ready").and_then(|()| out.flush()).map_err(|error| format!("nobody listens: {error}"))?;
    // Whatever is written here has no meaning; the end is what counts.
    std::io::stdin().read_to_end(&mut Vec::new()).map_err(|error| format!("could not wait: {error}"))?;
    clear(files, test)
}

fn clear(files: &Path, test: Option<Pid>) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = processes(test)?;
        for pid in &left {
            // One that ended meanwhile is what is wanted.
            let _ = rustix::process::kill_process(*pid, Signal::KILL);
        }
        // A process may hang in a mount whose server is gone, so both go on until neither is left.
        let mounts = mounts_below(files);
        for mount in mounts.iter().rev() {
            let _ = rustix::mount::unmount(mount, UnmountFlags::DETACH | UnmountFlags::FORCE);
        }
        if left.is_empty() && mounts.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            return Err(format!("processes {left:?} and mounts {mounts:?} stay, whatever is done"));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    match fs::remove_dir_all(files) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("could not delete {}: {error}", files.display()))
        }
        _ => Ok(()),
    }
}

/// Processes in this namespace, other than this one and the test's own. One that has ended shows no namespace.
fn processes(test: Option<Pid>) -> Result<Vec<Pid>, String> {
    let mine = fs::metadata("/proc/self/ns/net").map_err(|error| format!("/proc/self/ns/net: {error}"))?;
    let here = |pid: Pid| {
        let space = fs::metadata(format!("/proc/{}/ns/net", pid.as_raw_nonzero()));
        space.is_ok_and(|space| space.ino() == mine.ino() && space.dev() == mine.dev())
    };
    let everybody = fs::read_dir("/proc").map_err(|error| format!("/proc: {error}"))?.flatten();
    let pids = everybody.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    Ok(pids.filter(|pid| *pid != rustix::process::getpid() && Some(*pid) != test && here(*pid)).collect())
}

/// In the order of mounting.
fn mounts_below(files: &Path) -> Vec<PathBuf> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let points = table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    let paths = points.map(|point| PathBuf::from(OsString::from_vec(unescape(point))));
    paths.filter(|path| path.starts_with(files)).collect()
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(byte) if *first == b'\\' => {
                plain.push(byte);
                rest = &after[3..];
            }
            _ => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}
