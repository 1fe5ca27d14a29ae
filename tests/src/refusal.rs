//! Bad input: one clear sentence, the right exit code, and nothing changed.

use crate::program::{output, said, show};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Larger files are known by size and time alone.
const HASHED_BYTES: u64 = 1 << 20;

/// The request was wrong: exit code 2 and one sentence that holds all of `says`.
///
/// # Panics
/// When it is anything else.
pub fn refused(command: &mut Command, says: &[&str]) {
    let refused = output(command);
    assert_eq!(refused.status.code(), Some(2), "{}:\n{}", show(command), said(&refused));
    one_sentence(&refused, says, command);
}

/// The cluster or the system could not: exit code 1 and one sentence.
///
/// # Panics
/// When it is anything else.
pub fn fails(command: &mut Command, says: &[&str]) {
    let failed = output(command);
    assert_eq!(failed.status.code(), Some(1), "{}:\n{}", show(command), said(&failed));
    one_sentence(&failed, says, command);
}

/// # Panics
/// When standard error is not one line that begins with `weft: ` and holds all of `says`.
pub fn one_sentence(output: &Output, says: &[&str], command: &Command) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in says {
        assert!(text.contains(part), "{} does not say `{part}`:\n{text}", show(command));
    }
    assert!(text.trim_start().starts_with("weft: "), "{text}");
    assert_eq!(text.trim().lines().count(), 1, "more than one line:\n{text}");
    assert!(!text.contains("panicked"), "{text}");
    eprint!("{}", text.trim_start());
}

/// Everything below a directory: names, sizes, times of change, and contents of small files. Two that are equal show that nothing was
/// changed in between.
#[derive(PartialEq, Eq, Debug)]
pub struct Picture(BTreeMap<PathBuf, Entry>);

#[derive(PartialEq, Eq, Debug)]
struct Entry {
    is_directory: bool,
    bytes: u64,
    changed_at: (i64, i64),
    contents: blake3::Hash,
}

impl Picture {
    /// # Panics
    /// When something cannot be read.
    #[must_use]
    pub fn of(directory: &Path) -> Self {
        let mut entries = BTreeMap::new();
        look(directory, &mut entries);
        Self(entries)
    }

    /// Without directories, whose times change when files come and go.
    #[must_use]
    pub fn files_only(mut self) -> Self {
        self.0.retain(|_, entry| !entry.is_directory);
        self
    }
}

fn look(path: &Path, entries: &mut BTreeMap<PathBuf, Entry>) {
    let facts = fs::symlink_metadata(path).unwrap();
    // A large file that was written to has another time of change.
    let is_small = facts.is_file() && facts.len() <= HASHED_BYTES;
    let contents = if is_small { fs::read(path).unwrap() } else { Vec::new() };
    let entry = Entry {
        is_directory: facts.is_dir(),
        bytes: facts.size(),
        changed_at: (facts.mtime(), facts.mtime_nsec()),
        contents: blake3::hash(&contents),
    };
    entries.insert(path.to_path_buf(), entry);
    if facts.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            look(&entry.unwrap().path(), entries);
        }
    }
}
