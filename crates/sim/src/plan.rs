//! What a seed decides before a run begins: the cluster, the mix of faults, and when each fault strikes.
//!
//! Swarm testing: each seed draws its own mix, so that faults do not hide each other. The faults are a list; leaving
//! some out (`--without`) leaves all else as it was drawn, which is how a failure is shrunk. Guarantees: the same seed
//! gives the same plan. Must not know: how faults are carried out.

use crate::Options;
use crate::oddities::{DiskFault, Stale};
use crate::operators::Away;
use crate::stories::{self, Blows, Moment, Role};
use crate::subjects::{self, Subjects};
use crate::world::{MS, SECOND};
use weft_store::fault::Random;

/// Settings of a run.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    pub nodes: u64,
    pub clients: usize,
    pub threads: usize,
    pub groups: u16,
    pub think_ms: u64,
    pub latency_us: u64,
    pub slow_message_percent: u64,
    pub slow_message_ms: u64,
    pub loss_percent: u64,
    pub duplicate_percent: u64,
    /// Of messages on their way when a link breaks, how many come late instead of never.
    pub late_percent: u64,
    pub late_map_percent: u64,
    pub commit_us: u64,
    pub disk_us: u64,
    pub cold_disks: bool,
    /// Longest time for which a node gathers what arrives before it acts; zero: it acts at once.
    pub batch_us: u64,
    pub drift_ppm: u64,
    pub full_queue_one_in: u64,
    pub scrub_bytes_per_second: u64,
    pub resync_bytes_per_second: u64,
    pub capacity_bytes: u64,
    pub faulty_ns: u64,
    /// How many operations go to one block, where they get into each other's way.
    pub hot_percent: u64,
    /// How many of the changes that are no registers are truncations, besides the usual ones.
    pub cut_percent: u64,
    /// Threads of each client that only read: the others may all wait for a write.
    pub readers: usize,
    /// Clients that only read.
    pub reading_clients: usize,
    /// Threads of each client that only write whole blocks, which needs no read.
    pub writers: usize,
    /// How many operations of threads that do all kinds are changes that are no registers, besides the usual ones, and how
    /// many objects they are spread over.
    pub churn_percent: u64,
    pub churn_objects: u64,
    /// These changes bring no data, so that journals hold many short records.
    pub short_changes: bool,
    pub segment_bytes: u32,
    /// Chunk files that a store keeps open.
    pub open_chunks: usize,
    /// Of requests for a change of a set, how many arrive a second time, long after.
    pub late_change_percent: u64,
    /// How many times the end of an object is asked for about when a cut of it is asked for, by somebody who knows of the cut.
    pub ends_asked: u64,
    /// Clients use no files and cut nothing: an operator may give up even what was flushed, and nobody then knows of a cut
    /// that the metadata group has committed.
    pub registers_only: bool,
    /// Nothing goes wrong beside the story that is told, except what goes with files.
    pub alone: bool,
    /// A sync of a directory makes no names of others durable.
    pub names_apart: bool,
    /// A member that can be copied to has to be copied to, and reads to go on meanwhile, in bounded time.
    pub watch_copies: bool,
    /// Threads of each client that work in blocks of their own, and how many of their operations are copies.
    pub plots: usize,
    pub copies_percent: u64,
    /// And how many are writes of a block where nothing is yet, besides the usual ones.
    pub fresh_percent: u64,
    /// One node's disk has so much room when clients begin, and is no larger until the faults end; zero: there is none.
    pub small_disk: u64,
    pub small_disk_kib: u64,
    pub subjects: Subjects,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A process dies; its parent may see it and start it again.
    Crash {
        node: u64,
        parent: bool,
        back_ms: u64,
    },
    CleanStop {
        node: u64,
        back_ms: u64,
    },
    PowerCut {
        node: u64,
        back_ms: u64,
    },
    /// All at once.
    PowerCutOfAll {
        back_ms: u64,
    },
    /// The power fails at the n-th change of the disk from now.
    PowerCutWithin {
        node: u64,
        operations: u64,
        back_ms: u64,
    },
    /// Nothing gets from one to the other, or neither way.
    Partition {
        from: u64,
        to: u64,
        both: bool,
        heal_ms: u64,
    },
    Isolate {
        node: u64,
        heal_ms: u64,
    },
    /// One client does not reach one node.
    ClientPartition {
        client: u64,
        node: u64,
        both: bool,
        heal_ms: u64,
    },
    BreakLinks {
        node: u64,
    },
    Pause {
        node: u64,
        ms: u64,
    },
    PauseClient {
        client: u64,
        ms: u64,
    },
    CrashClient {
        client: u64,
    },
    Evict {
        client: u64,
    },
    UnseatLeader,
    SlowDisk {
        node: u64,
        times: u64,
        ms: u64,
    },
    /// Syncs fail from now on: the disk is lost.
    FailSync {
        node: u64,
    },
    /// A bit of a file flips on one copy.
    FlipBit {
        node: u64,
        choice: u64,
    },
    /// A part of a file cannot be read any more, on one copy.
    Unreadable {
        node: u64,
        choice: u64,
    },
    /// A write to a file of one copy is answered, and lost or done somewhere else.
    Stray {
        node: u64,
        choice: u64,
        lost: bool,
    },
    Full {
        node: u64,
        ms: u64,
    },
    /// Bits of several files flip on one copy, beside a level one that is whole.
    Rot {
        node: u64,
        choice: u64,
    },
    /// The disk has so much room from now on, and nobody else takes of it.
    Fit {
        node: u64,
        room_kib: u64,
    },
    /// The disk of whoever leads a group is slow.
    SlowLeading {
        group: u64,
        times: u64,
        ms: u64,
    },
    /// The disk is replaced by an empty one.
    ReplaceDisk {
        node: u64,
        back_ms: u64,
    },
    MovePrimary {
        choice: u64,
    },
    /// A member of a group and some clients reach each other, and nobody else.
    Split {
        group: u64,
        role: Role,
        clients: u64,
        heal_ms: u64,
    },
    /// A node heartbeats, and hears of no map.
    Deafen {
        node: u64,
        ms: u64,
    },
    /// The next so many messages with bytes of clients to other members arrive with one bit flipped.
    DamageBytes {
        node: u64,
        messages: u64,
    },
    /// An empty node joins; its process is killed after so long, and started again.
    AddNode {
        crash_ms: u64,
    },
    /// An operator stops a node and removes it.
    RemoveNode {
        node: u64,
        away: Away,
    },
    /// An operator tries to remove whatever is down.
    RemoveTheDead {
        ms: u64,
    },
    /// An operator makes a replica primary that is no more than stale; a rash one, one that need not be.
    ForceReplica {
        rash: bool,
        ms: u64,
    },
    /// Another member of the cluster asks for the end of a client's session.
    SpeakForAnother {
        client: u64,
    },
    Ambush {
        moment: Moment,
        blows: Blows,
    },
    /// Something rare happens to a disk.
    Disk(DiskFault),
    /// What a node said or was long ago comes back.
    Stale(Stale),
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub mix: Mix,
    /// When, and what.
    pub faults: Vec<(u64, Fault)>,
}

impl Fault {
    /// Name of its kind.
    #[must_use]
    pub fn kind(&self) -> String {
        let all = format!("{self:?}");
        all.split([' ', '{']).next().unwrap_or_default().to_owned()
    }
}

impl Mix {
    /// The same cluster without anything that goes wrong by itself.
    #[must_use]
    pub fn calm(self) -> Self {
        Self {
            slow_message_percent: 0,
            loss_percent: 0,
            duplicate_percent: 0,
            late_map_percent: 0,
            full_queue_one_in: 0,
            late_change_percent: 0,
            ..self
        }
    }
}

impl Plan {
    /// The plan of a seed without what the options leave out. Places in it do not depend on the options.
    #[must_use]
    pub fn with(seed: u64, options: &Options) -> Self {
        let mut plan = Self::drawn(seed, options);
        let mut at = 0;
        plan.faults.retain(|(_, fault)| {
            at += 1;
            !options.calm && !options.without.contains(&(at - 1)) && !options.off.contains(&fault.kind())
        });
        if options.calm {
            plan.mix = plan.mix.calm();
        }
        plan
    }

    /// With the stories of the seed and with what its clients do with files, unless it is to be as it was before there
    /// were any. What is left out is in it still.
    #[must_use]
    pub fn drawn(seed: u64, options: &Options) -> Self {
        let mut plan = Self::plain(seed);
        if options.plain {
            return plan;
        }
        if let Some((mix, told)) = stories::draw(seed, &plan.mix, options.without_aimed) {
            plan.mix = mix;
            if mix.alone {
                plan.faults.clear();
            }
            plan.faults.extend(told);
        }
        if !options.without_files
            && !plan.mix.registers_only
            && let Some((mix, troubles)) = subjects::draw(seed, &plan.mix)
        {
            plan.mix = mix;
            plan.faults.extend(troubles);
        }
        plan
    }

    fn plain(seed: u64) -> Self {
        let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9) ^ 0x504c_414e);
        let mix = draw_mix(&mut random);
        let faults = draw_faults(&mut random, &mix);
        Self { mix, faults }
    }
}

pub fn one_of<T: Copy>(random: &mut Random, all: &[T]) -> T {
    all[random.below(all.len() as u64) as usize]
}

/// Few: who cuts one is to meet who writes it.
const CHURN_OBJECTS: u64 = 3;

fn draw_mix(random: &mut Random) -> Mix {
    Mix {
        nodes: one_of(random, &[3, 3, 3, 4, 5, 7]),
        clients: 1 + random.below(4) as usize,
        threads: 1 + random.below(3) as usize,
        groups: one_of(random, &[1, 2, 3, 4]),
        think_ms: one_of(random, &[10, 20, 40]),
        latency_us: one_of(random, &[50, 100, 200, 1000]),
        slow_message_percent: one_of(random, &[0, 0, 1, 5]),
        slow_message_ms: one_of(random, &[5, 50, 300]),
        loss_percent: one_of(random, &[0, 0, 1, 3]),
        duplicate_percent: one_of(random, &[0, 1, 3]),
        late_percent: one_of(random, &[0, 20, 60]),
        late_map_percent: one_of(random, &[0, 10, 30]),
        commit_us: one_of(random, &[300, 2000, 10_000]),
        disk_us: one_of(random, &[200, 1000, 5000]),
        cold_disks: random.chance(40),
        batch_us: one_of(random, &[0, 0, 100, 1000]),
        drift_ppm: one_of(random, &[0, 100, 10_000]),
        full_queue_one_in: one_of(random, &[0, 0, 3000]),
        scrub_bytes_per_second: one_of(random, &[0, 256 << 10, 1 << 20]),
        resync_bytes_per_second: one_of(random, &[256 << 10, 64 << 20]),
        capacity_bytes: 24 << 20,
        faulty_ns: one_of(random, &[6, 10, 16]) * SECOND,
        hot_percent: 0,
        cut_percent: 0,
        readers: 0,
        reading_clients: 0,
        writers: 0,
        churn_percent: 0,
        churn_objects: CHURN_OBJECTS,
        segment_bytes: 256 << 10,
        open_chunks: 16,
        late_change_percent: 0,
        ends_asked: 0,
        registers_only: false,
        short_changes: false,
        alone: false,
        names_apart: false,
        watch_copies: false,
        plots: 0,
        copies_percent: 0,
        fresh_percent: 0,
        small_disk: 0,
        small_disk_kib: 0,
        subjects: Subjects::default(),
    }
}

fn draw_faults(random: &mut Random, mix: &Mix) -> Vec<(u64, Fault)> {
    // Each kind is in this seed's swarm or not.
    let allowed: Vec<bool> = (0..KINDS).map(|_| random.chance(45)).collect();
    let pace_ms = one_of(random, &[300, 800, 2000]);
    let mut faults = Vec::new();
    let mut at = 500 * MS;
    while at < mix.faulty_ns {
        at += random.below(pace_ms * MS) + 20 * MS;
        let kind = random.below(KINDS);
        let fault = draw_fault(random, mix, kind);
        if allowed[kind as usize] {
            faults.push((at, fault));
        }
    }
    faults
}

const KINDS: u64 = 21;

fn draw_fault(random: &mut Random, mix: &Mix, kind: u64) -> Fault {
    let node = 1 + random.below(mix.nodes);
    let other = 1 + (node + random.below(mix.nodes - 1)) % mix.nodes;
    let client = random.below(mix.clients as u64);
    let back_ms = one_of(random, &[20, 200, 1000, 4000]) + random.below(300);
    let heal_ms = one_of(random, &[50, 500, 1500, 4000]) + random.below(500);
    let choice = random.next_u64();
    let coin = random.chance(50);
    match kind {
        0 => Fault::Crash { node, parent: coin, back_ms },
        1 => Fault::CleanStop { node, back_ms },
        2 => Fault::PowerCut { node, back_ms },
        3 => Fault::PowerCutOfAll { back_ms },
        4 => Fault::PowerCutWithin { node, operations: 1 + choice % 60, back_ms },
        5 => Fault::Partition { from: node, to: other, both: coin, heal_ms },
        6 => Fault::Isolate { node, heal_ms },
        7 => Fault::ClientPartition { client, node, both: coin, heal_ms },
        8 => Fault::BreakLinks { node },
        9 => Fault::Pause { node, ms: heal_ms },
        10 => Fault::PauseClient { client, ms: heal_ms * 4 },
        11 => Fault::CrashClient { client },
        12 => Fault::Evict { client },
        13 => Fault::UnseatLeader,
        14 => Fault::SlowDisk { node, times: one_of(random, &[5, 50, 300]), ms: heal_ms },
        15 => Fault::FailSync { node },
        16 => Fault::FlipBit { node, choice },
        17 => Fault::Unreadable { node, choice },
        18 => Fault::Full { node, ms: heal_ms },
        19 => Fault::ReplaceDisk { node, back_ms },
        _ => Fault::MovePrimary { choice },
    }
}
