//! Bringing committed entries from the journal into chunk files (design 6).
//!
//! Responsible for: the order of it: journal synced, blocks and trailers written, all of it synced, then noted in the
//! inventory, only then the state file that frees segments. Guarantees: a crash between any two writes leaves a disk that replay repairs, because
//! applying an entry twice, or a suffix of the log on top of itself, ends in the same state. Must not know: the store's
//! memory; a job works on what `begin_checkpoint` copied for it.

use crate::chunk_file::{ChunkCache, NEW_SUFFIX, OpenChunk, Trailer, chunk_dir, chunk_path, group_dir};
use crate::config::{Mutant, StoreConfig};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::{IoContext, Result, StoreError};
use crate::group::{ChunkBase, EffectKind, EntryRef, end_in_chunk, keep_in_chunk};
use crate::inventory::{Change, Inventory, TrailerMark};
use crate::journal::{Segment, SyncScope};
use crate::overlay::Summary;
use crate::read::read_segment;
use crate::record::{HEADER_BYTES, Header, Place};
use crate::sealed;
use crate::state::DiskState;
use crate::superblock::{STATE, kept_for_opening, release_ballast};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use weft_types::checksum::zero_hash;
use weft_types::{
    BLOCK_SIZE, BlockHash, BlockIndex, ChunkId, ChunkSize, Effect, EntryHeader, LogPosition, ObjectId, PgId,
    PresentBlocks,
};

/// Above this many files one syncfs is cheaper than a sync of each.
const FILES_SYNCED_ONE_BY_ONE: usize = 8;
/// Blocks are written in runs of at most this many.
const RUN_BLOCKS: usize = 256;

/// Work for any thread. Made by `begin_checkpoint`.
pub struct CheckpointJob<D: Disk> {
    pub(crate) disk: D,
    pub(crate) cache: Arc<ChunkCache<D>>,
    pub(crate) inventory: Arc<Inventory<D>>,
    /// Grows with what is taken for fills.
    pub(crate) fills_taken: Arc<AtomicU64>,
    pub(crate) config: StoreConfig,
    pub(crate) salt: u64,
    pub(crate) sync: Option<SyncScope<D>>,
    pub(crate) groups: Vec<GroupPlan<D>>,
    pub(crate) removals: Vec<PgId>,
    pub(crate) state: DiskState,
}

pub(crate) struct GroupPlan<D: Disk> {
    pub pg: PgId,
    pub birth: u64,
    pub size: ChunkSize,
    pub applied: LogPosition,
    pub entries: Vec<PlannedEntry<D>>,
    /// Chunks that exist in files, of objects that are truncated or deleted.
    pub existing: BTreeMap<ObjectId, Vec<ChunkId>>,
    /// Trailers that the files of these chunks had last.
    pub marks: BTreeMap<ChunkId, TrailerMark>,
}

pub(crate) struct PlannedEntry<D: Disk> {
    pub entry: EntryRef,
    pub segment: Arc<Segment<D::File>>,
}

/// How a checkpoint ended. Goes back to `finish_checkpoint`.
pub struct CheckpointOutcome {
    pub(crate) result: std::result::Result<Applied, CheckpointFailure>,
    pub(crate) synced: Option<crate::state::JournalPosition>,
    pub(crate) ballast_released: bool,
    /// To be done again when the checkpoint did not succeed.
    pub(crate) removals: Vec<PgId>,
    /// Chunks whose files are gone, also when the checkpoint did not succeed.
    pub(crate) removed: Removed,
}

pub(crate) type Removed = BTreeSet<(PgId, ChunkId)>;

pub(crate) struct Applied {
    pub groups: Vec<(PgId, u64, LogPosition)>,
    pub chunks: Vec<ChunkResult>,
    pub first_live: u64,
}

pub(crate) enum CheckpointFailure {
    /// Nothing is known about what reached the disk: the store is poisoned.
    Fatal(String),
    /// No space even without what it may take of the ballast: tried again later.
    NoSpace,
}

pub(crate) struct ChunkResult {
    pub pg: PgId,
    pub chunk: ChunkId,
    /// `None`: the chunk has no file any more.
    pub base: Option<ChunkBase>,
    pub trailer: Option<Arc<Trailer>>,
    /// The open file is another one now.
    pub replaced: bool,
}

enum Op<D: Disk> {
    Write {
        position: LogPosition,
        first: u16,
        hashes: Vec<BlockHash>,
        end_bytes: u32,
        generation: weft_types::TruncateGeneration,
        segment: Arc<Segment<D::File>>,
        data_offset: u32,
    },
    Discard {
        position: LogPosition,
        from: u32,
        to: u32,
        generation: weft_types::TruncateGeneration,
    },
    Truncate {
        position: LogPosition,
        keep: u32,
        end_bytes: u32,
        generation: weft_types::TruncateGeneration,
    },
    Delete {
        position: LogPosition,
    },
    Fill {
        position: LogPosition,
        from: u32,
        to: u32,
        generation: weft_types::TruncateGeneration,
        present: PresentBlocks,
    },
}

type Work<D> = BTreeMap<(PgId, ChunkId), ChunkWork<D>>;

/// What is to be done to one chunk.
struct ChunkWork<D: Disk> {
    size: ChunkSize,
    /// The trailer that its file had last.
    known: TrailerMark,
    ops: Vec<Op<D>>,
}

/// Files written and names changed, to be synced.
struct Touched<D: Disk> {
    files: Vec<Arc<OpenChunk<D>>>,
    fresh: Vec<(D::File, String)>,
    removed: BTreeSet<String>,
    made_dirs: BTreeSet<String>,
}

impl<D: Disk> CheckpointJob<D> {
    /// Applies, syncs, and writes the state file. Blocking.
    #[must_use]
    pub fn run(self) -> CheckpointOutcome {
        let mut outcome = CheckpointOutcome {
            result: Err(CheckpointFailure::NoSpace),
            synced: None,
            ballast_released: false,
            removals: self.removals.clone(),
            removed: Removed::new(),
        };
        if let Some(scope) = self.sync.as_ref().filter(|_| !self.config.has(Mutant::ApplyBeforeSync)) {
            if !self.config.has(Mutant::SkipFsync)
                && let Err(error) = scope.run()
            {
                outcome.result = Err(CheckpointFailure::Fatal(format!("journal sync failed: {error}")));
                return outcome;
            }
            outcome.synced = Some(scope.to);
        }
        let mut result = self.apply(&mut outcome.removed);
        if matches!(&result, Err(error) if error.is_no_space()) {
            // Design 6: the ballast keeps recovery and deletion working on a full disk.
            outcome.ballast_released = true;
            let keep_bytes = kept_for_opening(self.config.ballast_bytes);
            let released = release_ballast(&self.disk, keep_bytes).and_then(|()| self.sync_first_attempt());
            result = released.and_then(|()| self.apply(&mut outcome.removed));
        }
        outcome.result = match result {
            Ok(applied) => Ok(applied),
            Err(error) if error.is_no_space() => match self.disk.sync_all() {
                Ok(()) => Err(CheckpointFailure::NoSpace),
                Err(error) => Err(CheckpointFailure::Fatal(format!("sync failed: {error}"))),
            },
            Err(error) => Err(CheckpointFailure::Fatal(format!("checkpoint failed: {error}"))),
        };
        outcome
    }

    /// The second attempt finds done what the first one did to names, and would not sync it.
    fn sync_first_attempt(&self) -> Result<()> {
        if self.config.has(Mutant::SkipNameSync) {
            return Ok(());
        }
        self.disk.sync_all().during("syncing what the first attempt did")
    }

    fn apply(&self, removed: &mut Removed) -> Result<Applied> {
        // A second attempt begins with nothing.
        self.fills_taken.store(0, Ordering::Release);
        for pg in &self.removals {
            self.disk.remove_tree(&group_dir(*pg)).during("removing a placement group")?;
        }
        let work = self.collect()?;
        let mut touched =
            Touched { files: Vec::new(), fresh: Vec::new(), removed: BTreeSet::new(), made_dirs: BTreeSet::new() };
        let mut chunks = Vec::new();
        for ((pg, chunk), work) in work {
            chunks.extend(self.apply_chunk(pg, chunk, work, &mut touched, removed)?);
        }
        if self.config.has(Mutant::InventoryBeforeSync) {
            self.inventory.append(&self.changes(&chunks))?;
        }
        if self.config.has(Mutant::TrimBeforeTrailerSync) {
            for (_, path) in touched.fresh {
                self.disk.rename(&format!("{path}{NEW_SUFFIX}"), &path).during("renaming a chunk file")?;
            }
        } else {
            self.sync(touched)?;
        }
        if !self.config.has(Mutant::InventoryBeforeSync) {
            self.inventory.append(&self.changes(&chunks))?;
        }
        // Only now may segments be freed: data, trailers and names are on the disk.
        sealed::write(&self.disk, &self.config, STATE, &self.state)?;
        Ok(Applied {
            groups: self.groups.iter().map(|g| (g.pg, g.birth, g.applied)).collect(),
            chunks,
            first_live: self.state.first_live,
        })
    }

    /// What the inventory has to say of this checkpoint.
    fn changes(&self, chunks: &[ChunkResult]) -> Vec<Change> {
        let removed = self.removals.iter().map(|pg| Change::GroupRemoved { pg: *pg });
        let changed = chunks.iter().map(|result| match result.base {
            Some(base) => Change::Written { pg: result.pg, chunk: result.chunk, mark: base.mark },
            None => Change::Removed { pg: result.pg, chunk: result.chunk },
        });
        removed.chain(changed).collect()
    }

    fn sync(&self, touched: Touched<D>) -> Result<()> {
        let names_changed = !touched.fresh.is_empty() || !touched.removed.is_empty() || !self.removals.is_empty();
        let files = touched.files.len() + touched.fresh.len();
        let all_at_once = files > FILES_SYNCED_ONE_BY_ONE;
        if all_at_once {
            self.disk.sync_all().during("syncing chunk files")?;
        } else {
            for open in &touched.files {
                open.file.sync_data().during("syncing a chunk file")?;
            }
            for (file, path) in &touched.fresh {
                file.sync_data().during(path)?;
            }
        }
        for (_, path) in &touched.fresh {
            self.disk.rename(&format!("{path}{NEW_SUFFIX}"), path).during("renaming a chunk file")?;
        }
        if !names_changed || self.config.has(Mutant::SkipNameSync) {
            return Ok(());
        }
        if all_at_once || !touched.made_dirs.is_empty() || !self.removals.is_empty() {
            return self.disk.sync_all().during("syncing chunk files' names");
        }
        let fresh = touched.fresh.iter().map(|(_, path)| crate::disk::parent(path).to_owned());
        let dirs: BTreeSet<String> = fresh.chain(touched.removed).collect();
        dirs.iter().try_for_each(|dir| self.disk.sync_dir(dir).during("syncing chunk files' names"))
    }

    /// Sorts the entries' effects by chunk, each chunk's in log order.
    fn collect(&self) -> Result<Work<D>> {
        let mut work: Work<D> = BTreeMap::new();
        for group in &self.groups {
            let mut seen: BTreeMap<ObjectId, BTreeSet<ChunkId>> = BTreeMap::new();
            for planned in &group.entries {
                if planned.entry.kind == EffectKind::Nothing {
                    continue;
                }
                let header = self.read_header(planned)?;
                self.sort_entry(group, planned, header, &mut seen, &mut work);
            }
        }
        Ok(work)
    }

    fn sort_entry(
        &self,
        group: &GroupPlan<D>,
        planned: &PlannedEntry<D>,
        header: EntryHeader,
        seen: &mut BTreeMap<ObjectId, BTreeSet<ChunkId>>,
        work: &mut Work<D>,
    ) {
        let position = header.position;
        let begun = |chunk: ChunkId| ChunkWork {
            size: group.size,
            known: group.marks.get(&chunk).copied().unwrap_or_default(),
            ops: Vec::new(),
        };
        let mut put = |chunk: ChunkId, op: Op<D>| {
            work.entry((group.pg, chunk)).or_insert_with(|| begun(chunk)).ops.push(op);
        };
        match header.effect {
            Effect::Nothing => {}
            Effect::Write { chunk, range, hashes, end_bytes, generation } => {
                seen.entry(chunk.object).or_default().insert(chunk);
                let segment = Arc::clone(&planned.segment);
                let data_offset = planned.entry.data_offset();
                let first = range.first.0;
                put(chunk, Op::Write { position, first, hashes, end_bytes, generation, segment, data_offset });
            }
            Effect::Discard { chunk, range, generation } => {
                put(chunk, Op::Discard { position, from: u32::from(range.first.0), to: range.end(), generation });
            }
            Effect::DeleteChunk { chunk } => put(chunk, Op::Delete { position }),
            Effect::Fill { chunk, range, generation, present, .. } => {
                seen.entry(chunk.object).or_default().insert(chunk);
                let (from, to) = (u32::from(range.first.0), range.end());
                put(chunk, Op::Fill { position, from, to, generation, present });
            }
            Effect::Truncate { object, keep_blocks, size_bytes, generation } => {
                for chunk in group.chunks_of(object, seen) {
                    let keep = keep_in_chunk(keep_blocks, chunk, group.size);
                    let end_bytes = end_in_chunk(size_bytes, chunk, group.size);
                    let truncate = Op::Truncate { position, keep, end_bytes, generation };
                    put(chunk, if keep == 0 { Op::Delete { position } } else { truncate });
                }
            }
            Effect::DeleteObject { object } => {
                for chunk in group.chunks_of(object, seen) {
                    put(chunk, Op::Delete { position });
                }
            }
        }
    }

    fn read_header(&self, planned: &PlannedEntry<D>) -> Result<EntryHeader> {
        let entry = &planned.entry;
        let bytes = read_segment(&planned.segment, entry.offset, usize::from(entry.data_at))?;
        decode_entry(&bytes, Place { salt: self.salt, lap: u64::from(entry.lap), offset: entry.offset })
            .filter(|header| header.position == entry.position)
            .ok_or_else(|| StoreError::JournalCorrupt {
                at: entry.at().to_string(),
                synced_to: self.state.as_of.to_string(),
            })
    }

    fn apply_chunk(
        &self,
        pg: PgId,
        chunk: ChunkId,
        work: ChunkWork<D>,
        touched: &mut Touched<D>,
        removed: &mut Removed,
    ) -> Result<Option<ChunkResult>> {
        let ChunkWork { size, known, ops } = work;
        // One that the first attempt removed may still be open in the cache.
        let gone = removed.contains(&(pg, chunk)) && !self.config.has(Mutant::KeepRemovedChunk);
        let open = if gone { None } else { self.cache.open_uncached(pg, chunk, size, known)? };
        let mut next = NextChunk::new(pg, chunk, size, open.as_ref().map(|o| o.trailer()));
        for op in ops {
            next.apply(op);
        }
        if self.config.has(Mutant::ForgetEnds) {
            next.summary.end_bytes = 0;
        }
        if self.config.has(Mutant::FillIsNoChange) && next.only_filled {
            next.summary.version = open.as_ref().map_or(LogPosition::ZERO, |o| o.trailer().version);
        }
        if self.config.has(Mutant::FillTakesNoRoom) {
            next.filled.clear();
        }
        let path = chunk_path(pg, chunk);
        if !next.summary.exists {
            if open.is_some() {
                self.disk.remove(&path).during("removing a chunk file")?;
                touched.removed.insert(chunk_dir(pg, chunk));
                removed.insert((pg, chunk));
            } else if !gone {
                return Ok(None);
            }
            return Ok(Some(ChunkResult { pg, chunk, base: None, trailer: None, replaced: true }));
        }
        let trailer = next.trailer(self.birth());
        let result = |replaced| {
            Ok(Some(ChunkResult {
                pg,
                chunk,
                base: Some(base_of(&trailer)),
                trailer: Some(Arc::new(trailer.clone())),
                replaced,
            }))
        };
        match open.filter(|_| !next.fresh) {
            Some(open) => {
                self.write(&next, &open.file)?;
                open.file
                    .write_at(&trailer.encode(size), Trailer::slot_offset(size, trailer.mark.serial))
                    .during(&path)?;
                touched.files.push(open);
                result(false)
            }
            None => {
                let file = self.create(pg, chunk, &path, touched)?;
                // Both slots lie within the file from the start, and have their room: no later change of what is present
                // may need any.
                file.allocate(Trailer::slot_offset(size, 0), 2 * Trailer::slot_bytes(size)).during(&path)?;
                self.write(&next, &file)?;
                file.write_at(&trailer.encode(size), Trailer::slot_offset(size, trailer.mark.serial)).during(&path)?;
                touched.fresh.push((file, path.clone()));
                result(true)
            }
        }
    }

    /// No two checkpoints that make a file of the same name have it: between them something was journalled.
    fn birth(&self) -> u64 {
        self.state.as_of.lap << 32 | u64::from(self.state.as_of.offset)
    }

    fn write(&self, next: &NextChunk<D>, file: &D::File) -> Result<()> {
        next.write(file)?;
        self.fills_taken.fetch_add((next.filled.len() * BLOCK_SIZE) as u64, Ordering::AcqRel);
        Ok(())
    }

    fn create(&self, pg: PgId, chunk: ChunkId, path: &str, touched: &mut Touched<D>) -> Result<D::File> {
        let temporary = format!("{path}{NEW_SUFFIX}");
        match self.disk.open(&temporary, OpenMode::Truncate) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let dir = chunk_dir(pg, chunk);
                self.disk.make_dirs(&dir).during(&dir)?;
                touched.made_dirs.insert(dir);
                self.disk.open(&temporary, OpenMode::Truncate).during(path)
            }
            other => other.during(path),
        }
    }
}

impl<D: Disk> GroupPlan<D> {
    /// Chunks that exist at this point of the log: in files, or written by earlier entries of this checkpoint.
    fn chunks_of(&self, object: ObjectId, seen: &BTreeMap<ObjectId, BTreeSet<ChunkId>>) -> BTreeSet<ChunkId> {
        let mut out: BTreeSet<ChunkId> = self.existing.get(&object).into_iter().flatten().copied().collect();
        out.extend(seen.get(&object).into_iter().flatten());
        out
    }
}

pub(crate) fn base_of(trailer: &Trailer) -> ChunkBase {
    ChunkBase {
        version: trailer.version,
        generation: trailer.generation,
        end_bytes: trailer.end_bytes,
        present: trailer.present(),
        mark: trailer.mark,
    }
}

/// Decodes an entry's header from the front of its record.
pub(crate) fn decode_entry(bytes: &[u8], place: Place) -> Option<EntryHeader> {
    let header = Header::decode(bytes, place, false)?;
    let body = bytes.get(HEADER_BYTES..HEADER_BYTES + header.body_bytes as usize)?;
    if !header.body_verifies(body) {
        return None;
    }
    weft_types::codec::decode(body).ok()
}

/// A segment and the offset of a block in it.
type JournalSource<D> = (Arc<Segment<<D as Disk>::File>>, u32);

/// New blocks that follow one another in the chunk and in the journal.
struct Piece<'a, D: Disk> {
    /// Number of the first block in the chunk.
    first: u32,
    blocks: usize,
    segment: &'a Arc<Segment<D::File>>,
    offset: u32,
}

/// A chunk on its way to its next version.
struct NextChunk<D: Disk> {
    pg: PgId,
    chunk: ChunkId,
    size: ChunkSize,
    summary: Summary,
    /// Of the trailer it has.
    mark: TrailerMark,
    damaged: bool,
    hashes: Vec<Option<BlockHash>>,
    /// Blocks with new content: the segment, and the offset in it.
    sources: BTreeMap<u16, JournalSource<D>>,
    /// Blocks whose space is freed.
    punched: BTreeSet<u16>,
    /// Blocks whose space is taken, with zeros.
    filled: BTreeSet<u16>,
    /// Blocks that have become zeros and were present: their space is there, or comes with the zeros as with other data.
    zeroed: BTreeSet<u16>,
    /// Nothing else happened to it.
    only_filled: bool,
    /// The old file's contents do not count: a new file replaces it.
    fresh: bool,
}

impl<D: Disk> NextChunk<D> {
    fn new(pg: PgId, chunk: ChunkId, size: ChunkSize, base: Option<Arc<Trailer>>) -> Self {
        let fresh = base.is_none();
        let base = base.map_or_else(|| Trailer::new(pg, chunk, size), |b| (*b).clone());
        let summary =
            Summary { version: base.version, generation: base.generation, end_bytes: base.end_bytes, exists: !fresh };
        Self {
            pg,
            chunk,
            size,
            summary,
            mark: base.mark,
            damaged: base.damaged,
            hashes: base.hashes,
            sources: BTreeMap::new(),
            punched: BTreeSet::new(),
            filled: BTreeSet::new(),
            zeroed: BTreeSet::new(),
            only_filled: true,
            fresh,
        }
    }

    fn apply(&mut self, op: Op<D>) {
        self.only_filled &= matches!(op, Op::Fill { .. });
        match op {
            Op::Write { position, first, hashes, end_bytes, generation, segment, data_offset } => {
                for (at, hash) in hashes.into_iter().enumerate() {
                    let block = first + at as u16;
                    if let Some(slot) = self.hashes.get_mut(usize::from(block)) {
                        *slot = Some(hash);
                        self.punched.remove(&block);
                        self.filled.remove(&block);
                        self.zeroed.remove(&block);
                        let offset = data_offset + (at * BLOCK_SIZE) as u32;
                        self.sources.insert(block, (Arc::clone(&segment), offset));
                    }
                }
                self.summary.write(position, generation, end_bytes);
            }
            Op::Discard { position, from, to, generation } if self.summary.exists => {
                self.clear(from, to);
                self.summary.discard(position, generation);
            }
            Op::Truncate { position, keep, end_bytes, generation } if self.summary.exists => {
                self.clear(keep, u32::from(self.size.blocks()));
                self.summary.truncate(position, generation, end_bytes);
            }
            Op::Delete { position } => {
                self.hashes.fill(None);
                self.sources.clear();
                self.punched.clear();
                self.filled.clear();
                self.zeroed.clear();
                self.damaged = false;
                self.fresh = true;
                self.mark = TrailerMark::default();
                self.summary.delete(position);
            }
            Op::Fill { position, from, to, generation, present } => {
                self.fill(from, to, present);
                self.summary.fill(position, generation);
            }
            Op::Discard { .. } | Op::Truncate { .. } => {}
        }
    }

    fn fill(&mut self, from: u32, to: u32, present: PresentBlocks) {
        for block in from..to.min(self.hashes.len() as u32) {
            let block = block as u16;
            let slot = &mut self.hashes[usize::from(block)];
            let zeros = Some(zero_hash(self.pg.volume, self.chunk, BlockIndex(block)));
            match (slot.is_none(), present) {
                // Where the trailer was lost a block without a hash may hold data: it stays unknown until it is repaired.
                (true, PresentBlocks::Keep) if self.damaged => {}
                // Zeros over whatever it holds make it known, as any write of a whole block does.
                (true, _) => {
                    *slot = zeros;
                    self.punched.remove(&block);
                    self.filled.insert(block);
                }
                (false, PresentBlocks::Keep) => {}
                (false, PresentBlocks::Zero) => {
                    *slot = zeros;
                    self.sources.remove(&block);
                    if !self.filled.contains(&block) {
                        self.zeroed.insert(block);
                    }
                }
            }
        }
    }

    fn clear(&mut self, from: u32, to: u32) {
        for block in from..to.min(self.hashes.len() as u32) {
            if self.hashes[block as usize].take().is_some() {
                self.sources.remove(&(block as u16));
                self.filled.remove(&(block as u16));
                self.zeroed.remove(&(block as u16));
                self.punched.insert(block as u16);
            }
        }
    }

    /// The trailer it gets. `birth` is for a file that has none.
    fn trailer(&self, birth: u64) -> Trailer {
        Trailer {
            pg: self.pg,
            chunk: self.chunk,
            blocks: self.size.blocks(),
            version: self.summary.version,
            generation: self.summary.generation,
            end_bytes: self.summary.end_bytes,
            mark: TrailerMark {
                birth: if self.mark.birth == 0 { birth } else { self.mark.birth },
                serial: self.mark.serial + 1,
            },
            damaged: self.damaged && self.hashes.iter().any(Option::is_none),
            hashes: self.hashes.clone(),
        }
    }

    fn write(&self, file: &D::File) -> Result<()> {
        let path = || chunk_path(self.pg, self.chunk);
        if !self.fresh {
            for block in &self.punched {
                file.punch(u64::from(*block) * BLOCK_SIZE as u64, BLOCK_SIZE as u64).during_with(path)?;
            }
        }
        // Before the trailer that calls them present: a block that is present never needs room again.
        for (first, count) in runs(&self.filled) {
            let (offset, length) = (u64::from(first) * BLOCK_SIZE as u64, u64::from(count) * BLOCK_SIZE as u64);
            file.zero(offset, length).during_with(path)?;
        }
        // Written, and not zeroed by the filesystem: that may split extents or allocate anew, and find no room for it.
        let zeros = vec![0; self.zeroed.len().min(RUN_BLOCKS) * BLOCK_SIZE];
        for (first, count) in runs(&self.zeroed) {
            for at in (first..first + count).step_by(RUN_BLOCKS) {
                let length = RUN_BLOCKS.min((first + count - at) as usize) * BLOCK_SIZE;
                file.write_at(&zeros[..length], u64::from(at) * BLOCK_SIZE as u64).during_with(path)?;
            }
        }
        let mut run: Vec<u8> = Vec::new();
        let mut run_first = 0u32;
        for piece in self.pieces() {
            let run_end = run_first + (run.len() / BLOCK_SIZE) as u32;
            if !run.is_empty() && (piece.first != run_end || run.len() >= RUN_BLOCKS * BLOCK_SIZE) {
                file.write_at(&run, u64::from(run_first) * BLOCK_SIZE as u64).during_with(path)?;
                run.clear();
            }
            if run.is_empty() {
                run_first = piece.first;
            }
            let at = run.len();
            run.resize(at + piece.blocks * BLOCK_SIZE, 0);
            self.read_piece(&piece, &mut run[at..]);
        }
        if !run.is_empty() {
            file.write_at(&run, u64::from(run_first) * BLOCK_SIZE as u64).during_with(path)?;
        }
        Ok(())
    }

    /// The new blocks, those together that follow one another in the chunk and in the journal.
    fn pieces(&self) -> Vec<Piece<'_, D>> {
        let mut pieces: Vec<Piece<'_, D>> = Vec::with_capacity(self.sources.len());
        for (block, (segment, offset)) in &self.sources {
            let block = u32::from(*block);
            if let Some(last) = pieces.last_mut()
                && last.blocks < RUN_BLOCKS
                && last.first + last.blocks as u32 == block
                && last.offset + (last.blocks * BLOCK_SIZE) as u32 == *offset
                && Arc::ptr_eq(last.segment, segment)
            {
                last.blocks += 1;
            } else {
                pieces.push(Piece { first: block, blocks: 1, segment, offset: *offset });
            }
        }
        pieces
    }

    /// Blocks from the journal. One that rotted there goes on as it is, and one that cannot be read as zeros: the trailer has
    /// its true hash, so that reads and scrub find it and fetch it from another member.
    fn read_piece(&self, piece: &Piece<'_, D>, into: &mut [u8]) {
        let offset = u64::from(piece.offset);
        if piece.segment.file.read_exact_at(into, offset).is_ok() {
            return;
        }
        for (at, block) in into.chunks_exact_mut(BLOCK_SIZE).enumerate() {
            if let Err(error) = piece.segment.file.read_exact_at(block, offset + (at * BLOCK_SIZE) as u64) {
                let number = piece.first + at as u32;
                tracing::error!(%error, pg = %self.pg, chunk = %self.chunk, block = number, "a journalled block cannot be read");
                block.fill(0);
            }
        }
    }
}

/// Blocks that follow one another: the first and how many.
fn runs(blocks: &BTreeSet<u16>) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for block in blocks.iter().map(|block| u32::from(*block)) {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == block => *count += 1,
            _ => runs.push((block, 1)),
        }
    }
    runs
}
