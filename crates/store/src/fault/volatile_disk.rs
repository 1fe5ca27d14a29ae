//! A real disk whose unsynced file contents live in this process only, so that killing the process is a power cut.
//!
//! Model: what is written stays in memory, page by page, until a sync of the file (or of the whole disk) hands it to the
//! filesystem and syncs it there. Names change at once; lengths and contents do not.

use crate::disk::{DirEntry, Disk, DiskFile, Filesystem, OpenMode, Usage};
use crate::real_disk::{RealDisk, RealFile, RealLock};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PAGE: u64 = 4096;

/// See the module's first lines. Clones share it.
#[derive(Clone)]
pub struct VolatileDisk {
    real: RealDisk,
    /// Open files by name, so that two openings see the same unsynced bytes.
    open: Arc<Mutex<BTreeMap<String, Arc<Shared>>>>,
}

/// A file of a [`VolatileDisk`].
pub struct VolatileFile {
    shared: Arc<Shared>,
}

struct Shared {
    real: RealFile,
    state: Mutex<Pending>,
}

struct Pending {
    pages: BTreeMap<u64, Box<[u8; PAGE as usize]>>,
    length: u64,
}

impl VolatileDisk {
    #[must_use]
    pub fn new(real: RealDisk) -> Self {
        Self { real, open: Arc::default() }
    }

    fn open_files(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Shared>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets files that nobody has open and that hold nothing unsynced.
    fn forget_idle(files: &mut BTreeMap<String, Arc<Shared>>) {
        files.retain(|_, shared| Arc::strong_count(shared) > 1 || !shared.state().is_clean(&shared.real));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Pending> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn page(&self, state: &Pending, page: u64) -> io::Result<Box<[u8; PAGE as usize]>> {
        if let Some(found) = state.pages.get(&page) {
            return Ok(found.clone());
        }
        let mut bytes = Box::new([0; PAGE as usize]);
        self.real.read_at(&mut bytes[..], page * PAGE)?;
        Ok(bytes)
    }

    fn write(&self, state: &mut Pending, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let step = (PAGE as usize - within).min(bytes.len() - done);
            let mut page = self.page(state, at / PAGE)?;
            page[within..within + step].copy_from_slice(&bytes[done..done + step]);
            state.pages.insert(at / PAGE, page);
            done += step;
        }
        state.length = state.length.max(offset + bytes.len() as u64);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.state();
        for (page, bytes) in std::mem::take(&mut state.pages) {
            let start = page * PAGE;
            let length = PAGE.min(state.length.saturating_sub(start)) as usize;
            self.real.write_at(&bytes[..length], start)?;
        }
        if self.real.len()? != state.length {
            self.real.set_len(state.length)?;
        }
        Ok(())
    }
}

impl Pending {
    fn is_clean(&self, real: &RealFile) -> bool {
        self.pages.is_empty() && real.len().is_ok_and(|length| length == self.length)
    }
}

impl Disk for VolatileDisk {
    type File = VolatileFile;
    type Lock = RealLock;

    fn open(&self, path: &str, mode: OpenMode) -> io::Result<VolatileFile> {
        let mut files = self.open_files();
        if files.len() > 256 {
            Self::forget_idle(&mut files);
        }
        if let Some(shared) = files.get(path) {
            let file = VolatileFile { shared: Arc::clone(shared) };
            if mode == OpenMode::Truncate {
                file.set_len(0)?;
            }
            return Ok(file);
        }
        // Opened for writing whatever was asked for: a later opening may share it.
        let real_mode = if mode == OpenMode::ReadOnly { OpenMode::Existing } else { mode };
        let real = self.real.open(path, real_mode)?;
        let state = Mutex::new(Pending { pages: BTreeMap::new(), length: real.len()? });
        let shared = Arc::new(Shared { real, state });
        files.insert(path.to_owned(), Arc::clone(&shared));
        Ok(VolatileFile { shared })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.open_files();
        self.real.rename(from, to)?;
        files.remove(to);
        if let Some(shared) = files.remove(from) {
            files.insert(to.to_owned(), shared);
        }
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.open_files().remove(path);
        self.real.remove(path)
    }

    fn remove_tree(&self, path: &str) -> io::Result<()> {
        let prefix = format!("{path}/");
        self.open_files().retain(|name, _| !name.starts_with(&prefix));
        self.real.remove_tree(path)
    }

    fn make_dirs(&self, path: &str) -> io::Result<()> {
        self.real.make_dirs(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<DirEntry>> {
        self.real.list(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.real.sync_dir(path)
    }

    fn sync_all(&self) -> io::Result<()> {
        let files: Vec<Arc<Shared>> = self.open_files().values().cloned().collect();
        files.iter().try_for_each(|shared| shared.flush())?;
        self.real.sync_all()
    }

    fn usage(&self) -> io::Result<Usage> {
        self.real.usage()
    }

    fn filesystem(&self) -> io::Result<Filesystem> {
        self.real.filesystem()
    }

    fn try_lock(&self, path: &str) -> io::Result<Option<RealLock>> {
        self.real.try_lock(path)
    }

    fn describe(&self) -> String {
        self.real.describe()
    }
}

impl DiskFile for VolatileFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.shared.state();
        let length = state.length.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let got = self.shared.real.read_at(&mut buffer[..length], offset)?;
        buffer[got..length].fill(0);
        let end = offset + length as u64;
        for (page, bytes) in state.pages.range(offset / PAGE..end.div_ceil(PAGE)) {
            let start = page * PAGE;
            let from = start.max(offset);
            let to = (start + PAGE).min(end);
            buffer[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
        }
        Ok(length)
    }

    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.read_at(buffer, offset).map(Some)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.shared.write(&mut self.shared.state(), bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.shared.flush()?;
        self.shared.real.sync_data()
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut state = self.shared.state();
        self.shared.real.allocate(offset, length)?;
        state.length = state.length.max(offset + length);
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        // The space is taken at once, as a filesystem does; that it reads as zeros is lost with the power.
        let mut state = self.shared.state();
        self.shared.real.allocate(offset, length)?;
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let step = (PAGE - at % PAGE).min(end - at);
            self.shared.write(&mut state, &[0; PAGE as usize][..step as usize], at)?;
            at += step;
        }
        Ok(())
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut state = self.shared.state();
        let end = (offset + length).min(state.length);
        let mut at = offset;
        while at < end {
            let step = (PAGE - at % PAGE).min(end - at);
            self.shared.write(&mut state, &[0; PAGE as usize][..step as usize], at)?;
            at += step;
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.shared.state();
        if length < state.length {
            let old = state.length;
            // What lies behind the new end must read as zeros if the file grows again before the next sync.
            state.pages.split_off(&length.div_ceil(PAGE));
            for page in length / PAGE..old.div_ceil(PAGE) {
                let mut bytes = self.shared.page(&state, page)?;
                bytes[(length.saturating_sub(page * PAGE)).min(PAGE) as usize..].fill(0);
                state.pages.insert(page, bytes);
            }
        }
        state.length = length;
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.shared.state().length)
    }
}
