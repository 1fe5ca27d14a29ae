//! The frame around everything that is appended: journal records and Raft log records.
//!
//! Responsible for: laying out and checking one record. Guarantees: a record verifies only on the disk, in the lap and
//! at the offset it was written for, because all three go into its checksum; so neither a recycled segment's old
//! records nor a journal stored inside a guest image can be taken for ours. Must not know: what bodies mean.

/// Bytes of the fixed header.
pub const HEADER_BYTES: usize = 48;
/// Records begin at multiples of this, so that a scan for what lies beyond a bad record has few places to look at.
pub const ALIGNMENT: usize = 64;
const MAGIC: u32 = 0x5746_5452;
/// Body and data of the longest record of any kind, so that what a header says can be added up.
const MAX_RECORD_BYTES: u64 = 1 << 30;

/// Kinds of record. Numbers are on disk: never reuse one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    Entry = 1,
    SyncMark = 2,
    CutTail = 3,
    ResetLog = 4,
    ReplicaState = 5,
    Committed = 6,
    Dedupe = 7,
    CreateGroup = 8,
    RemoveGroup = 9,
    RegisterVolume = 10,
    /// An entry copied forward out of a segment that is wanted back.
    EntryAgain = 11,
    RawEntry = 32,
    RawTruncate = 33,
    RawPurge = 34,
    RawMeta = 35,
    RawDeleteMeta = 36,
}

impl Kind {
    const ALL: [Self; 16] = [
        Self::Entry,
        Self::SyncMark,
        Self::CutTail,
        Self::ResetLog,
        Self::ReplicaState,
        Self::Committed,
        Self::Dedupe,
        Self::CreateGroup,
        Self::RemoveGroup,
        Self::RegisterVolume,
        Self::EntryAgain,
        Self::RawEntry,
        Self::RawTruncate,
        Self::RawPurge,
        Self::RawMeta,
        Self::RawDeleteMeta,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|k| *k as u8 == byte)
    }
}

/// What binds a record to its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Of the disk (or of the Raft log).
    pub salt: u64,
    pub lap: u64,
    pub offset: u32,
}

/// A header that verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub kind: Kind,
    /// Counts openings of the store. It never falls along the log: what a crashed life left behind the log's end
    /// cannot follow a record of a later life.
    pub life: u32,
    pub body_bytes: u32,
    pub data_bytes: u32,
    /// Placement group, or zero.
    pub volume: u32,
    pub group: u16,
    body_crc: u32,
}

impl Header {
    /// Bytes the record takes with its padding.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        padded(HEADER_BYTES as u64 + u64::from(self.body_bytes) + u64::from(self.data_bytes))
    }

    #[must_use]
    pub fn data_offset(&self) -> u32 {
        HEADER_BYTES as u32 + self.body_bytes
    }

    /// Reads a header. `None` when it does not verify at `place`.
    #[must_use]
    pub fn decode(bytes: &[u8], place: Place, mutant_ignores_lap: bool) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        if le32(bytes, 0) != MAGIC {
            return None;
        }
        let lap = le64(bytes, 24);
        if lap != place.lap && !mutant_ignores_lap {
            return None;
        }
        if le32(bytes, 4) != header_crc(bytes, Place { lap, ..place }) {
            return None;
        }
        let (body_bytes, data_bytes) = (le32(bytes, 12), le32(bytes, 16));
        if u64::from(body_bytes) + u64::from(data_bytes) > MAX_RECORD_BYTES {
            return None;
        }
        Some(Self {
            kind: Kind::from_byte(bytes[32])?,
            life: le32(bytes, 8),
            body_bytes,
            data_bytes,
            volume: le32(bytes, 36),
            group: u16::from_le_bytes([bytes[40], bytes[41]]),
            body_crc: le32(bytes, 20),
        })
    }

    /// Checks the body that follows the header.
    #[must_use]
    pub fn body_verifies(&self, body: &[u8]) -> bool {
        body.len() == self.body_bytes as usize && crc32c::crc32c(body) == self.body_crc
    }
}

/// Length with padding.
#[must_use]
pub const fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT as u64)
}

/// What to write.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub kind: Kind,
    pub life: u32,
    pub volume: u32,
    pub group: u16,
    pub place: Place,
}

/// Appends a record to `out`. `write_body` appends the body; `data` follows it. Returns the body's length.
pub fn encode(out: &mut Vec<u8>, frame: Frame, write_body: impl FnOnce(&mut Vec<u8>), data: &[u8]) -> u32 {
    let start = out.len();
    out.resize(start + HEADER_BYTES, 0);
    write_body(out);
    let body_end = out.len();
    let body_bytes = (body_end - start - HEADER_BYTES) as u32;
    let body_crc = crc32c::crc32c(&out[start + HEADER_BYTES..]);
    out.extend_from_slice(data);
    out.resize(start + padded((out.len() - start) as u64) as usize, 0);
    let mut header = [0u8; HEADER_BYTES];
    header[8..12].copy_from_slice(&frame.life.to_le_bytes());
    header[12..16].copy_from_slice(&body_bytes.to_le_bytes());
    header[16..20].copy_from_slice(&(data.len() as u32).to_le_bytes());
    header[20..24].copy_from_slice(&body_crc.to_le_bytes());
    header[24..32].copy_from_slice(&frame.place.lap.to_le_bytes());
    header[32] = frame.kind as u8;
    header[36..40].copy_from_slice(&frame.volume.to_le_bytes());
    header[40..42].copy_from_slice(&frame.group.to_le_bytes());
    seal_header(&mut header, frame.place);
    out[start..start + HEADER_BYTES].copy_from_slice(&header);
    body_bytes
}

/// Puts magic and checksum into a header whose other fields are written.
pub(crate) fn seal_header(header: &mut [u8; HEADER_BYTES], place: Place) {
    header[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    let crc = header_crc(header, place);
    header[4..8].copy_from_slice(&crc.to_le_bytes());
}

fn header_crc(header: &[u8; HEADER_BYTES], place: Place) -> u32 {
    let mut salt = [0u8; 20];
    salt[0..8].copy_from_slice(&place.salt.to_le_bytes());
    salt[8..16].copy_from_slice(&place.lap.to_le_bytes());
    salt[16..20].copy_from_slice(&place.offset.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&salt), &header[8..])
}

pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}
