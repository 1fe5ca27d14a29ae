//! The data port: frames in, admission, answers out.
//!
//! Responsible for: decoding, who may say what, waiting for the map, and carrying a machine's answer back to whoever
//! asked. Guarantees: a request is looked at only when the map it names is applied; lease check, session check and
//! sequencing then happen in one step of the machine (design 4.2, 4.4); every request is answered once, or its connection
//! has ended. Must not know: how a machine decides.

use super::flush::FlushPart;
use super::lease::boot_time;
use super::node::{DataNode, Shared, Stage};
use super::peers::{self, Dialers};
use super::repair::{self, REPAIR_SESSION};
use super::waiting::{Full, delay_under_pressure, must_wait};
use crate::data::groups::GroupKey;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::Instant;
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use weft_proto::data::{DataReply, DataRequest};
use weft_proto::frame::{Refusal, Service};
use weft_proto::hello::{Hello, HelloRole};
use weft_proto::replication::{Envelope, Message as PeerMessage};
use weft_replication::{ClientRequest, Event, Reply, RequestToken, TICK_INTERVAL};
use weft_transport::dialer::DialTarget;
use weft_transport::{
    CloseReason, Connection, Endpoint, Handler, Message, PeerHandle, PeerRole, Replier, connection::Side,
};
use weft_types::error::NotServing;
use weft_types::limits::{MAP_WAIT_TIMEOUT, MAX_IO_BYTES};
use weft_types::{DataError, MapVersion, NodeId, OperationId, PgId, SessionId};

/// Where an answer goes.
pub(super) enum Answer {
    Wire(Replier),
    FlushPart(FlushPart),
    /// Somebody in this process.
    Local(oneshot::Sender<Result<DataReply, DataError>>),
}

impl Answer {
    /// An answer without data.
    pub(super) fn send(self, result: Result<DataReply, DataError>) {
        match self {
            Self::Wire(replier) => replier.reply(&result, ()),
            // The asker may have given up.
            Self::Local(sender) => drop(sender.send(result)),
            // Parts of a flush are refused through `DataNode::flush_part`.
            Self::FlushPart(_) => {}
        }
    }
}

/// For the measure of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Read,
    Write,
    Flush,
    Other,
}

/// A request that has been looked at and not been answered.
pub(super) struct Pending {
    answer: Answer,
    kind: Kind,
    received: Instant,
    sequenced: Option<Instant>,
    span: tracing::Span,
}

impl Pending {
    pub(super) fn new(answer: Answer, kind: Kind, received: Instant) -> Self {
        Self { answer, kind, received, sequenced: None, span: tracing::Span::none() }
    }
}

/// A request that has not been looked at.
pub(super) struct Request {
    pub(super) body: DataRequest,
    pub(super) payload: Bytes,
    pub(super) answer: Answer,
    pub(super) received: Instant,
}

impl Request {
    fn map_version(&self) -> MapVersion {
        match &self.body {
            DataRequest::Write(r) => r.map_version,
            DataRequest::Read(r) => r.map_version,
            DataRequest::Discard(r) => r.map_version,
            DataRequest::Truncate(r) => r.map_version,
            DataRequest::Flush(r) => r.map_version,
            DataRequest::DeleteObject { map_version, .. }
            | DataRequest::ObjectExtent { map_version, .. }
            | DataRequest::Presence { map_version, .. } => *map_version,
        }
    }

    fn pg(&self) -> Option<PgId> {
        match &self.body {
            DataRequest::Write(r) => Some(r.pg),
            DataRequest::Read(r) => Some(r.pg),
            DataRequest::Discard(r) => Some(r.pg),
            DataRequest::Truncate(r) => Some(r.pg),
            DataRequest::DeleteObject { pg, .. }
            | DataRequest::ObjectExtent { pg, .. }
            | DataRequest::Presence { pg, .. } => Some(*pg),
            DataRequest::Flush(_) => None,
        }
    }

    /// For spans.
    fn origin(&self) -> (SessionId, OperationId) {
        match &self.body {
            DataRequest::Write(r) => (r.origin.session, r.origin.operation),
            DataRequest::Discard(r) => (r.origin.session, r.origin.operation),
            DataRequest::Read(r) => (r.session, OperationId(0)),
            DataRequest::Flush(r) => (r.session, OperationId(0)),
            _ => (SessionId(0), OperationId(0)),
        }
    }

    const fn kind(&self) -> Kind {
        match &self.body {
            DataRequest::Write(_) | DataRequest::Discard(_) => Kind::Write,
            DataRequest::Read(_) => Kind::Read,
            DataRequest::Flush(_) => Kind::Flush,
            _ => Kind::Other,
        }
    }

    /// Only nodes act without a client behind them, and a write brings what it writes.
    fn is_proper(&self, from_node: bool) -> bool {
        match &self.body {
            DataRequest::Write(_) => !self.payload.is_empty() && self.payload.len() <= MAX_IO_BYTES,
            DataRequest::Read(r) => {
                (r.session != REPAIR_SESSION || from_node)
                    && self.payload.is_empty()
                    && r.length_bytes > 0
                    && r.length_bytes as usize <= MAX_IO_BYTES
            }
            DataRequest::Truncate(r) => self.payload.is_empty() && (r.origin.is_some() || from_node),
            DataRequest::DeleteObject { origin, .. } => self.payload.is_empty() && (origin.is_some() || from_node),
            _ => self.payload.is_empty(),
        }
    }
}

enum LinkNews {
    Opened(NodeId, Connection),
    Closed(NodeId, Connection),
}

/// The handler of every connection, both of those dialed and of those accepted.
pub(super) struct Server {
    node: Shared,
    endpoint: Endpoint,
    hello: Rc<Cell<Hello>>,
    dialers: RefCell<Dialers>,
    /// News of connections. They may come while the node's state is in use, so they are taken up at the next settling.
    links: RefCell<VecDeque<LinkNews>>,
    has_links: Notify,
    accepting: RefCell<Option<AbortHandle>>,
    this: Weak<Self>,
}

impl Server {
    pub(super) fn start(node: DataNode, endpoint: Endpoint) -> Rc<Self> {
        let hello = Hello { cluster: node.settings.cluster, role: role(&node) };
        let server = Rc::new_cyclic(|this| Self {
            node: Rc::new(RefCell::new(node)),
            endpoint,
            hello: Rc::new(Cell::new(hello)),
            dialers: RefCell::default(),
            links: RefCell::default(),
            has_links: Notify::new(),
            accepting: RefCell::default(),
            this: Weak::clone(this),
        });
        let accepting = server.endpoint.serve(Rc::clone(&server.hello), Rc::clone(&server) as Rc<dyn Handler>);
        *server.accepting.borrow_mut() = Some(accepting.abort_handle());
        server
    }

    pub(super) fn shared(&self) -> Shared {
        Rc::clone(&self.node)
    }

    /// Ends the turn.
    pub(super) fn settle(&self) {
        let mut node = self.node.borrow_mut();
        self.take_up_links(&mut node);
        node.settle();
        repair::start_queued(&self.node, &mut node);
    }

    fn take_up_links(&self, node: &mut DataNode) {
        loop {
            let Some(news) = self.links.borrow_mut().pop_front() else { return };
            match news {
                LinkNews::Opened(peer, connection) => {
                    // A replaced connection is left to end by itself: closing it would call back into this handler.
                    if node.peers.opened(peer, connection).is_some() {
                        node.peer_changed(peer, Event::PeerDown);
                    }
                    node.peer_changed(peer, Event::PeerUp);
                }
                LinkNews::Closed(peer, connection) => {
                    if node.peers.closed(peer, &connection) {
                        node.peer_changed(peer, Event::PeerDown);
                    }
                }
            }
        }
    }

    /// Dials the nodes of a newer map.
    pub(super) fn connect_peers(&self) {
        let (own, map) = {
            let node = self.node.borrow();
            self.hello.set(Hello { cluster: node.settings.cluster, role: role(&node) });
            (node.settings.node, node.map.clone())
        };
        let (Some(map), Some(this)) = (map, self.this.upgrade()) else { return };
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

    /// Nothing is appended from here on, whatever still arrives.
    pub(super) fn stop_appending(&self) {
        self.node.borrow_mut().stage = Stage::Stopped;
    }

    /// Lets go of disks and connections. Connections know their handler and the handler knows connections, so nobody
    /// else would.
    pub(super) fn dismantle(&self) {
        self.disconnect();
        let mut node = self.node.borrow_mut();
        node.dismantle();
        let links = std::mem::take(&mut node.peers);
        let requests = std::mem::take(&mut node.requests);
        drop(node);
        drop((links, requests));
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

fn role(node: &DataNode) -> HelloRole {
    HelloRole::Node { node: node.settings.node, incarnation: node.incarnation }
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

    fn on_request(&self, connection: &Connection, message: Message, replier: Replier) {
        if message.service != Service::Data {
            return replier.refuse(&Refusal::NoSuchService);
        }
        let Ok(body) = message.decode::<DataRequest>() else { return replier.refuse(&Refusal::Malformed) };
        let mut node = self.node.borrow_mut();
        node.begin_turn();
        let request =
            Request { body, payload: message.payload, answer: Answer::Wire(replier), received: Instant::now() };
        if request.is_proper(connection.identity().as_node().is_some()) {
            node.admit(request);
        } else {
            node.refuse_request(request, DataError::Malformed);
        }
    }

    fn on_message(&self, connection: &Connection, message: Message) {
        let from = peer_node(connection);
        if let Some(peer) = from
            && peers::is_greeting(&message)
        {
            self.links.borrow_mut().push_back(LinkNews::Opened(peer, connection.clone()));
            return;
        }
        let mut node = self.node.borrow_mut();
        node.begin_turn();
        let envelope = (message.service == Service::Replication).then(|| message.decode::<Envelope>().ok()).flatten();
        let (Some(from), Some(mut envelope)) = (from, envelope) else {
            node.counters.peer_messages_refused += 1;
            return;
        };
        if envelope.message.attach_payload(message.payload).is_err() {
            node.counters.peer_messages_refused += 1;
            return;
        }
        node.peer_message(from, envelope);
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

impl DataNode {
    /// Looks at a request now, or holds it until that is allowed.
    pub(super) fn admit(&mut self, request: Request) {
        self.counters.requests += 1;
        let reason = match self.stage {
            Stage::Running => None,
            Stage::Unregistered => Some(NotServing::NoLease),
            Stage::Stopping | Stage::Stopped => Some(NotServing::Stopping),
        };
        if let Some(reason) = reason {
            return self.refuse_request(request, DataError::NotServing { reason });
        }
        let (version, bytes) = (request.map_version(), request.payload.len());
        if version > self.applied() {
            // Design 4.2: a node behind the map that a request names waits for it.
            self.counters.requests_waited_for_map += 1;
            let deadline = boot_time() + MAP_WAIT_TIMEOUT;
            let held = self.waiting.for_map(version, deadline, bytes, request);
            return self.refuse_overloaded(held);
        }
        if let Some(delay) = self.slowing(&request) {
            self.counters.requests_slowed += 1;
            let held = self.waiting.for_time(boot_time() + delay, bytes, request);
            return self.refuse_overloaded(held);
        }
        self.start(request);
    }

    fn refuse_overloaded(&mut self, held: Result<(), Full<Request>>) {
        if let Err(Full(request)) = held {
            self.refuse_request(request, DataError::NotServing { reason: NotServing::Overloaded });
        }
    }

    /// A write to a disk whose journal is filling up is held back (design 6).
    fn slowing(&self, request: &Request) -> Option<std::time::Duration> {
        delay_under_pressure(self.pressure(request)?)
    }

    /// How full the journal is that a write goes to.
    fn pressure(&self, request: &Request) -> Option<f64> {
        if request.kind() != Kind::Write {
            return None;
        }
        let disk = self.leading.get(&request.pg()?)?;
        Some(self.disks.get(disk)?.journal_share())
    }

    pub(super) fn release_waiting(&mut self) {
        for request in self.waiting.released(self.applied(), boot_time()) {
            let full = self.pressure(&request).is_some_and(must_wait);
            if full && request.received.elapsed() < MAP_WAIT_TIMEOUT {
                let bytes = request.payload.len();
                let held = self.waiting.for_time(boot_time() + TICK_INTERVAL, bytes, request);
                self.refuse_overloaded(held);
            } else if full {
                self.refuse_request(request, DataError::NotServing { reason: NotServing::Overloaded });
            } else {
                self.start(request);
            }
        }
    }

    pub(super) fn expire_waiting(&mut self) {
        for request in self.waiting.expired(boot_time()) {
            self.refuse_request(request, DataError::NotServing { reason: NotServing::Overloaded });
        }
    }

    pub(super) fn refuse_waiting(&mut self) {
        for request in self.waiting.all() {
            self.refuse_request(request, DataError::NotServing { reason: NotServing::Stopping });
        }
    }

    /// Answers a request that no machine has seen.
    pub(super) fn refuse_request(&mut self, request: Request, error: DataError) {
        self.counters.requests_refused += 1;
        request.answer.send(Err(error));
    }

    /// Gives a request to its machine.
    fn start(&mut self, request: Request) {
        let kind = request.kind();
        let (session, operation) = request.origin();
        let Request { body, payload, answer, received } = request;
        let (pg, request) = match body {
            DataRequest::Flush(flush) => {
                if let Answer::Wire(replier) = answer {
                    self.start_flush(flush, replier, received);
                }
                return;
            }
            DataRequest::Write(request) => {
                self.counters.bytes_written += payload.len() as u64;
                (request.pg, ClientRequest::Write { request, data: payload })
            }
            DataRequest::Read(request) if request.session == REPAIR_SESSION => {
                return self.serve_repair(&request, answer, received);
            }
            DataRequest::Read(request) => (request.pg, ClientRequest::Read(request)),
            DataRequest::Discard(request) => (request.pg, ClientRequest::Discard(request)),
            DataRequest::Truncate(request) => (request.pg, ClientRequest::Truncate(request)),
            DataRequest::DeleteObject { pg, map_version, origin, object } => {
                (pg, ClientRequest::DeleteObject { map_version, origin, object })
            }
            DataRequest::ObjectExtent { pg, map_version, object } => {
                (pg, ClientRequest::ObjectExtent { map_version, object })
            }
            DataRequest::Presence { pg, map_version, chunk } => (pg, ClientRequest::Presence { map_version, chunk }),
        };
        let token = self.next_token();
        let span = tracing::debug_span!("request", ?kind, %session, %operation, %pg);
        self.requests.insert(token, Pending { answer, kind, received, sequenced: None, span });
        if kind == Kind::Write {
            self.fresh.push(token);
        }
        self.request_group(pg, token, request);
    }

    /// The turn is over: what it took from its requests is appended here and on its way to the backups.
    pub(super) fn note_sequenced(&mut self) {
        if self.fresh.is_empty() {
            return;
        }
        let now = Instant::now();
        for token in self.fresh.drain(..) {
            if let Some(pending) = self.requests.get_mut(&token) {
                pending.sequenced = Some(now);
                self.counters.write_sequence.took(now - pending.received);
            }
        }
    }

    /// Carries a machine's answer to whoever asked.
    pub(super) fn reply(&mut self, token: RequestToken, result: Result<Reply, DataError>) {
        let Some(Pending { answer, kind, received, sequenced, span }) = self.requests.remove(&token) else { return };
        let took = received.elapsed();
        span.in_scope(|| tracing::debug!(took_us = took.as_micros(), refused = ?result.as_ref().err(), "answered"));
        match kind {
            Kind::Write => {
                self.counters.write_total.took(took);
                if let Some(sequenced) = sequenced {
                    self.counters.write_replicate.took(sequenced.elapsed());
                }
            }
            Kind::Read => self.counters.read_total.took(took),
            // The whole flush is measured, not its parts.
            Kind::Flush => {}
            Kind::Other => self.counters.other_total.took(took),
        }
        self.counters.requests_refused += u64::from(result.is_err());
        match (answer, result) {
            (Answer::FlushPart(part), result) => {
                let flushed = match result {
                    Ok(Reply::Flushed(generation)) => Ok(generation),
                    // A machine answers a flush with nothing else; if it did, it would not be a success.
                    Ok(_) => Err(DataError::Malformed),
                    Err(error) => Err(error),
                };
                self.flush_part(part, flushed);
            }
            (Answer::Wire(replier), Ok(Reply::Read(bytes))) => {
                self.counters.bytes_read += bytes.len() as u64;
                replier.reply(&Ok::<_, DataError>(DataReply::Read), bytes);
            }
            (answer, result) => answer.send(result.and_then(data_reply)),
        }
    }

    pub(super) fn peer_message(&mut self, from: NodeId, envelope: Envelope) {
        self.counters.peer_messages += 1;
        // The certificate says which node this is; it may speak for its own disks only.
        if self.stage == Stage::Unregistered
            || self.stage == Stage::Stopped
            || self.homes.get(&envelope.from) != Some(&from)
            || envelope.to_incarnation != self.incarnation
        {
            self.counters.peer_messages_refused += 1;
            return;
        }
        let key = GroupKey { pg: envelope.pg, disk: envelope.to };
        let began = Instant::now();
        let is_append = matches!(envelope.message, PeerMessage::Append(_));
        self.step(key, Event::Peer(envelope));
        if is_append {
            self.counters.backup_append.took(began.elapsed());
        }
    }

    /// Tells every machine with a member on that node.
    fn peer_changed(&mut self, node: NodeId, event: fn(weft_types::DiskId) -> Event) {
        for (key, group) in &self.groups {
            for (disk, home) in &group.others {
                if *home == node {
                    self.ready.push_back((*key, event(*disk)));
                }
            }
        }
    }
}

fn data_reply(reply: Reply) -> Result<DataReply, DataError> {
    Ok(match reply {
        Reply::Written => DataReply::Written,
        Reply::Read(_) => DataReply::Read,
        Reply::Done => DataReply::Done,
        // Flushes are answered as a whole.
        Reply::Flushed(_) => return Err(DataError::Malformed),
        Reply::ObjectExtent { end_bytes, allocated_bytes } => DataReply::ObjectExtent { end_bytes, allocated_bytes },
        Reply::Presence(runs) => DataReply::Presence(runs),
    })
}
