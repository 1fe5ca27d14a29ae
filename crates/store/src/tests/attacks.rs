//! Executions that broke earlier designs, played by hand. Names in the comments are those of the list of attacks.

use super::model::{at, block_bytes, chunk, entry, expected, fresh, pg, reopen, write};
use crate::fault::{PowerLoss, SimDisk};
use crate::{Completeness, Mutant, ReplicaState, Store, StoreConfig, StoreError};
use weft_types::{
    BLOCK_SIZE, BlockIndex, BlockRange, Effect, Epoch, LogPosition, ObjectId, OperationId, Origin, SessionId,
    TruncateGeneration,
};

const K: u32 = 0;

fn disk() -> SimDisk {
    SimDisk::new(64 << 20)
}

fn first_block(store: &Store<SimDisk>) -> Vec<u8> {
    let (bytes, bad) = store.read_now(pg(0), chunk(1, K), BlockRange::new(BlockIndex(0), 1)).unwrap();
    assert_eq!(bad, vec![]);
    bytes.to_vec()
}

/// reordered-tail
#[test]
fn a_bad_record_after_the_last_mark_ends_the_log_and_good_ones_behind_it_never_come_back() {
    assert!(reordered_tail(None));
    assert!(!reordered_tail(Some(Mutant::IgnoreLife)));
}

fn reordered_tail(mutant: Option<Mutant>) -> bool {
    let disk = disk();
    let config = StoreConfig { mutant, ..StoreConfig::small() };
    let mut store = fresh(&disk, &config);
    let mut end = LogPosition::ZERO;
    for tag in [10, 20, 30] {
        let next = write(end, 1, chunk(1, K), 0, 1, tag);
        store.append(pg(0), std::slice::from_ref(&next)).unwrap();
        end = next.header.position;
        if tag == 10 {
            store.sync_now().unwrap();
        }
    }
    drop(store);
    disk.power_cycle(PowerLoss::KeepAll);
    // The second record's data did not reach the disk; the third's did.
    let segment = "journal/0001";
    let torn = find(&disk, segment, &block_bytes(20));
    assert!(disk.flip(segment, torn, 0xff));
    let mut store = reopen(&disk, &config);
    assert_eq!(store.log_end(pg(0)).unwrap(), at(1, 1));
    assert_eq!(first_block(&store), block_bytes(10));
    // A record of the same length now fills the gap; the old third record lies right behind it.
    store.append(pg(0), &[write(at(1, 1), 2, chunk(1, K), 0, 1, 40)]).unwrap();
    drop(store);
    disk.power_cycle(PowerLoss::KeepAll);
    let Ok((store, _)) = Store::open(disk, expected(), config) else { return false };
    store.log_end(pg(0)).unwrap() == at(2, 2) && first_block(&store) == block_bytes(40)
}

/// Offset of a byte string in a file.
fn find(disk: &SimDisk, path: &str, needle: &[u8]) -> u64 {
    let bytes = crate::disk::read_file(disk, path).unwrap().unwrap();
    bytes.windows(needle.len()).position(|w| w == needle).unwrap() as u64
}

/// Corruption before the last sync mark.
#[test]
fn a_bad_header_before_the_last_mark_is_reported_and_not_cut_away() {
    let disk = disk();
    let config = StoreConfig::small();
    let mut store = fresh(&disk, &config);
    store.append(pg(0), &[write(LogPosition::ZERO, 1, chunk(1, K), 0, 1, 10)]).unwrap();
    store.append(pg(0), &[write(at(1, 1), 1, chunk(1, K), 1, 1, 20)]).unwrap();
    store.sync_now().unwrap();
    drop(store);
    disk.power_cycle(PowerLoss::LoseAll);
    let data = find(&disk, "journal/0001", &block_bytes(10));
    // The mark itself was written after the sync and is lost; the synced bytes are there.
    assert_eq!(reopen(&disk, &config).log_end(pg(0)).unwrap(), at(1, 2));
    disk.power_cycle(PowerLoss::KeepAll);
    let mut store = reopen(&disk, &config);
    store.append(pg(0), &[write(at(1, 2), 1, chunk(1, K), 2, 1, 30)]).unwrap();
    store.sync_now().unwrap();
    drop(store);
    disk.power_cycle(PowerLoss::KeepAll);
    assert!(disk.flip("journal/0001", data - 20, 0xff));
    let error = Store::open(disk, expected(), config).err().unwrap();
    assert!(matches!(error, StoreError::JournalCorrupt { .. }), "{error}");
}

#[test]
fn a_rotten_block_before_the_last_mark_keeps_its_place_and_reads_as_bad_until_it_is_repaired() {
    let disk = disk();
    let config = StoreConfig::small();
    let mut store = fresh(&disk, &config);
    store.append(pg(0), &[write(LogPosition::ZERO, 1, chunk(1, K), 0, 2, 10)]).unwrap();
    store.sync_now().unwrap();
    drop(store);
    disk.power_cycle(PowerLoss::KeepAll);
    let data = find(&disk, "journal/0001", &block_bytes(10));
    assert!(disk.flip("journal/0001", data + 5, 1));
    let (mut store, report) = Store::open(disk, expected(), config).unwrap();
    assert_eq!(report.corrupt_blocks, 1);
    assert_eq!(store.log_end(pg(0)).unwrap(), at(1, 1));
    let range = BlockRange::new(BlockIndex(0), 2);
    let (bytes, bad) = store.read_now(pg(0), chunk(1, K), range).unwrap();
    assert_eq!(bad.iter().map(|b| b.block).collect::<Vec<_>>(), vec![BlockIndex(0)]);
    assert!(bytes[..BLOCK_SIZE].iter().all(|b| *b == 0));
    let wrong = store.repair_block(pg(0), chunk(1, K), BlockIndex(0), &block_bytes(99)).unwrap();
    assert!(matches!(wrong, crate::Repaired::OtherContent { .. }));
    let done = store.repair_block(pg(0), chunk(1, K), BlockIndex(0), &block_bytes(10)).unwrap();
    assert_eq!(done, crate::Repaired::Done);
    assert_eq!(first_block(&store), block_bytes(10));
}

/// mark-before-records
#[test]
fn a_mark_is_written_only_after_its_sync() {
    // Of what was not synced any part may be lost: in some run a mark that was written too early survives alone, and
    // the disk then looks corrupt.
    let looks_corrupt = |mutant| {
        let config = StoreConfig { mutant, ..StoreConfig::small() };
        (0..200).any(|seed| Store::open(power_loss_during_sync(mutant, seed), expected(), config.clone()).is_err())
    };
    assert!(!looks_corrupt(None));
    assert!(looks_corrupt(Some(Mutant::MarkBeforeFsync)));
}

fn power_loss_during_sync(mutant: Option<Mutant>, seed: u64) -> SimDisk {
    let disk = disk();
    let config = StoreConfig { mutant, ..StoreConfig::small() };
    let mut store = fresh(&disk, &config);
    store.sync_now().unwrap();
    store.append(pg(0), &[write(LogPosition::ZERO, 1, chunk(1, K), 0, 4, 10)]).unwrap();
    let job = store.begin_sync().unwrap();
    drop(store);
    drop(job);
    disk.power_cycle(PowerLoss::Random { seed });
    disk
}

/// old-lap
#[test]
fn records_of_a_recycled_segment_are_not_replayed() {
    let run = |mutant| {
        let disk = disk();
        let config = StoreConfig { mutant, retained_segments: 0, ..StoreConfig::small() };
        let mut store = fresh(&disk, &config);
        let mut end = LogPosition::ZERO;
        // Records of equal length, more than once around the ring, so that an old record begins where the log ends.
        for round in 0..200u64 {
            let next = write(end, 1, chunk(1, K), 0, 1, round * 100);
            store.append(pg(0), std::slice::from_ref(&next)).unwrap();
            end = next.header.position;
            if round % 20 == 19 {
                store.set_committed(pg(0), end).unwrap();
                store.checkpoint_now().unwrap();
            }
        }
        drop(store);
        disk.power_cycle(PowerLoss::KeepAll);
        match Store::open(disk, expected(), config) {
            Ok((store, _)) => store.log_end(pg(0)).unwrap() == end,
            Err(_) => false,
        }
    };
    assert!(run(None));
    assert!(!run(Some(Mutant::IgnoreLap)));
}

/// fsync-then-fine
#[test]
fn a_failed_sync_ends_the_disk_for_good_also_after_a_restart() {
    let run = |mutant| {
        let disk = disk();
        let config = StoreConfig { mutant, ..StoreConfig::small() };
        let mut store = fresh(&disk, &config);
        store.append(pg(0), &[write(LogPosition::ZERO, 1, chunk(1, K), 0, 1, 10)]).unwrap();
        disk.fail_syncs(1);
        let failed = store.sync_now();
        let refused = store.append(pg(0), &[write(at(1, 1), 1, chunk(1, K), 0, 1, 20)]).is_err();
        let later = store.sync_now();
        drop(store);
        disk.power_cycle(PowerLoss::KeepAll);
        let reopened = Store::open(disk, expected(), config);
        failed.is_err() && refused && later.is_err() && matches!(reopened, Err(StoreError::MarkedFailed { .. }))
    };
    assert!(run(None));
    assert!(!run(Some(Mutant::RetryFsync)));
    assert!(!run(Some(Mutant::ForgetFailure)));
}

/// cut-tail-dedupe
#[test]
fn cutting_a_tail_takes_back_its_dedupe_records_also_after_a_crash() {
    assert_eq!(records_after_a_cut(None), [crate::Lookup::New; 2]);
    let again = crate::Lookup::Answered(at(1, 2));
    assert_eq!(records_after_a_cut(Some(Mutant::KeepCutRecords)), [again; 2]);
}

/// Of the operation that was cut: at once, and after a loss of power.
fn records_after_a_cut(mutant: Option<Mutant>) -> [crate::Lookup; 2] {
    let disk = disk();
    let config = StoreConfig { mutant, ..StoreConfig::small() };
    let mut store = fresh(&disk, &config);
    let origin = |operation| {
        Some(Origin { session: SessionId(4), operation: OperationId(operation), low_water: OperationId(8) })
    };
    let mut first = write(LogPosition::ZERO, 1, chunk(1, K), 0, 1, 10);
    first.header.origin = origin(8);
    let mut second = write(at(1, 1), 1, chunk(1, K), 0, 1, 20);
    second.header.origin = origin(9);
    store.append(pg(0), &[first, second]).unwrap();
    let lookup = |store: &Store<SimDisk>, op| store.dedupe(pg(0)).unwrap().lookup(SessionId(4), OperationId(op));
    assert_eq!(lookup(&store, 9), crate::Lookup::Answered(at(1, 2)));
    store.cut_tail(pg(0), at(1, 1)).unwrap();
    let at_once = lookup(&store, 9);
    store.sync_now().unwrap();
    drop(store);
    disk.power_cycle(PowerLoss::LoseAll);
    let store = reopen(&disk, &config);
    assert_eq!(lookup(&store, 8), crate::Lookup::Answered(at(1, 1)));
    assert_eq!(lookup(&store, 7), crate::Lookup::BelowLowWater(OperationId(8)));
    assert_eq!(first_block(&store), block_bytes(10));
    [at_once, lookup(&store, 9)]
}

/// size-trimmed, size-of-old-generation
#[test]
fn the_end_of_writes_outlives_the_journal_and_follows_truncations() {
    assert_eq!(ends(None), [Some((2, 4 * BLOCK_SIZE as u32)), Some((2, BLOCK_SIZE as u32 + 100))]);
    assert_eq!(ends(Some(Mutant::ForgetEnds))[0], None);
}

/// After a checkpoint and a loss of power, and after a cut with a late write.
fn ends(mutant: Option<Mutant>) -> [Option<(u32, u32)>; 2] {
    let disk = disk();
    let config = StoreConfig { mutant, ..StoreConfig::small() };
    let end = |store: &Store<SimDisk>| store.object_end(pg(0), ObjectId(1)).map(|end| (end.chunk.0, end.end_bytes));
    let mut store = fresh(&disk, &config);
    store.append(pg(0), &[write(LogPosition::ZERO, 1, chunk(1, 2), 3, 1, 10)]).unwrap();
    store.set_committed(pg(0), at(1, 1)).unwrap();
    store.checkpoint_now().unwrap();
    drop(store);
    disk.power_cycle(PowerLoss::LoseAll);
    let mut store = reopen(&disk, &config);
    let checkpointed = end(&store);
    let truncate = Effect::Truncate {
        object: ObjectId(1),
        keep_blocks: 34,
        size_bytes: 33 * BLOCK_SIZE as u64 + 100,
        generation: TruncateGeneration(1),
    };
    store.append(pg(0), &[entry(at(1, 1), 1, truncate, vec![])]).unwrap();
    if mutant.is_none() {
        let end = store.object_end(pg(0), ObjectId(1)).unwrap();
        assert_eq!((end.end_bytes, end.generation), (BLOCK_SIZE as u32 + 100, TruncateGeneration(1)));
    }
    // A write that was overtaken by the truncation says nothing about the end.
    store.append(pg(0), &[write(at(1, 2), 1, chunk(1, 2), 9, 1, 20)]).unwrap();
    [checkpointed, end(&store)]
}

/// one-sided-delta
#[test]
fn a_delta_names_chunks_that_were_removed() {
    let disk = disk();
    let config = StoreConfig::small();
    let mut store = fresh(&disk, &config);
    let p = pg(0);
    store.append(p, &[write(LogPosition::ZERO, 1, chunk(1, 0), 0, 1, 10)]).unwrap();
    store.append(p, &[write(at(1, 1), 1, chunk(2, 0), 0, 1, 20)]).unwrap();
    store.append(p, &[entry(at(1, 2), 1, Effect::DeleteObject { object: ObjectId(1) }, vec![])]).unwrap();
    store.append(p, &[write(at(1, 3), 1, chunk(2, 1), 0, 1, 30)]).unwrap();
    store.set_committed(p, at(1, 4)).unwrap();
    store.checkpoint_now().unwrap();
    drop(store);
    disk.power_cycle(PowerLoss::LoseAll);
    let store = reopen(&disk, &config);
    let changes = store.chunks_changed_since(p, at(1, 2)).unwrap();
    assert_eq!(changes.chunks, vec![chunk(2, 1)]);
    assert!(changes.removed.iter().any(|r| r.contains(chunk(1, 0))));
    assert_eq!(changes.coverage, crate::Coverage::Complete);
    assert_eq!(store.chunks(p).unwrap(), vec![chunk(2, 0), chunk(2, 1)]);
}

#[test]
fn a_log_that_was_reset_goes_on_at_its_new_position_after_a_crash() {
    let disk = disk();
    let config = StoreConfig::small();
    let mut store = fresh(&disk, &config);
    store.append(pg(0), &[write(LogPosition::ZERO, 1, chunk(1, K), 0, 1, 10)]).unwrap();
    let state = ReplicaState {
        promised: Epoch(5),
        complete_to: at(1, 1),
        completeness: Completeness::Partial,
        ..ReplicaState::default()
    };
    store.save_replica_state(pg(0), &state).unwrap();
    store.reset_log(pg(0), at(5, 100), vec![at(1, 40), at(5, 100)]).unwrap();
    store.append(pg(0), &[write(at(5, 100), 5, chunk(1, K), 1, 1, 20)]).unwrap();
    store.sync_now().unwrap();
    drop(store);
    disk.power_cycle(PowerLoss::LoseAll);
    let mut store = reopen(&disk, &config);
    assert_eq!(store.replica_state(pg(0)), Some(&state));
    assert_eq!(store.log_start(pg(0)).unwrap(), at(5, 100));
    assert_eq!(store.log_end(pg(0)).unwrap(), at(5, 101));
    assert_eq!(store.history(pg(0)).unwrap(), &[at(1, 40), at(5, 101)]);
    assert!(store.contains(pg(0), at(1, 40)).unwrap() && !store.contains(pg(0), at(1, 41)).unwrap());
    assert_eq!(store.entries_after(pg(0), at(5, 100), 10, 1 << 20).unwrap().len(), 1);
    store.checkpoint_now().unwrap();
    assert_eq!(first_block(&store), block_bytes(10));
    let error = store.entries_after(pg(0), at(1, 1), 10, 1 << 20).err().unwrap();
    assert!(matches!(error, StoreError::Trimmed { .. }));
}

/// Simulator, story `log-not-reached`: a member that a resync had brought in led, and kept from the next one that a chunk was cut
/// which the one still had and the other never.
#[test]
fn a_complete_copy_does_not_know_what_went_before_it_was_complete() {
    let forgotten = crate::Coverage::RemovalsForgotten;
    assert_eq!(coverage_of_a_copy(None), [[forgotten; 3]; 3]);
    assert_eq!(coverage_of_a_copy(Some(Mutant::CopyKnowsAll)), [[crate::Coverage::Complete; 3]; 3]);
}

/// What it knows of positions before: at once, after a crash, after a checkpoint.
fn coverage_of_a_copy(mutant: Option<Mutant>) -> [[crate::Coverage; 3]; 3] {
    let disk = disk();
    let config = StoreConfig { mutant, ..StoreConfig::small() };
    let mut store = fresh(&disk, &config);
    let p = pg(0);
    store.append(p, &[write(LogPosition::ZERO, 1, chunk(1, K), 0, 1, 10)]).unwrap();
    let state = |completeness| ReplicaState { complete_to: at(1, 1), completeness, ..ReplicaState::default() };
    store.save_replica_state(p, &state(Completeness::Partial)).unwrap();
    store.reset_log(p, at(1, 100), vec![at(1, 100)]).unwrap();
    store.append(p, &[write(at(1, 100), 1, chunk(1, K), 1, 1, 20)]).unwrap();
    let coverage = |store: &Store<SimDisk>, sequence| store.chunks_changed_since(p, at(1, sequence)).unwrap().coverage;
    // While it is copied to, it says what it has changed itself.
    assert_eq!(coverage(&store, 1), crate::Coverage::Complete);
    store.save_replica_state(p, &state(Completeness::Complete)).unwrap();
    let before = |store: &Store<SimDisk>| {
        assert_eq!(coverage(store, 101), crate::Coverage::Complete);
        [coverage(store, 1), coverage(store, 99), coverage(store, 100)]
    };
    let at_once = before(&store);
    store.sync_now().unwrap();
    drop(store);
    disk.power_cycle(PowerLoss::LoseAll);
    let mut store = reopen(&disk, &config);
    let after_a_crash = before(&store);
    store.set_committed(p, at(1, 101)).unwrap();
    store.checkpoint_now().unwrap();
    drop(store);
    disk.power_cycle(PowerLoss::LoseAll);
    [at_once, after_a_crash, before(&reopen(&disk, &config))]
}

/// What a log held before it was reset is not applied yet, and its sequence numbers come again.
#[test]
fn what_a_log_held_before_it_was_reset_survives_a_crash() {
    assert!(reset_to_a_smaller_sequence(None));
    assert!(!reset_to_a_smaller_sequence(Some(Mutant::SequenceAlone)));
}

fn reset_to_a_smaller_sequence(mutant: Option<Mutant>) -> bool {
    let disk = disk();
    let config = StoreConfig { mutant, ..StoreConfig::small() };
    let mut store = fresh(&disk, &config);
    for (sequence, tag) in [(0, 10), (1, 20), (2, 30)] {
        let end = if sequence == 0 { LogPosition::ZERO } else { at(1, sequence) };
        store.append(pg(0), &[write(end, 1, chunk(1, K), 0, 1, tag)]).unwrap();
    }
    store.reset_log(pg(0), at(2, 1), vec![at(1, 1), at(2, 1)]).unwrap();
    for sequence in 1..3 {
        store.append(pg(0), &[write(at(2, sequence), 2, chunk(1, K), 5, 1, 40)]).unwrap();
    }
    store.sync_now().unwrap();
    assert_eq!(first_block(&store), block_bytes(30));
    drop(store);
    disk.power_cycle(PowerLoss::LoseAll);
    first_block(&reopen(&disk, &config)) == block_bytes(30)
}

#[test]
fn a_checkpoint_of_what_a_log_held_before_it_was_reset_hides_nothing_that_came_after() {
    let (disk, config) = (disk(), StoreConfig::small());
    let mut store = fresh(&disk, &config);
    for (sequence, tag) in [(0, 10), (1, 20), (2, 30)] {
        let end = if sequence == 0 { LogPosition::ZERO } else { at(1, sequence) };
        store.append(pg(0), &[write(end, 1, chunk(1, K), 0, 1, tag)]).unwrap();
    }
    store.set_committed(pg(0), at(1, 3)).unwrap();
    store.sync_now().unwrap();
    let job = store.begin_checkpoint().unwrap().unwrap();
    store.reset_log(pg(0), at(2, 1), vec![at(1, 1), at(2, 1)]).unwrap();
    store.append(pg(0), &[write(at(2, 1), 2, chunk(1, K), 0, 1, 40)]).unwrap();
    store.finish_checkpoint(job.run()).unwrap();
    assert_eq!(first_block(&store), block_bytes(40));
}

#[test]
fn one_group_that_cannot_commit_does_not_stop_the_others() {
    let disk = disk();
    let config = StoreConfig::small();
    let mut store = fresh(&disk, &config);
    store.append(pg(1), &[write(LogPosition::ZERO, 1, chunk(9, 0), 0, 4, 77)]).unwrap();
    let mut end = LogPosition::ZERO;
    for round in 0..600u64 {
        let next = write(end, 1, chunk(1, K), (round % 16) as u16, 1, round);
        store.append(pg(0), std::slice::from_ref(&next)).unwrap();
        end = next.header.position;
        if round % 20 == 0 {
            store.set_committed(pg(0), end).unwrap();
            store.sync_now().unwrap();
            store.checkpoint_now().unwrap();
        }
    }
    let check = |store: &Store<SimDisk>| {
        let (bytes, bad) = store.read_now(pg(1), chunk(9, 0), BlockRange::new(BlockIndex(3), 1)).unwrap();
        assert_eq!((bytes.to_vec(), bad), (block_bytes(80), vec![]));
        assert_eq!(store.entries_after(pg(1), LogPosition::ZERO, 9, 1 << 20).unwrap().len(), 1);
    };
    check(&store);
    store.sync_now().unwrap();
    drop(store);
    disk.power_cycle(PowerLoss::LoseAll);
    let mut store = reopen(&disk, &config);
    check(&store);
    store.cut_tail(pg(1), LogPosition::ZERO).unwrap();
    assert_eq!(store.chunks(pg(1)).unwrap(), vec![]);
}

#[test]
fn inspection_describes_disk_journal_and_chunk_without_opening_the_store() {
    let disk = disk();
    let mut store = fresh(&disk, &StoreConfig::small());
    store.append(pg(0), &[write(LogPosition::ZERO, 1, chunk(1, K), 0, 2, 10)]).unwrap();
    store.set_committed(pg(0), at(1, 1)).unwrap();
    store.checkpoint_now().unwrap();
    let described = crate::inspect::describe_disk(&disk).unwrap();
    assert_eq!((described.openings, described.groups.len()), (1, 2));
    let journal = crate::inspect::describe_journal(&disk, 100).unwrap();
    assert!(journal.corruption.is_none());
    let entries: Vec<_> = journal.records.iter().filter_map(|r| r.entry.as_ref().map(|e| e.position)).collect();
    assert_eq!(entries, vec![at(1, 1)]);
    assert_eq!(crate::inspect::describe_journal(&disk, 2).unwrap().records.len(), 2);
    let describe = |chunk| crate::inspect::ChunkFiles::of(&disk).unwrap().describe(pg(0), chunk).unwrap();
    let file = describe(chunk(1, K)).unwrap();
    assert!(disk.flip(&file.path, 5, 1));
    let file = describe(chunk(1, K)).unwrap();
    let trailer = file.trailer.unwrap();
    assert_eq!((trailer.present_blocks, trailer.bad_blocks), (2, vec![BlockIndex(0)]));
    assert!(describe(chunk(5, K)).is_none());
}
