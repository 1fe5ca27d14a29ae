//! What can happen to a replica. The shell (a node's data thread, or the simulator) feeds these to `Replica::step`.

use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;
use weft_proto::data::{DiscardRequest, FillRequest, ReadRequest, TruncateRequest, WriteRequest};
use weft_proto::replication::Envelope;
use weft_types::{
    BlockHash, BlockIndex, ChunkId, ChunkSize, DiskId, LogPosition, MapVersion, Member, NodeId, ObjectId, Origin,
    PgRecord, SessionId, TruncateGeneration,
};

/// Names a client's request until it is answered with `Action::Reply`. Chosen by the shell, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestToken(pub u64);

/// Names a read of the store until its result comes back. Chosen by the replica, never used twice by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReadTicket(pub u64);

/// Names a `SaveState` until it is durable. Chosen by the replica, never used twice by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SaveTicket(pub u64);

#[derive(Clone, Debug)]
pub enum Event {
    /// A newer map that names this group. Also given when only sessions or nodes changed.
    Map(GroupMap),
    Request {
        token: RequestToken,
        request: ClientRequest,
    },
    /// From another member. The shell has checked that the connection belongs to the node of `from`; a message whose
    /// `to_incarnation` is not this process's may be dropped by it or given here (then it is dropped here).
    Peer(Envelope),
    /// A sync finished: everything of this group's log up to here is durable. Also fine when nothing new is.
    Durable(LogPosition),
    /// The state of this ticket, and all earlier ones, are durable.
    StateSaved(SaveTicket),
    BlocksRead {
        ticket: ReadTicket,
        outcome: ReadOutcome,
    },
    PresenceRead {
        ticket: ReadTicket,
        /// Runs of present blocks.
        runs: Vec<(BlockIndex, u16)>,
    },
    ObjectRead {
        ticket: ReadTicket,
        /// Of the object at the place of the log at which its end was looked up. `None`: nothing is held of it.
        generation: Option<TruncateGeneration>,
        end_bytes: u64,
        allocated_bytes: u64,
    },
    /// The connection to this member broke; what was sent may be lost.
    PeerDown(DiskId),
    /// There is a connection again.
    PeerUp(DiskId),
    /// An action could not be carried out, or a sync failed. The disk is lost to this process.
    DiskFailed,
    /// The node stops cleanly: refuse what is not sequenced.
    Stop,
    /// Resync may copy this much per second from now on.
    ResyncRate {
        bytes_per_second: u64,
    },
    /// At least every `TICK_INTERVAL`.
    Tick,
}

/// What the map says of this group and of everything it depends on.
#[derive(Clone, Debug)]
pub struct GroupMap {
    pub record: PgRecord,
    pub volume: VolumeFacts,
    pub cluster: Arc<ClusterFacts>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VolumeFacts {
    pub chunk_size: ChunkSize,
}

/// Shared by all groups of a node; made once per map.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClusterFacts {
    pub version: MapVersion,
    pub live_sessions: BTreeSet<SessionId>,
    pub live_nodes: BTreeSet<NodeId>,
    /// Failed, removed, or not there when their node registered: whatever node they belong to, nobody answers for them.
    pub gone_disks: BTreeSet<DiskId>,
}

impl ClusterFacts {
    /// Whether somebody may answer for this member: its node lives, and so does its disk.
    #[must_use]
    pub fn is_live(&self, member: &Member) -> bool {
        self.live_nodes.contains(&member.node) && !self.gone_disks.contains(&member.disk)
    }
}

/// `DataRequest` for one group, with its data. A flush of several groups is split by the shell.
#[derive(Clone, Debug)]
pub enum ClientRequest {
    Write { request: WriteRequest, data: Bytes },
    Read(ReadRequest),
    Discard(DiscardRequest),
    Fill(FillRequest),
    Truncate(TruncateRequest),
    DeleteObject { map_version: MapVersion, origin: Option<Origin>, object: ObjectId },
    Flush { map_version: MapVersion, session: SessionId },
    ObjectExtent { map_version: MapVersion, object: ObjectId, generation: TruncateGeneration },
    Presence { map_version: MapVersion, chunk: ChunkId },
}

#[derive(Clone, Debug)]
pub enum ReadOutcome {
    /// `bytes` holds the whole range; absent blocks are zeros. `bad` lists blocks that did not verify, whose bytes are
    /// not to be used, with the trailer's hash where that is intact.
    Done {
        bytes: Bytes,
        bad: Vec<BadBlock>,
    },
    Failed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadBlock {
    pub block: BlockIndex,
    pub expected: Option<BlockHash>,
}
