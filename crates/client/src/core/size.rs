//! The size of a file as this session knows it, and when the metadata group has to be told (design 7, "Size").
//!
//! Guarantees: within a truncate generation a size only grows; a failed or unanswered write never counts; without a
//! usable cap no extension is acknowledged before it is committed.

use weft_proto::namespace::FileRecord;
use weft_types::{ObjectId, TruncateGeneration};

/// What has to happen before a write that ended at some offset may be acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extension {
    /// The file already reaches that far.
    Covered,
    /// The cap allows to remember it; it is committed at fsync, at close and every second.
    Remembered,
    /// Obtain the cap, or commit the size, first.
    CommitFirst { generation: TruncateGeneration, size_bytes: u64 },
}

/// Whether the session may use the size cap now: it holds it, and its lease has not lapsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CapUse {
    Allowed,
    Forbidden,
}

/// Contents between two truncations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    pub object: ObjectId,
    pub generation: TruncateGeneration,
}

#[derive(Clone, Debug)]
pub struct FileSize {
    object: ObjectId,
    generation: TruncateGeneration,
    live: u64,
    committed: u64,
}

impl FileSize {
    #[must_use]
    pub fn new(record: &FileRecord) -> Self {
        let size = record.attributes.size_bytes;
        Self { object: record.object, generation: record.generation, live: size, committed: size }
    }

    #[must_use]
    pub fn live(&self) -> u64 {
        self.live
    }

    #[must_use]
    pub fn life(&self) -> Life {
        Life { object: self.object, generation: self.generation }
    }

    /// The metadata group's record, which may be older or newer than what this session knows.
    pub fn learned(&mut self, record: &FileRecord) {
        let size = record.attributes.size_bytes;
        if record.object == self.object && record.generation == self.generation {
            // Same contents: both sides only grow.
            self.committed = self.committed.max(size);
            self.live = self.live.max(size);
        } else if (record.object, record.generation) > (self.object, self.generation) {
            // Somebody truncated it: what this session knew is of an earlier life of the file. Objects are never
            // reused and their ids rise, so the pair orders the lives of a file.
            *self = Self::new(record);
        }
    }

    /// Bytes up to `end` of the file were acknowledged by the placement groups.
    pub fn wrote(&mut self, life: Life, end: u64, cap: CapUse) -> Extension {
        // A truncation overtook the write; its primary has put the bytes in order before or after it.
        if life != self.life() || end <= self.live {
            return Extension::Covered;
        }
        match cap {
            CapUse::Allowed => {
                self.live = end;
                Extension::Remembered
            }
            CapUse::Forbidden => Extension::CommitFirst { generation: life.generation, size_bytes: end },
        }
    }

    /// What the metadata group does not know yet.
    #[must_use]
    pub fn uncommitted(&self) -> Option<(TruncateGeneration, u64)> {
        (self.live > self.committed).then_some((self.generation, self.live))
    }

    /// The metadata group has committed this.
    pub fn committed(&mut self, generation: TruncateGeneration, size_bytes: u64) {
        if generation == self.generation {
            self.committed = self.committed.max(size_bytes);
            self.live = self.live.max(size_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_proto::namespace::SizeKnowledge;
    use weft_types::{Attributes, FileKind, InodeNumber, Timestamp};

    fn life(object: u64, generation: u64) -> Life {
        Life { object: ObjectId(object), generation: TruncateGeneration(generation) }
    }

    fn record(object: u64, generation: u64, size: u64) -> FileRecord {
        let time = Timestamp::default();
        FileRecord {
            attributes: Attributes {
                inode: InodeNumber(5),
                kind: FileKind::Regular,
                size_bytes: size,
                allocated_bytes: 0,
                mode: 0o644,
                links: 1,
                uid: 0,
                gid: 0,
                device: 0,
                accessed: time,
                modified: time,
                changed: time,
                created: time,
            },
            object: ObjectId(object),
            generation: TruncateGeneration(generation),
            knowledge: SizeKnowledge::Exact,
        }
    }

    #[test]
    fn without_the_cap_an_extension_is_committed_before_it_counts() {
        let mut size = FileSize::new(&record(1, 0, 100));
        let extension = size.wrote(life(1, 0), 200, CapUse::Forbidden);
        assert_eq!(extension, Extension::CommitFirst { generation: TruncateGeneration(0), size_bytes: 200 });
        assert_eq!(size.live(), 100);
        size.committed(TruncateGeneration(0), 200);
        assert_eq!(size.live(), 200);
    }

    #[test]
    fn with_the_cap_it_is_remembered_and_offered_for_commit() {
        let mut size = FileSize::new(&record(1, 0, 100));
        assert_eq!(size.wrote(life(1, 0), 200, CapUse::Allowed), Extension::Remembered);
        assert_eq!(size.uncommitted(), Some((TruncateGeneration(0), 200)));
        size.committed(TruncateGeneration(0), 200);
        assert_eq!(size.uncommitted(), None);
    }

    #[test]
    fn an_old_record_does_not_shrink_what_this_session_wrote() {
        let mut size = FileSize::new(&record(1, 0, 100));
        size.wrote(life(1, 0), 200, CapUse::Allowed);
        size.learned(&record(1, 0, 100));
        assert_eq!(size.live(), 200);
    }

    #[test]
    fn a_truncation_elsewhere_replaces_what_this_session_knew() {
        let mut size = FileSize::new(&record(1, 0, 100));
        size.wrote(life(1, 0), 200, CapUse::Allowed);
        size.learned(&record(1, 1, 50));
        assert_eq!((size.live(), size.uncommitted()), (50, None));
        // A write that was on its way under the old generation does not bring the old size back.
        assert_eq!(size.wrote(life(1, 0), 300, CapUse::Allowed), Extension::Covered);
        assert_eq!(size.live(), 50);
    }

    #[test]
    fn a_swapped_object_starts_at_its_own_generation() {
        let mut size = FileSize::new(&record(1, 7, 100));
        size.learned(&record(2, 0, 0));
        assert_eq!(size.live(), 0);
        size.learned(&record(1, 7, 100));
        assert_eq!(size.live(), 0);
    }

    #[test]
    fn a_record_from_before_a_truncation_is_ignored() {
        let mut size = FileSize::new(&record(1, 2, 50));
        size.learned(&record(1, 1, 500));
        assert_eq!(size.live(), 50);
    }
}
