//! Changing attributes, truncating, committing sizes (design 7 size and truncate).
//!
//! Guarantees: a size that may cut data off raises the truncate generation and is registered as a cut until the placement
//! groups are known to have done it; to zero the object is swapped. One cut at a time: a second one is told `WouldBlock`.

use super::acl;
use super::space::{Space, file_record};
use crate::keys;
use crate::mutants::{Mutant, planted};
use crate::reclaim;
use crate::records::{InodeBody, InodeRecord, ReclaimWhat};
use crate::txn::Fault;
use weft_proto::namespace::{AttributeChange, NamespaceReply, TimeChange};
use weft_types::limits::MAX_FILE_BYTES;
use weft_types::{ErrorKind, FileKind, InodeNumber, SessionId, Timestamp, TruncateGeneration};

const SET_UID: u16 = 0o4000;
const SET_GID: u16 = 0o2000;
const GROUP_EXECUTE: u16 = 0o010;

const fn moment(change: TimeChange, now: Timestamp) -> Timestamp {
    match change {
        TimeChange::Now => now,
        TimeChange::To(time) => time,
    }
}

pub(super) fn set(
    space: &mut Space<'_, '_>,
    session: SessionId,
    number: InodeNumber,
    change: &AttributeChange,
) -> Result<NamespaceReply, Fault> {
    let mut inode = space.load(number)?;
    let now = space.now();
    let cut = match change.size_bytes {
        Some(size_bytes) => resize(space, session, (number, &mut inode), size_bytes)?,
        None => None,
    };
    if change.uid.is_some() || change.gid.is_some() {
        inode.uid = change.uid.unwrap_or(inode.uid);
        inode.gid = change.gid.unwrap_or(inode.gid);
        if change.mode.is_none() && inode.kind != FileKind::Directory {
            // As Linux: a change of owner takes the set-id bits of a file away.
            inode.mode &= !SET_UID;
            if inode.mode & GROUP_EXECUTE != 0 {
                inode.mode &= !SET_GID;
            }
        }
    }
    if let Some(mode) = change.mode {
        inode.mode = mode & 0o7777;
        acl::follow_mode(space, number, &inode)?;
    }
    if let Some(accessed) = change.accessed {
        inode.accessed = moment(accessed, now);
    }
    if let Some(modified) = change.modified {
        inode.modified = moment(modified, now);
    }
    inode.changed = now;
    space.store(number, &inode)?;
    Ok(NamespaceReply::Changed { record: file_record(number, &inode), cut })
}

/// Sets the size; the size to cut the object to, when data may lie past it.
fn resize(
    space: &mut Space<'_, '_>,
    session: SessionId,
    (number, inode): (InodeNumber, &mut InodeRecord),
    size_bytes: u64,
) -> Result<Option<u64>, Fault> {
    if inode.kind == FileKind::Directory {
        return Err(ErrorKind::IsDirectory.into());
    }
    let InodeBody::File { cut, size_unknown, written } = inode.body.clone() else {
        return Err(ErrorKind::Invalid("only a regular file has a size to set".to_owned()).into());
    };
    if size_bytes > MAX_FILE_BYTES {
        return Err(ErrorKind::FileTooLarge.into());
    }
    if inode.size_cap.is_some_and(|holder| holder != session) {
        space.txn.want_session(inode.size_cap.unwrap_or_default());
    }
    inode.modified = space.now();
    if size_bytes == 0 {
        swap_object(space, number, inode)?;
        return Ok(None);
    }
    // Another holder of the size cap may have written past the committed size; so may one that was fenced. (The caller
    // itself commits its size before it sets one.)
    let beyond = size_unknown || inode.size_cap.is_some_and(|holder| holder != session);
    let cuts = written && (size_bytes < inode.size_bytes || beyond);
    inode.size_bytes = size_bytes;
    if !cuts {
        return Ok(None);
    }
    if cut.is_some() {
        // Two cuts under way could be carried out in the wrong order (attack grow-shrink-grow).
        return Err(ErrorKind::WouldBlock.into());
    }
    inode.generation = inode.generation.next();
    // The size is known again; a collected one of the old generation would be refused.
    inode.body = InodeBody::File { cut: Some(size_bytes), size_unknown: false, written };
    space.txn.remove(keys::size_recovery(space.volume, number));
    let what = ReclaimWhat::Cut { inode: number, size_bytes, generation: inode.generation };
    reclaim::queue(space.txn, space.volume, inode.object, what)?;
    Ok(Some(size_bytes))
}

/// To zero: a new object, and the old one is deleted in the background. The generation goes on counting, so that a size
/// committed late for the old object is recognised.
fn swap_object(space: &mut Space<'_, '_>, number: InodeNumber, inode: &mut InodeRecord) -> Result<(), Fault> {
    let InodeBody::File { written, .. } = inode.body else { return Ok(()) };
    inode.size_bytes = 0;
    if !written {
        return Ok(());
    }
    reclaim::queue_object(space.txn, space.volume, inode.object)?;
    inode.object = space.new_object()?;
    inode.generation = inode.generation.next();
    // Whoever has it open for writing may write to the new object.
    let written = inode.open_sessions > 0;
    inode.body = InodeBody::File { cut: None, size_unknown: false, written };
    space.txn.remove(keys::size_recovery(space.volume, number));
    Ok(())
}

/// `O_TRUNC`.
pub(super) fn empty(space: &mut Space<'_, '_>, session: SessionId, number: InodeNumber) -> Result<(), Fault> {
    let mut inode = space.load(number)?;
    if inode.kind != FileKind::Regular {
        return Ok(());
    }
    resize(space, session, (number, &mut inode), 0)?;
    inode.changed = space.now();
    space.store(number, &inode)
}

#[derive(Clone, Copy)]
pub(super) struct KnownSize {
    pub generation: TruncateGeneration,
    pub size_bytes: u64,
    pub modified: TimeChange,
}

/// fsync and close: what the holder of the size cap knows becomes what everybody knows.
pub(super) fn commit_size(
    space: &mut Space<'_, '_>,
    session: SessionId,
    number: InodeNumber,
    known: KnownSize,
) -> Result<NamespaceReply, Fault> {
    let mut inode = space.load(number)?;
    if inode.kind != FileKind::Regular {
        return Err(ErrorKind::Invalid("only a regular file has a size to commit".to_owned()).into());
    }
    if known.size_bytes > MAX_FILE_BYTES {
        return Err(ErrorKind::FileTooLarge.into());
    }
    // A size of an older generation was cut by somebody since: it says nothing (attack size-of-old-generation).
    let current = known.generation == inode.generation || planted(Mutant::SizeOfOldGeneration);
    if current && known.size_bytes > inode.size_bytes {
        if inode.size_cap != Some(session) {
            return Err(
                ErrorKind::Refused("another session may grow the file: the size cap is not held".to_owned()).into()
            );
        }
        inode.size_bytes = known.size_bytes;
    }
    inode.modified = moment(known.modified, space.now());
    inode.changed = space.now();
    space.store(number, &inode)?;
    Ok(NamespaceReply::Record(file_record(number, &inode)))
}
