//! Programs that people trust with their data, on the mount: git, a compiler, sqlite, tar with sparse files, rsync.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;
use weft_tests::cluster::{Cluster, pattern};
use weft_tests::program::run;

/// Rows after which sqlite is killed.
const ROWS_BEFORE_KILL: u64 = 25;

#[test]
fn programs_work_on_the_mount_as_on_a_local_disk() {
    let cluster = Cluster::start();
    type Subject = fn(&Path);
    let subjects: [(&str, Subject); 4] = [
        ("git", a_repository_is_cloned_built_and_its_program_runs),
        ("sqlite", what_sqlite_committed_survives_its_kill),
        ("tar", a_sparse_file_comes_out_of_an_archive_sparse),
        ("rsync", a_synchronised_tree_is_equal),
    ];
    for (name, subject) in subjects {
        let room = cluster.mount().join(name);
        fs::create_dir(&room).unwrap();
        let began = Instant::now();
        subject(&room);
        eprintln!("{name}: {} ms", began.elapsed().as_millis());
    }
    cluster.check_memory();
    cluster.assert_replicas_identical();
}

fn git(directory: &Path, words: &[&str]) -> String {
    let identity = ["-c", "user.name=weft", "-c", "user.email=weft@example.org", "-c", "init.defaultBranch=main"];
    let mut command = Command::new("git");
    // Whoever runs the tests may have settings of their own.
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    run(command.arg("-C").arg(directory).args(identity).args(words))
}

fn a_repository_is_cloned_built_and_its_program_runs(room: &Path) {
    let origin = room.join("origin");
    fs::create_dir_all(origin.join("src")).unwrap();
    let _ = git(&origin, &["init", "--quiet"]);
    fs::write(origin.join("src/main.rs"), "mod part;\nfn main() { println!(\"{}\", part::SUM); }\n").unwrap();
    for commit in 1..=5 {
        fs::write(origin.join("src/part.rs"), format!("pub const SUM: u32 = {commit} * 100;\n")).unwrap();
        let _ = git(&origin, &["add", "."]);
        let _ = git(&origin, &["commit", "--quiet", "--message", &format!("number {commit}")]);
    }
    let clone = room.join("clone");
    let _ = git(room, &["clone", "--quiet", "--no-local", "origin", "clone"]);
    let _ = git(&clone, &["fsck", "--full"]);
    assert_eq!(git(&clone, &["rev-list", "--count", "HEAD"]).trim(), "5");
    let program = clone.join("program");
    let _ = run(Command::new("rustc").arg("-o").arg(&program).arg(clone.join("src/main.rs")));
    assert_eq!(run(&mut Command::new(&program)).trim(), "500");
    let _ = git(&clone, &["checkout", "--quiet", "HEAD~3"]);
    assert_eq!(fs::read_to_string(clone.join("src/part.rs")).unwrap(), "pub const SUM: u32 = 2 * 100;\n");
    assert_eq!(git(&clone, &["status", "--short", "--untracked-files=no"]), "");
}

fn what_sqlite_committed_survives_its_kill(room: &Path) {
    let file = room.join("rows.db");
    let mut sqlite = Command::new("sqlite3");
    sqlite.arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = sqlite.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    writeln!(input, "pragma synchronous=full; create table rows(n integer primary key, text blob);").unwrap();
    let mut committed = 0;
    // One transaction a row; a number is printed when its row is committed.
    while committed < ROWS_BEFORE_KILL {
        let next = committed + 1;
        writeln!(input, "insert into rows values({next}, randomblob(3000)); select max(n) from rows;").unwrap();
        let said = output.next().unwrap().unwrap();
        assert_eq!(said.trim(), next.to_string());
        committed = next;
    }
    // In the middle of a long transaction.
    writeln!(input, "begin; insert into rows select n + 1000, randomblob(3000) from rows;").unwrap();
    input.flush().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let ask = |question: &str| run(Command::new("sqlite3").arg(&file).arg(question)).trim().to_owned();
    assert_eq!(ask("pragma integrity_check;"), "ok");
    assert_eq!(ask("select count(*) from rows;"), committed.to_string());
}

fn a_sparse_file_comes_out_of_an_archive_sparse(room: &Path) {
    let file = room.join("disk.raw");
    let sparse = OpenOptions::new().create_new(true).read(true).write(true).open(&file).unwrap();
    sparse.set_len(40 << 20).unwrap();
    sparse.write_all_at(&pattern(1, 0, 64 << 10), 5 << 20).unwrap();
    sparse.write_all_at(&pattern(2, 0, 64 << 10), 33 << 20).unwrap();
    sparse.sync_all().unwrap();
    let archive = room.join("archive.tar");
    let _ = run(Command::new("tar")
        .args(["--create", "--sparse", "--file"])
        .arg(&archive)
        .arg("-C")
        .arg(room)
        .arg("disk.raw"));
    assert!(fs::metadata(&archive).unwrap().len() < 1 << 20, "the holes went into the archive");
    let out = room.join("out");
    fs::create_dir(&out).unwrap();
    let _ = run(Command::new("tar").args(["--extract", "--file"]).arg(&archive).arg("-C").arg(&out));
    let _ = run(Command::new("cmp").arg(&file).arg(out.join("disk.raw")));
    let extracted = File::open(out.join("disk.raw")).unwrap();
    extracted.sync_all().unwrap();
    assert!(extracted.metadata().unwrap().blocks() * 512 <= 1 << 20, "the holes were filled");
}

fn a_synchronised_tree_is_equal(room: &Path) {
    let source = tempfile::tempdir().unwrap();
    for directory in 0..4 {
        let directory = source.path().join(format!("d{directory}"));
        fs::create_dir(&directory).unwrap();
        for number in 0..8usize {
            fs::write(directory.join(format!("f{number}")), pattern(number as u64, 0, number * 4000)).unwrap();
        }
        std::os::unix::fs::symlink("f1", directory.join("link")).unwrap();
    }
    let from = format!("{}/", source.path().display());
    let sync = |extra: &[&str]| {
        run(Command::new("rsync").args(["--archive", "--itemize-changes"]).args(extra).arg(&from).arg(room))
    };
    assert!(sync(&[]).lines().count() >= 40);
    assert_eq!(sync(&["--checksum", "--dry-run"]), "", "something differs");
    fs::write(source.path().join("d1/f3"), b"changed").unwrap();
    fs::remove_file(source.path().join("d2/f2")).unwrap();
    let _ = sync(&["--delete"]);
    assert_eq!(sync(&["--checksum", "--dry-run", "--delete"]), "");
    assert_eq!(fs::read(room.join("d1/f3")).unwrap(), b"changed");
}
