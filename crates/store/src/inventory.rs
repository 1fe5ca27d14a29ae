//! Which trailer each chunk file had last, kept apart from the chunk files (decision 0025).
//!
//! Responsible for: the file `inventory`: its records, reading them, appending to it, writing it anew when it has grown.
//! Guarantees: it names no trailer that is not on the disk, because a record is appended after its trailer was synced. So
//! whatever is missing of it, the newest records or all of them, makes nobody take a good trailer for a lost one. Must not
//! know: what is in a trailer, who writes it.

use crate::chunk_file::MAX_COUNT;
use crate::config::StoreConfig;
use crate::disk::{Disk, DiskFile, NEW_SUFFIX, OpenMode, parent};
use crate::error::{IoContext, Result};
use crate::record::{le16, le32, le64};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};
use weft_types::{ChunkId, ChunkIndex, ObjectId, PgId, VolumeId};

pub(crate) const INVENTORY_FILE: &str = "inventory";

/// The file begins with one of these, with a number of its own in it; all that follow are records.
pub(crate) const RECORD_BYTES: usize = 40;
const MAGIC: u64 = 0x3154_4e56_4e49_4657;
const FORMAT: u32 = 1;
/// Records are written in runs of at most this many.
const RUN_RECORDS: usize = 4096;

/// Which trailer of a chunk's file it is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct TrailerMark {
    /// Tells the file from one of the same name before it. 0: a version wrote it that did not tell them apart.
    pub birth: u64,
    /// Counts the trailers of a file.
    pub serial: u64,
}

impl TrailerMark {
    /// Whether the trailer that was found is older than one that was on the disk.
    pub(crate) const fn is_behind(self, known: Self) -> bool {
        known.birth != 0 && self.birth == known.birth && self.serial < known.serial
    }
}

pub(crate) type Marks = BTreeMap<(PgId, ChunkId), TrailerMark>;

/// What became of a chunk file, synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    Written { pg: PgId, chunk: ChunkId, mark: TrailerMark },
    Removed { pg: PgId, chunk: ChunkId },
    GroupRemoved { pg: PgId },
}

impl Change {
    fn take_into(self, marks: &mut Marks) {
        match self {
            Self::Written { pg, chunk, mark } => {
                // Of a batch that was torn an older record may lie behind a newer one.
                let known = marks.entry((pg, chunk)).or_default();
                if !mark.is_behind(*known) {
                    *known = mark;
                }
            }
            Self::Removed { pg, chunk } => drop(marks.remove(&(pg, chunk))),
            Self::GroupRemoved { pg } => marks.retain(|(group, _), _| *group != pg),
        }
    }

    /// A record belongs to its place in the file of this disk, and verifies nowhere else.
    pub(crate) fn encode(self, salt: u64, offset: u64) -> [u8; RECORD_BYTES] {
        let none = ChunkId { object: ObjectId(0), index: ChunkIndex(0) };
        let (kind, pg, chunk, mark) = match self {
            Self::Written { pg, chunk, mark } => (1u16, pg, chunk, mark),
            Self::Removed { pg, chunk } => (2, pg, chunk, TrailerMark::default()),
            Self::GroupRemoved { pg } => (3, pg, none, TrailerMark::default()),
        };
        let mut out = [0; RECORD_BYTES];
        out[0..4].copy_from_slice(&pg.volume.0.to_le_bytes());
        out[4..6].copy_from_slice(&pg.index.to_le_bytes());
        out[6..8].copy_from_slice(&kind.to_le_bytes());
        out[8..16].copy_from_slice(&chunk.object.0.to_le_bytes());
        out[16..20].copy_from_slice(&chunk.index.0.to_le_bytes());
        out[24..32].copy_from_slice(&mark.birth.to_le_bytes());
        out[32..40].copy_from_slice(&mark.serial.to_le_bytes());
        seal(&mut out, salt, offset);
        out
    }

    fn decode(bytes: &[u8], salt: u64, offset: u64) -> Option<Self> {
        if !verifies(bytes, salt, offset) {
            return None;
        }
        let pg = PgId { volume: VolumeId(le32(bytes, 0)), index: le16(bytes, 4) };
        let chunk = ChunkId { object: ObjectId(le64(bytes, 8)), index: ChunkIndex(le32(bytes, 16)) };
        match le16(bytes, 6) {
            1 => {
                let mark = TrailerMark { birth: le64(bytes, 24), serial: le64(bytes, 32) };
                // Numbers that nothing counts up to: whatever wrote them was not this program.
                (mark.serial <= MAX_COUNT).then_some(Self::Written { pg, chunk, mark })
            }
            2 => Some(Self::Removed { pg, chunk }),
            3 => Some(Self::GroupRemoved { pg }),
            _ => None,
        }
    }
}

fn checksum(bytes: &[u8], salt: u64, offset: u64) -> u32 {
    let of_place = crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &offset.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(of_place, &bytes[..20]), &bytes[24..RECORD_BYTES])
}

pub(crate) fn seal(record: &mut [u8; RECORD_BYTES], salt: u64, offset: u64) {
    let crc = checksum(record, salt, offset);
    record[20..24].copy_from_slice(&crc.to_le_bytes());
}

fn verifies(bytes: &[u8], salt: u64, offset: u64) -> bool {
    bytes.len() == RECORD_BYTES && le32(bytes, 20) == checksum(bytes, salt, offset)
}

pub(crate) fn first_record(salt: u64) -> [u8; RECORD_BYTES] {
    let mut out = [0; RECORD_BYTES];
    out[0..8].copy_from_slice(&MAGIC.to_le_bytes());
    out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    seal(&mut out, salt, 0);
    out
}

/// What such a file says.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Contents {
    pub marks: Marks,
    /// Where the last good record ends. 0: this is no inventory of this disk.
    pub end: u64,
    /// Records before that which do not verify.
    pub bad: u64,
}

impl Contents {
    /// Takes what lies in the file from `offset` on, after all that lies before it. Both count whole records.
    pub(crate) fn take(&mut self, bytes: &[u8], offset: u64, salt: u64) {
        let places = (offset..).step_by(RECORD_BYTES);
        for (record, at) in bytes.chunks_exact(RECORD_BYTES).zip(places) {
            let end = at + RECORD_BYTES as u64;
            if at == 0 {
                let begins = verifies(record, salt, 0) && le64(record, 0) == MAGIC && le32(record, 8) == FORMAT;
                self.end = if begins { end } else { 0 };
            } else if self.end > 0
                && let Some(change) = Change::decode(record, salt, at)
            {
                change.take_into(&mut self.marks);
                self.bad += (at - self.end) / RECORD_BYTES as u64;
                self.end = end;
            }
        }
    }

    pub(crate) fn read<D: Disk>(disk: &D, salt: u64) -> io::Result<Self> {
        let mut out = Self::default();
        let file = match disk.open(INVENTORY_FILE, OpenMode::ReadOnly) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(out),
            opened => opened?,
        };
        let (mut bytes, mut at) = (vec![0; RUN_RECORDS * RECORD_BYTES], 0);
        loop {
            let got = file.read_at(&mut bytes, at)?;
            out.take(&bytes[..got], at, salt);
            if got < bytes.len() || out.end == 0 {
                return Ok(out);
            }
            at += got as u64;
        }
    }
}

/// The inventory of a disk. Used by one thread at a time.
pub(crate) struct Inventory<D: Disk> {
    disk: D,
    salt: u64,
    /// It is not written anew before it is longer than this.
    least_bytes: u64,
    /// `None`: there is none, and none can be made for want of room.
    open: Mutex<Option<Appending<D::File>>>,
}

struct Appending<F> {
    file: F,
    end: u64,
    /// Longer than this it is written anew.
    limit_bytes: u64,
}

impl<D: Disk> Inventory<D> {
    /// Reads what there is. One that cannot be read is as good as none: it is there to notice a loss, and nothing is lost with it.
    pub(crate) fn load(disk: D, salt: u64, config: &StoreConfig) -> (Self, Contents) {
        let contents = Contents::read(&disk, salt).unwrap_or_else(|error| {
            tracing::warn!(%error, disk = disk.describe(), "the inventory of trailers cannot be read");
            Contents::default()
        });
        let inventory = Self { disk, salt, least_bytes: config.inventory_bytes, open: Mutex::new(None) };
        (inventory, contents)
    }

    /// Goes on with what was loaded, or begins anew with what the chunk files have.
    ///
    /// # Errors
    /// When the disk fails. Want of room is no error: what cannot be noted is not noticed when it is lost.
    pub(crate) fn begin(
        &self,
        loaded: &Contents,
        marks: impl Iterator<Item = ((PgId, ChunkId), TrailerMark)>,
    ) -> Result<()> {
        let marks: Marks = marks.collect();
        let limit_bytes = self.limit(marks.len());
        if loaded.end == 0 || loaded.bad > 0 || loaded.end > limit_bytes {
            if loaded.bad > 0 {
                let (records, disk) = (loaded.bad, self.disk.describe());
                tracing::warn!(records, disk, "records of the inventory of trailers are damaged; it is written anew");
            }
            return self.replace(&marks);
        }
        let file = self.disk.open(INVENTORY_FILE, OpenMode::Existing).during(INVENTORY_FILE)?;
        *self.lock() = Some(Appending { file, end: loaded.end, limit_bytes });
        Ok(())
    }

    /// Notes what has been synced, durably. Blocking.
    ///
    /// # Errors
    /// When the disk fails; a sync that fails is final. Want of room is no error.
    pub(crate) fn append(&self, changes: &[Change]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let grown = match &mut *self.lock() {
            Some(open) => match self.put(open, changes) {
                Ok(()) => open.end > open.limit_bytes,
                Err(error) => return self.unless_full(error),
            },
            // What this batch says is not noted then, and the next one is.
            None => true,
        };
        if grown { self.shrink() } else { Ok(()) }
    }

    fn put(&self, open: &mut Appending<D::File>, changes: &[Change]) -> io::Result<()> {
        let mut end = open.end;
        for run in changes.chunks(RUN_RECORDS) {
            let places = (end..).step_by(RECORD_BYTES);
            let bytes: Vec<u8> = run.iter().zip(places).flat_map(|(change, at)| change.encode(self.salt, at)).collect();
            open.file.write_at(&bytes, end)?;
            end += bytes.len() as u64;
        }
        open.file.sync_data()?;
        open.end = end;
        Ok(())
    }

    /// Writes it anew with one record for each chunk. One that cannot be read goes on as it is, and the next opening writes it anew from
    /// what the chunk files have: a disk does not fail for what only helps to notice losses.
    fn shrink(&self) -> Result<()> {
        match Contents::read(&self.disk, self.salt) {
            Ok(contents) => self.replace(&contents.marks),
            Err(error) => {
                tracing::warn!(%error, disk = self.disk.describe(), "the inventory of trailers cannot be read");
                self.put_off();
                Ok(())
            }
        }
    }

    /// Not to be written anew before it has grown as much once more.
    fn put_off(&self) {
        if let Some(open) = &mut *self.lock() {
            open.limit_bytes = open.limit_bytes.max(open.end).saturating_mul(2);
        }
    }

    fn replace(&self, marks: &Marks) -> Result<()> {
        match self.write_anew(marks) {
            Ok(open) => {
                *self.lock() = Some(open);
                Ok(())
            }
            Err(error) => {
                self.put_off();
                self.unless_full(error)
            }
        }
    }

    fn write_anew(&self, marks: &Marks) -> io::Result<Appending<D::File>> {
        let temporary = format!("{INVENTORY_FILE}{NEW_SUFFIX}");
        let file = self.disk.open(&temporary, OpenMode::Truncate)?;
        file.write_at(&first_record(self.salt), 0)?;
        let mut open = Appending { file, end: RECORD_BYTES as u64, limit_bytes: self.limit(marks.len()) };
        let all: Vec<Change> =
            marks.iter().map(|((pg, chunk), mark)| Change::Written { pg: *pg, chunk: *chunk, mark: *mark }).collect();
        self.put(&mut open, &all)?;
        self.disk.rename(&temporary, INVENTORY_FILE)?;
        self.disk.sync_dir(parent(INVENTORY_FILE))?;
        Ok(open)
    }

    fn limit(&self, chunks: usize) -> u64 {
        self.least_bytes.max(2 * (RECORD_BYTES * (chunks + 1)) as u64)
    }

    fn unless_full(&self, error: io::Error) -> Result<()> {
        if error.kind() != io::ErrorKind::StorageFull {
            return Err(error).during(INVENTORY_FILE);
        }
        tracing::warn!(
            disk = self.disk.describe(),
            "no room for the inventory of trailers: a lost one may go unnoticed"
        );
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Appending<D::File>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
