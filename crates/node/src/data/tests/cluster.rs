//! The cluster under test: nodes that can be started, killed and stopped, and the metadata machine that rules them.

use crate::bridge::{BRIDGE_CAPACITY, DataStatus, ToControl, ToData};
use crate::data::{DataConfig, DataThread, boot_time, format_disk, open_disks, room, spawn};
use crate::memory::MemoryPlan;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use weft_meta::{Command, CommandReply, MemoryView, Stamped, apply, read};
use weft_proto::admin::{NodeReport, ReplicaDigest};
use weft_proto::control::RegisterNode;
use weft_store::StoreConfig;
use weft_transport::identity::PeerName;
use weft_transport::{Authority, EndpointConfig, PeerIdentity};
use weft_types::map::{ClusterMap, MemberState};
use weft_types::{
    AckMode, ChunkSize, ClusterId, Incarnation, MapVersion, NodeId, PgId, SessionId, StartId, Timestamp, VolumeId,
};

pub(super) const CLUSTER: ClusterId = ClusterId(0xc1);
pub(super) const VOLUME: &str = "v";
/// In whose name clients speak.
pub(super) const MEMBER: &str = "test";
const LEASE: Duration = Duration::from_millis(1000);
static STARTS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
const RENEWAL: Duration = Duration::from_millis(100);

/// Small enough that a test fills it, large enough for any entry that the tests write.
fn store_config() -> StoreConfig {
    StoreConfig { segment_bytes: 512 << 10, ..StoreConfig::small() }
}

pub(super) struct TestNode {
    to_data: Sender<ToData>,
    thread: Option<DataThread>,
    status: Arc<DataStatus>,
    incarnation: Incarnation,
}

struct Inner {
    view: RefCell<MemoryView>,
    nodes: RefCell<BTreeMap<NodeId, TestNode>>,
    leases: Cell<bool>,
    /// What nodes told for the event list.
    events: RefCell<Vec<String>>,
}

#[derive(Clone)]
pub(super) struct Cluster {
    inner: Rc<Inner>,
    pub(super) authority: Rc<Authority>,
    directory: Rc<tempfile::TempDir>,
    pub(super) scrub_bytes_per_second: Rc<Cell<u64>>,
    memory: MemoryPlan,
}

impl Cluster {
    /// Three nodes with a disk each, and a volume with as many groups.
    pub(super) async fn start(pg_count: u16) -> Self {
        Self::start_within(pg_count, MemoryPlan::default()).await
    }

    /// The same with nodes that may not take more.
    pub(super) async fn start_within(pg_count: u16, memory: MemoryPlan) -> Self {
        let authority = Rc::new(Authority::create(CLUSTER).unwrap());
        let inner = Rc::new(Inner {
            view: RefCell::default(),
            nodes: RefCell::default(),
            leases: Cell::new(true),
            events: RefCell::default(),
        });
        let directory = Rc::new(tempfile::tempdir().unwrap());
        let scrub_bytes_per_second = Rc::new(Cell::new(0));
        let cluster = Self { inner, authority, directory, scrub_bytes_per_second, memory };
        let first = cluster.new_node("n1");
        cluster.command(Command::Bootstrap {
            cluster: CLUSTER,
            authority_certificate: vec![1],
            authority_key: vec![2],
            node: first,
        });
        for id in 2..=3 {
            cluster.command(Command::JoinNode { node: cluster.new_node(&format!("n{id}")), token: None });
        }
        for id in 1..=3 {
            let path = cluster.disk_path(NodeId(id));
            std::fs::create_dir_all(&path).unwrap();
            format_disk(&path, CLUSTER, NodeId(id), &store_config()).unwrap();
            cluster.start_node(NodeId(id)).await;
        }
        let reply = cluster.command(Command::CreateVolume {
            name: VOLUME.to_owned(),
            replicas: 3,
            chunk_size: ChunkSize::new(64 << 10).unwrap(),
            ack: AckMode::Memory,
            pg_count,
        });
        assert!(matches!(reply, CommandReply::Volume(_)), "{reply:?}");
        cluster.publish().await;
        cluster.renew_leases();
        cluster
            .until("every group serves with three level members", |map| {
                map.pgs.iter().all(|pg| pg.levelled_epoch == pg.epoch && pg.members.iter().all(|m| m.is_level()))
            })
            .await;
        cluster
    }

    fn new_node(&self, name: &str) -> weft_meta::command::NewNode {
        weft_meta::command::NewNode {
            name: name.to_owned(),
            control_address: ([127, 0, 0, 1], 1).into(),
            data_address: ([127, 0, 0, 1], 1).into(),
            failure_domain: Vec::new(),
        }
    }

    pub(super) fn disk_path(&self, node: NodeId) -> PathBuf {
        self.directory.path().join(format!("node-{node}"))
    }

    /// Starts a node's data thread on what its disk holds, and registers it.
    pub(super) async fn start_node(&self, node: NodeId) {
        let disks = open_disks(&[self.disk_path(node)], CLUSTER, node, &store_config()).unwrap();
        let (previous, facts) = (disks.previous_incarnation(), disks.registrations());
        let (to_data, from_control) = channel(BRIDGE_CAPACITY);
        let (to_control, from_data) = channel(BRIDGE_CAPACITY);
        let status = Arc::new(DataStatus::default());
        let config = DataConfig {
            cluster: CLUSTER,
            node,
            endpoint: EndpointConfig::new(([127, 0, 0, 1], 0).into()),
            credentials: self.authority.issue(&PeerIdentity::node(CLUSTER, node)).unwrap(),
            disks,
            resync_bytes_per_second: 256 << 20,
            scrub_bytes_per_second: self.scrub_bytes_per_second.get(),
            memory: self.memory,
        };
        let thread = spawn(config, from_control, to_control, Arc::clone(&status)).unwrap();
        let reply = self.command(Command::RegisterNode(RegisterNode {
            node,
            start: StartId(u128::from(STARTS.fetch_add(1, Ordering::Relaxed))),
            previous,
            control_address: ([127, 0, 0, 1], 1).into(),
            data_address: thread.address,
            disks: facts,
        }));
        let CommandReply::Registered { incarnation, map_version } = reply else { panic!("{reply:?}") };
        to_data.send(ToData::Registered { incarnation, map_version }).await.unwrap();
        // A control side that has lost its state begins with a map that names nothing. No data may go because of it.
        let nothing = read::cluster_map(&MemoryView::new(), None).unwrap();
        to_data.send(ToData::Map(Arc::new(nothing))).await.unwrap();
        let test_node = TestNode { to_data, thread: Some(thread), status, incarnation };
        self.inner.nodes.borrow_mut().insert(node, test_node);
        tokio::task::spawn_local(self.clone().play_control(node, from_data));
        self.publish().await;
    }

    /// What the control thread of a node does with what its data thread says.
    async fn play_control(self, node: NodeId, mut from_data: Receiver<ToControl>) {
        while let Some(message) = from_data.recv().await {
            match message {
                ToControl::ChangeSet(request) => {
                    self.command(Command::ChangeSet(request));
                    self.publish().await;
                }
                ToControl::DiskFailed { disk, .. } => {
                    let incarnation = self.incarnation(node);
                    self.command(Command::DiskFailed { disk, incarnation });
                    self.publish().await;
                }
                ToControl::Event(text) => self.inner.events.borrow_mut().push(text),
                ToControl::Ended { .. } => return,
            }
        }
    }

    /// The metadata group, without Raft.
    pub(super) fn command(&self, command: Command) -> CommandReply {
        let at = Timestamp { seconds: 1, nanoseconds: 0 };
        let mut view = self.inner.view.borrow_mut();
        let applied = apply(&*view, &Stamped { at, command }).unwrap();
        view.write(applied.batch);
        applied.reply
    }

    pub(super) fn map(&self) -> ClusterMap {
        read::cluster_map(&*self.inner.view.borrow(), None).unwrap()
    }

    /// Gives the map to every node that runs.
    pub(super) async fn publish(&self) {
        let map = Arc::new(self.map());
        for sender in self.senders() {
            // A node that is being killed does not listen.
            let _ = sender.send(ToData::Map(Arc::clone(&map))).await;
        }
    }

    fn senders(&self) -> Vec<Sender<ToData>> {
        self.inner.nodes.borrow().values().map(|node| node.to_data.clone()).collect()
    }

    fn renew_leases(&self) {
        let cluster = self.clone();
        tokio::task::spawn_local(async move {
            loop {
                if cluster.inner.leases.get() {
                    let until = boot_time() + LEASE;
                    let map_version = cluster.map().version;
                    for sender in cluster.senders() {
                        let _ = sender.send(ToData::Lease { until, map_version }).await;
                    }
                }
                sleep(RENEWAL).await;
            }
        });
    }

    pub(super) fn stop_leases(&self) {
        self.inner.leases.set(false);
    }

    pub(super) fn incarnation(&self, node: NodeId) -> Incarnation {
        self.inner.nodes.borrow()[&node].incarnation
    }

    pub(super) fn applied(&self, node: NodeId) -> MapVersion {
        MapVersion(self.inner.nodes.borrow()[&node].status.applied.load(Ordering::Acquire))
    }

    pub(super) fn events(&self) -> Vec<String> {
        self.inner.events.borrow().clone()
    }

    /// The thread ends where it is; nothing is synced, nothing marked. Its lease is surrendered, as by its parent.
    pub(super) async fn kill(&self, node: NodeId) {
        let incarnation = self.incarnation(node);
        let thread = self.take(node);
        tokio::task::spawn_blocking(move || thread.join.join().unwrap()).await.unwrap();
        self.command(Command::SurrenderLease { node, incarnation });
        self.publish().await;
    }

    pub(super) async fn stop_cleanly(&self, node: NodeId) {
        let incarnation = self.incarnation(node);
        let (done, stopped) = oneshot::channel();
        let sender = self.inner.nodes.borrow()[&node].to_data.clone();
        sender.send(ToData::Stop { done }).await.unwrap();
        stopped.await.unwrap();
        drop(sender);
        let thread = self.take(node);
        tokio::task::spawn_blocking(move || thread.join.join().unwrap()).await.unwrap();
        self.command(Command::SurrenderLease { node, incarnation });
        self.publish().await;
    }

    fn take(&self, node: NodeId) -> DataThread {
        // Dropping the sender is what tells the thread that its control thread is gone.
        let TestNode { thread, .. } = self.inner.nodes.borrow_mut().remove(&node).unwrap();
        thread.unwrap()
    }

    pub(super) async fn open_session(&self) -> SessionId {
        let (volume_name, host) = (VOLUME.to_owned(), "test".to_owned());
        let owner = PeerIdentity::client(CLUSTER, PeerName::new(MEMBER).unwrap()).session_owner();
        let reply = self.command(Command::OpenSession { owner, volume_name, host, mount_point: "/mnt".to_owned() });
        let CommandReply::SessionOpened { session, .. } = reply else { panic!("{reply:?}") };
        self.publish().await;
        session
    }

    pub(super) async fn ask<T>(&self, node: NodeId, message: impl FnOnce(oneshot::Sender<T>) -> ToData) -> T {
        let (reply, answer) = oneshot::channel();
        let sender = self.inner.nodes.borrow()[&node].to_data.clone();
        sender.send(message(reply)).await.unwrap();
        answer.await.unwrap()
    }

    pub(super) async fn report(&self, node: NodeId) -> NodeReport {
        self.ask(node, |reply| ToData::Report { reply }).await
    }

    pub(super) async fn counter(&self, node: NodeId, name: &str) -> u64 {
        let report = self.report(node).await;
        report.counters.iter().find(|(counter, _)| counter == name).map(|(_, value)| *value).unwrap()
    }

    /// Of each journal, for what all nodes have under way.
    pub(super) fn under_way_bytes(&self) -> u64 {
        let config = store_config();
        room::under_way_bytes(u64::from(config.segments) * u64::from(config.segment_bytes))
    }

    pub(super) fn running(&self) -> Vec<NodeId> {
        self.inner.nodes.borrow().keys().copied().collect()
    }

    /// Digests of every replica on every running node, by group.
    pub(super) async fn digests(&self) -> BTreeMap<PgId, Vec<ReplicaDigest>> {
        let volume = self.volume();
        let mut all: BTreeMap<PgId, Vec<ReplicaDigest>> = BTreeMap::new();
        for node in self.running() {
            for digest in self.ask(node, |reply| ToData::Digests { volume, reply }).await {
                all.entry(digest.pg).or_default().push(digest);
            }
        }
        all
    }

    pub(super) async fn assert_replicas_agree(&self, replicas: usize) {
        // An entry that is on every member may still be on its way into the last answer of a backup.
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let digests = self.digests().await;
            let agree = digests
                .values()
                .all(|group| group.len() == replicas && group.iter().all(|d| d.digest == group[0].digest));
            if agree && !digests.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "replicas differ: {digests:#?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) fn volume(&self) -> VolumeId {
        self.map().volumes[0].id
    }

    pub(super) fn leader_of(&self, pg: PgId) -> NodeId {
        let map = self.map();
        let record = map.pgs.iter().find(|record| record.pg == pg).unwrap();
        record.primary_member().unwrap().node
    }

    /// Waits until the map is so.
    pub(super) async fn until(&self, what: &str, condition: impl Fn(&ClusterMap) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let map = self.map();
            if condition(&map) {
                return;
            }
            assert!(Instant::now() < deadline, "in vain: {what}: {:#?} {:?}", map.pgs, self.events());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a node has told something of the kind.
    pub(super) async fn until_told(&self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.events().iter().any(|event| event.contains(text)) {
            assert!(Instant::now() < deadline, "nobody told of '{text}': {:?}", self.events());
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn until_all_level(&self) {
        self.until("all members are level", |map| {
            let serving = |pg: &weft_types::PgRecord| pg.levelled_epoch == pg.epoch && pg.primary.is_some();
            let level = MemberState::InSync { lossy: false, behind: false };
            map.pgs.iter().all(|pg| serving(pg) && pg.members.iter().all(|member| member.state == level))
        })
        .await;
    }
}
