//! The map as a client uses it: placement group to primary, node and address.
//!
//! Guarantees: the version never goes back; a route is taken from one version of the map.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use weft_types::map::{ClusterMap, NodeRecord, VolumeRecord, pg_of_chunk};
use weft_types::{
    ChunkId, DiskId, Epoch, Incarnation, LossGeneration, MapVersion, NodeId, ObjectId, PgId, SessionId, VolumeId,
};

/// Where requests for a placement group go, as one map version has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub address: SocketAddr,
    pub disk: DiskId,
    pub epoch: Epoch,
}

/// Index over a map for one volume.
#[derive(Clone, Debug)]
pub struct RouteTable {
    map: Arc<ClusterMap>,
    volume: VolumeId,
    pg_count: u16,
    /// By group number; `None` while nobody may lead the group.
    targets: Vec<Option<Target>>,
    losses: Arc<Vec<LossGeneration>>,
}

impl RouteTable {
    /// `None` when the map does not hold the volume.
    #[must_use]
    pub fn new(volume: VolumeId, map: Arc<ClusterMap>) -> Option<Self> {
        let pg_count = map.volumes.iter().find(|v| v.id == volume)?.pg_count;
        let nodes: BTreeMap<NodeId, &NodeRecord> = map.nodes.iter().map(|n| (n.id, n)).collect();
        let mut targets = vec![None; usize::from(pg_count)];
        let mut losses = vec![LossGeneration(0); usize::from(pg_count)];
        for record in map.pgs.iter().filter(|r| r.pg.volume == volume) {
            let index = usize::from(record.pg.index);
            if index >= targets.len() {
                continue;
            }
            losses[index] = record.loss_generation;
            targets[index] = record.primary_member().and_then(|member| {
                nodes.get(&member.node).map(|node| Target {
                    node: member.node,
                    incarnation: node.incarnation,
                    address: node.data_address,
                    disk: member.disk,
                    epoch: record.epoch,
                })
            });
        }
        Some(Self { map, volume, pg_count, targets, losses: Arc::new(losses) })
    }

    #[must_use]
    pub fn version(&self) -> MapVersion {
        self.map.version
    }

    #[must_use]
    pub fn map(&self) -> &Arc<ClusterMap> {
        &self.map
    }

    #[must_use]
    pub fn volume(&self) -> Option<&VolumeRecord> {
        self.map.volumes.iter().find(|v| v.id == self.volume)
    }

    #[must_use]
    pub fn pg_of(&self, chunk: ChunkId) -> PgId {
        pg_of_chunk(self.volume, self.pg_count, chunk)
    }

    #[must_use]
    pub fn target(&self, pg: PgId) -> Option<Target> {
        self.targets.get(usize::from(pg.index)).copied().flatten()
    }

    /// Every group of the volume.
    pub fn pgs(&self) -> impl Iterator<Item = PgId> + use<> {
        let volume = self.volume;
        (0..self.pg_count).map(move |index| PgId { volume, index })
    }

    /// Groups that hold the first `chunks` chunks of an object. Asked with the size of a file, it names all groups
    /// that anybody's acknowledged write to the file may lie in.
    #[must_use]
    pub fn pgs_of_object(&self, object: ObjectId, chunks: u64) -> Vec<PgId> {
        // Past this many chunks nearly every group holds one, and hashing them all would cost more than asking.
        if chunks >= u64::from(self.pg_count) * 4 {
            return self.pgs().collect();
        }
        let mut seen = vec![false; usize::from(self.pg_count)];
        for index in 0..chunks {
            let index = weft_types::ChunkIndex(u32::try_from(index).unwrap_or(u32::MAX));
            seen[usize::from(self.pg_of(ChunkId { object, index }).index)] = true;
        }
        self.pgs().filter(|pg| seen[usize::from(pg.index)]).collect()
    }

    /// Loss generation of every group, by group number.
    #[must_use]
    pub fn losses(&self) -> Arc<Vec<LossGeneration>> {
        Arc::clone(&self.losses)
    }

    #[must_use]
    pub fn is_live(&self, session: SessionId) -> bool {
        self.map.is_live(session)
    }
}
