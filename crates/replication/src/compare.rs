//! What a resync target lacks of one chunk, by hash.

use crate::tuning::RESYNC_COPY_BYTES;
use std::collections::VecDeque;
use weft_proto::replication::{ChunkDigest, ChunkHealth};
use weft_types::{BLOCK_SIZE, BlockIndex, BlockRange};

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Difference {
    /// Our own hashes cannot be believed.
    Unknown,
    /// These blocks differ; none if the chunks are equal.
    Blocks(VecDeque<BlockRange>),
    /// The target's chunk has to go first: it is absent here, or the target's end or generation is past ours.
    DeleteThen(VecDeque<BlockRange>),
}

/// Compares our chunk with the target's. Also tells how many blocks were equal.
pub(crate) fn compare(ours: Option<&ChunkDigest>, theirs: Option<&ChunkDigest>) -> (Difference, u64) {
    let (ours, theirs) = match (ours, theirs) {
        (None, None) => return (Difference::Blocks(VecDeque::new()), 0),
        (None, Some(_)) => return (Difference::DeleteThen(VecDeque::new()), 0),
        (Some(ours), _) if ours.health == ChunkHealth::Damaged => return (Difference::Unknown, 0),
        (Some(ours), None) => return (Difference::Blocks(grouped(present(ours))), 0),
        (Some(ours), Some(theirs)) => (ours, theirs),
    };
    if theirs.health == ChunkHealth::Damaged || theirs.end_bytes > ours.end_bytes || theirs.generation > ours.generation
    {
        return (Difference::DeleteThen(grouped(present(ours))), 0);
    }
    let blocks = ours.blocks.len().max(theirs.blocks.len());
    let mut equal = 0;
    let mut different = Vec::new();
    for block in (0..blocks).map(|b| BlockIndex(b as u16)) {
        match (ours.block(block), theirs.block(block)) {
            (None, None) => {}
            (a, b) if a == b => equal += 1,
            _ => different.push(block),
        }
    }
    if different.is_empty() && (theirs.end_bytes, theirs.generation) != (ours.end_bytes, ours.generation) {
        // The end and the generation travel with a block; without any, a discard still carries the generation.
        different.push(present(ours).last().unwrap_or(BlockIndex(0)));
    }
    (Difference::Blocks(grouped(different.into_iter())), equal)
}

fn present(digest: &ChunkDigest) -> impl Iterator<Item = BlockIndex> + '_ {
    digest.blocks.iter().enumerate().filter(|(_, hash)| hash.is_some()).map(|(at, _)| BlockIndex(at as u16))
}

/// Runs of neighbouring blocks, none longer than one copy.
fn grouped(blocks: impl Iterator<Item = BlockIndex>) -> VecDeque<BlockRange> {
    let most = (RESYNC_COPY_BYTES / BLOCK_SIZE) as u16;
    let mut runs: VecDeque<BlockRange> = VecDeque::new();
    for block in blocks {
        match runs.back_mut() {
            Some(run) if run.end() == u32::from(block.0) && run.count < most => run.count += 1,
            _ => runs.push_back(BlockRange::new(block, 1)),
        }
    }
    runs
}

/// Splits a range into runs of present and of absent blocks.
pub(crate) fn runs_to_copy(digest: &ChunkDigest, range: BlockRange) -> Vec<(BlockRange, bool)> {
    let mut runs: Vec<(BlockRange, bool)> = Vec::new();
    for block in range.blocks() {
        let present = digest.block(block).is_some();
        match runs.last_mut() {
            Some((run, kind)) if *kind == present => run.count += 1,
            _ => runs.push((BlockRange::new(block, 1), present)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::{BlockHash, TruncateGeneration};

    fn digest(blocks: &[u64], end_bytes: u32) -> ChunkDigest {
        let blocks = blocks.iter().map(|h| (*h != 0).then_some(BlockHash(*h))).collect();
        ChunkDigest { blocks, end_bytes, generation: TruncateGeneration(0), health: ChunkHealth::Good }
    }

    fn runs(pairs: &[(u16, u16)]) -> VecDeque<BlockRange> {
        pairs.iter().map(|(first, count)| BlockRange::new(BlockIndex(*first), *count)).collect()
    }

    #[test]
    fn only_blocks_whose_hashes_differ_are_copied() {
        let (difference, equal) = compare(Some(&digest(&[1, 2, 0, 4, 5], 9)), Some(&digest(&[1, 9, 3, 4], 9)));
        assert_eq!(difference, Difference::Blocks(runs(&[(1, 2), (4, 1)])));
        assert_eq!(equal, 2);
    }

    #[test]
    fn a_chunk_that_is_absent_here_is_deleted_there() {
        assert_eq!(compare(None, Some(&digest(&[1], 4))).0, Difference::DeleteThen(runs(&[])));
    }

    #[test]
    fn an_end_past_ours_is_undone_by_deleting_first() {
        let (difference, _) = compare(Some(&digest(&[1, 2], 8)), Some(&digest(&[1, 2], 12)));
        assert_eq!(difference, Difference::DeleteThen(runs(&[(0, 2)])));
    }

    #[test]
    fn an_end_short_of_ours_travels_with_the_last_block() {
        let (difference, _) = compare(Some(&digest(&[1, 2], 8)), Some(&digest(&[1, 2], 4)));
        assert_eq!(difference, Difference::Blocks(runs(&[(1, 1)])));
    }

    #[test]
    fn absent_blocks_within_a_copy_become_discards() {
        let range = BlockRange::new(BlockIndex(0), 4);
        let split = runs_to_copy(&digest(&[1, 0, 0, 4], 4), range);
        let expected = [(0, 1, true), (1, 2, false), (3, 1, true)];
        assert_eq!(split, expected.map(|(f, c, p)| (BlockRange::new(BlockIndex(f), c), p)));
    }
}
