//! What the parts of the control thread share, and its life from start to stop.

use super::leading::LeaderShell;
use super::maps::Maps;
use super::peers::{Peers, carry_raft, raft_wire};
use super::route::Route;
use super::serve::Server;
use super::watch::Watches;
use super::{extents::Extents, joining, leading, maps, membership, registration};
use crate::bridge::{DataStatus, ToControl, ToData};
use crate::identity::{IdentityError, NodeIdentity};
use crate::layout::NodeLayout;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use weft_proto::control::RegisterDisk;
use weft_raft::{GroupConfig, MetaGroup, OpenError};
use weft_transport::join::JoinServer;
use weft_transport::quic::BindError;
use weft_transport::{Credentials, Endpoint, EndpointConfig, Hello, HelloRole, PeerIdentity};
use weft_types::Incarnation;

/// Longest wait for the data thread to sync its disks when the node stops.
const DATA_STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// So long the followers hear a leader that stops after its last commit: two of Raft's heartbeats.
const LAST_COMMIT_SPREADS: Duration = Duration::from_millis(300);

/// What the control thread is started with.
pub struct ControlConfig {
    pub layout: NodeLayout,
    pub identity: NodeIdentity,
    pub credentials: Credentials,
    pub group: GroupConfig,
    pub endpoint: EndpointConfig,
    pub join_address: SocketAddr,
    /// The process that published itself to the parent (see `supervisor::WorkerFacts`); `None` when there is no parent.
    pub publish_as_process: Option<u32>,
}

/// The data thread as the control thread sees it.
pub struct DataSide {
    pub to_data: mpsc::Sender<ToData>,
    pub from_data: mpsc::Receiver<ToControl>,
    pub status: Arc<DataStatus>,
    /// Opening disks takes long on a busy one; Raft does not wait for it. Why it failed is for a person.
    pub opened: oneshot::Receiver<Result<OpenedData, String>>,
}

/// The data thread once it runs.
pub struct OpenedData {
    /// Where its data port is.
    pub address: SocketAddr,
    pub disks: Vec<RegisterDisk>,
}

/// Why the control thread came to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Asked to.
    Stopped,
    /// Another incarnation may do better.
    Restart(String),
    /// A restart would end the same way.
    NeedsAPerson(String),
}

/// Why it did not start. Each needs a person.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("{0}")]
    Socket(#[from] std::io::Error),
    #[error(transparent)]
    Group(#[from] OpenError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the metadata state cannot be read: {0}")]
    State(#[from] weft_meta::StateError),
}

/// The shared state. One thread, so cells and no locks.
pub(crate) struct Node {
    pub(crate) layout: NodeLayout,
    pub(crate) identity: RefCell<NodeIdentity>,
    pub(crate) name: PeerIdentity,
    pub(crate) control_address: SocketAddr,
    pub(crate) join_address: SocketAddr,
    pub(crate) publish_as_process: Option<u32>,
    pub(crate) hello: Rc<Cell<Hello>>,
    pub(crate) group: MetaGroup,
    pub(crate) peers: Rc<Peers>,
    pub(crate) route: Route,
    pub(crate) maps: Maps,
    pub(crate) leader: LeaderShell,
    pub(crate) extents: Extents,
    pub(crate) watches: Watches,
    pub(crate) data: mpsc::Sender<ToData>,
    pub(crate) data_status: Arc<DataStatus>,
    /// Set once registered.
    pub(crate) incarnation: Cell<Option<Incarnation>>,
    ending: RefCell<Option<oneshot::Sender<Exit>>>,
}

impl Node {
    pub(crate) fn id(&self) -> weft_types::NodeId {
        self.group.node()
    }

    /// Ends the node; only the first reason counts.
    pub(crate) fn end(&self, exit: Exit) {
        if let Some(ending) = self.ending.borrow_mut().take() {
            drop(ending.send(exit));
        }
    }

    /// Hands a message to the data thread, waiting while its queue is full.
    pub(crate) async fn tell_data(&self, message: ToData) {
        if self.data.send(message).await.is_err() {
            self.end(Exit::Restart("the data thread is gone".to_owned()));
        }
    }

    /// Changes `node.json`, durably.
    ///
    /// # Errors
    /// When it cannot be written; memory is then unchanged.
    pub(crate) fn change_identity(&self, change: impl FnOnce(&mut NodeIdentity)) -> Result<(), IdentityError> {
        let mut changed = self.identity.borrow().clone();
        change(&mut changed);
        if changed != *self.identity.borrow() {
            changed.save(&self.layout)?;
            *self.identity.borrow_mut() = changed;
        }
        Ok(())
    }
}

/// Runs the control thread until `stop` is done or something ends it. Must run in a `LocalSet`.
///
/// # Errors
/// When it cannot start.
pub async fn run(config: ControlConfig, data: DataSide, stop: impl Future<Output = ()>) -> Result<Exit, ControlError> {
    let endpoint = Endpoint::bind(config.endpoint, &config.credentials)?;
    let control_address = endpoint.local_address()?;
    let node_id = config.identity.node;
    let hello = Rc::new(Cell::new(Hello {
        cluster: config.identity.cluster,
        role: HelloRole::Node { node: node_id, incarnation: Incarnation(0) },
    }));
    let server = Rc::new(Server::default());
    let peers = Rc::new(Peers::new(endpoint.clone(), Rc::clone(&hello), Rc::downgrade(&server)));
    let (wire, raft_calls) = raft_wire();
    let group = MetaGroup::open(config.group, Arc::new(wire)).await?;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn_local(carry_raft(Rc::clone(&peers), raft_calls));

    let maps = Maps::new(&group)?;
    peers.learn(&maps.current());
    let (ending, ended) = oneshot::channel();
    let node = Rc::new(Node {
        layout: config.layout,
        name: PeerIdentity::node(config.identity.cluster, node_id),
        route: Route::new(&config.identity.control_addresses, control_address),
        identity: RefCell::new(config.identity),
        control_address,
        join_address: config.join_address,
        publish_as_process: config.publish_as_process,
        extents: Extents::new(endpoint.clone(), Rc::clone(&hello)),
        watches: Watches::default(),
        hello: Rc::clone(&hello),
        group,
        peers,
        maps,
        leader: LeaderShell::default(),
        data: data.to_data,
        data_status: data.status,
        incarnation: Cell::new(None),
        ending: RefCell::new(Some(ending)),
    });
    server.serve_for(&node);
    let serving = endpoint.serve(hello, Rc::clone(&server) as Rc<dyn weft_transport::Handler>);
    let handler = joining::handler(Rc::downgrade(&node));
    let join_server = JoinServer::start(node.join_address, &config.credentials, handler)?;
    tracing::info!(node = %node_id, control = %control_address, "node starts");

    tasks.spawn_local(leading::follow_leadership(Rc::clone(&node)));
    tasks.spawn_local(leading::tick(Rc::clone(&node)));
    tasks.spawn_local(maps::follow_changes(Rc::clone(&node)));
    tasks.spawn_local(membership::keep(Rc::clone(&node)));
    tasks.spawn_local(registration::live(Rc::clone(&node), data.opened));
    tasks.spawn_local(registration::hear_data(Rc::clone(&node), data.from_data));

    let exit = tokio::select! {
        () = stop => {
            stop_cleanly(&node).await;
            Exit::Stopped
        }
        exit = ended => exit.unwrap_or_else(|_| Exit::Restart("the control thread lost its end".to_owned())),
    };
    tracing::info!(?exit, "node ends");
    drop(join_server);
    serving.abort();
    // Ends every task, also those that wait for a peer.
    tasks.shutdown().await;
    node.peers.close();
    node.group.shutdown().await;
    endpoint.close("the node is stopping").await;
    Ok(exit)
}

/// Nothing is served any more, everything is durable, and the others know before this process is gone (design 4.1).
async fn stop_cleanly(node: &Rc<Node>) {
    let (done, stopped) = oneshot::channel();
    node.tell_data(ToData::Stop { done }).await;
    match tokio::time::timeout(DATA_STOP_TIMEOUT, stopped).await {
        Ok(Ok(())) => {}
        // It may still write: its lease must lapse by itself.
        Ok(Err(_)) => return tracing::error!("the data thread ended without a clean stop"),
        Err(_) => {
            return tracing::error!(timeout_s = DATA_STOP_TIMEOUT.as_secs(), "the data thread did not stop in time");
        }
    }
    registration::surrender(node).await;
    if node.group.status().is_leader() && node.group.status().voters.len() > 1 {
        tokio::time::sleep(LAST_COMMIT_SPREADS).await;
    }
}
