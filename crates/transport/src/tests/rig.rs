//! What the tests share: a runtime, a recording server, connected pairs over either lane.

use crate::connection::{Connection, Handler, Replier};
use crate::error::CloseReason;
use crate::gate::Gate;
use crate::identity::{PeerIdentity, PeerName};
use crate::memory::{self, End};
use crate::message::Message;
use crate::quic::{Endpoint, EndpointConfig};
use crate::{Authority, Service};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use weft_proto::hello::{Hello, HelloRole};
use weft_types::{ClusterId, Incarnation, NodeId};

pub(super) const CLUSTER: ClusterId = ClusterId(42);
pub(super) const SECOND: Duration = Duration::from_secs(1);

/// Runs a test on a single-thread runtime, at most for two minutes.
pub(crate) fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async { tokio::time::timeout(120 * SECOND, test).await.expect("the test hangs") })
}

/// Waits until `condition` holds, polling; panics after a minute.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..12_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never happened: {what}");
}

/// Echoes requests (the header is a number, which comes back plus one), records one-way messages.
#[derive(Default)]
pub(super) struct Server {
    pub(super) opened: RefCell<Vec<Connection>>,
    pub(super) messages: RefCell<Vec<u64>>,
    pub(super) message_bytes: Cell<usize>,
    pub(super) batches: Cell<usize>,
    pub(super) closed: RefCell<Vec<CloseReason>>,
    /// Requests kept without an answer, when `keep` is set.
    pub(super) kept: RefCell<Vec<Replier>>,
    pub(super) keep: Cell<bool>,
    pub(super) drop_them: Cell<bool>,
    pub(super) gate: Gate,
}

/// Answers and remembers nothing.
pub(super) struct Echo;

impl Handler for Echo {
    fn on_request(&self, _connection: &Connection, request: Message, replier: Replier) {
        let number: u64 = request.decode().unwrap();
        replier.reply(&(number + 1), request.payload);
    }

    fn on_message(&self, _connection: &Connection, _message: Message) {}
}

impl Handler for Server {
    fn gate(&self, _connection: &Connection) -> Option<Gate> {
        Some(self.gate.clone())
    }

    fn on_open(&self, connection: &Connection) {
        self.opened.borrow_mut().push(connection.clone());
    }

    fn on_request(&self, _connection: &Connection, request: Message, replier: Replier) {
        if self.keep.get() {
            self.kept.borrow_mut().push(replier);
        } else if !self.drop_them.get() {
            let number: u64 = request.decode().unwrap();
            replier.reply(&(number + 1), request.payload);
        }
    }

    fn on_message(&self, _connection: &Connection, message: Message) {
        self.message_bytes.set(self.message_bytes.get() + message.payload.len());
        self.messages.borrow_mut().push(message.decode().unwrap());
    }

    fn on_batch_end(&self, _connection: &Connection) {
        self.batches.set(self.batches.get() + 1);
    }

    fn on_closed(&self, connection: &Connection, reason: &CloseReason) {
        // A connection holds its handler: to keep it here for longer would keep both, and the socket, for ever.
        self.opened.borrow_mut().retain(|c| c != connection);
        self.closed.borrow_mut().push(reason.clone());
    }
}

pub(crate) fn node(id: u64) -> PeerIdentity {
    PeerIdentity::node(CLUSTER, NodeId(id))
}

pub(crate) fn client() -> PeerIdentity {
    PeerIdentity::client(CLUSTER, PeerName::new("hv").unwrap())
}

pub(crate) fn node_hello(id: u64) -> Hello {
    Hello { cluster: CLUSTER, role: HelloRole::Node { node: NodeId(id), incarnation: Incarnation(1) } }
}

pub(crate) fn client_hello() -> Hello {
    Hello { cluster: CLUSTER, role: HelloRole::Client { session: None } }
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum LaneKind {
    Memory,
    Quic,
}

/// A client connected to node 1, and what serves at either end.
pub(super) struct Pair {
    pub(super) client: Connection,
    pub(super) client_side: Rc<Server>,
    pub(super) server_side: Rc<Server>,
    // Held so that the sockets stay.
    pub(super) _endpoints: Option<(Endpoint, Endpoint)>,
}

pub(super) fn endpoint(authority: &Authority, identity: &PeerIdentity) -> Endpoint {
    let config = EndpointConfig::new("127.0.0.1:0".parse().unwrap());
    Endpoint::bind(config, &authority.issue(identity).unwrap()).unwrap()
}

pub(super) async fn connected(kind: LaneKind) -> Pair {
    let (client_side, server_side) = (Rc::new(Server::default()), Rc::new(Server::default()));
    let (client_handler, server_handler): (Rc<dyn Handler>, Rc<dyn Handler>) =
        (Rc::clone(&client_side) as _, Rc::clone(&server_side) as _);
    match kind {
        LaneKind::Memory => {
            let dialing = End { identity: client(), hello: client_hello(), handler: client_handler };
            let accepting = End { identity: node(1), hello: node_hello(1), handler: server_handler };
            let (client, _) = memory::connect(dialing, accepting).await.unwrap();
            Pair { client, client_side, server_side, _endpoints: None }
        }
        LaneKind::Quic => {
            let authority = Authority::create(CLUSTER).unwrap();
            let there = endpoint(&authority, &node(1));
            let here = endpoint(&authority, &client());
            drop(there.serve(Rc::new(Cell::new(node_hello(1))), server_handler));
            let address = there.local_address().unwrap();
            let client = here.connect(address, client_hello(), Some(&node(1).role), client_handler).await.unwrap();
            Pair { client, client_side, server_side, _endpoints: Some((here, there)) }
        }
    }
}

pub(super) async fn echo(connection: &Connection, number: u64, payload: Vec<u8>) -> (u64, bytes::Bytes) {
    connection.call::<u64, u64>(Service::Data, &number, bytes::Bytes::from(payload), 5 * SECOND).await.unwrap()
}
