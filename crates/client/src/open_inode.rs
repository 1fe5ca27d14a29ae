//! What this session knows about an inode that it has open: size, cap, times, and who may do what at the same time.

use crate::client::{Inner, unexpected};
use crate::core::retry::pause;
use crate::core::{Extension, FileSize, Life, Operation};
use crate::options::{Access, OpenContents};
use crate::shell::boot_time;
use crate::shell::engine::received;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Mutex, RwLock};
use weft_proto::namespace::{FileRecord, Mutation, NamespaceReply, Query, TimeChange};
use weft_types::{Attributes, ErrorKind, InodeNumber, Timestamp};

/// From here on a wait for the size cap is worth a line in the log.
const CAP_WARNING: Duration = Duration::from_secs(5);
/// The metadata group raises a generation before any placement group hears of it, so one question is enough; more than
/// a few means that something is wrong.
const MAX_REFRESHES: u32 = 20;

pub struct OpenInode {
    pub(crate) inode: InodeNumber,
    /// Shared by writes, held alone by truncation.
    pub(crate) gate: RwLock<()>,
    /// Held while an append chooses its offset and writes.
    pub(crate) appending: Mutex<()>,
    state: Mutex<Registration>,
    size: RefCell<Option<FileSize>>,
    cap: Cell<bool>,
    /// Time of the last write that the metadata group does not know.
    written_at: Cell<Option<Timestamp>>,
    /// Read or written since the last upkeep.
    used: Cell<bool>,
    commits: Mutex<()>,
}

/// Whether and how the metadata group knows that this session has the inode open.
#[derive(Default)]
struct Registration {
    handles: usize,
    access: Option<Access>,
}

impl OpenInode {
    fn new(inode: InodeNumber) -> Rc<Self> {
        Rc::new(Self {
            inode,
            gate: RwLock::new(()),
            appending: Mutex::new(()),
            state: Mutex::default(),
            size: RefCell::default(),
            cap: Cell::new(false),
            written_at: Cell::new(None),
            used: Cell::new(false),
            commits: Mutex::new(()),
        })
    }

    /// Adds an open handle to the inode, and tells the metadata group if this needs its consent.
    pub(crate) async fn open(
        client: &Rc<Inner>,
        inode: InodeNumber,
        access: Access,
        contents: OpenContents,
    ) -> Result<Rc<Self>, ErrorKind> {
        let file = Rc::clone(client.files.borrow_mut().entry(inode).or_insert_with(|| Self::new(inode)));
        let mut state = file.state.lock().await;
        let truncate = contents == OpenContents::Truncate;
        let upgrade = access == Access::Write && state.access != Some(Access::Write);
        if state.access.is_none() || upgrade || truncate {
            let _gate = if truncate { Some(file.gate.write().await) } else { None };
            let write = access == Access::Write || state.access == Some(Access::Write);
            let opened = match client.mutate(Mutation::Open { inode, write, truncate }).await {
                Ok(NamespaceReply::Opened { record, size_cap }) => Ok((record, size_cap)),
                Ok(other) => Err(unexpected(&other)),
                Err(error) => Err(error),
            };
            match opened {
                Ok((record, size_cap)) => file.registered(&mut state, &record, size_cap, write),
                Err(error) => {
                    drop(state);
                    file.forget_if_unused(client);
                    return Err(error);
                }
            }
        }
        state.handles += 1;
        drop(state);
        Ok(file)
    }

    /// A file that this session just created and has open.
    pub(crate) async fn created(client: &Rc<Inner>, record: &FileRecord, size_cap: bool, access: Access) -> Rc<Self> {
        let inode = record.attributes.inode;
        let file = Rc::clone(client.files.borrow_mut().entry(inode).or_insert_with(|| Self::new(inode)));
        let mut state = file.state.lock().await;
        file.registered(&mut state, record, size_cap, access == Access::Write || size_cap);
        state.handles += 1;
        drop(state);
        file
    }

    fn registered(&self, state: &mut Registration, record: &FileRecord, size_cap: bool, write: bool) {
        self.learned(record);
        self.cap.set(self.cap.get() || size_cap);
        state.access = Some(if write { Access::Write } else { Access::Read });
    }

    /// Takes away a handle. The last one waits until everything of the file is answered (design 4.5), commits and
    /// closes.
    pub(crate) async fn close(self: &Rc<Self>, client: &Inner) -> Result<(), ErrorKind> {
        let mut state = self.state.lock().await;
        state.handles = state.handles.saturating_sub(1);
        if state.handles > 0 {
            return Ok(());
        }
        let result = self.unregister(client, &mut state).await;
        drop(state);
        self.forget_if_unused(client);
        result
    }

    /// At the end of the session, whatever handles are left.
    pub(crate) async fn close_for_good(&self, client: &Inner) -> Result<(), ErrorKind> {
        let mut state = self.state.lock().await;
        self.unregister(client, &mut state).await
    }

    async fn unregister(&self, client: &Inner, state: &mut Registration) -> Result<(), ErrorKind> {
        if state.access.is_none() {
            return Ok(());
        }
        received(client.engine.submit(Some(self.inode), Operation::Settle).await)?;
        self.commit(client).await?;
        client.mutate(Mutation::Close { inode: self.inode }).await?;
        state.access = None;
        self.cap.set(false);
        self.size.replace(None);
        Ok(())
    }

    fn forget_if_unused(self: &Rc<Self>, client: &Inner) {
        // One reference is the table's, one the caller's.
        let unused = Rc::strong_count(self) <= 2 && self.state.try_lock().is_ok_and(|s| s.access.is_none());
        if unused {
            client.files.borrow_mut().remove(&self.inode);
        }
    }

    pub(crate) fn learned(&self, record: &FileRecord) {
        let mut size = self.size.borrow_mut();
        match size.as_mut() {
            Some(size) => size.learned(record),
            None => *size = Some(FileSize::new(record)),
        }
    }

    /// Contents that the session works on now.
    pub(crate) fn life(&self) -> Result<Life, ErrorKind> {
        self.size.borrow().as_ref().map(FileSize::life).ok_or(ErrorKind::Stale)
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.size.borrow().as_ref().map_or(0, FileSize::live)
    }

    pub(crate) fn used(&self) {
        self.used.set(true);
    }

    /// Bytes up to `end` were acknowledged. Returns when the write may be acknowledged to the application.
    pub(crate) async fn wrote(&self, client: &Inner, life: Life, end: u64) -> Result<(), ErrorKind> {
        self.written_at.set(Some(wall_clock()));
        self.used();
        if matches!(self.extended(client, life, end)?, Extension::Covered | Extension::Remembered) {
            return Ok(());
        }
        self.obtain_cap(client).await?;
        match self.extended(client, life, end)? {
            Extension::Covered | Extension::Remembered => Ok(()),
            // It holds the cap and its lease has lapsed: only the metadata group may say now how long the file is.
            Extension::CommitFirst { generation, size_bytes } => {
                let life = Life { generation, ..life };
                client.commit_size(self.inode, life, size_bytes, TimeChange::To(wall_clock())).await?;
                if let Some(size) = self.size.borrow_mut().as_mut() {
                    size.committed(generation, size_bytes);
                }
                Ok(())
            }
        }
    }

    fn extended(&self, client: &Inner, life: Life, end: u64) -> Result<Extension, ErrorKind> {
        let mut size = self.size.borrow_mut();
        let size = size.as_mut().ok_or(ErrorKind::Stale)?;
        if life == size.life() && end <= size.live() {
            return Ok(Extension::Covered);
        }
        Ok(size.wrote(life, end, client.cap_use(self.cap.get())))
    }

    /// Returns when this session holds the size cap. Only its holder may make the file longer; a live session keeps it
    /// until it closes the file, a lapsed one is struck (design 4.4).
    pub(crate) async fn obtain_cap(&self, client: &Inner) -> Result<(), ErrorKind> {
        let began = boot_time();
        let (mut tries, mut warned) = (0u32, false);
        while !self.cap.get() {
            let mutation = Mutation::Open { inode: self.inode, write: true, truncate: false };
            let NamespaceReply::Opened { record, size_cap } = client.mutate(mutation).await? else {
                return Err(ErrorKind::Io("an open was answered with something else".into()));
            };
            self.learned(&record);
            if size_cap {
                self.cap.set(true);
                return Ok(());
            }
            let waited = boot_time().since(began);
            if client.fail_after.is_some_and(|limit| waited >= limit) {
                return Err(ErrorKind::TimedOut {
                    waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
                    why: "another host has the file open for writing and keeps its size".into(),
                });
            }
            if waited > CAP_WARNING && !warned {
                warned = true;
                tracing::warn!(inode = %self.inode, "waiting to make a file longer: another host has it open for writing");
            }
            tries = tries.saturating_add(1);
            tokio::time::sleep(pause(tries)).await;
        }
        Ok(())
    }

    /// What stat shows: sizes and times of this session that the metadata group has not heard of.
    pub(crate) fn amend(&self, attributes: &mut Attributes) {
        attributes.size_bytes = self.size_bytes();
        if let Some(written_at) = self.written_at.get() {
            attributes.modified = attributes.modified.max(written_at);
            attributes.changed = attributes.changed.max(written_at);
        }
    }

    /// Tells the metadata group size and time of what was written.
    pub(crate) async fn commit(&self, client: &Inner) -> Result<(), ErrorKind> {
        let _one_at_a_time = self.commits.lock().await;
        let written_at = self.written_at.take();
        let (life, live, uncommitted) = {
            let size = self.size.borrow();
            let Some(size) = size.as_ref() else { return Ok(()) };
            (size.life(), size.live(), size.uncommitted())
        };
        if written_at.is_none() && uncommitted.is_none() {
            return Ok(());
        }
        let modified = TimeChange::To(written_at.unwrap_or_else(wall_clock));
        let result = client.commit_size(self.inode, life, live, modified).await;
        match &result {
            Ok(()) => {
                if let Some(size) = self.size.borrow_mut().as_mut() {
                    size.committed(life.generation, live);
                }
            }
            // Not forgotten; a later write may have set a newer time already.
            Err(_) => self.written_at.set(self.written_at.get().or(written_at)),
        }
        result
    }

    /// Only the size: what data could not be read back without.
    pub(crate) async fn commit_if_grown(&self, client: &Inner) -> Result<(), ErrorKind> {
        let grown = self.size.borrow().as_ref().is_some_and(|size| size.uncommitted().is_some());
        if grown { self.commit(client).await } else { Ok(()) }
    }

    pub(crate) fn wants_upkeep(&self) -> bool {
        self.written_at.get().is_some() || self.used.get()
    }

    /// Once a second while the file is in use.
    pub(crate) async fn upkeep(&self, client: &Inner) -> Result<(), ErrorKind> {
        self.used.set(false);
        self.commit(client).await?;
        self.refresh(client).await
    }

    /// The placement groups know of a truncation after `old`: waits until the metadata group tells of it.
    pub(crate) async fn refresh_past(&self, client: &Inner, old: Life) -> Result<(), ErrorKind> {
        let mut tries = 0u32;
        loop {
            self.refresh(client).await?;
            if self.life()? != old {
                return Ok(());
            }
            tries += 1;
            if tries >= MAX_REFRESHES {
                return Err(ErrorKind::Io("the file was truncated, and its new generation is not known".into()));
            }
            tokio::time::sleep(pause(tries)).await;
        }
    }

    /// Asks for the newest record: others may have truncated the file or made it longer.
    pub(crate) async fn refresh(&self, client: &Inner) -> Result<(), ErrorKind> {
        let record = client.record_of(Query::Attributes { inode: self.inode }).await?;
        if self.size.borrow().is_some() {
            self.learned(&record);
        }
        Ok(())
    }
}

/// For file times only.
pub(crate) fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanoseconds: since.subsec_nanos() }
}
