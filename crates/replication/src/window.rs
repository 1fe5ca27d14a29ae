//! Entries that are sequenced and not yet acknowledged by every member that counts: who waits for them, and which blocks
//! they change. Resync copies are not in it: they change nothing that a reader of the primary could see.

use crate::actions::Reply;
use crate::events::RequestToken;
use crate::locks::Scope;
use std::collections::VecDeque;
use weft_types::{AckMode, Effect, LogPosition, ObjectId, OperationId, SessionId};

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
    /// Of all entries of this epoch before this one.
    before: Cost,
}

/// What an entry takes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Cost {
    /// Of memory, while it is not on every member.
    pub data_bytes: u64,
    /// On the disk of every member: its data, and what it fills.
    pub room_bytes: u64,
}

impl Cost {
    pub fn of(effect: &Effect, data_bytes: usize) -> Self {
        let data_bytes = data_bytes as u64;
        Self { data_bytes, room_bytes: data_bytes + effect.filled_bytes() as u64 }
    }
}

#[derive(Default)]
pub(crate) struct Window {
    entries: VecDeque<Inflight>,
    /// Of all entries of this epoch.
    total: Cost,
}

impl Window {
    pub fn push(
        &mut self,
        position: LogPosition,
        scope: Option<Scope>,
        origin: Option<(SessionId, OperationId)>,
        waiter: Option<Waiter>,
        cost: Cost,
    ) {
        self.entries.push_back(Inflight { position, scope, origin, waiter, before: self.total });
        self.total.data_bytes += cost.data_bytes;
        self.total.room_bytes += cost.room_bytes;
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn data_bytes(&self) -> u64 {
        self.entries.front().map_or(0, |front| self.total.data_bytes - front.before.data_bytes)
    }

    /// Room for entries after `position`: what a member that stands there has still to store.
    pub fn room_after(&self, position: LogPosition) -> u64 {
        let next = self.entries.partition_point(|e| e.position <= position);
        self.entries.get(next).map_or(0, |e| self.total.room_bytes - e.before.room_bytes)
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
