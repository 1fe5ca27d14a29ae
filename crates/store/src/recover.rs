//! Opening a disk: state file, journal replay, chunk index.
//!
//! Responsible for: arriving at the memory the store had, up to what was durable and as much more as survived.
//! Guarantees: nothing is cut away that a sync mark covers; nothing that was cut comes back; everything recovered is
//! synced before the first answer. Must not know: replication's rules.

use crate::chunk_file::{ChunkCache, NEW_SUFFIX, Trailer, chunk_path, group_dir, parse_chunk_name, parse_group_name};
use crate::config::{Mutant, StoreConfig};
use crate::disk::{DirEntryKind, Disk, OpenMode};
use crate::error::{IoContext, Result, StoreError};
use crate::group::{ChunkBase, EntryRef, Group};
use crate::inventory::{Contents, Inventory, Marks, TrailerMark};
use crate::journal::{Found, Journal, Verdict};
use crate::record::Kind;
use crate::sealed;
use crate::state::{DedupeTable, DiskState, GroupSnapshot, JournalPosition, ReplicaState};
use crate::store::Store;
use crate::superblock::{self, CHUNKS_DIR, Expected, STATE};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_types::{BLOCK_SIZE, ChunkId, ChunkSize, Effect, EntryHeader, LogPosition, PgId, VolumeId, block_hash};

/// What opening a disk found.
#[derive(Clone, PartialEq, Eq, Serialize, Debug, Default)]
pub struct RecoveryReport {
    pub records: u64,
    pub entries: u64,
    /// Journalled blocks that were synced and no longer verify. Reads report them; repair fetches them.
    pub corrupt_blocks: u64,
    /// Chunks whose trailer is lost: all their blocks count as bad until they are rewritten.
    pub damaged_chunks: Vec<(PgId, ChunkId)>,
    /// Files that are not ours; left alone.
    pub unknown_files: Vec<String>,
    /// Why the filesystem is a doubtful choice.
    pub warning: Option<String>,
}

/// Entries found in the journal, by position: the entry and its predecessor's position. Not by sequence number alone: a log
/// that was reset may go on at a smaller one, and what it held before is not applied yet.
type Seen = BTreeMap<LogPosition, (EntryRef, LogPosition)>;

impl<D: Disk> Store<D> {
    /// Opens a disk.
    ///
    /// # Errors
    /// When the disk is not the expected one, is in use, failed, or is corrupt where it was synced.
    pub fn open(disk: D, expected: Expected, mut config: StoreConfig) -> Result<(Self, RecoveryReport)> {
        let superblock = superblock::read_superblock(&disk)?;
        let lock = superblock::take_lock(&disk)?;
        superblock::check(&disk, &superblock, expected, &config)?;
        config.segment_bytes = superblock.segment_bytes;
        config.segments = superblock.segments;
        config.retained_segments = config.retained_segments.min(superblock.segments / 2);
        // What is read below may be in the page cache only, left there by a process that died. Nothing may be built on
        // it, and no trailer slot be overwritten, before it is on the disk.
        disk.sync_all().during("syncing the disk before recovery")?;
        let state = superblock::read_state(&disk)?;
        let life = state.life + 1;
        let journal = Journal::open(&disk, &superblock, life, state.first_live)?;
        let cache = Arc::new(ChunkCache::new(disk.clone(), &config));
        let (inventory, noted) = Inventory::load(disk.clone(), superblock.salt(), &config);
        let usage = disk.usage().during("asking for free space")?;
        let ballast_missing = superblock::ballast_missing(&disk, config.ballast_bytes)?;
        let warning = disk.filesystem().during("asking for the filesystem")?.warning();
        let mut store = Self {
            disk,
            config,
            superblock,
            journal,
            cache,
            inventory: Arc::new(inventory),
            groups: BTreeMap::new(),
            volumes: state.volumes.iter().copied().collect(),
            removals: BTreeSet::new(),
            next_birth: 0,
            life,
            failed: None,
            sync_running: false,
            checkpoint_running: false,
            relocated: None,
            ballast_missing,
            usage,
            appended_since: 0,
            fills_owed: 0,
            fills_taken: Arc::default(),
            pinned: None,
            scratch: Vec::new(),
            _lock: lock,
        };
        let mut report = RecoveryReport { warning, ..RecoveryReport::default() };
        // From here on every record carries a life that no record of an earlier opening has.
        let begun = DiskState { life, ..state.clone() };
        let begin = || sealed::write(&store.disk, &store.config, STATE, &begun);
        store.ballast_missing |= superblock::with_ballast(&store.disk, &store.config, begin)?;
        let as_of = state.as_of;
        for (pg, snapshot) in state.groups {
            let size = *store.volumes.get(&pg.volume).ok_or(StoreError::UnknownVolume { volume: pg.volume })?;
            store.insert_group(pg, size, snapshot);
        }
        let seen = store.replay(as_of, &mut report)?;
        store.settle(seen);
        store.pinned = store.pinned_now();
        store.load_chunks(&noted.marks, &mut report)?;
        store.begin_inventory(&noted)?;
        for (pg, chunk) in &report.damaged_chunks {
            store.cache.note_lost(*pg, *chunk);
        }
        let pgs: Vec<PgId> = store.pgs().collect();
        for pg in pgs {
            store.rebuild_overlay(pg)?;
        }
        store.fills_owed = store.groups.values().map(Group::fills_owed).sum();
        if store.ballast_missing && !store.config.has(Mutant::ForgetBallast) {
            store.restore_ballast();
            store.refresh_space()?;
        }
        Ok((store, report))
    }

    fn replay(&mut self, as_of: JournalPosition, report: &mut RecoveryReport) -> Result<BTreeMap<PgId, Seen>> {
        let config = self.config.clone();
        let mut replay = Replay { store: self, as_of, seen: BTreeMap::new(), report };
        // The journal is walked while the groups change, so it is taken out of the store for the walk.
        let mut journal = std::mem::replace(
            &mut replay.store.journal,
            Journal::open(&replay.store.disk.clone(), &replay.store.superblock, 0, 1)?,
        );
        let walked = journal.recover(as_of, &config, &mut |found| replay.record(found));
        let seen = replay.seen;
        self.journal = journal;
        walked?;
        Ok(seen)
    }

    /// Puts the entries that were found into the groups and finds where each log begins.
    fn settle(&mut self, mut seen: BTreeMap<PgId, Seen>) {
        for group in self.groups.values_mut() {
            let found = seen.remove(&group.pg).unwrap_or_default();
            let mut start = group.end;
            for (entry, previous) in found.values().rev() {
                if entry.position.sequence != start.sequence || entry.position <= group.start {
                    break;
                }
                start = *previous;
            }
            group.start = start;
            let applied = group.applied;
            let kept = found.into_values().map(|(e, _)| e).filter(|e| e.position > start || e.position > applied);
            group.entries = kept.collect();
            group.has_relocated = true;
            group.note_order();
            group.durable = group.end;
            group.syncing = group.end;
            group.checkpointing = group.end;
            group.committed_journalled = group.committed;
        }
    }

    fn load_chunks(&mut self, noted: &Marks, report: &mut RecoveryReport) -> Result<()> {
        for dir in self.disk.list(CHUNKS_DIR).during("listing chunks")? {
            let Some(pg) = parse_group_name(&dir.name).filter(|_| dir.kind == DirEntryKind::Directory) else {
                report.unknown_files.push(format!("{CHUNKS_DIR}/{}", dir.name));
                continue;
            };
            if self.removals.contains(&pg) {
                continue;
            }
            if !self.groups.contains_key(&pg) {
                // Its removal's record is trimmed, so the removal was done; a crash brought directories back.
                self.removals.insert(pg);
                continue;
            }
            self.load_group(pg, noted, report)?;
        }
        Ok(())
    }

    fn load_group(&mut self, pg: PgId, noted: &Marks, report: &mut RecoveryReport) -> Result<()> {
        let Some(size) = self.groups.get(&pg).map(|g| g.chunk_size) else { return Ok(()) };
        for fanout in self.disk.list(&group_dir(pg)).during("listing chunks")? {
            let dir = format!("{}/{}", group_dir(pg), fanout.name);
            for file in self.disk.list(&dir).during("listing chunks")? {
                let path = format!("{dir}/{}", file.name);
                if file.name.ends_with(NEW_SUFFIX) {
                    self.disk.remove(&path).during("removing an unfinished chunk file")?;
                    continue;
                }
                match parse_chunk_name(&file.name).filter(|chunk| chunk_path(pg, *chunk) == path) {
                    Some(chunk) => {
                        let known = noted.get(&(pg, chunk)).copied().unwrap_or_default();
                        let base = self.load_chunk(pg, chunk, size, known, report)?;
                        if let Some(group) = self.groups.get_mut(&pg) {
                            group.chunks.insert(chunk, base);
                        }
                    }
                    None => report.unknown_files.push(path),
                }
            }
        }
        Ok(())
    }

    fn load_chunk(
        &self,
        pg: PgId,
        chunk: ChunkId,
        size: ChunkSize,
        known: TrailerMark,
        report: &mut RecoveryReport,
    ) -> Result<ChunkBase> {
        let path = chunk_path(pg, chunk);
        let file = self.disk.open(&path, OpenMode::ReadOnly).during(&path)?;
        let found = Trailer::read(&file, pg, chunk, size).unwrap_or_else(|error| {
            tracing::error!(%error, path, "a chunk's trailer cannot be read");
            None
        });
        let Some(trailer) = found.filter(|trailer| !self.is_behind(trailer.mark, known)) else {
            report.damaged_chunks.push((pg, chunk));
            let lost = Trailer { mark: known, ..Trailer::new(pg, chunk, size) };
            return Ok(crate::checkpoint::base_of(&lost));
        };
        if trailer.damaged {
            report.damaged_chunks.push((pg, chunk));
        }
        Ok(crate::checkpoint::base_of(&trailer))
    }

    fn is_behind(&self, found: TrailerMark, known: TrailerMark) -> bool {
        match () {
            () if self.config.has(Mutant::IgnoreInventory) => false,
            () if self.config.has(Mutant::IgnoreBirth) => found.serial < known.serial,
            () => found.is_behind(known),
        }
    }

    fn begin_inventory(&self, loaded: &Contents) -> Result<()> {
        let chunks = self.groups.values().flat_map(|group| group.chunks.iter().map(|chunk| (group.pg, chunk)));
        self.inventory.begin(loaded, chunks.map(|(pg, (chunk, base))| ((pg, *chunk), base.mark)))
    }
}

struct Replay<'a, D: Disk> {
    store: &'a mut Store<D>,
    /// The state file holds the effect of every record before this on everything but blocks.
    as_of: JournalPosition,
    seen: BTreeMap<PgId, Seen>,
    report: &'a mut RecoveryReport,
}

impl<D: Disk> Replay<'_, D> {
    fn record(&mut self, found: &Found<'_>) -> Result<Verdict> {
        self.report.records += 1;
        let pg = found.pg();
        let new = found.at >= self.as_of;
        match found.header.kind {
            Kind::Entry | Kind::EntryAgain => return self.entry(pg, found, new),
            Kind::CutTail => {
                let after: LogPosition = body(found)?;
                self.seen.entry(pg).or_default().retain(|_, (entry, _)| entry.position <= after);
                if new {
                    let keep = self.store.config.has(Mutant::KeepCutRecords);
                    let group = self.group(pg, found)?;
                    let records = keep.then(|| group.dedupe.clone());
                    group.cut_log(after);
                    if let Some(records) = records {
                        group.dedupe = records;
                    }
                }
            }
            Kind::RemoveGroup => {
                self.seen.remove(&pg);
                if new {
                    self.store.drop_group(pg);
                }
            }
            Kind::CreateGroup if new && !self.store.groups.contains_key(&pg) => {
                let size =
                    self.store.volumes.get(&pg.volume).copied().ok_or_else(|| corrupt(found, "a group's volume"))?;
                self.store.insert_group(pg, size, GroupSnapshot::default());
            }
            Kind::RegisterVolume if new => {
                let (volume, size): (VolumeId, ChunkSize) = body(found)?;
                self.store.volumes.insert(volume, size);
            }
            Kind::ResetLog if new => {
                let (at, history): (LogPosition, Vec<LogPosition>) = body(found)?;
                self.group(pg, found)?.reset_log(at, history);
            }
            Kind::ReplicaState if new => {
                let state: ReplicaState = body(found)?;
                self.group(pg, found)?;
                self.store.take_state(pg, state)?;
            }
            Kind::Committed if new => {
                let committed: LogPosition = body(found)?;
                let group = self.group(pg, found)?;
                group.committed = group.committed.max(committed);
            }
            Kind::Dedupe if new => {
                let table: DedupeTable = body(found)?;
                self.group(pg, found)?.dedupe = table;
            }
            _ => {}
        }
        Ok(Verdict::Good)
    }

    fn entry(&mut self, pg: PgId, found: &Found<'_>, new: bool) -> Result<Verdict> {
        let header: EntryHeader = body(found)?;
        let bad = self.bad_blocks(pg, &header, found.data);
        if bad > 0 && !found.synced {
            // Design 6: a bad record after the last sync mark ends the log.
            return Ok(Verdict::End);
        }
        self.report.corrupt_blocks += bad;
        self.report.entries += 1;
        let entry = EntryRef::new(&header, found.at, found.header.data_offset());
        if new {
            let group = self.group(pg, found)?;
            if found.header.kind == Kind::EntryAgain {
                if !group.contains(header.position) || header.position > group.end {
                    return Err(corrupt(found, "an entry copied forward is not on the log"));
                }
            } else {
                if header.previous != group.end {
                    return Err(corrupt(found, "an entry does not follow the log's end"));
                }
                group.append_log(&header);
            }
        }
        let mut key = header.position;
        if self.store.config.has(Mutant::SequenceAlone) {
            key.epoch = weft_types::Epoch(0);
        }
        self.seen.entry(pg).or_default().insert(key, (entry, header.previous));
        Ok(Verdict::Good)
    }

    fn bad_blocks(&self, pg: PgId, header: &EntryHeader, data: &[u8]) -> u64 {
        if self.store.config.has(Mutant::TrustData) {
            return 0;
        }
        let Effect::Write { chunk, range, hashes, .. } = &header.effect else { return 0 };
        if data.len() != range.byte_len() {
            return u64::from(range.count);
        }
        let blocks = range.blocks().zip(hashes).zip(data.chunks_exact(BLOCK_SIZE));
        blocks.filter(|((block, hash), bytes)| block_hash(pg.volume, *chunk, *block, bytes) != **hash).count() as u64
    }

    fn group(&mut self, pg: PgId, found: &Found<'_>) -> Result<&mut crate::group::Group> {
        self.store.groups.get_mut(&pg).ok_or_else(|| corrupt(found, "a record of an unknown placement group"))
    }
}

fn body<T: DeserializeOwned>(found: &Found<'_>) -> Result<T> {
    weft_types::codec::decode(found.body).map_err(|error| corrupt(found, &error.to_string()))
}

fn corrupt(found: &Found<'_>, what: &str) -> StoreError {
    StoreError::Corrupt { file: "journal".to_owned(), what: format!("{what} at {}", found.at) }
}
