//! Deletions in progress, and sizes to be collected after a fence.
//!
//! Responsible for: the two queues that the leader works off. An item goes in with the command that makes it necessary
//! and goes out when every placement group has done its part.

use crate::command::CommandReply;
use crate::keys;
use crate::mutants::{Mutant, planted};
use crate::namespace::{self, Space};
use crate::records::{InodeBody, InodeRecord, ReclaimItem, ReclaimWhat, SizeRecovery};
use crate::txn::{Fault, Txn};
use weft_types::{InodeNumber, ObjectId, TruncateGeneration, VolumeId};

/// Queues an object for deletion; a cut of it that is under way needs no end of its own.
pub(crate) fn queue_object(txn: &mut Txn<'_>, volume: VolumeId, object: ObjectId) -> Result<(), Fault> {
    queue(txn, volume, object, ReclaimWhat::Object)
}

pub(crate) fn queue(txn: &mut Txn<'_>, volume: VolumeId, object: ObjectId, what: ReclaimWhat) -> Result<(), Fault> {
    let item = ReclaimItem { volume, object, what, since: txn.at };
    txn.put(keys::reclaim(volume, object), &item)?;
    txn.touch_work();
    Ok(())
}

pub(crate) fn done(
    txn: &mut Txn<'_>,
    volume: VolumeId,
    object: ObjectId,
    generation: TruncateGeneration,
) -> Result<CommandReply, Fault> {
    let key = keys::reclaim(volume, object);
    let Some(item) = txn.fetch::<ReclaimItem>(&key)? else { return Ok(CommandReply::Done) };
    match item.what {
        ReclaimWhat::Object | ReclaimWhat::Replaced { .. } if generation == TruncateGeneration(0) => {
            txn.remove(key);
            txn.touch_work();
        }
        ReclaimWhat::Cut { inode, .. } if generation == item.generation() => {
            finish_cut(txn, volume, inode, generation)?;
        }
        // A late word about a cut after which the whole object went.
        ReclaimWhat::Object | ReclaimWhat::Replaced { .. } | ReclaimWhat::Cut { .. } => {}
    }
    Ok(CommandReply::Done)
}

/// The placement groups hold nothing past the cut of this generation any more.
pub(crate) fn finish_cut(
    txn: &mut Txn<'_>,
    volume: VolumeId,
    number: InodeNumber,
    generation: TruncateGeneration,
) -> Result<(), Fault> {
    let key = keys::inode(volume, number);
    let Some(mut inode) = txn.fetch::<InodeRecord>(&key)? else { return Ok(()) };
    let InodeBody::File { cut, .. } = &mut inode.body else { return Ok(()) };
    if cut.is_some() && inode.generation == generation {
        *cut = None;
        txn.put(key, &inode)?;
        txn.remove(keys::reclaim(volume, inode.object));
        txn.touch_work();
    }
    Ok(())
}

/// What the placement groups know of a file whose size-cap holder was fenced (design 7 size). Only now is the cap free.
pub(crate) fn size_recovered(
    txn: &mut Txn<'_>,
    volume: VolumeId,
    number: InodeNumber,
    generation: TruncateGeneration,
    end_bytes: u64,
) -> Result<CommandReply, Fault> {
    let key = keys::size_recovery(volume, number);
    let Some(recovery) = txn.fetch::<SizeRecovery>(&key)? else { return Ok(CommandReply::Done) };
    // An end from before a truncation says nothing about the file since (attack size-of-old-generation).
    if recovery.generation != generation && !planted(Mutant::SizeOfOldGeneration) {
        return Ok(CommandReply::Done);
    }
    txn.remove(key);
    txn.touch_work();
    let mut space = Space::new(txn, volume);
    let Some(mut inode) = space.find(number)? else { return Ok(CommandReply::Done) };
    if let InodeBody::File { size_unknown, .. } = &mut inode.body {
        *size_unknown = false;
    }
    // The holder was allowed no more than this; what lies past it was never acknowledged.
    let limit = if planted(Mutant::CollectPastRoom) { u64::MAX } else { recovery.max_bytes };
    inode.size_bytes = inode.size_bytes.max(end_bytes.min(limit));
    inode.max_size_bytes = inode.size_bytes;
    namespace::pass_on(&mut space, (number, &mut inode))?;
    space.store(number, &inode)?;
    Ok(CommandReply::Done)
}
