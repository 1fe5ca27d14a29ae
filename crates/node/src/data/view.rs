//! The store as a replica sees it: a thin translation, without a rule of its own.
//!
//! The machine of a group exists only while its group is open in the store, so `UnknownGroup` cannot come; an empty answer
//! stands for it.

use super::room;
use std::sync::Arc;
use weft_proto::replication::{ChunkDigest, ChunkHealth, RemovedChunks, SessionRecords};
use weft_replication::{Changes, LogUnavailable, Lookup, RemovalMemory, SavedState, StoreView};
use weft_store::{
    CheckpointsFree, Completeness, Coverage, DedupeTable, Disk, ReplicaState, SessionRecord, Store, StoreError,
};
use weft_types::{BlockRange, ChunkId, Entry, LogPosition, ObjectId, OperationId, PgId, SessionId, TruncateGeneration};

pub(super) struct GroupView<'a, D: Disk> {
    pub(super) store: &'a Store<D>,
    pub(super) pg: PgId,
}

impl<D: Disk> GroupView<'_, D> {
    /// What the replica had saved when its process ended. A group without a saved state is new: it is complete,
    /// because there is nothing that it could lack.
    pub(super) fn saved_state(&self) -> SavedState {
        match self.store.replica_state(self.pg) {
            Some(state) if *state != ReplicaState::default() => SavedState {
                promised: state.promised,
                complete_to: match state.completeness {
                    Completeness::Complete => None,
                    Completeness::Partial => Some(state.complete_to),
                },
                loss_generation: state.loss_generation,
            },
            _ => SavedState::default(),
        }
    }
}

pub(super) fn replica_state(state: SavedState) -> ReplicaState {
    ReplicaState {
        promised: state.promised,
        complete_to: state.complete_to.unwrap_or_default(),
        completeness: match state.complete_to {
            None => Completeness::Complete,
            Some(_) => Completeness::Partial,
        },
        loss_generation: state.loss_generation,
    }
}

pub(super) fn dedupe_table(records: Vec<SessionRecords>) -> DedupeTable {
    let record = |session: SessionRecords| {
        let answered = session.operations.into_iter().collect();
        (session.session, SessionRecord { low_water: session.low_water, answered })
    };
    DedupeTable { sessions: records.into_iter().map(record).collect() }
}

impl<D: Disk> StoreView for GroupView<'_, D> {
    fn log_end(&self) -> LogPosition {
        self.store.log_end(self.pg).unwrap_or_default()
    }

    fn log_start(&self) -> LogPosition {
        self.store.log_start(self.pg).unwrap_or_default()
    }

    fn committed(&self) -> LogPosition {
        self.store.committed(self.pg).unwrap_or_default()
    }

    fn durable(&self) -> LogPosition {
        self.store.durable(self.pg).unwrap_or_default()
    }

    fn history(&self) -> Vec<LogPosition> {
        self.store.history(self.pg).map(<[_]>::to_vec).unwrap_or_default()
    }

    fn entries_after(
        &self,
        after: LogPosition,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, LogUnavailable> {
        self.store.entries_after(self.pg, after, max_entries, max_bytes).map_err(|error| match error {
            StoreError::Trimmed { .. } => LogUnavailable::Trimmed,
            error => {
                tracing::error!(pg = %self.pg, %after, %error, "the journal cannot be read");
                LogUnavailable::Unreadable
            }
        })
    }

    fn lookup(&self, session: SessionId, operation: OperationId) -> Lookup {
        match self.store.dedupe(self.pg).map(|table| table.lookup(session, operation)) {
            Ok(weft_store::Lookup::Answered(position)) => Lookup::Answered(position),
            Ok(weft_store::Lookup::BelowLowWater(mark)) => Lookup::BelowLowWater(mark),
            Ok(weft_store::Lookup::New) | Err(_) => Lookup::New,
        }
    }

    fn dedupe_table(&self) -> Vec<SessionRecords> {
        let records = |(session, record): (&SessionId, &SessionRecord)| SessionRecords {
            session: *session,
            low_water: record.low_water,
            operations: record.answered.iter().map(|(operation, at)| (*operation, *at)).collect(),
        };
        let table = self.store.dedupe(self.pg);
        table.map(|table| table.sessions.iter().map(records).collect()).unwrap_or_default()
    }

    fn credits_bytes(&self) -> u64 {
        // Only what the filesystem has room for. A journal that is short of room is emptied by the next checkpoint: writers
        // wait for that (see `waiting`), and must not be told that the disk is full.
        let space = self.store.space();
        space.free_bytes.saturating_sub(space.reserved_bytes)
    }

    fn journal_room_bytes(&self) -> u64 {
        room::for_clients_bytes(self.store)
    }

    fn journal_takes(&self, entries: &[Arc<Entry>]) -> usize {
        let full = self.credits_bytes() == 0;
        let checkpoints = if full { CheckpointsFree::Nothing } else { CheckpointsFree::WhatIsCommitted };
        self.store.journal_takes(entries, checkpoints)
    }

    fn has_chunk(&self, chunk: ChunkId) -> bool {
        self.store.chunk_info(self.pg, chunk).is_some()
    }

    fn chunk_digest(&self, chunk: ChunkId) -> Option<ChunkDigest> {
        self.store.chunk_info(self.pg, chunk)?;
        match self.store.block_hashes(self.pg, chunk) {
            Ok(hashes) => {
                let mut blocks = hashes.blocks;
                while blocks.last().is_some_and(Option::is_none) {
                    blocks.pop();
                }
                let health = if hashes.damaged { ChunkHealth::Damaged } else { ChunkHealth::Good };
                Some(ChunkDigest { blocks, end_bytes: hashes.end_bytes, generation: hashes.generation, health })
            }
            Err(error) => {
                tracing::warn!(pg = %self.pg, %chunk, %error, "the hashes of a chunk cannot be read");
                let generation = TruncateGeneration::default();
                Some(ChunkDigest { blocks: Vec::new(), end_bytes: 0, generation, health: ChunkHealth::Damaged })
            }
        }
    }

    fn absent_blocks(&self, chunk: ChunkId, range: BlockRange) -> u16 {
        self.store.absent_blocks(self.pg, chunk, range).unwrap_or_else(|error| {
            tracing::warn!(pg = %self.pg, %chunk, %error, "which blocks of a chunk are present cannot be read");
            range.count
        })
    }

    fn chunks_changed_since(&self, position: LogPosition) -> Changes {
        match self.store.chunks_changed_since(self.pg, position) {
            Ok(changes) => Changes {
                chunks: changes.chunks,
                removed: changes
                    .removed
                    .into_iter()
                    .map(|r| RemovedChunks { object: r.object, from: r.first })
                    .collect(),
                memory: match changes.coverage {
                    Coverage::Complete => RemovalMemory::Complete,
                    Coverage::RemovalsForgotten => RemovalMemory::Forgotten,
                },
            },
            Err(error) => {
                tracing::warn!(pg = %self.pg, %error, "cannot list what changed: every chunk is compared");
                let memory = RemovalMemory::Forgotten;
                Changes { chunks: self.chunks(), removed: Vec::new(), memory }
            }
        }
    }

    fn is_damaged(&self) -> bool {
        self.store.is_damaged(self.pg).unwrap_or(false)
    }

    fn chunks(&self) -> Vec<ChunkId> {
        self.store.chunks(self.pg).unwrap_or_default()
    }

    fn object_generation(&self, object: ObjectId) -> Option<TruncateGeneration> {
        self.store.object_generation(self.pg, object)
    }
}
