//! One run from its seed to its verdict: build, fault, heal, settle, look.
//!
//! Guarantees: after the faults end a run goes on until the cluster serves and is whole again, and fails when that takes
//! longer than [`SETTLE`]; then all oracles are asked. Must not know: how faults and protocol work.

use crate::client::SimClient;
use crate::failure::{Failure, Oracle};
use crate::host::NodeClock;
use crate::node::{CLUSTER, SimNode, control_address, data_address};
use crate::plan::Plan;
use crate::stories::SLOW_NETWORK_MS;
use crate::subjects::Subjects;
use crate::world::{SECOND, World};
use crate::{Options, VOLUME, Verdict};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use weft_meta::Command;
use weft_meta::command::NewNode;
use weft_store::disk::OpenMode;
use weft_store::fault::SimDisk;
use weft_store::{Disk as _, DiskFile as _, Expected, Store, StoreConfig};
use weft_types::map::MemberState;
use weft_types::{AckMode, BLOCK_SIZE, ChunkId, ChunkSize, DiskId, Member, NodeId, PgId, PgRecord};

/// Longest time from the end of the faults until everything serves and every replica is level again. A lossless member is
/// waited for a minute (`LOSSLESS_WAIT`), a lost disk's place is filled after ten (`REPLACE_AFTER`).
const SETTLE: u64 = 780 * SECOND;
/// Longest wait for operations that were begun before.
const ANSWER: u64 = 90 * SECOND;

/// Runs one seed.
#[must_use]
pub fn run(seed: u64, options: &Options) -> Verdict {
    let plan = Plan::with(seed, options);
    let mut world = World::new(seed, plan.mix, options.verbose);
    #[cfg(feature = "mutants")]
    let _planted = crate::bugs::Planted::new(options.bug);
    let result = catch_unwind(AssertUnwindSafe(|| live(&mut world, &plan, options)));
    if let Err(panic) = result {
        let what = panic.downcast_ref::<String>().map(String::as_str);
        let what = what.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("something");
        world.fail(Oracle::Panic, format!("panicked: {what}"));
    }
    world.end_clients();
    world.stats.simulated_ns = world.now();
    Verdict { seed, failure: world.violation.take(), trace: world.trace, stats: world.stats.clone() }
}

fn live(world: &mut World, plan: &Plan, options: &Options) {
    build(world, options);
    let began = world.now();
    let faults: Vec<_> = plan.faults.iter().map(|(at, fault)| (began + at, *fault)).collect();
    world.schedule(&faults);
    world.run(began + plan.mix.faulty_ns, |_| false);
    world.heal();
    let healed = world.now();
    world.run(healed + SETTLE, settled);
    if world.violation.is_none() && !settled(world) && !settled_where_it_fits(world) {
        let what = describe(world);
        return world
            .fail(Oracle::Settles, format!("does not settle within {} s after the faults: {what}", SETTLE / SECOND));
    }
    look(world);
}

/// A healthy cluster with a volume and clients.
fn build(world: &mut World, options: &Options) {
    let mix = world.mix;
    if mix.slow_message_ms >= SLOW_NETWORK_MS {
        world.mix.slow_message_percent = 0;
    }
    let new_node = |id: u64| NewNode {
        name: format!("n{id}"),
        control_address: control_address(NodeId(id)),
        data_address: data_address(NodeId(id)),
        failure_domain: Vec::new(),
    };
    world.commit(&Command::Bootstrap {
        cluster: CLUSTER,
        authority_certificate: vec![1],
        authority_key: vec![2],
        node: new_node(1),
    });
    for id in 2..=mix.nodes {
        world.commit(&Command::JoinNode { node: new_node(id), token: None });
    }
    let voters = if mix.nodes >= 5 { 5 } else { 3 };
    world.metadata.voters = (1..=voters).map(NodeId).collect();
    world.commit(&Command::SetVoters { voters: world.metadata.voters.clone() });
    for id in 1..=mix.nodes {
        let clock = clock(world);
        let config =
            StoreConfig { segment_bytes: mix.segment_bytes, open_chunks: mix.open_chunks, ..StoreConfig::small() };
        let mut node = SimNode::new(NodeId(id), clock, config, mix.capacity_bytes);
        #[cfg(feature = "mutants")]
        node.plant(options.bug);
        node.disk.set_cold(mix.cold_disks);
        if mix.names_apart {
            node.keep_names_apart();
        }
        if options.pretend_to_sync {
            node.disk.pretend_to_sync();
        }
        world.nodes.insert(NodeId(id), node);
        world.start_node(NodeId(id));
    }
    world.keep_links();
    world.keep_metadata();
    world.keep_comparing();
    if mix.subjects != Subjects::default() {
        world.keep_looking_at_locks();
    }
    let registered = |world: &World| {
        let live = world.metadata.map.nodes.iter().filter(|n| n.state == weft_types::map::NodeState::Live).count();
        live as u64 == world.mix.nodes
    };
    world.run(60 * SECOND, registered);
    let Ok(chunk_size) = ChunkSize::new(crate::client::CHUNK_BYTES) else {
        return world.fail(Oracle::Integrity, "no such chunk size".to_owned());
    };
    world.commit(&Command::CreateVolume {
        name: VOLUME.to_owned(),
        replicas: 3,
        chunk_size,
        ack: AckMode::Memory,
        pg_count: mix.groups,
    });
    world.run(120 * SECOND, World::all_level);
    world.mix.slow_message_percent = mix.slow_message_percent;
    if !world.all_level() {
        let what = describe(world);
        return world.fail(Oracle::Settles, format!("a new cluster does not serve: {what}"));
    }
    if mix.small_disk > 0 {
        world.fit(NodeId(mix.small_disk), mix.small_disk_kib);
        world.nodes.values_mut().for_each(|node| node.small = node.fitted.is_some());
        // Everybody has been told of it by then.
        world.run(world.now() + 3 * SECOND, |_| false);
    }
    let nodes: Vec<NodeId> = world.nodes.keys().copied().collect();
    for index in 0..mix.clients {
        let clock = clock(world);
        world.clients.push(SimClient::new(index, clock, mix.threads, &nodes));
        world.start_client(index);
    }
}

pub fn clock(world: &mut World) -> NodeClock {
    let offset_ns = world.random.below(1000 * SECOND);
    let span = world.mix.drift_ppm;
    let drift = world.random.below(2 * span + 1);
    let drift_ppm = i64::try_from(drift).unwrap_or(0) - i64::try_from(span).unwrap_or(0);
    NodeClock { now: std::rc::Rc::clone(&world.now), offset_ns, drift_ppm, missed_ns: std::rc::Rc::default() }
}

/// Everybody serves, every replica is level, every operation is answered.
fn settled(world: &World) -> bool {
    idle(world) && world.all_level()
}

fn idle(world: &World) -> bool {
    world.busy_tasks() == 0
        && world.clients.iter().all(|client| client.is_open() && client.unanswered() == 0)
        && world.present().all(|node| node.process.is_some() && !node.disk_lost)
}

/// As `settled`, but for copies that do not fit: who comes back to a disk that has no room for it stays away until there is some
/// (docs/ROADMAP.md), and nobody makes any here (seed 6387).
fn settled_where_it_fits(world: &World) -> bool {
    let served = |record: &PgRecord| {
        record.primary.is_some() && record.levelled_epoch == record.epoch && record.pending_move.is_none()
    };
    let there = |member: &Member| member.is_level() || !fits(world, member);
    idle(world)
        && world.metadata.map.pgs.iter().all(|record| {
            served(record) && record.members.len() == usize::from(record.replicas) && record.members.iter().all(there)
        })
}

/// Whether a disk has room for what level members keep of all groups that it is to keep.
fn fits(world: &World, member: &Member) -> bool {
    let Some(node) = world.nodes.get(&member.node) else { return true };
    let kept = world.metadata.map.pgs.iter().filter(|record| record.member(member.disk).is_some());
    let groups: u64 = kept.map(|record| most_bytes(world, record)).sum();
    let config = &node.store_config;
    let journal = u64::from(config.segments) * u64::from(config.segment_bytes);
    node.disk
        .usage()
        .map_or(true, |usage| groups + journal + config.ballast_bytes + config.reserve_bytes <= usage.total_bytes)
}

/// What the files of a group take at that level member where they take most.
fn most_bytes(world: &World, record: &PgRecord) -> u64 {
    // Blocks, and a page for each of both trailers.
    let bytes = |store: &Store<SimDisk>| {
        let chunks = store.chunks(record.pg).unwrap_or_default();
        let present = |chunk: &ChunkId| store.present_blocks(record.pg, *chunk).unwrap_or_default();
        let blocks = |chunk: &ChunkId| 2 + present(chunk).iter().filter(|present| **present).count();
        chunks.iter().map(blocks).sum::<usize>() as u64 * BLOCK_SIZE as u64
    };
    let at = |member: &Member| {
        let process = world.nodes.get(&member.node)?.process.as_ref()?;
        process.turn.look_at_store(member.disk, bytes)
    };
    record.members.iter().filter(|member| member.is_level()).filter_map(at).max().unwrap_or(0)
}

fn describe(world: &World) -> String {
    let map = &world.metadata.map;
    let mut lines = vec![format!("map {} leader {:?}", map.version, world.metadata.leader)];
    for record in &map.pgs {
        lines.push(format!(
            "{} epoch {} levelled {} primary {:?} set {} move {:?}",
            record.pg, record.epoch, record.levelled_epoch, record.primary, record.set_version, record.pending_move
        ));
        for member in &record.members {
            let status = world.nodes.get(&member.node).and_then(|node| node.process.as_ref());
            let status = status.and_then(|process| process.turn.replica_status(record.pg, member.disk));
            lines.push(format!("  {} on node {} {:?}: {status:?}", member.disk, member.node, member.state));
        }
    }
    for node in world.nodes.values() {
        let lost = if node.disk_lost { ", disk lost" } else { "" };
        lines.push(format!("node {}: {}{lost}", node.id, if node.process.is_some() { "up" } else { "down" }));
    }
    lines.extend(world.clients.iter().map(SimClient::describe));
    lines.extend(world.open_operations());
    lines.join("\n  ")
}

/// Everything that must hold once the cluster is whole and quiet.
fn look(world: &mut World) {
    world.read_everything();
    let by = world.now() + ANSWER;
    world.run(by, |world| world.clients.iter().all(|client| client.unanswered() == 0));
    if world.violation.is_none() && world.clients.iter().any(|client| client.unanswered() > 0) {
        let what = describe(world);
        return world.fail(Oracle::Settles, format!("a read in a healthy cluster is not answered: {what}"));
    }
    let places: Vec<_> = world.registers.keys().copied().collect();
    for place in places {
        let pg = world.pg_of_place(&place);
        let losses = pg.and_then(|pg| world.losses.get(&pg)).cloned().unwrap_or_default();
        let forced = pg.and_then(|pg| world.operators.forced.get(&pg)).cloned().unwrap_or_default();
        if let Err(Failure { oracle, what }) = world.registers[&place].check(&losses, &forced) {
            let what = format!("object, chunk, block, half {place:?}: {what} (losses at {losses:?})");
            return world.fail(oracle, what);
        }
    }
    // What is on every member may still be on its way into the last answer of a backup.
    // Or it is damaged, and this is when it is looked at: then it leaves the set, and is copied to.
    let patience = if world.hurt.is_empty() { 5 * SECOND } else { 30 * SECOND };
    let by = world.now() + patience;
    world.run(by, |world| replicas_equal(world).is_ok());
    if let Err(what) = replicas_equal(world) {
        return world.fail(Oracle::Replicas, what);
    }
    // An idle member is told again, on a connection that may have to be made first.
    let by = world.now() + 10 * SECOND;
    world.run(by, |world| world.all_know_what_is_readable().is_ok());
    if let Err(what) = world.all_know_what_is_readable() {
        return world.fail(Oracle::Promises, what);
    }
    if let Err(what) = world.look_for_leaks() {
        return world.fail(Oracle::Leaks, what);
    }
    if let Err(what) = disks_are_whole(world) {
        world.fail(Oracle::Disks, what);
    }
}

impl World {
    /// After each turn. No trailer is taken for lost on a disk that lost nothing but its power (decision 0025).
    pub fn look_at_trailers(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(&id).filter(|_| !self.hurt.contains(&id)) else { return };
        let Some(process) = &node.process else { return };
        let damaged =
            |store: &Store<SimDisk>| store.pgs().find(|pg| store.is_damaged(*pg).is_ok_and(|damaged| damaged));
        if let Some(Some(pg)) = process.turn.look_at_store(node.disk_id, damaged) {
            self.fail(Oracle::Disks, format!("node {id} takes trailers of group {pg} for lost that are not"));
        }
    }
}

/// The last thing that is looked at: every disk opens once more, and has then what it keeps for the day on which it is full.
fn disks_are_whole(world: &mut World) -> Result<(), String> {
    let ids: Vec<NodeId> = world.present().map(|node| node.id).collect();
    for id in ids {
        world.crash(id, false);
        let node = &world.nodes[&id];
        let expected = Expected { cluster: CLUSTER, disk: Some(node.disk_id), node: Some(id) };
        let opened = Store::open(node.disk.clone(), expected, node.store_config.clone());
        let (_, report) = opened.map_err(|error| format!("the disk of node {id} does not open at the end: {error}"))?;
        if !world.hurt.contains(&id) && !report.damaged_chunks.is_empty() {
            return Err(format!("node {id} misses trailers of {:?} at the end", report.damaged_chunks));
        }
        let ballast = node.disk.open("ballast", OpenMode::Existing).and_then(|file| file.len());
        let length = ballast.map_err(|error| format!("node {id} has no ballast: {error}"))?;
        if length < node.store_config.ballast_bytes {
            return Err(format!("the ballast of node {id} has {length} bytes, with room for all of it"));
        }
    }
    Ok(())
}

pub type Content = Vec<(weft_types::ChunkId, Vec<Option<weft_types::BlockHash>>)>;

/// Level replicas of a group hold the same blocks.
fn replicas_equal(world: &World) -> Result<(), String> {
    for record in &world.metadata.map.pgs {
        let mut seen: BTreeMap<DiskId, Content> = BTreeMap::new();
        for member in &record.members {
            if !matches!(member.state, MemberState::InSync { .. }) {
                continue;
            }
            if let Some(content) = content_of(world, member.node, member.disk, record.pg) {
                seen.insert(member.disk, content?);
            }
        }
        let mut replicas = seen.iter();
        let Some((first, expected)) = replicas.next() else { continue };
        for (disk, content) in replicas {
            if content != expected {
                let differs = content.iter().find(|chunk| !expected.contains(chunk));
                let lacks = expected.iter().find(|chunk| !content.contains(chunk));
                return Err(format!(
                    "group {}: disks {first} and {disk} differ: {differs:?} against {lacks:?}",
                    record.pg
                ));
            }
        }
    }
    Ok(())
}

pub fn content_of(world: &World, node: NodeId, disk: DiskId, pg: PgId) -> Option<Result<Content, String>> {
    let process = world.nodes.get(&node)?.process.as_ref()?;
    process.turn.look_at_store(disk, |store| {
        let mut content = Vec::new();
        for chunk in store.chunks(pg).map_err(|error| error.to_string())? {
            let hashes = store.block_hashes(pg, chunk).map_err(|error| error.to_string())?;
            let mut blocks = hashes.blocks;
            while blocks.last().is_some_and(Option::is_none) {
                blocks.pop();
            }
            // A chunk without a present block is as good as none.
            if !blocks.is_empty() {
                content.push((chunk, blocks));
            }
        }
        Ok(content)
    })
}
