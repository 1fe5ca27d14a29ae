//! What a session has to be told about an inode that it has open, and what it owes until it has acted on it.
//!
//! Guarantees: a notice stays until the session has done what it asks for, closed the inode, or was fenced, so no change
//! of the metadata leader loses it. Each change of a session's notices takes a higher number.

use super::space::Space;
use crate::keys;
use crate::mutants::{Mutant, planted};
use crate::records::NoticeRecord;
use crate::txn::{Fault, Txn};
use crate::view::View as _;
use weft_types::{InodeNumber, SessionId, TruncateGeneration, VolumeId};

fn change(
    space: &mut Space<'_, '_>,
    session: SessionId,
    inode: InodeNumber,
    change: impl FnOnce(&mut NoticeRecord),
) -> Result<(), Fault> {
    let key = keys::notice(session, inode);
    let blank = NoticeRecord { session, volume: space.volume, inode, ..NoticeRecord::default() };
    let before: Option<NoticeRecord> = space.txn.fetch(&key)?;
    let mut record = before.clone().unwrap_or(blank);
    record.number = space.txn.counter(keys::LAST_NOTICE)? + 1;
    change(&mut record);
    if record.is_empty() {
        if before.is_some() {
            space.txn.remove(key);
            space.txn.touch_work();
        }
        return Ok(());
    }
    let same = before.is_some_and(|b| NoticeRecord { number: record.number, ..b } == record);
    if !same {
        space.txn.count_up(keys::LAST_NOTICE)?;
        space.txn.put(key, &record)?;
        space.txn.touch_work();
    }
    Ok(())
}

/// Another session wants the holder's size cap.
pub(super) fn recall(space: &mut Space<'_, '_>, holder: SessionId, inode: InodeNumber) -> Result<(), Fault> {
    change(space, holder, inode, |record| record.recalled = Some(record.recalled.unwrap_or(record.number)))
}

pub(super) fn granted(space: &mut Space<'_, '_>, session: SessionId, inode: InodeNumber) -> Result<(), Fault> {
    change(space, session, inode, |record| record.granted = Some(record.number))
}

/// The cap is not this session's any more.
pub(super) fn recall_is_settled(
    space: &mut Space<'_, '_>,
    session: SessionId,
    inode: InodeNumber,
) -> Result<(), Fault> {
    change(space, session, inode, |record| (record.recalled, record.granted) = (None, None))
}

/// Whether other sessions than `by` have the inode open; each of them has to acknowledge the generation.
pub(super) fn truncated(
    space: &mut Space<'_, '_>,
    by: SessionId,
    inode: InodeNumber,
    generation: TruncateGeneration,
) -> Result<bool, Fault> {
    let mut told = false;
    for session in sessions_with(space.txn, space.volume, inode)? {
        if session != by && !planted(Mutant::TruncateUnacknowledged) {
            change(space, session, inode, |record| {
                let owed_since = record.truncated.map_or(record.number, |(_, since)| since);
                record.truncated = Some((generation, owed_since));
            })?;
            told = true;
        }
    }
    Ok(told)
}

pub(super) fn acknowledge(
    space: &mut Space<'_, '_>,
    session: SessionId,
    inode: InodeNumber,
    generation: TruncateGeneration,
) -> Result<(), Fault> {
    change(space, session, inode, |record| {
        if record.truncated.is_some_and(|(owed, _)| owed <= generation) {
            record.truncated = None;
        }
    })
}

/// Sessions that have the inode open.
fn sessions_with(txn: &Txn<'_>, volume: VolumeId, inode: InodeNumber) -> Result<Vec<SessionId>, Fault> {
    let prefix = keys::openers_of(volume, inode);
    let pairs = txn.scan(&prefix, &keys::after_prefix(&prefix), usize::MAX)?;
    Ok(pairs.iter().map(|(key, _)| SessionId(keys::last_u64(key))).collect())
}

/// The inode is closed in this session.
pub(super) fn forget(space: &mut Space<'_, '_>, session: SessionId, inode: InodeNumber) -> Result<(), Fault> {
    let key = keys::notice(session, inode);
    if space.txn.get(&key)?.is_some() {
        space.txn.remove(key);
        space.txn.touch_work();
    }
    Ok(())
}
