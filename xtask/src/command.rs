//! Running other programs, and where the project's files are.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    // xtask lies directly below it.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Where cargo puts what it builds.
pub fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// The program as it is released, for benchmarks.
pub fn released_weft() -> PathBuf {
    target_directory().join("release/weft")
}

/// The cargo profile of the tests, see `Cargo.toml`.
pub const CHECKED: &str = "checked";

/// The program under test.
pub fn checked_weft() -> PathBuf {
    target_directory().join(CHECKED).join("weft")
}

/// The cargo that runs this task, in the workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Runs a program with our own output; an exit status other than 0 is an error.
pub fn run(command: &mut Command) -> Result<(), String> {
    let shown = show(command);
    eprintln!("$ {shown}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{shown}` failed ({status})")),
        Err(error) => Err(format!("could not run `{shown}`: {error}")),
    }
}

/// Runs a program and gives what it wrote.
pub fn capture(command: &mut Command) -> Result<Output, String> {
    let shown = show(command);
    let output = command.output().map_err(|error| format!("could not run `{shown}`: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let said =
        String::from_utf8_lossy(if output.stderr.is_empty() { &output.stdout } else { &output.stderr }).into_owned();
    Err(format!("`{shown}` failed ({}): {}", output.status, said.trim()))
}

/// As `capture`, for what may fail without harm (undoing).
pub fn attempt(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

pub fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Whether a program is installed.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(program).is_file())
}
