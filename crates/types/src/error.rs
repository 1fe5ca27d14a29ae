//! Kinds of refusal that cross process boundaries. Facts inside, text at the edge (`Display` is for logs and the CLI).

use crate::ids::OperationId;
use crate::position::{Epoch, LossGeneration, MapVersion, TruncateGeneration};
use serde::{Deserialize, Serialize};

/// Why a metadata or administrative request was refused. Each maps to one errno at the FUSE edge.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, thiserror::Error)]
pub enum ErrorKind {
    #[error("no such file, directory or volume")]
    NotFound,
    #[error("already exists")]
    Exists,
    #[error("not a directory")]
    NotDirectory,
    #[error("is a directory")]
    IsDirectory,
    #[error("directory not empty")]
    NotEmpty,
    #[error("name too long")]
    NameTooLong,
    #[error("{0}")]
    Invalid(String),
    #[error("permission denied")]
    Access,
    #[error("operation not permitted")]
    NotPermitted,
    #[error("too many links")]
    TooManyLinks,
    #[error("too many symbolic links")]
    Loop,
    #[error("no such attribute")]
    NoAttribute,
    #[error("value too large")]
    TooLarge,
    #[error("no space left")]
    NoSpace,
    #[error("file too large")]
    FileTooLarge,
    #[error("resource temporarily unavailable")]
    WouldBlock,
    #[error("deadlock avoided")]
    Deadlock,
    #[error("busy: {0}")]
    Busy(String),
    #[error("this session was fenced: another host may have taken its locks")]
    Fenced,
    #[error("the file handle is stale")]
    Stale,
    #[error("not supported")]
    NotSupported,
    #[error("input/output error: {0}")]
    Io(String),
    #[error("gave up after {waited_ms} ms: {why}")]
    TimedOut { waited_ms: u64, why: String },
    #[error("unavailable now: {0}")]
    Unavailable(String),
    #[error("refused: {0}")]
    Refused(String),
    #[error("no locks available: {0}")]
    NoLocks(String),
}

/// Why the primary of a placement group did not do what it was asked. The client core decides what to do next.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, thiserror::Error)]
pub enum DataError {
    /// Not the primary, at the map version it knows. The client fetches the map and tries elsewhere.
    #[error("not the primary at map version {known}")]
    NotPrimary { known: MapVersion },
    /// Primary, but not serving now (peering, no lease, too few members). Worth a retry at the same place.
    #[error("placement group is not serving: {reason}")]
    NotServing { reason: NotServing },
    /// The session was struck off. Final.
    #[error("session is fenced")]
    Fenced,
    /// Some member of the in-sync set has no space credit. Nothing was sequenced.
    #[error("no space left on a replica")]
    NoSpace,
    /// No replica has a copy that verifies.
    #[error("no good copy of a block")]
    Corrupt,
    /// Unflushed writes may be lost: the group's loss generation is no longer the one named in the request.
    #[error("unflushed writes may be lost: loss generation is {current}")]
    Lost { current: LossGeneration },
    /// The operation is below its session's low-water mark: an old copy of something long answered (design 5.8).
    #[error("operation is below the low-water mark {low_water}")]
    Answered { low_water: OperationId },
    /// The request was made before a truncation that this group has carried out. The client fetches the attributes and
    /// tries again with the new generation.
    #[error("the object was truncated: its generation is {current}")]
    StaleGeneration { current: TruncateGeneration },
    #[error("request is malformed")]
    Malformed,
    /// The member's disk failed.
    #[error("disk failed")]
    DiskFailed,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug, thiserror::Error)]
pub enum NotServing {
    #[error("the node holds no lease")]
    NoLease,
    #[error("peering at epoch {0}")]
    Peering(Epoch),
    #[error("fewer in-sync members than the minimum")]
    BelowMinimum,
    #[error("the primary is being moved")]
    Moving,
    #[error("its queue is full")]
    Overloaded,
    /// The request was made after a truncation that has not arrived here yet.
    #[error("a truncation has not arrived yet")]
    Truncating,
    #[error("the node is stopping")]
    Stopping,
    #[error("nobody serves the source of the copy now")]
    NoSource,
}
