//! Changing attributes, truncating, committing sizes (design 7 size and truncate).
//!
//! Guarantees: a size that may cut data off raises the truncate generation and is registered as a cut until the placement
//! groups are known to have done it; to zero the object is swapped. One cut at a time: a second one is told `WouldBlock`, to zero too.

use super::space::{Space, file_record};
use super::{acl, caps, notices};
use crate::keys;
use crate::mutants::{Mutant, planted};
use crate::reclaim;
use crate::records::{InodeBody, InodeRecord, ReclaimWhat};
use crate::txn::Fault;
use weft_proto::namespace::{AttributeChange, NamespaceReply, OtherSessions, Room, TimeChange};
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
    let Resized { cut, others } = match change.size_bytes {
        Some(size_bytes) => resize(space, session, (number, &mut inode), size_bytes)?,
        None => Resized::NOTHING,
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
    Ok(NamespaceReply::Changed { record: file_record(number, &inode), cut, others })
}

struct Resized {
    /// Data may lie past this: the object has to be cut there.
    cut: Option<u64>,
    others: OtherSessions,
}

impl Resized {
    const NOTHING: Self = Self { cut: None, others: OtherSessions::NothingToSay };
}

/// Everybody else who has the file open learns of a new life of its contents.
fn tell_others(
    space: &mut Space<'_, '_>,
    session: SessionId,
    number: InodeNumber,
    generation: TruncateGeneration,
) -> Result<OtherSessions, Fault> {
    let told = notices::truncated(space, session, number, generation)?;
    Ok(if told { OtherSessions::Told } else { OtherSessions::NothingToSay })
}

/// Sets the size.
fn resize(
    space: &mut Space<'_, '_>,
    session: SessionId,
    (number, inode): (InodeNumber, &mut InodeRecord),
    size_bytes: u64,
) -> Result<Resized, Fault> {
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
        if cut.is_some() && !planted(Mutant::SwapDuringCut) {
            // The deletion of the old object would take the place of the cut, and it waits for sessions that write there.
            // One of them may wait for this very cut: neither would end, and it would be struck.
            return Err(ErrorKind::WouldBlock.into());
        }
        return Ok(Resized { cut: None, others: swap_object(space, session, (number, inode))? });
    }
    // Another holder of the size cap may have written past the committed size; so may one that was fenced. And a holder
    // believes to know the size: it has to hear of this one. (The caller itself commits its size before it sets one.)
    let beyond = size_unknown || inode.size_cap.is_some_and(|holder| holder != session);
    let ends_life = size_bytes < inode.size_bytes || beyond;
    let cuts = written && ends_life;
    inode.max_size_bytes = inode.max_size_bytes.max(size_bytes);
    if inode.size_cap.is_none() {
        inode.max_size_bytes = size_bytes;
    }
    if !cuts {
        inode.size_bytes = size_bytes;
        if !ends_life {
            return Ok(Resized::NOTHING);
        }
        // No data, but sessions that have it open believe in the larger size.
        inode.generation = inode.generation.next();
        let others = tell_others(space, session, number, inode.generation)?;
        return Ok(Resized { cut: None, others });
    }
    if cut.is_some() {
        // Two cuts under way could be carried out in the wrong order (attack grow-shrink-grow).
        return Err(ErrorKind::WouldBlock.into());
    }
    inode.size_bytes = size_bytes;
    inode.generation = inode.generation.next();
    // The size is known again; a collected one of the old generation would be refused.
    inode.body = InodeBody::File { cut: Some(size_bytes), size_unknown: false, written };
    space.txn.remove(keys::size_recovery(space.volume, number));
    let what = ReclaimWhat::Cut { inode: number, size_bytes, generation: inode.generation };
    reclaim::queue(space.txn, space.volume, inode.object, what)?;
    let others = tell_others(space, session, number, inode.generation)?;
    if size_unknown {
        caps::pass_on(space, (number, inode))?;
    }
    Ok(Resized { cut: Some(size_bytes), others })
}

/// To zero: a new object, and the old one is deleted in the background. The generation goes on counting, so that a size
/// committed late for the old object is recognised.
fn swap_object(
    space: &mut Space<'_, '_>,
    session: SessionId,
    (number, inode): (InodeNumber, &mut InodeRecord),
) -> Result<OtherSessions, Fault> {
    let InodeBody::File { written, .. } = inode.body else { return Ok(OtherSessions::NothingToSay) };
    inode.size_bytes = 0;
    if inode.size_cap.is_none() {
        inode.max_size_bytes = 0;
    }
    if !written {
        return Ok(OtherSessions::NothingToSay);
    }
    reclaim::queue(space.txn, space.volume, inode.object, ReclaimWhat::Replaced { inode: number })?;
    inode.object = space.new_object()?;
    inode.generation = inode.generation.next();
    // Whoever has it open for writing may write to the new object.
    let written = inode.open_sessions > 0;
    inode.body = InodeBody::File { cut: None, size_unknown: false, written };
    space.txn.remove(keys::size_recovery(space.volume, number));
    let others = tell_others(space, session, number, inode.generation)?;
    caps::pass_on(space, (number, inode))?;
    Ok(others)
}

/// `O_TRUNC`.
pub(super) fn empty(
    space: &mut Space<'_, '_>,
    session: SessionId,
    number: InodeNumber,
) -> Result<OtherSessions, Fault> {
    let mut inode = space.load(number)?;
    if inode.kind != FileKind::Regular {
        return Ok(OtherSessions::NothingToSay);
    }
    let resized = resize(space, session, (number, &mut inode), 0)?;
    inode.changed = space.now();
    space.store(number, &inode)?;
    Ok(resized.others)
}

#[derive(Clone, Copy)]
pub(super) struct KnownSize {
    pub generation: TruncateGeneration,
    pub size_bytes: u64,
    pub modified: Option<TimeChange>,
    pub room: Room,
}

/// fsync and close: what the holder of the size cap knows becomes what everybody knows.
pub(super) fn commit_size(
    space: &mut Space<'_, '_>,
    session: SessionId,
    number: InodeNumber,
    known: KnownSize,
) -> Result<NamespaceReply, Fault> {
    let mut inode = space.load(number)?;
    take_size(space, session, &mut inode, known)?;
    space.store(number, &inode)?;
    Ok(NamespaceReply::Record(file_record(number, &inode)))
}

/// The holder gives up the size cap: its size counts, and the next in line has the cap.
pub(super) fn release_cap(
    space: &mut Space<'_, '_>,
    session: SessionId,
    number: InodeNumber,
    known: KnownSize,
) -> Result<NamespaceReply, Fault> {
    let mut inode = space.load(number)?;
    // One that is fenced or late has no cap to give up, and nothing to say about the size.
    if inode.size_cap == Some(session) && !planted(Mutant::ReleaseForgetsSize) {
        take_size(space, session, &mut inode, known)?;
    }
    caps::give_up(space, session, (number, &mut inode))?;
    space.store(number, &inode)?;
    Ok(NamespaceReply::Record(file_record(number, &inode)))
}

fn take_size(
    space: &mut Space<'_, '_>,
    session: SessionId,
    inode: &mut InodeRecord,
    known: KnownSize,
) -> Result<(), Fault> {
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
        inode.max_size_bytes = inode.max_size_bytes.max(known.size_bytes);
    }
    if current && known.room == Room::GiveBack && inode.size_cap == Some(session) {
        inode.max_size_bytes = inode.size_bytes;
    }
    if let Some(modified) = known.modified {
        // The change is as old as the write, not as this command: whoever looked meanwhile was shown the write's time, and
        // programs take a time that moves for a change (tar).
        let at = moment(modified, space.now());
        inode.modified = at;
        inode.changed = inode.changed.max(at);
    }
    Ok(())
}
