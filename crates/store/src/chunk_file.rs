//! One chunk's file: sparse data, then two trailer slots.
//!
//! Responsible for: trailer layout, choosing the valid slot, file names, the cache of open files. Guarantees: a trailer
//! is written to the slot that does not hold the valid one, so that a torn write never leaves a chunk without one.
//! Must not know: the journal, who asks.

use crate::config::{Mutant, StoreConfig};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::{IoContext, Result, StoreError};
use crate::inventory::TrailerMark;
use crate::record::{le16, le32, le64};
use crate::superblock::CHUNKS_DIR;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use weft_types::{
    BLOCK_SIZE, BlockHash, ChunkId, ChunkIndex, ChunkSize, Epoch, LogPosition, ObjectId, PgId, Sequence,
    TruncateGeneration, VolumeId,
};

const MAGIC: u64 = 0x3152_4c54_4b4e_4843;
const FORMAT: u16 = 1;
const HEADER_BYTES: usize = 96;
/// Highest epoch, sequence number, generation or serial number.
pub(crate) const MAX_COUNT: u64 = 1 << 62;
const FLAG_DAMAGED: u16 = 1;
/// A new chunk file has this ending until it is synced.
pub(crate) const NEW_SUFFIX: &str = ".new";

/// What is known about a chunk's blocks, all of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Trailer {
    pub pg: PgId,
    pub chunk: ChunkId,
    pub blocks: u16,
    /// Position of the last entry applied.
    pub version: LogPosition,
    pub generation: TruncateGeneration,
    pub end_bytes: u32,
    /// Its serial number counts trailer writes; the valid slot with the higher one is current.
    pub mark: TrailerMark,
    /// The trailer was lost once: a block without a hash is unknown, not absent.
    pub damaged: bool,
    pub hashes: Vec<Option<BlockHash>>,
}

impl Trailer {
    pub(crate) fn new(pg: PgId, chunk: ChunkId, size: ChunkSize) -> Self {
        Self {
            pg,
            chunk,
            blocks: size.blocks(),
            version: LogPosition::ZERO,
            generation: TruncateGeneration(0),
            end_bytes: 0,
            mark: TrailerMark::default(),
            damaged: false,
            hashes: vec![None; usize::from(size.blocks())],
        }
    }

    pub(crate) fn present(&self) -> u32 {
        self.hashes.iter().flatten().count() as u32
    }

    pub(crate) const fn slot_bytes(size: ChunkSize) -> u64 {
        let blocks = size.blocks() as u64;
        (HEADER_BYTES as u64 + blocks.div_ceil(8) + blocks * 8).next_multiple_of(BLOCK_SIZE as u64)
    }

    /// Where the slot of a trailer with this serial number lies.
    pub(crate) fn slot_offset(size: ChunkSize, serial: u64) -> u64 {
        u64::from(size.bytes()) + (serial % 2) * Self::slot_bytes(size)
    }

    pub(crate) fn encode(&self, size: ChunkSize) -> Vec<u8> {
        let mut out = vec![0u8; Self::slot_bytes(size) as usize];
        out[0..8].copy_from_slice(&MAGIC.to_le_bytes());
        out[12..14].copy_from_slice(&FORMAT.to_le_bytes());
        out[14..16].copy_from_slice(&(if self.damaged { FLAG_DAMAGED } else { 0 }).to_le_bytes());
        out[16..20].copy_from_slice(&self.pg.volume.0.to_le_bytes());
        out[20..22].copy_from_slice(&self.pg.index.to_le_bytes());
        out[22..24].copy_from_slice(&self.blocks.to_le_bytes());
        out[24..32].copy_from_slice(&self.chunk.object.0.to_le_bytes());
        out[32..36].copy_from_slice(&self.chunk.index.0.to_le_bytes());
        out[36..40].copy_from_slice(&self.end_bytes.to_le_bytes());
        out[40..48].copy_from_slice(&self.version.epoch.0.to_le_bytes());
        out[48..56].copy_from_slice(&self.version.sequence.0.to_le_bytes());
        out[56..64].copy_from_slice(&self.generation.0.to_le_bytes());
        out[64..72].copy_from_slice(&self.mark.serial.to_le_bytes());
        out[72..80].copy_from_slice(&self.mark.birth.to_le_bytes());
        let hashes_at = HEADER_BYTES + usize::from(self.blocks).div_ceil(8);
        for (block, hash) in self.hashes.iter().enumerate() {
            if let Some(hash) = hash {
                out[HEADER_BYTES + block / 8] |= 1 << (block % 8);
                out[hashes_at + block * 8..hashes_at + block * 8 + 8].copy_from_slice(&hash.0.to_le_bytes());
            }
        }
        let crc = crc32c::crc32c(&out[12..]);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER_BYTES || le64(bytes, 0) != MAGIC || le32(bytes, 8) != crc32c::crc32c(&bytes[12..]) {
            return None;
        }
        if le16(bytes, 12) != FORMAT {
            return None;
        }
        let blocks = le16(bytes, 22);
        // Numbers that nothing counts up to: whatever wrote them was not this program.
        let counts = [le64(bytes, 40), le64(bytes, 48), le64(bytes, 56), le64(bytes, 64)];
        if counts.iter().any(|count| *count > MAX_COUNT)
            || u64::from(le32(bytes, 36)) > u64::from(blocks) * BLOCK_SIZE as u64
        {
            return None;
        }
        let hashes_at = HEADER_BYTES + usize::from(blocks).div_ceil(8);
        bytes.get(hashes_at + usize::from(blocks) * 8 - 1)?;
        let hashes = (0..usize::from(blocks)).map(|block| {
            let present = bytes[HEADER_BYTES + block / 8] & (1 << (block % 8)) != 0;
            present.then(|| BlockHash(le64(bytes, hashes_at + block * 8)))
        });
        Some(Self {
            pg: PgId { volume: VolumeId(le32(bytes, 16)), index: le16(bytes, 20) },
            chunk: ChunkId { object: ObjectId(le64(bytes, 24)), index: ChunkIndex(le32(bytes, 32)) },
            blocks,
            version: LogPosition::new(Epoch(le64(bytes, 40)), Sequence(le64(bytes, 48))),
            generation: TruncateGeneration(le64(bytes, 56)),
            end_bytes: le32(bytes, 36),
            mark: TrailerMark { birth: le64(bytes, 72), serial: le64(bytes, 64) },
            damaged: le16(bytes, 14) & FLAG_DAMAGED != 0,
            hashes: hashes.collect(),
        })
    }

    /// Reads both slots and takes the newer valid one. `None`: neither is valid.
    pub(crate) fn read<F: DiskFile>(file: &F, pg: PgId, chunk: ChunkId, size: ChunkSize) -> io::Result<Option<Self>> {
        let slot = Self::slot_bytes(size) as usize;
        let mut bytes = vec![0; slot * 2];
        let got = file.read_at(&mut bytes, u64::from(size.bytes()))?;
        bytes[got..].fill(0);
        let slots = bytes.chunks_exact(slot).filter_map(Self::decode);
        // A trailer of another chunk is a misdirected write and as good as none.
        Ok(slots.filter(|t| t.pg == pg && t.chunk == chunk && t.blocks == size.blocks()).max_by_key(|t| t.mark.serial))
    }
}

pub(crate) fn group_dir(pg: PgId) -> String {
    format!("{CHUNKS_DIR}/{}.{}", pg.volume.0, pg.index)
}

pub(crate) fn chunk_dir(pg: PgId, chunk: ChunkId) -> String {
    // A file's chunks spread over the group's directories, and so do the files.
    let fanout = (chunk.object.0.wrapping_mul(31).wrapping_add(u64::from(chunk.index.0))) as u8;
    format!("{}/{fanout:02x}", group_dir(pg))
}

pub(crate) fn chunk_path(pg: PgId, chunk: ChunkId) -> String {
    format!("{}/{:016x}-{:08x}", chunk_dir(pg, chunk), chunk.object.0, chunk.index.0)
}

pub(crate) fn parse_chunk_name(name: &str) -> Option<ChunkId> {
    let (object, index) = name.split_once('-')?;
    let object = ObjectId(u64::from_str_radix(object, 16).ok()?);
    Some(ChunkId { object, index: ChunkIndex(u32::from_str_radix(index, 16).ok()?) })
}

pub(crate) fn parse_group_name(name: &str) -> Option<PgId> {
    let (volume, index) = name.split_once('.')?;
    Some(PgId { volume: VolumeId(volume.parse().ok()?), index: index.parse().ok()? })
}

/// An open chunk file with its trailer.
pub(crate) struct OpenChunk<D: Disk> {
    pub file: D::File,
    trailer: Mutex<Arc<Trailer>>,
}

impl<D: Disk> OpenChunk<D> {
    pub(crate) fn trailer(&self) -> Arc<Trailer> {
        Arc::clone(&self.trailer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_trailer(&self, trailer: Arc<Trailer>) {
        *self.trailer.lock().unwrap_or_else(PoisonError::into_inner) = trailer;
    }
}

/// Open chunk files, shared with jobs on other threads. Bounded; the one unused for longest goes first.
pub(crate) struct ChunkCache<D: Disk> {
    disk: D,
    limit: usize,
    /// A file that is opened again is believed: a bug planted on purpose.
    trusting: bool,
    inner: Mutex<CacheInner<D>>,
    /// Chunks that were found without a trailer, and whether there are any.
    lost: Mutex<BTreeSet<(PgId, ChunkId)>>,
    any_lost: AtomicBool,
}

/// An open chunk and when it was last used.
type CachedChunk<D> = (Arc<OpenChunk<D>>, u64);

struct CacheInner<D: Disk> {
    chunks: BTreeMap<(PgId, ChunkId), CachedChunk<D>>,
    by_use: BTreeMap<u64, (PgId, ChunkId)>,
    clock: u64,
    /// Rises when a checkpoint begins and when it ends.
    epoch: u64,
}

impl<D: Disk> ChunkCache<D> {
    pub(crate) fn new(disk: D, config: &StoreConfig) -> Self {
        let inner = CacheInner { chunks: BTreeMap::new(), by_use: BTreeMap::new(), clock: 0, epoch: 0 };
        let (lost, any_lost) = (Mutex::default(), AtomicBool::new(false));
        let (limit, trusting) = (config.open_chunks.max(1), config.has(Mutant::TrustReopened));
        Self { disk, limit, trusting, inner: Mutex::new(inner), lost, any_lost }
    }

    fn lost(&self) -> std::sync::MutexGuard<'_, BTreeSet<(PgId, ChunkId)>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Both trailers of this chunk are lost, or its data have not all been written since they were.
    pub(crate) fn note_lost(&self, pg: PgId, chunk: ChunkId) {
        self.lost().insert((pg, chunk));
        self.any_lost.store(true, Ordering::Release);
    }

    /// What was noted of a group and not found again since. Asked often: costs next to nothing while nothing is lost.
    pub(crate) fn lost_of(&self, pg: PgId) -> Vec<ChunkId> {
        if !self.any_lost.load(Ordering::Acquire) {
            return Vec::new();
        }
        self.lost().iter().filter(|(group, _)| *group == pg).map(|(_, chunk)| *chunk).collect()
    }

    pub(crate) fn found_again(&self, pg: PgId, chunk: ChunkId) {
        let mut lost = self.lost();
        lost.remove(&(pg, chunk));
        self.any_lost.store(!lost.is_empty(), Ordering::Release);
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, CacheInner<D>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, pg: PgId, chunk: ChunkId) -> Option<Arc<OpenChunk<D>>> {
        let mut guard = self.inner();
        let inner = &mut *guard;
        inner.clock += 1;
        let clock = inner.clock;
        let (open, used) = inner.chunks.get_mut(&(pg, chunk))?;
        inner.by_use.remove(used);
        inner.by_use.insert(clock, (pg, chunk));
        *used = clock;
        Some(Arc::clone(open))
    }

    /// Chunk files do not change between two equal answers, except in blocks that the overlay hides.
    pub(crate) fn epoch(&self) -> u64 {
        self.inner().epoch
    }

    pub(crate) fn bump_epoch(&self) {
        self.inner().epoch += 1;
    }

    /// Opens a file without keeping it. `known` is the trailer that it had last, or one before that.
    pub(crate) fn open_uncached(
        &self,
        pg: PgId,
        chunk: ChunkId,
        size: ChunkSize,
        known: TrailerMark,
    ) -> Result<Option<Arc<OpenChunk<D>>>> {
        if let Some(open) = self.get(pg, chunk) {
            return Ok(Some(open));
        }
        let path = chunk_path(pg, chunk);
        let file = match self.disk.open(&path, OpenMode::Existing) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Io { what: path, source }),
        };
        let found = Trailer::read(&file, pg, chunk, size).during(&path)?;
        let trailer = match found.filter(|trailer| self.trusting || !trailer.mark.is_behind(known)) {
            Some(trailer) => trailer,
            None => {
                self.note_lost(pg, chunk);
                // The next one counts on from what is known: an older one may be there still.
                Trailer { damaged: true, mark: known, ..Trailer::new(pg, chunk, size) }
            }
        };
        Ok(Some(Arc::new(OpenChunk { file, trailer: Mutex::new(Arc::new(trailer)) })))
    }

    /// As `open_uncached`, and keeps it open. `None` when it does not exist.
    pub(crate) fn open(
        &self,
        pg: PgId,
        chunk: ChunkId,
        size: ChunkSize,
        known: TrailerMark,
    ) -> Result<Option<Arc<OpenChunk<D>>>> {
        let epoch = self.epoch();
        let open = self.open_uncached(pg, chunk, size, known)?;
        if let Some(open) = &open {
            self.insert(pg, chunk, Arc::clone(open), epoch);
        }
        Ok(open)
    }

    fn insert(&self, pg: PgId, chunk: ChunkId, open: Arc<OpenChunk<D>>, epoch: u64) {
        let mut guard = self.inner();
        let inner = &mut *guard;
        // A checkpoint began or ended since: the file may have been replaced, its trailer be old.
        if inner.epoch != epoch {
            return;
        }
        inner.clock += 1;
        let clock = inner.clock;
        if let Some((_, used)) = inner.chunks.insert((pg, chunk), (open, clock)) {
            inner.by_use.remove(&used);
        }
        inner.by_use.insert(clock, (pg, chunk));
        while inner.chunks.len() > self.limit {
            let Some((_, oldest)) = inner.by_use.pop_first() else { break };
            inner.chunks.remove(&oldest);
        }
    }

    pub(crate) fn forget(&self, pg: PgId, chunk: ChunkId) {
        let mut inner = self.inner();
        if let Some((_, used)) = inner.chunks.remove(&(pg, chunk)) {
            inner.by_use.remove(&used);
        }
    }

    pub(crate) fn forget_group(&self, pg: PgId) {
        let mut inner = self.inner();
        inner.chunks.retain(|(group, _), _| *group != pg);
        inner.by_use.retain(|_, (group, _)| *group != pg);
        drop(inner);
        self.lost().retain(|(group, _)| *group != pg);
    }
}
