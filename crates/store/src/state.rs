//! What a replica remembers besides its log and its blocks, and the form in which the checkpoint keeps it.
//!
//! Responsible for: [`ReplicaState`], the dedupe table, removed chunks, and their serialised form. Guarantees: each
//! structure is bounded by a limit of `weft_types::limits` or of this file. Must not know: files.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use weft_types::limits::MAX_DEDUPE_PER_SESSION;
use weft_types::{
    ChunkId, ChunkIndex, ChunkSize, Epoch, LogPosition, LossGeneration, ObjectId, OperationId, Origin, PgId, SessionId,
    VolumeId,
};

/// Removals that a placement group remembers for delta resync; a replica that missed more compares every chunk.
pub const MAX_REMOVED_PER_GROUP: usize = 8192;

/// Small durable facts of a replica. The store keeps them and asks no questions.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct ReplicaState {
    /// The highest epoch promised; entries and promises of lower ones are refused (design 5.2).
    pub promised: Epoch,
    /// Up to here the replica's chunks are known to be complete, whatever its log says (design 5.7).
    pub complete_to: LogPosition,
    pub completeness: Completeness,
    pub loss_generation: LossGeneration,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub enum Completeness {
    /// Chunks and log agree: the replica may serve as a source as far as its log goes.
    Complete,
    /// Resync has not finished; chunks beyond `complete_to` may be missing.
    #[default]
    Partial,
}

/// What became of a client operation (design 5.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup {
    New,
    Answered(LogPosition),
    BelowLowWater(OperationId),
}

/// Answered operations per session.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct DedupeTable {
    pub sessions: BTreeMap<SessionId, SessionRecord>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct SessionRecord {
    /// Operations below it are answered for good.
    pub low_water: OperationId,
    pub answered: BTreeMap<OperationId, LogPosition>,
}

impl DedupeTable {
    #[must_use]
    pub fn lookup(&self, session: SessionId, operation: OperationId) -> Lookup {
        let Some(record) = self.sessions.get(&session) else { return Lookup::New };
        if operation < record.low_water {
            return Lookup::BelowLowWater(record.low_water);
        }
        record.answered.get(&operation).map_or(Lookup::New, |position| Lookup::Answered(*position))
    }

    pub(crate) fn note(&mut self, origin: &Origin, position: LogPosition) {
        let record = self.sessions.entry(origin.session).or_default();
        if origin.low_water > record.low_water {
            record.low_water = origin.low_water;
            record.answered = record.answered.split_off(&origin.low_water);
        }
        if origin.operation >= record.low_water {
            record.answered.insert(origin.operation, position);
        }
        // A client that never raises its mark may not grow the table without bound: the oldest go first, and the mark
        // says so, which refuses their retries instead of applying them twice.
        while record.answered.len() > MAX_DEDUPE_PER_SESSION {
            if let Some((oldest, _)) = record.answered.pop_first() {
                record.low_water = record.low_water.max(oldest.next());
            }
        }
    }

    /// Takes back the records of a cut tail. Low-water marks stay: they are the client's own word.
    pub(crate) fn cut(&mut self, after: LogPosition) {
        for record in self.sessions.values_mut() {
            record.answered.retain(|_, position| *position <= after);
        }
    }
}

/// Chunks `first..=last` of an object were removed at `position`.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct RemovedChunks {
    pub position: LogPosition,
    pub object: ObjectId,
    pub first: ChunkIndex,
    pub last: ChunkIndex,
}

impl RemovedChunks {
    #[must_use]
    pub fn contains(&self, chunk: ChunkId) -> bool {
        self.object == chunk.object && (self.first..=self.last).contains(&chunk.index)
    }
}

/// A replica's state at a checkpoint.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct GroupSnapshot {
    pub state: ReplicaState,
    pub start: LogPosition,
    pub end: LogPosition,
    pub committed: LogPosition,
    /// Everything up to here is in chunk files, synced.
    pub applied: LogPosition,
    pub history: Vec<LogPosition>,
    pub dedupe: DedupeTable,
    pub removed: Vec<RemovedChunks>,
    /// Removals at or before this position may be forgotten, or were never known.
    pub removed_floor: LogPosition,
}

/// A place in the journal: the segment's lap, then the offset in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug, Default)]
pub struct JournalPosition {
    pub lap: u64,
    pub offset: u32,
}

impl std::fmt::Display for JournalPosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "lap {} offset {}", self.lap, self.offset)
    }
}

/// The `state` file: what replay starts from.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct DiskState {
    /// Counts openings.
    pub life: u32,
    /// Segments of earlier laps are free.
    pub first_live: u64,
    /// The journal was synced up to here when this was written; `groups` is the state at this point.
    pub as_of: JournalPosition,
    pub volumes: Vec<(VolumeId, ChunkSize)>,
    pub groups: Vec<(PgId, GroupSnapshot)>,
}

/// Openings that are believed: more than a disk sees in its life, few enough to be counted on from.
const MAX_LIFE: u32 = u32::MAX >> 1;
/// Laps that are believed. An entry's place is kept with 32 bits of it.
const MAX_LAP: u64 = (u32::MAX >> 1) as u64;

impl DiskState {
    /// What in it cannot be, although its checksum is right. Only what no version ever wrote: a disk that is refused is a
    /// copy that is lost.
    pub(crate) fn impossible(&self) -> Option<&'static str> {
        if self.life > MAX_LIFE {
            return Some("it counts more openings than there can be");
        }
        if self.first_live == 0 || self.first_live > MAX_LAP || self.as_of.lap > MAX_LAP {
            return Some("it names laps that cannot be");
        }
        self.groups.iter().any(|(_, group)| group.start > group.end).then_some("a group's log ends before it begins")
    }
}
