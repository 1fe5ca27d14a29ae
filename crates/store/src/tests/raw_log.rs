//! Raft's log under crashes.

use crate::disk::Disk;
use crate::fault::{PowerLoss, Random, SimDisk};
use crate::raw_log::RawLog;
use crate::{RealDisk, StoreError};
use std::collections::BTreeMap;

const SEGMENT: u64 = 4096;

fn open(disk: &SimDisk) -> RawLog<SimDisk> {
    RawLog::open_with(disk.clone(), "raft", SEGMENT).unwrap()
}

#[test]
fn what_was_synced_is_there_after_power_loss_and_what_was_truncated_is_not() {
    let disk = SimDisk::new(16 << 20);
    let mut log = open(&disk);
    log.append(&[(1, b"one"), (2, b"two"), (3, b"six")]).unwrap();
    log.put_meta("vote", b"7").unwrap();
    log.sync().unwrap();
    log.truncate_from(3).unwrap();
    log.append(&[(3, b"three")]).unwrap();
    log.sync().unwrap();
    log.append(&[(4, b"unsynced")]).unwrap();
    drop(log);
    disk.power_cycle(PowerLoss::LoseAll);
    let log = open(&disk);
    let expected: Vec<(u64, Vec<u8>)> = vec![(1, b"one".into()), (2, b"two".into()), (3, b"three".into())];
    assert_eq!(log.read(0..10).unwrap(), expected);
    assert_eq!(log.meta("vote"), Some(&b"7"[..]));
}

#[test]
fn indexes_have_to_be_contiguous() {
    let disk = SimDisk::new(16 << 20);
    let mut log = open(&disk);
    log.append(&[(5, b"a")]).unwrap();
    assert!(matches!(log.append(&[(7, b"b")]), Err(StoreError::RawLog { .. })));
    log.purge_to(9).unwrap();
    assert!(log.append(&[(6, b"b")]).is_err());
    log.append(&[(10, b"c")]).unwrap();
    assert_eq!((log.first_index(), log.last_index(), log.purged_to()), (Some(10), Some(10), Some(9)));
}

#[test]
fn a_failed_sync_poisons_the_log_for_good() {
    let disk = SimDisk::new(16 << 20);
    let mut log = open(&disk);
    log.append(&[(1, b"a")]).unwrap();
    disk.fail_syncs(1);
    assert!(matches!(log.sync(), Err(StoreError::Poisoned { .. })));
    assert!(matches!(log.sync(), Err(StoreError::Poisoned { .. })));
    assert!(matches!(log.append(&[(2, b"b")]), Err(StoreError::Poisoned { .. })));
    drop(log);
    assert!(matches!(RawLog::open(disk, "raft"), Err(StoreError::MarkedFailed { .. })));
}

#[test]
fn damage_to_a_synced_record_is_reported_and_not_cut_away() {
    let disk = SimDisk::new(16 << 20);
    let mut log = open(&disk);
    log.append(&[(1, b"a"), (2, b"b")]).unwrap();
    log.sync().unwrap();
    drop(log);
    assert!(disk.flip("raft/0000000000000001.log", 64 + 50, 1));
    let error = RawLog::open_with(disk, "raft", SEGMENT).err().unwrap();
    assert!(matches!(error, StoreError::JournalCorrupt { .. }), "{error}");
}

#[test]
fn purged_files_are_removed() {
    let disk = SimDisk::new(16 << 20);
    let mut log = open(&disk);
    for index in 1..200u64 {
        log.append(&[(index, vec![index as u8; 300])]).unwrap();
    }
    let before = disk.files().len();
    log.purge_to(190).unwrap();
    assert!(disk.files().len() < before / 4);
    drop(log);
    let log = open(&disk);
    assert_eq!((log.first_index(), log.last_index(), log.purged_to()), (Some(191), Some(199), Some(190)));
}

#[derive(Clone, Default, PartialEq, Debug)]
pub(super) struct Model {
    entries: BTreeMap<u64, Vec<u8>>,
    purged: Option<u64>,
    vote: Option<Vec<u8>>,
}

pub(super) fn state<D: Disk>(log: &RawLog<D>) -> Model {
    let entries = log.read(0..u64::MAX).unwrap().into_iter().collect();
    Model { entries, purged: log.purged_to(), vote: log.meta("vote").map(<[u8]>::to_vec) }
}

/// One random operation. `past` has the states that a crash may leave, oldest first.
pub(super) fn change<D: Disk>(
    log: &mut RawLog<D>,
    random: &mut Random,
    past: &mut Vec<Model>,
) -> Result<(), StoreError> {
    let mut model = past.last().unwrap().clone();
    let next = model.entries.keys().last().copied().or(model.purged).unwrap_or(0) + 1;
    match random.below(10) {
        0..6 => {
            let records: Vec<_> = (next..=next + random.below(3)).map(|i| (i, random_bytes(random))).collect();
            for (index, bytes) in &records {
                model.entries.insert(*index, bytes.clone());
                past.push(model.clone());
            }
            log.append(&records)
        }
        6 => {
            let from = next.saturating_sub(random.below(5)).max(model.purged.unwrap_or(0) + 1);
            model.entries.split_off(&from);
            past.push(model);
            log.truncate_from(from)
        }
        7 => {
            let to = next.saturating_sub(1 + random.below(6)).max(1);
            if model.purged.is_none_or(|p| p < to) {
                model.purged = Some(to);
                model.entries = model.entries.split_off(&(to + 1));
            }
            past.push(model);
            log.purge_to(to)
        }
        8 => {
            let vote = random_bytes(random);
            model.vote = Some(vote.clone());
            past.push(model);
            log.put_meta("vote", &vote)
        }
        _ => {
            let last = past.len() - 1;
            log.sync()?;
            past.drain(..last);
            Ok(())
        }
    }
}

fn random_bytes(random: &mut Random) -> Vec<u8> {
    let length = random.below(700);
    (0..length).map(|_| random.next_u64() as u8).collect()
}

#[test]
fn after_any_crash_the_log_is_in_a_state_that_may_have_survived() {
    for seed in 0..300 {
        let disk = SimDisk::new(64 << 20);
        let mut random = Random::new(seed);
        let mut past = vec![Model::default()];
        for _ in 0..4 {
            let mut log = open(&disk);
            if random.chance(50) {
                disk.power_off_after(1 + random.below(60));
            }
            for _ in 0..random.below(60) {
                if let Err(error) = change(&mut log, &mut random, &mut past) {
                    assert!(disk.is_off(), "seed {seed}: {error}");
                    break;
                }
            }
            drop(log);
            disk.power_cycle(PowerLoss::Random { seed: random.next_u64() });
            let survived = state(&open(&disk));
            let found = past.iter().rposition(|m| *m == survived);
            let found = found.unwrap_or_else(|| panic!("seed {seed}: in no state that may have survived"));
            past = vec![past.swap_remove(found)];
        }
    }
}

#[test]
fn it_works_on_a_real_filesystem() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(dir.path()).unwrap();
    let mut log = RawLog::open(disk.clone(), "raft").unwrap();
    log.append(&[(1, vec![1; 5000]), (2, vec![2; 100])]).unwrap();
    log.sync().unwrap();
    drop(log);
    let log = RawLog::open(disk, "raft").unwrap();
    assert_eq!(log.read(2..3).unwrap(), vec![(2, vec![2; 100])]);
}
