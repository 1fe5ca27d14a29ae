//! The state of the data thread, and one turn of it.
//!
//! Responsible for: owning everything, and the order of a turn. Guarantees: after [`DataNode::settle`] no event is left
//! unhandled, every touched machine has ended its batch, and a sync runs wherever somebody waits for one. Must not know:
//! frames, sockets.

use super::checkpoint::CheckpointDone;
use super::copying::Copies;
use super::counters::Counters;
use super::disks::OpenedDisks;
use super::flush::Flushes;
use super::groups::{Group, GroupKey};
use super::host::Host;
use super::lease::Lease;
use super::peers::Peers;
use super::reading::{ReadDone, Reading};
use super::repair::Repairs;
use super::scrub::ScrubState;
use super::server::{Pending, Request};
use super::syncing::{LocalDisk, SyncDone};
use super::waiting::Waiting;
use crate::bridge::{DataStatus, ToControl};
use crate::memory::MemoryPlan;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use weft_replication::{Action, Clock, ClusterFacts, Event, RequestToken};
use weft_types::limits::{MAX_QUEUED_READS, MAX_UNSENT_TO_CONTROL, READ_THREADS};
use weft_types::map::ClusterMap;
use weft_types::{BootTime, ClusterId, DiskId, Incarnation, MapVersion, NodeId, PgId, SessionId, SessionOwner};

pub(super) type Shared<H> = Rc<RefCell<DataNode<H>>>;

/// What a data node is told once.
#[derive(Clone, Copy, Debug)]
pub struct NodeSettings {
    pub cluster: ClusterId,
    pub node: NodeId,
    /// Pace of resync from the groups that this node leads, together.
    pub resync_bytes_per_second: u64,
    /// Pace of the background scrub per disk; 0 turns it off.
    pub scrub_bytes_per_second: u64,
    /// Bounds `client_bytes` and `held_bytes` count here.
    pub memory: MemoryPlan,
    /// Planted in every replica machine.
    #[cfg(feature = "mutants")]
    pub mutant: Option<weft_replication::Mutant>,
}

/// What comes back from the workers.
pub enum Completion {
    Sync(SyncDone),
    Checkpoint(CheckpointDone),
    Read(ReadDone),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// No incarnation yet: nothing may be appended.
    Unregistered,
    Running,
    /// Refuses new work, finishes what is sequenced.
    Stopping,
    /// Appends nothing any more.
    Stopped,
}

pub(super) struct DataNode<H: Host> {
    pub(super) host: H,
    pub(super) settings: NodeSettings,
    pub(super) stage: Stage,
    pub(super) incarnation: Incarnation,
    /// The map of its registration. An earlier one may not name groups that this node's disks hold.
    pub(super) registered_at: MapVersion,
    pub(super) lease: Lease,
    pub(super) map: Option<Arc<ClusterMap>>,
    pub(super) facts: Arc<ClusterFacts>,
    /// The local member that leads a group, by the applied map.
    pub(super) leading: HashMap<PgId, DiskId>,
    /// The node of every disk, by the applied map.
    pub(super) homes: HashMap<DiskId, NodeId>,
    /// Who speaks for each live session, by the applied map.
    pub(super) owners: HashMap<SessionId, SessionOwner>,
    pub(super) disks: BTreeMap<DiskId, LocalDisk<H>>,
    pub(super) groups: BTreeMap<GroupKey, Group>,
    pub(super) peers: Peers<H::Link>,
    pub(super) requests: HashMap<RequestToken, Pending<H::Replier>>,
    /// Data of the writes among them, and how much of it there may be: see `server`.
    pub(super) client_bytes: usize,
    pub(super) client_limit_bytes: usize,
    pub(super) next_token: u64,
    /// Writes that this turn gave to machines.
    pub(super) fresh: Vec<RequestToken>,
    pub(super) flushes: Flushes<H::Replier>,
    pub(super) copies: Copies<H::Replier>,
    pub(super) waiting: Waiting<Request<H::Replier>>,
    pub(super) reading: Reading<H::Pool>,
    pub(super) scrub: ScrubState,
    pub(super) repairs: Repairs,
    pub(super) ticks: u64,
    pub(super) counters: Counters,
    /// Machines that have to end their batch.
    pub(super) touched: BTreeSet<GroupKey>,
    /// Events that actions brought about.
    pub(super) ready: VecDeque<(GroupKey, Event)>,
    /// Kept to spare an allocation per step.
    pub(super) actions: Vec<Action>,
    to_control: Sender<ToControl>,
    unsent: VecDeque<ToControl>,
    pub(super) status: Arc<DataStatus>,
    turn_began: Option<Instant>,
}

impl<H: Host> DataNode<H> {
    pub(super) fn new(
        host: H,
        settings: NodeSettings,
        opened: OpenedDisks<H::Disk>,
        to_control: Sender<ToControl>,
        status: Arc<DataStatus>,
    ) -> std::io::Result<Self> {
        let mut disks = BTreeMap::new();
        for disk in opened.disks {
            disks.insert(disk.id, LocalDisk::new(disk, &host)?);
        }
        let unsent = opened.left_out.into_iter().map(ToControl::Event).collect();
        let readers = host.pool("weft-read", READ_THREADS, MAX_QUEUED_READS)?;
        Ok(Self {
            host,
            settings,
            stage: Stage::Unregistered,
            incarnation: Incarnation::default(),
            registered_at: MapVersion::default(),
            lease: Lease::default(),
            map: None,
            facts: Arc::default(),
            leading: HashMap::new(),
            homes: HashMap::new(),
            owners: HashMap::new(),
            disks,
            groups: BTreeMap::new(),
            peers: Peers::default(),
            requests: HashMap::new(),
            client_bytes: 0,
            client_limit_bytes: settings.memory.client_bytes,
            next_token: 0,
            fresh: Vec::new(),
            flushes: Flushes::default(),
            copies: Copies::default(),
            waiting: Waiting::new(settings.memory.held_bytes),
            reading: Reading::new(readers),
            scrub: ScrubState::default(),
            repairs: Repairs::default(),
            ticks: 0,
            counters: Counters::default(),
            touched: BTreeSet::new(),
            ready: VecDeque::new(),
            actions: Vec::new(),
            to_control,
            unsent,
            status,
            turn_began: None,
        })
    }

    /// The map version that rules decisions here.
    pub(super) fn applied(&self) -> MapVersion {
        self.facts.version
    }

    pub(super) fn clock(&self) -> Clock {
        Clock { now: self.host.now(), lease_until: self.lease.until() }
    }

    /// Marks the beginning of a turn, for its measure.
    pub(super) fn begin_turn(&mut self) {
        self.turn_began.get_or_insert_with(Instant::now);
    }

    /// Ends a turn: see the module.
    pub(super) fn settle(&mut self) {
        self.begin_turn();
        loop {
            self.release_waiting();
            while let Some((key, event)) = self.ready.pop_front() {
                self.step(key, event);
            }
            if let Some(key) = self.touched.pop_first() {
                self.end_batch(key);
                continue;
            }
            self.note_sequenced();
            // A sync that has nothing to do is finished at once and may have brought events.
            self.start_syncs();
            if self.ready.is_empty() {
                break;
            }
        }
        if let Some(began) = self.turn_began.take() {
            self.counters.turn.took(began.elapsed());
        }
    }

    pub(super) fn complete(&mut self, completion: Completion) {
        match completion {
            Completion::Sync(done) => self.sync_done(done),
            Completion::Checkpoint(done) => self.checkpoint_done(done),
            Completion::Read(done) => self.read_done(done),
        }
    }

    /// Every `TICK_INTERVAL`.
    pub(super) fn tick(&mut self) {
        if self.stage == Stage::Stopped {
            return;
        }
        let keys: Vec<GroupKey> = self.groups.keys().copied().collect();
        for key in keys {
            self.step(key, Event::Tick);
        }
        self.expire_waiting();
        self.tick_disks();
        self.flush_unsent();
        self.publish_facts();
    }

    /// The process is registered: the disks are marked with its incarnation before anything is appended.
    pub(super) fn registered(&mut self, incarnation: Incarnation, map_version: MapVersion) {
        if self.stage != Stage::Unregistered {
            return;
        }
        self.incarnation = incarnation;
        self.registered_at = map_version;
        self.stage = Stage::Running;
        self.mark_disks_running();
    }

    pub(super) fn lease_granted(&mut self, until: BootTime, map_version: MapVersion) {
        self.lease.grant(until, map_version, self.applied());
    }

    /// Raised only after every machine has taken the map in (design 4.3).
    pub(super) fn raise_applied(&mut self) {
        let version = self.applied();
        self.lease.applied(version);
        self.status.applied.store(version.0, Ordering::Release);
    }

    pub(super) fn begin_stop(&mut self) {
        if self.stage == Stage::Running {
            self.stage = Stage::Stopping;
            let keys: Vec<GroupKey> = self.groups.keys().copied().collect();
            for key in keys {
                self.step(key, Event::Stop);
            }
            self.refuse_waiting();
            self.refuse_copies();
        }
    }

    /// Nothing that clients wait for is left.
    pub(super) fn is_drained(&self) -> bool {
        self.requests.is_empty()
    }

    pub(super) fn next_token(&mut self) -> RequestToken {
        self.next_token += 1;
        RequestToken(self.next_token)
    }

    pub(super) fn next_release_in(&self) -> Option<Duration> {
        self.waiting.next_release().map(|at| at.since(self.host.now()))
    }

    /// To the control thread. A message that finds no room is kept and sent later; set changes are not, because their
    /// machine repeats them.
    pub(super) fn tell_control(&mut self, message: ToControl) {
        self.flush_unsent();
        if self.unsent.is_empty() {
            match self.to_control.try_send(message) {
                Ok(()) | Err(TrySendError::Closed(_) | TrySendError::Full(ToControl::ChangeSet(_))) => {}
                Err(TrySendError::Full(message)) => self.unsent.push_back(message),
            }
        } else if !matches!(message, ToControl::ChangeSet(_)) {
            self.keep_unsent(message);
        }
    }

    fn keep_unsent(&mut self, message: ToControl) {
        if self.unsent.len() >= MAX_UNSENT_TO_CONTROL {
            // A failed disk must be reported; there are few of them. Events may go.
            self.counters.events_dropped += 1;
            if matches!(message, ToControl::Event(_)) {
                return;
            }
            if let Some(at) = self.unsent.iter().position(|kept| matches!(kept, ToControl::Event(_))) {
                self.unsent.remove(at);
            }
        }
        self.unsent.push_back(message);
    }

    fn flush_unsent(&mut self) {
        while let Some(message) = self.unsent.pop_front() {
            if let Err(TrySendError::Full(message)) = self.to_control.try_send(message) {
                self.unsent.push_front(message);
                return;
            }
        }
    }
}
