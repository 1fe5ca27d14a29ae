//! Volumes: creation with its placement, deletion in bounded steps.

use crate::cluster::check_label;
use crate::command::CommandReply;
use crate::keys;
use crate::namespace;
use crate::placement::{self, PrimaryLoad};
use crate::records::{NodeEntry, SessionRecord};
use crate::txn::{Fault, Txn};
use weft_types::limits::{MAX_PGS_PER_VOLUME, MAX_REPLICAS, MAX_VOLUMES};
use weft_types::map::{DiskRecord, Member, MemberState, NodeRecord, PgRecord, VolumeRecord, VolumeState};
use weft_types::{
    AckMode, ChunkSize, DiskId, Epoch, ErrorKind, LossGeneration, MapVersion, NodeId, PgId, SetVersion, VolumeId,
};

pub(crate) struct Wish<'c> {
    pub name: &'c str,
    pub replicas: u8,
    pub chunk_size: ChunkSize,
    pub ack: AckMode,
    pub pg_count: u16,
}

/// Of 1, 2, 3, 4, 5 replicas this many have to be level: 1, 1, 2, 2, 3.
const fn minimum(replicas: u8) -> u8 {
    replicas.div_ceil(2)
}

pub(crate) fn create(txn: &mut Txn<'_>, wish: &Wish<'_>) -> Result<CommandReply, Fault> {
    check(txn, wish)?;
    let nodes: Vec<NodeRecord> = txn.all::<NodeEntry>(keys::NODES)?.into_iter().map(|n| n.record).collect();
    let disks: Vec<DiskRecord> = txn.all(keys::DISKS)?;
    let candidates = placement::candidates(&nodes, &disks);
    let mut usable: Vec<NodeId> = candidates.iter().map(|c| c.node).collect();
    usable.sort_unstable();
    usable.dedup();
    if usable.len() < usize::from(wish.replicas) {
        let text = format!(
            "{} replicas need {} live nodes with an active disk, there are {}",
            wish.replicas,
            wish.replicas,
            usable.len()
        );
        return Err(ErrorKind::Invalid(text).into());
    }
    let id = VolumeId(u32::try_from(txn.count_up(keys::LAST_VOLUME)?).map_err(|_| ErrorKind::NoSpace)?);
    let record = VolumeRecord {
        id,
        name: wish.name.to_owned(),
        replicas: wish.replicas,
        min_in_sync: minimum(wish.replicas),
        chunk_size: wish.chunk_size,
        ack: wish.ack,
        pg_count: wish.pg_count,
        state: VolumeState::Active,
    };
    let groups: Vec<PgRecord> = txn.all(keys::GROUPS)?;
    let version = txn.touch_map()?;
    let mut load = PrimaryLoad::of(groups.iter());
    let of_disk = |disk: DiskId| candidates.iter().find(|c| c.disk == disk).map(|c| c.node);
    for index in 0..wish.pg_count {
        let pg = PgId { volume: id, index };
        let chosen = placement::choose(&candidates, pg, wish.replicas);
        let placed: Vec<(DiskId, NodeId)> = chosen.iter().filter_map(|d| Some((*d, of_disk(*d)?))).collect();
        let group = new_group(&record, pg, &placed, &nodes, load.take(pg, &placed));
        txn.put(keys::group(pg), &PgRecord { epoch_since: version, ..group })?;
    }
    txn.put(keys::volume(id), &record)?;
    txn.put(keys::volume_name(wish.name), &id)?;
    namespace::make_root(txn, id)?;
    txn.note(NodeId(0), format!("volume {} is created", wish.name))?;
    Ok(CommandReply::Volume(record))
}

fn check(txn: &Txn<'_>, wish: &Wish<'_>) -> Result<(), Fault> {
    check_label(wish.name, "a volume name")?;
    let invalid = |text: String| Err(Fault::Refused(ErrorKind::Invalid(text)));
    if wish.replicas == 0 {
        return invalid("a volume has at least 1 replica, not 0".to_owned());
    }
    if wish.replicas > MAX_REPLICAS {
        return invalid(format!("a volume has at most {MAX_REPLICAS} replicas, not {}", wish.replicas));
    }
    if wish.pg_count == 0 || wish.pg_count > MAX_PGS_PER_VOLUME {
        return invalid(format!("a volume has 1 to {MAX_PGS_PER_VOLUME} placement groups, not {}", wish.pg_count));
    }
    if txn.fetch::<VolumeId>(&keys::volume_name(wish.name))?.is_some() {
        return Err(ErrorKind::Exists.into());
    }
    if txn.all::<VolumeRecord>(keys::VOLUMES)?.len() >= MAX_VOLUMES {
        return Err(ErrorKind::Refused(format!("a cluster has at most {MAX_VOLUMES} volumes")).into());
    }
    Ok(())
}

/// All members of a new group are level: they are empty. Its primary peers like any other before it serves.
fn new_group(
    volume: &VolumeRecord,
    pg: PgId,
    placed: &[(DiskId, NodeId)],
    nodes: &[NodeRecord],
    primary: Option<DiskId>,
) -> PgRecord {
    let incarnation = |node: NodeId| nodes.iter().find(|n| n.id == node).map(|n| n.incarnation).unwrap_or_default();
    let member = |(disk, node): &(DiskId, NodeId)| Member {
        disk: *disk,
        node: *node,
        incarnation: incarnation(*node),
        state: MemberState::InSync { lossy: false, behind: false },
    };
    PgRecord {
        pg,
        epoch: Epoch(1),
        epoch_since: MapVersion(0),
        primary,
        levelled_epoch: Epoch(0),
        set_version: SetVersion(1),
        members: placed.iter().map(member).collect(),
        loss_generation: LossGeneration(0),
        min_in_sync: volume.min_in_sync,
        replicas: volume.replicas,
        pending_move: None,
    }
}

/// A volume by its name.
pub(crate) fn by_name(txn: &Txn<'_>, name: &str) -> Result<VolumeRecord, Fault> {
    let id: VolumeId = txn.fetch(&keys::volume_name(name))?.ok_or(ErrorKind::NotFound)?;
    Ok(txn.require(&keys::volume(id))?)
}

pub(crate) fn delete(txn: &mut Txn<'_>, name: &str) -> Result<CommandReply, Fault> {
    let mut volume = by_name(txn, name)?;
    if volume.state == VolumeState::Deleting {
        return Ok(CommandReply::Done);
    }
    let sessions: Vec<SessionRecord> = txn.all(keys::SESSIONS)?;
    if let Some(session) = sessions.iter().find(|s| s.volume == volume.id) {
        let text = format!("volume {name} is mounted on {} at {}", session.host, session.mount_point);
        return Err(ErrorKind::Busy(text).into());
    }
    volume.state = VolumeState::Deleting;
    txn.put(keys::volume(volume.id), &volume)?;
    txn.note(NodeId(0), format!("volume {name} is being deleted"))?;
    txn.touch_map()?;
    Ok(CommandReply::Done)
}

pub(crate) fn purge(txn: &mut Txn<'_>, volume: VolumeId, max_records: u32) -> Result<CommandReply, Fault> {
    let Some(record) = txn.fetch::<VolumeRecord>(&keys::volume(volume))? else {
        return Ok(CommandReply::VolumePurge { finished: true });
    };
    if record.state != VolumeState::Deleting {
        return Err(ErrorKind::Refused(format!("volume {} is not being deleted", record.name)).into());
    }
    txn.touch_work();
    let mut room = (max_records as usize).max(1);
    for letter in keys::OF_VOLUME {
        room -= txn.remove_all(&keys::of_volume(*letter, volume), room)?;
        if room == 0 {
            return Ok(CommandReply::VolumePurge { finished: false });
        }
    }
    // Members of a group that is not in the map delete what they hold of it.
    txn.remove_all(&keys::groups_of(volume), usize::from(MAX_PGS_PER_VOLUME))?;
    txn.remove(keys::usage(volume));
    txn.remove(keys::volume_name(&record.name));
    txn.remove(keys::volume(volume));
    txn.note(NodeId(0), format!("volume {} is deleted", record.name))?;
    txn.touch_map()?;
    Ok(CommandReply::VolumePurge { finished: true })
}
