//! What can go wrong on one disk. `Display` says what happened, to what, and what to do next.

use std::io;
use weft_types::{ChunkSize, ClusterId, DiskId, LogPosition, NodeId, PgId, VolumeId};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{disk}: no Weft disk is here; mount the right one, or join the node anew with an empty directory")]
    NotFormatted { disk: String },
    #[error(
        "{disk}: formatting was interrupted, so the disk holds no data; remove what is in the directory and join the node anew"
    )]
    HalfFormatted { disk: String },
    #[error("{disk}: holds files already; a disk is formatted only into an empty directory")]
    NotEmpty { disk: String },
    #[error("{disk}: format version {found}, this program reads version {supported}; run the release that wrote it")]
    OtherVersion { disk: String, found: u32, supported: u32 },
    #[error("{disk}: belongs to cluster {found}, not to {expected}; it is not touched. Mount the right disk here")]
    ForeignCluster { disk: String, found: ClusterId, expected: ClusterId },
    #[error("{disk}: is disk {found}, expected {expected}; disks were swapped. Mount the right disk here")]
    ForeignDisk { disk: String, found: DiskId, expected: DiskId },
    #[error(
        "{disk}: belongs to node {found}, and this is node {expected}; disks were swapped. Mount the right disk here"
    )]
    OtherNode { disk: String, found: NodeId, expected: NodeId },
    #[error("{disk}: another process has it open; stop that one first")]
    Locked { disk: String },
    #[error("{disk}: marked as failed ({reason}); replace it, or wipe the directory and add it as a new disk")]
    MarkedFailed { disk: String, reason: String },
    #[error("disk failed: {reason}; it accepts nothing more until it is wiped and added anew")]
    Poisoned { reason: String },
    #[error(
        "journal is corrupt at {at} although it was synced up to {synced_to}; acknowledged data are gone from this \
         disk. Remove the disk and let the cluster rebuild its replicas elsewhere"
    )]
    JournalCorrupt { at: String, synced_to: String },
    #[error("{file} is corrupt: {what}; remove the disk and let the cluster rebuild its replicas elsewhere")]
    Corrupt { file: String, what: String },
    #[error("the journal has no room for {needed} bytes; the checkpoint does not keep up")]
    JournalFull { needed: u64 },
    #[error("placement group {pg} has no replica on this disk")]
    UnknownGroup { pg: PgId },
    #[error("volume {volume} is not registered on this disk")]
    UnknownVolume { volume: VolumeId },
    #[error("volume {volume} has chunks of {} bytes on this disk, not of {}", have.bytes(), got.bytes())]
    ChunkSizeDiffers { volume: VolumeId, have: ChunkSize, got: ChunkSize },
    #[error("log of {pg} ends at {end}; the entry follows {got}")]
    NotContiguous { pg: PgId, end: LogPosition, got: LogPosition },
    #[error("entry {position} of {pg} is malformed: {what}")]
    Malformed { pg: PgId, position: LogPosition, what: &'static str },
    #[error("log of {pg} is committed up to {committed} and cannot be cut after {after}")]
    CutBelowCommitted { pg: PgId, after: LogPosition, committed: LogPosition },
    #[error("{position} is not a position of the log of {pg}")]
    NotInLog { pg: PgId, position: LogPosition },
    #[error("entries of {pg} up to {start} are trimmed, asked for those after {after}")]
    Trimmed { pg: PgId, after: LogPosition, start: LogPosition },
    #[error("{what} outside the chunk")]
    OutOfRange { what: &'static str },
    #[error("raft log: {what}")]
    RawLog { what: String },
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
}

impl StoreError {
    /// No space left on the filesystem.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}

pub type Result<T> = std::result::Result<T, StoreError>;

/// Puts the subject into an I/O error.
pub(crate) trait IoContext<T> {
    fn during(self, what: &str) -> Result<T>;
    /// As `during`; `what` is made only for an error.
    fn during_with(self, what: impl Fn() -> String) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn during(self, what: &str) -> Result<T> {
        self.map_err(|source| StoreError::Io { what: what.to_owned(), source })
    }

    fn during_with(self, what: impl Fn() -> String) -> Result<T> {
        self.map_err(|source| StoreError::Io { what: what(), source })
    }
}
