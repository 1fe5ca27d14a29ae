//! Sessions: opening, striking, fencing, ending, and the memory of answered requests (design 3, 4.4, 4.5).
//!
//! Guarantees: what a session holds is free only after a clean close, or after every live node has acknowledged that it
//! was struck. A retried request gets its first answer; one below the low-water mark is refused.

use crate::command::CommandReply;
use crate::keys;
use crate::mutants::{Mutant, planted};
use crate::namespace::{self, Ending};
use crate::records::{RequestWindow, SessionRecord, SessionState};
use crate::txn::{Fault, Txn};
use crate::view::View as _;
use crate::volumes;
use weft_proto::namespace::{Mutation, NamespaceReply};
use weft_types::limits::{MAX_REMEMBERED_REPLIES, MAX_SESSIONS};
use weft_types::map::VolumeState;
use weft_types::{ErrorKind, InodeNumber, MapVersion, NodeId, RequestNumber, SessionId, SessionOwner, VolumeId};

/// Longest host name and mount point that are kept for display.
const MAX_TEXT_BYTES: usize = 4096;

pub(crate) fn open(
    txn: &mut Txn<'_>,
    owner: SessionOwner,
    volume_name: &str,
    host: &str,
    mount_point: &str,
) -> Result<CommandReply, Fault> {
    let volume = volumes::by_name(txn, volume_name)?;
    if volume.state != VolumeState::Active {
        return Err(ErrorKind::Busy(format!("volume {volume_name} is being deleted")).into());
    }
    if host.len() > MAX_TEXT_BYTES || mount_point.len() > MAX_TEXT_BYTES {
        return Err(ErrorKind::NameTooLong.into());
    }
    if txn.all::<SessionRecord>(keys::SESSIONS)?.len() >= MAX_SESSIONS {
        let text = format!("there are {MAX_SESSIONS} sessions: evict those that will not come back");
        return Err(ErrorKind::Busy(text).into());
    }
    let id = SessionId(txn.count_up(keys::LAST_SESSION)?);
    let record = SessionRecord {
        id,
        owner,
        volume: volume.id,
        host: host.to_owned(),
        mount_point: mount_point.to_owned(),
        state: SessionState::Live,
    };
    txn.put(keys::session(id), &record)?;
    txn.put(keys::window(id), &RequestWindow::default())?;
    txn.touch_map()?;
    Ok(CommandReply::SessionOpened { session: id, volume: volume.id })
}

pub(crate) fn strike(txn: &mut Txn<'_>, session: SessionId) -> Result<CommandReply, Fault> {
    let mut record: SessionRecord = txn.fetch(&keys::session(session))?.ok_or(ErrorKind::NotFound)?;
    if record.state != SessionState::Live {
        return Ok(CommandReply::Done);
    }
    let since = txn.touch_map()?;
    record.state = SessionState::Struck { since };
    txn.put(keys::session(session), &record)?;
    txn.note(NodeId(0), format!("session {session} of {} is struck off", record.host))?;
    if planted(Mutant::FenceWithoutAcknowledgement) {
        end(txn, &record, Ending::Fenced)?;
    }
    Ok(CommandReply::Done)
}

pub(crate) fn fence_complete(txn: &mut Txn<'_>, session: SessionId, since: MapVersion) -> Result<CommandReply, Fault> {
    let Some(record) = txn.fetch::<SessionRecord>(&keys::session(session))? else {
        return Ok(CommandReply::Done);
    };
    if record.state != (SessionState::Struck { since }) {
        return Err(ErrorKind::Refused(format!("session {session} was not struck at version {since}")).into());
    }
    txn.note(NodeId(0), format!("session {session} of {} is fenced", record.host))?;
    end(txn, &record, Ending::Fenced)?;
    Ok(CommandReply::Done)
}

pub(crate) fn close(txn: &mut Txn<'_>, session: SessionId) -> Result<CommandReply, Fault> {
    let Some(record) = txn.fetch::<SessionRecord>(&keys::session(session))? else {
        return Ok(CommandReply::Done);
    };
    if record.state != SessionState::Live {
        // The fence is under way and ends it.
        return Err(ErrorKind::Fenced.into());
    }
    txn.touch_map()?;
    end(txn, &record, Ending::Clean)?;
    Ok(CommandReply::Done)
}

/// The session's opens, caps, locks, remembered replies and record go.
fn end(txn: &mut Txn<'_>, record: &SessionRecord, ending: Ending) -> Result<(), Fault> {
    let prefix = keys::opens_of(record.id);
    for (key, _) in txn.scan(&prefix, &keys::after_prefix(&prefix), usize::MAX)? {
        let inode = InodeNumber(keys::last_u64(&key));
        namespace::release(txn, record.volume, record.id, inode, ending)?;
    }
    txn.remove_all(&keys::replies_of(record.id), usize::MAX)?;
    txn.remove(keys::window(record.id));
    txn.remove(keys::session(record.id));
    txn.touch_work();
    Ok(())
}

/// One namespace request of a client, once.
pub(crate) fn mutate(
    txn: &mut Txn<'_>,
    session: SessionId,
    request: RequestNumber,
    low_water: RequestNumber,
    volume: VolumeId,
    mutation: &Mutation,
) -> Result<CommandReply, Fault> {
    let refuse = |error: ErrorKind| Ok(CommandReply::Namespace(Err(error)));
    let record: Option<SessionRecord> = txn.fetch(&keys::session(session))?;
    // Design 4.4: a fenced mount answers EIO for good; ids are never reused, so an unknown session is a fenced one.
    let Some(record) = record.filter(|r| r.state == SessionState::Live) else {
        return refuse(ErrorKind::Fenced);
    };
    if record.volume != volume {
        return refuse(ErrorKind::Refused(format!("session {session} is of volume {}", record.volume)));
    }
    let mut window: RequestWindow = txn.require(&keys::window(session))?;
    if request < window.low_water {
        return refuse(ErrorKind::Refused(format!(
            "request {request} is below the low-water mark {}: it was answered long ago",
            window.low_water
        )));
    }
    let key = keys::reply(session, request);
    if let Some(first) = txn.fetch::<Result<NamespaceReply, ErrorKind>>(&key)?
        && !planted(Mutant::NoDedupe)
    {
        return Ok(CommandReply::Namespace(first));
    }
    let trimmed = trimmable(txn, session, &window, low_water.min(request))?;
    if window.remembered as usize - trimmed.len() >= MAX_REMEMBERED_REPLIES as usize {
        return refuse(ErrorKind::Busy(format!("{MAX_REMEMBERED_REPLIES} requests are above the low-water mark")));
    }
    let reply = match namespace::mutate(txn, session, request, volume, mutation) {
        Ok(reply) => Ok(reply),
        Err(Fault::Refused(error)) => {
            txn.roll_back();
            Err(error)
        }
        Err(other) => return Err(other),
    };
    if reply == Err(ErrorKind::WouldBlock) {
        // Not an answer but a "not yet": the same request is sent again.
        return Ok(CommandReply::Namespace(reply));
    }
    // The mutation may have counted an open in the window.
    window.opens = txn.require::<RequestWindow>(&keys::window(session))?.opens;
    window.remembered = window.remembered + 1 - u32::try_from(trimmed.len()).unwrap_or(u32::MAX);
    window.low_water = window.low_water.max(low_water.min(request));
    for key in trimmed {
        txn.remove(key);
    }
    txn.put(key, &reply)?;
    txn.put(keys::window(session), &window)?;
    Ok(CommandReply::Namespace(reply))
}

/// Keys of replies that the client will not ask for again.
fn trimmable(
    txn: &Txn<'_>,
    session: SessionId,
    window: &RequestWindow,
    low_water: RequestNumber,
) -> Result<Vec<Vec<u8>>, Fault> {
    if low_water <= window.low_water {
        return Ok(Vec::new());
    }
    let start = keys::reply(session, RequestNumber(0));
    let end = keys::reply(session, low_water);
    let pairs = txn.scan(&start, &end, MAX_REMEMBERED_REPLIES as usize)?;
    Ok(pairs.into_iter().map(|(key, _)| key).collect())
}
