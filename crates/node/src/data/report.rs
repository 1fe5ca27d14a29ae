//! What this thread tells of itself: facts for heartbeats, the report, the progress of resync.

use super::host::Host;
use super::node::DataNode;
use weft_proto::admin::{DiskReport, HealProgress, NodeReport};
use weft_replication::{Event, RoleStatus};
use weft_store::Disk;
use weft_types::{PgId, VolumeId};

/// Ticks between two looks at every group.
const TICKS_PER_LOOK: u64 = 5;

impl<H: Host> DataNode<H> {
    /// At every tick: what heartbeats carry.
    pub(super) fn publish_facts(&mut self) {
        self.ticks += 1;
        let look = self.ticks % TICKS_PER_LOOK == 1;
        let reachable = self.peers.reachable(self.host.now());
        let troubled = look.then(|| self.troubled());
        let healthy = self.disks.iter().filter(|(_, disk)| disk.failure().is_none());
        let free_bytes = healthy.map(|(id, disk)| (*id, disk.store.space().free_bytes)).collect();
        {
            let mut facts = self.status.facts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            facts.reachable = reachable;
            facts.free_bytes = free_bytes;
            if let Some(troubled) = troubled {
                facts.troubled = troubled;
            }
        }
        if look {
            self.share_resync_rate();
        }
    }

    /// Groups led here that do not serve fully, and why.
    fn troubled(&self) -> Vec<(PgId, String)> {
        let mut troubled = Vec::new();
        for (pg, disk) in &self.leading {
            let key = super::groups::GroupKey { pg: *pg, disk: *disk };
            let why = match self.groups.get(&key).map(|group| group.replica.status().role) {
                Some(RoleStatus::Primary { trouble: None, .. }) => continue,
                Some(RoleStatus::Primary { trouble: Some(why), .. }) => why,
                Some(RoleStatus::Member) => "it has not taken the lead yet".to_owned(),
                Some(RoleStatus::Ended) => "its disk has failed, or the node stops".to_owned(),
                None => "it is not open".to_owned(),
            };
            troubled.push((*pg, why));
        }
        troubled.sort();
        troubled
    }

    /// The node's pace of resync is shared by the groups that have one running.
    fn share_resync_rate(&mut self) {
        let clock = self.clock();
        let healing: Vec<_> = self
            .groups
            .iter()
            .filter(|(_, group)| group.replica.heal_progress(clock).is_some())
            .map(|(key, _)| *key)
            .collect();
        let share = self.settings.resync_bytes_per_second / (healing.len() as u64).max(1);
        for key in healing {
            self.step(key, Event::ResyncRate { bytes_per_second: share });
        }
    }

    pub(super) fn heal_progress(&self, volume: VolumeId) -> Vec<HealProgress> {
        let clock = self.clock();
        let of_volume = self.groups.iter().filter(|(key, _)| key.pg.volume == volume);
        of_volume.filter_map(|(_, group)| group.replica.heal_progress(clock)).collect()
    }

    pub(super) fn report(&self) -> NodeReport {
        let (resident_bytes, resident_peak_bytes) = resident();
        let mut counters = self.counters.list();
        counters.push(("groups".to_owned(), self.groups.len() as u64));
        counters.push(("groups_led".to_owned(), self.leading.len() as u64));
        counters.push(("requests_in_flight".to_owned(), self.requests.len() as u64));
        NodeReport {
            node: self.settings.node,
            applied: self.applied(),
            lease_held: self.lease.is_held(self.host.now()),
            resident_bytes,
            resident_peak_bytes,
            counters,
            disks: self.disks.iter().map(|(id, disk)| disk_report(*id, disk)).collect(),
            troubled_pgs: self.troubled(),
        }
    }
}

fn disk_report<H: Host>(id: weft_types::DiskId, disk: &super::syncing::LocalDisk<H>) -> DiskReport {
    let space = disk.store.space();
    let pressure = disk.store.journal_pressure();
    let filesystem = match disk.disk.filesystem() {
        Ok(filesystem) => format!("{filesystem:?}").to_lowercase(),
        Err(error) => format!("unknown: {error}"),
    };
    DiskReport {
        disk: id,
        path: disk.path.display().to_string(),
        filesystem,
        total_bytes: space.total_bytes,
        free_bytes: space.free_bytes,
        journal_used_bytes: pressure.used_bytes,
        journal_total_bytes: pressure.total_bytes,
    }
}

/// Resident memory of the process now and at most; zero where the kernel does not tell.
fn resident() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0)
    };
    (kib("VmRSS:") * 1024, kib("VmHWM:") * 1024)
}
