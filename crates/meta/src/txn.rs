//! The writes of one command, laid over the view it reads.
//!
//! Responsible for: reading one's own writes, taking them back when the command is refused, counting the map version.
//! Guarantees: the batch is in key order, so the same command gives the same bytes.

use crate::apply::Applied;
use crate::codec;
use crate::command::{CommandReply, SetRefusal};
use crate::keys;
use crate::view::{Key, StateError, Value, View};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use weft_proto::admin::Event;
use weft_types::limits::MAX_EVENTS;
use weft_types::{ErrorKind, MapVersion, NodeId, RequestNumber, SessionId, Timestamp};

/// Why a handler did not finish.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The command is refused; its writes are taken back.
    Refused(ErrorKind),
    SetRefused(SetRefusal),
    /// The state cannot be read; the node stops.
    State(StateError),
}

impl From<StateError> for Fault {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}
impl From<ErrorKind> for Fault {
    fn from(error: ErrorKind) -> Self {
        Self::Refused(error)
    }
}
impl From<SetRefusal> for Fault {
    fn from(refusal: SetRefusal) -> Self {
        Self::SetRefused(refusal)
    }
}

pub(crate) struct Txn<'v> {
    view: &'v dyn View,
    /// When the command was proposed.
    pub at: Timestamp,
    writes: BTreeMap<Key, Option<Value>>,
    map_touched: bool,
    work_touched: bool,
    wanted: BTreeSet<SessionId>,
    settled_waits: Vec<(SessionId, RequestNumber)>,
}

impl<'v> Txn<'v> {
    pub fn new(view: &'v dyn View, at: Timestamp) -> Self {
        let writes = BTreeMap::new();
        let (wanted, settled_waits) = (BTreeSet::new(), Vec::new());
        Self { view, at, writes, map_touched: false, work_touched: false, wanted, settled_waits }
    }

    pub fn fetch<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StateError> {
        codec::fetch(self, key)
    }

    /// A record that has to be there; its absence is corruption.
    pub fn require<T: DeserializeOwned>(&self, key: &[u8]) -> Result<T, StateError> {
        self.fetch(key)?.ok_or_else(|| StateError::Missing { key: keys::text(key) })
    }

    pub fn all<T: DeserializeOwned>(&self, prefix: &[u8]) -> Result<Vec<T>, StateError> {
        codec::fetch_all(self, prefix, usize::MAX)
    }

    pub fn put<T: Serialize>(&mut self, key: Key, record: &T) -> Result<(), StateError> {
        let bytes = codec::encode(record)?;
        self.writes.insert(key, Some(bytes));
        Ok(())
    }

    pub fn remove(&mut self, key: Key) {
        self.writes.insert(key, None);
    }

    /// Removes at most `limit` keys that begin with `prefix`; how many there were.
    pub fn remove_all(&mut self, prefix: &[u8], limit: usize) -> Result<usize, StateError> {
        let pairs = self.scan(prefix, &keys::after_prefix(prefix), limit)?;
        let count = pairs.len();
        for (key, _) in pairs {
            self.remove(key);
        }
        Ok(count)
    }

    pub fn counter(&self, key: &[u8]) -> Result<u64, StateError> {
        Ok(self.fetch(key)?.unwrap_or(0))
    }

    /// Counts up and gives the new value, so that the first is 1.
    pub fn count_up(&mut self, key: &[u8]) -> Result<u64, StateError> {
        let next = self.counter(key)? + 1;
        self.put(key.to_vec(), &next)?;
        Ok(next)
    }

    /// Something that routes I/O changes: the version of the map that this command makes.
    pub fn touch_map(&mut self) -> Result<MapVersion, StateError> {
        self.map_touched = true;
        self.pending_map_version()
    }

    /// The map version after this command.
    pub fn pending_map_version(&self) -> Result<MapVersion, StateError> {
        let current: u64 = codec::fetch(self.view, keys::MAP_VERSION)?.unwrap_or(0);
        Ok(MapVersion(current + u64::from(self.map_touched)))
    }

    pub fn touch_work(&mut self) {
        self.work_touched = true;
    }

    pub fn want_session(&mut self, session: SessionId) {
        self.wanted.insert(session);
    }

    /// A wait for a lock is over.
    pub fn settle_wait(&mut self, session: SessionId, request: RequestNumber) {
        self.settled_waits.push((session, request));
    }

    /// Takes back every write so far.
    pub fn roll_back(&mut self) {
        self.writes.clear();
        self.map_touched = false;
        self.work_touched = false;
        self.settled_waits.clear();
    }

    /// Adds to the bounded event list.
    pub fn note(&mut self, node: NodeId, what: String) -> Result<(), StateError> {
        let number = self.count_up(keys::LAST_EVENT)?;
        self.put(keys::event(number), &Event { number, at_seconds: self.at.seconds, node, what })?;
        if number > MAX_EVENTS {
            self.remove(keys::event(number - MAX_EVENTS));
        }
        Ok(())
    }

    pub fn finish(mut self, reply: CommandReply) -> Result<Applied, StateError> {
        if self.map_touched {
            let version = self.pending_map_version()?;
            self.put(keys::MAP_VERSION.to_vec(), &version.0)?;
        }
        Ok(Applied {
            batch: self.writes.into_iter().collect(),
            reply,
            map_changed: self.map_touched,
            work_changed: self.work_touched,
            wanted_sessions: self.wanted.into_iter().collect(),
            settled_waits: self.settled_waits,
        })
    }
}

impl View for Txn<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, StateError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => self.view.get(key),
        }
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Key, Value)>, StateError> {
        if start >= end {
            return Ok(Vec::new());
        }
        let range = (Bound::Included(start), Bound::Excluded(end));
        let written: Vec<_> = self.writes.range::<[u8], _>(range).collect();
        let below = self.view.scan(start, end, limit.saturating_add(written.len()))?;
        if written.is_empty() {
            return Ok(below);
        }
        let mut merged: BTreeMap<Key, Value> = below.into_iter().collect();
        for (key, value) in written {
            match value {
                Some(value) => merged.insert(key.clone(), value.clone()),
                None => merged.remove(key),
            };
        }
        // `below` was cut at limit + written keys, so whatever lies past its end is past the limit here too.
        Ok(merged.into_iter().take(limit).collect())
    }
}
