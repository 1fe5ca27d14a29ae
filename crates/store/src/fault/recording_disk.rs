//! A disk that works on another one and remembers, in order, every operation that changed something.
//!
//! Responsible for: the trace from which [`super::Platter`] makes what a power cut may leave. Guarantees: the trace has
//! the order in which operations were carried out. Must not know: what survives a crash.

use crate::disk::{DirEntry, Disk, DiskFile, Filesystem, OpenMode, Usage, parent};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A file, whatever its name is at the moment.
pub type Inode = u64;

/// One operation that changed the disk, or made changes durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    Create { path: String, inode: Inode },
    Write { inode: Inode, offset: u64, bytes: Arc<[u8]> },
    Punch { inode: Inode, offset: u64, length: u64 },
    Allocate { inode: Inode, offset: u64, length: u64 },
    Zero { inode: Inode, offset: u64, length: u64 },
    SetLength { inode: Inode, length: u64 },
    Rename { from: String, to: String },
    Remove { path: String },
    MakeDir { path: String },
    RemoveDir { path: String },
    SyncFile { inode: Inode },
    SyncDir { path: String },
    SyncAll,
}

/// Files and directories by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names {
    pub files: BTreeMap<String, Inode>,
    pub dirs: BTreeSet<String>,
}

/// See the module's first lines. Clones share the trace.
#[derive(Clone)]
pub struct RecordingDisk<D> {
    disk: D,
    trace: Arc<Mutex<Trace>>,
}

/// A file of a [`RecordingDisk`].
pub struct RecordingFile<F> {
    file: F,
    inode: Inode,
    trace: Arc<Mutex<Trace>>,
}

struct Trace {
    operations: Vec<Operation>,
    names: Names,
    next_inode: Inode,
}

impl<D: Disk> RecordingDisk<D> {
    /// Records what happens on a disk that now holds these names.
    pub fn new(disk: D, names: Names, next_inode: Inode) -> Self {
        Self { disk, trace: Arc::new(Mutex::new(Trace { operations: Vec::new(), names, next_inode })) }
    }

    /// Operations so far.
    #[must_use]
    pub fn recorded(&self) -> usize {
        lock(&self.trace).operations.len()
    }

    /// Takes the trace.
    #[must_use]
    pub fn take(&self) -> Vec<Operation> {
        std::mem::take(&mut lock(&self.trace).operations)
    }

    /// Carries out an operation and notes it while nobody else can.
    fn with<T>(&self, operation: impl FnOnce(&D) -> io::Result<T>, note: impl FnOnce(&mut Trace, &T)) -> io::Result<T> {
        let mut trace = lock(&self.trace);
        let done = operation(&self.disk)?;
        note(&mut trace, &done);
        Ok(done)
    }
}

fn lock(trace: &Mutex<Trace>) -> MutexGuard<'_, Trace> {
    trace.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: Disk> Disk for RecordingDisk<D> {
    type File = RecordingFile<D::File>;
    type Lock = D::Lock;

    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Self::File> {
        let mut trace = lock(&self.trace);
        let file = self.disk.open(path, mode)?;
        let inode = match trace.names.files.get(path).copied() {
            Some(inode) => {
                if mode == OpenMode::Truncate {
                    trace.operations.push(Operation::SetLength { inode, length: 0 });
                }
                inode
            }
            None => {
                let inode = trace.next_inode;
                trace.next_inode += 1;
                trace.names.files.insert(path.to_owned(), inode);
                trace.operations.push(Operation::Create { path: path.to_owned(), inode });
                inode
            }
        };
        Ok(RecordingFile { file, inode, trace: Arc::clone(&self.trace) })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.with(
            |disk| disk.rename(from, to),
            |trace, ()| {
                if let Some(inode) = trace.names.files.remove(from) {
                    trace.names.files.insert(to.to_owned(), inode);
                }
                trace.operations.push(Operation::Rename { from: from.to_owned(), to: to.to_owned() });
            },
        )
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.with(|disk| disk.remove(path), |trace, ()| trace.remove(path.to_owned()))
    }

    fn remove_tree(&self, path: &str) -> io::Result<()> {
        self.with(
            |disk| disk.remove_tree(path),
            |trace, ()| {
                let prefix = format!("{path}/");
                let below = |name: &String| name.starts_with(&prefix);
                let files: Vec<String> = trace.names.files.keys().filter(|n| below(n)).cloned().collect();
                files.into_iter().for_each(|file| trace.remove(file));
                let dirs = trace.names.dirs.iter().rev().filter(|n| below(n) || *n == path);
                for path in dirs.cloned().collect::<Vec<_>>() {
                    trace.names.dirs.remove(&path);
                    trace.operations.push(Operation::RemoveDir { path });
                }
            },
        )
    }

    fn make_dirs(&self, path: &str) -> io::Result<()> {
        self.with(
            |disk| disk.make_dirs(path),
            |trace, ()| {
                let mut missing = Vec::new();
                let mut dir = path;
                while !dir.is_empty() && !trace.names.dirs.contains(dir) {
                    missing.push(dir.to_owned());
                    dir = parent(dir);
                }
                for path in missing.into_iter().rev() {
                    trace.names.dirs.insert(path.clone());
                    trace.operations.push(Operation::MakeDir { path });
                }
            },
        )
    }

    fn list(&self, path: &str) -> io::Result<Vec<DirEntry>> {
        self.disk.list(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let note = |trace: &mut Trace, (): &()| trace.operations.push(Operation::SyncDir { path: path.to_owned() });
        self.with(|disk| disk.sync_dir(path), note)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.with(|disk| disk.sync_all(), |trace, ()| trace.operations.push(Operation::SyncAll))
    }

    fn usage(&self) -> io::Result<Usage> {
        self.disk.usage()
    }

    fn filesystem(&self) -> io::Result<Filesystem> {
        self.disk.filesystem()
    }

    fn try_lock(&self, path: &str) -> io::Result<Option<Self::Lock>> {
        self.with(
            |disk| disk.try_lock(path),
            |trace, _| {
                if !trace.names.files.contains_key(path) {
                    let inode = trace.next_inode;
                    trace.next_inode += 1;
                    trace.names.files.insert(path.to_owned(), inode);
                    trace.operations.push(Operation::Create { path: path.to_owned(), inode });
                }
            },
        )
    }

    fn describe(&self) -> String {
        self.disk.describe()
    }
}

impl Trace {
    fn remove(&mut self, path: String) {
        self.names.files.remove(&path);
        self.operations.push(Operation::Remove { path });
    }
}

impl<F: DiskFile> RecordingFile<F> {
    fn with<T>(&self, operation: impl FnOnce(&F) -> io::Result<T>, note: Operation) -> io::Result<T> {
        let mut trace = lock(&self.trace);
        let done = operation(&self.file)?;
        trace.operations.push(note);
        Ok(done)
    }
}

impl<F: DiskFile> DiskFile for RecordingFile<F> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.file.try_read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let note = Operation::Write { inode: self.inode, offset, bytes: bytes.into() };
        self.with(|file| file.write_at(bytes, offset), note)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(DiskFile::sync_data, Operation::SyncFile { inode: self.inode })
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        let note = Operation::Allocate { inode: self.inode, offset, length };
        self.with(|file| file.allocate(offset, length), note)
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        let note = Operation::Zero { inode: self.inode, offset, length };
        self.with(|file| file.zero(offset, length), note)
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let note = Operation::Punch { inode: self.inode, offset, length };
        self.with(|file| file.punch(offset, length), note)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.with(|file| file.set_len(length), Operation::SetLength { inode: self.inode, length })
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
