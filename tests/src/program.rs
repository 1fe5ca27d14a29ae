//! Running programs from tests: a failure shows the command and all it said.

use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

const DEATH_PATIENCE: Duration = Duration::from_secs(10);

/// The `weft` binary under test: `$WEFT_BIN`, or the one beside the test program.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn weft_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("WEFT_BIN") {
        return PathBuf::from(path);
    }
    // Test programs lie in PROFILE/deps.
    let test = std::env::current_exe().unwrap();
    let beside = test.parent().and_then(|deps| deps.parent()).unwrap().join("weft");
    assert!(
        beside.is_file(),
        "{} is not built: run `cargo xtask test`, or `cargo build --release` first",
        beside.display()
    );
    beside
}

/// Directory for what is kept from one test run to the next (the guest kernel).
///
/// # Panics
/// When the test program lies in no target directory.
#[must_use]
pub fn cache_directory() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(3).unwrap().join("guest")
}

/// Runs it; a failure is the test's failure.
///
/// # Panics
/// When it cannot be run or its exit status is not 0.
#[must_use]
pub fn run(command: &mut Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{} failed ({}):\n{}", show(command), output.status, said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs it, whatever becomes of it.
///
/// # Panics
/// When it cannot be run at all.
#[must_use]
pub fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("could not run {}: {error}", show(command)))
}

/// Waits for a process to end; whether it did.
#[must_use]
pub fn has_ended(process: &mut Child, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if !matches!(process.try_wait(), Ok(None)) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// SIGKILL, and not for ever waiting for the end: while a test fails, what the process waits for may be cut off. What
/// stays then goes with the test's namespace.
pub fn end(process: &mut Child) {
    let _ = process.kill();
    if !has_ended(process, DEATH_PATIENCE) {
        eprintln!("process {} stays although it was killed", process.id());
    }
}

/// Everything a program wrote.
#[must_use]
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[must_use]
pub fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
