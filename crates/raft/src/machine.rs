//! The state machine as openraft drives it: committed entries go through [`weft_meta::apply`] into sled.
//!
//! Guarantees: entries are applied in order, each once; the mark moves in the same atomic step; who watches hears of a
//! change after it is readable. Must not know: what a command means.

use crate::applied::{Applied, AppliedMark, Overlay, Picture};
use crate::files::{Files, FilesError};
use crate::types::{Entry, Replies, SnapshotMeta, StorageError, StorageIoError, StoredMembership, TypeConfig, any};
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot};
use std::collections::BTreeSet;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, broadcast, watch};
use weft_meta::{Key, StateError, Value, View};
use weft_types::{MapVersion, RequestNumber, SessionId};

/// How often applying looks whether sled, or a snapshot being built, has caught up.
const FULL_WAIT: Duration = Duration::from_millis(5);
/// How long steps are gathered before sled gets them.
const GATHER: Duration = Duration::from_millis(100);
/// How often the task that hands over looks whether the group is gone.
const IDLE_CHECK: Duration = Duration::from_secs(5);

/// What moved in the applied state. Each number only rises.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    pub map_version: MapVersion,
    /// Counts commands that changed the map or the leader's work.
    pub work: u64,
}

/// What the state machine shares with the facade.
pub(crate) struct Shared {
    applied: RwLock<Arc<Applied>>,
    changes: watch::Sender<Changes>,
    wanted: Mutex<BTreeSet<SessionId>>,
    settled_waits: broadcast::Sender<SettledWait>,
    gathering: Arc<Gathering>,
}

/// A wait for a lock that is over: the session, and the request that began the wait.
pub type SettledWait = (SessionId, RequestNumber);

/// Waits that may be over before whoever watches has looked; one that missed some looks at the state instead.
const SETTLED_WAITS_KEPT: usize = 1024;

/// Wakes the task that hands gathered steps to sled.
#[derive(Default)]
pub(crate) struct Gathering {
    something: Notify,
    much: Notify,
}

impl Shared {
    pub(crate) fn new(applied: Arc<Applied>) -> Result<Self, StateError> {
        let map_version = weft_meta::read::map_version(&*applied)?;
        let (changes, _) = watch::channel(Changes { map_version, work: 0 });
        let (settled_waits, _) = broadcast::channel(SETTLED_WAITS_KEPT);
        let (wanted, gathering) = (Mutex::default(), Arc::default());
        Ok(Self { applied: RwLock::new(applied), changes, wanted, settled_waits, gathering })
    }

    pub(crate) fn applied(&self) -> Arc<Applied> {
        self.applied.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads with no command applied in between.
    pub(crate) fn read<T>(&self, question: impl FnOnce(&StateView<'_>) -> T) -> T {
        let applied = self.applied.read().unwrap_or_else(PoisonError::into_inner);
        question(&StateView(&applied))
    }

    pub(crate) fn changes(&self) -> watch::Receiver<Changes> {
        self.changes.subscribe()
    }

    pub(crate) fn settled_waits(&self) -> broadcast::Receiver<SettledWait> {
        self.settled_waits.subscribe()
    }

    pub(crate) fn take_wanted_sessions(&self) -> BTreeSet<SessionId> {
        std::mem::take(&mut self.wanted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn want(&self, sessions: Vec<SessionId>) {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).extend(sessions);
    }
}

/// Hands gathered steps to sled from time to time, on another thread, until the group is gone. It must not keep the group
/// alive while it waits: the store could not be opened again.
pub(crate) async fn hand_over_gathered(shared: Weak<Shared>) {
    let Some(gathering) = shared.upgrade().map(|shared| Arc::clone(&shared.gathering)) else { return };
    loop {
        if tokio::time::timeout(IDLE_CHECK, gathering.something.notified()).await.is_ok() {
            drop(tokio::time::timeout(GATHER, gathering.much.notified()).await);
        }
        let Some(applied) = shared.upgrade().map(|shared| shared.applied()) else { return };
        let result = tokio::task::spawn_blocking(move || applied.hand_over()).await;
        if let Ok(Err(error)) = result {
            // The next step fails with it, which ends Raft on this node.
            tracing::error!(%error, "the applied metadata state cannot be written");
            return;
        }
    }
}

/// The applied state between two steps.
pub struct StateView<'a>(&'a Applied);

impl View for StateView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, StateError> {
        self.0.get(key)
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Key, Value)>, StateError> {
        self.0.scan(start, end, limit)
    }
}

pub struct Machine {
    files: Arc<Files>,
    shared: Arc<Shared>,
    mark: AppliedMark,
}

impl Machine {
    pub(crate) fn new(files: Files, shared: Arc<Shared>) -> Result<Self, StateError> {
        let mark = shared.applied().mark()?.unwrap_or_default();
        Ok(Self { files: Arc::new(files), shared, mark })
    }

    /// Computes and writes one step; synchronous, so that nothing reads half of it.
    fn step<I: IntoIterator<Item = Entry>>(&mut self, entries: I) -> Result<Vec<Replies>, StorageError> {
        let applied = self.shared.applied();
        let mut overlay = Overlay::new(&applied);
        let mut mark = self.mark.clone();
        let mut answers = Vec::new();
        let (mut wanted, mut settled_waits) = (Vec::new(), Vec::new());
        let (mut map_changed, mut work_changed) = (false, false);
        for entry in entries {
            let id = entry.log_id;
            let failed = |error: StateError| StorageIoError::apply(id, any(&error));
            mark.last = Some(id);
            let mut replies = Replies::default();
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Membership(membership) => {
                    mark.membership = StoredMembership::new(Some(id), membership);
                }
                EntryPayload::Normal(commands) => {
                    for stamped in &commands.commands {
                        let step = weft_meta::apply(&overlay, stamped).map_err(failed)?;
                        overlay.add(step.batch);
                        replies.replies.push(step.reply);
                        map_changed |= step.map_changed;
                        work_changed |= step.work_changed;
                        wanted.extend(step.wanted_sessions);
                        settled_waits.extend(step.settled_waits);
                    }
                }
            }
            answers.push(replies);
        }
        let failed = |error: StateError| StorageIoError::write_state_machine(any(&error));
        let changes = overlay.into_changes();
        {
            let _no_reads = self.shared.applied.write().unwrap_or_else(PoisonError::into_inner);
            applied.write(changes, &mark).map_err(failed)?;
        }
        self.shared.gathering.something.notify_one();
        self.mark = mark;
        for wait in settled_waits {
            // Nobody may be watching.
            let _ = self.shared.settled_waits.send(wait);
        }
        let asks = !wanted.is_empty();
        self.shared.want(wanted);
        if map_changed || work_changed || asks {
            self.publish(&applied)?;
        }
        Ok(answers)
    }

    fn publish(&self, applied: &Applied) -> Result<(), StorageError> {
        let map_version =
            weft_meta::read::map_version(applied).map_err(|error| StorageIoError::read_state_machine(any(&error)))?;
        self.shared.changes.send_modify(|changes| {
            changes.map_version = map_version;
            changes.work += 1;
        });
        Ok(())
    }

    async fn build(&self) -> Result<(SnapshotMeta, File), FilesError> {
        let picture = self.shared.applied().freeze()?;
        build(self.files.clone(), picture).await
    }
}

async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, FilesError> + Send + 'static,
) -> Result<T, FilesError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(FilesError::Io { what, source: std::io::Error::other(error) }),
    }
}

async fn build(files: Arc<Files>, picture: Picture) -> Result<(SnapshotMeta, File), FilesError> {
    blocking("building a snapshot", move || files.build(&picture)).await
}

fn handed_out((meta, file): (SnapshotMeta, File)) -> Snapshot<TypeConfig> {
    Snapshot { meta, snapshot: Box::new(tokio::fs::File::from_std(file)) }
}

pub struct Builder {
    files: Arc<Files>,
    picture: Option<Result<Picture, StateError>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let failed = |error: &dyn std::fmt::Display| StorageIoError::write_snapshot(None, any(error));
        let picture = match self.picture.take() {
            Some(picture) => picture.map_err(|error| failed(&error))?,
            None => return Err(failed(&"a builder builds one snapshot").into()),
        };
        build(self.files.clone(), picture).await.map(handed_out).map_err(|error| failed(&error).into())
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<openraft::LogId<u64>>, StoredMembership), StorageError> {
        Ok((self.mark.last, self.mark.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Replies>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        // Back-pressure: what is gathered for sled, and what a snapshot being built remembers, is bounded.
        while self.shared.applied().is_full() {
            tokio::time::sleep(FULL_WAIT).await;
        }
        let answers = self.step(entries)?;
        if self.shared.applied().is_half_full() {
            self.shared.gathering.much.notify_one();
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { files: self.files.clone(), picture: Some(self.shared.applied().freeze()) }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<tokio::fs::File>, StorageError> {
        let file = self.files.receiving_file().map_err(|error| StorageIoError::write_snapshot(None, any(&error)))?;
        Ok(Box::new(tokio::fs::File::from_std(file)))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        mut snapshot: Box<tokio::fs::File>,
    ) -> Result<(), StorageError> {
        let failed = |error: &dyn std::fmt::Display| StorageIoError::write_snapshot(Some(meta.signature()), any(error));
        snapshot.flush().await.map_err(|error| failed(&error))?;
        let mut input = snapshot.into_std().await;
        let (files, announced) = (self.files.clone(), meta.clone());
        let applied = blocking("installing a snapshot", move || {
            use std::io::Seek;
            input.rewind().map_err(|source| FilesError::Io { what: "reading the received snapshot", source })?;
            files.install(&announced, input)
        })
        .await
        .map_err(|error| failed(&error))?;
        self.mark = crate::applied::mark_of(meta);
        let old = {
            let mut current = self.shared.applied.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, applied.clone())
        };
        let files = self.files.clone();
        // Closing sled joins its threads.
        drop(tokio::task::spawn_blocking(move || files.discard(old)));
        self.publish(&applied)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let files = self.files.clone();
        match blocking("reading the snapshot", move || files.current_snapshot()).await {
            Ok(found) => Ok(found.map(handed_out)),
            Err(error) => {
                tracing::error!(%error, "the snapshot file cannot be sent; a new one is built. Check this disk");
                let built = self.build().await.map_err(|error| StorageIoError::read_snapshot(None, any(&error)))?;
                Ok(Some(handed_out(built)))
            }
        }
    }
}
