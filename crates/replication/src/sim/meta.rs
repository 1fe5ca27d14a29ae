//! The metadata group as a sequence of committed facts, with the compare-and-set rules of design 3, 4 and 5.3.

use std::collections::{BTreeMap, BTreeSet};
use weft_proto::control::{ChangeSetRequest, SetChange};
use weft_types::map::{MemberState, PendingMove};
use weft_types::{
    DiskId, Epoch, Incarnation, LossGeneration, MapVersion, Member, NodeId, PgId, PgRecord, SessionId, SetVersion,
};

pub struct Node {
    pub incarnation: Incarnation,
    pub live: bool,
    /// When the last answered heartbeat was.
    pub heard_ms: u64,
    pub applied: MapVersion,
}

pub struct Meta {
    pub version: MapVersion,
    pub record: PgRecord,
    /// The epoch of the last map.
    told_epoch: Epoch,
    pub nodes: BTreeMap<NodeId, Node>,
    pub sessions: BTreeSet<SessionId>,
    /// Disks that are gone although their node lives.
    pub gone_disks: BTreeSet<DiskId>,
    pub no_level_since_ms: Option<u64>,
    /// Refused requests, for scenarios.
    pub refused: u64,
}

pub const LEASE_MS: u64 = 2000;
pub const MARGIN_MS: u64 = 250;
/// A minute in the design; shorter here.
pub const LOSSLESS_WAIT_MS: u64 = 4000;

pub const fn disk(node: NodeId) -> DiskId {
    DiskId(node.0 as u128)
}

impl Meta {
    pub fn new(pg: PgId, members: u64, in_sync: u64, min_in_sync: u8, sessions: u64) -> Self {
        let member = |n: u64| Member {
            disk: DiskId(u128::from(n)),
            node: NodeId(n),
            incarnation: Incarnation(1),
            state: if n <= in_sync { MemberState::InSync { lossy: false, behind: false } } else { MemberState::Out },
        };
        let node =
            |n| (NodeId(n), Node { incarnation: Incarnation(1), live: true, heard_ms: 0, applied: MapVersion(0) });
        Self {
            version: MapVersion(1),
            record: PgRecord {
                pg,
                epoch: Epoch(1),
                epoch_since: MapVersion(1),
                primary: Some(DiskId(1)),
                levelled_epoch: Epoch(0),
                set_version: SetVersion(1),
                members: (1..=members).map(member).collect(),
                loss_generation: LossGeneration(0),
                min_in_sync,
                replicas: 3,
                pending_move: None,
            },
            told_epoch: Epoch(1),
            nodes: (1..=members).map(node).collect(),
            sessions: (1..=sessions).map(SessionId).collect(),
            gone_disks: BTreeSet::new(),
            no_level_since_ms: None,
            refused: 0,
        }
    }

    fn changed(&mut self) {
        self.version = self.version.next();
        if self.record.epoch != self.told_epoch {
            self.told_epoch = self.record.epoch;
            self.record.epoch_since = self.version;
        }
        self.record.set_version = self.record.set_version.next();
    }

    fn live(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|n| n.live) && !self.gone_disks.contains(&disk(node))
    }

    fn level_count(&self) -> usize {
        self.record.members.iter().filter(|m| m.is_level()).count()
    }

    fn find(&mut self, disk: DiskId) -> Option<&mut Member> {
        self.record.members.iter_mut().find(|m| m.disk == disk)
    }

    /// A new epoch under the first live level member, if there is one.
    pub fn elect(&mut self, avoid: Option<DiskId>) {
        let live = |m: &&Member| m.is_level() && self.live(m.node);
        let choice = self.record.members.iter().filter(live).find(|m| Some(m.disk) != avoid);
        let choice = choice.or_else(|| self.record.members.iter().find(live)).map(|m| m.disk);
        self.record.primary = choice;
        self.record.epoch = self.record.epoch.next();
        self.record.pending_move = None;
        self.changed();
    }

    pub fn register(&mut self, node: NodeId, nothing_lost: bool, now_ms: u64) -> Incarnation {
        let led = self.record.primary == Some(disk(node));
        let known = self.nodes.get_mut(&node).expect("known node");
        known.incarnation = known.incarnation.next();
        known.live = true;
        known.heard_ms = now_ms;
        known.applied = MapVersion(0);
        let incarnation = known.incarnation;
        if let Some(member) = self.find(disk(node)) {
            member.incarnation = incarnation;
            if let MemberState::InSync { lossy, .. } = &mut member.state {
                *lossy |= !nothing_lost;
            }
        }
        self.changed();
        if led || self.record.primary.is_none() {
            self.elect(None);
        }
        incarnation
    }

    pub fn node_dead(&mut self, node: NodeId) {
        self.nodes.get_mut(&node).expect("known node").live = false;
        self.changed();
        if self.record.primary == Some(disk(node)) {
            self.elect(None);
        }
    }

    /// What a leader does on its own: deaths, removal of the dead, moves, election of a lossy primary.
    pub fn tick(&mut self, now_ms: u64) {
        let dead: Vec<NodeId> = self
            .nodes
            .iter()
            // A node without its disk goes on to send heartbeats.
            .filter(|(id, n)| {
                n.live && n.heard_ms + LEASE_MS + MARGIN_MS < now_ms && !self.gone_disks.contains(&disk(**id))
            })
            .map(|(id, _)| *id)
            .collect();
        for node in dead {
            self.node_dead(node);
        }
        for member in self.record.members.clone() {
            if member.is_in_sync() && !self.live(member.node) {
                self.remove(member.disk);
            }
        }
        if let Some(pending) = self.record.pending_move {
            let old = self.record.primary_member().map(|m| m.node);
            let free = old.is_none_or(|n| !self.live(n) || self.nodes[&n].applied >= pending.since);
            if free {
                self.record.primary = Some(pending.to);
                self.record.epoch = self.record.epoch.next();
                self.record.pending_move = None;
                self.changed();
            }
        }
        let level_live = self.record.members.iter().any(|m| m.is_level() && self.live(m.node));
        if level_live {
            self.no_level_since_ms = None;
            let led = self.record.primary_member().is_some_and(|m| self.live(m.node));
            let lossy_leads = self.record.primary_member().is_some_and(|m| !m.is_level());
            if !led || lossy_leads {
                self.elect(None);
            }
            return;
        }
        let since = *self.no_level_since_ms.get_or_insert(now_ms);
        let nobody = self.record.primary_member().is_none_or(|m| !self.live(m.node));
        if nobody && now_ms >= since + LOSSLESS_WAIT_MS {
            let lossy = self.record.members.iter().find(|m| m.is_in_sync() && self.live(m.node)).map(|m| m.disk);
            if lossy.is_some() {
                self.record.primary = lossy;
                self.record.epoch = self.record.epoch.next();
                self.changed();
            }
        }
    }

    fn remove(&mut self, disk: DiskId) -> bool {
        let level = self.level_count();
        let min = usize::from(self.record.min_in_sync);
        let Some(member) = self.find(disk) else { return false };
        let allowed = match member.state {
            MemberState::Out | MemberState::Incomplete => false,
            MemberState::Syncing => true,
            MemberState::InSync { lossy: false, behind: false } => level > min && level > 1,
            MemberState::InSync { .. } => level >= 1,
        };
        if allowed {
            member.state = MemberState::Out;
            let led = self.record.primary == Some(disk);
            self.changed();
            if led {
                self.elect(None);
            }
        }
        allowed
    }

    pub fn begin_move(&mut self, to: DiskId) {
        self.changed();
        self.record.pending_move = Some(PendingMove { to, since: self.version });
    }

    pub fn change(&mut self, request: &ChangeSetRequest) {
        let known = self
            .record
            .primary_member()
            .is_some_and(|m| m.disk == request.requester && m.incarnation == request.incarnation);
        if !known || request.epoch != self.record.epoch || request.set_version != self.record.set_version {
            self.refused += 1;
            return;
        }
        let granted = match &request.change {
            SetChange::Levelled { .. } if !self.record.primary_member().is_some_and(Member::is_level) => false,
            SetChange::Levelled { disks } => {
                for member in &mut self.record.members {
                    if let MemberState::InSync { lossy, behind } = &mut member.state {
                        let levelled = disks.contains(&member.disk);
                        *behind = !levelled;
                        *lossy &= !levelled;
                    }
                }
                self.record.levelled_epoch = self.record.epoch;
                true
            }
            SetChange::Caught { disk } => match self.find(*disk).map(|m| &mut m.state) {
                Some(MemberState::InSync { lossy, behind }) => {
                    *lossy = false;
                    *behind = false;
                    true
                }
                _ => false,
            },
            SetChange::Remove { disk } => {
                if !self.remove(*disk) {
                    self.refused += 1;
                }
                return;
            }
            SetChange::BeginSync { disk } => {
                let disk = *disk;
                let live = self.find(disk).map(|m| m.node).is_some_and(|n| self.live(n));
                match self.find(disk) {
                    Some(member) if live && member.state == MemberState::Out => {
                        member.state = MemberState::Syncing;
                        true
                    }
                    _ => false,
                }
            }
            SetChange::Promote { disk } => {
                let promoted = match self.find(*disk) {
                    Some(member) if member.state == MemberState::Syncing => {
                        member.state = MemberState::InSync { lossy: false, behind: false };
                        true
                    }
                    _ => false,
                };
                if promoted {
                    // A dead member leaves in the same step (design 5.3).
                    let live: BTreeSet<NodeId> = self.nodes.iter().filter(|(_, n)| n.live).map(|(id, _)| *id).collect();
                    let dead = self.record.members.iter().find(|m| m.is_in_sync() && !live.contains(&m.node));
                    if let Some(dead) = dead.map(|m| m.disk)
                        && let Some(member) = self.find(dead)
                    {
                        member.state = MemberState::Out;
                    }
                }
                promoted
            }
            SetChange::Yield { to } => {
                let level_live = self.record.members.iter().any(|m| m.is_level() && self.live(m.node));
                let to_level = self.record.member(*to).is_some_and(weft_types::Member::is_level);
                let able = self.record.member(*to).is_some_and(|m| m.is_in_sync() && self.live(m.node));
                let granted = able && (to_level || !level_live);
                // Who serves gives way when it knows.
                if granted && self.record.levelled_epoch == self.record.epoch {
                    self.begin_move(*to);
                    return;
                }
                if granted {
                    self.record.primary = Some(*to);
                    self.record.epoch = self.record.epoch.next();
                }
                granted
            }
            SetChange::AcceptLoss { from } => {
                let level_live = self.record.members.iter().any(|m| m.is_level() && self.live(m.node));
                let granted = *from == self.record.loss_generation && !level_live;
                if granted {
                    // The requester has made the longest lossy log its own; whoever else there is, is behind.
                    for member in &mut self.record.members {
                        if let MemberState::InSync { lossy, behind } = &mut member.state {
                            *behind = member.disk != request.requester;
                            *lossy &= *behind;
                        }
                    }
                    self.record.loss_generation = self.record.loss_generation.next();
                }
                granted
            }
        };
        if granted {
            self.changed();
        } else {
            self.refused += 1;
        }
    }
}
