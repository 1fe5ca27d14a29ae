//! Stories of members that are copied to, that come back, and that have no room (design 5.3 to 5.8, 5.10, 6).
//!
//! Guarantees: what a story tells depends on its chances and on the mix alone. Must not know: what ought to come of it.

use super::Aimed;
use crate::plan::{Fault, Mix, one_of};
use crate::stories::{Blow, How, Moment, Role};
use crate::world::{MS, SECOND};
use weft_store::fault::Random;

pub const ALL: &[Aimed] = &[
    Aimed { name: "interrupted-copy", tell: interrupted_copy },
    Aimed { name: "copy-without-room", tell: copy_without_room },
    Aimed { name: "late-reads-of-copies", tell: late_reads_of_copies },
    Aimed { name: "slow-barrier", tell: slow_barrier },
    Aimed { name: "lapped-copy", tell: lapped_copy },
    Aimed { name: "gone-disk", tell: gone_disk },
    Aimed { name: "longest-is-copied-to", tell: longest_is_copied_to },
    Aimed { name: "parted-log", tell: parted_log },
    Aimed { name: "copy-beside-one-away", tell: copy_beside_one_away },
    Aimed { name: "too-few-level", tell: too_few_level },
    Aimed { name: "rotten-source", tell: rotten_source },
    Aimed { name: "journal-without-room", tell: journal_without_room },
];

/// The others go on without a member for so long that no journal goes back to where it stopped.
const AWAY_MS: u64 = 2500;

type Told = Vec<(u64, Fault)>;

const fn blow(after_us: u64, how: How, who: Role, to: Role, ms: u64) -> Option<Blow> {
    Some(Blow { after_us, how, who, to, ms })
}

const fn ambush(moment: Moment, blow: Option<Blow>) -> Fault {
    Fault::Ambush { moment, blows: [blow, None, None] }
}

/// Its parent tells that it died, so that nobody begins to copy to it before it is back.
const fn away(node: u64, back_ms: u64) -> Fault {
    Fault::Crash { node, parent: true, back_ms }
}

/// Nothing goes wrong by itself, so that nothing helps either.
const fn by_itself(mix: &mut Mix) {
    (mix.slow_message_percent, mix.loss_percent, mix.duplicate_percent) = (0, 0, 0);
    (mix.late_map_percent, mix.full_queue_one_in, mix.late_change_percent) = (0, 0, 0);
}

/// Three nodes with one group, clients that change many objects, and no faults but those of the story.
const fn one_group(mix: &mut Mix, churn_percent: u64, churn_objects: u64) {
    (mix.alone, mix.nodes, mix.groups, mix.hot_percent) = (true, 3, 1, 0);
    (mix.churn_percent, mix.churn_objects) = (churn_percent, churn_objects);
    (mix.readers, mix.reading_clients, mix.writers) = (0, 0, 0);
}

/// A member is away for longer than journals go back, and is copied to so slowly that it takes seconds; again and again.
fn slow_copies(
    random: &mut Random,
    mix: &mut Mix,
    often: u64,
    mut ambushes: impl FnMut(&mut Random) -> Vec<Fault>,
) -> Told {
    one_group(mix, 60, 16);
    (mix.think_ms, mix.segment_bytes, mix.resync_bytes_per_second) = (4, 64 << 10, 256 << 10);
    mix.faulty_ns = mix.faulty_ns.max(16 * SECOND);
    let mut told = Vec::new();
    let mut at = 500 * MS;
    for _ in 0..often {
        told.extend(ambushes(random).into_iter().map(|fault| (at, fault)));
        let node = 1 + random.below(mix.nodes);
        told.push((at, away(node, AWAY_MS + random.below(500))));
        at += 5 * SECOND;
    }
    told
}

/// A member dies while it is copied to, with all that was not copied yet still missing.
fn interrupted_copy(random: &mut Random, mix: &mut Mix) -> Told {
    slow_copies(random, mix, 3, |random| {
        let after_us = 20_000 + random.below(600_000);
        let how = one_of(random, &[How::Crash, How::PowerCut]);
        let end = blow(after_us, how, Role::Subject, Role::Primary, 20 + random.below(300));
        vec![ambush(Moment::Copying, end)]
    })
}

/// A member's disk is full for a while, and what is being read for it cannot be sent.
fn copy_without_room(random: &mut Random, mix: &mut Mix) -> Told {
    slow_copies(random, mix, 3, |random| {
        let after_us = 20_000 + random.below(600_000);
        let full = blow(after_us, How::Fill, Role::Subject, Role::Primary, 600 + random.below(800));
        vec![ambush(Moment::Copying, full)]
    })
}

/// Blocks are read slowly for a member that has no room for the first of them, and has room again before the last is read. Of a
/// chunk some blocks differ, and not those between them.
fn late_reads_of_copies(random: &mut Random, mix: &mut Mix) -> Told {
    let told = slow_copies(random, mix, 3, |random| {
        let slow = blow(0, How::SlowDisk, Role::Primary, Role::Other, 3000);
        let full = |random: &mut Random, from_us: u64| {
            let after_us = from_us + random.below(300_000);
            blow(after_us, How::Fill, Role::Subject, Role::Primary, 20 + random.below(150))
        };
        let blows = [full(random, 50_000), full(random, 400_000), full(random, 800_000)];
        vec![ambush(Moment::Resyncing, slow), Fault::Ambush { moment: Moment::Copying, blows }]
    });
    (mix.cold_disks, mix.disk_us, mix.churn_objects) = (true, 1000, 60);
    (mix.segment_bytes, mix.resync_bytes_per_second) = (256 << 10, 64 << 20);
    (mix.threads, mix.clients) = (mix.threads.max(5), mix.clients.max(3));
    told
}

/// The disk of a member is slow when everything is copied to it and nothing synced.
fn slow_barrier(random: &mut Random, mix: &mut Mix) -> Told {
    mix.disk_us = 5000;
    let told = slow_copies(random, mix, 3, |_| {
        vec![ambush(Moment::Copying, blow(0, How::SlowDisk, Role::Subject, Role::Primary, 3000))]
    });
    mix.resync_bytes_per_second = 64 << 20;
    told
}

/// A member that is copied to gets nothing for so long that the journal of its primary does not go back to what it has, and
/// nothing happens after that.
fn lapped_copy(random: &mut Random, mix: &mut Mix) -> Told {
    one_group(mix, 80, 16);
    by_itself(mix);
    (mix.think_ms, mix.segment_bytes, mix.resync_bytes_per_second) = (4, 64 << 10, 256 << 10);
    mix.threads = mix.threads.max(4);
    mix.faulty_ns = 9 * SECOND;
    let silence = blow(random.below(300_000), How::Silence, Role::Primary, Role::Subject, 1501 + 2 * random.below(400));
    let node = 1 + random.below(mix.nodes);
    vec![(SECOND, ambush(Moment::Copying, silence)), (SECOND, away(node, AWAY_MS))]
}

/// The last level member's disk is gone, and its node lives on with another one.
fn gone_disk(random: &mut Random, mix: &mut Mix) -> Told {
    one_group(mix, 20, 3);
    by_itself(mix);
    mix.faulty_ns = 8 * SECOND;
    let at = SECOND + random.below(3 * SECOND);
    let gone = 1 + random.below(mix.nodes);
    let others = (1..=mix.nodes).filter(|node| *node != gone);
    // Nobody hears that it is gone before the others are known to be lossy: it would leave the set.
    let mut told = vec![
        (at, Fault::ReplaceDisk { node: gone, back_ms: 20 + random.below(300) }),
        (at, Fault::Isolate { node: gone, heal_ms: 3000 }),
    ];
    told.extend(others.map(|node| (at + 1, Fault::PowerCut { node, back_ms: 20 + node * 30 })));
    told
}

/// One that is copied to is sent what another member never gets, and joined after that one's end. Then the primary loses its power.
fn longest_is_copied_to(random: &mut Random, mix: &mut Mix) -> Told {
    one_group(mix, 60, 16);
    by_itself(mix);
    (mix.think_ms, mix.segment_bytes) = (4, 128 << 10);
    mix.faulty_ns = 12 * SECOND;
    let silence = blow(0, How::Silence, Role::Primary, Role::Other, 2401);
    let cut = blow(300_000 + random.below(1_000_000), How::PowerCut, Role::Primary, Role::Other, 20);
    let node = 1 + random.below(mix.nodes);
    let begins = 2 * SECOND;
    vec![
        (begins, Fault::Ambush { moment: Moment::Resyncing, blows: [silence, cut, None] }),
        (begins, away(node, 2500 + random.below(1000))),
    ]
}

/// A primary goes on alone with one client, which dies. When it is back, the log has gone on from where they parted, for longer
/// than journals go back, and elsewhere than it wrote.
fn parted_log(random: &mut Random, mix: &mut Mix) -> Told {
    one_group(mix, 95, 250);
    by_itself(mix);
    (mix.clients, mix.threads) = (mix.clients.max(3), mix.threads.max(4));
    (mix.think_ms, mix.segment_bytes, mix.resync_bytes_per_second) = (10, 64 << 10, 64 << 20);
    mix.faulty_ns = 10 * SECOND;
    let heal_ms = 5500 + random.below(500);
    vec![
        (SECOND, Fault::Split { group: 0, role: Role::Primary, clients: 1, heal_ms }),
        (SECOND + 1500 * MS, Fault::CrashClient { client: 0 }),
    ]
}

/// One member is copied to while another is away, and the set cannot do without that one.
fn copy_beside_one_away(random: &mut Random, mix: &mut Mix) -> Told {
    one_group(mix, 90, 60);
    by_itself(mix);
    (mix.think_ms, mix.segment_bytes, mix.resync_bytes_per_second) = (4, 64 << 10, 256 << 10);
    (mix.clients, mix.threads, mix.readers) = (mix.clients.max(2), mix.threads.max(3), 1);
    (mix.faulty_ns, mix.watch_copies) = (40 * SECOND, true);
    let gone = blow(random.below(20_000), How::Crash, Role::Other, Role::Primary, 200_000);
    let node = 1 + random.below(mix.nodes);
    let begins = 500 * MS;
    vec![(begins, ambush(Moment::Resyncing, gone)), (begins, away(node, 3500 + random.below(1000)))]
}

/// One member is away, and the other comes back lossy and is caught up, which its primary cannot tell anybody for a while.
fn too_few_level(random: &mut Random, mix: &mut Mix) -> Told {
    one_group(mix, 0, 3);
    by_itself(mix);
    // Mostly another node than the primary's leads the metadata group.
    (mix.nodes, mix.think_ms) = (5, 4);
    mix.faulty_ns = mix.faulty_ns.max(14 * SECOND);
    let away = blow(0, How::Isolate, Role::Other, Role::Primary, 3500);
    let lossy = blow(2_500_000 + random.below(200_000), How::PowerCut, Role::Subject, Role::Primary, 20);
    let unheard = blow(0, How::Silence, Role::Primary, Role::Leader, 1201);
    let told = |round: u64| {
        let at = SECOND + round * 4500 * MS;
        let flawed = (at + 2300 * MS, ambush(Moment::Flawed, unheard));
        [(at, Fault::Ambush { moment: Moment::Written, blows: [away, lossy, None] }), flawed]
    };
    (0..3).flat_map(told).collect()
}

/// What is read for a copy is rotten, and whom it is copied to is asked first.
fn rotten_source(random: &mut Random, mix: &mut Mix) -> Told {
    one_group(mix, 60, 8);
    by_itself(mix);
    (mix.think_ms, mix.segment_bytes, mix.scrub_bytes_per_second) = (10, 64 << 10, 0);
    mix.resync_bytes_per_second = 256 << 10;
    let rot = blow(random.below(200_000), How::Rot, Role::Primary, Role::Other, 0);
    let mut told = vec![(2 * SECOND, ambush(Moment::Resyncing, rot))];
    // The first in order.
    told.push((2 * SECOND, away(1, AWAY_MS)));
    told
}

/// A disk is filled while much waits to be written to files that are not there yet, and what is there is written over.
fn journal_without_room(random: &mut Random, mix: &mut Mix) -> Told {
    one_group(mix, 60, 60);
    by_itself(mix);
    (mix.think_ms, mix.segment_bytes) = (4, 128 << 10);
    (mix.clients, mix.threads, mix.writers) = (mix.clients.max(3), mix.threads.max(5), 2);
    mix.faulty_ns = mix.faulty_ns.max(14 * SECOND);
    let slow = blow(0, How::SlowDisk, Role::Subject, Role::Primary, 900);
    let full = blow(600_000 + random.below(250_000), How::Fill, Role::Subject, Role::Primary, 4000);
    let told = |round: u64| {
        (SECOND + round * 6 * SECOND, Fault::Ambush { moment: Moment::Written, blows: [slow, full, None] })
    };
    (0..2).map(told).collect()
}
