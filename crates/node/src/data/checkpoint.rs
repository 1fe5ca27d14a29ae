//! When a disk's journal is checkpointed, and where.
//!
//! Guarantees: one checkpoint at a time per disk, on its own thread; begun when the journal is filling up, and now and
//! then when there is anything to apply. Must not know: how a checkpoint works.

use super::disks::NodeDisk;
use super::groups::GroupKey;
use super::node::{Completion, DataNode};
use super::syncing::BLOCKING_WAIT;
use super::workers::Workers;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Sender;
use weft_replication::Event;
use weft_store::{CheckpointOutcome, Store, StoreError};
use weft_types::DiskId;

/// Share of the journal in use from which it is checkpointed without pause.
const CHECKPOINT_FROM: f64 = 0.3;
/// Otherwise this often, so that a restart has little to replay.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);

pub(super) struct Checkpointing {
    worker: Workers<Completion>,
    outcome: SyncSender<CheckpointOutcome>,
    outcomes: Receiver<CheckpointOutcome>,
    running: bool,
    ended: Instant,
}

/// A checkpoint of this disk has an outcome.
pub(super) struct CheckpointDone {
    disk: DiskId,
}

impl Checkpointing {
    pub(super) fn new(completed: &Sender<Completion>) -> std::io::Result<Self> {
        let (outcome, outcomes) = sync_channel(1);
        let worker = Workers::start("weft-checkpoint", 1, 1, completed)?;
        Ok(Self { worker, outcome, outcomes, running: false, ended: Instant::now() })
    }

    pub(super) fn start_if_due(&mut self, disk: DiskId, store: &mut Store<NodeDisk>) -> Result<(), StoreError> {
        let pressed = store.journal_pressure().fraction() >= CHECKPOINT_FROM;
        if self.running || !(pressed || self.ended.elapsed() >= CHECKPOINT_INTERVAL) {
            return Ok(());
        }
        let Some(job) = store.begin_checkpoint()? else {
            self.ended = Instant::now();
            return Ok(());
        };
        self.running = true;
        let outcome = self.outcome.clone();
        let work = Box::new(move || {
            // At most one runs, so there is room.
            let _ = outcome.send(job.run());
            Completion::Checkpoint(CheckpointDone { disk })
        });
        if let Err(no_room) = self.worker.submit(work) {
            // The worker has not come back from the last one yet, which is a matter of microseconds.
            (no_room.0)();
            self.finish(store)?;
        }
        Ok(())
    }

    /// Takes the outcome of the running checkpoint, if it is there.
    fn finish(&mut self, store: &mut Store<NodeDisk>) -> Result<(), StoreError> {
        let Ok(outcome) = self.outcomes.try_recv() else { return Ok(()) };
        self.accept(outcome, store)
    }

    fn accept(&mut self, outcome: CheckpointOutcome, store: &mut Store<NodeDisk>) -> Result<(), StoreError> {
        self.running = false;
        self.ended = Instant::now();
        store.finish_checkpoint(outcome)
    }

    /// Waits for the running checkpoint; how it ended is of no use to anybody any more.
    pub(super) fn wait(&mut self) {
        if self.running {
            let _ = self.outcomes.recv_timeout(BLOCKING_WAIT);
            self.running = false;
        }
    }

    /// Waits for the running checkpoint, then runs another one, here.
    pub(super) fn run_blocking(&mut self, store: &mut Store<NodeDisk>) -> Result<(), StoreError> {
        if self.running {
            let outcome = self.outcomes.recv_timeout(BLOCKING_WAIT).map_err(|_| StoreError::Poisoned {
                reason: format!("a checkpoint has not finished within {} s", BLOCKING_WAIT.as_secs()),
            })?;
            self.accept(outcome, store)?;
        }
        match store.begin_checkpoint()? {
            Some(job) => self.accept(job.run(), store),
            None => Ok(()),
        }
    }
}

impl DataNode {
    pub(super) fn checkpoint_done(&mut self, done: CheckpointDone) {
        self.counters.checkpoints += 1;
        self.on_disk(done.disk, |disk| {
            disk.checkpointing.finish(&mut disk.store)?;
            disk.measure_journal();
            disk.checkpointing.start_if_due(done.disk, &mut disk.store)?;
            Ok(Vec::<(GroupKey, Event)>::new())
        });
    }
}
