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

fn timestamp(time: SystemTime) -> Timestamp {
    let since = |d: Duration| (i64::try_from(d.as_secs()).unwrap_or(i64::MAX), d.subsec_nanos());
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => {
            let (seconds, nanoseconds) = since(after);
            Timestamp { seconds, nanoseconds }
        }
        Err(before) => match since(before.duration()) {
            (seconds, 0) => Timestamp { seconds: -seconds, nanoseconds: 0 },
            // Nanoseconds count forward from the second before.
            (seconds, nanoseconds) => Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
        },
    }
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
    fn times_before_1970_survive_the_round_trip() {
        for time in [
            Timestamp { seconds: -2, nanoseconds: 250_000_000 },
            Timestamp { seconds: -1, nanoseconds: 0 },
            Timestamp { seconds: 0, nanoseconds: 1 },
            Timestamp { seconds: 1_700_000_000, nanoseconds: 999_999_999 },
        ] {
            assert_eq!(timestamp(system_time(time)), time);
        }
    }
}
