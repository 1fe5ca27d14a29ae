//! Kills between any two steps: a copy of the directory is what a crash leaves, because nothing is closed.

use super::{CLUSTER, NODE, config, entry, log_id, new_store, note, notes};
use crate::error::OpenError;
use crate::group::{GroupConfig, OpenStore, create_store, open_store};
use crate::types::{StorageError, Vote};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine, StorageHelper};
use openraft::{RaftLogReader, RaftSnapshotBuilder};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use weft_types::{ClusterId, NodeId};

/// What is left when the process dies now.
fn crash_image(directory: &Path) -> TempDir {
    let image = tempfile::tempdir().unwrap();
    copy(directory, image.path());
    image
}

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let Ok(entries) = fs::read_dir(from) else { return };
    for found in entries {
        let Ok(found) = found else { continue };
        let target = to.join(found.file_name());
        if found.file_type().is_ok_and(|kind| kind.is_dir()) {
            copy(&found.path(), &target);
        } else {
            // A state that was replaced is removed in the background.
            match fs::copy(found.path(), target) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
                _ => {}
            }
        }
    }
}

/// Opens an image and brings it to `committed`, as Raft does after a restart.
async fn recovered(directory: &Path, committed: u64) -> OpenStore {
    recovered_as(&config(directory, NODE), committed).await
}

pub(super) async fn recovered_as(config: &GroupConfig, committed: u64) -> OpenStore {
    let mut store = open_store(config).unwrap();
    StorageHelper::new(&mut store.log, &mut store.machine).get_initial_state().await.unwrap();
    let (applied, _) = store.machine.applied_state().await.unwrap();
    let from = applied.map_or(0, |id| id.index + 1);
    let missing = store.log.try_get_log_entries(from..committed + 1).await.unwrap();
    assert_eq!(missing.len() as u64, (committed + 1).saturating_sub(from), "the log lacks entries after {applied:?}");
    if !missing.is_empty() {
        store.machine.apply(missing).await.unwrap();
    }
    store
}

pub(super) fn expected(count: u64) -> Vec<String> {
    (1..=count).map(|n| format!("note {n}")).collect()
}

/// Appends and applies notes `from..=to` at their own indexes; entry 0 is empty.
pub(super) async fn write(store: &mut OpenStore, from: u64, to: u64) -> Result<(), StorageError> {
    if from == 1 {
        let first = crate::types::Entry { log_id: log_id(0), payload: openraft::EntryPayload::Blank };
        store.log.blocking_append([first.clone()]).await?;
        store.machine.apply([first]).await?;
    }
    for n in from..=to {
        let entry = entry(n, note(&format!("note {n}")));
        store.log.blocking_append([entry.clone()]).await?;
        store.machine.apply([entry]).await?;
        // sled has some of it, as at any moment.
        if n % 3 == 0 {
            store.shared.applied().hand_over().unwrap();
        }
    }
    Ok(())
}

pub(super) async fn snapshot(store: &mut OpenStore) {
    store.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
}

fn applied_directory(directory: &Path) -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir() && path.file_name().unwrap().to_string_lossy().starts_with("applied-"))
        .collect();
    found.sort();
    found.pop().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_any_step_loses_nothing_that_was_flushed() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = new_store(directory.path());
    let mut images: Vec<(&str, u64, TempDir)> = Vec::new();
    store.log.save_vote(&Vote::new(3, NODE.0)).await.unwrap();
    images.push(("vote", 0, crash_image(directory.path())));
    write(&mut store, 1, 20).await.unwrap();
    images.push(("applied", 20, crash_image(directory.path())));
    snapshot(&mut store).await;
    images.push(("snapshot", 20, crash_image(directory.path())));
    store.log.purge(log_id(15)).await.unwrap();
    images.push(("purge", 20, crash_image(directory.path())));
    write(&mut store, 21, 30).await.unwrap();
    images.push(("more", 30, crash_image(directory.path())));
    snapshot(&mut store).await;
    store.log.purge(log_id(30)).await.unwrap();
    images.push(("purged to the end", 30, crash_image(directory.path())));
    write(&mut store, 31, 33).await.unwrap();
    images.push(("after the end", 33, crash_image(directory.path())));

    for (step, count, image) in images {
        let mut store = if count == 0 {
            open_store(&config(image.path(), NODE)).unwrap()
        } else {
            recovered(image.path(), count).await
        };
        assert_eq!(store.log.read_vote().await.unwrap(), Some(Vote::new(3, NODE.0)), "{step}");
        assert_eq!(store.shared.read(|view| notes(view)), expected(count), "{step}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn applied_state_that_is_lost_or_garbage_is_set_aside_and_rebuilt_from_snapshot_and_log() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = new_store(directory.path());
    write(&mut store, 1, 20).await.unwrap();
    snapshot(&mut store).await;
    store.log.purge(log_id(18)).await.unwrap();
    write(&mut store, 21, 25).await.unwrap();
    drop(store);

    let gone = crash_image(directory.path());
    fs::remove_dir_all(applied_directory(gone.path())).unwrap();
    let store = recovered(gone.path(), 25).await;
    assert_eq!(store.shared.read(|view| notes(view)), expected(25));

    let garbage = crash_image(directory.path());
    let state = applied_directory(garbage.path());
    for file in fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        fs::write(file, b"not a database, and no good intentions either").unwrap();
    }
    let store = recovered(garbage.path(), 25).await;
    assert_eq!(store.shared.read(|view| notes(view)), expected(25));
    assert!(garbage.path().join(format!("{}.set-aside", state.file_name().unwrap().to_string_lossy())).is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_the_applied_state_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = new_store(directory.path());
    write(&mut store, 1, 20).await.unwrap();
    snapshot(&mut store).await;
    write(&mut store, 21, 22).await.unwrap();
    drop(store);

    let mut rebooted = config(directory.path(), NODE);
    rebooted.boot_id = "another boot".to_owned();
    let store = open_store(&rebooted).unwrap();
    // What sled held beyond the snapshot was not durable; the log has it.
    assert_eq!(store.shared.read(|view| notes(view)), expected(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn applied_state_older_than_the_purge_point_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = new_store(directory.path());
    write(&mut store, 1, 10).await.unwrap();
    drop(store);
    let old = crash_image(directory.path());
    let mut store = recovered(directory.path(), 10).await;
    write(&mut store, 11, 20).await.unwrap();
    snapshot(&mut store).await;
    store.log.purge(log_id(20)).await.unwrap();
    drop(store);
    // sled goes back in time, as it may after a power cut.
    let state = applied_directory(directory.path());
    fs::remove_dir_all(&state).unwrap();
    copy(&applied_directory(old.path()), &state);
    let store = recovered(directory.path(), 20).await;
    assert_eq!(store.shared.read(|view| notes(view)), expected(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_refused_when_it_is_needed_and_replaced_when_it_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = new_store(directory.path());
    write(&mut store, 1, 20).await.unwrap();
    snapshot(&mut store).await;
    store.log.purge(log_id(20)).await.unwrap();
    drop(store);
    let file = directory.path().join("snapshot.weft");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();

    let needed = crash_image(directory.path());
    fs::remove_dir_all(applied_directory(needed.path())).unwrap();
    let error = open_store(&config(needed.path(), NODE)).err().unwrap();
    assert!(error.to_string().contains("snapshot file is damaged: "), "{error}");

    let mut store = recovered(directory.path(), 20).await;
    assert_eq!(store.shared.read(|view| notes(view)), expected(20));
    // Purged entries exist nowhere else, so a new snapshot was built at once.
    let meta = store.machine.get_current_snapshot().await.unwrap().unwrap().meta;
    assert_eq!(meta.last_log_id, Some(log_id(20)));
    assert!(crate::snapshot_file::verify(&file).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_on_disk_keeps_what_no_durable_snapshot_holds() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = new_store(directory.path());
    write(&mut store, 1, 20).await.unwrap();
    // Nobody asks for this without a snapshot; if somebody did, the entries would still be there to rebuild from.
    store.log.purge(log_id(12)).await.unwrap();
    assert!(store.log.try_get_log_entries(0..13).await.unwrap().is_empty());
    drop(store);
    fs::remove_dir_all(applied_directory(directory.path())).unwrap();
    let store = recovered(directory.path(), 20).await;
    assert_eq!(store.shared.read(|view| notes(view)), expected(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installed_snapshot_survives_a_crash_at_any_point() {
    let source = tempfile::tempdir().unwrap();
    let mut leader = new_store(source.path());
    write(&mut leader, 1, 700).await.unwrap();
    let sent = leader.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();

    let directory = tempfile::tempdir().unwrap();
    let mut follower = new_store(directory.path());
    write(&mut follower, 1, 5).await.unwrap();
    let before = crash_image(directory.path());
    follower.machine.install_snapshot(&sent.meta, sent.snapshot).await.unwrap();
    assert_eq!(follower.shared.read(|view| notes(view)), expected(700));
    let installed = crash_image(directory.path());
    follower.log.purge(log_id(700)).await.unwrap();
    write(&mut follower, 701, 703).await.unwrap();
    let after = crash_image(directory.path());

    // The snapshot is in place, and the new applied state is not: it has no mark.
    let half = crash_image(before.path());
    fs::copy(installed.path().join("snapshot.weft"), half.path().join("snapshot.weft")).unwrap();
    fs::write(half.path().join("installing.tmp"), b"half").unwrap();
    for (image, count) in [(before, 5), (half, 700), (installed, 700), (after, 703)] {
        let mut store = recovered(image.path(), count).await;
        assert_eq!(store.shared.read(|view| notes(view)), expected(count));
        let entries = store.log.try_get_log_entries(count..).await.unwrap();
        assert!(entries.len() <= 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_received_snapshot_that_was_damaged_on_the_way_changes_nothing() {
    let source = tempfile::tempdir().unwrap();
    let mut leader = new_store(source.path());
    write(&mut leader, 1, 30).await.unwrap();
    let sent = leader.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let mut bytes = fs::read(source.path().join("snapshot.weft")).unwrap();
    let at = bytes.len() - 50;
    bytes[at] ^= 4;
    let bad = source.path().join("bad");
    fs::write(&bad, bytes).unwrap();

    let directory = tempfile::tempdir().unwrap();
    let mut follower = new_store(directory.path());
    write(&mut follower, 1, 5).await.unwrap();
    let file = Box::new(tokio::fs::File::open(bad).await.unwrap());
    assert!(follower.machine.install_snapshot(&sent.meta, file).await.is_err());
    assert_eq!(follower.shared.read(|view| notes(view)), expected(5));
    drop(follower);
    let store = recovered(directory.path(), 5).await;
    assert_eq!(store.shared.read(|view| notes(view)), expected(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_tail_does_not_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = new_store(directory.path());
    write(&mut store, 1, 5).await.unwrap();
    store.log.blocking_append((6..=9).map(|n| entry(n, note("ghost")))).await.unwrap();
    store.log.truncate(log_id(6)).await.unwrap();
    let image = crash_image(directory.path());
    let mut store = open_store(&config(image.path(), NODE)).unwrap();
    assert_eq!(store.log.get_log_state().await.unwrap().last_log_id, Some(log_id(5)));
    assert!(store.log.try_get_log_entries(6..).await.unwrap().is_empty());
}

#[test]
fn a_store_is_opened_only_by_the_node_and_the_cluster_it_was_made_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("raft");
    assert!(matches!(open_store(&config(&path, NODE)), Err(OpenError::EmptyStore { node: NODE, .. })));
    create_store(&path, CLUSTER, NODE).unwrap();
    assert!(matches!(create_store(&path, CLUSTER, NODE), Err(OpenError::AlreadyExists { found: NODE, .. })));
    assert!(matches!(open_store(&config(&path, NodeId(2))), Err(OpenError::ForeignNode { .. })));
    let foreign = crate::GroupConfig { cluster: ClusterId(8), ..config(&path, NODE) };
    assert!(matches!(open_store(&foreign), Err(OpenError::ForeignCluster { .. })));
    // An emptied directory is not a new node.
    fs::remove_dir_all(path.join("log")).unwrap();
    fs::create_dir(path.join("log")).unwrap();
    assert!(matches!(open_store(&config(&path, NODE)), Err(OpenError::EmptyStore { .. })));
}

#[test]
fn a_store_that_is_open_elsewhere_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = new_store(directory.path());
    let error = open_store(&config(directory.path(), NODE)).err().unwrap();
    assert!(error.to_string().contains("another process has it open"), "{error}");
    drop(store);
}

/// Deterministic choices. SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 27)
}

/// sled does not fsync, and a disk may return anything: what it holds is believed only where it is right.
#[tokio::test(flavor = "multi_thread")]
async fn applied_state_with_lost_ends_and_flipped_bytes_never_becomes_wrong_state() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = new_store(directory.path());
    write(&mut store, 1, 20).await.unwrap();
    snapshot(&mut store).await;
    store.log.purge(log_id(18)).await.unwrap();
    write(&mut store, 21, 40).await.unwrap();
    store.shared.applied().hand_over().unwrap();
    drop(store);
    let mut random = 7;
    for attempt in 0..16 {
        let image = crash_image(directory.path());
        let state = applied_directory(image.path());
        let files: Vec<PathBuf> =
            fs::read_dir(&state).unwrap().map(|e| e.unwrap().path()).filter(|path| path.is_file()).collect();
        let file = &files[next(&mut random) as usize % files.len()];
        let mut bytes = fs::read(file).unwrap();
        if bytes.is_empty() {
            continue;
        }
        let at = next(&mut random) as usize % bytes.len();
        match attempt % 3 {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << (next(&mut random) % 8),
            _ => {
                let end = (at + 512).min(bytes.len());
                bytes[at..end].fill(0);
            }
        }
        fs::write(file, &bytes).unwrap();
        let store = recovered(image.path(), 40).await;
        assert_eq!(
            store.shared.read(|view| notes(view)),
            expected(40),
            "attempt {attempt}, {} at {at}",
            file.display()
        );
    }
}
