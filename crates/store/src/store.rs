//! The store of one disk: what its owner calls. See the crate's first lines for the whole interface.
//!
//! Responsible for: putting journal, groups, chunk files and checkpoint together. Guarantees: memory changes only after
//! the journal has the record; after a failed sync nothing is accepted any more. Must not know: replication's rules.

use crate::checkpoint::decode_entry;
use crate::chunk_file::ChunkCache;
use crate::config::{Mutant, StoreConfig};
use crate::disk::{Disk, Usage};
use crate::error::{IoContext, Result, StoreError};
use crate::group::{EffectKind, Group};
use crate::inventory::Inventory;
use crate::journal::{Journal, NewRecord};
use crate::read::read_segment;
use crate::record::Kind;
use crate::room::APPEND_LEAVES_SEGMENTS;
use crate::state::{Completeness, DedupeTable, GroupSnapshot, JournalPosition, ReplicaState};
use crate::superblock::{self, Identity, Superblock};
use serde::Serialize;
use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use weft_types::{ChunkSize, Effect, Entry, EntryHeader, LogPosition, PgId, SessionId, VolumeId};

/// One disk, owned by one thread.
pub struct Store<D: Disk> {
    pub(crate) disk: D,
    pub(crate) config: StoreConfig,
    pub(crate) superblock: Superblock,
    pub(crate) journal: Journal<D>,
    pub(crate) cache: Arc<ChunkCache<D>>,
    pub(crate) inventory: Arc<Inventory<D>>,
    pub(crate) groups: BTreeMap<PgId, Group>,
    pub(crate) volumes: BTreeMap<VolumeId, ChunkSize>,
    /// Removed groups whose files are still there.
    pub(crate) removals: BTreeSet<PgId>,
    pub(crate) next_birth: u64,
    pub(crate) life: u32,
    pub(crate) failed: Option<String>,
    pub(crate) sync_running: bool,
    pub(crate) checkpoint_running: bool,
    /// Segments up to this lap stay until the entries copied out of them are synced.
    pub(crate) relocated: Option<(u64, JournalPosition)>,
    /// The ballast was given up and is to be taken again.
    pub(crate) ballast_missing: bool,
    pub(crate) usage: Usage,
    /// Bytes appended since `usage` was measured.
    pub(crate) appended_since: u64,
    /// Bytes that fills have yet to take in chunk files: exact when `usage` was measured, and with what was appended since.
    pub(crate) fills_owed: u64,
    /// Bytes that the running checkpoint has taken for fills so far: in use, and owed no more.
    pub(crate) fills_taken: Arc<AtomicU64>,
    /// At or before the first lap that holds an entry not yet applied: exact when `usage` was measured. Each report to a
    /// primary tells what room there is, and looking through all groups for each cost more than sending it.
    pub(crate) pinned: Option<u64>,
    pub(crate) scratch: Vec<u8>,
    pub(crate) _lock: D::Lock,
}

/// A point of the journal; compare with [`Store::synced_mark`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct JournalMark(pub(crate) JournalPosition);

/// How full the journal is.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
pub struct JournalPressure {
    /// From the oldest entry that is not in a chunk file to the head.
    pub unapplied_bytes: u64,
    /// From the oldest segment not yet free to the head.
    pub used_bytes: u64,
    pub total_bytes: u64,
    pub entries: u64,
    pub max_entries: u64,
}

impl JournalPressure {
    /// 0 is empty, 1 is full.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        let bytes = self.unapplied_bytes as f64 / (self.total_bytes as f64).max(1.0);
        bytes.max(self.entries_fraction())
    }

    /// Of the entries that the index may hold.
    #[must_use]
    pub fn entries_fraction(&self) -> f64 {
        self.entries as f64 / (self.max_entries as f64).max(1.0)
    }
}

/// Space on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
pub struct Space {
    pub total_bytes: u64,
    pub free_bytes: u64,
    /// Kept free, and blocks, journalled or filled with zeros, that chunk files have yet to take.
    pub reserved_bytes: u64,
}

impl<D: Disk> Store<D> {
    /// Makes an empty directory a disk.
    ///
    /// # Errors
    /// When the directory is not empty, or on I/O errors.
    pub fn format(disk: &D, identity: Identity, config: &StoreConfig) -> Result<()> {
        superblock::format(disk, identity, config)
    }

    pub const fn identity(&self) -> &Identity {
        &self.superblock.identity
    }

    /// Why the disk accepts nothing any more, if it does not.
    pub fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    pub(crate) fn check(&self) -> Result<()> {
        match &self.failed {
            Some(reason) => Err(StoreError::Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    pub(crate) fn poison(&mut self, reason: String) -> StoreError {
        tracing::error!(disk = %self.disk.describe(), reason, "disk failed");
        superblock::mark_failed(&self.disk, &reason);
        self.failed = Some(reason.clone());
        StoreError::Poisoned { reason }
    }

    pub(crate) fn group(&self, pg: PgId) -> Result<&Group> {
        self.groups.get(&pg).ok_or(StoreError::UnknownGroup { pg })
    }

    pub(crate) fn group_mut(&mut self, pg: PgId) -> Result<&mut Group> {
        self.groups.get_mut(&pg).ok_or(StoreError::UnknownGroup { pg })
    }

    // ---- journalling ----

    /// Writes one record at once. A failed write poisons the store: what the file holds is then unknown.
    pub(crate) fn journal_record(&mut self, kind: Kind, pg: PgId, body: &[u8]) -> Result<JournalMark> {
        self.check()?;
        let put = self.journal.put(&NewRecord { kind, pg, body, data: &[] });
        self.written(put)
    }

    pub(crate) fn written(&mut self, put: Result<JournalPosition>) -> Result<JournalMark> {
        match put.and_then(|_| self.journal.flush()) {
            Ok(()) => Ok(JournalMark(self.journal.head())),
            Err(full @ StoreError::JournalFull { .. }) => Err(full),
            Err(error) => Err(self.poison(error.to_string())),
        }
    }

    pub(crate) fn journal_value<T: Serialize>(&mut self, kind: Kind, pg: PgId, value: &T) -> Result<JournalMark> {
        let body = encode(value)?;
        self.journal_record(kind, pg, &body)
    }

    /// Declares a volume's chunk size. Idempotent.
    ///
    /// # Errors
    /// When it is known with another size.
    pub fn register_volume(&mut self, volume: VolumeId, size: ChunkSize) -> Result<()> {
        match self.volumes.get(&volume) {
            Some(have) if *have == size => return Ok(()),
            Some(have) => return Err(StoreError::ChunkSizeDiffers { volume, have: *have, got: size }),
            None => {}
        }
        self.journal_value(Kind::RegisterVolume, PgId { volume, index: 0 }, &(volume, size))?;
        self.volumes.insert(volume, size);
        Ok(())
    }

    pub fn volumes(&self) -> impl Iterator<Item = (VolumeId, ChunkSize)> {
        self.volumes.iter().map(|(volume, size)| (*volume, *size))
    }

    /// Creates an empty replica. Idempotent.
    ///
    /// # Errors
    /// When the volume is not registered.
    pub fn create_pg(&mut self, pg: PgId) -> Result<JournalMark> {
        if self.groups.contains_key(&pg) {
            return Ok(JournalMark(self.journal.head()));
        }
        let size = *self.volumes.get(&pg.volume).ok_or(StoreError::UnknownVolume { volume: pg.volume })?;
        let mark = self.journal_record(Kind::CreateGroup, pg, &[])?;
        self.insert_group(pg, size, GroupSnapshot::default());
        Ok(mark)
    }

    pub(crate) fn insert_group(&mut self, pg: PgId, size: ChunkSize, snapshot: GroupSnapshot) {
        self.next_birth += 1;
        self.groups.insert(pg, Group::new(pg, self.next_birth, size, snapshot));
    }

    /// Removes a replica with all its data. Files go with the next checkpoint.
    ///
    /// # Errors
    /// When there is no such replica.
    pub fn remove_pg(&mut self, pg: PgId) -> Result<JournalMark> {
        self.group(pg)?;
        let mark = self.journal_record(Kind::RemoveGroup, pg, &[])?;
        self.drop_group(pg);
        Ok(mark)
    }

    pub(crate) fn drop_group(&mut self, pg: PgId) {
        self.groups.remove(&pg);
        self.removals.insert(pg);
        self.cache.forget_group(pg);
        self.cache.bump_epoch();
    }

    pub fn pgs(&self) -> impl Iterator<Item = PgId> {
        self.groups.keys().copied()
    }

    // ---- the log ----

    /// Appends entries: all of them or none. They are in the page cache when this returns.
    ///
    /// # Errors
    /// When they do not follow the log's end, are malformed, or the journal is full; nothing has changed then.
    pub fn append<E: Borrow<Entry>>(&mut self, pg: PgId, entries: &[E]) -> Result<JournalMark> {
        self.check()?;
        let mut bodies = std::mem::take(&mut self.scratch);
        bodies.clear();
        let group = self.group(pg)?;
        let mut end = group.end;
        let mut sizes = Vec::with_capacity(entries.len());
        for entry in entries.iter().map(Borrow::borrow) {
            check_entry(group, entry, end)?;
            end = entry.header.position;
            let from = bodies.len();
            bodies = postcard::to_extend(&entry.header, bodies).map_err(|_| StoreError::Malformed {
                pg,
                position: entry.header.position,
                what: "it cannot be encoded",
            })?;
            sizes.push(bodies.len() - from);
        }
        let records = entries.iter().map(Borrow::borrow).zip(&sizes);
        let bytes = |(entry, body): (&Entry, &usize)| {
            crate::record::padded((crate::record::HEADER_BYTES + body + entry.data.len()) as u64)
        };
        let needed = records.clone().map(bytes).sum();
        if !self.journal.fits(records.map(bytes), APPEND_LEAVES_SEGMENTS) {
            self.scratch = bodies;
            return Err(StoreError::JournalFull { needed });
        }
        let result = self.append_encoded(pg, entries, &bodies, &sizes);
        self.scratch = bodies;
        self.appended_since += needed;
        result
    }

    fn append_encoded<E: Borrow<Entry>>(
        &mut self,
        pg: PgId,
        entries: &[E],
        bodies: &[u8],
        sizes: &[usize],
    ) -> Result<JournalMark> {
        let mut rest = bodies;
        for (entry, size) in entries.iter().map(Borrow::borrow).zip(sizes) {
            let (body, after) = rest.split_at(*size);
            rest = after;
            let put = self.journal.put(&NewRecord { kind: Kind::Entry, pg, body, data: &entry.data });
            let at = match put {
                Ok(at) => at,
                Err(error) => return Err(self.poison(format!("journal append failed midway: {error}"))),
            };
            let data_at = (crate::record::HEADER_BYTES + size) as u32;
            self.pinned.get_or_insert(at.lap);
            let group = self.group_mut(pg)?;
            group.append(&entry.header, at, data_at);
            let newest = group.fills.back().filter(|(position, _)| *position == entry.header.position);
            self.fills_owed += newest.map_or(0, |(_, bytes)| *bytes);
        }
        let head = self.journal.head();
        self.written(Ok(head))
    }

    pub fn log_start(&self, pg: PgId) -> Result<LogPosition> {
        Ok(self.group(pg)?.start)
    }

    pub fn log_end(&self, pg: PgId) -> Result<LogPosition> {
        Ok(self.group(pg)?.end)
    }

    pub fn committed(&self, pg: PgId) -> Result<LogPosition> {
        Ok(self.group(pg)?.committed)
    }

    /// Everything up to here is in chunk files, synced.
    pub fn applied(&self, pg: PgId) -> Result<LogPosition> {
        Ok(self.group(pg)?.applied)
    }

    /// Everything up to here survives power loss.
    pub fn durable(&self, pg: PgId) -> Result<LogPosition> {
        Ok(self.group(pg)?.durable)
    }

    /// Last position of every epoch, oldest first.
    pub fn history(&self, pg: PgId) -> Result<&[LogPosition]> {
        Ok(&self.group(pg)?.history)
    }

    /// Whether a position lies on this log, trimmed or not.
    pub fn contains(&self, pg: PgId, position: LogPosition) -> Result<bool> {
        Ok(self.group(pg)?.contains(position))
    }

    /// Entries behind a position, oldest first. Reads the journal, usually from the page cache.
    ///
    /// # Errors
    /// [`StoreError::Trimmed`] when entries behind it are gone; corruption when one does not verify.
    pub fn entries_after(
        &self,
        pg: PgId,
        after: LogPosition,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Vec<Entry>> {
        let group = self.group(pg)?;
        if after < group.start {
            return Err(StoreError::Trimmed { pg, after, start: group.start });
        }
        let mut out = Vec::new();
        let mut bytes = 0;
        for entry in group.entries.range(group.first_after(after)..).take(max_entries) {
            let length = usize::from(entry.data_at) + entry.range_bytes();
            if !out.is_empty() && bytes + length > max_bytes {
                break;
            }
            bytes += length;
            out.push(self.read_entry(entry)?);
        }
        Ok(out)
    }

    pub(crate) fn read_entry(&self, entry: &crate::group::EntryRef) -> Result<Entry> {
        let data_at = usize::from(entry.data_at);
        let segment = self.journal.segment(u64::from(entry.lap));
        let record = bytes::Bytes::from(read_segment(segment, entry.offset, data_at + entry.range_bytes())?);
        let header = self.decode(&record, entry)?;
        let data = record.slice(data_at..);
        Ok(Entry { header, data })
    }

    fn decode(&self, record: &[u8], entry: &crate::group::EntryRef) -> Result<EntryHeader> {
        decode_entry(record, self.journal.place(entry.at())).filter(|h| h.position == entry.position).ok_or_else(|| {
            StoreError::JournalCorrupt { at: entry.at().to_string(), synced_to: self.journal.synced().to_string() }
        })
    }

    /// Drops the log behind a position and everything that came from it. Durable with the next sync.
    ///
    /// # Errors
    /// When entries behind it are committed, or the position is not on the log.
    pub fn cut_tail(&mut self, pg: PgId, after: LogPosition) -> Result<JournalMark> {
        let group = self.group(pg)?;
        if after == group.end {
            return Ok(JournalMark(self.journal.head()));
        }
        if after < group.committed || after < group.applied {
            return Err(StoreError::CutBelowCommitted { pg, after, committed: group.committed });
        }
        if !group.contains(after) || after > group.end {
            return Err(StoreError::NotInLog { pg, position: after });
        }
        let mark = if self.config.has(Mutant::ForgetCut) {
            JournalMark(self.journal.head())
        } else {
            self.journal_value(Kind::CutTail, pg, &after)?
        };
        let keep = self.config.has(Mutant::KeepCutRecords);
        let group = self.group_mut(pg)?;
        let records = keep.then(|| group.dedupe.clone());
        group.cut_log(after);
        if let Some(records) = records {
            group.dedupe = records;
        }
        self.rebuild_overlay(pg)?;
        Ok(mark)
    }

    /// Builds a group's overlay anew from the entries that are not applied.
    pub(crate) fn rebuild_overlay(&mut self, pg: PgId) -> Result<()> {
        let group = self.group(pg)?;
        let unapplied: Vec<_> = group.entries.range(group.first_after(group.applied)..).copied().collect();
        let group = self.group_mut(pg)?;
        group.overlay.clear();
        group.fills.clear();
        for entry in unapplied {
            if entry.kind == EffectKind::Nothing {
                continue;
            }
            let segment = self.journal.segment(u64::from(entry.lap));
            let record = read_segment(segment, entry.offset, usize::from(entry.data_at))?;
            let header = self.decode(&record, &entry)?;
            self.group_mut(pg)?.overlay_entry(&header, &entry);
        }
        Ok(())
    }

    /// Lets the log go on at another position (a resync brings what lies between). `history` is that of the source up
    /// to `at`. What the log holds now counts as committed; cut it first where it diverges.
    ///
    /// # Errors
    /// When `at` lies before the log's end.
    pub fn reset_log(&mut self, pg: PgId, at: LogPosition, history: Vec<LogPosition>) -> Result<JournalMark> {
        if at < self.group(pg)?.end {
            return Err(StoreError::NotInLog { pg, position: at });
        }
        let mark = self.journal_value(Kind::ResetLog, pg, &(at, &history))?;
        self.group_mut(pg)?.reset_log(at, history);
        Ok(mark)
    }

    /// Entries up to here may go to chunk files, and can never be cut again. Only rises; journalled with the next sync.
    ///
    /// # Errors
    /// When the position lies behind the log's end.
    pub fn set_committed(&mut self, pg: PgId, position: LogPosition) -> Result<()> {
        let group = self.group_mut(pg)?;
        if position > group.end {
            return Err(StoreError::NotInLog { pg, position });
        }
        group.committed = group.committed.max(position);
        Ok(())
    }

    // ---- replica state ----

    pub fn replica_state(&self, pg: PgId) -> Option<&ReplicaState> {
        self.groups.get(&pg).map(|group| &group.state)
    }

    /// Durable once [`Store::synced_mark`] has reached the answer.
    ///
    /// # Errors
    /// When there is no such replica.
    pub fn save_replica_state(&mut self, pg: PgId, state: &ReplicaState) -> Result<JournalMark> {
        self.group(pg)?;
        let mark = self.journal_value(Kind::ReplicaState, pg, state)?;
        self.take_state(pg, state.clone())?;
        Ok(mark)
    }

    pub(crate) fn take_state(&mut self, pg: PgId, state: ReplicaState) -> Result<()> {
        let knows_all = self.config.has(Mutant::CopyKnowsAll);
        let group = self.group_mut(pg)?;
        let completed =
            group.state.completeness == Completeness::Partial && state.completeness == Completeness::Complete;
        if completed && !knows_all {
            group.forget_until_complete();
        }
        group.state = state;
        Ok(())
    }

    pub fn dedupe(&self, pg: PgId) -> Result<&DedupeTable> {
        Ok(&self.group(pg)?.dedupe)
    }

    /// Replaces the whole table by a copy of the primary's (design 5.8).
    ///
    /// # Errors
    /// When there is no such replica, or the table is too long for a journal record.
    pub fn replace_dedupe_table(&mut self, pg: PgId, table: DedupeTable) -> Result<JournalMark> {
        self.group(pg)?;
        let mark = self.journal_value(Kind::Dedupe, pg, &table)?;
        self.group_mut(pg)?.dedupe = table;
        Ok(mark)
    }

    /// Forgets the operations of sessions that have ended. Reaches the disk with the next checkpoint; what a crash
    /// brings back is harmless and is forgotten again.
    pub fn retain_sessions(&mut self, mut keep: impl FnMut(SessionId) -> bool) {
        for group in self.groups.values_mut() {
            group.dedupe.sessions.retain(|session, _| keep(*session));
        }
    }

    // ---- pressure and space ----

    pub fn journal_pressure(&self) -> JournalPressure {
        JournalPressure {
            unapplied_bytes: self.bytes_from(self.pinned_now()),
            used_bytes: self.journal.bytes_since(self.journal.first_live()),
            total_bytes: self.journal.total_bytes(),
            entries: self.groups.values().map(|g| (g.entries.len() - g.first_after(g.applied)) as u64).sum(),
            max_entries: self.config.max_entries as u64,
        }
    }

    pub(crate) fn pinned_now(&self) -> Option<u64> {
        self.groups.values().filter_map(|g| g.pinned_lap(g.applied)).min()
    }

    fn bytes_from(&self, pinned: Option<u64>) -> u64 {
        pinned.map_or(0, |lap| self.journal.bytes_since(lap.min(self.journal.head().lap)))
    }

    /// Measures the filesystem's free space again.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn refresh_space(&mut self) -> Result<()> {
        self.pinned = self.pinned_now();
        // Asked before the filesystem is: what is taken in between counts twice rather than not at all.
        let taken = self.fills_taken.load(Ordering::Acquire);
        self.fills_owed = self.groups.values().map(Group::fills_owed).sum::<u64>().saturating_sub(taken);
        self.usage = self.disk.usage().during("asking for free space")?;
        self.appended_since = 0;
        Ok(())
    }

    pub fn space(&self) -> Space {
        // What a fill will take belongs to it from the moment it is in the journal: nobody else is admitted to it.
        let fills = if self.config.has(Mutant::FillOwesNothing) { 0 } else { self.fills_owed };
        let unapplied = self.bytes_from(self.pinned) + fills;
        Space {
            total_bytes: self.usage.total_bytes,
            free_bytes: self.usage.free_bytes,
            reserved_bytes: self.config.reserve_bytes + unapplied,
        }
    }

    /// Bytes of entries that may be admitted now: what chunk files and journal are sure to take (design 5.10).
    pub fn credits(&self) -> u64 {
        if self.failed.is_some() {
            return 0;
        }
        let space = self.space();
        let on_disk = space.free_bytes.saturating_sub(space.reserved_bytes + self.appended_since);
        // One segment is for control records, one for what is sequenced already and on its way here.
        let spare = 2 * u64::from(self.journal.segment_bytes());
        on_disk.min(self.journal.room().saturating_sub(spare))
    }
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    postcard::to_stdvec(value)
        .map_err(|error| StoreError::Corrupt { file: "journal record".to_owned(), what: error.to_string() })
}

fn check_entry(group: &Group, entry: &Entry, end: LogPosition) -> Result<()> {
    let header = &entry.header;
    let (pg, position) = (group.pg, header.position);
    let malformed = |what| Err(StoreError::Malformed { pg, position, what });
    if header.previous != end {
        return Err(StoreError::NotContiguous { pg, end, got: header.previous });
    }
    if position.sequence.0 != end.sequence.0 + 1 || position.epoch < end.epoch {
        return malformed("its position does not follow");
    }
    if entry.data.len() != header.effect.data_len() {
        return malformed("its data have another length than its effect says");
    }
    match &header.effect {
        Effect::Write { range, hashes, .. } if hashes.len() != usize::from(range.count) => {
            malformed("it has not one hash a block")
        }
        Effect::Write { range, end_bytes, .. }
            if range.is_empty()
                || range.end() > u32::from(group.chunk_size.blocks())
                || *end_bytes > group.chunk_size.bytes() =>
        {
            malformed("its range lies outside the chunk")
        }
        Effect::Discard { range, .. } if range.end() > u32::from(group.chunk_size.blocks()) => {
            malformed("its range lies outside the chunk")
        }
        Effect::Fill { range, absent_blocks, .. }
            if range.is_empty()
                || range.end() > u32::from(group.chunk_size.blocks())
                || *absent_blocks > range.count =>
        {
            malformed("its range lies outside the chunk")
        }
        _ => Ok(()),
    }
}
