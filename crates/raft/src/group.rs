//! The metadata group as the node uses it: open, propose, ask, watch, change the membership.
//!
//! Guarantees: a store is used only by the node and the cluster it was made for, by one process at a time; an empty store
//! is never used (design 3). Every call ends by a deadline. Must not know: connections, leases, what commands mean.

use crate::error::{GroupError, OpenError};
use crate::files::{Files, LogFacts, Place};
use crate::lease::{ReadLease, Standing};
use crate::log::{DurableSnapshot, LogFile, LogIdentity, RaftLog};
use crate::machine::{Changes, Machine, SettledWait, Shared, StateView};
use crate::network::{Answer, Message, Network, RaftPeers};
use crate::proposals::Proposals;
use crate::rounds::Rounds;
use crate::snapshots;
use crate::status::{GroupStatus, watch_status};
use crate::types::{PeerAddress, TypeConfig, decode, encode};
use openraft::error::{ClientWriteError, ForwardToLeader, RaftError};
use openraft::{ChangeMembers, SnapshotPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{broadcast, watch};
use weft_meta::{Command, CommandReply, Stamped};
use weft_store::{Disk, RealDisk};
use weft_types::{BootTime, ClusterId, NodeId, SessionId, Timestamp};

const LOG_DIRECTORY: &str = "log";
const LOCK_FILE: &str = "lock";
/// Log entries that stay after a snapshot, so that a follower that was away for a moment needs no snapshot.
const LOGS_KEPT: u64 = 5000;
/// A purge costs an fsync.
const PURGE_BATCH: u64 = 1000;
const MAX_ENTRIES_PER_MESSAGE: u64 = 300;
/// Sending the last chunk of a snapshot and installing it.
const INSTALL_SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(60);
const SNAPSHOT_CHUNK_BYTES: u64 = 1 << 20;
const MEMBERSHIP_DEADLINE: Duration = Duration::from_secs(10);

/// When a silent leader is given up. Openraft draws a node's timeout once, and counts it twice (leader's lease plus
/// timeout), so each node has a window of its own: two nodes do not stand for election at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Also openraft's deadline for one append, so not shorter than an fsync of a busy disk. Sent every 1.5 intervals.
    pub heartbeat_ms: u64,
    pub election_base_ms: u64,
    pub election_slot_ms: u64,
}

/// Slots of election windows: as many as there are voters at most.
const ELECTION_SLOTS: u64 = 5;

impl Default for Timing {
    /// A leader is replaced within a second: the first node stands after 655 ms of silence, the second after 775 ms.
    fn default() -> Self {
        Self { heartbeat_ms: 100, election_base_ms: 300, election_slot_ms: 60 }
    }
}

impl Timing {
    fn election_window_ms(self, node: NodeId) -> (u64, u64) {
        let from = self.election_base_ms + (node.0 % ELECTION_SLOTS) * self.election_slot_ms;
        // A gap between the windows, and never an empty window.
        (from, from + (self.election_slot_ms * 9 / 10).max(1))
    }

    /// How long a voter that heard a leader keeps still. Openraft's own leader lease, the end of the election window, is
    /// longer on every node.
    pub(crate) const fn promise(self) -> Duration {
        Duration::from_millis(self.election_base_ms)
    }

    /// How long a leader relies on that (decision 0010). Clocks may differ in speed by the rest, a sixth.
    pub(crate) const fn read_lease(self) -> Duration {
        Duration::from_millis(self.election_base_ms * 5 / 6)
    }
}

#[derive(Clone, Debug)]
pub struct GroupConfig {
    pub directory: PathBuf,
    pub cluster: ClusterId,
    pub node: NodeId,
    pub timing: Timing,
    /// Fewest log entries between two snapshots.
    pub snapshot_every: u64,
    /// Memory that sled may use for what it has read.
    pub cache_bytes: u64,
    /// Identity of this boot of the machine; applied state of another one is rebuilt.
    pub boot_id: String,
}

impl GroupConfig {
    pub const DEFAULT_SNAPSHOT_EVERY: u64 = 10_000;
    pub const DEFAULT_CACHE_BYTES: u64 = 16 << 20;

    /// # Errors
    /// When the kernel does not tell its boot id.
    pub fn new(directory: PathBuf, cluster: ClusterId, node: NodeId) -> Result<Self, OpenError> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(OpenError::io("reading the machine's boot id"))?
            .trim()
            .to_owned();
        let snapshot_every = Self::DEFAULT_SNAPSHOT_EVERY;
        let cache_bytes = Self::DEFAULT_CACHE_BYTES;
        Ok(Self { directory, cluster, node, timing: Timing::default(), snapshot_every, cache_bytes, boot_id })
    }

    fn raft(&self) -> Result<Arc<openraft::Config>, OpenError> {
        let (election_timeout_min, election_timeout_max) = self.timing.election_window_ms(self.node);
        let config = openraft::Config {
            cluster_name: self.cluster.to_string(),
            election_timeout_min,
            election_timeout_max,
            heartbeat_interval: self.timing.heartbeat_ms,
            install_snapshot_timeout: INSTALL_SNAPSHOT_TIMEOUT.as_millis() as u64,
            max_payload_entries: MAX_ENTRIES_PER_MESSAGE,
            // `snapshots` decides when, because it knows how large one is.
            snapshot_policy: SnapshotPolicy::Never,
            snapshot_max_chunk_size: SNAPSHOT_CHUNK_BYTES,
            max_in_snapshot_log_to_keep: LOGS_KEPT.min(self.snapshot_every),
            purge_batch_size: PURGE_BATCH.min(self.snapshot_every),
            replication_lag_threshold: u64::MAX / 2,
            // Only after `Timing::promise`: this node does not know what it promised before it was restarted.
            enable_elect: false,
            ..openraft::Config::default()
        };
        config.validate().map(Arc::new).map_err(|error| OpenError::Raft(error.to_string()))
    }
}

/// Makes the store of a new node. It has to be done before the node takes part for the first time, and never again.
///
/// # Errors
/// When there is a store already, or on I/O errors.
pub fn create_store(directory: &Path, cluster: ClusterId, node: NodeId) -> Result<(), OpenError> {
    std::fs::create_dir_all(directory).map_err(OpenError::io(format!("creating {}", directory.display())))?;
    let (disk, _lock) = lock_directory(directory)?;
    let mut log = LogFile::open(disk, LOG_DIRECTORY)?;
    if let Some(found) = log.identity()? {
        return Err(OpenError::AlreadyExists { directory: directory.to_path_buf(), found: found.node });
    }
    log.write_identity(LogIdentity { cluster, node })
}

type Lock = <RealDisk as Disk>::Lock;

fn lock_directory(directory: &Path) -> Result<(RealDisk, Lock), OpenError> {
    let shown = directory.display();
    let disk = RealDisk::new(directory).map_err(OpenError::io(format!("opening {shown}")))?;
    match disk.try_lock(LOCK_FILE).map_err(OpenError::io(format!("locking {shown}")))? {
        Some(lock) => Ok((disk, lock)),
        None => Err(weft_store::StoreError::Locked { disk: shown.to_string() }.into()),
    }
}

/// The three parts of a store, opened and consistent with one another.
pub(crate) struct OpenStore {
    pub(crate) log: RaftLog,
    pub(crate) machine: Machine,
    pub(crate) shared: Arc<Shared>,
    pub(crate) lock: Lock,
}

/// Looks whether a store is the one of this node of this cluster. It is opened for that, and closed again. Blocking.
///
/// # Errors
/// When it is empty, somebody else's, or open in another process.
pub fn check_store(directory: &Path, cluster: ClusterId, node: NodeId) -> Result<(), OpenError> {
    open_log(directory, cluster, node).map(drop)
}

/// The log of a store that is proven to be ours.
fn open_log(path: &Path, cluster: ClusterId, node: NodeId) -> Result<(LogFile<RealDisk>, Lock), OpenError> {
    let directory = || path.to_path_buf();
    if !path.join(LOG_DIRECTORY).is_dir() {
        return Err(OpenError::EmptyStore { directory: directory(), node });
    }
    let (disk, lock) = lock_directory(path)?;
    let log = LogFile::open(disk, LOG_DIRECTORY)?;
    // Design 3: a node whose store is empty joins under a new id.
    let Some(identity) = log.identity()? else {
        return Err(OpenError::EmptyStore { directory: directory(), node });
    };
    if identity.cluster != cluster {
        return Err(OpenError::ForeignCluster { directory: directory(), found: identity.cluster, expected: cluster });
    }
    if identity.node != node {
        return Err(OpenError::ForeignNode { directory: directory(), found: identity.node, expected: node });
    }
    Ok((log, lock))
}

/// Opens a store. Blocking.
pub(crate) fn open_store(config: &GroupConfig) -> Result<OpenStore, OpenError> {
    let (mut log, lock) = open_log(&config.directory, config.cluster, config.node)?;
    let durable = DurableSnapshot::default();
    let facts = LogFacts { purged: log.purged(), first_on_disk: log.first_on_disk() };
    let place =
        Place { directory: config.directory.clone(), boot: config.boot_id.clone(), cache_bytes: config.cache_bytes };
    let opened = Files::open(place, facts, durable.clone())?;
    if let Some(mark) = opened.purge_mark {
        log.lower_purge_mark(mark)?;
    }
    let damaged = |error: weft_meta::StateError| OpenError::damaged("the applied metadata state", &error);
    let shared = Arc::new(Shared::new(opened.applied).map_err(damaged)?);
    let machine = Machine::new(opened.files, shared.clone()).map_err(damaged)?;
    Ok(OpenStore { log: log.start(durable)?, machine, shared, lock })
}

/// This node's part in the metadata group. Clones share it; [`MetaGroup::shutdown`] ends it.
#[derive(Clone)]
pub struct MetaGroup {
    node: NodeId,
    raft: openraft::Raft<TypeConfig>,
    shared: Arc<Shared>,
    proposals: Proposals,
    rounds: Rounds,
    lease: SharedLease,
    status: watch::Receiver<GroupStatus>,
    _lock: Arc<Lock>,
}

/// [`ReadLease`] as the group's tasks share it.
#[derive(Clone)]
pub(crate) struct SharedLease(Arc<Mutex<ReadLease>>);

impl SharedLease {
    fn new(timing: Timing) -> Self {
        Self(Arc::new(Mutex::new(ReadLease::new(timing, boot_time()))))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, ReadLease> {
        // Nothing panics while it is held; if it did, a round instead of the lease is always right.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn boot_time() -> BootTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    BootTime { nanoseconds: seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) }
}

async fn elect_after(promise: Duration, raft: openraft::Raft<TypeConfig>) {
    tokio::time::sleep(promise).await;
    raft.runtime_config().elect(true);
}

impl MetaGroup {
    /// Opens the store that [`create_store`] made and takes part. Has to be called on a tokio runtime; opening blocks.
    ///
    /// # Errors
    /// When the store is missing, foreign, in use or damaged.
    pub async fn open(config: GroupConfig, peers: Arc<dyn RaftPeers>) -> Result<Self, OpenError> {
        let raft_config = config.raft()?;
        let opening = config.clone();
        let store = tokio::task::spawn_blocking(move || open_store(&opening))
            .await
            .map_err(|error| OpenError::Raft(error.to_string()))??;
        let network = Network { id: config.node, peers };
        let lease = SharedLease::new(config.timing);
        let raft = openraft::Raft::new(config.node.0, raft_config, network, store.log, store.machine)
            .await
            .map_err(|error| OpenError::Raft(error.to_string()))?;
        tokio::spawn(crate::machine::hand_over_gathered(Arc::downgrade(&store.shared)));
        let snapshot_file = config.directory.join(crate::files::SNAPSHOT);
        tokio::spawn(snapshots::run(raft.clone(), snapshot_file, config.snapshot_every));
        tokio::spawn(elect_after(config.timing.promise(), raft.clone()));
        Ok(Self {
            node: config.node,
            proposals: Proposals::start(raft.clone()),
            rounds: Rounds::start(raft.clone(), lease.clone()),
            lease,
            status: watch_status(&raft),
            shared: store.shared,
            _lock: Arc::new(store.lock),
            raft,
        })
    }

    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// Makes this node the only voter of a new group. Once, on the first node of a cluster.
    ///
    /// # Errors
    /// When the group exists already, or Raft has stopped.
    pub async fn bootstrap(&self, control_address: SocketAddr) -> Result<(), GroupError> {
        let peer = PeerAddress { control_address: Some(control_address) };
        match self.raft.initialize(BTreeMap::from([(self.node.0, peer)])).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(error)) => Err(GroupError::Refused(error.to_string())),
            Err(RaftError::Fatal(error)) => Err(GroupError::Stopped(error.to_string())),
        }
    }

    /// Commits a command, stamped with the wall time of now, and gives what applying it replied.
    ///
    /// # Errors
    /// When this node does not lead or there is no majority. After `TimedOut`, `NotLeader` and `Stopped` the command may
    /// still be committed; requests that must not happen twice carry a number of their own.
    pub async fn propose(&self, command: Command) -> Result<CommandReply, GroupError> {
        self.proposals.propose(Stamped { at: wall_clock(), command }).await
    }

    /// Waits for a quorum round that begins after this call: what [`MetaGroup::read`] then says was true since.
    ///
    /// # Errors
    /// When this node does not lead, or there is no majority.
    pub async fn linearizable(&self) -> Result<(), GroupError> {
        self.rounds.wait().await
    }

    /// Quorum rounds that this node has begun.
    #[must_use]
    pub fn rounds_taken(&self) -> u64 {
        self.rounds.taken()
    }

    /// The same for questions: what [`MetaGroup::read`] says after this was true at some moment since this call. Takes a
    /// round only when there was none lately (decision 0010).
    ///
    /// # Errors
    /// As [`MetaGroup::linearizable`].
    pub async fn current(&self) -> Result<(), GroupError> {
        if self.lease.lock().is_held(boot_time()) { Ok(()) } else { self.rounds.wait().await }
    }

    /// Reads the applied state of this node, with no command applied in between. As of now only after
    /// [`MetaGroup::current`] or [`MetaGroup::linearizable`].
    pub fn read<T>(&self, question: impl FnOnce(&StateView<'_>) -> T) -> T {
        self.shared.read(question)
    }

    /// Told after a command changed the map or the leader's work.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Changes> {
        self.shared.changes()
    }

    /// Sessions whose caps or locks somebody asked for since the last call; for the leader.
    #[must_use]
    pub fn take_wanted_sessions(&self) -> BTreeSet<SessionId> {
        self.shared.take_wanted_sessions()
    }

    /// Tells of each wait for a lock that is over, after the state that says so is readable.
    #[must_use]
    pub fn settled_waits(&self) -> broadcast::Receiver<SettledWait> {
        self.shared.settled_waits()
    }

    #[must_use]
    pub fn status(&self) -> GroupStatus {
        self.status.borrow().clone()
    }

    /// Leadership and membership as they change.
    #[must_use]
    pub fn watch_status(&self) -> watch::Receiver<GroupStatus> {
        self.status.clone()
    }

    /// A Raft message from a peer whose identity is proven; gives the answer to send back.
    pub async fn handle_message(&self, from: NodeId, message: &[u8]) -> Vec<u8> {
        let answer = match decode::<Message>(message) {
            Err(error) => Answer::Refused(error.to_string()),
            Ok(message) if message.sender() != from => {
                Answer::Refused(format!("node {from} must not speak for node {}", message.sender()))
            }
            Ok(Message::Vote(_)) if !self.lease.lock().may_vote(boot_time()) => {
                Answer::Refused(format!("node {} may be relied on by a leader and does not vote now", self.node))
            }
            Ok(Message::Vote(request)) => Answer::Vote(self.raft.vote(request).await),
            Ok(Message::Append(_) | Message::Snapshot(_)) if !self.lease.lock().hear_leader(boot_time()) => {
                Answer::Refused(format!("node {} stands for election", self.node))
            }
            Ok(Message::Append(request)) => Answer::Append(self.raft.append_entries(request).await),
            Ok(Message::Snapshot(request)) => Answer::Snapshot(self.raft.install_snapshot(request).await),
        };
        encode(&answer).unwrap_or_default()
    }

    /// Lets a node that has joined receive the log. It does not vote.
    ///
    /// # Errors
    /// When this node does not lead, or there is no majority.
    pub async fn add_learner(&self, node: NodeId, control_address: SocketAddr) -> Result<(), GroupError> {
        let peer = PeerAddress { control_address: Some(control_address) };
        within_deadline(self.raft.add_learner(node.0, peer, false)).await
    }

    /// Changes who votes; all of them have to be members. Others stay as learners.
    ///
    /// # Errors
    /// When this node does not lead, another change is under way, or there is no majority.
    pub async fn set_voters(&self, voters: &BTreeSet<NodeId>) -> Result<(), GroupError> {
        let ids: BTreeSet<u64> = voters.iter().map(|node| node.0).collect();
        within_deadline(self.raft.change_membership(ids, true)).await
    }

    /// Takes a node that does not vote out of the group.
    ///
    /// # Errors
    /// As [`MetaGroup::set_voters`].
    pub async fn remove_learner(&self, node: NodeId) -> Result<(), GroupError> {
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([node.0]));
        within_deadline(self.raft.change_membership(change, true)).await
    }

    /// Stands for election as soon as no leader can rely on this node any more. For when the leader is known to be dead;
    /// nothing happens when a leader is heard meanwhile.
    ///
    /// # Errors
    /// When Raft has stopped.
    pub async fn campaign(&self) -> Result<(), GroupError> {
        let first = self.lease.lock().stand(boot_time());
        if let Standing::After(wait) = first {
            tokio::time::sleep(wait).await;
            let second = self.lease.lock().stand(boot_time());
            if second != Standing::Now {
                // The leader was heard again.
                return Ok(());
            }
        }
        let told = self.raft.trigger().elect().await;
        self.lease.lock().has_stood();
        told.map_err(|error| GroupError::Stopped(error.to_string()))
    }

    /// Builds a snapshot now, without waiting for it.
    ///
    /// # Errors
    /// When Raft has stopped.
    pub async fn snapshot_now(&self) -> Result<(), GroupError> {
        self.raft.trigger().snapshot().await.map_err(|error| GroupError::Stopped(error.to_string()))
    }

    /// Ends this node's part. The store may be opened again when every clone is dropped.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not end cleanly");
        }
        let applied = self.shared.applied();
        // Only spares the next start some work.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || applied.hand_over()).await {
            tracing::warn!(%error, "the applied metadata state was not written; it is applied again from the log");
        }
    }
}

pub(crate) fn leader_of(forward: &ForwardToLeader<u64, PeerAddress>) -> Option<(NodeId, Option<SocketAddr>)> {
    let address = forward.leader_node.and_then(|node| node.control_address);
    forward.leader_id.map(|id| (NodeId(id), address))
}

type Written =
    Result<openraft::raft::ClientWriteResponse<TypeConfig>, RaftError<u64, ClientWriteError<u64, PeerAddress>>>;

async fn within_deadline(change: impl Future<Output = Written>) -> Result<(), GroupError> {
    match tokio::time::timeout(MEMBERSHIP_DEADLINE, change).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
            Err(GroupError::NotLeader { leader: leader_of(&forward) })
        }
        Ok(Err(RaftError::APIError(error))) => Err(GroupError::Refused(error.to_string())),
        Ok(Err(RaftError::Fatal(error))) => Err(GroupError::Stopped(error.to_string())),
        Err(_) => Err(GroupError::TimedOut { waited_ms: MEMBERSHIP_DEADLINE.as_millis() as u64 }),
    }
}

fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs() as i64, nanoseconds: since.subsec_nanos() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn election_windows_of_different_slots_do_not_meet() {
        let timing = Timing::default();
        for node in 0..ELECTION_SLOTS - 1 {
            let (_, end) = timing.election_window_ms(NodeId(node));
            let (next, _) = timing.election_window_ms(NodeId(node + 1));
            assert!(end < next);
        }
        // No voter's lease outlasts the first candidate's silence.
        let (first_from, first_to) = timing.election_window_ms(NodeId(0));
        let (_, last_to) = timing.election_window_ms(NodeId(ELECTION_SLOTS - 1));
        assert!(last_to <= first_from + first_to);
    }
}
