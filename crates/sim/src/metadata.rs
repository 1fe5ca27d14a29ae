//! The metadata group: Raft as a log that everybody sees in the same order, some later than others.
//!
//! Responsible for: who leads, what is committed and when, quorum rounds, handing maps out; the state is that of the
//! production `weft_meta::apply`. Guarantees: one order of commands; only a leader that reaches a majority commits or
//! confirms a round; a proposal whose leader is lost is committed by the next one or never, and nobody is told which.
//! Not here: openraft itself, whose tests run on real processes.

use crate::failure::Oracle;
use crate::node::{CLUSTER, Process};
use crate::stories::Moment;
use crate::world::{End, MS, US, World};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use weft_meta::leader::{LeaderEvent, RoundId};
use weft_meta::{Command, CommandReply, MemoryView, Stamped, apply, read};
use weft_proto::control::SetChange;
use weft_types::map::{ClusterMap, MemberState};
use weft_types::{DiskId, MapVersion, NodeId, Timestamp};

/// No answer of the group: not committed, or nobody knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoAnswer;

pub type OnCommitted = Box<dyn FnOnce(&mut World, Result<CommandReply, NoAnswer>)>;

struct Proposal {
    by: NodeId,
    term: u64,
    command: Command,
    done: OnCommitted,
}

pub struct Metadata {
    pub view: MemoryView,
    /// As of the last commit.
    pub map: Arc<ClusterMap>,
    pub voters: BTreeSet<NodeId>,
    pub term: u64,
    pub leader: Option<NodeId>,
    /// Who led last, if its process has ended.
    dead_leader: Option<NodeId>,
    /// When the leader was last seen with a majority behind it, and how long the others wait without one.
    healthy: u64,
    patience_ns: u64,
    proposals: VecDeque<Proposal>,
    committing: bool,
    pub log_length: u64,
    /// When the present leader was elected.
    pub led_since: u64,
}

impl Default for Metadata {
    fn default() -> Self {
        let map = ClusterMap {
            cluster: CLUSTER,
            version: MapVersion(0),
            nodes: Vec::new(),
            disks: Vec::new(),
            volumes: Vec::new(),
            pgs: Vec::new(),
            live_sessions: Vec::new(),
        };
        Self {
            view: MemoryView::new(),
            map: Arc::new(map),
            voters: BTreeSet::new(),
            term: 0,
            leader: None,
            dead_leader: None,
            healthy: 0,
            patience_ns: 0,
            proposals: VecDeque::new(),
            committing: false,
            log_length: 0,
            led_since: 0,
        }
    }
}

impl World {
    /// Starts the upkeep of the group.
    pub fn keep_metadata(&mut self) {
        self.watch_leader();
        self.spread_maps();
    }

    /// Whether a node is up and reaches a majority of these voters, both ways.
    pub fn has_majority_of(&self, node: NodeId, voters: &BTreeSet<NodeId>) -> bool {
        if !self.is_awake(node) {
            return false;
        }
        let joined = |other: &NodeId| {
            let (a, b) = (End::Node(node), End::Node(*other));
            *other == node || (self.is_awake(*other) && !self.is_blocked(a, b) && !self.is_blocked(b, a))
        };
        voters.iter().filter(|voter| joined(voter)).count() * 2 > voters.len()
    }

    pub fn has_majority(&self, node: NodeId) -> bool {
        self.has_majority_of(node, &self.metadata.voters)
    }

    /// Elections, and leaders who learn that they are none any more.
    fn watch_leader(&mut self) {
        let now = self.now();
        let pause = self.between(20 * MS, 50 * MS);
        self.after(pause, "raft", Self::watch_leader);
        if let Some(leader) = self.metadata.leader {
            if self.has_majority(leader) {
                self.metadata.healthy = now;
                self.depose_others(leader);
                return;
            }
            self.metadata.leader = None;
            self.metadata.healthy = now;
            self.metadata.patience_ns = self.between(300 * MS, 1500 * MS);
            return;
        }
        if now - self.metadata.healthy >= self.metadata.patience_ns {
            self.elect();
        }
    }

    /// A process ended. If it led, its lead ends with it, however soon the next process of that node is there; the others
    /// notice after a while.
    pub fn leader_died(&mut self, id: NodeId) {
        if self.metadata.leader == Some(id) {
            self.stats.count("metadata leaders lost");
            self.metadata.leader = None;
            self.metadata.dead_leader = Some(id);
            self.metadata.healthy = self.now();
            self.metadata.patience_ns = self.between(300 * MS, 1500 * MS);
        }
    }

    /// This node is known to be gone: if it led, nobody waits for an election timeout.
    pub fn hurry_election(&mut self, gone: NodeId) {
        if self.metadata.leader.is_none() && self.metadata.dead_leader == Some(gone) {
            self.metadata.patience_ns = 40 * MS;
        }
    }

    /// Takes the lead away although nothing is wrong.
    pub fn unseat_leader(&mut self) {
        if let Some(leader) = self.metadata.leader.take() {
            self.stats.count("metadata leaders unseated");
            self.metadata.healthy = self.now();
            self.metadata.patience_ns = self.between(10 * MS, 800 * MS);
            if self.random.chance(50) {
                // It knows at once; otherwise it hears it from the next one.
                self.lose_lead(leader);
            }
        }
    }

    fn elect(&mut self) {
        // Nobody who knows of its removal hears the wish of a removed node.
        let may = |node: &NodeId| self.has_majority(*node) && !self.operators.removed.contains(node);
        let able: Vec<NodeId> = self.metadata.voters.iter().copied().filter(may).collect();
        if able.is_empty() {
            return;
        }
        let chosen = able[self.random.below(able.len() as u64) as usize];
        self.metadata.term += 1;
        self.metadata.leader = Some(chosen);
        self.metadata.led_since = self.now();
        self.metadata.dead_leader = None;
        self.metadata.healthy = self.now();
        self.stats.count("metadata leaders elected");
        // What the last leader had proposed: some of it had reached the majority.
        for proposal in std::mem::take(&mut self.metadata.proposals) {
            if self.random.chance(50) {
                self.stats.count("proposals committed by a later leader");
                self.commit(&proposal.command);
            }
        }
        let term = self.metadata.term;
        let delay = self.between(2 * MS, 30 * MS);
        self.after(delay, "leads", move |world| world.take_lead(chosen, term));
        self.say(|| format!("node {chosen} is elected in term {term}"));
    }

    fn take_lead(&mut self, node: NodeId, term: u64) {
        if self.metadata.leader != Some(node) || self.metadata.term != term {
            return;
        }
        let Ok(facts) = read::facts(&self.metadata.view) else {
            return self.fail(Oracle::Integrity, "the metadata state cannot be read".to_owned());
        };
        let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut()) else { return };
        process.term = Some(term);
        self.step_leader(node, LeaderEvent::BecameLeader { facts });
    }

    fn depose_others(&mut self, leader: NodeId) {
        let term = self.metadata.term;
        let old: Vec<NodeId> = self
            .nodes
            .values()
            .filter(|n| n.process.as_ref().is_some_and(|p| p.term.is_some_and(|t| t < term)))
            .map(|n| n.id)
            .filter(|id| !self.is_blocked(End::Node(leader), End::Node(*id)) && self.is_awake(*id))
            .collect();
        for node in old {
            self.lose_lead(node);
        }
    }

    fn lose_lead(&mut self, node: NodeId) {
        let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut()) else { return };
        if process.term.take().is_none() {
            return;
        }
        let tickets = std::mem::take(&mut process.tickets);
        self.step_leader(node, LeaderEvent::LostLeadership);
        self.end_polls(node);
        self.end_watches(node);
        for (_, answer) in tickets {
            answer(self, Some(weft_proto::control::ControlReply::NotLeader { leader: None }));
        }
    }

    /// Whether this node leads and a majority would confirm it now.
    fn leads(&self, node: NodeId, term: u64) -> bool {
        self.metadata.leader == Some(node) && self.metadata.term == term && self.has_majority(node)
    }

    /// A round: the majority says that it follows, and the leader hears of it later, when another may lead already.
    pub fn start_round(&mut self, node: NodeId, life: u64, term: u64, round: RoundId) {
        let latency = self.latency();
        self.after(latency, "quorum round", move |world| {
            let confirmed = world.leads(node, term);
            world.after(latency + world.oddities.slow_answers_ns, "quorum round", move |world| {
                world.end_round(node, life, round, confirmed)
            });
        });
    }

    fn end_round(&mut self, node: NodeId, life: u64, round: RoundId, confirmed: bool) {
        if self.life_of(node) != Some(life) {
            return;
        }
        if let Some(awake) = self.nodes.get(&node).map(|n| n.paused_until).filter(|until| *until > self.now()) {
            return self.at(awake, "woken", move |world| world.end_round(node, life, round, confirmed));
        }
        if confirmed {
            return self.step_leader(node, LeaderEvent::QuorumRoundDone { round });
        }
        self.stats.count("quorum rounds failed");
        self.after(1000 * MS, "quorum round failed", move |world| {
            if world.life_of(node) == Some(life) {
                world.step_leader(node, LeaderEvent::QuorumRoundFailed { round });
            }
        });
    }

    /// Gives a command to Raft at this node. The answer comes after it is applied there.
    pub fn propose(&mut self, node: NodeId, term: u64, command: Command, done: OnCommitted) {
        if self.metadata.leader != Some(node) || self.metadata.term != term {
            // It believes that it leads; nobody answers.
            self.stats.count("proposals of a deposed leader");
            return self.after(1500 * MS, "proposal lost", move |world| done(world, Err(NoAnswer)));
        }
        self.metadata.proposals.push_back(Proposal { by: node, term, command, done });
        self.commit_soon();
    }

    fn commit_soon(&mut self) {
        if self.metadata.committing || self.metadata.proposals.is_empty() {
            return;
        }
        self.metadata.committing = true;
        let delay = self.latency() + self.between(50 * US, self.mix.commit_us * US);
        self.after(delay, "commit", |world| {
            world.metadata.committing = false;
            let batch = std::mem::take(&mut world.metadata.proposals);
            for proposal in batch {
                let Proposal { by, term, command, done } = proposal;
                if !world.leads(by, term) {
                    world.metadata.proposals.push_back(Proposal { by, term, command, done });
                    continue;
                }
                let reply = world.commit(&command);
                world.on_applied(by);
                done(world, Ok(reply));
            }
            if let Some(first) = world.metadata.proposals.front() {
                let (by, term) = (first.by, first.term);
                if world.metadata.leader == Some(by) && world.metadata.term == term {
                    world.after(50 * MS, "commit again", Self::commit_soon);
                } else if world.metadata.leader.is_some() {
                    // A successor was elected meanwhile and has thrown its own lot for what it found.
                    world.metadata.proposals.retain(|p| p.by != by || p.term != term);
                }
            }
        });
    }

    /// One committed command.
    pub fn commit(&mut self, command: &Command) -> CommandReply {
        let seconds = i64::try_from(self.now() / crate::world::SECOND).unwrap_or(0);
        let stamped = Stamped { at: Timestamp { seconds, nanoseconds: 0 }, command: command.clone() };
        let applied = match apply(&self.metadata.view, &stamped) {
            Ok(applied) => applied,
            Err(error) => {
                self.fail(Oracle::Integrity, format!("the metadata state cannot be read: {error}"));
                return CommandReply::Done;
            }
        };
        self.metadata.view.write(applied.batch);
        self.metadata.log_length += 1;
        self.note("committed", self.metadata.log_length);
        self.say(|| format!("committed {} -> {}", short(command), short(&applied.reply)));
        self.notice(command, &applied.reply);
        self.operated(command, &applied.reply, applied.map_changed);
        for session in applied.wanted_sessions {
            self.wanted.insert(session);
            if let Some(leader) = self.metadata.leader {
                self.stats.count("sessions wanted");
                self.after(1, "wanted", move |world| {
                    world.step_leader(leader, LeaderEvent::SessionWanted { session });
                });
            }
        }
        if applied.map_changed {
            match read::cluster_map(&self.metadata.view, None) {
                Ok(map) => {
                    self.compare_maps(&map);
                    let before = std::mem::replace(&mut self.metadata.map, Arc::new(map));
                    self.look_at_nodes(&before);
                    self.look_at_registration(&before, command, &applied.reply);
                    self.look_at_groups(None);
                }
                Err(error) => self.fail(Oracle::Integrity, format!("the map cannot be read: {error}")),
            }
            self.spread_soon();
        }
        if applied.map_changed || applied.work_changed {
            self.metadata_changed();
        }
        self.waits_settled(&applied.settled_waits);
        self.look_at_size_line();
        if let Some(leader) = self.metadata.leader {
            self.metadata_moved(leader);
        }
        applied.reply
    }

    /// For the histogram and for the oracles.
    fn notice(&mut self, command: &Command, reply: &CommandReply) {
        match (command, reply) {
            (Command::FenceComplete { session, .. }, CommandReply::Done) => {
                self.stats.count("fences complete");
                self.session_freed(*session);
            }
            (Command::StrikeSession { session }, CommandReply::Done) => {
                self.stats.count("sessions struck");
                self.moment(Moment::Struck, None, None);
                self.session_struck(*session);
                self.session_freed(*session);
            }
            (Command::NodeDead { node, incarnation }, CommandReply::Done) => {
                self.stats.count("nodes called dead");
                self.called_dead(*node, *incarnation);
            }
            (Command::SurrenderLease { .. }, CommandReply::Done) => self.stats.count("leases surrendered"),
            (Command::CompleteMove { .. }, CommandReply::SetChanged { .. }) => self.stats.count("moves complete"),
            (Command::MovePrimary { pg, to, .. }, CommandReply::SetChanged { .. }) => {
                self.stats.count("moves begun");
                self.moment(Moment::Moving, Some(*pg), Some(*to));
            }
            (Command::ElectLossy { pg, .. }, CommandReply::SetChanged { .. }) => {
                self.stats.count("lossy primaries");
                self.loss_accepted(*pg);
            }
            (Command::ReplaceMember { .. }, CommandReply::SetChanged { .. }) => self.stats.count("members replaced"),
            (Command::DiskFailed { .. }, CommandReply::Done) => self.stats.count("disks failed"),
            (Command::ReclaimDone { .. }, CommandReply::Done) => self.stats.count("deletions done"),
            (Command::ChangeSet(request), CommandReply::SetChanged { .. }) => {
                let pg = request.pg;
                self.look_at_removal(request);
                match &request.change {
                    SetChange::Levelled { .. } => self.moment(Moment::Levelled, Some(pg), None),
                    SetChange::Caught { disk } => self.moment(Moment::Caught, Some(pg), Some(*disk)),
                    SetChange::BeginSync { disk } => self.moment(Moment::Resyncing, Some(pg), Some(*disk)),
                    SetChange::Promote { disk } => {
                        self.look_at_promotion(pg, *disk);
                        self.moment(Moment::Promoted, Some(pg), Some(*disk));
                        self.after(1, "compare", move |world| world.compare_soon(pg, 0));
                    }
                    _ => {}
                }
                self.stats.count(match &request.change {
                    SetChange::Levelled { .. } => "peerings",
                    SetChange::Caught { .. } => "members caught up",
                    SetChange::Remove { .. } => "members removed",
                    SetChange::BeginSync { .. } => "resyncs begun",
                    SetChange::Promote { .. } => "promotions",
                    SetChange::AcceptLoss { .. } => "losses accepted",
                    SetChange::Yield { .. } => "lossy primaries that yielded",
                });
            }
            (Command::ChangeSet(_) | Command::MovePrimary { .. }, CommandReply::SetRefused(_)) => {
                self.stats.count("set changes refused");
            }
            _ => {}
        }
    }

    fn compare_maps(&mut self, new: &ClusterMap) {
        self.look_at_the_removed(new);
        let old = Arc::clone(&self.metadata.map);
        let now = self.now();
        self.forget_promises(new);
        for record in &new.pgs {
            let Some(before) = old.pgs.iter().find(|r| r.pg == record.pg) else { continue };
            if record.loss_generation > before.loss_generation {
                self.stats.count("loss generations");
                self.losses.entry(record.pg).or_default().push(now);
                self.ledger.open().losses(now);
                self.acknowledged.remove(&record.pg);
            }
            self.set_shrank(before, record);
            self.copies.group_changed(record, now);
            self.brim.group_changed(before, record, now);
            if record.set_version != before.set_version || record.epoch != before.epoch {
                self.set_changed(record);
            }
            match record.pending_move {
                Some(_) => {
                    self.moving.entry(record.pg).or_insert(now);
                }
                None => {
                    self.moving.remove(&record.pg);
                }
            }
            if record.primary.is_none() {
                self.headless.entry(record.pg).or_insert(now);
            } else {
                self.headless.remove(&record.pg);
            }
            if record.primary != before.primary {
                self.primary_changed(before, new);
                if record.primary.is_some() {
                    self.stats.count("failovers");
                }
            }
            let lossy = |r: &weft_types::PgRecord, disk: DiskId| {
                r.member(disk).is_some_and(|m| matches!(m.state, MemberState::InSync { lossy: true, .. }))
            };
            let behind = |r: &weft_types::PgRecord, disk: DiskId| {
                r.member(disk).is_some_and(|m| matches!(m.state, MemberState::InSync { behind: true, .. }))
            };
            for member in &record.members {
                if lossy(record, member.disk) && !lossy(before, member.disk) {
                    self.stats.count("lossy members");
                    self.moment(Moment::Flawed, Some(record.pg), Some(member.disk));
                }
                if behind(record, member.disk) && !behind(before, member.disk) {
                    self.stats.count("behind members");
                    self.moment(Moment::Flawed, Some(record.pg), Some(member.disk));
                }
            }
        }
    }

    /// The leader machine knows of every change before anybody is answered.
    fn metadata_changed(&mut self) {
        if let Some(leader) = self.metadata.leader {
            self.on_applied(leader);
        }
    }

    /// Brings the leader's machine up to what is applied.
    fn on_applied(&mut self, node: NodeId) {
        let log = self.metadata.log_length;
        let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut()) else { return };
        if process.term != Some(self.metadata.term) || process.seen == log {
            return;
        }
        process.seen = log;
        match read::facts(&self.metadata.view) {
            Ok(facts) => self.step_leader(node, LeaderEvent::Applied { facts }),
            Err(error) => self.fail(Oracle::Integrity, format!("the metadata state cannot be read: {error}")),
        }
    }

    fn spread_soon(&mut self) {
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for node in nodes {
            let mut delay = self.latency();
            if self.random.chance(self.mix.late_map_percent) {
                self.stats.count("maps late");
                delay += self.between(MS, 400 * MS);
            }
            self.after(delay, "map", move |world| world.offer_map(node));
        }
    }

    /// Whoever missed a map gets it with a later heartbeat of Raft.
    fn spread_maps(&mut self) {
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for node in nodes {
            self.offer_map(node);
        }
        self.after(150 * MS, "raft heartbeat", Self::spread_maps);
    }

    fn offer_map(&mut self, node: NodeId) {
        let Some(leader) = self.metadata.leader.filter(|_| self.takes_part(node)) else { return };
        if self.is_blocked(End::Node(leader), End::Node(node)) || !self.is_awake(node) || !self.is_awake(leader) {
            return;
        }
        let map = Arc::clone(&self.metadata.map);
        if self.deaf.contains(&node) {
            return;
        }
        let newer = |process: &Process| map.version > process.map.version;
        if self.nodes.get(&node).and_then(|n| n.process.as_ref()).is_some_and(newer) {
            self.publish_map(node, map);
        }
    }
}

pub fn short(what: &impl std::fmt::Debug) -> String {
    let text = format!("{what:?}").replace("00000000-0000-0000-0000-", "");
    match text.char_indices().nth(400) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}
