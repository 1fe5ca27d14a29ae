//! Messages between the members of one placement group.
//!
//! One message is one frame: [`Envelope`] is the header (postcard); the data of its entries or blocks are the payload,
//! laid end to end in the order of [`Message::payload`]. [`Message::attach_payload`] puts them back on receipt.
//! Messages from one member to another travel in order within a connection. Across connections they may be lost,
//! doubled and reordered; the protocol stands that (design 5.2).

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use weft_types::{
    BlockHash, BlockIndex, BlockRange, ChunkId, ChunkIndex, DiskId, Entry, Epoch, Incarnation, LogPosition, ObjectId,
    OperationId, PgId, SessionId, SetVersion, TruncateGeneration,
};

/// A message with its addresses. A receiver under another incarnation than `to_incarnation` drops it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Envelope {
    pub pg: PgId,
    pub from: DiskId,
    pub from_incarnation: Incarnation,
    pub to: DiskId,
    pub to_incarnation: Incarnation,
    pub message: Message,
}

/// Everything is said at an epoch. A member answers nothing of an epoch older than its promise but [`Message::Deposed`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum Message {
    /// Primary: promise me to accept nothing of an older epoch, and tell me your log (design 5.5). Sent again whenever
    /// the stream to a member begins anew.
    Prepare {
        epoch: Epoch,
        handshake: u64,
    },
    /// The promise is durable.
    Promised(Box<Promised>),
    /// Somebody who was deposed spoke.
    Deposed {
        promised: Epoch,
    },
    /// New primary to the member with the best log: give me your entries after this position.
    Fetch {
        epoch: Epoch,
        after: LogPosition,
    },
    Fetched {
        epoch: Epoch,
        after: LogPosition,
        /// Empty when nothing follows, or when `trimmed`.
        #[serde(with = "headers_only")]
        entries: Vec<Arc<Entry>>,
        /// The journal does not go back as far as `after`.
        trimmed: bool,
    },
    /// Primary: your log ends at `expect_end` and shares mine up to `cut_after`; drop what follows and join my stream.
    /// Ignored (and answered with the true end) when the log ends elsewhere: a late copy must not cut what was
    /// appended since.
    Level {
        epoch: Epoch,
        expect_end: LogPosition,
        cut_after: LogPosition,
    },
    /// What would have to be cut is committed here: only a resync can help.
    CannotLevel {
        epoch: Epoch,
        end: LogPosition,
    },
    Append(Append),
    Appended(Appended),
    /// Primary: make everything appended durable and report (design 5, flush).
    Sync {
        epoch: Epoch,
    },
    /// Primary to a syncing member: you are complete only up to `complete_to`; remember that durably, put your log at
    /// `log_at` and join my stream there (design 5.7).
    BeginResync(Box<BeginResync>),
    /// The member remembered it and joined.
    ResyncReady {
        epoch: Epoch,
        run: u64,
    },
    /// Which chunks may differ, after `page` in order.
    ListChanged {
        epoch: Epoch,
        run: u64,
        scope: ListScope,
        page: Option<ChunkId>,
    },
    Changed {
        epoch: Epoch,
        run: u64,
        chunks: Vec<ChunkId>,
        /// On the last page: what the member removed since.
        removed: Vec<RemovedChunks>,
        listing: Listing,
    },
    HashChunk {
        epoch: Epoch,
        run: u64,
        chunk: ChunkId,
    },
    ChunkHashed {
        epoch: Epoch,
        run: u64,
        chunk: ChunkId,
        /// `None`: the member has no such chunk.
        digest: Option<ChunkDigest>,
    },
    /// Replaces the receiver's dedupe table when its log ends exactly at `at` (design 5.8).
    Dedupe {
        epoch: Epoch,
        run: u64,
        at: LogPosition,
        table: Vec<SessionRecords>,
    },
    DedupeTaken {
        epoch: Epoch,
        run: u64,
        /// False: the log ended elsewhere; the table has to be sent again.
        taken: bool,
    },
    /// Primary to a level member: the blocks as you have them (repair of a block that does not verify, design 6).
    FetchBlocks {
        epoch: Epoch,
        repair: u64,
        chunk: ChunkId,
        range: BlockRange,
        /// Not answered unless the log reaches this.
        at_least: LogPosition,
    },
    FetchedBlocks {
        epoch: Epoch,
        repair: u64,
        /// One per block; empty when the member cannot give good ones.
        hashes: Vec<BlockHash>,
        #[serde(skip)]
        bytes: Bytes,
        length_bytes: u32,
    },
    /// Member: my disk has lost what it knew of a chunk. Others are enough; take me out of the set, and copy to me.
    Withdrawn {
        epoch: Epoch,
    },
}

/// What a member promises with, and what its log is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Promised {
    pub epoch: Epoch,
    pub handshake: u64,
    pub end: LogPosition,
    /// Entries after this position are still in its journal.
    pub start: LogPosition,
    /// Nothing up to here may be cut.
    pub committed: LogPosition,
    pub durable: LogPosition,
    /// Last position of every epoch in its log, oldest first; the last one is `end`.
    pub history: Vec<LogPosition>,
    /// `None`: nothing is missing before `end`. Otherwise a resync was never finished.
    pub complete_to: Option<LogPosition>,
    pub credits_bytes: u64,
    pub journal_room_bytes: u64,
}

/// Entries of the primary's log, in order and without a gap. Every field but `entries` is cumulative.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Append {
    pub epoch: Epoch,
    #[serde(with = "headers_only")]
    pub entries: Vec<Arc<Entry>>,
    /// Readable: on every member that is not behind. Never cut again.
    pub committed: LogPosition,
    pub sync: SyncWish,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub enum SyncWish {
    /// The journal's own pace.
    #[default]
    Later,
    /// Somebody waits for these entries to be durable.
    Now,
}

/// How far a member is. Cumulative; an older report than the last is harmless.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Appended {
    pub epoch: Epoch,
    pub end: LogPosition,
    pub durable: LogPosition,
    pub credits_bytes: u64,
    /// What its journal takes before it is short of room. Bounds what a member that does not count is sent.
    pub journal_room_bytes: u64,
    pub resend: Resend,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum Resend {
    No,
    /// What came does not follow `end`: go on from there.
    FromEnd,
    /// The member is not in this stream (it restarted, or was never levelled): prepare it again.
    Prepare,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct BeginResync {
    pub epoch: Epoch,
    pub run: u64,
    /// Where the member's log ended when it promised; guards against a late copy of this message.
    pub expect_end: LogPosition,
    pub complete_to: LogPosition,
    /// The set in which the member is syncing. Only a later set can say that it is complete again.
    pub set_version: SetVersion,
    pub log: ResyncLog,
}

/// How a syncing member's log goes on.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum ResyncLog {
    /// It shares the primary's up to here, and the journal has the rest.
    CutAfter(LogPosition),
    /// It begins anew at `at`, with the primary's history.
    Restart { at: LogPosition, history: Vec<LogPosition> },
}

/// Every chunk of the object from this number on.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct RemovedChunks {
    pub object: ObjectId,
    pub from: ChunkIndex,
}

/// What a resync target is asked to list.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum ListScope {
    /// Chunks changed after this position, and those that the primary removed since and the target still has.
    Since { position: LogPosition, removed: Vec<RemovedChunks> },
    /// Every chunk.
    All,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum Listing {
    /// More chunks follow after the last one.
    More,
    /// That was all that was asked for.
    Complete,
    /// The member's memory of removals does not go back that far: it listed every chunk, and every chunk of the
    /// primary has to be compared too.
    CompleteOfAll,
}

/// The state of one chunk by hash.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ChunkDigest {
    /// One per block up to the last present one; `None` for an absent block or one that does not verify.
    pub blocks: Vec<Option<BlockHash>>,
    pub end_bytes: u32,
    pub generation: TruncateGeneration,
    pub health: ChunkHealth,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum ChunkHealth {
    Good,
    /// The trailer did not verify: `blocks` cannot be believed.
    Damaged,
}

impl ChunkDigest {
    #[must_use]
    pub fn block(&self, block: BlockIndex) -> Option<BlockHash> {
        self.blocks.get(usize::from(block.0)).copied().flatten()
    }
}

/// What a placement group remembers of one session (design 5.8).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct SessionRecords {
    pub session: SessionId,
    pub low_water: OperationId,
    pub operations: Vec<(OperationId, LogPosition)>,
}

/// A payload whose length is not what the header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("payload of {got} bytes does not fit its header")]
pub struct PayloadMismatch {
    pub got: usize,
}

impl Message {
    /// The data that travel as the frame's payload, in order.
    pub fn payload(&self) -> impl Iterator<Item = &Bytes> {
        let entries: &[Arc<Entry>] = match self {
            Self::Append(append) => &append.entries,
            Self::Fetched { entries, .. } => entries,
            _ => &[],
        };
        let blocks = match self {
            Self::FetchedBlocks { bytes, .. } => Some(bytes),
            _ => None,
        };
        entries.iter().map(|entry| &entry.data).chain(blocks).filter(|bytes| !bytes.is_empty())
    }

    /// Bytes of the payload.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.payload().map(Bytes::len).sum()
    }

    /// Gives a decoded message its payload back. The slices share `payload`'s buffer.
    ///
    /// # Errors
    /// When the lengths that the header states do not add up to the payload's.
    pub fn attach_payload(&mut self, payload: Bytes) -> Result<(), PayloadMismatch> {
        let mismatch = PayloadMismatch { got: payload.len() };
        let mut rest = payload;
        match self {
            Self::Append(Append { entries, .. }) | Self::Fetched { entries, .. } => {
                for entry in entries {
                    let length = entry.header.effect.data_len();
                    if length > rest.len() {
                        return Err(mismatch);
                    }
                    // Fresh from the decoder, so nobody else holds it and nothing is cloned.
                    Arc::make_mut(entry).data = rest.split_to(length);
                }
            }
            Self::FetchedBlocks { bytes, length_bytes, .. } => {
                let length = *length_bytes as usize;
                if length > rest.len() {
                    return Err(mismatch);
                }
                *bytes = rest.split_to(length);
            }
            _ => {}
        }
        if rest.is_empty() { Ok(()) } else { Err(mismatch) }
    }
}

/// Entries cross the wire as headers; their data are the payload.
mod headers_only {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::sync::Arc;
    use weft_types::{Entry, EntryHeader};

    pub fn serialize<S: Serializer>(entries: &[Arc<Entry>], serializer: S) -> Result<S::Ok, S::Error> {
        struct Header<'a>(&'a EntryHeader);
        impl Serialize for Header<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(serializer)
            }
        }
        serializer.collect_seq(entries.iter().map(|entry| Header(&entry.header)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Arc<Entry>>, D::Error> {
        let headers = Vec::<EntryHeader>::deserialize(deserializer)?;
        Ok(headers.into_iter().map(|header| Arc::new(Entry { header, data: Bytes::new() })).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::{BLOCK_SIZE, Effect, EntryHeader, Sequence};

    fn append() -> Message {
        let range = BlockRange::new(BlockIndex(3), 1);
        let chunk = ChunkId { object: ObjectId(7), index: ChunkIndex(0) };
        let write = Effect::Write {
            chunk,
            range,
            hashes: vec![BlockHash(5)],
            end_bytes: 16_384,
            generation: TruncateGeneration(0),
        };
        let header = |sequence, effect| EntryHeader {
            position: LogPosition::new(Epoch(1), Sequence(sequence)),
            previous: LogPosition::new(Epoch(1), Sequence(sequence - 1)),
            origin: None,
            only_for: None,
            effect,
        };
        Message::Append(Append {
            epoch: Epoch(1),
            entries: vec![
                Arc::new(Entry { header: header(8, write), data: Bytes::from(vec![1; BLOCK_SIZE]) }),
                Arc::new(Entry { header: header(9, Effect::Nothing), data: Bytes::new() }),
            ],
            committed: LogPosition::ZERO,
            sync: SyncWish::Later,
        })
    }

    #[test]
    fn data_of_entries_come_back_from_the_payload() {
        let message = append();
        let header = postcard::to_stdvec(&message).unwrap();
        assert!(header.len() < 100, "no data in the header");
        let mut decoded: Message = postcard::from_bytes(&header).unwrap();
        let payload: Vec<u8> = message.payload().flatten().copied().collect();
        decoded.attach_payload(payload.into()).unwrap();
        assert_eq!(decoded, message);
    }

    #[test]
    fn a_payload_of_another_length_is_refused() {
        for length in [0, BLOCK_SIZE - 1, BLOCK_SIZE + 1] {
            assert!(append().attach_payload(vec![0; length].into()).is_err(), "{length}");
        }
    }
}
