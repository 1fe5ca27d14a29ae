//! Kernel and initramfs of the guest, prepared once and kept in the target directory.

use crate::isolation;
use crate::program::{cache_directory, run};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// In the order in which they depend on each other; ext4 is built in.
const MODULES: [&str; 6] = [
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "drivers/block/virtio_blk.ko",
];

const INIT: &str = r#"#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t devtmpfs dev /dev
for module in $($bb cat /modules/order); do
  $bb insmod /modules/$module || $bb echo "weft-guest: failed insmod $module"
done
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 100 ]; do $bb sleep 0.1; tries=$((tries+1)); done
$bb mount -t ext4 /dev/vda /newroot || { $bb echo "weft-guest: failed mount root"; $bb poweroff -f; }
$bb umount /proc
$bb mount --move /dev /newroot/dev
exec $bb switch_root /newroot /sbin/init
"#;

pub struct Kernel {
    pub image: PathBuf,
    pub initramfs: PathBuf,
}

/// Prepares both on first use.
///
/// # Panics
/// When the packages cannot be had.
#[must_use]
pub fn prepare() -> Kernel {
    let directory = cache_directory();
    fs::create_dir_all(&directory).unwrap();
    // Test programs may run at the same time.
    let lock = File::create(directory.join("lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let kernel = Kernel { image: directory.join("vmlinuz"), initramfs: directory.join("initramfs.gz") };
    let complete = directory.join("complete");
    if !complete.exists() {
        let unpacked = isolation::outside(|| unpack(&directory));
        build_initramfs(&unpacked, &directory, &kernel.initramfs);
        let image = only_file(&unpacked.join("boot"), "vmlinuz-");
        fs::copy(image, &kernel.image).unwrap();
        fs::remove_dir_all(unpacked).unwrap();
        File::create(complete).unwrap();
    }
    kernel
}

/// Downloads the kernel package and unpacks it without installing it.
fn unpack(directory: &Path) -> PathBuf {
    let package = || {
        let shown = Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]).output().unwrap();
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        text.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned)
    };
    let name = package().unwrap_or_else(|| {
        let _ = run(Command::new("apt-get").args(["update", "-qq"]));
        package().expect("apt-cache knows linux-image-cloud-amd64")
    });
    let download = directory.join("download");
    if download.exists() {
        fs::remove_dir_all(&download).unwrap();
    }
    fs::create_dir_all(&download).unwrap();
    let _ = run(Command::new("apt-get").args(["download", "-qq", &name]).current_dir(&download));
    let archive = only_file(&download, "linux-image-");
    let unpacked = download.join("unpacked");
    let _ = run(Command::new("dpkg").arg("-x").arg(archive).arg(&unpacked));
    let kept = directory.join("unpacked");
    if kept.exists() {
        fs::remove_dir_all(&kept).unwrap();
    }
    fs::rename(unpacked, &kept).unwrap();
    fs::remove_dir_all(download).unwrap();
    kept
}

fn build_initramfs(unpacked: &Path, directory: &Path, target: &Path) {
    let root = directory.join("initramfs");
    if root.exists() {
        fs::remove_dir_all(&root).unwrap();
    }
    for name in ["bin", "dev", "proc", "newroot", "modules"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::copy(busybox(), root.join("bin/busybox")).unwrap();
    let modules = only_file(&unpacked.join("lib/modules"), "").join("kernel");
    let mut order = Vec::new();
    for module in MODULES {
        let name = module.rsplit('/').next().unwrap();
        fs::copy(modules.join(module), root.join("modules").join(name)).unwrap();
        order.push(name);
    }
    fs::write(root.join("modules/order"), order.join("\n")).unwrap();
    write_executable(&root.join("init"), INIT);
    let script = format!("find . | cpio -o -H newc --quiet | gzip -1 > '{}'", target.display());
    let _ = run(Command::new("sh").args(["-c", &script]).current_dir(&root));
    fs::remove_dir_all(root).unwrap();
}

/// The static busybox of the host, which also is the guest's.
///
/// # Panics
/// When it is not installed.
#[must_use]
pub fn busybox() -> PathBuf {
    let found = ["/bin/busybox", "/usr/bin/busybox"].iter().map(PathBuf::from).find(|path| path.is_file());
    found.expect("busybox-static is installed (cargo xtask test does that)")
}

/// # Panics
/// When it cannot be written.
pub fn write_executable(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn only_file(directory: &Path, prefix: &str) -> PathBuf {
    let entries = fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path());
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    entries.filter(named).max().unwrap_or_else(|| panic!("no {prefix}* in {}", directory.display()))
}
