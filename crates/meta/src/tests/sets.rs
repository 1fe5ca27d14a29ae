//! Rules of the in-sync set, and a random walk over all of them.

use super::world::{PG, World, disk};
use crate::command::{Command, CommandReply, SetRefusal};
use crate::read;
use weft_proto::control::SetChange;
use weft_types::map::MemberState;
use weft_types::{DiskId, Epoch, Incarnation, LossGeneration, MapVersion, NodeId, SetVersion};

const LEVEL: MemberState = MemberState::InSync { lossy: false, behind: false };

fn refusal(reply: CommandReply) -> SetRefusal {
    match reply {
        CommandReply::SetRefused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn each_fact_that_a_request_names_is_compared() {
    let mut w = World::with_group(3, 3);
    let good = w.request(SetChange::Remove { disk: disk(w.backups()[0]) });
    let mut r = good.clone();
    r.epoch = Epoch(r.epoch.0 + 1);
    assert!(matches!(refusal(w.run(Command::ChangeSet(r))), SetRefusal::StaleEpoch { .. }));
    let mut r = good.clone();
    r.set_version = SetVersion(0);
    assert!(matches!(refusal(w.run(Command::ChangeSet(r))), SetRefusal::StaleSetVersion { .. }));
    let mut r = good.clone();
    r.incarnation = Incarnation(99);
    assert!(matches!(refusal(w.run(Command::ChangeSet(r))), SetRefusal::StaleIncarnation { .. }));
    let mut r = good.clone();
    r.requester = disk(w.backups()[1]);
    assert_eq!(refusal(w.run(Command::ChangeSet(r))), SetRefusal::NotPrimary);
    let mut r = good.clone();
    r.pg.index = 9;
    assert_eq!(refusal(w.run(Command::ChangeSet(r))), SetRefusal::UnknownGroup);
    assert!(matches!(w.run(Command::ChangeSet(good)), CommandReply::SetChanged { .. }));
}

#[test]
fn each_change_is_refused_where_it_does_not_apply() {
    let mut w = World::with_group(3, 3);
    let (a, b, c) = (w.leader_node(), w.backups()[0], w.backups()[1]);
    assert_eq!(refusal(w.level()), SetRefusal::AlreadyLevelled);
    assert_eq!(refusal(w.change(SetChange::Remove { disk: disk(a) })), SetRefusal::RemovesItself);
    assert_eq!(refusal(w.change(SetChange::Remove { disk: DiskId(5) })), SetRefusal::NotMember(DiskId(5)));
    assert_eq!(refusal(w.change(SetChange::Caught { disk: disk(b) })), SetRefusal::AlreadyLevel(disk(b)));
    assert_eq!(refusal(w.change(SetChange::BeginSync { disk: disk(b) })), SetRefusal::NotOut(disk(b)));
    assert_eq!(refusal(w.change(SetChange::Promote { disk: disk(b) })), SetRefusal::NotSyncing(disk(b)));
    assert_eq!(refusal(w.change(SetChange::AcceptLoss { from: LossGeneration(0) })), SetRefusal::LevelMemberLive);
    w.change(SetChange::Remove { disk: disk(b) });
    assert_eq!(refusal(w.change(SetChange::Remove { disk: disk(b) })), SetRefusal::NotInSync(disk(b)));
    assert_eq!(
        refusal(w.change(SetChange::Remove { disk: disk(c) })),
        SetRefusal::BelowMinimum { level: 1, minimum: 2 }
    );
    w.kill(b);
    assert_eq!(refusal(w.change(SetChange::BeginSync { disk: disk(b) })), SetRefusal::NotLive(disk(b)));
    w.restart(b, true);
    assert_eq!(w.state(b), Some(MemberState::Out), "a returning member stays out until its primary takes it in");
    w.change(SetChange::BeginSync { disk: disk(b) });
    w.restart(b, true);
    assert_eq!(w.state(b), Some(MemberState::Syncing), "a syncing member stays syncing");
    w.change(SetChange::Promote { disk: disk(b) });
    assert_eq!(w.state(b), Some(LEVEL));
    w.kill(a);
    let d = disk(w.leader_node());
    assert_eq!(refusal(w.change(SetChange::BeginSync { disk: d })), SetRefusal::NotLevelled);
    assert_eq!(refusal(w.change(SetChange::Levelled { disks: vec![] })), SetRefusal::PrimaryNotLevelled);
    assert_eq!(refusal(w.change(SetChange::Levelled { disks: vec![d, disk(a)] })), SetRefusal::NotLive(disk(a)));
    w.verdict().unwrap();
}

#[test]
fn a_single_replica_is_never_removed_and_leads_again_when_it_is_back_with_proof() {
    let mut w = World::with_group(1, 1);
    let epoch = w.pg().epoch;
    w.kill(1);
    assert_eq!(w.state(1), Some(LEVEL));
    assert_eq!(w.pg().primary, None);
    w.restart(1, true);
    assert_eq!(w.leader_node(), 1);
    assert!(w.pg().epoch > epoch);
    w.verdict().unwrap();
}

#[test]
fn a_move_ends_with_the_old_primary_even_when_its_target_is_gone() {
    let mut w = World::with_group(3, 3);
    let (a, b) = (w.leader_node(), w.backups()[0]);
    let pg = w.pg();
    let begin = Command::MovePrimary { pg: PG, epoch: pg.epoch, set_version: pg.set_version, to: disk(b) };
    w.run(begin);
    let since = w.map().version;
    assert_eq!(w.pg().pending_move.map(|m| m.since), Some(since));
    w.kill(b);
    let early = Command::CompleteMove { pg: PG, epoch: pg.epoch, since: MapVersion(1) };
    assert_eq!(refusal(w.run(early)), SetRefusal::NoSuchMove);
    w.run(Command::CompleteMove { pg: PG, epoch: pg.epoch, since });
    assert!(w.pg().epoch > pg.epoch, "the old epoch answers no more, a new one has to begin");
    assert_eq!(w.pg().pending_move, None);
    assert_ne!(w.leader_node(), 0);
    // And when the old primary dies meanwhile, its death is the move.
    let mut w = World::with_group(3, 3);
    let (a2, b) = (w.leader_node(), w.backups()[1]);
    let pg = w.pg();
    w.run(Command::MovePrimary { pg: PG, epoch: pg.epoch, set_version: pg.set_version, to: disk(b) });
    w.kill(a2);
    assert_eq!(w.leader_node(), b);
    assert_eq!(a, a2);
    w.verdict().unwrap();
}

#[test]
fn a_stale_replica_leads_only_by_an_operator_who_names_the_loss() {
    let mut w = World::with_group(3, 3);
    let (a, b, c) = (w.leader_node(), w.backups()[0], w.backups()[1]);
    w.kill(b);
    w.restart(b, true);
    let force = |loss| Command::ForceStale { pg: PG, disk: disk(b), loss_generation: LossGeneration(loss) };
    assert_eq!(refusal(w.run(force(0))), SetRefusal::InSyncMemberLive);
    w.kill(a);
    w.kill(c);
    assert_eq!(w.leader_node(), 0);
    assert!(matches!(refusal(w.run(force(7))), SetRefusal::StaleLossGeneration { .. }));
    w.run(force(0));
    assert_eq!(w.leader_node(), b);
    assert_eq!(w.pg().loss_generation, LossGeneration(1));
    assert_eq!(w.state(a), Some(MemberState::Out));
    w.verdict().unwrap();
}

#[test]
fn a_late_word_of_death_about_an_old_incarnation_changes_nothing() {
    let mut w = World::with_group(3, 3);
    let old = w.incarnation(2);
    w.restart(2, true);
    let before = w.map();
    w.run(Command::NodeDead { node: NodeId(2), incarnation: old });
    w.run(Command::SurrenderLease { node: NodeId(2), incarnation: old });
    assert_eq!(w.map(), before);
}

#[test]
fn a_disk_that_is_missing_at_registration_leaves_the_set_and_takes_no_replica() {
    let mut w = World::with_group(3, 3);
    let b = w.backups()[0];
    let was = w.incarnation(b);
    w.register_disks(b, was.0, Vec::new());
    assert_eq!(w.state(b), Some(MemberState::Out));
    let reply = w.volume("w", 3, 1);
    assert!(matches!(reply, CommandReply::Refused(_)), "{reply:?}");
    w.restart(b, true);
    w.change(SetChange::BeginSync { disk: disk(b) });
    assert_eq!(w.state(b), Some(MemberState::Syncing));
    w.verdict().unwrap();
}

#[test]
fn a_surplus_member_is_dropped_when_its_replacement_is_level() {
    let mut w = World::with_group(4, 3);
    let spare = (1..=4).find(|n| w.state(*n).is_none()).unwrap();
    let dead = w.backups()[0];
    w.kill(dead);
    let set_version = w.pg().set_version;
    w.run(Command::ReplaceMember { pg: PG, set_version, dead: disk(dead), spare: disk(spare) });
    w.change(SetChange::BeginSync { disk: disk(spare) });
    w.change(SetChange::Promote { disk: disk(spare) });
    assert_eq!(w.state(dead), None);
    assert_eq!(w.pg().members.len(), 3);
    w.verdict().unwrap();
}

/// Nodes die, restart and return, primaries ask for whatever comes to mind, for thousands of steps. `World` checks the
/// invariants after each; at the end everybody is back and the group has to become whole.
#[test]
fn a_random_walk_over_set_changes_keeps_the_rules_and_heals() {
    for seed in 0..15u64 {
        let mut random = super::model::Random::new(seed);
        let mut w = World::with_group(5, 3);
        for _ in 0..300 {
            let node = 1 + random.below(5);
            match random.below(12) {
                0 | 1 => drop(w.kill(node)),
                2..=4 => drop(w.restart(node, random.below(3) > 0)),
                5 | 6 => drop(w.level()),
                7 => drop(w.change(SetChange::Remove { disk: disk(node) })),
                8 => drop(w.change(SetChange::BeginSync { disk: disk(node) })),
                9 => drop(w.change(SetChange::Promote { disk: disk(node) })),
                10 => drop(w.change(SetChange::Caught { disk: disk(node) })),
                _ => {
                    let pg = w.pg();
                    let to = disk(node);
                    w.run(Command::MovePrimary { pg: PG, epoch: pg.epoch, set_version: pg.set_version, to });
                    if let Some(pending) = w.pg().pending_move
                        && random.below(2) == 0
                    {
                        w.run(Command::CompleteMove { pg: PG, epoch: w.pg().epoch, since: pending.since });
                    }
                }
            }
            w.verdict().unwrap_or_else(|why| panic!("seed {seed}: {why}: {:?}", w.pg()));
        }
        heal(&mut w);
        assert_eq!(crate::groups::level_count(&w.pg()), 3, "seed {seed}: {:?}", w.pg());
        w.verdict().unwrap();
    }
}

fn heal(w: &mut World) {
    let map = w.map();
    for node in map.nodes.iter().filter(|n| n.state != weft_types::map::NodeState::Live) {
        w.restart(node.id.0, true);
    }
    for _ in 0..8 {
        let pg = w.pg();
        if let Some(pending) = pg.pending_move {
            w.run(Command::CompleteMove { pg: PG, epoch: pg.epoch, since: pending.since });
        }
        if pg.primary.is_none() {
            w.run(Command::ElectLossy { pg: PG, epoch: pg.epoch, set_version: pg.set_version });
            let from = w.pg().loss_generation;
            w.change(SetChange::AcceptLoss { from });
        }
        w.level();
        for member in w.pg().members.clone() {
            w.change(SetChange::BeginSync { disk: member.disk });
            w.change(SetChange::Promote { disk: member.disk });
            w.change(SetChange::Caught { disk: member.disk });
        }
    }
}

#[test]
fn the_same_commands_give_the_same_bytes() {
    let run = || {
        let mut w = World::with_group(4, 3);
        let s = w.session();
        for i in 0..20 {
            let new = weft_proto::namespace::NewInode::Regular;
            w.make(s, weft_types::InodeNumber::ROOT, &format!("f{i}"), new).unwrap();
        }
        w.kill(2);
        w.restart(2, false);
        w.volume("w", 2, 16);
        w.view
    };
    let (first, second) = (run(), run());
    assert!(first.pairs().eq(second.pairs()));
    assert!(first.pairs().count() > 50);
    assert_eq!(read::facts(&first).unwrap(), read::facts(&second).unwrap());
}
