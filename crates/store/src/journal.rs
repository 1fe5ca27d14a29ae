//! The ring of journal segments: appending to it and scanning it after a crash.
//!
//! Responsible for: laps, segment headers, where the log ends, and telling a torn tail from corruption (design 6).
//! Guarantees: see `docs/ON-DISK.md`, "Journal". Must not know: what record bodies mean, except sync marks.

use crate::config::{Mutant, StoreConfig};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::{IoContext, Result, StoreError};
use crate::record::{self, Frame, HEADER_BYTES, Header, Kind, Place, le32, le64};
use crate::state::JournalPosition;
use crate::superblock::{Superblock, segment_path};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use weft_types::PgId;

pub(crate) const SEGMENT_HEADER_BYTES: u32 = 64;
const MAGIC: u64 = 0x314e_4c52_554f_4a57;

/// One file of the ring. Readers check `lap` after they read: a segment may be recycled under them.
pub(crate) struct Segment<F> {
    pub file: F,
    pub lap: AtomicU64,
}

pub(crate) struct Journal<D: Disk> {
    segments: Vec<Arc<Segment<D::File>>>,
    salt: u64,
    life: u32,
    segment_bytes: u32,
    /// Where the next record goes. Offset 0: the segment has no header of this lap yet.
    head: JournalPosition,
    /// Where the lap before `head.lap` ended.
    previous_end: u32,
    first_live: u64,
    synced: JournalPosition,
    /// End of the last record that is worth a sync (marks are not).
    dirty_to: JournalPosition,
    buffer: Vec<u8>,
}

/// A record to append.
pub(crate) struct NewRecord<'a> {
    pub kind: Kind,
    pub pg: PgId,
    pub body: &'a [u8],
    pub data: &'a [u8],
}

impl NewRecord<'_> {
    pub(crate) fn bytes(&self) -> u64 {
        record::padded((HEADER_BYTES + self.body.len() + self.data.len()) as u64)
    }
}

/// A record found by a scan.
pub(crate) struct Found<'a> {
    pub at: JournalPosition,
    pub header: Header,
    pub body: &'a [u8],
    pub data: &'a [u8],
    /// It was synced: if its data do not verify, that is corruption and not the end of the log.
    pub synced: bool,
}

impl Found<'_> {
    pub(crate) fn pg(&self) -> PgId {
        PgId { volume: weft_types::VolumeId(self.header.volume), index: self.header.group }
    }
}

/// Whether a scan goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Good,
    /// The record is torn: the log ends before it.
    End,
}

/// Segments to sync and the position that is durable afterwards.
pub(crate) struct SyncScope<D: Disk> {
    pub segments: Vec<Arc<Segment<D::File>>>,
    pub to: JournalPosition,
}

impl<D: Disk> SyncScope<D> {
    pub(crate) fn run(&self) -> std::io::Result<()> {
        self.segments.iter().try_for_each(|segment| segment.file.sync_data())
    }
}

impl<D: Disk> Journal<D> {
    pub(crate) fn open(disk: &D, superblock: &Superblock, life: u32, first_live: u64) -> Result<Self> {
        let mut segments = Vec::new();
        for index in 0..superblock.segments {
            let path = segment_path(index);
            let file = disk.open(&path, OpenMode::Existing).during(&path)?;
            let length = file.len().during(&path)?;
            if length != u64::from(superblock.segment_bytes) {
                return Err(StoreError::Corrupt { file: path, what: format!("it has {length} bytes") });
            }
            // It is read once, at the start. Pages that were read ahead are large, and appends into large pages are slow.
            file.expect_random_access().during(&path)?;
            segments.push(Arc::new(Segment { file, lap: AtomicU64::new(0) }));
        }
        let head = JournalPosition { lap: first_live, offset: 0 };
        Ok(Self {
            segments,
            salt: superblock.salt(),
            life,
            segment_bytes: superblock.segment_bytes,
            head,
            previous_end: 0,
            first_live,
            synced: head,
            dirty_to: head,
            buffer: Vec::new(),
        })
    }

    pub(crate) fn segment(&self, lap: u64) -> &Arc<Segment<D::File>> {
        &self.segments[(lap % self.segments.len() as u64) as usize]
    }

    pub(crate) const fn head(&self) -> JournalPosition {
        self.head
    }

    pub(crate) const fn synced(&self) -> JournalPosition {
        self.synced
    }

    pub(crate) const fn first_live(&self) -> u64 {
        self.first_live
    }

    pub(crate) const fn segment_bytes(&self) -> u32 {
        self.segment_bytes
    }

    pub(crate) fn place(&self, at: JournalPosition) -> Place {
        Place { salt: self.salt, lap: at.lap, offset: at.offset }
    }

    pub(crate) fn segment_count(&self) -> u64 {
        self.segments.len() as u64
    }

    /// Bytes from a lap's beginning to the head.
    pub(crate) fn bytes_since(&self, lap: u64) -> u64 {
        (self.head.lap.saturating_sub(lap)) * u64::from(self.segment_bytes) + u64::from(self.head.offset)
    }

    pub(crate) fn total_bytes(&self) -> u64 {
        self.segment_count() * u64::from(self.segment_bytes)
    }

    /// Longest record that fits a segment.
    pub(crate) fn max_record_bytes(&self) -> u64 {
        u64::from(self.segment_bytes - SEGMENT_HEADER_BYTES)
    }

    /// Bytes still to be written before the ring is full.
    pub(crate) fn room(&self) -> u64 {
        self.total_bytes().saturating_sub(self.bytes_since(self.first_live))
    }

    /// Whether records of these sizes fit, leaving `spare` segments alone.
    pub(crate) fn fits(&self, sizes: impl Iterator<Item = u64>, spare: u64) -> bool {
        self.fits_from(self.first_live, sizes, spare)
    }

    /// The same, were all segments before this lap free.
    pub(crate) fn fits_from(&self, first_live: u64, sizes: impl Iterator<Item = u64>, spare: u64) -> bool {
        let capacity = u64::from(self.segment_bytes);
        let last_lap = (first_live + self.segment_count()).saturating_sub(1 + spare);
        let mut lap = self.head.lap;
        let mut offset = u64::from(self.head.offset.max(SEGMENT_HEADER_BYTES));
        for size in sizes {
            if offset + size > capacity {
                lap += 1;
                offset = u64::from(SEGMENT_HEADER_BYTES);
            }
            offset += size;
        }
        lap <= last_lap && offset <= capacity
    }

    /// Stages a record; [`Journal::flush`] writes what is staged.
    pub(crate) fn put(&mut self, new: &NewRecord<'_>) -> Result<JournalPosition> {
        let bytes = new.bytes();
        if bytes > self.max_record_bytes() {
            return Err(StoreError::JournalFull { needed: bytes });
        }
        if self.head.offset > 0 && u64::from(self.head.offset) + bytes > u64::from(self.segment_bytes) {
            if !self.fits(std::iter::once(bytes), 0) {
                return Err(StoreError::JournalFull { needed: bytes });
            }
            self.flush()?;
            self.previous_end = self.head.offset;
            self.head = JournalPosition { lap: self.head.lap + 1, offset: 0 };
        }
        if self.head.offset == 0 {
            self.begin_segment()?;
        }
        let at = self.head;
        let frame = Frame {
            kind: new.kind,
            life: self.life,
            volume: new.pg.volume.0,
            group: new.pg.index,
            place: self.place(at),
        };
        record::encode(&mut self.buffer, frame, |out| out.extend_from_slice(new.body), new.data);
        self.head.offset += bytes as u32;
        if new.kind != Kind::SyncMark {
            self.dirty_to = self.head;
        }
        Ok(at)
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let offset = u64::from(self.head.offset) - self.buffer.len() as u64;
        let written = self.segment(self.head.lap).file.write_at(&self.buffer, offset).during("writing the journal");
        self.buffer.clear();
        // One very long batch must not hold its memory for ever.
        if self.buffer.capacity() > 4 << 20 {
            self.buffer = Vec::new();
        }
        written
    }

    fn begin_segment(&mut self) -> Result<()> {
        let header = segment_header(self.salt, self.head.lap, self.life, self.previous_end);
        let segment = self.segment(self.head.lap);
        // Readers of the old lap notice that what they read is no longer theirs.
        segment.lap.store(self.head.lap, Ordering::Release);
        segment.file.write_at(&header, 0).during("beginning a journal segment")?;
        self.head.offset = SEGMENT_HEADER_BYTES;
        Ok(())
    }

    /// What a sync has to cover; `None` when all is durable.
    pub(crate) fn sync_scope(&self) -> Option<SyncScope<D>> {
        if self.dirty_to <= self.synced {
            return None;
        }
        let segments = (self.synced.lap..=self.head.lap).map(|lap| Arc::clone(self.segment(lap))).collect();
        Some(SyncScope { segments, to: self.head })
    }

    /// Notes a finished sync; true when it is worth a mark.
    pub(crate) fn note_synced(&mut self, to: JournalPosition) -> bool {
        let further = to > self.synced;
        self.synced = self.synced.max(to);
        further
    }

    pub(crate) fn recycle_before(&mut self, lap: u64) {
        self.first_live = self.first_live.max(lap);
    }

    /// Scans the live laps in order, then stands at the log's end. `as_of` is a position known to be synced.
    pub(crate) fn recover(
        &mut self,
        as_of: JournalPosition,
        config: &StoreConfig,
        visit: &mut dyn FnMut(&Found<'_>) -> Result<Verdict>,
    ) -> Result<JournalPosition> {
        let mut scan = Scan::new(self, config);
        let mut synced_to = as_of;
        let end = scan.walk(&mut |found| {
            if found.header.kind == Kind::SyncMark {
                synced_to = synced_to.max(mark_claim(found.body));
            }
            Ok(Verdict::Good)
        })?;
        synced_to = synced_to.max(scan.marks_beyond(end)?);
        if end < synced_to {
            return Err(StoreError::JournalCorrupt { at: end.to_string(), synced_to: synced_to.to_string() });
        }
        let end = scan.walk(&mut |found| {
            let length = found.header.record_bytes() as u32;
            let record_end = JournalPosition { lap: found.at.lap, offset: found.at.offset + length };
            visit(&Found { synced: record_end <= synced_to, ..*found })
        })?;
        let previous_end = scan.previous_end;
        self.head = end;
        self.previous_end = previous_end;
        self.synced = end;
        self.dirty_to = end;
        for lap in self.first_live..=end.lap {
            self.segment(lap).lap.store(lap, Ordering::Release);
        }
        Ok(synced_to)
    }
}

/// The first bytes of a segment.
pub(crate) fn segment_header(salt: u64, lap: u64, life: u32, previous_end: u32) -> [u8; SEGMENT_HEADER_BYTES as usize] {
    let mut header = [0u8; SEGMENT_HEADER_BYTES as usize];
    header[0..8].copy_from_slice(&MAGIC.to_le_bytes());
    header[8..16].copy_from_slice(&salt.to_le_bytes());
    header[16..24].copy_from_slice(&lap.to_le_bytes());
    header[24..28].copy_from_slice(&life.to_le_bytes());
    header[28..32].copy_from_slice(&previous_end.to_le_bytes());
    let crc = crc32c::crc32c(&header[..32]);
    header[32..36].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Body of a sync mark.
pub(crate) fn mark_body(to: JournalPosition) -> [u8; 12] {
    let mut body = [0; 12];
    body[..8].copy_from_slice(&to.lap.to_le_bytes());
    body[8..].copy_from_slice(&to.offset.to_le_bytes());
    body
}

fn mark_claim(body: &[u8]) -> JournalPosition {
    JournalPosition { lap: le64(body, 0), offset: le32(body, 8) }
}

struct Scan<'a, D: Disk> {
    journal: &'a Journal<D>,
    previous_end: u32,
    ignore_lap: bool,
    ignore_life: bool,
}

struct Image {
    lap: u64,
    header: SegmentHeader,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy)]
struct SegmentHeader {
    life: u32,
    previous_end: u32,
}

impl<'a, D: Disk> Scan<'a, D> {
    fn new(journal: &'a Journal<D>, config: &StoreConfig) -> Self {
        let ignore_lap = config.has(Mutant::IgnoreLap);
        Self { journal, previous_end: 0, ignore_lap, ignore_life: config.has(Mutant::IgnoreLife) }
    }

    /// Reads a segment; `None` when it has no valid header of this lap.
    fn load(&self, lap: u64) -> Result<Option<Image>> {
        let segment = self.journal.segment(lap);
        let mut bytes = vec![0; self.journal.segment_bytes as usize];
        segment.file.read_exact_at(&mut bytes, 0).during("reading the journal")?;
        Ok(self.header(&bytes, lap).map(|header| Image { lap, header, bytes }))
    }

    fn header(&self, bytes: &[u8], lap: u64) -> Option<SegmentHeader> {
        let intact = le64(bytes, 0) == MAGIC
            && le64(bytes, 8) == self.journal.salt
            && le64(bytes, 16) == lap
            && le32(bytes, 32) == crc32c::crc32c(bytes.get(..32)?);
        intact.then(|| SegmentHeader { life: le32(bytes, 24), previous_end: le32(bytes, 28) })
    }

    /// Life of the next lap, and where it says that this lap ended.
    fn peek(&self, lap: u64) -> Result<Option<SegmentHeader>> {
        if lap >= self.journal.first_live + self.journal.segment_count() {
            return Ok(None);
        }
        let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
        self.journal.segment(lap).file.read_exact_at(&mut bytes, 0).during("reading the journal")?;
        Ok(self.header(&bytes, lap))
    }

    fn walk(&mut self, visit: &mut dyn FnMut(&Found<'_>) -> Result<Verdict>) -> Result<JournalPosition> {
        let mut at = JournalPosition { lap: self.journal.first_live, offset: 0 };
        let Some(mut image) = self.load(at.lap)? else { return Ok(at) };
        self.previous_end = image.header.previous_end;
        let mut life = image.header.life;
        at.offset = SEGMENT_HEADER_BYTES;
        let mut next = self.peek(at.lap + 1)?;
        loop {
            // The next lap says where this one ended. That goes before a record found here: it may be one that an
            // earlier recovery rejected for its data, and that was never overwritten because a new lap was begun.
            let ended = |n: &SegmentHeader| n.previous_end == at.offset && (n.life >= life || self.ignore_life);
            if next.as_ref().is_some_and(ended) {
                let Some(following) = self.load(at.lap + 1)? else { return Ok(at) };
                self.previous_end = following.header.previous_end;
                life = life.max(following.header.life);
                at = JournalPosition { lap: at.lap + 1, offset: SEGMENT_HEADER_BYTES };
                image = following;
                next = self.peek(at.lap + 1)?;
                continue;
            }
            let Some((header, body, data)) = self.record(&image, at.offset, life) else { return Ok(at) };
            if visit(&Found { at, header, body, data, synced: false })? == Verdict::End {
                return Ok(at);
            }
            life = life.max(header.life);
            at.offset += header.record_bytes() as u32;
        }
    }

    fn record<'b>(&self, image: &'b Image, offset: u32, life: u32) -> Option<(Header, &'b [u8], &'b [u8])> {
        let rest = image.bytes.get(offset as usize..)?;
        let place = Place { salt: self.journal.salt, lap: image.lap, offset };
        let header = Header::decode(rest, place, self.ignore_lap)?;
        if header.life < life && !self.ignore_life {
            return None;
        }
        let data_at = header.data_offset() as usize;
        let body = rest.get(HEADER_BYTES..data_at)?;
        let data = rest.get(data_at..data_at.checked_add(header.data_bytes as usize)?)?;
        header.body_verifies(body).then_some((header, body, data))
    }

    /// The highest claim of a sync mark that lies beyond the first bad record.
    fn marks_beyond(&self, end: JournalPosition) -> Result<JournalPosition> {
        let mut highest = JournalPosition::default();
        for lap in end.lap..self.journal.first_live + self.journal.segment_count() {
            let image = match self.load(lap)? {
                Some(image) => image,
                // A lost header may have live records behind it, so the segment is searched all the same.
                None => {
                    let mut bytes = vec![0; self.journal.segment_bytes as usize];
                    self.journal.segment(lap).file.read_exact_at(&mut bytes, 0).during("reading the journal")?;
                    Image { lap, header: SegmentHeader { life: 0, previous_end: 0 }, bytes }
                }
            };
            let mut offset = if lap == end.lap { end.offset.max(SEGMENT_HEADER_BYTES) } else { SEGMENT_HEADER_BYTES };
            while offset < self.journal.segment_bytes {
                let place = Place { salt: self.journal.salt, lap, offset };
                let header = image.bytes.get(offset as usize..).and_then(|b| Header::decode(b, place, false));
                if header.is_some_and(|h| h.kind == Kind::SyncMark)
                    && let Some((_, body, _)) = self.record(&image, offset, 0)
                {
                    highest = highest.max(mark_claim(body));
                }
                offset += record::ALIGNMENT as u32;
            }
        }
        Ok(highest)
    }
}
