//! A network namespace and a directory for one test, and the certainty that nothing of it stays behind.
//!
//! Responsible for: moving the thread of a test, and so every process and thread it starts, into a namespace of its own,
//! where 127.1.0.N and 127.1.1.K belong to nobody else; a directory for its files; one cluster at a time within a test
//! program, because two of them would spoil each other's timing. Guarantees: when the test ends, fails or is killed, its
//! processes, the mounts below its directory and the directory go (`weft-test-guard` does that: it outlives the test).
//! The mount namespace is shared with the rest of the machine. Must not know: what runs in it.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock};

/// Held by the test whose turn it is. Cargo runs test programs one after the other; this is for those within a program.
static TURN: Mutex<bool> = Mutex::new(false);
static TURN_ENDED: Condvar = Condvar::new();
/// The namespace of this program before a test moved.
static OUTSIDE: OnceLock<File> = OnceLock::new();

/// The turn of one test to load the machine.
struct Turn;

impl Turn {
    fn wait() -> Self {
        let taken = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut taken = TURN_ENDED.wait_while(taken, |taken| *taken).unwrap_or_else(std::sync::PoisonError::into_inner);
        *taken = true;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = false;
        TURN_ENDED.notify_one();
    }
}

/// While it lives, this thread is in a network namespace of its own.
pub struct Isolation {
    guard: Child,
    guard_says: BufReader<ChildStdout>,
    files: PathBuf,
    /// The namespace this thread came from.
    home: File,
    _turn: Option<Turn>,
    /// A namespace belongs to a thread, so this stays on the one that made it, as the guard of a mutex does.
    _of_one_thread: PhantomData<MutexGuard<'static, ()>>,
}

impl Isolation {
    /// Waits for the turn of this test, then moves this thread.
    ///
    /// # Panics
    /// Without root, or when a namespace cannot be made.
    #[must_use]
    pub fn enter() -> Self {
        let turn = Turn::wait();
        Self::new(Some(turn))
    }

    /// The same without waiting: for a test that runs several clusters at once, each on a thread of its own.
    ///
    /// # Panics
    /// As `enter`.
    #[must_use]
    pub fn beside_others() -> Self {
        Self::new(None)
    }

    fn new(turn: Option<Turn>) -> Self {
        let home = own_namespace();
        OUTSIDE.get_or_init(own_namespace);
        // Made for good: the guard deletes it, so that it goes even if this process is killed.
        let files = tempfile::Builder::new().prefix("weft-test-").tempdir().unwrap().keep();
        let files = files.canonicalize().unwrap();
        let mut guard = Command::new("unshare")
            .arg("--net")
            .arg(guard_program())
            .arg(&files)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C in a terminal ends the test, and only that.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("could not run unshare (util-linux): {error}"));
        let mut guard_says = BufReader::new(guard.stdout.take().unwrap());
        let mut line = String::new();
        guard_says.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "no network namespace: the end-to-end tests need root (see the line above)");
        let space = File::open(format!("/proc/{}/ns/net", guard.id())).unwrap();
        move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        Self { guard, guard_says, files, home, _turn: turn, _of_one_thread: PhantomData }
    }

    /// For whatever the test keeps; deleted at its end.
    #[must_use]
    pub fn files(&self) -> &Path {
        &self.files
    }
}

impl Drop for Isolation {
    fn drop(&mut self) {
        // Nothing here may panic: it runs while a failed test unwinds.
        let _ = move_into_link_name_space(self.home.as_fd(), Some(LinkNameSpaceType::Network));
        drop(self.guard.stdin.take());
        let _ = self.guard_says.read_to_end(&mut Vec::new());
        let cleared = self.guard.wait();
        if !cleared.as_ref().is_ok_and(std::process::ExitStatus::success) {
            eprintln!("the guard of {} ended with {cleared:?}", self.files.display());
        }
    }
}

/// Does something where the machine's own network is: what a test fetches for itself.
///
/// # Panics
/// When `work` does, or the way back is barred.
pub fn outside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let on_a_thread = || {
        if let Some(outside) = OUTSIDE.get() {
            move_into_link_name_space(outside.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        }
        work()
    };
    std::thread::scope(|scope| match scope.spawn(on_a_thread).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn own_namespace() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

/// Lies beside the directory of the test programs.
fn guard_program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let beside = test.parent().and_then(Path::parent).unwrap().join("weft-test-guard");
    assert!(beside.is_file(), "{} is not built: cargo builds it with the tests of this package", beside.display());
    beside
}
