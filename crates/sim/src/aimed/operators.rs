//! Operators change the cluster while it works and while it is hurt: nodes come and go, and replicas are given up.
//!
//! Responsible for: the rules of design 5.9 (the last good copy) and 4.1 (who is not in the cluster serves nothing), and what
//! the arrival and the loss of whole nodes does to resyncs. Guarantees: as many nodes join as are to go. Must not know: what
//! ought to come of it.

use super::Aimed;
use crate::operators::Away;
use crate::plan::{Fault, Mix, one_of};
use crate::stories::{Blow, How, Moment, Role};
use crate::world::{MS, SECOND};
use weft_store::fault::Random;

pub const ALL: &[Aimed] = &[
    Aimed { name: "node-joins", tell: node_joins },
    Aimed { name: "node-removed", tell: node_removed },
    Aimed { name: "last-copy", tell: last_copy },
    Aimed { name: "force-stale", tell: force_stale },
    Aimed { name: "impostor", tell: impostor },
];

pub const LATER: &[Aimed] = &[Aimed { name: "force-broken-copy", tell: force_broken_copy }];

fn blow(after_us: u64, how: How, who: Role, ms: u64) -> Option<Blow> {
    Some(Blow { after_us, how, who, to: Role::Other, ms })
}

pub fn away(random_number: u64) -> Away {
    match random_number % 4 {
        0 => Away::Stopped,
        1 => Away::Killed,
        2 => Away::Dark,
        _ => Away::Cut { ms: 3000 + random_number % 2000 },
    }
}

/// A node joins while the empty disk of another is being filled; and then a third has to go.
fn node_joins(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    (mix.nodes, mix.groups) = (one_of(random, &[3, 3, 4]), 1 + random.below(2) as u16);
    (mix.cold_disks, mix.disk_us) = (true, 5000);
    let tries = 3;
    let every = 5 * SECOND;
    mix.faulty_ns = mix.faulty_ns.max((tries + 1) * every);
    let mut faults = Vec::new();
    for told in 0..tries {
        let at = 300 * MS + told * every + random.below(SECOND);
        let node = 1 + random.below(mix.nodes + told);
        let other = 1 + (node + random.below(mix.nodes + told - 1)) % (mix.nodes + told);
        let back_ms = 20 + random.below(200);
        let slow = blow(0, How::SlowDisk, Role::Primary, 2000);
        faults.push((at, Fault::Ambush { moment: Moment::Resyncing, blows: [slow, None, None] }));
        faults.push((at, Fault::ReplaceDisk { node, back_ms }));
        let crash_ms = one_of(random, &[0, 0, 5, 50, 500, 1500]);
        faults.push((at + random.below(SECOND), Fault::AddNode { crash_ms }));
        let away = away(random.next_u64());
        faults.push((at + 1500 * MS + random.below(1500 * MS), Fault::RemoveNode { node: other, away }));
    }
    faults
}

/// A member is removed while clients write, and another one dies.
fn node_removed(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    (mix.nodes, mix.groups, mix.think_ms) = (one_of(random, &[4, 5]), 1 + random.below(2) as u16, 10);
    let tries = 3;
    let every = 5 * SECOND;
    mix.faulty_ns = mix.faulty_ns.max((tries + 1) * every);
    let mut faults = Vec::new();
    for told in 0..tries {
        let at = 300 * MS + told * every + random.below(SECOND);
        let (goes, dies) = one_of(
            random,
            &[(Role::Primary, Role::Other), (Role::Subject, Role::Primary), (Role::Subject, Role::Other)],
        );
        let removed = blow(0, How::Remove, goes, random.below(10_000));
        let how = one_of(random, &[How::Crash, How::PowerCut, How::Isolate, How::BreakLinks]);
        let after_us = one_of(random, &[1_000, 300_000, 2_000_000, 3_500_000]) + random.below(500_000);
        let dead = blow(after_us, how, dies, one_of(random, &[20, 300, 2000]) + random.below(300));
        faults.push((at, Fault::Ambush { moment: Moment::Written, blows: [removed, dead, None] }));
        faults.push((at + random.below(3 * SECOND), Fault::AddNode { crash_ms: 0 }));
    }
    faults
}

/// The set is two of three members when both die: one comes back, and the third has nothing of what was written meanwhile.
fn without_a_set(random: &mut Random, mix: &mut Mix, back_ms: u64) -> Fault {
    // Two members may be off while the metadata group goes on.
    (mix.nodes, mix.groups, mix.think_ms) = (5, 1, 10);
    mix.clients = mix.clients.max(2);
    let how = one_of(random, &[How::Crash, How::PowerCut]);
    let ends_us = 1_200_000 + random.below(100_000);
    // Even: its parent sees it, so that it leaves the set at once.
    let away = blow(0, How::Crash, Role::Subject, 1400);
    let one = blow(ends_us, how, Role::Primary, back_ms);
    let other = blow(ends_us + random.below(30_000), how, Role::Other, back_ms + random.below(1000));
    Fault::Ambush { moment: Moment::Written, blows: [away, one, other] }
}

/// An operator removes all that is down, and must not get rid of the last one that has everything.
fn last_copy(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    let tries = 2;
    let every = 11 * SECOND;
    mix.faulty_ns = mix.faulty_ns.max(tries * every);
    let mut faults = Vec::new();
    for told in 0..tries {
        let at = 300 * MS + told * every + random.below(SECOND);
        faults.push((at, without_a_set(random, mix, 6000)));
        faults.push((at + 3 * SECOND, Fault::RemoveTheDead { ms: 4000 }));
        faults.push((at + random.below(3 * SECOND), Fault::AddNode { crash_ms: 0 }));
    }
    faults
}

/// An operator makes do with what a stale member has, while those are away that have more.
fn force_stale(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    let tries = 2;
    let every = 11 * SECOND;
    mix.registers_only = true;
    mix.faulty_ns = mix.faulty_ns.max(tries * every);
    let mut faults = Vec::new();
    for told in 0..tries {
        let at = 300 * MS + told * every + random.below(SECOND);
        faults.push((at, without_a_set(random, mix, 7000)));
        faults.push((at + 2 * SECOND, Fault::ForceReplica { rash: false, ms: 5000 }));
        faults.push((at + random.below(every), Fault::ForceReplica { rash: true, ms: 0 }));
    }
    faults
}

/// The others die while a member is copied to, and an operator would make do with what it has.
fn force_broken_copy(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    // With others beside the three, so that there is a majority all the time.
    (mix.nodes, mix.groups, mix.segment_bytes, mix.think_ms) = (5, 1, 128 << 10, 4);
    (mix.cold_disks, mix.disk_us, mix.churn_percent, mix.churn_objects) = (true, 5000, 60, 40);
    (mix.clients, mix.threads, mix.readers, mix.reading_clients, mix.writers) = (3, 4, 0, 0, 0);
    (mix.registers_only, mix.alone, mix.faulty_ns) = (true, true, 26 * SECOND);
    let blow = |after_us, how, who, ms| Some(Blow { after_us, how, who, to: Role::Subject, ms });
    let mut faults = Vec::new();
    for at in [500 * MS, 13_500 * MS] {
        let away = blow(0, How::Isolate, Role::Subject, 2500 + random.below(500));
        faults.push((at, Fault::Ambush { moment: Moment::Written, blows: [away, None, None] }));
        let slow = blow(0, How::SlowDisk, Role::Primary, 1500);
        let after_us = 50_000 + random.below(1_000_000);
        let (first, second) =
            (blow(after_us, How::Crash, Role::Primary, 6000), blow(after_us + 1, How::Crash, Role::Other, 6000));
        faults.push((at, Fault::Ambush { moment: Moment::Copying, blows: [slow, first, second] }));
        faults.push((at + 2500 * MS, Fault::ForceReplica { rash: false, ms: 8000 }));
    }
    faults
}

/// One member of the cluster speaks for the sessions of another.
fn impostor(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    let mut faults = Vec::new();
    for told in 0..5 {
        let at = 300 * MS + told * SECOND + random.below(SECOND);
        faults.push((at, Fault::SpeakForAnother { client: random.below(mix.clients as u64) }));
        faults.push((at + random.below(SECOND), Fault::UnseatLeader));
    }
    faults
}
