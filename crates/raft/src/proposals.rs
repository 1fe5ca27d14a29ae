//! Proposals that arrive while some are under way share the next log entry: one fsync and one round for all of them.
//! A few entries are under way at a time, so that one is synced while the one before it is on its way to the followers.
//!
//! Guarantees: every waiting caller hears a reply, or why there is none, within [`PROPOSE_DEADLINE`] of its turn.
//! Must not know: what a command means.

use crate::error::GroupError;
use crate::group::leader_of;
use crate::types::{Commands, TypeConfig};
use openraft::error::{ClientWriteError, RaftError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use weft_meta::{CommandReply, Stamped};

/// Commands in one log entry. The largest command carries 64 KiB, so an entry stays below 3 MiB.
const MAX_COMMANDS_PER_ENTRY: usize = 32;
/// Proposals that wait. Above that, callers are told so at once.
const MAX_WAITING: usize = 1024;
/// Entries under way. More would only spread the same proposals over more entries.
const MAX_ENTRIES_IN_FLIGHT: usize = 3;
/// After this long without a majority the caller is told that the outcome is unknown.
pub(crate) const PROPOSE_DEADLINE: Duration = Duration::from_millis(5000);

type Answer = Result<CommandReply, GroupError>;

struct Waiting {
    command: Stamped,
    reply: oneshot::Sender<Answer>,
}

#[derive(Clone)]
pub(crate) struct Proposals {
    queue: mpsc::Sender<Waiting>,
}

impl Proposals {
    /// Starts the task; it ends when the last handle is dropped.
    pub(crate) fn start(raft: openraft::Raft<TypeConfig>) -> Self {
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        tokio::spawn(run(raft, waiting));
        Self { queue }
    }

    pub(crate) async fn propose(&self, command: Stamped) -> Answer {
        let (reply, answer) = oneshot::channel();
        match self.queue.try_send(Waiting { command, reply }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(GroupError::Overloaded),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(stopped()),
        }
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}

fn stopped() -> GroupError {
    GroupError::Stopped("the proposing task has ended".to_owned())
}

async fn run(raft: openraft::Raft<TypeConfig>, mut waiting: mpsc::Receiver<Waiting>) {
    let slots = Arc::new(Semaphore::new(MAX_ENTRIES_IN_FLIGHT));
    // The semaphore is never closed.
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await
        && let Some(first) = waiting.recv().await
    {
        let mut turn = vec![first];
        while turn.len() < MAX_COMMANDS_PER_ENTRY
            && let Ok(next) = waiting.try_recv()
        {
            turn.push(next);
        }
        // A caller that gave up before its turn has not proposed anything.
        turn.retain(|waiting| !waiting.reply.is_closed());
        if turn.is_empty() {
            continue;
        }
        let (commands, replies): (Vec<_>, Vec<_>) = turn.into_iter().map(|w| (w.command, w.reply)).unzip();
        let raft = raft.clone();
        tokio::spawn(async move {
            tell(replies, write(&raft, Commands { commands }).await);
            drop(slot);
        });
    }
}

fn tell(replies: Vec<oneshot::Sender<Answer>>, result: Result<Vec<CommandReply>, GroupError>) {
    match result {
        Ok(answers) => {
            for (reply, answer) in replies.into_iter().zip(answers) {
                drop(reply.send(Ok(answer)));
            }
        }
        Err(error) => {
            for reply in replies {
                drop(reply.send(Err(error.clone())));
            }
        }
    }
}

async fn write(raft: &openraft::Raft<TypeConfig>, commands: Commands) -> Result<Vec<CommandReply>, GroupError> {
    match tokio::time::timeout(PROPOSE_DEADLINE, raft.client_write(commands)).await {
        Ok(Ok(response)) => Ok(response.data.replies),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
            Err(GroupError::NotLeader { leader: leader_of(&forward) })
        }
        Ok(Err(RaftError::APIError(error))) => Err(GroupError::Refused(error.to_string())),
        Ok(Err(RaftError::Fatal(error))) => Err(GroupError::Stopped(error.to_string())),
        Err(_) => Err(GroupError::TimedOut { waited_ms: PROPOSE_DEADLINE.as_millis() as u64 }),
    }
}
