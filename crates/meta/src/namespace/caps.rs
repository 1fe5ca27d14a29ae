//! Who may make a file longer (design 7, "Size"): granting, recalling and passing on the size cap.
//!
//! Guarantees: one holder at a time; whoever waits is served in the order it came; a cap is free only when its holder
//! gave it up or was fenced, and after a fence only when the size was collected. A holder makes the file no longer than
//! `max_size_bytes`.

use super::notices;
use super::space::{Space, file_record};
use crate::keys;
use crate::mutants::{Mutant, planted};
use crate::records::{InodeBody, InodeRecord};
use crate::txn::Fault;
use crate::view::View as _;
use weft_proto::namespace::{NamespaceReply, OtherSessions};
use weft_types::limits::{MAX_CAP_WAITERS, MAX_FILE_BYTES, SIZE_CAP_ROOM_MAX, SIZE_CAP_ROOM_MIN};
use weft_types::{ErrorKind, InodeNumber, SessionId};

/// How far a holder may extend that asks for `end_bytes`: further than it asked, so that it asks seldom.
pub(super) fn room_for(end_bytes: u64) -> u64 {
    let room = (end_bytes / 4).clamp(SIZE_CAP_ROOM_MIN, SIZE_CAP_ROOM_MAX);
    end_bytes.saturating_add(room).min(MAX_FILE_BYTES)
}

/// Whether nobody holds the cap and the size is known.
pub(super) fn is_free(inode: &InodeRecord) -> bool {
    let InodeBody::File { size_unknown, .. } = inode.body else { return false };
    inode.size_cap.is_none() && (!size_unknown || planted(Mutant::SizeLostOnFence))
}

/// A session has to make the file longer.
pub(super) fn acquire(
    space: &mut Space<'_, '_>,
    session: SessionId,
    number: InodeNumber,
    end_bytes: u64,
) -> Result<NamespaceReply, Fault> {
    if space.txn.get(&keys::open(session, number))?.is_none() {
        return Err(ErrorKind::Stale.into());
    }
    let mut inode = space.load(number)?;
    let InodeBody::File { written, .. } = &mut inode.body else {
        return Err(ErrorKind::Invalid("only a regular file has a size cap".to_owned()).into());
    };
    *written = true;
    let first_in_line = inode.cap_queue.first().is_none_or(|first| *first == session);
    let ours = inode.size_cap == Some(session) || planted(Mutant::GrantHeldCap);
    if ours || (first_in_line && is_free(&inode)) {
        inode.cap_queue.retain(|waiting| *waiting != session);
        inode.size_cap = Some(session);
        inode.max_size_bytes = inode.max_size_bytes.max(inode.size_bytes).max(room_for(end_bytes));
    } else {
        let last = inode.cap_queue.len() < MAX_CAP_WAITERS && !inode.cap_queue.contains(&session);
        if last {
            inode.cap_queue.push(session);
        }
        if let Some(holder) = inode.size_cap {
            space.txn.want_session(holder);
            notices::recall(space, holder, number)?;
        }
    }
    space.store(number, &inode)?;
    let size_cap = inode.size_cap == Some(session);
    Ok(NamespaceReply::Opened { record: file_record(number, &inode), size_cap, others: OtherSessions::NothingToSay })
}

/// The session has no cap of this inode any more; the next in line has it. The caller stores the inode.
pub(super) fn give_up(
    space: &mut Space<'_, '_>,
    session: SessionId,
    (number, inode): (InodeNumber, &mut InodeRecord),
) -> Result<(), Fault> {
    inode.cap_queue.retain(|waiting| *waiting != session);
    if inode.size_cap == Some(session) {
        inode.size_cap = None;
        inode.max_size_bytes = inode.size_bytes;
    }
    notices::recall_is_settled(space, session, number)?;
    pass_on(space, (number, inode))
}

/// Grants a free cap to whoever has waited longest.
pub(crate) fn pass_on(
    space: &mut Space<'_, '_>,
    (number, inode): (InodeNumber, &mut InodeRecord),
) -> Result<(), Fault> {
    while is_free(inode) && !inode.cap_queue.is_empty() {
        let next = if planted(Mutant::ServeLastInLine) {
            inode.cap_queue.pop().unwrap_or_default()
        } else {
            inode.cap_queue.remove(0)
        };
        if space.txn.get(&keys::open(next, number))?.is_none() {
            continue;
        }
        inode.size_cap = Some(next);
        inode.max_size_bytes = inode.max_size_bytes.max(room_for(inode.size_bytes));
        notices::granted(space, next, number)?;
        if !inode.cap_queue.is_empty() {
            notices::recall(space, next, number)?;
        }
    }
    Ok(())
}
