//! Who is in the metadata group, and who votes (design 3: 1 voter with one or two nodes, 3 with three or four, 5 from
//! five up; the rest learn).
//!
//! Responsible for: bringing Raft's membership to what the map asks for, one safe step at a time, on the leader.
//! Guarantees: a node votes only once it has nearly the whole log and knows its incarnation; a removed node leaves.

use super::leading::commit;
use super::node::Node;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;
use weft_meta::{Command, voters};
use weft_raft::GroupError;
use weft_types::NodeId;
use weft_types::map::NodeState;

/// After a change of the map a step is tried at once, else this often.
const INTERVAL: Duration = Duration::from_millis(500);
/// Steps in a row, so that a refusal is not repeated in a tight loop.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) async fn keep(node: Rc<Node>) {
    let mut maps = node.maps.watch();
    loop {
        while node.leader.is_leading() {
            match step(&node).await {
                Ok(Step::Done) => break,
                Ok(Step::More) => tokio::time::sleep(PAUSE).await,
                Err(error) => {
                    tracing::debug!(%error, "a membership change was not made; it is tried again");
                    break;
                }
            }
        }
        if let Ok(Err(_)) = tokio::time::timeout(INTERVAL, maps.changed()).await {
            return;
        }
    }
}

enum Step {
    Done,
    More,
}

async fn step(node: &Rc<Node>) -> Result<Step, GroupError> {
    let status = node.group.status();
    let map = node.maps.current();
    if status.changing {
        return Ok(Step::Done);
    }
    let present = map.nodes.iter().filter(|known| known.state != NodeState::Removed);
    if let Some(missing) = present.clone().find(|known| !status.members.contains_key(&known.id)) {
        tracing::info!(node = %missing.id, "joins the metadata group as a learner");
        node.group.add_learner(missing.id, missing.control_address).await?;
        return Ok(Step::More);
    }
    // The record follows what Raft has committed, and the wish follows the record.
    let recorded: BTreeSet<NodeId> = map.nodes.iter().filter(|known| known.voter).map(|known| known.id).collect();
    let gone = |id: NodeId| map.nodes.iter().any(|known| known.id == id && known.state == NodeState::Removed);
    let voting: BTreeSet<NodeId> = status.voters.iter().copied().filter(|id| !gone(*id)).collect();
    if recorded != voting {
        commit(node, Command::SetVoters { voters: voting }).await?;
        return Ok(Step::Done);
    }
    let wanted = voters::wanted(&map.nodes);
    if wanted != status.voters && !wanted.is_empty() {
        // Nor one of which nobody knows whether it has learnt its incarnation: who votes must not come back without any.
        let heard = node.leader.status().heard;
        let ready = |id: &NodeId| status.is_caught_up(*id) && heard.contains(id);
        let behind = wanted.iter().find(|id| !status.voters.contains(id) && !ready(id));
        if let Some(id) = behind {
            tracing::debug!(node = %id, "is to vote and has not caught up yet");
            return Ok(Step::Done);
        }
        tracing::info!(?wanted, "the voters of the metadata group change");
        node.group.set_voters(&wanted).await?;
        return Ok(Step::More);
    }
    if let Some(id) = status.members.keys().copied().find(|id| gone(*id)) {
        tracing::info!(node = %id, "leaves the metadata group");
        node.group.remove_learner(id).await?;
        return Ok(Step::More);
    }
    Ok(Step::Done)
}
