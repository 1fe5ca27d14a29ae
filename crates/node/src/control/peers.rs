//! Connections to other nodes' control ports, and Raft's messages over them.
//!
//! Guarantees: at most one connection is kept per address; a Raft message reaches only the node it is for (by
//! certificate); queues and waits are bounded by the caller's deadline. Must not know: what a message means.

use crate::control::serve::Server;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use weft_proto::control::{ControlReply, ControlRequest};
use weft_raft::{PeerCall, PeerError, RaftPeers};
use weft_transport::dialer::DialTarget;
use weft_transport::{CallError, Connection, Endpoint, Hello, PeerHandle, PeerState, SendError, Service};
use weft_types::NodeId;
use weft_types::map::{ClusterMap, NodeState};

/// Raft messages that wait for their connection. Each replication task has one under way, elections and quorum rounds
/// one per voter.
const MAX_QUEUED_RAFT_MESSAGES: usize = 1024;

/// Where nodes are, and the connections to them.
pub(crate) struct Peers {
    endpoint: Endpoint,
    hello: Rc<Cell<Hello>>,
    handler: Weak<Server>,
    connections: RefCell<BTreeMap<SocketAddr, PeerHandle>>,
    /// As the applied map says.
    addresses: RefCell<BTreeMap<NodeId, SocketAddr>>,
}

impl Peers {
    pub(crate) fn new(endpoint: Endpoint, hello: Rc<Cell<Hello>>, handler: Weak<Server>) -> Self {
        Self { endpoint, hello, handler, connections: RefCell::default(), addresses: RefCell::default() }
    }

    /// Takes over a newer map's addresses and drops connections to where nobody is any more.
    pub(crate) fn learn(&self, map: &ClusterMap) {
        let present = map.nodes.iter().filter(|node| node.state != NodeState::Removed);
        let addresses: BTreeMap<_, _> = present.map(|node| (node.id, node.control_address)).collect();
        if *self.addresses.borrow() != addresses {
            self.connections.borrow_mut().retain(|address, _| addresses.values().any(|known| known == address));
            *self.addresses.borrow_mut() = addresses;
        }
    }

    pub(crate) fn address(&self, node: NodeId) -> Option<SocketAddr> {
        self.addresses.borrow().get(&node).copied()
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.borrow().values().copied().collect()
    }

    fn handle(&self, address: SocketAddr) -> Option<PeerHandle> {
        if let Some(handle) = self.connections.borrow().get(&address) {
            return Some(handle.clone());
        }
        let handler = self.handler.upgrade()?;
        let target = DialTarget { address, expect: None, hello: Rc::clone(&self.hello) };
        let handle = PeerHandle::dial(&self.endpoint, target, handler);
        self.connections.borrow_mut().insert(address, handle.clone());
        Some(handle)
    }

    /// An open connection. A first attempt is waited for; a peer that was down before is given up at once.
    async fn connection(&self, address: SocketAddr, timeout: Duration) -> Option<Connection> {
        #[cfg(test)]
        if super::tests::cut::is_cut(self.endpoint.local_address().ok()?, address) {
            return None;
        }
        let handle = self.handle(address)?;
        match handle.state() {
            PeerState::Up => handle.connection(),
            PeerState::Connecting => handle.wait_up(timeout).await,
            PeerState::Down(_) => {
                handle.hurry();
                None
            }
        }
    }

    /// Asks the node at an address.
    ///
    /// # Errors
    /// When there is no answer; after anything but `NotSent` the request may have been handled.
    pub(crate) async fn ask(
        &self,
        address: SocketAddr,
        request: &ControlRequest,
        timeout: Duration,
    ) -> Result<ControlReply, CallError> {
        let started = tokio::time::Instant::now();
        let connection = self.connection(address, timeout).await.ok_or(CallError::NotSent(SendError::Down))?;
        let left = timeout.saturating_sub(started.elapsed());
        let (reply, _) = connection.call(Service::Control, request, (), left).await?;
        Ok(reply)
    }

    async fn raft_call(&self, call: &RaftCall) -> Result<Vec<u8>, PeerError> {
        let unreachable = || PeerError::Unreachable(call.to);
        let started = tokio::time::Instant::now();
        let address = self.address(call.to).or(call.address).ok_or_else(unreachable)?;
        let connection = self.connection(address, call.deadline).await.ok_or_else(unreachable)?;
        if connection.identity().as_node() != Some(call.to) {
            return Err(PeerError::Failed(format!("{address} is {}, not node {}", connection.identity(), call.to)));
        }
        let left = call.deadline.saturating_sub(started.elapsed());
        let payload = Bytes::copy_from_slice(&call.message);
        match connection.call::<(), ()>(Service::Raft, &(), payload, left).await {
            Ok(((), answer)) => Ok(answer.to_vec()),
            Err(CallError::DeadlinePassed { .. }) => Err(PeerError::TimedOut),
            Err(CallError::NotSent(SendError::Down) | CallError::Closed(_)) => Err(unreachable()),
            Err(error) => Err(PeerError::Failed(error.to_string())),
        }
    }

    /// Ends every connection.
    pub(crate) fn close(&self) {
        self.connections.borrow_mut().clear();
    }
}

pub(crate) struct RaftCall {
    to: NodeId,
    address: Option<SocketAddr>,
    message: Vec<u8>,
    deadline: Duration,
    answer: oneshot::Sender<Result<Vec<u8>, PeerError>>,
}

/// Raft's side of the queue. Openraft wants futures that may change threads; connections stay on theirs.
pub(crate) struct RaftWire {
    queue: mpsc::Sender<RaftCall>,
}

pub(crate) fn raft_wire() -> (RaftWire, mpsc::Receiver<RaftCall>) {
    let (queue, calls) = mpsc::channel(MAX_QUEUED_RAFT_MESSAGES);
    (RaftWire { queue }, calls)
}

impl RaftPeers for RaftWire {
    fn call(&self, to: NodeId, address: Option<SocketAddr>, message: Vec<u8>, deadline: Duration) -> PeerCall {
        let (answer, answered) = oneshot::channel();
        let queued = self.queue.try_send(RaftCall { to, address, message, deadline, answer });
        Box::pin(async move {
            queued.map_err(|_| PeerError::Failed("too many Raft messages are waiting".to_owned()))?;
            answered.await.unwrap_or_else(|_| Err(PeerError::Failed("the control thread is stopping".to_owned())))
        })
    }
}

/// Carries Raft's messages until Raft has ended.
pub(crate) async fn carry_raft(peers: Rc<Peers>, mut calls: mpsc::Receiver<RaftCall>) {
    while let Some(call) = calls.recv().await {
        let peers = Rc::clone(&peers);
        tokio::task::spawn_local(async move {
            let result = peers.raft_call(&call).await;
            // Raft may have given up waiting.
            drop(call.answer.send(result));
        });
    }
}
