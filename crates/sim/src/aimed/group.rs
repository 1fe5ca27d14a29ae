//! Executions in which the metadata group hears what is not so any more.
//!
//! Responsible for: stories that break rules of the metadata group. Guarantees: chances come from the story's own stream. Must
//! not know: what ought to come of them.

use super::{Aimed, again_and_again};
use crate::oddities::Stale;
use crate::plan::{Fault, Mix};
use crate::stories::{Blow, How, Moment, Role};
use crate::subjects::Subjects;
use crate::world::{MS, SECOND};
use weft_store::fault::Random;

pub const ALL: &[Aimed] = &[
    Aimed { name: "late-surrender", tell: late_surrender },
    Aimed { name: "start-committed-twice", tell: start_committed_twice },
    Aimed { name: "earlier-start", tell: earlier_start },
    Aimed { name: "forgotten-store", tell: forgotten_store },
    Aimed { name: "late-answers", tell: late_answers },
    Aimed { name: "lone-accuser", tell: lone_accuser },
    Aimed { name: "log-not-reached", tell: log_not_reached },
    Aimed { name: "cut-upon-cut", tell: cut_upon_cut },
    Aimed { name: "held-up", tell: held_up },
];

pub const LATER: &[Aimed] = &[Aimed { name: "unused-cap", tell: unused_cap }];

/// A process is killed, and the word of it comes again when the next one serves.
fn late_surrender(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    let nodes = mix.nodes;
    again_and_again(mix, 3, 3 * SECOND, |_| {
        let (node, back_ms) = (1 + random.below(nodes), 20 + random.below(300));
        Fault::Stale(Stale::Surrender { node, back_ms, after_ms: 500 + random.below(2000) })
    })
}

/// A start asks again, and both requests are committed.
fn start_committed_twice(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    let nodes = mix.nodes;
    again_and_again(mix, 3, 3 * SECOND, |_| {
        let (node, back_ms) = (1 + random.below(nodes), 20 + random.below(300));
        Fault::Stale(Stale::SameStart { node, back_ms, after_ms: 20 + random.below(1000) })
    })
}

/// The word of a start that ended at once comes when the next one has lost something.
fn earlier_start(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    let nodes = mix.nodes;
    again_and_again(mix, 3, 3 * SECOND, |_| {
        let node = 1 + random.below(nodes);
        Fault::Stale(Stale::EarlierStart { node, after_ms: 600 + random.below(1500) })
    })
}

/// A node comes without its store of the metadata group. It has started before, so the group knows that it had one.
fn forgotten_store(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    let node = 1 + random.below(mix.nodes);
    let mut faults =
        again_and_again(mix, 3, 3 * SECOND, |_| Fault::Stale(Stale::Forgets { node, ms: 500 + random.below(1500) }));
    let first = Fault::Crash { node, parent: true, back_ms: 20 };
    for (at, _) in &mut faults {
        *at += 2 * SECOND;
    }
    faults.insert(0, (300 * MS, first));
    faults
}

/// A leader whose majority has answered is replaced before the answers arrive, and hears of a node that hears of nobody else.
fn late_answers(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    (mix.nodes, mix.slow_message_percent, mix.loss_percent) = (5, 0, 0);
    again_and_again(mix, 4, 7 * SECOND, |_| {
        let (choice, slow_ms) = (random.next_u64(), 1200 + random.below(900));
        Fault::Stale(Stale::LateAnswers { choice, slow_ms, heal_ms: 4500 })
    })
}

/// A primary reaches clients and no other member, and accuses them. Its word comes to the leader when theirs has.
fn lone_accuser(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    (mix.nodes, mix.groups, mix.slow_message_percent, mix.loss_percent) = (7, 1, 0, 0);
    let blow = |to, ms| Some(Blow { after_us: 0, how: How::Silence, who: Role::Primary, to, ms });
    again_and_again(mix, 3, 7 * SECOND, |_| {
        let late_ms = 1300 + 2 * random.below(150);
        let blows = [blow(Role::Subject, 6000), blow(Role::Other, 6000), blow(Role::Leader, late_ms)];
        Fault::Ambush { moment: Moment::Written, blows }
    })
}

/// A member that was away, kept in the set by the minimum, is to lead when a resync has brought in another.
fn log_not_reached(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    // With others beside the three, so that there is a majority all the time.
    (mix.nodes, mix.groups, mix.segment_bytes, mix.think_ms) = (5, 1, 256 << 10, 4);
    (mix.clients, mix.threads, mix.churn_percent, mix.churn_objects) = (4, 5, 90, 40);
    (mix.readers, mix.reading_clients, mix.loss_percent, mix.slow_message_percent) = (0, 0, 0, 0);
    mix.cut_percent = 40;
    let blow = |after_us, how, who, to, ms| Some(Blow { after_us, how, who, to, ms });
    let turned = random.chance(50);
    let (one, two) = if turned { (Role::Subject, Role::Other) } else { (Role::Other, Role::Subject) };
    let away_ms = 3500 + random.below(1500);
    let first = blow(0, How::Isolate, one, Role::Primary, away_ms);
    let silent = blow((away_ms - 100 - random.below(300)) * 1000, How::Silence, Role::Primary, two, 20_000);
    let end = blow(random.below(2000), How::PowerCut, Role::Primary, Role::Other, 20_000);
    (mix.alone, mix.faulty_ns) = (true, 12 * SECOND);
    vec![
        (300 * MS, Fault::Ambush { moment: Moment::Written, blows: [first, silent, None] }),
        (300 * MS, Fault::Ambush { moment: Moment::Promoted, blows: [end, None, None] }),
    ]
}

/// A file is emptied while a cut of it waits for a session that sleeps.
fn cut_upon_cut(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    mix.subjects = Subjects { writers: 2, empties: true, ..Subjects::default() };
    (mix.clients, mix.threads, mix.think_ms) = (3, 1, 40);
    again_and_again(mix, 9, 1500 * MS, |_| Fault::PauseClient { client: random.below(3), ms: 500 + random.below(1500) })
}

/// A session acts on nothing that others want, and holds up another one.
fn held_up(_: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    mix.subjects = Subjects { writers: 2, stuck: true, ..Subjects::default() };
    (mix.clients, mix.threads, mix.think_ms) = (4, 1, 40);
    (mix.alone, mix.faulty_ns) = (true, 60 * SECOND);
    Vec::new()
}

/// Who may make a file longer has not done so yet when others want to. All begin at the same time, and commits take their time.
fn unused_cap(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    mix.subjects = Subjects { writers: 1, anew: true, ..Subjects::default() };
    (mix.clients, mix.threads, mix.think_ms) = (4, 1, 40);
    (mix.commit_us, mix.slow_message_percent, mix.loss_percent) = (150_000 + random.below(100_000), 0, 0);
    (mix.alone, mix.faulty_ns) = (true, 22 * SECOND);
    // They begin anew when nobody has it.
    (1..6).flat_map(|round| (0..4).map(move |client| (round * 4 * SECOND, Fault::Evict { client }))).collect()
}
