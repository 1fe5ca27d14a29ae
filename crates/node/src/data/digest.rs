//! Hash over the contents of each replica of a volume, for tests and for people who want to be sure.
//!
//! Guarantees: replicas with the same present blocks have the same digest, whether a block is still in the journal or
//! already in its chunk file. Runs in short turns, so it delays nobody. Must not know: what the blocks hold.

use super::groups::GroupKey;
use super::host::Host;
use super::node::Shared;
use std::rc::Rc;
use tokio::sync::oneshot;
use weft_proto::admin::ReplicaDigest;
use weft_types::{BlockHash, ChunkId, VolumeId};

/// Chunks hashed before others have their turn.
const CHUNKS_PER_TURN: usize = 8;

pub(super) fn start<H: Host>(shared: &Shared<H>, volume: VolumeId, reply: oneshot::Sender<Vec<ReplicaDigest>>) {
    let (host, shared) = (shared.borrow().host.clone(), Rc::clone(shared));
    host.spawn(async move {
        let keys: Vec<GroupKey> =
            shared.borrow().groups.keys().filter(|key| key.pg.volume == volume).copied().collect();
        let mut digests = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(digest) = of_replica(&shared, key).await {
                digests.push(digest);
            }
        }
        // Whoever asked may have given up.
        let _ = reply.send(digests);
    });
}

/// `None` when the replica is gone or cannot be read.
async fn of_replica<H: Host>(shared: &Shared<H>, key: GroupKey) -> Option<ReplicaDigest> {
    let chunks = shared.borrow_mut().store(key).ok()?.chunks(key.pg).ok()?;
    let mut digest = Digest::default();
    for some in chunks.chunks(CHUNKS_PER_TURN) {
        {
            let mut node = shared.borrow_mut();
            let store = node.store(key).ok()?;
            for chunk in some {
                // A chunk that was deleted since it was listed.
                if store.chunk_info(key.pg, *chunk).is_none() {
                    continue;
                }
                match store.block_hashes(key.pg, *chunk) {
                    Ok(hashes) => digest.add(*chunk, &hashes.blocks),
                    Err(error) => {
                        tracing::warn!(pg = %key.pg, %chunk, %error, "no digest: the hashes of a chunk cannot be read");
                        return None;
                    }
                }
            }
        }
        tokio::task::yield_now().await;
    }
    Some(digest.finish(key))
}

#[derive(Default)]
struct Digest {
    hasher: blake3::Hasher,
    blocks: u64,
    chunks: u64,
}

impl Digest {
    fn add(&mut self, chunk: ChunkId, blocks: &[Option<BlockHash>]) {
        let before = self.blocks;
        for (block, hash) in blocks.iter().enumerate() {
            let Some(hash) = hash else { continue };
            self.hasher.update(&chunk.object.0.to_le_bytes());
            self.hasher.update(&chunk.index.0.to_le_bytes());
            self.hasher.update(&(block as u64).to_le_bytes());
            self.hasher.update(&hash.0.to_le_bytes());
            self.blocks += 1;
        }
        // A chunk without a present block looks the same as none.
        self.chunks += u64::from(self.blocks > before);
    }

    fn finish(self, key: GroupKey) -> ReplicaDigest {
        let digest = self.hasher.finalize().to_hex().to_string();
        ReplicaDigest { pg: key.pg, disk: key.disk, digest, blocks: self.blocks, chunks: self.chunks }
    }
}
