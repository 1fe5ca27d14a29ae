//! Reading, repairing and comparing chunks: the part of the store that looks at blocks.

use crate::chunk_file::OpenChunk;
use crate::config::Mutant;
use crate::disk::{Disk, DiskFile};
use crate::error::{IoContext, Result, StoreError};
use crate::inventory::TrailerMark;
use crate::overlay::Whereabouts;
use crate::read::{BadBlock, Part, ReadJob, ReadOutcome, Source, Trust};
use crate::state::RemovedChunks;
use crate::store::Store;
use bytes::Bytes;
use serde::Serialize;
use std::sync::Arc;
use weft_types::{
    BLOCK_SIZE, BlockHash, BlockIndex, BlockRange, ChunkId, ChunkIndex, LogPosition, ObjectId, PgId,
    TruncateGeneration, block_hash, checksum::zero_hash,
};

/// Presence and hashes of a chunk's blocks, journalled ones included.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct ChunkHashes {
    /// `None`: absent (or unknown, when `damaged`).
    pub blocks: Vec<Option<BlockHash>>,
    pub version: LogPosition,
    pub generation: TruncateGeneration,
    pub end_bytes: u32,
    /// The chunk's trailer was lost. It has to be deleted and copied whole.
    pub damaged: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
pub struct ChunkInfo {
    pub version: LogPosition,
    pub generation: TruncateGeneration,
    pub end_bytes: u32,
}

/// The highest chunk of an object, and where writes ended in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ObjectEnd {
    pub chunk: ChunkIndex,
    pub end_bytes: u32,
    pub generation: TruncateGeneration,
}

/// What a delta resync has to look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changes {
    /// Chunks that exist and changed.
    pub chunks: Vec<ChunkId>,
    /// Chunks that were removed; some of them may exist again.
    pub removed: Vec<RemovedChunks>,
    pub coverage: Coverage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coverage {
    Complete,
    /// Removals that long ago are forgotten or were never known: compare all chunks of both sides.
    RemovalsForgotten,
}

/// What became of a repair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repaired {
    /// Rewritten and synced.
    Done,
    /// The bytes are not what this block should hold.
    OtherContent { expected: BlockHash },
    /// This disk does not know what the block should hold, or holds no such block.
    Unknown,
}

/// What the trailer and the journal say of one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    Content(BlockHash),
    /// Filled, or made zeros, and not in the chunk's file yet.
    Zeros,
    Nothing,
    /// The chunk's trailer was lost.
    Unknown,
}

impl<D: Disk> Store<D> {
    /// Prepares a read of a run of blocks. Cheap; reads nothing yet.
    ///
    /// # Errors
    /// When the range lies outside the chunk.
    pub fn prepare_read(&self, pg: PgId, chunk: ChunkId, range: BlockRange) -> Result<ReadJob<D>> {
        let group = self.group(pg)?;
        if range.end() > u32::from(group.chunk_size.blocks()) {
            return Err(StoreError::OutOfRange { what: "read" });
        }
        let overlay = group.overlay.get(&chunk).filter(|_| !self.config.has(Mutant::IgnoreOverlay));
        let base = group.chunks.get(&chunk);
        let mut parts: Vec<Part<D>> = Vec::new();
        for block in range.blocks() {
            let source = match overlay.map_or(Whereabouts::File, |o| o.find(block.0)) {
                Whereabouts::Journal(found) => Source::Journal {
                    segment: Arc::clone(self.journal.segment(u64::from(found.lap))),
                    lap: u64::from(found.lap),
                    offset: found.offset,
                    hashes: vec![found.hash],
                },
                Whereabouts::File | Whereabouts::FileOrZero if base.is_some() => Source::File,
                // Zeros either way.
                _ => Source::Absent,
            };
            if !parts.last_mut().is_some_and(|last| last.extend(&source)) {
                parts.push(Part { range: BlockRange::new(block, 1), source });
            }
        }
        let cache = Arc::clone(&self.cache);
        let trust = match () {
            () if self.config.has(Mutant::UnverifiedRead) => Trust::Everything,
            () if self.config.has(Mutant::DamagedIsAbsent) => Trust::Holes,
            () => Trust::Nothing,
        };
        let known = base.map_or_else(TrailerMark::default, |base| base.mark);
        Ok(ReadJob { pg, chunk, range, size: group.chunk_size, known, parts, epoch: cache.epoch(), cache, trust })
    }

    /// Reads inline, for tools and tests.
    ///
    /// # Errors
    /// As [`ReadJob::run`].
    pub fn read_now(&self, pg: PgId, chunk: ChunkId, range: BlockRange) -> Result<(Bytes, Vec<BadBlock>)> {
        loop {
            // A retry needs another thread's checkpoint to have moved on, so this ends.
            if let ReadOutcome::Done { bytes, bad } = self.prepare_read(pg, chunk, range)?.run()? {
                return Ok((bytes, bad));
            }
        }
    }

    fn open_chunk(&self, pg: PgId, chunk: ChunkId) -> Result<Option<Arc<OpenChunk<D>>>> {
        let group = self.group(pg)?;
        let Some(base) = group.chunks.get(&chunk) else { return Ok(None) };
        self.cache.open(pg, chunk, group.chunk_size, base.mark)
    }

    /// Hashes of all blocks. Reads the trailer, which may wait for the disk when the chunk is cold.
    ///
    /// # Errors
    /// When the chunk's file cannot be read.
    pub fn block_hashes(&self, pg: PgId, chunk: ChunkId) -> Result<ChunkHashes> {
        let group = self.group(pg)?;
        let mut damaged = false;
        let found = self.blocks_found(pg, chunk, BlockRange::new(BlockIndex(0), group.chunk_size.blocks()))?;
        let blocks = found.into_iter().enumerate().map(|(block, found)| match found {
            Found::Content(hash) => Some(hash),
            Found::Zeros => Some(zero_hash(pg.volume, chunk, BlockIndex(block as u16))),
            Found::Nothing => None,
            Found::Unknown => {
                damaged = true;
                None
            }
        });
        let blocks = blocks.collect();
        let summary = group.summary(chunk);
        Ok(ChunkHashes {
            blocks,
            version: summary.version,
            generation: summary.generation,
            end_bytes: summary.end_bytes,
            damaged,
        })
    }

    /// How many blocks of a range are absent, journalled changes taken into account. Unknown ones count as absent. May wait
    /// for the disk as `block_hashes` does.
    ///
    /// # Errors
    /// When the chunk's file cannot be read.
    pub fn absent_blocks(&self, pg: PgId, chunk: ChunkId, range: BlockRange) -> Result<u16> {
        let found = self.blocks_found(pg, chunk, range)?;
        Ok(found.iter().filter(|found| matches!(found, Found::Nothing | Found::Unknown)).count() as u16)
    }

    /// Which blocks of a chunk are present, without their hashes. Unknown ones count: they are no holes, and who reads them is told.
    ///
    /// # Errors
    /// When the chunk's file cannot be read.
    pub fn present_blocks(&self, pg: PgId, chunk: ChunkId) -> Result<Vec<bool>> {
        let whole = BlockRange::new(BlockIndex(0), self.group(pg)?.chunk_size.blocks());
        let found = self.blocks_found(pg, chunk, whole)?;
        Ok(found.iter().map(|found| !matches!(found, Found::Nothing)).collect())
    }

    /// What is known of each block of a range.
    fn blocks_found(&self, pg: PgId, chunk: ChunkId, range: BlockRange) -> Result<Vec<Found>> {
        let group = self.group(pg)?;
        let trailer = self.open_chunk(pg, chunk)?.map(|open| open.trailer());
        let lost = trailer.is_none() && group.chunks.contains_key(&chunk);
        let unknown = lost || trailer.as_ref().is_some_and(|t| t.damaged);
        let overlay = group.overlay.get(&chunk);
        let in_file = |block: u16, otherwise: Found| {
            let hash = trailer.as_ref().and_then(|t| t.hashes.get(usize::from(block)).copied().flatten());
            hash.map_or(if unknown { Found::Unknown } else { otherwise }, Found::Content)
        };
        let found = range.blocks().map(|block| match overlay.map_or(Whereabouts::File, |o| o.find(block.0)) {
            Whereabouts::Journal(found) => Found::Content(found.hash),
            Whereabouts::Absent => Found::Nothing,
            Whereabouts::Zero => Found::Zeros,
            Whereabouts::FileOrZero => in_file(block.0, Found::Zeros),
            Whereabouts::File => in_file(block.0, Found::Nothing),
        });
        Ok(found.collect())
    }

    /// Rewrites a bad block in place and syncs it. Blocking.
    ///
    /// # Errors
    /// When the write or its sync fails; a failed sync poisons the disk.
    pub fn repair_block(&mut self, pg: PgId, chunk: ChunkId, block: BlockIndex, bytes: &[u8]) -> Result<Repaired> {
        self.check()?;
        let group = self.group(pg)?;
        if bytes.len() != BLOCK_SIZE || block.0 >= group.chunk_size.blocks() {
            return Err(StoreError::OutOfRange { what: "repair" });
        }
        let hash = block_hash(pg.volume, chunk, block, bytes);
        let written = match group.overlay.get(&chunk).map_or(Whereabouts::File, |o| o.find(block.0)) {
            // Nothing is stored that could be bad.
            Whereabouts::Absent | Whereabouts::Zero => return Ok(Repaired::Unknown),
            Whereabouts::Journal(found) if found.hash != hash => {
                return Ok(Repaired::OtherContent { expected: found.hash });
            }
            Whereabouts::Journal(found) => {
                let file = &self.journal.segment(u64::from(found.lap)).file;
                file.write_at(bytes, u64::from(found.offset)).during("repairing a block").map(|()| file.sync_data())
            }
            Whereabouts::File | Whereabouts::FileOrZero => {
                let Some(open) = self.open_chunk(pg, chunk)? else { return Ok(Repaired::Unknown) };
                match open.trailer().hashes.get(usize::from(block.0)).copied().flatten() {
                    None => return Ok(Repaired::Unknown),
                    Some(expected) if expected != hash => return Ok(Repaired::OtherContent { expected }),
                    Some(_) => {}
                }
                let offset = u64::from(block.0) * BLOCK_SIZE as u64;
                open.file.write_at(bytes, offset).during("repairing a block").map(|()| open.file.sync_data())
            }
        };
        match written? {
            Ok(()) => Ok(Repaired::Done),
            Err(error) => Err(self.poison(format!("sync after a repair failed: {error}"))),
        }
    }

    /// All chunks that exist, journalled ones included, in order.
    ///
    /// # Errors
    /// When there is no such replica.
    pub fn chunks(&self, pg: PgId) -> Result<Vec<ChunkId>> {
        self.changed(pg, |_| true)
    }

    fn changed(&self, pg: PgId, wanted: impl Fn(LogPosition) -> bool) -> Result<Vec<ChunkId>> {
        let group = self.group(pg)?;
        let in_files = group.chunks.keys().filter(|chunk| !group.overlay.contains_key(chunk));
        let mut out: Vec<ChunkId> = in_files.chain(group.overlay.keys()).copied().collect();
        out.retain(|chunk| {
            let summary = group.summary(*chunk);
            summary.exists && wanted(summary.version)
        });
        out.sort_unstable();
        Ok(out)
    }

    /// What changed behind a position (design 5.7).
    ///
    /// # Errors
    /// When there is no such replica.
    pub fn chunks_changed_since(&self, pg: PgId, since: LogPosition) -> Result<Changes> {
        let group = self.group(pg)?;
        let removed = group.removed.iter().filter(|r| r.position > since).copied().collect();
        let forgotten = since < group.removed_floor;
        let coverage = if forgotten { Coverage::RemovalsForgotten } else { Coverage::Complete };
        let mut chunks = self.changed(pg, |version| version > since)?;
        // Nobody knows when these changed.
        let lost = self.cache.lost_of(pg).into_iter().filter(|chunk| group.summary(*chunk).exists);
        chunks.extend(lost.filter(|chunk| chunks.binary_search(chunk).is_err()).collect::<Vec<_>>());
        chunks.sort_unstable();
        Ok(Changes { chunks, removed, coverage })
    }

    /// Whether blocks of some chunk are unknown, because its trailers were lost. May wait for the disk, but only then.
    ///
    /// # Errors
    /// When there is no such replica.
    pub fn is_damaged(&self, pg: PgId) -> Result<bool> {
        let group = self.group(pg)?;
        for chunk in self.cache.lost_of(pg) {
            let exists = group.summary(chunk).exists;
            // One that cannot be read is no better. The first tells enough: this is asked with every message.
            if exists && self.block_hashes(pg, chunk).map_or(true, |hashes| hashes.damaged) {
                return Ok(true);
            }
            // What the journal says of it may still be cut.
            if !group.overlay.contains_key(&chunk) {
                self.cache.found_again(pg, chunk);
            }
        }
        Ok(false)
    }

    /// Attributes of a chunk; `None` when it does not exist.
    #[must_use]
    pub fn chunk_info(&self, pg: PgId, chunk: ChunkId) -> Option<ChunkInfo> {
        let summary = self.groups.get(&pg)?.summary(chunk);
        summary.exists.then_some(ChunkInfo {
            version: summary.version,
            generation: summary.generation,
            end_bytes: summary.end_bytes,
        })
    }

    /// The end of the highest chunk of an object that has one.
    #[must_use]
    pub fn object_end(&self, pg: PgId, object: ObjectId) -> Option<ObjectEnd> {
        let group = self.groups.get(&pg)?;
        group.existing_chunks(object).into_iter().rev().find_map(|chunk| {
            let summary = group.summary(chunk);
            (summary.end_bytes > 0).then_some(ObjectEnd {
                chunk: chunk.index,
                end_bytes: summary.end_bytes,
                generation: summary.generation,
            })
        })
    }

    /// The latest truncate generation that the group knows of an object; `None` when it holds no chunk of it. Asked once
    /// per write, so it looks at one chunk only: a truncation reaches every chunk that exists and later writes carry its
    /// generation, so all of them agree.
    #[must_use]
    pub fn object_generation(&self, pg: PgId, object: ObjectId) -> Option<TruncateGeneration> {
        let group = self.groups.get(&pg)?;
        let first = ChunkId { object, index: ChunkIndex(0) };
        let last = ChunkId { object, index: ChunkIndex(u32::MAX) };
        let in_files = group.chunks.range(first..=last).map(|(chunk, _)| *chunk);
        let in_journal = group.overlay.range(first..=last).map(|(chunk, _)| *chunk);
        let existing = |chunk: ChunkId| Some(group.summary(chunk)).filter(|summary| summary.exists);
        in_files.chain(in_journal).find_map(existing).map(|summary| summary.generation)
    }

    /// Blocks of an object that are present. Reads trailers of chunks with journalled changes.
    ///
    /// # Errors
    /// When a trailer cannot be read.
    pub fn allocated_blocks(&self, pg: PgId, object: ObjectId) -> Result<u64> {
        let group = self.group(pg)?;
        let mut total = 0;
        for chunk in group.existing_chunks(object) {
            total += if group.overlay.contains_key(&chunk) {
                self.present_blocks(pg, chunk)?.into_iter().filter(|present| *present).count() as u64
            } else {
                group.chunks.get(&chunk).map_or(0, |base| u64::from(base.present))
            };
        }
        Ok(total)
    }
}

impl<D: Disk> Part<D> {
    /// Takes the next block into this part if it continues it.
    fn extend(&mut self, next: &Source<D>) -> bool {
        let count = usize::from(self.range.count);
        let continues = match (&mut self.source, next) {
            (Source::Absent, Source::Absent) | (Source::File, Source::File) => true,
            (
                Source::Journal { lap, offset, hashes, .. },
                Source::Journal { lap: next_lap, offset: next_offset, hashes: next_hashes, .. },
            ) if lap == next_lap && *offset as usize + count * BLOCK_SIZE == *next_offset as usize => {
                hashes.extend_from_slice(next_hashes);
                true
            }
            _ => false,
        };
        if continues {
            self.range.count += 1;
        }
        continues
    }
}
