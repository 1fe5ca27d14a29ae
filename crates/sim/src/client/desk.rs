//! Tasks of a client that use files: futures on simulated time, and what they ask of the world.
//!
//! Responsible for: running a session's tasks, carrying their requests out, and the few lines of the client's shell around
//! requests to the metadata group: asking again, numbers, the low-water mark (`weft_client::shell::control`). Modelled:
//! permits for requests in flight; a client has few here. Guarantees: tasks end with their session, and do nothing while
//! their client is paused. Must not know: what the tasks do.

use super::{Op, Running};
use crate::host::NodeClock;
use crate::ledger::Ledger;
use crate::oracle;
use crate::tasks::Tasks;
use crate::world::{MS, World};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use weft_client::core::retry::pause;
use weft_client::core::{Event, FileKey, Operation, Outcome, RequestNumbers, SessionClock, SessionState, Ticket};
use weft_proto::control::{ControlReply, ControlRequest};
use weft_proto::namespace::{Mutation, NamespaceReply, Query};
use weft_types::{BootTime, ErrorKind, RequestNumber, SessionId, VolumeId};

/// Deadline of one attempt at one node, as in the shell.
const ATTEMPT_NS: u64 = 1_500 * MS;

/// A session of a client, in one life of its process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Who {
    pub index: usize,
    pub life: u64,
    pub id: SessionId,
}

/// What a task asks of the world.
enum Wish {
    Control {
        request: ControlRequest,
        deadline_ns: u64,
        answer: oneshot::Sender<Option<ControlReply>>,
    },
    Data {
        op: Op,
        file: FileKey,
        operation: Operation,
        answer: oneshot::Sender<Answer>,
    },
    Struck,
    /// The process ends here.
    Die,
    Say(String),
}

pub type Answer = Result<Outcome, ErrorKind>;

/// One session's tasks; clones are the same.
#[derive(Clone)]
pub struct Desk(Rc<Inner>);

pub struct Inner {
    pub who: Who,
    pub volume: VolumeId,
    pub ledger: Ledger,
    clock: NodeClock,
    lease: Cell<SessionClock>,
    numbers: RefCell<RequestNumbers>,
    tasks: Tasks,
    wishes: RefCell<Vec<Wish>>,
    /// The leader was found to be elsewhere.
    moved: Notify,
    struck: Cell<bool>,
    /// Tasks that have begun something and not ended it.
    busy: Cell<usize>,
    armed: Cell<Option<u64>>,
}

impl std::ops::Deref for Desk {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Desk {
    pub fn new(who: Who, volume: VolumeId, ledger: Ledger, clock: NodeClock, lease: SessionClock) -> Self {
        Self(Rc::new(Inner {
            who,
            volume,
            ledger,
            clock,
            lease: Cell::new(lease),
            numbers: RefCell::default(),
            tasks: Tasks::default(),
            wishes: RefCell::default(),
            moved: Notify::new(),
            struck: Cell::new(false),
            busy: Cell::new(0),
            armed: Cell::new(None),
        }))
    }

    /// Starts a task that ends by itself when the session does.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.spawn(task);
    }

    /// Something that has to come to an end before the run does.
    pub fn begins(&self) -> Busy {
        self.busy.set(self.busy.get() + 1);
        Busy(self.clone())
    }

    /// The session or its process is over.
    pub fn end(&self) {
        self.struck.set(true);
        let mut pages = self.ledger.open();
        pages.held.forget(self.who.id);
        pages.named.forget(self.who.id);
        drop(pages);
        self.tasks.clear();
    }
}

/// While it lives its task is not done.
pub struct Busy(Desk);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get().saturating_sub(1));
    }
}

impl Inner {
    pub fn now(&self) -> u64 {
        self.clock.now.get()
    }

    /// What the client's own clock says.
    pub fn boot_time(&self) -> BootTime {
        self.clock.read()
    }

    /// What the session's own clock says.
    pub fn state(&self) -> SessionState {
        self.lease.get().state(self.clock.read())
    }

    pub fn change_lease(&self, change: impl FnOnce(&mut SessionClock)) {
        let mut lease = self.lease.get();
        change(&mut lease);
        self.lease.set(lease);
    }

    pub fn low_water(&self) -> RequestNumber {
        self.numbers.borrow().low_water()
    }

    pub fn busy(&self) -> usize {
        self.busy.get()
    }

    /// Whether a task may begin something new.
    pub fn goes_on(&self) -> bool {
        !self.struck.get() && !self.ledger.is_quiet()
    }

    pub fn check_fence(&self) -> Result<(), ErrorKind> {
        if self.struck.get() { Err(ErrorKind::Fenced) } else { Ok(()) }
    }

    pub fn sleep(&self, time: Duration) -> impl Future<Output = ()> + 'static {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.tasks.timers().sleep_until(self.now().saturating_add(nanoseconds), Rc::clone(&self.clock.now))
    }

    /// For a time that is drawn.
    pub fn think(&self, longest_ms: u64) -> impl Future<Output = ()> + 'static {
        let us = self.ledger.below(longest_ms * 1000 + 1);
        self.sleep(Duration::from_micros(us))
    }

    fn wish(&self, wish: Wish) {
        self.wishes.borrow_mut().push(wish);
    }

    pub fn say(&self, what: impl FnOnce() -> String) {
        self.wish(Wish::Say(what()));
    }

    /// The client's process dies now, with whatever it has on its way.
    pub fn die(&self) {
        self.wish(Wish::Die);
    }

    /// The metadata group says that the session was struck off.
    pub fn struck(&self) {
        self.struck.set(true);
        self.wish(Wish::Struck);
    }

    /// Ends when somebody found that the leader is elsewhere.
    pub async fn leader_moved(&self) {
        self.moved.notified().await;
    }

    pub fn leader_has_moved(&self) {
        self.moved.notify_waiters();
    }

    /// Asks one node once, wherever the leader is believed to be.
    pub async fn try_once(&self, request: ControlRequest, deadline_ns: u64) -> Option<ControlReply> {
        let (answer, answered) = oneshot::channel();
        self.wish(Wish::Control { request, deadline_ns, answer });
        answered.await.ok().flatten()
    }

    /// Asks until the leader answers.
    pub async fn ask(&self, request: ControlRequest) -> ControlReply {
        self.call(|| request.clone()).await
    }

    /// The same; `request` is made anew for each attempt.
    async fn call(&self, request: impl Fn() -> ControlRequest) -> ControlReply {
        let mut failures = 0;
        loop {
            if let Some(reply) = self.try_once(request(), ATTEMPT_NS).await {
                return reply;
            }
            failures += 1;
            // The first redirect is followed at once.
            if failures > 1 {
                self.sleep(pause(failures - 1)).await;
            }
        }
    }

    pub async fn query(&self, query: Query) -> Result<NamespaceReply, ErrorKind> {
        self.check_fence()?;
        namespace_reply(self.call(|| ControlRequest::Query { volume: self.volume, query: query.clone() }).await)
    }

    /// Does it once, across leader changes.
    pub async fn mutate(&self, mutation: Mutation) -> Result<NamespaceReply, ErrorKind> {
        self.check_fence()?;
        let number = self.numbers.borrow_mut().begin();
        let mut refused = 0;
        let reply = loop {
            let request = || ControlRequest::Mutate {
                session: self.who.id,
                request: number,
                low_water: self.low_water(),
                volume: self.volume,
                mutation: mutation.clone(),
            };
            match namespace_reply(self.call(request).await) {
                // "Not yet": the leader did not take it, and wants the same request again.
                Err(ErrorKind::WouldBlock) => {
                    refused += 1;
                    self.sleep(pause(refused)).await;
                }
                reply => break reply,
            }
        };
        self.numbers.borrow_mut().answered(number);
        if reply == Err(ErrorKind::Fenced) {
            self.struck();
        }
        reply
    }

    /// One operation of the data core. What `op` says goes to the oracles of registers.
    pub(super) fn submit(&self, op: Op, file: FileKey, operation: Operation) -> impl Future<Output = Answer> + use<> {
        let (answer, answered) = oneshot::channel();
        self.wish(Wish::Data { op, file, operation, answer });
        async move { answered.await.unwrap_or(Err(ErrorKind::Fenced)) }
    }
}

fn namespace_reply(reply: ControlReply) -> Result<NamespaceReply, ErrorKind> {
    match reply {
        ControlReply::Namespace(result) => *result,
        ControlReply::Refused(error) => Err(error),
        other => Err(ErrorKind::Io(format!("answered with {other:?}, which was not asked for"))),
    }
}

impl World {
    /// Runs the tasks of a session until none can go on, and carries out what they ask for.
    pub(super) fn run_desk(&mut self, who: Who) {
        loop {
            let Some(desk) = self.session(who.index, who.life, who.id).map(|session| session.desk.clone()) else {
                return;
            };
            desk.tasks.run(self.now());
            self.hear_ledger();
            let wishes = std::mem::take(&mut *desk.wishes.borrow_mut());
            if wishes.is_empty() {
                return self.arm_desk(who, &desk);
            }
            for wish in wishes {
                self.fulfil(who, wish);
            }
        }
    }

    fn arm_desk(&mut self, who: Who, desk: &Desk) {
        let now = self.now();
        let Some(at) = desk.tasks.next_timer() else { return };
        if desk.armed.get().is_some_and(|armed| armed <= at && armed > now) {
            return;
        }
        let at = at.max(now + 1);
        desk.armed.set(Some(at));
        self.at(at, "desk", move |world| {
            world.client_at(who.index, who.life, move |world| world.run_desk(who));
        });
    }

    fn fulfil(&mut self, who: Who, wish: Wish) {
        match wish {
            Wish::Control { request, deadline_ns, answer } => {
                let heard = move |world: &mut Self, reply| {
                    // Whoever asked may have given up.
                    let _ = answer.send(reply);
                    world.run_desk(who);
                };
                self.client_asks(who.index, who.life, request, deadline_ns, Box::new(heard));
            }
            Wish::Data { op, file, operation, answer } => {
                if let Op::Write { value, places } = &op {
                    self.stats.count("writes");
                    let write = oracle::Write { start: self.now(), end: oracle::End::Open, session: who.id.0 };
                    for place in places {
                        self.registers.entry(*place).or_default().writes.insert(*value, write);
                    }
                }
                let start = self.now();
                let Some(session) = self.session(who.index, who.life, who.id) else { return };
                session.next_ticket += 1;
                let ticket = Ticket(session.next_ticket);
                session.running.insert(ticket, Running { op, thread: usize::MAX, start, answer: Some(answer) });
                self.step_client(who.index, who.life, who.id, Event::Submit { ticket, file, operation });
            }
            Wish::Struck => {
                if let Some(session) = self.session(who.index, who.life, who.id) {
                    session.desk.change_lease(SessionClock::struck);
                }
                self.step_client(who.index, who.life, who.id, Event::Fenced);
            }
            Wish::Die => self.crash_client(who.index),
            Wish::Say(what) => self.say(|| format!("client {}: {what}", who.index)),
        }
    }

    /// Takes over what oracles of files found.
    pub fn hear_ledger(&mut self) {
        let (found, counted) = self.ledger.open().take_news();
        for what in counted {
            self.stats.count(what);
        }
        if let Some(failure) = found {
            self.fail(failure.oracle, failure.what);
        }
    }

    /// Clients whose tasks have begun something and not ended it.
    pub fn busy_tasks(&self) -> usize {
        self.clients.iter().filter_map(|client| client.session.as_ref()).map(|session| session.desk.busy()).sum()
    }
}
