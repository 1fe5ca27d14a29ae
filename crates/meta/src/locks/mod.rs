//! Byte-range locks across the cluster (decision 0009, docs/SEMANTICS.md S4).
//!
//! Responsible for: carrying out `LockChange`, keeping the counts and the index of waits, dropping what an inode's last
//! close or a session's end leaves, and the questions about locks.
//! Guarantees: a lock is free only when its owner gave it up, its session closed the file, or the session's fence is
//! complete (design 4.4); a freed range goes to whoever waits for it in the same command; nobody is kept from asking again
//! by a lock of a dead session: each question that finds one in the way says so (`want_session`).
//! Must not know: how a client learns that its wait is over.

mod deadlock;
mod listing;
mod table;

pub use listing::{LockWaitState, conflict, list, wait_state};
pub(crate) use table::{Held, InodeLocks, OwnerId, Wait};

use crate::keys;
use crate::mutants::{Mutant, planted};
use crate::txn::{Fault, Txn};
use crate::view::View as _;
use deadlock::Circle;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use weft_proto::namespace::{LockChange, LockHolder, LockWait, NamespaceReply};
use weft_types::limits::{MAX_LOCK_WAITS_PER_SESSION, MAX_LOCKS_PER_INODE, MAX_LOCKS_PER_SESSION};
use weft_types::{ErrorKind, InodeNumber, LockRange, RequestNumber, SessionId, VolumeId};

/// How much one session has.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub(crate) struct LockUse {
    pub held: u32,
    pub waiting: u32,
}

/// Whose locks, and where.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub volume: VolumeId,
    pub inode: InodeNumber,
}

/// A lock request of a client. `request` names the wait that it may begin.
pub(crate) fn change(
    txn: &mut Txn<'_>,
    session: SessionId,
    request: RequestNumber,
    place: Place,
    change: &LockChange,
) -> Result<NamespaceReply, Fault> {
    if txn.get(&keys::open(session, place.inode))?.is_none() {
        // Closed since: close has taken its locks away.
        return Err(ErrorKind::Stale.into());
    }
    let mut locks = load(txn, place)?;
    let before = locks.clone();
    let reply = match *change {
        LockChange::Set { owner, range, kind, process_id, wait } => {
            let who = OwnerId { session, owner };
            let lock = Held { who, range: checked(range)?, kind, process_id, since: txn.at };
            set(txn, place, &mut locks, Wait { lock, request }, wait)?
        }
        LockChange::Unlock { owner, range } => {
            if locks.held.len() + 2 * locks.waiting.len() >= MAX_LOCKS_PER_INODE && range != LockRange::WHOLE_FILE {
                // It may split one into two.
                return Err(too_many_in_inode());
            }
            locks.clear(OwnerId { session, owner }, checked(range)?);
            locks.grant();
            NamespaceReply::Done
        }
        LockChange::Release { owner } => {
            locks.drop_owners(|who| who == OwnerId { session, owner });
            locks.grant();
            NamespaceReply::Done
        }
        LockChange::Cancel { request: of } => {
            let waits = locks.waiting.len();
            locks.waiting.retain(|wait| wait.lock.who.session != session || wait.request != of);
            let granted_before = locks.waiting.len() == waits;
            // Others may have waited behind it.
            locks.grant();
            if granted_before { NamespaceReply::Locked } else { NamespaceReply::Done }
        }
    };
    store(txn, place, &before, &locks)?;
    Ok(reply)
}

fn set(
    txn: &mut Txn<'_>,
    place: Place,
    locks: &mut InodeLocks,
    wish: Wait,
    wait: LockWait,
) -> Result<NamespaceReply, Fault> {
    let usage: LockUse = txn.fetch(&keys::lock_use(wish.lock.who.session))?.unwrap_or_default();
    if usage.held >= MAX_LOCKS_PER_SESSION {
        return Err(ErrorKind::NoLocks(format!("a mount has at most {MAX_LOCKS_PER_SESSION} locks")).into());
    }
    if !locks.has_room(MAX_LOCKS_PER_INODE) {
        return Err(too_many_in_inode());
    }
    let in_the_way: Vec<Held> = locks.conflicts(&wish.lock).copied().collect();
    let Some(first) = in_the_way.first() else {
        locks.set(wish.lock);
        // A kind that became weaker may be what somebody waits for.
        locks.grant();
        return Ok(NamespaceReply::Locked);
    };
    for held in &in_the_way {
        txn.want_session(held.who.session);
    }
    if wait == LockWait::No {
        return Ok(NamespaceReply::LockConflict(Some(holder(first))));
    }
    if usage.waiting >= MAX_LOCK_WAITS_PER_SESSION {
        return Err(ErrorKind::NoLocks(format!("a mount waits for at most {MAX_LOCK_WAITS_PER_SESSION} locks")).into());
    }
    let blockers = locks.blockers(&wish.lock, wish.request);
    match deadlock::search(txn, place.volume, wish.lock.who, blockers)? {
        Circle::Yes if !planted(Mutant::NoDeadlockSearch) => return Err(ErrorKind::Deadlock.into()),
        Circle::TooLarge => {
            return Err(ErrorKind::NoLocks("too many owners wait for each other's locks".to_owned()).into());
        }
        Circle::Yes | Circle::No => {}
    }
    let request = wish.request;
    locks.waiting.push(wish);
    Ok(NamespaceReply::LockWaits { request })
}

/// The session has the inode open no more: what it still holds and waits for there goes.
pub(crate) fn drop_session(txn: &mut Txn<'_>, place: Place, session: SessionId) -> Result<(), Fault> {
    let mut locks = load(txn, place)?;
    if planted(Mutant::CloseKeepsLocks) {
        return Ok(());
    }
    let before = locks.clone();
    locks.drop_owners(|who| who.session == session);
    if locks != before {
        locks.grant();
        store(txn, place, &before, &locks)?;
    }
    Ok(())
}

fn load(txn: &Txn<'_>, place: Place) -> Result<InodeLocks, Fault> {
    Ok(txn.fetch(&keys::locks(place.volume, place.inode))?.unwrap_or_default())
}

/// Writes the inode's locks with everything that is kept beside them, and says whose waits are over.
fn store(txn: &mut Txn<'_>, place: Place, before: &InodeLocks, after: &InodeLocks) -> Result<(), Fault> {
    let key = keys::locks(place.volume, place.inode);
    if after.is_empty() {
        txn.remove(key);
    } else {
        txn.put(key, after)?;
    }
    let names = |locks: &InodeLocks| -> BTreeSet<(OwnerId, RequestNumber)> {
        locks.waiting.iter().map(|wait| (wait.lock.who, wait.request)).collect()
    };
    let (old, new) = (names(before), names(after));
    for (who, request) in old.difference(&new) {
        txn.remove(keys::lock_wait(who.session, who.owner, place.inode, *request));
        txn.settle_wait(who.session, *request);
    }
    for (who, request) in new.difference(&old) {
        txn.put(keys::lock_wait(who.session, who.owner, place.inode, *request), &())?;
    }
    count(txn, before, after)
}

fn count(txn: &mut Txn<'_>, before: &InodeLocks, after: &InodeLocks) -> Result<(), Fault> {
    let (old, new) = (counts(before), counts(after));
    let sessions: BTreeSet<SessionId> = old.keys().chain(new.keys()).copied().collect();
    for session in sessions {
        let (old, new) =
            (old.get(&session).copied().unwrap_or_default(), new.get(&session).copied().unwrap_or_default());
        if old == new {
            continue;
        }
        let key = keys::lock_use(session);
        let mut usage: LockUse = txn.fetch(&key)?.unwrap_or_default();
        usage.held = (usage.held + new.held).saturating_sub(old.held);
        usage.waiting = (usage.waiting + new.waiting).saturating_sub(old.waiting);
        if usage == LockUse::default() {
            txn.remove(key);
        } else {
            txn.put(key, &usage)?;
        }
    }
    Ok(())
}

fn counts(locks: &InodeLocks) -> BTreeMap<SessionId, LockUse> {
    let mut counts: BTreeMap<SessionId, LockUse> = BTreeMap::new();
    for held in &locks.held {
        counts.entry(held.who.session).or_default().held += 1;
    }
    for wait in &locks.waiting {
        counts.entry(wait.lock.who.session).or_default().waiting += 1;
    }
    counts
}

fn checked(range: LockRange) -> Result<LockRange, ErrorKind> {
    if range.is_valid() { Ok(range) } else { Err(ErrorKind::Invalid("not a range of bytes".to_owned())) }
}

fn too_many_in_inode() -> Fault {
    ErrorKind::NoLocks(format!("a file has at most {MAX_LOCKS_PER_INODE} locks")).into()
}

fn holder(held: &Held) -> LockHolder {
    LockHolder { session: held.who.session, process_id: held.process_id, range: held.range, kind: held.kind }
}
