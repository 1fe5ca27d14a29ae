//! Who is live, and whom the set can do without (design 5.3).

use crate::command::SetRefusal;
use crate::keys;
use crate::mutants::{Mutant, planted};
use crate::records::NodeEntry;
use crate::txn::Txn;
use crate::view::StateError;
use std::collections::BTreeMap;
use weft_types::map::{ClusterMap, DiskRecord, DiskState, Member, NodeState, PgRecord};
use weft_types::{DiskId, Incarnation, NodeId};

/// Which members are on a live node, under its current incarnation, on a good disk.
#[derive(Clone, Default, Debug)]
pub struct Liveness {
    live_nodes: BTreeMap<NodeId, Incarnation>,
    good_disks: BTreeMap<DiskId, NodeId>,
}

impl Liveness {
    #[must_use]
    pub fn of_map(map: &ClusterMap) -> Self {
        let live = map.nodes.iter().filter(|n| n.state == NodeState::Live);
        let good = map.disks.iter().filter(|d| d.state == DiskState::Active);
        Self {
            live_nodes: live.map(|n| (n.id, n.incarnation)).collect(),
            good_disks: good.map(|d| (d.id, d.node)).collect(),
        }
    }

    pub(crate) fn load(txn: &Txn<'_>) -> Result<Self, StateError> {
        let nodes: Vec<NodeEntry> = txn.all(keys::NODES)?;
        let disks: Vec<DiskRecord> = txn.all(keys::DISKS)?;
        let live = nodes.iter().map(|n| &n.record).filter(|n| n.state == NodeState::Live);
        let good = disks.iter().filter(|d| d.state == DiskState::Active);
        Ok(Self {
            live_nodes: live.map(|n| (n.id, n.incarnation)).collect(),
            good_disks: good.map(|d| (d.id, d.node)).collect(),
        })
    }

    /// A member whose disk was missing when its node registered has an old incarnation: it is not live.
    #[must_use]
    pub fn is_live(&self, member: &Member) -> bool {
        self.live_nodes.get(&member.node) == Some(&member.incarnation)
            && self.good_disks.get(&member.disk) == Some(&member.node)
    }

    #[must_use]
    pub fn incarnation(&self, node: NodeId) -> Option<Incarnation> {
        self.live_nodes.get(&node).copied()
    }

    /// The node of a good disk on a live node.
    #[must_use]
    pub fn node_of(&self, disk: DiskId) -> Option<NodeId> {
        self.good_disks.get(&disk).copied().filter(|node| self.live_nodes.contains_key(node))
    }

    pub fn live_nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.live_nodes.keys().copied()
    }
}

/// Members that are neither lossy nor behind.
#[must_use]
pub fn level_count(pg: &PgRecord) -> usize {
    pg.members.iter().filter(|m| m.is_level()).count()
}

/// Whether the in-sync set may go on without this member (design 5.3): never below the minimum, for which lossy and
/// behind members do not count, and never without the last level member.
///
/// # Errors
/// The rule that forbids it.
pub fn may_remove(pg: &PgRecord, disk: DiskId) -> Result<(), SetRefusal> {
    let counts = |m: &&Member| m.is_level() || (planted(Mutant::CountLossyTowardsMinimum) && m.is_in_sync());
    let left = pg.members.iter().filter(|m| m.disk != disk).filter(counts).count();
    if planted(Mutant::RemoveLastLevel) {
        return Ok(());
    }
    if left == 0 {
        return Err(SetRefusal::LastLevelMember);
    }
    if left < usize::from(pg.min_in_sync) {
        return Err(SetRefusal::BelowMinimum { level: left, minimum: pg.min_in_sync });
    }
    Ok(())
}
