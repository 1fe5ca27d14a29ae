//! A disk in memory that remembers what was not synced, and loses it when the power goes.
//!
//! Model: a write changes 512-byte sectors. Until a sync that covers it returns, a sector may after a power loss hold
//! any content it had since its last sync, each sector decided on its own (so writes tear and are reordered). Names are
//! journalled: after a power loss a prefix of the name changes since the last directory sync has happened. A sync that
//! fails leaves its sectors at risk for ever, while later syncs succeed: what Linux does with a failed writeback.
//! Space that was given back (a hole, a shorter file, a name that went) is used again only after the sync that makes it so:
//! until then a power loss may bring the old contents back, and they need their place.

use super::random::Random;
use crate::disk::{DirEntry, DirEntryKind, Disk, DiskFile, Filesystem, OpenMode, Usage};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SECTOR: usize = 512;
const PAGE: usize = 4096;
const SECTORS_OF_PAGE: u64 = (PAGE / SECTOR) as u64;
/// Older contents of one unsynced sector that are remembered.
const MAX_VERSIONS: usize = 4;

type Sector = [u8; SECTOR];

/// What a power loss does to sectors and names that were not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PowerLoss {
    /// Each sector decided by the seed.
    Random { seed: u64 },
    /// Of each file one unsynced sector, counted from the file's beginning, is lost, and all else survives.
    LoseOne { nth: u64 },
    /// Nothing unsynced survives.
    LoseAll,
    /// Everything survives: the process died, the machine did not.
    KeepAll,
}

/// A simulated disk. Clones share it.
#[derive(Clone)]
pub struct SimDisk {
    sim: Arc<Mutex<Sim>>,
}

/// A file of a [`SimDisk`]. Dead after the power loss that follows its opening.
pub struct SimFile {
    sim: Arc<Mutex<Sim>>,
    inode: u64,
    boot: u64,
}

/// A lock of a [`SimDisk`], released when dropped.
pub struct SimLock {
    sim: Arc<Mutex<Sim>>,
    path: String,
    boot: u64,
}

#[derive(Default)]
struct Sim {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    dirs: BTreeSet<String>,
    durable_names: BTreeMap<String, u64>,
    /// Name changes since the last sync of names, in order.
    changes: Vec<NameChange>,
    next_inode: u64,
    boot: u64,
    locks: BTreeSet<String>,
    capacity_bytes: u64,
    fail_syncs: u64,
    pretends_to_sync: bool,
    names_apart: bool,
    ops: u64,
    power_off_at: Option<u64>,
    off: bool,
    cold: bool,
    unreadable: BTreeSet<(u64, u64)>,
    writes: u64,
    /// By file, what is to happen to one of its writes.
    strays: BTreeMap<u64, ToStray>,
}

struct ToStray {
    /// Only writes that begin below this count.
    below: u64,
    /// How many more of them are good.
    good: u64,
    stray: Stray,
}

/// Where a write goes that the disk says it has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stray {
    Nowhere,
    To { inode: u64, offset: u64 },
}

#[derive(Default)]
struct Inode {
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
    /// Pages that were given back, and may come back with the power.
    freed: BTreeSet<u64>,
    length: u64,
    durable_length: u64,
    /// Contents a dirty sector had before, oldest (the durable one) first.
    unsynced: BTreeMap<u64, Vec<Sector>>,
    /// Dirty sectors whose sync failed: at risk until they are written again and synced.
    doomed: BTreeMap<u64, Vec<Sector>>,
}

#[derive(Clone)]
enum NameChange {
    Link { path: String, inode: u64 },
    Unlink { path: String },
    Rename { from: String, to: String },
}

impl SimDisk {
    #[must_use]
    pub fn new(capacity_bytes: u64) -> Self {
        let sim = Sim { capacity_bytes, ..Sim::default() };
        Self { sim: Arc::new(Mutex::new(sim)) }
    }

    /// Ends the life of every open file and lock; unsynced state survives as `loss` says. Power is on afterwards.
    pub fn power_cycle(&self, loss: PowerLoss) {
        let mut sim = lock(&self.sim);
        sim.off = false;
        sim.power_off_at = None;
        sim.fail_syncs = 0;
        sim.boot += 1;
        sim.locks.clear();
        match loss {
            PowerLoss::KeepAll => {}
            PowerLoss::LoseOne { nth } => sim.lose_one_of_each(nth),
            PowerLoss::LoseAll => sim.lose(&mut |bound| if bound == 0 { 0 } else { bound - 1 }),
            PowerLoss::Random { seed } => {
                let mut random = Random::new(seed);
                sim.lose(&mut |bound| random.below(bound));
            }
        }
    }

    /// Lets the power fail at the `n`-th changing operation from now: that one and all later ones fail.
    pub fn power_off_after(&self, n: u64) {
        let mut sim = lock(&self.sim);
        sim.power_off_at = Some(sim.ops + n);
    }

    #[must_use]
    pub fn is_off(&self) -> bool {
        lock(&self.sim).off
    }

    /// Changing operations so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        lock(&self.sim).ops
    }

    /// File writes so far.
    #[must_use]
    pub fn writes(&self) -> u64 {
        lock(&self.sim).writes
    }

    /// The next `n` syncs fail with EIO.
    pub fn fail_syncs(&self, n: u64) {
        lock(&self.sim).fail_syncs = n;
    }

    /// From now on syncs of files succeed and make nothing durable: a bug planted on purpose.
    pub fn pretend_to_sync(&self) {
        lock(&self.sim).pretends_to_sync = true;
    }

    /// From now on a sync of a directory writes its own names and no others, and a power loss takes the newest changes of each
    /// directory apart from those of the others: what POSIX promises, and no more.
    pub fn keep_names_apart(&self) {
        lock(&self.sim).names_apart = true;
    }

    /// Makes non-blocking reads refuse, as if nothing were cached.
    pub fn set_cold(&self, cold: bool) {
        lock(&self.sim).cold = cold;
    }

    pub fn set_capacity(&self, bytes: u64) {
        lock(&self.sim).capacity_bytes = bytes;
    }

    /// Flips bits of a byte, on the medium and in the cache. False when there is no such byte.
    #[must_use]
    pub fn flip(&self, path: &str, offset: u64, mask: u8) -> bool {
        let mut sim = lock(&self.sim);
        let Some(inode) = sim.names.get(path).copied() else { return false };
        let Some(inode) = sim.inodes.get_mut(&inode) else { return false };
        if offset >= inode.length {
            return false;
        }
        let page = inode.pages.entry(offset / PAGE as u64).or_insert_with(|| Box::new([0; PAGE]));
        page[offset as usize % PAGE] ^= mask;
        true
    }

    /// Makes the 4 KiB page that holds this byte unreadable (EIO) until it is written again.
    #[must_use]
    pub fn make_unreadable(&self, path: &str, offset: u64) -> bool {
        let mut sim = lock(&self.sim);
        let Some(inode) = sim.names.get(path).copied() else { return false };
        sim.unreadable.insert((inode, offset / PAGE as u64))
    }

    /// After `good` more writes to the first `below` bytes of this file one is answered and lost. False when there is no such file.
    #[must_use]
    pub fn lose_write(&self, path: &str, below: u64, good: u64) -> bool {
        let mut sim = lock(&self.sim);
        let Some(inode) = sim.names.get(path).copied() else { return false };
        sim.strays.insert(inode, ToStray { below, good, stray: Stray::Nowhere }).is_none()
    }

    /// As [`lose_write`](Self::lose_write), but the write lands in another file, over what is there. False when one of the files
    /// is not there.
    #[must_use]
    pub fn misdirect_write(&self, path: &str, below: u64, good: u64, other: &str, offset: u64) -> bool {
        let mut sim = lock(&self.sim);
        let (Some(inode), Some(to)) = (sim.names.get(path).copied(), sim.names.get(other).copied()) else {
            return false;
        };
        let stray = Stray::To { inode: to, offset };
        sim.strays.insert(inode, ToStray { below, good, stray }).is_none()
    }

    /// Every write goes where it should from now on.
    pub fn writes_stray_no_more(&self) {
        lock(&self.sim).strays.clear();
    }

    /// Paths of all files, sorted.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        lock(&self.sim).names.keys().cloned().collect()
    }

    fn with<T>(&self, operation: impl FnOnce(&mut Sim) -> io::Result<T>) -> io::Result<T> {
        let mut sim = lock(&self.sim);
        sim.powered()?;
        operation(&mut sim)
    }
}

impl Sim {
    fn powered(&self) -> io::Result<()> {
        if self.off { Err(io::Error::other("power is off")) } else { Ok(()) }
    }

    /// Counts a changing operation; the power may fail at it.
    fn change(&mut self) -> io::Result<()> {
        self.ops += 1;
        if self.power_off_at.is_some_and(|at| self.ops >= at) {
            self.off = true;
        }
        self.powered()
    }

    fn sync_outcome(&mut self) -> io::Result<()> {
        if self.fail_syncs > 0 {
            self.fail_syncs -= 1;
            return Err(io::Error::from_raw_os_error(5));
        }
        Ok(())
    }

    /// Where the write of a file that is made now goes, if not where it should.
    fn stray(&mut self, inode: u64, offset: u64) -> Option<Stray> {
        let next = self.strays.get_mut(&inode).filter(|next| offset < next.below)?;
        if next.good > 0 {
            next.good -= 1;
            return None;
        }
        self.strays.remove(&inode).map(|next| next.stray)
    }

    /// The disk says that it is done. What lies there already is overwritten; a file gets no longer by it.
    fn write_astray(&mut self, stray: Stray, bytes: &[u8]) -> io::Result<()> {
        self.change()?;
        self.writes += 1;
        if let Stray::To { inode, offset } = stray
            && let Some(inode) = self.inodes.get_mut(&inode)
        {
            let length = (inode.length.saturating_sub(offset)).min(bytes.len() as u64) as usize;
            inode.write(&bytes[..length], offset);
        }
        Ok(())
    }

    fn used(&self) -> u64 {
        self.inodes.values().map(Inode::used_pages).sum::<u64>() * PAGE as u64
    }

    fn sync_names(&mut self) {
        self.changes.clear();
        self.durable_names.clone_from(&self.names);
        let live: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|id, _| live.contains(id));
    }

    /// Writes the changes of one directory only.
    fn sync_names_of(&mut self, dir: &str) {
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.changes).into_iter().partition(|change| change.dir() == dir);
        self.changes = elsewhere;
        for change in here {
            apply(&mut self.durable_names, change);
        }
        let live: BTreeSet<u64> = self.names.values().chain(self.durable_names.values()).copied().collect();
        self.inodes.retain(|id, _| live.contains(id));
    }

    fn lose(&mut self, choose: &mut dyn FnMut(u64) -> u64) {
        let changes = std::mem::take(&mut self.changes);
        let mut names = std::mem::take(&mut self.durable_names);
        let mut one_order: BTreeMap<String, Vec<NameChange>> = BTreeMap::new();
        for change in changes {
            let dir = if self.names_apart { change.dir().to_owned() } else { String::new() };
            one_order.entry(dir).or_default().push(change);
        }
        if one_order.is_empty() {
            choose(1);
        }
        for changes in one_order.into_values() {
            let kept = changes.len() - choose(changes.len() as u64 + 1) as usize;
            changes.into_iter().take(kept).for_each(|change| apply(&mut names, change));
        }
        self.names.clone_from(&names);
        self.durable_names = names;
        let live: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|id, _| live.contains(id));
        for inode in self.inodes.values_mut() {
            inode.lose(choose);
        }
    }

    fn lose_one_of_each(&mut self, nth: u64) {
        self.changes.clear();
        self.durable_names.clone_from(&self.names);
        for inode in self.inodes.values_mut() {
            let mut sectors = 0..;
            inode.lose(&mut |bound| if sectors.next() == Some(nth) { bound - 1 } else { 0 });
        }
    }
}

impl NameChange {
    /// Names never move from one directory to another.
    fn dir(&self) -> &str {
        match self {
            Self::Link { path, .. } | Self::Unlink { path } => crate::disk::parent(path),
            Self::Rename { to, .. } => crate::disk::parent(to),
        }
    }
}

fn apply(names: &mut BTreeMap<String, u64>, change: NameChange) {
    match change {
        NameChange::Link { path, inode } => {
            names.insert(path, inode);
        }
        NameChange::Unlink { path } => {
            names.remove(&path);
        }
        NameChange::Rename { from, to } => {
            if let Some(inode) = names.remove(&from) {
                names.insert(to, inode);
            }
        }
    }
}

impl Inode {
    /// As ext4 does: what a transaction frees is free when it has committed.
    fn used_pages(&self) -> u64 {
        (self.pages.len() + self.freed.len()) as u64
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let length = (self.length.saturating_sub(offset)).min(buffer.len() as u64) as usize;
        let mut done = 0;
        while done < length {
            let at = offset + done as u64;
            let within = at as usize % PAGE;
            let step = (PAGE - within).min(length - done);
            match self.pages.get(&(at / PAGE as u64)) {
                Some(page) => buffer[done..done + step].copy_from_slice(&page[within..within + step]),
                None => buffer[done..done + step].fill(0),
            }
            done += step;
        }
        length
    }

    fn sector(&self, sector: u64) -> Sector {
        let at = sector as usize * SECTOR;
        let mut out = [0; SECTOR];
        if let Some(page) = self.pages.get(&((at / PAGE) as u64)) {
            out.copy_from_slice(&page[at % PAGE..at % PAGE + SECTOR]);
        }
        out
    }

    fn set_sector(&mut self, sector: u64, content: &Sector) {
        let at = sector as usize * SECTOR;
        self.page(at as u64)[at % PAGE..at % PAGE + SECTOR].copy_from_slice(content);
    }

    /// The page around an offset, with a place of its own from now on.
    fn page(&mut self, offset: u64) -> &mut [u8; PAGE] {
        let page = offset / PAGE as u64;
        self.freed.remove(&page);
        self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE]))
    }

    fn remember(&mut self, offset: u64, length: u64) {
        if length == 0 {
            return;
        }
        for sector in offset / SECTOR as u64..=(offset + length - 1) / SECTOR as u64 {
            let content = self.sector(sector);
            let older = self.doomed.remove(&sector).unwrap_or_default();
            let versions = self.unsynced.entry(sector).or_insert(older);
            if versions.len() < MAX_VERSIONS {
                versions.push(content);
            }
        }
    }

    fn write(&mut self, bytes: &[u8], offset: u64) {
        self.remember(offset, bytes.len() as u64);
        let mut done = 0;
        while done < bytes.len() {
            let at = offset as usize + done;
            let step = (PAGE - at % PAGE).min(bytes.len() - done);
            self.page(at as u64)[at % PAGE..at % PAGE + step].copy_from_slice(&bytes[done..done + step]);
            done += step;
        }
        self.length = self.length.max(offset + bytes.len() as u64);
    }

    fn zero(&mut self, offset: u64, length: u64) {
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let (number, within) = (at / PAGE as u64, at as usize % PAGE);
            let step = ((PAGE - within) as u64).min(end - at);
            // A hole stays a hole: nothing of it can come back.
            if self.pages.contains_key(&number) {
                self.remember(at, step);
            }
            if step == PAGE as u64 {
                if self.pages.remove(&number).is_some() {
                    self.freed.insert(number);
                }
            } else if let Some(page) = self.pages.get_mut(&number) {
                page[within..within + step as usize].fill(0);
            }
            at += step;
        }
    }

    fn set_len(&mut self, length: u64) {
        if length < self.length {
            let old = self.length;
            self.zero(length, old - length);
        }
        self.length = length;
    }

    fn synced(&mut self) {
        self.unsynced.clear();
        self.durable_length = self.length;
        let doomed = &self.doomed;
        let sectors = |page: u64| page * SECTORS_OF_PAGE..(page + 1) * SECTORS_OF_PAGE;
        self.freed.retain(|page| doomed.range(sectors(*page)).next().is_some());
    }

    fn sync_failed(&mut self) {
        let dirty = std::mem::take(&mut self.unsynced);
        self.doomed.extend(dirty);
    }

    fn lose(&mut self, choose: &mut dyn FnMut(u64) -> u64) {
        let mut dirty = std::mem::take(&mut self.doomed);
        dirty.extend(std::mem::take(&mut self.unsynced));
        let mut longest_kept = 0;
        for (sector, versions) in dirty {
            // Zero keeps the newest content; `versions.len()` falls back to the durable one.
            let back = choose(versions.len() as u64 + 1) as usize;
            if back == 0 {
                longest_kept = longest_kept.max(((sector + 1) * SECTOR as u64).min(self.length));
            } else if let Some(content) = versions.get(versions.len() - back) {
                self.set_sector(sector, content);
            }
        }
        if self.length > self.durable_length {
            self.length = self.durable_length.max(longest_kept);
        } else if self.length < self.durable_length && choose(2) == 1 {
            self.length = self.durable_length;
        }
        self.durable_length = self.length;
        self.freed.clear();
        // What lies past the end of a file that did not become longer has no place.
        drop(self.pages.split_off(&self.length.div_ceil(PAGE as u64)));
    }
}

impl Disk for SimDisk {
    type File = SimFile;
    type Lock = SimLock;

    fn open(&self, path: &str, mode: OpenMode) -> io::Result<SimFile> {
        self.with(|sim| {
            let existing = sim.names.get(path).copied();
            let inode = match (existing, mode) {
                (Some(inode), OpenMode::Truncate) => {
                    sim.change()?;
                    sim.inodes.entry(inode).or_default().set_len(0);
                    inode
                }
                (Some(inode), _) => inode,
                (None, OpenMode::Existing | OpenMode::ReadOnly) => return Err(io::ErrorKind::NotFound.into()),
                (None, OpenMode::Create | OpenMode::Truncate) => {
                    let dir = crate::disk::parent(path);
                    if !dir.is_empty() && !sim.dirs.contains(dir) {
                        return Err(io::ErrorKind::NotFound.into());
                    }
                    sim.change()?;
                    sim.next_inode += 1;
                    let inode = sim.next_inode;
                    sim.inodes.insert(inode, Inode::default());
                    sim.names.insert(path.to_owned(), inode);
                    sim.changes.push(NameChange::Link { path: path.to_owned(), inode });
                    inode
                }
            };
            Ok(SimFile { sim: Arc::clone(&self.sim), inode, boot: sim.boot })
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.with(|sim| {
            sim.change()?;
            let inode = sim.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            sim.names.insert(to.to_owned(), inode);
            sim.changes.push(NameChange::Rename { from: from.to_owned(), to: to.to_owned() });
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.with(|sim| {
            sim.change()?;
            sim.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
            sim.changes.push(NameChange::Unlink { path: path.to_owned() });
            Ok(())
        })
    }

    fn remove_tree(&self, path: &str) -> io::Result<()> {
        self.with(|sim| {
            let prefix = format!("{path}/");
            let doomed: Vec<String> = sim.names.keys().filter(|n| n.starts_with(&prefix)).cloned().collect();
            for path in doomed {
                sim.change()?;
                sim.names.remove(&path);
                sim.changes.push(NameChange::Unlink { path });
            }
            sim.dirs.retain(|d| d != path && !d.starts_with(&prefix));
            Ok(())
        })
    }

    fn make_dirs(&self, path: &str) -> io::Result<()> {
        self.with(|sim| {
            let mut dir = path;
            while !dir.is_empty() {
                sim.dirs.insert(dir.to_owned());
                dir = crate::disk::parent(dir);
            }
            Ok(())
        })
    }

    fn list(&self, path: &str) -> io::Result<Vec<DirEntry>> {
        self.with(|sim| {
            if !path.is_empty() && !sim.dirs.contains(path) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
            let below = |full: &str| full.strip_prefix(&prefix).filter(|n| !n.contains('/')).map(str::to_owned);
            let files = sim.names.keys().filter_map(|n| below(n)).map(|name| (name, DirEntryKind::File));
            let dirs = sim.dirs.iter().filter_map(|n| below(n)).map(|name| (name, DirEntryKind::Directory));
            let mut out: Vec<_> = files.chain(dirs).map(|(name, kind)| DirEntry { name, kind }).collect();
            out.sort();
            Ok(out)
        })
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.with(|sim| {
            sim.change()?;
            sim.sync_outcome()?;
            if sim.names_apart {
                sim.sync_names_of(path);
            } else {
                // The file systems Weft supports journal names: syncing one directory writes all earlier name changes.
                sim.sync_names();
            }
            Ok(())
        })
    }

    fn sync_all(&self) -> io::Result<()> {
        self.with(|sim| {
            sim.change()?;
            if let Err(error) = sim.sync_outcome() {
                sim.inodes.values_mut().for_each(Inode::sync_failed);
                return Err(error);
            }
            if !sim.pretends_to_sync {
                sim.inodes.values_mut().for_each(Inode::synced);
            }
            sim.sync_names();
            Ok(())
        })
    }

    fn usage(&self) -> io::Result<Usage> {
        self.with(|sim| {
            let total_bytes = sim.capacity_bytes;
            Ok(Usage { total_bytes, free_bytes: total_bytes.saturating_sub(sim.used()) })
        })
    }

    fn filesystem(&self) -> io::Result<Filesystem> {
        Ok(Filesystem::Simulated)
    }

    fn try_lock(&self, path: &str) -> io::Result<Option<SimLock>> {
        self.with(|sim| {
            let taken = sim.locks.insert(path.to_owned());
            Ok(taken.then(|| SimLock { sim: Arc::clone(&self.sim), path: path.to_owned(), boot: sim.boot }))
        })
    }

    fn describe(&self) -> String {
        "simulated disk".to_owned()
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut sim = lock(&self.sim);
        if sim.boot == self.boot {
            sim.locks.remove(&self.path);
        }
    }
}

impl SimFile {
    fn with<T>(&self, operation: impl FnOnce(&mut Sim, u64) -> io::Result<T>) -> io::Result<T> {
        let mut sim = lock(&self.sim);
        sim.powered()?;
        if sim.boot != self.boot {
            return Err(io::Error::other("the file was opened before the power loss"));
        }
        operation(&mut sim, self.inode)
    }

    /// Runs a change on the inode. Space is checked first, as delayed allocation would.
    fn with_change(&self, new_pages: impl Fn(&Inode) -> u64, change: impl FnOnce(&mut Inode)) -> io::Result<()> {
        self.with(|sim, id| {
            let needed = sim.inodes.get(&id).map_or(0, new_pages) * PAGE as u64;
            if needed > 0 && sim.used() + needed > sim.capacity_bytes {
                return Err(io::ErrorKind::StorageFull.into());
            }
            sim.change()?;
            sim.writes += 1;
            change(sim.inodes.entry(id).or_default());
            Ok(())
        })
    }
}

fn absent_pages(inode: &Inode, offset: u64, length: u64) -> u64 {
    if length == 0 {
        return 0;
    }
    (offset / PAGE as u64..=(offset + length - 1) / PAGE as u64).filter(|p| !inode.pages.contains_key(p)).count() as u64
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|sim, id| {
            let pages = offset / PAGE as u64..=(offset + buffer.len().max(1) as u64 - 1) / PAGE as u64;
            if sim.unreadable.range((id, *pages.start())..=(id, *pages.end())).next().is_some() {
                return Err(io::Error::from_raw_os_error(5));
            }
            Ok(sim.inodes.get(&id).map_or(0, |inode| inode.read(buffer, offset)))
        })
    }

    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        if lock(&self.sim).cold {
            return Ok(None);
        }
        self.read_at(buffer, offset).map(Some)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Some(stray) = self.with(|sim, id| Ok(sim.stray(id, offset)))? {
            return self.with(|sim, _| sim.write_astray(stray, bytes));
        }
        self.with_change(|inode| absent_pages(inode, offset, bytes.len() as u64), |inode| inode.write(bytes, offset))?;
        self.with(|sim, id| {
            let end = offset + bytes.len() as u64;
            for page in offset.div_ceil(PAGE as u64)..end / PAGE as u64 {
                sim.unreadable.remove(&(id, page));
            }
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|sim, id| {
            sim.change()?;
            let outcome = sim.sync_outcome();
            if sim.pretends_to_sync {
                return outcome;
            }
            if let Some(inode) = sim.inodes.get_mut(&id) {
                if outcome.is_ok() { inode.synced() } else { inode.sync_failed() }
            }
            outcome
        })
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.with_change(
            |inode| absent_pages(inode, offset, length),
            |inode| {
                for page in offset / PAGE as u64..(offset + length).div_ceil(PAGE as u64) {
                    inode.page(page * PAGE as u64);
                }
                inode.length = inode.length.max(offset + length);
            },
        )
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        let zeros = vec![0; length as usize];
        self.with_change(|inode| absent_pages(inode, offset, length), |inode| inode.write(&zeros, offset))
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.with_change(
            |_| 0,
            |inode| {
                let end = (offset + length).min(inode.length.next_multiple_of(PAGE as u64));
                if end > offset {
                    inode.zero(offset, end - offset);
                }
            },
        )
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.with_change(|_| 0, |inode| inode.set_len(length))
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|sim, id| Ok(sim.inodes.get(&id).map_or(0, |i| i.length)))
    }
}

fn lock(sim: &Mutex<Sim>) -> MutexGuard<'_, Sim> {
    sim.lock().unwrap_or_else(PoisonError::into_inner)
}
