//! Placement groups as the leader watches them: moves that complete, groups without a lossless member, dead members to
//! be replaced, and who is to blame when a primary accuses a backup (design 4.3, 5.3, 5.4).

use super::events::Facts;
use super::nodes::NodeLeases;
use super::{Proposer, Topic};
use crate::command::Command;
use crate::groups::Liveness;
use crate::mutants::{Mutant, planted};
use crate::placement;
use std::collections::BTreeMap;
use weft_proto::control::{ChangeSetRequest, SetChange};
use weft_types::limits::{LOSSLESS_WAIT, REPLACE_AFTER};
use weft_types::map::{DiskState, Member, NodeState, PgRecord, VolumeState};
use weft_types::{BootTime, DiskId, NodeId, PgId};

#[derive(Debug, Default)]
pub(super) struct GroupWatch {
    /// Since when no level member of the group is live.
    no_level: BTreeMap<PgId, BootTime>,
    /// Since when the member is not live.
    dead: BTreeMap<(PgId, DiskId), BootTime>,
}

impl GroupWatch {
    /// A move takes effect when the old primary's node has acknowledged it (attack early-serve). When that node dies the
    /// state machine completes the move itself.
    pub fn complete_moves(&self, facts: &Facts, nodes: &NodeLeases, propose: &mut Proposer<'_>) {
        for pg in &facts.map.pgs {
            let Some(pending) = pg.pending_move else { continue };
            let stopped = pg.primary_member().is_none_or(|m| nodes.acknowledged_by(m.node, pending.since));
            if stopped {
                let command = Command::CompleteMove { pg: pg.pg, epoch: pg.epoch, since: pending.since };
                propose.propose(Topic::Move(pg.pg, pg.epoch), command);
            }
        }
    }

    pub fn elect_lossy(&mut self, facts: &Facts, live: &Liveness, now: BootTime, propose: &mut Proposer<'_>) {
        let mut still = BTreeMap::new();
        for pg in &facts.map.pgs {
            let level = pg.members.iter().any(|m| m.is_level() && live.is_live(m));
            let candidate = pg.in_sync().any(|m| live.is_live(m));
            if level || !candidate || pg.primary.is_some() {
                continue;
            }
            let since = self.no_level.get(&pg.pg).copied().unwrap_or(now);
            still.insert(pg.pg, since);
            if now.since(since) >= LOSSLESS_WAIT || planted(Mutant::AcceptLossAtOnce) {
                let command = Command::ElectLossy { pg: pg.pg, epoch: pg.epoch, set_version: pg.set_version };
                propose.propose(Topic::Elect(pg.pg, pg.epoch), command);
            }
        }
        self.no_level = still;
    }

    /// A dead member is replaced when it has been dead for long, or cannot come back.
    pub fn repair(&mut self, facts: &Facts, live: &Liveness, now: BootTime, propose: &mut Proposer<'_>) {
        let mut still = BTreeMap::new();
        for pg in &facts.map.pgs {
            for member in pg.members.iter().filter(|m| !live.is_live(m)) {
                let key = (pg.pg, member.disk);
                still.insert(key, self.dead.get(&key).copied().unwrap_or(now));
            }
            let due = |m: &&Member| {
                let since = still.get(&(pg.pg, m.disk)).copied().unwrap_or(now);
                gone_for_good(facts, m) || now.since(since) >= REPLACE_AFTER
            };
            if !wants_spare(facts, pg, live) {
                continue;
            }
            // Not only the first: the place of one may be taken by another dead member on the only node with a spare disk.
            let dead = pg.members.iter().filter(|m| !live.is_live(m)).filter(due);
            let mut pairs = dead.filter_map(|m| Some((m.disk, placement::choose_spare(&facts.map, pg, m.disk)?)));
            if let Some((dead, spare)) = pairs.next() {
                let command = Command::ReplaceMember { pg: pg.pg, set_version: pg.set_version, dead, spare };
                propose.propose(Topic::Replace(pg.pg, pg.set_version), command);
            }
        }
        self.dead = still;
    }
}

fn gone_for_good(facts: &Facts, member: &Member) -> bool {
    let disk = facts.map.disks.iter().find(|d| d.id == member.disk);
    let node = facts.map.nodes.iter().find(|n| n.id == member.node);
    disk.is_none_or(|d| matches!(d.state, DiskState::Failed | DiskState::Removed))
        || node.is_none_or(|n| n.state == NodeState::Removed)
}

/// Fewer live members than replicas, and somebody to copy from.
fn wants_spare(facts: &Facts, pg: &PgRecord, live: &Liveness) -> bool {
    let active = facts.map.volumes.iter().any(|v| v.id == pg.pg.volume && v.state == VolumeState::Active);
    let living = pg.members.iter().filter(|m| live.is_live(m)).count();
    active && pg.primary.is_some() && living < usize::from(pg.replicas)
}

/// What to propose when a primary asks for a change. It may be the one that is cut off: if the accused can be reached by
/// others and the accuser cannot, the primary moves instead (design 5.3, attack accuser-isolated).
pub(super) fn judge(
    request: ChangeSetRequest,
    facts: &Facts,
    live: &Liveness,
    nodes: &NodeLeases,
    now: BootTime,
) -> Command {
    let target = match request.change {
        SetChange::Remove { .. } if planted(Mutant::BelieveAccuser) => None,
        SetChange::Remove { disk } => move_instead(&request, disk, facts, live, nodes, now),
        _ => None,
    };
    match target {
        Some(to) => Command::MovePrimary { pg: request.pg, epoch: request.epoch, set_version: request.set_version, to },
        None => Command::ChangeSet(request),
    }
}

fn move_instead(
    request: &ChangeSetRequest,
    accused: DiskId,
    facts: &Facts,
    live: &Liveness,
    nodes: &NodeLeases,
    now: BootTime,
) -> Option<DiskId> {
    let pg = facts.map.pgs.iter().find(|pg| pg.pg == request.pg)?;
    // Only the primary of today may set this off; anybody else is refused by the compare-and-set.
    if pg.primary != Some(request.requester) || pg.epoch != request.epoch {
        return None;
    }
    let accuser = pg.member(request.requester)?.node;
    let accused_member = pg.member(accused)?;
    let other = |node: &NodeId| *node != accuser && *node != accused_member.node;
    let mut witnesses: Vec<NodeId> = pg.in_sync().filter(|m| live.is_live(m)).map(|m| m.node).filter(other).collect();
    if witnesses.is_empty() {
        witnesses = live.live_nodes().filter(other).collect();
    }
    let reached = |to: NodeId| witnesses.iter().any(|w| nodes.reaches(*w, to, now) == Some(true));
    if !reached(accused_member.node) || reached(accuser) {
        return None;
    }
    let able = |m: &&Member| m.disk != request.requester && m.is_level() && live.is_live(m);
    let reachable_by = |m: &Member| witnesses.iter().filter(|w| nodes.reaches(**w, m.node, now) == Some(true)).count();
    // A witness does not report itself; being one is as good as being reached.
    let standing = |m: &&Member| (reachable_by(m) + usize::from(witnesses.contains(&m.node)), m.disk);
    pg.members.iter().filter(able).max_by_key(standing).map(|m| m.disk)
}
