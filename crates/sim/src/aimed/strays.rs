//! Stories of a disk that says it wrote, and did not, or did it elsewhere.
//!
//! Responsible for: lost and misdirected writes, on one copy. Must not know: how that is noticed.

use super::Aimed;
use crate::plan::{Fault, Mix, one_of};
use crate::world::{MS, SECOND};
use weft_store::fault::Random;

pub const ALL: &[Aimed] = &[Aimed { name: "strays", tell: strays }];

/// One write to a chunk file strays, then everybody reads what is there; some processes begin anew, and read it from the disk.
fn strays(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    (mix.think_ms, mix.segment_bytes, mix.disk_us) = (4, 128 << 10, 1000);
    (mix.churn_percent, mix.cut_percent) = (0, 0);
    mix.scrub_bytes_per_second = one_of(random, &[0, 1 << 20]);
    mix.faulty_ns = mix.faulty_ns.max(12 * SECOND);
    let node = 1 + random.below(mix.nodes);
    let at = 1500 * MS + random.below(2 * SECOND);
    let lost = random.chance(60);
    // What is not open is read from the disk again.
    mix.open_chunks = 1;
    let mut faults = vec![(at, Fault::Stray { node, choice: random.next_u64(), lost })];
    // Whoever opens the disk again knows nothing but what is on it; whoever leads is read from.
    for second in 2..5 {
        let again = at + second * 2 * SECOND;
        faults.push((again, Fault::Crash { node, parent: true, back_ms: 50 + random.below(200) }));
        faults.push((again + SECOND, Fault::MovePrimary { choice: random.next_u64() }));
    }
    faults
}
