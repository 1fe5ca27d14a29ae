//! One development cluster at a time: all of them bind 127.1.0.N.

use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};

/// Waits for its turn; the turn ends when the value is dropped.
///
/// # Panics
/// When the lock file cannot be opened or locked.
#[must_use]
pub fn turn() -> File {
    let path = std::env::temp_dir().join("weft-tests.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    file
}
