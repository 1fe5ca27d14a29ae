//! Mounting, unmounting and the list of mounts. Done here and not by fuser: its unmount leaves mounts behind.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use weft_types::limits::MAX_IO_BYTES;

pub const FILESYSTEM: &str = "fuse.weft";
const DEVICE: &str = "/dev/fuse";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writable {
    Yes,
    No,
}

/// Opens the device, mounts, and returns the descriptor on which the kernel's requests arrive.
///
/// # Errors
/// What open(2) and mount(2) say.
pub fn mount(source: &str, mount_point: &Path, writable: Writable) -> io::Result<OwnedFd> {
    let device = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // The kernel checks permissions by what it is told of owner, group and mode, for all users.
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,max_read={MAX_IO_BYTES}",
        device.as_raw_fd()
    );
    let options = CString::new(options).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let read_only = if writable == Writable::No { MountFlags::RDONLY } else { MountFlags::empty() };
    // As for every network file system: what a guest or another host writes is not to gain rights on this one.
    let flags = MountFlags::NOSUID | MountFlags::NODEV | read_only;
    rustix::mount::mount(source, mount_point, FILESYSTEM, flags, Some(options.as_c_str()))?;
    Ok(device)
}

/// # Errors
/// `BUSY` while somebody uses it.
pub fn unmount(mount_point: &Path, flags: UnmountFlags) -> Result<(), Errno> {
    rustix::mount::unmount(mount_point, flags | UnmountFlags::NOFOLLOW)
}

/// The file system of the topmost mount at exactly this path.
///
/// # Errors
/// When the list of mounts cannot be read.
pub fn mounted_at(mount_point: &Path) -> io::Result<Option<String>> {
    let list = fs::read("/proc/self/mountinfo")?;
    Ok(find_mount(&list, mount_point))
}

// Lines as in proc(5): the fifth field is the mountpoint, the one after ` - ` the file system.
fn find_mount(list: &[u8], mount_point: &Path) -> Option<String> {
    let mut found = None;
    for line in list.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ');
        let Some(path) = fields.nth(4) else { continue };
        if unescape(path) == mount_point {
            let kind = fields.skip_while(|field| *field != b"-").nth(1).unwrap_or_default();
            // A later line lies over an earlier one.
            found = Some(String::from_utf8_lossy(kind).into_owned());
        }
    }
    found
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                path.push(byte);
                rest = &after[3..];
            }
            None => {
                path.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_mount_of_a_path_is_found_among_escaped_lines() {
        let list = b"36 35 98:0 / /mnt/two\\040words rw,noatime master:1 - ext4 /dev/root rw\n\
            40 35 0:50 / /mnt/vms rw - ext4 /dev/sdb rw\n\
            41 40 0:51 / /mnt/vms rw,nosuid - fuse.weft weft:vms rw,user_id=0\n";
        assert_eq!(find_mount(list, Path::new("/mnt/vms")).as_deref(), Some("fuse.weft"));
        assert_eq!(find_mount(list, Path::new("/mnt/two words")).as_deref(), Some("ext4"));
        assert_eq!(find_mount(list, Path::new("/mnt")), None);
        assert_eq!(unescape(b"a\\011b"), Path::new("a\tb"));
    }
}
