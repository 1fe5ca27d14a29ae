//! What the store needs from a filesystem, as one synchronous trait.
//!
//! Responsible for: the vocabulary of file and directory operations under one root directory.
//! Guarantees: a path is relative to that root; nothing is durable before `sync_data`, `sync_dir` or `sync_all` of it
//! has returned `Ok`. Must not know: what the files mean.

use std::io;

/// One directory tree on one filesystem. Clones share it.
pub trait Disk: Clone + Send + Sync + 'static {
    type File: DiskFile;
    /// Held for as long as the lock is.
    type Lock: Send + Sync + 'static;

    /// Opens a file for reading and writing.
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Self::File>;
    /// Renames a file, replacing what has the new name. Durable after `sync_dir` of the directory.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Removes a directory with all it holds. Removing what does not exist is no error.
    fn remove_tree(&self, path: &str) -> io::Result<()>;
    /// Makes a directory and its parents. Existing ones are no error.
    fn make_dirs(&self, path: &str) -> io::Result<()>;
    /// Names in a directory, sorted. A directory that does not exist is `NotFound`.
    fn list(&self, path: &str) -> io::Result<Vec<DirEntry>>;
    fn sync_dir(&self, path: &str) -> io::Result<()>;
    /// Syncs all data and names of the filesystem (syncfs).
    fn sync_all(&self) -> io::Result<()>;
    fn usage(&self) -> io::Result<Usage>;
    fn filesystem(&self) -> io::Result<Filesystem>;
    /// Takes an exclusive lock; `None` when another process holds it.
    fn try_lock(&self, path: &str) -> io::Result<Option<Self::Lock>>;
    /// For messages: where the tree is.
    fn describe(&self) -> String;
}

pub trait DiskFile: Send + Sync + 'static {
    /// Reads up to the buffer's length; less only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// As `read_at`, but `None` when it would have to wait for the disk.
    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>>;
    /// Writes all of it.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the contents and the length durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;
    /// A hint: what is read is not what comes before or after, so nothing is gained by reading ahead.
    fn expect_random_access(&self) -> io::Result<()> {
        Ok(())
    }
    /// Reserves space for a byte range and extends the file over it.
    fn allocate(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Takes the space of a byte range; it reads as zeros, whatever was there, and writing into it needs no more space.
    fn zero(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Frees the space of a byte range; it reads as zeros.
    fn punch(&self, offset: u64, length: u64) -> io::Result<()>;
    fn set_len(&self, length: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;

    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads exactly the buffer's length.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let got = self.read_at(buffer, offset)?;
        if got == buffer.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// It has to exist.
    Existing,
    /// It has to exist, and is not written to.
    ReadOnly,
    /// Created when absent.
    Create,
    /// Created, or emptied when it exists.
    Truncate,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DirEntry {
    pub name: String,
    pub kind: DirEntryKind,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DirEntryKind {
    File,
    Directory,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Usage {
    pub total_bytes: u64,
    pub free_bytes: u64,
}

/// What the tree lies on. Design 6: warn on anything but ext4 and XFS.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub enum Filesystem {
    Ext4,
    Xfs,
    Simulated,
    Other { magic: u64 },
}

impl Filesystem {
    /// Why an operator should think again, if there is a reason.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        match self {
            Self::Ext4 | Self::Xfs | Self::Simulated => None,
            Self::Other { magic } => Some(format!(
                "the filesystem (type {magic:#x}) is neither ext4 nor XFS: Weft is tested for durability on those two"
            )),
        }
    }
}

/// The directory part of a path; empty for the root.
#[must_use]
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// Replaces a small file so that after a crash either the old or the new contents are there, whole.
///
/// # Errors
/// When any step fails; the old contents are then still in place, or the new ones are.
pub fn replace_file<D: Disk>(disk: &D, path: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{path}{NEW_SUFFIX}");
    write_file(disk, &temporary, bytes)?.sync_data()?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(parent(path))
}

/// Ending of a file that is not complete yet.
pub(crate) const NEW_SUFFIX: &str = ".new";

/// Writes a file. Nothing of it is durable yet.
pub(crate) fn write_file<D: Disk>(disk: &D, path: &str, bytes: &[u8]) -> io::Result<D::File> {
    let file = disk.open(path, OpenMode::Truncate)?;
    file.write_at(bytes, 0)?;
    Ok(file)
}

/// Reads a small file; `None` when it does not exist.
///
/// # Errors
/// When it exists and cannot be read.
pub fn read_file<D: Disk>(disk: &D, path: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path, OpenMode::ReadOnly) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = file.len()?;
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(Some(bytes))
}
