//! Size caps and truncations between sessions: who may make a file longer, who waits, who has to hear of what.

use super::leading::Clock;
use super::world::World;
use super::{Outcome, must};
use crate::command::Command;
use crate::leader::LeaderAction;
use crate::read;
use weft_proto::namespace::{
    AttributeChange, Mutation, NamespaceReply, NewInode, Notice, OtherSessions, Query, Room, SizeKnowledge, TimeChange,
};
use weft_types::limits::{RECALL_DEADLINE, SIZE_CAP_ROOM_MIN};
use weft_types::{InodeNumber, SessionId, TruncateGeneration, VolumeId};

const ROOT: InodeNumber = InodeNumber::ROOT;

/// Three sessions with one file open, the first of which holds its size cap with room.
fn shared_file() -> Result<(World, [SessionId; 3], InodeNumber), String> {
    let mut w = World::with_group(3, 3);
    let sessions = [w.session(), w.session(), w.session()];
    let f = w.make(sessions[0], ROOT, "f", NewInode::Regular).map_err(|e| e.to_string())?;
    for session in sessions {
        w.open(session, f, true).map_err(|e| e.to_string())?;
    }
    must!(w.acquire(sessions[0], f, 4096) == Ok(true), "no size cap");
    Ok((w, sessions, f))
}

fn truncate(inode: InodeNumber, size_bytes: u64) -> Mutation {
    let change = AttributeChange { size_bytes: Some(size_bytes), ..AttributeChange::default() };
    Mutation::SetAttributes { inode, change }
}

fn commit(inode: InodeNumber, size_bytes: u64, room: Room) -> Mutation {
    let generation = TruncateGeneration(0);
    Mutation::CommitSize { inode, generation, size_bytes, modified: TimeChange::Now, room }
}

pub(super) fn one_holder_at_a_time() -> Outcome {
    let (mut w, [s, t, _], f) = shared_file()?;
    must!(w.acquire(t, f, 8192) == Ok(false), "two sessions may grow one file");
    must!(w.notices(s) == [Notice::Recall { inode: f }], "the holder is not asked: {:?}", w.notices(s));
    must!(w.give_up(s, f, 7000) == Ok(()), "cannot give it up");
    must!(w.size(f) == 7000, "what the holder had acknowledged is lost: {}", w.size(f));
    must!(w.notices(t) == [Notice::CapGranted { inode: f }], "who waited is not told: {:?}", w.notices(t));
    must!(w.notices(s).is_empty(), "a debt is left: {:?}", w.notices(s));
    must!(w.acquire(t, f, 8192) == Ok(true), "who waited has no cap");
    w.verdict()
}

pub(super) fn first_come_first_served() -> Outcome {
    let (mut w, [s, t, u], f) = shared_file()?;
    must!(w.acquire(t, f, 1) == Ok(false) && w.acquire(u, f, 1) == Ok(false), "two holders");
    must!(w.acquire(t, f, 1) == Ok(false), "two holders");
    must!(w.give_up(s, f, 1) == Ok(()), "cannot give it up");
    must!(w.acquire(s, f, 2) == Ok(false), "who gave it up gets it back before others");
    let told = w.notices(t);
    must!(told == [Notice::CapGranted { inode: f }, Notice::Recall { inode: f }], "not in line: {told:?}");
    must!(w.give_up(t, f, 2) == Ok(()) && w.notices(u).contains(&Notice::CapGranted { inode: f }), "u starves");
    must!(w.give_up(u, f, 3) == Ok(()) && w.acquire(s, f, 4) == Ok(true), "s starves");
    must!(w.size(f) == 3, "a size is lost");
    w.verdict()
}

pub(super) fn a_holder_that_keeps_its_cap_is_struck() -> Outcome {
    let (mut w, [s, t, _], f) = shared_file()?;
    let mut clock = Clock::lead(&w);
    must!(w.acquire(t, f, 1) == Ok(false), "two holders");
    clock.applied(&w);
    let deadline = u64::try_from(RECALL_DEADLINE.as_millis()).unwrap_or(0);
    let strikes = |actions: &[LeaderAction]| {
        actions.iter().any(|a| matches!(a, LeaderAction::Propose(Command::StrikeSession { session }) if *session == s))
    };
    let mut struck_after = None;
    for second in 1..=deadline / 1000 + 5 {
        clock.pass(1000);
        clock.heartbeat_all(&w);
        // It lives: its heartbeats are answered until it is struck.
        let alive = clock.session_is_answered(s);
        let actions = clock.tick();
        if strikes(&actions) || !alive {
            struck_after = Some(second * 1000);
            break;
        }
    }
    let struck_after = struck_after.ok_or("a holder that does not give up its cap keeps it for ever")?;
    must!(struck_after >= deadline - 1000, "struck after {struck_after} ms");
    w.verdict()
}

/// The holder's last write waits for a cut, and the cut for a session that lives and does nothing. `recalled_first` for so long
/// before the truncation.
fn held_up_by_another(recalled_first: Option<u64>) -> Outcome {
    let (mut w, [s, t, u], f) = shared_file()?;
    let mut clock = Clock::lead(&w);
    must!(w.mutate(s, commit(f, 1 << 20, Room::Keep)).is_ok(), "cannot commit");
    // Seconds until one of the two is struck, and which.
    let wait = |w: &World, clock: &mut Clock, at_most: u64| {
        (1..=at_most).find_map(|second| {
            clock.pass(1000);
            clock.heartbeat_all(w);
            let alive = [s, u].map(|session| (session, clock.session_is_answered(session)));
            alive.iter().find(|(_, alive)| !alive).map(|(session, _)| (*session, second))
        })
    };
    if let Some(seconds) = recalled_first {
        must!(w.acquire(t, f, 1) == Ok(false), "two holders");
        clock.applied(&w);
        must!(wait(&w, &mut clock, seconds).is_none(), "struck too early");
    }
    must!(w.mutate(t, truncate(f, 4096)).is_ok(), "cannot truncate");
    let generation = TruncateGeneration(1);
    must!(w.mutate(s, Mutation::AcknowledgeTruncate { inode: f, generation }).is_ok(), "cannot acknowledge");
    must!(w.acquire(t, f, 1) == Ok(false), "two holders");
    clock.applied(&w);
    let deadline = RECALL_DEADLINE.as_secs();
    let first = wait(&w, &mut clock, deadline + 1);
    must!(first.is_some_and(|(session, _)| session == u), "{first:?} is struck first, and {s} is only held up by {u}");
    w.run(Command::StrikeSession { session: u });
    clock.applied(&w);
    // The fence is under way, and the cut still waits for it.
    let early = wait(&w, &mut clock, 5).filter(|(session, _)| *session == s);
    must!(early.is_none(), "struck while it was held up");
    let since = w.map().version;
    w.run(Command::FenceComplete { session: u, since });
    clock.applied(&w);
    clock.heartbeat_all(&w);
    must!(clock.session_is_answered(s), "blamed for the time in which it was held up");
    // Nothing holds it up any more, and it has the time that is left to it.
    let left = deadline - recalled_first.unwrap_or(0);
    let then = (1..=left + 1).find(|_| {
        clock.pass(1000);
        clock.heartbeat_all(&w);
        !clock.session_is_answered(s)
    });
    let then = then.ok_or("a holder that does not give up its cap keeps it for ever")?;
    must!(then + 1 >= left, "struck {then} s after nothing held it up any more, {left} s were left");
    w.verdict()
}

pub(super) fn who_is_held_up_is_not_blamed() -> Outcome {
    held_up_by_another(None)?;
    held_up_by_another(Some(10))
}

pub(super) fn truncation_is_heard_of_before_it_is_carried_out() -> Outcome {
    let (mut w, [s, t, u], f) = shared_file()?;
    must!(w.mutate(s, commit(f, 1 << 20, Room::Keep)).is_ok(), "cannot commit");
    must!(w.mutate(u, Mutation::Close { inode: f }).is_ok(), "cannot close");
    let reply = w.mutate(t, truncate(f, 4096));
    let told = matches!(reply, Ok(NamespaceReply::Changed { others: OtherSessions::Told, cut: Some(4096), .. }));
    must!(told, "others are not told: {reply:?}");
    let generation = TruncateGeneration(1);
    must!(w.notices(s) == [Notice::Truncated { inode: f, generation }], "{:?}", w.notices(s));
    must!(w.notices(t).is_empty() && w.notices(u).is_empty(), "the wrong ones are told");
    let mut clock = Clock::lead(&w);
    for _ in 0..20 {
        clock.pass(1000);
        let actions = clock.heartbeat_all(&w);
        clock.session_is_answered(s);
        let cuts = actions.iter().any(|a| matches!(a, LeaderAction::StartReclaim(_)));
        must!(!cuts, "cut while a session may write under the generation before");
    }
    let unknown = w.query(Query::TruncationUnknownTo { inode: f });
    must!(unknown == Ok(NamespaceReply::Sessions(vec![s])), "{unknown:?}");
    must!(w.mutate(s, Mutation::AcknowledgeTruncate { inode: f, generation }).is_ok(), "cannot acknowledge");
    let unknown = w.query(Query::TruncationUnknownTo { inode: f });
    must!(unknown == Ok(NamespaceReply::Sessions(Vec::new())), "{unknown:?}");
    let mut actions = clock.applied(&w);
    clock.pass(1000);
    actions.extend(clock.heartbeat_all(&w));
    must!(actions.iter().any(|a| matches!(a, LeaderAction::StartReclaim(_))), "the cut is forgotten");
    w.verdict()
}

pub(super) fn no_size_past_the_room() -> Outcome {
    let (mut w, [s, t, _], f) = shared_file()?;
    let room = match w.record(f).knowledge {
        SizeKnowledge::Holder { max_size_bytes, .. } => max_size_bytes,
        other => return Err(format!("no holder: {other:?}")),
    };
    w.run(Command::StrikeSession { session: s });
    let since = w.map().version;
    w.run(Command::FenceComplete { session: s, since });
    must!(w.record(f).knowledge == SizeKnowledge::Collecting, "{:?}", w.record(f).knowledge);
    must!(w.acquire(t, f, 1) == Ok(false), "granted before the size is collected");
    let (volume, generation) = (VolumeId(1), TruncateGeneration(0));
    w.run(Command::SizeRecovered { volume, inode: f, generation, end_bytes: room + 5 });
    must!(w.size(f) == room, "an end that nobody was allowed to acknowledge counts: {}", w.size(f));
    must!(w.notices(t) == [Notice::CapGranted { inode: f }], "who waited through the fence is not told");
    w.verdict()
}

#[test]
fn the_size_cap_moves_to_a_writer_on_another_host_with_the_size() {
    one_holder_at_a_time().unwrap();
}
#[test]
fn sessions_that_want_the_size_cap_get_it_in_turn() {
    first_come_first_served().unwrap();
}
#[test]
fn a_live_holder_that_does_not_give_up_its_cap_is_struck_after_the_deadline() {
    a_holder_that_keeps_its_cap_is_struck().unwrap();
}
#[test]
fn a_holder_that_another_session_holds_up_is_not_struck_with_it() {
    who_is_held_up_is_not_blamed().unwrap();
}
#[test]
fn attack_cached_generation() {
    truncation_is_heard_of_before_it_is_carried_out().unwrap();
}
#[test]
fn a_collected_size_ends_where_the_holders_room_ended() {
    no_size_past_the_room().unwrap();
}

#[test]
fn only_a_holder_with_room_has_to_be_asked_for_the_size() {
    let (mut w, [s, _, _], f) = shared_file().unwrap();
    let asked = SizeKnowledge::Holder { session: s, max_size_bytes: 4096 + SIZE_CAP_ROOM_MIN };
    assert_eq!(w.record(f).knowledge, asked);
    w.mutate(s, commit(f, 4096, Room::GiveBack)).unwrap();
    assert_eq!(w.record(f).knowledge, SizeKnowledge::Exact);
    // It still holds the cap: it gets room again without a recall.
    assert_eq!(w.acquire(s, f, 5000), Ok(true));
}

#[test]
fn the_fence_of_a_holder_without_room_leaves_the_size_known() {
    let (mut w, [s, t, _], f) = shared_file().unwrap();
    w.mutate(s, commit(f, 4096, Room::GiveBack)).unwrap();
    w.run(Command::StrikeSession { session: s });
    let since = w.map().version;
    w.run(Command::FenceComplete { session: s, since });
    assert_eq!(w.acquire(t, f, 5000), Ok(true));
    assert_eq!(w.size(f), 4096);
}

#[test]
fn a_session_that_closes_leaves_the_line_and_its_debts() {
    let (mut w, [s, t, u], f) = shared_file().unwrap();
    assert_eq!((w.acquire(t, f, 1), w.acquire(u, f, 1)), (Ok(false), Ok(false)));
    w.mutate(t, Mutation::Close { inode: f }).unwrap();
    w.mutate(s, Mutation::Close { inode: f }).unwrap();
    assert!(w.notices(s).is_empty() && w.notices(t).is_empty());
    assert_eq!(w.notices(u), [Notice::CapGranted { inode: f }]);
    assert!(read::facts(&w.view).unwrap().debts.is_empty());
}

#[test]
fn a_file_emptied_elsewhere_is_deleted_only_when_every_opener_knows() {
    let (mut w, [s, t, u], f) = shared_file().unwrap();
    w.mutate(u, Mutation::Close { inode: f }).unwrap();
    let Ok(NamespaceReply::Opened { others, record, .. }) =
        w.mutate(t, Mutation::Open { inode: f, write: true, truncate: true })
    else {
        panic!("not opened")
    };
    assert_eq!((others, record.generation), (OtherSessions::Told, TruncateGeneration(1)));
    let mut clock = Clock::lead(&w);
    let starts = |actions: &[LeaderAction]| actions.iter().any(|a| matches!(a, LeaderAction::StartReclaim(_)));
    assert!(!starts(&clock.tick()));
    // The one that owes is gone: it is struck without anybody asking again.
    let mut struck = false;
    for _ in 0..30 {
        clock.pass(1000);
        let actions = clock.heartbeat_all(&w);
        struck |= actions
            .iter()
            .any(|a| matches!(a, LeaderAction::Propose(Command::StrikeSession { session }) if *session == s));
    }
    assert!(struck);
    w.run(Command::StrikeSession { session: s });
    let since = w.map().version;
    w.run(Command::FenceComplete { session: s, since });
    assert!(starts(&clock.applied(&w)));
}
