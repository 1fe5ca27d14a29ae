//! Making a cluster, and making a node a member of one.
//!
//! Guarantees: everything that can be checked is checked before anything is changed; a setup that was interrupted is
//! noticed and explained; `node.json` is written last. Must not know: how requests are served.

use crate::config::NodeConfig;
use crate::data::{OpenDiskError, format_disk};
use crate::identity::{self, IdentityError, NodeIdentity, credentials_file};
use crate::memory::MemoryPlan;
use crate::place::Place;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use weft_meta::command::NewNode;
use weft_meta::{Command, CommandReply};
use weft_raft::{GroupConfig, GroupError, MetaGroup, OpenError, PeerCall, PeerError, RaftPeers, create_store};
use weft_store::StoreConfig;
use weft_transport::ca::{Authority, CaError};
use weft_transport::identity::PeerName;
use weft_transport::join::{JoinAs, JoinError, join as join_cluster};
use weft_transport::token::{Token, TokenError};
use weft_transport::{Credentials, PeerIdentity};
use weft_types::{ClusterId, Incarnation, NodeId};

/// The first node's id: `Command::Bootstrap` gives it.
const FIRST_NODE: NodeId = NodeId(1);
/// A single voter elects itself at once; this is for a slow disk.
const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(30);
const SEGMENT_MIB: std::ops::RangeInclusive<u32> = 8..=64;
const MIN_SEGMENTS: u32 = 4;

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("{}: holds node {node} of cluster {cluster} already; nothing was changed", directory.display())]
    AlreadyMember { directory: PathBuf, node: NodeId, cluster: ClusterId },
    #[error("{}: is not empty; a disk is made only of an empty directory, nothing was changed", .0.display())]
    DiskNotEmpty(PathBuf),
    #[error("{}: holds a metadata store without a node; remove it if it is of no use, nothing was changed", .0.display())]
    StoreLeftOver(PathBuf),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{0}; nothing was changed")]
    Token(#[from] TokenError),
    #[error("could not join the cluster: {0}; nothing was changed")]
    Join(JoinError),
    #[error("this token makes clients, not nodes; use `weft client join`, or a token of role node")]
    NotANode,
    #[error(transparent)]
    Disk(#[from] OpenDiskError),
    #[error("cannot make certificates: {0}")]
    Certificate(#[from] CaError),
    #[error(transparent)]
    Raft(#[from] OpenError),
    #[error("the metadata group did not start: {0}")]
    Group(String),
    #[error("the administrator's identity could not be written: {0}")]
    Admin(String),
    #[error("the system gives no random bytes")]
    NoRandomness,
}

/// What a command line needs to administer the new cluster.
#[derive(Clone, Debug)]
pub struct AdminIdentity {
    pub cluster: ClusterId,
    pub credentials: Credentials,
    pub control_addresses: Vec<SocketAddr>,
}

/// Makes a cluster whose first node is at `place`: certificate authority, the node's identity, its disks, its metadata
/// store. `save_admin` is given the administrator's identity before the node counts as made. Blocks; must not be called
/// on a runtime.
///
/// # Errors
/// When something is there already, or cannot be made.
pub fn initialise(
    place: &Place,
    save_admin: impl FnOnce(&AdminIdentity) -> Result<(), String>,
) -> Result<NodeIdentity, SetupError> {
    check_empty(place)?;
    let cluster = ClusterId(random_id()?);
    identity::begin_setup(&place.layout, "making a cluster")?;
    let authority = Authority::create(cluster)?;
    let credentials = authority.issue(&PeerIdentity::node(cluster, FIRST_NODE))?;
    let control_addresses = vec![place.config.control_address()];
    let name = PeerName::new("admin").unwrap_or_else(|_| PeerName::from_host("admin"));
    let admin = AdminIdentity {
        cluster,
        credentials: authority.issue(&PeerIdentity::admin(cluster, name))?,
        control_addresses: control_addresses.clone(),
    };
    save_admin(&admin).map_err(SetupError::Admin)?;
    credentials.save(&credentials_file(&place.layout))?;
    format_disks(place, cluster, FIRST_NODE)?;
    create_store(&place.layout.raft(), cluster, FIRST_NODE)?;
    bootstrap(place, cluster, &authority)?;
    finish(place, NodeIdentity { cluster, node: FIRST_NODE, incarnation: Incarnation(0), control_addresses })
}

/// Makes `place` a node of the cluster of the token. Blocks; must not be called on a runtime.
///
/// # Errors
/// When something is there already, the token does not open the cluster, or something cannot be made.
pub fn join(place: &Place, token: &str) -> Result<NodeIdentity, SetupError> {
    check_empty(place)?;
    let token: Token = token.parse()?;
    identity::begin_setup(&place.layout, "a join")?;
    let who = JoinAs {
        name: name_of(place),
        control_address: Some(place.config.control_address()),
        data_address: Some(place.config.data_address()),
        failure_domain: place.config.failure_domain.clone(),
    };
    let joined =
        match block_on(join_cluster(place.config.listen, &token, &who)).map_err(io_at(place.layout.directory()))? {
            Ok(joined) => joined,
            Err(error) => {
                if may_have_happened(&error) {
                    return Err(SetupError::Join(error));
                }
                // The cluster did not take the token: there is nothing half-done.
                identity::end_setup(&place.layout)?;
                return Err(SetupError::Join(error));
            }
        };
    let Some(node) = joined.node else { return Err(SetupError::NotANode) };
    joined.credentials.save(&credentials_file(&place.layout))?;
    format_disks(place, joined.cluster, node)?;
    create_store(&place.layout.raft(), joined.cluster, node)?;
    let control_addresses = joined.control_addresses;
    finish(place, NodeIdentity { cluster: joined.cluster, node, incarnation: Incarnation(0), control_addresses })
}

/// Whether the cluster may have used the token up, so that what was begun cannot be taken back.
fn may_have_happened(error: &JoinError) -> bool {
    match error {
        JoinError::NoAddress | JoinError::Bind(_) | JoinError::Refused(_) | JoinError::Hello(_) => false,
        // Not even connected, or turned away before the request was read, unless it took until the deadline.
        JoinError::Connect { source, .. } => !matches!(source, weft_transport::ConnectError::Lane(_)),
        JoinError::WrongAuthority | JoinError::Credentials(_) | JoinError::Inconsistent => true,
    }
}

/// Refuses a place in which anything was set up.
fn check_empty(place: &Place) -> Result<(), SetupError> {
    let layout = &place.layout;
    match NodeIdentity::load(layout) {
        Ok(found) => {
            let directory = layout.directory().to_owned();
            return Err(SetupError::AlreadyMember { directory, node: found.node, cluster: found.cluster });
        }
        Err(IdentityError::Absent(_)) => {}
        Err(error) => return Err(error.into()),
    }
    if !is_empty_or_absent(&layout.raft())? {
        return Err(SetupError::StoreLeftOver(layout.raft()));
    }
    for path in place.disks() {
        if !is_empty_or_absent(&path)? {
            return Err(SetupError::DiskNotEmpty(path));
        }
    }
    fs::create_dir_all(layout.directory()).map_err(io_at(layout.directory()))
}

fn name_of(place: &Place) -> String {
    if place.config.name.is_empty() { host_name() } else { place.config.name.clone() }
}

fn format_disks(place: &Place, cluster: ClusterId, node: NodeId) -> Result<(), SetupError> {
    for path in place.disks() {
        fs::create_dir_all(&path).map_err(io_at(&path))?;
        format_disk(&path, cluster, node, &store_config(&place.config))?;
    }
    Ok(())
}

fn finish(place: &Place, identity: NodeIdentity) -> Result<NodeIdentity, SetupError> {
    identity.save(&place.layout)?;
    identity::end_setup(&place.layout)?;
    Ok(identity)
}

/// The shares of a node's memory as the configuration wants them.
#[must_use]
pub fn memory_plan(config: &NodeConfig) -> MemoryPlan {
    MemoryPlan::of(config.memory_mib, config.disks.len())
}

/// A disk's store as the configuration wants it.
#[must_use]
pub fn store_config(config: &NodeConfig) -> StoreConfig {
    let segment_mib = (config.journal_mib / 8).clamp(*SEGMENT_MIB.start(), *SEGMENT_MIB.end());
    let segments = (config.journal_mib / segment_mib).max(MIN_SEGMENTS);
    let memory = memory_plan(config);
    StoreConfig {
        segment_bytes: segment_mib << 20,
        segments,
        retained_segments: segments / 4,
        open_chunks: memory.open_chunks,
        max_entries: memory.journal_entries,
        ..StoreConfig::default()
    }
}

/// The first commit: runs the group of one for as long as that takes.
fn bootstrap(place: &Place, cluster: ClusterId, authority: &Authority) -> Result<(), SetupError> {
    let config = GroupConfig::new(place.layout.raft(), cluster, FIRST_NODE)?;
    let address = place.config.control_address();
    let command = Command::Bootstrap {
        cluster,
        authority_certificate: authority.certificate().to_vec(),
        authority_key: authority.key().to_vec(),
        node: NewNode {
            name: name_of(place),
            control_address: address,
            data_address: place.config.data_address(),
            failure_domain: place.config.failure_domain.clone(),
        },
    };
    let run = async {
        let group = MetaGroup::open(config, Arc::new(Nobody)).await?;
        let done = first_commit(&group, address, command).await;
        group.shutdown().await;
        done
    };
    block_on(async { tokio::time::timeout(BOOTSTRAP_TIMEOUT, run).await })
        .map_err(io_at(&place.layout.raft()))?
        .unwrap_or_else(|_| Err(SetupError::Group("it took too long; is the disk well?".to_owned())))
}

async fn first_commit(group: &MetaGroup, address: SocketAddr, command: Command) -> Result<(), SetupError> {
    let failed = |error: GroupError| SetupError::Group(error.to_string());
    group.bootstrap(address).await.map_err(failed)?;
    while let Err(error) = group.linearizable().await {
        match error {
            GroupError::NotLeader { .. } | GroupError::TimedOut { .. } => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            other => return Err(failed(other)),
        }
    }
    match group.propose(command).await.map_err(failed)? {
        CommandReply::Joined { node: FIRST_NODE, .. } => Ok(()),
        other => Err(SetupError::Group(format!("unexpected reply {other:?}"))),
    }
}

/// The peers of a group of one.
struct Nobody;

impl RaftPeers for Nobody {
    fn call(&self, to: NodeId, _: Option<SocketAddr>, _: Vec<u8>, _: Duration) -> PeerCall {
        Box::pin(async move { Err(PeerError::Unreachable(to)) })
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(tokio::task::LocalSet::new().block_on(&runtime, work))
}

fn io_at(path: &Path) -> impl FnOnce(std::io::Error) -> SetupError {
    let path = path.to_owned();
    move |source| SetupError::Io { path, source }
}

fn is_empty_or_absent(path: &Path) -> Result<bool, SetupError> {
    match fs::read_dir(path) {
        // A file system of its own begins with `lost+found`.
        Ok(mut entries) => Ok(entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lost+found"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(io_at(path)(error)),
    }
}

/// 128 bits that nobody else has drawn.
pub(crate) fn random_id() -> Result<u128, SetupError> {
    let mut bytes = [0; 16];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(16) => Ok(u128::from_le_bytes(bytes)),
        _ => Err(SetupError::NoRandomness),
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
