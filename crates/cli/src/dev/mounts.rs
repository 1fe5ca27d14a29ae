//! What the kernel says about mountpoints: `/proc/self/mountinfo`, and taking a mount away.

use rustix::mount::UnmountFlags;
use std::fs;
use std::path::{Path, PathBuf};

/// What is mounted on top of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mounted {
    pub filesystem: String,
    pub source: String,
}

impl Mounted {
    #[must_use]
    pub fn is_weft(&self) -> bool {
        self.filesystem == "fuse.weft"
    }
}

/// The topmost mount at exactly this path, if it is a mountpoint. The path is taken as it is: a mount whose server is
/// gone answers no `stat`, so it cannot be resolved.
#[must_use]
pub fn mounted_at(path: &Path) -> Option<Mounted> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(parse_line).rfind(|(point, _)| point == path).map(|(_, mounted)| mounted)
}

/// Unmounts, in the middle of whatever goes on when `flags` say so.
///
/// # Errors
/// What the kernel says; EBUSY while a file on it is open.
pub fn unmount(path: &Path, flags: UnmountFlags) -> rustix::io::Result<()> {
    rustix::mount::unmount(path, flags)
}

/// The absolute path with its parent resolved, the last component taken as it is, for the reason given above.
#[must_use]
pub fn normalize(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    match (absolute.parent().map(fs::canonicalize), absolute.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => absolute,
    }
}

/// Fields of mountinfo (proc(5)): the mountpoint is the fifth; type and source follow a lone hyphen.
fn parse_line(line: &str) -> Option<(PathBuf, Mounted)> {
    let (before, after) = line.split_once(" - ")?;
    let point = before.split(' ').nth(4)?;
    let mut rest = after.split(' ');
    let mounted = Mounted { filesystem: rest.next()?.to_owned(), source: unescape(rest.next().unwrap_or_default()) };
    Some((PathBuf::from(unescape(point)), mounted))
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_gives_path_type_and_source() {
        let line = "98 26 0:44 / /tmp/my\\040mnt rw,nosuid shared:5 - fuse.weft weft:vms rw,user_id=0";
        let (path, mounted) = parse_line(line).unwrap();
        assert_eq!(path, Path::new("/tmp/my mnt"));
        assert!(mounted.is_weft());
        assert_eq!(mounted.source, "weft:vms");
    }

    #[test]
    fn proc_is_seen_as_mounted_and_an_ordinary_directory_is_not() {
        assert_eq!(mounted_at(Path::new("/proc")).unwrap().filesystem, "proc");
        assert_eq!(mounted_at(Path::new("/proc/self")), None);
    }
}
