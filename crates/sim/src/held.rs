//! Locks as their owners believe to have them, and whether they can (docs/SEMANTICS.md S4).
//!
//! A belief begins when its owner hears that it has the lock, and ends before it asks to be rid of it: it is within what the
//! metadata group must say. Guarantees: no two owners believe in locks that exclude each other while the clocks of both
//! say that they may act; whoever waited gets nothing before an earlier one that it gets in the way of; a test for a lock
//! sees what is held all the time. Must not know: how locks are granted.

use crate::client::desk::Desk;
use std::collections::{BTreeMap, BTreeSet};
use weft_client::core::SessionState;
use weft_types::{LockKind, LockOwner, LockRange, SessionId};

pub type OwnerOf = (SessionId, LockOwner);

struct Belief {
    desk: Desk,
    /// By byte: how, and which of all beliefs.
    bytes: BTreeMap<u64, (LockKind, u64)>,
}

struct Waiting {
    desk: Desk,
    range: LockRange,
    kind: LockKind,
    /// In the order in which waits were heard of.
    number: u64,
    /// Waits that were heard of when this one was asked for are those below.
    before: u64,
}

#[derive(Default)]
pub struct Held {
    beliefs: BTreeMap<OwnerOf, Belief>,
    waits: BTreeMap<OwnerOf, Waiting>,
    last: u64,
    /// By locked byte: the values that its block may have. What a holder did not see when it looked was overwritten, or
    /// belongs to a holder before, and never comes any more.
    possible: BTreeMap<u64, BTreeSet<u64>>,
    /// Sessions whose client is gone, and since when.
    pub dead: BTreeMap<SessionId, u64>,
}

fn clash(one: LockKind, other: LockKind) -> bool {
    !one.goes_with(other)
}

/// Somebody else's lock that was there when a test for it began.
pub type Seen = Vec<(OwnerOf, u64, u64)>;

impl Held {
    /// A new place in the order of things.
    pub fn mark(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The owner is told to wait. `before`: when it asked.
    pub fn waits(&mut self, desk: &Desk, owner: LockOwner, range: LockRange, kind: LockKind, before: u64) {
        let number = self.mark();
        self.waits.insert((desk.who.id, owner), Waiting { desk: desk.clone(), range, kind, number, before });
    }

    pub fn waits_no_more(&mut self, who: OwnerOf) {
        self.waits.remove(&who);
    }

    /// The owner hears that it has the range.
    ///
    /// # Errors
    /// What cannot be.
    pub fn granted(
        &mut self,
        desk: &Desk,
        owner: LockOwner,
        range: LockRange,
        kind: LockKind,
        evicted: &BTreeSet<SessionId>,
    ) -> Result<(), String> {
        let who = (desk.who.id, owner);
        let acts = |desk: &Desk| desk.state() == SessionState::Live && !evicted.contains(&desk.who.id);
        let waited = self.waits.remove(&who);
        if acts(desk) {
            self.exclusive(who, range, kind, acts)?;
            if let Some(waited) = waited {
                self.in_order(who, &waited, acts)?;
            }
        }
        let tenure = self.mark();
        let belief = self.beliefs.entry(who).or_insert_with(|| Belief { desk: desk.clone(), bytes: BTreeMap::new() });
        for byte in range.first..=range.last {
            belief.bytes.insert(byte, (kind, tenure));
        }
        Ok(())
    }

    fn exclusive(
        &self,
        who: OwnerOf,
        range: LockRange,
        kind: LockKind,
        acts: impl Fn(&Desk) -> bool,
    ) -> Result<(), String> {
        for (other, belief) in self.beliefs.iter().filter(|(other, belief)| **other != who && acts(&belief.desk)) {
            let mut held = belief.bytes.range(range.first..=range.last);
            if let Some((byte, (theirs, _))) = held.find(|(_, (theirs, _))| clash(*theirs, kind)) {
                return Err(format!("{who:?} has byte {byte} {kind:?}, and {other:?} has it {theirs:?}"));
            }
        }
        Ok(())
    }

    /// Nobody who asked later and was told to wait comes before (S4.8).
    fn in_order(&self, who: OwnerOf, waited: &Waiting, acts: impl Fn(&Desk) -> bool) -> Result<(), String> {
        let earlier = self.waits.iter().filter(|(other, _)| **other != who);
        for (other, wait) in earlier.filter(|(_, wait)| wait.number < waited.before) {
            if acts(&wait.desk) && wait.range.overlaps(waited.range) && clash(wait.kind, waited.kind) {
                return Err(format!("{who:?} has what it waited for, and {other:?} still waits for it from before"));
            }
        }
        Ok(())
    }

    /// The owner is about to give up the range, or to make its lock there weaker.
    pub fn weakens(&mut self, who: OwnerOf, range: LockRange, left: Option<LockKind>) {
        let tenure = self.mark();
        let Some(belief) = self.beliefs.get_mut(&who) else { return };
        match left {
            Some(kind) => {
                for (_, held) in belief.bytes.range_mut(range.first..=range.last) {
                    *held = (kind, tenure);
                }
            }
            None => belief.bytes.retain(|byte, _| *byte < range.first || *byte > range.last),
        }
    }

    /// How the owner has a byte, and the number of that belief.
    pub fn has(&self, who: OwnerOf, byte: u64) -> Option<(LockKind, u64)> {
        self.beliefs.get(&who).and_then(|belief| belief.bytes.get(&byte)).copied()
    }

    /// The session and whatever it had are over, for its own client.
    pub fn forget(&mut self, session: SessionId) {
        self.beliefs.retain(|(of, _), _| *of != session);
        self.waits.retain(|(of, _), _| *of != session);
    }

    /// What is in the way of a lock as `who` would ask for it.
    pub fn in_the_way(&self, who: OwnerOf, range: LockRange, kind: LockKind) -> Seen {
        let others = self.beliefs.iter().filter(|(other, _)| **other != who);
        let held = others.flat_map(|(other, belief)| {
            let bytes = belief.bytes.range(range.first..=range.last).filter(|(_, (theirs, _))| clash(*theirs, kind));
            bytes.map(|(byte, (_, tenure))| (*other, *byte, *tenure))
        });
        held.collect()
    }

    /// Whether something of it has been there all the time, under a session that lives.
    pub fn still_there(&self, seen: &Seen, evicted: &BTreeSet<SessionId>) -> bool {
        seen.iter().any(|(who, byte, tenure)| {
            self.beliefs.get(who).is_some_and(|belief| {
                belief.desk.state() == SessionState::Live
                    && !evicted.contains(&who.0)
                    && belief.bytes.get(byte).is_some_and(|(_, now)| now == tenure)
            })
        })
    }

    /// A holder is about to write this to the block of a byte.
    pub fn writes(&mut self, byte: u64, value: u64) {
        // Of a byte whose block nobody has seen yet, anything is possible.
        if let Some(possible) = self.possible.get_mut(&byte) {
            possible.insert(value);
        }
    }

    /// Unflushed writes may have been lost: older values may come again.
    pub fn lost(&mut self) {
        self.possible.clear();
    }

    /// A holder that had the byte locked all the time found this in its block, and has no write of its own under way.
    ///
    /// # Errors
    /// What cannot be.
    pub fn sees(&mut self, byte: u64, value: u64) -> Result<(), String> {
        let known = self.possible.insert(byte, BTreeSet::from([value]));
        match known {
            Some(known) if !known.contains(&value) => {
                Err(format!("of byte {byte} is {value}, and it could only be one of {known:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Each belief: whose, which byte, how.
    pub fn all(&self) -> impl Iterator<Item = (OwnerOf, u64, LockKind)> {
        self.beliefs.iter().flat_map(|(who, belief)| belief.bytes.iter().map(|(byte, (kind, _))| (*who, *byte, *kind)))
    }

    pub fn waiting(&self) -> impl Iterator<Item = OwnerOf> {
        self.waits.keys().copied()
    }
}
