//! How many voters the metadata group should have, and which (design 3).

use std::collections::BTreeSet;
use weft_types::NodeId;
use weft_types::map::{NodeRecord, NodeState};

/// 1 voter with one or two nodes, 3 with three or four, 5 from five up.
#[must_use]
pub const fn wanted_count(nodes: usize) -> usize {
    match nodes {
        0..=2 => 1,
        3..=4 => 3,
        _ => 5,
    }
}

/// The voters to have. Present ones stay unless removed; live nodes fill up, lowest id first. Nodes that are down are
/// not made voters, so the group never grows into losing its quorum.
#[must_use]
pub fn wanted(nodes: &[NodeRecord]) -> BTreeSet<NodeId> {
    let known = nodes.iter().filter(|n| n.state != NodeState::Removed);
    // A node that joined and never registered does not count towards the size yet.
    let count = wanted_count(known.clone().filter(|n| n.voter || n.state != NodeState::Joined).count());
    let mut voters: BTreeSet<NodeId> = known.clone().filter(|n| n.voter).map(|n| n.id).collect();
    let mut live: Vec<NodeId> = known.filter(|n| !n.voter && n.state == NodeState::Live).map(|n| n.id).collect();
    live.sort_unstable();
    for id in live {
        if voters.len() < count {
            voters.insert(id);
        }
    }
    // An even number of voters tolerates no more failures than one less.
    while voters.len() > 1 && voters.len().is_multiple_of(2) {
        let newcomer = nodes.iter().filter(|n| !n.voter && voters.contains(&n.id)).map(|n| n.id).max();
        match newcomer {
            Some(id) => voters.remove(&id),
            None => break,
        };
    }
    voters
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::Incarnation;

    fn node(id: u64, state: NodeState, voter: bool) -> NodeRecord {
        NodeRecord {
            id: NodeId(id),
            name: format!("n{id}"),
            incarnation: Incarnation(1),
            state,
            control_address: ([127, 0, 0, 1], 1).into(),
            data_address: ([127, 0, 0, 1], 2).into(),
            failure_domain: Vec::new(),
            voter,
        }
    }

    fn ids(set: &BTreeSet<NodeId>) -> Vec<u64> {
        set.iter().map(|n| n.0).collect()
    }

    #[test]
    fn the_group_grows_in_odd_steps_and_keeps_its_voters() {
        use NodeState::{Down, Joined, Live};
        let two = [node(1, Live, true), node(2, Live, false)];
        assert_eq!(ids(&wanted(&two)), [1]);
        let joining = [node(1, Live, true), node(2, Live, false), node(3, Joined, false)];
        assert_eq!(ids(&wanted(&joining)), [1]);
        let three = [node(1, Live, true), node(2, Live, false), node(3, Live, false)];
        assert_eq!(ids(&wanted(&three)), [1, 2, 3]);
        let one_down = [node(1, Live, true), node(2, Live, false), node(3, Down, false)];
        assert_eq!(ids(&wanted(&one_down)), [1], "two voters would lose their quorum with either");
        let voter_down = [node(1, Live, true), node(2, Down, true), node(3, Live, true), node(4, Live, false)];
        assert_eq!(ids(&wanted(&voter_down)), [1, 2, 3], "a restart does not change the membership");
        let removed =
            [node(1, Live, true), node(2, NodeState::Removed, false), node(3, Live, true), node(4, Live, false)];
        assert_eq!(ids(&wanted(&removed)), [1, 3, 4]);
    }
}
