//! The store on real files: recorded, then recovered from every prefix and from sampled reorderings of what it did.

use super::crash_points::{Allowed, Recorded, crashes, laid_out, length, scratch};
use super::model::{Check, Model, VOLUME, World, chunk, expected, identity, pg, same_log, verify, write};
use crate::fault::{Names, Platter, Random, RecordingDisk, Survivors};
use crate::superblock::BALLAST_FILE;
use crate::{Mutant, RealDisk, Store, StoreConfig, StoreError};
use weft_types::LogPosition;

const STEPS: u64 = 45;
/// Crashes at one point that are neither total loss nor no loss.
const SAMPLES: u64 = 3;

fn config(mutant: Option<Mutant>) -> StoreConfig {
    StoreConfig { mutant, ..StoreConfig::small() }
}

/// Runs a random history on a real directory.
fn record(seed: u64, mutant: Option<Mutant>) -> Result<Recorded<Model>, String> {
    let directory = tempfile::tempdir().unwrap();
    let disk = RecordingDisk::new(RealDisk::new(directory.path()).unwrap(), Names::default(), 1);
    let mut world = World::on(disk.clone(), config(mutant), seed);
    let mut recorded = Recorded::new();
    recorded.states(world.past.iter().cloned());
    recorded.step(disk.recorded(), 0);
    for _ in 0..STEPS {
        if !world.step()? {
            return Err("a step failed".to_owned());
        }
        let fresh = world.index() + 1 - recorded.state_count();
        recorded.states(world.past[world.past.len() - fresh..].iter().cloned());
        recorded.step(disk.recorded(), world.oldest());
    }
    drop(world);
    recorded.operations = disk.take();
    Ok(recorded)
}

type RealStore = Store<RecordingDisk<RealDisk>>;

/// Opens what a crash left and finds out in which of the allowed states it is.
fn recover(
    disk: &RecordingDisk<RealDisk>,
    config: &StoreConfig,
    allowed: &[Model],
) -> Result<(RealStore, usize), String> {
    let (store, report) = Store::open(disk.clone(), expected(), config.clone()).map_err(|e| format!("opening: {e}"))?;
    if report.corrupt_blocks > 0 || !report.damaged_chunks.is_empty() || !report.unknown_files.is_empty() {
        return Err(format!("damage: {report:?}"));
    }
    let found = allowed.iter().rposition(|model| same_log(model, &store));
    let found = found.ok_or_else(|| {
        let ends: Vec<_> = store.pgs().map(|pg| (pg, store.log_end(pg).unwrap())).collect();
        format!("the store is in none of {} states that may have survived: {ends:?}", allowed.len())
    })?;
    verify(&allowed[found], &store)?;
    if length(disk, BALLAST_FILE) != Some(config.ballast_bytes) {
        return Err(format!("the ballast has {:?} bytes", length(disk, BALLAST_FILE)));
    }
    Ok((store, found))
}

/// Goes on after a recovery: the journal has to end cleanly, so what is appended and synced now is there next time.
fn go_on(store: &mut RealStore, model: &Model) -> Result<Model, String> {
    let mut next = model.clone();
    let Some(group) = store.pgs().next() else { return Ok(next) };
    let end = store.log_end(group).map_err(|e| e.to_string())?;
    let tag = 7_000_000;
    let entry = write(end, end.epoch.0 + 1000, chunk(1, 0), 3, 2, tag);
    let mut appended = store.append(group, std::slice::from_ref(&entry));
    if matches!(appended, Err(StoreError::JournalFull { .. })) {
        // It was full before the crash. Then a checkpoint has to make room, as ever.
        let room = store.set_committed(group, end).and_then(|()| store.checkpoint_now());
        room.map_err(|e| format!("making room after recovery: {e}"))?;
        appended = store.append(group, std::slice::from_ref(&entry));
    }
    appended.map_err(|e| format!("appending after recovery: {e}"))?;
    store.sync_now().map_err(|e| format!("syncing after recovery: {e}"))?;
    next.groups.entry(group).or_default().log.push((entry.header, tag));
    Ok(next)
}

/// One crash: recover, go on; and, when `twice`, crash again at points of that.
fn examine(platter: &Platter, allowed: &Allowed<'_, Model>, survivors: Survivors, twice: Option<u64>) -> Check {
    let root = scratch();
    let disk = laid_out(platter, root.path());
    // Planted bugs are in the run that crashed; what recovers from it is sound.
    let config = config(None);
    let (mut store, found) = recover(&disk, &config, allowed.states)?;
    if survivors == Survivors::All && allowed.between_steps && found + 1 != allowed.states.len() {
        return Err("a crash of the process lost something".to_owned());
    }
    let opened = disk.recorded();
    let last = go_on(&mut store, &allowed.states[found])?;
    drop(store);
    let Some(seed) = twice else { return Ok(()) };
    let trace = disk.take();
    let mut random = Random::new(seed);
    for at in [random.below(opened as u64 + 1) as usize, opened, trace.len()] {
        let mut again = platter.clone();
        trace[..at].iter().for_each(|operation| again.apply(operation));
        let survivors = crashes(random.next_u64(), 3)[random.below(5) as usize];
        // Once recovery has returned, what it found is durable.
        let states = if at < opened { allowed.states } else { &allowed.states[found..=found] };
        let mut states = states.to_vec();
        if at == trace.len() {
            states = vec![last.clone()];
        }
        let root = scratch();
        let outcome = recover(&laid_out(&again.crash(survivors), root.path()), &config, &states);
        outcome.map_err(|e| format!("after a second crash at {at} of {} ({survivors:?}): {e}", trace.len()))?;
    }
    Ok(())
}

/// Crashes a recorded run at every point; answers how many crashes were tried.
fn crash_everywhere(seed: u64, mutant: Option<Mutant>, samples: u64) -> Result<u64, String> {
    let recorded = record(seed, mutant)?;
    let mut platter = Platter::default();
    let mut tried = 0;
    for (at, operation) in recorded.operations.iter().enumerate() {
        platter.apply(operation);
        let at = at + 1;
        if at < recorded.first() {
            continue;
        }
        let allowed = recorded.allowed(at);
        for survivors in crashes(seed ^ at as u64, samples) {
            if platter.is_clean() && survivors != Survivors::All {
                continue;
            }
            tried += 1;
            let twice = (tried % 11 == 0).then_some(tried);
            let outcome = examine(&platter.crash(survivors), &allowed, survivors, twice);
            outcome.map_err(|e| format!("seed {seed}, crash after operation {at}, {survivors:?}: {e}"))?;
        }
    }
    Ok(tried)
}

fn seeds() -> u64 {
    std::env::var("WEFT_CRASH_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2)
}

#[test]
fn a_real_disk_recovers_from_a_crash_after_any_operation_in_any_order_that_its_syncs_allow() {
    let mut tried = 0;
    for seed in 0..seeds() {
        tried += crash_everywhere(seed, None, SAMPLES).unwrap_or_else(|error| panic!("{error}"));
    }
    assert!(tried > 100 * seeds(), "only {tried} crashes were tried");
}

/// A planted bug shows in a wrong state or as a failed assertion.
fn caught(mutant: Mutant) -> bool {
    (100..140).any(|seed| {
        let outcome = std::panic::catch_unwind(|| crash_everywhere(seed, Some(mutant), SAMPLES));
        !matches!(outcome, Ok(Ok(_)))
    })
}

#[test]
fn on_a_real_disk_a_skipped_fsync_is_caught() {
    assert!(caught(Mutant::SkipFsync));
}

#[test]
fn on_a_real_disk_a_skipped_sync_of_names_is_caught() {
    assert!(caught(Mutant::SkipNameSync));
}

#[test]
fn on_a_real_disk_a_mark_before_its_fsync_is_caught() {
    assert!(caught(Mutant::MarkBeforeFsync));
}

#[test]
fn on_a_real_disk_trimming_before_trailers_are_synced_is_caught() {
    assert!(caught(Mutant::TrimBeforeTrailerSync));
}

#[test]
fn on_a_real_disk_noting_trailers_before_they_are_synced_is_caught() {
    assert!(caught(Mutant::InventoryBeforeSync));
}

#[test]
fn on_a_real_disk_a_state_file_that_is_not_synced_before_its_rename_is_caught() {
    assert!(caught(Mutant::RenameBeforeSync));
}

#[test]
fn an_interrupted_format_is_recognised_or_complete() {
    let directory = tempfile::tempdir().unwrap();
    let disk = RecordingDisk::new(RealDisk::new(directory.path()).unwrap(), Names::default(), 1);
    Store::format(&disk, identity(), &config(None)).unwrap();
    let trace = disk.take();
    let mut platter = Platter::default();
    let mut complete = 0;
    for (at, operation) in trace.iter().enumerate() {
        platter.apply(operation);
        for survivors in crashes(at as u64, 6) {
            let root = scratch();
            let disk = laid_out(&platter.crash(survivors), root.path());
            match Store::open(disk, expected(), config(None)) {
                Ok((mut store, _)) => {
                    complete += 1;
                    store.register_volume(VOLUME, super::model::small_chunks()).unwrap();
                    store.create_pg(pg(0)).unwrap();
                    store.append(pg(0), &[write(LogPosition::ZERO, 1, chunk(1, 0), 0, 1, 1)]).unwrap();
                    store.sync_now().unwrap();
                }
                Err(StoreError::NotFormatted { .. } | StoreError::HalfFormatted { .. }) => {
                    assert!(at + 1 < trace.len(), "a finished format is lost with {survivors:?}");
                }
                Err(error) => panic!("after operation {at} ({operation:?}), {survivors:?}: {error}"),
            }
        }
    }
    assert!(complete >= 8);
}

#[test]
fn a_recorded_run_laid_out_in_full_is_what_is_on_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let disk = RecordingDisk::new(RealDisk::new(directory.path()).unwrap(), Names::default(), 1);
    let mut world = World::on(disk.clone(), config(None), 5);
    for _ in 0..60 {
        assert!(world.step().unwrap());
    }
    let mut platter = Platter::default();
    disk.take().iter().for_each(|operation| platter.apply(operation));
    let root = scratch();
    platter.materialise(root.path()).unwrap();
    let copy = RealDisk::new(root.path()).unwrap();
    for path in platter.names().files.keys() {
        assert_eq!(
            crate::disk::read_file(&copy, path).unwrap(),
            crate::disk::read_file(&disk, path).unwrap(),
            "{path} differs"
        );
    }
}
