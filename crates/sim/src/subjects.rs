//! What clients do with files, besides their registers: which seeds have it, and faults that go with it.
//!
//! Guarantees: what is drawn depends on the seed alone, by chances of its own: a seed without files, and its plan of faults,
//! is what it was before there were any. Must not know: how files are used.

use crate::plan::{Fault, Mix, one_of};
use crate::world::{MS, SECOND};
use weft_store::fault::Random;

/// What clients use; all zero: no files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Subjects {
    /// Owners of locks in each client.
    pub lock_owners: usize,
    /// Tasks in each client that make a file longer, cut it and look at it.
    pub writers: usize,
    /// Tasks in each client that make, find, move and remove names.
    pub namers: usize,
    /// The session of the first client comes to act on nothing that others want.
    pub stuck: bool,
    /// The file is often emptied.
    pub empties: bool,
    /// It is opened with truncation, by sessions that write to it only after a while.
    pub anew: bool,
}

fn random_of(seed: u64) -> Random {
    Random::new(seed.wrapping_mul(0x9e37_79b9) ^ 0x4649_4c45)
}

/// What clients of a seed use, unless they are told to use no files.
fn subjects_of(random: &mut Random) -> Subjects {
    match random.below(4) {
        0 => Subjects { lock_owners: 1 + random.below(3) as usize, ..Subjects::default() },
        2 => Subjects { namers: 1 + random.below(2) as usize, ..Subjects::default() },
        1 => Subjects { writers: 1 + random.below(2) as usize, ..Subjects::default() },
        _ => Subjects::default(),
    }
}

/// What the files of a seed are used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Subject {
    Locks,
    Sizes,
    Names,
}

/// What clients of a seed use, if anything.
#[must_use]
pub fn subject(seed: u64) -> Option<Subject> {
    match subjects_of(&mut random_of(seed)) {
        Subjects { lock_owners: 1.., .. } => Some(Subject::Locks),
        Subjects { writers: 1.., .. } => Some(Subject::Sizes),
        Subjects { namers: 1.., .. } => Some(Subject::Names),
        _ => None,
    }
}

/// The mix and the faults that go with the files of a seed. `None`: this one has none.
pub fn draw(seed: u64, mix: &Mix) -> Option<(Mix, Vec<(u64, Fault)>)> {
    let mut random = random_of(seed);
    let subjects = subjects_of(&mut random);
    if subjects == Subjects::default() {
        return None;
    }
    let mix = Mix {
        subjects,
        // Somebody has to be in somebody's way; and others do less, so that a seed takes no longer.
        clients: mix.clients.clamp(2, 3),
        threads: mix.threads.min(2),
        // A request that is lost is sent again after seconds: when somebody else has its lock, or its name. Who watches copies
        // counts on reads that are answered sooner.
        loss_percent: if subjects.writers > 0 || mix.watch_copies {
            mix.loss_percent
        } else {
            mix.loss_percent.max(random.below(4))
        },
        think_ms: mix.think_ms.max(20),
        faulty_ns: mix.faulty_ns.max(10 * SECOND),
        ..*mix
    };
    Some((mix, troubles(&mut random, &mix)))
}

/// Faults that hurt who uses files: clients that are gone, leaders that change.
fn troubles(random: &mut Random, mix: &Mix) -> Vec<(u64, Fault)> {
    let client = |random: &mut Random| random.below(mix.clients as u64);
    let mut faults = Vec::new();
    for _ in 0..1 + random.below(4) {
        let at = 300 * MS + random.below(mix.faulty_ns);
        let ms = one_of(random, &[100, 1_000, 4_000]) + random.below(500);
        let fault = match random.below(8) {
            0 | 1 => Fault::CrashClient { client: client(random) },
            2 => Fault::PauseClient { client: client(random), ms: ms * 4 },
            3 => {
                let node = 1 + random.below(mix.nodes);
                Fault::ClientPartition { client: client(random), node, both: random.chance(50), heal_ms: ms }
            }
            4 => Fault::Evict { client: client(random) },
            _ => Fault::UnseatLeader,
        };
        faults.push((at, fault));
    }
    faults
}
