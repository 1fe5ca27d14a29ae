//! Operators: nodes that are added to a running cluster and removed from it, and replicas that are forced.
//!
//! Responsible for: what a person does with `weft node`, as the product carries it out (`admin.rs` and `membership.rs` of the
//! node), and the oracles of it. Guarantees: nobody is asked and nothing is drawn in a seed without such faults; three nodes
//! are always left, and one removal is complete before the next begins; a copy that was given up by an accepted command is
//! one that the product said could be spared. Must not know: when it strikes.

use crate::failure::Oracle;
use crate::node::{control_address, data_address};
use crate::world::{End, MS, SECOND, World};
use std::collections::{BTreeMap, BTreeSet};
use weft_meta::command::NewNode;
use weft_meta::groups::Liveness;
use weft_meta::{Command, CommandReply, read, voters};
use weft_proto::control::ControlRequest;
use weft_types::map::{ClusterMap, DiskState, Member, NodeState, PgRecord};
use weft_types::{NodeId, PgId, SessionId, SessionOwner};

/// How a node goes that is to be removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Away {
    Stopped,
    /// Its parent sees it, and nobody starts it again.
    Killed,
    /// Its machine is switched off.
    Dark,
    /// No other node reaches it, for so long. Its process goes on, and clients reach it.
    Cut {
        ms: u64,
    },
}

#[derive(Default)]
pub struct Operators {
    pub removed: BTreeSet<NodeId>,
    /// Those of them that take part in Raft no more, so that they hear of nothing.
    left: BTreeSet<NodeId>,
    /// Who is on its way out.
    leaving: Option<NodeId>,
    /// Since when a removal is asked for.
    asked_at: Option<u64>,
    joins: u64,
    keeps_membership: bool,
    /// When an operator gave up what a group had beside one stale replica.
    pub forced: BTreeMap<PgId, Vec<u64>>,
    /// When a group was last asked to be forced.
    force_asked: BTreeMap<PgId, u64>,
}

/// An operator looks again.
const PAUSE: u64 = 100 * MS;
/// Looks at a node that does not get removed, before it is brought back.
const LOOKS: u32 = 100;
/// An answer that did not come by then does not come.
const UNANSWERED: u64 = 3 * SECOND;
/// As many nodes as a group has replicas.
const FEWEST_NODES: usize = 3;
/// A member of the cluster whose sessions are not those of the clients.
const IMPOSTOR: SessionOwner = SessionOwner(0x52);

impl World {
    /// `weft node run --join`: an empty node asks to be taken in.
    pub fn add_node(&mut self, crash_ms: u64) {
        self.begin_membership();
        self.ask_to_join(crash_ms, LOOKS);
    }

    fn ask_to_join(&mut self, crash_ms: u64, looks: u32) {
        if self.quiet || looks == 0 {
            return;
        }
        let again = move |world: &mut Self| {
            world.after(PAUSE, "join", move |world| world.ask_to_join(crash_ms, looks - 1));
        };
        let (Some(leader), term) = (self.metadata.leader, self.metadata.term) else { return again(self) };
        self.operators.joins += 1;
        // The address follows from the id, which nobody knows yet; the registration puts it right.
        let id = NodeId(self.metadata.map.nodes.len() as u64 + 1);
        let node = NewNode {
            // A name of an attempt that was not answered is taken.
            name: format!("added-{}", self.operators.joins),
            control_address: control_address(id),
            data_address: data_address(id),
            failure_domain: Vec::new(),
        };
        let done = move |world: &mut Self, reply| match reply {
            Ok(CommandReply::Joined { node, .. }) => world.begin_node(node, crash_ms),
            _ => again(world),
        };
        self.propose(leader, term, Command::JoinNode { node, token: None }, Box::new(done));
    }

    fn begin_node(&mut self, id: NodeId, crash_ms: u64) {
        let clock = crate::check::clock(self);
        let (capacity, cold) = (self.mix.capacity_bytes, self.mix.cold_disks);
        let Some(node) = self.nodes.values().next().map(|other| other.sibling(id, clock, capacity)) else { return };
        node.disk.set_cold(cold);
        self.nodes.insert(id, node);
        self.stats.count("nodes added");
        self.start_node(id);
        if crash_ms > 0 {
            self.after(crash_ms * MS, "fault", move |world| {
                if !world.quiet {
                    world.crash(id, false);
                    world.after(200 * MS, "restart", move |world| {
                        world.start_node(id);
                    });
                }
            });
        }
    }

    /// Nodes that are not removed.
    pub fn present(&self) -> impl Iterator<Item = &crate::node::SimNode> {
        self.nodes.values().filter(|node| !self.operators.removed.contains(&node.id))
    }

    /// Whether a node fewer would do, and everything that was asked for before is done.
    fn may_do_without(&self, node: NodeId) -> bool {
        let asked = self.operators.asked_at.is_some_and(|at| self.now() - at < UNANSWERED);
        let others = self.present().filter(|other| other.id != node).count();
        let voting = self.metadata.voters.iter().any(|voter| self.operators.removed.contains(voter));
        // A damaged copy counts as lost, and nobody but the simulator knows.
        !asked && !voting && others >= FEWEST_NODES && self.hurt.is_empty() && self.disks_are_known(node)
    }

    /// The metadata group knows which disks the other nodes have: nobody decides by a disk that was taken out a moment ago.
    fn disks_are_known(&self, besides: NodeId) -> bool {
        let active = |disk| self.metadata.map.disks.iter().any(|d| d.id == disk && d.state == DiskState::Active);
        let missing = |node: &crate::node::SimNode| {
            let had = self.metadata.map.disks.iter().filter(|disk| disk.node == node.id && disk.id != node.disk_id);
            had.clone().all(|disk| disk.state != DiskState::Active)
        };
        self.present().filter(|node| node.id != besides).all(|node| {
            node.life == 0 || (!node.disk_lost && !node.disk_doomed && missing(node) && active(node.disk_id))
        })
    }

    /// An operator stops a node and removes it.
    pub fn remove_node(&mut self, node: NodeId, away: Away) {
        let known = self.present().any(|present| present.id == node);
        if !known || self.operators.leaving.is_some() || !self.may_do_without(node) {
            return self.stats.count("removals withheld");
        }
        self.begin_membership();
        self.operators.leaving = Some(node);
        match away {
            Away::Stopped => self.stop_cleanly(node),
            Away::Killed => self.crash(node, true),
            Away::Dark => self.power_off(node),
            Away::Cut { ms } => {
                let others: Vec<NodeId> = self.nodes.keys().copied().filter(|other| *other != node).collect();
                for other in others {
                    self.block(End::Node(node), End::Node(other), ms);
                    self.block(End::Node(other), End::Node(node), ms);
                }
            }
        }
        self.await_removal(node, LOOKS);
    }

    fn await_removal(&mut self, node: NodeId, looks: u32) {
        if self.operators.removed.contains(&node) || self.quiet || looks == 0 {
            self.operators.leaving = None;
            if !self.operators.removed.contains(&node) {
                self.start_node(node);
            }
            return;
        }
        if self.may_do_without(node) {
            self.ask_to_remove(node);
        }
        self.after(PAUSE, "remove node", move |world| world.await_removal(node, looks - 1));
    }

    /// `weft node remove`: refused at the leader while the node lives or leads.
    fn ask_to_remove(&mut self, node: NodeId) {
        let (Some(leader), term) = (self.metadata.leader.filter(|leader| *leader != node), self.metadata.term) else {
            return;
        };
        if self.metadata.map.nodes.iter().any(|known| known.id == node && known.state == NodeState::Live) {
            return;
        }
        self.operators.asked_at = Some(self.now());
        let done = |world: &mut Self, reply: Result<_, _>| {
            // When nobody knows what came of it, it may still come.
            if reply.is_ok() {
                world.operators.asked_at = None;
            }
        };
        self.propose(leader, term, Command::RemoveNode { node }, Box::new(done));
    }

    /// An operator tries to remove whatever is down, for as long as it takes to hear of refusals.
    pub fn remove_the_dead(&mut self, ms: u64) {
        self.begin_membership();
        let nodes = self.metadata.map.nodes.iter();
        let mut down: Vec<NodeId> = nodes.filter(|n| n.state == NodeState::Down).map(|n| n.id).collect();
        // Each in turn: one that is refused must not keep the others.
        let first = (self.now() / PAUSE) as usize % down.len().max(1);
        down.rotate_left(first);
        if let Some(node) = down.into_iter().find(|node| self.may_do_without(*node)) {
            self.ask_to_remove(node);
        }
        if ms > 0 && !self.quiet {
            self.after(PAUSE, "remove the dead", move |world| world.remove_the_dead(ms.saturating_sub(PAUSE / MS)));
        }
    }

    /// An operator gives up what a group had, in favour of a replica that is no more than stale. A rash one does not ask
    /// whether there is anything better.
    pub fn force_replica(&mut self, rash: bool, ms: u64) {
        let map = std::sync::Arc::clone(&self.metadata.map);
        let live = Liveness::of_map(&map);
        let now = self.now();
        let asked = |pg: &PgId| self.operators.force_asked.get(pg).is_some_and(|at| now - at < SECOND);
        // A rash one asks only where it has to be refused.
        let asks = |r: &&PgRecord| self.hurt.is_empty() && r.in_sync().any(|member| live.is_live(member)) == rash;
        let target = |record: &PgRecord| {
            let fit = |m: &&Member| live.is_live(m) && Some(m.disk) != record.primary;
            record.members.iter().find(fit).map(|member| (record.pg, member.disk, record.loss_generation))
        };
        let found = map.pgs.iter().filter(|record| !asked(&record.pg)).filter(asks).find_map(target);
        if let (Some((pg, disk, loss_generation)), Some(leader)) = (found, self.metadata.leader) {
            self.operators.force_asked.insert(pg, now);
            let command = Command::ForceStale { pg, disk, loss_generation };
            self.propose(leader, self.metadata.term, command, Box::new(|_, _| {}));
        }
        if ms > 0 && !self.quiet {
            self.after(PAUSE, "force", move |world| world.force_replica(rash, ms.saturating_sub(PAUSE / MS)));
        }
    }

    /// Another member of the cluster asks for the end of a session that is not its own.
    pub fn speak_for_another(&mut self, client: usize) {
        let session = self.clients.get(client).and_then(crate::client::SimClient::session_id);
        let (Some(session), Some(leader)) = (session, self.metadata.leader) else { return };
        self.stats.count("requests for the session of another");
        // The control side asks first whose it is (`refusal_to_speak` of the node).
        if read::speaks_for(&self.metadata.view, IMPOSTOR, session).is_ok_and(|speaks| speaks) {
            self.control_request(leader, ControlRequest::CloseSession { session }, Box::new(|_, _| {}));
        }
    }

    /// Raft's membership follows the map, one step at a time (`membership.rs` of the node). In the other seeds nobody comes or
    /// goes.
    fn begin_membership(&mut self) {
        if !std::mem::replace(&mut self.operators.keeps_membership, true) {
            self.keep_membership();
        }
    }

    fn keep_membership(&mut self) {
        let pause = self.between(50 * MS, 500 * MS);
        self.after(pause, "membership", Self::keep_membership);
        let (Some(leader), term) = (self.metadata.leader, self.metadata.term) else { return };
        if !self.has_majority(leader) {
            return;
        }
        let map = std::sync::Arc::clone(&self.metadata.map);
        let gone = |id: &NodeId| map.nodes.iter().any(|known| known.id == *id && known.state == NodeState::Removed);
        let recorded: BTreeSet<NodeId> = map.nodes.iter().filter(|known| known.voter).map(|known| known.id).collect();
        let voting: BTreeSet<NodeId> = self.metadata.voters.iter().copied().filter(|id| !gone(id)).collect();
        if recorded != voting {
            return self.propose(leader, term, Command::SetVoters { voters: voting }, Box::new(|_, _| {}));
        }
        let wanted = voters::wanted(&map.nodes);
        let process = self.nodes.get(&leader).and_then(|node| node.process.as_ref());
        let heard = process.map(|process| process.leader_status().heard).unwrap_or_default();
        let caught_up = |id: &NodeId| {
            let (a, b) = (End::Node(leader), End::Node(*id));
            let reached = self.is_awake(*id) && !self.is_blocked(a, b) && !self.is_blocked(b, a);
            self.metadata.voters.contains(id) || (reached && heard.contains(id))
        };
        if wanted != self.metadata.voters && wanted.iter().all(caught_up) && self.has_majority_of(leader, &wanted) {
            self.say(|| format!("the voters change to {wanted:?}"));
            self.stats.count("changes of voters");
            self.metadata.voters = wanted;
            return;
        }
        let left = self.operators.removed.iter().copied().filter(|id| !self.metadata.voters.contains(id));
        self.operators.left = left.collect();
    }

    /// Whether a node hears of what is committed.
    pub fn takes_part(&self, node: NodeId) -> bool {
        !self.operators.left.contains(&node)
    }

    /// What an operator's command came to, before the map is that of afterwards.
    pub fn operated(&mut self, command: &Command, reply: &CommandReply, map_changed: bool) {
        match (command, reply) {
            (Command::RemoveNode { node }, CommandReply::Done) => self.removed(*node),
            (Command::ForceStale { pg, .. }, CommandReply::SetChanged { .. }) => self.forced(*pg),
            (Command::CloseSession { session }, CommandReply::Done) => self.closed(*session),
            (Command::RemoveNode { .. } | Command::ForceStale { .. }, reply) => {
                self.stats.count("removals and forced replicas refused");
                if map_changed {
                    let what = format!("{command:?} was refused ({reply:?}) and changed the map");
                    self.fail(Oracle::Integrity, what);
                }
            }
            _ => {}
        }
    }

    /// Design 5.9: who has the last good copy is not removed. Design 4.1: who is removed serves nothing.
    fn removed(&mut self, node: NodeId) {
        if !self.operators.removed.insert(node) {
            return;
        }
        self.stats.count("nodes removed");
        if self.serves(node) {
            return self.fail(Oracle::Rights, format!("node {node} is removed while it holds a lease"));
        }
        let map = std::sync::Arc::clone(&self.metadata.map);
        let there = |member: &Member| {
            let on = self.present().find(|present| present.id == member.node);
            member.is_level() && on.is_some_and(|on| on.disk_id == member.disk && !on.disk_lost)
        };
        let has = |record: &&PgRecord| record.members.iter().any(|m| m.node == node && m.is_in_sync());
        let lost = map.pgs.iter().filter(has).find(|record| !record.members.iter().any(there));
        if let Some(record) = lost {
            self.fail(
                Oracle::Flushed,
                format!("node {node} is removed with the last good copy of group {}", record.pg),
            );
        }
    }

    /// Design 5.9: nobody is overruled who is in the set and serves. What was flushed may be lost where it was all given up.
    fn forced(&mut self, pg: PgId) {
        self.stats.count("replicas forced");
        let now = self.now();
        self.operators.forced.entry(pg).or_default().push(now);
        let map = std::sync::Arc::clone(&self.metadata.map);
        let Some(record) = map.pgs.iter().find(|record| record.pg == pg) else { return };
        let overruled = record.in_sync().find(|member| {
            let on = self.nodes.get(&member.node).filter(|on| on.disk_id == member.disk);
            let process = on.and_then(|on| on.process.as_ref());
            process.is_some_and(|process| process.incarnation() == Some(member.incarnation)) && self.serves(member.node)
        });
        if let Some(member) = overruled {
            let what = format!("group {pg}: a replica was forced while disk {} was in the set and live", member.disk);
            self.fail(Oracle::Rights, what);
        }
    }

    /// No client here closes its session: they die, or live to the end.
    fn closed(&mut self, session: SessionId) {
        if self.clients.iter().any(|client| client.session_id() == Some(session)) {
            self.fail(Oracle::Rights, format!("session {session} was closed by somebody else"));
        }
    }

    /// Who was removed stays so, leads nothing, and gets nothing to hold.
    pub fn look_at_the_removed(&mut self, new: &ClusterMap) {
        if self.operators.removed.is_empty() {
            return;
        }
        let old = std::sync::Arc::clone(&self.metadata.map);
        let removed = |node: NodeId| self.operators.removed.contains(&node);
        let back = new.nodes.iter().find(|node| removed(node.id) && node.state != NodeState::Removed);
        let fresh = |record: &PgRecord| {
            let before = old.pgs.iter().find(|before| before.pg == record.pg)?;
            let came = |m: &&Member| before.member(m.disk).is_none() || record.primary == Some(m.disk);
            record.members.iter().filter(|m| removed(m.node)).find(came).map(|member| (record.pg, member.disk))
        };
        let assigned = new.pgs.iter().find_map(fresh);
        if let Some(node) = back {
            return self.fail(Oracle::Rights, format!("node {} was removed, and is {:?}", node.id, node.state));
        }
        if let Some((pg, disk)) = assigned {
            self.fail(Oracle::Rights, format!("group {pg}: disk {disk} of a removed node has a part in it"));
        }
    }

    /// Who was removed never serves again.
    pub fn look_whether_the_removed_serve(&mut self) {
        let serving = self.operators.removed.iter().copied().find(|node| self.serves(*node));
        if let Some(node) = serving {
            self.fail(Oracle::Rights, format!("node {node} was removed and holds a lease"));
        }
    }
}
