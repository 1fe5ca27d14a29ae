//! What the metadata group makes of starts and ends of processes, held against what happened to them (design 3, 4.1, 4.6, 5.4).
//!
//! Guarantees: they only look; a run is the same with and without them. Must not know: how the group decides.

use crate::failure::Oracle;
use crate::node::control::start_of;
use crate::world::{MS, World};
use std::collections::BTreeMap;
use weft_meta::{Command, CommandReply};
use weft_proto::control::{ChangeSetRequest, NodeHeartbeat, RegisterNode, SetChange};
use weft_types::map::{ClusterMap, DiskState, Member, MemberState, NodeState};
use weft_types::{DiskId, Incarnation, NodeId, PgId, SetVersion, StartId};

/// What the group has heard of starts.
#[derive(Default)]
pub struct Registrations {
    /// The start whose request was committed last.
    last: BTreeMap<NodeId, StartId>,
    /// The highest incarnation that a node has said it was before.
    came_as: BTreeMap<NodeId, Incarnation>,
    /// By leader and node: whom the node said that it reaches, when, and in which term of the leader.
    reached: BTreeMap<(NodeId, NodeId), (u64, u64, Vec<NodeId>)>,
    /// Requests to remove a member, and whether it was known of all of them, when they came, that it is the accuser whom nobody
    /// reaches.
    accusations: BTreeMap<(PgId, SetVersion, DiskId), bool>,
}

/// What a node said counts for a lease; by the leader's own clock, which may run a little fast.
const SAID_LATELY: u64 = 1900 * MS;

impl World {
    /// A heartbeat has come to a node that believes to lead.
    pub fn hear_who_is_reached(&mut self, leader: NodeId, term: u64, heartbeat: &NodeHeartbeat) {
        let said = (self.now(), term, heartbeat.reachable.clone());
        self.registrations.reached.insert((leader, heartbeat.node), said);
    }

    /// A primary wants a member removed: is it the primary itself that the others do not reach (design 5.3)?
    pub fn hear_accusation(&mut self, leader: NodeId, term: u64, request: &ChangeSetRequest) {
        let SetChange::Remove { disk } = request.change else { return };
        let unfounded = self.is_unfounded(leader, term, request, disk);
        let key = (request.pg, request.set_version, disk);
        *self.registrations.accusations.entry(key).or_insert(true) &= unfounded;
    }

    /// Whether all members that count and take no part in it reach the accused, and none of them the accuser, and said so lately.
    fn is_unfounded(&self, leader: NodeId, term: u64, request: &ChangeSetRequest, accused: DiskId) -> bool {
        let map = &self.metadata.map;
        let live = |member: &&Member| {
            let node = map.nodes.iter().find(|node| node.id == member.node && node.state == NodeState::Live);
            node.is_some_and(|node| node.incarnation == member.incarnation)
        };
        let record = map.pgs.iter().find(|record| record.pg == request.pg && record.set_version == request.set_version);
        let Some(record) = record.filter(|r| r.primary == Some(request.requester) && r.epoch == request.epoch) else {
            return false;
        };
        let (Some(accuser), Some(accused)) = (record.member(request.requester), record.member(accused)) else {
            return false;
        };
        let others = record.members.iter().filter(|member| member.is_in_sync()).filter(live);
        let witnesses: Vec<&Member> = others.filter(|m| m.node != accuser.node && m.node != accused.node).collect();
        let says = |witness: &&Member| {
            let said = self.registrations.reached.get(&(leader, witness.node));
            said.is_some_and(|(at, heard_in, reached)| {
                self.now() - at < SAID_LATELY
                    && *heard_in == term
                    && reached.contains(&accused.node)
                    && !reached.contains(&accuser.node)
            })
        };
        let somebody_else = witnesses.iter().copied().chain([accused]).any(|member| member.is_level() && live(&member));
        !witnesses.is_empty() && witnesses.iter().all(says) && somebody_else
    }

    /// A member was removed: not by a primary that is alone, whose place another one takes instead (design 5.3).
    pub fn look_at_removal(&mut self, request: &ChangeSetRequest) {
        let SetChange::Remove { disk } = request.change else { return };
        let unfounded = self.registrations.accusations.get(&(request.pg, request.set_version, disk));
        if unfounded == Some(&true) {
            let what = format!("disk {disk} is removed, which others reach; they do not reach {}", request.requester);
            self.fail(Oracle::Rights, format!("group {}: {what}", request.pg));
        }
    }
}

impl World {
    /// The map has changed.
    pub fn look_at_nodes(&mut self, before: &ClusterMap) {
        let map = std::sync::Arc::clone(&self.metadata.map);
        // Only who holds no lease is called down: a late word about an earlier process says nothing of this one (design 4.1).
        let was_live = |id: NodeId| before.nodes.iter().any(|node| node.id == id && node.state == NodeState::Live);
        for node in map.nodes.iter().filter(|node| node.state != NodeState::Live && was_live(node.id)) {
            let process = self.nodes.get(&node.id).and_then(|n| n.process.as_ref());
            if process.and_then(|process| process.incarnation()) == Some(node.incarnation) && self.serves(node.id) {
                return self.fail(Oracle::Rights, format!("node {} is down while it holds a lease", node.id));
            }
        }
        // What a disk has that failed nobody knows, so it never comes back under its name (design 4.6).
        let failed = |id: DiskId| before.disks.iter().any(|disk| disk.id == id && disk.state == DiskState::Failed);
        if let Some(disk) = map.disks.iter().find(|disk| disk.state == DiskState::Active && failed(disk.id)) {
            self.fail(Oracle::Promises, format!("disk {} had failed, and is taken in again", disk.id));
        }
    }

    /// A start of a process has been given an incarnation.
    pub fn look_at_registration(&mut self, before: &ClusterMap, command: &Command, reply: &CommandReply) {
        let (Command::RegisterNode(request), CommandReply::Registered { .. }) = (command, reply) else { return };
        let id = request.node;
        let again = self.registrations.last.insert(id, request.start) == Some(request.start);
        let known = self.registrations.came_as.entry(id).or_default();
        if request.previous < *known {
            // Its store is a copy from before, or none: it may have promised and forgotten it (design 3).
            let what = format!("node {id} comes as {}, has come as {known}, and is registered", request.previous);
            return self.fail(Oracle::Rights, what);
        }
        *known = request.previous;
        if let Err(what) = self.look_at_losses(before, request, again) {
            self.fail(Oracle::Promises, what);
        }
    }

    /// Replicas count as lossy that may have lost something with the power, and no others only because a request of the same start
    /// was committed twice (design 5.4).
    fn look_at_losses(&self, before: &ClusterMap, request: &RegisterNode, again: bool) -> Result<(), String> {
        let id = request.node;
        let ended = before.nodes.iter().find(|node| node.id == id).map(|node| node.incarnation);
        let lost_of = self.nodes.get(&id).and_then(|node| node.lost_of);
        // Who asked before the power went said what was true, and nobody is what it was registered as: the next start tells.
        let says_so = request.disks.iter().any(|disk| disk.proof.is_some_and(|proof| Some(proof.of) == ended));
        let was_true = says_so && self.life_of(id).is_none_or(|life| request.start != start_of(id, life));
        let lost = lost_of.is_some() && ended == lost_of && !was_true;
        for record in &self.metadata.map.pgs {
            let was = before.pgs.iter().find(|old| old.pg == record.pg);
            let came = |disk: DiskId| request.disks.iter().any(|one| one.disk == disk);
            for member in record.members.iter().filter(|member| member.node == id && came(member.disk)) {
                let MemberState::InSync { lossy, .. } = member.state else { continue };
                let was = was.and_then(|old| old.member(member.disk)).map(|old| old.state);
                let was_lossless = matches!(was, Some(MemberState::InSync { lossy: false, .. }));
                let what = match (lossy, was_lossless) {
                    (true, true) if again => "counts as lossy, because its process has asked twice",
                    (false, true) if lost => "counts as level, and its machine has lost its power since",
                    _ => continue,
                };
                return Err(format!("group {}: disk {} {what}", record.pg, member.disk));
            }
        }
        Ok(())
    }
}
