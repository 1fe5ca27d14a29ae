//! What only the Raft leader knows: who answered when, who acknowledged what, what is to be proposed next.
//!
//! Responsible for: design 4.1 to 4.4 as far as they are about time: leases of nodes, sessions that lapse, pending moves
//! and fences that complete, the wait for a lossless member, repair, background deletion. All of it is volatile; a new
//! leader begins anew and waits a whole TTL before it calls anybody dead.
//! Guarantees: pure. An answer to a heartbeat leaves only after a quorum round that began after the heartbeat came; nobody
//! is called dead before TTL + margin after the last heartbeat that was answered, and nobody who was called dead is
//! answered again.
//! Must not know: Raft, sockets, wall clocks.
//!
//! The shell calls [`Leader::step`] on one thread, with CLOCK_BOOTTIME, at least every `HEARTBEAT_INTERVAL` with `Tick`.
//! It gives new facts after each applied command with `map_changed` before it answers that command's client, and may
//! gather several with `work_changed` alone.

mod events;
mod groups;
mod nodes;
mod rounds;
mod sessions;
mod work;

pub use events::{Debt, DebtKind, Facts, LeaderAction, LeaderEvent, Reclaimed, RoundId, SessionFact, Ticket};

use crate::command::Command;
use crate::groups::Liveness;
use groups::GroupWatch;
use nodes::NodeLeases;
use rounds::{Rounds, Waiting, Who};
use sessions::SessionLeases;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use weft_types::limits::{LEADER_STALL, PROPOSE_RETRY};
use weft_types::{BootTime, DiskId, Epoch, ErrorKind, Incarnation, NodeId, ObjectId, PgId, SessionId, SetVersion};
use weft_types::{InodeNumber, TruncateGeneration, VolumeId};
use work::Work;

/// The leader's volatile state; idle while this node does not lead.
#[derive(Debug, Default)]
pub struct Leader {
    reign: Option<Reign>,
    /// Counts over all reigns, so that a late answer to an old round is recognised.
    last_round: u64,
}

/// One term of leading.
#[derive(Debug)]
struct Reign {
    facts: Facts,
    live: Liveness,
    nodes: NodeLeases,
    sessions: SessionLeases,
    groups: GroupWatch,
    work: Work,
    rounds: Rounds,
    proposals: Proposals,
    last_step: BootTime,
    /// After a stall of its own the leader judges nobody until then.
    hears_until: BootTime,
}

/// What the leader knows of nodes, for status.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LeaderStatus {
    /// Milliseconds since the last answered heartbeat.
    pub last_heartbeat_ms: Vec<(NodeId, u64)>,
    pub free_bytes: Vec<(DiskId, u64)>,
    /// Live nodes that this leader has heard of in their present incarnation, which they know by that.
    pub heard: BTreeSet<NodeId>,
}

impl Leader {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub const fn is_leading(&self) -> bool {
        self.reign.is_some()
    }

    #[must_use]
    pub fn status(&self, now: BootTime) -> LeaderStatus {
        self.reign.as_ref().map(|r| r.nodes.status(now)).unwrap_or_default()
    }

    /// Forgets everything but the last round's number.
    fn abdicate(&mut self) {
        if let Some(reign) = self.reign.take() {
            self.last_round = reign.rounds.last();
        }
    }

    /// One event in, what is to be done out, in order.
    pub fn step(&mut self, event: LeaderEvent, now: BootTime) -> Vec<LeaderAction> {
        let mut out = Vec::new();
        match event {
            LeaderEvent::BecameLeader { facts } => {
                self.abdicate();
                let mut reign = Reign::begin(facts, now, self.last_round);
                reign.evaluate(now, &mut out);
                self.reign = Some(reign);
            }
            LeaderEvent::LostLeadership => self.abdicate(),
            event => match self.reign.as_mut() {
                Some(reign) => reign.step(event, now, &mut out),
                None => decline(event, &mut out),
            },
        }
        out
    }
}

/// Not the leader: nothing is promised, whoever waits is told.
fn decline(event: LeaderEvent, out: &mut Vec<LeaderAction>) {
    match event {
        LeaderEvent::HeartbeatReceived { ticket, .. }
        | LeaderEvent::SessionHeartbeat { ticket, .. }
        | LeaderEvent::SetChangeRequested { ticket, .. } => {
            let why = ErrorKind::Unavailable("this node does not lead the metadata group".to_owned());
            out.push(LeaderAction::Refuse { ticket, why });
        }
        _ => {}
    }
}

impl Reign {
    fn begin(facts: Facts, now: BootTime, last_round: u64) -> Self {
        let mut reign = Self {
            live: Liveness::of_map(&facts.map),
            nodes: NodeLeases::begin(&facts, now),
            sessions: SessionLeases::begin(&facts, now),
            groups: GroupWatch::default(),
            work: Work::default(),
            rounds: Rounds::new(last_round),
            proposals: Proposals::default(),
            last_step: now,
            hears_until: now,
            facts,
        };
        reign.work.sync(&reign.facts, now);
        reign
    }

    fn step(&mut self, event: LeaderEvent, now: BootTime, out: &mut Vec<LeaderAction>) {
        if now.since(self.last_step) >= LEADER_STALL {
            self.hears_until = now + LEADER_STALL;
        }
        self.last_step = now;
        match event {
            LeaderEvent::HeartbeatReceived { ticket, heartbeat } => {
                match self.nodes.receive(&self.facts, &heartbeat, now) {
                    Ok(()) => {
                        let who = Who::Node { node: heartbeat.node, incarnation: heartbeat.incarnation };
                        self.rounds.wait(Waiting { ticket, who, received_at: now }, out);
                    }
                    Err(nodes::NoAnswer::Silence) => out.push(LeaderAction::Drop { ticket }),
                    Err(nodes::NoAnswer::Refusal(why)) => out.push(LeaderAction::Refuse { ticket, why }),
                }
                self.complete_acknowledged(now, out);
            }
            LeaderEvent::SessionHeartbeat { ticket, session } => match self.sessions.receive(session) {
                Ok(()) => self.rounds.wait(Waiting { ticket, who: Who::Session { session }, received_at: now }, out),
                Err(sessions::NoAnswer::Silence) => out.push(LeaderAction::Drop { ticket }),
                Err(sessions::NoAnswer::Fenced) => {
                    out.push(LeaderAction::Refuse { ticket, why: ErrorKind::Fenced });
                }
            },
            LeaderEvent::QuorumRoundDone { round } => {
                for waiting in self.rounds.done(round, out) {
                    self.answer(&waiting, now, out);
                }
            }
            LeaderEvent::QuorumRoundFailed { round } => {
                for waiting in self.rounds.done(round, out) {
                    out.push(LeaderAction::Drop { ticket: waiting.ticket });
                }
            }
            LeaderEvent::Applied { facts } => {
                self.live = Liveness::of_map(&facts.map);
                self.nodes.sync(&facts, now);
                self.sessions.sync(&facts, now);
                self.work.sync(&facts, now);
                self.facts = facts;
                self.evaluate(now, out);
            }
            LeaderEvent::SetChangeRequested { ticket, request } => {
                let command = groups::judge(request, &self.facts, &self.live, &self.nodes, now);
                out.push(LeaderAction::ProposeFor { ticket, command });
            }
            LeaderEvent::SessionWanted { session } => {
                self.sessions.want(session);
                self.evaluate(now, out);
            }
            LeaderEvent::EvictSession { session } => {
                self.sessions.evict(session);
                self.evaluate(now, out);
            }
            LeaderEvent::ReclaimFinished { volume, object, generation, outcome } => {
                self.work.reclaimed((volume, object, generation), outcome, now);
                self.evaluate(now, out);
            }
            LeaderEvent::SizeCollected { recovery, end_bytes } => {
                self.work.collected(recovery, end_bytes, now);
                self.evaluate(now, out);
            }
            LeaderEvent::Tick => {
                self.proposals.forget_old(now);
                self.evaluate(now, out);
            }
            // Handled by `Leader::step`.
            LeaderEvent::BecameLeader { .. } | LeaderEvent::LostLeadership => {}
        }
    }

    /// After its quorum round. What was decided in between counts: nobody who is condemned is answered.
    fn answer(&mut self, waiting: &Waiting, now: BootTime, out: &mut Vec<LeaderAction>) {
        let map_version = self.facts.map.version;
        let ticket = waiting.ticket;
        let answered = match waiting.who {
            Who::Node { node, incarnation } => self
                .nodes
                .answer(node, incarnation, waiting.received_at, now)
                .then_some(LeaderAction::AnswerHeartbeat { ticket, node, map_version }),
            Who::Session { session } => self
                .sessions
                .answer(session, waiting.received_at)
                .then_some(LeaderAction::AnswerSession { ticket, session, map_version }),
        };
        out.push(answered.unwrap_or(LeaderAction::Drop { ticket }));
    }

    /// What a heartbeat may have been the last acknowledgement for.
    fn complete_acknowledged(&mut self, now: BootTime, out: &mut Vec<LeaderAction>) {
        let mut propose = Proposer { proposals: &mut self.proposals, now, out };
        self.sessions.complete_fences(&self.facts, &self.nodes, &mut propose);
        self.groups.complete_moves(&self.facts, &self.nodes, &mut propose);
    }

    /// Everything that is due.
    fn evaluate(&mut self, now: BootTime, out: &mut Vec<LeaderAction>) {
        let mut propose = Proposer { proposals: &mut self.proposals, now, out };
        if now >= self.hears_until {
            self.nodes.bury(now, &mut propose);
            self.sessions.strike(now, &mut propose);
        }
        self.groups.elect_lossy(&self.facts, &self.live, now, &mut propose);
        self.groups.repair(&self.facts, &self.live, now, &mut propose);
        self.work.run(&self.facts, now, &mut propose);
        self.complete_acknowledged(now, out);
    }
}

/// What a proposal is about: it is made again only when it has had no effect for `PROPOSE_RETRY`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Topic {
    Dead(NodeId, Incarnation),
    Strike(SessionId),
    Fence(SessionId),
    Move(PgId, Epoch),
    Elect(PgId, Epoch),
    Replace(PgId, SetVersion),
    Purge(VolumeId),
    Reclaimed(VolumeId, ObjectId, TruncateGeneration),
    Size(VolumeId, InodeNumber, TruncateGeneration),
}

#[derive(Debug, Default)]
struct Proposals {
    made: BTreeMap<Topic, BootTime>,
}

impl Proposals {
    fn forget_old(&mut self, now: BootTime) {
        self.made.retain(|_, at| now.since(*at) < PROPOSE_RETRY);
    }
}

struct Proposer<'r> {
    proposals: &'r mut Proposals,
    now: BootTime,
    out: &'r mut Vec<LeaderAction>,
}

impl Proposer<'_> {
    fn propose(&mut self, topic: Topic, command: Command) {
        self.propose_every(PROPOSE_RETRY, topic, command);
    }

    fn propose_every(&mut self, pause: Duration, topic: Topic, command: Command) {
        let recent = self.proposals.made.get(&topic).is_some_and(|at| self.now.since(*at) < pause);
        if !recent {
            self.proposals.made.insert(topic, self.now);
            self.out.push(LeaderAction::Propose(command));
        }
    }

    fn act(&mut self, action: LeaderAction) {
        self.out.push(action);
    }
}
