//! Who has what open, and who alone knows a file's size (design 7 size).

use super::space::{Space, file_record};
use super::{caps, notices};
use crate::keys;
use crate::locks;
use crate::records::{InodeBody, SizeRecovery};
use crate::txn::{Fault, Txn};
use crate::view::View as _;
use weft_proto::namespace::{NamespaceReply, OtherSessions};
use weft_types::limits::MAX_OPENS_PER_SESSION;
use weft_types::{ErrorKind, FileKind, InodeNumber, SessionId, VolumeId};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// How a session lets go of an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// It committed its size before.
    Clean,
    /// It may have grown the file without telling; the placement groups know.
    Fenced,
}

/// What a session that opens a file for writing may do without asking again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Expectation {
    /// The file is there and will probably keep its size.
    KeepsSize,
    /// It is new or was emptied, and will be filled.
    Grows,
}

pub(super) fn open(
    space: &mut Space<'_, '_>,
    session: SessionId,
    number: InodeNumber,
    access: Access,
    expectation: Expectation,
) -> Result<NamespaceReply, Fault> {
    let mut inode = space.load(number)?;
    if access == Access::Write && inode.kind == FileKind::Directory {
        return Err(ErrorKind::IsDirectory.into());
    }
    let key = keys::open(session, number);
    if space.txn.get(&key)?.is_none() {
        count_open(space, session)?;
        inode.open_sessions += 1;
        space.txn.put(key, &())?;
        space.txn.put(keys::opener(space.volume, number, session), &())?;
    }
    if access == Access::Write
        && let InodeBody::File { written, .. } = &mut inode.body
    {
        *written = true;
        match inode.size_cap {
            // A writer need not make the file longer: the holder is left alone, unless it is gone.
            Some(holder) if holder != session => space.txn.want_session(holder),
            // Until the size that a fenced holder left is collected, nobody may grow the file from a wrong one.
            None if !caps::is_free(&inode) || !inode.cap_queue.is_empty() => {}
            _ => {
                inode.size_cap = Some(session);
                let room = match expectation {
                    Expectation::KeepsSize => inode.size_bytes,
                    Expectation::Grows => caps::room_for(inode.size_bytes),
                };
                inode.max_size_bytes = inode.max_size_bytes.max(inode.size_bytes).max(room);
            }
        }
    }
    space.store(number, &inode)?;
    let size_cap = inode.size_cap == Some(session);
    let record = file_record(number, &inode);
    Ok(NamespaceReply::Opened { record, size_cap, others: OtherSessions::NothingToSay })
}

/// Counts a further open of the session against its limit.
fn count_open(space: &mut Space<'_, '_>, session: SessionId) -> Result<(), Fault> {
    let key = keys::window(session);
    let mut window: crate::records::RequestWindow = space.txn.require(&key)?;
    if window.opens >= MAX_OPENS_PER_SESSION {
        return Err(ErrorKind::Busy(format!("a mount has at most {MAX_OPENS_PER_SESSION} files open")).into());
    }
    window.opens += 1;
    space.txn.put(key, &window)?;
    Ok(())
}

/// The session has the inode open no more. The last one to let go of a file without a name ends it.
pub(crate) fn release(
    txn: &mut Txn<'_>,
    volume: VolumeId,
    session: SessionId,
    number: InodeNumber,
    ending: Ending,
) -> Result<(), Fault> {
    let key = keys::open(session, number);
    if txn.get(&key)?.is_none() {
        // Closed before: a close has nothing to fail with.
        return Ok(());
    }
    txn.remove(key);
    let window_key = keys::window(session);
    let mut window: crate::records::RequestWindow = txn.require(&window_key)?;
    window.opens = window.opens.saturating_sub(1);
    txn.put(window_key, &window)?;
    locks::drop_session(txn, locks::Place { volume, inode: number }, session)?;
    let mut space = Space::new(txn, volume);
    let Some(mut inode) = space.find(number)? else { return Ok(()) };
    inode.open_sessions = inode.open_sessions.saturating_sub(1);
    space.txn.remove(keys::opener(volume, number, session));
    let may_have_grown = inode.size_cap == Some(session) && inode.max_size_bytes > inode.size_bytes;
    if may_have_grown
        && ending == Ending::Fenced
        && let InodeBody::File { size_unknown, .. } = &mut inode.body
    {
        *size_unknown = true;
        let (object, generation, max_bytes) = (inode.object, inode.generation, inode.max_size_bytes);
        let recovery = SizeRecovery { volume, inode: number, object, generation, max_bytes };
        space.txn.put(keys::size_recovery(volume, number), &recovery)?;
        space.txn.touch_work();
    }
    caps::give_up(&mut space, session, (number, &mut inode))?;
    notices::forget(&mut space, session, number)?;
    space.store_or_drop(number, &inode)
}
