//! The ordered key-value store that holds the replicated state, as this crate sees it.
//!
//! Responsible for: the `View` trait (implemented over sled by `weft-raft`) and its in-memory implementation for tests
//! and the simulator.
//! Must not know: what keys and values mean.

use std::collections::BTreeMap;
use std::ops::Bound;

pub type Key = Vec<u8>;
pub type Value = Vec<u8>;
/// What a command writes: keys ascending, each once. `None` removes the key.
pub type Batch = Vec<(Key, Option<Value>)>;

/// The state cannot be read. A node that sees this must stop applying: guessing would make replicas differ.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StateError {
    #[error("the metadata store failed: {0}")]
    Store(String),
    #[error("metadata record {key} cannot be decoded: {why}")]
    Corrupt { key: String, why: String },
    #[error("metadata record {key} is missing")]
    Missing { key: String },
}

/// A consistent picture of the state between two commands.
pub trait View {
    /// # Errors
    /// When the store cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Value>, StateError>;

    /// At most `limit` pairs with `start <= key < end`, ascending.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Key, Value)>, StateError>;
}

/// A view in memory.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct MemoryView {
    pairs: BTreeMap<Key, Value>,
}

impl MemoryView {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub fn write(&mut self, batch: Batch) {
        for (key, value) in batch {
            match value {
                Some(value) => {
                    self.pairs.insert(key, value);
                }
                None => {
                    self.pairs.remove(&key);
                }
            }
        }
    }

    /// Every pair, ascending: for snapshots and for comparing replicas.
    pub fn pairs(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.pairs.iter()
    }
}

impl View for MemoryView {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, StateError> {
        Ok(self.pairs.get(key).cloned())
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Key, Value)>, StateError> {
        if start >= end {
            return Ok(Vec::new());
        }
        let range = (Bound::Included(start), Bound::Excluded(end));
        let pairs = self.pairs.range::<[u8], _>(range).take(limit);
        Ok(pairs.map(|(k, v)| (k.clone(), v.clone())).collect())
    }
}
