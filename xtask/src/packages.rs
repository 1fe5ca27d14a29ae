//! Debian packages that the tests and the bench need. Installed when missing and we are root; named otherwise.

use crate::command::{attempt, capture, is_installed, run};
use std::process::Command;

/// A program that must be there, and the package that brings it.
struct Tool {
    program: &'static str,
    package: &'static str,
}

const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

const FOR_TESTS: &[Tool] = &[
    tool("fio", "fio"),
    tool("qemu-img", "qemu-utils"),
    tool("qemu-nbd", "qemu-utils"),
    tool("qemu-system-x86_64", "qemu-system-x86"),
    tool("fusermount3", "fuse3"),
    tool("ip", "iproute2"),
    tool("busybox", "busybox-static"),
    tool("mkfs.ext4", "e2fsprogs"),
    tool("getfattr", "attr"),
    tool("getfacl", "acl"),
    tool("cpio", "cpio"),
];

const FOR_BENCH: &[Tool] = &[tool("fio", "fio"), tool("fusermount3", "fuse3")];

const FOR_PEER: &[Tool] =
    &[tool("glusterd", "glusterfs-server"), tool("glusterfs", "glusterfs-client"), tool("ip", "iproute2")];

/// What `cargo xtask test` needs.
pub fn ensure_for_tests() -> Result<(), String> {
    ensure(FOR_TESTS)
}

/// What `cargo xtask bench` needs, with the peer if there is to be one.
pub fn ensure_for_bench(with_peer: bool) -> Result<(), String> {
    ensure(FOR_BENCH)?;
    if with_peer { ensure(FOR_PEER) } else { Ok(()) }
}

fn ensure(tools: &[Tool]) -> Result<(), String> {
    let mut packages: Vec<&str> = tools.iter().filter(|t| !is_installed(t.program)).map(|t| t.package).collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !is_root()? || !is_installed("apt-get") {
        return Err(format!("these packages are missing: install them with `sudo apt-get install {list}`"));
    }
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    if attempt(&mut install(&packages)) {
        return Ok(());
    }
    // A machine may carry a newer qemu-utils than its release has; qemu-system-x86 then needs the release's own.
    let pinned: Vec<String> = packages
        .iter()
        .filter(|p| **p != "qemu-utils")
        .map(|p| (*p).to_owned())
        .chain([release_qemu_utils()?])
        .collect();
    let pinned: Vec<&str> = pinned.iter().map(String::as_str).collect();
    run(&mut install(&pinned))
}

fn install(packages: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["install", "-y", "-qq", "--no-install-recommends", "--allow-downgrades"]).args(packages);
    command
}

/// `qemu-utils=VERSION` with the version of the release's qemu-system-x86.
fn release_qemu_utils() -> Result<String, String> {
    let shown = capture(Command::new("apt-cache").args(["show", "--no-all-versions", "qemu-system-x86"]))?;
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
    version.map(|v| format!("qemu-utils={v}")).ok_or_else(|| "apt-cache names no version of qemu-system-x86".to_owned())
}

pub fn is_root() -> Result<bool, String> {
    let output = capture(Command::new("id").arg("-u"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim() == "0")
}
