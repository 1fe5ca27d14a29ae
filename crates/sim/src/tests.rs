//! Seeds that every change is tried on. Nothing here reads a real clock: a seed passes always or never.

use crate::{Options, Verdict, run};

/// Twice so many seeds run here; `cargo xtask fuzz` runs as many as there is time for.
const SEEDS: u64 = 150;
const ONCE_FAILED: [u64; 10] = [325, 335, 377, 739, 1230, 1703, 1765, 1905, 2186, 2496];
/// A planted bug has to be seen within so many seeds.
const SEEDS_FOR_A_BUG: u64 = 12;

fn passes(seed: u64, options: &Options) -> Verdict {
    let verdict = run(seed, options);
    assert_eq!(verdict.failure, None, "seed {seed}; replay: cargo xtask fuzz --seed {seed} --verbose");
    verdict
}

#[test]
fn healthy_clusters_serve_and_their_replicas_agree() {
    let options = Options { calm: true, ..Options::default() };
    for seed in 1..=4 {
        let verdict = passes(seed, &options);
        let (writes, answered) = (verdict.stats.get("writes"), verdict.stats.get("writes answered"));
        assert!(writes > 100, "seed {seed}: {writes} writes");
        assert_eq!(writes, answered, "seed {seed}: a healthy cluster answers everything");
        assert_eq!(verdict.stats.get("failovers"), 0, "seed {seed}");
    }
}

#[test]
fn a_seed_run_twice_gives_the_same_trace() {
    for seed in [1, 2, 3] {
        let (one, two) = (passes(seed, &Options::default()), passes(seed, &Options::default()));
        assert_eq!(one.trace, two.trace, "seed {seed}");
        assert_eq!(one.stats.events, two.stats.events, "seed {seed}");
    }
}

fn nothing_happens_that_must_not(seeds: std::ops::RangeInclusive<u64>) {
    let mut stats = crate::Stats::default();
    for seed in seeds.clone() {
        stats.merge(&passes(seed, &Options::default()).stats);
    }
    for what in ["processes killed", "power cuts", "nodes isolated", "failovers", "flushes", "reads", "resyncs begun"] {
        assert!(stats.get(what) > 0, "{what}: never, in seeds {seeds:?}");
    }
}

// In parts, so that they run at the same time.

#[test]
fn nothing_that_must_not_happen_happens_under_faults() {
    nothing_happens_that_must_not(1..=SEEDS);
}

#[test]
fn nothing_that_must_not_happen_happens_under_other_faults() {
    nothing_happens_that_must_not(SEEDS + 1..=2 * SEEDS);
}

/// Seeds that failed once, before there were stories. What was wrong is in the table of docs/TESTING.md.
#[test]
fn seeds_that_failed_once_pass() {
    let options = Options { plain: true, ..Options::default() };
    for seed in ONCE_FAILED {
        passes(seed, &options);
    }
}

#[test]
fn disks_that_only_pretend_to_sync_are_noticed() {
    let options = Options { pretend_to_sync: true, ..Options::default() };
    let caught = (1..=SEEDS_FOR_A_BUG).find(|seed| run(*seed, &options).failure.is_some());
    assert!(caught.is_some(), "not noticed in {SEEDS_FOR_A_BUG} seeds");
}

/// `cargo xtask fuzz --mutants` tries more seeds, and every bug.
#[cfg(feature = "mutants")]
#[test]
fn planted_bugs_are_noticed() {
    use crate::bugs::{Bug, Expected, hunt};
    let missed: Vec<String> = Bug::all()
        .filter(|bug| matches!(bug.expected(), Expected::Caught { within } if within <= SEEDS_FOR_A_BUG))
        .filter(|bug| hunt(*bug, 4 * SEEDS_FOR_A_BUG, 2).is_none())
        .map(Bug::name)
        .collect();
    assert!(missed.is_empty(), "not noticed in {} seeds: {missed:?}", 4 * SEEDS_FOR_A_BUG);
}
