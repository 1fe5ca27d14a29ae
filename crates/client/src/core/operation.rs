//! Data operations as the core sees them, and their results.

use bytes::Bytes;
use weft_proto::data::{
    Contents, CopyRequest, CopySource, DataRequest, DiscardRequest, FillRequest, ReadRequest, TruncateRequest,
    WriteRequest,
};
use weft_types::{
    AckMode, BlockHash, BlockIndex, ChunkId, InodeNumber, LossGeneration, MapVersion, ObjectId, Origin, PgId,
    PresentBlocks, SessionId, TruncateGeneration,
};

/// An operation of the caller; counted up by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// One sending of an operation. Late answers to an earlier attempt are told apart by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AttemptId {
    pub ticket: Ticket,
    pub count: u32,
}

#[derive(Clone, Debug)]
pub enum Operation {
    Write {
        chunk: ChunkId,
        offset_bytes: u32,
        generation: TruncateGeneration,
        ack: AckMode,
        hashes: Vec<BlockHash>,
        data: Bytes,
    },
    Read {
        chunk: ChunkId,
        offset_bytes: u32,
        length_bytes: u32,
        generation: TruncateGeneration,
    },
    Discard {
        chunk: ChunkId,
        offset_bytes: u32,
        length_bytes: u32,
        generation: TruncateGeneration,
        ack: AckMode,
    },
    /// Room for later writes; perhaps zeros over what is there.
    Fill {
        chunk: ChunkId,
        offset_bytes: u32,
        length_bytes: u32,
        generation: TruncateGeneration,
        ack: AckMode,
        present: PresentBlocks,
    },
    /// Bytes of another chunk; the nodes move them.
    Copy {
        chunk: ChunkId,
        offset_bytes: u32,
        length_bytes: u32,
        generation: TruncateGeneration,
        ack: AckMode,
        source: CopySource,
    },
    Truncate {
        pg: PgId,
        object: ObjectId,
        size_bytes: u64,
        generation: TruncateGeneration,
    },
    ObjectExtent {
        pg: PgId,
        object: ObjectId,
    },
    /// Wait until every changing operation of the file that was submitted under an earlier life of its contents is
    /// answered: nothing of it can land after a truncation that is acknowledged then.
    SettleOlder {
        object: ObjectId,
        generation: TruncateGeneration,
    },
    Presence {
        chunk: ChunkId,
    },
    /// Everything acknowledged before in these groups becomes durable; one request per node.
    Flush {
        pgs: Vec<PgId>,
    },
    /// Wait until every changing operation of the file that was submitted earlier is answered (design 4.5).
    Settle,
}

impl Operation {
    /// Whether it changes data, and so carries an operation number.
    #[must_use]
    pub const fn is_change(&self) -> bool {
        matches!(
            self,
            Self::Write { .. } | Self::Discard { .. } | Self::Fill { .. } | Self::Copy { .. } | Self::Truncate { .. }
        )
    }

    /// The contents that it changes.
    #[must_use]
    pub const fn changes(&self) -> Option<(ObjectId, TruncateGeneration)> {
        match self {
            Self::Write { chunk, generation, .. }
            | Self::Discard { chunk, generation, .. }
            | Self::Fill { chunk, generation, .. }
            | Self::Copy { chunk, generation, .. } => Some((chunk.object, *generation)),
            Self::Truncate { object, generation, .. } => Some((*object, *generation)),
            _ => None,
        }
    }

    /// Bytes that it keeps in memory, now or when its answer comes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        match self {
            Self::Write { data, .. } => data.len(),
            Self::Read { length_bytes, .. } => *length_bytes as usize,
            _ => 0,
        }
    }

    /// The request on the wire. `origin` is given exactly for changes; flushes and settling are built elsewhere.
    pub(super) fn request(
        &self,
        pg: PgId,
        map_version: MapVersion,
        session: SessionId,
        origin: Option<Origin>,
    ) -> Option<(DataRequest, Bytes)> {
        Some(match (self, origin) {
            (Self::Write { chunk, offset_bytes, generation, ack, hashes, data }, Some(origin)) => (
                DataRequest::Write(WriteRequest {
                    pg,
                    map_version,
                    origin,
                    chunk: *chunk,
                    offset_bytes: *offset_bytes,
                    generation: *generation,
                    ack: *ack,
                    hashes: hashes.clone(),
                }),
                data.clone(),
            ),
            (Self::Discard { chunk, offset_bytes, length_bytes, generation, ack }, Some(origin)) => (
                DataRequest::Discard(DiscardRequest {
                    pg,
                    map_version,
                    origin,
                    chunk: *chunk,
                    offset_bytes: *offset_bytes,
                    length_bytes: *length_bytes,
                    generation: *generation,
                    ack: *ack,
                }),
                Bytes::new(),
            ),
            (Self::Fill { chunk, offset_bytes, length_bytes, generation, ack, present }, Some(origin)) => (
                DataRequest::Fill(FillRequest {
                    pg,
                    map_version,
                    origin,
                    chunk: *chunk,
                    offset_bytes: *offset_bytes,
                    length_bytes: *length_bytes,
                    generation: *generation,
                    ack: *ack,
                    present: *present,
                }),
                Bytes::new(),
            ),
            (Self::Copy { chunk, offset_bytes, length_bytes, generation, ack, source }, Some(origin)) => (
                DataRequest::Copy(CopyRequest {
                    pg,
                    map_version,
                    origin,
                    chunk: *chunk,
                    offset_bytes: *offset_bytes,
                    length_bytes: *length_bytes,
                    generation: *generation,
                    ack: *ack,
                    source: *source,
                }),
                Bytes::new(),
            ),
            (Self::Truncate { object, size_bytes, generation, .. }, origin @ Some(_)) => (
                DataRequest::Truncate(TruncateRequest {
                    pg,
                    map_version,
                    origin,
                    object: *object,
                    size_bytes: *size_bytes,
                    generation: *generation,
                }),
                Bytes::new(),
            ),
            (Self::Read { chunk, offset_bytes, length_bytes, generation }, None) => (
                DataRequest::Read(ReadRequest {
                    pg,
                    map_version,
                    session,
                    chunk: *chunk,
                    offset_bytes: *offset_bytes,
                    length_bytes: *length_bytes,
                    contents: Contents::Of(*generation),
                }),
                Bytes::new(),
            ),
            (Self::ObjectExtent { object, .. }, None) => {
                let generation = TruncateGeneration(0);
                (DataRequest::ObjectExtent { pg, map_version, object: *object, generation }, Bytes::new())
            }
            (Self::Presence { chunk }, None) => {
                (DataRequest::Presence { pg, map_version, chunk: *chunk }, Bytes::new())
            }
            _ => return None,
        })
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Done,
    Read(Bytes),
    Extent {
        end_bytes: u64,
        allocated_bytes: u64,
    },
    Presence(Vec<(BlockIndex, u16)>),
    /// Every group that was asked for, with its loss generation.
    Flushed(Vec<(PgId, LossGeneration)>),
}

/// The file an operation belongs to; operations without one (statistics) settle nothing.
pub type FileKey = Option<InodeNumber>;
