//! Raft's log on real files: recorded, then recovered from every prefix and from sampled reorderings of what it did.

use super::crash_points::{Recorded, crashes, laid_out, scratch};
use super::model::Check;
use super::raw_log::{Model, change, state};
use crate::fault::{Names, Platter, Random, RecordingDisk, Survivors};
use crate::raw_log::RawLog;
use crate::{Mutant, RealDisk};

/// Small files, so that a run begins many and a purge removes several at once.
const SEGMENT: u64 = 4096;
const STEPS: u64 = 60;
const SAMPLES: u64 = 4;
const DIR: &str = "raft";

fn record(seed: u64, mutant: Option<Mutant>) -> Result<Recorded<Model>, String> {
    let directory = tempfile::tempdir().unwrap();
    let disk = RecordingDisk::new(RealDisk::new(directory.path()).unwrap(), Names::default(), 1);
    let mut log = RawLog::open_mutant(disk.clone(), DIR, SEGMENT, mutant).map_err(|e| e.to_string())?;
    let mut random = Random::new(seed);
    let mut past = vec![Model::default()];
    let mut recorded = Recorded::new();
    recorded.states(past.clone());
    recorded.step(disk.recorded(), 0);
    for _ in 0..STEPS {
        let before = past.len();
        change(&mut log, &mut random, &mut past).map_err(|e| e.to_string())?;
        if past.len() > before {
            recorded.states(past[before..].iter().cloned());
        }
        let oldest = recorded.state_count() - past.len();
        recorded.step(disk.recorded(), oldest);
    }
    recorded.operations = disk.take();
    Ok(recorded)
}

/// Recovers, goes on, and crashes once more in the middle of that.
fn examine(platter: &Platter, allowed: &[Model], mutant: Option<Mutant>, seed: u64) -> Check {
    let root = scratch();
    let disk = laid_out(platter, root.path());
    let open = |disk: &RecordingDisk<RealDisk>| {
        RawLog::open_mutant(disk.clone(), DIR, SEGMENT, mutant).map_err(|e| format!("opening: {e}"))
    };
    let mut log = open(&disk)?;
    let opened = disk.recorded();
    let found = state(&log);
    if !allowed.contains(&found) {
        return Err(format!("the log is in none of {} states that may have survived", allowed.len()));
    }
    // It ends cleanly: what follows is found again.
    let next = log.last_index().or(log.purged_to()).map_or(1, |last| last + 1);
    log.append(&[(next, b"on")]).and_then(|()| log.sync()).map_err(|e| format!("going on: {e}"))?;
    let last = state(&log);
    drop(log);
    let trace = disk.take();
    let mut random = Random::new(seed);
    for at in [random.below(opened as u64 + 1) as usize, opened, trace.len()] {
        let mut again = platter.clone();
        trace[..at].iter().for_each(|operation| again.apply(operation));
        let survivors = crashes(random.next_u64(), 3)[random.below(5) as usize];
        let root = scratch();
        let log = open(&laid_out(&again.crash(survivors), root.path()))?;
        let second = state(&log);
        let good = match at {
            _ if at == trace.len() => second == last,
            _ if at >= opened => second == found,
            _ => allowed.contains(&second),
        };
        if !good {
            return Err(format!("another state after a second crash at {at} of {} ({survivors:?})", trace.len()));
        }
    }
    Ok(())
}

fn crash_everywhere(seed: u64, mutant: Option<Mutant>) -> Result<u64, String> {
    let recorded = record(seed, mutant)?;
    let mut platter = Platter::default();
    let mut tried = 0;
    for (at, operation) in recorded.operations.iter().enumerate() {
        platter.apply(operation);
        if at + 1 < recorded.first() {
            continue;
        }
        let allowed = recorded.allowed(at + 1);
        for survivors in crashes(seed ^ at as u64, SAMPLES) {
            if platter.is_clean() && survivors != Survivors::All {
                continue;
            }
            tried += 1;
            let outcome = examine(&platter.crash(survivors), allowed.states, mutant, tried);
            outcome.map_err(|e| format!("seed {seed}, crash after operation {}, {survivors:?}: {e}", at + 1))?;
        }
    }
    Ok(tried)
}

#[test]
fn the_raft_log_recovers_from_a_crash_after_any_operation_in_any_order_that_its_syncs_allow() {
    let mut tried = 0;
    for seed in 0..3 {
        tried += crash_everywhere(seed, None).unwrap_or_else(|error| panic!("{error}"));
    }
    assert!(tried > 400, "only {tried} crashes were tried");
}

fn caught(mutant: Mutant) -> bool {
    (100..130).any(|seed| {
        let outcome = std::panic::catch_unwind(|| crash_everywhere(seed, Some(mutant)));
        !matches!(outcome, Ok(Ok(_)))
    })
}

#[test]
fn in_the_raft_log_a_skipped_fsync_is_caught() {
    assert!(caught(Mutant::SkipFsync));
}

#[test]
fn in_the_raft_log_a_mark_before_its_fsync_is_caught() {
    assert!(caught(Mutant::MarkBeforeFsync));
}

#[test]
fn in_the_raft_log_files_removed_before_the_purge_is_synced_are_caught() {
    assert!(caught(Mutant::RemoveBeforeSync));
}

#[test]
fn in_the_raft_log_files_that_are_removed_in_any_order_are_caught() {
    assert!(caught(Mutant::RemoveInAnyOrder));
}

#[test]
fn in_the_raft_log_names_that_a_crashed_process_left_unsynced_are_caught() {
    assert!(caught(Mutant::TrustNames));
}

#[test]
fn in_the_raft_log_a_tail_that_is_kept_is_caught() {
    assert!(caught(Mutant::KeepTail));
}
