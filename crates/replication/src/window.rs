//! Entries that are sequenced and not yet acknowledged by every member that counts: who waits for them, and which blocks
//! they change. Resync copies are not in it: they change nothing that a reader of the primary could see.

use crate::actions::Reply;
use crate::events::RequestToken;
use crate::locks::Scope;
use std::collections::VecDeque;
use weft_types::{AckMode, LogPosition, ObjectId, OperationId, SessionId};

/// A client that waits for an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Waiter {
    pub token: RequestToken,
    pub ack: AckMode,
    pub reply: Reply,
}

pub(crate) struct Inflight {
    pub position: LogPosition,
    /// `None` for an entry that changes nothing.
    pub scope: Option<Scope>,
    pub origin: Option<(SessionId, OperationId)>,
    pub waiter: Option<Waiter>,
    /// Bytes of all entries of this epoch before this one.
    bytes_before: u64,
}

#[derive(Default)]
pub(crate) struct Window {
    entries: VecDeque<Inflight>,
    /// Bytes of all entries of this epoch.
    total_bytes: u64,
}

impl Window {
    pub fn push(
        &mut self,
        position: LogPosition,
        scope: Option<Scope>,
        origin: Option<(SessionId, OperationId)>,
        waiter: Option<Waiter>,
        bytes: u64,
    ) {
        self.entries.push_back(Inflight { position, scope, origin, waiter, bytes_before: self.total_bytes });
        self.total_bytes += bytes;
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn bytes(&self) -> u64 {
        self.entries.front().map_or(0, |front| self.total_bytes - front.bytes_before)
    }

    /// Bytes of entries after `position`: what a member that stands there has still to store.
    pub fn bytes_after(&self, position: LogPosition) -> u64 {
        let next = self.entries.partition_point(|e| e.position <= position);
        self.entries.get(next).map_or(0, |e| self.total_bytes - e.bytes_before)
    }

    /// Takes the oldest entry if it is at or before `position`.
    pub fn pop_through(&mut self, position: LogPosition) -> Option<Inflight> {
        if self.entries.front()?.position <= position { self.entries.pop_front() } else { None }
    }

    /// Position of the last entry after `readable` that changes what `scope` covers (design 5.6).
    pub fn last_conflict(&self, scope: Scope, readable: LogPosition) -> Option<LogPosition> {
        let next = self.entries.partition_point(|e| e.position <= readable);
        self.entries.range(next..).rev().find(|e| e.scope.is_some_and(|s| s.conflicts(scope))).map(|e| e.position)
    }

    /// The entry of an operation, among those after `after`.
    pub fn find_origin(&self, after: LogPosition, session: SessionId, operation: OperationId) -> Option<LogPosition> {
        let next = self.entries.partition_point(|e| e.position <= after);
        self.entries.range(next..).find(|e| e.origin == Some((session, operation))).map(|e| e.position)
    }

    /// Whether an entry after `after` touches the object.
    pub fn touches(&self, after: LogPosition, object: ObjectId) -> bool {
        self.last_conflict(Scope::Object(object), after).is_some()
    }

    /// Everybody who still waits.
    pub fn drain_waiters(&mut self) -> impl Iterator<Item = Waiter> + '_ {
        self.entries.iter_mut().filter_map(|e| e.waiter.take())
    }
}
