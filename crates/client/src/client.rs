//! A session with one volume: opens it, keeps it, ends it, and does everything that needs no open file.
//!
//! Guarantees: a mutation happens once, whatever happens to the metadata leader meanwhile; sizes that only this session
//! knows are part of every answer it gives.

use crate::allocation::Allocations;
use crate::core::{
    CapUse, DataCore, DataCoreConfig, DescriptionId, Event, Operation, Outcome, RouteTable, SessionClock, SessionState,
};
use crate::error::ConnectError;
use crate::identity::Identity;
use crate::mutants;
use crate::open_inode::OpenInode;
use crate::options::ConnectOptions;
use crate::shell::control::{Control, Mutations};
use crate::shell::engine::{Engine, received};
use crate::shell::network::Network;
use crate::shell::quic::QuicNetwork;
use crate::shell::{boot_time, upkeep};
use crate::statistics::Statistics;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use weft_proto::control::{ControlReply, ControlRequest};
use weft_proto::namespace::{
    AttributeChange, Credentials, DirectoryEntry, FileRecord, Mutation, NamespaceReply, NewInode, Notice,
    OtherSessions, Query, RenameMode, Room, TimeChange, XattrMode,
};
use weft_types::limits::{MAX_DIRECTORY_PAGE_ENTRIES, MAX_EARLY_NOTICES, SESSION_TTL};
use weft_types::map::VolumeRecord;
use weft_types::{Attributes, ErrorKind, FileKind, InodeNumber, SessionId, VolumeId};

/// How long `connect` looks for a leader when no `fail_after` is given. Starting is not a write: it may fail.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);
/// How long an ordered end waits for what is still under way.
const CLOSE_PATIENCE: Duration = Duration::from_secs(30);

/// One page of a directory.
#[derive(Clone, Debug)]
pub struct DirectoryPage {
    pub parent: InodeNumber,
    pub entries: Vec<DirectoryEntry>,
    /// No entries follow.
    pub complete: bool,
}

/// A mounted volume. Clones share the session.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Rc<Inner>,
}

/// What the parts of a client share.
pub struct Inner {
    pub(crate) session: SessionId,
    pub(crate) volume: VolumeId,
    pub(crate) record: VolumeRecord,
    pub(crate) engine: Rc<Engine>,
    pub(crate) control: Rc<Control>,
    pub(crate) mutations: Rc<Mutations>,
    pub(crate) clock: RefCell<SessionClock>,
    pub(crate) files: RefCell<BTreeMap<InodeNumber, Rc<OpenInode>>>,
    pub(crate) allocations: RefCell<Allocations>,
    pub(crate) space: RefCell<Option<(weft_types::BootTime, crate::space::VolumeSpace)>>,
    pub(crate) fail_after: Option<Duration>,
    descriptions: Cell<u64>,
    /// Files that notices came for before the answer that made them, see `OpenInode::created`.
    pub(crate) early_notices: RefCell<BTreeSet<InodeNumber>>,
    /// Told when what the kernel knows of a file is old.
    invalidations: RefCell<Option<OnInvalid>>,
    closed: Cell<bool>,
}

/// Called with an inode whose size or contents changed elsewhere. Must not wait.
pub type OnInvalid = Box<dyn Fn(InodeNumber)>;

impl Client {
    /// Opens a session. Must run in a `LocalSet` of a single-thread runtime (see [`crate::block_on`]).
    ///
    /// # Errors
    /// When this machine is no client of the cluster, no leader answers, or the volume does not exist.
    pub async fn connect(options: &ConnectOptions, volume: &str, mount_point: &str) -> Result<Self, ConnectError> {
        let identity = Identity::load(&options.identity)?;
        let network = QuicNetwork::bind(&identity, options)?;
        Self::connect_over(network, identity.control_addresses, options, volume, mount_point).await
    }

    /// The same over any network; what tests use.
    ///
    /// # Errors
    /// When no leader answers or the volume does not exist.
    pub async fn connect_over(
        network: Rc<dyn Network>,
        control_addresses: Vec<std::net::SocketAddr>,
        options: &ConnectOptions,
        volume: &str,
        mount_point: &str,
    ) -> Result<Self, ConnectError> {
        let control = Rc::new(Control::new(Rc::clone(&network), control_addresses, options.fail_after));
        let request = ControlRequest::OpenSession {
            volume_name: volume.to_owned(),
            host: options.host.clone(),
            mount_point: mount_point.to_owned(),
        };
        let sent = Cell::new(boot_time());
        let patience = options.fail_after.unwrap_or(CONNECT_PATIENCE);
        let reply = control
            .call(Some(patience), || {
                sent.set(boot_time());
                request.clone()
            })
            .await
            .map_err(|error| ConnectError::NoLeader(error.to_string()))?;
        let (session, volume_id, map) = match reply {
            ControlReply::SessionOpened { session, volume, map } => (session, volume, map),
            ControlReply::Refused(ErrorKind::NotFound) => return Err(ConnectError::NoVolume(volume.to_owned())),
            ControlReply::Refused(error) => return Err(ConnectError::Refused(error)),
            other => return Err(ConnectError::Protocol(format!("unexpected answer to OpenSession: {other:?}"))),
        };
        let routes = RouteTable::new(volume_id, Arc::new(map))
            .ok_or_else(|| ConnectError::Protocol("the map does not hold the volume".into()))?;
        let record = routes.volume().cloned().ok_or_else(|| ConnectError::NoVolume(volume.to_owned()))?;
        let config = DataCoreConfig {
            session,
            fail_after: options.fail_after,
            bytes_in_flight: options.memory.bytes_in_flight(),
        };
        let engine = Engine::start(DataCore::new(config, routes), network);
        let mutations = Rc::new(Mutations::new(Rc::clone(&control), session, volume_id));
        let inner = Rc::new(Inner {
            session,
            volume: volume_id,
            record,
            engine,
            control,
            mutations,
            clock: RefCell::new(SessionClock::new(SESSION_TTL, sent.get())),
            files: RefCell::default(),
            allocations: RefCell::default(),
            space: RefCell::default(),
            fail_after: options.fail_after,
            descriptions: Cell::new(0),
            early_notices: RefCell::default(),
            invalidations: RefCell::default(),
            closed: Cell::new(false),
        });
        upkeep::start(&inner);
        Ok(Self { inner })
    }

    #[must_use]
    pub fn volume(&self) -> &VolumeRecord {
        &self.inner.record
    }

    #[must_use]
    pub fn session(&self) -> SessionId {
        self.inner.session
    }

    /// Who caches attributes or pages hears from now on when they are old.
    pub fn on_invalid(&self, tell: OnInvalid) {
        self.inner.invalidations.replace(Some(tell));
    }

    #[must_use]
    pub fn root(&self) -> InodeNumber {
        InodeNumber::ROOT
    }

    /// How long the hops of its requests took.
    #[must_use]
    pub fn statistics(&self) -> &Statistics {
        self.inner.engine.statistics()
    }

    /// The session was struck off: everything fails from now on.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.inner.engine.is_fenced()
    }

    /// Ends when the session is fenced.
    pub async fn until_fenced(&self) {
        self.inner.engine.until_fenced().await;
    }

    /// # Errors
    /// `NotFound`, `NotDirectory`, and what every operation may end with: `TimedOut`, `Fenced`, `Io`.
    pub async fn lookup(&self, parent: InodeNumber, name: &[u8]) -> Result<FileRecord, ErrorKind> {
        let record = self.inner.record_of(Query::Lookup { parent, name: name.to_vec() }).await?;
        self.inner.with_own_knowledge(record).await
    }

    /// Follows a path from the root, through directories only.
    ///
    /// # Errors
    /// As `lookup`.
    pub async fn resolve(&self, path: &str) -> Result<FileRecord, ErrorKind> {
        let mut record = self.inner.record_of(Query::Attributes { inode: InodeNumber::ROOT }).await?;
        for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
            record = self.lookup(record.attributes.inode, name.as_bytes()).await?;
        }
        Ok(record)
    }

    /// # Errors
    /// `Stale` or `NotFound` when the inode is gone.
    pub async fn attributes(&self, inode: InodeNumber) -> Result<Attributes, ErrorKind> {
        let record = self.inner.exact_record(inode).await?;
        Ok(self.inner.with_own_knowledge(record).await?.attributes)
    }

    /// chmod, chown, utimens and truncate. A new size takes effect in the placement groups before this returns.
    ///
    /// # Errors
    /// What the metadata group refuses.
    pub async fn set_attributes(&self, inode: InodeNumber, change: AttributeChange) -> Result<Attributes, ErrorKind> {
        let record = self.inner.change_attributes(inode, change).await?;
        Ok(self.inner.with_own_knowledge(record).await?.attributes)
    }

    /// Makes an inode of any kind; a regular file is not opened.
    ///
    /// # Errors
    /// `Exists`, `NoSpace` and others that the metadata group refuses with.
    pub async fn create(
        &self,
        parent: InodeNumber,
        name: &[u8],
        new: NewInode,
        mode: u16,
        credentials: Credentials,
    ) -> Result<FileRecord, ErrorKind> {
        let mutation = Mutation::Create { parent, name: name.to_vec(), new, mode, credentials, open: false };
        record_in(self.inner.mutate(mutation).await?)
    }

    /// # Errors
    /// What the metadata group refuses.
    pub async fn link(&self, inode: InodeNumber, parent: InodeNumber, name: &[u8]) -> Result<FileRecord, ErrorKind> {
        let record = match self.inner.mutate(Mutation::Link { inode, parent, name: name.to_vec() }).await? {
            NamespaceReply::Done => self.inner.record_of(Query::Attributes { inode }).await?,
            reply => record_in(reply)?,
        };
        self.inner.with_own_knowledge(record).await
    }

    /// # Errors
    /// What the metadata group refuses.
    pub async fn unlink(&self, parent: InodeNumber, name: &[u8]) -> Result<(), ErrorKind> {
        self.inner.mutate(Mutation::Unlink { parent, name: name.to_vec() }).await.map(drop)
    }

    /// # Errors
    /// What the metadata group refuses.
    pub async fn remove_directory(&self, parent: InodeNumber, name: &[u8]) -> Result<(), ErrorKind> {
        self.inner.mutate(Mutation::RemoveDirectory { parent, name: name.to_vec() }).await.map(drop)
    }

    /// # Errors
    /// What the metadata group refuses.
    pub async fn rename(
        &self,
        parent: InodeNumber,
        name: &[u8],
        new_parent: InodeNumber,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), ErrorKind> {
        let (name, new_name) = (name.to_vec(), new_name.to_vec());
        self.inner.mutate(Mutation::Rename { parent, name, new_parent, new_name, mode }).await.map(drop)
    }

    /// # Errors
    /// `Invalid` when the inode is no symbolic link.
    pub async fn read_link(&self, inode: InodeNumber) -> Result<Vec<u8>, ErrorKind> {
        match self.inner.query(Query::ReadLink { inode }).await? {
            NamespaceReply::Target(target) => Ok(target),
            other => Err(unexpected(&other)),
        }
    }

    /// Entries after the cookie `after` (0 to begin).
    ///
    /// # Errors
    /// `NotDirectory`, or `Stale` when the directory is gone.
    pub async fn read_directory(
        &self,
        inode: InodeNumber,
        after: u64,
        max_entries: u32,
    ) -> Result<DirectoryPage, ErrorKind> {
        let max_entries = max_entries.min(MAX_DIRECTORY_PAGE_ENTRIES);
        match self.inner.query(Query::ReadDirectory { inode, after, max_entries }).await? {
            NamespaceReply::Directory { parent, mut entries, complete } => {
                for entry in &mut entries {
                    // The kernel takes the size from here: of what this session writes it must not be an old one.
                    if let Some(file) = self.inner.open_inode(entry.record.attributes.inode) {
                        file.answering(&entry.record);
                        file.amend(&mut entry.record.attributes);
                    }
                }
                Ok(DirectoryPage { parent, entries, complete })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// # Errors
    /// `NoAttribute` when it is not set.
    pub async fn get_xattr(&self, inode: InodeNumber, name: &[u8]) -> Result<Vec<u8>, ErrorKind> {
        match self.inner.query(Query::GetXattr { inode, name: name.to_vec() }).await? {
            NamespaceReply::Xattr(value) => Ok(value),
            other => Err(unexpected(&other)),
        }
    }

    /// # Errors
    /// When the inode is gone.
    pub async fn list_xattrs(&self, inode: InodeNumber) -> Result<Vec<Vec<u8>>, ErrorKind> {
        match self.inner.query(Query::ListXattrs { inode }).await? {
            NamespaceReply::XattrNames(names) => Ok(names),
            other => Err(unexpected(&other)),
        }
    }

    /// # Errors
    /// `Exists` or `NoAttribute` as `mode` has it.
    pub async fn set_xattr(
        &self,
        inode: InodeNumber,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<(), ErrorKind> {
        let (name, value) = (name.to_vec(), value.to_vec());
        self.inner.mutate(Mutation::SetXattr { inode, name, value, mode }).await.map(drop)
    }

    /// # Errors
    /// `NoAttribute` when it is not set.
    pub async fn remove_xattr(&self, inode: InodeNumber, name: &[u8]) -> Result<(), ErrorKind> {
        self.inner.mutate(Mutation::RemoveXattr { inode, name: name.to_vec() }).await.map(drop)
    }

    /// Commits what is not committed, closes every file, ends the session. Everything acknowledged stays as durable as
    /// it was.
    ///
    /// # Errors
    /// When something could not be told to the metadata group in time; the session then ends by its lease.
    pub async fn close(self) -> Result<(), ErrorKind> {
        let inner = self.inner;
        let ending = async {
            if !mutants::planted(mutants::Mutant::CloseOvertakesWrites) {
                received(inner.engine.submit(None, Operation::Settle).await)?;
            }
            let files: Vec<_> = inner.files.borrow().values().cloned().collect();
            for file in files {
                file.close_for_good(&inner).await?;
            }
            // From here on nobody is told that the session is gone: that is what was asked for.
            inner.closed.set(true);
            let request = ControlRequest::CloseSession { session: inner.session };
            inner.control.call(None, || request.clone()).await
        };
        let result = tokio::time::timeout(CLOSE_PATIENCE, ending).await;
        inner.closed.set(true);
        match result {
            Ok(Ok(ControlReply::Refused(error))) => Err(error),
            Ok(result) => result.map(drop),
            Err(_) => Err(ErrorKind::TimedOut {
                waited_ms: u64::try_from(CLOSE_PATIENCE.as_millis()).unwrap_or(u64::MAX),
                why: "the cluster did not answer while the session was being closed".into(),
            }),
        }
    }
}

impl Inner {
    pub(crate) fn is_open(&self) -> bool {
        !self.closed.get()
    }

    pub(crate) fn next_description(&self) -> DescriptionId {
        let number = self.descriptions.get() + 1;
        self.descriptions.set(number);
        DescriptionId(number)
    }

    pub(crate) fn want_map(&self) {
        self.engine.want_map();
    }

    /// The metadata group says that the session was struck off.
    pub(crate) fn struck(&self) {
        if !self.is_open() {
            return;
        }
        self.clock.borrow_mut().struck();
        self.engine.step(Event::Fenced);
    }

    pub(crate) fn check_fence(&self) -> Result<(), ErrorKind> {
        if self.engine.is_fenced() { Err(ErrorKind::Fenced) } else { Ok(()) }
    }

    /// At its own lapse a client stops using its caps (design 4.4).
    pub(crate) fn session_state(&self) -> SessionState {
        self.clock.borrow().state(boot_time())
    }

    pub(crate) fn cap_use(&self, held: bool) -> CapUse {
        if held && self.session_state() == SessionState::Live { CapUse::Allowed } else { CapUse::Forbidden }
    }

    pub(crate) async fn query(&self, query: Query) -> Result<NamespaceReply, ErrorKind> {
        self.check_fence()?;
        self.control.query(self.volume, query).await
    }

    pub(crate) async fn mutate(&self, mutation: Mutation) -> Result<NamespaceReply, ErrorKind> {
        self.check_fence()?;
        let reply = self.mutations.run(mutation).await;
        if reply == Err(ErrorKind::Fenced) {
            self.struck();
        }
        reply
    }

    /// As `mutate`, however long it takes.
    pub(crate) async fn mutate_to_the_end(&self, mutation: Mutation) -> Result<NamespaceReply, ErrorKind> {
        self.check_fence()?;
        let reply = self.mutations.run_to_the_end(mutation).await;
        if reply == Err(ErrorKind::Fenced) {
            self.struck();
        }
        reply
    }

    pub(crate) async fn record_of(&self, query: Query) -> Result<FileRecord, ErrorKind> {
        record_in(self.query(query).await?)
    }

    pub(crate) fn open_inode(&self, inode: InodeNumber) -> Option<Rc<OpenInode>> {
        self.files.borrow().get(&inode).cloned()
    }

    /// Adds what only this session knows: size and times of files it writes, and allocated bytes.
    pub(crate) async fn with_own_knowledge(&self, mut record: FileRecord) -> Result<FileRecord, ErrorKind> {
        if record.attributes.kind != FileKind::Regular {
            return Ok(record);
        }
        if let Some(file) = self.open_inode(record.attributes.inode) {
            file.answering(&record);
            file.amend(&mut record.attributes);
        }
        record.attributes.allocated_bytes = self.allocated_bytes(&record).await;
        Ok(record)
    }

    pub(crate) async fn change_attributes(
        &self,
        inode: InodeNumber,
        change: AttributeChange,
    ) -> Result<FileRecord, ErrorKind> {
        let file = self.open_inode(inode);
        // Writers of this session hold the gate shared: no write is under way while the file is cut.
        let _gate = match (&file, change.size_bytes) {
            (Some(file), Some(_)) => Some(file.gate.write().await),
            _ => None,
        };
        if let Some(file) = &file
            && (change.size_bytes.is_some() || change.modified.is_some())
        {
            // The metadata group decides by the size it knows whether this cuts something off; and a time that is set
            // now must not be overwritten by the time of an earlier write.
            file.commit(self, Room::Keep).await?;
        }
        if file.is_some() && change.size_bytes.is_some() {
            // What an application was told has failed may still land: before the cut, not after it.
            received(self.engine.submit(Some(inode), Operation::Settle).await)?;
        }
        let reply = self.mutate(Mutation::SetAttributes { inode, change }).await?;
        let NamespaceReply::Changed { record, cut, others } = reply else { return record_in(reply) };
        if let Some(file) = &file {
            file.answering(&record);
        }
        if others == OtherSessions::Told {
            // First every session, then the placement groups: one that holds nothing of the object knows nothing of its
            // truncations, so no operation of the generation before may be under way any more (decision 0013).
            self.until_truncation_is_known(inode).await?;
        }
        if let Some(size_bytes) = cut {
            self.cut(&record, size_bytes).await?;
        }
        Ok(record)
    }

    /// Cuts the object in every placement group, then says so. A client that dies before is followed up by the
    /// metadata leader.
    async fn cut(&self, record: &FileRecord, size_bytes: u64) -> Result<(), ErrorKind> {
        let (object, generation) = (record.object, record.generation);
        let inode = record.attributes.inode;
        let pgs: Vec<_> = self.engine.with_routes(|routes| routes.pgs().collect());
        let answers: Vec<_> = pgs
            .into_iter()
            .map(|pg| self.engine.submit(Some(inode), Operation::Truncate { pg, object, size_bytes, generation }))
            .collect();
        for answer in answers {
            match received(answer.await) {
                // A later truncation was carried out there: it cut at least as surely.
                Ok(_) | Err(ErrorKind::Stale) => {}
                Err(error) => return Err(error),
            }
        }
        self.mutate(Mutation::FinishTruncate { inode, generation }).await.map(drop)
    }

    /// Called once a second: sizes and times that the metadata group does not know, and files that others may have
    /// changed.
    pub(crate) fn tell_changes(self: &Rc<Self>) {
        if self.session_state() != SessionState::Live || self.engine.is_fenced() {
            return;
        }
        let files: Vec<_> = self.files.borrow().values().filter(|file| file.wants_upkeep()).cloned().collect();
        for file in files {
            let inner = Rc::clone(self);
            tokio::task::spawn_local(async move {
                if let Err(error) = file.upkeep(&inner).await {
                    tracing::warn!(inode = %file.inode, %error, "size and times were not committed; trying again");
                }
            });
        }
    }

    pub(crate) async fn commit_size(
        &self,
        inode: InodeNumber,
        life: crate::core::Life,
        size_bytes: u64,
        modified: TimeChange,
        room: Room,
    ) -> Result<(), ErrorKind> {
        let generation = life.generation;
        let mutation = Mutation::CommitSize { inode, generation, size_bytes, modified, room };
        match room {
            Room::Keep => self.mutate(mutation).await.map(drop),
            // It must not take away room that is asked for later.
            Room::GiveBack => self.mutate_to_the_end(mutation).await.map(drop),
        }
    }

    /// Waits for changes of the file that began under an earlier life of its contents.
    pub(crate) async fn settle_older(&self, inode: InodeNumber, life: crate::core::Life) -> Result<(), ErrorKind> {
        let operation = Operation::SettleOlder { object: life.object, generation: life.generation };
        received(self.engine.submit(Some(inode), operation).await).map(drop)
    }

    pub(crate) async fn acknowledge_truncation(
        &self,
        inode: InodeNumber,
        generation: weft_types::TruncateGeneration,
    ) -> Result<(), ErrorKind> {
        match self.mutate(Mutation::AcknowledgeTruncate { inode, generation }).await {
            Ok(_) | Err(ErrorKind::NotFound | ErrorKind::Stale) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What the kernel keeps of the inode is old.
    pub(crate) fn invalidate(&self, inode: InodeNumber) {
        if let Some(tell) = self.invalidations.borrow().as_ref() {
            tell(inode);
        }
    }

    /// The metadata leader says that others want something of this session.
    pub(crate) fn noticed(self: &Rc<Self>, notice: Notice) {
        let (Notice::Recall { inode }
        | Notice::CapGranted { inode }
        | Notice::Truncated { inode, .. }
        | Notice::SizeWanted { inode, .. }) = notice;
        let (inner, file) = (Rc::clone(self), self.open_inode(inode));
        let acting = async move {
            let result = match (notice, file) {
                (Notice::Recall { .. }, Some(file)) => {
                    file.give_up_cap(&inner).await;
                    Ok(())
                }
                (Notice::CapGranted { .. }, Some(file)) => {
                    file.cap_changed.notify_waiters();
                    Ok(())
                }
                (Notice::Truncated { generation, .. }, Some(file)) => file.learn_truncation(&inner, generation).await,
                (Notice::SizeWanted { question, .. }, Some(_)) => {
                    inner.tell_size(inode, question).await;
                    Ok(())
                }
                (Notice::Recall { .. }, None) => {
                    inner.came_early(inode);
                    crate::size_cap::release_unknown(&inner, inode).await
                }
                (Notice::Truncated { generation, .. }, None) => {
                    inner.came_early(inode);
                    inner.acknowledge_truncation(inode, generation).await
                }
                (Notice::CapGranted { .. } | Notice::SizeWanted { .. }, None) => Ok(()),
            };
            if let Err(error) = result {
                tracing::warn!(%inode, ?notice, %error, "could not do what another host waits for");
            }
        };
        tokio::task::spawn_local(acting);
    }

    /// A notice for a file that is not open here: its creation may be under way.
    fn came_early(&self, inode: InodeNumber) {
        let mut early = self.early_notices.borrow_mut();
        early.insert(inode);
        while early.len() > MAX_EARLY_NOTICES {
            // Inode numbers rise, and an answer that old has come or never will.
            early.pop_first();
        }
    }

    pub(crate) async fn flush_all_groups(
        &self,
        inode: InodeNumber,
    ) -> Result<Vec<(weft_types::PgId, weft_types::LossGeneration)>, ErrorKind> {
        // Every group of the volume: whatever anybody wrote to the file and had acknowledged lies in one of them
        // (design 5, "Flush"; attack flush-other-host). It is one request per node either way, and a node answers at
        // once for groups that have nothing unsynced.
        let pgs = self.engine.with_routes(|routes| routes.pgs().collect());
        match received(self.engine.submit(Some(inode), Operation::Flush { pgs }).await)? {
            Outcome::Flushed(answers) => Ok(answers),
            _ => Err(ErrorKind::Io("a flush was answered with something else".into())),
        }
    }
}

pub(crate) fn record_in(reply: NamespaceReply) -> Result<FileRecord, ErrorKind> {
    match reply {
        NamespaceReply::Record(record)
        | NamespaceReply::Opened { record, .. }
        | NamespaceReply::Changed { record, .. } => Ok(record),
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn unexpected(reply: &NamespaceReply) -> ErrorKind {
    ErrorKind::Io(format!("the metadata leader answered with {reply:?}, which was not asked for"))
}
