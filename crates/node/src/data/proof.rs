//! Proof that a disk lost nothing when the process before this one ended (design 5.4).
//!
//! Responsible for: the mark file in each disk's directory, which names the incarnation that wrote to the disk last and
//! how it ended. Guarantees: a proof is given only when every byte that incarnation appended is still readable and now
//! durable. A clean-stop mark is used up, durably, before the proof leaves this module, so it can never outlive a later
//! power cut (attack false-clean-stop). Must not know: placement groups, the journal, the network.
//!
//! Two executions allow a proof:
//! - The process died and the machine did not: same boot, same mount. The page cache still had everything, and an fsync
//!   of the whole filesystem succeeds now. An fsync that failed before has poisoned the disk, which then does not open.
//! - The process stopped cleanly: everything was synced before the mark was.

use rustix::fs::{AtFlags, StatxFlags, statx};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use weft_proto::control::NothingLost;
use weft_store::disk::read_file;
use weft_store::{Disk, Store, StoreError};
use weft_types::{DiskId, Incarnation};

/// Name of the mark file in a disk's directory.
pub const MARK_FILE: &str = "last-run.json";
const MARK_VERSION: u32 = 1;
/// `STATX_MNT_ID_UNIQUE` (Linux 6.8): an id that no later mount gets. The older `STATX_MNT_ID` is handed to the next
/// mount after an unmount, so it cannot tell a remount.
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;

/// What has to be the same for the page cache of an earlier process to be still there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CacheLife {
    pub boot_id: String,
    /// `None` on kernels that cannot tell one mount from the next: such a disk proves nothing after a crash.
    pub mount_id: Option<u64>,
}

impl CacheLife {
    /// Of the running kernel and the mount that `directory` is on.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let wanted = StatxFlags::from_bits_retain(STATX_MNT_ID_UNIQUE);
        let answer = statx(rustix::fs::CWD, directory, AtFlags::empty(), wanted)?;
        let mount_id = (answer.stx_mask & STATX_MNT_ID_UNIQUE != 0).then_some(answer.stx_mnt_id);
        Ok(Self { boot_id, mount_id })
    }

    fn survived_into(&self, now: &Self) -> bool {
        self.mount_id.is_some() && self == now
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ended {
    /// Not known to have ended.
    Running,
    /// Everything was synced before this was written.
    CleanStop,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Mark {
    version: u32,
    disk: DiskId,
    incarnation: Incarnation,
    cache_life: CacheLife,
    ended: Ended,
}

/// What the mark said when the disk was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LastRun {
    /// Zero on a new disk.
    pub incarnation: Incarnation,
    pub proof: Option<NothingLost>,
}

#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    #[error("reading {MARK_FILE} or syncing the disk: {0}")]
    Disk(#[from] io::Error),
    #[error("writing {MARK_FILE}: {0}")]
    Encode(#[from] serde_json::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads the mark, syncs the disk, and says what can be proven. Call it after the store has opened the disk (which
/// refuses one whose fsync failed) and before anything is appended. Blocks.
///
/// # Errors
/// When the mark cannot be read or rewritten, or the sync fails. The disk must then not be used: the bytes that an
/// earlier process left in the page cache may be gone (design 4.6).
pub fn examine<D: Disk>(disk: &D, store: &mut Store<D>, now: &CacheLife) -> Result<LastRun, MarkError> {
    let Some(bytes) = read_file(disk, MARK_FILE)? else { return Ok(LastRun::default()) };
    // A mark that does not read proves nothing; it is no reason to refuse the disk.
    let Ok(mark) = serde_json::from_slice::<Mark>(&bytes) else { return Ok(LastRun::default()) };
    if mark.version != MARK_VERSION || mark.disk != store.identity().disk {
        return Ok(LastRun::default());
    }
    let incarnation = mark.incarnation;
    let proven = match mark.ended {
        Ended::CleanStop => true,
        Ended::Running => mark.cache_life.survived_into(now),
    };
    if !proven {
        return Ok(LastRun { incarnation, proof: None });
    }
    disk.sync_all()?;
    // From here the mark says "running" in this life of the cache: it stands as long as nothing can have been lost, and
    // no longer.
    write(store, &Mark { cache_life: now.clone(), ended: Ended::Running, ..mark })?;
    Ok(LastRun { incarnation, proof: Some(NothingLost { of: incarnation }) })
}

/// Notes who writes to the disk from now on. Before the first append of the incarnation. Blocks.
///
/// # Errors
/// When the mark cannot be made durable.
pub fn begin_run<D: Disk>(store: &mut Store<D>, incarnation: Incarnation, now: &CacheLife) -> Result<(), MarkError> {
    note(store, incarnation, now, Ended::Running)
}

/// Notes that everything the incarnation appended is durable and that it appends nothing more. Blocks.
///
/// # Errors
/// When the mark cannot be made durable; the next start then proves by cache life or not at all.
pub fn end_run<D: Disk>(store: &mut Store<D>, incarnation: Incarnation, now: &CacheLife) -> Result<(), MarkError> {
    note(store, incarnation, now, Ended::CleanStop)
}

fn note<D: Disk>(
    store: &mut Store<D>,
    incarnation: Incarnation,
    now: &CacheLife,
    ended: Ended,
) -> Result<(), MarkError> {
    let disk = store.identity().disk;
    write(store, &Mark { version: MARK_VERSION, disk, incarnation, cache_life: now.clone(), ended })
}

/// Also on a full disk: one that nobody can begin to use can have nothing deleted from it.
fn write<D: Disk>(store: &mut Store<D>, mark: &Mark) -> Result<(), MarkError> {
    Ok(store.replace_beside(MARK_FILE, &serde_json::to_vec_pretty(mark)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_store::disk::replace_file;
    use weft_store::fault::{PowerLoss, SimDisk};
    use weft_store::{Expected, Identity, StoreConfig};
    use weft_types::{ClusterId, NodeId};

    const IDENTITY: Identity = Identity { cluster: ClusterId(1), disk: DiskId(7), node: NodeId(1) };

    fn life(boot: &str, mount: Option<u64>) -> CacheLife {
        CacheLife { boot_id: boot.to_owned(), mount_id: mount }
    }

    fn proof_of(incarnation: u64) -> Option<NothingLost> {
        Some(NothingLost { of: Incarnation(incarnation) })
    }

    struct Bench {
        disk: SimDisk,
        store: Store<SimDisk>,
    }

    fn open(disk: &SimDisk) -> Store<SimDisk> {
        let expected = Expected { cluster: IDENTITY.cluster, disk: None, node: None };
        Store::open(disk.clone(), expected, StoreConfig::small()).unwrap().0
    }

    impl Bench {
        fn new() -> Self {
            let disk = SimDisk::new(64 << 20);
            Store::format(&disk, IDENTITY, &StoreConfig::small()).unwrap();
            let store = open(&disk);
            Self { disk, store }
        }

        fn begin(&mut self, incarnation: u64, now: &CacheLife) {
            begin_run(&mut self.store, Incarnation(incarnation), now).unwrap();
        }

        fn end(&mut self, incarnation: u64, now: &CacheLife) {
            end_run(&mut self.store, Incarnation(incarnation), now).unwrap();
        }

        fn examine(&mut self, now: &CacheLife) -> Option<NothingLost> {
            examine(&self.disk, &mut self.store, now).unwrap().proof
        }

        /// Somebody else takes all the room that is left.
        fn fill(&self) {
            let usage = self.disk.usage().unwrap();
            self.disk.set_capacity(usage.total_bytes - usage.free_bytes);
        }
    }

    #[test]
    fn a_new_disk_proves_nothing() {
        assert_eq!(Bench::new().examine(&life("a", Some(1))), None);
    }

    #[test]
    fn a_killed_process_is_proven_whole_while_boot_and_mount_last() {
        let mut bench = Bench::new();
        let now = life("a", Some(1));
        bench.begin(5, &now);
        assert_eq!(bench.examine(&now), proof_of(5));
        assert_eq!(bench.examine(&life("b", Some(1))), None, "another boot");
        assert_eq!(bench.examine(&life("a", Some(2))), None, "another mount");
    }

    #[test]
    fn a_kernel_that_cannot_tell_mounts_apart_proves_nothing_after_a_kill() {
        let mut bench = Bench::new();
        let now = life("a", None);
        bench.begin(5, &now);
        assert_eq!(bench.examine(&now), None);
    }

    #[test]
    fn a_clean_stop_is_proven_after_a_reboot() {
        let mut bench = Bench::new();
        bench.begin(5, &life("a", Some(1)));
        bench.end(5, &life("a", Some(1)));
        assert_eq!(bench.examine(&life("b", Some(9))), proof_of(5));
    }

    /// Attack false-clean-stop: stopped cleanly, started again, then the power fails before the next run is registered.
    #[test]
    fn a_clean_stop_mark_is_used_up_by_the_start_that_reads_it() {
        let mut bench = Bench::new();
        bench.end(5, &life("a", Some(1)));
        assert_eq!(bench.examine(&life("b", Some(2))), proof_of(5));
        assert_eq!(bench.examine(&life("b", Some(2))), proof_of(5), "nothing was lost in between");
        assert_eq!(bench.examine(&life("c", Some(3))), None, "the power was cut in between");
    }

    #[test]
    fn a_mark_of_another_disk_or_a_damaged_one_proves_nothing() {
        let mut bench = Bench::new();
        let now = life("a", Some(1));
        let disk = DiskId(8);
        let ended = Ended::CleanStop;
        let other = Mark { version: MARK_VERSION, disk, incarnation: Incarnation(5), cache_life: now.clone(), ended };
        write(&mut bench.store, &other).unwrap();
        assert_eq!(bench.examine(&now), None);
        replace_file(&bench.disk, MARK_FILE, b"{\"version\":1,").unwrap();
        assert_eq!(bench.examine(&now), None);
    }

    /// Seed 8119 of the simulator.
    #[test]
    fn a_full_disk_is_begun_to_be_used_again_and_again() {
        let Bench { disk, store } = Bench::new();
        let now = life("a", Some(1));
        let mut bench = Bench { disk: disk.clone(), store };
        bench.begin(5, &now);
        bench.fill();
        for incarnation in 5..9 {
            drop(bench.store);
            disk.power_cycle(PowerLoss::KeepAll);
            bench = Bench { disk: disk.clone(), store: open(&disk) };
            assert_eq!(bench.examine(&now), proof_of(incarnation));
            bench.begin(incarnation + 1, &now);
            bench.fill();
        }
        bench.end(9, &now);
    }

    #[test]
    fn the_cache_life_of_this_machine_can_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let life = CacheLife::of(directory.path()).unwrap();
        assert_eq!(life.boot_id.len(), 36);
        assert_eq!(life, CacheLife::of(directory.path()).unwrap());
    }
}
