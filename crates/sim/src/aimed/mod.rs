//! Stories that are aimed at one rule each: the execution that breaks it, told with nothing else beside it, and again and again.
//!
//! Responsible for: which seeds tell one, and which. Guarantees: what is drawn depends on the seed alone, by chances of its own:
//! a seed that tells none, and every seed without them ([`Options::without_aimed`](crate::Options)), is what it was before there
//! were any. Must not know: what ought to come of it.

mod disks;
mod full;
mod group;
mod members;
pub mod operators;
mod rules;
mod space;
mod strays;

use crate::plan::{Fault, Mix, one_of};
use crate::world::MS;
use weft_store::fault::Random;

/// An execution. It may change the mix, and says what strikes, and when.
#[derive(Clone, Copy)]
pub struct Aimed {
    pub name: &'static str,
    pub tell: fn(&mut Random, &mut Mix) -> Vec<(u64, Fault)>,
}

/// By subject, each in a file of its own.
const SUBJECTS: [&[Aimed]; 8] =
    [disks::ALL, full::ALL, group::ALL, members::ALL, operators::ALL, rules::ALL, space::ALL, strays::ALL];

/// Those that came later. They take the place of others in a few seeds, so that the rest tell what they told before.
const LATER: [&[Aimed]; 4] = [disks::LATER, group::LATER, rules::LATER, operators::LATER];

/// The same fault so many times, so long after each other, in a run that is long enough and has no others.
fn again_and_again(mix: &mut Mix, times: u64, pause_ns: u64, mut fault: impl FnMut(u64) -> Fault) -> Vec<(u64, Fault)> {
    mix.alone = true;
    let at = |time| 500 * MS + time * pause_ns;
    mix.faulty_ns = mix.faulty_ns.max(at(times));
    (0..times).map(|time| (at(time), fault(time))).collect()
}

/// Of the seeds that tell a story, so many in a hundred tell one of these instead.
const CHANCE: u64 = 40;

/// And so many of those one that came later.
const LATER_CHANCE: u64 = 14;

/// Which one a seed tells, and the chances that go on with it.
pub fn of(seed: u64) -> Option<(Random, Aimed)> {
    let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9) ^ 0x4149_4d45);
    if !random.chance(CHANCE) {
        return None;
    }
    let aimed = one_of(&mut random, &SUBJECTS.concat());
    let mut later = Random::new(seed.wrapping_mul(0x9e37_79b9) ^ 0x4c41_5445);
    if later.chance(LATER_CHANCE) {
        return Some((random, one_of(&mut later, &LATER.concat())));
    }
    Some((random, aimed))
}

/// The name of the one that a seed tells.
#[must_use]
pub fn name_of(seed: u64) -> Option<&'static str> {
    of(seed).filter(|_| crate::stories::has_story(seed)).map(|(_, aimed)| aimed.name)
}
