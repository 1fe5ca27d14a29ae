//! The vocabulary of Weft: identifiers, log positions, geometry, limits, checksums, error kinds, and the bounded decoder.
//!
//! Responsible for: the newtypes that every other crate speaks in, so that no bare integer crosses a module boundary.
//! Guarantees: plain data, total orderings where an order is meaningful, no I/O, no clock, no randomness.
//! Must not know: any message, file format or protocol rule.

pub mod arbitrary;
pub mod attributes;
pub mod checksum;
pub mod codec;
pub mod entry;
pub mod error;
pub mod fuzz;
pub mod geometry;
pub mod ids;
pub mod limits;
pub mod lock;
pub mod map;
pub mod position;
pub mod time;

pub use attributes::{Attributes, FileKind, Timestamp};
pub use checksum::{BlockHash, block_hash};
pub use entry::{Effect, Entry, EntryHeader, Origin, PresentBlocks};
pub use error::{DataError, ErrorKind};
pub use geometry::{BLOCK_SIZE, BlockIndex, BlockRange, ChunkIndex, ChunkSize};
pub use ids::{
    ChunkId, ClusterId, DiskId, Incarnation, InodeNumber, NodeId, ObjectId, OperationId, PgId, RequestNumber,
    SessionId, SessionOwner, StartId, VolumeId,
};
pub use lock::{LockKind, LockOwner, LockRange};
pub use map::{AckMode, Member, PgRecord};
pub use position::{Epoch, LogPosition, LossGeneration, MapVersion, Sequence, SetVersion, TruncateGeneration};
pub use time::BootTime;
