//! The disks of a node: formatting, opening, and what has to be known of them before the node registers.
//!
//! Guarantees: a foreign, swapped, locked or failed disk is not opened (design 4.6); a disk is never formatted by
//! opening it, so an empty mount point does not become a disk by accident. Must not know: placement groups.

use super::proof::{self, CacheLife, LastRun, MarkError};
use std::io;
use std::path::{Path, PathBuf};
use weft_proto::control::RegisterDisk;
use weft_store::{Disk, Expected, Identity, RealDisk, Store, StoreConfig, StoreError};
use weft_types::{ClusterId, DiskId, Incarnation, NodeId};

/// What a node's disks are made of.
pub type NodeDisk = RealDisk;

#[derive(Debug, thiserror::Error)]
pub enum OpenDiskError {
    #[error("cannot open the disk directory {path}: {source}")]
    Directory { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{path}: cannot tell how the last run on this disk ended, or sync what it left: {source}")]
    LastRun { path: PathBuf, source: MarkError },
    #[error("{first} and {second} hold the same disk {disk}")]
    Twice { disk: DiskId, first: PathBuf, second: PathBuf },
}

/// One disk, opened and recovered.
pub struct OpenedDisk<D: Disk = NodeDisk> {
    pub path: PathBuf,
    pub id: DiskId,
    pub(super) disk: D,
    pub(super) store: Store<D>,
    pub(super) cache_life: CacheLife,
    pub(super) last_run: LastRun,
}

/// All disks of a node, ready for the data thread.
pub struct OpenedDisks<D: Disk = NodeDisk> {
    pub(super) disks: Vec<OpenedDisk<D>>,
    /// Broken ones, and why they were left out.
    pub(super) left_out: Vec<String>,
}

impl<D: Disk> Default for OpenedDisks<D> {
    fn default() -> Self {
        Self { disks: Vec::new(), left_out: Vec::new() }
    }
}

impl<D: Disk> OpenedDisks<D> {
    /// Opens several. One that is broken is left out as long as another one is left.
    ///
    /// # Errors
    /// When one is not ours or cannot be looked at, when one is there twice, or when all are broken.
    pub fn gather(
        disks: impl IntoIterator<Item = Result<OpenedDisk<D>, OpenDiskError>>,
    ) -> Result<Self, OpenDiskError> {
        let mut opened = Self::default();
        let mut broken = None;
        for disk in disks {
            let disk = match disk {
                Ok(disk) => disk,
                Err(OpenDiskError::Store(error)) if is_broken(&error) => {
                    tracing::error!(%error, "the node goes on without this disk");
                    opened.left_out.push(error.to_string());
                    broken.get_or_insert(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(twin) = opened.disks.iter().find(|other| other.id == disk.id) {
                let (first, second) = (twin.path.clone(), disk.path);
                return Err(OpenDiskError::Twice { disk: disk.id, first, second });
            }
            opened.disks.push(disk);
        }
        match broken {
            Some(error) if opened.disks.is_empty() => Err(error.into()),
            _ => Ok(opened),
        }
    }

    /// The facts that the node registers with.
    #[must_use]
    pub fn registrations(&self) -> Vec<RegisterDisk> {
        let facts = |disk: &OpenedDisk<D>| RegisterDisk {
            disk: disk.id,
            capacity_bytes: disk.store.space().total_bytes,
            proof: disk.last_run.proof,
        };
        self.disks.iter().map(facts).collect()
    }

    /// The latest incarnation that wrote to one of the disks; zero if none did.
    #[must_use]
    pub fn previous_incarnation(&self) -> Incarnation {
        self.disks.iter().map(|disk| disk.last_run.incarnation).max().unwrap_or_default()
    }

    #[must_use]
    pub fn ids(&self) -> Vec<DiskId> {
        self.disks.iter().map(|disk| disk.id).collect()
    }
}

/// Makes a disk of an empty directory, under an id drawn at random. Blocks.
///
/// # Errors
/// When the directory cannot be used, or holds anything.
pub fn format_disk(
    path: &Path,
    cluster: ClusterId,
    node: NodeId,
    config: &StoreConfig,
) -> Result<DiskId, OpenDiskError> {
    let source = |source| OpenDiskError::Directory { path: path.to_owned(), source };
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).map_err(|e| source(e.into()))?;
    let id = DiskId(u128::from_le_bytes(random));
    let disk = NodeDisk::new(path).map_err(source)?;
    Store::format(&disk, Identity { cluster, disk: id, node }, config)?;
    Ok(id)
}

/// Opens and recovers every disk, and finds out what can be proven of how its last run ended. Blocks. A disk that is
/// broken (marked as failed, or corrupt) is left out as long as another one is left: its node goes on without it.
///
/// # Errors
/// When one of them is not ours or cannot be looked at, or all are broken; the error names it.
pub fn open_disks(
    paths: &[PathBuf],
    cluster: ClusterId,
    node: NodeId,
    config: &StoreConfig,
) -> Result<OpenedDisks, OpenDiskError> {
    OpenedDisks::gather(paths.iter().map(|path| open_disk(path, cluster, node, config)))
}

/// What only a new disk can help.
const fn is_broken(error: &StoreError) -> bool {
    matches!(error, StoreError::MarkedFailed { .. } | StoreError::JournalCorrupt { .. } | StoreError::Corrupt { .. })
}

/// Looks whether a disk is this node's own, and changes nothing. A broken one passes: `open_disks` decides on it.
///
/// # Errors
/// When it is not there, foreign, swapped, or was never finished.
pub fn check_disk(path: &Path, cluster: ClusterId, node: NodeId) -> Result<(), OpenDiskError> {
    let disk = NodeDisk::new(path).map_err(|source| OpenDiskError::Directory { path: path.to_owned(), source })?;
    match weft_store::check_disk(&disk, Expected { cluster, disk: None, node: Some(node) }) {
        Err(error) if !is_broken(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

fn open_disk(path: &Path, cluster: ClusterId, node: NodeId, config: &StoreConfig) -> Result<OpenedDisk, OpenDiskError> {
    check_disk(path, cluster, node)?;
    let disk = NodeDisk::new(path).map_err(|source| OpenDiskError::Directory { path: path.to_owned(), source })?;
    let cache_life = || CacheLife::of(path);
    open_on(disk, path, cluster, config, cache_life)
}

/// Opens and recovers one disk, whatever it is made of.
///
/// # Errors
/// When it is not ours, broken, or cannot be looked at.
pub fn open_on<D: Disk>(
    disk: D,
    path: &Path,
    cluster: ClusterId,
    config: &StoreConfig,
    cache_life: impl FnOnce() -> io::Result<CacheLife>,
) -> Result<OpenedDisk<D>, OpenDiskError> {
    let source = |source| OpenDiskError::Directory { path: path.to_owned(), source };
    let (mut store, report) = Store::open(disk.clone(), Expected { cluster, disk: None, node: None }, config.clone())?;
    let id = store.identity().disk;
    let last_run = |source| OpenDiskError::LastRun { path: path.to_owned(), source };
    let cache_life = cache_life().map_err(|error| last_run(error.into()))?;
    let examined = proof::examine(&disk, &mut store, &cache_life).map_err(last_run)?;
    if let Some(warning) = disk.filesystem().map_err(source)?.warning() {
        tracing::warn!(disk = %id, path = %path.display(), "{warning}");
    }
    tracing::info!(
        disk = %id, path = %path.display(), last = %examined.incarnation, proven = examined.proof.is_some(), ?report,
        "disk opened"
    );
    Ok(OpenedDisk { path: path.to_owned(), id, disk, store, cache_life, last_run: examined })
}
