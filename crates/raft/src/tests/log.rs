//! The log on a disk that loses power and fails, by `weft_store::fault`.

use super::{CLUSTER, NODE, entry, log_id, note};
use crate::error::OpenError;
use crate::log::{DurableSnapshot, LogFile, LogIdentity, RaftLog};
use crate::types::Vote;
use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use weft_store::StoreError;
use weft_store::fault::{PowerLoss, SimDisk};

const DIRECTORY: &str = "log";

fn open(disk: &SimDisk) -> Result<RaftLog, OpenError> {
    LogFile::open(disk.clone(), DIRECTORY)?.start(DurableSnapshot::default())
}

fn new_log(disk: &SimDisk) -> RaftLog {
    let mut file = LogFile::open(disk.clone(), DIRECTORY).unwrap();
    file.write_identity(LogIdentity { cluster: CLUSTER, node: NODE }).unwrap();
    file.start(DurableSnapshot::default()).unwrap()
}

/// What Raft was told is durable.
#[derive(Default)]
struct Promised {
    last: Option<u64>,
    vote: Option<Vote>,
}

/// Appends and votes until the power goes.
async fn work(log: &mut RaftLog) -> Promised {
    let mut promised = Promised::default();
    for index in 0..40 {
        if log.blocking_append([entry(index, note(&format!("note {index}")))]).await.is_err() {
            break;
        }
        promised.last = Some(index);
        if index % 5 == 0 {
            let vote = Vote::new(index + 1, NODE.0);
            if log.save_vote(&vote).await.is_err() {
                break;
            }
            promised.vote = Some(vote);
        }
    }
    promised
}

#[tokio::test(flavor = "multi_thread")]
async fn what_raft_was_told_is_flushed_survives_a_power_cut_after_any_write() {
    for loss in [PowerLoss::LoseAll, PowerLoss::Random { seed: 7 }] {
        for cut_after in (1..90).step_by(4) {
            let disk = SimDisk::new(1 << 30);
            let mut log = new_log(&disk);
            disk.power_off_after(cut_after);
            let promised = work(&mut log).await;
            drop(log);
            disk.power_cycle(loss);
            let mut log = open(&disk).unwrap();
            let last = log.get_log_state().await.unwrap().last_log_id.map(|id| id.index);
            assert!(last >= promised.last, "cut after {cut_after}: {last:?}, promised {:?}", promised.last);
            let found = log.try_get_log_entries(0..).await.unwrap();
            assert_eq!(found.len() as u64, last.map_or(0, |last| last + 1), "cut after {cut_after}: holes");
            let vote = log.read_vote().await.unwrap();
            let term = |vote: Option<Vote>| vote.map(|vote| vote.leader_id().term);
            assert!(term(vote) >= term(promised.vote), "cut after {cut_after}: a vote was forgotten");
            // And it goes on.
            let next = last.map_or(0, |last| last + 1);
            log.blocking_append([entry(next, note("on"))]).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_fsync_nothing_is_accepted_any_more_not_even_by_the_next_process() {
    let disk = SimDisk::new(1 << 30);
    let mut log = new_log(&disk);
    log.blocking_append([entry(0, note("good"))]).await.unwrap();
    disk.fail_syncs(1);
    assert!(log.blocking_append([entry(1, note("lost"))]).await.is_err());
    // The disk syncs again; what it dropped is still gone (attack fsync-then-fine).
    assert!(log.blocking_append([entry(2, note("later"))]).await.is_err());
    assert!(log.save_vote(&Vote::new(9, NODE.0)).await.is_err());
    drop(log);
    let again = open(&disk).err().unwrap();
    assert!(matches!(again, OpenError::Store(StoreError::MarkedFailed { .. })), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_older_than_what_is_kept_in_memory_are_read_from_the_disk() {
    let disk = SimDisk::new(1 << 30);
    let mut log = new_log(&disk);
    let large = "x".repeat(64 << 10);
    for index in 0..200 {
        log.blocking_append([entry(index, note(&format!("{index} {large}")))]).await.unwrap();
    }
    let first = log.try_get_log_entries(0..3).await.unwrap();
    assert_eq!(first.iter().map(|entry| entry.log_id).collect::<Vec<_>>(), [log_id(0), log_id(1), log_id(2)]);
    // A message stays small, and never is empty.
    let limited = log.limited_get_log_entries(0, 200).await.unwrap();
    assert!((1..30).contains(&limited.len()), "{}", limited.len());
    let limited = log.limited_get_log_entries(190, 200).await.unwrap();
    assert_eq!(limited.first().map(|entry| entry.log_id), Some(log_id(190)));
}
