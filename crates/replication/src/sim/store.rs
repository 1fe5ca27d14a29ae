//! A disk in memory: a list of journal records, of which a prefix is durable. State is what replaying the list gives, so
//! a loss of power is a truncation.

use super::world::PG;
use crate::actions::SavedState;
use crate::events::{BadBlock, ReadOutcome, SaveTicket};
use crate::peers::ENTRY_COST_BYTES;
use crate::view::{Changes, LogUnavailable, Lookup, RemovalMemory, StoreView};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_proto::replication::{ChunkDigest, ChunkHealth, RemovedChunks, SessionRecords};
use weft_types::checksum::zero_hash;
use weft_types::{
    BLOCK_SIZE, BlockHash, BlockIndex, BlockRange, ChunkId, ChunkIndex, Effect, Entry, LogPosition, ObjectId,
    OperationId, PresentBlocks, SessionId, TruncateGeneration,
};

static ZEROS: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];

#[derive(Clone)]
enum Record {
    Append(Arc<Entry>),
    Cut(LogPosition),
    Reset { at: LogPosition, history: Vec<LogPosition> },
    Saved(SavedState, SaveTicket),
    Dedupe(Vec<SessionRecords>),
    Committed(LogPosition),
}

#[derive(Clone, Default)]
pub struct Chunk {
    pub blocks: BTreeMap<u16, (Bytes, BlockHash)>,
    pub end_bytes: u32,
    pub generation: TruncateGeneration,
    version: LogPosition,
}

/// What the records come to.
#[derive(Clone, Default)]
struct State {
    log: Vec<Arc<Entry>>,
    end: LogPosition,
    history: Vec<LogPosition>,
    saved: SavedState,
    committed: LogPosition,
    chunks: BTreeMap<ChunkId, Chunk>,
    removed: Vec<(LogPosition, RemovedChunks)>,
    generations: BTreeMap<ObjectId, TruncateGeneration>,
    dedupe: BTreeMap<SessionId, (OperationId, BTreeMap<OperationId, LogPosition>)>,
    /// Effects in order, for a cut.
    effects: Vec<Arc<Entry>>,
}

#[derive(Default)]
pub struct ModelStore {
    records: Vec<Record>,
    ends: Vec<LogPosition>,
    durable_records: usize,
    process_began: usize,
    state: State,
    start: LogPosition,
    removals_forgotten: bool,
    /// Of entries, since the last one that was called committed; and the most that it was.
    uncommitted_bytes: usize,
    pub most_uncommitted_bytes: usize,
    pub credits: u64,
    /// The journal is full with so much that is not in chunk files.
    pub journal_bytes: Option<usize>,
    /// Its checkpoints do not get on.
    pub checkpoints_hang: bool,
    /// In chunk files, as far as the journal is concerned.
    applied: LogPosition,
    /// The disk has room for so many blocks, and tells so instead of `credits`.
    pub capacity_blocks: Option<u64>,
    pub bad: BTreeSet<(ChunkId, u16)>,
    /// Nothing is known of bad blocks but that they are bad.
    pub trailers_are_lost: bool,
    /// Of these chunks nothing is known that the journal does not tell.
    pub lost_trailers: BTreeSet<ChunkId>,
}

impl ModelStore {
    pub fn new() -> Self {
        Self { credits: u64::MAX, ..Self::default() }
    }

    fn push(&mut self, record: Record) {
        self.state.apply(&record);
        let chunks = &self.state.chunks;
        self.lost_trailers.retain(|chunk| chunks.contains_key(chunk));
        self.records.push(record);
        self.ends.push(self.state.end);
    }

    /// False when the journal has no room: nothing was appended then.
    pub fn append(&mut self, entries: &[Arc<Entry>]) -> bool {
        if self.fitting(entries, self.applied) < entries.len() {
            // As a node does, while everything else waits.
            self.checkpoint();
            if self.fitting(entries, self.applied) < entries.len() {
                return false;
            }
        }
        for entry in entries {
            assert_eq!(entry.header.previous, self.state.end, "a log has no gap");
            self.uncommitted_bytes += entry.data.len();
            self.push(Record::Append(Arc::clone(entry)));
        }
        true
    }

    /// Syncs, and frees what is committed from the journal, unless the disk is full.
    pub fn checkpoint(&mut self) {
        if self.checkpoints_free() {
            self.synced(self.records.len());
            self.applied = self.state.committed;
        }
    }

    fn checkpoints_free(&self) -> bool {
        self.journal_bytes.is_some() && self.credits_bytes() > 0 && !self.checkpoints_hang
    }

    fn journal_used(&self, applied: LogPosition) -> usize {
        let unapplied = self.state.log.iter().rev().take_while(|entry| entry.header.position > applied);
        unapplied.map(|entry| journalled_bytes(entry)).sum()
    }

    fn fitting(&self, entries: &[Arc<Entry>], applied: LogPosition) -> usize {
        let Some(capacity) = self.journal_bytes else { return entries.len() };
        let mut used = self.journal_used(applied);
        let too_many = entries.iter().position(|entry| {
            used += journalled_bytes(entry);
            used > capacity
        });
        too_many.unwrap_or(entries.len())
    }

    pub fn cut(&mut self, after: LogPosition) {
        assert!(after >= self.state.committed, "cut {after} below committed {}", self.state.committed);
        self.push(Record::Cut(after));
    }

    pub fn reset(&mut self, at: LogPosition, history: Vec<LogPosition>) {
        self.push(Record::Reset { at, history });
        self.start = at;
    }

    pub fn save(&mut self, state: SavedState, ticket: SaveTicket) {
        self.push(Record::Saved(state, ticket));
    }

    pub fn replace_dedupe(&mut self, table: Vec<SessionRecords>) {
        self.push(Record::Dedupe(table));
    }

    pub fn set_committed(&mut self, position: LogPosition) {
        assert!(position <= self.state.end, "committed {position} past the end {}", self.state.end);
        self.most_uncommitted_bytes = self.most_uncommitted_bytes.max(self.uncommitted_bytes);
        if position == self.state.end {
            self.uncommitted_bytes = 0;
        }
        self.push(Record::Committed(position));
    }

    pub fn record_count(&self) -> usize {
        self.records.len()
    }

    pub fn synced(&mut self, records: usize) {
        self.durable_records = self.durable_records.max(records.min(self.records.len()));
    }

    /// A new process: tickets begin anew.
    pub fn restarted(&mut self) {
        self.process_began = self.records.len();
    }

    pub fn saved_durable(&self) -> SaveTicket {
        let began = self.process_began.min(self.durable_records);
        let last = self.records[began..self.durable_records].iter().rev().find_map(|r| match r {
            Record::Saved(_, ticket) => Some(*ticket),
            _ => None,
        });
        last.unwrap_or(SaveTicket(0))
    }

    pub fn lose_power(&mut self) {
        self.records.truncate(self.durable_records);
        self.ends.truncate(self.durable_records);
        self.replay();
    }

    fn replay(&mut self) {
        let mut state = State::default();
        for record in &self.records {
            state.apply(record);
        }
        self.state = state;
        self.start = self.start.min(self.state.end);
    }

    pub fn saved(&self) -> SavedState {
        self.state.saved
    }

    /// Checkpoint: the journal forgets what is committed and durable.
    pub fn trim(&mut self) {
        let to = self.state.committed.min(self.durable());
        if to > self.start && self.state.log.iter().any(|e| e.header.position == to) {
            self.start = to;
        }
    }

    pub fn forget_removals(&mut self) {
        self.removals_forgotten = true;
    }

    pub fn present_blocks(&self) -> u64 {
        self.state.chunks.values().map(|chunk| chunk.blocks.len() as u64).sum()
    }

    pub fn chunks_map(&self) -> &BTreeMap<ChunkId, Chunk> {
        &self.state.chunks
    }

    pub fn block(&self, chunk: ChunkId, block: u16) -> Option<(Bytes, BlockHash)> {
        self.state.chunks.get(&chunk)?.blocks.get(&block).cloned()
    }

    /// The disk has lost later writes of this block in silence.
    pub fn set_back(&mut self, chunk: ChunkId, block: u16, to: Option<(Bytes, BlockHash)>) {
        let blocks = self.state.chunks.get_mut(&chunk).map(|held| &mut held.blocks);
        if let (Some(blocks), Some(to)) = (blocks, to) {
            blocks.insert(block, to);
        }
    }

    pub fn read(&self, chunk: ChunkId, range: BlockRange) -> ReadOutcome {
        let mut bytes = BytesMut::zeroed(range.byte_len());
        let mut bad = Vec::new();
        for (at, block) in range.blocks().enumerate() {
            let held = self.state.chunks.get(&chunk).and_then(|c| c.blocks.get(&block.0));
            if self.lost_trailers.contains(&chunk) {
                bad.push(BadBlock { block, expected: None });
            } else if self.bad.contains(&(chunk, block.0)) {
                let hash = held.map(|(_, hash)| *hash).filter(|_| !self.trailers_are_lost);
                bad.push(BadBlock { block, expected: hash });
            } else if let Some((data, _)) = held {
                bytes[at * BLOCK_SIZE..(at + 1) * BLOCK_SIZE].copy_from_slice(data);
            }
        }
        ReadOutcome::Done { bytes: bytes.freeze(), bad }
    }

    pub fn repair(&mut self, chunk: ChunkId, block: BlockIndex, hash: BlockHash, bytes: &Bytes) {
        self.bad.remove(&(chunk, block.0));
        let held = self.state.chunks.get(&chunk).and_then(|c| c.blocks.get(&block.0));
        assert_eq!(held.map(|(b, h)| (b.clone(), *h)), Some((bytes.clone(), hash)), "repaired with other bytes");
    }
}

impl State {
    fn apply(&mut self, record: &Record) {
        match record {
            Record::Append(entry) => {
                self.log.push(Arc::clone(entry));
                self.move_end(entry.header.position);
                self.effects.push(Arc::clone(entry));
                self.apply_entry(entry);
            }
            Record::Cut(after) => {
                self.log.retain(|e| e.header.position <= *after);
                self.effects.retain(|e| e.header.position <= *after);
                self.history.retain(|p| p.epoch <= after.epoch);
                if let Some(last) = self.history.last_mut()
                    && *last > *after
                {
                    *last = *after;
                }
                self.end = *after;
                self.rebuild();
            }
            Record::Reset { at, history } => {
                self.log.clear();
                self.history.clone_from(history);
                self.end = *at;
                self.committed = self.committed.min(*at);
            }
            Record::Saved(state, _) => self.saved = *state,
            Record::Dedupe(table) => {
                let records = |s: &SessionRecords| (s.session, (s.low_water, s.operations.iter().copied().collect()));
                self.dedupe = table.iter().map(records).collect();
            }
            Record::Committed(position) => self.committed = self.committed.max(*position),
        }
    }

    fn move_end(&mut self, to: LogPosition) {
        self.end = to;
        match self.history.last_mut() {
            Some(last) if last.epoch == to.epoch => *last = to,
            _ => self.history.push(to),
        }
    }

    fn rebuild(&mut self) {
        self.chunks.clear();
        self.removed.clear();
        self.generations.clear();
        let dedupe = std::mem::take(&mut self.dedupe);
        for entry in std::mem::take(&mut self.effects) {
            self.apply_entry(&entry);
            self.effects.push(entry);
        }
        // Records of what was cut go; the others stay as they were, a replaced table included.
        self.dedupe = dedupe;
        let end = self.end;
        for (_, operations) in self.dedupe.values_mut() {
            operations.retain(|_, position| *position <= end);
        }
    }

    fn apply_entry(&mut self, entry: &Entry) {
        let position = entry.header.position;
        if let Some(origin) = entry.header.origin {
            let (low_water, operations) = self.dedupe.entry(origin.session).or_default();
            *low_water = (*low_water).max(origin.low_water);
            let low = *low_water;
            operations.retain(|operation, _| *operation >= low);
            operations.insert(origin.operation, position);
        }
        match &entry.header.effect {
            Effect::Nothing => {}
            Effect::Write { chunk, range, hashes, end_bytes, generation } => {
                let held = self.chunks.entry(*chunk).or_default();
                for (at, (block, hash)) in range.blocks().zip(hashes).enumerate() {
                    held.blocks.insert(block.0, (entry.data.slice(at * BLOCK_SIZE..(at + 1) * BLOCK_SIZE), *hash));
                }
                held.end_bytes = held.end_bytes.max(*end_bytes);
                held.generation = held.generation.max(*generation);
                held.version = position;
                let known = self.generations.entry(chunk.object).or_default();
                *known = (*known).max(*generation);
            }
            Effect::Discard { chunk, range, generation } => {
                if let Some(held) = self.chunks.get_mut(chunk) {
                    held.blocks.retain(|block, _| !range.contains(BlockIndex(*block)));
                    held.generation = held.generation.max(*generation);
                    held.version = position;
                }
            }
            Effect::Fill { chunk, range, generation, present, .. } => {
                let held = self.chunks.entry(*chunk).or_default();
                for block in range.blocks() {
                    let zeros = || (Bytes::from_static(&ZEROS), zero_hash(PG.volume, *chunk, block));
                    if *present == PresentBlocks::Zero {
                        held.blocks.remove(&block.0);
                    }
                    held.blocks.entry(block.0).or_insert_with(zeros);
                }
                held.generation = held.generation.max(*generation);
                held.version = position;
                let known = self.generations.entry(chunk.object).or_default();
                *known = (*known).max(*generation);
            }
            Effect::Truncate { object, keep_blocks, size_bytes, generation } => {
                let known = self.generations.entry(*object).or_default();
                *known = (*known).max(*generation);
                let per_chunk = u64::from(super::CHUNK_BLOCKS);
                for (chunk, held) in self.chunks.iter_mut().filter(|(c, _)| c.object == *object) {
                    let first = u64::from(chunk.index.0) * per_chunk;
                    held.blocks.retain(|block, _| first + u64::from(*block) < *keep_blocks);
                    let within = size_bytes.saturating_sub(first * BLOCK_SIZE as u64);
                    held.end_bytes = held.end_bytes.min(u32::try_from(within).unwrap_or(u32::MAX));
                    held.generation = held.generation.max(*generation);
                    held.version = position;
                }
            }
            Effect::DeleteObject { object } => {
                self.chunks.retain(|chunk, _| chunk.object != *object);
                self.generations.remove(object);
                self.removed.push((position, RemovedChunks { object: *object, from: ChunkIndex(0) }));
            }
            Effect::DeleteChunk { chunk } => {
                self.chunks.remove(chunk);
                self.removed.push((position, RemovedChunks { object: chunk.object, from: chunk.index }));
            }
        }
    }
}

fn journalled_bytes(entry: &Entry) -> usize {
    entry.header.effect.data_len() + ENTRY_COST_BYTES
}

impl StoreView for ModelStore {
    fn log_end(&self) -> LogPosition {
        self.state.end
    }

    fn log_start(&self) -> LogPosition {
        self.start
    }

    fn committed(&self) -> LogPosition {
        self.state.committed
    }

    fn durable(&self) -> LogPosition {
        let durable = self.durable_records.checked_sub(1).map_or(LogPosition::ZERO, |last| self.ends[last]);
        durable.min(self.state.end)
    }

    fn history(&self) -> Vec<LogPosition> {
        self.state.history.clone()
    }

    fn entries_after(&self, after: LogPosition, most: usize, _bytes: usize) -> Result<Vec<Entry>, LogUnavailable> {
        if after < self.start {
            return Err(LogUnavailable::Trimmed);
        }
        let found = self.state.log.iter().filter(|e| e.header.position > after);
        Ok(found.take(most.min(7)).map(|e| (**e).clone()).collect())
    }

    fn lookup(&self, session: SessionId, operation: OperationId) -> Lookup {
        match self.state.dedupe.get(&session) {
            Some((_, operations)) if operations.contains_key(&operation) => Lookup::Answered(operations[&operation]),
            Some((low_water, _)) if operation < *low_water => Lookup::BelowLowWater(*low_water),
            _ => Lookup::New,
        }
    }

    fn dedupe_table(&self) -> Vec<SessionRecords> {
        let record =
            |(session, (low_water, operations)): (&SessionId, &(OperationId, BTreeMap<_, _>))| SessionRecords {
                session: *session,
                low_water: *low_water,
                operations: operations.iter().map(|(o, p)| (*o, *p)).collect(),
            };
        self.state.dedupe.iter().map(record).collect()
    }

    fn credits_bytes(&self) -> u64 {
        let free = |capacity: u64| capacity.saturating_sub(self.present_blocks()) * BLOCK_SIZE as u64;
        self.capacity_blocks.map_or(self.credits, free)
    }

    fn journal_room_bytes(&self) -> u64 {
        // The rest is for what is under way.
        let room = |capacity: usize| (capacity / 5 * 3).saturating_sub(self.journal_used(self.applied)) as u64;
        self.journal_bytes.map_or(u64::MAX, room)
    }

    fn journal_takes(&self, entries: &[Arc<Entry>]) -> usize {
        self.fitting(entries, if self.checkpoints_free() { self.state.committed } else { self.applied })
    }

    fn has_chunk(&self, chunk: ChunkId) -> bool {
        self.state.chunks.contains_key(&chunk)
    }

    fn chunk_digest(&self, chunk: ChunkId) -> Option<ChunkDigest> {
        let held = self.state.chunks.get(&chunk)?;
        let blocks = held.blocks.last_key_value().map_or(0, |(last, _)| last + 1);
        Some(ChunkDigest {
            blocks: (0..blocks).map(|b| held.blocks.get(&b).map(|(_, hash)| *hash)).collect(),
            end_bytes: held.end_bytes,
            generation: held.generation,
            health: if self.lost_trailers.contains(&chunk) { ChunkHealth::Damaged } else { ChunkHealth::Good },
        })
    }

    fn is_damaged(&self) -> bool {
        self.lost_trailers.iter().any(|chunk| self.has_chunk(*chunk))
    }

    fn absent_blocks(&self, chunk: ChunkId, range: BlockRange) -> u16 {
        let held = self.state.chunks.get(&chunk);
        range.blocks().filter(|block| !held.is_some_and(|held| held.blocks.contains_key(&block.0))).count() as u16
    }

    fn chunks_changed_since(&self, position: LogPosition) -> Changes {
        let chunks = self.state.chunks.iter().filter(|(_, c)| c.version > position).map(|(id, _)| *id).collect();
        let removed = self.state.removed.iter().filter(|(p, _)| *p > position).map(|(_, r)| *r).collect();
        let memory = if self.removals_forgotten { RemovalMemory::Forgotten } else { RemovalMemory::Complete };
        Changes { chunks, removed, memory }
    }

    fn chunks(&self) -> Vec<ChunkId> {
        self.state.chunks.keys().copied().collect()
    }

    fn object_generation(&self, object: ObjectId) -> Option<TruncateGeneration> {
        self.state.generations.get(&object).copied()
    }
}
