//! Drives the leader against a world, on a clock of its own.

use super::world::World;
use crate::command::Command;
use crate::leader::{Leader, LeaderAction, LeaderEvent, Reclaimed, RoundId, Ticket};
use crate::read;
use weft_proto::control::{ChangeSetRequest, NodeHeartbeat};
use weft_proto::namespace::{Mutation, NewInode};
use weft_types::map::NodeState;
use weft_types::{BootTime, InodeNumber, MapVersion, NodeId, SessionId};

pub(super) struct Clock {
    pub leader: Leader,
    pub now: BootTime,
    tickets: u64,
    /// What ticks asked for while time passed; `tick` gives it.
    backlog: Vec<LeaderAction>,
}

impl Clock {
    pub fn lead(world: &World) -> Self {
        let now = BootTime::from_millis(100_000_000);
        let mut clock = Self { leader: Leader::new(), now, tickets: 0, backlog: Vec::new() };
        let facts = read::facts(&world.view).unwrap();
        clock.step(LeaderEvent::BecameLeader { facts });
        clock
    }

    pub fn step(&mut self, event: LeaderEvent) -> Vec<LeaderAction> {
        self.leader.step(event, self.now)
    }

    /// Time passes in small steps, as the shell ticks.
    pub fn pass(&mut self, millis: u64) {
        let mut left = millis;
        while left > 0 {
            let step = left.min(250);
            left -= step;
            self.now = self.now + std::time::Duration::from_millis(step);
            if left > 0 {
                let actions = self.step(LeaderEvent::Tick);
                self.backlog.extend(actions);
            }
        }
    }

    pub fn tick(&mut self) -> Vec<LeaderAction> {
        let mut actions = std::mem::take(&mut self.backlog);
        actions.extend(self.step(LeaderEvent::Tick));
        actions
    }

    pub fn applied(&mut self, world: &World) -> Vec<LeaderAction> {
        let facts = read::facts(&world.view).unwrap();
        self.step(LeaderEvent::Applied { facts })
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn beat(&mut self, world: &World, node: u64, applied: MapVersion, reachable: &[u64]) -> Vec<LeaderAction> {
        let heartbeat = NodeHeartbeat {
            node: NodeId(node),
            incarnation: world.incarnation(node),
            applied,
            reachable: reachable.iter().map(|n| NodeId(*n)).collect(),
            free_bytes: Vec::new(),
        };
        let ticket = self.ticket();
        self.step(LeaderEvent::HeartbeatReceived { ticket, heartbeat })
    }

    /// Without finishing the round.
    pub fn send(&mut self, world: &World, node: u64) -> Vec<LeaderAction> {
        self.beat(world, node, world.map().version, &[])
    }

    pub fn round_of(actions: &[LeaderAction]) -> Option<RoundId> {
        actions.iter().find_map(|a| match a {
            LeaderAction::StartQuorumRound { round } => Some(*round),
            _ => None,
        })
    }

    fn finish(&mut self, mut actions: Vec<LeaderAction>) -> Vec<LeaderAction> {
        let mut next = Self::round_of(&actions);
        while let Some(round) = next {
            let more = self.step(LeaderEvent::QuorumRoundDone { round });
            next = Self::round_of(&more);
            actions.extend(more);
        }
        actions
    }

    pub fn heartbeat(&mut self, world: &World, node: u64, applied: MapVersion) -> Vec<LeaderAction> {
        let actions = self.beat(world, node, applied, &[]);
        self.finish(actions)
    }

    pub fn reach(&mut self, world: &World, node: u64, reachable: &[u64]) {
        let actions = self.beat(world, node, world.map().version, reachable);
        self.finish(actions);
    }

    /// Every live node beats, having applied the present map; then a tick.
    pub fn heartbeat_all(&mut self, world: &World) -> Vec<LeaderAction> {
        let map = world.map();
        let mut actions = Vec::new();
        for node in map.nodes.iter().filter(|n| n.state == NodeState::Live) {
            actions.extend(self.heartbeat(world, node.id.0, map.version));
        }
        actions.extend(self.tick());
        actions
    }

    pub fn session_is_answered(&mut self, session: SessionId) -> bool {
        let ticket = self.ticket();
        let actions = self.step(LeaderEvent::SessionHeartbeat { ticket, session });
        let actions = self.finish(actions);
        actions.iter().any(|a| matches!(a, LeaderAction::AnswerSession { .. }))
    }

    pub fn ask(&mut self, request: ChangeSetRequest) -> Option<Command> {
        let ticket = self.ticket();
        let actions = self.step(LeaderEvent::SetChangeRequested { ticket, request });
        actions.into_iter().find_map(|a| match a {
            LeaderAction::ProposeFor { command, .. } => Some(command),
            _ => None,
        })
    }
}

fn proposals(actions: &[LeaderAction]) -> Vec<Command> {
    let proposed = |a: &LeaderAction| match a {
        LeaderAction::Propose(command) => Some(command.clone()),
        _ => None,
    };
    actions.iter().filter_map(proposed).collect()
}

#[test]
fn a_dead_node_is_noticed_within_the_ttl_and_margin_and_writes_resume_in_one_command() {
    let mut w = World::with_group(3, 3);
    let mut clock = Clock::lead(&w);
    clock.heartbeat_all(&w);
    let dead = w.leader_node();
    let mut waited = 0;
    let command = loop {
        clock.pass(50);
        waited += 50;
        let mut actions = Vec::new();
        for node in (1..=3).filter(|n| *n != dead) {
            actions.extend(clock.heartbeat(&w, node, w.map().version));
        }
        actions.extend(clock.tick());
        if let Some(command) = proposals(&actions).pop() {
            break command;
        }
    };
    assert!((2250..=2300).contains(&waited), "{waited} ms");
    w.run(command);
    assert_ne!(w.leader_node(), dead);
    assert_eq!(w.pg().in_sync().count(), 2, "the dead member holds up no write");
    w.verdict().unwrap();
}

#[test]
fn who_was_called_dead_is_never_answered_under_that_incarnation() {
    let mut w = World::with_group(3, 3);
    let mut clock = Clock::lead(&w);
    clock.pass(2200);
    let waiting = clock.send(&w, 3);
    let round = Clock::round_of(&waiting).unwrap();
    clock.pass(100);
    let tick = clock.tick();
    assert!(proposals(&tick).iter().any(|c| matches!(c, Command::NodeDead { node: NodeId(3), .. })), "{tick:?}");
    let done = clock.step(LeaderEvent::QuorumRoundDone { round });
    assert!(done.iter().all(|a| !matches!(a, LeaderAction::AnswerHeartbeat { .. })), "{done:?}");
    w.kill(3);
    clock.applied(&w);
    let refused = clock.send(&w, 3);
    assert!(matches!(refused[0], LeaderAction::Refuse { .. }), "{refused:?}");
    w.restart(3, true);
    clock.applied(&w);
    let answered = clock.heartbeat(&w, 3, w.map().version);
    assert!(answered.iter().any(|a| matches!(a, LeaderAction::AnswerHeartbeat { .. })), "{answered:?}");
}

#[test]
fn a_failed_quorum_round_answers_nobody_and_the_next_one_begins() {
    let w = World::with_group(3, 3);
    let mut clock = Clock::lead(&w);
    let round = Clock::round_of(&clock.send(&w, 1)).unwrap();
    clock.send(&w, 2);
    let failed = clock.step(LeaderEvent::QuorumRoundFailed { round });
    assert!(failed.iter().any(|a| matches!(a, LeaderAction::Drop { .. })));
    let next = Clock::round_of(&failed).unwrap();
    assert!(clock.step(LeaderEvent::QuorumRoundDone { round }).is_empty(), "an old round answers nobody");
    clock.step(LeaderEvent::LostLeadership);
    assert!(clock.step(LeaderEvent::QuorumRoundDone { round: next }).is_empty());
    let facts = read::facts(&w.view).unwrap();
    clock.step(LeaderEvent::BecameLeader { facts });
    let again = Clock::round_of(&clock.send(&w, 1)).unwrap();
    assert!(again > next, "round ids are not used twice");
}

#[test]
fn a_fence_completes_only_when_every_live_node_has_acknowledged() {
    let mut w = World::with_group(3, 3);
    let session = w.session();
    let mut clock = Clock::lead(&w);
    clock.heartbeat_all(&w);
    let strike = proposals(&clock.step(LeaderEvent::EvictSession { session }));
    assert_eq!(strike, [Command::StrikeSession { session }]);
    w.run(strike[0].clone());
    assert!(proposals(&clock.applied(&w)).is_empty());
    let version = w.map().version;
    assert!(!w.map().is_live(session));
    clock.heartbeat(&w, 1, version);
    assert!(proposals(&clock.heartbeat(&w, 2, version)).is_empty(), "node 3 has not acknowledged");
    assert!(!clock.session_is_answered(session), "a struck session is alive");
    let done = proposals(&clock.heartbeat(&w, 3, version));
    assert_eq!(done, [Command::FenceComplete { session, since: version }]);
}

#[test]
fn a_fence_does_not_wait_for_who_registered_after_the_strike() {
    let mut w = World::with_group(3, 3);
    let (one, other) = (w.session(), w.session());
    let mut clock = Clock::lead(&w);
    let strike = |w: &mut World, clock: &mut Clock, session| {
        let strike = proposals(&clock.step(LeaderEvent::EvictSession { session }));
        assert_eq!(strike, [Command::StrikeSession { session }]);
        w.run(strike[0].clone());
        clock.applied(w);
        let version = w.map().version;
        let told = [1, 2].map(|node| proposals(&clock.heartbeat(w, node, version)));
        assert_eq!(told, [const { Vec::new() }; 2], "node 3 has not acknowledged");
        version
    };
    let since = strike(&mut w, &mut clock, one);
    // Node 3 hears of no map. It starts anew, as often as it likes.
    w.restart(3, true);
    let done = proposals(&clock.applied(&w));
    assert_eq!(done, [Command::FenceComplete { session: one, since }]);
    w.run(done[0].clone());
    clock.applied(&w);
    // What comes after its registration it has to acknowledge.
    let since = strike(&mut w, &mut clock, other);
    let done = proposals(&clock.heartbeat(&w, 3, since));
    assert_eq!(done, [Command::FenceComplete { session: other, since }]);
}

#[test]
fn deletions_are_handed_out_until_they_are_done() {
    let mut w = World::with_group(3, 3);
    let s = w.session();
    let f = w.make(s, InodeNumber::ROOT, "f", NewInode::Regular).unwrap();
    w.open(s, f, true).unwrap();
    w.mutate(s, Mutation::Close { inode: f }).unwrap();
    w.mutate(s, Mutation::Unlink { parent: InodeNumber::ROOT, name: b"f".to_vec() }).unwrap();
    let mut clock = Clock::lead(&w);
    let begun = clock.tick();
    let item = read::reclaims(&w.view, 9).unwrap()[0];
    let start = LeaderAction::StartReclaim(item);
    // It may have begun when this leader did; a fresh leader begins it once.
    let (volume, object, generation) = (item.volume, item.object, item.generation());
    assert!(begun.iter().filter(|a| **a == start).count() <= 1);
    let finished = |outcome| LeaderEvent::ReclaimFinished { volume, object, generation, outcome };
    assert!(!clock.step(finished(Reclaimed::Failed)).contains(&start), "no wait after a failure");
    clock.pass(2100);
    assert!(clock.tick().contains(&start), "a failed deletion is not tried again");
    let done = proposals(&clock.step(finished(Reclaimed::Finished)));
    assert_eq!(done, [Command::ReclaimDone { volume, object, generation }]);
    w.run(done[0].clone());
    assert!(read::reclaims(&w.view, 9).unwrap().is_empty());
}

#[test]
fn a_member_that_is_dead_for_long_is_replaced_by_a_spare() {
    let mut w = World::with_group(4, 3);
    let spare = (1..=4).find(|n| w.state(*n).is_none()).unwrap();
    let dead = w.backups()[0];
    w.kill(dead);
    let mut clock = Clock::lead(&w);
    let mut replaced = None;
    for _ in 0..650 {
        clock.pass(1000);
        let actions = clock.heartbeat_all(&w);
        if let Some(command) = proposals(&actions).pop() {
            replaced = Some(command);
            break;
        }
    }
    let command = replaced.unwrap();
    assert!(
        matches!(&command, Command::ReplaceMember { spare: s, .. } if *s == super::world::disk(spare)),
        "{command:?}"
    );
    w.run(command);
    clock.applied(&w);
    clock.pass(2000);
    assert!(proposals(&clock.heartbeat_all(&w)).is_empty(), "one replacement is enough");
    w.verdict().unwrap();
}

/// Simulator, seed 189: the member that is dead and still counts has its replacement on its own node already, so that nothing can
/// take its place; the other dead one can be replaced all the same.
#[test]
fn a_dead_member_that_finds_no_spare_does_not_keep_another_from_one() {
    let mut w = World::with_group(3, 3);
    let leader = w.leader_node();
    let others: Vec<u64> = w.pg().members.iter().map(|m| m.node.0).filter(|node| *node != leader).collect();
    let (first, second) = (others[0], others[1]);
    let fresh = |node: u64| super::world::disk(100 + node);
    let fail = |w: &mut World, node: u64| {
        let incarnation = w.incarnation(node);
        w.run(Command::DiskFailed { disk: super::world::disk(node), incarnation });
    };
    let add = |w: &mut World, node: u64| {
        let incarnation = w.incarnation(node);
        w.run(Command::AddDisk { disk: fresh(node), node: NodeId(node), incarnation, capacity_bytes: 1 << 40 });
    };
    fail(&mut w, second);
    fail(&mut w, first);
    add(&mut w, first);
    let mut clock = Clock::lead(&w);
    let replace = |w: &World, clock: &mut Clock| {
        clock.pass(1000);
        let mut found = proposals(&clock.heartbeat_all(w));
        found.retain(|command| matches!(command, Command::ReplaceMember { .. }));
        found.pop().map(|command| match command {
            Command::ReplaceMember { dead, spare, .. } => ((dead, spare), command),
            _ => unreachable!(),
        })
    };
    let (pair, command) = replace(&w, &mut clock).unwrap();
    assert_eq!(pair, (super::world::disk(first), fresh(first)));
    w.run(command);
    assert!(w.pg().member(super::world::disk(first)).is_some(), "the minimum keeps it in the set");
    add(&mut w, second);
    clock.applied(&w);
    let (pair, command) = replace(&w, &mut clock).expect("nobody is replaced");
    assert_eq!(pair, (super::world::disk(second), fresh(second)));
    w.run(command);
    w.verdict().unwrap();
}

#[test]
fn a_leader_that_was_starved_itself_hears_everybody_before_it_judges() {
    let w = World::with_group(3, 3);
    let mut clock = Clock::lead(&w);
    clock.heartbeat_all(&w);
    clock.now = clock.now + std::time::Duration::from_secs(5);
    let woken = clock.tick();
    assert!(proposals(&woken).is_empty(), "{woken:?}");
    clock.heartbeat(&w, 1, w.map().version);
    clock.heartbeat(&w, 2, w.map().version);
    clock.pass(800);
    let judged = proposals(&clock.tick());
    assert!(matches!(judged[..], [Command::NodeDead { node: NodeId(3), .. }]), "{judged:?}");
}
