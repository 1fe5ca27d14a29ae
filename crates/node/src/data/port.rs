//! The data port: frames in, answers out, links made and lost.
//!
//! Responsible for: decoding, who speaks, dialing the other nodes, and the shell of a [`Turn`] in its thread. Guarantees:
//! news of connections are taken up between turns, in order. Must not know: what a request or a message means.

use super::host::{CallAnswer, Host};
use super::node::{Completion, DataNode};
use super::peers::{self, Dialers};
use super::turn::{Speaker, Turn};
use super::workers::Workers;
use super::{NodeDisk, boot_time};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::mpsc::Sender;
use tokio::task::AbortHandle;
use weft_proto::data::{DataReply, DataRequest};
use weft_proto::frame::{Refusal, Service};
use weft_proto::hello::{Hello, HelloRole};
use weft_proto::replication::Envelope;
use weft_transport::dialer::DialTarget;
use weft_transport::{
    CloseReason, Connection, Endpoint, Gate, Handler, Message, Payload, PeerHandle, PeerRole, Replier, connection::Side,
};
use weft_types::{BootTime, DataError, NodeId};

/// The data thread as a node's host.
#[derive(Clone)]
pub(super) struct ThreadHost {
    pub(super) completed: Sender<Completion>,
}

impl Host for ThreadHost {
    type Disk = NodeDisk;
    type Link = Connection;
    type Replier = Replier;
    type Pool = Workers<Completion>;

    fn now(&self) -> BootTime {
        boot_time()
    }

    fn pool(&self, name: &'static str, threads: usize, queue: usize) -> io::Result<Self::Pool> {
        Workers::start(name, threads, queue, &self.completed)
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(task);
    }

    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + 'static {
        tokio::time::sleep(time)
    }

    fn call(
        &self,
        link: &Connection,
        request: &DataRequest,
        deadline: Duration,
    ) -> impl Future<Output = CallAnswer> + 'static {
        let (link, request) = (link.clone(), request.clone());
        async move { link.call::<_, Result<DataReply, DataError>>(Service::Data, &request, (), deadline).await.ok() }
    }
}

impl super::host::Replier for Replier {
    fn reply(self, result: &Result<DataReply, DataError>, payload: Payload) {
        Self::reply(self, result, payload);
    }
}

enum LinkNews {
    Opened(NodeId, Connection),
    Closed(NodeId, Connection),
}

/// The handler of every connection, both of those dialed and of those accepted.
pub(super) struct Server {
    turn: Turn<ThreadHost>,
    endpoint: Endpoint,
    hello: Rc<Cell<Hello>>,
    dialers: RefCell<Dialers>,
    /// For the data of clients.
    gate: Gate,
    /// News of connections. They may come while the node's state is in use, so they are taken up at the next settling.
    links: RefCell<VecDeque<LinkNews>>,
    has_links: Notify,
    accepting: RefCell<Option<AbortHandle>>,
    this: Weak<Self>,
}

impl Server {
    pub(super) fn start(node: DataNode<ThreadHost>, endpoint: Endpoint) -> Rc<Self> {
        let turn = Turn::new(node);
        let hello = turn.hello();
        let server = Rc::new_cyclic(|this| Self {
            turn,
            endpoint,
            hello: Rc::new(Cell::new(hello)),
            dialers: RefCell::default(),
            gate: Gate::default(),
            links: RefCell::default(),
            has_links: Notify::new(),
            accepting: RefCell::default(),
            this: Weak::clone(this),
        });
        let accepting = server.endpoint.serve(Rc::clone(&server.hello), Rc::clone(&server) as Rc<dyn Handler>);
        *server.accepting.borrow_mut() = Some(accepting.abort_handle());
        server
    }

    pub(super) const fn turn(&self) -> &Turn<ThreadHost> {
        &self.turn
    }

    /// Ends the turn.
    pub(super) fn settle(&self) {
        self.take_up_links();
        self.turn.settle();
        self.gate.set_open(self.turn.has_room_for_clients());
    }

    fn take_up_links(&self) {
        loop {
            let Some(news) = self.links.borrow_mut().pop_front() else { return };
            match news {
                LinkNews::Opened(peer, connection) => self.turn.link_opened(peer, connection),
                LinkNews::Closed(peer, connection) => self.turn.link_closed(peer, &connection),
            }
        }
    }

    /// Dials the nodes of a newer map.
    pub(super) fn connect_peers(&self) {
        self.hello.set(self.turn.hello());
        let own = self.turn.node();
        let (Some(map), Some(this)) = (self.turn.map(), self.this.upgrade()) else { return };
        let mut dialers = self.dialers.borrow_mut();
        dialers.follow(own, &map, |peer, address| {
            let target = DialTarget { address, expect: Some(PeerRole::Node(peer)), hello: Rc::clone(&self.hello) };
            PeerHandle::dial(&self.endpoint, target, Rc::clone(&this) as Rc<dyn Handler>)
        });
        dialers.hurry();
    }

    /// Waits until a connection was made or lost.
    pub(super) async fn link_news(&self) {
        self.has_links.notified().await;
    }

    /// Lets go of disks and connections. Connections know their handler and the handler knows connections, so nobody
    /// else would.
    pub(super) fn dismantle(&self) {
        self.disconnect();
        self.turn.dismantle();
        self.links.borrow_mut().clear();
    }

    pub(super) fn disconnect(&self) {
        if let Some(accepting) = self.accepting.borrow_mut().take() {
            accepting.abort();
        }
        let dialers = std::mem::take(&mut *self.dialers.borrow_mut());
        drop(dialers);
    }
}

/// The node at the other end, if the peer speaks as one.
fn peer_node(connection: &Connection) -> Option<NodeId> {
    match connection.hello().role {
        HelloRole::Node { node, .. } => Some(node),
        _ => None,
    }
}

impl Handler for Server {
    fn on_open(&self, connection: &Connection) {
        if connection.side() == Side::Dialed
            && let Some(peer) = peer_node(connection)
        {
            // If it cannot be queued the connection is over, and that is told too.
            let _ = peers::greet(connection);
            self.links.borrow_mut().push_back(LinkNews::Opened(peer, connection.clone()));
            self.has_links.notify_one();
        }
    }

    fn gate(&self, connection: &Connection) -> Option<Gate> {
        // Nodes are not held up: what they ask for is what lets writes of clients be answered.
        connection.identity().as_node().is_none().then(|| self.gate.clone())
    }

    fn on_request(&self, connection: &Connection, message: Message, replier: Replier) {
        if message.service != Service::Data {
            return replier.refuse(&Refusal::NoSuchService);
        }
        let Ok(body) = message.decode::<DataRequest>() else { return replier.refuse(&Refusal::Malformed) };
        let client = connection.identity().as_node().is_none();
        let from = if client { Speaker::Client(connection.session_owner()) } else { Speaker::Node };
        self.turn.request(body, message.payload, replier, from);
    }

    fn on_message(&self, connection: &Connection, message: Message) {
        let from = peer_node(connection);
        if let Some(peer) = from
            && peers::is_greeting(&message)
        {
            self.links.borrow_mut().push_back(LinkNews::Opened(peer, connection.clone()));
            return;
        }
        let envelope = (message.service == Service::Replication).then(|| message.decode::<Envelope>().ok()).flatten();
        let (Some(from), Some(mut envelope)) = (from, envelope) else { return self.turn.malformed() };
        if envelope.message.attach_payload(message.payload).is_err() {
            return self.turn.malformed();
        }
        self.turn.peer_message(from, envelope);
    }

    fn on_batch_end(&self, _connection: &Connection) {
        self.settle();
    }

    fn on_closed(&self, connection: &Connection, _reason: &CloseReason) {
        if let Some(peer) = peer_node(connection) {
            self.links.borrow_mut().push_back(LinkNews::Closed(peer, connection.clone()));
            self.has_links.notify_one();
        }
    }
}
