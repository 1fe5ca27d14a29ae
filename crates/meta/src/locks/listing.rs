//! Questions about locks: what is in the way, whether a wait is over, who has what. They change nothing.

use super::table::{Held, InodeLocks, OwnerId};
use crate::codec::{fetch, fetch_all};
use crate::keys;
use crate::mutants::{Mutant, planted};
use crate::records::{SessionRecord, SessionState};
use crate::view::{StateError, View};
use std::collections::{BTreeMap, BTreeSet};
use weft_proto::admin::{LockState, LockSummary};
use weft_proto::namespace::LockHolder;
use weft_types::limits::MAX_LOCKS_LISTED;
use weft_types::{
    ErrorKind, InodeNumber, LockKind, LockOwner, LockRange, RequestNumber, SessionId, Timestamp, VolumeId,
};

/// F_GETLK: the first lock, by its first byte, that would be in the way.
///
/// # Errors
/// When the state cannot be read.
pub fn conflict(
    view: &dyn View,
    (volume, inode): (VolumeId, InodeNumber),
    (session, owner): (SessionId, LockOwner),
    range: LockRange,
    kind: LockKind,
) -> Result<Result<Option<LockHolder>, ErrorKind>, StateError> {
    if !range.is_valid() {
        return Ok(Err(ErrorKind::Invalid("not a range of bytes".to_owned())));
    }
    let locks: InodeLocks = fetch(view, &keys::locks(volume, inode))?.unwrap_or_default();
    let who = OwnerId { session, owner };
    let wish = Held { who, range, kind, process_id: 0, since: Timestamp::default() };
    let seen = |held: &&Held| held.who.session == session || !planted(Mutant::TestOnlyOwnLocks);
    let found = locks.conflicts(&wish).find(seen).map(super::holder);
    Ok(Ok(found))
}

/// What the leader answers to who asks after its wait.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LockWaitState {
    /// Sessions that are in its way: who of them has lapsed is struck (design 4.4).
    Waiting { blockers: BTreeSet<SessionId> },
    /// The lock is held, or the wait was given up by the session itself.
    Over,
    /// The session was struck off.
    Fenced,
}

/// How it stands with a wait.
///
/// # Errors
/// When the state cannot be read.
pub fn wait_state(
    view: &dyn View,
    session: SessionId,
    inode: InodeNumber,
    request: RequestNumber,
) -> Result<LockWaitState, StateError> {
    let record: Option<SessionRecord> = fetch(view, &keys::session(session))?;
    let Some(record) = record.filter(|r| r.state == SessionState::Live) else { return Ok(LockWaitState::Fenced) };
    let locks: InodeLocks = fetch(view, &keys::locks(record.volume, inode))?.unwrap_or_default();
    let wait = locks.waiting.iter().find(|wait| wait.lock.who.session == session && wait.request == request);
    Ok(wait.map_or(LockWaitState::Over, |wait| {
        let blockers = locks.blockers(&wait.lock, wait.request).into_iter();
        LockWaitState::Waiting { blockers: blockers.map(|who| who.session).filter(|s| *s != session).collect() }
    }))
}

/// Who holds and who waits, at most `MAX_LOCKS_LISTED`.
///
/// # Errors
/// When the state cannot be read.
pub fn list(view: &dyn View, volume: Option<VolumeId>) -> Result<Vec<LockSummary>, StateError> {
    let sessions: Vec<SessionRecord> = fetch_all(view, keys::SESSIONS, usize::MAX)?;
    let sessions: BTreeMap<SessionId, SessionRecord> = sessions.into_iter().map(|s| (s.id, s)).collect();
    let prefix = volume.map_or_else(|| keys::LOCKS.to_vec(), keys::locks_of);
    let mut summaries = Vec::new();
    for (key, bytes) in view.scan(&prefix, &keys::after_prefix(&prefix), MAX_LOCKS_LISTED)? {
        let locks: InodeLocks = crate::codec::decode(&key, &bytes)?;
        let Some((volume, inode)) = keys::place_of_locks(&key) else { continue };
        let held = locks.held.iter().map(|held| (held, LockState::Held));
        let waiting = locks.waiting.iter().map(|wait| (&wait.lock, LockState::Waiting));
        for (lock, state) in held.chain(waiting) {
            if summaries.len() >= MAX_LOCKS_LISTED {
                return Ok(summaries);
            }
            let session = sessions.get(&lock.who.session);
            summaries.push(LockSummary {
                volume,
                inode,
                session: lock.who.session,
                host: session.map(|s| s.host.clone()).unwrap_or_default(),
                mount_point: session.map(|s| s.mount_point.clone()).unwrap_or_default(),
                process_id: lock.process_id,
                range: lock.range,
                kind: lock.kind,
                since_seconds: lock.since.seconds,
                state,
            });
        }
    }
    Ok(summaries)
}
