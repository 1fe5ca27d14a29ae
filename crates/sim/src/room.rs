//! What is said of room, held against what disks have (docs/decisions/0020).
//!
//! Responsible for: blocks that are there are never refused; whoever has no room gives none; a member that is syncing is sent no
//! more fills than it has room for; what was admitted finds its room, so that nothing of what is kept for bad days is
//! touched; no node works on more than its share of a journal (docs/decisions/0018). Guarantees: the oracles only look; those that
//! look at a store's blocks at every turn do so only where threads have plots. Must not know: how credits are counted.

use crate::failure::Oracle;
use crate::host::SimHost;
use crate::oracle::End;
use crate::world::{Place, SECOND, World};
use std::collections::BTreeMap;
use weft_node::data::turn::Turn;
use weft_proto::replication::{Append, Envelope, Message};
use weft_replication::RoleStatus;
use weft_store::disk::OpenMode;
use weft_store::fault::SimDisk;
use weft_store::{Disk as _, DiskFile as _, Store};
use weft_types::map::{MemberState, NodeState};
use weft_types::{BlockIndex, BlockRange, ChunkId, DiskId, Effect, Epoch, LogPosition, NodeId, PgId, PgRecord};

/// By then a node has asked its disk for its room, and who leads has been told; what was admitted before is in the log.
const KNOWN_AFTER: u64 = 2 * SECOND;
/// What members may take besides what they are sent: files' trailers, names.
const BESIDES: u64 = 128 << 10;
/// Of a journal, for what is sequenced and not everywhere.
const UNCOMMITTED_PERCENT: u64 = 15;

/// Who leads a group and has had no room for a while, and since when sets are what they are.
#[derive(Default)]
pub struct Brim {
    /// Where the log ended when that had been so for long enough.
    full: BTreeMap<(NodeId, PgId), (Epoch, LogPosition)>,
    set_since: BTreeMap<PgId, u64>,
    /// The fewest nodes that there have been.
    fewest_nodes: Option<usize>,
}

impl Brim {
    pub fn group_changed(&mut self, before: &PgRecord, record: &PgRecord, now: u64) {
        if before.set_version != record.set_version || before.epoch != record.epoch {
            self.set_since.insert(record.pg, now);
        }
    }
}

impl World {
    /// Rule 5: a write into blocks that are there needs no room. They are there when a write into each of them was answered before
    /// this one began, and the group has lost nothing since: nobody frees registers. Blocks of a damaged file are not known.
    pub fn look_at_refusal(&mut self, places: &[Place], start: u64) {
        let there = |place: &Place| {
            let lost = self.pg_of_place(place).and_then(|pg| self.losses.get(&pg)?.last().copied());
            let (object, chunk, block, _) = *place;
            let halves = (0..2).filter_map(|half| self.registers.get(&(object, chunk, block, half)));
            let mut writes = halves.flat_map(|register| register.writes.values());
            writes.any(|write| {
                matches!(write.end, End::Answered(end) if end < start) && lost.is_none_or(|lost| lost < write.start)
            })
        };
        if self.hurt.is_empty() && places.iter().all(there) {
            self.fail(Oracle::Room, format!("a write at {places:?}, which is there, found no room"));
        }
    }

    /// Decision 0018: of every journal a part is kept for what the primaries of all nodes have sequenced, and no node works on
    /// more than its share of that, but for a single write. Where nodes come and go the fewest tell the share.
    pub fn look_at_flood(&mut self, id: NodeId) {
        let present = self.metadata.map.nodes.iter().filter(|node| node.state != NodeState::Removed).count().max(1);
        let nodes = self.brim.fewest_nodes.map_or(present, |fewest| fewest.min(present));
        self.brim.fewest_nodes = Some(nodes);
        let Some(node) = self.nodes.get(&id) else { return };
        let Some(process) = &node.process else { return };
        let Some(journal_bytes) = process.turn.look_at_store(node.disk_id, Store::journal_bytes) else { return };
        let most = journal_bytes * UNCOMMITTED_PERCENT / 100 / nodes as u64;
        let (writes, bytes) = process.turn.writes_under_way();
        if writes > 1 && bytes as u64 > most {
            let what = format!("node {id} works on {writes} writes of {bytes} bytes at a time, its share is {most}");
            self.fail(Oracle::Room, what);
        }
    }

    /// After each turn and each job, because only those change what is in use.
    pub fn look_at_fullness(&mut self, id: NodeId) {
        if self.mix.plots == 0 {
            return;
        }
        let now = self.now();
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let full = node.disk.usage().is_ok_and(|usage| usage.free_bytes <= node.store_config.reserve_bytes);
        node.full_since = full.then(|| node.full_since.unwrap_or(now));
        if !full {
            return self.brim.full.retain(|(node, _), _| *node != id);
        }
        let long = node.full_since.is_some_and(|since| now - since >= KNOWN_AFTER);
        let (Some(process), disk) = (node.process.as_ref().filter(|_| long), node.disk_id) else { return };
        for record in self.metadata.map.pgs.iter().filter(|record| record.primary == Some(disk)) {
            let Some(status) = process.turn.replica_status(record.pg, disk) else { continue };
            let leads = matches!(status.role, RoleStatus::Primary { .. }) && status.promised == record.epoch;
            let at = self.brim.full.get(&(id, record.pg)).filter(|(epoch, _)| *epoch == record.epoch);
            if leads && at.is_none() {
                self.brim.full.insert((id, record.pg), (record.epoch, status.log_end));
            }
        }
    }

    /// Entries arrive at a member, which has not taken them yet.
    pub fn look_at_room_of(&mut self, from: NodeId, turn: &Turn<SimHost>, envelope: &Envelope) {
        let (pg, disk) = (envelope.pg, envelope.to);
        let Message::Append(append) = &envelope.message else { return };
        if self.mix.plots == 0 {
            return;
        }
        let map = std::sync::Arc::clone(&self.metadata.map);
        let Some(record) = map.pgs.iter().find(|record| record.pg == pg && record.epoch == append.epoch) else {
            return;
        };
        let what = match record.member(disk).map(|member| member.state) {
            Some(MemberState::InSync { lossy: false, behind: false }) => {
                let Some((epoch, end)) = self.brim.full.get(&(from, pg)).copied() else { return };
                let look = |store: &Store<SimDisk>| takes_room(store, pg, append, end);
                turn.look_at_store(disk, look).flatten().filter(|_| epoch == append.epoch).map(|(at, chunk, block)| {
                    format!(
                        "node {from} has no room, and lets {at} make block {block} of {chunk} present, which is absent"
                    )
                })
            }
            Some(MemberState::Syncing) if self.is_fitted_for_long(pg, disk) => turn
                .look_at_store(disk, |store| {
                    let (end, credits) = (store.log_end(pg).ok()?, store.credits());
                    let new = append.entries.iter().filter(|entry| entry.header.position > end);
                    let filled = new.map(|entry| entry.header.effect.most_filled_bytes() as u64).sum::<u64>();
                    (filled > credits + BESIDES).then(|| {
                        format!("disk {disk}, which is syncing and has room for {credits}, is sent fills of {filled}")
                    })
                })
                .flatten(),
            _ => None,
        };
        if let Some(what) = what {
            self.fail(Oracle::Room, format!("group {pg}: {what}"));
        }
    }

    fn is_fitted_for_long(&self, pg: PgId, disk: DiskId) -> bool {
        let long = |at: u64| self.now() - at >= KNOWN_AFTER;
        let fitted = self.nodes.values().find(|node| node.disk_id == disk).and_then(|node| node.fitted);
        fitted.is_some_and(long) && self.brim.set_since.get(&pg).is_none_or(|since| long(*since))
    }

    /// Nobody but its own node takes of a disk, and its members are asked for their room before anything is admitted: then no
    /// checkpoint has to touch what is kept for the day on which the disk is full. A member that does not count is not asked,
    /// so its disk is looked at no more.
    pub fn look_at_ballast(&mut self) {
        let map = std::sync::Arc::clone(&self.metadata.map);
        let members = || map.pgs.iter().flat_map(|record| &record.members);
        let mut short = None;
        for node in self.nodes.values_mut().filter(|node| node.small) {
            let own = members().filter(|member| member.disk == node.disk_id);
            let counts = own.clone().all(|m| matches!(m.state, MemberState::InSync { lossy: false, behind: false }));
            if !counts || node.process.is_none() || node.disk.is_off() {
                node.small = false;
                continue;
            }
            let ballast = node.disk.open("ballast", OpenMode::Existing).and_then(|file| file.len()).unwrap_or(0);
            if ballast < node.store_config.ballast_bytes {
                short = Some((node.id, ballast));
            }
        }
        if let Some((id, length)) = short {
            let what =
                format!("the ballast of node {id} has {length} bytes, and only what was admitted took of its disk");
            self.fail(Oracle::Room, what);
        }
    }
}

/// The first entry behind a position that makes a block present which is absent at its place in the log. The store shows the
/// log as it is without these entries.
fn takes_room(
    store: &Store<SimDisk>,
    pg: PgId,
    append: &Append,
    behind: LogPosition,
) -> Option<(LogPosition, ChunkId, u32)> {
    let own_end = store.log_end(pg).ok()?;
    let mut end = own_end;
    let mut changed: BTreeMap<(ChunkId, u32), bool> = BTreeMap::new();
    for entry in append.entries.iter().filter(|entry| entry.header.position > own_end) {
        let header = &entry.header;
        if header.previous != end {
            return None;
        }
        end = header.position;
        match &header.effect {
            Effect::Write { chunk, range, .. } | Effect::Fill { chunk, range, .. } => {
                for block in u32::from(range.first.0)..range.end() {
                    let one = BlockRange::new(BlockIndex(block as u16), 1);
                    let absent = || store.absent_blocks(pg, *chunk, one).is_ok_and(|absent| absent > 0);
                    let absent = changed.get(&(*chunk, block)).map_or_else(absent, |present| !present);
                    let asked = header.only_for.is_none() && header.origin.is_some() && header.position > behind;
                    if absent && asked {
                        return Some((header.position, *chunk, block));
                    }
                    changed.insert((*chunk, block), true);
                }
            }
            Effect::Discard { chunk, range, .. } => {
                changed.extend((u32::from(range.first.0)..range.end()).map(|block| ((*chunk, block), false)));
            }
            Effect::Nothing => {}
            Effect::Truncate { .. } | Effect::DeleteObject { .. } | Effect::DeleteChunk { .. } => return None,
        }
    }
    None
}
