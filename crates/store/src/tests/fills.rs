//! Blocks that were filled: written zeros that nobody sent (decision 0020).

use super::model::{Check, block_bytes, chunk, entry, expected, fresh, pg, reopen, write};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::fault::{PowerLoss, SimDisk};
use crate::superblock::{BALLAST_FILE, STATE, SUPERBLOCK};
use crate::{Mutant, RealDisk, Store, StoreConfig, StoreError};
use weft_types::{
    BLOCK_SIZE, BlockIndex, BlockRange, ChunkId, Effect, Entry, LogPosition, ObjectId, TruncateGeneration,
};

const BLOCKS: u16 = super::model::BLOCKS;
const CHUNK_BYTES: u64 = BLOCKS as u64 * BLOCK_SIZE as u64;

fn range(first: u16, count: u16) -> BlockRange {
    BlockRange::new(BlockIndex(first), count)
}

fn fill(end: LogPosition, chunk: ChunkId, range: BlockRange, absent_blocks: u16) -> Entry {
    entry(end, 1, Effect::Fill { chunk, range, absent_blocks, generation: TruncateGeneration(0) }, Vec::new())
}

fn take(store: &mut Store<SimDisk>, next: Entry) -> LogPosition {
    let end = next.header.position;
    store.append(pg(0), &[next]).unwrap();
    end
}

fn checkpoint(store: &mut Store<SimDisk>) {
    let end = store.log_end(pg(0)).unwrap();
    store.set_committed(pg(0), end).unwrap();
    store.checkpoint_now().unwrap();
}

/// What may still be admitted, as a node tells it to others.
fn room(store: &Store<SimDisk>) -> u64 {
    store.space().free_bytes.saturating_sub(store.space().reserved_bytes)
}

/// Blocks 0 and 1 hold data, 2 and 3 are filled, the others absent.
fn check_contents(store: &Store<SimDisk>) {
    let (bytes, bad) = store.read_now(pg(0), chunk(1, 0), range(0, BLOCKS)).unwrap();
    assert_eq!(bad, vec![]);
    assert_eq!(bytes[..BLOCK_SIZE], block_bytes(10));
    assert_eq!(bytes[BLOCK_SIZE..2 * BLOCK_SIZE], block_bytes(11));
    assert!(bytes[2 * BLOCK_SIZE..].iter().all(|byte| *byte == 0));
    let present = store.present_blocks(pg(0), chunk(1, 0)).unwrap();
    assert_eq!(present.iter().filter(|present| **present).count(), 4);
    assert!(present[..4].iter().all(|present| *present));
    assert_eq!(store.allocated_blocks(pg(0), ObjectId(1)).unwrap(), 4);
    assert_eq!(store.absent_blocks(pg(0), chunk(1, 0), range(2, 4)).unwrap(), 2);
    let hash = weft_types::checksum::zero_hash(pg(0).volume, chunk(1, 0), BlockIndex(3));
    assert_eq!(store.block_hashes(pg(0), chunk(1, 0)).unwrap().blocks[3], Some(hash));
    assert_eq!(store.chunk_info(pg(0), chunk(1, 0)).unwrap().end_bytes, 2 * BLOCK_SIZE as u32, "a fill claims no end");
}

#[test]
fn a_fill_makes_absent_blocks_present_with_zeros_and_leaves_the_others() {
    let disk = SimDisk::new(64 << 20);
    let mut store = fresh(&disk, &StoreConfig::small());
    let end = take(&mut store, write(LogPosition::ZERO, 1, chunk(1, 0), 0, 2, 10));
    let end = take(&mut store, fill(end, chunk(1, 0), range(1, 3), 2));
    check_contents(&store);
    checkpoint(&mut store);
    check_contents(&store);
    drop(store);
    disk.power_cycle(PowerLoss::LoseAll);
    store = reopen(&disk, &StoreConfig::small());
    check_contents(&store);
    // Over what a chunk file has, and over what was discarded since.
    let end = take(
        &mut store,
        entry(
            end,
            1,
            Effect::Discard { chunk: chunk(1, 0), range: range(0, 1), generation: TruncateGeneration(0) },
            vec![],
        ),
    );
    let _ = take(&mut store, fill(end, chunk(1, 0), range(0, 2), 1));
    for _ in 0..2 {
        let (bytes, bad) = store.read_now(pg(0), chunk(1, 0), range(0, 2)).unwrap();
        assert_eq!(bad, vec![]);
        assert!(bytes[..BLOCK_SIZE].iter().all(|byte| *byte == 0), "what was discarded came back");
        assert_eq!(bytes[BLOCK_SIZE..], block_bytes(11));
        assert_eq!(store.allocated_blocks(pg(0), ObjectId(1)).unwrap(), 4);
        checkpoint(&mut store);
    }
}

/// Whether a chunk that was filled takes writes on a disk that somebody else has filled up since, without the ballast.
fn the_room_is_there(mutant: Option<Mutant>) -> Check {
    let disk = SimDisk::new(64 << 20);
    let config = StoreConfig { mutant, ..StoreConfig::small() };
    let mut store = fresh(&disk, &config);
    let mut end = take(&mut store, fill(LogPosition::ZERO, chunk(1, 0), range(0, BLOCKS), BLOCKS));
    checkpoint(&mut store);
    let used = store.space().total_bytes - disk.usage().unwrap().free_bytes;
    // A page or two for the state file, which is replaced.
    disk.set_capacity(used + 2 * BLOCK_SIZE as u64);
    // Twice: the second one writes the other trailer.
    for tag in [100, 200] {
        end = take(&mut store, write(end, 1, chunk(1, 0), 0, 8, tag));
        end = take(&mut store, write(end, 1, chunk(1, 0), 8, 8, tag));
        store.set_committed(pg(0), end).unwrap();
        store.checkpoint_now().map_err(|error| error.to_string())?;
    }
    let ballast = disk.open(BALLAST_FILE, OpenMode::Existing).unwrap().len().unwrap();
    if ballast == config.ballast_bytes { Ok(()) } else { Err(format!("it took of the ballast: {ballast}")) }
}

#[test]
fn what_was_filled_has_its_room_when_the_disk_is_full() {
    assert_eq!(the_room_is_there(None), Ok(()));
    assert!(the_room_is_there(Some(Mutant::FillTakesNoRoom)).is_err());
}

/// What is left for others after a fill: before its checkpoint, after a crash, and after its checkpoint.
fn left_for_others(mutant: Option<Mutant>) -> [bool; 3] {
    let disk = SimDisk::new(64 << 20);
    let config = StoreConfig { mutant, ..StoreConfig::small() };
    let mut store = fresh(&disk, &config);
    store.refresh_space().unwrap();
    let most = room(&store) - CHUNK_BYTES;
    let _ = take(&mut store, fill(LogPosition::ZERO, chunk(1, 0), range(0, BLOCKS), BLOCKS));
    let at_once = room(&store) <= most;
    store.sync_now().unwrap();
    drop(store);
    disk.power_cycle(PowerLoss::LoseAll);
    store = reopen(&disk, &config);
    let after_a_crash = room(&store) <= most;
    checkpoint(&mut store);
    [at_once, after_a_crash, room(&store) <= most]
}

#[test]
fn room_that_a_fill_will_take_is_given_to_nobody_else() {
    assert_eq!(left_for_others(None), [true; 3]);
    assert_eq!(left_for_others(Some(Mutant::FillOwesNothing)), [false, false, true]);
}

#[test]
fn a_fill_that_was_cut_or_applied_owes_nothing() {
    let disk = SimDisk::new(64 << 20);
    let mut store = fresh(&disk, &StoreConfig::small());
    let first = take(&mut store, write(LogPosition::ZERO, 1, chunk(1, 1), 0, 1, 10));
    store.sync_now().unwrap();
    let before = room(&store);
    let _ = take(&mut store, fill(first, chunk(1, 0), range(0, BLOCKS), BLOCKS));
    store.cut_tail(pg(0), first).unwrap();
    store.sync_now().unwrap();
    assert!(before - room(&store) < BLOCK_SIZE as u64, "{before} {}", room(&store));
    let _ = take(&mut store, fill(first, chunk(1, 0), range(0, BLOCKS), BLOCKS));
    checkpoint(&mut store);
    let file_bytes = CHUNK_BYTES + 4 * BLOCK_SIZE as u64;
    assert!(before - room(&store) < file_bytes + CHUNK_BYTES, "counted twice: {before} {}", room(&store));
}

/// A large fill must not shut out everybody else while its checkpoint runs.
#[test]
fn what_a_running_checkpoint_has_taken_for_a_fill_is_not_owed_any_more() {
    let disk = SimDisk::new(64 << 20);
    let mut store = fresh(&disk, &StoreConfig::small());
    store.refresh_space().unwrap();
    let before = room(&store);
    let end = take(&mut store, fill(LogPosition::ZERO, chunk(1, 0), range(0, BLOCKS), BLOCKS));
    store.set_committed(pg(0), end).unwrap();
    let job = store.begin_checkpoint().unwrap().unwrap();
    let outcome = job.run();
    store.refresh_space().unwrap();
    let file_bytes = CHUNK_BYTES + 8 * BLOCK_SIZE as u64;
    assert!(before - room(&store) < file_bytes, "taken and owed: {before} {}", room(&store));
    store.finish_checkpoint(outcome).unwrap();
    assert!((CHUNK_BYTES..file_bytes).contains(&(before - room(&store))), "{before} {}", room(&store));
}

/// Whether a resync since the first write would look at the chunk that was filled after it.
fn is_a_change(mutant: Option<Mutant>) -> bool {
    let disk = SimDisk::new(64 << 20);
    let mut store = fresh(&disk, &StoreConfig { mutant, ..StoreConfig::small() });
    let end = take(&mut store, write(LogPosition::ZERO, 1, chunk(1, 0), 0, 1, 10));
    checkpoint(&mut store);
    let _ = take(&mut store, fill(end, chunk(1, 0), range(1, 3), 3));
    checkpoint(&mut store);
    store.chunks_changed_since(pg(0), end).unwrap().chunks.contains(&chunk(1, 0))
}

#[test]
fn a_resync_looks_at_a_chunk_that_was_filled() {
    assert!(is_a_change(None));
    assert!(!is_a_change(Some(Mutant::FillIsNoChange)));
}

#[test]
fn a_fill_does_not_hide_that_a_trailer_was_lost() {
    let disk = SimDisk::new(64 << 20);
    let mut store = fresh(&disk, &StoreConfig::small());
    let end = take(&mut store, write(LogPosition::ZERO, 1, chunk(1, 0), 0, 3, 10));
    checkpoint(&mut store);
    drop(store);
    disk.power_cycle(PowerLoss::LoseAll);
    let file = disk.files().into_iter().find(|f| f.starts_with("chunks/")).unwrap();
    for slot in 0..2 {
        assert!(disk.flip(&file, CHUNK_BYTES + slot * BLOCK_SIZE as u64 + 20, 1));
    }
    let (mut store, _) = Store::open(disk, expected(), StoreConfig::small()).unwrap();
    let _ = take(&mut store, fill(end, chunk(1, 0), range(0, 4), 4));
    for _ in 0..2 {
        let (_, bad) = store.read_now(pg(0), chunk(1, 0), range(0, 4)).unwrap();
        assert_eq!(bad.len(), 4, "data that were lost read as zeros");
        assert!(store.block_hashes(pg(0), chunk(1, 0)).unwrap().damaged);
        checkpoint(&mut store);
    }
}

#[test]
fn a_fill_outside_of_its_chunk_is_refused() {
    let mut store = fresh(&SimDisk::new(64 << 20), &StoreConfig::small());
    for (range, absent) in [(range(0, 0), 0), (range(15, 2), 2), (range(0, 4), 5)] {
        let refused = store.append(pg(0), &[fill(LogPosition::ZERO, chunk(1, 0), range, absent)]);
        assert!(matches!(refused, Err(StoreError::Malformed { .. })));
    }
}

#[test]
fn the_room_of_a_filled_range_is_taken_on_a_real_filesystem_and_old_bytes_go() {
    use std::os::unix::fs::MetadataExt;
    let directory = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(directory.path()).unwrap();
    let file = disk.open("file", OpenMode::Create).unwrap();
    file.set_len(16 << 12).unwrap();
    file.write_at(&[7; BLOCK_SIZE], 4 << 12).unwrap();
    file.zero(4 << 12, 8 << 12).unwrap();
    file.sync_data().unwrap();
    let mut bytes = vec![1; 16 << 12];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    assert!(bytes.iter().all(|byte| *byte == 0));
    assert!(directory.path().join("file").metadata().unwrap().blocks() * 512 >= 8 << 12);
}

/// A disk as it was formatted, or last opened, by a program that knew no fills.
#[test]
fn a_disk_of_the_version_before_opens_and_one_of_a_later_version_does_not() {
    for (version, opens) in [(1, true), (2, true), (3, false)] {
        let disk = SimDisk::new(64 << 20);
        let config = StoreConfig::small();
        drop(fresh(&disk, &config));
        disk.power_cycle(PowerLoss::KeepAll);
        for seal in [SUPERBLOCK, STATE] {
            let file = disk.open(seal.path, OpenMode::Existing).unwrap();
            let mut bytes = crate::disk::read_file(&disk, seal.path).unwrap().unwrap();
            bytes[8..12].copy_from_slice(&u32::to_le_bytes(version));
            let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..16]), &bytes[24..]);
            bytes[16..20].copy_from_slice(&crc.to_le_bytes());
            file.write_at(&bytes, 0).unwrap();
        }
        let opened = Store::open(disk.clone(), expected(), config);
        assert_eq!(opened.is_ok(), opens, "version {version}");
        if let Err(error) = opened {
            assert!(matches!(error, StoreError::OtherVersion { found: 3, .. }), "{error}");
        } else {
            let state = crate::disk::read_file(&disk, STATE.path).unwrap().unwrap();
            assert_eq!(state[8], 2, "an older program must not open it again");
        }
    }
}
