//! Nodes and disks: registration, death, removal, failed disks (design 4.1, 4.6, 5.4).

use crate::command::CommandReply;
use crate::groups::{self, Liveness, Reign};
use crate::keys;
use crate::mutants::{Mutant, planted};
use crate::records::NodeEntry;
use crate::txn::{Fault, Txn};
use std::collections::{BTreeMap, BTreeSet};
use weft_proto::control::{NothingLost, RegisterDisk, RegisterNode};
use weft_types::limits::MAX_DISKS;
use weft_types::map::{DiskRecord, DiskState, MemberState, NodeState, PgRecord};
use weft_types::{DiskId, ErrorKind, Incarnation, MapVersion, NodeId};

/// Why a node is down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    Surrendered,
    Lapsed,
}

/// A new incarnation (design 5.4): groups it led get a new epoch, its in-sync replicas are lossy unless it proves that
/// nothing was lost. Members that are syncing or out stay that.
pub(crate) fn register(txn: &mut Txn<'_>, request: &RegisterNode) -> Result<CommandReply, Fault> {
    let mut entry: NodeEntry = txn.fetch(&keys::node(request.node))?.ok_or(ErrorKind::NotFound)?;
    check_previous(&entry, request)?;
    if entry.registered_start == request.start && !planted(Mutant::RegisterTwice) {
        // Asked again and committed again. A second incarnation would count as a restart without proof, and the replicas as
        // lossy, although nothing happened.
        let map_version = MapVersion(txn.fetch(keys::MAP_VERSION)?.unwrap_or(0));
        return Ok(CommandReply::Registered { incarnation: entry.record.incarnation, map_version });
    }
    let ended = entry.record.incarnation;
    let incarnation = Incarnation(txn.count_up(keys::LAST_INCARNATION)?);
    entry.registered_from = request.previous;
    entry.registered_start = request.start;
    entry.record.incarnation = incarnation;
    entry.record.state = NodeState::Live;
    entry.record.control_address = request.control_address;
    entry.record.data_address = request.data_address;
    txn.put(keys::node(request.node), &entry)?;
    txn.note(request.node, format!("node {} registers incarnation {incarnation}", request.node))?;
    let mut admitted = BTreeMap::new();
    for disk in &request.disks {
        if let Some(proof) = admit(txn, request.node, disk)? {
            admitted.insert(disk.disk, proof);
        }
    }
    mark_missing(txn, request)?;
    let map_version = txn.touch_map()?;
    let live = Liveness::load(txn)?;
    for before in txn.all::<PgRecord>(keys::GROUPS)? {
        let mut pg = before.clone();
        let led = pg.primary_member().is_some_and(|m| m.node == request.node || admitted.contains_key(&m.disk));
        for member in &mut pg.members {
            let Some(proof) = admitted.get(&member.disk) else { continue };
            // A proof speaks for the last incarnation of this node, and only for a disk that took part in it.
            let proved = proof
                .is_some_and(|p| (p.of == ended && ended != Incarnation(0)) || planted(Mutant::TrustAnyMark))
                && member.incarnation == ended
                && member.node == request.node;
            if let MemberState::InSync { lossy, behind } = member.state {
                let lossy = lossy || !(proved || planted(Mutant::TrustRestart));
                member.state = MemberState::InSync { lossy, behind };
            }
            member.node = request.node;
            member.incarnation = incarnation;
        }
        if pg == before && before.members.iter().all(|m| m.node != request.node) {
            continue;
        }
        let reign = if led && !planted(Mutant::KeepEpochOnRestart) { Reign::End } else { Reign::Keep };
        groups::settle(&mut pg, &live, reign);
        groups::store(txn, &before, pg)?;
    }
    Ok(CommandReply::Registered { incarnation, map_version })
}

/// The incarnation that a node says it was before tells whether its store is the one it ran with (design 3).
///
/// A start that got no answer may be followed by another, and its request be committed after that one's: then there are
/// incarnations that the node does not know. So it may come with any that was given since the one it registered from, and an
/// older one is that of an old store.
fn check_previous(entry: &NodeEntry, request: &RegisterNode) -> Result<(), ErrorKind> {
    let record = &entry.record;
    if record.state == NodeState::Removed {
        return Err(ErrorKind::Refused(format!("node {} was removed: join again, under a new id", record.id)));
    }
    if planted(Mutant::AcceptEmptyStore) || (entry.registered_from..=record.incarnation).contains(&request.previous) {
        return Ok(());
    }
    let text = if request.previous == Incarnation(0) {
        format!("node {} comes with an empty store: its votes are forgotten, so it must join under a new id", record.id)
    } else {
        format!(
            "node {} says it was incarnation {}, the cluster knows {}: its store is an old copy, join under a new id",
            record.id, request.previous, record.incarnation
        )
    };
    Err(ErrorKind::Refused(text))
}

/// `None` when the disk is refused; the rest of the node is registered all the same. Otherwise its proof, if it counts.
fn admit(txn: &mut Txn<'_>, node: NodeId, disk: &RegisterDisk) -> Result<Option<Option<NothingLost>>, Fault> {
    let key = keys::disk(disk.disk);
    let Some(mut record) = txn.fetch::<DiskRecord>(&key)? else {
        new_disk(txn, disk.disk, node, disk.capacity_bytes)?;
        return Ok(Some(disk.proof));
    };
    if matches!(record.state, DiskState::Failed | DiskState::Removed) && !planted(Mutant::ReadmitFailedDisk) {
        txn.note(node, format!("disk {} is refused: it is {:?}; wipe it and add it anew", record.id, record.state))?;
        return Ok(None);
    }
    let mut proof = disk.proof;
    if record.node != node {
        let owner: Option<NodeEntry> = txn.fetch(&keys::node(record.node))?;
        if owner.is_some_and(|o| o.record.state == NodeState::Live) {
            txn.note(node, format!("disk {} is refused: live node {} has it", record.id, record.node))?;
            return Ok(None);
        }
        txn.note(node, format!("disk {} moves from node {} to node {node}", record.id, record.node))?;
        // A proof speaks for a run of the node that had the disk.
        proof = None;
    }
    record.state = DiskState::Active;
    record.node = node;
    record.capacity_bytes = disk.capacity_bytes;
    txn.put(key, &record)?;
    Ok(Some(proof))
}

/// Disks of the node that did not come with it take no new replicas until they are back.
fn mark_missing(txn: &mut Txn<'_>, request: &RegisterNode) -> Result<(), Fault> {
    for mut disk in txn.all::<DiskRecord>(keys::DISKS)? {
        let came = request.disks.iter().any(|d| d.disk == disk.id);
        if disk.node == request.node && disk.state == DiskState::Active && !came {
            disk.state = DiskState::Missing;
            txn.put(keys::disk(disk.id), &disk)?;
            txn.note(disk.node, format!("disk {} of node {} is missing", disk.id, disk.node))?;
        }
    }
    Ok(())
}

fn new_disk(txn: &mut Txn<'_>, disk: DiskId, node: NodeId, capacity_bytes: u64) -> Result<(), Fault> {
    if txn.all::<DiskRecord>(keys::DISKS)?.len() >= MAX_DISKS {
        return Err(ErrorKind::Refused(format!("a cluster has at most {MAX_DISKS} disks, failed ones included")).into());
    }
    let record = DiskRecord { id: disk, node, capacity_bytes, state: DiskState::Active };
    txn.put(keys::disk(disk), &record)?;
    Ok(())
}

/// The incarnation holds no lease any more: its members leave the sets as far as the minimum allows, and its groups are
/// led by others, all in this one step, so that writes resume at once.
pub(crate) fn down(txn: &mut Txn<'_>, node: NodeId, incarnation: Incarnation, why: Why) -> Result<CommandReply, Fault> {
    let mut entry: NodeEntry = txn.fetch(&keys::node(node))?.ok_or(ErrorKind::NotFound)?;
    let over = entry.record.incarnation != incarnation && !planted(Mutant::AnyIncarnationDies);
    if over || entry.record.state != NodeState::Live {
        // A late word about an incarnation that is over says nothing about the present one.
        return Ok(CommandReply::Done);
    }
    entry.record.state = NodeState::Down;
    txn.put(keys::node(node), &entry)?;
    let how = match why {
        Why::Surrendered => "gives up its lease",
        Why::Lapsed => "is dead: its lease lapsed",
    };
    txn.note(node, format!("node {node} ({}) {how}", entry.record.name))?;
    txn.touch_map()?;
    settle_groups(txn, |m| m == node)?;
    Ok(CommandReply::Done)
}

/// Settles every group with a member on a node that `concerns` names.
fn settle_groups(txn: &mut Txn<'_>, concerns: impl Fn(NodeId) -> bool) -> Result<(), Fault> {
    let live = Liveness::load(txn)?;
    for before in txn.all::<PgRecord>(keys::GROUPS)? {
        if before.members.iter().any(|m| concerns(m.node)) {
            let mut pg = before.clone();
            groups::settle(&mut pg, &live, Reign::Keep);
            groups::store(txn, &before, pg)?;
        }
    }
    Ok(())
}

/// Operator: the node will not come back.
pub(crate) fn remove(txn: &mut Txn<'_>, node: NodeId) -> Result<CommandReply, Fault> {
    let mut entry: NodeEntry = txn.fetch(&keys::node(node))?.ok_or(ErrorKind::NotFound)?;
    match entry.record.state {
        NodeState::Removed => return Ok(CommandReply::Done),
        NodeState::Live => {
            return Err(ErrorKind::Busy(format!("node {node} is live: stop it first")).into());
        }
        NodeState::Joined | NodeState::Down => {}
    }
    // A disk that failed, is missing or was removed with its node may hold nothing any more, although its member stays in the
    // set for as long as the minimum asks for it: two removals in a row would give up the last copy.
    let disks: Vec<DiskRecord> = txn.all(keys::DISKS)?;
    let good: BTreeSet<DiskId> = disks.iter().filter(|d| d.state == DiskState::Active).map(|d| d.id).collect();
    for pg in txn.all::<PgRecord>(keys::GROUPS)? {
        // Design 5.9: the last good copy is never given up by the way.
        let elsewhere = pg.members.iter().any(|m| m.node != node && m.is_level() && good.contains(&m.disk));
        if !elsewhere && !planted(Mutant::RemoveOnlyCopy) && pg.members.iter().any(|m| m.node == node && m.is_in_sync())
        {
            let text = format!("node {node} has the only good copy of placement group {}: bring it back", pg.pg);
            return Err(ErrorKind::Busy(text).into());
        }
    }
    entry.record.state = NodeState::Removed;
    entry.record.voter = false;
    txn.put(keys::node(node), &entry)?;
    for mut disk in disks {
        if disk.node == node && disk.state != DiskState::Removed {
            disk.state = DiskState::Removed;
            txn.put(keys::disk(disk.id), &disk)?;
        }
    }
    txn.note(node, format!("node {node} ({}) is removed", entry.record.name))?;
    txn.touch_map()?;
    settle_groups(txn, |m| m == node)?;
    Ok(CommandReply::Done)
}

pub(crate) fn add_disk(
    txn: &mut Txn<'_>,
    disk: DiskId,
    node: NodeId,
    incarnation: Incarnation,
    capacity_bytes: u64,
) -> Result<CommandReply, Fault> {
    let entry: NodeEntry = txn.fetch(&keys::node(node))?.ok_or(ErrorKind::NotFound)?;
    if entry.record.state != NodeState::Live || entry.record.incarnation != incarnation {
        return Err(ErrorKind::Refused(format!("node {node} is not live under incarnation {incarnation}")).into());
    }
    if let Some(known) = txn.fetch::<DiskRecord>(&keys::disk(disk))? {
        if known.state == DiskState::Active && known.node == node {
            return Ok(CommandReply::Done);
        }
        let text = format!("disk {disk} is known, on node {}, as {:?}: wipe it first", known.node, known.state);
        return Err(ErrorKind::Refused(text).into());
    }
    new_disk(txn, disk, node, capacity_bytes)?;
    txn.note(node, format!("disk {disk} is added"))?;
    txn.touch_map()?;
    Ok(CommandReply::Done)
}

/// Its node has stopped serving from it (design 4.6). What it holds is not trusted again under this id.
pub(crate) fn disk_failed(txn: &mut Txn<'_>, disk: DiskId, incarnation: Incarnation) -> Result<CommandReply, Fault> {
    let mut record: DiskRecord = txn.fetch(&keys::disk(disk))?.ok_or(ErrorKind::NotFound)?;
    let owner: Option<NodeEntry> = txn.fetch(&keys::node(record.node))?;
    if owner.is_none_or(|o| o.record.incarnation != incarnation) {
        return Err(ErrorKind::Refused("another incarnation has the disk now".to_owned()).into());
    }
    if matches!(record.state, DiskState::Failed | DiskState::Removed) {
        return Ok(CommandReply::Done);
    }
    record.state = DiskState::Failed;
    txn.put(keys::disk(disk), &record)?;
    txn.note(record.node, format!("disk {disk} of node {} failed", record.node))?;
    txn.touch_map()?;
    settle_groups(txn, |m| m == record.node)?;
    Ok(CommandReply::Done)
}
