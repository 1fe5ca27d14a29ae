//! Raft's own messages between nodes: encoding, and the trait through which the node carries them.
//!
//! Guarantees: every call has openraft's deadline; a message that claims to come from another node than its sender is
//! refused. Must not know: connections, certificates.

use crate::types::{PeerAddress, TypeConfig, decode, encode};
use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use weft_types::NodeId;

/// How long a peer that could not be reached is left alone. Short, because a restarted node should catch up at once.
const UNREACHABLE_BACKOFF: Duration = Duration::from_millis(200);

/// Why a message did not get an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    #[error("node {0} cannot be reached")]
    Unreachable(NodeId),
    #[error("no answer within the deadline")]
    TimedOut,
    #[error("{0}")]
    Failed(String),
}

pub type PeerCall = Pin<Box<dyn Future<Output = Result<Vec<u8>, PeerError>> + Send>>;

/// What carries Raft's messages; the node implements it over its control connections. The receiver hands the bytes to
/// [`crate::MetaGroup::handle_message`] together with the identity of the peer, and sends back what that returns.
pub trait RaftPeers: Send + Sync + 'static {
    /// `address` is where the membership says the node was when it joined; the map may know better.
    /// Messages are at most [`MAX_MESSAGE_BYTES`] long, unless one log entry alone is longer.
    fn call(&self, to: NodeId, address: Option<SocketAddr>, message: Vec<u8>, deadline: Duration) -> PeerCall;
}

/// A batch of log entries or a chunk of a snapshot, and its envelope.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

#[derive(Serialize, Deserialize)]
pub(crate) enum Message {
    Append(AppendEntriesRequest<TypeConfig>),
    Snapshot(InstallSnapshotRequest<TypeConfig>),
    Vote(VoteRequest<u64>),
}

impl Message {
    /// The node that this message speaks for.
    pub(crate) fn sender(&self) -> NodeId {
        let vote = match self {
            Self::Append(request) => &request.vote,
            Self::Snapshot(request) => &request.vote,
            Self::Vote(request) => &request.vote,
        };
        NodeId(vote.leader_id().node_id)
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) enum Answer {
    Append(Result<AppendEntriesResponse<u64>, RaftError<u64>>),
    Snapshot(Result<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>>),
    Vote(Result<VoteResponse<u64>, RaftError<u64>>),
    /// The message was not handed to Raft.
    Refused(String),
}

pub(crate) struct Network {
    pub(crate) id: NodeId,
    pub(crate) peers: Arc<dyn RaftPeers>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &PeerAddress) -> Peer {
        Peer { id: self.id, to: NodeId(target), address: node.control_address, peers: self.peers.clone() }
    }
}

pub(crate) struct Peer {
    id: NodeId,
    to: NodeId,
    address: Option<SocketAddr>,
    peers: Arc<dyn RaftPeers>,
}

type CallError<E> = RPCError<u64, PeerAddress, E>;

impl Peer {
    async fn call<E: std::error::Error + DeserializeOwned>(
        &self,
        message: &Message,
        action: RPCTypes,
        option: &RPCOption,
    ) -> Result<Answer, CallError<E>> {
        let bytes = encode(message).map_err(|error| network(&error))?;
        let deadline = option.hard_ttl();
        match self.peers.call(self.to, self.address, bytes, deadline).await {
            Ok(bytes) => decode(&bytes).map_err(|error| network(&error)),
            Err(error @ PeerError::Unreachable(_)) => Err(Unreachable::new(&error).into()),
            Err(PeerError::TimedOut) => {
                Err(Timeout { action, id: self.id.0, target: self.to.0, timeout: deadline }.into())
            }
            Err(error @ PeerError::Failed(_)) => Err(network(&error)),
        }
    }

    fn answered<T, E: std::error::Error>(&self, result: Result<T, E>) -> Result<T, CallError<E>> {
        result.map_err(|error| RemoteError::new(self.to.0, error).into())
    }

    /// Refusals are for a person to look at (a removed node, another cluster): no use in asking again at once.
    fn unexpected<E: std::error::Error>(answer: &Answer) -> CallError<E> {
        let why = match answer {
            Answer::Refused(why) => why.clone(),
            _ => "an answer to another question".to_owned(),
        };
        Unreachable::new(&PeerError::Failed(why)).into()
    }
}

fn network<E: std::error::Error, F: std::error::Error + 'static>(error: &F) -> CallError<E> {
    NetworkError::new(error).into()
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, CallError<RaftError<u64>>> {
        match self.call(&Message::Append(rpc), RPCTypes::AppendEntries, &option).await? {
            Answer::Append(result) => self.answered(result),
            other => Err(Self::unexpected(&other)),
        }
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, CallError<RaftError<u64, InstallSnapshotError>>> {
        match self.call(&Message::Snapshot(rpc), RPCTypes::InstallSnapshot, &option).await? {
            Answer::Snapshot(result) => self.answered(result),
            other => Err(Self::unexpected(&other)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, CallError<RaftError<u64>>> {
        match self.call(&Message::Vote(rpc), RPCTypes::Vote, &option).await? {
            Answer::Vote(result) => self.answered(result),
            other => Err(Self::unexpected(&other)),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(UNREACHABLE_BACKOFF))
    }
}
