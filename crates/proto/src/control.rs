//! The control wire: registration and heartbeats of nodes, sessions of clients, the map, and namespace operations.
//!
//! Any node accepts these; one that does not lead the metadata group answers `NotLeader` with what it knows.

use crate::namespace::{Mutation, NamespaceReply, Query};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use weft_types::map::ClusterMap;
use weft_types::{
    DiskId, Epoch, ErrorKind, Incarnation, LossGeneration, MapVersion, NodeId, PgId, RequestNumber, SessionId,
    SetVersion, VolumeId,
};

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum ControlRequest {
    RegisterNode(RegisterNode),
    Heartbeat(NodeHeartbeat),
    /// The parent process of a worker, or the worker itself on a clean stop: this incarnation serves no more.
    SurrenderLease {
        node: NodeId,
        incarnation: Incarnation,
    },
    ChangeSet(ChangeSetRequest),
    /// A disk whose fsync failed (design 4.6).
    DiskFailed {
        disk: DiskId,
        incarnation: Incarnation,
    },
    OpenSession {
        volume_name: String,
        host: String,
        mount_point: String,
    },
    /// Keeps the session alive; tells the version of the map that the client should have.
    SessionHeartbeat {
        session: SessionId,
        low_water: RequestNumber,
    },
    /// After everything of the session was answered.
    CloseSession {
        session: SessionId,
    },
    /// Answered at once when the map is newer than `have`, otherwise when it changes or `wait_ms` are over.
    GetMap {
        volume: Option<VolumeId>,
        have: MapVersion,
        wait_ms: u32,
    },
    Mutate {
        session: SessionId,
        request: RequestNumber,
        low_water: RequestNumber,
        volume: VolumeId,
        mutation: Mutation,
    },
    Query {
        volume: VolumeId,
        query: Query,
    },
    Admin(crate::admin::AdminRequest),
    /// From the node at whose join port a process knocked, to the leader.
    Join(Box<crate::admin::JoinRequest>),
    /// A notable fact for the event list, by a node.
    Note {
        node: NodeId,
        what: String,
    },
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum ControlReply {
    Registered {
        incarnation: Incarnation,
        map_version: MapVersion,
    },
    /// The lease runs for `NODE_LEASE` from when the answered heartbeat was sent, once `map_version` is applied.
    HeartbeatAnswer {
        map_version: MapVersion,
    },
    SetChanged {
        map_version: MapVersion,
    },
    SessionOpened {
        session: SessionId,
        volume: VolumeId,
        map: ClusterMap,
    },
    SessionAlive {
        map_version: MapVersion,
    },
    Map(Box<ClusterMap>),
    /// The map is still at the version the caller has.
    MapUnchanged,
    Namespace(Box<Result<NamespaceReply, ErrorKind>>),
    Done,
    Admin(Box<crate::admin::AdminReply>),
    NotLeader {
        leader: Option<(NodeId, SocketAddr)>,
    },
    Refused(ErrorKind),
    Joined(Box<crate::admin::JoinReply>),
}

/// A node's new incarnation (design 5.4).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct RegisterNode {
    pub node: NodeId,
    /// The incarnation this process knows it was before; zero if none.
    pub previous: Incarnation,
    pub control_address: SocketAddr,
    pub data_address: SocketAddr,
    pub disks: Vec<RegisterDisk>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct RegisterDisk {
    pub disk: DiskId,
    pub capacity_bytes: u64,
    /// Nothing that the previous incarnation acknowledged is missing: same boot id and same mount, and an fsync that
    /// succeeded with none failed before; or a clean-stop mark naming the incarnation it closed.
    pub proof: Option<NothingLost>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct NothingLost {
    /// The incarnation for which the proof holds; it counts only if that is the last one registered.
    pub of: Incarnation,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct NodeHeartbeat {
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// Map version this node has applied: acknowledges pending changes and fences up to it (design 4.3).
    pub applied: MapVersion,
    /// Nodes whose data connection has answered lately; tells an isolated accuser from an isolated accused (design 5.3).
    pub reachable: Vec<NodeId>,
    /// Free bytes per disk, for placement and statfs.
    pub free_bytes: Vec<(DiskId, u64)>,
}

/// Compare-and-set on a placement group's record by its primary (design 5.3). Refused when any of the named facts is old.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ChangeSetRequest {
    pub pg: PgId,
    pub epoch: Epoch,
    pub set_version: SetVersion,
    pub requester: DiskId,
    pub incarnation: Incarnation,
    pub change: SetChange,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum SetChange {
    /// The new primary has levelled these members; the other in-sync ones are behind. It may serve now.
    Levelled { disks: Vec<DiskId> },
    /// A member that was behind or lossy has been levelled since.
    Caught { disk: DiskId },
    /// No progress for `BACKUP_PROGRESS_TIMEOUT`.
    Remove { disk: DiskId },
    /// Resync of this member begins.
    BeginSync { disk: DiskId },
    /// Resync is complete and flushed.
    Promote { disk: DiskId },
    /// Only lossy logs are left and `LOSSLESS_WAIT` is over: the longest one is the log from now on.
    AcceptLoss { from: LossGeneration },
    /// Only lossy logs are left, and the one that leads cannot take over the longest: let that member lead.
    Yield { to: DiskId },
}
