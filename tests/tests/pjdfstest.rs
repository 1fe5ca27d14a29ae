//! The POSIX suite pjdfstest on a mount: names, attributes, permissions, limits, errno.
//!
//! The program comes from crates.io; `cargo xtask test` installs it below the target directory and names it here.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;
use weft_tests::cluster::Cluster;

/// Cases that POSIX lets a file system decline, and why this one does. docs/SEMANTICS.md S2.
const DECLINED: &[&str] = &[];

/// Two ordinary users that every Debian has; each in the group of its own.
const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.01
allow_remount = false

[dummy_auth]
entries = [["daemon", "daemon"], ["bin", "bin"]]
"#;

#[test]
fn the_posix_suite_passes_on_a_mount() {
    let Some(program) = std::env::var_os("WEFT_PJDFSTEST").map(PathBuf::from) else {
        eprintln!("NOT RUN: WEFT_PJDFSTEST names no program; `cargo xtask test` installs it");
        return;
    };
    let cluster = Cluster::start();
    let here = tempfile::tempdir().unwrap();
    let declined: Vec<String> = DECLINED.iter().map(|name| format!("{name:?}")).collect();
    let configuration = CONFIGURATION
        .replace("allow_remount", &format!("expected_failures = [{}]\nallow_remount", declined.join(", ")));
    let file = here.path().join("pjdfstest.toml");
    fs::write(&file, configuration).unwrap();
    let room = cluster.mount().join("posix");
    fs::create_dir(&room).unwrap();
    let began = Instant::now();
    let output = Command::new(&program)
        .arg("--configuration-file")
        .arg(&file)
        .arg("--path")
        .arg(&room)
        .arg("--secondary-fs")
        .arg(here.path())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let said = String::from_utf8_lossy(&output.stdout);
    eprintln!("{said}\n{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("took {:.1} s", began.elapsed().as_secs_f64());
    assert!(said.contains("Summary"), "it did not come to its end");
    assert!(output.status.success(), "cases of the suite failed, see above");
    cluster.check_memory();
}
