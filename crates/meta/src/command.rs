//! What goes into the Raft log, and what applying it answers.
//!
//! Responsible for: the `Command` and `CommandReply` types and the typed refusals of set changes.
//! Guarantees: plain data. Wall time and random ids are inputs here, put in by the proposer, so that every replica
//! computes the same bytes.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use weft_proto::admin::TokenRole;
use weft_proto::control::{ChangeSetRequest, RegisterNode};
use weft_proto::namespace::{Mutation, NamespaceReply};
use weft_types::map::{VolumeRecord, VolumeState};
use weft_types::{
    AckMode, ChunkSize, ClusterId, DiskId, Epoch, ErrorKind, Incarnation, InodeNumber, LossGeneration, MapVersion,
    NodeId, ObjectId, PgId, RequestNumber, SessionId, SessionOwner, SetVersion, Timestamp, TruncateGeneration,
    VolumeId,
};

/// One entry of the Raft log: a command and the wall time at which it was proposed (file times, expiry, event list; no
/// protocol decision depends on it).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Stamped {
    pub at: Timestamp,
    pub command: Command,
}

/// How a node introduces itself when it joins.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct NewNode {
    pub name: String,
    pub control_address: SocketAddr,
    pub data_address: SocketAddr,
    /// Outermost first; may be empty (then the node is its own failure domain).
    pub failure_domain: Vec<String>,
}

/// BLAKE3 of a join token's text. The text itself is never stored.
pub type TokenHash = [u8; 32];

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum Command {
    /// First command of a cluster. Its node gets id 1 and is a voter.
    Bootstrap {
        cluster: ClusterId,
        authority_certificate: Vec<u8>,
        authority_key: Vec<u8>,
        node: NewNode,
    },
    /// Allocates a node id. With `token`, consumes that token in the same step. Reply: `Joined`.
    JoinNode {
        node: NewNode,
        token: Option<TokenHash>,
    },
    /// A client process presents its token. Reply: `TokenAccepted`.
    ConsumeToken {
        token: TokenHash,
        role: TokenRole,
    },
    CreateToken {
        id: String,
        hash: TokenHash,
        role: TokenRole,
        name: String,
        expires_at_seconds: i64,
    },
    RevokeToken {
        id: String,
    },
    /// Bookkeeping: the Raft membership that has been committed.
    SetVoters {
        voters: BTreeSet<NodeId>,
    },
    /// Reply: `Registered`.
    RegisterNode(RegisterNode),
    /// The incarnation has ended by its own word or its parent's (design 4.1). Same effect as `NodeDead`.
    SurrenderLease {
        node: NodeId,
        incarnation: Incarnation,
    },
    /// The leader saw its lease lapse. Only `leader::Leader` may decide this.
    NodeDead {
        node: NodeId,
        incarnation: Incarnation,
    },
    /// Operator: the node will not come back. Refused while it is live or holds the only good copy of something.
    RemoveNode {
        node: NodeId,
    },
    AddDisk {
        disk: DiskId,
        node: NodeId,
        incarnation: Incarnation,
        capacity_bytes: u64,
    },
    DiskFailed {
        disk: DiskId,
        incarnation: Incarnation,
    },
    /// Reply: `SetChanged` or `SetRefused`.
    ChangeSet(ChangeSetRequest),
    /// Begin to move a primary (design 4.3): pending until `CompleteMove`. Reply: `SetChanged` or `SetRefused`.
    MovePrimary {
        pg: PgId,
        epoch: Epoch,
        set_version: SetVersion,
        to: DiskId,
    },
    /// The old primary's node has acknowledged `since`, or lost its lease.
    CompleteMove {
        pg: PgId,
        epoch: Epoch,
        since: MapVersion,
    },
    /// Put an empty disk in the place of a dead member: it becomes a member that is `Out`; the primary syncs it and
    /// promotes it, and the dead one leaves in the same step as the promotion (design 5.3).
    ReplaceMember {
        pg: PgId,
        set_version: SetVersion,
        dead: DiskId,
        spare: DiskId,
    },
    /// No level member was live for `LOSSLESS_WAIT`: let a lossy one lead, so that it can ask for `AcceptLoss`.
    ElectLossy {
        pg: PgId,
        epoch: Epoch,
        set_version: SetVersion,
    },
    /// Operator (design 5.9): make a stale replica primary, naming the loss generation that this ends.
    ForceStale {
        pg: PgId,
        disk: DiskId,
        loss_generation: LossGeneration,
    },
    /// Reply: `Volume`.
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
    /// Removes at most `max_records` metadata records of a volume that is being deleted; the last call removes the volume
    /// and its placement groups from the map. Proposed by the leader. Reply: `VolumePurge`.
    PurgeVolume {
        volume: VolumeId,
        max_records: u32,
    },
    /// Reply: `SessionOpened`.
    OpenSession {
        owner: SessionOwner,
        volume_name: String,
        host: String,
        mount_point: String,
    },
    /// Off the list of live sessions; still owns its caps until `FenceComplete`.
    StrikeSession {
        session: SessionId,
    },
    /// Every live node has acknowledged `since`, or lapsed: what the session owned is free.
    FenceComplete {
        session: SessionId,
        since: MapVersion,
    },
    /// Everything of the session was answered; it ends.
    CloseSession {
        session: SessionId,
    },
    /// A client's namespace request. Reply: `Namespace`.
    Mutate {
        session: SessionId,
        request: RequestNumber,
        low_water: RequestNumber,
        volume: VolumeId,
        mutation: Mutation,
    },
    /// The placement groups hold nothing of this deletion any more. For a cut, `generation` names which one.
    ReclaimDone {
        volume: VolumeId,
        object: ObjectId,
        generation: TruncateGeneration,
    },
    /// The highest end of any sequenced write of a file whose size-cap holder was fenced (design 7 size).
    SizeRecovered {
        volume: VolumeId,
        inode: InodeNumber,
        generation: TruncateGeneration,
        end_bytes: u64,
    },
    /// A notable fact for the event list.
    Note {
        node: NodeId,
        what: String,
    },
    /// Takes a place in the log and changes nothing.
    Nothing,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum CommandReply {
    Done,
    Joined { node: NodeId, cluster: ClusterId },
    TokenAccepted { cluster: ClusterId, name: String },
    Registered { incarnation: Incarnation, map_version: MapVersion },
    SetChanged { map_version: MapVersion },
    SetRefused(SetRefusal),
    Volume(VolumeRecord),
    VolumePurge { finished: bool },
    SessionOpened { session: SessionId, volume: VolumeId },
    Namespace(Result<NamespaceReply, ErrorKind>),
    Refused(ErrorKind),
}

/// Why a compare-and-set on a placement group was refused (design 5.3).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, thiserror::Error)]
pub enum SetRefusal {
    #[error("no such placement group")]
    UnknownGroup,
    #[error("epoch is {have}, request names {got}")]
    StaleEpoch { have: Epoch, got: Epoch },
    #[error("set version is {have}, request names {got}")]
    StaleSetVersion { have: SetVersion, got: SetVersion },
    #[error("incarnation is {have}, request names {got}")]
    StaleIncarnation { have: Incarnation, got: Incarnation },
    #[error("the requester is not the primary")]
    NotPrimary,
    #[error("the primary is being moved")]
    Moving,
    #[error("disk {0} is not a member")]
    NotMember(DiskId),
    #[error("disk {0} is not in sync")]
    NotInSync(DiskId),
    #[error("disk {0} is not syncing")]
    NotSyncing(DiskId),
    #[error("disk {0} is not out of the set")]
    NotOut(DiskId),
    #[error("disk {0} is not on a live node, under its current incarnation")]
    NotLive(DiskId),
    #[error("disk {0} is level already")]
    AlreadyLevel(DiskId),
    #[error("the primary cannot remove itself")]
    RemovesItself,
    #[error("{level} level members would be left, the minimum is {minimum}")]
    BelowMinimum { level: usize, minimum: u8 },
    #[error("it would remove the last member that is neither lossy nor behind")]
    LastLevelMember,
    #[error("the primary has not levelled its members at this epoch")]
    NotLevelled,
    #[error("the members were levelled at this epoch already")]
    AlreadyLevelled,
    #[error("the primary has to be among the levelled members")]
    PrimaryNotLevelled,
    #[error("the primary is lossy: only accepting the loss makes it a log source")]
    LossyPrimary,
    #[error("a member that is neither lossy nor behind is live")]
    LevelMemberLive,
    #[error("an in-sync member is live")]
    InSyncMemberLive,
    #[error("no in-sync member is live")]
    NoCandidate,
    #[error("loss generation is {have}, request names {got}")]
    StaleLossGeneration { have: LossGeneration, got: LossGeneration },
    #[error("the member to replace is live")]
    StillLive,
    #[error("disk {0} cannot take a replica here")]
    UnfitSpare(DiskId),
    #[error("no such pending move")]
    NoSuchMove,
    #[error("the volume is {0:?}")]
    VolumeGone(VolumeState),
    #[error("disk {0} was never complete or is not any more: what it has is no state that the group ever had")]
    Incomplete(DiskId),
}

impl From<SetRefusal> for ErrorKind {
    fn from(refusal: SetRefusal) -> Self {
        Self::Refused(refusal.to_string())
    }
}
