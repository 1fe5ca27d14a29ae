//! Byte-range locks: each sentence of SEMANTICS S4 that the metadata group keeps, as a scenario that a planted bug fails.

use super::world::World;
use super::{Outcome, must};
use crate::command::Command;
use crate::locks::{LockWaitState, list, wait_state};
use crate::mutants::{Mutant, plant};
use weft_proto::admin::LockState;
use weft_proto::namespace::{LockChange, LockHolder, LockWait, Mutation, NamespaceReply, NewInode, Query};
use weft_types::limits::{MAX_LOCK_WAITS_PER_SESSION, MAX_LOCKS_PER_INODE};
use weft_types::{ErrorKind, InodeNumber, LockKind, LockOwner, LockRange, RequestNumber, SessionId, VolumeId};

pub(super) const SHARED: LockKind = LockKind::Shared;
pub(super) const EXCLUSIVE: LockKind = LockKind::Exclusive;
const ROOT: InodeNumber = InodeNumber::ROOT;

/// A world with one file that two sessions have open.
pub(super) struct Two {
    pub w: World,
    pub file: InodeNumber,
    pub s: SessionId,
    pub t: SessionId,
}

pub(super) fn range(first: u64, last: u64) -> LockRange {
    LockRange::new(first, last).expect("a range")
}

impl Two {
    pub fn new() -> Self {
        let mut w = World::with_group(3, 3);
        let (s, t) = (w.session(), w.session());
        let file = w.make(s, ROOT, "f", NewInode::Regular).expect("a file");
        w.open(s, file, true).expect("opened");
        w.open(t, file, true).expect("opened");
        Self { w, file, s, t }
    }

    fn change(&mut self, session: SessionId, change: LockChange) -> Result<NamespaceReply, ErrorKind> {
        self.w.mutate(session, Mutation::Lock { inode: self.file, change })
    }

    pub fn lock(&mut self, session: SessionId, owner: u64, range: LockRange, kind: LockKind) -> bool {
        self.try_lock(session, owner, range, kind) == Ok(NamespaceReply::Locked)
    }

    fn try_lock(
        &mut self,
        session: SessionId,
        owner: u64,
        range: LockRange,
        kind: LockKind,
    ) -> Result<NamespaceReply, ErrorKind> {
        let owner = LockOwner(owner);
        self.change(session, LockChange::Set { owner, range, kind, process_id: 1, wait: LockWait::No })
    }

    /// The name of the wait, if it did not get the lock at once.
    pub fn wait(
        &mut self,
        session: SessionId,
        owner: u64,
        range: LockRange,
        kind: LockKind,
    ) -> Result<Option<RequestNumber>, ErrorKind> {
        let owner = LockOwner(owner);
        match self.change(session, LockChange::Set { owner, range, kind, process_id: 1, wait: LockWait::Yes })? {
            NamespaceReply::Locked => Ok(None),
            NamespaceReply::LockWaits { request } => Ok(Some(request)),
            other => panic!("not an answer to a lock: {other:?}"),
        }
    }

    pub fn unlock(&mut self, session: SessionId, owner: u64, range: LockRange) {
        let owner = LockOwner(owner);
        self.change(session, LockChange::Unlock { owner, range }).expect("unlocked");
    }

    fn test(&self, session: SessionId, owner: u64, range: LockRange, kind: LockKind) -> Option<LockHolder> {
        let owner = LockOwner(owner);
        match self.w.query(Query::LockConflict { inode: self.file, session, owner, range, kind }) {
            Ok(NamespaceReply::LockConflict(holder)) => holder,
            other => panic!("not an answer to a test: {other:?}"),
        }
    }

    fn is_over(&self, session: SessionId, request: RequestNumber) -> bool {
        wait_state(&self.w.view, session, self.file, request).expect("readable") == LockWaitState::Over
    }

    fn held(&self) -> usize {
        let locks = list(&self.w.view, Some(VolumeId(1))).expect("readable");
        locks.iter().filter(|lock| lock.state == LockState::Held).count()
    }
}

pub(super) fn exclusion() -> Outcome {
    let mut two = Two::new();
    let (s, t) = (two.s, two.t);
    must!(two.lock(s, 1, range(0, 9), SHARED), "a free range cannot be locked");
    must!(two.lock(t, 2, range(5, 20), SHARED), "shared locks get in each other's way");
    must!(!two.lock(t, 2, range(0, 0), EXCLUSIVE), "an exclusive lock over another's shared one");
    must!(two.lock(t, 2, range(21, 30), EXCLUSIVE), "a free range cannot be locked");
    must!(!two.lock(s, 1, range(30, 40), SHARED), "a shared lock over another's exclusive one");
    two.w.verdict()
}

pub(super) fn owners_of_two_sessions() -> Outcome {
    let mut two = Two::new();
    let (s, t) = (two.s, two.t);
    must!(two.lock(s, 7, range(0, 9), EXCLUSIVE), "a free range cannot be locked");
    must!(!two.lock(t, 7, range(0, 9), EXCLUSIVE), "equal owner numbers of two sessions are one owner");
    two.w.verdict()
}

pub(super) fn test_sees_other_hosts() -> Outcome {
    let mut two = Two::new();
    let (s, t) = (two.s, two.t);
    two.lock(s, 1, range(100, 103), SHARED);
    let found = two.test(t, 2, range(0, 200), EXCLUSIVE).map(|holder| (holder.session, holder.range, holder.kind));
    must!(found == Some((s, range(100, 103), SHARED)), "another host's lock is not seen: {found:?}");
    must!(two.test(t, 2, range(0, 200), SHARED).is_none(), "a lock that is not in the way");
    must!(two.test(s, 1, range(0, 200), EXCLUSIVE).is_none(), "an owner's own lock is in its way");
    two.w.verdict()
}

pub(super) fn waiter_gets_what_is_freed() -> Outcome {
    let mut two = Two::new();
    let (s, t) = (two.s, two.t);
    two.lock(s, 1, range(0, 9), EXCLUSIVE);
    let wait = two.wait(t, 2, range(5, 6), EXCLUSIVE).map_err(|e| e.to_string())?;
    let Some(wait) = wait else { return Err("granted over another's lock".to_owned()) };
    two.unlock(s, 1, range(0, 4));
    must!(!two.is_over(t, wait), "granted while its bytes are locked");
    // Not all: only what is waited for.
    two.unlock(s, 1, range(5, 8));
    must!(two.is_over(t, wait), "nobody got what was freed");
    must!(!two.lock(s, 1, range(5, 5), SHARED), "it is over, and not held");
    must!(two.lock(s, 1, range(7, 7), SHARED), "more was granted than was asked for");
    two.w.verdict()
}

fn weaker_kind_lets_readers_in() -> Outcome {
    let mut two = Two::new();
    let (s, t) = (two.s, two.t);
    two.lock(s, 1, range(0, 9), EXCLUSIVE);
    let wait = two.wait(t, 2, range(0, 9), SHARED).map_err(|e| e.to_string())?.unwrap_or_default();
    must!(two.lock(s, 1, range(0, 9), SHARED), "a lock cannot become weaker");
    must!(two.is_over(t, wait), "a reader still waits for a reader");
    two.w.verdict()
}

pub(super) fn first_come_first_served() -> Outcome {
    let mut two = Two::new();
    let (s, t) = (two.s, two.t);
    two.lock(s, 1, range(0, 9), SHARED);
    two.lock(t, 9, range(0, 9), SHARED);
    let writer = two.wait(t, 2, range(0, 9), EXCLUSIVE).map_err(|e| e.to_string())?.unwrap_or_default();
    two.unlock(t, 9, range(0, 9));
    two.lock(s, 3, range(20, 20), EXCLUSIVE);
    // Waits for owner 3, and came after the writer, with which it shares bytes.
    let reader = two.wait(t, 4, range(5, 20), SHARED).map_err(|e| e.to_string())?.unwrap_or_default();
    two.unlock(s, 3, range(20, 20));
    must!(!two.is_over(t, reader), "a later wait overtook the writer");
    two.unlock(s, 1, range(0, 9));
    must!(two.is_over(t, writer), "the first in the queue does not get the lock");
    must!(!two.is_over(t, reader), "reader and writer hold the same bytes");
    two.unlock(t, 2, range(0, 9));
    must!(two.is_over(t, reader), "the second in the queue does not get the lock");
    two.w.verdict()
}

pub(super) fn deadlock() -> Outcome {
    let mut two = Two::new();
    let (s, t) = (two.s, two.t);
    two.lock(s, 1, range(0, 0), EXCLUSIVE);
    two.lock(t, 1, range(1, 1), EXCLUSIVE);
    two.lock(s, 2, range(2, 2), EXCLUSIVE);
    let waits = |reply: Result<Option<RequestNumber>, ErrorKind>| matches!(reply, Ok(Some(_)));
    must!(waits(two.wait(s, 1, range(1, 1), EXCLUSIVE)), "does not wait");
    must!(waits(two.wait(t, 1, range(2, 2), EXCLUSIVE)), "does not wait: a chain is no circle");
    let closing = two.wait(s, 2, range(0, 0), SHARED);
    must!(closing == Err(ErrorKind::Deadlock), "three owners wait for each other: {closing:?}");
    // The refused one can give way.
    two.unlock(s, 2, range(2, 2));
    must!(!two.lock(s, 2, range(2, 2), SHARED), "what was freed was not granted");
    two.w.verdict()
}

fn upgrade_of_two_readers() -> Outcome {
    let mut two = Two::new();
    let (s, t) = (two.s, two.t);
    two.lock(s, 1, range(0, 9), SHARED);
    two.lock(t, 1, range(0, 9), SHARED);
    let first = two.wait(s, 1, range(0, 9), EXCLUSIVE).map_err(|e| e.to_string())?.unwrap_or_default();
    let second = two.wait(t, 1, range(0, 9), EXCLUSIVE);
    must!(second == Err(ErrorKind::Deadlock), "two readers wait for each other to become writers: {second:?}");
    must!(two.held() == 2, "a refused upgrade lost a shared lock");
    two.unlock(t, 1, range(0, 9));
    must!(two.is_over(s, first) && two.held() == 1, "the upgrade was not granted");
    must!(!two.lock(t, 1, range(4, 4), SHARED), "it was granted as shared");
    two.w.verdict()
}

pub(super) fn close_frees() -> Outcome {
    let mut two = Two::new();
    let (s, t) = (two.s, two.t);
    two.lock(s, 1, range(0, 9), EXCLUSIVE);
    let wait = two.wait(t, 2, range(0, 9), EXCLUSIVE).map_err(|e| e.to_string())?.unwrap_or_default();
    let file = two.file;
    must!(two.w.mutate(s, Mutation::Close { inode: file }).is_ok(), "cannot close");
    must!(two.is_over(t, wait), "a closed file keeps its locks");
    let late = two.try_lock(s, 1, range(20, 29), EXCLUSIVE);
    must!(late == Err(ErrorKind::Stale), "a session locks what it has not open: {late:?}");
    two.w.verdict()
}

/// Design 4.4: its locks are free only when every live node refuses its writes.
pub(super) fn lock_of_a_struck_session() -> Outcome {
    let mut two = Two::new();
    let (s, t) = (two.s, two.t);
    two.lock(s, 1, range(0, 9), EXCLUSIVE);
    two.w.wanted.clear();
    let wait = two.wait(t, 2, range(0, 9), EXCLUSIVE).map_err(|e| e.to_string())?.unwrap_or_default();
    must!(two.w.wanted.contains(&s), "nobody asks after the session that is in the way");
    let state = wait_state(&two.w.view, t, two.file, wait).map_err(|e| e.to_string())?;
    must!(state == LockWaitState::Waiting { blockers: [s].into() }, "who waits does not learn for whom: {state:?}");
    two.w.run(Command::StrikeSession { session: s });
    must!(!two.is_over(t, wait), "the lock is free before every node has acknowledged the fence");
    let since = two.w.map().version;
    two.w.run(Command::FenceComplete { session: s, since });
    must!(two.is_over(t, wait), "the lock is not free when the fence is complete");
    let dead = wait_state(&two.w.view, s, two.file, wait).map_err(|e| e.to_string())?;
    must!(dead == LockWaitState::Fenced, "a fenced session is not told: {dead:?}");
    two.w.verdict()
}

/// Design 3: a retried lock is not taken anew after it was given up.
pub(super) fn retried_lock() -> Outcome {
    let mut two = Two::new();
    let (s, t, inode) = (two.s, two.t, two.file);
    let set =
        LockChange::Set { owner: LockOwner(1), range: range(0, 9), kind: EXCLUSIVE, process_id: 1, wait: LockWait::No };
    let number = RequestNumber(100);
    let first = two.w.mutate_as(s, number, number, Mutation::Lock { inode, change: set });
    must!(first == Ok(NamespaceReply::Locked), "cannot lock: {first:?}");
    let unlock = LockChange::Unlock { owner: LockOwner(1), range: LockRange::WHOLE_FILE };
    must!(two.w.mutate_as(s, number.next(), number, Mutation::Lock { inode, change: unlock }).is_ok(), "cannot unlock");
    let retried = two.w.mutate_as(s, number, number, Mutation::Lock { inode, change: set });
    must!(retried == first, "a retry gets another answer: {retried:?}");
    must!(two.lock(t, 2, range(0, 9), EXCLUSIVE), "a retried lock was taken a second time");
    two.w.verdict()
}

fn wait_that_is_given_up() -> Outcome {
    let mut two = Two::new();
    let (s, t) = (two.s, two.t);
    two.lock(s, 1, range(0, 9), SHARED);
    let writer = two.wait(t, 2, range(0, 9), EXCLUSIVE).map_err(|e| e.to_string())?.unwrap_or_default();
    two.lock(s, 3, range(20, 20), EXCLUSIVE);
    let reader = two.wait(t, 4, range(0, 20), SHARED).map_err(|e| e.to_string())?.unwrap_or_default();
    two.unlock(s, 3, range(20, 20));
    must!(!two.is_over(t, reader), "overtook");
    let gone = two.change(t, LockChange::Cancel { request: writer });
    must!(gone == Ok(NamespaceReply::Done), "a wait cannot be given up: {gone:?}");
    must!(two.is_over(t, reader), "who waited behind it still does");
    let late = two.change(t, LockChange::Cancel { request: reader });
    must!(late == Ok(NamespaceReply::Locked), "a granted wait was given up: {late:?}");
    let foreign = two.wait(t, 2, range(0, 9), EXCLUSIVE).map_err(|e| e.to_string())?.unwrap_or_default();
    must!(two.change(s, LockChange::Cancel { request: foreign }) == Ok(NamespaceReply::Locked), "not its own");
    must!(!two.is_over(t, foreign), "a session gave up another's wait");
    two.w.verdict()
}

fn owner_that_is_gone() -> Outcome {
    let mut two = Two::new();
    let (s, t) = (two.s, two.t);
    two.lock(s, 1, range(0, 9), EXCLUSIVE);
    two.lock(t, 2, range(50, 59), EXCLUSIVE);
    let wait = two.wait(t, 2, range(0, 9), EXCLUSIVE).map_err(|e| e.to_string())?.unwrap_or_default();
    must!(two.change(t, LockChange::Release { owner: LockOwner(2) }).is_ok(), "cannot release");
    must!(two.is_over(t, wait) && two.held() == 1, "locks or waits of a gone owner are left");
    two.unlock(s, 1, range(0, 9));
    must!(two.held() == 0, "a gone owner was given a lock");
    two.w.verdict()
}

fn limits_are_refused_with_no_locks() -> Outcome {
    let mut two = Two::new();
    let (s, t) = (two.s, two.t);
    let mut at = 0;
    let refused = loop {
        match two.try_lock(s, 1, range(at, at), EXCLUSIVE) {
            Ok(NamespaceReply::Locked) => at += 2,
            other => break other,
        }
        must!(at < 4 * MAX_LOCKS_PER_INODE as u64, "no end to the locks of a file");
    };
    must!(matches!(refused, Err(ErrorKind::NoLocks(_))), "refused otherwise: {refused:?}");
    let whole = LockRange::WHOLE_FILE;
    two.unlock(s, 1, whole);
    must!(two.lock(t, 1, whole, EXCLUSIVE), "a full table stays full");
    for owner in 0..u64::from(MAX_LOCK_WAITS_PER_SESSION) {
        must!(two.wait(s, 100 + owner, range(0, 0), SHARED).is_ok_and(|w| w.is_some()), "wait {owner} is refused");
    }
    let refused = two.wait(s, 99, range(0, 0), SHARED);
    must!(matches!(refused, Err(ErrorKind::NoLocks(_))), "no end to the waits of a session: {refused:?}");
    two.unlock(t, 1, whole);
    must!(two.held() == MAX_LOCK_WAITS_PER_SESSION as usize, "not all who waited got it: {}", two.held());
    must!(two.wait(s, 99, range(0, 0), SHARED) == Ok(None), "ended waits still count");
    two.w.verdict()
}

fn ranges_that_are_none() -> Outcome {
    let mut two = Two::new();
    let s = two.s;
    for (first, last) in [(9, 3), (0, u64::MAX), (u64::MAX, 0)] {
        let range = LockRange { first, last };
        let refused = two.try_lock(s, 1, range, EXCLUSIVE);
        must!(matches!(refused, Err(ErrorKind::Invalid(_))), "{first}-{last}: {refused:?}");
        let change = LockChange::Unlock { owner: LockOwner(1), range };
        must!(two.change(s, change).is_err(), "{first}-{last} unlocked");
    }
    two.w.verdict()
}

/// Nothing about locks is left behind when everything is closed.
fn nothing_is_left() -> Outcome {
    let mut two = Two::new();
    let (s, t, file) = (two.s, two.t, two.file);
    two.lock(s, 1, range(0, 9), EXCLUSIVE);
    for owner in 2..5 {
        let _ = two.wait(t, owner, range(0, 9), SHARED);
    }
    two.w.run(Command::CloseSession { session: t });
    must!(two.w.mutate(s, Mutation::Close { inode: file }).is_ok(), "cannot close");
    let left: Vec<_> = two.w.view.pairs().filter(|(key, _)| b"bha".contains(&key[0])).collect();
    must!(left.is_empty(), "left behind: {left:?}");
    two.w.verdict()
}

#[test]
fn s4_1_locks_of_two_owners_on_one_byte_are_all_shared() {
    exclusion().unwrap();
}
#[test]
fn s4_2_an_owner_is_one_of_its_session() {
    owners_of_two_sessions().unwrap();
}
#[test]
fn s4_5_a_test_for_a_lock_sees_other_hosts() {
    test_sees_other_hosts().unwrap();
}
#[test]
fn s4_7_who_waits_gets_what_is_freed() {
    waiter_gets_what_is_freed().unwrap();
    weaker_kind_lets_readers_in().unwrap();
    wait_that_is_given_up().unwrap();
}
#[test]
fn s4_8_waits_do_not_overtake_each_other() {
    first_come_first_served().unwrap();
}
#[test]
fn s4_9_owners_that_would_wait_for_each_other_are_told_so() {
    deadlock().unwrap();
    upgrade_of_two_readers().unwrap();
}
#[test]
fn s4_11_what_is_closed_or_gone_holds_nothing() {
    close_frees().unwrap();
    owner_that_is_gone().unwrap();
    nothing_is_left().unwrap();
}
#[test]
fn s4_14_a_dead_sessions_locks_are_free_when_its_fence_is_complete() {
    lock_of_a_struck_session().unwrap();
}
#[test]
fn s4_15_a_retried_lock_is_taken_once() {
    retried_lock().unwrap();
}
#[test]
fn s4_16_more_locks_than_the_limits_are_refused() {
    limits_are_refused_with_no_locks().unwrap();
    ranges_that_are_none().unwrap();
}

#[test]
fn planted_bugs_of_other_rules_are_noticed_by_locks_too() {
    let scenarios: [(Mutant, fn() -> Outcome); 2] =
        [(Mutant::NoDedupe, retried_lock), (Mutant::FenceWithoutAcknowledgement, lock_of_a_struck_session)];
    for (mutant, scenario) in scenarios {
        plant(Some(mutant));
        let outcome = scenario();
        plant(None);
        assert!(outcome.is_err(), "{mutant:?} goes unnoticed");
    }
}
