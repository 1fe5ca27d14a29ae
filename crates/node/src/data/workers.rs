//! Threads that may block, so that the data thread never does: syncs, checkpoints, cold reads.
//!
//! Responsible for: handing a job over and bringing its result back as a [`Completion`]. Guarantees: a worker runs its
//! jobs in order, one at a time; a handed-over job always comes back, unless the data thread has ended; queues are
//! bounded. Must not know: what the jobs do.

use super::host::{Job, NoRoom, Pool};
use super::node::Completion;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// Some threads that share one bounded queue of jobs. They end when the last handle is dropped.
pub(super) struct Workers<C> {
    jobs: SyncSender<Job<C>>,
}

impl<C: Send + 'static> Workers<C> {
    /// # Errors
    /// When a thread cannot be started.
    pub(super) fn start(
        name: &str,
        threads: usize,
        queue: usize,
        completions: &mpsc::Sender<C>,
    ) -> std::io::Result<Self> {
        let (jobs, receiver) = sync_channel(queue);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..threads.max(1) {
            let receiver = Arc::clone(&receiver);
            let completions = completions.clone();
            std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                wake_politely();
                run(&receiver, &completions);
            })?;
        }
        Ok(Self { jobs })
    }

    fn hand_over(&self, job: Job<C>) -> Result<(), NoRoom<C>> {
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => NoRoom(job),
        })
    }
}

impl Pool for Workers<Completion> {
    fn submit(&self, job: Job) -> Result<(), NoRoom> {
        self.hand_over(job)
    }

    /// The threads run by themselves.
    fn hurry(&self) {}
}

/// A worker that gets a job does not push the data thread aside that gave it (`SCHED_BATCH`): what that one is about to send
/// comes first. On two cores a synced write takes a tenth less time so.
fn wake_politely() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: thread 0 is the caller's own, and the structure outlives the call.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) } != 0 {
        // Nothing depends on it.
        tracing::debug!(error = %std::io::Error::last_os_error(), "a worker keeps the usual scheduling");
    }
}

fn run<C>(jobs: &Mutex<Receiver<Job<C>>>, completions: &mpsc::Sender<C>) {
    loop {
        // The lock is held while waiting: the other threads of the pool wait for it instead of for the queue.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        if completions.blocking_send(job()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_gives_the_job_back_and_every_accepted_job_completes() {
        let (done, mut completions) = mpsc::channel(16);
        let workers = Workers::start("test", 1, 1, &done).unwrap();
        let (release, gate) = sync_channel::<()>(0);
        let blocked: Job<u32> = Box::new(move || {
            gate.recv().unwrap();
            1
        });
        assert!(workers.hand_over(blocked).is_ok());
        let mut accepted = 1;
        let refused = loop {
            match workers.hand_over(Box::new(|| 2)) {
                Ok(()) => accepted += 1,
                Err(NoRoom(job)) => break job,
            }
        };
        release.send(()).unwrap();
        assert_eq!(refused(), 2);
        let mut results = Vec::new();
        for _ in 0..accepted {
            results.push(completions.blocking_recv().unwrap());
        }
        assert_eq!(results[0], 1);
        assert_eq!(results.len(), accepted);
    }
}
