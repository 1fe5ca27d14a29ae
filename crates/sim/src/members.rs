//! Members that are copied to, that give blocks to others, and that are too few: what is held against them while it happens
//! (design 5.3, 5.7, 6).
//!
//! Guarantees: these oracles only look; a run is the same with and without them. Must not know: how a copy is made.

use crate::client::{BLOCKS, HALF_BLOCKS};
use crate::failure::Oracle;
use crate::oracle::End as Ended;
use crate::world::{MS, SECOND, World};
use std::collections::BTreeMap;
use weft_proto::replication::{Envelope, Message};
use weft_types::map::MemberState;
use weft_types::{DiskId, Epoch, LogPosition, NodeId, PgId};

/// A member that can be reached all the time is copied to and promoted within so long, where a story asks for it: a resync that
/// lost its way begins anew after five seconds, and nothing there is longer than a few megabytes.
const COPIED_WITHIN: u64 = 20 * SECOND;
/// A read of what nobody writes is answered within so long, where a story asks for it: a request that waits is refused after two
/// seconds, and a client that asks again pauses less than one.
const READ_WITHIN: u64 = 5 * SECOND;
/// A node acts on a map at most this long after it has it.
const ACTS_WITHIN: u64 = 20 * MS;

/// What is remembered of members, to hold against them what comes later.
#[derive(Default)]
pub struct Members {
    /// The last entry that was meant for one member alone, as its primary sent it.
    copied: BTreeMap<(PgId, DiskId), LogPosition>,
    /// Questions for blocks that came to a member that lacks something, and what it was complete to.
    asked: BTreeMap<(PgId, DiskId, Epoch, u64), LogPosition>,
    /// Since when the primary of a group knows that too few members are level, and which of its processes.
    short: BTreeMap<PgId, (NodeId, u64, u64)>,
    /// Since when a member is being copied to, with nothing in the way.
    copying: BTreeMap<(PgId, DiskId), u64>,
    /// When something was last broken, or was whole again.
    disturbed: u64,
}

impl World {
    /// Something broke, or works again.
    pub fn disturbed(&mut self) {
        self.members.disturbed = self.now();
    }

    /// A node sent this.
    pub fn look_at_sent(&mut self, envelope: &Envelope) {
        let (pg, from, to) = (envelope.pg, envelope.from, envelope.to);
        match &envelope.message {
            Message::Append(append) => {
                let copies = append.entries.iter().filter(|entry| entry.header.only_for == Some(to));
                if let Some(last) = copies.map(|entry| entry.header.position).max() {
                    let known = self.members.copied.entry((pg, to)).or_default();
                    *known = last.max(*known);
                }
            }
            Message::FetchedBlocks { epoch, repair, bytes, .. } => {
                let Some(lacked) = self.members.asked.remove(&(pg, from, *epoch, *repair)) else { return };
                // Complete in the meantime, it may give what it has.
                let lacks = self.complete_to(envelope.from, pg);
                if !bytes.is_empty() && lacks == Some(lacked) {
                    let what = format!("disk {from} is complete to {lacked}, and gives a block to {to}");
                    self.fail(Oracle::Rights, format!("group {pg}: {what}"));
                }
            }
            _ => {}
        }
    }

    /// A node is about to act on this. Who lacks something has an old block that verifies: it gives none (design 6).
    pub fn look_at_heard(&mut self, envelope: &Envelope) {
        if let Message::FetchBlocks { epoch, repair, .. } = &envelope.message
            && let Some(lacked) = self.complete_to(envelope.to, envelope.pg)
        {
            self.members.asked.insert((envelope.pg, envelope.to, *epoch, *repair), lacked);
        }
    }

    /// What the replica on a disk is complete to, if it lacks something.
    fn complete_to(&self, disk: DiskId, pg: PgId) -> Option<LogPosition> {
        let node = self.nodes.values().find(|node| node.disk_id == disk)?;
        node.process.as_ref()?.turn.replica_status(pg, disk)?.complete_to
    }

    /// A member is taken into the set: everything that was copied to it is on its disk (design 5.7).
    pub fn look_at_promotion(&mut self, pg: PgId, disk: DiskId) {
        let map = std::sync::Arc::clone(&self.metadata.map);
        let member = map.pgs.iter().find(|record| record.pg == pg).and_then(|record| record.member(disk));
        let Some(member) = member.filter(|member| self.standing(pg, member).is_some()) else { return };
        let process = self.nodes.get(&member.node).and_then(|node| node.process.as_ref());
        let durable = process.and_then(|p| p.turn.look_at_store(disk, |store| store.durable(pg).ok())).flatten();
        let copied = self.members.copied.get(&(pg, disk)).copied();
        if let (Some(durable), Some(copied)) = (durable, copied)
            && durable < copied
        {
            let what = format!("disk {disk} is promoted with copies up to {copied}, and has synced {durable}");
            self.fail(Oracle::Promises, format!("group {pg}: {what}"));
        }
    }

    /// Which of the groups that a node leads have too few level members, as it knows itself.
    pub fn look_at_minimum(&mut self, node: NodeId) {
        let now = self.now();
        let Some(life) = self.life_of(node) else { return };
        let Some(map) = self.nodes.get(&node).and_then(|n| n.process.as_ref()).and_then(|p| p.turn.map()) else {
            return;
        };
        for record in &map.pgs {
            let leads = record.primary_member().is_some_and(|member| member.node == node);
            let level = record.members.iter().filter(|member| member.is_level()).count();
            let known = self.members.short.get(&record.pg).is_some_and(|(by, of, _)| (*by, *of) == (node, life));
            if !leads || level >= usize::from(record.min_in_sync) {
                if known {
                    self.members.short.remove(&record.pg);
                }
            } else if !known {
                self.members.short.insert(record.pg, (node, life, now));
            }
        }
    }

    /// A write that began at some time was answered. None is carried out while too few members are level (design 5.3).
    pub fn look_at_answered_write(&mut self, pg: PgId, start: u64) {
        let Some((node, life, since)) = self.members.short.get(&pg).copied() else { return };
        let leads =
            self.metadata.map.pgs.iter().find(|record| record.pg == pg).and_then(|record| record.primary_member());
        let leads = leads.is_some_and(|member| member.node == node) && self.life_of(node) == Some(life);
        if leads && start > since + ACTS_WITHIN {
            let what =
                format!("a write that began at {start} was answered, and since {since} too few members are level");
            self.fail(Oracle::Rights, format!("group {pg}: {what}"));
        }
    }

    /// Where a story asks for it: what can go on does, while a member is away that cannot leave the set (design 5.7).
    pub fn look_at_copies(&mut self) {
        if !self.mix.watch_copies {
            return;
        }
        let now = self.now();
        let leader = self.metadata.leader.is_some();
        let calm_since = self.members.disturbed.max(self.metadata.led_since);
        let map = std::sync::Arc::clone(&self.metadata.map);
        let before = std::mem::take(&mut self.members.copying);
        for record in map.pgs.iter().filter(|record| leader && record.levelled_epoch == record.epoch) {
            let Some(primary) = record.primary_member() else { continue };
            if !self.is_awake(primary.node) || self.standing(record.pg, primary).is_none() {
                continue;
            }
            for member in record.members.iter().filter(|member| member.state == MemberState::Syncing) {
                if !self.is_awake(member.node) || self.standing(record.pg, member).is_none() {
                    continue;
                }
                let key = (record.pg, member.disk);
                let since = before.get(&key).copied().unwrap_or(now).max(calm_since);
                self.members.copying.insert(key, since);
                if now - since >= COPIED_WITHIN {
                    let what =
                        format!("disk {} is copied to for longer than {} s", member.disk, COPIED_WITHIN / SECOND);
                    return self.fail(Oracle::Settles, format!("group {}: {what}", record.pg));
                }
            }
            // What a primary with a copy under way is asked for.
            if self.members.copying.range((record.pg, DiskId(0))..=(record.pg, DiskId(u128::MAX))).next().is_some() {
                self.look_at_reads(record.pg, calm_since);
            }
        }
    }

    /// A read waits for writes of the same block alone (design 5.6), and a copy is none.
    fn look_at_reads(&mut self, pg: PgId, calm_since: u64) {
        let now = self.now();
        for ((object, chunk, block), start) in self.reads_under_way() {
            let places = (0..HALF_BLOCKS).map(|half| (object, chunk, block, half));
            let written = places.clone().filter_map(|place| self.registers.get(&place)).any(|register| {
                let over = |end: Ended| matches!(end, Ended::Answered(at) if at < start);
                register.writes.values().any(|write| !over(write.end))
            });
            let here = places.clone().any(|place| self.pg_of_place(&place) == Some(pg));
            if here && !written && block < BLOCKS && now - start.max(calm_since) >= READ_WITHIN {
                let what = format!("a read of {object}, {chunk}, {block}, which nobody writes, waits since {start}");
                return self.fail(Oracle::Settles, format!("group {pg}: {what}"));
            }
        }
    }
}
