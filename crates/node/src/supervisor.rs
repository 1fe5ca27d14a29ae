//! The parent of a node's worker process.
//!
//! Responsible for: running the worker as a child, surrendering the lease of an incarnation whose process is gone, and
//! starting the next one (design 4.1: "a crash costs milliseconds and only a dead or cut-off box costs a TTL").
//! Guarantees: a lease is surrendered only after `wait` has returned for the process that held it, so that process can
//! do nothing any more; a worker that exits with [`EXIT_NEEDS_A_PERSON`] is not started again; a worker dies with its
//! parent. Must not know: Raft, disks, messages.

use crate::layout::NodeLayout;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use weft_types::{Incarnation, NodeId};

/// Exit status of a worker that a restart cannot help: bad configuration, foreign disk, port in use. The value is
/// EX_CONFIG of sysexits.h, so that systemd's `RestartPreventExitStatus` can name it too.
pub const EXIT_NEEDS_A_PERSON: u8 = 78;

/// Longest wait for a clean stop before the worker is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// A worker that ran for this long was well: the next crash is the first again.
const WELL_AFTER: Duration = Duration::from_secs(30);
/// A lease that nobody takes back within its own length has lapsed anyway.
const SURRENDER_TIMEOUT: Duration = weft_types::limits::NODE_LEASE;

/// What a registered worker tells its parent, in `DIR/run/worker.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerFacts {
    pub process_id: u32,
    pub node: NodeId,
    pub incarnation: Incarnation,
}

impl WorkerFacts {
    /// Called by the worker once it is registered. Not synced: it matters only while this boot lasts.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn publish(&self, layout: &NodeLayout) -> std::io::Result<()> {
        std::fs::create_dir_all(layout.run())?;
        let text = serde_json::to_vec(self)?;
        let temporary = layout.worker_file().with_extension("json.new");
        std::fs::write(&temporary, text)?;
        std::fs::rename(&temporary, layout.worker_file())
    }

    /// The facts of exactly this process; those of an earlier one are of no use.
    fn of_process(layout: &NodeLayout, process_id: u32) -> Option<Self> {
        let text = std::fs::read(layout.worker_file()).ok()?;
        let facts: Self = serde_json::from_slice(&text).ok()?;
        (facts.process_id == process_id).then_some(facts)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    #[error("cannot start the worker process: {0}")]
    Spawn(std::io::Error),
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
    #[error("cannot wait for the worker process: {0}")]
    Wait(std::io::Error),
}

/// Runs workers until one ends cleanly, needs a person, or a signal asks to stop. Returns the exit status for the
/// parent itself. `surrender` gives back the lease of a dead incarnation; it is given up after a lease's length.
///
/// # Errors
/// When no worker can be started or waited for.
pub async fn supervise<F>(
    layout: &NodeLayout,
    mut worker: impl FnMut() -> std::process::Command,
    mut surrender: impl FnMut(WorkerFacts) -> F,
) -> Result<u8, SupervisorError>
where
    F: Future<Output = Result<(), String>>,
{
    let mut signals = Signals::listen().map_err(SupervisorError::Signals)?;
    let mut backoff = Duration::ZERO;
    loop {
        let started = Instant::now();
        let mut child = Command::from(worker()).spawn().map_err(SupervisorError::Spawn)?;
        let process_id = child.id().unwrap_or_default();
        let status = tokio::select! {
            status = child.wait() => status.map_err(SupervisorError::Wait)?,
            () = signals.stop() => return stop(child).await,
        };
        match verdict(status) {
            Verdict::Finished(code) => return Ok(code),
            Verdict::Crashed => {
                tracing::error!(%status, process_id, "the worker died; its lease is surrendered and it is started again");
            }
        }
        if let Some(facts) = WorkerFacts::of_process(layout, process_id) {
            give_back(facts, &mut surrender).await;
        }
        backoff = next_backoff(backoff, started.elapsed());
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = signals.stop() => return Ok(0),
        }
    }
}

/// The first crash after a good run restarts at once; a worker that keeps crashing is started ever more slowly.
fn next_backoff(last: Duration, ran: Duration) -> Duration {
    if ran >= WELL_AFTER { Duration::ZERO } else { (last * 2).clamp(FIRST_BACKOFF, MAX_BACKOFF) }
}

async fn give_back<F>(facts: WorkerFacts, surrender: &mut impl FnMut(WorkerFacts) -> F)
where
    F: Future<Output = Result<(), String>>,
{
    match tokio::time::timeout(SURRENDER_TIMEOUT, surrender(facts)).await {
        Ok(Ok(())) => tracing::info!(node = %facts.node, incarnation = %facts.incarnation, "lease surrendered"),
        Ok(Err(why)) => tracing::warn!(%why, "the lease could not be surrendered; it lapses by itself"),
        Err(_) => tracing::warn!("nobody took the lease back in time; it has lapsed by itself"),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Done, or a restart cannot help.
    Finished(u8),
    Crashed,
}

fn verdict(status: ExitStatus) -> Verdict {
    match status.code() {
        Some(0) => Verdict::Finished(0),
        Some(code) if code == i32::from(EXIT_NEEDS_A_PERSON) => Verdict::Finished(EXIT_NEEDS_A_PERSON),
        _ => Verdict::Crashed,
    }
}

/// Forwards the wish to stop and waits; a worker that does not come to an end is killed.
async fn stop(mut child: Child) -> Result<u8, SupervisorError> {
    if let Some(process) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw) {
        // An error means that the process is already gone, which `wait` reports.
        let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
    }
    match tokio::time::timeout(STOP_TIMEOUT, child.wait()).await {
        Ok(status) => {
            let status = status.map_err(SupervisorError::Wait)?;
            let killed_by_our_signal = status.signal() == Some(rustix::process::Signal::TERM.as_raw());
            Ok(if status.success() || killed_by_our_signal { 0 } else { 1 })
        }
        Err(_) => {
            tracing::error!(timeout_s = STOP_TIMEOUT.as_secs(), "the worker did not stop in time and is killed");
            child.kill().await.map_err(SupervisorError::Wait)?;
            Ok(1)
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Called first thing by the worker: it must not outlive its parent, who alone can say that it is dead.
///
/// # Errors
/// When the kernel refuses, or the parent is already gone.
pub fn die_with_parent(parent_process_id: u32) -> std::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // The parent may have died before the call above took effect.
    let parent = rustix::process::getppid().map(rustix::process::Pid::as_raw_nonzero);
    if parent.and_then(|id| u32::try_from(id.get()).ok()) != Some(parent_process_id) {
        return Err(std::io::Error::other("the parent process is gone"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn shell(script: &str) -> std::process::Command {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn run(future: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
    }

    #[test]
    fn a_killed_worker_has_its_lease_surrendered_and_is_started_again() {
        let directory = tempfile::tempdir().unwrap();
        let layout = NodeLayout::new(directory.path());
        std::fs::create_dir_all(layout.run()).unwrap();
        let mark = directory.path().join("second");
        let file = layout.worker_file();
        let script = format!(
            "test -e {m} && exit 0; touch {m}; printf '{{\"process_id\":%d,\"node\":3,\"incarnation\":9}}' $$ > {f}; kill -9 $$",
            m = mark.display(),
            f = file.display()
        );
        let surrendered = RefCell::new(Vec::new());
        run(async {
            let code = supervise(
                &layout,
                || shell(&script),
                |facts| {
                    surrendered.borrow_mut().push((facts.node, facts.incarnation));
                    async { Ok(()) }
                },
            )
            .await
            .unwrap();
            assert_eq!(code, 0);
        });
        assert_eq!(*surrendered.borrow(), [(NodeId(3), Incarnation(9))]);
    }

    #[test]
    fn a_worker_that_needs_a_person_is_not_started_again() {
        let directory = tempfile::tempdir().unwrap();
        let layout = NodeLayout::new(directory.path());
        let starts = RefCell::new(0);
        run(async {
            let worker = || {
                *starts.borrow_mut() += 1;
                shell("exit 78")
            };
            let code = supervise(&layout, worker, |_| async { Err("nothing to surrender".to_owned()) }).await.unwrap();
            assert_eq!(code, EXIT_NEEDS_A_PERSON);
        });
        assert_eq!(*starts.borrow(), 1);
    }

    #[test]
    fn facts_of_an_earlier_process_surrender_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let layout = NodeLayout::new(directory.path());
        let facts = WorkerFacts { process_id: 77, node: NodeId(1), incarnation: Incarnation(4) };
        facts.publish(&layout).unwrap();
        assert_eq!(WorkerFacts::of_process(&layout, 78), None);
        assert_eq!(WorkerFacts::of_process(&layout, 77), Some(facts));
    }

    #[test]
    fn crashes_in_a_row_are_restarted_ever_more_slowly() {
        let quick = Duration::from_secs(1);
        let first = next_backoff(Duration::ZERO, quick);
        assert_eq!(first, FIRST_BACKOFF);
        assert_eq!(next_backoff(first, quick), FIRST_BACKOFF * 2);
        assert_eq!(next_backoff(MAX_BACKOFF, quick), MAX_BACKOFF);
        assert_eq!(next_backoff(MAX_BACKOFF, WELL_AFTER), Duration::ZERO);
    }
}
