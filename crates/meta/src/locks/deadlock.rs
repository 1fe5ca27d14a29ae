//! Whether a wait would close a circle of owners who wait for each other (EDEADLK).
//!
//! Guarantees: looks at `MAX_DEADLOCK_SEARCH_OWNERS` owners at most; changes nothing. An owner that does only one thing at
//! a time cannot come to wait for anybody but when its wait begins, so looking then is enough.

use super::table::{InodeLocks, OwnerId};
use crate::keys;
use crate::txn::Txn;
use crate::view::{StateError, View as _};
use std::collections::BTreeSet;
use weft_types::limits::{MAX_DEADLOCK_SEARCH_OWNERS, MAX_LOCK_WAITS_PER_SESSION};
use weft_types::{InodeNumber, RequestNumber, VolumeId};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Circle {
    No,
    Yes,
    /// Too many owners wait for each other to tell.
    TooLarge,
}

/// Whether `who`, when it waits for `blockers`, waits for itself.
pub(super) fn search(
    txn: &Txn<'_>,
    volume: VolumeId,
    who: OwnerId,
    blockers: Vec<OwnerId>,
) -> Result<Circle, StateError> {
    let mut seen = BTreeSet::new();
    let mut open = blockers;
    while let Some(owner) = open.pop() {
        if owner == who {
            return Ok(Circle::Yes);
        }
        if !seen.insert(owner) {
            continue;
        }
        if seen.len() > MAX_DEADLOCK_SEARCH_OWNERS {
            return Ok(Circle::TooLarge);
        }
        for (inode, request) in waits_of(txn, owner)? {
            let locks: InodeLocks = txn.fetch(&keys::locks(volume, inode))?.unwrap_or_default();
            let named = |wait: &&super::table::Wait| wait.lock.who == owner && wait.request == request;
            if let Some(wait) = locks.waiting.iter().find(named) {
                open.extend(locks.blockers(&wait.lock, wait.request));
            }
        }
    }
    Ok(Circle::No)
}

fn waits_of(txn: &Txn<'_>, owner: OwnerId) -> Result<Vec<(InodeNumber, RequestNumber)>, StateError> {
    let prefix = keys::lock_waits_of_owner(owner.session, owner.owner);
    let pairs = txn.scan(&prefix, &keys::after_prefix(&prefix), MAX_LOCK_WAITS_PER_SESSION as usize)?;
    let place = |key: &[u8]| {
        let number = |bytes: &[u8]| bytes.iter().fold(0u64, |value, byte| (value << 8) | u64::from(*byte));
        let (inode, request) = key[prefix.len()..].split_at_checked(8)?;
        Some((InodeNumber(number(inode)), RequestNumber(number(request))))
    };
    Ok(pairs.iter().filter_map(|(key, _)| place(key)).collect())
}
