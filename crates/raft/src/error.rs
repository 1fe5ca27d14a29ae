//! What can go wrong when the metadata group's store is opened or the group is asked for something.

use std::net::SocketAddr;
use std::path::PathBuf;
use weft_store::StoreError;
use weft_types::{ClusterId, NodeId};

/// Why the store of this node could not be opened. `Display` says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{}: there is no metadata store here although this is node {node}; it was lost or never finished. \
             A node must not come back with an empty store: remove node {node} from the cluster and join anew", directory.display())]
    EmptyStore { directory: PathBuf, node: NodeId },
    #[error("{}: a metadata store of node {found} is here already", directory.display())]
    AlreadyExists { directory: PathBuf, found: NodeId },
    #[error("{}: this metadata store belongs to cluster {found}, not to {expected}; it is not touched", directory.display())]
    ForeignCluster { directory: PathBuf, found: ClusterId, expected: ClusterId },
    #[error("{}: this metadata store belongs to node {found}, not to node {expected}; it is not touched", directory.display())]
    ForeignNode { directory: PathBuf, found: NodeId, expected: NodeId },
    #[error("{what} is damaged: {why}; remove this node from the cluster and join it anew")]
    Damaged { what: String, why: String },
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("Raft does not start: {0}")]
    Raft(String),
}

impl OpenError {
    pub(crate) fn damaged(what: &str, why: &dyn std::fmt::Display) -> Self {
        Self::Damaged { what: what.to_owned(), why: why.to_string() }
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Why a proposal, a quorum round or a membership change did not happen, or may not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    #[error("this node does not lead the metadata group")]
    NotLeader { leader: Option<(NodeId, Option<SocketAddr>)> },
    /// It may have happened and may still happen.
    #[error("no answer from a majority of the metadata group within {waited_ms} ms")]
    TimedOut { waited_ms: u64 },
    #[error("too many requests are waiting for the metadata group")]
    Overloaded,
    #[error("the metadata group refused: {0}")]
    Refused(String),
    /// Final: this node's Raft has stopped.
    #[error("Raft has stopped on this node: {0}")]
    Stopped(String),
}
