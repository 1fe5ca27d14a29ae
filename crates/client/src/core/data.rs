//! The state machine of data operations: admits, numbers, routes, sends again, gives up, answers.
//!
//! Guarantees:
//! - A change keeps its operation number from its first sending to its answer (design 5.8), and a group's low-water
//!   mark never passes a change of that group that may still be sent.
//! - An operation is answered once. A caller that was told "timed out" does not end the operation: it goes on until the
//!   placement group has answered, and `Settle` waits for it (design 4.5).
//! - Bounded: operations and bytes in flight, numbers beyond the mark.
//! - After a fence everything fails for good (design 4.4).
//!
//! Must not know: connections, timers. `WakeAt` asks to be stepped at a time.

use super::mutants::{Mutant, planted};
use super::numbers::OperationWindow;
use super::operation::{AttemptId, FileKey, Operation, Outcome, Ticket};
use super::retry::{Verdict, judge, pause};
use super::route::{RouteTable, Target};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;
use weft_proto::data::{DataReply, DataRequest, FlushRequest};
use weft_types::limits::MAX_CLIENT_OPERATIONS_IN_FLIGHT;
use weft_types::{
    BootTime, DataError, ErrorKind, LossGeneration, MapVersion, NodeId, OperationId, Origin, PgId, SessionId,
};

#[derive(Clone, Copy, Debug)]
pub struct DataCoreConfig {
    pub session: SessionId,
    /// How long a caller waits at most; `None` is for ever.
    pub fail_after: Option<Duration>,
    /// Data of operations that are not answered; more wait.
    pub bytes_in_flight: usize,
}

#[derive(Debug)]
pub enum Event {
    /// A new operation. Tickets rise.
    Submit {
        ticket: Ticket,
        file: FileKey,
        operation: Operation,
    },
    Answer {
        attempt: AttemptId,
        result: Result<DataReply, DataError>,
        payload: Bytes,
    },
    /// No answer will come: the connection is lost, or the deadline is over. The operation may have been done.
    Unreachable {
        attempt: AttemptId,
    },
    /// A map, of any version.
    Map(RouteTable),
    /// The metadata group struck the session off.
    Fenced,
    /// Time has passed.
    Wake,
}

#[derive(Debug)]
pub enum Action {
    Send {
        attempt: AttemptId,
        node: NodeId,
        address: SocketAddr,
        request: DataRequest,
        payload: Bytes,
    },
    Done {
        ticket: Ticket,
        result: Result<Outcome, ErrorKind>,
    },
    /// The map is probably older than what some node routes by.
    FetchMap {
        have: MapVersion,
    },
    /// Step with `Wake` at this time; replaces an earlier wish.
    WakeAt(BootTime),
    /// The session is fenced; comes once.
    SessionFenced,
}

#[derive(Debug)]
enum State {
    /// Not admitted yet: the limits are reached.
    Queued,
    /// Admitted; its group's window of numbers is full.
    Held,
    Waiting,
    Sent(Target),
    /// Parts on their way and parts waiting.
    Flushing(FlushState),
    /// Changes that have to be answered first.
    Settling(BTreeSet<Ticket>),
}

#[derive(Debug, Default)]
struct FlushState {
    unsent: BTreeSet<PgId>,
    sent: BTreeMap<u32, (Target, Vec<PgId>)>,
    done: BTreeMap<PgId, LossGeneration>,
}

#[derive(Debug)]
struct Pending {
    file: FileKey,
    operation: Operation,
    /// Group it goes to; flushes and settling have none of their own.
    pg: Option<PgId>,
    number: Option<OperationId>,
    attempts: u32,
    failures: u32,
    state: State,
    submitted: BootTime,
    wake: Option<BootTime>,
    /// The caller was told that it timed out.
    told: bool,
}

#[derive(Debug)]
pub struct DataCore {
    config: DataCoreConfig,
    routes: RouteTable,
    fenced: bool,
    next_number: OperationId,
    windows: BTreeMap<PgId, OperationWindow>,
    pending: BTreeMap<Ticket, Pending>,
    queued: VecDeque<Ticket>,
    held: BTreeMap<PgId, VecDeque<Ticket>>,
    settling: BTreeSet<Ticket>,
    wakes: BTreeSet<(BootTime, Ticket)>,
    asked_wake: Option<BootTime>,
    operations_in_flight: usize,
    bytes_in_flight: usize,
}

impl DataCore {
    #[must_use]
    pub fn new(config: DataCoreConfig, routes: RouteTable) -> Self {
        Self {
            config,
            routes,
            fenced: false,
            next_number: OperationId(1),
            windows: BTreeMap::new(),
            pending: BTreeMap::new(),
            queued: VecDeque::new(),
            held: BTreeMap::new(),
            settling: BTreeSet::new(),
            wakes: BTreeSet::new(),
            asked_wake: None,
            operations_in_flight: 0,
            bytes_in_flight: 0,
        }
    }

    #[must_use]
    pub fn routes(&self) -> &RouteTable {
        &self.routes
    }

    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Operations that are not answered yet.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.pending.len()
    }

    /// When the oldest operation that is not answered was submitted.
    #[must_use]
    pub fn oldest_submitted(&self) -> Option<BootTime> {
        self.pending.first_key_value().map(|(_, pending)| pending.submitted)
    }

    pub fn step(&mut self, now: BootTime, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Submit { ticket, file, operation } => self.submit(now, ticket, file, operation, actions),
            Event::Answer { attempt, result, payload } => self.answer(now, attempt, result, payload, actions),
            Event::Unreachable { attempt } => {
                self.failed_attempt(now, attempt, Verdict::RetryWithNewMap, actions);
            }
            Event::Map(routes) => self.new_map(now, routes, actions),
            Event::Fenced => self.fence(actions),
            Event::Wake => self.wake(now, actions),
        }
        self.ask_wake(actions);
    }

    fn submit(
        &mut self,
        now: BootTime,
        ticket: Ticket,
        file: FileKey,
        operation: Operation,
        actions: &mut Vec<Action>,
    ) {
        if self.fenced {
            actions.push(Action::Done { ticket, result: Err(ErrorKind::Fenced) });
            return;
        }
        let (pg, state) = self.classify(file, &operation);
        let wake = self.config.fail_after.map(|after| now + after);
        let settling = matches!(state, State::Settling(_));
        let pending = Pending {
            file,
            operation,
            pg,
            number: None,
            attempts: 0,
            failures: 0,
            state,
            submitted: now,
            wake,
            told: false,
        };
        if let Some(at) = wake {
            self.wakes.insert((at, ticket));
        }
        self.pending.insert(ticket, pending);
        if settling {
            self.settling.insert(ticket);
            self.settle_if_done(ticket, actions);
        } else if self.queued.is_empty() && self.has_room(ticket) {
            self.admit(now, ticket, actions);
        } else {
            self.queued.push_back(ticket);
        }
    }

    fn classify(&self, file: FileKey, operation: &Operation) -> (Option<PgId>, State) {
        match operation {
            Operation::Write { chunk, .. }
            | Operation::Read { chunk, .. }
            | Operation::Discard { chunk, .. }
            | Operation::Fill { chunk, .. }
            | Operation::Copy { chunk, .. }
            | Operation::Presence { chunk } => (Some(self.routes.pg_of(*chunk)), State::Queued),
            Operation::Truncate { pg, .. } | Operation::ObjectExtent { pg, .. } => (Some(*pg), State::Queued),
            Operation::Flush { .. } => (None, State::Queued),
            Operation::Settle => {
                let earlier = self
                    .pending
                    .iter()
                    .filter(|(_, p)| p.file == file && p.operation.is_change())
                    .map(|(ticket, _)| *ticket)
                    .collect();
                (None, State::Settling(earlier))
            }
            Operation::SettleOlder { object, generation } => {
                let older = |p: &Pending| {
                    let changes = p.operation.changes().filter(|_| !planted(Mutant::SettleNothing));
                    changes.is_some_and(|(of, under)| {
                        of != *object || under < *generation || planted(Mutant::SettleEveryGeneration)
                    })
                };
                let earlier =
                    self.pending.iter().filter(|(_, p)| p.file == file && older(p)).map(|(t, _)| *t).collect();
                (None, State::Settling(earlier))
            }
        }
    }

    fn has_room(&self, ticket: Ticket) -> bool {
        let bytes = self.pending.get(&ticket).map_or(0, |p| p.operation.memory_bytes());
        self.operations_in_flight < MAX_CLIENT_OPERATIONS_IN_FLIGHT
            // One operation always fits, however large.
            && (self.bytes_in_flight == 0 || self.bytes_in_flight + bytes <= self.config.bytes_in_flight)
    }

    fn admit(&mut self, now: BootTime, ticket: Ticket, actions: &mut Vec<Action>) {
        let Some(pending) = self.pending.get_mut(&ticket) else { return };
        self.operations_in_flight += 1;
        self.bytes_in_flight += pending.operation.memory_bytes();
        match (&pending.operation, pending.pg) {
            (Operation::Flush { pgs }, _) => {
                let flush = FlushState { unsent: pgs.iter().copied().collect(), ..FlushState::default() };
                pending.state = State::Flushing(flush);
                self.send_flush(now, ticket, actions);
            }
            (operation, Some(pg))
                if operation.is_change() && self.windows.get(&pg).is_some_and(OperationWindow::is_full) =>
            {
                pending.state = State::Held;
                self.held.entry(pg).or_default().push_back(ticket);
            }
            _ => self.begin(now, ticket, actions),
        }
    }

    /// Gives a change its number and sends the operation for the first time.
    fn begin(&mut self, now: BootTime, ticket: Ticket, actions: &mut Vec<Action>) {
        let Some(pending) = self.pending.get_mut(&ticket) else { return };
        if let Some(pg) = pending.pg
            && pending.operation.is_change()
        {
            let number = self.next_number;
            self.next_number = number.next();
            self.windows.entry(pg).or_default().begin(number);
            pending.number = Some(number);
        }
        self.send(now, ticket, actions);
    }

    fn send(&mut self, now: BootTime, ticket: Ticket, actions: &mut Vec<Action>) {
        let Some(pending) = self.pending.get_mut(&ticket) else { return };
        let Some(pg) = pending.pg else { return };
        let Some(target) = self.routes.target(pg) else {
            pending.failures = pending.failures.saturating_add(1);
            actions.push(Action::FetchMap { have: self.routes.version() });
            self.wait(now, ticket);
            return;
        };
        let origin = pending.number.map(|operation| Origin {
            session: self.config.session,
            operation,
            low_water: self.windows.get(&pg).map_or(operation, |w| w.low_water(self.next_number)),
        });
        let Some((request, payload)) =
            pending.operation.request(pg, self.routes.version(), self.config.session, origin)
        else {
            return;
        };
        pending.attempts += 1;
        pending.state = State::Sent(target);
        let attempt = AttemptId { ticket, count: pending.attempts };
        actions.push(Action::Send { attempt, node: target.node, address: target.address, request, payload });
        let deadline = self.deadline(ticket);
        self.arm(ticket, deadline);
    }

    /// When the caller has to be told that it timed out.
    fn deadline(&self, ticket: Ticket) -> Option<BootTime> {
        let pending = self.pending.get(&ticket).filter(|p| !p.told)?;
        self.config.fail_after.map(|after| pending.submitted + after)
    }

    fn arm(&mut self, ticket: Ticket, at: Option<BootTime>) {
        let Some(pending) = self.pending.get_mut(&ticket) else { return };
        if pending.wake == at {
            return;
        }
        if let Some(old) = std::mem::replace(&mut pending.wake, at) {
            self.wakes.remove(&(old, ticket));
        }
        if let Some(at) = at {
            self.wakes.insert((at, ticket));
        }
    }

    /// Until the map changes or the pause is over.
    fn wait(&mut self, now: BootTime, ticket: Ticket) {
        let Some(pending) = self.pending.get_mut(&ticket) else { return };
        if !matches!(pending.state, State::Flushing(_)) {
            pending.state = State::Waiting;
        }
        let at = now + pause(pending.failures);
        let at = self.deadline(ticket).map_or(at, |deadline| at.min(deadline));
        self.arm(ticket, Some(at));
    }

    fn send_flush(&mut self, now: BootTime, ticket: Ticket, actions: &mut Vec<Action>) {
        let Some(pending) = self.pending.get_mut(&ticket) else { return };
        let State::Flushing(flush) = &mut pending.state else { return };
        let mut nodes: BTreeMap<NodeId, (Target, Vec<PgId>)> = BTreeMap::new();
        for pg in std::mem::take(&mut flush.unsent) {
            match self.routes.target(pg) {
                Some(target) => nodes.entry(target.node).or_insert_with(|| (target, Vec::new())).1.push(pg),
                None => {
                    flush.unsent.insert(pg);
                }
            }
        }
        for (node, (target, pgs)) in nodes {
            pending.attempts += 1;
            let attempt = AttemptId { ticket, count: pending.attempts };
            let request = DataRequest::Flush(FlushRequest {
                session: self.config.session,
                map_version: self.routes.version(),
                pgs: pgs.clone(),
            });
            flush.sent.insert(pending.attempts, (target, pgs));
            actions.push(Action::Send { attempt, node, address: target.address, request, payload: Bytes::new() });
        }
        if !flush.unsent.is_empty() {
            pending.failures = pending.failures.saturating_add(1);
            actions.push(Action::FetchMap { have: self.routes.version() });
            self.wait(now, ticket);
        }
        self.finish_flush_if_done(now, ticket, actions);
    }

    fn answer(
        &mut self,
        now: BootTime,
        attempt: AttemptId,
        result: Result<DataReply, DataError>,
        payload: Bytes,
        actions: &mut Vec<Action>,
    ) {
        match result {
            Ok(DataReply::Flushed(groups)) => self.flush_answer(now, attempt, groups, actions),
            Ok(reply) => {
                // Also the answer to an attempt that was given up counts: what was acknowledged is acknowledged.
                let Some(pending) = self.pending.get(&attempt.ticket) else { return };
                let result = outcome_of(&pending.operation, reply, payload);
                self.finish(now, attempt.ticket, result, actions);
            }
            Err(error) => self.failed_attempt(now, attempt, judge(&error), actions),
        }
    }

    fn failed_attempt(&mut self, now: BootTime, attempt: AttemptId, verdict: Verdict, actions: &mut Vec<Action>) {
        let Some(pending) = self.pending.get_mut(&attempt.ticket) else { return };
        let current = match &mut pending.state {
            State::Sent(_) => pending.attempts == attempt.count,
            State::Flushing(flush) => match flush.sent.remove(&attempt.count) {
                Some((_, pgs)) => {
                    flush.unsent.extend(pgs);
                    true
                }
                None => false,
            },
            _ => false,
        };
        match verdict {
            Verdict::Fenced => self.fence(actions),
            // The error of an attempt that was given up says nothing about the one under way.
            _ if !current => {}
            Verdict::Fail(error) => self.finish(now, attempt.ticket, Err(error), actions),
            Verdict::Retry | Verdict::RetryWithNewMap => {
                pending.failures = pending.failures.saturating_add(1);
                if verdict == Verdict::RetryWithNewMap {
                    actions.push(Action::FetchMap { have: self.routes.version() });
                }
                self.wait(now, attempt.ticket);
            }
        }
    }

    fn flush_answer(
        &mut self,
        now: BootTime,
        attempt: AttemptId,
        groups: Vec<(PgId, Result<LossGeneration, DataError>)>,
        actions: &mut Vec<Action>,
    ) {
        let Some(pending) = self.pending.get_mut(&attempt.ticket) else { return };
        let State::Flushing(flush) = &mut pending.state else { return };
        // Whatever a node leaves out of its answer is asked for again.
        let mut missing: BTreeSet<PgId> =
            flush.sent.remove(&attempt.count).map(|(_, pgs)| pgs.into_iter().collect()).unwrap_or_default();
        let (mut failed, mut fenced) = (None, false);
        for (pg, result) in groups {
            let verdict = match result {
                Ok(generation) | Err(DataError::Lost { current: generation }) => {
                    missing.remove(&pg);
                    flush.unsent.remove(&pg);
                    flush.done.insert(pg, generation);
                    continue;
                }
                Err(error) => judge(&error),
            };
            match verdict {
                Verdict::Fenced => fenced = true,
                Verdict::Fail(error) => failed = Some(error),
                Verdict::Retry | Verdict::RetryWithNewMap => {}
            }
        }
        missing.retain(|pg| !flush.done.contains_key(pg));
        let retry = !missing.is_empty();
        flush.unsent.extend(missing);
        if fenced {
            self.fence(actions);
        } else if let Some(error) = failed {
            self.finish(now, attempt.ticket, Err(error), actions);
        } else if retry {
            pending.failures = pending.failures.saturating_add(1);
            actions.push(Action::FetchMap { have: self.routes.version() });
            self.wait(now, attempt.ticket);
        } else {
            self.finish_flush_if_done(now, attempt.ticket, actions);
        }
    }

    fn finish_flush_if_done(&mut self, now: BootTime, ticket: Ticket, actions: &mut Vec<Action>) {
        let Some(Pending { operation: Operation::Flush { pgs }, state: State::Flushing(flush), .. }) =
            self.pending.get(&ticket)
        else {
            return;
        };
        if pgs.iter().all(|pg| flush.done.contains_key(pg)) {
            let done = flush.done.iter().map(|(pg, generation)| (*pg, *generation)).collect();
            self.finish(now, ticket, Ok(Outcome::Flushed(done)), actions);
        }
    }

    fn finish(&mut self, now: BootTime, ticket: Ticket, result: Result<Outcome, ErrorKind>, actions: &mut Vec<Action>) {
        let Some(pending) = self.remove(ticket) else { return };
        let admitted = !matches!(pending.state, State::Queued | State::Settling(_));
        if admitted {
            self.operations_in_flight -= 1;
            self.bytes_in_flight -= pending.operation.memory_bytes();
        }
        if !pending.told {
            actions.push(Action::Done { ticket, result });
        }
        if let (Some(pg), Some(number)) = (pending.pg, pending.number) {
            if let Some(window) = self.windows.get_mut(&pg) {
                window.answered(number);
            }
            self.begin_held(now, pg, actions);
        }
        self.settle_after(ticket, actions);
        self.admit_queued(now, actions);
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Pending> {
        let pending = self.pending.remove(&ticket)?;
        if let Some(at) = pending.wake {
            self.wakes.remove(&(at, ticket));
        }
        Some(pending)
    }

    fn begin_held(&mut self, now: BootTime, pg: PgId, actions: &mut Vec<Action>) {
        while !self.windows.get(&pg).is_some_and(OperationWindow::is_full) {
            let Some(ticket) = self.held.get_mut(&pg).and_then(VecDeque::pop_front) else { break };
            // It may have been dropped when its caller gave up.
            if matches!(self.pending.get(&ticket).map(|p| &p.state), Some(State::Held)) {
                self.begin(now, ticket, actions);
            }
        }
    }

    fn admit_queued(&mut self, now: BootTime, actions: &mut Vec<Action>) {
        while let Some(ticket) = self.queued.front().copied() {
            if self.pending.contains_key(&ticket) && !self.has_room(ticket) {
                break;
            }
            self.queued.pop_front();
            self.admit(now, ticket, actions);
        }
    }

    fn settle_after(&mut self, ticket: Ticket, actions: &mut Vec<Action>) {
        if self.settling.is_empty() {
            return;
        }
        for waiting in self.settling.iter().copied().collect::<Vec<_>>() {
            if let Some(Pending { state: State::Settling(earlier), .. }) = self.pending.get_mut(&waiting) {
                earlier.remove(&ticket);
            }
            self.settle_if_done(waiting, actions);
        }
    }

    fn settle_if_done(&mut self, ticket: Ticket, actions: &mut Vec<Action>) {
        if let Some(Pending { state: State::Settling(earlier), .. }) = self.pending.get(&ticket)
            && earlier.is_empty()
        {
            self.settling.remove(&ticket);
            if let Some(pending) = self.remove(ticket)
                && !pending.told
            {
                actions.push(Action::Done { ticket, result: Ok(Outcome::Done) });
            }
        }
    }

    fn new_map(&mut self, now: BootTime, routes: RouteTable, actions: &mut Vec<Action>) {
        if routes.version() <= self.routes.version() || self.fenced {
            return;
        }
        self.routes = routes;
        if !self.routes.is_live(self.config.session) {
            self.fence(actions);
            return;
        }
        // All waiters go at once, and so does what is on its way to a primary that is one no more.
        for ticket in self.pending.keys().copied().collect::<Vec<_>>() {
            self.reroute(now, ticket, actions);
        }
    }

    fn reroute(&mut self, now: BootTime, ticket: Ticket, actions: &mut Vec<Action>) {
        let Some(pending) = self.pending.get_mut(&ticket) else { return };
        match &mut pending.state {
            State::Waiting => self.send(now, ticket, actions),
            State::Sent(target) => {
                let moved = pending.pg.and_then(|pg| self.routes.target(pg)).is_some_and(|new| new != *target);
                if moved {
                    self.send(now, ticket, actions);
                }
            }
            State::Flushing(flush) => {
                let routes = &self.routes;
                let moved: Vec<u32> = flush
                    .sent
                    .iter()
                    .filter(|(_, (sent_to, pgs))| {
                        pgs.iter().any(|pg| {
                            routes
                                .target(*pg)
                                .is_some_and(|new| (new.node, new.incarnation) != (sent_to.node, sent_to.incarnation))
                        })
                    })
                    .map(|(count, _)| *count)
                    .collect();
                for count in moved {
                    if let Some((_, pgs)) = flush.sent.remove(&count) {
                        let done = &flush.done;
                        flush.unsent.extend(pgs.into_iter().filter(|pg| !done.contains_key(pg)));
                    }
                }
                if !flush.unsent.is_empty() {
                    self.send_flush(now, ticket, actions);
                }
            }
            State::Queued | State::Held | State::Settling(_) => {}
        }
    }

    fn fence(&mut self, actions: &mut Vec<Action>) {
        if std::mem::replace(&mut self.fenced, true) {
            return;
        }
        actions.push(Action::SessionFenced);
        for (ticket, pending) in std::mem::take(&mut self.pending) {
            if !pending.told {
                actions.push(Action::Done { ticket, result: Err(ErrorKind::Fenced) });
            }
        }
        self.windows.clear();
        self.queued.clear();
        self.held.clear();
        self.settling.clear();
        self.wakes.clear();
        self.operations_in_flight = 0;
        self.bytes_in_flight = 0;
    }

    fn wake(&mut self, now: BootTime, actions: &mut Vec<Action>) {
        self.asked_wake = None;
        while let Some((at, ticket)) = self.wakes.first().copied() {
            if at > now {
                break;
            }
            self.wakes.remove(&(at, ticket));
            let Some(pending) = self.pending.get_mut(&ticket) else { continue };
            pending.wake = None;
            let waited = now.since(pending.submitted);
            if self.config.fail_after.is_some_and(|after| waited >= after) && !pending.told {
                self.tell_timed_out(now, ticket, waited, actions);
            }
            match self.pending.get(&ticket).map(|p| &p.state) {
                Some(State::Waiting) => self.send(now, ticket, actions),
                Some(State::Flushing(flush)) if !flush.unsent.is_empty() => self.send_flush(now, ticket, actions),
                _ => {}
            }
            if self.pending.get(&ticket).is_some_and(|p| p.wake.is_none()) {
                let deadline = self.deadline(ticket);
                self.arm(ticket, deadline);
            }
        }
    }

    /// The caller hears of the failure. What was never sent, or changes nothing, is dropped; a change that was sent
    /// may still land, so it stays until it is answered (design 4.5).
    fn tell_timed_out(&mut self, now: BootTime, ticket: Ticket, waited: Duration, actions: &mut Vec<Action>) {
        let Some(pending) = self.pending.get_mut(&ticket) else { return };
        let error = ErrorKind::TimedOut {
            waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
            why: "storage did not answer".into(),
        };
        if pending.attempts > 0 && pending.operation.is_change() {
            pending.told = true;
            actions.push(Action::Done { ticket, result: Err(error) });
        } else if self.settling.remove(&ticket) {
            self.remove(ticket);
            actions.push(Action::Done { ticket, result: Err(error) });
        } else {
            self.finish(now, ticket, Err(error), actions);
        }
    }

    fn ask_wake(&mut self, actions: &mut Vec<Action>) {
        let Some((at, _)) = self.wakes.first().copied() else { return };
        if self.asked_wake.is_none_or(|asked| at < asked) {
            self.asked_wake = Some(at);
            actions.push(Action::WakeAt(at));
        }
    }
}

/// A reply of another kind than was asked for is an error, never a success.
fn outcome_of(operation: &Operation, reply: DataReply, payload: Bytes) -> Result<Outcome, ErrorKind> {
    match (operation, reply) {
        (Operation::Write { .. } | Operation::Copy { .. }, DataReply::Written)
        | (
            Operation::Discard { .. } | Operation::Fill { .. } | Operation::Truncate { .. },
            DataReply::Done | DataReply::Written,
        ) => Ok(Outcome::Done),
        (Operation::Read { length_bytes, .. }, DataReply::Read) if payload.len() == *length_bytes as usize => {
            Ok(Outcome::Read(payload))
        }
        (Operation::ObjectExtent { .. }, DataReply::ObjectExtent { end_bytes, allocated_bytes }) => {
            Ok(Outcome::Extent { end_bytes, allocated_bytes })
        }
        (Operation::Presence { .. }, DataReply::Presence(runs)) => Ok(Outcome::Presence(runs)),
        (_, reply) => Err(ErrorKind::Io(format!("a node answered with {reply:?}, which was not asked for"))),
    }
}
