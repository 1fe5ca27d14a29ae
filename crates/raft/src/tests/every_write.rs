//! What a crash leaves between any two writes to sled's files and to the snapshot's.
//!
//! sled writes its files itself, so nobody can hand it a disk that records. This test program defines the C library's calls
//! for writing, renaming and syncing; each first copies the directory of the test, if it is about one of its files, and then
//! asks the kernel. A copy is what a killed process leaves at that point. Where power is lost too, files beside the log keep
//! only what an fsync of them covered, under the names that an fsync of their directory covered, and the machine has another
//! boot. The log is on a disk that records, in `log.rs`.
//!
//! Guarantees: one call at a time while a test records, so that a copy is a state between two calls.

use super::crash::{copy, expected, recovered_as, snapshot, write};
use super::{NODE, config, log_id, new_store};
use crate::mutants::{Mutant, plant};
use openraft::storage::RaftLogStorage;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, c_char, c_int, c_long};
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tempfile::TempDir;

/// Other tests' calls take no lock and are not slowed down.
static RECORDS: AtomicBool = AtomicBool::new(false);
static ROOT: Mutex<Option<PathBuf>> = Mutex::new(None);
static RECORDER: Mutex<Option<Recorder>> = Mutex::new(None);
/// One test at a time records.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
/// Notes that the log has for certain.
static WRITTEN: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// This thread copies, and what it writes is none of the test's doing.
    static COPYING: Cell<bool> = const { Cell::new(false) };
}

/// A crash at one point.
struct Image {
    directory: TempDir,
    power_lost: bool,
    written: u64,
    before: String,
}

struct Recorder {
    root: PathBuf,
    images: Vec<Image>,
    /// Syncs of directories are taken for nothing: what a program without them would leave.
    deaf_to_directories: bool,
    /// What an fsync covered of the files in the directory itself, by inode.
    synced: BTreeMap<u64, Vec<u8>>,
    /// Names that an fsync of the directory covered, and the inodes behind them.
    names: BTreeMap<PathBuf, u64>,
}

impl Recorder {
    fn new(root: &Path) -> Self {
        let (images, synced, names) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Self { root: root.to_owned(), images, deaf_to_directories: false, synced, names }
    }

    /// What a crash leaves now. With a torn write, half of it has happened.
    fn take(&mut self, before: String, torn: Option<(&Path, &[u8], u64)>) {
        let written = WRITTEN.load(Ordering::SeqCst);
        let killed = tempfile::tempdir().unwrap();
        copy(&self.root, killed.path());
        if let Some((file, bytes, offset)) = torn {
            let file = killed.path().join(file.strip_prefix(&self.root).unwrap());
            let file = fs::OpenOptions::new().write(true).open(file).unwrap();
            file.write_all_at(&bytes[..bytes.len() / 2], offset).unwrap();
        }
        let dark = tempfile::tempdir().unwrap();
        copy(killed.path(), dark.path());
        self.lose_what_is_not_synced(dark.path());
        self.images.push(Image { directory: killed, power_lost: false, written, before: before.clone() });
        self.images.push(Image { directory: dark, power_lost: true, written, before });
    }

    fn lose_what_is_not_synced(&self, image: &Path) {
        for found in fs::read_dir(image).unwrap().map(Result::unwrap).filter(|found| found.path().is_file()) {
            fs::remove_file(found.path()).unwrap();
        }
        for (name, inode) in &self.names {
            let kept = self.synced.get(inode).cloned().unwrap_or_default();
            fs::File::create(image.join(name)).unwrap().write_all(&kept).unwrap();
        }
    }

    /// Before an fsync: if the kernel says that it failed, the test fails anyway.
    fn sync(&mut self, path: &Path) {
        use std::os::unix::fs::MetadataExt;
        let in_root = |path: &Path| path.parent() == Some(&self.root) && path.is_file();
        if in_root(path) {
            self.synced.insert(fs::metadata(path).unwrap().ino(), fs::read(path).unwrap());
        } else if path == self.root && !self.deaf_to_directories {
            let files = fs::read_dir(path).unwrap().map(|found| found.unwrap().path()).filter(|path| in_root(path));
            let named = |file: PathBuf| {
                let inode = fs::metadata(&file).unwrap().ino();
                (PathBuf::from(file.file_name().unwrap()), inode)
            };
            self.names = files.map(named).collect();
        }
    }
}

fn recorder() -> MutexGuard<'static, Option<Recorder>> {
    RECORDER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the call after `look` has seen it, if it is about a file of the test; nobody else makes such a call meanwhile.
fn observed(
    path: impl FnOnce() -> Option<PathBuf>,
    look: impl FnOnce(&mut Recorder, &Path),
    call: impl FnOnce() -> c_long,
) -> c_long {
    if COPYING.get() || !RECORDS.load(Ordering::SeqCst) {
        return call();
    }
    COPYING.set(true);
    let root = ROOT.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let about = path().filter(|path| root.is_some_and(|root| path.starts_with(root)));
    let mut recorder = about.is_some().then(recorder);
    if let (Some(recorder), Some(path)) = (recorder.as_mut().and_then(|recorder| recorder.as_mut()), about) {
        look(recorder, &path);
    }
    COPYING.set(false);
    call()
}

fn path_of(descriptor: c_int) -> Option<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{descriptor}")).ok()
}

/// # Safety
/// `path` is a C string or null.
unsafe fn path_at(path: *const c_char) -> Option<PathBuf> {
    // SAFETY: promised by the caller.
    (!path.is_null()).then(|| PathBuf::from(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes())))
}

fn said(call: &str, path: &Path) -> String {
    format!("{call} {}", path.display())
}

/// The C library's calls, as this program has them.
mod calls {
    use super::{Recorder, observed, path_at, path_of, said};
    use std::ffi::{c_char, c_int, c_void};
    use std::path::Path;

    /// # Safety
    /// As pwrite(2).
    #[unsafe(no_mangle)]
    unsafe extern "C" fn pwrite64(descriptor: c_int, bytes: *const c_void, count: usize, offset: i64) -> isize {
        let look = |recorder: &mut Recorder, path: &Path| {
            // SAFETY: the caller promises `count` bytes.
            let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), count) };
            recorder.take(said("pwrite", path), None);
            recorder.take(said("half of pwrite", path), Some((path, bytes, offset.unsigned_abs())));
        };
        // SAFETY: the arguments are the caller's.
        let call = || unsafe { libc::syscall(libc::SYS_pwrite64, descriptor, bytes, count, offset) };
        observed(|| path_of(descriptor), look, call) as isize
    }

    /// # Safety
    /// As write(2).
    #[unsafe(no_mangle)]
    unsafe extern "C" fn write(descriptor: c_int, bytes: *const c_void, count: usize) -> isize {
        // SAFETY: the arguments are the caller's.
        let call = || unsafe { libc::syscall(libc::SYS_write, descriptor, bytes, count) };
        observed(|| path_of(descriptor), |recorder, path| recorder.take(said("write", path), None), call) as isize
    }

    /// # Safety
    /// As ftruncate(2).
    #[unsafe(no_mangle)]
    unsafe extern "C" fn ftruncate64(descriptor: c_int, length: i64) -> c_int {
        // SAFETY: the arguments are the caller's.
        let call = || unsafe { libc::syscall(libc::SYS_ftruncate, descriptor, length) };
        observed(|| path_of(descriptor), |recorder, path| recorder.take(said("ftruncate", path), None), call) as c_int
    }

    /// # Safety
    /// As rename(2).
    #[unsafe(no_mangle)]
    unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
        // SAFETY: the arguments are the caller's.
        let path = || unsafe { path_at(to) };
        // SAFETY: as above.
        let call = || unsafe { libc::syscall(libc::SYS_rename, from, to) };
        observed(path, |recorder, path| recorder.take(said("rename to", path), None), call) as c_int
    }

    /// # Safety
    /// As unlink(2).
    #[unsafe(no_mangle)]
    unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
        // SAFETY: the arguments are the caller's.
        let about = || unsafe { path_at(path) };
        // SAFETY: as above.
        let call = || unsafe { libc::syscall(libc::SYS_unlink, path) };
        observed(about, |recorder, path| recorder.take(said("unlink", path), None), call) as c_int
    }

    /// # Safety
    /// As fsync(2).
    #[unsafe(no_mangle)]
    unsafe extern "C" fn fsync(descriptor: c_int) -> c_int {
        let look = |recorder: &mut Recorder, path: &Path| {
            recorder.take(said("fsync", path), None);
            recorder.sync(path);
        };
        // SAFETY: the arguments are the caller's.
        let call = || unsafe { libc::syscall(libc::SYS_fsync, descriptor) };
        observed(|| path_of(descriptor), look, call) as c_int
    }
}

/// A store that works, takes snapshots and forgets its log, with an image before each call.
async fn images(deaf_to_directories: bool, mutant: Option<Mutant>) -> Vec<Image> {
    let directory = tempfile::tempdir().unwrap();
    WRITTEN.store(0, Ordering::SeqCst);
    let mut store = new_store(directory.path());
    write(&mut store, 1, 1).await.unwrap();
    WRITTEN.store(1, Ordering::SeqCst);
    let mut recorder = Recorder::new(directory.path());
    recorder.deaf_to_directories = deaf_to_directories;
    *self::recorder() = Some(recorder);
    *ROOT.lock().unwrap() = Some(directory.path().to_owned());
    RECORDS.store(true, Ordering::SeqCst);
    plant(mutant);
    for n in 2..=24 {
        write(&mut store, n, n).await.unwrap();
        WRITTEN.store(n, Ordering::SeqCst);
        if n % 8 == 0 {
            snapshot(&mut store).await;
            store.log.purge(log_id(n - 2)).await.unwrap();
            store.shared.applied().flush().unwrap();
        }
    }
    plant(None);
    RECORDS.store(false, Ordering::SeqCst);
    self::recorder().take().unwrap().images
}

/// The images that do not come back as they have to, each with why.
async fn all_wrong(images: Vec<Image>) -> Vec<String> {
    let mut wrong = Vec::new();
    for image in images {
        let mut config = config(image.directory.path(), NODE);
        if image.power_lost {
            config.boot_id = "another boot".to_owned();
        }
        let here = format!("before {}, power lost: {}", image.before, image.power_lost);
        let opened = tokio::spawn(async move {
            let store = recovered_as(&config, image.written).await;
            let notes = store.shared.read(|view| super::notes(view));
            // The entry that was being written may be there or not.
            let whole = notes == expected(notes.len() as u64);
            let enough = (image.written..=image.written + 1).contains(&(notes.len() as u64));
            (whole && enough).then_some(()).ok_or(format!("{} notes, written were {}", notes.len(), image.written))
        });
        match opened.await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => wrong.push(format!("{here}: {why}")),
            Err(panicked) => wrong.push(format!("{here}: {panicked}")),
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_any_two_writes_leaves_a_state_that_opens_with_all_that_was_written() {
    let _turn = TURN.lock().await;
    let images = images(false, None).await;
    assert!(images.len() > 100, "{} images", images.len());
    let calls: Vec<&str> = images.iter().map(|image| image.before.as_str()).collect();
    for wanted in ["pwrite", "half of pwrite", "rename to", "fsync"] {
        assert!(calls.iter().any(|call| call.starts_with(wanted)), "no {wanted} among {calls:?}");
    }
    assert!(calls.iter().any(|call| call.contains("applied-")), "nothing of sled");
    assert!(calls.iter().any(|call| call.contains("snapshot.weft")), "nothing of the snapshot");
    assert_eq!(all_wrong(images).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_whose_directory_is_not_synced_is_noticed() {
    let _turn = TURN.lock().await;
    let images = images(true, None).await;
    let wrong = all_wrong(images).await;
    assert!(wrong.first().is_some_and(|first| first.contains("power lost: true")), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_is_written_before_its_state_is_noticed() {
    let _turn = TURN.lock().await;
    let images = images(false, Some(Mutant::MarkBeforeState)).await;
    let wrong = all_wrong(images).await;
    // Not the first one: sled writes in a thread of its own, and a snapshot that is written meanwhile has its images too.
    let in_between = |image: &String| image.contains("applied-") && image.contains("power lost: false");
    assert!(wrong.iter().any(in_between), "{wrong:?}");
}
