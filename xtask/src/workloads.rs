//! `cargo xtask workloads`: big programs on a mount, under the worst that may happen to them. Minutes each, so not part of
//! `cargo xtask test`.
//!
//! Responsible for: bringing the programs and the source of the project, and naming them to the tests (`postgres` and
//! `real_project` in `tests/tests`). Guarantees: nothing but apt's repositories is asked, and apt's own settings and lists
//! stay as they are. Must not know: what the workloads do.

use crate::command::{CHECKED, capture, cargo, checked_weft, run, target_directory};
use crate::packages;
use clap::{Args, ValueEnum};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Plain C, built by configure and make in seconds on a local directory, with tests of its own that work on files.
const PROJECT: &str = "zlib";
/// Debian's keys; elsewhere those are asked that apt trusts anyway.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

#[derive(Args)]
pub struct WorkloadArguments {
    /// Only this one
    #[arg(long)]
    only: Option<Workload>,
    /// How long PostgreSQL works before each thing that happens to it
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// PostgreSQL with pgbench: SIGKILL of all of it, then of its mount and a node
    Postgres,
    /// A real project cloned, built and tested
    Git,
    /// copy_file_range of half a gibibyte, timed
    Copy,
}

pub fn run_workloads(arguments: &WorkloadArguments) -> Result<(), String> {
    packages::ensure_for_tests()?;
    packages::ensure_for_workloads()?;
    run(cargo().args(["build", "--profile", CHECKED, "--package", "weft-cli"]))?;
    let wanted = |workload| arguments.only.is_none_or(|only| only == workload);
    if wanted(Workload::Git) {
        run(workload("real_project").env("WEFT_PROJECT", source_archive()?))?;
    }
    if wanted(Workload::Copy) {
        run(&mut workload("copies"))?;
    }
    if wanted(Workload::Postgres) {
        let programs = packages::postgres_programs().ok_or("PostgreSQL is not where Debian puts it")?;
        let mut command = workload("postgres");
        run(command.env("WEFT_POSTGRES", programs).env("WEFT_POSTGRES_SECONDS", arguments.seconds.to_string()))?;
    }
    Ok(())
}

fn workload(test: &str) -> Command {
    let mut command = cargo();
    command.args(["test", "--profile", CHECKED, "--package", "weft-tests", "--test", test]);
    command.args(["--", "--ignored", "--nocapture"]).env("WEFT_BIN", checked_weft());
    command
}

/// The project's source as its authors released it, downloaded once.
fn source_archive() -> Result<PathBuf, String> {
    let room = target_directory().join("workloads").join(PROJECT);
    if let Some(archive) = archive_in(&room) {
        return Ok(archive);
    }
    let could_not = |error: std::io::Error| format!("could not prepare {}: {error}", room.display());
    fs::create_dir_all(room.join("lists/partial")).map_err(could_not)?;
    let sources = room.join("sources.list");
    fs::write(&sources, source_repositories()?).map_err(could_not)?;
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.current_dir(&room).arg("-o").arg(format!("Dir::Etc::sourcelist={}", sources.display()));
        command.args(["-o", "Dir::Etc::sourceparts=/dev/null", "-o", "APT::Sandbox::User=root", "-o"]);
        command.arg(format!("Dir::State::lists={}", room.join("lists").display())).args(words);
        run(&mut command)
    };
    apt(&["-qq", "update"])?;
    apt(&["-qq", "source", "--download-only", PROJECT])?;
    archive_in(&room).ok_or_else(|| format!("apt-get brought no source of {PROJECT} to {}", room.display()))
}

fn archive_in(room: &Path) -> Option<PathBuf> {
    let names = fs::read_dir(room).ok()?.flatten().map(|entry| entry.path());
    let is_archive = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.contains(".orig.tar.") && !name.ends_with(".asc")
    };
    names.filter(is_archive).max()
}

/// Where this machine gets its packages from, asked for sources.
fn source_repositories() -> Result<String, String> {
    let words =
        ["indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages", "Component: main"];
    let output = capture(Command::new("apt-get").args(words))?;
    let keyring = Path::new(KEYRING);
    let signed = if keyring.is_file() { format!("[signed-by={KEYRING}] ") } else { String::new() };
    // Each is named once for every architecture.
    let mut lines: Vec<_> =
        String::from_utf8_lossy(&output.stdout).lines().map(|place| format!("deb-src {signed}{place}\n")).collect();
    lines.sort_unstable();
    lines.dedup();
    Ok(lines.concat())
}
