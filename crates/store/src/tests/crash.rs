//! Random histories with crashes, against the model; and planted bugs that they have to find.

use super::model::{Check, World};
use crate::Mutant;
use crate::fault::{PowerLoss, Random};

const STEPS: u64 = 120;

fn run(seed: u64, mutant: Option<Mutant>) -> Check {
    run_on(World::new(seed, mutant), seed)
}

fn run_on(mut world: World, seed: u64) -> Check {
    let mut random = Random::new(seed ^ 0x5eed);
    for _ in 0..4 {
        if random.chance(50) {
            world.disk.power_off_after(1 + random.below(200));
        }
        for _ in 0..random.below(STEPS) {
            if !world.step()? {
                break;
            }
        }
        if !world.disk.is_off() {
            world.verify()?;
        }
        let loss = match random.below(4) {
            0 => PowerLoss::KeepAll,
            1 => PowerLoss::LoseAll,
            _ => PowerLoss::Random { seed: random.next_u64() },
        };
        world.crash(loss)?;
    }
    Ok(())
}

fn seeds() -> u64 {
    std::env::var("WEFT_STORE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(150)
}

#[test]
fn after_any_crash_the_store_is_in_a_state_that_may_have_survived() {
    let first = std::env::var("WEFT_STORE_SEED").ok().and_then(|n| n.parse().ok());
    let range = first.map_or(0..seeds(), |seed| seed..seed + 1);
    for seed in range {
        if let Err(error) = run(seed, None) {
            panic!("WEFT_STORE_SEED={seed} cargo test -p weft-store after_any_crash: {error}");
        }
    }
}

/// Histories that found a bug once.
#[test]
fn seeds_that_once_failed_pass() {
    // 729: a record rejected for its torn data stayed behind the end of a lap, and the next recovery followed it.
    for seed in [14, 729] {
        // As they were found: nothing was filled then.
        let mut world = World::new(seed, None);
        world.fills = false;
        assert_eq!(run_on(world, seed), Ok(()), "seed {seed}");
    }
}

/// Runs seeds until the bug shows: as a wrong state, or as an assertion that fails.
fn caught(mutant: Mutant) -> bool {
    (0..seeds() * 4).any(|seed| {
        let outcome = std::panic::catch_unwind(|| run(seed, Some(mutant)));
        !matches!(outcome, Ok(Ok(())))
    })
}

#[test]
fn a_skipped_fsync_is_caught() {
    assert!(caught(Mutant::SkipFsync));
}

#[test]
fn a_mark_before_its_fsync_is_caught() {
    assert!(caught(Mutant::MarkBeforeFsync));
}

#[test]
fn trimming_before_trailers_are_synced_is_caught() {
    assert!(caught(Mutant::TrimBeforeTrailerSync));
}

#[test]
fn noting_trailers_before_they_are_synced_is_caught() {
    assert!(caught(Mutant::InventoryBeforeSync));
}

#[test]
fn applying_uncommitted_entries_is_caught() {
    assert!(caught(Mutant::ApplyUncommitted));
}

#[test]
fn a_forgotten_cut_is_caught() {
    assert!(caught(Mutant::ForgetCut));
}

#[test]
fn trusting_journalled_data_is_caught() {
    assert!(caught(Mutant::TrustData));
}

#[test]
fn reads_that_do_not_look_at_the_journal_are_caught() {
    assert!(caught(Mutant::IgnoreOverlay));
}

#[test]
fn applying_what_is_not_durable_in_the_journal_is_caught() {
    assert!(caught(Mutant::ApplyBeforeSync));
}

#[test]
fn a_crash_at_any_point_of_a_checkpoint_loses_nothing() {
    let mut points = 0;
    for seed in 0..6 {
        let mut point = 1;
        loop {
            let mut world = World::new(seed, None);
            for _ in 0..60 {
                assert!(world.step().unwrap());
            }
            world.sync_whole().unwrap();
            world.disk.power_off_after(point);
            let finished = world.checkpoint_whole().is_ok() && !world.disk.is_off();
            let loss = match point % 3 {
                0 => PowerLoss::LoseAll,
                1 => PowerLoss::KeepAll,
                _ => PowerLoss::Random { seed: point },
            };
            if let Err(error) = world.crash(loss) {
                panic!("seed {seed}, power off at operation {point}, {loss:?}: {error}");
            }
            // And once more, right away: recovery itself writes.
            world.crash(PowerLoss::LoseAll).unwrap();
            if finished {
                break;
            }
            point += 1;
            points += 1;
        }
    }
    assert!(points > 100, "only {points} points of a checkpoint were tried");
}
