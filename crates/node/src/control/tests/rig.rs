//! Whole control nodes in this process, each on a thread and an address of its own, with a stand-in for the data thread.

use crate::bridge::{BRIDGE_CAPACITY, DataStatus, ToControl, ToData};
use crate::config::NodeConfig;
use crate::control::{ControlConfig, DataSide, Exit, OpenedData, run};
use crate::data::boot_time;
use crate::identity::{NodeIdentity, load_credentials};
use crate::layout::NodeLayout;
use crate::place::Place;
use crate::setup::{self, AdminIdentity};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use weft_proto::admin::{AdminReply, AdminRequest, ClusterStatus, NodeReport, TokenRole};
use weft_proto::control::{ControlReply, ControlRequest, RegisterDisk};
use weft_raft::GroupConfig;
use weft_transport::connection::NoService;
use weft_transport::{Credentials, Endpoint, EndpointConfig, Hello, HelloRole, Service};
use weft_types::map::{ClusterMap, NodeState};
use weft_types::{BootTime, DiskId, Incarnation, NodeId};

/// Patience on a machine where everybody compiles.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the stand-in was told.
#[derive(Default)]
pub struct Told {
    pub incarnation: Option<Incarnation>,
    pub map: Option<Arc<ClusterMap>>,
    pub lease_until: Option<BootTime>,
}

/// The data thread's place: applies maps at once, unless told to lag.
#[derive(Clone, Default)]
pub struct StandIn {
    pub told: Arc<Mutex<Told>>,
    pub lags: Arc<AtomicBool>,
}

impl StandIn {
    async fn run(
        self,
        mut messages: mpsc::Receiver<ToData>,
        status: Arc<DataStatus>,
        _to_control: mpsc::Sender<ToControl>,
    ) {
        while let Some(message) = messages.recv().await {
            match message {
                ToData::Registered { incarnation, .. } => self.told.lock().unwrap().incarnation = Some(incarnation),
                ToData::Map(map) => {
                    if !self.lags.load(Ordering::SeqCst) {
                        status.applied.store(map.version.0, Ordering::Release);
                    }
                    self.told.lock().unwrap().map = Some(map);
                }
                ToData::Lease { until, .. } => self.told.lock().unwrap().lease_until = Some(until),
                ToData::Reclaim { done, .. } => drop(done.send(Ok(()))),
                ToData::Heal { reply, .. } => drop(reply.send(Vec::new())),
                ToData::Digests { reply, .. } => drop(reply.send(Vec::new())),
                ToData::Report { reply } => drop(reply.send(NodeReport::default())),
                ToData::Stop { done } => {
                    done.send(()).ok();
                    return;
                }
            }
        }
    }

    pub fn holds_lease(&self) -> bool {
        self.told.lock().unwrap().lease_until.is_some_and(|until| until > boot_time())
    }
}

enum Ending {
    Stop,
    Kill,
}

pub struct RunningNode {
    pub place: Place,
    pub stand_in: StandIn,
    ending: Option<oneshot::Sender<Ending>>,
    thread: JoinHandle<Option<Exit>>,
}

impl RunningNode {
    pub fn start(place: &Place) -> Self {
        let stand_in = StandIn::default();
        let (ending, ended) = oneshot::channel();
        let (place_of_thread, stand_in_of_thread) = (place.clone(), stand_in.clone());
        let planted = crate::mutants::active();
        let thread = std::thread::spawn(move || {
            crate::mutants::plant(planted);
            node_thread(&place_of_thread, stand_in_of_thread, ended)
        });
        Self { place: place.clone(), stand_in, ending: Some(ending), thread }
    }

    pub fn control(&self) -> SocketAddr {
        self.place.config.control_address()
    }

    pub fn identity(&self) -> NodeIdentity {
        NodeIdentity::load(&self.place.layout).unwrap()
    }

    pub fn stop(mut self) -> Exit {
        drop(self.ending.take().unwrap().send(Ending::Stop));
        self.thread.join().unwrap().unwrap()
    }

    /// As SIGKILL: nobody is told anything.
    pub fn kill(mut self) -> Place {
        drop(self.ending.take().unwrap().send(Ending::Kill));
        assert_eq!(self.thread.join().unwrap(), None);
        self.place
    }

    /// Waits until it ends by itself.
    pub fn ended(self) -> Exit {
        self.thread.join().unwrap().unwrap()
    }
}

fn node_thread(place: &Place, stand_in: StandIn, ended: oneshot::Receiver<Ending>) -> Option<Exit> {
    let identity = NodeIdentity::load(&place.layout).unwrap();
    let credentials = load_credentials(&place.layout, &identity).unwrap();
    let (to_data, for_data) = mpsc::channel(BRIDGE_CAPACITY);
    let (to_control, from_data) = mpsc::channel(BRIDGE_CAPACITY);
    let status = Arc::new(DataStatus::default());
    let disk = DiskId(u128::from(identity.node.0) << 64 | 77);
    let disks = vec![RegisterDisk { disk, capacity_bytes: 1 << 40, proof: None }];
    let address = place.config.data_address();
    let (opened, opening) = oneshot::channel();
    assert!(opened.send(Ok(OpenedData { address, disks })).is_ok());
    let data = DataSide { to_data, from_data, status: Arc::clone(&status), opened: opening };
    let config = ControlConfig {
        layout: place.layout.clone(),
        group: GroupConfig::new(place.layout.raft(), identity.cluster, identity.node).unwrap(),
        endpoint: EndpointConfig::new(place.config.control_address()),
        join_address: place.config.join_address(),
        publish_as_process: None,
        identity,
        credentials,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let exit = tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::spawn(stand_in.run(for_data, status, to_control));
        let (stop, stopped) = oneshot::channel();
        let node = run(config, data, async { drop(stopped.await) });
        tokio::pin!(node);
        tokio::select! {
            exit = &mut node => return Some(exit.unwrap()),
            ending = ended => match ending {
                Ok(Ending::Stop) => drop(stop.send(())),
                Ok(Ending::Kill) | Err(_) => return None,
            },
        }
        Some(node.await.unwrap())
    });
    // Whatever still ran dies here, as with the process.
    runtime.shutdown_timeout(Duration::from_secs(5));
    exit
}

/// A cluster of control nodes; node `n` is on the `n`-th address of its network.
pub struct Cluster {
    directory: TempDir,
    network: [u8; 2],
    admin: Credentials,
    pub nodes: Vec<Option<RunningNode>>,
    _claim: UdpSocket,
}

/// Loopback has room for everybody, and other test programs run at the same time: a network belongs to whoever could bind
/// an address of it that no node has.
fn claim_network() -> ([u8; 2], UdpSocket) {
    let process = std::process::id() as u16;
    for step in 0..=u16::MAX {
        let [high, low] = process.wrapping_mul(31).wrapping_add(step).to_be_bytes();
        // 127.0 and 127.1 are for what people run by hand.
        let network = [high.max(2), low];
        if let Ok(claim) = UdpSocket::bind((Ipv4Addr::new(127, network[0], network[1], 250), 7399)) {
            return (network, claim);
        }
    }
    panic!("no network is free on the loopback device");
}

impl Cluster {
    /// One node, live.
    pub fn of_one() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (network, claim) = claim_network();
        let place = place(directory.path(), network, 1);
        let mut admin = None;
        setup::initialise(&place, |made: &AdminIdentity| {
            admin = Some(made.credentials.clone());
            Ok(())
        })
        .unwrap();
        let nodes = vec![Some(RunningNode::start(&place))];
        let cluster = Self { directory, network, admin: admin.unwrap(), nodes, _claim: claim };
        cluster.wait("the first node is live", |status| live(status) == 1);
        cluster
    }

    pub fn of(count: u8) -> Self {
        let mut cluster = Self::of_one();
        for number in 2..=count {
            let place = cluster.place(number);
            setup::join(&place, &cluster.token(TokenRole::Node)).unwrap();
            cluster.nodes.push(Some(RunningNode::start(&place)));
        }
        let voters = weft_meta::voters::wanted_count(usize::from(count));
        cluster.wait("all nodes are live and the voters vote", |status| {
            live(status) == usize::from(count) && status.map.nodes.iter().filter(|n| n.voter).count() == voters
        });
        cluster
    }

    pub fn place(&self, number: u8) -> Place {
        place(self.directory.path(), self.network, number)
    }

    pub fn node(&self, number: u64) -> &RunningNode {
        self.nodes[number as usize - 1].as_ref().unwrap()
    }

    pub fn take(&mut self, number: u64) -> RunningNode {
        self.nodes[number as usize - 1].take().unwrap()
    }

    pub fn token(&self, role: TokenRole) -> String {
        let request = AdminRequest::CreateToken { role, valid_seconds: 60, name: "test".to_owned() };
        match self.admin(request) {
            AdminReply::Token { text, .. } => text,
            other => panic!("{other:?}"),
        }
    }

    pub fn admin(&self, request: AdminRequest) -> AdminReply {
        match self.ask(ControlRequest::Admin(request)) {
            ControlReply::Admin(reply) => *reply,
            other => panic!("{other:?}"),
        }
    }

    /// Asks the leader as the administrator, however long that takes to find.
    pub fn ask(&self, request: ControlRequest) -> ControlReply {
        let started = Instant::now();
        loop {
            for node in self.nodes.iter().flatten() {
                match ask(&self.admin, node.control(), request.clone()) {
                    Ok(
                        ControlReply::NotLeader { .. } | ControlReply::Refused(weft_types::ErrorKind::Unavailable(_)),
                    )
                    | Err(_) => {}
                    Ok(reply) => return reply,
                }
            }
            assert!(started.elapsed() < PATIENCE, "no leader answers {request:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn status(&self) -> ClusterStatus {
        match self.admin(AdminRequest::ClusterStatus) {
            AdminReply::Cluster(status) => status,
            other => panic!("{other:?}"),
        }
    }

    /// The node that leads, as it says itself.
    pub fn leader(&self) -> u64 {
        let mut leader = 0;
        self.wait("somebody leads", |status| {
            leader = status.leader.map_or(0, |id| id.0);
            status.leader == Some(status.answering)
        });
        leader
    }

    pub fn wait(&self, what: &str, mut condition: impl FnMut(&ClusterStatus) -> bool) {
        let started = Instant::now();
        loop {
            let status = self.status();
            if condition(&status) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "not in time: {what}; {status:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn place(directory: &Path, network: [u8; 2], number: u8) -> Place {
    let listen = IpAddr::V4(Ipv4Addr::new(127, network[0], network[1], number));
    let config = NodeConfig { name: format!("node-{number}"), listen, disks: Vec::new(), ..NodeConfig::default() };
    Place { layout: NodeLayout::new(&directory.join(format!("node-{number}"))), config }
}

pub fn live(status: &ClusterStatus) -> usize {
    status.map.nodes.iter().filter(|node| node.state == NodeState::Live).count()
}

pub fn state_of(status: &ClusterStatus, node: u64) -> NodeState {
    status.map.nodes.iter().find(|known| known.id == NodeId(node)).unwrap().state
}

/// One request under an identity, over a connection of its own.
pub fn ask(credentials: &Credentials, to: SocketAddr, request: ControlRequest) -> Result<ControlReply, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let endpoint = Endpoint::bind(EndpointConfig::new(SocketAddr::new(to.ip(), 0)), credentials).unwrap();
        let identity = credentials.identity();
        let role = match identity.role {
            weft_transport::PeerRole::Node(node) => HelloRole::Node { node, incarnation: Incarnation(0) },
            weft_transport::PeerRole::Client(_) => HelloRole::Client { session: None },
            weft_transport::PeerRole::Admin(_) => HelloRole::Admin,
        };
        let hello = Hello { cluster: identity.cluster, role };
        let connection = endpoint.connect(to, hello, None, Rc::new(NoService)).await.map_err(|e| e.to_string())?;
        let answer = connection.call(Service::Control, &request, (), Duration::from_secs(10)).await;
        endpoint.close("done").await;
        answer.map(|(reply, _)| reply).map_err(|error| error.to_string())
    })
}
