//! Stories about the rules by which a primary answers, sends and gives way.
//!
//! Responsible for: what strikes, and when. Guarantees: what is drawn comes from the chances that it is given. Must not know:
//! which oracle looks.

use super::Aimed;
use crate::plan::{Fault, Mix};
use crate::stories::{Blow, How, Moment, Role};
use crate::world::{MS, SECOND};
use weft_store::fault::Random;

pub const ALL: &[Aimed] = &[
    Aimed { name: "stuck-moves", tell: stuck_moves },
    Aimed { name: "reads-outlast-lease", tell: reads_outlast_lease },
    Aimed { name: "deaf-node", tell: deaf_node },
    Aimed { name: "late-copies-of-refused", tell: late_copies_of_refused },
    Aimed { name: "ends-beside-cuts", tell: ends_beside_cuts },
    Aimed { name: "told-of-nothing", tell: told_of_nothing },
    Aimed { name: "promise-and-power", tell: promise_and_power },
    Aimed { name: "gaps", tell: gaps },
    Aimed { name: "damaged-bytes", tell: damaged_bytes },
    Aimed { name: "all-lose", tell: all_lose },
];

pub const LATER: &[Aimed] = &[Aimed { name: "flood", tell: flood }];

const fn blow(after_us: u64, how: How, who: Role, to: Role, ms: u64) -> Option<Blow> {
    Some(Blow { after_us, how, who, to, ms })
}

/// Times from the first one on, so far apart.
fn times(first: u64, apart: u64, count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |at| first + at * apart)
}

/// A primary that cannot have its writes acknowledged, because it does not reach a backup, is to make room for another.
/// Somebody reads all the time.
fn stuck_moves(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    (mix.groups, mix.hot_percent, mix.think_ms) = (1 + random.below(2) as u16, 0, 4);
    (mix.clients, mix.threads, mix.readers) = (mix.clients.max(2), 4, 2);
    (mix.alone, mix.faulty_ns) = (true, 10 * SECOND);
    let tell = |at| {
        // Odd: one way. Less than what costs the backup its place.
        let silence = blow(0, How::Silence, Role::Primary, Role::Subject, 701 + 2 * random.below(50));
        let going = blow(20_000 + random.below(200_000), How::Move, Role::Primary, Role::Other, random.below(2));
        (at, Fault::Ambush { moment: Moment::Written, blows: [silence, going, None] })
    };
    times(300 * MS, 1200 * MS, 7).map(tell).collect()
}

/// A primary that reaches clients and no other node reads from a disk for longer than it has its lease.
fn reads_outlast_lease(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    (mix.groups, mix.hot_percent, mix.think_ms) = (1, 0, 10);
    (mix.clients, mix.threads, mix.readers) = (mix.clients.max(2), 4, 3);
    (mix.cold_disks, mix.disk_us, mix.batch_us) = (true, 8000, 0);
    (mix.alone, mix.faulty_ns) = (true, 14 * SECOND);
    let tell = |at| {
        let slow = blow(0, How::SlowDisk, Role::Primary, Role::Other, 4000);
        let alone = blow(random.below(300_000), How::Alone, Role::Primary, Role::Other, 4000);
        (at, Fault::Ambush { moment: Moment::Written, blows: [slow, alone, None] })
    };
    times(500 * MS, 6 * SECOND, 2).map(tell).collect()
}

/// A node heartbeats and hears of no map, for longer than anybody waits for it, while a session is struck off.
fn deaf_node(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    mix.groups = mix.groups.max(2);
    mix.clients = mix.clients.max(2);
    mix.faulty_ns = mix.faulty_ns.max(20 * SECOND);
    let mut faults = Vec::new();
    for at in times(500 * MS, 8 * SECOND, 2) {
        let node = 1 + random.below(mix.nodes);
        faults.push((at, Fault::Deafen { node, ms: 7000 }));
        faults.push((at + random.below(500 * MS), Fault::Evict { client: random.below(mix.clients as u64) }));
    }
    faults
}

/// Changes are refused because a disk is full. Copies of them arrive when there is room again, at a primary that has refused
/// them or at one that led before and leads again, while an earlier operation of the same session is not answered yet, so
/// that nobody knows that the client has gone on.
fn late_copies_of_refused(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    (mix.nodes, mix.groups, mix.clients, mix.threads) = (3, 3, mix.clients.clamp(2, 3), 5);
    (mix.churn_percent, mix.churn_objects, mix.think_ms, mix.hot_percent) = (90, 60, 4, 0);
    (mix.readers, mix.reading_clients, mix.writers, mix.cut_percent) = (0, 0, 0, 0);
    mix.duplicate_percent = 100;
    (mix.alone, mix.faulty_ns) = (true, 20 * SECOND);
    let mut faults = Vec::new();
    for at in times(1500 * MS, 5500 * MS, 3) {
        let group = random.below(3);
        faults.push((at, Fault::Full { node: 1 + random.below(3), ms: 1800 }));
        // What is on its way when the primary moves is asked again elsewhere; something older is not answered.
        for after in [470, 1300] {
            let other = random.below(2);
            let choice = other << 8 | ((group + 3 - other) % 3);
            faults.push((at + after * MS, Fault::MovePrimary { choice }));
        }
        for client in 0..mix.clients as u64 {
            let node = 1 + random.below(3);
            let at = at + (435 + random.below(35)) * MS;
            faults.push((at, Fault::ClientPartition { client, node, both: true, heal_ms: 4500 }));
        }
    }
    faults
}

/// Somebody asks how long an object is, as of a cut that comes at the same time.
fn ends_beside_cuts(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    (mix.groups, mix.clients, mix.threads) = (1, mix.clients.max(2), 4);
    (mix.churn_percent, mix.churn_objects, mix.cut_percent) = (90, 6, 30);
    (mix.readers, mix.reading_clients, mix.writers) = (0, 0, 0);
    (mix.batch_us, mix.think_ms, mix.ends_asked) = (1000, 4, 4);
    vec![(random.below(SECOND), Fault::UnseatLeader)]
}

/// What is committed last is told on a connection that is about to break, and nobody writes any more.
fn told_of_nothing(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    (mix.groups, mix.clients, mix.threads, mix.writers) = (1, 1, 1, 1);
    (mix.readers, mix.reading_clients, mix.think_ms) = (0, 0, 16_000);
    (mix.alone, mix.faulty_ns) = (true, 50 * SECOND);
    let tell = |at| {
        // Odd: one way. The connection breaks before it heals.
        let silence = blow(0, How::Silence, Role::Primary, Role::Subject, 3501 + 2 * random.below(50));
        (at, Fault::Ambush { moment: Moment::Written, blows: [silence, None, None] })
    };
    times(300 * MS, MS, 16).map(tell).collect()
}

/// A member loses its power when it has promised, and again.
fn promise_and_power(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    (mix.disk_us, mix.alone) = (5000, true);
    let mut faults = Vec::new();
    for at in times(500 * MS, 1200 * MS, 8) {
        let cut = blow(0, How::PowerCut, Role::Subject, Role::Primary, 20 + random.below(100));
        faults.push((at, Fault::Ambush { moment: Moment::Promising, blows: [cut, None, None] }));
        faults.push((at + MS, Fault::MovePrimary { choice: random.next_u64() }));
    }
    faults
}

/// Connections break and queues are full under load: an entry is lost, and what was sent after it arrives.
fn gaps(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    (mix.clients, mix.threads, mix.think_ms) = (mix.clients.max(3), 5, 1);
    (mix.readers, mix.reading_clients, mix.writers) = (0, 0, 4);
    (mix.groups, mix.latency_us, mix.late_percent, mix.full_queue_one_in) = (1, 1000, 60, 200);
    mix.alone = true;
    times(500 * MS, 150 * MS, 50).map(|at| (at, Fault::BreakLinks { node: 1 + random.below(mix.nodes) })).collect()
}

/// A node damages what it sends.
fn damaged_bytes(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    let tell = |at| (at, Fault::DamageBytes { node: 1 + random.below(mix.nodes), messages: 1 + random.below(4) });
    times(500 * MS, 500 * MS, 16).map(tell).collect()
}

/// Every member loses what it has not synced. They are waited for a minute, then the longest log wins, and whoever flushes
/// hears of the loss.
fn all_lose(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    (mix.nodes, mix.groups, mix.clients, mix.threads) = (3, 1 + random.below(2) as u16, mix.clients.min(2), 3);
    (mix.readers, mix.reading_clients, mix.writers, mix.think_ms) = (0, 0, 0, 40);
    (mix.alone, mix.faulty_ns) = (true, 70 * SECOND);
    let back_ms = 50 + random.below(500);
    vec![(SECOND + random.below(2 * SECOND), Fault::PowerCutOfAll { back_ms })]
}

/// More is written at a time than a journal has room for beside what is committed, and a member is slow.
fn flood(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    (mix.nodes, mix.groups, mix.clients, mix.threads, mix.writers) = (3, 1 + random.below(3) as u16, 4, 16, 16);
    (mix.readers, mix.reading_clients, mix.hot_percent, mix.think_ms) = (0, 0, 0, 1);
    mix.segment_bytes = 128 << 10;
    (mix.alone, mix.faulty_ns) = (true, 8 * SECOND);
    let slow = |at| (at, Fault::SlowDisk { node: 1 + random.below(3), times: 100, ms: 1000 });
    times(500 * MS, 2 * SECOND, 4).map(slow).collect()
}
