//! Runs many seeds and says what they exercised. `cargo xtask fuzz` builds it and calls it.

use clap::Parser;
use std::collections::BTreeSet;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use weft_sim::{Options, Plan, Stats, Subject, Verdict, run, shrink};

#[derive(Parser, Debug)]
#[command(about = "Runs whole simulated clusters under faults, one per seed")]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// First seed; with this alone, the only one.
    #[arg(long)]
    seed: Option<u64>,
    /// Seeds that run at the same time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Faults of the seed's plan to leave out, by number.
    #[arg(long, value_delimiter = ',')]
    without: Vec<usize>,
    /// No faults: healthy clusters.
    #[arg(long)]
    calm: bool,
    /// No stories: seeds as they were before there were any.
    #[arg(long)]
    plain: bool,
    /// Clients use no files: seeds as they were before they did.
    #[arg(long)]
    without_files: bool,
    /// No stories that are aimed at one rule: seeds as they were before there were any.
    #[arg(long)]
    without_aimed: bool,
    /// Only seeds that tell the story of this name that is aimed at one rule (`aimed/`).
    #[arg(long)]
    aimed: Option<String>,
    /// Only seeds whose clients use these files: `locks`, `sizes` or `names`.
    #[arg(long)]
    with: Option<Subject>,
    /// Only seeds that tell this rare execution (`stories.rs`, `tell_rare`).
    #[arg(long)]
    rare: Option<u64>,
    /// Kinds of faults to leave out, by name: `FailSync,FlipBit`.
    #[arg(long, value_delimiter = ',')]
    off: Vec<String>,
    /// Planted bug: syncs make nothing durable.
    #[arg(long)]
    pretend_to_sync: bool,
    /// Tell everything that happens.
    #[arg(long)]
    verbose: bool,
    /// Do not look for the faults that matter when a seed fails.
    #[arg(long)]
    no_shrink: bool,
    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,
    /// Plant every bug in turn, and print a table of what caught it at which seed: the one that the table of bugs names, or
    /// the first one from 1 on. `--only` names some.
    #[cfg(feature = "mutants")]
    #[arg(long)]
    mutants: bool,
    /// Seeds to try for each planted bug.
    #[cfg(feature = "mutants")]
    #[arg(long, default_value_t = 2_000)]
    budget: u64,
    /// Do not try the seeds that the table names: hunt from 1 on. Takes hours.
    #[cfg(feature = "mutants")]
    #[arg(long)]
    afresh: bool,
    /// Planted bugs to hunt for, by name: `meta::MoveAtOnce,store::SkipFsync`.
    #[cfg(feature = "mutants")]
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Hunt as well for those that the table says cannot be met here.
    #[cfg(feature = "mutants")]
    #[arg(long)]
    unreachable: bool,
    /// Run the seeds with this bug planted.
    #[cfg(feature = "mutants")]
    #[arg(long)]
    mutant: Option<String>,
}

struct Total {
    stats: Stats,
    failures: Vec<Verdict>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A panic within a run is reported as its failure.
    if !arguments.verbose {
        std::panic::set_hook(Box::new(|_| {}));
    }
    #[cfg(feature = "mutants")]
    if arguments.mutants {
        return hunts::hunt_all(&arguments);
    }
    #[cfg(feature = "mutants")]
    let bug = match hunts::chosen(&arguments) {
        Ok(bug) => bug,
        Err(why) => {
            eprintln!("weft-fuzz: {why}");
            return ExitCode::from(2);
        }
    };
    let first = arguments.seed.unwrap_or(1);
    let alone = arguments.seed.is_some() && !std::env::args().any(|a| a == "--seeds" || a.starts_with("--seeds="));
    let count = if alone { 1 } else { arguments.seeds };
    let options = Options {
        without: arguments.without.iter().copied().collect(),
        calm: arguments.calm,
        plain: arguments.plain,
        without_files: arguments.without_files,
        without_aimed: arguments.without_aimed,
        off: arguments.off.iter().cloned().collect(),
        pretend_to_sync: arguments.pretend_to_sync,
        verbose: arguments.verbose,
        #[cfg(feature = "mutants")]
        bug,
    };
    let began = Instant::now();
    let total = run_all(&arguments, first, count, &options, began);
    report(&total.stats, count, began);
    let mut failed: Vec<&Verdict> = total.failures.iter().collect();
    failed.sort_by_key(|verdict| verdict.seed);
    for verdict in &failed {
        tell(verdict, &options, arguments.no_shrink);
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_all(arguments: &Arguments, first: u64, count: u64, options: &Options, began: Instant) -> Total {
    let total = Mutex::new(Total { stats: Stats::default(), failures: Vec::new() });
    let (next, done, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    if !is_wanted(arguments, first + at) {
                        continue;
                    }
                    let verdict = run(first + at, options);
                    let failed = verdict.failure.is_some();
                    if failed && !arguments.keep_going {
                        stop.store(true, Ordering::Relaxed);
                    }
                    let finished = done.fetch_add(1, Ordering::Relaxed) + 1;
                    let Ok(mut total) = total.lock() else { return };
                    total.stats.merge(&verdict.stats);
                    if failed {
                        total.failures.push(verdict);
                    }
                    progress(finished, count, total.failures.len(), began);
                }
            });
        }
    });
    total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Whether a seed is of those that were asked for.
fn is_wanted(arguments: &Arguments, seed: u64) -> bool {
    arguments.with.is_none_or(|subject| weft_sim::subject(seed) == Some(subject))
        && arguments.rare.is_none_or(|theme| weft_sim::rare_theme(seed) == Some(theme))
        && arguments.aimed.as_deref().is_none_or(|name| weft_sim::aimed_story(seed) == Some(name))
}

fn progress(done: u64, count: u64, failed: usize, began: Instant) {
    let rate = done as f64 / began.elapsed().as_secs_f64().max(0.001);
    eprint!("\r{done} of {count} seeds, {failed} failed, {rate:.1} seeds/s ");
    // Progress is for people; if it cannot be shown, the run goes on.
    drop(std::io::stderr().flush());
}

fn report(stats: &Stats, count: u64, began: Instant) {
    let wall = began.elapsed().as_secs_f64();
    let simulated = stats.simulated_ns as f64 / 1e9;
    eprintln!();
    println!(
        "{count} seeds in {wall:.1} s: {:.0} simulated seconds, {:.0} per second; {} events",
        simulated,
        simulated / wall.max(0.001),
        stats.events
    );
    for (what, times) in stats.list() {
        println!("{times:>12}  {what}");
    }
}

fn tell(verdict: &Verdict, options: &Options, no_shrink: bool) {
    let seed = verdict.seed;
    let what = verdict.failure.as_ref().map(ToString::to_string).unwrap_or_default();
    println!("\nseed {seed} FAILED: {what}");
    println!("replay: cargo xtask fuzz --seed {seed}{} --verbose", replay(options, &options.without));
    if no_shrink {
        return;
    }
    let fewer = shrink(seed, options, 60);
    println!("shrunk: cargo xtask fuzz --seed {seed}{} --verbose", replay(options, &fewer));
    let plan = Plan::drawn(seed, options);
    for (at, (when, fault)) in plan.faults.iter().enumerate().filter(|(at, _)| !fewer.contains(at)) {
        println!("  {at}: at {:.3} s {fault:?}", *when as f64 / 1e9);
    }
}

/// The arguments that leave out what was left out.
fn replay(options: &Options, without: &BTreeSet<usize>) -> String {
    let mut text = String::new();
    if options.calm {
        text.push_str(" --calm");
    }
    if options.plain {
        text.push_str(" --plain");
    }
    if options.without_files {
        text.push_str(" --without-files");
    }
    if options.without_aimed {
        text.push_str(" --without-aimed");
    }
    #[cfg(feature = "mutants")]
    if let Some(bug) = options.bug {
        text = format!("{text} --mutant {}", bug.name());
    }
    if options.pretend_to_sync {
        text.push_str(" --pretend-to-sync");
    }
    if !options.off.is_empty() {
        let kinds: Vec<&str> = options.off.iter().map(String::as_str).collect();
        text = format!("{text} --off {}", kinds.join(","));
    }
    if !without.is_empty() {
        let list: Vec<String> = without.iter().map(ToString::to_string).collect();
        text = format!("{text} --without {}", list.join(","));
    }
    text
}

/// The hunt for planted bugs.
#[cfg(feature = "mutants")]
mod hunts {
    use super::Arguments;
    use std::process::ExitCode;
    use std::time::Instant;
    use weft_sim::bugs::{Bug, Expected, hunt, replay_all};

    pub fn chosen(arguments: &Arguments) -> Result<Option<Bug>, String> {
        let found = |name: &String| Bug::named(name).ok_or(format!("no planted bug is called {name}"));
        arguments.mutant.as_ref().map(found).transpose()
    }

    /// Hunts for each bug, and fails when one that the table expects to be caught gets away.
    pub fn hunt_all(arguments: &Arguments) -> ExitCode {
        if let Some(name) = arguments.only.iter().find(|name| Bug::named(name).is_none()) {
            eprintln!("weft-fuzz: no planted bug is called {name}");
            return ExitCode::from(2);
        }
        println!("{:<40} {:<16} {:>6} {:>8}", "planted bug", "caught by", "seeds", "seconds");
        let wanted = |bug: &Bug| arguments.only.is_empty() || arguments.only.contains(&bug.name());
        let (mut caught, mut missed, mut elsewhere) = (0u32, Vec::new(), 0u32);
        let mut bugs = Vec::new();
        for bug in Bug::all().filter(wanted) {
            match bug.expected() {
                Expected::Elsewhere { why, test } if !arguments.unreachable => {
                    elsewhere += 1;
                    println!("{:<40} not reachable here: {why}; caught by {test}", bug.name());
                }
                _ => bugs.push(bug),
            }
        }
        let began = Instant::now();
        let replayed = if arguments.afresh { vec![None; bugs.len()] } else { replay_all(&bugs, arguments.jobs) };
        if !arguments.afresh {
            println!("{} seeds of the table in {:.1} s", bugs.len(), began.elapsed().as_secs_f64());
        }
        for (bug, replayed) in bugs.into_iter().zip(replayed) {
            let began = Instant::now();
            let found = replayed.or_else(|| hunt(bug, arguments.budget, arguments.jobs));
            let seconds = began.elapsed().as_secs_f64();
            if let Some(found) = found {
                caught += 1;
                let (oracle, ways) = (found.failure.oracle.to_string(), found.ways.arguments());
                println!("{:<40} {oracle:<16} {:>6} {seconds:>8.1}{ways}", bug.name(), found.seed);
            } else {
                println!("{:<40} {:<16} {:>6} {seconds:>8.1}", bug.name(), "nobody here", arguments.budget);
                if matches!(bug.expected(), Expected::Caught { .. }) {
                    missed.push(bug.name());
                }
            }
        }
        println!("{caught} caught, {elsewhere} not reachable here; missed although expected: {}", missed.join(" "));
        if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
