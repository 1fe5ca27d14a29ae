//! What the client needs of a network: ask a node, get its answer or learn that none will come.

use bytes::Bytes;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;
use weft_proto::control::{ControlReply, ControlRequest};
use weft_proto::data::{DataReply, DataRequest};
use weft_types::{DataError, NodeId};

pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// The request may or may not have been handled.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoAnswer(pub String);

/// An answer of the data wire with its payload.
pub type DataAnswer = Result<(Result<DataReply, DataError>, Bytes), NoAnswer>;

/// A request of the data wire on its way to a node.
#[derive(Debug)]
pub struct DataCall {
    pub node: NodeId,
    pub address: SocketAddr,
    pub request: DataRequest,
    pub payload: Bytes,
    pub deadline: Duration,
}

/// Implemented over QUIC for mounts, and in memory by tests.
pub trait Network: 'static {
    /// Asks a node's data service. `on_answer` is called exactly once, by the deadline, never from within this call:
    /// the path of every read and write, so it costs neither a task nor a channel.
    fn data(&self, call: DataCall, on_answer: Box<dyn FnOnce(DataAnswer)>);

    /// Asks the control service at an address. Ends by the deadline.
    fn control(
        &self,
        address: SocketAddr,
        request: ControlRequest,
        deadline: Duration,
    ) -> LocalFuture<Result<ControlReply, NoAnswer>>;

    /// Connections to other addresses are not needed any more.
    fn keep_only(&self, addresses: &[SocketAddr]);
}
