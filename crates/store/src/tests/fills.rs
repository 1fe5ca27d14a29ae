//! Blocks that were filled: written zeros that nobody sent (decision 0020).

use super::model::{Check, block_bytes, chunk, entry, expected, fresh, pg, reopen, write};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::fault::{PowerLoss, SimDisk};
use crate::superblock::{BALLAST_FILE, STATE, SUPERBLOCK};
use crate::{Mutant, RealDisk, Store, StoreConfig, StoreError};
use weft_types::{
    BLOCK_SIZE, BlockIndex, BlockRange, ChunkId, Effect, Entry, LogPosition, ObjectId, PresentBlocks,
    TruncateGeneration,
};

const BLOCKS: u16 = super::model::BLOCKS;
const CHUNK_BYTES: u64 = BLOCKS as u64 * BLOCK_SIZE as u64;

fn range(first: u16, count: u16) -> BlockRange {
    BlockRange::new(BlockIndex(first), count)
}

fn fill(end: LogPosition, chunk: ChunkId, range: BlockRange, absent_blocks: u16) -> Entry {
    filling(end, chunk, range, absent_blocks, PresentBlocks::Keep)
}

/// Zeros also over what is there.
fn zeros(end: LogPosition, chunk: ChunkId, range: BlockRange, absent_blocks: u16) -> Entry {
    filling(end, chunk, range, absent_blocks, PresentBlocks::Zero)
}

fn filling(end: LogPosition, chunk: ChunkId, range: BlockRange, absent_blocks: u16, present: PresentBlocks) -> Entry {
    let generation = TruncateGeneration(0);
    entry(end, 1, Effect::Fill { chunk, range, absent_blocks, generation, present }, Vec::new())
}

fn discard(end: LogPosition, chunk: ChunkId, range: BlockRange) -> Entry {
    entry(end, 1, Effect::Discard { chunk, range, generation: TruncateGeneration(0) }, Vec::new())
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
    let end = take(&mut store, discard(end, chunk(1, 0), range(0, 1)));
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

/// What a chunk has, block by block: absent, zeros, or the tag of a write. Trailer and overlay have to say the same.
fn blocks(store: &Store<SimDisk>, chunk: ChunkId, count: u16) -> Vec<Option<u64>> {
    let (bytes, bad) = store.read_now(pg(0), chunk, range(0, count)).unwrap();
    assert_eq!(bad, vec![]);
    let hashes = store.block_hashes(pg(0), chunk).unwrap().blocks;
    let tag_of = |block: u16| {
        let got = &bytes[usize::from(block) * BLOCK_SIZE..][..BLOCK_SIZE];
        let tag = (1..400).find(|tag| got == block_bytes(*tag)).unwrap_or(0);
        assert!(tag > 0 || got.iter().all(|byte| *byte == 0), "block {block} has bytes that nobody wrote");
        let hash = weft_types::block_hash(pg(0).volume, chunk, BlockIndex(block), got);
        assert!(hashes[usize::from(block)].is_none_or(|known| known == hash), "block {block} has another hash");
        hashes[usize::from(block)].map(|_| tag)
    };
    (0..count).map(tag_of).collect()
}

#[test]
fn zeros_come_over_what_is_there_in_the_file_and_in_the_journal() {
    let disk = SimDisk::new(64 << 20);
    let mut store = fresh(&disk, &StoreConfig::small());
    let one = chunk(1, 0);
    let end = take(&mut store, write(LogPosition::ZERO, 1, one, 0, 8, 10));
    checkpoint(&mut store);
    // Block 2 is in the journal, 4 discarded there, 5 filled after that, 8 written first and 9 filled there.
    let end = take(&mut store, write(end, 1, one, 2, 1, 100));
    let end = take(&mut store, discard(end, one, range(4, 2)));
    let end = take(&mut store, fill(end, one, range(5, 1), 1));
    let end = take(&mut store, write(end, 1, one, 8, 1, 100));
    let end = take(&mut store, fill(end, one, range(9, 1), 1));
    let before = vec![Some(10), Some(11), Some(102), Some(13), None, Some(0), Some(16), Some(17), Some(108), Some(0)];
    assert_eq!(blocks(&store, one, 10), before);
    let end = take(&mut store, zeros(end, one, range(1, 10), 2));
    // And what comes after them: a write, a discard, a fill that has nothing to do.
    let end = take(&mut store, write(end, 1, one, 6, 1, 200));
    let end = take(&mut store, discard(end, one, range(7, 1)));
    let end = take(&mut store, fill(end, one, range(0, 4), 0));
    let mut after = vec![Some(0); 12];
    (after[0], after[6], after[7], after[11]) = (Some(10), Some(206), None, None);
    assert_eq!(blocks(&store, one, 12), after);
    assert_eq!(store.absent_blocks(pg(0), one, range(0, 12)).unwrap(), 2);
    assert_eq!(store.chunk_info(pg(0), one).unwrap().end_bytes, 9 * BLOCK_SIZE as u32, "zeros claim no end");
    store.sync_now().unwrap();
    drop(store);
    // From the journal, from files, and from the journal on top of files that a checkpoint has changed already.
    disk.power_cycle(PowerLoss::LoseAll);
    store = reopen(&disk, &StoreConfig::small());
    assert_eq!(blocks(&store, one, 12), after);
    store.set_committed(pg(0), end).unwrap();
    let unfinished = store.begin_checkpoint().unwrap().unwrap();
    let _ = unfinished.run();
    assert_eq!(blocks(&store, one, 12), after);
    drop(store);
    disk.power_cycle(PowerLoss::KeepAll);
    store = reopen(&disk, &StoreConfig::small());
    assert_eq!(blocks(&store, one, 12), after);
    checkpoint(&mut store);
    assert_eq!(blocks(&store, one, 12), after);
    drop(store);
    disk.power_cycle(PowerLoss::LoseAll);
    assert_eq!(blocks(&reopen(&disk, &StoreConfig::small()), one, 12), after);
    assert!(reopen_changes(&disk, end), "a resync looks at it");
}

/// Whether the chunk counts as changed by the last but some entries.
fn reopen_changes(disk: &SimDisk, end: LogPosition) -> bool {
    let before = super::model::at(1, end.sequence.0 - 4);
    let store = reopen(disk, &StoreConfig::small());
    store.chunks_changed_since(pg(0), before).unwrap().chunks.contains(&chunk(1, 0))
}

/// Zeros take no room where there is some, on a disk that is full.
#[test]
fn zeros_over_what_is_there_need_no_room_and_owe_none() {
    let disk = SimDisk::new(64 << 20);
    let config = StoreConfig::small();
    let mut store = fresh(&disk, &config);
    let end = take(&mut store, write(LogPosition::ZERO, 1, chunk(1, 0), 0, 8, 10));
    let end = take(&mut store, fill(end, chunk(1, 0), range(8, 8), 8));
    checkpoint(&mut store);
    // What is in the journal counts from its first entry on; this one is of the usual kind.
    let end = take(&mut store, write(end, 1, chunk(1, 0), 3, 1, 50));
    let left = room(&store);
    let end = take(&mut store, zeros(end, chunk(1, 0), range(0, BLOCKS), 0));
    assert!(left - room(&store) < BLOCK_SIZE as u64, "{left} {}", room(&store));
    let used = store.space().total_bytes - disk.usage().unwrap().free_bytes;
    disk.set_capacity(used + 2 * BLOCK_SIZE as u64);
    checkpoint(&mut store);
    assert_eq!(blocks(&store, chunk(1, 0), BLOCKS), vec![Some(0); usize::from(BLOCKS)]);
    // Every block has its room still.
    let end = take(&mut store, write(end, 1, chunk(1, 0), 0, 8, 100));
    let _ = take(&mut store, write(end, 1, chunk(1, 0), 8, 8, 100));
    checkpoint(&mut store);
    let ballast = disk.open(BALLAST_FILE, OpenMode::Existing).unwrap().len().unwrap();
    assert_eq!(ballast, config.ballast_bytes, "it took of the ballast");
    assert_eq!(blocks(&store, chunk(1, 0), 1), vec![Some(100)]);
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

/// Three blocks of a chunk were written, and then both of its trailers were lost.
fn without_a_trailer() -> (Store<SimDisk>, LogPosition) {
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
    (Store::open(disk, expected(), StoreConfig::small()).unwrap().0, end)
}

#[test]
fn a_fill_does_not_hide_that_a_trailer_was_lost() {
    let (mut store, end) = without_a_trailer();
    let _ = take(&mut store, fill(end, chunk(1, 0), range(0, 4), 4));
    for _ in 0..2 {
        let (_, bad) = store.read_now(pg(0), chunk(1, 0), range(0, 4)).unwrap();
        assert_eq!(bad.len(), 4, "data that were lost read as zeros");
        assert!(store.block_hashes(pg(0), chunk(1, 0)).unwrap().damaged);
        checkpoint(&mut store);
    }
}

/// Whatever was in them, they are zeros now; their neighbours stay unknown.
#[test]
fn zeros_make_blocks_known_whose_trailer_was_lost() {
    let (mut store, end) = without_a_trailer();
    let end = take(&mut store, zeros(end, chunk(1, 0), range(1, 3), 3));
    for _ in 0..2 {
        let (bytes, bad) = store.read_now(pg(0), chunk(1, 0), range(0, 6)).unwrap();
        assert_eq!(bad.iter().map(|bad| bad.block.0).collect::<Vec<_>>(), [0, 4, 5]);
        assert!(bytes.iter().all(|byte| *byte == 0));
        let hashes = store.block_hashes(pg(0), chunk(1, 0)).unwrap();
        assert!(hashes.damaged);
        assert!(hashes.blocks[1..4].iter().all(Option::is_some));
        checkpoint(&mut store);
    }
    let _ = take(&mut store, zeros(end, chunk(1, 0), range(0, BLOCKS), 13));
    for _ in 0..2 {
        assert_eq!(blocks(&store, chunk(1, 0), BLOCKS), vec![Some(0); usize::from(BLOCKS)]);
        assert!(!store.block_hashes(pg(0), chunk(1, 0)).unwrap().damaged);
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

/// Small files, as many as are admitted: each has a chunk file of its own, with trailers that no entry carries.
#[test]
fn what_is_admitted_of_small_new_chunks_finds_its_room() {
    let disk = SimDisk::new(64 << 20);
    let config = StoreConfig { segments: 32, ..StoreConfig::small() };
    let mut store = fresh(&disk, &config);
    let used = disk.usage().unwrap().total_bytes - disk.usage().unwrap().free_bytes;
    disk.set_capacity(used + config.reserve_bytes + (512 << 10));
    store.refresh_space().unwrap();
    let mut end = LogPosition::ZERO;
    let mut count = 0;
    // As a primary admits a write: its data, and a block besides.
    while store.credits() >= 2 * BLOCK_SIZE as u64 {
        count += 1;
        end = take(&mut store, write(end, 1, chunk(count, 0), 0, 1, 10));
        // As after each sync of the journal.
        store.refresh_space().unwrap();
    }
    checkpoint(&mut store);
    let ballast = disk.open(BALLAST_FILE, OpenMode::Existing).unwrap().len().unwrap();
    assert_eq!(ballast, config.ballast_bytes, "{count} of them took of the ballast");
}
