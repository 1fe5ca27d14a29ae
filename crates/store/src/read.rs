//! Reading blocks: from the journal where they are not applied yet, from chunk files otherwise; every block verified.
//!
//! Responsible for: [`ReadJob`]. Guarantees: a block is returned only if it has the hash that belongs to its address;
//! others are listed. Nothing blocks the journal or the checkpoint: a job that lost a race against one of them notices
//! and says [`ReadOutcome::Retry`]. Must not know: replication, repair.

use crate::chunk_file::{ChunkCache, OpenChunk};
use crate::disk::{Disk, DiskFile};
use crate::error::{IoContext, Result};
use crate::inventory::TrailerMark;
use crate::journal::Segment;
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use weft_types::{BLOCK_SIZE, BlockHash, BlockIndex, BlockRange, ChunkId, ChunkSize, PgId, block_hash};

/// A prepared read. Cheap to make, may run on any thread, may run more than once.
pub struct ReadJob<D: Disk> {
    pub(crate) pg: PgId,
    pub(crate) chunk: ChunkId,
    pub(crate) range: BlockRange,
    pub(crate) size: ChunkSize,
    /// The trailer that the chunk's file had last.
    pub(crate) known: TrailerMark,
    pub(crate) parts: Vec<Part<D>>,
    pub(crate) cache: Arc<ChunkCache<D>>,
    /// Of the cache, when the job was prepared.
    pub(crate) epoch: u64,
    pub(crate) trust: Trust,
}

/// What is believed without proof: more than nothing only with a planted bug.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    Nothing,
    /// A block that no trailer names is absent.
    Holes,
    /// A block is what was written there.
    Everything,
}

/// A run of blocks with one kind of source.
pub(crate) struct Part<D: Disk> {
    pub range: BlockRange,
    pub source: Source<D>,
}

pub(crate) enum Source<D: Disk> {
    Absent,
    File,
    Journal { segment: Arc<Segment<D::File>>, lap: u64, offset: u32, hashes: Vec<BlockHash> },
}

/// What a read found.
#[derive(Clone, Debug)]
pub enum ReadOutcome {
    /// The blocks, zeros where absent and where bad.
    Done { bytes: Bytes, bad: Vec<BadBlock> },
    /// The checkpoint moved the blocks meanwhile: prepare the read again.
    Retry,
}

/// A block that did not verify or could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadBlock {
    pub block: BlockIndex,
    /// The hash it should have; `None` when that is lost too.
    pub expected: Option<BlockHash>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Allowed,
    Refused,
}

enum Step {
    Continue,
    Retry,
    WouldBlock,
}

impl<D: Disk> ReadJob<D> {
    /// Reads without waiting for the disk. `None`: it would have to; call [`ReadJob::run`] on a thread that may wait.
    pub fn try_now(&self) -> Option<Result<ReadOutcome>> {
        self.execute(Waiting::Refused).transpose()
    }

    /// Reads, waiting for the disk.
    ///
    /// # Errors
    /// When a file cannot be opened. Blocks that cannot be read are no error but listed as bad.
    pub fn run(&self) -> Result<ReadOutcome> {
        Ok(self.execute(Waiting::Allowed)?.unwrap_or(ReadOutcome::Retry))
    }

    fn execute(&self, waiting: Waiting) -> Result<Option<ReadOutcome>> {
        let mut bytes = vec![0u8; self.range.byte_len()];
        let mut bad = Vec::new();
        let mut open = None;
        for part in &self.parts {
            let from = (u32::from(part.range.first.0) - u32::from(self.range.first.0)) as usize * BLOCK_SIZE;
            let buffer = &mut bytes[from..from + part.range.byte_len()];
            let step = match &part.source {
                Source::Absent => Step::Continue,
                Source::Journal { segment, lap, offset, hashes } => {
                    let moved = || segment.lap.load(Ordering::Acquire) != *lap;
                    let hash = |at: usize| hashes.get(at).copied();
                    self.read_verified(
                        &segment.file,
                        part.range,
                        u64::from(*offset),
                        buffer,
                        waiting,
                        &hash,
                        &moved,
                        &mut bad,
                    )
                }
                Source::File => {
                    if open.is_none() {
                        open = match waiting {
                            Waiting::Refused => self.cache.get(self.pg, self.chunk),
                            Waiting::Allowed => self.cache.open(self.pg, self.chunk, self.size, self.known)?,
                        };
                    }
                    match (&open, waiting) {
                        (Some(open), _) => self.read_file(open, part.range, buffer, waiting, &mut bad),
                        (None, Waiting::Refused) => Step::WouldBlock,
                        (None, Waiting::Allowed) if self.cache.epoch() != self.epoch => Step::Retry,
                        (None, Waiting::Allowed) => {
                            bad.extend(part.range.blocks().map(|block| BadBlock { block, expected: None }));
                            Step::Continue
                        }
                    }
                }
            };
            match step {
                Step::Continue => {}
                Step::Retry => return Ok(Some(ReadOutcome::Retry)),
                Step::WouldBlock => return Ok(None),
            }
        }
        Ok(Some(ReadOutcome::Done { bytes: Bytes::from(bytes), bad }))
    }

    fn read_file(
        &self,
        open: &OpenChunk<D>,
        range: BlockRange,
        buffer: &mut [u8],
        waiting: Waiting,
        bad: &mut Vec<BadBlock>,
    ) -> Step {
        let trailer = open.trailer();
        let moved = || self.cache.epoch() != self.epoch;
        let hash_of = |block: BlockIndex| trailer.hashes.get(usize::from(block.0)).copied().flatten();
        let mut at = u32::from(range.first.0);
        while at < range.end() {
            let first = BlockIndex(at as u16);
            let present = hash_of(first).is_some();
            let mut count = 1;
            while at + count < range.end() && hash_of(BlockIndex((at + count) as u16)).is_some() == present {
                count += 1;
            }
            let run = BlockRange::new(first, count as u16);
            if present {
                let from = (at - u32::from(range.first.0)) as usize * BLOCK_SIZE;
                let buffer = &mut buffer[from..from + run.byte_len()];
                let hash = |i: usize| hash_of(BlockIndex((at as usize + i) as u16));
                let offset = u64::from(at) * BLOCK_SIZE as u64;
                let step = self.read_verified(&open.file, run, offset, buffer, waiting, &hash, &moved, bad);
                if !matches!(step, Step::Continue) {
                    return step;
                }
            } else if trailer.damaged && self.trust != Trust::Holes {
                bad.extend(run.blocks().map(|block| BadBlock { block, expected: None }));
            }
            at += count;
        }
        Step::Continue
    }

    /// Reads a run of blocks and checks each of them.
    #[expect(clippy::too_many_arguments, reason = "one private loop, three callers' worth of context")]
    fn read_verified(
        &self,
        file: &D::File,
        range: BlockRange,
        offset: u64,
        buffer: &mut [u8],
        waiting: Waiting,
        hash: &dyn Fn(usize) -> Option<BlockHash>,
        moved: &dyn Fn() -> bool,
        bad: &mut Vec<BadBlock>,
    ) -> Step {
        let got = match waiting {
            Waiting::Refused => match file.try_read_at(buffer, offset) {
                Ok(Some(got)) => Ok(got),
                // An error is met again, and told apart block by block, where waiting is allowed.
                Ok(None) | Err(_) => return Step::WouldBlock,
            },
            Waiting::Allowed => file.read_at(buffer, offset),
        };
        let whole_run_failed = match got {
            Ok(got) => {
                buffer[got..].fill(0);
                false
            }
            Err(error) => {
                tracing::warn!(%error, pg = %self.pg, chunk = %self.chunk, "a read failed; trying block by block");
                true
            }
        };
        for (at, block) in range.blocks().enumerate() {
            let bytes = &mut buffer[at * BLOCK_SIZE..(at + 1) * BLOCK_SIZE];
            let readable = !whole_run_failed || read_block(file, bytes, offset + (at * BLOCK_SIZE) as u64).is_ok();
            let expected = hash(at);
            let verified = || expected == Some(block_hash(self.pg.volume, self.chunk, block, bytes));
            if readable && (self.trust == Trust::Everything || verified()) {
                continue;
            }
            if moved() {
                return Step::Retry;
            }
            bytes.fill(0);
            bad.push(BadBlock { block, expected });
        }
        Step::Continue
    }
}

fn read_block<F: DiskFile>(file: &F, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    let got = file.read_at(bytes, offset)?;
    bytes[got..].fill(0);
    Ok(())
}

/// Reads a record's header and body, or its data, from a segment.
pub(crate) fn read_segment<F: DiskFile>(segment: &Segment<F>, offset: u32, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    segment.file.read_exact_at(&mut bytes, u64::from(offset)).during("reading the journal")?;
    Ok(bytes)
}
