//! Blocks that one thread has for itself: it reserves room, writes into it, makes zeros of it, copies and frees it.
//!
//! Nobody else changes them, so the thread knows what they hold. Responsible for: drawing the next operation of such a thread,
//! and for what the answers have to be. Rules that are watched (docs/decisions/0020, 0015): a write into a block that is
//! there is never refused for want of room; what was made zeros reads as zeros; a copy holds what its source held, and
//! nobody could have changed. Guarantees: nothing is expected of a block of which something was not answered, of a group that may
//! have lost something since, or of damaged disks. Must not know: how room is given.

use super::workload::filled;
use super::*;
use weft_proto::data::CopySource;

const FIRST_PLOT_OBJECT: u64 = 1 << 20;
const BLOCKS_OF_CHUNK: u16 = (CHUNK_BYTES as usize / BLOCK_SIZE) as u16;
/// Chunks that a thread uses before it frees one.
const CHUNKS_IN_USE: usize = 12;
/// Chunks that it reserves and never touches again.
const CHUNKS_LEFT_ALONE: u32 = 16;

/// A block of a thread's object.
type Block = (u32, u16);

/// A client, a life of its process, and a thread.
pub type Owner = (usize, u64, usize);

/// A block that is there, and what it holds.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    value: u64,
    /// When the first operation began on which that rests.
    since: u64,
    /// It was the source of a copy, and is that of no other: an attempt is told by the source that it reads.
    copied: bool,
}

#[derive(Default)]
pub struct Plot {
    object: u64,
    next_chunk: u32,
    left_alone: u32,
    blocks: BTreeMap<Block, Known>,
}

/// One operation of such a thread.
#[derive(Clone, Debug)]
pub enum Step {
    Reserve {
        chunk: u32,
        first: u16,
        count: u16,
        leave_alone: bool,
    },
    /// `was`: it was there before.
    Write {
        block: Block,
        value: u64,
        was: Option<Known>,
    },
    Zero {
        blocks: Vec<(Block, Known)>,
    },
    Read {
        block: Block,
        known: Known,
    },
    Copy {
        source: (Block, Known),
        target: Block,
        was: Option<Known>,
    },
    Free,
    /// A write that goes out at the same time as a discard of its block.
    Race,
}

fn at(object: u64, chunk: u32) -> ChunkId {
    chunk_id(object, chunk)
}

const NOW: TruncateGeneration = TruncateGeneration(0);
const ACK: AckMode = AckMode::Memory;

fn bytes_at(block: u16) -> u32 {
    u32::from(block) * BLOCK_SIZE as u32
}

impl World {
    /// The next operation of a thread that has a plot, and one that goes out just before it.
    pub(super) fn choose_in_plot(&mut self, owner: Owner, volume: VolumeId) -> (Option<Operation>, Step, Operation) {
        self.stats.count("operations in plots");
        let mut plot = self.plots.remove(&owner).unwrap_or_default();
        if plot.object == 0 {
            self.plots_made += 1;
            plot.object = FIRST_PLOT_OBJECT + self.plots_made;
        }
        let fresh = self.mix.fresh_percent > 0 && self.random.chance(self.mix.fresh_percent);
        let kind = if fresh { 20 } else { self.random.below(100) };
        let copies = self.mix.copies_percent > 0 && self.random.chance(self.mix.copies_percent);
        let copy = if copies { self.copy_in(&mut plot, volume) } else { None };
        let chunks = plot.blocks.keys().map(|(chunk, _)| *chunk).collect::<std::collections::BTreeSet<_>>();
        let chosen = match (copy, kind) {
            (Some(copy), _) => copy,
            _ if chunks.len() > CHUNKS_IN_USE => free(&mut plot, chunks.first().copied().unwrap_or(0)),
            (None, 0..20) => self.reserve_in(&mut plot),
            (None, 20..28) => self.write_in(&mut plot, volume, true),
            (None, 28..50) => self.write_in(&mut plot, volume, false),
            (None, 50..60) => self.zero_in(&mut plot),
            (None, 60..75) => self.race_in(&mut plot, volume),
            (None, _) => self.read_in(&plot, volume),
        };
        self.plots.insert(owner, plot);
        chosen
    }

    fn any_block(&mut self, plot: &Plot) -> Option<(Block, Known)> {
        let count = plot.blocks.len() as u64;
        let nth = if count == 0 { return None } else { self.random.below(count) as usize };
        plot.blocks.iter().nth(nth).map(|(block, known)| (*block, *known))
    }

    fn reserve_in(&mut self, plot: &mut Plot) -> (Option<Operation>, Step, Operation) {
        self.stats.count("reservations");
        let chunk = plot.next_chunk;
        plot.next_chunk += 1;
        let leave_alone = plot.left_alone < CHUNKS_LEFT_ALONE && self.random.chance(20);
        plot.left_alone += u32::from(leave_alone);
        let whole = self.random.chance(70);
        let first = if whole { 0 } else { self.random.below(8) as u16 };
        let count = if whole { BLOCKS_OF_CHUNK } else { 1 + self.random.below(8) as u16 };
        let step = Step::Reserve { chunk, first, count, leave_alone };
        (None, step, fill(plot.object, chunk, (first, count), PresentBlocks::Keep))
    }

    /// Into a block that is there, or into one of a chunk of its own.
    fn write_in(&mut self, plot: &mut Plot, volume: VolumeId, fresh: bool) -> (Option<Operation>, Step, Operation) {
        self.stats.count("writes in plots");
        let value = (1 << 40) + self.stats.get("writes in plots");
        let there = if fresh { None } else { self.any_block(plot) };
        let block = there.map_or_else(
            || {
                plot.next_chunk += 1;
                (plot.next_chunk - 1, 0)
            },
            |(block, _)| block,
        );
        let was = plot.blocks.remove(&block);
        (None, Step::Write { block, value, was }, write(volume, plot.object, block, value))
    }

    /// Zeros over blocks that are there, one after the other.
    fn zero_in(&mut self, plot: &mut Plot) -> (Option<Operation>, Step, Operation) {
        let Some(((chunk, first), _)) = self.any_block(plot) else { return self.reserve_in(plot) };
        self.stats.count("zeros over what is there");
        let most = 1 + self.random.below(4) as u16;
        let mut blocks = Vec::new();
        for block in first..first + most {
            let Some(known) = plot.blocks.remove(&(chunk, block)) else { break };
            blocks.push(((chunk, block), known));
        }
        let operation = fill(plot.object, chunk, (first, blocks.len() as u16), PresentBlocks::Zero);
        (None, Step::Zero { blocks }, operation)
    }

    /// A block is freed and written at once. In which order is the primary's choice, so nothing is known of it any more.
    fn race_in(&mut self, plot: &mut Plot, volume: VolumeId) -> (Option<Operation>, Step, Operation) {
        let Some((block, _)) = self.any_block(plot) else { return self.reserve_in(plot) };
        plot.blocks.remove(&block);
        let (_, step, write) = self.write_over(plot, volume, block);
        (Some(discard(plot.object, block.0, (block.1, 1))), step, write)
    }

    fn write_over(&mut self, plot: &Plot, volume: VolumeId, block: Block) -> (Option<Operation>, Step, Operation) {
        self.stats.count("writes beside a discard");
        let value = (1 << 41) + self.stats.get("writes beside a discard");
        (None, Step::Race, write(volume, plot.object, block, value))
    }

    /// Where copies are made only of what may be their target: sources may be slow.
    fn read_in(&mut self, plot: &Plot, volume: VolumeId) -> (Option<Operation>, Step, Operation) {
        let (groups, copies) = (self.mix.groups, self.mix.copies_percent > 0);
        let pg_of = |chunk: u32| weft_types::map::pg_of_chunk(volume, groups, at(plot.object, chunk));
        let found = self.any_block(plot).filter(|((chunk, _), _)| !copies || pg_of(*chunk).index == 0);
        let Some((block, known)) = found else {
            return (None, Step::Free, Operation::Presence { chunk: at(plot.object, 0) });
        };
        let (chunk, length_bytes) = (at(plot.object, block.0), BLOCK_SIZE as u32);
        let operation = Operation::Read { chunk, offset_bytes: bytes_at(block.1), length_bytes, generation: NOW };
        (None, Step::Read { block, known }, operation)
    }

    /// From a block of one group to one of another, where there are several: which is slow, and which is moved, is up to a story.
    fn copy_in(&mut self, plot: &mut Plot, volume: VolumeId) -> Option<(Option<Operation>, Step, Operation)> {
        let object = plot.object;
        let groups = self.mix.groups;
        let pg_of = |chunk: u32| weft_types::map::pg_of_chunk(volume, groups, at(object, chunk));
        let last = groups - 1;
        let sources: Vec<(Block, Known)> = plot
            .blocks
            .iter()
            .filter(|((chunk, _), known)| known.value != 0 && !known.copied && pg_of(*chunk).index == last)
            .map(|(block, known)| (*block, *known))
            .collect();
        let fresh = (plot.next_chunk..plot.next_chunk + 32).find(|chunk| pg_of(*chunk).index == 0)?;
        let targets: Vec<Block> = plot.blocks.keys().filter(|(chunk, _)| pg_of(*chunk).index == 0).copied().collect();
        if sources.is_empty() {
            return None;
        }
        let source = sources[self.random.below(sources.len() as u64) as usize];
        let target = if targets.is_empty() || self.random.chance(30) {
            plot.next_chunk = fresh + 1;
            (fresh, 0)
        } else {
            targets[self.random.below(targets.len() as u64) as usize]
        };
        if target == source.0 {
            return None;
        }
        self.stats.count("copies");
        if let Some(known) = plot.blocks.get_mut(&source.0) {
            known.copied = true;
        }
        let was = plot.blocks.remove(&target);
        let from = at(object, source.0.0);
        let operation = Operation::Copy {
            chunk: at(object, target.0),
            offset_bytes: bytes_at(target.1),
            length_bytes: BLOCK_SIZE as u32,
            generation: NOW,
            ack: ACK,
            source: CopySource {
                pg: pg_of(source.0.0),
                chunk: from,
                offset_bytes: bytes_at(source.0.1),
                generation: NOW,
            },
        };
        Some((None, Step::Copy { source, target, was }, operation))
    }

    /// What came of an operation. Only what was answered goes on to be known.
    pub(super) fn answered_in_plot(
        &mut self,
        owner: Owner,
        step: Step,
        start: u64,
        result: Result<Outcome, ErrorKind>,
    ) {
        let Some(mut plot) = self.plots.remove(&owner) else { return };
        let full = matches!(result, Err(ErrorKind::NoSpace));
        self.stats.add("ENOSPC", u64::from(full));
        match step {
            Step::Reserve { chunk, first, count, leave_alone: false } if result.is_ok() => {
                for block in first..first + count {
                    plot.blocks.insert((chunk, block), Known { value: 0, since: start, copied: false });
                }
            }
            Step::Write { block, was, .. } | Step::Copy { target: block, was, .. } if full => {
                self.must_not_be_full(plot.object, &[(block, was)]);
            }
            Step::Zero { blocks } if full => {
                let blocks: Vec<_> = blocks.into_iter().map(|(block, known)| (block, Some(known))).collect();
                self.must_not_be_full(plot.object, &blocks);
            }
            Step::Write { block, value, was } if result.is_ok() => {
                let copied = was.is_some_and(|was| was.copied);
                plot.blocks.insert(block, Known { value, since: start, copied });
            }
            Step::Zero { blocks } if result.is_ok() => {
                for (block, known) in blocks {
                    plot.blocks.insert(block, Known { value: 0, since: start, copied: known.copied });
                }
            }
            // As long as the source is known its contents are, and what was lost there was lost before the copy or after it.
            Step::Copy { source: (source, known), target, was }
                if result.is_ok() && !self.may_have_lost(plot.object, source, known.since) =>
            {
                let copied = was.is_some_and(|was| was.copied);
                plot.blocks.insert(target, Known { value: known.value, since: start, copied });
            }
            Step::Read { block, known } => match result {
                Ok(Outcome::Read(bytes)) => self.saw_in_plot(&mut plot, block, known, &bytes),
                Err(ErrorKind::Io(why)) => self.fail(Oracle::Readable, format!("a read failed for good: {why}")),
                _ => {}
            },
            _ => {}
        }
        self.plots.insert(owner, plot);
    }

    /// Rule 5 of docs/decisions/0020: a write into a block that is there needs no room.
    fn must_not_be_full(&mut self, object: u64, blocks: &[(Block, Option<Known>)]) {
        let known: Vec<&(Block, Option<Known>)> = blocks.iter().filter(|(_, known)| known.is_some()).collect();
        let lost = |(block, known): &(Block, Option<Known>)| {
            known.is_none_or(|known| self.may_have_lost(object, *block, known.since))
        };
        if known.len() < blocks.len() || blocks.iter().any(lost) || !self.hurt.is_empty() {
            return;
        }
        self.fail(Oracle::Room, format!("a write into {blocks:?} of object {object}, which are there, found no room"));
    }

    fn saw_in_plot(&mut self, plot: &mut Plot, block: Block, known: Known, bytes: &[u8]) {
        if self.may_have_lost(plot.object, block, known.since) {
            plot.blocks.remove(&block);
            return;
        }
        self.stats.count("reads in plots");
        match value_of(bytes) {
            Ok(value) if value == known.value => {}
            Ok(value) => {
                let what = format!("block {block:?} of object {} holds {}", plot.object, known.value);
                self.fail(Oracle::Linearizable, format!("{what}, which nobody changed, and {value} was read"));
            }
            Err(why) => self.fail(Oracle::Torn, format!("block {block:?} of object {}: {why}", plot.object)),
        }
    }

    fn may_have_lost(&self, object: u64, block: Block, since: u64) -> bool {
        let pg = self.pg_of_place(&(object, block.0, block.1, 0));
        pg.and_then(|pg| self.losses.get(&pg)).is_some_and(|losses| losses.last().is_some_and(|at| *at >= since))
    }
}

fn free(plot: &mut Plot, chunk: u32) -> (Option<Operation>, Step, Operation) {
    plot.blocks.retain(|(known, _), _| *known != chunk);
    (None, Step::Free, discard(plot.object, chunk, (0, BLOCKS_OF_CHUNK)))
}

fn discard(object: u64, chunk: u32, (first, count): (u16, u16)) -> Operation {
    let (chunk, length_bytes) = (at(object, chunk), bytes_at(count));
    Operation::Discard { chunk, offset_bytes: bytes_at(first), length_bytes, generation: NOW, ack: ACK }
}

fn fill(object: u64, chunk: u32, (first, count): (u16, u16), present: PresentBlocks) -> Operation {
    let (chunk, length_bytes) = (at(object, chunk), bytes_at(count));
    Operation::Fill { chunk, offset_bytes: bytes_at(first), length_bytes, generation: NOW, ack: ACK, present }
}

fn write(volume: VolumeId, object: u64, block: Block, value: u64) -> Operation {
    let (chunk, data) = (at(object, block.0), filled(value, BLOCK_SIZE));
    let hashes = vec![block_hash(volume, chunk, BlockIndex(block.1), &data)];
    Operation::Write { chunk, offset_bytes: bytes_at(block.1), generation: NOW, ack: ACK, hashes, data: data.into() }
}
