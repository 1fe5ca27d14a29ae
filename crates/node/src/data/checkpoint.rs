//! When a disk's journal is checkpointed, and where.
//!
//! Guarantees: one checkpoint at a time per disk, on its own thread; begun when the journal is filling up, and now and
//! then when there is anything to apply; one that finds no room is tried again, and the disk serves on. Must not know: how a checkpoint works.

use super::groups::GroupKey;
use super::host::{Host, Pool};
use super::node::{Completion, DataNode};
use super::room;
use super::syncing::BLOCKING_WAIT;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;
use weft_replication::Event;
use weft_store::{CheckpointOutcome, Disk, Store, StoreError};
use weft_types::{BootTime, DiskId};

/// Share of the journal in use from which it is checkpointed without pause.
const CHECKPOINT_FROM: f64 = 0.3;
/// The same of what it has for clients.
const CHECKPOINT_FROM_SHARE: f64 = 0.5;
/// Otherwise this often, so that a restart has little to replay.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);

pub(super) struct Checkpointing<P> {
    pool: P,
    outcome: SyncSender<CheckpointOutcome>,
    outcomes: Receiver<CheckpointOutcome>,
    running: bool,
    ended: BootTime,
    /// The last one found no room on the disk. However full the journal is, the next one does not follow at once.
    no_room: bool,
}

/// A checkpoint of this disk has an outcome.
pub struct CheckpointDone {
    disk: DiskId,
}

impl<P: Pool> Checkpointing<P> {
    pub(super) fn new<H: Host<Pool = P>>(host: &H) -> std::io::Result<Self> {
        let (outcome, outcomes) = sync_channel(1);
        let pool = host.pool("weft-checkpoint", 1, 1)?;
        Ok(Self { pool, outcome, outcomes, running: false, ended: host.now(), no_room: false })
    }

    pub(super) fn start_if_due<D: Disk>(
        &mut self,
        disk: DiskId,
        store: &mut Store<D>,
        now: BootTime,
    ) -> Result<(), StoreError> {
        // The smaller a journal, the larger the part of it that clients may not have: they would wait before 0.3 of it is used.
        let short = || room::share_in_use(store) >= CHECKPOINT_FROM_SHARE;
        let pressed = !self.no_room && (store.journal_pressure().fraction() >= CHECKPOINT_FROM || short());
        if self.running || !(pressed || now.since(self.ended) >= CHECKPOINT_INTERVAL) {
            return Ok(());
        }
        let Some(job) = store.begin_checkpoint()? else {
            self.ended = now;
            return Ok(());
        };
        self.running = true;
        let outcome = self.outcome.clone();
        let work = Box::new(move || {
            // At most one runs, so there is room.
            let _ = outcome.send(job.run());
            Completion::Checkpoint(CheckpointDone { disk })
        });
        if let Err(no_room) = self.pool.submit(work) {
            // The worker has not come back from the last one yet, which is a matter of microseconds.
            (no_room.0)();
            self.finish(store, now)?;
        }
        Ok(())
    }

    /// Takes the outcome of the running checkpoint, if it is there.
    fn finish<D: Disk>(&mut self, store: &mut Store<D>, now: BootTime) -> Result<(), StoreError> {
        let Ok(outcome) = self.outcomes.try_recv() else { return Ok(()) };
        self.accept(outcome, store, now)
    }

    fn accept<D: Disk>(
        &mut self,
        outcome: CheckpointOutcome,
        store: &mut Store<D>,
        now: BootTime,
    ) -> Result<(), StoreError> {
        self.running = false;
        self.ended = now;
        let result = store.finish_checkpoint(outcome);
        self.no_room = matches!(&result, Err(error) if error.is_no_space()) && store.failure().is_none();
        if self.no_room {
            // Nothing is lost: the entries stay in the journal, credits keep writers out, and files may be deleted.
            tracing::warn!(retry_seconds = CHECKPOINT_INTERVAL.as_secs(), "a checkpoint found no room on the disk");
            return Ok(());
        }
        result
    }

    /// Waits for the running checkpoint; how it ended is of no use to anybody any more.
    pub(super) fn wait(&mut self) {
        if self.running {
            self.pool.hurry();
            let _ = self.outcomes.recv_timeout(BLOCKING_WAIT);
            self.running = false;
        }
    }

    /// Waits for the running checkpoint, then runs another one, here.
    pub(super) fn run_blocking<D: Disk>(&mut self, store: &mut Store<D>, now: BootTime) -> Result<(), StoreError> {
        if self.running {
            self.pool.hurry();
            let outcome = self.outcomes.recv_timeout(BLOCKING_WAIT).map_err(|_| StoreError::Poisoned {
                reason: format!("a checkpoint has not finished within {} s", BLOCKING_WAIT.as_secs()),
            })?;
            self.accept(outcome, store, now)?;
        }
        match store.begin_checkpoint()? {
            Some(job) => self.accept(job.run(), store, now),
            None => Ok(()),
        }
    }
}

impl<H: Host> DataNode<H> {
    pub(super) fn checkpoint_done(&mut self, done: CheckpointDone) {
        self.counters.checkpoints += 1;
        let now = self.host.now();
        self.on_disk(done.disk, |disk| {
            disk.checkpointing.finish(&mut disk.store, now)?;
            disk.measure_journal();
            disk.checkpointing.start_if_due(done.disk, &mut disk.store, now)?;
            Ok(Vec::<(GroupKey, Event)>::new())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::host::{Job, NoRoom};
    use bytes::Bytes;
    use weft_store::fault::SimDisk;
    use weft_store::{Expected, Identity, StoreConfig};
    use weft_types::checksum::block_hashes;
    use weft_types::{
        BLOCK_SIZE, BlockIndex, BlockRange, ChunkId, ChunkIndex, ChunkSize, ClusterId, Effect, Entry, EntryHeader,
        Epoch, LogPosition, NodeId, ObjectId, PgId, Sequence, TruncateGeneration, VolumeId,
    };

    /// Runs a job where it was submitted.
    struct Inline;

    impl Pool for Inline {
        fn submit(&self, job: Job) -> Result<(), NoRoom> {
            Err(NoRoom(job))
        }

        fn hurry(&self) {}
    }

    #[test]
    fn a_checkpoint_without_room_keeps_the_disk_and_is_tried_again_after_a_while() {
        let id = DiskId(3);
        let pg = PgId { volume: VolumeId(1), index: 0 };
        let disk = SimDisk::new(64 << 20);
        let config = StoreConfig { ballast_bytes: 0, ..StoreConfig::small() };
        let identity = Identity { cluster: ClusterId(1), disk: id, node: NodeId(1) };
        Store::format(&disk, identity, &config).unwrap();
        let expected = Expected { cluster: ClusterId(1), disk: None, node: None };
        let (mut store, _) = Store::open(disk.clone(), expected, config).unwrap();
        store.register_volume(pg.volume, ChunkSize::new(64 << 10).unwrap()).unwrap();
        store.create_pg(pg).unwrap();
        let mut end = LogPosition::ZERO;
        // Enough of the journal that a checkpoint would follow without pause.
        for index in 0..6 {
            let data = Bytes::from(vec![7; 8 * BLOCK_SIZE]);
            let chunk = ChunkId { object: ObjectId(1), index: ChunkIndex(index) };
            let range = BlockRange::new(BlockIndex(0), 8);
            let header = EntryHeader {
                position: LogPosition::new(Epoch(1), Sequence(end.sequence.0 + 1)),
                previous: end,
                origin: None,
                only_for: None,
                effect: Effect::Write {
                    chunk,
                    range,
                    hashes: block_hashes(pg.volume, chunk, range, &data),
                    end_bytes: data.len() as u32,
                    generation: TruncateGeneration(0),
                },
            };
            end = header.position;
            store.append(pg, &[Entry { header, data }]).unwrap();
        }
        store.set_committed(pg, end).unwrap();
        assert!(store.journal_pressure().fraction() >= CHECKPOINT_FROM);
        store.refresh_space().unwrap();
        disk.set_capacity(store.space().total_bytes - store.space().free_bytes + 4096);
        let (outcome, outcomes) = sync_channel(1);
        let began = BootTime::from_millis(1000);
        let mut checkpointing =
            Checkpointing { pool: Inline, outcome, outcomes, running: false, ended: began, no_room: false };

        checkpointing.start_if_due(id, &mut store, began).unwrap();
        assert!(checkpointing.no_room && store.failure().is_none());
        disk.set_capacity(64 << 20);
        let soon = began + CHECKPOINT_INTERVAL / 2;
        checkpointing.start_if_due(id, &mut store, soon).unwrap();
        assert!(checkpointing.no_room, "not without a pause");
        checkpointing.start_if_due(id, &mut store, began + CHECKPOINT_INTERVAL).unwrap();
        assert!(!checkpointing.no_room && store.failure().is_none());
        assert_eq!(store.applied(pg).unwrap(), end);
    }
}
