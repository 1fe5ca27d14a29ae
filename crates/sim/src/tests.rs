//! Seeds that every change is tried on. Nothing here reads a real clock: a seed passes always or never.

use crate::{Options, Verdict, run};

/// Twice so many seeds run here; `cargo xtask fuzz` runs as many as there is time for.
const SEEDS: u64 = 250;
const ONCE_FAILED: [u64; 10] = [325, 335, 377, 739, 1230, 1703, 1765, 1905, 2186, 2496];
/// The same, of seeds that failed since there are stories and files.
const ONCE_FAILED_WITH_STORIES_AND_FILES: [u64; 19] =
    [883, 941, 1186, 1349, 3189, 3607, 5236, 5261, 5368, 6266, 7176, 7713, 8119, 8862, 8978, 9092, 9096, 9518, 9641];
/// The same, since there are stories that are aimed at one rule.
const ONCE_FAILED_AT_ALL: [u64; 9] = [592, 2341, 7240, 7560, 8408, 9035, 9993, 11883, 12327];
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
    let faults = ["processes killed", "power cuts", "nodes isolated", "failovers", "flushes", "reads", "resyncs begun"];
    let locks =
        ["locks granted", "locks waited for", "waits for locks given up", "locks refused because of a deadlock"];
    let sizes = ["appends", "cuts of a growing file", "size caps recalled", "sizes told", "truncations acknowledged"];
    let names = ["names changed or read", "files kept open"];
    for what in faults.into_iter().chain(locks).chain(sizes).chain(names) {
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
fn seeds_that_failed_once_with_stories_and_files_pass() {
    let options = Options { without_aimed: true, ..Options::default() };
    let verdicts = ONCE_FAILED_WITH_STORIES_AND_FILES.map(|seed| run(seed, &options));
    let failed: Vec<_> = verdicts.into_iter().filter_map(|v| v.failure.map(|failure| (v.seed, failure))).collect();
    assert_eq!(failed, [], "replay: cargo xtask fuzz --seed SEED --without-aimed --verbose");
}

#[test]
fn seeds_that_failed_as_they_are_pass() {
    for seed in ONCE_FAILED_AT_ALL {
        passes(seed, &Options::default());
    }
}

#[test]
fn disks_that_only_pretend_to_sync_are_noticed() {
    let options = Options { pretend_to_sync: true, ..Options::default() };
    let caught = (1..=SEEDS_FOR_A_BUG).find(|seed| run(*seed, &options).failure.is_some());
    assert!(caught.is_some(), "not noticed in {SEEDS_FOR_A_BUG} seeds");
}

/// Those that are seen first by one of `AT_ONCE` seeds. `cargo xtask fuzz --mutants` tries more seeds, and every bug.
#[cfg(feature = "mutants")]
#[test]
fn planted_bugs_are_noticed() {
    use crate::bugs::{Bug, Expected, hunt};
    const AT_ONCE: u64 = 6;
    let tried: Vec<Bug> =
        Bug::all().filter(|bug| matches!(bug.expected(), Expected::Caught { seed } if seed <= AT_ONCE)).collect();
    assert!(tried.len() > 10, "only {} bugs", tried.len());
    let missed: Vec<String> =
        tried.into_iter().filter(|bug| hunt(*bug, 4 * AT_ONCE, 2).is_none()).map(Bug::name).collect();
    assert!(missed.is_empty(), "not noticed in {} seeds: {missed:?}", 4 * AT_ONCE);
}
