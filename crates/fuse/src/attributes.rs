//! Attributes as the kernel wants them.

use fuser::{FileAttr, FileType, INodeNo};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weft_proto::namespace::TimeChange;
use weft_types::{Attributes, BLOCK_SIZE, FileKind, Timestamp};

pub const fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharacterDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

pub fn kernel_attributes(attributes: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(attributes.inode.0),
        size: attributes.size_bytes,
        blocks: attributes.allocated_bytes.div_ceil(512),
        atime: system_time(attributes.accessed),
        mtime: system_time(attributes.modified),
        ctime: system_time(attributes.changed),
        crtime: system_time(attributes.created),
        kind: file_type(attributes.kind),
        perm: attributes.mode & 0o7777,
        nlink: attributes.links,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: attributes.device,
        blksize: BLOCK_SIZE as u32,
        flags: 0,
    }
}

fn system_time(time: Timestamp) -> SystemTime {
    let nanoseconds = Duration::from_nanos(u64::from(time.nanoseconds));
    let whole = match u64::try_from(time.seconds) {
        Ok(seconds) => UNIX_EPOCH.checked_add(Duration::from_secs(seconds)),
        Err(_) => UNIX_EPOCH.checked_sub(Duration::from_secs(time.seconds.unsigned_abs())),
    };
    whole.and_then(|whole| whole.checked_add(nanoseconds)).unwrap_or(UNIX_EPOCH)
}

/// A time that the kernel set, as fuser hands it on. Before 1970 fuser 0.18 takes the nanoseconds, which count forward, for
/// a part of the way back: -5 s and 1 ns arrives as 5.000000001 s before the epoch. What it was given is read out of that.
fn timestamp(time: SystemTime) -> Timestamp {
    let parts = |d: Duration| (i64::try_from(d.as_secs()).unwrap_or(i64::MAX), d.subsec_nanos());
    let (seconds, nanoseconds) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => parts(after),
        Err(before) => {
            let (seconds, nanoseconds) = parts(before.duration());
            (-seconds, nanoseconds)
        }
    };
    Timestamp { seconds, nanoseconds }
}

pub fn time_change(time: fuser::TimeOrNow) -> TimeChange {
    match time {
        fuser::TimeOrNow::Now => TimeChange::Now,
        fuser::TimeOrNow::SpecificTime(time) => TimeChange::To(timestamp(time)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_what_the_kernel_set_although_fuser_turns_their_nanoseconds_around() {
        let at = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
        assert_eq!(timestamp(UNIX_EPOCH - Duration::new(5, 999_999_999)), at(-5, 999_999_999));
        assert_eq!(timestamp(UNIX_EPOCH - Duration::new(1, 0)), at(-1, 0));
        assert_eq!(timestamp(UNIX_EPOCH + Duration::new(0, 1)), at(0, 1));
        assert_eq!(timestamp(UNIX_EPOCH + Duration::new(1_700_000_000, 999_999_999)), at(1_700_000_000, 999_999_999));
    }

    #[test]
    fn times_before_1970_are_told_to_the_kernel_as_the_way_back() {
        assert_eq!(
            system_time(Timestamp { seconds: -2, nanoseconds: 250_000_000 }),
            UNIX_EPOCH - Duration::new(1, 750_000_000)
        );
        assert_eq!(system_time(Timestamp { seconds: -1, nanoseconds: 0 }), UNIX_EPOCH - Duration::new(1, 0));
    }
}
