//! The placement map: which disks hold a placement group, who leads it, and which of its members may be believed.
//!
//! Values here are facts committed by the metadata group. Rules about who may change them live in `weft-meta`; rules
//! about what a member does with them live in `weft-replication`.

use crate::geometry::ChunkSize;
use crate::ids::{ChunkId, ClusterId, DiskId, Incarnation, NodeId, PgId, SessionId, SessionOwner, VolumeId};
use crate::position::{Epoch, LossGeneration, MapVersion, SetVersion};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// When a write is acknowledged (design 5, "Acknowledged").
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug, Default)]
#[serde(rename_all = "lowercase")]
pub enum AckMode {
    /// In the journal of every in-sync member, not necessarily synced.
    #[default]
    Memory,
    /// Synced in the journal of every in-sync member.
    Disk,
}

/// Where a member stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum MemberState {
    /// Counts for acknowledgement and flush.
    InSync {
        /// May have lost entries it had acknowledged (design 5.4): no log source, no primary.
        lossy: bool,
        /// Was not levelled when the epoch began (design 5.5): no log source, no primary.
        behind: bool,
    },
    /// Receives new entries while resync copies the old ones; counts for nothing (design 5.7).
    Syncing,
    /// Was removed from the set; its data are kept for a delta resync.
    Out,
    /// Is out of the set, and was never complete or is not any more: it is new, or what was copied to it broke off. What it has is
    /// no state that the group ever had, though a resync may go on from it.
    Incomplete,
}

impl MemberState {
    #[must_use]
    pub const fn is_out(self) -> bool {
        matches!(self, Self::Out | Self::Incomplete)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Member {
    pub disk: DiskId,
    pub node: NodeId,
    /// The incarnation under which the member was last admitted. Messages of another one are refused.
    pub incarnation: Incarnation,
    pub state: MemberState,
}

impl Member {
    #[must_use]
    pub const fn is_in_sync(&self) -> bool {
        matches!(self.state, MemberState::InSync { .. })
    }

    /// In sync, and neither lossy nor behind: may be primary, may be a log source, counts towards the minimum.
    #[must_use]
    pub const fn is_level(&self) -> bool {
        matches!(self.state, MemberState::InSync { lossy: false, behind: false })
    }
}

/// A committed wish to move the primary, which takes effect when the old one can no longer serve (design 4.3).
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct PendingMove {
    pub to: DiskId,
    /// The old primary's node has to acknowledge this version, or lose its lease.
    pub since: MapVersion,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct PgRecord {
    pub pg: PgId,
    pub epoch: Epoch,
    /// The first map that names this epoch. A change that names an older map was sent to an earlier primary, perhaps long
    /// ago, and is not carried out (design 4.5).
    pub epoch_since: MapVersion,
    /// `None` while no member may lead.
    pub primary: Option<DiskId>,
    /// The epoch whose primary has committed what it levelled; it serves when this equals `epoch` (design 5.5).
    pub levelled_epoch: Epoch,
    pub set_version: SetVersion,
    pub members: Vec<Member>,
    pub loss_generation: LossGeneration,
    /// Writes wait while fewer level members than this are in the set.
    pub min_in_sync: u8,
    pub replicas: u8,
    pub pending_move: Option<PendingMove>,
}

impl PgRecord {
    #[must_use]
    pub fn member(&self, disk: DiskId) -> Option<&Member> {
        self.members.iter().find(|m| m.disk == disk)
    }

    #[must_use]
    pub fn primary_member(&self) -> Option<&Member> {
        self.primary.and_then(|disk| self.member(disk))
    }

    pub fn in_sync(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|m| m.is_in_sync())
    }
}

/// What it takes to route I/O of a volume.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct VolumeRecord {
    pub id: VolumeId,
    pub name: String,
    pub replicas: u8,
    pub min_in_sync: u8,
    pub chunk_size: ChunkSize,
    pub ack: AckMode,
    /// Number of placement groups; fixed at creation.
    pub pg_count: u16,
    pub state: VolumeState,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
pub enum VolumeState {
    Active,
    /// No new opens; its data are being deleted.
    Deleting,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Joined, has not registered an incarnation yet.
    Joined,
    Live,
    /// Declared dead, or stopped cleanly.
    Down,
    /// Removed for good; its id is never used again.
    Removed,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct NodeRecord {
    pub id: NodeId,
    pub name: String,
    pub incarnation: Incarnation,
    pub state: NodeState,
    /// Metadata, Raft and administration.
    pub control_address: SocketAddr,
    /// Chunk data and replication.
    pub data_address: SocketAddr,
    /// Failure domain, outermost first, for example `["rack-2", "box-7"]`.
    pub failure_domain: Vec<String>,
    pub voter: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
pub enum DiskState {
    Active,
    /// Was not there when its node last registered; active again when it is.
    Missing,
    /// An fsync failed: admitted again only wiped, under a new id (design 4.6).
    Failed,
    Removed,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct DiskRecord {
    pub id: DiskId,
    pub node: NodeId,
    pub capacity_bytes: u64,
    pub state: DiskState,
}

/// A session whose operations nodes accept, from its owner only.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct LiveSession {
    pub id: SessionId,
    pub owner: SessionOwner,
}

/// All that routes I/O, at one version. A node's copy holds every volume, a client's only its own.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ClusterMap {
    pub cluster: ClusterId,
    pub version: MapVersion,
    pub nodes: Vec<NodeRecord>,
    pub disks: Vec<DiskRecord>,
    pub volumes: Vec<VolumeRecord>,
    pub pgs: Vec<PgRecord>,
    /// In the order of their ids. A session that is not listed is fenced (design 4.4).
    pub live_sessions: Vec<LiveSession>,
}

impl ClusterMap {
    #[must_use]
    pub fn is_live(&self, session: SessionId) -> bool {
        self.live_sessions.iter().any(|live| live.id == session)
    }
}

/// The placement group of a chunk: hash of the object and the chunk's number, over the volume's groups.
#[must_use]
pub fn pg_of_chunk(volume: VolumeId, pg_count: u16, chunk: ChunkId) -> PgId {
    let mut bytes = [0u8; 12];
    bytes[..8].copy_from_slice(&chunk.object.0.to_le_bytes());
    bytes[8..].copy_from_slice(&chunk.index.0.to_le_bytes());
    let hash = blake3::hash(&bytes);
    let mut first = [0u8; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    let slot = u64::from_le_bytes(first) % u64::from(pg_count.max(1));
    PgId { volume, index: slot as u16 }
}
