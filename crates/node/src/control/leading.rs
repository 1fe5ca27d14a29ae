//! The leader's duties: drives `weft_meta::leader::Leader` and carries out what it asks for.
//!
//! Guarantees: it leads only after a quorum round and with the facts of everything committed before (design 3); the
//! machine knows of every map change before anybody is answered who could rely on it; every ticket is answered or
//! dropped. Must not know: why the machine asks.

use super::node::{Exit, Node};
use super::requests;
use crate::bridge::{ReclaimTo, ToData};
use crate::data::boot_time;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;
use weft_meta::leader::{Leader, LeaderAction, LeaderEvent, LeaderStatus, Reclaimed, RoundId, Ticket};
use weft_meta::records::{ReclaimItem, ReclaimWhat};
use weft_meta::{Command, CommandReply, read};
use weft_proto::control::ControlReply;
use weft_raft::{Changes, GroupError};

/// Precision of the leader's decisions about time; several fit into a heartbeat interval.
const TICK: Duration = Duration::from_millis(100);
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// A deletion over all placement groups of a volume; the leader machine tries again.
const RECLAIM_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(crate) struct LeaderShell {
    machine: RefCell<Leader>,
    /// The term in which this node leads.
    term: Cell<Option<u64>>,
    /// What the machine's facts are of.
    seen: Cell<Changes>,
    tickets: RefCell<BTreeMap<Ticket, oneshot::Sender<ControlReply>>>,
    last_ticket: Cell<u64>,
}

impl LeaderShell {
    pub(crate) fn is_leading(&self) -> bool {
        self.term.get().is_some()
    }

    pub(crate) fn status(&self) -> LeaderStatus {
        self.machine.borrow().status(boot_time())
    }

    /// Asks the machine something that it answers later. `None`: it will not answer.
    pub(crate) async fn ask(&self, node: &Rc<Node>, event: impl FnOnce(Ticket) -> LeaderEvent) -> Option<ControlReply> {
        if !self.is_leading() {
            return Some(requests::not_leader(node));
        }
        let ticket = Ticket(self.last_ticket.get() + 1);
        self.last_ticket.set(ticket.0);
        let (reply, answer) = oneshot::channel();
        self.tickets.borrow_mut().insert(ticket, reply);
        self.step(node, event(ticket));
        answer.await.ok()
    }

    pub(crate) fn step(&self, node: &Rc<Node>, event: LeaderEvent) {
        let actions = self.machine.borrow_mut().step(event, boot_time());
        for action in actions {
            self.carry_out(node, action);
        }
    }

    /// Brings the machine up to what is applied. Called before anything is answered from newer state.
    pub(crate) fn on_applied(&self, node: &Rc<Node>) {
        let now = *node.group.changes().borrow();
        let wanted = node.group.take_wanted_sessions();
        if !self.is_leading() {
            return;
        }
        if self.seen.get() != now {
            match node.group.read(|view| read::facts(view)) {
                Ok(facts) => {
                    self.seen.set(now);
                    self.step(node, LeaderEvent::Applied { facts });
                }
                Err(error) => return node.end(Exit::NeedsAPerson(error.to_string())),
            }
        }
        for session in wanted {
            self.step(node, LeaderEvent::SessionWanted { session });
        }
    }

    fn answer(&self, ticket: Ticket, reply: ControlReply) {
        if let Some(waiting) = self.tickets.borrow_mut().remove(&ticket) {
            // The caller may have gone.
            drop(waiting.send(reply));
        }
    }

    fn carry_out(&self, node: &Rc<Node>, action: LeaderAction) {
        match action {
            LeaderAction::StartQuorumRound { round } => start_round(node, round),
            LeaderAction::AnswerHeartbeat { ticket, map_version, .. } => {
                self.answer(ticket, ControlReply::HeartbeatAnswer { map_version });
            }
            LeaderAction::AnswerSession { ticket, map_version, .. } => {
                self.answer(ticket, ControlReply::SessionAlive { map_version });
            }
            LeaderAction::Refuse { ticket, why } => self.answer(ticket, ControlReply::Refused(why)),
            LeaderAction::Drop { ticket } => drop(self.tickets.borrow_mut().remove(&ticket)),
            LeaderAction::Propose(command) => propose(node, command),
            LeaderAction::ProposeFor { ticket, command } => propose_for(node, ticket, command),
            LeaderAction::StartReclaim(item) => start_reclaim(node, item),
            LeaderAction::RecoverSize(recovery) => {
                let node = Rc::clone(node);
                tokio::task::spawn_local(async move {
                    let end_bytes = node.extents.highest_end(&node.maps.current(), &recovery).await;
                    node.leader.step(&node, LeaderEvent::SizeCollected { recovery, end_bytes });
                });
            }
        }
    }

    fn begin(&self, node: &Rc<Node>, term: u64) {
        let seen = *node.group.changes().borrow();
        match node.group.read(|view| read::facts(view)) {
            Ok(facts) => {
                tracing::info!(term, "this node leads the metadata group");
                self.seen.set(seen);
                self.term.set(Some(term));
                self.step(node, LeaderEvent::BecameLeader { facts });
            }
            Err(error) => node.end(Exit::NeedsAPerson(error.to_string())),
        }
    }

    fn lose(&self, node: &Rc<Node>) {
        tracing::info!(term = ?self.term.get(), "this node does not lead any more");
        self.term.set(None);
        self.step(node, LeaderEvent::LostLeadership);
        let waiting = std::mem::take(&mut *self.tickets.borrow_mut());
        for reply in waiting.into_values() {
            drop(reply.send(requests::not_leader(node)));
        }
    }
}

/// Begins to lead after an election that this node won, ends when it is over.
pub(crate) async fn follow_leadership(node: Rc<Node>) {
    let mut status = node.group.watch_status();
    loop {
        let now = status.borrow_and_update().clone();
        if let Some(why) = now.failed {
            return node.end(Exit::Restart(format!("Raft has ended: {why}")));
        }
        let leads = now.role == weft_raft::GroupRole::Leader;
        if node.leader.term.get().is_some_and(|term| !leads || term != now.term) {
            node.leader.lose(&node);
        }
        if leads && !node.leader.is_leading() {
            // Everything that was committed before is applied after this.
            let confirmed = node.group.linearizable().await.is_ok();
            let still = node.group.status();
            if confirmed && still.is_leader() && still.term == now.term {
                node.leader.begin(&node, now.term);
            } else {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            continue;
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

pub(crate) async fn tick(node: Rc<Node>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if node.leader.is_leading() {
            node.leader.step(&node, LeaderEvent::Tick);
        }
    }
}

fn start_round(node: &Rc<Node>, round: RoundId) {
    let node = Rc::clone(node);
    tokio::task::spawn_local(async move {
        let event = match node.group.linearizable().await {
            Ok(()) => {
                // An answer names the newest version: a change that was answered to anybody is in it.
                node.leader.on_applied(&node);
                LeaderEvent::QuorumRoundDone { round }
            }
            Err(error) => {
                tracing::debug!(%error, "a quorum round failed");
                LeaderEvent::QuorumRoundFailed { round }
            }
        };
        node.leader.step(&node, event);
    });
}

/// Commits a command; the leader machine knows of its effect before the caller does.
pub(crate) async fn commit(node: &Rc<Node>, command: Command) -> Result<CommandReply, GroupError> {
    let reply = node.group.propose(command).await;
    node.leader.on_applied(node);
    reply
}

fn propose(node: &Rc<Node>, command: Command) {
    let node = Rc::clone(node);
    tokio::task::spawn_local(async move {
        let shown = format!("{command:?}");
        match commit(&node, command).await {
            Ok(CommandReply::Refused(why)) => tracing::debug!(command = %shown, %why, "a proposal had no effect"),
            Ok(CommandReply::SetRefused(why)) => tracing::debug!(command = %shown, %why, "a proposal had no effect"),
            Ok(_) => {}
            // The machine proposes again what is still due.
            Err(error) => tracing::debug!(command = %shown, %error, "a proposal was not committed"),
        }
    });
}

fn propose_for(node: &Rc<Node>, ticket: Ticket, command: Command) {
    let node = Rc::clone(node);
    tokio::task::spawn_local(async move {
        let reply = requests::committed(&node, commit(&node, command).await);
        node.leader.answer(ticket, reply);
    });
}

fn start_reclaim(node: &Rc<Node>, item: ReclaimItem) {
    let node = Rc::clone(node);
    tokio::task::spawn_local(async move {
        let keep = match item.what {
            ReclaimWhat::Object | ReclaimWhat::Replaced { .. } => ReclaimTo::Nothing,
            ReclaimWhat::Cut { size_bytes, generation, .. } => ReclaimTo::Size { size_bytes, generation },
        };
        let (done, finished) = oneshot::channel();
        node.tell_data(ToData::Reclaim { volume: item.volume, object: item.object, keep, done }).await;
        let outcome = match tokio::time::timeout(RECLAIM_TIMEOUT, finished).await {
            Ok(Ok(Ok(()))) => Reclaimed::Finished,
            Ok(Ok(Err(why))) => {
                tracing::debug!(object = %item.object, %why, "a deletion is not finished");
                Reclaimed::Failed
            }
            Ok(Err(_)) | Err(_) => Reclaimed::Failed,
        };
        let (volume, object, generation) = (item.volume, item.object, item.generation());
        node.leader.step(&node, LeaderEvent::ReclaimFinished { volume, object, generation, outcome });
    });
}
