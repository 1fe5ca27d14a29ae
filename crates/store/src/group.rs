//! One placement group on this disk: its log's index, its overlay, its chunks, its state.
//!
//! Responsible for: keeping the four consistent when entries are appended, cut, committed and applied. Guarantees: pure
//! memory; the caller journals first and calls here afterwards. Must not know: files, the journal's layout.

use crate::chunk_file::Trailer;
use crate::inventory::TrailerMark;
use crate::overlay::{ChunkOverlay, JournalBlock, Summary};
use crate::state::{DedupeTable, GroupSnapshot, JournalPosition, MAX_REMOVED_PER_GROUP, RemovedChunks, ReplicaState};
use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use weft_types::limits::MAX_HISTORY_EPOCHS;
use weft_types::{
    BLOCK_SIZE, BlockRange, ChunkId, ChunkIndex, ChunkSize, Effect, EntryHeader, LogPosition, ObjectId, PgId,
};

/// Where an entry lies and what it touches, without its data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryRef {
    pub position: LogPosition,
    pub object: ObjectId,
    pub lap: u32,
    pub offset: u32,
    pub index: ChunkIndex,
    pub range: BlockRange,
    /// Bytes of the record before its data.
    pub data_at: u16,
    pub kind: EffectKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EffectKind {
    Nothing,
    Write,
    Discard,
    Truncate,
    DeleteObject,
    DeleteChunk,
    Fill,
}

impl EntryRef {
    pub(crate) fn new(header: &EntryHeader, at: JournalPosition, data_at: u32) -> Self {
        let none = ChunkId { object: ObjectId(0), index: ChunkIndex(0) };
        let (kind, chunk, range) = match &header.effect {
            Effect::Nothing => (EffectKind::Nothing, none, BlockRange::default()),
            Effect::Write { chunk, range, .. } => (EffectKind::Write, *chunk, *range),
            Effect::Discard { chunk, range, .. } => (EffectKind::Discard, *chunk, *range),
            Effect::Truncate { object, .. } => {
                (EffectKind::Truncate, ChunkId { object: *object, ..none }, BlockRange::default())
            }
            Effect::DeleteObject { object } => {
                (EffectKind::DeleteObject, ChunkId { object: *object, ..none }, BlockRange::default())
            }
            Effect::DeleteChunk { chunk } => (EffectKind::DeleteChunk, *chunk, BlockRange::default()),
            Effect::Fill { chunk, range, .. } => (EffectKind::Fill, *chunk, *range),
        };
        Self {
            position: header.position,
            object: chunk.object,
            lap: at.lap as u32,
            offset: at.offset,
            index: chunk.index,
            range,
            data_at: data_at as u16,
            kind,
        }
    }

    pub(crate) const fn chunk(&self) -> ChunkId {
        ChunkId { object: self.object, index: self.index }
    }

    pub(crate) const fn at(&self) -> JournalPosition {
        JournalPosition { lap: self.lap as u64, offset: self.offset }
    }

    pub(crate) const fn data_offset(&self) -> u32 {
        self.offset + self.data_at as u32
    }

    /// Bytes of the data that follow the header and the body.
    pub(crate) fn range_bytes(&self) -> usize {
        if self.kind == EffectKind::Write { self.range.byte_len() } else { 0 }
    }
}

/// A chunk file's attributes, in memory for every chunk (64 bytes with its key and the map's share).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ChunkBase {
    pub version: LogPosition,
    pub generation: weft_types::TruncateGeneration,
    pub end_bytes: u32,
    pub present: u32,
    /// The trailer that its file had last.
    pub mark: TrailerMark,
}

pub(crate) struct Group {
    pub pg: PgId,
    /// Tells this replica from one of the same group that was removed before.
    pub birth: u64,
    pub chunk_size: ChunkSize,
    pub entries: VecDeque<EntryRef>,
    /// Some entries were copied forward: their laps are out of order.
    pub has_relocated: bool,
    pub start: LogPosition,
    pub end: LogPosition,
    pub committed: LogPosition,
    pub committed_journalled: LogPosition,
    pub applied: LogPosition,
    pub durable: LogPosition,
    /// What the running sync will have made durable, as far as it was not cut since.
    pub syncing: LogPosition,
    /// The same for the sync inside the running checkpoint.
    pub checkpointing: LogPosition,
    pub history: Vec<LogPosition>,
    pub state: ReplicaState,
    pub dedupe: DedupeTable,
    pub removed: Vec<RemovedChunks>,
    pub removed_floor: LogPosition,
    pub chunks: BTreeMap<ChunkId, ChunkBase>,
    pub overlay: BTreeMap<ChunkId, ChunkOverlay>,
    /// Room that chunk files have yet to take for fills, and new ones for themselves, by entry, in log order.
    pub fills: VecDeque<(LogPosition, u64)>,
}

impl Group {
    pub(crate) fn new(pg: PgId, birth: u64, chunk_size: ChunkSize, snapshot: GroupSnapshot) -> Self {
        Self {
            pg,
            birth,
            chunk_size,
            entries: VecDeque::new(),
            has_relocated: false,
            start: snapshot.start,
            end: snapshot.end,
            committed: snapshot.committed,
            committed_journalled: snapshot.committed,
            applied: snapshot.applied,
            durable: snapshot.end,
            syncing: snapshot.end,
            checkpointing: snapshot.end,
            history: snapshot.history,
            state: snapshot.state,
            dedupe: snapshot.dedupe,
            removed: snapshot.removed,
            removed_floor: snapshot.removed_floor,
            chunks: BTreeMap::new(),
            overlay: BTreeMap::new(),
            fills: VecDeque::new(),
        }
    }

    pub(crate) fn snapshot(&self) -> GroupSnapshot {
        GroupSnapshot {
            state: self.state.clone(),
            start: self.start,
            end: self.end,
            committed: self.committed,
            applied: self.applied,
            history: self.history.clone(),
            dedupe: self.dedupe.clone(),
            removed: self.removed.clone(),
            removed_floor: self.removed_floor,
        }
    }

    /// Takes an entry into the log and everything that derives from it.
    pub(crate) fn append(&mut self, header: &EntryHeader, at: JournalPosition, data_at: u32) {
        self.append_log(header);
        let entry = EntryRef::new(header, at, data_at);
        self.entries.push_back(entry);
        self.overlay_entry(header, &entry);
    }

    /// What an entry changes apart from blocks: end, history, dedupe, removals.
    pub(crate) fn append_log(&mut self, header: &EntryHeader) {
        self.end = header.position;
        self.note_history(header.position);
        if let Some(origin) = &header.origin {
            self.dedupe.note(origin, header.position);
        }
        let removed = |object: ObjectId, range: RangeInclusive<u32>| RemovedChunks {
            position: header.position,
            object,
            first: ChunkIndex(*range.start()),
            last: ChunkIndex(*range.end()),
        };
        match &header.effect {
            Effect::DeleteObject { object } => self.removed.push(removed(*object, 0..=u32::MAX)),
            Effect::DeleteChunk { chunk } => self.removed.push(removed(chunk.object, chunk.index.0..=chunk.index.0)),
            Effect::Truncate { object, keep_blocks, .. } => {
                let first = keep_blocks.div_ceil(u64::from(self.chunk_size.blocks()));
                if let Ok(first) = u32::try_from(first) {
                    self.removed.push(removed(*object, first..=u32::MAX));
                }
            }
            Effect::Nothing | Effect::Write { .. } | Effect::Discard { .. } | Effect::Fill { .. } => {}
        }
        if self.removed.len() > MAX_REMOVED_PER_GROUP {
            let drop = self.removed.len() - MAX_REMOVED_PER_GROUP;
            if let Some(last) = self.removed.drain(..drop).next_back() {
                self.removed_floor = self.removed_floor.max(last.position);
            }
        }
    }

    fn note_history(&mut self, position: LogPosition) {
        match self.history.last_mut() {
            Some(last) if last.epoch == position.epoch => *last = position,
            _ => self.history.push(position),
        }
        if self.history.len() > MAX_HISTORY_EPOCHS {
            self.history.remove(0);
        }
    }

    fn base_summary(&self, chunk: ChunkId) -> Summary {
        self.chunks.get(&chunk).map_or_else(Summary::default, |base| Summary {
            version: base.version,
            generation: base.generation,
            end_bytes: base.end_bytes,
            exists: true,
        })
    }

    fn overlay_of(&mut self, chunk: ChunkId) -> &mut ChunkOverlay {
        let base = self.base_summary(chunk);
        self.overlay.entry(chunk).or_insert_with(|| ChunkOverlay::new(base))
    }

    /// Shows an entry's blocks in the overlay.
    pub(crate) fn overlay_entry(&mut self, header: &EntryHeader, entry: &EntryRef) {
        let position = header.position;
        match &header.effect {
            Effect::Nothing => {}
            Effect::Write { chunk, range, hashes, end_bytes, generation } => {
                // Its data count with the journal. A file that is not there yet takes more than they: many small ones are
                // several times of what the journal has of them.
                if !self.summary(*chunk).exists {
                    self.fills.push_back((position, new_file_bytes(self.chunk_size)));
                }
                let overlay = self.overlay_of(*chunk);
                for (at, (block, hash)) in range.blocks().zip(hashes).enumerate() {
                    let offset = entry.data_offset() + (at * BLOCK_SIZE) as u32;
                    overlay.put(block.0, JournalBlock { position, hash: *hash, lap: entry.lap, offset });
                }
                overlay.summary.write(position, *generation, *end_bytes);
            }
            Effect::Discard { chunk, range, generation } => {
                // Nothing to discard of a chunk that does not exist.
                if self.summary(*chunk).exists {
                    let overlay = self.overlay_of(*chunk);
                    overlay.clear(position, u32::from(range.first.0), range.end());
                    overlay.summary.discard(position, *generation);
                }
            }
            Effect::Fill { chunk, range, generation, present, .. } => {
                let file = if self.summary(*chunk).exists { 0 } else { new_file_bytes(self.chunk_size) };
                self.fills.push_back((position, header.effect.filled_bytes() as u64 + file));
                let overlay = self.overlay_of(*chunk);
                overlay.fill(position, u32::from(range.first.0), range.end(), *present);
                overlay.summary.fill(position, *generation);
            }
            Effect::Truncate { object, keep_blocks, size_bytes, generation } => {
                for chunk in self.existing_chunks(*object) {
                    let keep = keep_in_chunk(*keep_blocks, chunk, self.chunk_size);
                    let end = end_in_chunk(*size_bytes, chunk, self.chunk_size);
                    let blocks = u32::from(self.chunk_size.blocks());
                    let overlay = self.overlay_of(chunk);
                    overlay.clear(position, keep, blocks);
                    if keep == 0 {
                        overlay.summary.delete(position);
                    } else {
                        overlay.summary.truncate(position, *generation, end);
                    }
                }
            }
            Effect::DeleteObject { object } => {
                for chunk in self.existing_chunks(*object) {
                    self.overlay_delete(chunk, position);
                }
            }
            Effect::DeleteChunk { chunk } => {
                if self.summary(*chunk).exists {
                    self.overlay_delete(*chunk, position);
                }
            }
        }
    }

    fn overlay_delete(&mut self, chunk: ChunkId, position: LogPosition) {
        let blocks = u32::from(self.chunk_size.blocks());
        let overlay = self.overlay_of(chunk);
        overlay.clear(position, 0, blocks);
        overlay.summary.delete(position);
    }

    /// Chunks of an object, journalled ones included.
    pub(crate) fn existing_chunks(&self, object: ObjectId) -> Vec<ChunkId> {
        let first = ChunkId { object, index: ChunkIndex(0) };
        let last = ChunkId { object, index: ChunkIndex(u32::MAX) };
        let mut out: Vec<ChunkId> = self.chunks.range(first..=last).map(|(c, _)| *c).collect();
        out.extend(self.overlay.range(first..=last).map(|(c, _)| *c));
        out.sort_unstable();
        out.dedup();
        out.retain(|c| self.summary(*c).exists);
        out
    }

    /// Attributes of a chunk, journalled entries included.
    pub(crate) fn summary(&self, chunk: ChunkId) -> Summary {
        self.overlay.get(&chunk).map_or_else(|| self.base_summary(chunk), |overlay| overlay.summary)
    }

    /// Index of the first entry behind a position.
    pub(crate) fn first_after(&self, position: LogPosition) -> usize {
        match self.entries.back() {
            // The usual answer for a group at rest, and all of a disk's groups are asked several times a second.
            Some(last) if last.position > position => self.entries.partition_point(|e| e.position <= position),
            _ => self.entries.len(),
        }
    }

    /// Whether a position lies on this log, by the history: every epoch's last position is known.
    pub(crate) fn contains(&self, position: LogPosition) -> bool {
        if position == LogPosition::ZERO {
            return true;
        }
        let at = self.history.partition_point(|last| last.epoch < position.epoch);
        let Some(last) = self.history.get(at).filter(|last| last.epoch == position.epoch) else { return false };
        let before = at.checked_sub(1).and_then(|b| self.history.get(b));
        position.sequence <= last.sequence && before.is_none_or(|b| position.sequence > b.sequence)
    }

    /// Forgets the log after a position. The overlay has to be rebuilt by the caller.
    pub(crate) fn cut_log(&mut self, after: LogPosition) {
        while self.entries.back().is_some_and(|e| e.position > after) {
            self.entries.pop_back();
        }
        self.end = after;
        self.start = self.start.min(after);
        self.durable = self.durable.min(after);
        self.syncing = self.syncing.min(after);
        self.checkpointing = self.checkpointing.min(after);
        while self.history.last().is_some_and(|last| *last > after) {
            self.history.pop();
        }
        if after != LogPosition::ZERO && self.history.last().is_none_or(|last| *last < after) {
            self.note_history(after);
        }
        self.dedupe.cut(after);
        self.removed.retain(|r| r.position <= after);
    }

    /// Lets the log go on elsewhere. What it holds counts as committed and is still applied.
    pub(crate) fn reset_log(&mut self, at: LogPosition, history: Vec<LogPosition>) {
        self.committed = self.end.max(at);
        self.start = at;
        self.end = at;
        self.durable = self.durable.min(at);
        self.syncing = self.syncing.min(at);
        self.checkpointing = self.checkpointing.min(at);
        self.history = history;
        while self.history.last().is_some_and(|last| *last > at) {
            self.history.pop();
        }
        if at != LogPosition::ZERO && self.history.last().is_none_or(|last| *last < at) {
            self.note_history(at);
        }
    }

    /// A copy that is complete now has taken over what others had, and knows of what came until now only what that changed here: a
    /// chunk that went meanwhile and never was here left no trace, in what was copied nor in the log that it followed beside it, nor
    /// did one that was written back to what it was. So it has nothing to tell to whoever parted from the log before.
    pub(crate) fn forget_until_complete(&mut self) {
        self.removed_floor = self.removed_floor.max(self.end);
    }

    /// Drops entries whose segment may be overwritten.
    pub(crate) fn drop_before_lap(&mut self, lap: u64) {
        // Entries that were copied forward may stand before ones that were not; the log has to stay contiguous, so it
        // begins behind the last entry that goes.
        let gone = |e: &EntryRef| u64::from(e.lap) < lap;
        let applied = self.first_after(self.applied);
        let drop = if self.has_relocated {
            self.entries.range(..applied).rposition(gone).map_or(0, |last| last + 1)
        } else {
            self.entries.range(..applied).take_while(|e| gone(e)).count()
        };
        if let Some(last) = self.entries.drain(..drop).next_back() {
            self.start = self.start.max(last.position);
        }
        self.note_order();
    }

    /// Finds out whether laps rise along the log.
    pub(crate) fn note_order(&mut self) {
        if self.has_relocated {
            let laps = self.entries.iter().map(|e| e.lap);
            self.has_relocated = laps.clone().zip(laps.skip(1)).any(|(a, b)| a > b);
        }
    }

    /// Drops the oldest entry if it is applied.
    pub(crate) fn drop_applied_front(&mut self) -> bool {
        let Some(front) = self.entries.front().copied().filter(|e| e.position <= self.applied) else { return false };
        self.start = self.start.max(front.position);
        self.entries.pop_front();
        true
    }

    /// Chunks of an object that have a file.
    pub(crate) fn chunks_in_files(&self, object: ObjectId) -> Vec<ChunkId> {
        let first = ChunkId { object, index: ChunkIndex(0) };
        let last = ChunkId { object, index: ChunkIndex(u32::MAX) };
        self.chunks.range(first..=last).map(|(chunk, _)| *chunk).collect()
    }

    /// Follows an entry that was copied forward.
    pub(crate) fn relocate(&mut self, position: LogPosition, at: JournalPosition) {
        let Ok(found) = self.entries.binary_search_by_key(&position, |e| e.position) else { return };
        let Some(entry) = self.entries.get_mut(found) else { return };
        entry.lap = at.lap as u32;
        entry.offset = at.offset;
        let entry = *entry;
        self.has_relocated = true;
        if entry.kind == EffectKind::Write
            && let Some(overlay) = self.overlay.get_mut(&entry.chunk())
        {
            overlay.relocate(position, entry.range, entry.lap, entry.data_offset());
        }
    }

    /// Bytes that fills and new files have yet to take.
    pub(crate) fn fills_owed(&self) -> u64 {
        self.fills.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Drops from the overlay what is in chunk files now.
    pub(crate) fn forget_applied_overlay(&mut self) {
        let applied = self.applied;
        self.fills.retain(|(position, _)| *position > applied);
        self.overlay.retain(|_, overlay| {
            overlay.applied(applied);
            !overlay.is_empty() || overlay.summary.version > applied
        });
    }

    /// The earliest lap that holds an entry not yet applied.
    pub(crate) fn pinned_lap(&self, applied: LogPosition) -> Option<u64> {
        let mut unapplied = self.entries.range(self.first_after(applied)..).map(|e| u64::from(e.lap));
        // Laps rise along the log unless entries were copied forward.
        if self.has_relocated { unapplied.min() } else { unapplied.next() }
    }
}

/// What a new chunk file takes besides its blocks: both trailer slots, and what the filesystem knows of it.
const fn new_file_bytes(size: ChunkSize) -> u64 {
    2 * Trailer::slot_bytes(size) + BLOCK_SIZE as u64
}

/// Blocks of one chunk that a truncation keeps.
pub(crate) fn keep_in_chunk(keep_blocks: u64, chunk: ChunkId, size: ChunkSize) -> u32 {
    let per_chunk = u64::from(size.blocks());
    keep_blocks.saturating_sub(u64::from(chunk.index.0) * per_chunk).min(per_chunk) as u32
}

/// Bytes of one chunk below a file size.
pub(crate) fn end_in_chunk(size_bytes: u64, chunk: ChunkId, size: ChunkSize) -> u32 {
    let per_chunk = u64::from(size.bytes());
    size_bytes.saturating_sub(u64::from(chunk.index.0) * per_chunk).min(per_chunk) as u32
}
