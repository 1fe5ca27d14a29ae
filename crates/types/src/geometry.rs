//! How a file's bytes fall into chunks and blocks. Owns: block size, chunk size, ranges and the arithmetic on them.

use crate::ids::{ChunkId, ObjectId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// Bytes in a block, the unit of checksum and of the log.
pub const BLOCK_SIZE: usize = 4096;

/// Number of a chunk within its object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, Debug)]
#[serde(transparent)]
pub struct ChunkIndex(pub u32);

impl fmt::Display for ChunkIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a block within its chunk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, Debug)]
#[serde(transparent)]
pub struct BlockIndex(pub u16);

impl fmt::Display for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A run of blocks within one chunk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, Debug)]
pub struct BlockRange {
    pub first: BlockIndex,
    pub count: u16,
}

impl BlockRange {
    #[must_use]
    pub const fn new(first: BlockIndex, count: u16) -> Self {
        Self { first, count }
    }

    /// The blocks that a byte range of a chunk touches. An empty byte range touches none.
    #[must_use]
    pub fn covering(bytes: &Range<u32>) -> Self {
        if bytes.is_empty() {
            return Self { first: BlockIndex(block_of(bytes.start)), count: 0 };
        }
        let first = block_of(bytes.start);
        let last = block_of(bytes.end - 1);
        Self { first: BlockIndex(first), count: last - first + 1 }
    }

    /// Index after the last block. A `u32`, because a 256 MiB chunk has as many blocks as a `u16` has values.
    #[must_use]
    pub const fn end(self) -> u32 {
        self.first.0 as u32 + self.count as u32
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.count == 0
    }

    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        (self.first.0 as u32) < other.end() && (other.first.0 as u32) < self.end()
    }

    #[must_use]
    pub const fn contains(self, block: BlockIndex) -> bool {
        self.first.0 <= block.0 && (block.0 as u32) < self.end()
    }

    pub fn blocks(self) -> impl Iterator<Item = BlockIndex> + Clone {
        (u32::from(self.first.0)..self.end()).map(|b| BlockIndex(u16::try_from(b).unwrap_or(u16::MAX)))
    }

    /// Bytes that the run covers within its chunk.
    #[must_use]
    pub const fn byte_range(self) -> Range<u64> {
        self.first.0 as u64 * BLOCK_SIZE as u64..self.end() as u64 * BLOCK_SIZE as u64
    }

    #[must_use]
    pub const fn byte_len(self) -> usize {
        self.count as usize * BLOCK_SIZE
    }
}

const fn block_of(byte: u32) -> u16 {
    // A chunk has at most 2^28 bytes (`ChunkSize::MAX_BYTES`), so the quotient fits.
    (byte / BLOCK_SIZE as u32) as u16
}

/// Bytes in a chunk of a volume: a power of two from 64 KiB to 128 MiB.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
#[serde(try_from = "u32", into = "u32")]
pub struct ChunkSize(u32);

/// A chunk size that is no power of two or out of bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a chunk size is a power of two from 64 KiB to 128 MiB, not {0} bytes")]
pub struct BadChunkSize(pub u32);

impl ChunkSize {
    pub const MIN_BYTES: u32 = 64 << 10;
    pub const MAX_BYTES: u32 = 128 << 20;
    pub const DEFAULT: Self = Self(4 << 20);

    /// # Errors
    /// When `bytes` is not a power of two within the bounds.
    pub const fn new(bytes: u32) -> Result<Self, BadChunkSize> {
        if bytes.is_power_of_two() && bytes >= Self::MIN_BYTES && bytes <= Self::MAX_BYTES {
            Ok(Self(bytes))
        } else {
            Err(BadChunkSize(bytes))
        }
    }

    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }

    #[must_use]
    pub const fn blocks(self) -> u16 {
        (self.0 / BLOCK_SIZE as u32) as u16
    }

    /// Splits a byte range of a file into its chunks, in order.
    pub fn split(self, object: ObjectId, bytes: Range<u64>) -> impl Iterator<Item = ChunkPart> {
        let size = u64::from(self.0);
        let mut at = bytes.start;
        std::iter::from_fn(move || {
            if at >= bytes.end {
                return None;
            }
            let index = at / size;
            let start = at % size;
            let end = (bytes.end - index * size).min(size);
            let part = ChunkPart {
                chunk: ChunkId { object, index: ChunkIndex(u32::try_from(index).unwrap_or(u32::MAX)) },
                bytes: start as u32..end as u32,
                file_offset: at,
            };
            at = index * size + end;
            Some(part)
        })
    }
}

impl TryFrom<u32> for ChunkSize {
    type Error = BadChunkSize;
    fn try_from(bytes: u32) -> Result<Self, BadChunkSize> {
        Self::new(bytes)
    }
}

impl From<ChunkSize> for u32 {
    fn from(size: ChunkSize) -> Self {
        size.0
    }
}

/// The part of a file range that lies in one chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChunkPart {
    pub chunk: ChunkId,
    /// Bytes within the chunk.
    pub bytes: Range<u32>,
    /// Where the part begins in the file.
    pub file_offset: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_across_two_chunks_splits_at_the_boundary() {
        let size = ChunkSize::new(64 << 10).unwrap();
        let parts: Vec<_> = size.split(ObjectId(7), 65_000..70_000).collect();
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[0].bytes, 65_000..65_536);
        assert_eq!(parts[1].bytes, 0..4_464);
        assert_eq!(parts[1].chunk.index, ChunkIndex(1));
        assert_eq!(parts[1].file_offset, 65_536);
    }

    #[test]
    fn a_byte_range_touches_the_blocks_it_reaches_into() {
        assert_eq!(BlockRange::covering(&(4095..4097)), BlockRange::new(BlockIndex(0), 2));
        assert_eq!(BlockRange::covering(&(4096..8192)), BlockRange::new(BlockIndex(1), 1));
        assert!(BlockRange::covering(&(10..10)).is_empty());
    }
}
