//! Who has what open, and who alone knows a file's size (design 7 size).

use super::space::{Space, file_record};
use crate::keys;
use crate::mutants::{Mutant, planted};
use crate::records::{InodeBody, SizeRecovery};
use crate::txn::{Fault, Txn};
use crate::view::View as _;
use weft_proto::namespace::NamespaceReply;
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

pub(super) fn open(
    space: &mut Space<'_, '_>,
    session: SessionId,
    number: InodeNumber,
    access: Access,
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
    }
    let mut size_cap = false;
    if access == Access::Write
        && let InodeBody::File { size_unknown, written, .. } = &mut inode.body
    {
        *written = true;
        match inode.size_cap {
            Some(holder) if holder != session => space.txn.want_session(holder),
            // Until the size that a fenced holder left is collected, nobody may grow the file from a wrong one.
            None if *size_unknown && !planted(Mutant::SizeLostOnFence) => {}
            _ => {
                inode.size_cap = Some(session);
                size_cap = true;
            }
        }
    }
    space.store(number, &inode)?;
    Ok(NamespaceReply::Opened { record: file_record(number, &inode), size_cap })
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
    let mut space = Space::new(txn, volume);
    let Some(mut inode) = space.find(number)? else { return Ok(()) };
    inode.open_sessions = inode.open_sessions.saturating_sub(1);
    if inode.size_cap == Some(session) {
        inode.size_cap = None;
        if ending == Ending::Fenced
            && let InodeBody::File { size_unknown, .. } = &mut inode.body
        {
            *size_unknown = true;
            let recovery = SizeRecovery { volume, inode: number, object: inode.object, generation: inode.generation };
            space.txn.put(keys::size_recovery(volume, number), &recovery)?;
            space.txn.touch_work();
        }
    }
    space.store_or_drop(number, &inode)
}
