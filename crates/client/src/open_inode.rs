//! What this session knows about an inode that it has open: size, cap, times, and who may do what at the same time.

use crate::client::{Inner, unexpected};
use crate::core::retry::pause;
use crate::core::{DescriptionId, Extension, FileSize, Life, LockBook, Operation, SizeCap};
use crate::mutants;
use crate::options::{Access, OpenContents};
use crate::shell::engine::received;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{Mutex, Notify, RwLock};
use weft_proto::namespace::{FileRecord, Mutation, NamespaceReply, OtherSessions, Query, Room, TimeChange};
use weft_types::{Attributes, ErrorKind, InodeNumber, Timestamp};

/// The metadata group raises a generation before any placement group hears of it, so one question is enough; more than
/// a few means that something is wrong.
const MAX_REFRESHES: u32 = 20;

/// What a record told about a file's size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum News {
    Nothing,
    /// It is another one than this session knew.
    Size,
}

pub struct OpenInode {
    pub(crate) inode: InodeNumber,
    /// Shared by writes, held alone by truncation.
    pub(crate) gate: RwLock<()>,
    /// Held while an append chooses its offset and writes.
    pub(crate) appending: Mutex<()>,
    pub(crate) locks: RefCell<LockBook>,
    state: Mutex<Registration>,
    pub(crate) size: RefCell<Option<FileSize>>,
    pub(crate) cap: RefCell<SizeCap>,
    /// The cap came, went, or is used by one less.
    pub(crate) cap_changed: Notify,
    /// Held over every request that grants or gives up the cap, so that answers are taken in the order of decisions.
    pub(crate) asking: Mutex<()>,
    /// Time of the last write that the metadata group does not know.
    pub(crate) written_at: Cell<Option<Timestamp>>,
    /// Permission bits, as of the newest record.
    mode: Cell<u16>,
    /// Read or written since the last upkeep.
    used: Cell<bool>,
    /// Made longer since the last upkeep.
    grew: Cell<bool>,
    pub(crate) commits: Mutex<()>,
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
            locks: RefCell::default(),
            state: Mutex::default(),
            size: RefCell::default(),
            cap: RefCell::default(),
            cap_changed: Notify::new(),
            asking: Mutex::new(()),
            written_at: Cell::new(None),
            mode: Cell::new(0),
            used: Cell::new(false),
            grew: Cell::new(false),
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
            let asking = file.asking.lock().await;
            let opened = match client.mutate(Mutation::Open { inode, write, truncate }).await {
                Ok(NamespaceReply::Opened { record, size_cap, others }) => Ok((record, size_cap, others)),
                Ok(other) => Err(unexpected(&other)),
                Err(error) => Err(error),
            };
            let known = match opened {
                Ok((record, size_cap, others)) => {
                    file.registered(client, &mut state, &record, size_cap, write);
                    drop(asking);
                    // Whoever else has it open must not go on with what was cut off (attack cached-generation).
                    match others {
                        OtherSessions::NothingToSay => Ok(()),
                        OtherSessions::Told => client.until_truncation_is_known(inode).await,
                    }
                }
                Err(error) => Err(error),
            };
            match known {
                Ok(()) => {}
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
        let early = client.early_notices.borrow_mut().remove(&inode);
        // The cap was asked back before the answer that granted it came: it is not ours any more.
        file.registered(client, &mut state, record, size_cap && !early, access == Access::Write || size_cap);
        state.handles += 1;
        drop(state);
        if early && let Err(error) = file.refresh(client).await {
            tracing::warn!(%inode, %error, "a new file could not be looked at again");
        }
        file
    }

    fn registered(&self, client: &Inner, state: &mut Registration, record: &FileRecord, size_cap: bool, write: bool) {
        self.learned(client, record);
        if size_cap {
            self.cap_granted(client, record);
        }
        state.access = Some(if write { Access::Write } else { Access::Read });
    }

    /// Takes away a handle, and the locks that belong to it. The last one waits until everything of the file is answered
    /// (design 4.5), commits and closes, which frees every lock.
    pub(crate) async fn close(self: &Rc<Self>, client: &Inner, description: DescriptionId) -> Result<(), ErrorKind> {
        let owners = self.locks.borrow_mut().description_closed(description);
        let mut state = self.state.lock().await;
        state.handles = state.handles.saturating_sub(1);
        if state.handles > 0 {
            for owner in owners {
                self.release_owner(client, owner).await?;
            }
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
        if !mutants::planted(mutants::Mutant::CloseOvertakesWrites) {
            received(client.engine.submit(Some(self.inode), Operation::Settle).await)?;
        }
        self.commit(client, Room::Keep).await?;
        let _asking = self.asking.lock().await;
        // Not after a later open.
        client.mutate_to_the_end(Mutation::Close { inode: self.inode }).await?;
        state.access = None;
        self.cap.borrow_mut().closed();
        self.size.replace(None);
        self.cap_changed.notify_waiters();
        Ok(())
    }

    fn forget_if_unused(self: &Rc<Self>, client: &Inner) {
        // One reference is the table's, one the caller's.
        let unused = Rc::strong_count(self) <= 2 && self.state.try_lock().is_ok_and(|s| s.access.is_none());
        if unused {
            client.files.borrow_mut().remove(&self.inode);
        }
    }

    /// Permission bits as this session last heard of them.
    pub(crate) fn mode(&self) -> u16 {
        self.mode.get()
    }

    /// What a record says. A size that somebody else made is news to the kernel too (design 7, "The kernel's cached
    /// size").
    pub(crate) fn learned(&self, client: &Inner, record: &FileRecord) {
        if self.answering(record) == News::Size {
            client.invalidate(self.inode);
        }
    }

    /// What a record says that goes to the kernel in an answer. The kernel is not told besides: it takes no size from an
    /// answer that a notice overtakes, and would go on with the old one.
    pub(crate) fn answering(&self, record: &FileRecord) -> News {
        self.mode.set(record.attributes.mode);
        let mut size = self.size.borrow_mut();
        let before = size.as_ref().map(FileSize::live);
        match size.as_mut() {
            Some(size) => size.learned(record),
            None => *size = Some(FileSize::new(record)),
        }
        let after = size.as_ref().map(FileSize::live);
        if before.is_some() && before != after { News::Size } else { News::Nothing }
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

    /// Bytes up to `end` were acknowledged; if that makes the file longer, the cap is in use. Returns when the write may
    /// be acknowledged to the application.
    pub(crate) async fn wrote(&self, client: &Inner, life: Life, end: u64) -> Result<(), ErrorKind> {
        self.written_at.set(Some(wall_clock()));
        self.used();
        match self.extended(client, life, end)? {
            Extension::Covered => Ok(()),
            Extension::Remembered => {
                self.grew.set(true);
                Ok(())
            }
            // It holds the cap and its lease has lapsed: only the metadata group may say now how long the file is.
            Extension::CommitFirst { generation, size_bytes } => {
                let life = Life { generation, ..life };
                client.commit_size(self.inode, life, size_bytes, TimeChange::To(wall_clock()), Room::Keep).await?;
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
        Ok(size.wrote(life, end, client.cap_use(self.cap.borrow().is_held())))
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
    pub(crate) async fn commit(&self, client: &Inner, room: Room) -> Result<(), ErrorKind> {
        let _one_at_a_time = self.commits.lock().await;
        let written_at = self.written_at.get();
        let (life, live, uncommitted) = {
            let size = self.size.borrow();
            let Some(size) = size.as_ref() else { return Ok(()) };
            (size.life(), size.live(), size.uncommitted())
        };
        let room = if room == Room::GiveBack && self.cap.borrow().room_bytes() > live { room } else { Room::Keep };
        if written_at.is_none() && uncommitted.is_none() && room == Room::Keep {
            return Ok(());
        }
        let modified = TimeChange::To(written_at.unwrap_or_else(wall_clock));
        // A size that another host's holder was asked for is not this session's to commit: 0 says nothing about it.
        let own = uncommitted.map_or(0, |(_, size_bytes)| size_bytes);
        let result = client.commit_size(self.inode, life, own, modified, room).await;
        if result.is_ok() {
            if room == Room::GiveBack {
                self.cap.borrow_mut().room_given_back(live);
            }
            if let Some(size) = self.size.borrow_mut().as_mut() {
                size.committed(life.generation, live);
            }
            self.time_is_known(written_at);
        }
        result
    }

    /// The metadata group has this time of a write. Until then it was kept here, so that a stat meanwhile showed it; a
    /// later write may have set a newer one.
    pub(crate) fn time_is_known(&self, written_at: Option<Timestamp>) {
        if self.written_at.get() == written_at {
            self.written_at.set(None);
        }
    }

    /// Only the size: what data could not be read back without.
    pub(crate) async fn commit_if_grown(&self, client: &Inner) -> Result<(), ErrorKind> {
        let grown = self.size.borrow().as_ref().is_some_and(|size| size.uncommitted().is_some());
        if grown { self.commit(client, Room::Keep).await } else { Ok(()) }
    }

    pub(crate) fn wants_upkeep(&self) -> bool {
        self.written_at.get().is_some() || self.used.get() || self.cap.borrow().room_bytes() > self.size_bytes()
    }

    /// Once a second while the file is in use.
    pub(crate) async fn upkeep(&self, client: &Inner) -> Result<(), ErrorKind> {
        self.used.set(false);
        // A file that does not grow has a known size: a stat elsewhere need not ask this session.
        let resting = !self.grew.replace(false) && self.cap.borrow_mut().begin_rest();
        let committed = self.commit(client, if resting { Room::GiveBack } else { Room::Keep }).await;
        if resting {
            self.cap.borrow_mut().end_rest();
            self.cap_changed.notify_waiters();
        }
        committed?;
        self.look(client).await
    }

    /// The placement groups know of a truncation after `old`: waits until the metadata group tells of it.
    pub(crate) async fn refresh_past(&self, client: &Inner, old: Life) -> Result<(), ErrorKind> {
        let mut tries = 0u32;
        loop {
            self.look(client).await?;
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

    /// Takes in the metadata group's record.
    async fn look(&self, client: &Inner) -> Result<(), ErrorKind> {
        let record = client.record_of(Query::Attributes { inode: self.inode }).await?;
        if self.size.borrow().is_some() {
            self.learned(client, &record);
        }
        Ok(())
    }

    /// Finds out how long the file is now, whoever knows it.
    pub(crate) async fn refresh(&self, client: &Inner) -> Result<(), ErrorKind> {
        if self.knows_size(client) {
            return Ok(());
        }
        let record = client.exact_record(self.inode).await?;
        if self.size.borrow().is_some() {
            self.learned(client, &record);
        }
        Ok(())
    }
}

/// For file times only.
pub(crate) fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanoseconds: since.subsec_nanos() }
}
