//! One entry of a placement group's log: what it does to chunks, who asked for it, and where it stands.
//!
//! The same value travels from primary to backup, lies in the journal and is replayed after a crash. Effects speak in
//! whole blocks; the primary has already merged partial ones.

use crate::checksum::BlockHash;
use crate::geometry::{BLOCK_SIZE, BlockRange};
use crate::ids::{ChunkId, DiskId, ObjectId, OperationId, SessionId};
use crate::position::{LogPosition, TruncateGeneration};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The client operation behind an entry; what makes a retry recognisable (design 5.8).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct Origin {
    pub session: SessionId,
    pub operation: OperationId,
    /// Every operation of the session below this one has been answered; none of them may be sequenced any more.
    pub low_water: OperationId,
}

/// What an entry does.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum Effect {
    /// Nothing but taking a place in the log (the first entry of an epoch; the part of a copy that others see).
    Nothing,
    /// Replace whole blocks. `hashes` has one element per block; the entry's data holds the blocks.
    Write {
        chunk: ChunkId,
        range: BlockRange,
        hashes: Vec<BlockHash>,
        /// Bytes of the chunk up to the end of what the client wrote: the file ends at or after this.
        end_bytes: u32,
        generation: TruncateGeneration,
    },
    /// Make blocks absent: they read as zeros and take no space.
    Discard { chunk: ChunkId, range: BlockRange, generation: TruncateGeneration },
    /// Make absent every block of the object at or after `keep_blocks` (counted from the object's start).
    Truncate { object: ObjectId, keep_blocks: u64, size_bytes: u64, generation: TruncateGeneration },
    /// Delete every chunk of the object.
    DeleteObject { object: ObjectId },
    /// Delete one chunk (resync: absent at the source).
    DeleteChunk { chunk: ChunkId },
    /// Make absent blocks of the range present, with zeros; `present` says what becomes of the others. What is so reserved is
    /// a written zero in every respect. `absent_blocks` of them were absent at the primary: so much room it takes on every
    /// member.
    Fill {
        chunk: ChunkId,
        range: BlockRange,
        absent_blocks: u16,
        generation: TruncateGeneration,
        present: PresentBlocks,
    },
}

/// What a fill makes of blocks that are present.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum PresentBlocks {
    /// They stay as they are.
    Keep,
    /// They become zeros too, and stay present.
    Zero,
}

impl Effect {
    /// The one chunk that is touched, where there is one.
    #[must_use]
    pub const fn chunk(&self) -> Option<ChunkId> {
        match self {
            Self::Write { chunk, .. }
            | Self::Discard { chunk, .. }
            | Self::DeleteChunk { chunk }
            | Self::Fill { chunk, .. } => Some(*chunk),
            Self::Nothing | Self::Truncate { .. } | Self::DeleteObject { .. } => None,
        }
    }

    /// Length of the data that goes with it.
    #[must_use]
    pub const fn data_len(&self) -> usize {
        match self {
            Self::Write { range, .. } => range.byte_len(),
            _ => 0,
        }
    }

    /// Room in chunk files that it takes besides that of its data.
    #[must_use]
    pub const fn filled_bytes(&self) -> usize {
        match self {
            Self::Fill { absent_blocks, .. } => *absent_blocks as usize * BLOCK_SIZE,
            _ => 0,
        }
    }

    /// The same on a member that may lack what the primary has. Zeros are sent also when nothing is absent at the primary.
    #[must_use]
    pub const fn most_filled_bytes(&self) -> usize {
        match self {
            Self::Fill { range, present: PresentBlocks::Zero, .. } => range.byte_len(),
            other => other.filled_bytes(),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct EntryHeader {
    pub position: LogPosition,
    /// Position of the entry before it; how a receiver knows that nothing is missing (design 5.2).
    pub previous: LogPosition,
    pub origin: Option<Origin>,
    /// A resync copy has an effect on this member only; every other member stores `Effect::Nothing` in its place.
    pub only_for: Option<DiskId>,
    pub effect: Effect,
}

/// An entry with its data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub header: EntryHeader,
    /// Exactly `header.effect.data_len()` bytes.
    pub data: Bytes,
}
