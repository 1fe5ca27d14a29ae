//! Quorum rounds: proof that this node leads now, shared by all who wait for one (design 3, 4.1).
//!
//! Guarantees: a caller is told yes only by a round that began after it asked. One round at a time, for all callers
//! that came before it began. Each renews the read lease. Must not know: what the callers do with it.

use crate::error::GroupError;
use crate::group::{SharedLease, boot_time, leader_of};
use crate::types::TypeConfig;
use openraft::error::{CheckIsLeaderError, RaftError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Callers of one round, and of the next.
const MAX_WAITING: usize = 4096;
/// A round is repeated for this long before its callers are told that there is no majority.
const ROUND_DEADLINE: Duration = Duration::from_millis(1500);
const ROUND_RETRY: Duration = Duration::from_millis(20);

type Answer = Result<(), GroupError>;

#[derive(Clone)]
pub(crate) struct Rounds {
    queue: mpsc::Sender<oneshot::Sender<Answer>>,
    taken: Arc<AtomicU64>,
}

impl Rounds {
    /// Starts the task; it ends when the last handle is dropped.
    pub(crate) fn start(raft: openraft::Raft<TypeConfig>, lease: SharedLease) -> Self {
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        let taken = Arc::default();
        tokio::spawn(run(raft, lease, waiting, Arc::clone(&taken)));
        Self { queue, taken }
    }

    /// Rounds that were begun; for tests and metrics.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    pub(crate) async fn wait(&self) -> Answer {
        let (reply, answer) = oneshot::channel();
        match self.queue.try_send(reply) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(GroupError::Overloaded),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(stopped()),
        }
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}

fn stopped() -> GroupError {
    GroupError::Stopped("the task of the quorum rounds has ended".to_owned())
}

async fn run(
    raft: openraft::Raft<TypeConfig>,
    lease: SharedLease,
    mut waiting: mpsc::Receiver<oneshot::Sender<Answer>>,
    taken: Arc<AtomicU64>,
) {
    while let Some(first) = waiting.recv().await {
        let mut callers = vec![first];
        while let Ok(next) = waiting.try_recv() {
            callers.push(next);
        }
        // From here on nobody joins this round.
        taken.fetch_add(1, Ordering::Relaxed);
        let result = round(&raft, &lease).await;
        for caller in callers {
            drop(caller.send(result.clone()));
        }
    }
}

async fn round(raft: &openraft::Raft<TypeConfig>, lease: &SharedLease) -> Answer {
    let attempts = async {
        loop {
            let begun = lease.lock().round_begins(boot_time());
            match raft.ensure_linearizable().await {
                Ok(_) => {
                    lease.lock().round_succeeded(begun);
                    return Ok(());
                }
                Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward))) => {
                    return Err(GroupError::NotLeader { leader: leader_of(&forward) });
                }
                // A follower that is busy with an fsync misses openraft's short deadline: ask again.
                Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_))) => {
                    tokio::time::sleep(ROUND_RETRY).await;
                }
                Err(RaftError::Fatal(error)) => return Err(GroupError::Stopped(error.to_string())),
            }
        }
    };
    tokio::time::timeout(ROUND_DEADLINE, attempts)
        .await
        .unwrap_or(Err(GroupError::TimedOut { waited_ms: ROUND_DEADLINE.as_millis() as u64 }))
}
