//! Local disks and their group-committed syncs.
//!
//! Responsible for: one sync at a time per disk, on its own thread, that answers everybody who waits; the background
//! sync at `JOURNAL_SYNC_INTERVAL`; the end of a disk whose sync failed. Guarantees: a machine hears `Durable` and
//! `StateSaved` only of what a finished sync covers; a failed sync is never tried again (design 4.6). Must not know: what
//! the records mean.

use super::checkpoint::Checkpointing;
use super::disks::OpenedDisk;
use super::groups::GroupKey;
use super::host::{Host, Pool};
use super::node::{Completion, DataNode, Shared, Stage};
use super::proof::{self, CacheLife};
use super::room;
use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;
use weft_replication::{Event, SaveTicket, TICK_INTERVAL};
use weft_store::{JournalMark, Store, StoreError, SyncOutcome};
use weft_types::limits::JOURNAL_SYNC_INTERVAL;
use weft_types::{BootTime, DiskId, PgId};

/// A sync that takes longer than this while the whole thread waits for it: the disk is given up.
pub(super) const BLOCKING_WAIT: Duration = Duration::from_secs(30);
/// How often free space is asked for.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);

/// A disk of this node, and what runs on it.
pub(super) struct LocalDisk<H: Host> {
    pub(super) path: PathBuf,
    pub(super) disk: H::Disk,
    pub(super) store: Store<H::Disk>,
    pub(super) checkpointing: Checkpointing<H::Pool>,
    id: DiskId,
    cache_life: CacheLife,
    failed: Option<String>,
    sync: Syncing<H::Pool>,
    space_asked: BootTime,
    entries_share: f64,
}

struct Syncing<P> {
    pool: P,
    outcome: SyncSender<SyncOutcome>,
    outcomes: Receiver<SyncOutcome>,
    running: bool,
    /// Somebody waits for what was appended since the running sync began.
    wanted: bool,
    began: BootTime,
    /// Groups with something not covered by the running sync.
    dirty: BTreeSet<PgId>,
    /// Groups that the running sync answers.
    covered: BTreeSet<PgId>,
    saves: VecDeque<(JournalMark, PgId, SaveTicket)>,
}

/// A sync of this disk has an outcome.
pub struct SyncDone {
    disk: DiskId,
}

impl<H: Host> LocalDisk<H> {
    pub(super) fn new(opened: OpenedDisk<H::Disk>, host: &H) -> std::io::Result<Self> {
        let OpenedDisk { path, id, disk, store, cache_life, .. } = opened;
        let (outcome, outcomes) = sync_channel(1);
        let now = host.now();
        let sync = Syncing {
            pool: host.pool("weft-sync", 1, 1)?,
            outcome,
            outcomes,
            running: false,
            wanted: false,
            began: now,
            dirty: BTreeSet::new(),
            covered: BTreeSet::new(),
            saves: VecDeque::new(),
        };
        let checkpointing = Checkpointing::new(host)?;
        let failed = None;
        let mut disk = Self {
            path,
            disk,
            store,
            checkpointing,
            id,
            cache_life,
            failed,
            sync,
            space_asked: now,
            entries_share: 0.0,
        };
        disk.measure_journal();
        Ok(disk)
    }

    /// Why it is not used any more.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Whether this is news.
    pub(super) fn fail(&mut self, why: &str) -> bool {
        let news = self.failed.is_none();
        self.failed.get_or_insert_with(|| why.to_owned());
        news
    }

    /// Share in use of what the journal has for clients.
    pub(super) fn journal_share(&self) -> f64 {
        room::share_in_use(&self.store).max(self.entries_share)
    }

    /// The store walks its groups for the number of entries, so that is measured a few times per second and not per write.
    pub(super) fn measure_journal(&mut self) {
        self.entries_share = self.store.journal_pressure().entries_fraction();
    }

    /// Waits for jobs on other threads that still touch the disk. The end of the thread.
    fn finish_jobs(&mut self) {
        if self.sync.running {
            self.sync.pool.hurry();
            // How it ended is of no use to anybody any more.
            let _ = self.sync.outcomes.recv_timeout(BLOCKING_WAIT);
            self.sync.running = false;
        }
        self.checkpointing.wait();
    }

    pub(super) fn note_dirty(&mut self, pg: PgId) {
        self.sync.dirty.insert(pg);
    }

    pub(super) fn want_sync(&mut self, pg: PgId) {
        self.sync.dirty.insert(pg);
        self.sync.wanted = true;
    }

    pub(super) fn await_save(&mut self, mark: JournalMark, pg: PgId, ticket: SaveTicket) {
        self.sync.saves.push_back((mark, pg, ticket));
        self.sync.dirty.insert(pg);
        self.sync.wanted = true;
    }

    /// What machines learn from the syncs finished so far.
    fn news(&mut self, groups: BTreeSet<PgId>) -> Vec<(GroupKey, Event)> {
        let disk = self.id;
        let mut news = Vec::with_capacity(groups.len());
        for pg in groups {
            // A group that was removed since has nothing to hear.
            if let Ok(durable) = self.store.durable(pg) {
                news.push((GroupKey { pg, disk }, Event::Durable(durable)));
            }
        }
        let synced = self.store.synced_mark();
        let mut waiting = VecDeque::new();
        for (mark, pg, ticket) in self.sync.saves.drain(..) {
            if mark <= synced {
                news.push((GroupKey { pg, disk }, Event::StateSaved(ticket)));
            } else {
                waiting.push_back((mark, pg, ticket));
            }
        }
        self.sync.saves = waiting;
        news
    }

    /// Begins a sync if one is wanted and none runs. Answers at once what needs no sync.
    fn begin(&mut self, now: BootTime) -> Result<Vec<(GroupKey, Event)>, StoreError> {
        if !self.sync.wanted || self.sync.running || self.failed.is_some() {
            return Ok(Vec::new());
        }
        self.sync.wanted = false;
        self.sync.began = now;
        let groups = std::mem::take(&mut self.sync.dirty);
        let Some(job) = self.store.begin_sync()? else { return Ok(self.news(groups)) };
        self.sync.covered = groups;
        self.sync.running = true;
        let (disk, outcome) = (self.id, self.sync.outcome.clone());
        let work = Box::new(move || {
            // At most one sync runs, so there is room; the receiver is gone only when the thread has ended.
            let _ = outcome.send(job.run());
            Completion::Sync(SyncDone { disk })
        });
        if let Err(no_room) = self.sync.pool.submit(work) {
            // The worker has just sent its outcome and not yet come back for the next job: this one runs here.
            (no_room.0)();
            return self.finish();
        }
        Ok(Vec::new())
    }

    /// Takes the outcome of the running sync, if it is there.
    fn finish(&mut self) -> Result<Vec<(GroupKey, Event)>, StoreError> {
        let Ok(outcome) = self.sync.outcomes.try_recv() else { return Ok(Vec::new()) };
        self.accept(outcome)
    }

    fn accept(&mut self, outcome: SyncOutcome) -> Result<Vec<(GroupKey, Event)>, StoreError> {
        self.sync.running = false;
        let covered = std::mem::take(&mut self.sync.covered);
        self.store.finish_sync(outcome)?;
        Ok(self.news(covered))
    }

    /// Waits for the running sync, then syncs what is left, here.
    fn sync_blocking(&mut self) -> Result<Vec<(GroupKey, Event)>, StoreError> {
        let mut news = Vec::new();
        if self.sync.running {
            self.sync.pool.hurry();
            let outcome = self.sync.outcomes.recv_timeout(BLOCKING_WAIT).map_err(|_| StoreError::Poisoned {
                reason: format!("a sync has not finished within {} s", BLOCKING_WAIT.as_secs()),
            })?;
            news = self.accept(outcome)?;
        }
        self.store.sync_now()?;
        self.sync.wanted = false;
        let dirty = std::mem::take(&mut self.sync.dirty);
        news.extend(self.news(dirty));
        Ok(news)
    }
}

impl<H: Host> DataNode<H> {
    pub(super) fn start_syncs(&mut self) {
        let now = self.host.now();
        self.on_disks(|disk| disk.begin(now));
    }

    pub(super) fn sync_done(&mut self, done: SyncDone) {
        if let Some(disk) = self.disks.get(&done.disk)
            && disk.sync.running
        {
            self.counters.syncs += 1;
            self.counters.journal_sync.took(self.host.now().since(disk.sync.began));
        }
        self.on_disk(done.disk, LocalDisk::finish);
    }

    /// Frees room in the journal, while everything else waits.
    pub(super) fn checkpoint_now(&mut self, id: DiskId) -> Result<(), StoreError> {
        let Some(disk) = self.disks.get_mut(&id) else { return Ok(()) };
        let news = disk.sync_blocking()?;
        self.ready.extend(news);
        disk.checkpointing.run_blocking(&mut disk.store, self.host.now())
    }

    /// Background syncs, checkpoints and free space.
    pub(super) fn tick_disks(&mut self) {
        let now = self.host.now();
        self.on_disks(|disk| {
            if disk.failed.is_some() {
                return Ok(Vec::new());
            }
            // One tick early, because the next one comes too late.
            let due = now.since(disk.sync.began) + TICK_INTERVAL >= JOURNAL_SYNC_INTERVAL;
            disk.sync.wanted |= due && !disk.sync.dirty.is_empty();
            if now.since(disk.space_asked) >= SPACE_INTERVAL {
                disk.space_asked = now;
                disk.store.refresh_space()?;
            }
            disk.measure_journal();
            disk.checkpointing.start_if_due(disk.id, &mut disk.store, now)?;
            Ok(Vec::new())
        });
    }

    /// Lets go of everything, so that nothing of this run touches a disk afterwards and its lock is free.
    pub(super) fn dismantle(&mut self) {
        self.stage = Stage::Stopped;
        for disk in self.disks.values_mut() {
            disk.finish_jobs();
        }
        self.groups.clear();
        self.disks.clear();
    }

    /// Notes on every disk who appends from now on (design 5.4).
    pub(super) fn mark_disks_running(&mut self) {
        let incarnation = self.incarnation;
        let mut failures = Vec::new();
        for (id, disk) in &mut self.disks {
            if let Err(error) = proof::begin_run(&mut disk.store, incarnation, &disk.cache_life) {
                failures.push((*id, error.to_string()));
            }
        }
        for (id, why) in failures {
            self.fail_disk(id, &format!("cannot note the new run: {why}"));
        }
    }

    fn on_disks(&mut self, act: impl Fn(&mut LocalDisk<H>) -> Result<Vec<(GroupKey, Event)>, StoreError>) {
        let mut failures = Vec::new();
        for (id, disk) in &mut self.disks {
            match act(disk) {
                Ok(news) => self.ready.extend(news),
                Err(error) => failures.push((*id, error.to_string())),
            }
        }
        for (id, why) in failures {
            self.fail_disk(id, &why);
        }
    }

    pub(super) fn on_disk(
        &mut self,
        id: DiskId,
        act: impl Fn(&mut LocalDisk<H>) -> Result<Vec<(GroupKey, Event)>, StoreError>,
    ) {
        let Some(disk) = self.disks.get_mut(&id) else { return };
        match act(disk) {
            Ok(news) => self.ready.extend(news),
            Err(error) => self.fail_disk(id, &error.to_string()),
        }
    }
}

/// The end of a clean stop: nothing is appended any more; sync, then mark. Blocks, as nothing else is left to do.
pub(super) fn sync_and_mark<H: Host>(shared: &Shared<H>) {
    let mut node = shared.borrow_mut();
    node.stage = Stage::Stopped;
    let incarnation = node.incarnation;
    for (id, disk) in &mut node.disks {
        if disk.failed.is_some() {
            continue;
        }
        if let Err(error) = disk.sync_blocking() {
            tracing::error!(disk = %id, %error, "the last sync failed: the disk is not marked as cleanly stopped");
            continue;
        }
        // A node that never registered has appended nothing and has no incarnation to close.
        if incarnation.0 != 0
            && let Err(error) = proof::end_run(&mut disk.store, incarnation, &disk.cache_life)
        {
            tracing::warn!(disk = %id, %error, "the disk could not be marked as cleanly stopped");
        }
    }
}
