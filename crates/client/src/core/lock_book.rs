//! Which lock owners of this host may hold something in a file, so that what ends frees what it must (SEMANTICS S4).
//!
//! A client kernel tells an owner's number and the open file description it came through, not whether the lock belongs to
//! the process (POSIX) or to the description (OFD, flock). It tells when a process closes a descriptor, naming its owner,
//! and when a description is closed for good. The rule that follows: closing a descriptor frees the locks of the owner that
//! is named; closing a description for good frees those of every owner that locked through it and was not named since,
//! which can only be the description itself.
//!
//! Guarantees: an owner is noted before its lock is asked for, so an answer that never comes leaves nothing behind.
//! Must not know: ranges, requests.

use crate::mutants::{Mutant, planted};
use std::collections::{BTreeMap, BTreeSet};
use weft_proto::namespace::LockChange;
use weft_types::{LockKind, LockOwner};

/// An open file description of this client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DescriptionId(pub u64);

/// What has to be done before a request about locks is sent (design 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Before {
    Nothing,
    /// A right may be given away: whatever was done under it has to be answered, and its size known to everybody.
    Settle,
}

#[derive(Debug, Default)]
pub struct LockBook {
    owners: BTreeMap<LockOwner, BTreeSet<DescriptionId>>,
}

impl LockBook {
    /// A lock is about to be asked for.
    pub fn locking(&mut self, owner: LockOwner, through: DescriptionId) {
        self.owners.entry(owner).or_default().insert(through);
    }

    #[must_use]
    pub fn may_hold(&self, owner: LockOwner) -> bool {
        self.owners.contains_key(&owner)
    }

    /// Whether a request may give a right away.
    #[must_use]
    pub fn before(&self, change: &LockChange) -> Before {
        let gives = match *change {
            // It may become weaker: others may read then.
            LockChange::Set { owner, kind, .. } => kind == LockKind::Shared && self.may_hold(owner),
            LockChange::Unlock { .. } | LockChange::Release { .. } => true,
            LockChange::Cancel { .. } => false,
        };
        if gives && !planted(Mutant::UnlockOvertakesWrites) { Before::Settle } else { Before::Nothing }
    }

    /// A process closes a descriptor: whether locks of its owner have to be freed.
    pub fn descriptor_closed(&mut self, owner: LockOwner) -> bool {
        self.owners.remove(&owner).is_some() && !planted(Mutant::CloseKeepsLocks)
    }

    /// A description is closed for good: owners whose locks have to be freed. A kernel may give a new description the
    /// number of an old one before it tells that the old one is closed; what both locked is then freed with the new one.
    pub fn description_closed(&mut self, description: DescriptionId) -> Vec<LockOwner> {
        let mut gone = Vec::new();
        self.owners.retain(|owner, through| {
            let last = through.remove(&description) && through.is_empty();
            if last {
                gone.push(*owner);
            }
            !last
        });
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_proto::namespace::LockWait;
    use weft_types::{LockRange, RequestNumber};

    const A: DescriptionId = DescriptionId(1);
    const B: DescriptionId = DescriptionId(2);

    #[test]
    fn a_process_that_closes_any_descriptor_loses_its_locks_once() {
        let mut book = LockBook::default();
        book.locking(LockOwner(7), A);
        assert!(!book.descriptor_closed(LockOwner(8)), "somebody else's close");
        assert!(book.descriptor_closed(LockOwner(7)));
        assert!(!book.descriptor_closed(LockOwner(7)), "nothing is left to free");
        assert!(book.description_closed(A).is_empty());
    }

    #[test]
    fn a_description_keeps_its_locks_until_it_is_closed_for_good() {
        let mut book = LockBook::default();
        book.locking(LockOwner(7), A);
        // The process that opened it closes its descriptor; a child has one still.
        assert!(!book.descriptor_closed(LockOwner(100)));
        assert!(book.may_hold(LockOwner(7)));
        assert_eq!(book.description_closed(A), [LockOwner(7)]);
    }

    #[test]
    fn only_what_gives_a_right_away_waits_for_earlier_operations() {
        let mut book = LockBook::default();
        let (owner, range) = (LockOwner(7), LockRange::WHOLE_FILE);
        let set = |kind| LockChange::Set { owner, range, kind, process_id: 1, wait: LockWait::No };
        assert_eq!(book.before(&set(LockKind::Shared)), Before::Nothing, "it had nothing");
        book.locking(owner, A);
        assert_eq!(book.before(&set(LockKind::Shared)), Before::Settle, "it may have been exclusive");
        assert_eq!(book.before(&set(LockKind::Exclusive)), Before::Nothing);
        assert_eq!(book.before(&LockChange::Unlock { owner, range }), Before::Settle);
        assert_eq!(book.before(&LockChange::Release { owner }), Before::Settle);
        assert_eq!(book.before(&LockChange::Cancel { request: RequestNumber(1) }), Before::Nothing);
    }

    #[test]
    fn a_number_that_is_used_again_early_is_freed_with_its_new_description() {
        let mut book = LockBook::default();
        book.locking(LockOwner(7), A);
        book.locking(LockOwner(7), B);
        assert!(book.description_closed(A).is_empty());
        assert_eq!(book.description_closed(B), [LockOwner(7)]);
    }
}
