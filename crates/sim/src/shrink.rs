//! Finds out which faults of a failing seed matter.
//!
//! Leaves out groups of faults, halves first, then single ones, as long as the run still fails. Guarantees: what is left
//! fails; it is not the smallest possible list. Must not know: what the faults are.

use crate::plan::Plan;
use crate::{Options, run};
use std::collections::BTreeSet;

/// Faults to leave out so that `seed` still fails, with no more than `max_runs` runs.
#[must_use]
pub fn shrink(seed: u64, options: &Options, max_runs: usize) -> BTreeSet<usize> {
    let mut without = options.without.clone();
    let mut runs = 0;
    let faults = Plan::drawn(seed, options).faults;
    let mut size = faults.len().div_ceil(2).max(1);
    loop {
        let strikes = |at: &usize| !options.calm && !options.off.contains(&faults[*at].1.kind());
        let left: Vec<usize> = (0..faults.len()).filter(|at| !without.contains(at) && strikes(at)).collect();
        let mut progress = false;
        for part in left.chunks(size) {
            if runs >= max_runs {
                return without;
            }
            runs += 1;
            let mut fewer = without.clone();
            fewer.extend(part);
            let attempt = Options { without: fewer.clone(), verbose: false, ..options.clone() };
            if run(seed, &attempt).failure.is_some() {
                without = fewer;
                progress = true;
            }
        }
        if size == 1 && !progress {
            return without;
        }
        size = (size / 2).max(1);
    }
}
