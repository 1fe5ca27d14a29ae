//! The scrub: every block of every replica on this node's disks is read and verified, over and over, slowly.
//!
//! Guarantees: at most one read per disk at a time, within the configured pace; a round is followed by a pause, so that a
//! small disk is not read without end. What does not verify is handed to `repair`. Must not know: how a block is
//! repaired.

use super::groups::GroupKey;
use super::host::Host;
use super::node::{DataNode, Stage};
use super::reading::{BlockRead, Reader};
use super::repair::RepairTask;
use std::collections::BTreeMap;
use std::time::Duration;
use weft_replication::{ReadOutcome, TICK_INTERVAL};
use weft_types::{BLOCK_SIZE, BlockIndex, BlockRange, BootTime, ChunkId, DiskId};

/// One read: large enough to be sequential, small enough not to delay a guest's read on the same disk.
const SCRUB_BLOCKS: u16 = 64;
/// Between two rounds over a disk.
const ROUND_PAUSE: Duration = Duration::from_secs(600);

/// Marks a read of the scrub.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ScrubRead;

#[derive(Default)]
pub(super) struct ScrubState {
    disks: BTreeMap<DiskId, DiskScrub>,
}

#[derive(Default)]
struct DiskScrub {
    /// Still to come in this round, last first.
    groups: Vec<GroupKey>,
    chunks: Vec<(GroupKey, ChunkId)>,
    at: Option<Position>,
    budget_bytes: u64,
    reading: bool,
    began: bool,
    ended: Option<BootTime>,
}

#[derive(Clone, Copy)]
struct Position {
    key: GroupKey,
    chunk: ChunkId,
    next_block: u16,
    blocks: u16,
}

/// Every tick.
pub(super) fn tick<H: Host>(node: &mut DataNode<H>) {
    let pace = node.settings.scrub_bytes_per_second;
    if pace == 0 || node.stage != Stage::Running || node.map.is_none() {
        return;
    }
    let per_tick = pace.saturating_mul(u64::try_from(TICK_INTERVAL.as_millis()).unwrap_or(0)) / 1000;
    let now = node.host.now();
    let healthy: Vec<DiskId> =
        node.disks.iter().filter(|(_, disk)| disk.failure().is_none()).map(|(id, _)| *id).collect();
    for id in healthy {
        let scrub = node.scrub.disks.entry(id).or_default();
        // A second's worth at most: after a stall the scrub does not catch up in a burst.
        scrub.budget_bytes = (scrub.budget_bytes + per_tick).min(pace);
        let resting = scrub.ended.is_some_and(|ended| now.since(ended) < ROUND_PAUSE);
        if !scrub.reading && !resting {
            advance(node, id);
        }
    }
}

/// Starts the next read, if the budget allows.
fn advance<H: Host>(node: &mut DataNode<H>, id: DiskId) {
    let Some(position) = next_position(node, id) else { return };
    let Some(scrub) = node.scrub.disks.get_mut(&id) else { return };
    let count = SCRUB_BLOCKS.min(position.blocks - position.next_block);
    let bytes = u64::from(count) * BLOCK_SIZE as u64;
    if scrub.budget_bytes < bytes {
        scrub.at = Some(position);
        return;
    }
    scrub.budget_bytes -= bytes;
    scrub.reading = true;
    let next_block = position.next_block + count;
    scrub.at = (next_block < position.blocks).then_some(Position { next_block, ..position });
    let range = BlockRange::new(BlockIndex(position.next_block), count);
    let reader = Reader::Scrub(ScrubRead);
    node.read(BlockRead { key: position.key, reader, chunk: position.chunk, range }, 0);
}

fn next_position<H: Host>(node: &mut DataNode<H>, id: DiskId) -> Option<Position> {
    let scrub = node.scrub.disks.get_mut(&id)?;
    if let Some(position) = scrub.at.take() {
        return Some(position);
    }
    if !scrub.began {
        scrub.began = true;
        scrub.groups = node.groups.keys().filter(|key| key.disk == id).copied().rev().collect();
    }
    loop {
        if let Some((key, chunk)) = scrub.chunks.pop() {
            // A group that has left the node meanwhile is not read any further.
            let Some(group) = node.groups.get(&key) else { continue };
            return Some(Position { key, chunk, next_block: 0, blocks: group.chunk_size.blocks() });
        }
        let Some(key) = scrub.groups.pop() else {
            scrub.began = false;
            scrub.ended = Some(node.host.now());
            node.counters.scrub_rounds += 1;
            return None;
        };
        let chunks = node.disks.get(&id)?.store.chunks(key.pg).unwrap_or_default();
        scrub.chunks = chunks.into_iter().rev().map(|chunk| (key, chunk)).collect();
    }
}

impl<H: Host> DataNode<H> {
    /// A read of the scrub came back.
    pub(super) fn scrubbed(&mut self, read: &BlockRead, _mark: ScrubRead, outcome: ReadOutcome) {
        let id = read.key.disk;
        if let Some(scrub) = self.scrub.disks.get_mut(&id) {
            scrub.reading = false;
        }
        if let ReadOutcome::Done { bad, .. } = outcome {
            self.counters.scrubbed_blocks += u64::from(read.range.count);
            for block in bad {
                let (key, chunk) = (read.key, read.chunk);
                self.want_repair(RepairTask { key, chunk, block: block.block, expected: block.expected });
            }
        }
    }
}
