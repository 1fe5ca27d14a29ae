//! The control wire: registration and heartbeats of nodes, sessions of clients, the map, and namespace operations.
//!
//! Any node accepts these; one that does not lead the metadata group answers `NotLeader` with what it knows.

use crate::namespace::{Mutation, NamespaceReply, Notice, Query};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use weft_types::map::ClusterMap;
use weft_types::{
    DiskId, Epoch, ErrorKind, Incarnation, InodeNumber, LossGeneration, MapVersion, NodeId, ObjectId, PgId,
    RequestNumber, SessionId, SetVersion, StartId, Timestamp, TruncateGeneration, VolumeId,
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
    /// Answered when there is a notice with a number above `seen`, or after `wait_ms` with none.
    Watch {
        session: SessionId,
        seen: u64,
        wait_ms: u32,
    },
    /// What does the holder of the size cap know? Answered by `SizeTold`, or by `Done` when nobody told in time.
    AskSize {
        session: SessionId,
        volume: VolumeId,
        inode: InodeNumber,
        holder: SessionId,
    },
    /// The holder's answer to `Notice::SizeWanted`.
    TellSize {
        session: SessionId,
        volume: VolumeId,
        inode: InodeNumber,
        question: u64,
        told: ToldSize,
    },
    Admin(crate::admin::AdminRequest),
    /// From the node at whose join port a process knocked, to the leader.
    Join(Box<crate::admin::JoinRequest>),
    /// A notable fact for the event list, by a node.
    Note {
        node: NodeId,
        what: String,
    },
    /// Answered with `LockGranted` as soon as the wait that began with `request` is over, or with `LockWaits` after
    /// `wait_ms`.
    AwaitLock {
        session: SessionId,
        inode: InodeNumber,
        request: RequestNumber,
        wait_ms: u32,
    },
}

impl ControlRequest {
    /// For which session the request speaks.
    #[must_use]
    pub const fn session(&self) -> Option<SessionId> {
        match self {
            Self::SessionHeartbeat { session, .. }
            | Self::CloseSession { session }
            | Self::Mutate { session, .. }
            | Self::AwaitLock { session, .. }
            | Self::Watch { session, .. }
            | Self::AskSize { session, .. }
            | Self::TellSize { session, .. } => Some(*session),
            Self::Heartbeat(_)
            | Self::ChangeSet(_)
            | Self::GetMap { .. }
            | Self::Admin(_)
            | Self::SurrenderLease { .. }
            | Self::RegisterNode(_)
            | Self::DiskFailed { .. }
            | Self::Note { .. }
            | Self::OpenSession { .. }
            | Self::Query { .. }
            | Self::Join(_) => None,
        }
    }

    /// The number that its session gave it, if it changes something.
    #[must_use]
    pub const fn number(&self) -> Option<RequestNumber> {
        match self {
            Self::Mutate { request, .. } | Self::AwaitLock { request, .. } => Some(*request),
            _ => None,
        }
    }
}

/// What the holder of a size cap knows of a file.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ToldSize {
    pub object: ObjectId,
    pub generation: TruncateGeneration,
    pub size_bytes: u64,
    /// Time of the last write, if it is not committed.
    pub written: Option<Timestamp>,
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
    /// Notices up to this number, oldest first.
    Notices {
        upto: u64,
        notices: Vec<Notice>,
    },
    SizeTold(ToldSize),
    Done,
    Admin(Box<crate::admin::AdminReply>),
    NotLeader {
        leader: Option<(NodeId, SocketAddr)>,
    },
    Refused(ErrorKind),
    Joined(Box<crate::admin::JoinReply>),
    LockGranted,
    LockWaits,
}

/// A node's new incarnation (design 5.4).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct RegisterNode {
    pub node: NodeId,
    /// The same however often this start asks; it gets one incarnation.
    pub start: StartId,
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
