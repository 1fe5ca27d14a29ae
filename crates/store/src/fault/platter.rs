//! What a power cut may leave of a trace of operations.
//!
//! Model, as strict as the system calls promise and stricter than ext4 and XFS are: a write changes 512-byte sectors, and
//! until a sync of its file returned each of them is kept or lost on its own, whatever was written before or after. A
//! change of a name is kept or lost on its own until a sync of its directory returned; one that needs a lost one is lost
//! with it. A sync of a file says nothing about its name. A length is what was synced or what kept writes reach.
//!
//! Responsible for: applying a trace, choosing, and laying the outcome out as real files. Must not know: formats.

use super::random::Random;
use super::recording_disk::{Inode, Names, Operation};
use crate::disk::parent;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

const SECTOR: u64 = 512;

/// `None` is all zeros.
type Sector = Option<Arc<[u8; SECTOR as usize]>>;

/// Which unsynced changes survive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Survivors {
    /// The process died, the machine did not.
    All,
    None,
    /// Each write as a whole, each name on its own.
    Writes {
        seed: u64,
    },
    /// Each sector, each name on its own.
    Sectors {
        seed: u64,
    },
    /// Everything but the newest write, of which each sector is decided on its own; names are all kept.
    TornLast {
        seed: u64,
    },
}

/// A disk as its cache sees it, with all that the medium may hold instead.
#[derive(Clone, Debug, Default)]
pub struct Platter {
    files: BTreeMap<Inode, File>,
    /// As the running system sees them.
    names: Names,
    stable: Names,
    changes: Vec<(u64, Change)>,
    /// Counts operations, so that each unsynced one has a name of its own.
    applied: u64,
    next_inode: Inode,
}

#[derive(Clone, Debug, Default)]
struct File {
    stable: BTreeMap<u64, Sector>,
    stable_length: u64,
    /// Contents since the last sync, each with the operation that made it.
    unsynced: BTreeMap<u64, Vec<(u64, Sector)>>,
    length: u64,
}

#[derive(Clone, Debug)]
enum Change {
    Link { path: String, inode: Inode },
    Unlink { path: String },
    Rename { from: String, to: String },
    MakeDir { path: String },
    RemoveDir { path: String },
}

impl Change {
    fn paths(&self) -> [&str; 2] {
        match self {
            Self::Link { path, .. } | Self::Unlink { path } | Self::MakeDir { path } | Self::RemoveDir { path } => {
                [path, path]
            }
            Self::Rename { from, to } => [from, to],
        }
    }

    fn apply(&self, names: &mut Names) {
        match self {
            Self::Link { path, inode } => {
                names.files.insert(path.clone(), *inode);
            }
            Self::Unlink { path } => {
                names.files.remove(path);
            }
            Self::Rename { from, to } => {
                if let Some(inode) = names.files.remove(from) {
                    names.files.insert(to.clone(), inode);
                }
            }
            Self::MakeDir { path } => {
                names.dirs.insert(path.clone());
            }
            Self::RemoveDir { path } => {
                names.dirs.remove(path);
            }
        }
    }
}

impl File {
    fn content(&self, sector: u64) -> Sector {
        match self.unsynced.get(&sector).and_then(|versions| versions.last()) {
            Some((_, content)) => content.clone(),
            None => self.stable.get(&sector).cloned().flatten(),
        }
    }

    /// Replaces a byte range; `None` writes zeros.
    fn put(&mut self, operation: u64, offset: u64, length: u64, bytes: Option<&[u8]>) {
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let sector = at / SECTOR;
            let within = (at % SECTOR) as usize;
            let step = (SECTOR - at % SECTOR).min(end - at) as usize;
            let mut content = self.content(sector).map_or([0; SECTOR as usize], |found| *found);
            match bytes {
                Some(bytes) => {
                    let from = (at - offset) as usize;
                    content[within..within + step].copy_from_slice(&bytes[from..from + step]);
                }
                None => content[within..within + step].fill(0),
            }
            let zero = content.iter().all(|byte| *byte == 0);
            self.unsynced.entry(sector).or_default().push((operation, (!zero).then(|| Arc::new(content))));
            at += step as u64;
        }
    }

    fn set_length(&mut self, operation: u64, length: u64) {
        if length < self.length {
            let old = self.length;
            self.put(operation, length, old - length, None);
        }
        self.length = length;
    }

    fn synced(&mut self) {
        for (sector, versions) in std::mem::take(&mut self.unsynced) {
            if let Some((_, content)) = versions.into_iter().next_back() {
                self.stable.insert(sector, content);
            }
        }
        self.stable_length = self.length;
    }

    fn lose(&mut self, keep: &dyn Fn(u64, u64) -> bool, keep_length: bool) {
        let mut reached = 0;
        for (sector, versions) in std::mem::take(&mut self.unsynced) {
            if let Some((_, content)) = versions.into_iter().rev().find(|(operation, _)| keep(*operation, sector)) {
                self.stable.insert(sector, content);
                reached = reached.max(((sector + 1) * SECTOR).min(self.length));
            }
        }
        if !keep_length {
            self.length = self.stable_length.max(reached);
        }
        self.stable_length = self.length;
    }
}

impl Platter {
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The number that a file created next gets.
    #[must_use]
    pub const fn next_inode(&self) -> Inode {
        self.next_inode
    }

    /// Carries out one operation.
    pub fn apply(&mut self, operation: &Operation) {
        self.applied += 1;
        let now = self.applied;
        match operation {
            Operation::Create { path, inode } => {
                self.files.insert(*inode, File::default());
                self.next_inode = self.next_inode.max(inode + 1);
                self.change(Change::Link { path: path.clone(), inode: *inode });
            }
            Operation::Write { inode, offset, bytes } => {
                let file = self.files.entry(*inode).or_default();
                file.put(now, *offset, bytes.len() as u64, Some(bytes));
                file.length = file.length.max(offset + bytes.len() as u64);
            }
            Operation::Punch { inode, offset, length } => {
                let file = self.files.entry(*inode).or_default();
                let end = (offset + length).min(file.length);
                file.put(now, *offset, end.saturating_sub(*offset), None);
            }
            Operation::Allocate { inode, offset, length } => {
                let file = self.files.entry(*inode).or_default();
                file.length = file.length.max(offset + length);
            }
            Operation::Zero { inode, offset, length } => {
                let file = self.files.entry(*inode).or_default();
                file.put(now, *offset, *length, None);
                file.length = file.length.max(offset + length);
            }
            Operation::SetLength { inode, length } => {
                self.files.entry(*inode).or_default().set_length(now, *length);
            }
            Operation::Rename { from, to } => self.change(Change::Rename { from: from.clone(), to: to.clone() }),
            Operation::Remove { path } => self.change(Change::Unlink { path: path.clone() }),
            Operation::MakeDir { path } => self.change(Change::MakeDir { path: path.clone() }),
            Operation::RemoveDir { path } => self.change(Change::RemoveDir { path: path.clone() }),
            Operation::SyncFile { inode } => self.files.entry(*inode).or_default().synced(),
            Operation::SyncDir { path } => self.sync_dir(path),
            Operation::SyncAll => {
                self.files.values_mut().for_each(File::synced);
                self.changes.clear();
                self.stable.clone_from(&self.names);
            }
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push((self.applied, change));
    }

    fn sync_dir(&mut self, dir: &str) {
        let (synced, waiting) = std::mem::take(&mut self.changes)
            .into_iter()
            .partition(|(_, change)| change.paths().iter().any(|path| parent(path) == dir));
        self.changes = waiting;
        let synced: Vec<(u64, Change)> = synced;
        synced.iter().for_each(|(_, change)| change.apply(&mut self.stable));
    }

    /// Whether anything is not on the medium yet.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.changes.is_empty() && self.files.values().all(|f| f.unsynced.is_empty() && f.length == f.stable_length)
    }

    /// The disk after a crash. What is there then is on the medium, unless all of it survives in the cache.
    #[must_use]
    pub fn crash(&self, survivors: Survivors) -> Self {
        let mut left = self.clone();
        if survivors == Survivors::All {
            return left;
        }
        let newest = self.files.values().flat_map(|f| f.unsynced.values().flatten()).map(|(at, _)| *at).max();
        let keep = |operation: u64, sector: u64| match survivors {
            Survivors::All => true,
            Survivors::None => false,
            Survivors::Writes { seed } => coin(seed, operation, 0),
            Survivors::Sectors { seed } => coin(seed, operation, sector + 1),
            Survivors::TornLast { seed } => Some(operation) != newest || coin(seed, operation, sector + 1),
        };
        let all_names = matches!(survivors, Survivors::TornLast { .. });
        let mut lost: BTreeSet<String> = BTreeSet::new();
        for (operation, change) in std::mem::take(&mut left.changes) {
            let needs_lost = change.paths().iter().any(|path| lost.contains(*path) || lost.contains(parent(path)));
            if !needs_lost && (all_names || keep(operation, 0)) {
                change.apply(&mut left.stable);
            } else {
                lost.extend(change.paths().iter().map(|path| (*path).to_owned()));
            }
        }
        // What lies in a directory that is not there, is not there.
        let dirs = left.stable.dirs.clone();
        left.stable.files.retain(|path, _| parent(path).is_empty() || dirs.contains(parent(path)));
        left.names.clone_from(&left.stable);
        let reachable: BTreeSet<Inode> = left.stable.files.values().copied().collect();
        left.files.retain(|inode, _| reachable.contains(inode));
        for (inode, file) in &mut left.files {
            let keep_length = match survivors {
                Survivors::None => false,
                Survivors::All | Survivors::TornLast { .. } => true,
                Survivors::Writes { seed } | Survivors::Sectors { seed } => coin(seed, *inode, u64::MAX),
            };
            file.lose(&keep, keep_length);
        }
        left
    }

    /// Lays the disk out, as its cache sees it, in an empty directory.
    ///
    /// # Errors
    /// On I/O errors.
    pub fn materialise(&self, root: &Path) -> io::Result<()> {
        for dir in &self.names.dirs {
            std::fs::create_dir_all(root.join(dir))?;
        }
        for (path, inode) in &self.names.files {
            let out = std::fs::File::create(root.join(path))?;
            let Some(file) = self.files.get(inode) else { continue };
            out.set_len(file.length)?;
            let sectors: BTreeSet<u64> = file.stable.keys().chain(file.unsynced.keys()).copied().collect();
            for sector in sectors {
                let at = sector * SECTOR;
                if let Some(content) = file.content(sector).filter(|_| at < file.length) {
                    let bytes = (file.length - at).min(SECTOR) as usize;
                    out.write_all_at(&content[..bytes], at)?;
                }
            }
        }
        Ok(())
    }
}

/// Heads or tails, the same for the same arguments.
fn coin(seed: u64, operation: u64, place: u64) -> bool {
    let mut random = Random::new(seed ^ operation.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ place.rotate_left(32));
    random.next_u64() & 1 == 0
}
