//! A client: session, map, the production data core, and threads that read, write and flush.
//!
//! Responsible for: what the shell of a client does, on simulated time, and for telling the oracles what was seen.
//! Guarantees: every written value is unique; an operation that was not answered stays open for ever in the history.
//! Must not know: replication.

pub mod desk;
pub mod growing;
mod locks;
mod names;
pub mod plots;
mod workload;

use crate::answers::OperationOf;
use crate::failure::Oracle;
use crate::host::NodeClock;
use crate::node::SIMULATED_OWNER;
use crate::node::{OnReply, control_address, node_at};
use crate::oracle::{self, Read, Write};
use crate::promises::Acknowledged;
use crate::stories::Moment;
use crate::world::{End, MS, Place, World};
use bytes::Bytes;
use desk::{Desk, Who};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::oneshot;
use weft_client::core::{
    Action, AttemptId, DataCore, DataCoreConfig, Event, LeaderFinder, LossWatch, Operation, Outcome, RouteTable,
    SessionClock, SessionState, Ticket,
};
use weft_node::data::turn::Speaker;
use weft_proto::control::{ControlReply, ControlRequest};
use weft_proto::data::DataRequest;
use weft_types::limits::{SESSION_HEARTBEAT_INTERVAL, SESSION_TTL};
use weft_types::map::ClusterMap;
use weft_types::{
    AckMode, BLOCK_SIZE, BlockIndex, ChunkId, ChunkIndex, DataError, ErrorKind, NodeId, ObjectId, PgId, PresentBlocks,
    RequestNumber, SessionId, TruncateGeneration, VolumeId, block_hash,
};

pub const HALF: usize = BLOCK_SIZE / 2;
/// Of a block; each is a register.
pub const HALF_BLOCKS: u16 = 2;
pub const CHUNK_BYTES: u32 = 64 << 10;
/// Objects whose blocks are registers; others only have to be equal everywhere in the end.
pub const REGISTER_OBJECTS: u64 = 2;
pub const CHUNKS: u32 = 3;
pub const BLOCKS: u16 = 3;
const BYTES_IN_FLIGHT: usize = 64 << 20;
/// Objects from here on are no files': nobody but the workload knows of them.
pub const FIRST_OBJECT: u64 = 1 << 32;

pub struct SimClient {
    index: usize,
    /// Counts its processes.
    pub life: u64,
    clock: NodeClock,
    pub paused_until: u64,
    finder: LeaderFinder,
    session: Option<Session>,
    threads: Vec<Thread>,
}

struct Session {
    id: SessionId,
    volume: VolumeId,
    core: DataCore,
    next_ticket: u64,
    running: BTreeMap<Ticket, Running>,
    fetching: bool,
    /// Numbers of the changes that were asked for.
    asked: BTreeMap<AttemptId, OperationOf>,
    /// What uses files.
    desk: Desk,
}

struct Thread {
    busy: bool,
    losses: Option<LossWatch>,
    /// It was told of every loss before this.
    told_until: u64,
}

enum Op {
    Write {
        value: u64,
        places: Vec<Place>,
    },
    Read {
        object: u64,
        chunk: u32,
        block: u16,
    },
    Flush {
        covers: Vec<(Place, u64, u64)>,
        acknowledged: BTreeMap<PgId, Acknowledged>,
    },
    Churn {
        /// Object, group and generation of a truncation.
        cut: Option<(u64, PgId, u64)>,
        /// Object of a write or discard.
        changes: Option<u64>,
        what: String,
    },
    /// Of a thread that has blocks of its own.
    Plot(plots::Step),
    /// Sent at the same time as the operation that the thread waits for.
    Beside,
    /// Of a task, which is told what came of it.
    Other(&'static str),
    /// Asked by the check in the end.
    Final {
        object: u64,
        chunk: u32,
        block: u16,
    },
}

struct Running {
    op: Op,
    thread: usize,
    start: u64,
    /// A task that is told what came of it; others are of a thread.
    answer: Option<oneshot::Sender<desk::Answer>>,
}

impl Op {
    fn name(&self) -> String {
        match self {
            Self::Write { value, places } => format!("write of {value} at {places:?}"),
            Self::Read { object, chunk, block } => format!("read of {object}, {chunk}, {block}"),
            Self::Flush { .. } => "flush".to_owned(),
            Self::Churn { what, .. } => what.clone(),
            Self::Plot(step) => format!("{step:?}"),
            Self::Beside => "discard beside a write".to_owned(),
            Self::Other(what) => (*what).to_owned(),
            Self::Final { object, chunk, block } => format!("last read of {object}, {chunk}, {block}"),
        }
    }
}

fn value_of(bytes: &[u8]) -> Result<u64, String> {
    let (words, _) = bytes.as_chunks::<8>();
    let first = words.first().map_or(0, |word| u64::from_le_bytes(*word));
    if words.iter().all(|word| u64::from_le_bytes(*word) == first) {
        Ok(first)
    } else {
        Err("half a block is torn".to_owned())
    }
}

fn chunk_id(object: u64, chunk: u32) -> ChunkId {
    ChunkId { object: ObjectId(FIRST_OBJECT + object), index: ChunkIndex(chunk) }
}

impl SimClient {
    pub fn new(index: usize, clock: NodeClock, threads: usize, nodes: &[NodeId]) -> Self {
        let finder = LeaderFinder::new(nodes.iter().map(|node| control_address(*node)).collect());
        let threads = (0..threads).map(|_| Thread { busy: false, losses: None, told_until: 0 }).collect();
        Self { index, life: 0, clock, paused_until: 0, finder, session: None, threads }
    }

    pub fn session_id(&self) -> Option<SessionId> {
        self.session.as_ref().map(|session| session.id)
    }

    /// What this client's clock says of a session, if it is its own.
    pub fn session_state(&self, id: SessionId) -> Option<SessionState> {
        let session = self.session.as_ref().filter(|session| session.id == id)?;
        Some(session.desk.state())
    }

    /// Operations that are not answered.
    pub fn unanswered(&self) -> usize {
        self.session.as_ref().map_or(0, |session| session.running.len())
    }

    pub fn is_open(&self) -> bool {
        self.session.is_some()
    }

    pub fn describe(&self) -> String {
        let Some(session) = &self.session else { return format!("client {}: no session", self.index) };
        let map = session.core.routes().version();
        format!("client {}: session {}, {} unanswered, map {map}", self.index, session.id, session.running.len())
    }
}

impl World {
    pub fn start_client(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        client.life += 1;
        if let Some(session) = client.session.take() {
            self.ledger.open().held.dead.insert(session.id, self.now.get());
            session.desk.end();
        }
        client.threads.iter_mut().for_each(|thread| thread.busy = false);
        let life = client.life;
        self.open_session(index, life);
    }

    /// The client dies with whatever it has on its way.
    pub fn crash_client(&mut self, index: usize) {
        self.stats.count("clients killed");
        self.start_client(index);
    }

    /// Nothing of them goes on.
    pub fn end_clients(&mut self) {
        self.clients.iter_mut().filter_map(|client| client.session.take()).for_each(|session| session.desk.end());
    }

    fn client_at(&mut self, index: usize, life: u64, act: impl FnOnce(&mut Self) + 'static) {
        let now = self.now();
        let Some(client) = self.clients.get(index).filter(|c| c.life == life) else { return };
        if client.paused_until > now {
            let at = client.paused_until;
            return self.at(at, "client woken", move |world| world.client_at(index, life, act));
        }
        act(self);
    }

    fn open_session(&mut self, index: usize, life: u64) {
        let Some(client) = self.clients.get(index).filter(|c| c.life == life) else { return };
        let sent = client.clock.read();
        let (host, mount_point) = (format!("client-{index}"), "/mnt".to_owned());
        let request = ControlRequest::OpenSession { volume_name: crate::VOLUME.to_owned(), host, mount_point };
        self.client_asks(
            index,
            life,
            request,
            1_500 * MS,
            Box::new(move |world, reply| {
                let Some(ControlReply::SessionOpened { session, volume, map }) = reply else {
                    return world.after(50 * MS, "open session", move |world| world.open_session(index, life));
                };
                let Some(routes) = RouteTable::new(volume, Arc::new(map)) else { return };
                let losses = routes.losses();
                let config = DataCoreConfig { session, fail_after: None, bytes_in_flight: BYTES_IN_FLIGHT };
                let core = DataCore::new(config, routes);
                world.stats.count("sessions opened");
                world.say(|| format!("client {index} has session {session}"));
                let now = world.now();
                let Some(client) = world.clients.get_mut(index) else { return };
                for thread in &mut client.threads {
                    (thread.losses, thread.told_until) = (Some(LossWatch::new(Arc::clone(&losses))), now);
                }
                let who = Who { index, life, id: session };
                let lease = SessionClock::new(SESSION_TTL, sent);
                let desk = Desk::new(who, volume, world.ledger.clone(), client.clock.clone(), lease);
                client.session = Some(Session {
                    id: session,
                    volume,
                    core,
                    next_ticket: 0,
                    running: BTreeMap::new(),
                    fetching: false,
                    asked: BTreeMap::new(),
                    desk: desk.clone(),
                });
                let threads = client.threads.len();
                world.session_heartbeats(index, life, session);
                world.follow_map(index, life, session);
                world.watch_stalls(index, life, session);
                for thread in 0..threads {
                    world.next_operation(index, life, thread);
                }
                world.begin_with_files(&desk);
            }),
        );
    }

    /// One request to whoever is believed to lead; the finder moves on when nobody answers.
    fn client_asks(&mut self, index: usize, life: u64, request: ControlRequest, deadline_ns: u64, done: OnReply) {
        let Some(address) = self.clients.get(index).and_then(|c| c.finder.current()) else { return };
        let heard: OnReply = Box::new(move |world, reply| {
            world.client_at(index, life, move |world| {
                let Some(client) = world.clients.get_mut(index) else { return };
                let believed = client.finder.current();
                let reply = match reply {
                    Some(ControlReply::NotLeader { leader }) => {
                        client.finder.redirected(address, leader.map(|(_, at)| at));
                        None
                    }
                    Some(ControlReply::Refused(ErrorKind::Unavailable(_))) | None => {
                        client.finder.unreachable(address);
                        None
                    }
                    Some(reply) => {
                        client.finder.answered(address);
                        Some(reply)
                    }
                };
                if client.finder.current() != believed
                    && let Some(session) = &client.session
                {
                    session.desk.leader_has_moved();
                }
                done(world, reply);
            });
        });
        self.call_control(End::Client(index), node_at(address), request, deadline_ns, heard);
    }

    fn session(&mut self, index: usize, life: u64, id: SessionId) -> Option<&mut Session> {
        let client = self.clients.get_mut(index).filter(|c| c.life == life)?;
        client.session.as_mut().filter(|session| session.id == id)
    }

    fn session_heartbeats(&mut self, index: usize, life: u64, id: SessionId) {
        if self.session(index, life, id).is_none() {
            return;
        }
        let interval = u64::try_from(SESSION_HEARTBEAT_INTERVAL.as_nanos()).unwrap_or(0);
        self.after(interval, "session heartbeat", move |world| {
            world.client_at(index, life, move |world| world.session_heartbeats(index, life, id));
        });
        let Some(sent) = self.clients.get(index).map(|c| c.clock.read()) else { return };
        let low_water = self.session(index, life, id).map_or(RequestNumber(0), |session| session.desk.low_water());
        let request = ControlRequest::SessionHeartbeat { session: id, low_water };
        self.client_asks(
            index,
            life,
            request,
            interval,
            Box::new(move |world, reply| {
                let Some(session) = world.session(index, life, id) else { return };
                match reply {
                    Some(ControlReply::SessionAlive { map_version }) => {
                        session.desk.change_lease(|lease| lease.answered(sent));
                        if map_version > session.core.routes().version() {
                            world.fetch_map(index, life, id);
                        }
                    }
                    Some(ControlReply::Refused(ErrorKind::Fenced | ErrorKind::NotFound | ErrorKind::Stale)) => {
                        session.desk.change_lease(SessionClock::struck);
                        world.step_client(index, life, id, Event::Fenced);
                    }
                    _ => {}
                }
            }),
        );
    }

    /// A poll that is answered when there is a newer map.
    fn follow_map(&mut self, index: usize, life: u64, id: SessionId) {
        let Some(session) = self.session(index, life, id) else { return };
        let (have, volume) = (session.core.routes().version(), session.volume);
        let request = ControlRequest::GetMap { volume: Some(volume), have, wait_ms: 20_000 };
        self.client_asks(
            index,
            life,
            request,
            5_000 * MS,
            Box::new(move |world, reply| {
                if let Some(ControlReply::Map(map)) = reply {
                    world.take_map(index, life, id, *map);
                }
                world.after(20 * MS, "follow map", move |world| {
                    world.client_at(index, life, move |world| world.follow_map(index, life, id));
                });
            }),
        );
    }

    fn fetch_map(&mut self, index: usize, life: u64, id: SessionId) {
        let Some(session) = self.session(index, life, id).filter(|s| !s.fetching) else { return };
        session.fetching = true;
        let (have, volume) = (session.core.routes().version(), session.volume);
        let request = ControlRequest::GetMap { volume: Some(volume), have, wait_ms: 0 };
        self.client_asks(
            index,
            life,
            request,
            250 * MS,
            Box::new(move |world, reply| {
                if let Some(session) = world.session(index, life, id) {
                    session.fetching = false;
                }
                if let Some(ControlReply::Map(map)) = reply {
                    world.take_map(index, life, id, *map);
                }
            }),
        );
    }

    fn watch_stalls(&mut self, index: usize, life: u64, id: SessionId) {
        let Some(now) = self.clients.get(index).map(|c| c.clock.read()) else { return };
        let Some(session) = self.session(index, life, id) else { return };
        let stalled = session.core.oldest_submitted().is_some_and(|at| now.since(at).as_millis() >= 300);
        if session.desk.state() == SessionState::Lapsed {
            self.stats.count("checks of a session that had lapsed");
        }
        if stalled {
            self.fetch_map(index, life, id);
        }
        self.after(200 * MS, "stalls", move |world| {
            world.client_at(index, life, move |world| world.watch_stalls(index, life, id));
        });
    }

    fn take_map(&mut self, index: usize, life: u64, id: SessionId, map: ClusterMap) {
        let Some(client) = self.clients.get_mut(index).filter(|c| c.life == life) else { return };
        let present = map.nodes.iter().filter(|n| n.state != weft_types::map::NodeState::Removed);
        client.finder.learned(present.map(|n| n.control_address).collect());
        let Some(volume) = client.session.as_ref().map(|s| s.volume) else { return };
        if let Some(routes) = RouteTable::new(volume, Arc::new(map)) {
            self.step_client(index, life, id, Event::Map(routes));
        }
    }

    fn step_client(&mut self, index: usize, life: u64, id: SessionId, event: Event) {
        let Some(now) = self.clients.get(index).map(|c| c.clock.read()) else { return };
        let Some(session) = self.session(index, life, id) else { return };
        let mut actions = Vec::new();
        let refused = match &event {
            Event::Answer { attempt, result, .. } => {
                let asked = session.asked.remove(attempt).filter(|_| *result == Err(DataError::NoSpace));
                asked.map(|operation| (*attempt, operation))
            }
            _ => None,
        };
        session.core.step(now, event, &mut actions);
        for action in actions {
            match action {
                Action::Send { attempt, node, request, payload, .. } => {
                    self.client_sends(index, life, id, attempt, node, request, payload);
                }
                Action::Done { ticket, result } => {
                    if let Some((_, operation)) = refused.filter(|(attempt, _)| attempt.ticket == ticket) {
                        self.takes_refusal(operation);
                    }
                    self.operation_done(index, life, id, ticket, result);
                }
                Action::FetchMap { .. } => self.fetch_map(index, life, id),
                Action::WakeAt(at) => {
                    let delay = u64::try_from(at.since(now).as_nanos()).unwrap_or(0) + MS / 10;
                    self.after(delay, "client wakes", move |world| {
                        world.client_at(index, life, move |world| world.step_client(index, life, id, Event::Wake));
                    });
                }
                Action::SessionFenced => {
                    self.stats.count("clients fenced");
                    self.say(|| format!("client {index} learns that session {id} is fenced"));
                    if let Some(session) = self.session(index, life, id) {
                        session.desk.end();
                    }
                    self.after(100 * MS, "new session", move |world| {
                        if world.session(index, life, id).is_some() {
                            world.start_client(index);
                        }
                    });
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn client_sends(
        &mut self,
        index: usize,
        life: u64,
        id: SessionId,
        attempt: AttemptId,
        node: NodeId,
        request: DataRequest,
        payload: Bytes,
    ) {
        if let Some(session) = self.session(index, life, id) {
            session.asked.insert(attempt, request.asked_by());
        }
        if let DataRequest::Copy(copy) = &request {
            self.copies.sent(copy);
        }
        let slow = matches!(request, DataRequest::Flush(_) | DataRequest::Truncate(_));
        let deadline = if slow { 30_000 } else { 10_000 } * MS;
        let give_up = move |world: &mut Self| {
            world.client_at(index, life, move |world| {
                world.step_client(index, life, id, Event::Unreachable { attempt });
            });
        };
        if self.random.chance(self.mix.duplicate_percent) {
            // A copy that some queue holds back for long, and that is lost with its connection, that is with the process.
            self.stats.count("requests doubled");
            let late = self.random.below(4_000 * MS);
            let (request, payload) = (request.clone(), payload.clone());
            let life = self.life_of(node);
            self.after(late, "late copy", move |world| {
                if let Some(node_life) = world.life_of(node).filter(|now| Some(*now) == life) {
                    world.data_request(
                        node,
                        node_life,
                        request,
                        payload,
                        Speaker::Client(SIMULATED_OWNER),
                        Box::new(|_, _| {}),
                    );
                }
            });
        }
        let (from, to) = (End::Client(index), End::Node(node));
        let gone = self.is_blocked(from, to) || !self.is_up(node);
        // A lost connection is noticed sooner or later.
        let noticed = if gone { self.between(5 * MS, 3_000 * MS) } else { deadline };
        self.after(noticed, "attempt over", give_up);
        if gone {
            return;
        }
        self.send(from, to, "request", move |world| {
            let Some(node_life) = world.life_of(node) else { return };
            let back = move |world: &mut Self, answer: Option<_>| {
                world.send(to, from, "answer", move |world| {
                    world.client_at(index, life, move |world| {
                        let event = match answer {
                            Some((result, payload)) => Event::Answer { attempt, result, payload },
                            None => Event::Unreachable { attempt },
                        };
                        world.step_client(index, life, id, event);
                    });
                });
            };
            world.data_request(node, node_life, request, payload, Speaker::Client(SIMULATED_OWNER), Box::new(back));
        });
    }
}

/// The workload.
impl World {
    /// What clients wait for.
    pub fn open_operations(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for client in &self.clients {
            let Some(session) = &client.session else { continue };
            for (ticket, running) in &session.running {
                let since = running.start as f64 / 1e9;
                lines.push(format!("client {}: {ticket:?} since {since:.3}: {}", client.index, running.op.name()));
            }
        }
        lines
    }

    /// Reads that are not answered, of clients that are awake, and when they began.
    pub fn reads_under_way(&self) -> Vec<((u64, u32, u16), u64)> {
        let now = self.now();
        let mut reads = Vec::new();
        for client in self.clients.iter().filter(|client| client.paused_until <= now) {
            let Some(session) = client.session.as_ref().filter(|session| !session.core.is_fenced()) else { continue };
            for running in session.running.values() {
                if let Op::Read { object, chunk, block } = running.op {
                    reads.push(((object, chunk, block), running.start.max(client.paused_until)));
                }
            }
        }
        reads
    }

    /// Starts what this seed's clients do with files.
    fn begin_with_files(&mut self, desk: &Desk) {
        let subjects = self.mix.subjects;
        if subjects.lock_owners > 0 {
            locks::start(desk, subjects.lock_owners);
        }
        if subjects.namers > 0 {
            names::start(desk, subjects.namers);
        }
        if subjects.writers > 0 {
            growing::start(desk, subjects, self.mix.groups);
        }
        self.run_desk(desk.who);
    }

    fn next_operation(&mut self, index: usize, life: u64, thread: usize) {
        let think = self.mix.think_ms * MS;
        let delay = self.random.below(think + 1);
        self.after(delay, "operation", move |world| {
            world.client_at(index, life, move |world| world.begin_operation(index, life, thread));
        });
    }

    fn begin_operation(&mut self, index: usize, life: u64, thread: usize) {
        if self.quiet {
            return;
        }
        let Some(client) = self.clients.get(index).filter(|c| c.life == life) else { return };
        let Some(session) = &client.session else { return };
        if session.core.is_fenced() || client.threads[thread].busy {
            return;
        }
        let (id, volume) = (session.id, session.volume);
        if thread < self.mix.plots && index >= self.mix.reading_clients {
            let (first, step, operation) = self.choose_in_plot((index, life, thread), volume);
            self.say(|| format!("client {index} thread {thread}: {step:?}"));
            if let Some(first) = first {
                self.submit(index, life, id, thread, Op::Beside, first);
            }
            return self.submit(index, life, id, thread, Op::Plot(step), operation);
        }
        let (op, operation) = self.choose(id, volume, index, thread);
        self.ask_for_ends(index, &operation);
        self.say(|| format!("client {index} thread {thread}: {}", op.name()));
        self.submit(index, life, id, thread, op, operation);
    }

    fn submit(&mut self, index: usize, life: u64, id: SessionId, thread: usize, op: Op, operation: Operation) {
        let start = self.now();
        let Some(session) = self.session(index, life, id) else { return };
        session.next_ticket += 1;
        let ticket = Ticket(session.next_ticket);
        session.running.insert(ticket, Running { op, thread, start, answer: None });
        if let Some(thread) = self.clients.get_mut(index).and_then(|c| c.threads.get_mut(thread)) {
            thread.busy = true;
        }
        self.step_client(index, life, id, Event::Submit { ticket, file: None, operation });
    }

    fn operation_done(
        &mut self,
        index: usize,
        life: u64,
        id: SessionId,
        ticket: Ticket,
        result: Result<Outcome, ErrorKind>,
    ) {
        let now = self.now();
        self.note(if result.is_ok() { "answered" } else { "refused" }, ticket.0);
        let Some(session) = self.session(index, life, id) else { return };
        let Some(Running { op, thread, start, answer }) = session.running.remove(&ticket) else { return };
        if matches!(op, Op::Beside) {
            return;
        }
        let told = answer.is_some().then(|| result.clone());
        self.say(|| {
            let outcome = result.as_ref().map_or_else(|error| format!("{error:?}"), |_| "done".to_owned());
            format!("client {index} thread {thread}: {}: {outcome}", op.name())
        });
        if let Some(thread) = self.clients.get_mut(index).and_then(|c| c.threads.get_mut(thread)) {
            thread.busy = false;
        }
        if let (Op::Final { object, .. }, Ok(Outcome::Read(bytes))) = (&op, &result)
            && *object >= locks::FIRST_CELL
        {
            self.saw_cell(*object, bytes);
        }
        match (op, result) {
            (Op::Write { value, places }, result) => self.wrote(value, &places, start, result.map(|_| ())),
            (Op::Read { object, chunk, block }, Ok(Outcome::Read(bytes)))
            | (Op::Final { object, chunk, block }, Ok(Outcome::Read(bytes))) => {
                self.stats.count("reads");
                self.saw((object, chunk, block), &bytes, start);
            }
            (Op::Flush { covers, acknowledged }, Ok(Outcome::Flushed(answers))) => {
                let told = self.flushed(index, thread, (start, now), covers, &answers);
                self.flush_told(told, &acknowledged, &answers);
            }
            (Op::Plot(step), result) => self.answered_in_plot((index, life, thread), step, start, result),
            (Op::Read { .. } | Op::Final { .. }, Err(ErrorKind::Io(why))) => {
                self.fail(Oracle::Readable, format!("a read failed for good: {why}"));
            }
            (Op::Churn { cut: Some((object, pg, generation)), .. }, Ok(_)) => {
                let known = self.generations.entry((object, pg)).or_default();
                *known = (*known).max(generation);
                self.cutting.remove(&object);
                self.look_at_cut(pg, ObjectId(FIRST_OBJECT + object));
                self.moment(Moment::Truncated, Some(pg), None);
            }
            (Op::Churn { changes: Some(object), .. }, Ok(_)) => {
                if let Some(open) = self.changing.get_mut(&object) {
                    *open = open.saturating_sub(1);
                }
            }
            (_, Err(ErrorKind::NoSpace)) => self.stats.count("ENOSPC"),
            _ => {}
        }
        if let (Some(answer), Some(result)) = (answer, told) {
            // Its task may have ended.
            let _ = answer.send(result);
            return self.run_desk(Who { index, life, id });
        }
        self.next_operation(index, life, thread);
    }

    fn wrote(&mut self, value: u64, places: &[Place], start: u64, result: Result<(), ErrorKind>) {
        let end = match result {
            Ok(()) => {
                self.stats.count("writes answered");
                let pg = places.first().and_then(|place| self.pg_of_place(place));
                let began = places.first().and_then(|place| Some(self.registers.get(place)?.writes.get(&value)?.start));
                if let (Some(pg), Some(began)) = (pg, began) {
                    self.look_at_answered_write(pg, began);
                }
                self.moment(Moment::Written, pg, None);
                oracle::End::Answered(self.now())
            }
            Err(ErrorKind::NoSpace) => {
                self.stats.count("ENOSPC");
                self.look_at_refusal(places, start);
                return;
            }
            Err(_) => return,
        };
        for place in places {
            if let Some(write) = self.registers.get_mut(place).and_then(|r| r.writes.get_mut(&value)) {
                write.end = end;
            }
        }
    }

    /// The last look at a block that was written under a lock: nobody writes any more.
    fn saw_cell(&mut self, object: u64, bytes: &[u8]) {
        let Ok(value) = value_of(bytes) else { return };
        let byte = object - locks::FIRST_CELL;
        let seen = self.ledger.open().held.sees(byte, value);
        if let Err(what) = seen {
            self.fail(Oracle::Locks, format!("a write under a lock came too late: in the end the block {what}"));
        }
    }

    fn saw(&mut self, (object, chunk, block): (u64, u32, u16), bytes: &[u8], start: u64) {
        for (half, bytes) in bytes.chunks(HALF).enumerate() {
            match value_of(bytes) {
                Ok(value) => {
                    let read = Read { value, start, end: self.now() };
                    let place = (object, chunk, block, half as u16);
                    self.note("read", value);
                    self.registers.entry(place).or_default().reads.push(read);
                }
                Err(why) => self.fail(Oracle::Torn, format!("object {object} chunk {chunk} block {block}: {why}")),
            }
        }
    }

    /// Whether it covers what it was asked for, and tells of no loss.
    fn flushed(
        &mut self,
        index: usize,
        thread: usize,
        (start, now): (u64, u64),
        covers: Vec<(Place, u64, u64)>,
        answers: &[(PgId, weft_types::LossGeneration)],
    ) -> bool {
        let Some(client) = self.clients.get_mut(index) else { return false };
        let Some(pg_of) = client.session.as_ref().map(|s| s.core.routes().clone()) else { return false };
        let Some(thread) = client.threads.get_mut(thread) else { return false };
        let Some(losses) = thread.losses.as_mut() else { return false };
        // Whoever serves after a loss has led the group over it, so it tells of it. Each loss raises the generation by one.
        let silent = answers.iter().find(|(pg, generation)| {
            let losses = self.losses.get(pg).map(Vec::as_slice).unwrap_or_default();
            generation.0 < losses.iter().filter(|at| **at <= start).count() as u64
        });
        if let Some((pg, generation)) = silent {
            let what = format!("a flush of client {index} tells of loss generation {generation} in group {pg}");
            self.fail(Oracle::Flushed, format!("{what}, and there was a later one before it began"));
            return false;
        }
        if losses.flushed(answers).is_err() {
            thread.told_until = now;
            self.stats.count("flushes that told of a loss");
            return false;
        }
        let told_until = thread.told_until;
        let lost = answers.iter().find(|(pg, generation)| {
            // Each loss raises the generation by one.
            let losses = self.losses.get(pg).map(Vec::as_slice).unwrap_or_default();
            generation.0 > losses.iter().filter(|at| **at <= told_until).count() as u64
        });
        if let Some((pg, _)) = lost {
            self.fail(Oracle::Flushed, format!("a flush of client {index} says nothing of a loss in group {pg}"));
        }
        self.stats.count("flushes");
        for (place, value, ended) in covers {
            let pg = pg_of.pg_of(chunk_id(place.0, place.1));
            let lost = self.losses.get(&pg).and_then(|losses| losses.last()).copied().unwrap_or(0);
            if ended > lost
                && let Some(register) = self.registers.get_mut(&place)
            {
                register.flushed(now, value);
            }
        }
        true
    }

    /// Holds an answered flush against what members have on their disks.
    fn flush_told(
        &mut self,
        told: bool,
        acknowledged: &BTreeMap<PgId, Acknowledged>,
        answers: &[(PgId, weft_types::LossGeneration)],
    ) {
        if !told {
            return;
        }
        for (pg, _) in answers {
            if let Some(position) = acknowledged.get(pg) {
                self.look_at_flush(*pg, *position);
            }
        }
        self.moment(Moment::Flushed, answers.first().map(|(pg, _)| *pg), None);
    }

    /// Reads every register, once everything is quiet.
    pub fn read_everything(&mut self) {
        let Some((index, life, id)) =
            self.clients.iter().find_map(|c| c.session.as_ref().map(|session| (c.index, c.life, session.id)))
        else {
            return;
        };
        let chunks = (0..REGISTER_OBJECTS).flat_map(|object| (0..CHUNKS).map(move |chunk| (object, chunk)));
        let registers = chunks.flat_map(|(object, chunk)| (0..BLOCKS).map(move |block| (object, chunk, block)));
        let cells = (0..locks::CELLS).map(|cell| (locks::FIRST_CELL + cell, 0, 0));
        let cells = cells.filter(|_| self.mix.subjects.lock_owners > 0);
        for (object, chunk, block) in registers.chain(cells).collect::<Vec<_>>() {
            let op = Op::Final { object, chunk, block };
            self.submit(index, life, id, 0, op, workload::read(object, chunk, block));
        }
    }

    /// Group of a place, by the newest map.
    pub fn pg_of_place(&self, place: &Place) -> Option<PgId> {
        let volume = self.metadata.map.volumes.first()?;
        Some(weft_types::map::pg_of_chunk(volume.id, volume.pg_count, chunk_id(place.0, place.1)))
    }
}
