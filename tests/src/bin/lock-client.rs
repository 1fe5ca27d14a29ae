//! A process that locks what it is told to, for tests: one command a line in, one answer a line out.
//!
//! `lock-client FILE` opens the file for reading and writing, says `ready`, then takes
//! `posix|ofd|flock r|w|u FIRST LENGTH try|wait`, `test posix|ofd r|w FIRST LENGTH`, `write OFFSET BYTE` (4 KiB),
//! `read OFFSET` (first byte), `size`, `touch-close` (opens the file once more and closes it).
//! Answers: `ok`, `again`, `deadlock`, `interrupted`, a value, or `error NUMBER`.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, Error, Result, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

fn main() {
    let path = std::env::args().nth(1).expect("lock-client FILE");
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("the file");
    say("ready");
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        let answer = run(&file, &path, &words).unwrap_or_else(|error| match error.raw_os_error() {
            Some(libc::EAGAIN) => "again".to_owned(),
            Some(libc::EDEADLK) => "deadlock".to_owned(),
            Some(libc::EINTR) => "interrupted".to_owned(),
            other => format!("error {}", other.unwrap_or(0)),
        });
        say(&answer);
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{text}").and_then(|()| out.flush()).expect("somebody listens");
}

fn run(file: &File, path: &str, words: &[&str]) -> Result<String> {
    match words {
        ["flock", kind, _, _, wait] => flock(file, kind, wait),
        ["test", space, kind, first, length] => test(file, space, kind, number(first), number(length)),
        ["write", offset, byte] => {
            file.write_all_at(&vec![number(byte) as u8; 4096], number(offset) as u64)?;
            Ok("ok".to_owned())
        }
        ["read", offset] => {
            let mut byte = [0u8];
            file.read_exact_at(&mut byte, number(offset) as u64)?;
            Ok(byte[0].to_string())
        }
        ["size"] => Ok(file.metadata()?.len().to_string()),
        ["touch-close"] => {
            drop(File::open(path)?);
            Ok("ok".to_owned())
        }
        [space, kind, first, length, wait] => lock(file, space, kind, (number(first), number(length)), wait),
        _ => Err(Error::from_raw_os_error(libc::EINVAL)),
    }
}

fn number(text: &str) -> i64 {
    text.parse().expect("a number")
}

fn kernel_lock(kind: &str, first: i64, length: i64) -> libc::flock {
    let kind = match kind {
        "r" => libc::F_RDLCK,
        "w" => libc::F_WRLCK,
        _ => libc::F_UNLCK,
    };
    // SAFETY: a struct of integers; all zeros is a value of it.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as i16;
    lock.l_whence = libc::SEEK_SET as i16;
    lock.l_start = first;
    lock.l_len = length;
    lock
}

fn lock(file: &File, space: &str, kind: &str, (first, length): (i64, i64), wait: &str) -> Result<String> {
    let command = match (space, wait) {
        ("posix", "try") => libc::F_SETLK,
        ("posix", _) => libc::F_SETLKW,
        (_, "try") => libc::F_OFD_SETLK,
        _ => libc::F_OFD_SETLKW,
    };
    let lock = kernel_lock(kind, first, length);
    // SAFETY: the descriptor is open and the structure lives through the call.
    done(unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const lock) })
}

fn test(file: &File, space: &str, kind: &str, first: i64, length: i64) -> Result<String> {
    let command = if space == "posix" { libc::F_GETLK } else { libc::F_OFD_GETLK };
    let mut lock = kernel_lock(kind, first, length);
    // SAFETY: as above; the kernel writes into the structure.
    done(unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) })?;
    Ok(match i32::from(lock.l_type) {
        libc::F_UNLCK => "free".to_owned(),
        libc::F_RDLCK => format!("held r {} {}", lock.l_start, lock.l_len),
        _ => format!("held w {} {}", lock.l_start, lock.l_len),
    })
}

fn flock(file: &File, kind: &str, wait: &str) -> Result<String> {
    let operation = match kind {
        "r" => libc::LOCK_SH,
        "w" => libc::LOCK_EX,
        _ => libc::LOCK_UN,
    };
    let operation = if wait == "try" { operation | libc::LOCK_NB } else { operation };
    // SAFETY: the descriptor is open.
    done(unsafe { libc::flock(file.as_raw_fd(), operation) })
}

fn done(result: libc::c_int) -> Result<String> {
    if result == 0 { Ok("ok".to_owned()) } else { Err(Error::last_os_error()) }
}
