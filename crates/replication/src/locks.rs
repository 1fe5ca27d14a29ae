//! Block locks: nobody may sequence a change of these blocks until the holder, who has read them, is done (partial
//! writes, resync copies, repair). Whole-block writes take none; they only wait for those of others.

use std::collections::BTreeMap;
use weft_types::{BlockRange, ChunkId, ChunkIndex, ObjectId};

/// What an operation changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    Blocks(ChunkId, BlockRange),
    Object(ObjectId),
}

impl Scope {
    pub fn conflicts(self, other: Self) -> bool {
        match (self, other) {
            (Self::Blocks(a, x), Self::Blocks(b, y)) => a == b && x.overlaps(y),
            (Self::Blocks(chunk, _), Self::Object(object)) | (Self::Object(object), Self::Blocks(chunk, _)) => {
                chunk.object == object
            }
            (Self::Object(a), Self::Object(b)) => a == b,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct LockId(u64);

/// Held locks.
#[derive(Default)]
pub(crate) struct Locks {
    by_chunk: BTreeMap<ChunkId, Vec<(BlockRange, LockId)>>,
    objects: Vec<(ObjectId, LockId)>,
    next: u64,
}

impl Locks {
    pub fn is_empty(&self) -> bool {
        self.by_chunk.is_empty() && self.objects.is_empty()
    }

    pub fn conflicts(&self, scope: Scope) -> bool {
        if self.is_empty() {
            return false;
        }
        match scope {
            Scope::Blocks(chunk, range) => {
                self.objects.iter().any(|(object, _)| *object == chunk.object)
                    || self.by_chunk.get(&chunk).is_some_and(|held| held.iter().any(|(r, _)| r.overlaps(range)))
            }
            Scope::Object(object) => {
                let first = ChunkId { object, index: ChunkIndex(0) };
                let last = ChunkId { object, index: ChunkIndex(u32::MAX) };
                self.objects.iter().any(|(o, _)| *o == object) || self.by_chunk.range(first..=last).next().is_some()
            }
        }
    }

    /// Takes a lock without asking whether it conflicts: the caller has.
    pub fn take(&mut self, scope: Scope) -> LockId {
        self.next += 1;
        let id = LockId(self.next);
        match scope {
            Scope::Blocks(chunk, range) => self.by_chunk.entry(chunk).or_default().push((range, id)),
            Scope::Object(object) => self.objects.push((object, id)),
        }
        id
    }

    pub fn release(&mut self, scope: Scope, id: LockId) {
        match scope {
            Scope::Blocks(chunk, _) => {
                if let Some(held) = self.by_chunk.get_mut(&chunk) {
                    held.retain(|(_, i)| *i != id);
                    if held.is_empty() {
                        self.by_chunk.remove(&chunk);
                    }
                }
            }
            Scope::Object(_) => self.objects.retain(|(_, i)| *i != id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::BlockIndex;

    #[test]
    fn a_lock_keeps_overlapping_blocks_and_the_whole_object_waiting() {
        let mut locks = Locks::default();
        let chunk = ChunkId { object: ObjectId(4), index: ChunkIndex(2) };
        let held = Scope::Blocks(chunk, BlockRange::new(BlockIndex(4), 2));
        let id = locks.take(held);
        assert!(locks.conflicts(Scope::Blocks(chunk, BlockRange::new(BlockIndex(5), 9))));
        assert!(!locks.conflicts(Scope::Blocks(chunk, BlockRange::new(BlockIndex(6), 9))));
        assert!(locks.conflicts(Scope::Object(ObjectId(4))));
        assert!(!locks.conflicts(Scope::Object(ObjectId(5))));
        locks.release(held, id);
        assert!(locks.is_empty());
    }
}
