//! A connection: calls, one-way messages and their answers, to and from one peer.
//!
//! Guarantees: messages of one [`Channel`] arrive in the order sent; a call ends with a reply, or with an error by its
//! deadline; when the connection ends every call in flight ends with it; queues are bounded.

use crate::error::{CallError, CloseReason, SendError};
use crate::gate::Gate;
use crate::identity::PeerIdentity;
use crate::lane::{Channel, LaneStatistics};
use crate::message::{Message, Payload};
use crate::outgoing::{Outgoing, OutgoingFrame};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use weft_proto::frame::{FrameKind, Refusal, Service};
use weft_proto::hello::Hello;
use weft_types::SessionOwner;
use weft_types::limits::{MAX_QUEUED_REPLY_BYTES, MAX_REQUESTS_PER_CONNECTION};

/// Serves what a peer sends. Called inline by the task that reads the stream, so it must not block.
///
/// A connection holds its handler. A handler that keeps connections has to let go of them in [`Handler::on_closed`].
pub trait Handler: 'static {
    /// The connection is open. Called once, before any message.
    fn on_open(&self, _connection: &Connection) {}
    /// What holds up requests with much data ([`crate::lane::BULK_BYTES`]) of a peer that dialed.
    fn gate(&self, _connection: &Connection) -> Option<Gate> {
        None
    }
    /// Answer at once, or keep the replier and answer later. A replier that is dropped tells the caller so.
    fn on_request(&self, connection: &Connection, request: Message, replier: Replier);
    /// A one-way message.
    fn on_message(&self, connection: &Connection, message: Message);
    /// Everything that arrived together was handed over: the moment to act on it as one batch.
    fn on_batch_end(&self, _connection: &Connection) {}
    /// The connection is over. Called once, after the last message.
    fn on_closed(&self, _connection: &Connection, _reason: &CloseReason) {}
}

/// Serves nothing; for a side that only calls.
pub struct NoService;

impl Handler for NoService {
    fn on_request(&self, _connection: &Connection, _request: Message, replier: Replier) {
        replier.refuse(&Refusal::NoSuchService);
    }

    fn on_message(&self, _connection: &Connection, _message: Message) {}
}

/// Which side dialed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Dialed,
    Accepted,
}

/// A handle; clones share the connection. Dropping handles does not close it, [`Connection::close`] does.
#[derive(Clone)]
pub struct Connection(Rc<Shared>);

type OnReply = Box<dyn FnOnce(Result<Message, CallError>)>;

struct PendingCall {
    sent_at: Instant,
    deadline: Instant,
    on_reply: OnReply,
}

/// What a lane offers to a connection that does not know its type.
pub(crate) trait LaneControl {
    fn close(&self, reason: &str);
    fn statistics(&self) -> Option<LaneStatistics>;
}

struct Shared {
    side: Side,
    identity: PeerIdentity,
    /// Asked for with each data request, so it is hashed once.
    session_owner: SessionOwner,
    hello: Hello,
    address: Option<SocketAddr>,
    handler: Rc<dyn Handler>,
    lane: Box<dyn LaneControl>,
    channels: [Outgoing; Channel::ALL.len()],
    pending: RefCell<BTreeMap<u64, PendingCall>>,
    next_correlation: Cell<u64>,
    /// When the deadline watch wakes next.
    next_check: Cell<Option<Instant>>,
    check_sooner: Notify,
    serving: Cell<usize>,
    room_to_serve: Notify,
    room_to_call: Notify,
    closed: RefCell<Option<CloseReason>>,
    has_closed: Notify,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.0.identity.to_string()).finish_non_exhaustive()
    }
}

impl PartialEq for Connection {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Connection {
    /// Who is at the other end, by its certificate.
    #[must_use]
    pub fn identity(&self) -> &PeerIdentity {
        &self.0.identity
    }

    /// As whom the peer's sessions are kept.
    #[must_use]
    pub fn session_owner(&self) -> SessionOwner {
        self.0.session_owner
    }

    /// As whom the peer introduced itself; agrees with its identity.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.0.hello
    }

    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.0.address
    }

    #[must_use]
    pub fn side(&self) -> Side {
        self.0.side
    }

    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.closed.borrow().is_none()
    }

    /// Bytes that wait to be handed to the transport, over all channels.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.0.channels.iter().map(Outgoing::queued_bytes).sum()
    }

    /// How the path to the peer is doing; `None` for a lane without a network.
    #[must_use]
    pub fn statistics(&self) -> Option<LaneStatistics> {
        self.0.lane.statistics()
    }

    /// Packets heard from the peer so far, keep-alives included: a count that grows shows a live peer. `None` for a lane
    /// without a network.
    #[must_use]
    pub fn datagrams_received(&self) -> Option<u64> {
        self.statistics().map(|statistics| statistics.received_packets)
    }

    /// Sends a request and waits for the decoded reply and its payload. Waits for room in the queue first, at most
    /// until the deadline. The channel is chosen by size.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        service: Service,
        request: &Q,
        payload: impl Into<Payload>,
        timeout: Duration,
    ) -> Result<(A, Bytes), CallError> {
        let payload = payload.into();
        let channel = Channel::for_size(payload.len());
        let started = Instant::now();
        self.wait_for_room_to_call(channel, started, timeout).await?;
        let (answered, answer) = oneshot::channel();
        let left = timeout.saturating_sub(started.elapsed());
        self.call_with(channel, service, request, payload, left, move |result| {
            // The caller may have gone away.
            let _ = answered.send(result);
        })?;
        let message = answer.await.map_err(|_| CallError::Refused(Refusal::Dropped))??;
        let reply = message.decode().map_err(|_| CallError::MalformedReply)?;
        Ok((reply, message.payload))
    }

    /// Sends a request; `on_reply` is called exactly once, inline, with the reply or with what went wrong. Does not
    /// wait: a full queue is an error, and then `on_reply` is not called.
    ///
    /// # Errors
    /// When the request was not queued.
    pub fn call_with<Q: Serialize>(
        &self,
        channel: Channel,
        service: Service,
        request: &Q,
        payload: impl Into<Payload>,
        timeout: Duration,
        on_reply: impl FnOnce(Result<Message, CallError>) + 'static,
    ) -> Result<(), SendError> {
        let shared = &self.0;
        if !self.is_open() {
            return Err(SendError::Down);
        }
        if shared.pending.borrow().len() >= MAX_REQUESTS_PER_CONNECTION {
            return Err(SendError::TooManyInFlight);
        }
        let outgoing = &shared.channels[channel.index()];
        if !outgoing.has_room() {
            return Err(SendError::QueueFull);
        }
        let correlation = shared.next_correlation.get();
        shared.next_correlation.set(correlation.wrapping_add(1));
        let kind = FrameKind::Request;
        outgoing.push(OutgoingFrame { kind, service, correlation, header: request, payload: payload.into() })?;
        let sent_at = Instant::now();
        let deadline = sent_at + timeout;
        shared
            .pending
            .borrow_mut()
            .insert(correlation, PendingCall { sent_at, deadline, on_reply: Box::new(on_reply) });
        if shared.next_check.get().is_none_or(|next| deadline < next) {
            shared.next_check.set(Some(deadline));
            shared.check_sooner.notify_one();
        }
        Ok(())
    }

    /// Queues a one-way message. It arrives in order with all others of its channel, or the connection ends.
    ///
    /// # Errors
    /// When it was not queued.
    pub fn send<M: Serialize>(
        &self,
        channel: Channel,
        service: Service,
        message: &M,
        payload: impl Into<Payload>,
    ) -> Result<(), SendError> {
        if !self.is_open() {
            return Err(SendError::Down);
        }
        let outgoing = &self.0.channels[channel.index()];
        if !outgoing.has_room() {
            return Err(SendError::QueueFull);
        }
        let kind = FrameKind::OneWay;
        outgoing.push(OutgoingFrame { kind, service, correlation: 0, header: message, payload: payload.into() })
    }

    /// Waits until the channel takes messages again, or the connection has ended.
    pub async fn wait_for_room(&self, channel: Channel) {
        let outgoing = &self.0.channels[channel.index()];
        while self.is_open() && !outgoing.has_room() {
            outgoing.room.notified().await;
        }
    }

    async fn wait_for_room_to_call(
        &self,
        channel: Channel,
        started: Instant,
        timeout: Duration,
    ) -> Result<(), CallError> {
        let shared = &self.0;
        let ready = || {
            !self.is_open()
                || (shared.channels[channel.index()].has_room()
                    && shared.pending.borrow().len() < MAX_REQUESTS_PER_CONNECTION)
        };
        while !ready() {
            let wait = async {
                tokio::select! {
                    () = shared.channels[channel.index()].room.notified() => {}
                    () = shared.room_to_call.notified() => {}
                }
            };
            if tokio::time::timeout_at(started + timeout, wait).await.is_err() {
                return Err(SendError::QueueFull.into());
            }
        }
        Ok(())
    }

    /// Ends the connection at once. What is queued is not sent; calls in flight end with an error. Their callbacks and
    /// [`Handler::on_closed`] run before this returns, so the caller must not hold what they need.
    pub fn close(&self, reason: &str) {
        self.finish(CloseReason::Here(reason.to_owned()));
    }

    /// Waits until the connection has ended and says why.
    pub async fn closed(&self) -> CloseReason {
        loop {
            if let Some(reason) = self.0.closed.borrow().clone() {
                return reason;
            }
            self.0.has_closed.notified().await;
        }
    }
}

// For the tasks that carry the connection.
impl Connection {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { side, identity, hello, address, handler, lane } = parts;
        Self(Rc::new(Shared {
            side,
            session_owner: identity.session_owner(),
            identity,
            hello,
            address,
            handler,
            lane,
            channels: Default::default(),
            pending: RefCell::default(),
            next_correlation: Cell::new(1),
            next_check: Cell::new(None),
            check_sooner: Notify::new(),
            serving: Cell::new(0),
            room_to_serve: Notify::new(),
            room_to_call: Notify::new(),
            closed: RefCell::default(),
            has_closed: Notify::new(),
        }))
    }

    pub(crate) fn handler(&self) -> &Rc<dyn Handler> {
        &self.0.handler
    }

    pub(crate) fn outgoing(&self, channel: Channel) -> &Outgoing {
        &self.0.channels[channel.index()]
    }

    pub(crate) fn is_overloaded(&self) -> bool {
        self.is_open()
            && (self.0.serving.get() >= MAX_REQUESTS_PER_CONNECTION || self.queued_bytes() >= MAX_QUEUED_REPLY_BYTES)
    }

    pub(crate) async fn wait_for_room_to_serve(&self) {
        while self.is_overloaded() {
            tokio::select! {
                () = self.0.room_to_serve.notified() => {}
                () = self.0.channels[Channel::Small.index()].room.notified() => {}
                () = self.0.channels[Channel::Ordered.index()].room.notified() => {}
                () = self.0.channels[Channel::Bulk.index()].room.notified() => {}
            }
        }
    }

    pub(crate) fn complete(&self, correlation: u64, result: Result<Message, CallError>) {
        // An unknown id is an answer that came after its deadline.
        let Some(call) = self.0.pending.borrow_mut().remove(&correlation) else { return };
        self.0.room_to_call.notify_one();
        (call.on_reply)(result);
    }

    pub(crate) fn refuse(&self, service: Service, correlation: u64, refusal: &Refusal) {
        let frame =
            OutgoingFrame { kind: FrameKind::Refusal, service, correlation, header: refusal, payload: Payload::None };
        // A refusal is a few bytes: it cannot be too long.
        let _ = self.0.channels[Channel::Small.index()].push(frame);
    }

    /// The end, whoever brought it about. Only the first reason counts.
    pub(crate) fn finish(&self, reason: CloseReason) {
        {
            let mut closed = self.0.closed.borrow_mut();
            if closed.is_some() {
                return;
            }
            *closed = Some(reason.clone());
        }
        match &reason {
            CloseReason::Here(text) => self.0.lane.close(text),
            CloseReason::Protocol(error) => self.0.lane.close(&error.to_string()),
            other => self.0.lane.close(&other.to_string()),
        }
        self.0.channels.iter().for_each(Outgoing::end);
        let calls = std::mem::take(&mut *self.0.pending.borrow_mut());
        for call in calls.into_values() {
            (call.on_reply)(Err(CallError::Closed(reason.clone())));
        }
        self.0.room_to_serve.notify_waiters();
        self.0.room_to_call.notify_waiters();
        self.0.check_sooner.notify_one();
        self.0.handler.on_closed(self, &reason);
        self.0.has_closed.notify_waiters();
    }

    /// Ends calls whose deadline has passed; runs until the connection ends.
    pub(crate) async fn watch_deadlines(&self) {
        while self.is_open() {
            match self.0.next_check.get() {
                None => self.0.check_sooner.notified().await,
                Some(next) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(next) => self.expire(),
                        () = self.0.check_sooner.notified() => {}
                    }
                }
            }
        }
    }

    fn expire(&self) {
        let now = Instant::now();
        let expired: Vec<u64> =
            self.0.pending.borrow().iter().filter(|(_, call)| call.deadline <= now).map(|(id, _)| *id).collect();
        let next = self.0.pending.borrow().values().map(|call| call.deadline).filter(|d| *d > now).min();
        self.0.next_check.set(next);
        for id in expired {
            let Some(call) = self.0.pending.borrow_mut().remove(&id) else { continue };
            self.0.room_to_call.notify_one();
            let waited_ms = u64::try_from((now - call.sent_at).as_millis()).unwrap_or(u64::MAX);
            (call.on_reply)(Err(CallError::DeadlinePassed { waited_ms }));
        }
    }
}

pub(crate) struct Parts {
    pub(crate) side: Side,
    pub(crate) identity: PeerIdentity,
    pub(crate) hello: Hello,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) handler: Rc<dyn Handler>,
    pub(crate) lane: Box<dyn LaneControl>,
}

/// The right, and the duty, to answer one request.
pub struct Replier {
    /// Taken when the answer is given.
    connection: Option<Connection>,
    service: Service,
    correlation: u64,
}

impl fmt::Debug for Replier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replier").field("correlation", &self.correlation).finish_non_exhaustive()
    }
}

impl Replier {
    pub(crate) fn new(connection: &Connection, service: Service, correlation: u64) -> Self {
        connection.0.serving.set(connection.0.serving.get() + 1);
        Self { connection: Some(connection.clone()), service, correlation }
    }

    /// Queues the answer; never waits, as requests in flight are bounded. Of no effect when the connection has ended.
    pub fn reply<A: Serialize>(mut self, answer: &A, payload: impl Into<Payload>) {
        let Some(connection) = self.take() else { return };
        if !connection.is_open() {
            return;
        }
        let payload = payload.into();
        let channel = Channel::for_size(payload.len());
        let frame = OutgoingFrame {
            kind: FrameKind::Reply,
            service: self.service,
            correlation: self.correlation,
            header: answer,
            payload,
        };
        if let Err(error) = connection.0.channels[channel.index()].push(frame) {
            tracing::error!(peer = %connection.identity(), %error, "an answer is too long to be sent");
            connection.refuse(self.service, self.correlation, &Refusal::Dropped);
        }
    }

    pub fn refuse(mut self, refusal: &Refusal) {
        if let Some(connection) = self.take() {
            connection.refuse(self.service, self.correlation, refusal);
        }
    }

    /// Whom the answer goes to.
    #[must_use]
    pub fn connection(&self) -> Option<&Connection> {
        self.connection.as_ref()
    }

    fn take(&mut self) -> Option<Connection> {
        let connection = self.connection.take()?;
        connection.0.serving.set(connection.0.serving.get() - 1);
        connection.0.room_to_serve.notify_waiters();
        Some(connection)
    }
}

impl Drop for Replier {
    fn drop(&mut self) {
        if let Some(connection) = self.take()
            && connection.is_open()
        {
            connection.refuse(self.service, self.correlation, &Refusal::Dropped);
        }
    }
}
