//! Looking at a disk without opening it: for `weft debug disk`, `weft debug journal`, `weft debug chunk`.
//!
//! Responsible for: descriptions that serialise. Guarantees: writes nothing, takes no lock, and goes on where something
//! is damaged, so that it can be used on a disk that does not open or is in use (the picture may then be torn). Must not
//! know: the store's memory.

use crate::chunk_file::{Trailer, chunk_path};
use crate::config::StoreConfig;
use crate::disk::{Disk, DiskFile, Filesystem, OpenMode, Usage, read_file};
use crate::error::{IoContext, Result, StoreError};
use crate::inventory::Contents;
use crate::journal::{Journal, Verdict};
use crate::record::Kind;
use crate::state::{DiskState, JournalPosition};
use crate::superblock::{self, FAILED_FILE, Identity};
use serde::Serialize;
use std::collections::BTreeMap;
use weft_types::{
    BLOCK_SIZE, BlockIndex, ChunkId, ChunkSize, EntryHeader, LogPosition, PgId, TruncateGeneration, VolumeId,
    block_hash,
};

#[derive(Clone, Serialize, Debug)]
pub struct DiskDescription {
    pub identity: Identity,
    pub format_version: u32,
    pub filesystem: Filesystem,
    pub usage: Usage,
    pub segment_bytes: u32,
    pub segments: u32,
    /// Why the disk was marked as failed.
    pub failed: Option<String>,
    pub openings: u32,
    pub first_live_lap: u64,
    pub synced_to: JournalPosition,
    pub groups: Vec<GroupDescription>,
}

#[derive(Clone, Serialize, Debug)]
pub struct GroupDescription {
    pub pg: PgId,
    /// All as of the last checkpoint.
    pub promised: u64,
    pub log_end: LogPosition,
    pub committed: LogPosition,
    pub applied: LogPosition,
    pub complete_to: LogPosition,
    pub sessions: usize,
}

#[derive(Clone, Serialize, Debug)]
pub struct JournalDescription {
    pub first_live_lap: u64,
    pub end: JournalPosition,
    /// Why the end is doubtful: the journal is corrupt before a sync mark.
    pub corruption: Option<String>,
    pub records: Vec<RecordDescription>,
    /// There were more records than asked for.
    pub truncated: bool,
}

#[derive(Clone, Serialize, Debug)]
pub struct RecordDescription {
    pub at: JournalPosition,
    pub kind: String,
    pub life: u32,
    pub pg: PgId,
    pub bytes: u64,
    /// Of an entry.
    pub entry: Option<EntryHeader>,
    /// Covered by a sync mark.
    pub synced: bool,
}

#[derive(Clone, Serialize, Debug)]
pub struct ChunkDescription {
    pub path: String,
    pub length: u64,
    /// The newest trailer is lost, and with it what it said of the blocks: an older one is there, or none.
    pub newest_is_lost: bool,
    /// `None`: both trailers are lost.
    pub trailer: Option<TrailerDescription>,
}

#[derive(Clone, Serialize, Debug)]
pub struct TrailerDescription {
    pub version: LogPosition,
    pub generation: TruncateGeneration,
    pub end_bytes: u32,
    pub serial: u64,
    pub damaged: bool,
    pub present_blocks: u32,
    /// Present blocks whose bytes do not have their hash. The journal may hold newer ones.
    pub bad_blocks: Vec<BlockIndex>,
}

/// Describes a disk.
///
/// # Errors
/// When it has no readable superblock or state file.
pub fn describe_disk<D: Disk>(disk: &D) -> Result<DiskDescription> {
    let superblock = superblock::read_superblock(disk)?;
    let state = superblock::read_state(disk)?;
    let failed = read_file(disk, FAILED_FILE).during("reading the failure mark")?;
    let groups = state.groups.iter().map(|(pg, group)| GroupDescription {
        pg: *pg,
        promised: group.state.promised.0,
        log_end: group.end,
        committed: group.committed,
        applied: group.applied,
        complete_to: group.state.complete_to,
        sessions: group.dedupe.sessions.len(),
    });
    Ok(DiskDescription {
        identity: superblock.identity,
        format_version: superblock::FORMAT_VERSION,
        filesystem: disk.filesystem().during("asking for the filesystem")?,
        usage: disk.usage().during("asking for free space")?,
        segment_bytes: superblock.segment_bytes,
        segments: superblock.segments,
        failed: failed.map(|reason| String::from_utf8_lossy(&reason).into_owned()),
        openings: state.life,
        first_live_lap: state.first_live,
        synced_to: state.as_of,
        groups: groups.collect(),
    })
}

/// Describes the journal's live records, the first `max_records` of them.
///
/// # Errors
/// When the disk has no readable superblock or state file, or a segment cannot be read.
pub fn describe_journal<D: Disk>(disk: &D, max_records: usize) -> Result<JournalDescription> {
    let superblock = superblock::read_superblock(disk)?;
    let state: DiskState = superblock::read_state(disk)?;
    let mut journal = Journal::open(disk, &superblock, state.life, state.first_live)?;
    let mut records = Vec::new();
    let mut truncated = false;
    let recovered = journal.recover(state.as_of, &StoreConfig::default(), &mut |found| {
        if records.len() == max_records {
            truncated = true;
            return Ok(Verdict::End);
        }
        let is_entry = matches!(found.header.kind, Kind::Entry | Kind::EntryAgain);
        records.push(RecordDescription {
            at: found.at,
            kind: format!("{:?}", found.header.kind),
            life: found.header.life,
            pg: found.pg(),
            bytes: found.header.record_bytes(),
            entry: is_entry.then(|| weft_types::codec::decode(found.body).ok()).flatten(),
            synced: found.synced,
        });
        Ok(Verdict::Good)
    });
    let corruption = match recovered {
        Ok(_) => None,
        Err(error @ StoreError::JournalCorrupt { .. }) => Some(error.to_string()),
        Err(error) => return Err(error),
    };
    Ok(JournalDescription { first_live_lap: state.first_live, end: journal.head(), corruption, records, truncated })
}

/// Looks into the chunk files of a disk.
pub struct ChunkFiles<D: Disk> {
    disk: D,
    volumes: BTreeMap<VolumeId, ChunkSize>,
    noted: Contents,
}

impl<D: Disk> ChunkFiles<D> {
    /// # Errors
    /// When the disk has no readable superblock or state file. Without an inventory of trailers nobody knows which are lost.
    pub fn of(disk: &D) -> Result<Self> {
        let superblock = superblock::read_superblock(disk)?;
        let volumes = superblock::read_state(disk)?.volumes.into_iter().collect();
        let noted = Contents::read(disk, superblock.salt()).unwrap_or_default();
        Ok(Self { disk: disk.clone(), volumes, noted })
    }

    /// Describes a chunk's file and checks its blocks. `None`: it has none.
    ///
    /// # Errors
    /// When its volume is not registered, or the file cannot be read.
    pub fn describe(&self, pg: PgId, chunk: ChunkId) -> Result<Option<ChunkDescription>> {
        let size = *self.volumes.get(&pg.volume).ok_or(StoreError::UnknownVolume { volume: pg.volume })?;
        let path = chunk_path(pg, chunk);
        let file = match self.disk.open(&path, OpenMode::ReadOnly) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Io { what: path, source }),
        };
        let length = file.len().during(&path)?;
        let found = Trailer::read(&file, pg, chunk, size).during(&path)?;
        let known = self.noted.marks.get(&(pg, chunk)).copied().unwrap_or_default();
        let newest_is_lost = found.as_ref().is_none_or(|found| found.mark.is_behind(known));
        let trailer = found.map(|trailer| {
            let mut bad_blocks = Vec::new();
            let mut bytes = vec![0; BLOCK_SIZE];
            for (index, hash) in trailer.hashes.iter().enumerate() {
                let Some(hash) = hash else { continue };
                let block = BlockIndex(index as u16);
                let read = file.read_exact_at(&mut bytes, index as u64 * BLOCK_SIZE as u64);
                if read.is_err() || block_hash(pg.volume, chunk, block, &bytes) != *hash {
                    bad_blocks.push(block);
                }
            }
            TrailerDescription {
                version: trailer.version,
                generation: trailer.generation,
                end_bytes: trailer.end_bytes,
                serial: trailer.mark.serial,
                damaged: trailer.damaged,
                present_blocks: trailer.present(),
                bad_blocks,
            }
        });
        Ok(Some(ChunkDescription { path, length, newest_is_lost, trailer }))
    }
}
