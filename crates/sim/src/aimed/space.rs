//! Disks that fill up while clients reserve room, and copies from chunk to chunk (docs/decisions/0020, 0015).
//!
//! Responsible for: who runs out of room, and when; which source is slow while its target is led now here and now there.
//! Guarantees: in all of these, threads have blocks for themselves (`client/plots.rs`). Must not know: what ought to come of it.

use super::Aimed;
use crate::plan::{Fault, Mix};
use crate::stories::{Blow, How, Moment, Role};
use crate::world::{MS, SECOND};
use weft_store::fault::Random;

pub const ALL: &[Aimed] = &[
    Aimed { name: "reserve-full", tell: reserve_full },
    Aimed { name: "reserve-small", tell: reserve_small },
    Aimed { name: "reserve-away", tell: reserve_away },
    Aimed { name: "reserve-sync", tell: reserve_sync },
    Aimed { name: "copy-moves", tell: copy_moves },
];

/// All threads of all clients have plots, in one group on three nodes; nothing else is in their way.
fn plots(mix: &mut Mix) {
    (mix.nodes, mix.groups, mix.clients, mix.threads, mix.plots) = (3, 1, 2, 3, 3);
    (mix.readers, mix.reading_clients, mix.writers, mix.think_ms) = (0, 0, 0, 4);
    (mix.slow_message_percent, mix.loss_percent, mix.full_queue_one_in, mix.late_change_percent) = (0, 0, 0, 0);
    (mix.disk_us, mix.segment_bytes, mix.faulty_ns) = (1000, 128 << 10, 10 * SECOND);
}

/// Everybody is out of room for long, because somebody else has filled the disks.
fn reserve_full(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    plots(mix);
    // What is sent at once is to be seen at once.
    mix.batch_us = 1000;
    (1..=mix.nodes).map(|node| (1000 * MS + random.below(20 * MS), Fault::Full { node, ms: 8000 })).collect()
}

/// The disk of one member is smaller than the others, and gets full by what is written to it.
fn reserve_small(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    plots(mix);
    (mix.small_disk, mix.small_disk_kib) = (1 + random.below(mix.nodes), 1024 + random.below(2048));
    mix.fresh_percent = if random.chance(30) { 70 } else { 0 };
    let mut faults = Vec::new();
    // Others lead, too.
    for round in 1..4 {
        faults.push((round * 2500 * MS, Fault::MovePrimary { choice: random.next_u64() }));
    }
    faults
}

/// What was reserved while a member was away for longer than journals go back.
fn reserve_away(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    plots(mix);
    let away = |random: &mut Random, mix: &Mix| {
        let heal_ms = 2500 + random.below(1000);
        Fault::Isolate { node: 1 + random.below(mix.nodes), heal_ms }
    };
    vec![(500 * MS, away(random, mix)), (5500 * MS, away(random, mix))]
}

/// A member that comes back finds its disk small, and is sent what others reserve.
fn reserve_sync(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    plots(mix);
    (mix.threads, mix.plots, mix.think_ms) = (4, 4, 16);
    // No journal goes round before there is room again.
    mix.segment_bytes = 512 << 10;
    (mix.alone, mix.faulty_ns) = (true, 14 * SECOND);
    let fit = |after_us, ms| Some(Blow { after_us, how: How::Fit, who: Role::Subject, to: Role::Primary, ms });
    let small = fit(0, random.below(16));
    // What could not be sent for want of room is sent now, as far as there is room.
    let larger = fit(2_500_000 + random.below(1_500_000), 64 + random.below(128));
    let away = Fault::Isolate { node: 1 + random.below(mix.nodes), heal_ms: 3000 + random.below(500) };
    let ambush = Fault::Ambush { moment: Moment::Resyncing, blows: [small, larger, None] };
    vec![(400 * MS, ambush), (500 * MS, away)]
}

/// Sources are slow, and who leads the targets changes there and back while they are read.
fn copy_moves(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    plots(mix);
    (mix.nodes, mix.groups, mix.copies_percent) = (7, 2, 40);
    (mix.cold_disks, mix.disk_us) = (true, 5000);
    (mix.latency_us, mix.commit_us) = (mix.latency_us.min(200), mix.commit_us.min(2000));
    (mix.threads, mix.plots) = (6, 6);
    mix.faulty_ns = 24 * SECOND;
    let mut faults = vec![(1000 * MS, Fault::SlowLeading { group: 1, times: 500, ms: 23_000 })];
    let mut at = 1500 * MS;
    while at < mix.faulty_ns {
        // There and back between the first two.
        faults.push((at, Fault::MovePrimary { choice: 0 }));
        faults.push((at + 300 * MS + random.below(100 * MS), Fault::MovePrimary { choice: 0 }));
        at += 1500 * MS + random.below(1000 * MS);
    }
    faults
}
