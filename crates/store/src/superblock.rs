//! Whose disk this is (design 4.6): identity, format, lock, failure mark.
//!
//! Responsible for: refusing a foreign, swapped, half-formatted, other-version or failed disk. Guarantees: the
//! superblock is written last when formatting, so that its presence means a complete disk. Must not know: the journal's
//! records, chunk files.

use crate::config::{Mutant, StoreConfig};
use crate::disk::{Disk, DiskFile, OpenMode, read_file, replace_file};
use crate::error::{IoContext, Result, StoreError};
use crate::sealed::{self, Seal, Unsealed};
use crate::state::DiskState;
use serde::{Deserialize, Serialize};
use weft_types::{ClusterId, DiskId, NodeId};

/// Version of everything on the disk. 2: entries may fill blocks. An opening writes the state file anew, so a program that
/// does not know such entries never opens a disk that may have them.
pub const FORMAT_VERSION: u32 = 2;
/// The oldest that is understood: it has nothing that version 2 has not.
const OLDEST_VERSION: u32 = 1;

pub(crate) const LOCK_FILE: &str = "lock";
pub(crate) const FAILED_FILE: &str = "failed";
pub(crate) const BALLAST_FILE: &str = "ballast";
pub(crate) const JOURNAL_DIR: &str = "journal";
pub(crate) const CHUNKS_DIR: &str = "chunks";
pub(crate) const SUPERBLOCK: Seal =
    Seal { path: "superblock", magic: *b"WEFTDISK", version: FORMAT_VERSION, oldest: OLDEST_VERSION };
pub(crate) const STATE: Seal =
    Seal { path: "state", magic: *b"WEFTSTAT", version: FORMAT_VERSION, oldest: OLDEST_VERSION };

/// Segments of a journal and bytes of each: no disk was ever formatted outside of these.
const MIN_SEGMENT_BYTES: u32 = 4 << 10;
const MAX_SEGMENT_BYTES: u32 = 1 << 30;
const MIN_SEGMENTS: u32 = 2;
const MAX_SEGMENTS: u32 = 4096;

/// Who a disk is.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Identity {
    pub cluster: ClusterId,
    pub disk: DiskId,
    /// The node that formatted it.
    pub node: NodeId,
}

/// Whom the caller expects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected {
    pub cluster: ClusterId,
    /// `None` when any disk of the cluster will do.
    pub disk: Option<DiskId>,
    /// The node that formatted it; `None` when any node's disk will do.
    pub node: Option<NodeId>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(crate) struct Superblock {
    pub identity: Identity,
    pub segment_bytes: u32,
    pub segments: u32,
}

impl Superblock {
    /// Refuses a ring that cannot be: whatever wrote it, it was not this program.
    fn checked(self) -> Result<Self> {
        let segment = (MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&self.segment_bytes);
        if segment && (MIN_SEGMENTS..=MAX_SEGMENTS).contains(&self.segments) {
            return Ok(self);
        }
        let what = format!("a journal of {} segments of {} bytes cannot be", self.segments, self.segment_bytes);
        Err(StoreError::Corrupt { file: SUPERBLOCK.path.to_owned(), what })
    }

    /// Goes into every journal checksum.
    pub(crate) fn salt(&self) -> u64 {
        let id = self.identity.disk.0;
        (id as u64) ^ ((id >> 64) as u64)
    }
}

pub(crate) fn segment_path(index: u32) -> String {
    format!("{JOURNAL_DIR}/{index:04}")
}

/// Makes an empty directory a disk.
pub(crate) fn format<D: Disk>(disk: &D, identity: Identity, config: &StoreConfig) -> Result<()> {
    let found = disk.list("").during("listing the directory")?;
    if found.iter().any(|e| e.name == SUPERBLOCK.path) {
        return Err(StoreError::NotEmpty { disk: disk.describe() });
    }
    if found.iter().any(|e| e.name == JOURNAL_DIR) {
        return Err(StoreError::HalfFormatted { disk: disk.describe() });
    }
    if found.iter().any(|e| e.name != "lost+found" && e.name != LOCK_FILE) {
        return Err(StoreError::NotEmpty { disk: disk.describe() });
    }
    let _lock = take_lock(disk)?;
    disk.make_dirs(JOURNAL_DIR).during("creating the journal")?;
    disk.make_dirs(CHUNKS_DIR).during("creating the chunk directory")?;
    for index in 0..config.segments {
        fill(disk, &segment_path(index), u64::from(config.segment_bytes))?;
    }
    create_ballast(disk, config.ballast_bytes)?;
    disk.sync_dir(JOURNAL_DIR).during("syncing the journal's directory")?;
    let state = DiskState { first_live: 1, ..DiskState::default() };
    sealed::write(disk, config, STATE, &state)?;
    let superblock = Superblock { identity, segment_bytes: config.segment_bytes, segments: config.segments };
    sealed::write(disk, config, SUPERBLOCK, &superblock)
}

/// Written with zeros, not only allocated: an fdatasync of a record then changes no metadata.
fn fill<D: Disk>(disk: &D, path: &str, bytes: u64) -> Result<()> {
    const STEP: u64 = 1 << 20;
    let file = disk.open(path, OpenMode::Truncate).during(path)?;
    let zeros = vec![0; STEP.min(bytes) as usize];
    let mut at = 0;
    while at < bytes {
        let step = STEP.min(bytes - at);
        file.write_at(&zeros[..step as usize], at).during(path)?;
        at += step;
    }
    file.sync_data().during(path)
}

pub(crate) fn create_ballast<D: Disk>(disk: &D, bytes: u64) -> Result<()> {
    let file = disk.open(BALLAST_FILE, OpenMode::Create).during("creating the ballast")?;
    if bytes > 0 {
        file.allocate(0, bytes).during("allocating the ballast")?;
    }
    file.sync_data().during("syncing the ballast")
}

/// Whether the ballast is shorter than it should be, or not there.
pub(crate) fn ballast_missing<D: Disk>(disk: &D, bytes: u64) -> Result<bool> {
    if bytes == 0 {
        return Ok(false);
    }
    match disk.open(BALLAST_FILE, OpenMode::Existing).and_then(|file| file.len()) {
        Ok(length) => Ok(length < bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).during("looking at the ballast"),
    }
}

/// What a checkpoint leaves of the ballast. It may fail for want of space and be tried again; an opening has to write a
/// state file, and a disk that does not open can have nothing deleted from it.
pub(crate) const fn kept_for_opening(ballast_bytes: u64) -> u64 {
    ballast_bytes / 2
}

/// Does what beginning to use a disk takes, and says whether it took of the ballast. On a full disk it takes the place of the
/// ballast's rest; what it replaces makes room for that again.
pub(crate) fn with_ballast<D: Disk>(disk: &D, config: &StoreConfig, write: impl Fn() -> Result<()>) -> Result<bool> {
    match write() {
        Err(error) if error.is_no_space() && !config.has(Mutant::BeginWithoutBallast) => {}
        written => return written.map(|()| false),
    }
    release_ballast(disk, 0)?;
    write()?;
    if let Err(error) = create_ballast(disk, kept_for_opening(config.ballast_bytes)) {
        tracing::warn!(%error, "nothing could be kept of the ballast for the next opening");
    }
    Ok(true)
}

/// Gives up the ballast but for `keep_bytes` of it.
pub(crate) fn release_ballast<D: Disk>(disk: &D, keep_bytes: u64) -> Result<()> {
    let file = disk.open(BALLAST_FILE, OpenMode::Create).during("opening the ballast")?;
    let length = file.len().during("looking at the ballast")?;
    file.set_len(length.min(keep_bytes)).during("releasing the ballast")?;
    file.sync_data().during("syncing the ballast")?;
    disk.sync_all().during("syncing the disk")
}

pub(crate) fn take_lock<D: Disk>(disk: &D) -> Result<D::Lock> {
    disk.try_lock(LOCK_FILE).during("locking the disk")?.ok_or_else(|| StoreError::Locked { disk: disk.describe() })
}

pub(crate) fn read_superblock<D: Disk>(disk: &D) -> Result<Superblock> {
    match sealed::read::<D, Superblock>(disk, SUPERBLOCK)? {
        Unsealed::Value(superblock) => superblock.checked(),
        Unsealed::OtherVersion(found) => {
            Err(StoreError::OtherVersion { disk: disk.describe(), found, supported: FORMAT_VERSION })
        }
        Unsealed::Absent => {
            let found = disk.list("").during("listing the directory")?;
            let begun = found.iter().any(|e| e.name == JOURNAL_DIR);
            let disk = disk.describe();
            Err(if begun { StoreError::HalfFormatted { disk } } else { StoreError::NotFormatted { disk } })
        }
    }
}

pub(crate) fn read_state<D: Disk>(disk: &D) -> Result<DiskState> {
    match sealed::read::<D, DiskState>(disk, STATE)? {
        Unsealed::Value(state) => match state.impossible() {
            None => Ok(state),
            Some(what) => Err(StoreError::Corrupt { file: STATE.path.to_owned(), what: what.to_owned() }),
        },
        Unsealed::OtherVersion(found) => {
            Err(StoreError::OtherVersion { disk: disk.describe(), found, supported: FORMAT_VERSION })
        }
        Unsealed::Absent => Err(StoreError::Corrupt { file: STATE.path.to_owned(), what: "it is missing".to_owned() }),
    }
}

/// Refuses a disk that is not the expected one, or that failed, and changes nothing.
///
/// # Errors
/// What is wrong with it, as opening it would say.
pub fn check_disk<D: Disk>(disk: &D, expected: Expected) -> Result<()> {
    check(disk, &read_superblock(disk)?, expected, &StoreConfig::default())
}

pub(crate) fn check<D: Disk>(
    disk: &D,
    superblock: &Superblock,
    expected: Expected,
    config: &StoreConfig,
) -> Result<()> {
    let Identity { cluster, disk: id, node } = superblock.identity;
    let any = Expected { cluster, disk: None, node: None };
    let expected = if config.has(Mutant::AnyDisk) { any } else { expected };
    if cluster != expected.cluster {
        return Err(StoreError::ForeignCluster { disk: disk.describe(), found: cluster, expected: expected.cluster });
    }
    if let Some(expected) = expected.disk.filter(|expected| *expected != id) {
        return Err(StoreError::ForeignDisk { disk: disk.describe(), found: id, expected });
    }
    if let Some(expected) = expected.node.filter(|expected| *expected != node) {
        return Err(StoreError::OtherNode { disk: disk.describe(), found: node, expected });
    }
    let failed = read_file(disk, FAILED_FILE).during("reading the failure mark")?;
    if let Some(reason) = failed.filter(|_| !config.has(Mutant::ForgetFailure)) {
        let reason = String::from_utf8_lossy(&reason).into_owned();
        return Err(StoreError::MarkedFailed { disk: disk.describe(), reason });
    }
    Ok(())
}

/// Records that the disk failed, as far as a failed disk lets itself be written to.
pub(crate) fn mark_failed<D: Disk>(disk: &D, reason: &str) {
    if let Err(error) = replace_file(disk, FAILED_FILE, reason.as_bytes()) {
        tracing::error!(%error, disk = %disk.describe(), "the disk failed and the failure could not be recorded on it");
    }
}
