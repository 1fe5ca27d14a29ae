//! The types that openraft is instantiated with, and how they look on disk and on the wire.
//!
//! Guarantees: what is written carries [`FORMAT_VERSION`]; decoding never panics. Must not know: who calls whom.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use weft_meta::{CommandReply, Stamped};

/// First byte of a log entry, of the applied record and of an RPC. Raised when an older program would misread them.
pub(crate) const FORMAT_VERSION: u8 = 1;

/// Commands that share one log entry, so that concurrent proposals share one fsync and one round to the followers.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Commands {
    pub(crate) commands: Vec<Stamped>,
}

/// One reply per command of a batch; none for entries of Raft itself.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug, Default)]
pub struct Replies {
    pub(crate) replies: Vec<CommandReply>,
}

/// What the membership says of a node. The address is where it was when it joined; the map knows the current one.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct PeerAddress {
    pub control_address: Option<SocketAddr>,
}

openraft::declare_raft_types!(
    pub TypeConfig:
        D = Commands,
        R = Replies,
        NodeId = u64,
        Node = PeerAddress,
        SnapshotData = tokio::fs::File,
);

pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, PeerAddress>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, PeerAddress>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type StorageIoError = openraft::StorageIOError<u64>;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("empty")]
    Empty,
    #[error("format version {found}, this program reads version {FORMAT_VERSION}")]
    OtherVersion { found: u8 },
    #[error("malformed: {0}")]
    Malformed(String),
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    postcard::to_extend(value, vec![FORMAT_VERSION]).map_err(|error| CodecError::Malformed(error.to_string()))
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match bytes.split_first() {
        None => Err(CodecError::Empty),
        Some((&FORMAT_VERSION, rest)) => {
            weft_types::codec::decode(rest).map_err(|error| CodecError::Malformed(error.to_string()))
        }
        Some((&found, _)) => Err(CodecError::OtherVersion { found }),
    }
}

/// Puts an error of ours into openraft's.
pub(crate) fn any(error: &dyn std::fmt::Display) -> openraft::AnyError {
    openraft::AnyError::error(error)
}
