//! The store's slow work: syncs and checkpoints, begun and finished on the owner's thread.
//!
//! Responsible for: what a sync or a checkpoint covers, and what memory may forget afterwards. Guarantees: durable
//! positions rise only after a sync returned; segments are freed only after what replaces them is on the disk. Must not
//! know: threads; jobs run wherever the owner likes.

use crate::checkpoint::{CheckpointFailure, CheckpointJob, CheckpointOutcome, GroupPlan, PlannedEntry, Removed};
use crate::config::{Mutant, StoreConfig};
use crate::disk::Disk;
use crate::error::{IoContext as _, Result, StoreError};
use crate::group::{EffectKind, Group};
use crate::journal::{NewRecord, SyncScope, mark_body};
use crate::record::Kind;
use crate::state::{DiskState, GroupSnapshot, JournalPosition};
use crate::store::{JournalMark, Store, encode};
use crate::superblock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use weft_types::{ChunkId, LogPosition, PgId};

/// Syncs the journal on any thread.
pub struct SyncJob<D: Disk> {
    scope: SyncScope<D>,
    skip: bool,
}

/// How a sync ended. Goes back to `finish_sync`.
#[derive(Debug)]
pub struct SyncOutcome {
    to: JournalPosition,
    result: std::io::Result<()>,
}

impl<D: Disk> SyncJob<D> {
    /// One fdatasync per segment with unsynced records. Blocking.
    #[must_use]
    pub fn run(self) -> SyncOutcome {
        let result = if self.skip { Ok(()) } else { self.scope.run() };
        SyncOutcome { to: self.scope.to, result }
    }
}

impl<D: Disk> Store<D> {
    pub const fn sync_running(&self) -> bool {
        self.sync_running
    }

    /// Everything appended up to this mark is durable.
    pub fn synced_mark(&self) -> JournalMark {
        JournalMark(self.journal.synced())
    }

    fn journal_committed(&mut self) -> Result<()> {
        let changed: Vec<(PgId, LogPosition)> = self
            .groups
            .values()
            .filter(|g| g.committed > g.committed_journalled)
            .map(|g| (g.pg, g.committed))
            .collect();
        for (pg, committed) in changed {
            self.journal_value(Kind::Committed, pg, &committed)?;
            self.group_mut(pg)?.committed_journalled = committed;
        }
        Ok(())
    }

    /// Begins a sync of all that was appended so far. `None`: nothing to do, or one is running.
    ///
    /// # Errors
    /// When the disk has failed.
    pub fn begin_sync(&mut self) -> Result<Option<SyncJob<D>>> {
        self.check()?;
        if self.sync_running || self.journal.sync_scope().is_none() {
            return Ok(None);
        }
        self.journal_committed()?;
        let Some(scope) = self.journal.sync_scope() else { return Ok(None) };
        if self.config.has(Mutant::MarkBeforeFsync) {
            self.put_mark(scope.to)?;
        }
        for group in self.groups.values_mut() {
            group.syncing = group.end;
        }
        self.sync_running = true;
        Ok(Some(SyncJob { scope, skip: self.config.has(Mutant::SkipFsync) }))
    }

    /// Takes a sync's outcome: raises the durable positions and appends the mark.
    ///
    /// # Errors
    /// When the sync failed: the disk is then marked as failed and accepts nothing more.
    pub fn finish_sync(&mut self, outcome: SyncOutcome) -> Result<()> {
        self.sync_running = false;
        self.check()?;
        if let Err(error) = outcome.result {
            if self.config.has(Mutant::RetryFsync) {
                return Ok(());
            }
            return Err(self.poison(format!("journal sync failed: {error}")));
        }
        for group in self.groups.values_mut() {
            group.durable = group.durable.max(group.syncing.min(group.end));
        }
        self.note_synced(outcome.to)?;
        if self.appended_since > 0 {
            self.refresh_space()?;
        }
        Ok(())
    }

    fn note_synced(&mut self, to: JournalPosition) -> Result<()> {
        // Design 6: only now, after the sync returned.
        if self.journal.note_synced(to) && !self.config.has(Mutant::MarkBeforeFsync) {
            self.put_mark(to)?;
        }
        Ok(())
    }

    fn put_mark(&mut self, to: JournalPosition) -> Result<()> {
        match self.journal_record(Kind::SyncMark, PgId::default(), &mark_body(to)) {
            // A mark is knowledge, not data: without room for it the log is only a little less well known.
            Ok(_) | Err(StoreError::JournalFull { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Syncs inline, for tools and tests.
    ///
    /// # Errors
    /// As [`Store::finish_sync`].
    pub fn sync_now(&mut self) -> Result<()> {
        match self.begin_sync()? {
            Some(job) => self.finish_sync(job.run()),
            None => Ok(()),
        }
    }

    // ---- checkpoint ----

    /// Begins a checkpoint. `None`: nothing to apply or to free, or one is running.
    ///
    /// # Errors
    /// When the disk has failed.
    pub fn begin_checkpoint(&mut self) -> Result<Option<CheckpointJob<D>>> {
        self.check()?;
        if self.checkpoint_running {
            return Ok(None);
        }
        self.relocate_pinned()?;
        let to_apply = self.groups.values().any(|g| apply_to(g, &self.config) > g.applied);
        let to_free = self.wanted_first_live(|g| g.applied) > self.journal.first_live();
        if !to_apply && !to_free && self.removals.is_empty() {
            return Ok(None);
        }
        // What is applied can never be cut again, so that it is committed has to be durable first: the job syncs it.
        self.journal_committed()?;
        let sync = self.journal.sync_scope();
        let as_of = sync.as_ref().map_or(self.journal.synced(), |scope| scope.to);
        let groups = self.plan_groups();
        let state = self.disk_state(as_of);
        for group in self.groups.values_mut() {
            group.checkpointing = group.end;
        }
        self.checkpoint_running = true;
        self.fills_taken.store(0, Ordering::Release);
        self.cache.bump_epoch();
        Ok(Some(CheckpointJob {
            disk: self.disk.clone(),
            cache: Arc::clone(&self.cache),
            inventory: Arc::clone(&self.inventory),
            fills_taken: Arc::clone(&self.fills_taken),
            config: self.config.clone(),
            salt: self.superblock.salt(),
            sync,
            groups,
            removals: std::mem::take(&mut self.removals).into_iter().collect(),
            state,
        }))
    }

    fn plan_groups(&self) -> Vec<GroupPlan<D>> {
        let mut plans = Vec::new();
        for group in self.groups.values() {
            let applied = apply_to(group, &self.config);
            let range = group.first_after(group.applied)..group.first_after(applied);
            let mut existing = BTreeMap::new();
            let mut touched: Vec<ChunkId> = Vec::new();
            for entry in group.entries.range(range.clone()) {
                if matches!(entry.kind, EffectKind::Truncate | EffectKind::DeleteObject) {
                    let chunks = existing.entry(entry.object).or_insert_with(|| group.chunks_in_files(entry.object));
                    touched.extend(&*chunks);
                } else if touched.last() != Some(&entry.chunk()) {
                    touched.push(entry.chunk());
                }
            }
            // Cheaper than a look for each entry: there may be very many, and guests wait for this thread.
            touched.sort_unstable();
            touched.dedup();
            let mark_of = |chunk: ChunkId| Some((chunk, group.chunks.get(&chunk)?.mark));
            let marks = touched.into_iter().filter_map(mark_of).collect();
            let entries = group.entries.range(range).map(|entry| PlannedEntry {
                entry: *entry,
                segment: Arc::clone(self.journal.segment(u64::from(entry.lap))),
            });
            plans.push(GroupPlan {
                pg: group.pg,
                birth: group.birth,
                size: group.chunk_size,
                applied,
                entries: entries.collect(),
                existing,
                marks,
            });
        }
        plans
    }

    /// The state file's contents once the planned entries are applied.
    fn disk_state(&self, as_of: JournalPosition) -> DiskState {
        let groups = self.groups.values().map(|g| {
            let snapshot = GroupSnapshot { applied: apply_to(g, &self.config), ..g.snapshot() };
            (g.pg, snapshot)
        });
        DiskState {
            life: self.life,
            first_live: self.wanted_first_live(|g| apply_to(g, &self.config)),
            as_of,
            volumes: self.volumes().collect(),
            groups: groups.collect(),
        }
    }

    /// The first lap that is still needed when `applied` is in chunk files.
    pub(crate) fn wanted_first_live(&self, applied: impl Fn(&Group) -> LogPosition) -> u64 {
        let head = self.journal.head().lap;
        let pinned = self.groups.values().filter_map(|g| g.pinned_lap(applied(g))).min().unwrap_or(head);
        let kept = head.saturating_sub(u64::from(self.config.retained_segments));
        let relocated = self.relocated.map_or(u64::MAX, |(lap, _)| lap);
        pinned.min(kept).min(relocated).max(self.journal.first_live())
    }

    /// Copies uncommitted entries out of the oldest segments when the ring runs short, so that one group that cannot
    /// commit does not stop all the others.
    fn relocate_pinned(&mut self) -> Result<()> {
        if self.relocated.is_some_and(|(_, to)| to <= self.journal.synced()) {
            self.relocated = None;
        }
        if self.relocated.is_some() || self.journal.room() * 2 > self.journal.total_bytes() {
            return Ok(());
        }
        let head = self.journal.head().lap;
        let limit = head.saturating_sub(u64::from(self.config.retained_segments));
        let mut moves = Vec::new();
        for group in self.groups.values() {
            let first = group.first_after(apply_to(group, &self.config));
            for entry in group.entries.range(first..).filter(|e| u64::from(e.lap) < limit) {
                moves.push((group.pg, *entry));
            }
        }
        // Oldest first: when there is no room for all, at least the oldest segments are freed.
        moves.sort_by_key(|(_, entry)| entry.lap);
        let Some(oldest) = moves.first().map(|(_, entry)| u64::from(entry.lap)) else { return Ok(()) };
        for (pg, entry) in moves {
            let copied = self.read_entry(&entry)?;
            let body = encode(&copied.header)?;
            let new = NewRecord { kind: Kind::EntryAgain, pg, body: &body, data: &copied.data };
            // Room stays for the records without which nothing could be committed and freed.
            let control = u64::from(self.journal.segment_bytes() / 4);
            if !self.journal.fits([new.bytes(), control].into_iter(), 0) {
                break;
            }
            let at = match self.journal.put(&new) {
                Ok(at) => at,
                Err(error) => return Err(self.poison(error.to_string())),
            };
            self.group_mut(pg)?.relocate(entry.position, at);
        }
        let head = self.journal.head();
        self.written(Ok(head))?;
        self.relocated = Some((oldest, head));
        Ok(())
    }

    /// Takes a checkpoint's outcome: what it applied leaves the overlay, and its segments are free.
    ///
    /// # Errors
    /// When it failed. Out of space is not final; everything else is.
    pub fn finish_checkpoint(&mut self, outcome: CheckpointOutcome) -> Result<()> {
        self.checkpoint_running = false;
        self.fills_taken.store(0, Ordering::Release);
        self.ballast_missing |= outcome.ballast_released;
        self.cache.bump_epoch();
        self.check()?;
        if let Some(to) = outcome.synced {
            for group in self.groups.values_mut() {
                group.durable = group.durable.max(group.checkpointing.min(group.end));
            }
            self.note_synced(to)?;
        }
        let applied = match outcome.result {
            Ok(applied) => applied,
            Err(CheckpointFailure::Fatal(reason)) => return Err(self.poison(reason)),
            Err(CheckpointFailure::NoSpace) => {
                self.removals.extend(outcome.removals);
                if !self.config.has(Mutant::KeepRemovedChunk) {
                    self.forget_files(&outcome.removed);
                }
                let source = std::io::ErrorKind::StorageFull.into();
                return Err(StoreError::Io { what: "checkpoint".to_owned(), source });
            }
        };
        for (pg, birth, position) in &applied.groups {
            if let Some(group) = self.groups.get_mut(pg).filter(|g| g.birth == *birth) {
                group.applied = group.applied.max(*position);
            }
        }
        let births: BTreeMap<PgId, u64> = applied.groups.iter().map(|(pg, birth, _)| (*pg, *birth)).collect();
        for result in applied.chunks {
            if result.replaced {
                self.cache.forget(result.pg, result.chunk);
            } else if let (Some(open), Some(trailer)) = (self.cache.get(result.pg, result.chunk), &result.trailer) {
                open.set_trailer(Arc::clone(trailer));
            }
            let Some(group) = self.groups.get_mut(&result.pg).filter(|g| births.get(&g.pg) == Some(&g.birth)) else {
                continue;
            };
            match result.base {
                Some(base) => group.chunks.insert(result.chunk, base),
                None => group.chunks.remove(&result.chunk),
            };
        }
        for group in self.groups.values_mut().filter(|g| births.get(&g.pg) == Some(&g.birth)) {
            group.forget_applied_overlay();
        }
        self.journal.recycle_before(applied.first_live);
        self.after_recycling();
        if outcome.ballast_released || !self.config.has(Mutant::ForgetBallast) {
            self.restore_ballast();
        }
        self.refresh_space()
    }

    /// Forgets chunk files that a checkpoint removed before it ended early, as recovery would not find them. The entries that
    /// remove the chunks are not applied yet, so the overlay goes on hiding what was in them; the checkpoint that applies
    /// them finds no file to remove, and would leave the chunk known with none: damaged.
    fn forget_files(&mut self, removed: &Removed) {
        for (pg, chunk) in removed {
            self.cache.forget(*pg, *chunk);
            // A replica that was created anew meanwhile has no chunk files yet.
            if let Some(group) = self.groups.get_mut(pg) {
                group.chunks.remove(chunk);
            }
        }
    }

    pub(crate) fn after_recycling(&mut self) {
        let first_live = self.journal.first_live();
        let mut entries: usize = self.groups.values().map(|g| g.entries.len()).sum();
        for group in self.groups.values_mut() {
            group.drop_before_lap(first_live);
            // Entries kept for levelling only give way when the index grows too long.
            while entries > self.config.max_entries && group.drop_applied_front() {
                entries -= 1;
            }
        }
    }

    /// Replaces a small file beside the store's own, which the opener of the disk keeps there: durable when this returns, the old
    /// one or the new one after a loss of power. On a full disk it gets the room that the ballast keeps for openings, as the
    /// state file does: a disk that cannot be begun to be used can have nothing deleted from it.
    ///
    /// # Errors
    /// When it cannot be written or synced.
    pub fn replace_beside(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        let disk = &self.disk;
        let replace = || crate::disk::replace_file(disk, path, bytes).during(path);
        self.ballast_missing |= superblock::with_ballast(disk, &self.config, replace)?;
        Ok(())
    }

    /// Takes the ballast again once there is room for it and as much besides. Until then the next checkpoint tries, and
    /// the next opening.
    pub(crate) fn restore_ballast(&mut self) {
        if !self.ballast_missing {
            return;
        }
        let Ok(usage) = self.disk.usage() else { return };
        if usage.free_bytes > self.config.ballast_bytes.saturating_mul(2) {
            match superblock::create_ballast(&self.disk, self.config.ballast_bytes) {
                Ok(()) => self.ballast_missing = false,
                Err(error) => tracing::warn!(%error, "the ballast could not be restored yet"),
            }
        }
    }

    /// Checkpoints inline, for tools and tests.
    ///
    /// # Errors
    /// As [`Store::finish_checkpoint`].
    pub fn checkpoint_now(&mut self) -> Result<()> {
        match self.begin_checkpoint()? {
            Some(job) => self.finish_checkpoint(job.run()),
            None => Ok(()),
        }
    }
}

/// How far a group may be applied.
pub(crate) fn apply_to(group: &Group, config: &StoreConfig) -> LogPosition {
    if config.has(Mutant::ApplyUncommitted) { group.end } else { group.committed.max(group.applied) }
}
