//! The network of a real client: one UDP socket, one kept QUIC connection per address.

use super::network::{DataAnswer, DataCall, LocalFuture, Network, NoAnswer};
use crate::identity::Identity;
use crate::options::ConnectOptions;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use weft_proto::control::{ControlReply, ControlRequest};
use weft_proto::data::{DataReply, DataRequest};
use weft_transport::connection::NoService;
use weft_transport::dialer::DialTarget;
use weft_transport::quic::BindError;
use weft_transport::{
    CallError, Channel, Connection, Endpoint, EndpointConfig, Hello, HelloRole, PeerHandle, PeerRole, Service,
};
use weft_types::{DataError, ErrorKind, NodeId};

/// How long a request waits for a connection that is not up before it counts as unanswered. A handshake takes a few
/// milliseconds; a dead node must not hold up the search for a live one.
const WAIT_FOR_CONNECTION: Duration = Duration::from_millis(300);

pub struct QuicNetwork {
    endpoint: Endpoint,
    hello: Rc<Cell<Hello>>,
    peers: RefCell<BTreeMap<SocketAddr, PeerHandle>>,
}

impl QuicNetwork {
    /// Binds the socket, to the address in `options` if there is one, else to any address of the family that the cluster uses.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn bind(identity: &Identity, options: &ConnectOptions) -> Result<Rc<Self>, BindError> {
        let any = match identity.control_addresses.first() {
            Some(SocketAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        let local = SocketAddr::new(options.bind.unwrap_or(any), 0);
        let endpoint = Endpoint::bind(
            EndpointConfig { window_bytes: options.memory.window_bytes(), ..EndpointConfig::new(local) },
            &identity.credentials,
        )?;
        let role = match identity.credentials.identity().role {
            PeerRole::Client(_) => HelloRole::Client { session: None },
            PeerRole::Admin(_) | PeerRole::Node(_) => HelloRole::Admin,
        };
        let hello = Rc::new(Cell::new(Hello { cluster: identity.cluster, role }));
        Ok(Rc::new(Self { endpoint, hello, peers: RefCell::default() }))
    }

    fn peer(&self, address: SocketAddr, node: Option<NodeId>) -> PeerHandle {
        self.peers
            .borrow_mut()
            .entry(address)
            .or_insert_with(|| {
                let target = DialTarget { address, expect: node.map(PeerRole::Node), hello: Rc::clone(&self.hello) };
                PeerHandle::dial(&self.endpoint, target, Rc::new(NoService))
            })
            .clone()
    }
}

impl Network for QuicNetwork {
    fn data(&self, call: DataCall, on_answer: Box<dyn FnOnce(DataAnswer)>) {
        let peer = self.peer(call.address, Some(call.node));
        let channel = channel_for(&call.request, call.payload.len());
        // The usual case: connected, and room in the queue.
        if let Some(connection) = peer.connection() {
            let on_answer = Rc::new(Cell::new(Some(on_answer)));
            let answered = Rc::clone(&on_answer);
            let (payload, deadline) = (call.payload.clone(), call.deadline);
            let sent = connection.call_with(channel, Service::Data, &call.request, payload, deadline, move |result| {
                if let Some(on_answer) = answered.take() {
                    on_answer(decode(result));
                }
            });
            if sent.is_err()
                && let Some(on_answer) = on_answer.take()
            {
                tokio::task::spawn_local(send_later(peer, call, on_answer));
            }
        } else {
            tokio::task::spawn_local(send_later(peer, call, on_answer));
        }
    }

    fn control(
        &self,
        address: SocketAddr,
        request: ControlRequest,
        deadline: Duration,
    ) -> LocalFuture<Result<ControlReply, NoAnswer>> {
        let peer = self.peer(address, None);
        Box::pin(async move {
            let connection = up(&peer, deadline).await?;
            let answer = connection.call::<_, ControlReply>(Service::Control, &request, (), deadline).await;
            match answer {
                Ok((reply, _)) => Ok(reply),
                Err(error) if error.is_final() => {
                    tracing::error!(%address, %error, "a metadata request cannot be answered");
                    Ok(ControlReply::Refused(ErrorKind::Io(format!("node at {address}: {error}"))))
                }
                Err(error) => Err(NoAnswer(error.to_string())),
            }
        })
    }

    fn keep_only(&self, addresses: &[SocketAddr]) {
        // Closing a connection answers its calls, which may come back here: not while the map is borrowed.
        let dropped: Vec<PeerHandle> = {
            let mut peers = self.peers.borrow_mut();
            let gone: Vec<SocketAddr> = peers.keys().filter(|a| !addresses.contains(a)).copied().collect();
            gone.iter().filter_map(|address| peers.remove(address)).collect()
        };
        drop(dropped);
    }
}

/// Large answers travel apart from small ones too, so the request decides for its answer.
fn channel_for(request: &DataRequest, payload_bytes: usize) -> Channel {
    match request {
        DataRequest::Read(read) => Channel::for_size(read.length_bytes as usize),
        _ => Channel::for_size(payload_bytes),
    }
}

fn decode(result: Result<weft_transport::Message, CallError>) -> DataAnswer {
    answered(result.and_then(|message| match message.decode() {
        Ok(reply) => Ok((reply, message.payload)),
        Err(_) => Err(CallError::MalformedReply),
    }))
}

fn answered(result: Result<(Result<DataReply, DataError>, Bytes), CallError>) -> DataAnswer {
    match result {
        // Trying again for ever would hang the program that asked, and nobody would know why.
        Err(error) if error.is_final() => {
            tracing::error!(%error, "a data request cannot be answered");
            Ok((Err(DataError::Malformed), Bytes::new()))
        }
        other => other.map_err(|error| NoAnswer(error.to_string())),
    }
}

async fn up(peer: &PeerHandle, deadline: Duration) -> Result<Connection, NoAnswer> {
    if let Some(connection) = peer.connection() {
        return Ok(connection);
    }
    peer.hurry();
    let waited = peer.wait_up(WAIT_FOR_CONNECTION.min(deadline)).await;
    waited.ok_or_else(|| NoAnswer(format!("not connected: {:?}", peer.state())))
}

/// Waits for a connection, and for room in its queue.
async fn send_later(peer: PeerHandle, call: DataCall, on_answer: Box<dyn FnOnce(DataAnswer)>) {
    let DataCall { request, payload, deadline, .. } = call;
    let answer = match up(&peer, deadline).await {
        Ok(connection) => answered(connection.call(Service::Data, &request, payload, deadline).await),
        Err(error) => Err(error),
    };
    on_answer(answer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_proto::frame::Refusal;

    #[test]
    fn what_fares_the_same_again_is_an_answer_and_everything_else_is_none() {
        for last in [CallError::MalformedReply, Refusal::Malformed.into(), Refusal::NoSuchService.into()] {
            assert_eq!(answered(Err(last)).unwrap().0, Err(DataError::Malformed));
        }
        for passing in [CallError::DeadlinePassed { waited_ms: 1 }, Refusal::Busy.into(), Refusal::Dropped.into()] {
            assert!(answered(Err(passing)).is_err());
        }
    }
}
