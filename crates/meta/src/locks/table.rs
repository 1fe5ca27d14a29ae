//! The locks of one inode: who holds which bytes, who waits in which order (decision 0009).
//!
//! Responsible for: splitting, joining, changing the kind, and whom a freed range goes to.
//! Guarantees: locks of different owners on one byte are all shared; an owner has one kind on a byte; waits are granted
//! in order of arrival, and none overtakes an earlier one that it would get in the way of.
//! Must not know: sessions' lives, other inodes, requests and replies.

use crate::mutants::{Mutant, planted};
use serde::{Deserialize, Serialize};
use weft_types::{LockKind, LockOwner, LockRange, RequestNumber, SessionId, Timestamp};

/// An owner in the cluster: what its kernel calls it, and whose kernel that is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Debug)]
pub struct OwnerId {
    pub session: SessionId,
    pub owner: LockOwner,
}

impl OwnerId {
    fn is(self, other: Self) -> bool {
        self.owner == other.owner && (self.session == other.session || planted(Mutant::OwnerWithoutSession))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Held {
    pub who: OwnerId,
    pub range: LockRange,
    pub kind: LockKind,
    pub process_id: u32,
    pub since: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Wait {
    /// What is to be held.
    pub lock: Held,
    /// Names the wait, together with the session.
    pub request: RequestNumber,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct InodeLocks {
    /// By first byte, then owner.
    pub held: Vec<Held>,
    /// In order of arrival.
    pub waiting: Vec<Wait>,
}

fn in_the_way(of: &Held, other: &Held) -> bool {
    let overlaps = of.range.overlaps(other.range) && !planted(Mutant::IgnoreOverlap);
    !of.who.is(other.who) && overlaps && !of.kind.goes_with(other.kind)
}

impl InodeLocks {
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.waiting.is_empty()
    }

    /// Whether another lock, and everything that is waited for, fits within `limit` ranges. Setting one splits one into
    /// three at most.
    pub fn has_room(&self, limit: usize) -> bool {
        self.held.len() + 2 * (self.waiting.len() + 1) <= limit
    }

    /// Held locks of others that `lock` cannot be held together with, first byte first.
    pub fn conflicts<'l>(&'l self, lock: &'l Held) -> impl Iterator<Item = &'l Held> {
        self.held.iter().filter(|held| in_the_way(lock, held))
    }

    /// Everybody for whom this wait waits: holders, and earlier waits that it must not overtake.
    pub fn blockers(&self, lock: &Held, request: RequestNumber) -> Vec<OwnerId> {
        let earlier = self.waiting.iter().take_while(|w| w.request != request || w.lock.who != lock.who);
        let ahead = earlier.map(|w| &w.lock).filter(|other| in_the_way(lock, other));
        self.conflicts(lock).chain(ahead).map(|held| held.who).collect()
    }

    /// Makes the range this owner's, in this kind; joins it with neighbours of the same kind.
    pub fn set(&mut self, mut lock: Held) {
        self.clear(lock.who, lock.range);
        self.held.retain(|held| {
            let same = held.who == lock.who && held.kind == lock.kind && held.range.touches(lock.range);
            if same {
                lock.range = lock.range.joined(held.range);
                lock.since = lock.since.min(held.since);
            }
            !same
        });
        let at = self.held.partition_point(|held| (held.range.first, held.who) < (lock.range.first, lock.who));
        self.held.insert(at, lock);
    }

    /// Takes the range away from this owner; what it holds around it stays.
    pub fn clear(&mut self, who: OwnerId, range: LockRange) {
        let mut left = Vec::with_capacity(self.held.len() + 1);
        for held in &self.held {
            if held.who == who {
                left.extend(held.range.without(range).into_iter().flatten().map(|range| Held { range, ..*held }));
            } else {
                left.push(*held);
            }
        }
        left.sort_by_key(|held| (held.range.first, held.who));
        self.held = left;
    }

    /// Nothing of the owners that `gone` names is left.
    pub fn drop_owners(&mut self, gone: impl Fn(OwnerId) -> bool) {
        self.held.retain(|held| !gone(held.who));
        self.waiting.retain(|wait| !gone(wait.lock.who));
    }

    /// Gives what is free now to those who wait for it, in order.
    pub fn grant(&mut self) {
        if planted(Mutant::ForgetWaiters) {
            return;
        }
        let mut still: Vec<Wait> = Vec::new();
        for wait in std::mem::take(&mut self.waiting) {
            let overtakes = still.iter().any(|earlier| in_the_way(&wait.lock, &earlier.lock));
            let blocked = self.conflicts(&wait.lock).next().is_some();
            if blocked || (overtakes && !planted(Mutant::OvertakeWaiters)) {
                still.push(wait);
            } else {
                self.set(wait.lock);
            }
        }
        self.waiting = still;
    }
}
