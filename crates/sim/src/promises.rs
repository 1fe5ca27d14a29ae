//! What the metadata group says of a group's members, held against what they have (design 5.1, 5.5, 5.7, 5.8, flush).
//!
//! These oracles look into the replicas, so that a broken rule is seen when it is broken and not only when somebody happens
//! to read what it spoilt. Guarantees: they only look; a run is the same with and without them. Must not know: how replicas
//! come to agree.

use crate::check::{Content, content_of};
use crate::failure::Oracle;
use crate::host::SimHost;
use crate::world::{MS, World};
use std::collections::BTreeMap;
use weft_node::data::turn::Turn;
use weft_proto::replication::{Envelope, Message};
use weft_replication::{RoleStatus, Status};
use weft_store::{DedupeTable, SessionRecord};
use weft_types::map::{Member, MemberState};
use weft_types::{DiskId, Entry, LogPosition, LossGeneration, NodeId, ObjectId, PgId, PgRecord, SessionId};

/// Pause between two comparisons of contents.
const COMPARE_EVERY: u64 = 250 * MS;
/// After a promotion the logs meet again within a moment.
const COMPARE_AGAIN: u64 = MS;
const COMPARISONS: u32 = 40;

/// The furthest that clients may have been told of, in one life of a group's contents.
pub type Acknowledged = (LossGeneration, LogPosition);

impl World {
    /// Everything that can be said of a group from its members' positions. After each change, and before answers leave.
    pub fn look_at_groups(&mut self, led_by: Option<NodeId>) {
        let map = std::sync::Arc::clone(&self.metadata.map);
        for record in &map.pgs {
            let leads = record.primary_member().map(|member| member.node);
            if record.levelled_epoch != record.epoch || led_by.is_some_and(|node| leads != Some(node)) {
                continue;
            }
            if let Err(what) = self.look_at_group(record) {
                return self.fail(Oracle::Promises, format!("group {}: {what}", record.pg));
            }
        }
    }

    fn look_at_group(&mut self, record: &PgRecord) -> Result<(), String> {
        for member in record.members.iter().filter(|member| member.is_level()) {
            if let Some(status) = self.standing(record.pg, member)
                && status.log_end.epoch < record.epoch
            {
                let (disk, end, epoch) = (member.disk, status.log_end, record.epoch);
                return Err(format!("disk {disk} is called level in epoch {epoch}, and its log ends at {end}"));
            }
        }
        let Some(primary) = record.primary_member() else { return Ok(()) };
        let Some(leading) = self.standing(record.pg, primary).filter(|status| status.promised == record.epoch) else {
            return Ok(());
        };
        let RoleStatus::Primary { acknowledged, readable, .. } = leading.role else { return Ok(()) };
        for member in record.members.iter().filter(|member| member.disk != primary.disk) {
            let (counts, reads) = match member.state {
                MemberState::InSync { lossy, behind } => (!lossy, !lossy && !behind),
                MemberState::Syncing | MemberState::Out | MemberState::Incomplete => (false, false),
            };
            let Some(status) = self.standing(record.pg, member).filter(|_| counts) else { continue };
            let (disk, end) = (member.disk, status.log_end);
            if end < acknowledged {
                return Err(format!("{acknowledged} counts as acknowledged, and disk {disk} in the set ends at {end}"));
            }
            if reads && end < readable {
                return Err(format!("{readable} may be read, and disk {disk}, which is level, ends at {end}"));
            }
        }
        let now = (record.loss_generation, acknowledged);
        let known = self.acknowledged.entry(record.pg).or_insert(now);
        *known = (*known).max(now);
        Ok(())
    }

    /// What a member says of itself, when it is up under the incarnation that the map names and its disk is there.
    pub fn standing(&self, pg: PgId, member: &Member) -> Option<Status> {
        let node = self.nodes.get(&member.node).filter(|node| node.disk_id == member.disk && !node.disk_lost)?;
        let process = node.process.as_ref().filter(|process| process.incarnation() == Some(member.incarnation))?;
        process.turn.replica_status(pg, member.disk).filter(|status| status.role != RoleStatus::Ended)
    }

    /// A flush was answered: whatever was acknowledged when it began is durable on every member of the set.
    pub fn look_at_flush(&mut self, pg: PgId, (generation, position): Acknowledged) {
        let map = std::sync::Arc::clone(&self.metadata.map);
        let Some(record) = map.pgs.iter().find(|record| record.pg == pg) else { return };
        if record.loss_generation != generation {
            return;
        }
        for member in &record.members {
            let counts = matches!(member.state, MemberState::InSync { lossy: false, .. });
            if !counts || self.standing(pg, member).is_none() {
                continue;
            }
            let process = self.nodes.get(&member.node).and_then(|node| node.process.as_ref());
            let durable = process.and_then(|p| p.turn.look_at_store(member.disk, |store| store.durable(pg).ok()));
            if let Some(durable) = durable.flatten().filter(|durable| *durable < position) {
                let disk = member.disk;
                let what = format!("a flush of what ends at {position} was answered; disk {disk} has synced {durable}");
                return self.fail(Oracle::Flushed, format!("group {pg}: {what}"));
            }
        }
    }

    /// A cut was answered: it is durable on every member of the set (design 7, truncate). What a member knows of single
    /// chunks that went is no cut: a resync had them deleted there before it copied them, and the others have nothing in
    /// that place which they would have to sync.
    pub fn look_at_cut(&mut self, pg: PgId, object: ObjectId) {
        let map = std::sync::Arc::clone(&self.metadata.map);
        let Some(record) = map.pgs.iter().find(|record| record.pg == pg) else { return };
        let (mut last, mut synced) = (LogPosition::ZERO, Vec::new());
        for member in record.members.iter().filter(|member| member.is_level()) {
            if self.standing(pg, member).is_none() {
                continue;
            }
            let process = self.nodes.get(&member.node).and_then(|node| node.process.as_ref());
            let found = process.and_then(|process| {
                process.turn.look_at_store(member.disk, |store| {
                    let removed = store.chunks_changed_since(pg, LogPosition::ZERO).ok()?.removed;
                    let cuts =
                        removed.iter().filter(|removed| removed.object == object && removed.first < removed.last);
                    Some((cuts.map(|removed| removed.position).max(), store.durable(pg).ok()?))
                })
            });
            if let Some((cut, durable)) = found.flatten() {
                last = last.max(cut.unwrap_or(LogPosition::ZERO));
                synced.push((member.disk, durable));
            }
        }
        if let Some((disk, durable)) = synced.into_iter().find(|(_, durable)| *durable < last) {
            let what = format!("a cut at {last} was answered; disk {disk} has synced {durable}");
            self.fail(Oracle::Flushed, format!("group {pg}: {what}"));
        }
    }

    /// The fence of a session is complete: nothing of it gets a place in a log any more (design 4.3).
    pub fn note_fence(&mut self, session: SessionId) {
        let mut ends: BTreeMap<PgId, LogPosition> = BTreeMap::new();
        for record in &self.metadata.map.pgs {
            // Of a member that is down nobody knows what it has.
            let mut known = record.members.iter().map(|member| {
                let node = self.nodes.get(&member.node).filter(|node| node.disk_id == member.disk)?;
                Some(node.process.as_ref()?.turn.replica_status(record.pg, member.disk)?.log_end)
            });
            if let Some(end) = known.try_fold(LogPosition::ZERO, |end, known| Some(end.max(known?))) {
                ends.insert(record.pg, end);
            }
        }
        self.fences.insert(session, ends);
    }

    /// How a member stands that is sent entries of an epoch that it has promised not to listen to any more.
    pub fn promised_past(&self, turn: &Turn<SimHost>, envelope: &Envelope) -> Option<Status> {
        let Message::Append(append) = &envelope.message else { return None };
        turn.replica_status(envelope.pg, envelope.to).filter(|status| append.epoch < status.promised)
    }

    /// It must not have taken them (design 5.2).
    pub fn look_at_promise(&mut self, turn: &Turn<SimHost>, pg: PgId, disk: DiskId, before: &Status) {
        let end = turn.replica_status(pg, disk).map(|status| status.log_end);
        if let Some(end) = end.filter(|end| *end > before.log_end) {
            let what = format!("disk {disk} had promised epoch {} and took {end} of an older one", before.promised);
            self.fail(Oracle::Rights, format!("group {pg}: {what}"));
        }
    }

    /// Entries on their way to a member.
    pub fn look_at_entries(&mut self, pg: PgId, entries: &[std::sync::Arc<Entry>]) {
        for entry in entries {
            let Some(session) = entry.header.origin.map(|origin| origin.session) else { continue };
            let fence = self.fences.get(&session).and_then(|ends| ends.get(&pg));
            if let Some(end) = fence.filter(|end| entry.header.position > **end) {
                let what = format!("{} of session {session} came after its fence, at {end}", entry.header.position);
                return self.fail(Oracle::Rights, format!("group {pg}: {what}"));
            }
        }
    }

    /// Compares members now and then, for as long as the run lasts.
    pub fn keep_comparing(&mut self) {
        let groups: Vec<PgId> = self.metadata.map.pgs.iter().map(|record| record.pg).collect();
        for pg in groups {
            self.compare_members(pg);
        }
        self.look_at_what_is_owed();
        self.look_at_leases();
        self.look_whether_the_removed_serve();
        self.look_at_copies();
        self.look_at_ballast();
        let sound = self.quiet && self.all_level();
        self.sound = sound.then(|| self.sound.unwrap_or(self.now()));
        self.after(COMPARE_EVERY, "compare", Self::keep_comparing);
    }

    /// A member joined the set: compares as soon as logs end alike.
    pub fn compare_soon(&mut self, pg: PgId, tries: u32) {
        if tries < COMPARISONS && !self.compare_members(pg) {
            self.after(COMPARE_AGAIN, "compare", move |world| world.compare_soon(pg, tries + 1));
        }
    }

    /// Level members whose logs end alike hold the same. Whether all of them could be compared.
    fn compare_members(&mut self, pg: PgId) -> bool {
        let map = std::sync::Arc::clone(&self.metadata.map);
        let Some(record) = map.pgs.iter().find(|record| record.pg == pg) else { return true };
        if record.levelled_epoch != record.epoch {
            return false;
        }
        let mut at: BTreeMap<LogPosition, Vec<&Member>> = BTreeMap::new();
        for member in record.members.iter().filter(|member| member.is_level()) {
            if let Some(status) = self.standing(pg, member) {
                at.entry(status.log_end).or_default().push(member);
            }
        }
        for members in at.values() {
            let mut first: Option<(DiskId, Content, DedupeTable)> = None;
            for member in members {
                let Some((content, dedupe)) = self.held_by(pg, member) else { continue };
                let Some((disk, expected, records)) = &first else {
                    first = Some((member.disk, content, dedupe));
                    continue;
                };
                if let Some(what) = differs(expected, &content).or_else(|| self.remembers(records, &dedupe)) {
                    let what = format!("group {pg}: logs of disks {disk} and {} end alike: {what}", member.disk);
                    self.fail(Oracle::Replicas, what);
                    return true;
                }
            }
        }
        at.len() == 1
    }

    fn held_by(&self, pg: PgId, member: &Member) -> Option<(Content, DedupeTable)> {
        if self.hurt.contains(&member.node) {
            return None;
        }
        let content = content_of(self, member.node, member.disk, pg)?.ok()?;
        let process = self.nodes.get(&member.node)?.process.as_ref()?;
        let dedupe = process.turn.look_at_store(member.disk, |store| store.dedupe(pg).ok().cloned())??;
        Some((content, dedupe))
    }

    /// What the tables of live sessions differ in. Marks may differ after a cut, so what lies below either is of no account.
    fn remembers(&self, one: &DedupeTable, two: &DedupeTable) -> Option<String> {
        for live in &self.metadata.map.live_sessions {
            let empty = SessionRecord::default();
            let a = one.sessions.get(&live.id).unwrap_or(&empty);
            let b = two.sessions.get(&live.id).unwrap_or(&empty);
            let low = a.low_water.max(b.low_water);
            if !a.answered.range(low..).eq(b.answered.range(low..)) {
                return Some(format!("of session {} they remember {a:?} and {b:?}", live.id));
            }
        }
        None
    }
}

fn differs(expected: &Content, content: &Content) -> Option<String> {
    if expected == content {
        return None;
    }
    let more = content.iter().find(|chunk| !expected.contains(chunk));
    let less = expected.iter().find(|chunk| !content.contains(chunk));
    Some(format!("{less:?} against {more:?}"))
}
