//! What a newer map changes on this node.
//!
//! Guarantees: `DataStatus::applied` is raised only after every machine has taken the map in, carried its actions out and
//! ended its batch; so what the map takes a right from is either sequenced or refused (design 4.3). The data of a group
//! that is no longer placed here are kept, only its machine goes; the data of a volume that is no more are deleted.
//! Must not know: who decided the map, or why.

use super::groups::{GroupKey, OpenGroupError, others};
use super::host::Host;
use super::node::{DataNode, Stage};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use weft_replication::{ClusterFacts, Event, GroupMap, VolumeFacts};
use weft_types::map::{ClusterMap, DiskState, NodeState, VolumeRecord};
use weft_types::{DiskId, PgId, SessionId, VolumeId};

pub(super) fn apply<H: Host>(node: &mut DataNode<H>, map: &Arc<ClusterMap>) {
    if node.stage != Stage::Running || (node.map.is_some() && map.version <= node.applied()) {
        return;
    }
    if map.version < node.registered_at {
        // Of a control side whose state is behind. It may not name volumes of which we hold data, which would be deleted.
        return;
    }
    let live_nodes = map.nodes.iter().filter(|n| n.state == NodeState::Live).map(|n| n.id).collect();
    let live_sessions: BTreeSet<SessionId> = map.live_sessions.iter().map(|live| live.id).collect();
    let gone_disks = map.disks.iter().filter(|disk| disk.state != DiskState::Active).map(|disk| disk.id).collect();
    node.facts = Arc::new(ClusterFacts { version: map.version, live_sessions, live_nodes, gone_disks });
    node.map = Some(Arc::clone(map));
    node.owners = map.live_sessions.iter().map(|live| (live.id, live.owner)).collect();
    node.homes = map.disks.iter().map(|disk| (disk.id, disk.node)).collect();
    let volumes: HashMap<VolumeId, &VolumeRecord> = map.volumes.iter().map(|volume| (volume.id, volume)).collect();
    let mut leading: HashMap<PgId, DiskId> = HashMap::new();
    let mut placed: BTreeSet<GroupKey> = BTreeSet::new();
    for record in &map.pgs {
        let Some(volume) = volumes.get(&record.pg.volume) else { continue };
        let facts = VolumeFacts { chunk_size: volume.chunk_size };
        for member in &record.members {
            if !node.disks.contains_key(&member.disk) {
                continue;
            }
            let key = GroupKey { pg: record.pg, disk: member.disk };
            let group = GroupMap { record: record.clone(), volume: facts, cluster: Arc::clone(&node.facts) };
            if record.primary == Some(member.disk) {
                leading.insert(record.pg, member.disk);
            }
            placed.insert(key);
            node.take_in(key, volume, group);
        }
    }
    node.leading = leading;
    node.limit_clients(map);
    node.drop_groups(&placed);
    node.delete_groups_of_gone_volumes(&volumes);
    node.forget_sessions();
    node.settle();
    node.raise_applied();
    tracing::debug!(version = %map.version, groups = node.groups.len(), "map applied");
}

impl<H: Host> DataNode<H> {
    fn take_in(&mut self, key: GroupKey, volume: &VolumeRecord, map: GroupMap) {
        match self.groups.get_mut(&key) {
            Some(group) => group.others = others(&map, key.disk),
            None => match self.open_group(key, volume, &map) {
                Ok(()) => tracing::info!(pg = %key.pg, disk = %key.disk, "group placed here"),
                Err(OpenGroupError::DiskFailed) => return,
                Err(OpenGroupError::Store(error)) => {
                    self.fail_disk(key.disk, &format!("cannot open group {}: {error}", key.pg));
                    return;
                }
            },
        }
        self.step(key, Event::Map(map));
    }

    /// Ends the machines of groups that are no longer placed here. What waits in them is refused.
    fn drop_groups(&mut self, placed: &BTreeSet<GroupKey>) {
        let gone: Vec<GroupKey> = self.groups.keys().filter(|key| !placed.contains(key)).copied().collect();
        for key in gone {
            self.step(key, Event::Stop);
            self.end_batch(key);
            self.groups.remove(&key);
            self.touched.remove(&key);
            tracing::info!(pg = %key.pg, disk = %key.disk, "group is no longer placed here; its data are kept");
        }
    }

    /// A volume's id is never used again and the map names every volume that exists, so a group of a volume that it does
    /// not name can never be asked for. (A group of a living volume that is placed elsewhere is another matter: its
    /// data here may be the last good copy, and only an operator may discard it.)
    fn delete_groups_of_gone_volumes(&mut self, volumes: &HashMap<VolumeId, &VolumeRecord>) {
        let mut failed: Vec<(DiskId, String)> = Vec::new();
        for (id, disk) in self.disks.iter_mut().filter(|(_, disk)| disk.failure().is_none()) {
            let gone: Vec<PgId> = disk.store.pgs().filter(|pg| !volumes.contains_key(&pg.volume)).collect();
            for pg in gone {
                match disk.store.remove_pg(pg) {
                    Ok(_) => {
                        disk.want_sync(pg);
                        tracing::info!(%pg, disk = %id, "its volume was deleted; so are its data");
                    }
                    Err(error) => failed.push((*id, format!("cannot delete group {pg}: {error}"))),
                }
            }
        }
        for (disk, why) in failed {
            self.fail_disk(disk, &why);
        }
    }

    /// Dedupe records of sessions that have ended are of no use. Ids count up: one above every live session may be of a
    /// session that a newer map knows and whose entries came here first.
    fn forget_sessions(&mut self) {
        let facts = Arc::clone(&self.facts);
        let Some(newest) = facts.live_sessions.last().copied() else { return };
        for disk in self.disks.values_mut().filter(|disk| disk.failure().is_none()) {
            disk.store.retain_sessions(|session| session > newest || facts.live_sessions.contains(&session));
        }
    }
}
