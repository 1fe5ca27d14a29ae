//! The attacks that concern the metadata group, each under its own name. A scenario says what went wrong.

use super::leading::Clock;
use super::world::{PG, World, create, disk};
use super::{Outcome, must};
use crate::command::{Command, CommandReply, SetRefusal};
use crate::leader::{LeaderAction, LeaderEvent};
use weft_proto::control::{NothingLost, RegisterDisk, SetChange};
use weft_proto::namespace::{AttributeChange, Mutation, NewInode, Room, TimeChange};
use weft_types::limits::{LOSSLESS_WAIT, NODE_LEASE, SESSION_TTL};
use weft_types::map::{Member, MemberState};
use weft_types::{DiskId, ErrorKind, InodeNumber, LossGeneration, NodeId, SessionOwner, TruncateGeneration, VolumeId};

const ROOT: InodeNumber = InodeNumber::ROOT;

pub(super) fn stale_set_request() -> Outcome {
    let mut w = World::with_group(3, 3);
    let old = w.leader_node();
    let stale = w.request(SetChange::Remove { disk: disk(w.backups()[0]) });
    w.kill(old);
    w.level();
    let before = w.pg();
    let reply = w.run(Command::ChangeSet(stale));
    must!(matches!(reply, CommandReply::SetRefused(SetRefusal::StaleEpoch { .. })), "accepted: {reply:?}");
    must!(w.pg() == before, "the set changed");
    w.verdict()
}

pub(super) fn restart_between_levelling_and_its_commit() -> Outcome {
    let mut w = World::with_group(3, 3);
    w.kill(w.leader_node());
    let backup = w.backups().into_iter().find(|n| w.state(*n).is_some_and(|s| s != MemberState::Out)).unwrap_or(0);
    let disks = w.pg().in_sync().map(|m| m.disk).collect();
    let stale = w.request(SetChange::Levelled { disks });
    w.restart(backup, false);
    let reply = w.run(Command::ChangeSet(stale));
    must!(matches!(reply, CommandReply::SetRefused(SetRefusal::StaleSetVersion { .. })), "accepted: {reply:?}");
    w.verdict()
}

pub(super) fn last_lossless() -> Outcome {
    let mut w = World::with_group(3, 3);
    let c = w.leader_node();
    for n in w.backups() {
        w.restart(n, false);
    }
    w.kill(c);
    must!(
        w.state(c) == Some(MemberState::InSync { lossy: false, behind: false }),
        "the only lossless member was removed: {:?}",
        w.pg()
    );
    must!(w.leader_node() == 0, "a lossy member leads");
    w.restart(c, true);
    must!(w.leader_node() == c, "the lossless member does not lead when it is back");
    w.verdict()
}

pub(super) fn lossy_members_do_not_count() -> Outcome {
    let mut w = World::with_group(3, 3);
    let backups = w.backups();
    w.restart(backups[0], false);
    let reply = w.change(SetChange::Remove { disk: disk(backups[1]) });
    must!(
        matches!(reply, CommandReply::SetRefused(SetRefusal::BelowMinimum { level: 1, minimum: 2 })),
        "one level member was left: {reply:?}"
    );
    w.change(SetChange::Caught { disk: disk(backups[0]) });
    let reply = w.change(SetChange::Remove { disk: disk(backups[1]) });
    must!(matches!(reply, CommandReply::SetChanged { .. }), "two level members are enough: {reply:?}");
    w.verdict()
}

/// It does not count towards the minimum, so the minimum must not hold it: only away from the set can it be copied.
fn lossy_member_that_cannot_be_levelled_may_leave() -> Outcome {
    let mut w = World::with_group(3, 3);
    let backups = w.backups();
    w.kill(backups[1]);
    w.restart(backups[0], false);
    let reply = w.change(SetChange::Remove { disk: disk(backups[0]) });
    must!(matches!(reply, CommandReply::SetChanged { .. }), "the lossy member is stuck in the set: {reply:?}");
    w.change(SetChange::BeginSync { disk: disk(backups[0]) });
    w.change(SetChange::Promote { disk: disk(backups[0]) });
    must!(w.pg().member(disk(backups[0])).is_some_and(Member::is_level), "it did not come back: {:?}", w.pg());
    w.verdict()
}

pub(super) fn min_dead_end() -> Outcome {
    let mut w = World::with_group(4, 3);
    let spare = (1..=4).find(|n| w.state(*n).is_none()).unwrap_or(0);
    let backups = w.backups();
    w.kill(backups[0]);
    must!(w.state(backups[0]) == Some(MemberState::Out), "the first dead member stays in the set");
    w.kill(backups[1]);
    must!(w.pg().member(disk(backups[1])).is_some_and(|m| m.is_in_sync()), "the set went below its minimum");
    must!(w.leader_node() != 0, "reads stopped");
    let set_version = w.pg().set_version;
    let reply = w.run(Command::ReplaceMember { pg: PG, set_version, dead: disk(backups[1]), spare: disk(spare) });
    must!(matches!(reply, CommandReply::SetChanged { .. }), "no replacement: {reply:?}");
    w.change(SetChange::BeginSync { disk: disk(spare) });
    w.change(SetChange::Promote { disk: disk(spare) });
    let set: Vec<DiskId> = w.pg().in_sync().map(|m| m.disk).collect();
    must!(set.len() == 2 && set.contains(&disk(spare)), "not replaced in one step: {set:?}");
    must!(!set.contains(&disk(backups[1])), "the dead member is still in the set");
    w.verdict()
}

pub(super) fn returning_behind() -> Outcome {
    let mut w = World::with_group(3, 3);
    let a = w.leader_node();
    let backups = w.backups();
    w.kill(backups[1]);
    w.kill(a);
    must!(w.state(a).is_some_and(|s| s != MemberState::Out), "A should have been kept by the minimum");
    w.level();
    must!(
        w.state(a) == Some(MemberState::InSync { lossy: false, behind: true }),
        "A was not levelled and is not behind: {:?}",
        w.state(a)
    );
    w.restart(a, true);
    w.kill(backups[0]);
    must!(w.leader_node() != a, "a member that is behind leads");
    w.verdict()
}

pub(super) fn epoch_reuse() -> Outcome {
    let mut w = World::with_group(3, 3);
    let a = w.leader_node();
    let before = w.pg();
    w.restart(a, true);
    must!(w.pg().epoch > before.epoch, "a new incarnation leads under the old epoch");
    w.verdict()
}

pub(super) fn amnesia() -> Outcome {
    let mut w = World::with_group(3, 3);
    let a = w.leader_node();
    for n in w.backups() {
        w.restart(n, false);
        must!(
            w.state(n) == Some(MemberState::InSync { lossy: true, behind: false }),
            "a restart without proof is not lossy: {:?}",
            w.state(n)
        );
    }
    w.restart(a, false);
    must!(w.pg().primary.is_none(), "a lossy member leads");
    let (epoch, set_version) = (w.pg().epoch, w.pg().set_version);
    w.run(Command::ElectLossy { pg: PG, epoch, set_version });
    let loss = w.pg().loss_generation;
    w.change(SetChange::AcceptLoss { from: loss });
    w.level();
    must!(w.pg().loss_generation > loss, "the loss generation did not rise");
    must!(w.pg().members.iter().all(|m| m.is_level()), "not level: {:?}", w.pg());
    w.verdict()
}

/// Simulator, seed 9518: a member that could not leave the set led, and the longest log began behind the end of its own.
pub(super) fn who_may_be_handed_the_lead() -> Outcome {
    let mut w = World::with_group(3, 3);
    // Who leads after this has levelled nobody, and so has served nobody.
    w.restart(w.leader_node(), true);
    let (a, b, c) = (w.leader_node(), w.backups()[0], w.backups()[1]);
    w.restart(b, false);
    let refused = w.change(SetChange::Yield { to: disk(b) });
    must!(matches!(refused, CommandReply::SetRefused(SetRefusal::LevelMemberLive)), "to a lossy one: {refused:?}");
    let before = w.pg();
    w.change(SetChange::Yield { to: disk(c) });
    must!(w.leader_node() == c, "{a} keeps the lead: {:?}", w.pg());
    must!(w.pg().epoch > before.epoch, "another leader in the same epoch");
    w.verdict()
}

/// Simulator, seed 11883: a primary that serves found a trailer lost, asked for another one to lead, and answered reads while that
/// one began to.
pub(super) fn who_serves_gives_way_when_it_knows() -> Outcome {
    let mut w = World::with_group(3, 3);
    w.level();
    let (a, b) = (w.leader_node(), w.backups()[0]);
    let before = w.pg();
    let mut clock = Clock::lead(&w);
    clock.heartbeat_all(&w);
    w.change(SetChange::Yield { to: disk(b) });
    must!(w.leader_node() == a && w.pg().epoch == before.epoch, "B leads while A may still serve: {:?}", w.pg());
    let early = clock.applied(&w);
    must!(early.is_empty(), "the move completes before A acknowledged: {early:?}");
    let done = clock.heartbeat_all(&w);
    let Some(complete) = done.iter().find_map(completes) else { return Err("the move never completes".to_owned()) };
    w.run(complete);
    must!(w.leader_node() == b && w.pg().epoch > before.epoch, "B does not lead: {:?}", w.pg());
    w.verdict()
}

fn completes(action: &LeaderAction) -> Option<Command> {
    match action {
        LeaderAction::Propose(command @ Command::CompleteMove { .. }) => Some(command.clone()),
        _ => None,
    }
}

#[test]
fn a_primary_that_serves_gives_way_when_it_knows() {
    who_serves_gives_way_when_it_knows().unwrap();
}

#[test]
fn a_level_member_is_handed_the_lead_and_a_lossy_one_is_not() {
    who_may_be_handed_the_lead().unwrap();
}

pub(super) fn false_clean_stop() -> Outcome {
    let mut w = World::with_group(3, 3);
    let b = w.backups()[0];
    let first = w.incarnation(b);
    w.restart(b, true);
    must!(w.pg().member(disk(b)).is_some_and(|m| m.is_level()), "a proof was not believed");
    let second = w.incarnation(b);
    w.register(b, second.0, Some(first));
    must!(
        w.state(b) == Some(MemberState::InSync { lossy: true, behind: false }),
        "an old clean-stop mark was believed: {:?}",
        w.state(b)
    );
    w.verdict()
}

pub(super) fn empty_raft_store() -> Outcome {
    let mut w = World::with_group(3, 3);
    let leader = w.leader_node();
    let before = w.incarnation(leader);
    let reply = w.register(leader, 0, None);
    must!(matches!(reply, CommandReply::Refused(ErrorKind::Refused(_))), "an empty store was accepted: {reply:?}");
    must!(w.incarnation(leader) == before, "it has a new incarnation");
    w.verdict()
}

/// Without a majority a node asks for its incarnation again and again; when the majority is back, all the copies are
/// committed. It once counted as a restart each time, without proof, and what was not flushed as lost.
pub(super) fn a_registration_asked_again() -> Outcome {
    let mut w = World::with_group(3, 3);
    let b = w.backups()[0];
    let ran = w.incarnation(b);
    let disks = vec![RegisterDisk { disk: disk(b), capacity_bytes: 100 << 30, proof: Some(NothingLost { of: ran }) }];
    let first = w.register_disks(b, ran.0, disks.clone());
    let again = w.register_again(b, ran.0, disks);
    let incarnation = |reply: &CommandReply| match reply {
        CommandReply::Registered { incarnation, .. } => Some(*incarnation),
        _ => None,
    };
    must!(incarnation(&first).is_some() && incarnation(&first) == incarnation(&again), "{first:?}, then {again:?}");
    let lossy = w.pg().members.iter().any(|m| matches!(m.state, MemberState::InSync { lossy: true, .. }));
    must!(!lossy, "asking again made a replica lossy: {:?}", w.pg().members);
    w.verdict()
}

/// Simulator, seeds 235, 271 and 325: the request of a start that got no answer is committed after that of the next start.
/// The node then keeps an incarnation that is not the last one given.
#[test]
fn a_late_registration_of_an_earlier_start_locks_nobody_out() {
    let mut w = World::with_group(3, 3);
    let b = w.backups()[0];
    let ran = w.incarnation(b).0;
    let CommandReply::Registered { incarnation: kept, .. } = w.register(b, ran, None) else { panic!("not registered") };
    let CommandReply::Registered { incarnation: late, .. } = w.register(b, ran, None) else { panic!("not registered") };
    assert!(late > kept);
    let reply = w.register(b, kept.0, None);
    assert!(matches!(reply, CommandReply::Registered { .. }), "the node that kept {kept} is refused: {reply:?}");
    // A copy of the store from before all that is an old copy.
    let reply = w.register(b, ran, None);
    assert!(matches!(reply, CommandReply::Refused(_)), "an old copy of the store was accepted: {reply:?}");
}

pub(super) fn fsync_then_fine() -> Outcome {
    let mut w = World::with_group(3, 3);
    let b = w.backups()[0];
    let incarnation = w.incarnation(b);
    w.run(Command::DiskFailed { disk: disk(b), incarnation });
    must!(w.state(b) == Some(MemberState::Out), "a failed disk is in the set");
    w.restart(b, true);
    let reply = w.change(SetChange::BeginSync { disk: disk(b) });
    must!(matches!(reply, CommandReply::SetRefused(SetRefusal::NotLive(_))), "a failed disk was admitted: {reply:?}");
    let add =
        Command::AddDisk { disk: disk(b), node: NodeId(b), incarnation: w.incarnation(b), capacity_bytes: 1 << 40 };
    let reply = w.run(add);
    must!(matches!(reply, CommandReply::Refused(_)), "a failed disk was added anew under its id: {reply:?}");
    w.verdict()
}

/// The longest log, with holes: a syncing member counts for nothing.
pub(super) fn syncing_wins() -> Outcome {
    let mut w = World::with_group(3, 3);
    let (a, backups) = (w.leader_node(), w.backups());
    w.kill(backups[1]);
    w.restart(backups[1], true);
    w.change(SetChange::BeginSync { disk: disk(backups[1]) });
    must!(w.state(backups[1]) == Some(MemberState::Syncing), "it does not sync: {:?}", w.pg());
    w.restart(backups[0], false);
    w.kill(a);
    must!(w.leader_node() != backups[1], "a syncing member leads: {:?}", w.pg());
    let (epoch, set_version) = (w.pg().epoch, w.pg().set_version);
    w.run(Command::ElectLossy { pg: PG, epoch, set_version });
    must!(w.leader_node() == backups[0], "the lossy member does not lead: {:?}", w.pg());
    w.verdict()
}

/// A surrender that was under way while its node started anew.
pub(super) fn a_late_word_of_an_earlier_incarnation() -> Outcome {
    let mut w = World::with_group(3, 3);
    let b = w.backups()[0];
    let old = w.incarnation(b);
    w.restart(b, true);
    w.run(Command::NodeDead { node: NodeId(b), incarnation: old });
    must!(w.pg().member(disk(b)).is_some_and(Member::is_level), "the present run is called dead: {:?}", w.pg());
    w.verdict()
}

/// Design 5.9: nobody discards it by the way, and whoever gives it up says so.
pub(super) fn the_last_copy() -> Outcome {
    let mut w = World::with_group(1, 1);
    w.kill(1);
    let reply = w.run(Command::RemoveNode { node: NodeId(1) });
    must!(matches!(reply, CommandReply::Refused(_)), "the only good copy was removed: {reply:?}");
    let mut w = World::with_group(3, 3);
    let (a, backups) = (w.leader_node(), w.backups());
    w.kill(backups[1]);
    w.restart(backups[1], true);
    let loss = w.pg().loss_generation;
    let force = |w: &mut World| w.run(Command::ForceStale { pg: PG, disk: disk(backups[1]), loss_generation: loss });
    let reply = force(&mut w);
    must!(
        matches!(reply, CommandReply::SetRefused(SetRefusal::InSyncMemberLive)),
        "live ones were overruled: {reply:?}"
    );
    w.kill(backups[0]);
    w.kill(a);
    let reply = force(&mut w);
    must!(matches!(reply, CommandReply::SetChanged { .. }), "an operator may not: {reply:?}");
    must!(w.pg().loss_generation > loss && w.leader_node() == backups[1], "in silence: {:?}", w.pg());
    w.verdict()
}

/// Decision 0023: what is copied in part is no state that the group ever had, and no better when its member goes and comes back.
pub(super) fn a_copy_that_broke_off_is_not_forced() -> Outcome {
    let loss = LossGeneration(0);
    let force = |w: &mut World, n| w.run(Command::ForceStale { pg: PG, disk: disk(n), loss_generation: loss });
    for (whole, left) in [(false, MemberState::Incomplete), (true, MemberState::Out)] {
        let mut w = World::with_group(3, 3);
        let (a, backups) = (w.leader_node(), w.backups());
        let target = backups[1];
        w.kill(target);
        w.restart(target, true);
        w.change(SetChange::BeginSync { disk: disk(target) });
        if whole {
            w.change(SetChange::Promote { disk: disk(target) });
        }
        w.kill(target);
        w.restart(target, true);
        must!(w.state(target) == Some(left), "copied whole: {whole}, and it left as {:?}", w.pg());
        w.kill(backups[0]);
        w.kill(a);
        let reply = force(&mut w, target);
        let refused = matches!(reply, CommandReply::SetRefused(SetRefusal::Incomplete(_)));
        must!(refused != whole, "copied whole: {whole}, and the answer is {reply:?}");
        w.verdict()?;
    }
    Ok(())
}

/// Design 5.4: a lossy log wins when no lossless member was live for a minute, and not before.
pub(super) fn the_wait_for_the_lossless() -> Outcome {
    let mut w = World::with_group(3, 3);
    let (a, backups) = (w.leader_node(), w.backups());
    for n in backups {
        w.restart(n, false);
    }
    w.kill(a);
    let mut clock = Clock::lead(&w);
    let elects = |actions: &[LeaderAction]| {
        actions.iter().any(|action| matches!(action, LeaderAction::Propose(Command::ElectLossy { .. })))
    };
    clock.pass(1500);
    let early = clock.heartbeat_all(&w);
    must!(!elects(&early), "a lossy member is elected at once: {early:?}");
    let mut late = false;
    for _ in 0..LOSSLESS_WAIT.as_secs() + 1 {
        clock.pass(1000);
        late |= elects(&clock.heartbeat_all(&w));
    }
    must!(late, "nobody is ever elected");
    w.verdict()
}

pub(super) fn early_serve() -> Outcome {
    let mut w = World::with_group(3, 3);
    let (a, b) = (w.leader_node(), w.backups()[0]);
    let mut clock = Clock::lead(&w);
    clock.heartbeat_all(&w);
    let pg = w.pg();
    w.run(Command::MovePrimary { pg: PG, epoch: pg.epoch, set_version: pg.set_version, to: disk(b) });
    must!(w.leader_node() == a, "B leads while A may still serve");
    let refused = w.change(SetChange::Remove { disk: disk(w.backups()[1]) });
    must!(refused == CommandReply::SetRefused(SetRefusal::Moving), "a primary that is moved decides: {refused:?}");
    let early = clock.applied(&w);
    must!(early.is_empty(), "the move completes before A acknowledged: {early:?}");
    let done = clock.heartbeat_all(&w);
    let Some(complete) = done.iter().find_map(completes) else { return Err("the move never completes".to_owned()) };
    w.run(complete);
    must!(w.leader_node() == b && w.pg().epoch > pg.epoch, "B does not lead: {:?}", w.pg());
    w.verdict()
}

pub(super) fn accuser_isolated() -> Outcome {
    let w = World::with_group(3, 3);
    let (a, backups) = (w.leader_node(), w.backups());
    let mut clock = Clock::lead(&w);
    clock.reach(&w, a, &[]);
    clock.reach(&w, backups[0], &[backups[1]]);
    clock.reach(&w, backups[1], &[backups[0]]);
    let command = clock.ask(w.request(SetChange::Remove { disk: disk(backups[0]) }));
    must!(
        matches!(&command, Some(Command::MovePrimary { to, .. }) if *to != disk(a)),
        "the reachable backup is removed, not the primary moved: {command:?}"
    );
    // The other way about: it is the accused that nobody reaches.
    clock.reach(&w, a, &[backups[1]]);
    clock.reach(&w, backups[0], &[]);
    clock.reach(&w, backups[1], &[a]);
    let command = clock.ask(w.request(SetChange::Remove { disk: disk(backups[0]) }));
    must!(matches!(command, Some(Command::ChangeSet(_))), "the primary moved for a dead backup: {command:?}");
    w.verdict()
}

pub(super) fn live_not_applying() -> Outcome {
    let mut w = World::with_group(3, 3);
    let session = w.session();
    let mut clock = Clock::lead(&w);
    let stuck = w.map().version;
    w.run(Command::StrikeSession { session });
    clock.applied(&w);
    let mut dead = false;
    for _ in 0..40 {
        clock.pass(250);
        let mut actions = clock.heartbeat(&w, 1, w.map().version);
        actions.extend(clock.heartbeat(&w, 2, w.map().version));
        actions.extend(clock.heartbeat(&w, 3, stuck));
        actions.extend(clock.tick());
        for action in actions {
            if let LeaderAction::Propose(command) = action {
                dead |= matches!(command, Command::NodeDead { node: NodeId(3), .. });
                must!(!matches!(command, Command::NodeDead { node: NodeId(1 | 2), .. }), "a good node is called dead");
                w.run(command);
                clock.applied(&w);
            }
        }
    }
    must!(dead, "a node that never applies the map keeps its lease");
    clock.applied(&w);
    must!(crate::read::sessions(&w.view).is_ok_and(|s| s.is_empty()), "the fence did not complete");
    w.verdict()
}

pub(super) fn new_leader_haste() -> Outcome {
    let mut w = World::with_group(3, 3);
    let session = w.session();
    let mut clock = Clock::lead(&w);
    clock.step(LeaderEvent::SessionWanted { session });
    let first = clock.tick();
    must!(!first.iter().any(proposes_death), "somebody is called dead by a leader that just began: {first:?}");
    let nearly = u64::try_from(NODE_LEASE.as_millis()).unwrap_or(0);
    clock.pass(nearly);
    let second = clock.tick();
    must!(!second.iter().any(proposes_death), "somebody is called dead within a TTL: {second:?}");
    clock.pass(300);
    let third = clock.tick();
    let deaths = third.iter().filter(|a| matches!(a, LeaderAction::Propose(Command::NodeDead { .. }))).count();
    must!(deaths == 3, "silent nodes are not called dead: {third:?}");
    w.verdict()
}

fn proposes_death(action: &LeaderAction) -> bool {
    matches!(action, LeaderAction::Propose(Command::NodeDead { .. } | Command::StrikeSession { .. }))
}

/// A member of the cluster names the session of another one, whose number is easy to guess.
pub(super) fn a_session_of_somebody_else() -> Outcome {
    let mut w = World::with_group(3, 3);
    let (mine, thief) = (SessionOwner(1), SessionOwner(2));
    let session = w.session_of(mine);
    let may = |w: &World, owner| crate::read::speaks_for(&w.view, owner, session).map_err(|e| e.to_string());
    must!(may(&w, mine)?, "the owner may not speak for its session");
    must!(!may(&w, thief)?, "a session is open to everybody");
    // What it says then is refused for being of a fenced session, whoever it is.
    w.run(Command::CloseSession { session });
    must!(may(&w, thief)?, "a session that is no more has an owner");
    Ok(())
}

pub(super) fn lapsed_not_struck() -> Outcome {
    let mut w = World::with_group(3, 3);
    let s = w.session();
    let f = w.make(s, ROOT, "f", NewInode::Regular).map_err(|e| e.to_string())?;
    must!(w.open(s, f, true) == Ok(true), "no size cap");
    let mut clock = Clock::lead(&w);
    for _ in 0..u64::try_from(SESSION_TTL.as_millis()).unwrap_or(0) / 1000 + 5 {
        clock.pass(1000);
        let actions = clock.heartbeat_all(&w);
        must!(!actions.iter().any(proposes_death), "struck although nobody asked: {actions:?}");
    }
    must!(clock.session_is_answered(s), "a lapsed session that was not struck cannot resume");
    let commit = Mutation::CommitSize {
        inode: f,
        generation: TruncateGeneration(0),
        size_bytes: 9,
        modified: TimeChange::Now,
        room: Room::Keep,
    };
    must!(w.mutate(s, commit).is_ok() && w.size(f) == 9, "its size is lost");
    // Now it lapses again, and another host wants to grow the file.
    for _ in 0..16 {
        clock.pass(1000);
        clock.heartbeat_all(&w);
    }
    let t = w.session();
    must!(w.open(t, f, true) == Ok(false), "two sessions may grow one file");
    must!(w.wanted == [s], "nobody learns that the holder is wanted");
    clock.applied(&w);
    let actions = clock.step(LeaderEvent::SessionWanted { session: s });
    must!(actions.iter().any(proposes_death), "a lapsed session that is wanted is not struck: {actions:?}");
    w.verdict()
}

pub(super) fn size_before_fence() -> Outcome {
    let mut w = World::with_group(3, 3);
    let (s, t) = (w.session(), w.session());
    let f = w.make(s, ROOT, "f", NewInode::Regular).map_err(|e| e.to_string())?;
    must!(w.open(s, f, true) == Ok(true) && w.acquire(s, f, 4096) == Ok(true), "no size cap");
    must!(w.open(t, f, false) == Ok(false), "cannot open");
    w.run(Command::StrikeSession { session: s });
    must!(w.open(t, f, true) == Ok(false), "the cap is free before every node has acknowledged the fence");
    let waiting = crate::read::facts(&w.view).map_err(|e| e.to_string())?.size_recoveries;
    must!(waiting.is_empty(), "sizes are collected while the holder may still append: {waiting:?}");
    let since = w.map().version;
    w.run(Command::FenceComplete { session: s, since });
    must!(w.open(t, f, true) == Ok(false), "the cap is granted before the size is collected");
    let collect = |end_bytes, generation| Command::SizeRecovered {
        volume: VolumeId(1),
        inode: f,
        generation: TruncateGeneration(generation),
        end_bytes,
    };
    w.run(collect(5000, 0));
    must!(w.size(f) == 5000, "the acknowledged append is lost");
    must!(w.open(t, f, true) == Ok(true), "the cap is not granted afterwards");
    w.verdict()
}

pub(super) fn size_of_old_generation() -> Outcome {
    let mut w = World::with_group(3, 3);
    let (s, t) = (w.session(), w.session());
    let f = w.make(s, ROOT, "f", NewInode::Regular).map_err(|e| e.to_string())?;
    must!(w.open(s, f, true) == Ok(true), "no size cap");
    let commit = |size_bytes| Mutation::CommitSize {
        inode: f,
        generation: TruncateGeneration(0),
        size_bytes,
        modified: TimeChange::Now,
        room: Room::Keep,
    };
    must!(w.mutate(s, commit(1 << 20)).is_ok(), "a holder cannot commit its size");
    let change = AttributeChange { size_bytes: Some(4096), ..AttributeChange::default() };
    must!(w.mutate(t, Mutation::SetAttributes { inode: f, change }).is_ok(), "cannot truncate");
    must!(w.mutate(s, commit(2 << 20)).is_ok(), "fsync after somebody's truncate fails");
    must!(w.size(f) == 4096, "a size from before the truncate counts: {}", w.size(f));
    w.run(Command::StrikeSession { session: s });
    let since = w.map().version;
    w.run(Command::FenceComplete { session: s, since });
    w.run(Command::SizeRecovered {
        volume: VolumeId(1),
        inode: f,
        generation: TruncateGeneration(0),
        end_bytes: 2 << 20,
    });
    must!(w.size(f) == 4096, "a collected end from before the truncate counts: {}", w.size(f));
    w.verdict()
}

pub(super) fn retry_after_leader_change() -> Outcome {
    let mut w = World::with_group(3, 3);
    let s = w.session();
    let one = weft_types::RequestNumber(1);
    let mutation = create(ROOT, "once", NewInode::Regular, 0o600);
    let first = w.mutate_as(s, one, one, mutation.clone());
    let retried = w.mutate_as(s, one, one, mutation);
    must!(first.is_ok() && first == retried, "a retry gets another answer: {first:?} then {retried:?}");
    w.verdict()
}

pub(super) fn heartbeat_before_round() -> Outcome {
    let w = World::with_group(3, 3);
    let mut clock = Clock::lead(&w);
    clock.pass(10);
    let first = clock.send(&w, 1);
    let round = Clock::round_of(&first).ok_or("no quorum round begins")?;
    clock.pass(10);
    let second = clock.send(&w, 2);
    must!(Clock::round_of(&second).is_none(), "two rounds at once");
    let done = clock.step(LeaderEvent::QuorumRoundDone { round });
    let answered: Vec<u64> = done
        .iter()
        .filter_map(|a| match a {
            LeaderAction::AnswerHeartbeat { node, .. } => Some(node.0),
            _ => None,
        })
        .collect();
    must!(answered == [1], "answered by a round that began before the heartbeat came: {answered:?}");
    must!(Clock::round_of(&done).is_some(), "who came later gets no round");
    w.verdict()
}

#[test]
fn attack_stale_set_request() {
    stale_set_request().unwrap();
    restart_between_levelling_and_its_commit().unwrap();
}
#[test]
fn attack_last_lossless() {
    last_lossless().unwrap();
    lossy_members_do_not_count().unwrap();
    lossy_member_that_cannot_be_levelled_may_leave().unwrap();
}
#[test]
fn attack_min_dead_end() {
    min_dead_end().unwrap();
}
#[test]
fn attack_returning_behind() {
    returning_behind().unwrap();
}
#[test]
fn attack_epoch_reuse() {
    epoch_reuse().unwrap();
}
#[test]
fn attack_amnesia() {
    amnesia().unwrap();
}
#[test]
fn attack_false_clean_stop() {
    false_clean_stop().unwrap();
}
#[test]
fn attack_empty_raft_store() {
    empty_raft_store().unwrap();
}
#[test]
fn attack_fsync_then_fine() {
    fsync_then_fine().unwrap();
}
#[test]
fn attack_syncing_wins() {
    syncing_wins().unwrap();
}
#[test]
fn attack_early_serve() {
    early_serve().unwrap();
}
#[test]
fn attack_accuser_isolated() {
    accuser_isolated().unwrap();
}
#[test]
fn attack_live_not_applying() {
    live_not_applying().unwrap();
}
#[test]
fn attack_new_leader_haste() {
    new_leader_haste().unwrap();
}
#[test]
fn attack_lapsed_not_struck() {
    lapsed_not_struck().unwrap();
}
#[test]
fn attack_size_before_fence() {
    size_before_fence().unwrap();
}
#[test]
fn attack_size_of_old_generation() {
    size_of_old_generation().unwrap();
}
#[test]
fn a_retried_request_gets_its_first_answer() {
    retry_after_leader_change().unwrap();
}
#[test]
fn a_heartbeat_is_answered_only_after_a_round_that_began_later() {
    heartbeat_before_round().unwrap();
}

#[test]
fn a_lossless_member_that_is_back_within_the_wait_leads_without_loss() {
    let mut w = World::with_group(3, 3);
    let a = w.leader_node();
    for n in w.backups() {
        w.restart(n, false);
    }
    w.kill(a);
    let mut clock = Clock::lead(&w);
    let wait = u64::try_from(LOSSLESS_WAIT.as_millis()).unwrap();
    let mut elected = None;
    for at in 0..=wait / 250 + 4 {
        clock.pass(250);
        let actions = clock.heartbeat_all(&w);
        let elect = actions.into_iter().find_map(|a| match a {
            LeaderAction::Propose(command @ Command::ElectLossy { .. }) => Some(command),
            _ => None,
        });
        if let Some(command) = elect {
            elected = Some((at * 250, command));
            break;
        }
    }
    let (at, command) = elected.expect("a lossy member is elected in the end");
    assert!(at + 250 >= wait, "elected after {at} ms");
    w.run(command);
    let loss = w.pg().loss_generation;
    // It comes back before the elected one has accepted the loss.
    w.restart(a, true);
    assert_eq!(w.leader_node(), a);
    let reply = w.change(SetChange::AcceptLoss { from: loss });
    assert!(matches!(reply, CommandReply::SetRefused(SetRefusal::LevelMemberLive)), "{reply:?}");
    assert_eq!(w.pg().loss_generation, loss);
    w.verdict().unwrap();
}
