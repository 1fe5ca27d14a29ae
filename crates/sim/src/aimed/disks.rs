//! Executions in which a disk or what is on it is not what it was.
//!
//! Responsible for: stories that break rules of the store. Guarantees: chances come from the story's own stream. Must not know:
//! what ought to come of them.

use super::{Aimed, again_and_again};
use crate::oddities::DiskFault;
use crate::plan::{Fault, Mix};
use crate::stories::{Blow, How, Moment, Role};
use crate::world::{MS, SECOND};
use weft_store::fault::Random;

pub const ALL: &[Aimed] = &[
    Aimed { name: "failed-disk-stays", tell: failed_disk_stays },
    Aimed { name: "failed-disk-unmarked", tell: failed_disk_unmarked },
    Aimed { name: "foreign-disk", tell: foreign_disk },
    Aimed { name: "rot", tell: rot },
    Aimed { name: "removed-when-full", tell: removed_when_full },
    Aimed { name: "reset-log", tell: reset_log },
    Aimed { name: "names-lost", tell: names_lost },
];

pub const LATER: &[Aimed] =
    &[Aimed { name: "reordered-tail", tell: reordered_tail }, Aimed { name: "lost-trailers", tell: lost_trailers }];

/// A disk whose sync failed once is started on again, and syncs work from then on.
fn failed_disk_stays(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    fail_and_stay(random, mix, 1)
}

/// Not even the mark that it has failed could be written.
fn failed_disk_unmarked(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    fail_and_stay(random, mix, 4)
}

fn fail_and_stay(random: &mut Random, mix: &mut Mix, syncs: u64) -> Vec<(u64, Fault)> {
    again_and_again(mix, 2, 4 * SECOND, |_| {
        let node = 1 + random.below(3);
        Fault::Disk(DiskFault::FailsAndStays { node, syncs, back_ms: 300 + random.below(700) })
    })
}

/// Somebody puts the disk of another cluster into a node.
fn foreign_disk(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    let nodes = mix.nodes;
    again_and_again(mix, 3, 2 * SECOND, |_| {
        let node = 1 + random.below(nodes);
        Fault::Disk(DiskFault::Foreign { node, back_ms: 20 + random.below(1500) })
    })
}

/// Bits flip where clients read, and no scrub is there before them. Little is written, so that what is read is in files.
fn rot(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    in_files(mix);
    again_and_again(mix, 12, 500 * MS, |_| Fault::Disk(DiskFault::Rot { choice: random.next_u64() }))
}

/// Registers are read, and other objects written so much that journals go round.
fn in_files(mix: &mut Mix) {
    (mix.nodes, mix.groups, mix.segment_bytes, mix.think_ms) = (3, 1, 128 << 10, 10);
    (mix.threads, mix.readers, mix.reading_clients, mix.writers, mix.hot_percent) = (3, 1, 0, 0, 0);
    (mix.churn_percent, mix.churn_objects, mix.scrub_bytes_per_second) = (80, 20, 0);
}

/// Chunks go, and there is no room for others in the same checkpoint.
fn removed_when_full(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    (mix.churn_percent, mix.churn_objects, mix.cut_percent, mix.think_ms) = (90, 40, 50, 4);
    (mix.clients, mix.threads, mix.readers, mix.reading_clients, mix.writers) = (4, 5, 0, 0, 0);
    (mix.nodes, mix.segment_bytes, mix.disk_us) = (3, 128 << 10, 200);
    again_and_again(mix, 12, 900 * MS, |_| {
        let node = 1 + random.below(3);
        Fault::Full { node, ms: 500 + random.below(400) }
    })
}

/// A copy is interrupted by the end of its source, and begins anew behind what its target had already.
fn reset_log(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    (mix.nodes, mix.groups, mix.segment_bytes, mix.think_ms) = (3, 1, 256 << 10, 4);
    (mix.cold_disks, mix.disk_us) = (true, 5000);
    (mix.churn_percent, mix.churn_objects, mix.readers, mix.reading_clients) = (30, 16, 0, 0);
    (mix.clients, mix.threads, mix.writers, mix.hot_percent) = (4, 5, 3, 0);
    let blow = |after_us, how, who, to, ms| Some(Blow { after_us, how, who, to, ms });
    let mut faults = Vec::new();
    let mut at = 300 * MS;
    for _ in 0..4 {
        let node = 1 + random.below(3);
        faults.push((at, Fault::Isolate { node, heal_ms: 2500 + random.below(1000) }));
        let slow = blow(0, How::SlowDisk, Role::Primary, Role::Other, 2000);
        faults.push((at, Fault::Ambush { moment: Moment::Resyncing, blows: [slow, None, None] }));
        let silence = blow(0, How::Silence, Role::Primary, Role::Other, 1000);
        let after_us = 20_000 + random.below(200_000);
        let end = blow(after_us, How::Crash, Role::Primary, Role::Other, 5000 + random.below(2) * 1000);
        // The next one goes on before it copies.
        let away = blow(after_us + 5000, How::Pause, Role::Subject, Role::Primary, 1200 + random.below(2000));
        faults.push((at, Fault::Ambush { moment: Moment::Copying, blows: [silence, end, away] }));
        let crash = blow(random.below(60_000), How::Crash, Role::Subject, Role::Primary, 20 + 2 * random.below(10));
        faults.push((at, Fault::Ambush { moment: Moment::Promoted, blows: [crash, None, None] }));
        at += 7 * SECOND;
    }
    (mix.alone, mix.faulty_ns) = (true, mix.faulty_ns.max(at));
    faults
}

/// The power goes when new files have been given their names, on disks that write the names of each directory apart.
fn names_lost(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    (mix.churn_percent, mix.churn_objects, mix.cut_percent, mix.think_ms) = (80, 60, 40, 4);
    (mix.readers, mix.reading_clients, mix.segment_bytes, mix.names_apart) = (0, 0, 128 << 10, true);
    let nodes = mix.nodes;
    again_and_again(mix, 5, 2 * SECOND, |_| {
        let node = 1 + random.below(nodes);
        Fault::PowerCut { node, back_ms: 20 + random.below(300) }
    })
}

/// With its power a disk loses one record of the journal's tail, and keeps what lies behind. The process that then writes there
/// ends soon, often where a record that was kept begins: all are short.
fn reordered_tail(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    (mix.nodes, mix.groups, mix.clients, mix.threads, mix.think_ms) = (3, 1, 4, 5, 1);
    (mix.churn_percent, mix.churn_objects, mix.short_changes) = (100, 30, true);
    (mix.readers, mix.reading_clients, mix.writers, mix.segment_bytes) = (0, 0, 0, 256 << 10);
    (mix.disk_us, mix.alone, mix.faulty_ns) = (5000, true, 18 * SECOND);
    let mut faults = Vec::new();
    let mut at = 500 * MS;
    while at < mix.faulty_ns {
        let node = 1 + random.below(3);
        // No sync ends, so that the tail is long.
        faults.push((at, Fault::SlowDisk { node, times: 300, ms: 1500 }));
        let written_bytes = 512 + random.below(2048);
        let gap = DiskFault::Gap { node, sector: random.below(8), back_ms: 20, written_bytes };
        faults.push((at + 1500 * MS, Fault::Disk(gap)));
        at += 3000 * MS;
    }
    faults
}

/// A process finds chunks without a trailer, or with an old one. Sometimes it leads, sometimes it is to lead later.
fn lost_trailers(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    in_files(mix);
    mix.open_chunks = 1;
    (mix.alone, mix.faulty_ns) = (true, 25 * SECOND);
    let mut faults = Vec::new();
    for told in 0..4 {
        let at = SECOND + told * 6 * SECOND;
        let (node, choice, back_ms) = (1 + random.below(3), random.next_u64(), 20 + random.below(300));
        faults.push((at, Fault::Disk(DiskFault::Trailers { node, choice, back_ms })));
        for _ in 0..2 {
            faults.push((at + random.below(5 * SECOND), Fault::MovePrimary { choice: random.next_u64() }));
        }
    }
    faults
}
