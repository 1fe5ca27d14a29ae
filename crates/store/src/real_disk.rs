//! [`Disk`] on a directory of a Linux filesystem.
//!
//! Responsible for: system calls and nothing else. Guarantees: descriptors are close-on-exec; short reads and writes
//! and EINTR are dealt with here. Must not know: what the files mean.

use crate::disk::{DirEntry, DirEntryKind, Disk, DiskFile, Filesystem, OpenMode, Usage};
use rustix::fs::{self, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EXT4_MAGIC: u64 = 0xef53;
const XFS_MAGIC: u64 = 0x5846_5342;
/// The kernel makes pages as large as the write that brings them into its cache, and ext4 walks through all blocks of such
/// a page at each later write into it: 4 KiB writes into what 1 MiB writes had left there cost a sixth of all processor time.
const MAX_WRITE_BYTES: usize = 64 << 10;

#[derive(Clone, Debug)]
pub struct RealDisk {
    root: Arc<Root>,
}

#[derive(Debug)]
struct Root {
    path: PathBuf,
    directory: OwnedFd,
}

#[derive(Debug)]
pub struct RealFile {
    file: OwnedFd,
}

/// An flock, released when dropped.
#[derive(Debug)]
pub struct RealLock {
    _file: OwnedFd,
}

impl RealDisk {
    /// # Errors
    /// When the directory cannot be opened.
    pub fn new(root: impl AsRef<Path>) -> io::Result<Self> {
        let path = root.as_ref().to_path_buf();
        let directory = fs::open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root: Arc::new(Root { path, directory }) })
    }

    fn open_dir(&self, path: &str) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(fs::openat(&self.root.directory, path, flags, Mode::empty())?)
    }
}

impl Disk for RealDisk {
    type File = RealFile;
    type Lock = RealLock;

    fn open(&self, path: &str, mode: OpenMode) -> io::Result<RealFile> {
        let flags = OFlags::CLOEXEC
            | match mode {
                OpenMode::Existing => OFlags::RDWR,
                OpenMode::ReadOnly => OFlags::RDONLY,
                OpenMode::Create => OFlags::RDWR | OFlags::CREATE,
                OpenMode::Truncate => OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC,
            };
        let file = fs::openat(&self.root.directory, path, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(RealFile { file })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(fs::renameat(&self.root.directory, from, &self.root.directory, to)?)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        Ok(fs::unlinkat(&self.root.directory, path, fs::AtFlags::empty())?)
    }

    fn remove_tree(&self, path: &str) -> io::Result<()> {
        match std::fs::remove_dir_all(self.root.path.join(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn make_dirs(&self, path: &str) -> io::Result<()> {
        std::fs::create_dir_all(self.root.path.join(path))
    }

    fn list(&self, path: &str) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(self.root.path.join(path))? {
            let entry = entry?;
            let kind = if entry.file_type()?.is_dir() { DirEntryKind::Directory } else { DirEntryKind::File };
            // A name that is not UTF-8 is not ours.
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(DirEntry { name, kind });
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        Ok(fs::fsync(self.open_dir(path)?)?)
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(fs::syncfs(&self.root.directory)?)
    }

    fn usage(&self) -> io::Result<Usage> {
        let stat = fs::fstatvfs(&self.root.directory)?;
        Ok(Usage { total_bytes: stat.f_blocks * stat.f_frsize, free_bytes: stat.f_bavail * stat.f_frsize })
    }

    fn filesystem(&self) -> io::Result<Filesystem> {
        let magic = fs::fstatfs(&self.root.directory)?.f_type as u64;
        Ok(match magic {
            EXT4_MAGIC => Filesystem::Ext4,
            XFS_MAGIC => Filesystem::Xfs,
            magic => Filesystem::Other { magic },
        })
    }

    fn try_lock(&self, path: &str) -> io::Result<Option<RealLock>> {
        let RealFile { file } = self.open(path, OpenMode::Create)?;
        match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(RealLock { _file: file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn describe(&self) -> String {
        self.root.path.display().to_string()
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match rustix::io::pread(&self.file, &mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        let mut done = 0;
        while done < buffer.len() {
            let mut slices = [io::IoSliceMut::new(&mut buffer[done..])];
            match rustix::io::preadv2(&self.file, &mut slices, offset + done as u64, ReadWriteFlags::NOWAIT) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                // Not cached, or a filesystem that cannot say: a thread that may wait has to read it.
                Err(Errno::AGAIN | Errno::OPNOTSUPP) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(done))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let end = bytes.len().min(done + MAX_WRITE_BYTES);
            match rustix::io::pwrite(&self.file, &bytes[done..end], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(fs::fdatasync(&self.file)?)
    }

    fn expect_random_access(&self) -> io::Result<()> {
        Ok(fs::fadvise(&self.file, 0, None, fs::Advice::Random)?)
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        match fs::fallocate(&self.file, FallocateFlags::empty(), offset, length) {
            Err(Errno::OPNOTSUPP) => zero_fill(self, offset, length),
            other => Ok(other?),
        }
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        match fs::fallocate(&self.file, FallocateFlags::ZERO_RANGE, offset, length) {
            Err(Errno::OPNOTSUPP) => zero_fill(self, offset, length),
            other => Ok(other?),
        }
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        match fs::fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length) {
            // Space is not freed there, but the bytes must read as zeros all the same.
            Err(Errno::OPNOTSUPP) => {
                let end = self.len()?.min(offset + length);
                zero_fill(self, offset, end.saturating_sub(offset))
            }
            other => Ok(other?),
        }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        Ok(fs::ftruncate(&self.file, length)?)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(u64::try_from(fs::fstat(&self.file)?.st_size).unwrap_or(0))
    }
}

fn zero_fill(file: &RealFile, offset: u64, length: u64) -> io::Result<()> {
    const STEP: u64 = 1 << 20;
    let zeros = vec![0; STEP.min(length) as usize];
    let mut done = 0;
    while done < length {
        let step = STEP.min(length - done);
        file.write_at(&zeros[..step as usize], offset + done)?;
        done += step;
    }
    Ok(())
}
