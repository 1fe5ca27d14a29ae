//! The guest's disk: an ext4 file system with busybox, an init script and the workload program.

use super::kernel::{busybox, write_executable};
use crate::program::run;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Room for the 256 MiB of the workload, twice.
const SIZE: &str = "768M";

const INIT: &str = r#"#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc proc /proc
for word in $($bb cat /proc/cmdline); do
  case $word in
    weft.mode=*) mode=${word#*=};;
    weft.mib=*) mib=${word#*=};;
    weft.seed=*) seed=${word#*=};;
  esac
done
# The echo of what the workload is told would tear the line that it is saying.
$bb stty -echo
$bb echo "weft-guest: booted"
/bin/workload "$mode" "$mib" "$seed"
$bb sync
$bb mount -o remount,ro / && $bb echo "weft-guest: done"
$bb poweroff -f
"#;

/// Makes the image as a sparse raw file.
///
/// # Panics
/// When a tool is missing or fails.
pub fn build(target: &Path) {
    let files = tempfile::tempdir().unwrap();
    let root = files.path().join("root");
    for name in ["bin", "sbin", "dev", "proc", "data", "lost+found"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::remove_dir(root.join("lost+found")).unwrap();
    fs::copy(busybox(), root.join("bin/busybox")).unwrap();
    compile_workload(&root.join("bin/workload"));
    write_executable(&root.join("sbin/init"), INIT);
    let _ = run(Command::new("truncate").args(["-s", SIZE]).arg(target));
    // Tables are written now: a guest that initialises them in the background would blur the measurement.
    let _ = run(Command::new("mkfs.ext4")
        .args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-d"])
        .arg(&root)
        .arg(target));
}

/// One static program without crates, so the guest needs no libraries.
fn compile_workload(target: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/workload.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let _ = run(Command::new(rustc)
        .args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "-o"])
        .arg(target)
        .arg(source));
}

/// A full check that changes nothing; the image must be clean.
///
/// # Panics
/// When it is not.
pub fn assert_clean(image: &Path) {
    eprint!("{}", run(Command::new("e2fsck").arg("-fn").arg(image)));
}
