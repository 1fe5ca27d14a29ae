//! Locks of several sessions against a cluster in memory: the real metadata state machine, one shell for each session.

use bytes::Bytes;
use std::time::Duration;
use weft_client::fake::FakeCluster;
use weft_client::mutants::{Mutant, plant};
use weft_client::{
    Access, Client, ConnectOptions, Durability, FileHandle, LockOutcome, LockRequest, OpenContents, block_on,
};
use weft_proto::admin::LockState;
use weft_proto::namespace::{Credentials, LockWait};
use weft_types::{ChunkSize, ErrorKind, InodeNumber, LockKind, LockOwner, LockRange};

const ROOT: InodeNumber = InodeNumber::ROOT;
const WHOLE: LockRange = LockRange::WHOLE_FILE;
const PATIENCE: Duration = Duration::from_secs(20);

fn cluster() -> FakeCluster {
    FakeCluster::new("vms", ChunkSize::new(64 << 10).unwrap(), 8)
}

async fn connect(cluster: &FakeCluster) -> Client {
    let options = ConnectOptions::new("/unused");
    Client::connect_over(cluster.network(), cluster.control_addresses(), &options, "vms", "/mnt").await.unwrap()
}

/// One file, opened by two sessions.
async fn two(cluster: &FakeCluster) -> (Client, FileHandle, Client, FileHandle) {
    let (first, second) = (connect(cluster).await, connect(cluster).await);
    let wish = first.create_file(ROOT, b"f", 0o644, Credentials::default(), Access::Write);
    let (record, here) = wish.await.unwrap();
    let there = second.open(record.attributes.inode, Access::Write, OpenContents::Keep).await.unwrap();
    (first, here, second, there)
}

fn request(owner: u64, wait: LockWait) -> LockRequest {
    LockRequest { owner: LockOwner(owner), range: WHOLE, kind: LockKind::Exclusive, process_id: 1, wait }
}

async fn try_lock(file: &FileHandle, owner: u64) -> LockOutcome {
    file.lock(request(owner, LockWait::No), std::future::pending()).await.unwrap()
}

/// A wait in a task of its own; dropping the sender interrupts it.
fn waiting(
    file: &FileHandle,
    owner: u64,
) -> (tokio::sync::oneshot::Sender<()>, tokio::task::JoinHandle<Result<LockOutcome, ErrorKind>>) {
    let (interrupt, interrupted) = tokio::sync::oneshot::channel::<()>();
    let file = file.clone();
    let task = tokio::task::spawn_local(async move {
        file.lock(request(owner, LockWait::Yes), async move { drop(interrupted.await) }).await
    });
    (interrupt, task)
}

fn count(cluster: &FakeCluster, state: LockState) -> usize {
    cluster.locks().iter().filter(|lock| lock.state == state).count()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain until {what}");
}

#[test]
fn a_waiting_session_gets_the_lock_when_the_other_frees_it_and_asks_rarely() {
    let cluster = cluster();
    block_on(async {
        let (_first, here, _second, there) = two(&cluster).await;
        assert_eq!(try_lock(&here, 1).await, LockOutcome::Locked);
        assert_eq!(try_lock(&there, 1).await, LockOutcome::Conflict, "owner numbers of two hosts are confused");
        let (_interrupt, wait) = waiting(&there, 1);
        until("it waits", || count(&cluster, LockState::Waiting) == 1).await;
        here.unlock(LockOwner(1), WHOLE).await.unwrap();
        let outcome = tokio::time::timeout(PATIENCE, wait).await.unwrap().unwrap().unwrap();
        assert_eq!(outcome, LockOutcome::Locked);
        let holder = here.lock_conflict(LockOwner(1), WHOLE, LockKind::Shared).await.unwrap().unwrap();
        assert!(!here.is_of_this_host(&holder) && there.is_of_this_host(&holder));
    })
    .unwrap();
}

#[test]
fn a_wait_survives_a_leader_that_vanishes_and_lost_answers_lock_once() {
    let cluster = cluster();
    block_on(async {
        let (_first, here, _second, there) = two(&cluster).await;
        cluster.set_faults(|faults| faults.lose_mutation_answers = 2);
        assert_eq!(try_lock(&here, 1).await, LockOutcome::Locked);
        assert_eq!(count(&cluster, LockState::Held), 1);
        let (_interrupt, wait) = waiting(&there, 9);
        until("it waits", || count(&cluster, LockState::Waiting) == 1).await;
        cluster.cut_off(1);
        cluster.declare_dead(1);
        here.unlock(LockOwner(1), WHOLE).await.unwrap();
        let outcome = tokio::time::timeout(PATIENCE, wait).await.unwrap().unwrap().unwrap();
        assert_eq!(outcome, LockOutcome::Locked);
    })
    .unwrap();
}

/// True when the lock that was waited for in vain is not left in the queue.
fn gives_up_cleanly() -> bool {
    let cluster = cluster();
    block_on(async {
        let (_first, here, _second, there) = two(&cluster).await;
        assert_eq!(try_lock(&here, 1).await, LockOutcome::Locked);
        let (interrupt, wait) = waiting(&there, 9);
        until("it waits", || count(&cluster, LockState::Waiting) == 1).await;
        drop(interrupt);
        let outcome = tokio::time::timeout(PATIENCE, wait).await.unwrap().unwrap().unwrap();
        assert_eq!(outcome, LockOutcome::Interrupted);
        here.unlock(LockOwner(1), WHOLE).await.unwrap();
        cluster.locks().is_empty()
    })
    .unwrap()
}

#[test]
fn an_interrupted_wait_holds_nothing() {
    assert!(gives_up_cleanly());
    plant(Some(Mutant::ForgetToCancel));
    let clean = gives_up_cleanly();
    plant(None);
    assert!(!clean, "the planted bug goes unnoticed");
}

/// Locks that are left when a process closed one descriptor of a file that stays open, and then when all is closed.
fn left_after_close() -> (usize, usize, usize) {
    let cluster = cluster();
    block_on(async {
        let (first, here, _second, _there) = two(&cluster).await;
        let again = first.open(here.inode(), Access::Read, OpenContents::Keep).await.unwrap();
        // Owner 1 is a process, owner 2 the description `again`.
        let range = |at| LockRange::new(at, at).unwrap();
        let lock = |owner, at| LockRequest { range: range(at), ..request(owner, LockWait::No) };
        here.lock(lock(1, 10), std::future::pending()).await.unwrap();
        again.lock(lock(2, 20), std::future::pending()).await.unwrap();
        let before = count(&cluster, LockState::Held);
        again.descriptor_closed(LockOwner(1)).await.unwrap();
        let process_gone = count(&cluster, LockState::Held);
        again.close().await.unwrap();
        let description_gone = count(&cluster, LockState::Held);
        here.close().await.unwrap();
        assert!(cluster.locks().is_empty(), "a closed file is locked");
        (before, process_gone, description_gone)
    })
    .unwrap()
}

#[test]
fn a_close_frees_what_belongs_to_the_process_and_the_last_close_what_belongs_to_the_description() {
    assert_eq!(left_after_close(), (2, 1, 0));
    plant(Some(Mutant::CloseKeepsLocks));
    let left = left_after_close();
    plant(None);
    assert_ne!(left, (2, 1, 0), "the planted bug goes unnoticed");
}

/// Design 4.5: a write that is on its way lands before somebody else can lock. What the next holder finds.
fn next_holder_reads() -> (u8, u64) {
    let cluster = cluster();
    block_on(async {
        let (_first, here, second, there) = two(&cluster).await;
        assert_eq!(try_lock(&here, 1).await, LockOutcome::Locked);
        here.write(0, Bytes::from(vec![1; 4096]), Durability::Volume).await.unwrap();
        here.write(4096, Bytes::from(vec![1; 4096]), Durability::Volume).await.unwrap();
        // Data are slow from here on; control requests are not.
        cluster.set_faults(|faults| faults.latency = Duration::from_millis(300));
        let writer = here.clone();
        let write =
            tokio::task::spawn_local(
                async move { writer.write(0, Bytes::from(vec![2; 4096]), Durability::Volume).await },
            );
        tokio::task::yield_now().await;
        here.unlock(LockOwner(1), WHOLE).await.unwrap();
        cluster.set_faults(|faults| faults.latency = Duration::ZERO);
        assert_eq!(try_lock(&there, 1).await, LockOutcome::Locked);
        let found = there.read(0, 1).await.unwrap().first().copied().unwrap_or(0);
        let size = second.attributes(there.inode()).await.unwrap().size_bytes;
        write.await.unwrap().unwrap();
        (found, size)
    })
    .unwrap()
}

#[test]
fn an_unlock_waits_for_earlier_writes_and_tells_their_size() {
    assert_eq!(next_holder_reads(), (2, 8192));
    plant(Some(Mutant::UnlockOvertakesWrites));
    let overtaken = next_holder_reads();
    plant(None);
    assert_eq!(overtaken.0, 1, "an unlock that overtakes writes goes unnoticed");
}

/// How a process lets go of what it has locked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LetsGo {
    Unlocks,
    Dies,
    ClosesLast,
    Unmounts,
}

/// Attack unlock-overtake: a write waits for a placement group that is peering, its process lets go, the next holder writes,
/// and the write is sent again. What the next holder finds in the end of what it wrote.
fn what_stays(how: LetsGo) -> u8 {
    let cluster = cluster();
    block_on(async {
        let (first, here, _second, there) = two(&cluster).await;
        here.write(0, Bytes::from(vec![9; 4096]), Durability::Volume).await.unwrap();
        // With a last close the lock goes that is the description's, with the others that of a process.
        assert_eq!(try_lock(&here, 1).await, LockOutcome::Locked);
        let (_interrupt, next) = waiting(&there, 9);
        until("it waits", || count(&cluster, LockState::Waiting) == 1).await;
        // Pauses grow from attempt to attempt: long enough for the next holder to come and go.
        cluster.set_faults(|faults| faults.refuse = 5);
        let writer = here.clone();
        let data = Bytes::from(vec![1; 4096]);
        let write = tokio::task::spawn_local(async move { writer.write(0, data, Durability::Volume).await });
        until("the group has refused it", || cluster.refusals_left() == 0).await;
        let letting_go = tokio::task::spawn_local(async move {
            match how {
                LetsGo::Unlocks => here.unlock(LockOwner(1), WHOLE).await.unwrap(),
                LetsGo::Dies => here.descriptor_closed(LockOwner(1)).await.unwrap(),
                LetsGo::ClosesLast => here.close().await.unwrap(),
                LetsGo::Unmounts => first.close().await.unwrap(),
            }
        });
        let outcome = tokio::time::timeout(PATIENCE, next).await.unwrap().unwrap().unwrap();
        assert_eq!(outcome, LockOutcome::Locked);
        there.write(0, Bytes::from(vec![2; 4096]), Durability::Volume).await.unwrap();
        letting_go.await.unwrap();
        // Of a session that is no more it may be refused.
        drop(write.await.unwrap());
        there.read(0, 1).await.unwrap().first().copied().unwrap_or(0)
    })
    .unwrap()
}

#[test]
fn attack_unlock_overtake() {
    for (how, mutant) in [
        (LetsGo::Unlocks, Mutant::UnlockOvertakesWrites),
        (LetsGo::Dies, Mutant::UnlockOvertakesWrites),
        (LetsGo::ClosesLast, Mutant::CloseOvertakesWrites),
    ] {
        assert_eq!(what_stays(how), 2, "{how:?}: a write lands after the next holder's");
        plant(Some(mutant));
        let stays = what_stays(how);
        plant(None);
        assert_eq!(stays, 1, "{how:?}: {mutant:?} goes unnoticed");
    }
    assert_eq!(what_stays(LetsGo::Unmounts), 2, "the end of a session: a write lands after the next holder's");
}

#[test]
fn a_fenced_session_fails_for_good_and_asks_for_nothing_more() {
    let cluster = cluster();
    block_on(async {
        let (first, here, _second, there) = two(&cluster).await;
        // Only this session knows how long the file is: once it is fenced, the placement groups have to tell.
        here.write(0, Bytes::from(vec![1; 4096]), Durability::Volume).await.unwrap();
        assert_eq!(try_lock(&here, 1).await, LockOutcome::Locked);
        let (_interrupt, wait) = waiting(&there, 9);
        until("it waits", || count(&cluster, LockState::Waiting) == 1).await;
        cluster.strike(first.session());
        assert_eq!(count(&cluster, LockState::Held), 1, "free before the fence is complete");
        cluster.complete_fence(first.session());
        let outcome = tokio::time::timeout(PATIENCE, wait).await.unwrap().unwrap().unwrap();
        assert_eq!(outcome, LockOutcome::Locked);
        assert_eq!(there.read(0, 8192).await.unwrap().len(), 4096);
        tokio::time::timeout(PATIENCE, first.until_fenced()).await.unwrap();
        let refused = here.lock(request(1, LockWait::Yes), std::future::pending()).await;
        assert_eq!(refused, Err(ErrorKind::Fenced));
        assert_eq!(here.write(0, Bytes::from(vec![1; 4096]), Durability::Volume).await, Err(ErrorKind::Fenced));
        assert_eq!(here.unlock(LockOwner(1), WHOLE).await, Err(ErrorKind::Fenced));
        // It once asked for the map in a loop.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let before = cluster.counts().map_requests;
        cluster.declare_dead(3);
        // Counted over rounds of the runtime: on a busy machine a pause lasts longer than it was asked to.
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let asked = cluster.counts().map_requests - before;
        // The other session's polls go on; each of them counts again while it is held.
        assert!(asked < 200, "{asked} map requests in half a second");
    })
    .unwrap();
}
