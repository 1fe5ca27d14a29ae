//! Administrative requests: what the command line asks of the cluster.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use weft_types::map::{ClusterMap, VolumeRecord};
use weft_types::{
    AckMode, ChunkSize, DiskId, ErrorKind, InodeNumber, LockKind, LockRange, LossGeneration, MapVersion, NodeId, PgId,
    SessionId, VolumeId,
};

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum AdminRequest {
    ClusterStatus,
    CreateVolume {
        name: String,
        replicas: u8,
        chunk_size: ChunkSize,
        ack: AckMode,
        pg_count: u16,
    },
    DeleteVolume {
        name: String,
    },
    ListVolumes,
    ListSessions,
    /// Strike a session off: its locks are freed once every live node refuses its operations.
    EvictSession {
        session: SessionId,
    },
    /// Progress of resync in this node's groups; answered by each node for the groups it leads.
    HealStatus {
        volume: VolumeId,
    },
    /// Counters, memory, journal and disk state of the answering node.
    NodeReport,
    /// Hash over the contents of each replica of the volume that the answering node holds, by placement group.
    ReplicaDigests {
        volume: VolumeId,
    },
    /// Latest events, newest last.
    Events {
        after: u64,
        max: u32,
    },
    CreateToken {
        role: TokenRole,
        valid_seconds: u64,
        name: String,
    },
    RevokeToken {
        id: String,
    },
    ListTokens,
    RemoveNode {
        node: NodeId,
    },
    /// Locks that are held and waited for, of one volume or all; at most `MAX_LOCKS_LISTED`.
    ListLocks {
        volume: Option<VolumeId>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
pub enum TokenRole {
    Node,
    Client,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum AdminReply {
    Cluster(ClusterStatus),
    Volume(VolumeRecord),
    Volumes(Vec<VolumeSummary>),
    Sessions(Vec<SessionSummary>),
    Heal(Vec<HealProgress>),
    Node(Box<NodeReport>),
    Digests(Vec<ReplicaDigest>),
    Events(Vec<Event>),
    Token { text: String, id: String },
    Tokens(Vec<TokenSummary>),
    Done,
    Failed(ErrorKind),
    Locks(Vec<LockSummary>),
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ClusterStatus {
    pub map: ClusterMap,
    pub leader: Option<NodeId>,
    pub answering: NodeId,
    /// Milliseconds since each node's last answered heartbeat, as the leader knows it.
    pub last_heartbeat_ms: Vec<(NodeId, u64)>,
    pub free_bytes: Vec<(DiskId, u64)>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct VolumeSummary {
    pub record: VolumeRecord,
    pub inodes: u64,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct SessionSummary {
    pub session: SessionId,
    pub volume: VolumeId,
    pub host: String,
    pub mount_point: String,
    pub struck: bool,
}

/// A byte range that is locked, or that somebody waits for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct LockSummary {
    pub volume: VolumeId,
    pub inode: InodeNumber,
    pub session: SessionId,
    pub host: String,
    pub mount_point: String,
    /// On that host.
    pub process_id: u32,
    pub range: LockRange,
    pub kind: LockKind,
    /// Since when it is held or waited for.
    pub since_seconds: i64,
    pub state: LockState,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
pub enum LockState {
    Held,
    Waiting,
}

/// Resync of one member of one placement group, as its primary knows it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct HealProgress {
    pub pg: PgId,
    pub target: DiskId,
    pub chunks_total: u64,
    pub chunks_done: u64,
    pub bytes_copied: u64,
    /// Bytes that were compared by hash and found equal.
    pub bytes_equal: u64,
    pub running_ms: u64,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ReplicaDigest {
    pub pg: PgId,
    pub disk: DiskId,
    /// BLAKE3 over (chunk, block, hash) of every present block in order, hexadecimal.
    pub digest: String,
    pub blocks: u64,
    pub chunks: u64,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct NodeReport {
    pub node: NodeId,
    pub applied: MapVersion,
    pub lease_held: bool,
    pub resident_bytes: u64,
    pub resident_peak_bytes: u64,
    pub counters: Vec<(String, u64)>,
    pub disks: Vec<DiskReport>,
    /// Placement groups this node leads that do not serve fully, and why.
    pub troubled_pgs: Vec<(PgId, String)>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct DiskReport {
    pub disk: DiskId,
    pub path: String,
    pub filesystem: String,
    pub total_bytes: u64,
    pub free_bytes: u64,
    pub journal_used_bytes: u64,
    pub journal_total_bytes: u64,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Event {
    pub number: u64,
    /// Wall-clock seconds since 1970, for people.
    pub at_seconds: i64,
    pub node: NodeId,
    pub what: String,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct TokenSummary {
    pub id: String,
    pub role: TokenRole,
    pub name: String,
    pub expires_at_seconds: i64,
    pub used: bool,
}

/// What a joining process sends, over a connection on which only the server has a certificate.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct JoinRequest {
    pub protocol_version: u32,
    pub token: String,
    /// A certificate signing request in DER. The private key never leaves the joining process.
    pub signing_request: Vec<u8>,
    pub name: String,
    pub control_address: Option<SocketAddr>,
    pub data_address: Option<SocketAddr>,
    pub failure_domain: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum JoinReply {
    Accepted {
        cluster: weft_types::ClusterId,
        /// For nodes.
        node: Option<NodeId>,
        certificate: Vec<u8>,
        authority: Vec<u8>,
        /// Control addresses of the cluster's nodes.
        control_addresses: Vec<SocketAddr>,
    },
    Refused(ErrorKind),
}

/// Named for the operator when a stale replica is forced (design 5.9).
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct LossNotice {
    pub pg: PgId,
    pub before: LossGeneration,
    pub after: LossGeneration,
}
