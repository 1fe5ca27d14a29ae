//! What must hold before a mount is tried: one clear sentence for each thing that does not.

use crate::kernel::{self, FILESYSTEM};
use crate::mount::MountError;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::path::{Path, PathBuf};

/// # Errors
/// The first thing that is not as it must be.
pub fn check(mount_point: &Path) -> Result<PathBuf, MountError> {
    if !rustix::process::geteuid().is_root() {
        return Err(MountError::NotRoot);
    }
    if !Path::new("/dev/fuse").exists() {
        return Err(MountError::NoFuse);
    }
    remove_stale_mount(mount_point)?;
    let shown = || mount_point.to_path_buf();
    let path =
        std::fs::canonicalize(mount_point).map_err(|source| MountError::MountPoint { mount_point: shown(), source })?;
    if !path.is_dir() {
        return Err(MountError::NotDirectory { mount_point: path });
    }
    match kernel::mounted_at(&path).map_err(MountError::MountList)? {
        None => Ok(path),
        Some(filesystem) => Err(MountError::AlreadyMounted { mount_point: path, filesystem }),
    }
}

/// A mount whose process died answers "Transport endpoint is not connected" to everything. If it is ours it is taken
/// away; nobody can use it any more.
fn remove_stale_mount(mount_point: &Path) -> Result<(), MountError> {
    if !matches!(rustix::fs::stat(mount_point), Err(Errno::NOTCONN)) {
        return Ok(());
    }
    // The path cannot be resolved through a dead mount, so it is taken as it is given.
    let path = std::path::absolute(mount_point)
        .map_err(|source| MountError::MountPoint { mount_point: mount_point.to_path_buf(), source })?;
    match kernel::mounted_at(&path).map_err(MountError::MountList)? {
        Some(filesystem) if filesystem == FILESYSTEM => {
            tracing::warn!(path = %path.display(), "taking away a mount whose process is gone");
            kernel::unmount(&path, UnmountFlags::DETACH)
                .map_err(|error| MountError::Stale { mount_point: path, why: error.to_string() })
        }
        _ => Err(MountError::Stale { mount_point: path, why: "it is no Weft mount".into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountpoint_that_is_a_file_is_refused_with_a_sentence() {
        // Without the rights or the device another sentence comes first.
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            return;
        }
        let error = check(Path::new("/proc/version")).unwrap_err();
        assert_eq!(error.to_string(), "/proc/version is not a directory");
        let error = check(Path::new("/proc")).unwrap_err();
        assert!(error.to_string().contains("already has a proc file system mounted"), "{error}");
        let error = check(Path::new("/nonexistent/place")).unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
    }
}
