//! A project that people use is cloned, built and tested on the mount, and comes out as on a local directory.
//!
//! Run by `cargo xtask workloads --only git`, which downloads the source and names the archive in `WEFT_PROJECT`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use weft_tests::cluster::Cluster;
use weft_tests::program::run;

/// Without debugging information, which names the directory of the build.
const COMPILER_FLAGS: &str = "-O2";
/// Heads of what compiler and archiver make.
const ARTEFACTS: [&[u8]; 2] = [b"\x7fELF", b"!<arch>\n"];
const ARTEFACTS_AT_LEAST: usize = 20;

/// What has to be equal wherever it is built.
#[derive(PartialEq, Eq, Debug)]
struct Outcome {
    /// By path: the hash of every object file, archive and program.
    artefacts: BTreeMap<PathBuf, String>,
    /// The summary of the project's own tests.
    verdict: String,
    /// What git says has changed since the checkout.
    changed: String,
}

fn git(directory: &Path, words: &[&str]) -> String {
    let identity = ["-c", "user.name=weft", "-c", "user.email=weft@example.org", "-c", "init.defaultBranch=main"];
    let mut command = Command::new("git");
    // Whoever runs the tests may have settings of their own.
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    run(command.arg("-C").arg(directory).args(identity).args(words))
}

/// The archive's contents as a repository with one commit.
fn repository(archive: &Path, room: &Path) -> PathBuf {
    let origin = room.join("origin");
    fs::create_dir(&origin).unwrap();
    let unpack = ["--extract", "--strip-components=1", "--file"];
    let _ = run(Command::new("tar").args(unpack).arg(archive).arg("-C").arg(&origin));
    let _ = git(&origin, &["init", "--quiet"]);
    // What the project ignores is part of the archive, its configure script for one.
    let _ = git(&origin, &["add", "--all", "--force", "."]);
    let _ = git(&origin, &["commit", "--quiet", "--message", "as released"]);
    origin
}

fn cloned_built_and_tested(origin: &Path, room: &Path) -> Outcome {
    let clone = room.join("clone");
    let step = |what: &str, command: &mut Command| {
        let began = Instant::now();
        let said = run(command);
        eprintln!("{}: {what} took {:.1} s", room.display(), began.elapsed().as_secs_f64());
        said
    };
    let _ = step("clone", Command::new("git").args(["clone", "--quiet", "--no-local"]).arg(origin).arg(&clone));
    let _ = git(&clone, &["fsck", "--full"]);
    let _ = step("configure", Command::new("./configure").env("CFLAGS", COMPILER_FLAGS).current_dir(&clone));
    let _ = step("make", Command::new("make").arg("-j2").current_dir(&clone));
    let checked = step("make check", Command::new("make").arg("check").current_dir(&clone));
    let verdict: Vec<&str> = checked.lines().map(str::trim).filter(|line| line.starts_with("***")).collect();
    assert!(!verdict.is_empty(), "no summary of the tests:\n{checked}");
    let changed = git(&clone, &["status", "--short", "--untracked-files=no"]);
    // The repository is packed anew and gives the same files once more.
    let _ = step("gc", Command::new("git").arg("-C").arg(&clone).args(["gc", "--quiet", "--aggressive"]));
    let _ = git(&clone, &["fsck", "--full"]);
    let again = room.join("again");
    let _ = git(room, &["clone", "--quiet", "--no-local", "clone", "again"]);
    assert_eq!(git(&again, &["rev-parse", "HEAD^{tree}"]), git(origin, &["rev-parse", "HEAD^{tree}"]));
    assert_eq!(git(&again, &["status", "--short"]), "");
    let mut artefacts = BTreeMap::new();
    find_artefacts(&clone, &clone, &mut artefacts);
    Outcome { artefacts, verdict: verdict.join("\n"), changed }
}

fn find_artefacts(top: &Path, directory: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            find_artefacts(top, &path, found);
        } else if kind.is_file() {
            let contents = fs::read(&path).unwrap();
            if ARTEFACTS.iter().any(|head| contents.starts_with(head)) {
                let name = path.strip_prefix(top).unwrap().to_owned();
                found.insert(name, blake3::hash(&contents).to_hex().to_string());
            }
        }
    }
}

#[test]
#[ignore = "run by `cargo xtask workloads --only git`"]
fn a_real_project_is_cloned_built_and_tested_as_on_a_local_directory() {
    let archive = PathBuf::from(std::env::var_os("WEFT_PROJECT").expect("`cargo xtask workloads` sets WEFT_PROJECT"));
    let local = tempfile::tempdir().unwrap();
    let origin = repository(&archive, local.path());
    let here = local.path().join("here");
    fs::create_dir(&here).unwrap();
    let expected = cloned_built_and_tested(&origin, &here);
    let cluster = Cluster::start();
    let room = cluster.mount().join("project");
    fs::create_dir(&room).unwrap();
    let outcome = cloned_built_and_tested(&origin, &room);
    eprintln!("{} artefacts; the project's tests:\n{}", outcome.artefacts.len(), outcome.verdict);
    assert!(outcome.artefacts.len() >= ARTEFACTS_AT_LEAST, "too few to say something");
    assert_eq!(outcome, expected, "it came out differently on the mount");
    cluster.check_memory();
    cluster.assert_replicas_identical();
}
