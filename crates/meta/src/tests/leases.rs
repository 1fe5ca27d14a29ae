//! A small simulation of leases: messages are delayed and lost, leaders change and old ones linger. Whoever is called
//! dead must hold no lease (design 4.1).

use super::Outcome;
use super::model::Random;
use super::must;
use super::world::World;
use crate::command::Command;
use crate::leader::{Leader, LeaderAction, LeaderEvent, RoundId, Ticket};
use crate::read;
use std::collections::BTreeMap;
use std::time::Duration;
use weft_proto::control::NodeHeartbeat;
use weft_types::limits::NODE_LEASE;
use weft_types::map::NodeState;
use weft_types::{BootTime, Incarnation, MapVersion, NodeId};

/// What is under way, in the order of arrival.
enum Message {
    Heartbeat {
        to: usize,
        sent: BootTime,
        heartbeat: NodeHeartbeat,
    },
    Answer {
        node: u64,
        sent: BootTime,
        map_version: MapVersion,
        incarnation: Incarnation,
    },
    /// A quorum hears of the round: it succeeds if that reign has not ended.
    RoundAsked {
        leader: usize,
        reign: u64,
        round: RoundId,
    },
    RoundAnswered {
        leader: usize,
        round: RoundId,
        confirmed: bool,
    },
    Committed {
        reign: u64,
        command: Command,
    },
}

struct Lease {
    until: BootTime,
    incarnation: Incarnation,
}

struct Simulation {
    random: Random,
    now: BootTime,
    world: World,
    leaders: [Leader; 2],
    leading: usize,
    /// Counts elections, as Raft's term does.
    reign: u64,
    /// Nodes that are down, and the map version, as of the last command.
    down: Vec<u64>,
    version: MapVersion,
    tickets: BTreeMap<Ticket, (u64, BootTime, Incarnation)>,
    messages: BTreeMap<(BootTime, u64), Message>,
    sequence: u64,
    leases: BTreeMap<u64, Lease>,
    /// The leader that each node knows.
    targets: BTreeMap<u64, usize>,
    deaths: u32,
}

pub(super) fn run(seed: u64) -> Outcome {
    let world = World::with_group(3, 3);
    let leases = (1..=3).map(|n| (n, Lease { until: BootTime::ZERO, incarnation: world.incarnation(n) })).collect();
    let mut s = Simulation {
        random: Random::new(seed),
        now: BootTime::from_millis(50_000),
        world,
        leaders: [Leader::new(), Leader::new()],
        leading: 0,
        reign: 0,
        down: Vec::new(),
        version: MapVersion(0),
        tickets: BTreeMap::new(),
        messages: BTreeMap::new(),
        sequence: 0,
        leases,
        targets: BTreeMap::new(),
        deaths: 0,
    };
    s.begin_reign(0)?;
    for _ in 0..1000 {
        s.now = s.now + Duration::from_millis(20);
        s.drive()?;
    }
    must!(s.deaths < 60, "seed {seed}: {} deaths, leases cannot be held", s.deaths);
    s.world.verdict()
}

impl Simulation {
    fn send(&mut self, longest_ms: u64, message: Message) {
        let at = self.now + Duration::from_millis(1 + self.random.below(longest_ms));
        self.sequence += 1;
        self.messages.insert((at, self.sequence), message);
    }

    fn begin_reign(&mut self, leader: usize) -> Outcome {
        self.leading = leader;
        self.reign += 1;
        let facts = read::facts(&self.world.view).map_err(|e| e.to_string())?;
        self.version = facts.map.version;
        self.step(leader, LeaderEvent::BecameLeader { facts })
    }

    fn drive(&mut self) -> Outcome {
        while let Some(entry) = self.messages.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let message = entry.remove();
            self.deliver(message)?;
        }
        for node in 1..=3u64 {
            // Node 3 is often cut off.
            let silent = node == 3 && (self.now.nanoseconds / 3_000_000_000).is_multiple_of(2);
            if self.random.below(12) == 0 && !silent {
                let incarnation = self.leases[&node].incarnation;
                let heartbeat = NodeHeartbeat {
                    node: NodeId(node),
                    incarnation,
                    applied: self.version,
                    reachable: Vec::new(),
                    free_bytes: Vec::new(),
                };
                // It learns late that somebody else leads.
                if self.random.below(6) == 0 {
                    self.targets.insert(node, self.leading);
                }
                let to = self.targets.get(&node).copied().unwrap_or(0);
                self.send(600, Message::Heartbeat { to, sent: self.now, heartbeat });
            }
        }
        // The old leader goes on believing that it leads until a round fails.
        if self.random.below(150) == 0 {
            self.begin_reign(1 - self.leading)?;
        }
        for leader in [0, 1] {
            self.step(leader, LeaderEvent::Tick)?;
        }
        self.register_who_is_down()
    }

    fn register_who_is_down(&mut self) -> Outcome {
        for node in self.down.clone() {
            if self.random.below(50) == 0 {
                self.world.restart(node, true);
                let incarnation = self.world.incarnation(node);
                self.leases.insert(node, Lease { until: BootTime::ZERO, incarnation });
                self.tell_facts()?;
            }
        }
        Ok(())
    }

    fn tell_facts(&mut self) -> Outcome {
        let facts = read::facts(&self.world.view).map_err(|e| e.to_string())?;
        self.version = facts.map.version;
        let down = facts.map.nodes.iter().filter(|n| n.state == NodeState::Down);
        self.down = down.map(|n| n.id.0).collect();
        self.step(self.leading, LeaderEvent::Applied { facts })
    }

    fn deliver(&mut self, message: Message) -> Outcome {
        match message {
            Message::Heartbeat { to, sent, heartbeat } => {
                self.sequence += 1;
                let ticket = Ticket(self.sequence);
                self.tickets.insert(ticket, (heartbeat.node.0, sent, heartbeat.incarnation));
                self.step(to, LeaderEvent::HeartbeatReceived { ticket, heartbeat })
            }
            Message::Answer { node, sent, map_version, incarnation } => {
                let lease = self.leases.get_mut(&node).ok_or("no such node")?;
                if lease.incarnation == incarnation && map_version <= self.version {
                    lease.until = lease.until.max(sent + NODE_LEASE);
                }
                Ok(())
            }
            Message::RoundAsked { leader, reign, round } => {
                let confirmed = reign == self.reign;
                self.send(2500, Message::RoundAnswered { leader, round, confirmed });
                Ok(())
            }
            Message::RoundAnswered { leader, round, confirmed: true } => {
                self.step(leader, LeaderEvent::QuorumRoundDone { round })
            }
            Message::RoundAnswered { leader, round, confirmed: false } => {
                self.step(leader, LeaderEvent::QuorumRoundFailed { round })?;
                if leader != self.leading {
                    self.step(leader, LeaderEvent::LostLeadership)?;
                }
                Ok(())
            }
            Message::Committed { reign, command } => {
                // Raft commits nothing of an older term once the new leader's first entry is committed.
                if reign != self.reign {
                    return Ok(());
                }
                if let Command::NodeDead { node, incarnation } = &command {
                    let lease = &self.leases[&node.0];
                    let holds = lease.incarnation == *incarnation && lease.until > self.now;
                    must!(!holds, "node {node} is called dead and holds a lease for {:?}", lease.until.since(self.now));
                    self.deaths += u32::from(lease.incarnation == *incarnation);
                }
                self.world.run(command);
                self.tell_facts()
            }
        }
    }

    fn step(&mut self, leader: usize, event: LeaderEvent) -> Outcome {
        // The one that lingers is of the reign before.
        let reign = if leader == self.leading { self.reign } else { self.reign - 1 };
        for action in self.leaders[leader].step(event, self.now) {
            match action {
                LeaderAction::StartQuorumRound { round } => {
                    self.send(40, Message::RoundAsked { leader, reign, round });
                }
                LeaderAction::AnswerHeartbeat { ticket, map_version, .. } => {
                    let (node, sent, incarnation) = self.tickets.remove(&ticket).ok_or("answered twice")?;
                    self.send(50, Message::Answer { node, sent, map_version, incarnation });
                }
                LeaderAction::Propose(command) => self.send(30, Message::Committed { reign, command }),
                LeaderAction::Refuse { ticket, .. } | LeaderAction::Drop { ticket } => {
                    self.tickets.remove(&ticket).ok_or("answered twice")?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[test]
fn nobody_who_holds_a_lease_is_ever_called_dead() {
    for seed in 0..20 {
        run(seed).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}
