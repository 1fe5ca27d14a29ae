//! What a replica asks of its shell.
//!
//! Actions are carried out **in order**. If one that touches the store fails, the shell drops the rest of that list and
//! feeds `Event::DiskFailed`; so an acknowledgement that follows an append in the list never leaves without it.

use crate::events::{ReadTicket, RequestToken, SaveTicket};
use bytes::Bytes;
use std::sync::Arc;
use weft_proto::control::ChangeSetRequest;
use weft_proto::replication::{Envelope, SessionRecords};
use weft_types::{
    BlockHash, BlockIndex, BlockRange, ChunkId, DataError, DiskId, Entry, Epoch, LogPosition, LossGeneration, ObjectId,
};

#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Append to the journal (page cache). Never refused for space (design 5.10).
    Append(Vec<Arc<Entry>>),
    /// Entries up to here will never be cut: they may be checkpointed.
    SetCommitted(LogPosition),
    /// Drop the log after this position, with the dedupe records of what is dropped.
    CutTail {
        after: LogPosition,
    },
    /// The log goes on at `at`, with this history; contents stay (resync).
    ResetLog {
        at: LogPosition,
        history: Vec<LogPosition>,
    },
    ReplaceDedupe(Vec<SessionRecords>),
    /// Write down, sync at once, then feed `Event::StateSaved(ticket)`.
    SaveState {
        state: SavedState,
        ticket: SaveTicket,
    },
    /// Sync soon; `Event::Durable` follows. Several may be answered by one sync.
    RequestSync,
    /// Read whole blocks; `Event::BlocksRead` follows.
    ReadBlocks {
        ticket: ReadTicket,
        chunk: ChunkId,
        range: BlockRange,
    },
    /// `Event::PresenceRead` follows.
    ReadPresence {
        ticket: ReadTicket,
        chunk: ChunkId,
    },
    /// Highest end and allocated bytes of an object in this group, and its truncate generation, looked up at once;
    /// `Event::ObjectRead` follows.
    ReadObject {
        ticket: ReadTicket,
        object: ObjectId,
    },
    /// Put back a block that did not verify; its log position does not change.
    RepairBlock {
        chunk: ChunkId,
        block: BlockIndex,
        hash: BlockHash,
        bytes: Bytes,
    },
    Send(Envelope),
    Reply {
        token: RequestToken,
        result: Result<Reply, DataError>,
    },
    /// Carry to the metadata leader; the result comes back as a newer map. The replica repeats it itself.
    RequestChange(ChangeSetRequest),
    /// For the event list of the cluster.
    Report(Report),
}

/// A good answer to a client's request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    Written,
    Read(Bytes),
    Done,
    Flushed(LossGeneration),
    ObjectExtent { end_bytes: u64, allocated_bytes: u64 },
    Presence(Vec<(BlockIndex, u16)>),
}

/// The part of a replica's state that is not in its log. Durable before anything that depends on it is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SavedState {
    /// Accepts nothing of an older epoch.
    pub promised: Epoch,
    /// `None`: contents are complete up to the log's end. Otherwise a resync was begun and never finished, and changes
    /// between here and the log's end may be missing (design 5.7).
    pub complete_to: Option<LogPosition>,
    pub loss_generation: LossGeneration,
}

/// Worth telling people.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Report {
    #[error("peering began at epoch {epoch}")]
    PeeringBegan { epoch: Epoch },
    #[error("serving at epoch {epoch}")]
    Serving { epoch: Epoch },
    #[error("member {disk} made no progress: its removal is requested")]
    RemovalRequested { disk: DiskId },
    #[error("resync of {disk} began at {from}: {chunks} chunks to compare")]
    ResyncBegan { disk: DiskId, from: LogPosition, chunks: u64 },
    #[error("resync of {disk} is complete: {bytes_copied} bytes copied")]
    ResyncComplete { disk: DiskId, bytes_copied: u64 },
    #[error("no member without loss has been reachable for too long: going on from the log that ends at {end}")]
    LossAccepted { end: LogPosition },
    #[error("block {block} of chunk {chunk} did not verify and was repaired from {from}")]
    Repaired { chunk: ChunkId, block: BlockIndex, from: DiskId },
    #[error("block {block} of chunk {chunk} does not verify and no other member has a good copy")]
    Unrepairable { chunk: ChunkId, block: BlockIndex },
    #[error("damaged data arrived from {from} and was refused")]
    DamagedOnTheWay { from: DiskId },
}
