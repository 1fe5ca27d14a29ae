//! Drives the data core: submits operations, sends what it wants sent, wakes whoever waits.

use super::boot_time;
use super::network::{DataCall, Network};
use crate::core::{Action, AttemptId, DataCore, Event, FileKey, Operation, Outcome, RouteTable, Ticket};
use crate::statistics::{Hop, Statistics};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};
use weft_proto::data::DataRequest;
use weft_types::{BootTime, ErrorKind, NodeId};

/// Deadline of one attempt. Failover does not depend on it (a new map sends waiting operations at once); it only ends
/// what neither an answer nor a lost connection nor a map ends.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(10);
/// A flush or a cut waits for disks.
const SLOW_ATTEMPT_DEADLINE: Duration = Duration::from_secs(30);

pub type OperationResult = Result<Outcome, ErrorKind>;

/// Called once when the operation is answered, inline, with nothing borrowed.
pub type OnDone = Box<dyn FnOnce(OperationResult)>;

pub struct Engine {
    core: RefCell<DataCore>,
    network: Rc<dyn Network>,
    waiters: RefCell<HashMap<Ticket, OnDone>>,
    next_ticket: Cell<u64>,
    spare_actions: RefCell<Vec<Action>>,
    wake_at: Cell<Option<BootTime>>,
    wake_changed: Notify,
    map_wanted: Notify,
    fenced: Notify,
    statistics: Statistics,
}

impl Engine {
    /// Starts the timer task, which ends with the engine.
    pub fn start(core: DataCore, network: Rc<dyn Network>) -> Rc<Self> {
        let engine = Rc::new(Self {
            core: RefCell::new(core),
            network,
            waiters: RefCell::default(),
            next_ticket: Cell::new(1),
            spare_actions: RefCell::default(),
            wake_at: Cell::new(None),
            wake_changed: Notify::new(),
            map_wanted: Notify::new(),
            fenced: Notify::new(),
            statistics: Statistics::default(),
        });
        let weak = Rc::downgrade(&engine);
        tokio::task::spawn_local(async move {
            while let Some(engine) = weak.upgrade() {
                engine.wait_and_wake().await;
            }
        });
        engine
    }

    /// Puts an operation under way. Costs no task: the answer is handed to `on_done` by whoever received it.
    pub fn submit_with(self: &Rc<Self>, file: FileKey, operation: Operation, on_done: OnDone) {
        let ticket = Ticket(self.next_ticket.get());
        self.next_ticket.set(ticket.0 + 1);
        self.waiters.borrow_mut().insert(ticket, on_done);
        self.step(Event::Submit { ticket, file, operation });
    }

    /// Puts an operation under way. It goes on even if the receiver is dropped.
    pub fn submit(self: &Rc<Self>, file: FileKey, operation: Operation) -> oneshot::Receiver<OperationResult> {
        let (sender, receiver) = oneshot::channel();
        let on_done = move |result| {
            // Nobody may be waiting any more; the operation is done all the same.
            let _ = sender.send(result);
        };
        self.submit_with(file, operation, Box::new(on_done));
        receiver
    }

    /// Runs an operation to its end.
    ///
    /// # Errors
    /// Whatever the core decided.
    pub async fn run(self: &Rc<Self>, file: FileKey, operation: Operation) -> OperationResult {
        received(self.submit(file, operation).await)
    }

    pub fn step(self: &Rc<Self>, event: Event) {
        let mut actions = self.spare_actions.take();
        self.core.borrow_mut().step(boot_time(), event, &mut actions);
        for action in actions.drain(..) {
            self.carry_out(action);
        }
        self.spare_actions.replace(actions);
    }

    fn carry_out(self: &Rc<Self>, action: Action) {
        match action {
            Action::Send { attempt, node, address, request, payload } => {
                self.send(attempt, node, address, request, payload);
            }
            Action::Done { ticket, result } => {
                let waiter = self.waiters.borrow_mut().remove(&ticket);
                if let Some(on_done) = waiter {
                    on_done(result);
                }
            }
            Action::FetchMap { .. } => self.map_wanted.notify_one(),
            Action::WakeAt(at) => {
                self.wake_at.set(Some(at));
                self.wake_changed.notify_one();
            }
            Action::SessionFenced => {
                tracing::error!("this mount was fenced: its session was struck off; every operation fails from now on");
                self.fenced.notify_waiters();
            }
        }
    }

    fn send(
        self: &Rc<Self>,
        attempt: AttemptId,
        node: NodeId,
        address: SocketAddr,
        request: DataRequest,
        payload: Bytes,
    ) {
        let deadline = match request {
            DataRequest::Flush(_) | DataRequest::Truncate(_) => SLOW_ATTEMPT_DEADLINE,
            _ => ATTEMPT_DEADLINE,
        };
        let engine = Rc::clone(self);
        let (hop, sent) = (hop_of(&request), Instant::now());
        let (session, operation) = request.asked_by();
        tracing::debug!(%node, ?attempt, what = request.name(), %session, %operation, "asking");
        let on_answer = move |answer| {
            if let Some(hop) = hop {
                hop(&engine.statistics).took(sent.elapsed());
            }
            let event = match answer {
                Ok((result, payload)) => {
                    if let Err(error) = &result {
                        tracing::debug!(%node, ?attempt, %error, "refused");
                    }
                    Event::Answer { attempt, result, payload }
                }
                Err(error) => {
                    tracing::debug!(%node, ?attempt, %error, "no answer");
                    Event::Unreachable { attempt }
                }
            };
            engine.step(event);
        };
        self.network.data(DataCall { node, address, request, payload, deadline }, Box::new(on_answer));
    }

    async fn wait_and_wake(self: Rc<Self>) {
        let Some(at) = self.wake_at.get() else {
            self.sleep_until_changed(Duration::from_secs(1)).await;
            return;
        };
        let now = boot_time();
        if now < at {
            self.sleep_until_changed(at.since(now)).await;
        } else {
            self.wake_at.set(None);
            self.step(Event::Wake);
        }
    }

    async fn sleep_until_changed(&self, longest: Duration) {
        let _ = tokio::time::timeout(longest, self.wake_changed.notified()).await;
    }

    pub const fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Waits until some answer said that the map is old.
    pub async fn map_wanted(&self) {
        self.map_wanted.notified().await;
    }

    /// Reads the routes of the newest map.
    pub fn with_routes<T>(&self, read: impl FnOnce(&RouteTable) -> T) -> T {
        read(self.core.borrow().routes())
    }

    pub fn is_fenced(&self) -> bool {
        self.core.borrow().is_fenced()
    }

    /// Ends when the session is fenced.
    pub async fn until_fenced(&self) {
        let fenced = self.fenced.notified();
        if !self.is_fenced() {
            fenced.await;
        }
    }

    /// Whether some operation has waited for so long.
    pub fn is_stalled(&self, after: Duration) -> bool {
        self.core.borrow().oldest_submitted().is_some_and(|submitted| boot_time().since(submitted) >= after)
    }

    /// Asks for a newer map soon.
    pub fn want_map(&self) {
        self.map_wanted.notify_one();
    }

    pub fn unanswered(&self) -> usize {
        self.core.borrow().unanswered()
    }
}

/// Where the time of an exchange is counted.
fn hop_of(request: &DataRequest) -> Option<fn(&Statistics) -> &Hop> {
    match request {
        DataRequest::Write(_) => Some(|s| &s.write_exchange),
        DataRequest::Read(_) => Some(|s| &s.read_exchange),
        DataRequest::Flush(_) => Some(|s| &s.flush_exchange),
        _ => None,
    }
}

/// The engine answers every ticket; a lost sender means that it is being torn down.
pub fn received(result: Result<OperationResult, oneshot::error::RecvError>) -> OperationResult {
    result.unwrap_or_else(|_| Err(ErrorKind::Io("the client is shutting down".into())))
}
