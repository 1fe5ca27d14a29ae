//! Full disks, cold reads, damaged chunk files, and readers that race a checkpoint.

use super::model::{at, block_bytes, chunk, expected, fresh, pg, reopen, write};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::fault::{PowerLoss, SimDisk};
use crate::{CheckpointsFree, Mutant, ReadOutcome, Repaired, Store, StoreConfig, StoreError};
use weft_types::{BLOCK_SIZE, BlockIndex, BlockRange, ChunkId, Effect, Entry, LogPosition, ObjectId};

fn one(block: u16) -> BlockRange {
    BlockRange::new(BlockIndex(block), 1)
}

/// A store whose one chunk has three blocks in its file.
fn with_chunk_file(disk: &SimDisk) -> Store<SimDisk> {
    let mut store = fresh(disk, &StoreConfig { retained_segments: 0, ..StoreConfig::small() });
    store.append(pg(0), &[write(LogPosition::ZERO, 1, chunk(1, 0), 0, 3, 10)]).unwrap();
    store.set_committed(pg(0), at(1, 1)).unwrap();
    store.checkpoint_now().unwrap();
    store
}

fn chunk_file(disk: &SimDisk) -> String {
    disk.files().into_iter().find(|f| f.starts_with("chunks/")).unwrap()
}

#[test]
fn a_flipped_bit_in_a_chunk_file_is_reported_with_the_hash_that_should_be_and_repaired() {
    let disk = SimDisk::new(64 << 20);
    let mut store = with_chunk_file(&disk);
    assert!(disk.flip(&chunk_file(&disk), BLOCK_SIZE as u64 + 7, 4));
    let (_, bad) = store.read_now(pg(0), chunk(1, 0), BlockRange::new(BlockIndex(0), 4)).unwrap();
    assert_eq!(bad.len(), 1);
    assert_eq!(bad[0].block, BlockIndex(1));
    assert!(bad[0].expected.is_some());
    assert_eq!(store.repair_block(pg(0), chunk(1, 0), BlockIndex(1), &block_bytes(11)).unwrap(), Repaired::Done);
    let (bytes, bad) = store.read_now(pg(0), chunk(1, 0), one(1)).unwrap();
    assert_eq!((bytes.to_vec(), bad), (block_bytes(11), vec![]));
    assert_eq!(store.repair_block(pg(0), chunk(1, 0), BlockIndex(9), &block_bytes(1)).unwrap(), Repaired::Unknown);
}

/// Blocks that read as bad, of a chunk of 16, when the store is opened anew.
fn bad_blocks(disk: &SimDisk, mutant: Option<Mutant>) -> usize {
    disk.power_cycle(PowerLoss::KeepAll);
    let config = StoreConfig { mutant, ..StoreConfig::small() };
    let (store, _) = Store::open(disk.clone(), expected(), config).unwrap();
    store.read_now(pg(0), chunk(1, 0), BlockRange::new(BlockIndex(0), 16)).unwrap().1.len()
}

#[test]
fn a_read_believes_only_what_verifies() {
    let disk = SimDisk::new(64 << 20);
    drop(with_chunk_file(&disk));
    assert!(disk.flip(&chunk_file(&disk), BLOCK_SIZE as u64 + 7, 4));
    assert_eq!(bad_blocks(&disk, None), 1);
    assert_eq!(bad_blocks(&disk, Some(Mutant::UnverifiedRead)), 0);
    for slot in 0..2 {
        assert!(disk.flip(&chunk_file(&disk), (64 << 10) + slot * BLOCK_SIZE as u64 + 20, 1));
    }
    assert_eq!(bad_blocks(&disk, None), 16);
    assert_eq!(bad_blocks(&disk, Some(Mutant::DamagedIsAbsent)), 0);
}

#[test]
fn an_unreadable_sector_makes_one_block_bad_and_not_the_whole_read() {
    let disk = SimDisk::new(64 << 20);
    let store = with_chunk_file(&disk);
    assert!(disk.make_unreadable(&chunk_file(&disk), 2 * BLOCK_SIZE as u64));
    let (bytes, bad) = store.read_now(pg(0), chunk(1, 0), BlockRange::new(BlockIndex(0), 3)).unwrap();
    assert_eq!(bad.iter().map(|b| b.block.0).collect::<Vec<_>>(), vec![2]);
    assert_eq!(bytes[..BLOCK_SIZE], block_bytes(10));
}

#[test]
fn a_chunk_whose_trailers_are_lost_is_damaged_and_never_reads_as_zeros() {
    let disk = SimDisk::new(64 << 20);
    drop(with_chunk_file(&disk));
    disk.power_cycle(PowerLoss::LoseAll);
    let path = chunk_file(&disk);
    for slot in 0..2 {
        assert!(disk.flip(&path, (64 << 10) + slot * BLOCK_SIZE as u64 + 20, 1));
    }
    let (mut store, report) = Store::open(disk, expected(), StoreConfig::small()).unwrap();
    assert_eq!(report.damaged_chunks, vec![(pg(0), chunk(1, 0))]);
    assert!(store.block_hashes(pg(0), chunk(1, 0)).unwrap().damaged);
    assert!(store.is_damaged(pg(0)).unwrap());
    assert!(store.present_blocks(pg(0), chunk(1, 0)).unwrap().into_iter().all(|present| present), "it has no holes");
    assert!(!store.is_damaged(pg(7)).is_ok_and(|damaged| damaged));
    // Whoever copies to it has to look at this one, whatever else it knows to be equal.
    assert_eq!(store.chunks_changed_since(pg(0), at(9, 9)).unwrap().chunks, vec![chunk(1, 0)]);
    let bad =
        |store: &Store<SimDisk>| store.read_now(pg(0), chunk(1, 0), BlockRange::new(BlockIndex(0), 16)).unwrap().1;
    assert_eq!(bad(&store).len(), 16);
    // A write makes its own block known again, and only that.
    store.append(pg(0), &[write(at(1, 1), 1, chunk(1, 0), 5, 1, 40)]).unwrap();
    store.set_committed(pg(0), at(1, 2)).unwrap();
    store.checkpoint_now().unwrap();
    assert_eq!(bad(&store).len(), 15);
    assert!(store.is_damaged(pg(0)).unwrap());
    // Deleting it and copying it anew heals it.
    let delete = super::model::entry(at(1, 2), 1, Effect::DeleteChunk { chunk: chunk(1, 0) }, vec![]);
    store.append(pg(0), &[delete, write(at(1, 3), 1, chunk(1, 0), 0, 3, 10)]).unwrap();
    store.set_committed(pg(0), at(1, 4)).unwrap();
    store.checkpoint_now().unwrap();
    assert_eq!(bad(&store), vec![]);
    assert!(!store.block_hashes(pg(0), chunk(1, 0)).unwrap().damaged);
    assert!(!store.is_damaged(pg(0)).unwrap());
    assert_eq!(store.chunks_changed_since(pg(0), at(9, 9)).unwrap().chunks, vec![]);
}

#[test]
fn trailers_that_are_lost_meanwhile_are_noticed_when_the_file_is_opened_again() {
    let disk = SimDisk::new(64 << 20);
    let store = with_chunk_file(&disk);
    let path = chunk_file(&disk);
    for slot in 0..2 {
        assert!(disk.flip(&path, (64 << 10) + slot * BLOCK_SIZE as u64 + 20, 1));
    }
    assert!(!store.is_damaged(pg(0)).unwrap());
    store.cache.forget(pg(0), chunk(1, 0));
    let (_, bad) = store.read_now(pg(0), chunk(1, 0), BlockRange::new(BlockIndex(0), 1)).unwrap();
    assert_eq!(bad.len(), 1);
    assert!(store.is_damaged(pg(0)).unwrap());
}

#[test]
fn a_cold_read_refuses_to_wait_and_then_waits_elsewhere() {
    let disk = SimDisk::new(64 << 20);
    let store = with_chunk_file(&disk);
    disk.set_cold(true);
    let job = store.prepare_read(pg(0), chunk(1, 0), one(0)).unwrap();
    assert!(job.try_now().is_none());
    let ReadOutcome::Done { bytes, .. } = job.run().unwrap() else { panic!("nothing moved") };
    assert_eq!(bytes.to_vec(), block_bytes(10));
    disk.set_cold(false);
    assert!(matches!(job.try_now(), Some(Ok(ReadOutcome::Done { .. }))));
}

#[test]
fn a_read_that_was_overtaken_by_checkpoints_says_retry_or_returns_verified_blocks() {
    let disk = SimDisk::new(64 << 20);
    let config = StoreConfig { retained_segments: 0, ..StoreConfig::small() };
    let mut store = fresh(&disk, &config);
    store.append(pg(0), &[write(LogPosition::ZERO, 1, chunk(1, 0), 0, 1, 10)]).unwrap();
    let from_journal = store.prepare_read(pg(0), chunk(1, 0), one(0)).unwrap();
    store.set_committed(pg(0), at(1, 1)).unwrap();
    store.checkpoint_now().unwrap();
    let from_file = store.prepare_read(pg(0), chunk(1, 0), one(0)).unwrap();
    let mut retries = 0;
    let mut end = at(1, 1);
    for round in 1..400u64 {
        let next = write(end, 1, chunk(1, 0), 0, 1, round * 100);
        store.append(pg(0), std::slice::from_ref(&next)).unwrap();
        end = next.header.position;
        store.set_committed(pg(0), end).unwrap();
        store.checkpoint_now().unwrap();
        for job in [&from_journal, &from_file] {
            match job.run().unwrap() {
                ReadOutcome::Retry => retries += 1,
                ReadOutcome::Done { bytes, bad } => {
                    assert_eq!(bad, vec![]);
                    assert!(bytes == block_bytes(10) || bytes == block_bytes(round * 100));
                }
            }
        }
    }
    // The ring went round, so the job that read the journal has to have noticed.
    assert!(retries > 0);
}

#[test]
fn a_full_disk_refuses_credits_and_still_applies_what_was_sequenced_and_deletes() {
    let disk = SimDisk::new(64 << 20);
    let config = StoreConfig { ballast_bytes: 512 << 10, ..StoreConfig::small() };
    let mut store = fresh(&disk, &config);
    let mut end = LogPosition::ZERO;
    for index in 0..3 {
        let next = write(end, 1, chunk(1, index), 0, 6, 10);
        store.append(pg(0), std::slice::from_ref(&next)).unwrap();
        end = next.header.position;
    }
    assert!(store.credits() > 0);
    let used = store.space().total_bytes - crate::Disk::usage(&disk).unwrap().free_bytes;
    disk.set_capacity(used);
    store.refresh_space().unwrap();
    assert_eq!(store.credits(), 0);
    store.set_committed(pg(0), end).unwrap();
    store.checkpoint_now().unwrap();
    let (bytes, bad) = store.read_now(pg(0), chunk(1, 2), one(3)).unwrap();
    assert_eq!((bytes.to_vec(), bad), (block_bytes(13), vec![]));
    let delete = super::model::entry(end, 1, Effect::DeleteObject { object: ObjectId(1) }, vec![]);
    end = delete.header.position;
    store.append(pg(0), &[delete]).unwrap();
    store.set_committed(pg(0), end).unwrap();
    store.checkpoint_now().unwrap();
    assert_eq!(store.chunks(pg(0)).unwrap(), vec![]);
    drop(store);
    disk.power_cycle(PowerLoss::LoseAll);
    assert_eq!(reopen(&disk, &config).chunks(pg(0)).unwrap(), vec![]);
}

fn ballast_bytes(disk: &SimDisk) -> u64 {
    disk.open(crate::superblock::BALLAST_FILE, OpenMode::Existing).unwrap().len().unwrap()
}

/// Fills a disk until a checkpoint needs the ballast; then space comes back, and a checkpoint or an opening follows.
fn ballast_comes_back(mutant: Option<Mutant>, by_opening: bool) -> bool {
    let disk = SimDisk::new(64 << 20);
    let config = StoreConfig { ballast_bytes: 512 << 10, mutant, ..StoreConfig::small() };
    let mut store = fresh(&disk, &config);
    store.append(pg(0), &[write(LogPosition::ZERO, 1, chunk(1, 0), 0, 6, 10)]).unwrap();
    store.set_committed(pg(0), at(1, 1)).unwrap();
    let used = store.space().total_bytes - crate::Disk::usage(&disk).unwrap().free_bytes;
    disk.set_capacity(used);
    store.checkpoint_now().unwrap();
    let kept = config.ballast_bytes / 2;
    assert_eq!(ballast_bytes(&disk), kept, "the checkpoint needed the other half, and there is no room for it yet");
    // Nothing is restored into space that others need more.
    store.append(pg(0), &[write(at(1, 1), 1, chunk(1, 0), 0, 1, 20)]).unwrap();
    store.set_committed(pg(0), at(1, 2)).unwrap();
    store.checkpoint_now().unwrap();
    assert_eq!(ballast_bytes(&disk), kept);
    disk.set_capacity(64 << 20);
    if by_opening {
        drop(store);
        disk.power_cycle(PowerLoss::LoseAll);
        store = reopen(&disk, &config);
    } else {
        store.append(pg(0), &[write(at(1, 2), 1, chunk(1, 0), 0, 1, 30)]).unwrap();
        store.set_committed(pg(0), at(1, 3)).unwrap();
        store.checkpoint_now().unwrap();
    }
    assert_eq!(store.space().free_bytes, crate::Disk::usage(&disk).unwrap().free_bytes);
    ballast_bytes(&disk) == config.ballast_bytes
}

#[test]
fn a_ballast_that_did_not_fit_back_is_taken_again_by_a_later_checkpoint_and_by_opening() {
    for by_opening in [false, true] {
        assert!(ballast_comes_back(None, by_opening));
        assert!(!ballast_comes_back(Some(Mutant::ForgetBallast), by_opening));
    }
}

/// What is asked before an append is what the append then does, and leaves a segment for this node's own entries.
#[test]
fn a_journal_tells_how_many_entries_it_takes() {
    let disk = SimDisk::new(64 << 20);
    let mut store = fresh(&disk, &StoreConfig::small());
    let mut end = LogPosition::ZERO;
    let asked = loop {
        let mut entries = Vec::new();
        for count in [1, 7, 2, 5] {
            let entry = write(entries.last().map_or(end, |e: &Entry| e.header.position), 1, chunk(1, 0), 0, count, 10);
            entries.push(entry);
        }
        // Told from the headers.
        let headers: Vec<_> =
            entries.iter().map(|e| Entry { header: e.header.clone(), data: bytes::Bytes::new() }).collect();
        let takes = store.journal_takes(&headers, CheckpointsFree::Nothing);
        store.append(pg(0), &entries[..takes]).unwrap();
        end = entries[..takes].last().map_or(end, |entry| entry.header.position);
        if takes < entries.len() {
            break headers[takes..].to_vec();
        }
    };
    assert!(store.journal_room_bytes() > store.segment_bytes() / 2, "{}", store.journal_room_bytes());
    assert!(store.journal_room_bytes() < 2 * store.segment_bytes(), "{}", store.journal_room_bytes());
    let after_a_checkpoint = |store: &Store<SimDisk>| store.journal_takes(&asked, CheckpointsFree::WhatIsCommitted);
    assert_eq!(after_a_checkpoint(&store), 0, "nothing is committed");
    store.set_committed(pg(0), end).unwrap();
    assert_eq!(after_a_checkpoint(&store), asked.len());
    assert_eq!(store.journal_takes(&asked, CheckpointsFree::Nothing), 0);
    // This node's own find room all the time, for a while.
    store.append(pg(0), &[write(end, 1, chunk(1, 0), 0, 5, 10)]).unwrap();
    store.checkpoint_now().unwrap();
    assert_eq!(store.journal_takes(&asked, CheckpointsFree::Nothing), asked.len());
}

/// More than one segment of eight is pinned by a group that cannot commit; what of them fits is copied forward, the oldest first.
#[test]
fn a_group_that_cannot_commit_leaves_room_for_the_others() {
    let disk = SimDisk::new(64 << 20);
    let mut store = fresh(&disk, &StoreConfig::small());
    let mut pinned = LogPosition::ZERO;
    for _ in 0..6 {
        let entry = write(pinned, 1, chunk(1, 0), 0, 3, 10);
        store.append(pg(0), std::slice::from_ref(&entry)).unwrap();
        pinned = entry.header.position;
    }
    let mut end = LogPosition::ZERO;
    for number in 0..200u16 {
        let entry = write(end, 1, chunk(2, 0), 0, 5, u64::from(number));
        for _ in 0..4 {
            if store.journal_takes(std::slice::from_ref(&entry), CheckpointsFree::Nothing) == 1 {
                break;
            }
            store.checkpoint_now().unwrap();
        }
        store.append(pg(1), std::slice::from_ref(&entry)).unwrap();
        end = entry.header.position;
        store.set_committed(pg(1), end).unwrap();
    }
    assert_eq!(store.log_end(pg(0)).unwrap(), pinned);
    assert_eq!(store.applied(pg(0)).unwrap(), LogPosition::ZERO);
}

/// What was sequenced needs more than the ballast has, so checkpoints fail; then processes die, one after the other.
#[test]
fn a_full_disk_opens_again_and_again() {
    let disk = SimDisk::new(64 << 20);
    let config = StoreConfig::small();
    let mut store = fresh(&disk, &config);
    let mut end = LogPosition::ZERO;
    for index in 0..8 {
        let next = write(end, 1, chunk(1, index), 0, 6, 10);
        store.append(pg(0), std::slice::from_ref(&next)).unwrap();
        end = next.header.position;
    }
    store.set_committed(pg(0), end).unwrap();
    let full = |disk: &SimDisk| {
        let usage = crate::Disk::usage(disk).unwrap();
        disk.set_capacity(usage.total_bytes - usage.free_bytes);
    };
    full(&disk);
    for loss in [PowerLoss::KeepAll, PowerLoss::LoseAll, PowerLoss::KeepAll] {
        let error = store.checkpoint_now().err().unwrap();
        assert!(error.is_no_space(), "{error}");
        assert_eq!(ballast_bytes(&disk), config.ballast_bytes / 2);
        drop(store);
        disk.power_cycle(loss);
        full(&disk);
        store = reopen(&disk, &config);
        assert_eq!(store.failure(), None);
    }
    disk.set_capacity(64 << 20);
    store.checkpoint_now().unwrap();
    assert_eq!(ballast_bytes(&disk), config.ballast_bytes);
    for index in 0..8 {
        let (bytes, bad) = store.read_now(pg(0), chunk(1, index), one(5)).unwrap();
        assert_eq!((bytes.to_vec(), bad), (block_bytes(15), vec![]));
    }
}

#[test]
fn what_the_opener_keeps_beside_is_replaced_on_a_full_disk_too() {
    for (mutant, replaced) in [(None, true), (Some(Mutant::BeginWithoutBallast), false)] {
        let disk = SimDisk::new(64 << 20);
        let config = StoreConfig { mutant, ..StoreConfig::small() };
        let mut store = fresh(&disk, &config);
        store.replace_beside("mark", b"first").unwrap();
        let usage = crate::Disk::usage(&disk).unwrap();
        disk.set_capacity(usage.total_bytes - usage.free_bytes);
        for time in 0..3 {
            let done = store.replace_beside("mark", format!("mark {time}").as_bytes());
            assert_eq!(done.is_ok(), replaced, "{mutant:?}, time {time}");
        }
        let kept = crate::disk::read_file(&disk, "mark").unwrap().unwrap();
        assert_eq!(kept, if replaced { b"mark 2".to_vec() } else { b"first".to_vec() });
    }
}

#[test]
fn a_disk_without_any_space_fails_the_checkpoint_and_recovers_when_space_comes_back() {
    let disk = SimDisk::new(64 << 20);
    let config = StoreConfig { ballast_bytes: 0, ..StoreConfig::small() };
    let mut store = fresh(&disk, &config);
    store.append(pg(0), &[write(LogPosition::ZERO, 1, chunk(1, 0), 0, 6, 10)]).unwrap();
    store.set_committed(pg(0), at(1, 1)).unwrap();
    let used = store.space().total_bytes - crate::Disk::usage(&disk).unwrap().free_bytes;
    disk.set_capacity(used + 8192);
    let error = store.checkpoint_now().err().unwrap();
    assert!(error.is_no_space(), "{error}");
    assert!(store.failure().is_none());
    disk.set_capacity(64 << 20);
    store.checkpoint_now().unwrap();
    let (bytes, _) = store.read_now(pg(0), chunk(1, 0), one(5)).unwrap();
    assert_eq!(bytes.to_vec(), block_bytes(15));
}

/// Fails when a chunk is known that has no file.
fn deleted_chunks_are_absent(store: &Store<SimDisk>, deleted: &[ChunkId]) -> Result<(), String> {
    for chunk in deleted {
        let hashes = store.block_hashes(pg(0), *chunk).map_err(|error| error.to_string())?;
        let (bytes, bad) =
            store.read_now(pg(0), *chunk, BlockRange::new(BlockIndex(0), 3)).map_err(|error| error.to_string())?;
        if hashes.damaged || !bad.is_empty() || bytes.iter().any(|byte| *byte != 0) {
            return Err(format!("{chunk} is damaged"));
        }
        let known = store.chunks(pg(0)).map_err(|error| error.to_string())?.contains(chunk);
        // Writes to the object would wait for the cut of a generation that nobody makes.
        if known || store.object_generation(pg(0), chunk.object).is_some() {
            return Err(format!("{chunk} is known"));
        }
    }
    Ok(())
}

/// Two chunks are deleted and the next in turn finds no room: not at all, or not before the ballast is given up.
fn removed_before_no_room(mutant: Option<Mutant>, ballast_bytes: u64, in_cache: bool) -> Result<(), String> {
    let disk = SimDisk::new(64 << 20);
    let config = StoreConfig { ballast_bytes, ..StoreConfig::small() };
    let mut store = fresh(&disk, &config);
    let mut end = LogPosition::ZERO;
    let take = |store: &mut Store<SimDisk>, end: &mut LogPosition, next: Entry| {
        *end = next.header.position;
        store.append(pg(0), &[next]).unwrap();
        store.set_committed(pg(0), *end).unwrap();
    };
    let deleted = [chunk(1, 0), chunk(2, 0)];
    for chunk in deleted {
        let next = write(end, 1, chunk, 0, 1, 10);
        take(&mut store, &mut end, next);
    }
    store.checkpoint_now().unwrap();
    drop(store);
    disk.power_cycle(PowerLoss::LoseAll);
    let config = StoreConfig { mutant, ..config };
    let mut store = reopen(&disk, &config);
    for chunk in deleted.into_iter().filter(|_| in_cache) {
        store.read_now(pg(0), chunk, one(0)).unwrap();
    }
    for object in [1, 2] {
        let delete = super::model::entry(end, 1, Effect::DeleteObject { object: ObjectId(object) }, vec![]);
        take(&mut store, &mut end, delete);
    }
    for index in 0..3 {
        let next = write(end, 1, chunk(3, index), 0, 8, 20);
        take(&mut store, &mut end, next);
    }
    let used = store.space().total_bytes - crate::Disk::usage(&disk).unwrap().free_bytes;
    disk.set_capacity(used);
    let ended = store.checkpoint_now();
    let files = disk.files();
    assert!(!files.iter().any(|file| file == &crate::chunk_file::chunk_path(pg(0), deleted[0])), "{files:?}");
    match ended {
        Err(error) if error.is_no_space() && ballast_bytes == 0 => {}
        Ok(()) if ballast_bytes > 0 => {}
        ended => return Err(format!("{ended:?}")),
    }
    deleted_chunks_are_absent(&store, &deleted)?;
    // A write to one of them works, before there is room and after.
    let next = write(end, 1, deleted[1], 1, 1, 30);
    take(&mut store, &mut end, next);
    disk.set_capacity(64 << 20);
    let contents = |store: &Store<SimDisk>| {
        deleted_chunks_are_absent(store, &deleted[..1])?;
        let read = |chunk, block| store.read_now(pg(0), chunk, one(block)).unwrap();
        assert_eq!(read(deleted[1], 0), (vec![0; BLOCK_SIZE].into(), vec![]));
        assert_eq!(read(deleted[1], 1), (block_bytes(31).into(), vec![]));
        assert_eq!(read(chunk(3, 2), 7), (block_bytes(27).into(), vec![]));
        Ok::<(), String>(())
    };
    contents(&store)?;
    store.checkpoint_now().map_err(|error| error.to_string())?;
    contents(&store)?;
    drop(store);
    disk.power_cycle(PowerLoss::LoseAll);
    let (store, report) = Store::open(disk, expected(), config).unwrap();
    assert_eq!(report.damaged_chunks, vec![]);
    contents(&store)
}

#[test]
fn a_chunk_whose_file_is_removed_before_there_is_no_room_for_another_is_gone() {
    for (ballast_bytes, in_cache) in [(0, false), (0, true), (512 << 10, false), (512 << 10, true)] {
        let of = |mutant| removed_before_no_room(mutant, ballast_bytes, in_cache);
        assert_eq!(of(None), Ok(()), "{ballast_bytes} {in_cache}");
        let noticed = of(Some(Mutant::KeepRemovedChunk)).unwrap_err();
        assert!(noticed.contains("is damaged") || noticed.contains("removing a chunk file"), "{noticed}");
    }
}

#[test]
fn entries_that_do_not_follow_or_are_malformed_change_nothing() {
    let disk = SimDisk::new(64 << 20);
    let mut store = fresh(&disk, &StoreConfig::small());
    let good = write(LogPosition::ZERO, 1, chunk(1, 0), 0, 1, 10);
    let gap = write(at(1, 7), 1, chunk(1, 0), 0, 1, 10);
    assert!(matches!(store.append(pg(0), &[good.clone(), gap]), Err(StoreError::NotContiguous { .. })));
    assert_eq!(store.log_end(pg(0)).unwrap(), LogPosition::ZERO);
    let outside = write(LogPosition::ZERO, 1, chunk(1, 0), 15, 2, 10);
    assert!(matches!(store.append(pg(0), &[outside]), Err(StoreError::Malformed { .. })));
    let mut short = good.clone();
    short.data = short.data.slice(1..);
    assert!(matches!(store.append(pg(0), &[short]), Err(StoreError::Malformed { .. })));
    store.append(pg(0), &[good]).unwrap();
    store.set_committed(pg(0), at(1, 1)).unwrap();
    let error = store.cut_tail(pg(0), LogPosition::ZERO).err().unwrap();
    assert!(matches!(error, StoreError::CutBelowCommitted { .. }));
}
