//! Debian packages that the tests and the bench need. Installed when missing and we are root; named otherwise.

use crate::command::{capture, is_installed};
use std::fs;
use std::path::PathBuf;
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
    tool("iptables", "iptables"),
    tool("busybox", "busybox-static"),
    tool("mkfs.ext4", "e2fsprogs"),
    tool("getfattr", "attr"),
    tool("getfacl", "acl"),
    tool("cpio", "cpio"),
    tool("gzip", "gzip"),
    tool("unshare", "util-linux"),
    tool("setpriv", "util-linux"),
    tool("mount", "mount"),
    tool("git", "git"),
    tool("sqlite3", "sqlite3"),
    tool("tar", "tar"),
    tool("rsync", "rsync"),
];

const FOR_WORKLOADS: &[Tool] = &[
    tool("initdb", "postgresql"),
    tool("pgbench", "postgresql"),
    tool("pg_amcheck", "postgresql"),
    tool("pg_dump", "postgresql-client"),
    tool("make", "make"),
    tool("gcc", "gcc"),
    tool("xz", "xz-utils"),
    tool("bzip2", "bzip2"),
];

const FOR_BENCH: &[Tool] = &[tool("fio", "fio"), tool("fusermount3", "fuse3"), tool("getfattr", "attr")];

const FOR_PEER: &[Tool] =
    &[tool("glusterd", "glusterfs-server"), tool("glusterfs", "glusterfs-client"), tool("ip", "iproute2")];

/// What `cargo xtask test` needs.
pub fn ensure_for_tests() -> Result<(), String> {
    ensure(FOR_TESTS)
}

/// What `cargo xtask workloads` needs beyond that.
pub fn ensure_for_workloads() -> Result<(), String> {
    ensure(FOR_WORKLOADS)
}

/// Where Debian keeps the programs of PostgreSQL, which are not on the path; those of the newest that is installed.
pub fn postgres_programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path());
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.filter_map(|path| Some((number(&path)?, path))).max()?;
    Some(newest.1.join("bin"))
}

/// What `cargo xtask bench` needs, with the peer if there is to be one.
pub fn ensure_for_bench(with_peer: bool) -> Result<(), String> {
    ensure(FOR_BENCH)?;
    if with_peer { ensure(FOR_PEER) } else { Ok(()) }
}

fn ensure(tools: &[Tool]) -> Result<(), String> {
    let packages = missing(tools);
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !is_root()? || !is_installed("apt-get") {
        return Err(format!("these packages are missing: install them with `sudo apt-get install {list}`"));
    }
    let apt = Apt::default();
    eprintln!("installing {list}");
    capture(&mut apt.get(&["update", "-qq"]))?;
    apt.bring(&packages)?;
    let still = missing(tools);
    if still.is_empty() {
        Ok(())
    } else {
        Err(format!("apt-get installed {list}, and still lacks {}", still.join(" ")))
    }
}

fn missing(tools: &[Tool]) -> Vec<&'static str> {
    let mut packages: Vec<_> = tools.iter().filter(|t| !is_there(t.program)).map(|t| t.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn is_there(program: &str) -> bool {
    is_installed(program) || postgres_programs().is_some_and(|programs| programs.join(program).is_file())
}

/// How apt is called.
#[derive(Default)]
struct Apt {
    /// `-o` settings; tests give it a machine that does not exist.
    settings: Vec<String>,
}

impl Apt {
    /// Installs them and removes nothing.
    ///
    /// A machine may carry a newer qemu-utils than its release has, which the release's qemu-system-x86 does not get along
    /// with. Left alone, apt then removes qemu-utils, and with it qemu-img and qemu-nbd. So the pair is asked for in the
    /// version of the release, which may be a step back.
    fn bring(&self, packages: &[&str]) -> Result<String, String> {
        let refused = match capture(&mut self.install(packages)) {
            Ok(output) => return Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            Err(why) => why,
        };
        if !packages.iter().any(|package| package.starts_with("qemu")) {
            return Err(refused);
        }
        let pinned = format!("qemu-utils={}", self.release_version("qemu-system-x86")?);
        let others = packages.iter().copied().filter(|package| *package != "qemu-utils");
        let pair: Vec<&str> = others.chain([pinned.as_str()]).collect();
        let output = capture(self.install(&pair).arg("--allow-downgrades"))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn install(&self, packages: &[&str]) -> Command {
        let mut command = self.get(&["install", "-y", "-qq", "--no-install-recommends", "--no-remove"]);
        command.args(packages);
        command
    }

    fn get(&self, words: &[&str]) -> Command {
        let mut command = self.set(Command::new("apt-get"));
        command.args(words);
        command
    }

    /// The version that the package sources offer.
    fn release_version(&self, package: &str) -> Result<String, String> {
        let shown = capture(self.set(Command::new("apt-cache")).args(["show", "--no-all-versions", package]))?;
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
        version.map(str::to_owned).ok_or_else(|| format!("apt-cache names no version of {package}"))
    }

    fn set(&self, mut command: Command) -> Command {
        command.env("DEBIAN_FRONTEND", "noninteractive");
        for setting in &self.settings {
            command.arg("-o").arg(setting);
        }
        command
    }
}

pub fn is_root() -> Result<bool, String> {
    let output = capture(Command::new("id").arg("-u"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// What the release offers.
    const OFFERED: &str = "\
Package: qemu-utils
Version: 1:7.2
Architecture: all
Maintainer: a <a@b>
Filename: ./u.deb
Size: 1
Description: x

Package: qemu-system-x86
Version: 1:7.2
Architecture: all
Maintainer: a <a@b>
Filename: ./s.deb
Size: 1
Depends: qemu-system-common (= 1:7.2)
Description: x

Package: qemu-system-common
Version: 1:7.2
Architecture: all
Maintainer: a <a@b>
Filename: ./c.deb
Size: 1
Description: x
";

    /// A newer qemu-utils, as from backports, which breaks the emulator of the release.
    const INSTALLED: &str = "\
Package: qemu-utils
Status: install ok installed
Version: 1:9.0
Architecture: all
Maintainer: a <a@b>
Breaks: qemu-system-common (<< 1:9)
Description: x

";

    /// A machine that exists only as apt's own files: the real apt decides, and changes nothing.
    fn machine(root: &Path) -> Apt {
        for directory in ["repository", "state/lists/partial", "cache/archives/partial", "etc/parts"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        fs::write(root.join("repository/Packages"), OFFERED).unwrap();
        fs::write(root.join("status"), INSTALLED).unwrap();
        let source = format!("deb [trusted=yes] file:{} ./\n", root.join("repository").display());
        fs::write(root.join("etc/sources.list"), source).unwrap();
        let at = |key: &str, path: &str| format!("{key}={}", root.join(path).display());
        let settings = vec![
            at("Dir::State", "state"),
            at("Dir::State::status", "status"),
            at("Dir::Cache", "cache"),
            at("Dir::Etc", "etc"),
            at("Dir::Etc::sourceparts", "etc/parts"),
            "APT::Sandbox::User=root".to_owned(),
        ];
        let mut apt = Apt { settings };
        capture(&mut apt.get(&["update", "-qq"])).unwrap();
        apt.settings.push("APT::Get::Simulate=true".to_owned());
        apt
    }

    #[test]
    fn a_newer_qemu_utils_steps_back_instead_of_being_removed() {
        if !is_installed("apt-get") {
            eprintln!("not tested: this machine has no apt");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let apt = machine(root.path());
        // What apt does when nobody forbids it.
        let mut unguarded = apt.get(&["install", "-y", "--no-install-recommends", "qemu-system-x86"]);
        let said = String::from_utf8_lossy(&capture(&mut unguarded).unwrap().stdout).into_owned();
        assert!(said.contains("Remv qemu-utils"), "this machine would not have had the trouble:\n{said}");

        let said = apt.bring(&["qemu-system-x86"]).unwrap();
        assert!(!said.contains("Remv"), "{said}");
        assert!(said.contains("Inst qemu-utils [1:9.0] (1:7.2"), "{said}");
        assert!(said.contains("Inst qemu-system-x86 (1:7.2"), "{said}");
    }

    #[test]
    fn what_apt_cannot_bring_is_said() {
        if !is_installed("apt-get") {
            eprintln!("not tested: this machine has no apt");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let why = machine(root.path()).bring(&["no-such-package"]).unwrap_err();
        assert!(why.contains("no-such-package"), "{why}");
    }
}
