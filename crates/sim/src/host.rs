//! The simulated machine under a node's turn: its clock, links, helper threads and tasks.
//!
//! Responsible for: [`Host`] on simulated time. Everything that a turn does to the outside is put into an outbox, which
//! the world empties after the turn. Guarantees: no real clock, thread or randomness. Must not know: what the node does.

use crate::tasks::Tasks;
use bytes::{Bytes, BytesMut};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::oneshot;
use weft_node::data::Completion;
use weft_node::data::host::{CallAnswer, Host, Job, Link, NoRoom, Pool, Replier};
use weft_proto::data::{DataReply, DataRequest};
use weft_proto::replication::{Envelope, Message};
use weft_store::fault::SimDisk;
use weft_transport::Payload;
use weft_types::{BootTime, DataError, DiskId, PgId};

/// One node's CLOCK_BOOTTIME: starts anywhere, runs a little fast or slow.
#[derive(Clone, Debug)]
pub struct NodeClock {
    pub now: Rc<Cell<u64>>,
    pub offset_ns: u64,
    /// Parts per million that it runs fast; negative: slow.
    pub drift_ppm: i64,
    /// What it missed, with a planted bug: a pause counts as a sleep then, in which it stood still.
    pub missed_ns: Rc<Cell<u64>>,
}

impl NodeClock {
    pub fn read(&self) -> BootTime {
        let now = self.now.get().saturating_sub(self.missed_ns.get());
        let drift = i128::from(now) * i128::from(self.drift_ppm) / 1_000_000;
        let drifted = i128::from(now) + drift;
        BootTime { nanoseconds: self.offset_ns + u64::try_from(drifted).unwrap_or(0) }
    }
}

/// What a turn did to the outside.
pub enum Out {
    Envelope {
        link: u64,
        envelope: Envelope,
    },
    Reply {
        request: u64,
        result: Result<DataReply, DataError>,
        payload: Bytes,
    },
    /// The replier was dropped: the caller hears that no answer comes.
    NoReply {
        request: u64,
    },
    Call {
        link: u64,
        request: DataRequest,
        deadline: Duration,
        answer: oneshot::Sender<CallAnswer>,
    },
    /// A job was handed to a helper thread.
    Job {
        pool: Rc<PoolState>,
        job: u64,
    },
}

pub struct Machine {
    pub clock: NodeClock,
    pub outbox: RefCell<Vec<Out>>,
    pub tasks: Tasks,
    /// One in so many messages to peers finds the send queue full; zero: none.
    pub full_queue_one_in: Cell<u64>,
    sends: Cell<u64>,
    streams: RefCell<Streams>,
}

/// Streams of entries in which one is missing because the queue to their member was full (design 5.2).
#[derive(Default)]
struct Streams {
    /// Since everything was put out last: the machine may not know yet.
    lately: BTreeSet<Stream>,
    /// The machine knows, and begins the stream anew before it sends more.
    broken: BTreeSet<Stream>,
    violated: Option<String>,
}

/// Of a group, from a disk to a disk.
type Stream = (PgId, DiskId, DiskId);

#[derive(Clone)]
pub struct SimHost(pub Rc<Machine>);

impl SimHost {
    pub fn new(clock: NodeClock) -> Self {
        Self(Rc::new(Machine {
            clock,
            outbox: RefCell::default(),
            tasks: Tasks::default(),
            full_queue_one_in: Cell::new(0),
            sends: Cell::new(0),
            streams: RefCell::default(),
        }))
    }

    /// Everything was acted on and is put out. Tells of a stream that went on behind what is missing in it.
    pub fn all_is_out(&self) -> Option<String> {
        let mut streams = self.0.streams.borrow_mut();
        let lately = std::mem::take(&mut streams.lately);
        streams.broken.extend(lately);
        streams.violated.take()
    }

    fn note_send(&self, envelope: &Envelope, refused: bool) {
        let stream = (envelope.pg, envelope.from, envelope.to);
        let mut streams = self.0.streams.borrow_mut();
        match &envelope.message {
            Message::Prepare { .. } => {
                streams.lately.remove(&stream);
                streams.broken.remove(&stream);
            }
            Message::Append(append) => {
                if streams.broken.contains(&stream) {
                    let (pg, from, to) = stream;
                    let what =
                        format!("group {pg}: disk {from} goes on with its stream to disk {to}, which lacks entries");
                    streams.violated = Some(what);
                }
                if refused && !append.entries.is_empty() {
                    streams.lately.insert(stream);
                }
            }
            _ => {}
        }
    }

    fn out(&self, out: Out) {
        self.0.outbox.borrow_mut().push(out);
    }
}

impl Host for SimHost {
    type Disk = SimDisk;
    type Link = SimLink;
    type Replier = SimReplier;
    type Pool = SimPool;

    fn now(&self) -> BootTime {
        self.0.clock.read()
    }

    fn pool(&self, name: &'static str, _threads: usize, _queue: usize) -> std::io::Result<SimPool> {
        let state = Rc::new(PoolState { name, jobs: RefCell::default(), next: Cell::new(0) });
        Ok(SimPool { host: self.clone(), state })
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.tasks.spawn(task);
    }

    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + 'static {
        let now = Rc::clone(&self.0.clock.now);
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.tasks.timers().sleep_until(now.get().saturating_add(nanoseconds), now)
    }

    fn call(
        &self,
        link: &SimLink,
        request: &DataRequest,
        deadline: Duration,
    ) -> impl Future<Output = CallAnswer> + 'static {
        let (answer, answered) = oneshot::channel();
        self.out(Out::Call { link: link.id, request: request.clone(), deadline, answer });
        async move { answered.await.ok().flatten() }
    }
}

/// One end of a connection between two nodes.
#[derive(Clone)]
pub struct SimLink {
    pub id: u64,
    pub host: SimHost,
    pub open: Rc<Cell<bool>>,
    pub heard: Rc<Cell<u64>>,
}

impl PartialEq for SimLink {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Link for SimLink {
    fn send(&self, envelope: &Envelope) -> bool {
        let machine = &self.host.0;
        let sends = machine.sends.get() + 1;
        machine.sends.set(sends);
        let one_in = machine.full_queue_one_in.get();
        let full = one_in > 0 && sends.is_multiple_of(one_in);
        self.host.note_send(envelope, full && self.open.get());
        if !self.open.get() || full {
            return false;
        }
        self.host.out(Out::Envelope { link: self.id, envelope: envelope.clone() });
        true
    }

    fn heard_count(&self) -> Option<u64> {
        Some(self.heard.get())
    }

    fn is_open(&self) -> bool {
        self.open.get()
    }
}

pub struct SimReplier {
    request: u64,
    host: SimHost,
    answered: bool,
}

impl SimReplier {
    pub fn new(request: u64, host: SimHost) -> Self {
        Self { request, host, answered: false }
    }
}

impl Replier for SimReplier {
    fn reply(mut self, result: &Result<DataReply, DataError>, payload: Payload) {
        self.answered = true;
        let payload = match payload {
            Payload::None => Bytes::new(),
            Payload::One(bytes) => bytes,
            Payload::Many(parts) => {
                let mut all = BytesMut::new();
                parts.iter().for_each(|part| all.extend_from_slice(part));
                all.freeze()
            }
        };
        self.host.out(Out::Reply { request: self.request, result: result.clone(), payload });
    }
}

impl Drop for SimReplier {
    fn drop(&mut self) {
        if !self.answered {
            self.host.out(Out::NoReply { request: self.request });
        }
    }
}

enum JobState {
    Waiting(Job),
    Done(Completion),
}

pub struct PoolState {
    pub name: &'static str,
    jobs: RefCell<BTreeMap<u64, JobState>>,
    next: Cell<u64>,
}

impl PoolState {
    /// Runs a job if it has not run yet.
    pub fn run(&self, id: u64) {
        let job = self.jobs.borrow_mut().remove(&id);
        let done = match job {
            Some(JobState::Waiting(job)) => JobState::Done(job()),
            Some(done) => done,
            None => return,
        };
        self.jobs.borrow_mut().insert(id, done);
    }

    /// The completion of a job, which is run now if it has not been.
    pub fn finish(&self, id: u64) -> Option<Completion> {
        self.run(id);
        match self.jobs.borrow_mut().remove(&id) {
            Some(JobState::Done(completion)) => Some(completion),
            _ => None,
        }
    }
}

pub struct SimPool {
    host: SimHost,
    state: Rc<PoolState>,
}

impl Pool for SimPool {
    fn submit(&self, job: Job) -> Result<(), NoRoom> {
        let id = self.state.next.get() + 1;
        self.state.next.set(id);
        self.state.jobs.borrow_mut().insert(id, JobState::Waiting(job));
        self.host.out(Out::Job { pool: Rc::clone(&self.state), job: id });
        Ok(())
    }

    fn hurry(&self) {
        let waiting: Vec<u64> = self.state.jobs.borrow().keys().copied().collect();
        for id in waiting {
            self.state.run(id);
        }
    }
}
