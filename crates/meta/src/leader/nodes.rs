//! Leases of nodes: who is answered, who is dead, who has acknowledged which map version (design 4.1 to 4.3).

use super::events::Facts;
use super::{LeaderStatus, Proposer, Topic};
use crate::command::Command;
use crate::mutants::{Mutant, planted};
use std::collections::{BTreeMap, VecDeque};
use weft_proto::control::NodeHeartbeat;
use weft_types::limits::{LEASE_MARGIN, NODE_LEASE};
use weft_types::map::NodeState;
use weft_types::{BootTime, ErrorKind, Incarnation, MapVersion, NodeId};

#[derive(Clone, Debug)]
struct NodeLease {
    incarnation: Incarnation,
    /// Receipt of the last heartbeat that was answered: its lease, which runs from when it was sent, ends no later than a
    /// TTL after this. For a node that was not answered yet: when this leader first knew of the incarnation.
    answered: BootTime,
    /// Its death was proposed; it is never answered again.
    condemned: bool,
    applied: MapVersion,
    /// The node registered under this incarnation after this version, and takes in no map older than its registration.
    registered_after: MapVersion,
    last: Option<(BootTime, NodeHeartbeat)>,
}

#[derive(Debug)]
pub(super) struct NodeLeases {
    leases: BTreeMap<NodeId, NodeLease>,
    /// Map versions and when this leader first knew them; the first element is at least a TTL old or the first of all.
    versions: VecDeque<(MapVersion, BootTime)>,
    /// Incarnations above were given after the last version that is known.
    highest: Incarnation,
}

impl NodeLease {
    /// Whoever registered later has acted on nothing older. If it were waited for, nodes that start anew in turn and hear
    /// of no map would keep a fence from its end for good.
    fn has_acknowledged(&self, version: MapVersion) -> bool {
        self.applied.max(self.registered_after) >= version
    }
}

/// Why a heartbeat does not wait for a round.
#[derive(Debug)]
pub(super) enum NoAnswer {
    Silence,
    Refusal(ErrorKind),
}

impl NodeLeases {
    /// A new leader does not know whom the old one answered: everybody gets a whole TTL (attack new-leader-haste).
    pub fn begin(facts: &Facts, now: BootTime) -> Self {
        let mut leases = Self { leases: BTreeMap::new(), versions: VecDeque::new(), highest: Incarnation(0) };
        leases.sync(facts, if planted(Mutant::HastyLeader) { BootTime::ZERO } else { now });
        leases
    }

    pub fn sync(&mut self, facts: &Facts, now: BootTime) {
        let before = self.versions.back().map(|(version, _)| *version).unwrap_or_default();
        if self.versions.back().is_none_or(|(version, _)| *version < facts.map.version) {
            self.versions.push_back((facts.map.version, now));
        }
        while self.versions.get(1).is_some_and(|(_, since)| now.since(*since) >= NODE_LEASE) {
            self.versions.pop_front();
        }
        let live: BTreeMap<NodeId, Incarnation> =
            facts.map.nodes.iter().filter(|n| n.state == NodeState::Live).map(|n| (n.id, n.incarnation)).collect();
        self.leases.retain(|node, lease| live.get(node) == Some(&lease.incarnation));
        for (node, incarnation) in live {
            let registered_after = if incarnation > self.highest { before } else { MapVersion(0) };
            self.leases.entry(node).or_insert(NodeLease {
                incarnation,
                answered: now,
                condemned: false,
                applied: MapVersion(0),
                registered_after,
                last: None,
            });
        }
        let given = facts.map.nodes.iter().map(|node| node.incarnation);
        self.highest = given.fold(self.highest, Incarnation::max);
    }

    /// Takes note of a heartbeat. What it acknowledges counts at once: an applied version stays applied.
    pub fn receive(&mut self, facts: &Facts, heartbeat: &NodeHeartbeat, now: BootTime) -> Result<(), NoAnswer> {
        let known = facts.map.nodes.iter().find(|n| n.id == heartbeat.node);
        match known {
            Some(known) if known.incarnation < heartbeat.incarnation => return Err(NoAnswer::Silence),
            Some(known) if known.incarnation == heartbeat.incarnation && known.state == NodeState::Live => {}
            _ => {
                let text = format!(
                    "incarnation {} of node {} is over: register a new one",
                    heartbeat.incarnation, heartbeat.node
                );
                return Err(NoAnswer::Refusal(ErrorKind::Refused(text)));
            }
        }
        let Some(lease) = self.leases.get_mut(&heartbeat.node) else { return Err(NoAnswer::Silence) };
        lease.applied = lease.applied.max(heartbeat.applied);
        lease.last = Some((now, heartbeat.clone()));
        if lease.condemned { Err(NoAnswer::Silence) } else { Ok(()) }
    }

    /// Whether a heartbeat whose round is done is answered.
    pub fn answer(&mut self, node: NodeId, incarnation: Incarnation, received: BootTime, now: BootTime) -> bool {
        let required = self.required(now);
        let Some(lease) = self.leases.get_mut(&node) else { return false };
        if lease.incarnation != incarnation || lease.condemned {
            return false;
        }
        // A node that does not keep up with the map loses its lease, so that moves and fences complete (design 4.2,
        // attack live-not-applying).
        if lease.applied < required && !planted(Mutant::AnswerLaggard) {
            return false;
        }
        lease.answered = lease.answered.max(received);
        true
    }

    /// The newest map version that has been known for a whole TTL.
    fn required(&self, now: BootTime) -> MapVersion {
        let old = self.versions.iter().filter(|(_, since)| now.since(*since) >= NODE_LEASE);
        old.map(|(version, _)| *version).max().unwrap_or_default()
    }

    /// Calls those dead whose lease has certainly lapsed.
    pub fn bury(&mut self, now: BootTime, propose: &mut Proposer<'_>) {
        for (node, lease) in &mut self.leases {
            if lease.condemned || now.since(lease.answered) >= NODE_LEASE + LEASE_MARGIN {
                lease.condemned = true;
                let command = Command::NodeDead { node: *node, incarnation: lease.incarnation };
                propose.propose(Topic::Dead(*node, lease.incarnation), command);
            }
        }
    }

    /// Whether this node's present incarnation has applied the version. A node that is not live serves nothing.
    pub fn acknowledged_by(&self, node: NodeId, version: MapVersion) -> bool {
        self.leases.get(&node).is_none_or(|lease| lease.has_acknowledged(version))
    }

    /// Whether every live node has.
    pub fn acknowledged(&self, version: MapVersion) -> bool {
        self.leases.values().all(|lease| lease.has_acknowledged(version))
    }

    /// Whether `from` said lately that it reaches `to`; `None` when it said nothing lately.
    pub fn reaches(&self, from: NodeId, to: NodeId, now: BootTime) -> Option<bool> {
        let (at, heartbeat) = self.leases.get(&from)?.last.as_ref()?;
        (now.since(*at) < NODE_LEASE).then(|| heartbeat.reachable.contains(&to))
    }

    pub fn status(&self, now: BootTime) -> LeaderStatus {
        let millis = |at: BootTime| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
        let heard = self.leases.iter().filter(|(_, lease)| lease.last.is_some());
        let heard = heard.map(|(node, _)| *node).collect();
        let said = self.leases.values().filter_map(|l| l.last.as_ref());
        LeaderStatus {
            last_heartbeat_ms: self.leases.iter().map(|(node, l)| (*node, millis(l.answered))).collect(),
            free_bytes: said.flat_map(|(_, heartbeat)| heartbeat.free_bytes.iter().copied()).collect(),
            heard,
        }
    }
}
