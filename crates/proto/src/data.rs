//! The data wire between a client (or a node that deletes or repairs) and the primary of a placement group.
//!
//! Every request names the map version its sender routed by; a node behind it waits for it (design 4.2). Data travel as
//! the frame's payload, never inside these headers. The answer is `Result<DataReply, DataError>`.

use serde::{Deserialize, Serialize};
use weft_types::{
    AckMode, BlockHash, BlockIndex, ChunkId, DataError, LossGeneration, MapVersion, ObjectId, OperationId, Origin,
    PgId, PresentBlocks, SessionId, TruncateGeneration,
};

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum DataRequest {
    /// Payload: the bytes. They may begin and end anywhere; the primary makes whole blocks of them.
    Write(WriteRequest),
    /// Answer's payload: exactly `length_bytes`; absent blocks are zeros.
    Read(ReadRequest),
    /// Make a byte range read as zeros; whole blocks of it become absent.
    Discard(DiscardRequest),
    Truncate(TruncateRequest),
    DeleteObject {
        pg: PgId,
        map_version: MapVersion,
        origin: Option<Origin>,
        object: ObjectId,
    },
    Flush(FlushRequest),
    /// Highest end of any sequenced write to the object in this group, and the bytes of present blocks. A group that has
    /// not heard of this truncate generation answers with no end: what it knows is of an earlier life of the contents.
    ObjectExtent {
        pg: PgId,
        map_version: MapVersion,
        object: ObjectId,
        generation: TruncateGeneration,
    },
    /// Presence of the blocks of a chunk (SEEK_HOLE, SEEK_DATA, hole-preserving export).
    Presence {
        pg: PgId,
        map_version: MapVersion,
        chunk: ChunkId,
    },
    /// Write what another chunk holds. Sent to the primary of the target, which reads the source for itself.
    Copy(CopyRequest),
    /// Make absent blocks that a byte range touches present, with zeros: room that later writes find. Perhaps the others too.
    Fill(FillRequest),
}

impl DataRequest {
    /// Which session asks, and the number of the operation if it has one. What nobody's session asks for is of session 0,
    /// which does not exist.
    #[must_use]
    pub fn asked_by(&self) -> (SessionId, OperationId) {
        let of = |origin: &Origin| (origin.session, origin.operation);
        match self {
            Self::Write(r) => of(&r.origin),
            Self::Discard(r) => of(&r.origin),
            Self::Copy(r) => of(&r.origin),
            Self::Fill(r) => of(&r.origin),
            Self::Truncate(r) => r.origin.as_ref().map(of).unwrap_or_default(),
            Self::DeleteObject { origin, .. } => origin.as_ref().map(of).unwrap_or_default(),
            Self::Read(r) => (r.session, OperationId(0)),
            Self::Flush(r) => (r.session, OperationId(0)),
            Self::ObjectExtent { .. } | Self::Presence { .. } => Default::default(),
        }
    }

    /// For logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Write(_) => "write",
            Self::Read(_) => "read",
            Self::Discard(_) => "discard",
            Self::Truncate(_) => "truncate",
            Self::DeleteObject { .. } => "delete",
            Self::Flush(_) => "flush",
            Self::ObjectExtent { .. } => "extent",
            Self::Presence { .. } => "presence",
            Self::Copy(_) => "copy",
            Self::Fill(_) => "fill",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct WriteRequest {
    pub pg: PgId,
    pub map_version: MapVersion,
    pub origin: Origin,
    pub chunk: ChunkId,
    pub offset_bytes: u32,
    pub generation: TruncateGeneration,
    pub ack: AckMode,
    /// Hashes by the client of the blocks that the payload covers whole, in order: checked by every member, so that
    /// bytes damaged on the way are refused, not stored.
    pub hashes: Vec<BlockHash>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ReadRequest {
    pub pg: PgId,
    pub map_version: MapVersion,
    pub session: SessionId,
    pub chunk: ChunkId,
    pub offset_bytes: u32,
    pub length_bytes: u32,
    pub contents: Contents,
}

/// Which contents of an object a reader wants, by their truncate generation.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum Contents {
    /// Whatever is there: for a node that repairs.
    Any,
    /// Those that the reader knows: it is told when they were cut since.
    Of(TruncateGeneration),
    /// Those that the reader knows or any later ones: what was cut off since is absent.
    OfAtLeast(TruncateGeneration),
}

impl Contents {
    /// The generation that has to have arrived before anything is read.
    #[must_use]
    pub const fn generation(self) -> Option<TruncateGeneration> {
        match self {
            Self::Any => None,
            Self::Of(generation) | Self::OfAtLeast(generation) => Some(generation),
        }
    }
}

/// Up to `MAX_IO_BYTES` of another chunk of the volume, to be written here. Within one chunk on either side.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct CopyRequest {
    pub pg: PgId,
    pub map_version: MapVersion,
    pub origin: Origin,
    pub chunk: ChunkId,
    pub offset_bytes: u32,
    pub length_bytes: u32,
    pub generation: TruncateGeneration,
    pub ack: AckMode,
    pub source: CopySource,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct CopySource {
    pub pg: PgId,
    pub chunk: ChunkId,
    pub offset_bytes: u32,
    /// That the client knows. What was cut off since is copied as zeros.
    pub generation: TruncateGeneration,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct DiscardRequest {
    pub pg: PgId,
    pub map_version: MapVersion,
    pub origin: Origin,
    pub chunk: ChunkId,
    pub offset_bytes: u32,
    pub length_bytes: u32,
    pub generation: TruncateGeneration,
    pub ack: AckMode,
}

/// Up to `MAX_FILL_BYTES` within one chunk. Blocks that are touched in part are filled whole; where present ones become zeros
/// there may be none, or bytes beside the range would be lost.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct FillRequest {
    pub pg: PgId,
    pub map_version: MapVersion,
    pub origin: Origin,
    pub chunk: ChunkId,
    pub offset_bytes: u32,
    pub length_bytes: u32,
    pub generation: TruncateGeneration,
    pub ack: AckMode,
    pub present: PresentBlocks,
}

/// Cut the object to `size_bytes` within this group. Idempotent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct TruncateRequest {
    pub pg: PgId,
    pub map_version: MapVersion,
    pub origin: Option<Origin>,
    pub object: ObjectId,
    pub size_bytes: u64,
    pub generation: TruncateGeneration,
}

/// One request per node: everything acknowledged before in the named groups becomes durable on every member.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct FlushRequest {
    pub session: SessionId,
    pub map_version: MapVersion,
    pub pgs: Vec<PgId>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum DataReply {
    Written,
    Read,
    Done,
    /// Per group, in the order asked: its loss generation, or why it was not flushed.
    Flushed(Vec<(PgId, Result<LossGeneration, DataError>)>),
    ObjectExtent {
        end_bytes: u64,
        allocated_bytes: u64,
    },
    /// Runs of present blocks: first block and count.
    Presence(Vec<(BlockIndex, u16)>),
}
