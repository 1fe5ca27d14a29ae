//! Which disks hold a placement group: weighted rendezvous hashing over live disks.
//!
//! Guarantees: a disk gets groups in proportion to its capacity; when a disk comes or goes only groups that it wins or
//! loses would move; no two replicas on one node; replicas spread over as many outermost failure domains as there are.
//! Integer arithmetic only, so that every machine computes the same.
//! Source: Mosharaf, "weighted rendezvous hashing" as used by Ceph's straw2 buckets: each disk draws -ln(u)/weight, the
//! smallest wins.

use std::collections::BTreeMap;
use weft_types::map::{ClusterMap, DiskRecord, DiskState, NodeRecord, NodeState, PgRecord};
use weft_types::{DiskId, NodeId, PgId};

/// A disk that may take a replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    pub disk: DiskId,
    pub node: NodeId,
    /// Capacity in GiB, at least 1.
    pub weight: u64,
    /// Outermost failure domain; the node itself when it has none.
    pub domain: String,
}

/// Active disks on live nodes.
#[must_use]
pub fn candidates(nodes: &[NodeRecord], disks: &[DiskRecord]) -> Vec<Candidate> {
    let live: BTreeMap<NodeId, &NodeRecord> =
        nodes.iter().filter(|n| n.state == NodeState::Live).map(|n| (n.id, n)).collect();
    let active = disks.iter().filter(|d| d.state == DiskState::Active);
    active
        .filter_map(|d| {
            let node = live.get(&d.node)?;
            // A node without labels is a domain of its own; the prefix keeps it apart from a label of that text.
            let domain = node.failure_domain.first().map_or_else(|| format!("node/{}", node.id), Clone::clone);
            Some(Candidate { disk: d.id, node: d.node, weight: (d.capacity_bytes >> 30).max(1), domain })
        })
        .collect()
}

/// Disks for a new group, best first; fewer than `replicas` when there are not enough nodes.
#[must_use]
pub fn choose(candidates: &[Candidate], pg: PgId, replicas: u8) -> Vec<DiskId> {
    let mut chosen: Vec<&Candidate> = Vec::new();
    while chosen.len() < usize::from(replicas) {
        let Some(next) = best(candidates, pg, &chosen) else { break };
        chosen.push(next);
    }
    chosen.iter().map(|c| c.disk).collect()
}

/// The best further disk beside `taken`: in the domain with the fewest of them, then the smallest draw.
fn best<'c>(candidates: &'c [Candidate], pg: PgId, taken: &[&Candidate]) -> Option<&'c Candidate> {
    let free = candidates.iter().filter(|c| taken.iter().all(|t| t.node != c.node));
    free.min_by_key(|c| (taken.iter().filter(|t| t.domain == c.domain).count(), draw(pg, c), c.disk))
}

/// A disk to take the place of `dead` in a group.
#[must_use]
pub fn choose_spare(map: &ClusterMap, pg: &PgRecord, dead: DiskId) -> Option<DiskId> {
    let all = candidates(&map.nodes, &map.disks);
    let stays = |c: &&Candidate| pg.members.iter().any(|m| m.disk != dead && m.node == c.node);
    let taken: Vec<&Candidate> = all.iter().filter(stays).collect();
    let fresh: Vec<Candidate> = all.iter().filter(|c| c.disk != dead).cloned().collect();
    best(&fresh, pg.pg, &taken).map(|c| c.disk)
}

/// -log2(u) / weight, in fixed point.
fn draw(pg: PgId, candidate: &Candidate) -> u128 {
    let hash = rank(pg, candidate.disk).max(1);
    let whole = u128::from(64u64) << 32;
    ((whole - u128::from(log2_fixed(hash))) << 32) / u128::from(candidate.weight)
}

/// Binary logarithm with 32 fractional bits.
fn log2_fixed(value: u64) -> u64 {
    let integer = 63 - u64::from(value.leading_zeros());
    // Mantissa in [1, 2) with 63 fractional bits; each squaring yields the next bit of the logarithm.
    let mut mantissa = u128::from(value) << (63 - integer);
    let mut fraction = 0u64;
    for _ in 0..32 {
        mantissa = (mantissa * mantissa) >> 63;
        fraction <<= 1;
        if mantissa >> 64 != 0 {
            fraction |= 1;
            mantissa >>= 1;
        }
    }
    (integer << 32) | fraction
}

/// A number for a pair of group and disk, evenly spread and the same on every machine.
pub(crate) fn rank(pg: PgId, disk: DiskId) -> u64 {
    let group = (u64::from(pg.volume.0) << 16) | u64::from(pg.index);
    mix(mix(mix(group) ^ disk.0 as u64) ^ (disk.0 >> 64) as u64)
}

/// Finalizer of SplitMix64 (Steele, Lea, Flood 2014).
const fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Counts primaries per node, so that each new group is led by the member that leads least.
#[derive(Clone, Default, Debug)]
pub struct PrimaryLoad {
    groups: BTreeMap<NodeId, u64>,
}

impl PrimaryLoad {
    #[must_use]
    pub fn of<'g>(groups: impl Iterator<Item = &'g PgRecord>) -> Self {
        let mut load = Self::default();
        for member in groups.filter_map(PgRecord::primary_member) {
            *load.groups.entry(member.node).or_default() += 1;
        }
        load
    }

    /// The disk that leads a new group, and counts it.
    pub fn take(&mut self, pg: PgId, members: &[(DiskId, NodeId)]) -> Option<DiskId> {
        let load = |node: &NodeId| self.groups.get(node).copied().unwrap_or(0);
        let (disk, node) = *members.iter().min_by_key(|(disk, node)| (load(node), rank(pg, *disk)))?;
        *self.groups.entry(node).or_default() += 1;
        Some(disk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::VolumeId;

    fn disks(weights: &[u64], domains: &[&str]) -> Vec<Candidate> {
        let make = |(i, w): (usize, &u64)| Candidate {
            disk: DiskId(1000 + i as u128),
            node: NodeId(1 + i as u64),
            weight: *w,
            domain: domains.get(i).map_or_else(|| format!("node/{i}"), |d| (*d).to_owned()),
        };
        weights.iter().enumerate().map(make).collect()
    }

    fn pg(index: u16) -> PgId {
        PgId { volume: VolumeId(7), index }
    }

    #[test]
    fn a_disk_of_twice_the_capacity_gets_about_twice_the_groups() {
        let all = disks(&[100, 100, 200], &[]);
        let mut counts = [0u32; 3];
        for index in 0..4000 {
            let disk = choose(&all, pg(index), 1)[0];
            counts[(disk.0 - 1000) as usize] += 1;
        }
        assert!((900..1100).contains(&counts[0]), "{counts:?}");
        assert!((1850..2150).contains(&counts[2]), "{counts:?}");
    }

    #[test]
    fn a_new_disk_takes_groups_and_moves_no_other() {
        let old = disks(&[100; 4], &[]);
        let new = disks(&[100; 5], &[]);
        let mut moved = 0;
        for index in 0..1000 {
            let before = choose(&old, pg(index), 1)[0];
            let after = choose(&new, pg(index), 1)[0];
            if before != after {
                assert_eq!(after, DiskId(1004), "a group moved between old disks");
                moved += 1;
            }
        }
        assert!((150..250).contains(&moved), "{moved}");
    }

    #[test]
    fn replicas_spread_over_failure_domains_and_never_share_a_node() {
        let mut all = disks(&[100; 6], &["rack-1", "rack-1", "rack-1", "rack-2", "rack-2", "rack-3"]);
        all.push(Candidate { disk: DiskId(2000), node: NodeId(1), weight: 5000, domain: "rack-1".to_owned() });
        for index in 0..200 {
            let chosen = choose(&all, pg(index), 3);
            let of = |d: &DiskId| all.iter().find(|c| c.disk == *d).unwrap();
            let mut racks: Vec<_> = chosen.iter().map(|d| of(d).domain.clone()).collect();
            racks.sort();
            assert_eq!(racks, ["rack-1", "rack-2", "rack-3"]);
        }
        let five = choose(&all, pg(0), 5);
        let mut nodes: Vec<_> = five.iter().map(|d| all.iter().find(|c| c.disk == *d).unwrap().node).collect();
        nodes.sort();
        nodes.dedup();
        assert_eq!(nodes.len(), 5);
    }

    #[test]
    fn the_fixed_point_logarithm_is_right() {
        assert_eq!(log2_fixed(1), 0);
        assert_eq!(log2_fixed(1 << 40), 40 << 32);
        let three = log2_fixed(3) as f64 / f64::from(1u32 << 31) / 2.0;
        assert!((three - 3f64.log2()).abs() < 1e-8, "{three}");
    }
}
