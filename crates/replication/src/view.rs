//! What the state machine may ask of its disk within a step.
//!
//! Guarantees asked of an implementation: answers describe the store as it is after every action of earlier steps was
//! carried out, and the same calls give the same answers (determinism). Nothing here changes anything.

use std::sync::Arc;
use weft_proto::replication::{ChunkDigest, RemovedChunks, SessionRecords};
use weft_types::{BlockRange, ChunkId, Entry, LogPosition, ObjectId, OperationId, SessionId, TruncateGeneration};

/// One placement group of one disk, read-only. `weft-store` has a function of the same meaning for each.
pub trait StoreView {
    fn log_end(&self) -> LogPosition;
    /// Entries after this position are still in the journal.
    fn log_start(&self) -> LogPosition;
    /// Nothing up to here can be cut.
    fn committed(&self) -> LogPosition;
    /// Everything up to here survives a loss of power. Never past `log_end`.
    fn durable(&self) -> LogPosition;
    /// Last position of every epoch in the log, oldest first; the last one is `log_end`.
    fn history(&self) -> Vec<LogPosition>;
    /// Entries after a position of this log, oldest first: at least one if there is one.
    ///
    /// # Errors
    /// When the journal does not go back that far, or cannot be read.
    fn entries_after(
        &self,
        after: LogPosition,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, LogUnavailable>;
    fn lookup(&self, session: SessionId, operation: OperationId) -> Lookup;
    /// The whole dedupe table, as it is after `log_end`.
    fn dedupe_table(&self) -> Vec<SessionRecords>;
    /// What may still be admitted.
    fn credits_bytes(&self) -> u64;
    /// What the journal takes of what clients begin to write, beside what may be under way to it already (decision 0018). Of the
    /// whole disk, whichever group fills it.
    fn journal_room_bytes(&self) -> u64;
    /// How many of these entries of another primary's, from the first on, find room in the journal: as it is, or after a
    /// checkpoint of what is committed here if the disk has room for one. What they take is told from their headers.
    fn journal_takes(&self, entries: &[Arc<Entry>]) -> usize;
    fn has_chunk(&self, chunk: ChunkId) -> bool;
    /// Hashes of a chunk's blocks, from its trailer and the overlay. `None` when there is no such chunk.
    fn chunk_digest(&self, chunk: ChunkId) -> Option<ChunkDigest>;
    /// Blocks of a range that are absent, or not known to be present.
    fn absent_blocks(&self, chunk: ChunkId, range: BlockRange) -> u16;
    fn chunks_changed_since(&self, position: LogPosition) -> Changes;
    /// Whether the disk has lost what it knew of some chunk. Cheap when it has not.
    fn is_damaged(&self) -> bool;
    /// Every chunk, in order.
    fn chunks(&self) -> Vec<ChunkId>;
    /// The latest truncate generation that the group knows of the object, by a cut or by a write. `None` when it holds
    /// nothing of it.
    fn object_generation(&self, object: ObjectId) -> Option<TruncateGeneration>;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup {
    New,
    /// The original has this place in the log.
    Answered(LogPosition),
    /// Below the session's low-water mark, which is this.
    BelowLowWater(OperationId),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogUnavailable {
    /// The journal does not go back that far.
    Trimmed,
    /// It cannot be read now; the shell has reported why.
    Unreadable,
}

/// What changed after a position.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// In order.
    pub chunks: Vec<ChunkId>,
    pub removed: Vec<RemovedChunks>,
    pub memory: RemovalMemory,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RemovalMemory {
    /// `removed` is complete.
    #[default]
    Complete,
    /// Removals that long ago are forgotten: every chunk has to be compared.
    Forgotten,
}
