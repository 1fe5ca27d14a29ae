//! Stories of disks on which nothing is left.
//!
//! Responsible for: processes and machines that end while their disk is full. Must not know: what they find when they begin again.

use super::Aimed;
use crate::plan::{Fault, Mix};
use crate::world::{MS, SECOND};
use weft_store::fault::Random;

pub const ALL: &[Aimed] = &[Aimed { name: "begin-on-a-full-disk", tell: begin_on_a_full_disk }];

/// A disk has no room when its process ends, and none when the next one begins (seed 8119).
fn begin_on_a_full_disk(random: &mut Random, mix: &mut Mix) -> Vec<(u64, Fault)> {
    // What is written to files that are not there yet takes what room is left.
    (mix.churn_percent, mix.churn_objects, mix.think_ms) = (80, 60, 4);
    (mix.readers, mix.reading_clients, mix.cut_percent) = (0, 0, 0);
    mix.faulty_ns = mix.faulty_ns.max(16 * SECOND);
    let mut faults = Vec::new();
    let mut at = 300 * MS;
    for _ in 0..4 {
        let node = 1 + random.below(mix.nodes);
        faults.push((at, Fault::Full { node, ms: 3000 }));
        for _ in 0..3 {
            at += 400 * MS + random.below(600 * MS);
            let back_ms = 20 + random.below(200);
            let end = match random.below(3) {
                0 => Fault::PowerCut { node, back_ms },
                _ => Fault::Crash { node, parent: random.chance(50), back_ms },
            };
            faults.push((at, end));
        }
        at += 1500 * MS;
    }
    faults
}
