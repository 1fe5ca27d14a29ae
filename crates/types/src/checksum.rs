//! The checksum of a block: BLAKE3 in keyed mode, truncated to 64 bits.
//!
//! The key is the block's own address (volume, object, chunk, block), so a block that a disk returns from, or writes
//! to, the wrong place fails verification even though its bytes are intact. BLAKE3 takes any 32 bytes as a key, so
//! the address is laid out in the key directly and costs no derivation.
//! Source: BLAKE3 paper, section 2.3 (keyed_hash), <https://github.com/BLAKE3-team/BLAKE3-specs>.

use crate::geometry::{BLOCK_SIZE, BlockIndex, BlockRange};
use crate::ids::{ChunkId, VolumeId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// First 8 bytes, little endian, of a block's keyed BLAKE3 hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlockHash(pub u64);

impl fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockHash({:016x})", self.0)
    }
}

const DOMAIN: [u8; 14] = *b"weft block v1\0";

/// Hash of one block's bytes at its address.
#[must_use]
pub fn block_hash(volume: VolumeId, chunk: ChunkId, block: BlockIndex, bytes: &[u8]) -> BlockHash {
    let mut key = [0u8; 32];
    key[0..14].copy_from_slice(&DOMAIN);
    key[14..18].copy_from_slice(&volume.0.to_le_bytes());
    key[18..26].copy_from_slice(&chunk.object.0.to_le_bytes());
    key[26..30].copy_from_slice(&chunk.index.0.to_le_bytes());
    key[30..32].copy_from_slice(&block.0.to_le_bytes());
    let hash = blake3::keyed_hash(&key, bytes);
    let mut first = [0u8; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    BlockHash(u64::from_le_bytes(first))
}

/// Hash of a block of zeros.
#[must_use]
pub fn zero_hash(volume: VolumeId, chunk: ChunkId, block: BlockIndex) -> BlockHash {
    block_hash(volume, chunk, block, &[0; BLOCK_SIZE])
}

/// Hashes of a run of whole blocks. `bytes` must hold exactly the run.
#[must_use]
pub fn block_hashes(volume: VolumeId, chunk: ChunkId, range: BlockRange, bytes: &[u8]) -> Vec<BlockHash> {
    debug_assert_eq!(bytes.len(), range.byte_len());
    range.blocks().zip(bytes.chunks_exact(BLOCK_SIZE)).map(|(b, d)| block_hash(volume, chunk, b, d)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::ChunkIndex;
    use crate::ids::ObjectId;

    #[test]
    fn the_same_bytes_at_another_address_have_another_hash() {
        let bytes = [9u8; BLOCK_SIZE];
        let chunk = ChunkId { object: ObjectId(1), index: ChunkIndex(2) };
        let base = block_hash(VolumeId(1), chunk, BlockIndex(3), &bytes);
        assert_eq!(base, block_hash(VolumeId(1), chunk, BlockIndex(3), &bytes));
        assert_ne!(base, block_hash(VolumeId(2), chunk, BlockIndex(3), &bytes));
        assert_ne!(base, block_hash(VolumeId(1), chunk, BlockIndex(4), &bytes));
        let other = ChunkId { object: ObjectId(1), index: ChunkIndex(3) };
        assert_ne!(base, block_hash(VolumeId(1), other, BlockIndex(3), &bytes));
    }
}
