//! What nodes answer and send, held against what they may at that moment (design 4.2, 4.3, 4.5, 5.2, 5.6, 5.8, 6 and 7).
//!
//! These oracles look at each answer as it leaves its node, so that a broken rule is seen also when no client happens to be
//! told anything wrong by it. Guarantees: they only look; a run is the same with and without them. Must not know: how a node
//! comes to its answer.

use crate::failure::Oracle;
use crate::host::SimHost;
use crate::world::World;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_node::data::turn::Turn;
use weft_proto::data::{DataReply, DataRequest};
use weft_proto::replication::{Envelope, Message};
use weft_replication::RoleStatus;
use weft_store::ObjectEnd;
use weft_types::map::ClusterMap;
use weft_types::{
    BLOCK_SIZE, DataError, DiskId, Effect, Entry, Epoch, LogPosition, MapVersion, NodeId, ObjectId, OperationId, PgId,
    SessionId, TruncateGeneration, block_hash,
};

/// An operation of a session.
pub type OperationOf = (SessionId, OperationId);

/// What is remembered of what nodes said.
#[derive(Default)]
pub struct Said {
    /// Changes that were refused for want of room, and where the log of who refused them ended.
    refusals: BTreeMap<OperationOf, (PgId, LogPosition)>,
    /// Those whose client took that for the answer, and went on.
    refused_for_good: BTreeMap<OperationOf, (PgId, LogPosition)>,
    /// The last epoch that a member has promised.
    promised: BTreeMap<(PgId, DiskId), Epoch>,
}

/// Groups whose primary is here and knows that it is to make room for another.
pub fn moved_away(turn: &Turn<SimHost>) -> BTreeSet<PgId> {
    let Some(map) = turn.map() else { return BTreeSet::new() };
    let leads = |record: &&weft_types::PgRecord| record.primary_member().is_some_and(|m| m.node == turn.node());
    map.pgs.iter().filter(|record| record.pending_move.is_some()).filter(leads).map(|record| record.pg).collect()
}

/// The group that a request is for, if it is for one.
const fn group_of(body: &DataRequest) -> Option<PgId> {
    match body {
        DataRequest::Write(request) => Some(request.pg),
        DataRequest::Read(request) => Some(request.pg),
        DataRequest::Discard(request) => Some(request.pg),
        DataRequest::Fill(request) => Some(request.pg),
        DataRequest::Truncate(request) => Some(request.pg),
        DataRequest::DeleteObject { pg, .. }
        | DataRequest::ObjectExtent { pg, .. }
        | DataRequest::Presence { pg, .. } => Some(*pg),
        // The node gathers the answers of several groups, some of which are older.
        DataRequest::Flush(_) | DataRequest::Copy(_) => None,
    }
}

fn primary_disk(map: &ClusterMap, pg: PgId) -> Option<DiskId> {
    map.pgs.iter().find(|record| record.pg == pg)?.primary
}

impl World {
    /// An answer leaves a node.
    pub fn look_at_answer(&mut self, id: NodeId, body: &DataRequest, result: &Result<DataReply, DataError>) {
        let Some(pg) = group_of(body) else { return };
        match result {
            Ok(reply) => {
                if let Err(what) = self.look_at_good_answer(id, pg, body, reply) {
                    self.fail(Oracle::Rights, format!("group {pg}: node {id} {what}"));
                }
            }
            Err(DataError::NoSpace) => self.note_refusal(id, pg, body),
            Err(_) => {}
        }
    }

    fn look_at_good_answer(&self, id: NodeId, pg: PgId, body: &DataRequest, reply: &DataReply) -> Result<(), String> {
        let Some(process) = self.nodes.get(&id).and_then(|node| node.process.as_ref()) else { return Ok(()) };
        // A primary that knows of a move answers nothing any more (design 4.3). What it put out before it knew is out.
        if process.moved_away.contains(&pg) {
            return Err(format!("answered a {} although it knew that another takes over", body.name()));
        }
        // Lease and bytes are there at the same moment (design 4.2, 5.6). Where answers wait for the end of a batch, the
        // lease may have run out since.
        let reads =
            matches!(body, DataRequest::Read(_) | DataRequest::ObjectExtent { .. } | DataRequest::Presence { .. });
        if reads && self.mix.batch_us == 0 && !process.turn.holds_lease() {
            return Err(format!("answered a {} without a lease", body.name()));
        }
        match (body, reply) {
            (DataRequest::ObjectExtent { object, generation, .. }, DataReply::ObjectExtent { end_bytes, .. }) => {
                look_at_end(&process.turn, pg, *object, *generation, *end_bytes)
            }
            _ => Ok(()),
        }
    }

    fn note_refusal(&mut self, id: NodeId, pg: PgId, body: &DataRequest) {
        let Some(process) = self.nodes.get(&id).and_then(|node| node.process.as_ref()) else { return };
        let disk = process.turn.map().and_then(|map| primary_disk(&map, pg));
        let Some(status) = disk.and_then(|disk| process.turn.replica_status(pg, disk)) else { return };
        self.said.refusals.insert(body.asked_by(), (pg, status.log_end));
    }

    /// A client takes a refusal for the answer to its operation, and goes on.
    pub fn takes_refusal(&mut self, operation: OperationOf) {
        if let Some(refusal) = self.said.refusals.remove(&operation) {
            self.stats.count("changes refused for good");
            self.said.refused_for_good.insert(operation, refusal);
        }
    }

    /// What was refused for good gets no place in a log any more, whatever copy of it arrives where (design 4.5, 5.8).
    pub fn look_at_refused(&mut self, pg: PgId, entries: &[Arc<Entry>]) {
        for entry in entries {
            let Some(origin) = entry.header.origin else { continue };
            let operation = (origin.session, origin.operation);
            let Some((of, end)) = self.said.refused_for_good.get(&operation) else { continue };
            let position = entry.header.position;
            if *of == pg && position > *end {
                let (session, operation) = operation;
                let what = format!("operation {operation} of session {session} was refused for good, at {end}");
                return self.fail(Oracle::Rights, format!("group {pg}: {what}, and is carried out at {position}"));
            }
        }
    }

    /// A member tells that it has promised.
    pub fn note_promise(&mut self, envelope: &Envelope) {
        if let Message::Promised(promised) = &envelope.message {
            let known = self.said.promised.entry((envelope.pg, envelope.from)).or_default();
            *known = (*known).max(promised.epoch);
        }
    }

    /// Who is no member any more may forget.
    pub fn forget_promises(&mut self, map: &ClusterMap) {
        let is_member =
            |pg: PgId, disk: DiskId| map.pgs.iter().any(|record| record.pg == pg && record.member(disk).is_some());
        self.said.promised.retain(|(pg, disk), _| is_member(*pg, *disk));
    }

    /// A promise that was given outlives whatever happens to its member, as long as its disk is there (design 5.2). Looked at
    /// before a message is heard, which may have it promise anew.
    pub fn look_at_given_promise(&mut self, turn: &Turn<SimHost>, pg: PgId, disk: DiskId) {
        let (Some(given), Some(status)) = (self.said.promised.get(&(pg, disk)), turn.replica_status(pg, disk)) else {
            return;
        };
        if status.role != RoleStatus::Ended && status.promised < *given {
            let what = format!("disk {disk} told that it promised epoch {given}, and knows of {}", status.promised);
            self.fail(Oracle::Promises, format!("group {pg}: {what}"));
        }
    }

    /// A lease counts once the map that it names is applied (design 4.2).
    pub fn look_at_leases(&mut self) {
        let early = self.nodes.values_mut().find_map(|node| {
            let process = node.process.as_mut()?;
            let now = process.host.0.clock.read();
            process.leases.retain(|(until, _)| *until > now);
            let applied = process.turn.map().map_or(MapVersion(0), |map| map.version);
            let counts = process.leases.iter().any(|(_, named)| *named <= applied);
            (process.turn.holds_lease() && !counts).then_some((node.id, applied))
        });
        if let Some((id, applied)) = early {
            self.fail(
                Oracle::Rights,
                format!("node {id} holds a lease that names a later map than {applied}, its own"),
            );
        }
    }

    /// The first entry that the receiver does not have and whose bytes were damaged on their way to it.
    pub fn damaged_in(&self, turn: &Turn<SimHost>, envelope: &Envelope) -> Option<LogPosition> {
        let Message::Append(append) = &envelope.message else { return None };
        if self.damaged == 0 {
            return None;
        }
        let first = append.entries.iter().find(|entry| is_damaged(envelope.pg, entry))?.header.position;
        let end = turn.replica_status(envelope.pg, envelope.to)?.log_end;
        (end < first).then_some(first)
    }

    /// It has not taken them (design 5.7, 6).
    pub fn look_at_damage(&mut self, turn: &Turn<SimHost>, pg: PgId, disk: DiskId, damaged: LogPosition) {
        let end = turn.replica_status(pg, disk).map(|status| status.log_end);
        if end.is_some_and(|end| end >= damaged) {
            self.fail(Oracle::Replicas, format!("group {pg}: disk {disk} took {damaged}, damaged on its way"));
        }
    }

    /// Whether every level member knows what is readable. A primary tells an idle one again until it does.
    pub fn all_know_what_is_readable(&self) -> Result<(), String> {
        for record in &self.metadata.map.pgs {
            let standing = |disk: DiskId| {
                let node = self.nodes.values().find(|node| node.disk_id == disk)?;
                let turn = &node.process.as_ref()?.turn;
                let committed = turn.look_at_store(disk, |store| store.committed(record.pg).ok()).flatten()?;
                Some((turn.replica_status(record.pg, disk)?.role, committed))
            };
            let Some((RoleStatus::Primary { readable, .. }, _)) = record.primary.and_then(standing) else { continue };
            for member in record.members.iter().filter(|member| member.is_level()) {
                if let Some((_, committed)) = standing(member.disk).filter(|(_, committed)| *committed < readable) {
                    let what = format!("{readable} is readable, and disk {} knows {committed}", member.disk);
                    return Err(format!("group {}: {what}", record.pg));
                }
            }
        }
        Ok(())
    }
}

/// What a group that has not heard of a cut says of an object's end is that there is none; and one that has says nothing of
/// before (design 7, size). No change but a cut makes an object shorter.
fn look_at_end(
    turn: &Turn<SimHost>,
    pg: PgId,
    object: ObjectId,
    asked: TruncateGeneration,
    end_bytes: u64,
) -> Result<(), String> {
    let Some(disk) = turn.map().and_then(|map| primary_disk(&map, pg)) else { return Ok(()) };
    let known = turn.look_at_store(disk, |store| (store.object_generation(pg, object), store.object_end(pg, object)));
    let Some((Some(generation), end)) = known else { return Ok(()) };
    if generation < asked && end_bytes > 0 {
        return Err(format!("knows {generation:?} of {object}, and told {end_bytes} bytes as of {asked:?}"));
    }
    let now = end.map_or(0, |ObjectEnd { chunk, end_bytes, .. }| {
        u64::from(chunk.0) * u64::from(crate::client::CHUNK_BYTES) + u64::from(end_bytes)
    });
    if generation == asked && asked > TruncateGeneration(0) && end_bytes > now {
        return Err(format!("told {end_bytes} bytes of {object} as of {asked:?}, and has {now}"));
    }
    Ok(())
}

fn is_damaged(pg: PgId, entry: &Entry) -> bool {
    let Effect::Write { chunk, range, hashes, .. } = &entry.header.effect else { return false };
    let blocks = range.blocks().zip(entry.data.chunks_exact(BLOCK_SIZE)).zip(hashes);
    blocks.into_iter().any(|((block, bytes), hash)| block_hash(pg.volume, *chunk, block, bytes) != *hash)
}
