//! Leadership and membership, as the rest of the node wants to know them.

use crate::types::{PeerAddress, TypeConfig};
use openraft::{RaftMetrics, ServerState};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use tokio::sync::watch;
use weft_types::NodeId;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum GroupRole {
    #[default]
    Learner,
    Follower,
    Candidate,
    Leader,
    /// Raft has ended on this node.
    Stopped,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GroupStatus {
    pub role: GroupRole,
    pub term: u64,
    pub leader: Option<(NodeId, Option<SocketAddr>)>,
    pub voters: BTreeSet<NodeId>,
    /// Voters and learners, and where each was when it joined.
    pub members: BTreeMap<NodeId, Option<SocketAddr>>,
    /// A membership change is half-way.
    pub changing: bool,
    pub last_log: Option<u64>,
    pub applied: Option<u64>,
    pub snapshot: Option<u64>,
    /// Entries up to here are in the snapshot only.
    pub purged: Option<u64>,
    /// On the leader: how far each member has the log.
    pub matching: BTreeMap<NodeId, Option<u64>>,
    /// Why Raft has ended on this node, if it did.
    pub failed: Option<String>,
}

/// A learner this close to the end of the log can vote without holding the group up.
const CAUGHT_UP_ENTRIES: u64 = 1000;

impl GroupStatus {
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.role == GroupRole::Leader
    }

    /// On the leader: the member has (nearly) the whole log.
    #[must_use]
    pub fn is_caught_up(&self, node: NodeId) -> bool {
        let Some(Some(matching)) = self.matching.get(&node) else { return false };
        matching + CAUGHT_UP_ENTRIES >= self.last_log.unwrap_or(0)
    }
}

fn status_of(metrics: &RaftMetrics<u64, PeerAddress>) -> GroupStatus {
    let membership = metrics.membership_config.membership();
    let members: BTreeMap<_, _> = membership.nodes().map(|(id, peer)| (NodeId(*id), peer.control_address)).collect();
    let role = match metrics.state {
        ServerState::Learner => GroupRole::Learner,
        ServerState::Follower => GroupRole::Follower,
        ServerState::Candidate => GroupRole::Candidate,
        ServerState::Leader => GroupRole::Leader,
        ServerState::Shutdown => GroupRole::Stopped,
    };
    let leader = metrics.current_leader.map(NodeId);
    let replication = metrics.replication.iter().flatten();
    GroupStatus {
        role,
        term: metrics.current_term,
        leader: leader.map(|id| (id, members.get(&id).copied().flatten())),
        voters: membership.voter_ids().map(NodeId).collect(),
        members,
        changing: membership.get_joint_config().len() > 1,
        last_log: metrics.last_log_index,
        applied: metrics.last_applied.map(|id| id.index),
        snapshot: metrics.snapshot.map(|id| id.index),
        purged: metrics.purged.map(|id| id.index),
        matching: replication.map(|(id, log)| (NodeId(*id), log.map(|log| log.index))).collect(),
        failed: metrics.running_state.as_ref().err().map(ToString::to_string),
    }
}

/// Follows openraft's metrics until Raft has ended.
pub(crate) fn watch_status(raft: &openraft::Raft<TypeConfig>) -> watch::Receiver<GroupStatus> {
    let mut metrics = raft.metrics();
    let (sender, receiver) = watch::channel(status_of(&metrics.borrow_and_update()));
    tokio::spawn(async move {
        while metrics.changed().await.is_ok() {
            let now = status_of(&metrics.borrow_and_update());
            let changed = |status: &mut GroupStatus| {
                let changed = *status != now;
                *status = now;
                changed
            };
            sender.send_if_modified(changed);
            if sender.is_closed() {
                return;
            }
        }
    });
    receiver
}
