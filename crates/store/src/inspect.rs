//! Looking into a disk without changing it: what `weft debug` shows.
//!
//! Guarantees: takes no lock and writes nothing, so it works beside a running node; what it reads may then be between
//! two states, and a journal's end may move while it is read. Must not know: how any of it is printed.

use crate::chunk_file::{Trailer, chunk_path, group_dir, parse_chunk_name, parse_group_name};
use crate::config::StoreConfig;
use crate::disk::{DirEntryKind, Disk, DiskFile, Filesystem, OpenMode, Usage, read_file};
use crate::error::{IoContext, Result, StoreError};
use crate::journal::{Journal, Verdict};
use crate::record::Kind;
use crate::state::JournalPosition;
use crate::superblock::{CHUNKS_DIR, FAILED_FILE, Identity, read_state, read_superblock};
use serde::Serialize;
use weft_types::{
    BLOCK_SIZE, BlockHash, BlockIndex, ChunkId, ChunkSize, EntryHeader, LogPosition, PgId, TruncateGeneration,
    VolumeId, block_hash,
};

#[derive(Clone, Debug, Serialize)]
pub struct DiskView {
    pub identity: Identity,
    pub filesystem: Filesystem,
    pub usage: Usage,
    /// Why the disk accepts nothing any more, if it was marked failed.
    pub failed: Option<String>,
    pub journal_segments: u32,
    pub journal_segment_bytes: u32,
    /// How often the disk was opened.
    pub life: u32,
    /// The journal is read from here at the next start.
    pub first_live_lap: u64,
    pub volumes: Vec<(VolumeId, ChunkSize)>,
    pub groups: Vec<PgId>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ChunkView {
    pub path: String,
    pub pg: PgId,
    pub chunk: ChunkId,
    pub chunk_bytes: u32,
    /// Neither trailer slot is valid: nothing in this file is known good.
    pub trailer_lost: bool,
    pub version: LogPosition,
    pub generation: TruncateGeneration,
    pub end_bytes: u32,
    pub serial: u64,
    pub damaged: bool,
    pub blocks: Vec<BlockView>,
}

/// A block that is present.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct BlockView {
    pub block: BlockIndex,
    pub expected: BlockHash,
    pub found: BlockHash,
}

impl BlockView {
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.expected == self.found
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct RecordView {
    pub lap: u64,
    pub offset: u32,
    pub kind: String,
    pub life: u32,
    pub pg: PgId,
    pub body_bytes: usize,
    pub data_bytes: usize,
    /// A sync mark covers it.
    pub synced: bool,
    /// For entries.
    pub entry: Option<EntryHeader>,
}

/// # Errors
/// When the directory is no disk of this version, or cannot be read.
pub fn disk<D: Disk>(disk: &D) -> Result<DiskView> {
    let superblock = read_superblock(disk)?;
    let state = read_state(disk)?;
    let failed = read_file(disk, FAILED_FILE).during("reading the failure mark")?;
    Ok(DiskView {
        identity: superblock.identity,
        filesystem: disk.filesystem().during("asking for the filesystem")?,
        usage: disk.usage().during("asking for the space")?,
        failed: failed.map(|reason| String::from_utf8_lossy(&reason).into_owned()),
        journal_segments: superblock.segments,
        journal_segment_bytes: superblock.segment_bytes,
        life: state.life,
        first_live_lap: state.first_live,
        volumes: state.volumes,
        groups: state.groups.into_iter().map(|(pg, _)| pg).collect(),
    })
}

/// Chunks that have a file, by group; blocks that are only journalled so far are not in it.
///
/// # Errors
/// When a directory cannot be read.
pub fn chunks<D: Disk>(disk: &D) -> Result<Vec<(PgId, ChunkId)>> {
    let mut found = Vec::new();
    for group in disk.list(CHUNKS_DIR).during(CHUNKS_DIR)? {
        let Some(pg) = parse_group_name(&group.name) else { continue };
        for fanout in disk.list(&group_dir(pg)).during("listing a group")? {
            if fanout.kind != DirEntryKind::Directory {
                continue;
            }
            let directory = format!("{}/{}", group_dir(pg), fanout.name);
            let names = disk.list(&directory).during("listing a group's directory")?;
            found.extend(names.iter().filter_map(|entry| Some((pg, parse_chunk_name(&entry.name)?))));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// A chunk's file: its trailer, and every present block against its hash.
///
/// # Errors
/// When the file does not exist or cannot be read, or has the length of no chunk size.
pub fn chunk<D: Disk>(disk: &D, pg: PgId, chunk: ChunkId) -> Result<ChunkView> {
    let path = chunk_path(pg, chunk);
    let file = disk.open(&path, OpenMode::ReadOnly).during(&path)?;
    let length = file.len().during(&path)?;
    let sizes =
        (ChunkSize::MIN_BYTES.ilog2()..=ChunkSize::MAX_BYTES.ilog2()).filter_map(|b| ChunkSize::new(1 << b).ok());
    // Data, then trailer slots: only one size has room for its trailers and not for the next larger one's data.
    let mut fitting = sizes.filter(|size| u64::from(size.bytes()) < length).collect::<Vec<_>>();
    let size = fitting.pop().ok_or_else(|| StoreError::Corrupt {
        file: path.clone(),
        what: format!("it has {length} bytes, which fits no chunk size"),
    })?;
    let found = Trailer::read(&file, pg, chunk, size).during(&path)?;
    let trailer_lost = found.is_none();
    let trailer = found.unwrap_or_else(|| Trailer::new(pg, chunk, size));
    let mut blocks = Vec::new();
    let mut bytes = vec![0; BLOCK_SIZE];
    for (index, expected) in trailer.hashes.iter().enumerate() {
        let Some(expected) = *expected else { continue };
        // Holes past the end of the data read as zeros.
        let got = file.read_at(&mut bytes, (index * BLOCK_SIZE) as u64).during(&path)?;
        bytes[got..].fill(0);
        let block = BlockIndex(u16::try_from(index).unwrap_or(u16::MAX));
        blocks.push(BlockView { block, expected, found: block_hash(pg.volume, chunk, block, &bytes) });
    }
    Ok(ChunkView {
        path,
        pg,
        chunk,
        chunk_bytes: size.bytes(),
        trailer_lost,
        version: trailer.version,
        generation: trailer.generation,
        end_bytes: trailer.end_bytes,
        serial: trailer.serial,
        damaged: trailer.damaged,
        blocks,
    })
}

/// Every live record in order; returns where the journal ends.
///
/// # Errors
/// When the journal is corrupt before its last sync mark, or cannot be read.
pub fn journal<D: Disk>(disk: &D, mut visit: impl FnMut(RecordView)) -> Result<JournalPosition> {
    let superblock = read_superblock(disk)?;
    let state = read_state(disk)?;
    let mut journal = Journal::open(disk, &superblock, state.life, state.first_live)?;
    journal.recover(state.as_of, &StoreConfig::default(), &mut |found| {
        let is_entry = matches!(found.header.kind, Kind::Entry | Kind::EntryAgain);
        visit(RecordView {
            lap: found.at.lap,
            offset: found.at.offset,
            kind: format!("{:?}", found.header.kind),
            life: found.header.life,
            pg: PgId { volume: VolumeId(found.header.volume), index: found.header.group },
            body_bytes: found.body.len(),
            data_bytes: found.data.len(),
            synced: found.synced,
            entry: if is_entry { postcard::from_bytes(found.body).ok() } else { None },
        });
        Ok(Verdict::Good)
    })?;
    Ok(journal.head())
}
