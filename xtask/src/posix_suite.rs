//! The POSIX suite pjdfstest: a program from crates.io, built once below the target directory.

use crate::command::{cargo, run, target_directory};
use std::path::PathBuf;

/// Pinned: a newer suite may ask for more than docs/SEMANTICS.md promises.
const VERSION: &str = "0.2.2";

/// The program; `None`, and why on standard error, when it cannot be built (no network, say).
pub fn ensure() -> Option<PathBuf> {
    let root = target_directory().join("tools").join(format!("pjdfstest-{VERSION}"));
    let program = root.join("bin/pjdfstest");
    if program.is_file() {
        return Some(program);
    }
    let mut command = cargo();
    command.args(["install", "pjdfstest", "--locked", "--debug", "--version", VERSION, "--root"]).arg(&root);
    match run(command.arg("--target-dir").arg(target_directory().join("tools/build"))) {
        Ok(()) => Some(program),
        Err(error) => {
            eprintln!("the POSIX suite is NOT RUN: {error}");
            None
        }
    }
}
