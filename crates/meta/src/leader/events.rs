//! What the leader is told and what it asks for.

use crate::command::Command;
use crate::records::{ReclaimItem, ReclaimWhat, SizeRecovery};
use std::collections::{BTreeMap, BTreeSet};
use weft_proto::control::{ChangeSetRequest, NodeHeartbeat};
use weft_types::map::ClusterMap;
use weft_types::{ErrorKind, InodeNumber, MapVersion, NodeId, ObjectId, SessionId, TruncateGeneration, VolumeId};

/// Names a request whose answer is outstanding; drawn by the shell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// Names a quorum round; drawn by the leader, never reused in one life of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RoundId(pub u64);

/// What the leader has to know of the replicated state: [`crate::read::facts`] of the applied view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The whole map, all volumes.
    pub map: ClusterMap,
    pub sessions: Vec<SessionFact>,
    /// First deletions in progress, oldest objects first, at most `MAX_RECLAIMS_LISTED`.
    pub reclaims: Vec<ReclaimItem>,
    pub size_recoveries: Vec<SizeRecovery>,
    /// At most `MAX_DEBTS_LISTED`.
    pub debts: Vec<Debt>,
}

impl Facts {
    /// Of what sessions owe, by its number: the size caps that cannot be given up yet, because their holders' last writes may
    /// wait for a cut, and the cut waits for the acknowledgement of another session (decision 0013).
    #[must_use]
    pub fn held_up(&self) -> BTreeSet<(SessionId, u64)> {
        let cut = |item: &ReclaimItem| match item.what {
            ReclaimWhat::Cut { inode, .. } => Some(((item.volume, inode), Vec::new())),
            ReclaimWhat::Object | ReclaimWhat::Replaced { .. } => None,
        };
        let mut waited_for: BTreeMap<(VolumeId, InodeNumber), Vec<SessionId>> =
            self.reclaims.iter().filter_map(cut).collect();
        for debt in self.debts.iter().filter(|debt| debt.kind == DebtKind::Acknowledgement) {
            if let Some(sessions) = waited_for.get_mut(&(debt.volume, debt.inode)) {
                sessions.push(debt.session);
            }
        }
        let held_up = |debt: &&Debt| {
            let sessions = waited_for.get(&(debt.volume, debt.inode)).into_iter().flatten();
            debt.kind == DebtKind::SizeCap && sessions.into_iter().any(|session| *session != debt.session)
        };
        self.debts.iter().filter(held_up).map(|debt| (debt.session, debt.number)).collect()
    }
}

/// What a session was asked for by its notices and has not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Debt {
    pub session: SessionId,
    pub volume: VolumeId,
    pub inode: InodeNumber,
    pub kind: DebtKind,
    /// Tells it from an earlier one of the same kind.
    pub number: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DebtKind {
    /// Give up the size cap.
    SizeCap,
    /// Acknowledge a truncation.
    Acknowledgement,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionFact {
    pub session: SessionId,
    pub volume: VolumeId,
    /// Set while it is struck and its fence is not complete.
    pub struck_since: Option<MapVersion>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reclaimed {
    /// Every placement group of the volume has done it.
    Finished,
    /// Some did not; it is tried again later.
    Failed,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeaderEvent {
    /// This node has won an election and its first entry of the term is applied.
    BecameLeader {
        facts: Facts,
    },
    /// Every ticket that is still open has to be answered `NotLeader` by the shell.
    LostLeadership,
    /// The event's `now` is the time of receipt.
    HeartbeatReceived {
        ticket: Ticket,
        heartbeat: NodeHeartbeat,
    },
    SessionHeartbeat {
        ticket: Ticket,
        session: SessionId,
    },
    /// A quorum confirmed after `StartQuorumRound` that this node leads (openraft: `ensure_linearizable`).
    QuorumRoundDone {
        round: RoundId,
    },
    QuorumRoundFailed {
        round: RoundId,
    },
    /// A command was applied with `map_changed` or `work_changed`.
    Applied {
        facts: Facts,
    },
    /// A primary asks for a set change.
    SetChangeRequested {
        ticket: Ticket,
        request: ChangeSetRequest,
    },
    /// Somebody asks for what this session holds (`Applied::wanted_sessions`).
    SessionWanted {
        session: SessionId,
    },
    /// Operator.
    EvictSession {
        session: SessionId,
    },
    ReclaimFinished {
        volume: VolumeId,
        object: ObjectId,
        generation: TruncateGeneration,
        outcome: Reclaimed,
    },
    /// Answer to `RecoverSize`; `None` when some placement group did not answer.
    SizeCollected {
        recovery: SizeRecovery,
        end_bytes: Option<u64>,
    },
    /// At least every `HEARTBEAT_INTERVAL`.
    Tick,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeaderAction {
    /// Begin a quorum round now, after everything received so far; one at a time.
    StartQuorumRound {
        round: RoundId,
    },
    /// The lease runs from when the node sent the heartbeat, once it has applied `map_version`.
    AnswerHeartbeat {
        ticket: Ticket,
        node: NodeId,
        map_version: MapVersion,
    },
    AnswerSession {
        ticket: Ticket,
        session: SessionId,
        map_version: MapVersion,
    },
    Refuse {
        ticket: Ticket,
        why: ErrorKind,
    },
    /// No answer will be given; forget the ticket (the caller's deadline ends its wait).
    Drop {
        ticket: Ticket,
    },
    /// Stamp it with the wall time and give it to Raft.
    Propose(Command),
    /// As `Propose`, and answer the ticket with its reply.
    ProposeFor {
        ticket: Ticket,
        command: Command,
    },
    /// Remove an object, or its part past a cut, from every placement group; then `ReclaimFinished`. Idempotent.
    StartReclaim(ReclaimItem),
    /// Ask every placement group of the object for its extent; then `SizeCollected`.
    RecoverSize(SizeRecovery),
}
