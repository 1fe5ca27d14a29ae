//! Requests: admission, waiting for the map, and carrying a machine's answer back to whoever asked.
//!
//! Guarantees: a request is looked at only when the map it names is applied; lease check, session check and sequencing
//! then happen in one step of the machine (design 4.2, 4.4); every request is answered once, or its connection has ended.
//! Must not know: how a machine decides, frames and sockets.

use super::flush::FlushPart;
use super::host::{Host, Replier};
use super::node::{DataNode, Stage};
use super::repair::REPAIR_SESSION;
use super::room;
use super::turn::Speaker;
use super::waiting::{Full, delay_under_pressure, must_wait};
use crate::data::groups::GroupKey;
use crate::mutants::{Mutant, planted};
use bytes::Bytes;
use std::time::Instant;
use tokio::sync::oneshot;
use weft_proto::data::{DataReply, DataRequest};
use weft_proto::replication::{Envelope, Message as PeerMessage};
use weft_replication::{ClientRequest, Event, Reply, RequestToken, TICK_INTERVAL};
use weft_transport::Payload;
use weft_types::error::NotServing;
use weft_types::limits::{MAP_WAIT_TIMEOUT, MAX_IO_BYTES};
use weft_types::map::{ClusterMap, NodeState};
use weft_types::{BootTime, DataError, MapVersion, NodeId, PgId, SessionId};

/// Where an answer goes.
pub(super) enum Answer<R> {
    Wire(R),
    FlushPart(FlushPart),
    /// Somebody in this process.
    Local(oneshot::Sender<Result<DataReply, DataError>>),
    /// The same, with the bytes.
    Bytes(oneshot::Sender<(Result<DataReply, DataError>, Bytes)>),
}

impl<R: Replier> Answer<R> {
    /// An answer without data.
    pub(super) fn send(self, result: Result<DataReply, DataError>) {
        match self {
            Self::Wire(replier) => replier.reply(&result, Payload::None),
            // The asker may have given up.
            Self::Local(sender) => drop(sender.send(result)),
            Self::Bytes(sender) => drop(sender.send((result, Bytes::new()))),
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
pub(super) struct Pending<R> {
    answer: Answer<R>,
    /// Data that it brought.
    bytes: usize,
    kind: Kind,
    received: Instant,
    sequenced: Option<Instant>,
    span: tracing::Span,
}

impl<R> Pending<R> {
    pub(super) fn new(answer: Answer<R>, kind: Kind, received: Instant) -> Self {
        Self { answer, bytes: 0, kind, received, sequenced: None, span: tracing::Span::none() }
    }
}

/// A request that has not been looked at.
pub(super) struct Request<R> {
    pub(super) body: DataRequest,
    pub(super) payload: Bytes,
    pub(super) answer: Answer<R>,
    from: Speaker,
    /// For the measure of time.
    pub(super) received: Instant,
    /// Since when it is held back because a journal fills up.
    slowed: Option<BootTime>,
}

impl<R> Request<R> {
    pub(super) fn new(body: DataRequest, payload: Bytes, answer: Answer<R>, from: Speaker) -> Self {
        Self { body, payload, answer, from, received: Instant::now(), slowed: None }
    }

    fn map_version(&self) -> MapVersion {
        match &self.body {
            DataRequest::Write(r) => r.map_version,
            DataRequest::Read(r) => r.map_version,
            DataRequest::Discard(r) => r.map_version,
            DataRequest::Fill(r) => r.map_version,
            DataRequest::Copy(r) => r.map_version,
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
            DataRequest::Fill(r) => Some(r.pg),
            DataRequest::Copy(r) => Some(r.pg),
            DataRequest::Truncate(r) => Some(r.pg),
            DataRequest::DeleteObject { pg, .. }
            | DataRequest::ObjectExtent { pg, .. }
            | DataRequest::Presence { pg, .. } => Some(*pg),
            DataRequest::Flush(_) => None,
        }
    }

    const fn kind(&self) -> Kind {
        match &self.body {
            DataRequest::Write(_) | DataRequest::Discard(_) | DataRequest::Fill(_) => Kind::Write,
            DataRequest::Read(_) => Kind::Read,
            DataRequest::Flush(_) => Kind::Flush,
            _ => Kind::Other,
        }
    }

    /// Only nodes act without a client behind them, and a write brings what it writes.
    pub(super) fn is_proper(&self) -> bool {
        let from_node = self.from == Speaker::Node;
        match &self.body {
            DataRequest::Write(_) => !self.payload.is_empty() && self.payload.len() <= MAX_IO_BYTES,
            DataRequest::Read(r) => {
                (r.session != REPAIR_SESSION || from_node)
                    && self.payload.is_empty()
                    && r.length_bytes > 0
                    && r.length_bytes as usize <= MAX_IO_BYTES
            }
            DataRequest::Copy(r) => {
                r.origin.session != REPAIR_SESSION
                    && self.payload.is_empty()
                    && r.length_bytes > 0
                    && r.length_bytes as usize <= MAX_IO_BYTES
                    && r.source.pg.volume == r.pg.volume
            }
            DataRequest::Truncate(r) => self.payload.is_empty() && (r.origin.is_some() || from_node),
            DataRequest::DeleteObject { origin, .. } => self.payload.is_empty() && (origin.is_some() || from_node),
            _ => self.payload.is_empty(),
        }
    }
}

impl<H: Host> DataNode<H> {
    /// Looks at a request now, or holds it until that is allowed.
    pub(super) fn admit(&mut self, mut request: Request<H::Replier>) {
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
            let deadline = self.host.now() + MAP_WAIT_TIMEOUT;
            let held = self.waiting.for_map(version, deadline, bytes, request);
            return self.refuse_overloaded(held);
        }
        if let Some(delay) = self.slowing(&request) {
            self.counters.requests_slowed += 1;
            let now = self.host.now();
            request.slowed = Some(now);
            let held = self.waiting.for_time(now + delay, bytes, request);
            return self.refuse_overloaded(held);
        }
        self.start(request);
    }

    fn refuse_overloaded(&mut self, held: Result<(), Full<Request<H::Replier>>>) {
        if let Err(Full(request)) = held {
            self.refuse_request(request, DataError::NotServing { reason: NotServing::Overloaded });
        }
    }

    /// A write to a disk whose journal is filling up is held back (design 6).
    fn slowing(&self, request: &Request<H::Replier>) -> Option<std::time::Duration> {
        delay_under_pressure(self.pressure(request)?)
    }

    /// How full the journal is that a write goes to.
    fn pressure(&self, request: &Request<H::Replier>) -> Option<f64> {
        if request.kind() != Kind::Write {
            return None;
        }
        let disk = self.leading.get(&request.pg()?)?;
        Some(self.disks.get(disk)?.journal_share())
    }

    pub(super) fn release_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let now = self.host.now();
        for mut request in self.waiting.released(self.applied(), now) {
            let full = self.pressure(&request).is_some_and(must_wait);
            let waited = now.since(*request.slowed.get_or_insert(now));
            if full && waited < MAP_WAIT_TIMEOUT {
                let bytes = request.payload.len();
                let held = self.waiting.for_time(now + TICK_INTERVAL, bytes, request);
                self.refuse_overloaded(held);
            } else if full {
                self.refuse_request(request, DataError::NotServing { reason: NotServing::Overloaded });
            } else {
                self.start(request);
            }
        }
    }

    pub(super) fn expire_waiting(&mut self) {
        for request in self.waiting.expired(self.host.now()) {
            self.refuse_request(request, DataError::NotServing { reason: NotServing::Overloaded });
        }
    }

    pub(super) fn refuse_waiting(&mut self) {
        for request in self.waiting.all() {
            self.refuse_request(request, DataError::NotServing { reason: NotServing::Stopping });
        }
    }

    /// Answers a request that no machine has seen.
    pub(super) fn refuse_request(&mut self, request: Request<H::Replier>, error: DataError) {
        self.counters.requests_refused += 1;
        request.answer.send(Err(error));
    }

    /// By the certificate of who asks (W5). A session that is not listed is the machine's to refuse, as fenced.
    fn speaks_for(&self, from: Speaker, session: SessionId) -> bool {
        match from {
            Speaker::Node => true,
            Speaker::Client(_) if planted(Mutant::AnyOwner) => true,
            Speaker::Client(owner) => self.owners.get(&session).is_none_or(|known| *known == owner),
        }
    }

    /// Measures how much data of writes this node works on at a time: what its memory allows, and its part of what every
    /// journal has room for beside its committed entries. A checkpoint frees only those, so a journal full of others, each
    /// waiting for room in the next one's, would never be freed.
    pub(super) fn limit_clients(&mut self, map: &ClusterMap) {
        let nodes = map.nodes.iter().filter(|node| node.state != NodeState::Removed).count().max(1);
        let journal = self.disks.values().map(|disk| disk.store.journal_bytes()).min();
        let part = journal.map_or(usize::MAX, |bytes| room::under_way_bytes(bytes) as usize / nodes);
        let part = if planted(Mutant::NoJournalBound) { usize::MAX } else { part };
        self.client_limit_bytes = self.settings.memory.client_bytes.min(part);
    }

    /// Whether so many bytes more of writes may be worked on. One write always may.
    const fn has_room_for(&self, bytes: usize) -> bool {
        self.client_bytes == 0 || self.client_bytes + bytes <= self.client_limit_bytes
    }

    /// Whether clients may send much: before what they sent has to be refused, which costs them and this node the way.
    pub(super) const fn has_room_for_clients(&self) -> bool {
        self.client_bytes <= self.client_limit_bytes / 2
    }

    /// How many writes are worked on, and the bytes of their data.
    pub(super) fn writes_under_way(&self) -> (usize, usize) {
        (self.requests.values().filter(|pending| pending.bytes > 0).count(), self.client_bytes)
    }

    /// Gives a request to its machine.
    fn start(&mut self, request: Request<H::Replier>) {
        let kind = request.kind();
        let (session, operation) = request.body.asked_by();
        let what = request.body.name();
        if !self.speaks_for(request.from, session) {
            self.counters.requests_of_other_sessions += 1;
            return self.refuse_request(request, DataError::Malformed);
        }
        let bytes = request.payload.len();
        if bytes > 0 && !self.has_room_for(bytes) {
            self.counters.requests_without_room += 1;
            return self.refuse_request(request, DataError::NotServing { reason: NotServing::Overloaded });
        }
        let Request { body, payload, answer, received, from, .. } = request;
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
            DataRequest::Copy(request) => return self.want_copy(request, answer, from),
            DataRequest::Read(request) if request.session == REPAIR_SESSION => {
                return self.serve_repair(&request, answer, received);
            }
            DataRequest::Read(request) => (request.pg, ClientRequest::Read(request)),
            DataRequest::Discard(request) => (request.pg, ClientRequest::Discard(request)),
            DataRequest::Fill(request) => (request.pg, ClientRequest::Fill(request)),
            DataRequest::Truncate(request) => (request.pg, ClientRequest::Truncate(request)),
            DataRequest::DeleteObject { pg, map_version, origin, object } => {
                (pg, ClientRequest::DeleteObject { map_version, origin, object })
            }
            DataRequest::ObjectExtent { pg, map_version, object, generation } => {
                (pg, ClientRequest::ObjectExtent { map_version, object, generation })
            }
            DataRequest::Presence { pg, map_version, chunk } => (pg, ClientRequest::Presence { map_version, chunk }),
        };
        let token = self.next_token();
        self.client_bytes += bytes;
        self.counters.request_bytes_most = self.counters.request_bytes_most.max(self.client_bytes as u64);
        let span = tracing::debug_span!("request", what, %session, %operation, %pg);
        self.requests.insert(token, Pending { answer, bytes, kind, received, sequenced: None, span });
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
        let Some(pending) = self.requests.remove(&token) else { return };
        let Pending { answer, bytes, kind, received, sequenced, span } = pending;
        self.client_bytes -= bytes;
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
                replier.reply(&Ok(DataReply::Read), bytes.into());
            }
            (Answer::Bytes(sender), Ok(Reply::Read(bytes))) => drop(sender.send((Ok(DataReply::Read), bytes))),
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
        trace_append(from, &envelope);
        self.step(key, Event::Peer(envelope));
        if is_append {
            self.counters.backup_append.took(began.elapsed());
        }
    }

    /// Tells every machine with a member on that node.
    pub(super) fn peer_changed(&mut self, node: NodeId, event: fn(weft_types::DiskId) -> Event) {
        for (key, group) in &self.groups {
            for (disk, home) in &group.others {
                if *home == node {
                    self.ready.push_back((*key, event(*disk)));
                }
            }
        }
    }
}

/// Says on a backup by which operations of which sessions its entries came.
fn trace_append(from: NodeId, envelope: &Envelope) {
    let PeerMessage::Append(append) = &envelope.message else { return };
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    for entry in &append.entries {
        let origin = entry.header.origin;
        let (session, operation) = (origin.map(|o| o.session), origin.map(|o| o.operation));
        tracing::debug!(pg = %envelope.pg, %from, position = ?entry.header.position, ?session, ?operation, "append");
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
