//! Nodes, disks, network and metadata group on simulated time.

use super::meta::{LEASE_MS, Meta, disk};
use super::store::ModelStore;
use super::{CHUNK_BLOCKS, Random};
use crate::{
    Action, ClientRequest, Clock, ClusterFacts, Event, GroupMap, Mutant, Replica, ReplicaConfig, Reply, Report,
    RequestToken, StoreView, VolumeFacts,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use weft_proto::control::ChangeSetRequest;
use weft_proto::replication::Envelope;
use weft_types::{
    BLOCK_SIZE, BlockIndex, BootTime, ChunkSize, DataError, DiskId, Incarnation, MapVersion, NodeId, PgId, VolumeId,
};

pub const PG: PgId = PgId { volume: VolumeId(1), index: 0 };

/// What is under way.
enum Pending {
    Deliver { from: NodeId, to: NodeId, connection: u64, envelope: Box<Envelope> },
    Store { node: NodeId, incarnation: Incarnation, event: Box<Event> },
    Synced { node: NodeId, incarnation: Incarnation, records: usize },
    Map { node: NodeId, map: Box<GroupMap> },
    Lease { node: NodeId, incarnation: Incarnation, until_ms: u64, version: MapVersion },
    Change(ChangeSetRequest),
    Tick(NodeId),
    Heartbeats,
    Request { node: NodeId, token: RequestToken, request: Box<ClientRequest> },
}

struct Scheduled {
    at_us: u64,
    order: u64,
    what: Pending,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_us, self.order).cmp(&(other.at_us, other.order))
    }
}

pub struct SimNode {
    pub store: ModelStore,
    pub replica: Option<Replica>,
    pub incarnation: Incarnation,
    map_version: MapVersion,
    leases: Vec<(u64, MapVersion)>,
    syncing: bool,
    sync_again: bool,
    /// The store refused an append: this run of the replica is over.
    pub given_up: bool,
    /// Cut off from the metadata group.
    pub isolated: bool,
    /// Gets no maps although it heartbeats.
    pub stale_map: bool,
}

#[derive(Default)]
struct Link {
    connection: u64,
    last_us: u64,
}

/// Lets a scenario lose or keep back what it names.
pub type Filter = Box<dyn Fn(&Envelope) -> bool>;

pub struct World {
    pub now_us: u64,
    order: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    pub random: Random,
    pub meta: Meta,
    pub nodes: BTreeMap<NodeId, SimNode>,
    links: BTreeMap<(NodeId, NodeId), Link>,
    pub cut: BTreeSet<(NodeId, NodeId)>,
    pub lose: Option<Filter>,
    /// Kept-back messages, for scenarios that deliver them late.
    pub keep: Option<Filter>,
    pub kept: Vec<Envelope>,
    /// Set changes that reach the metadata group but whose result nobody hears, and those that never reach it.
    pub hold_maps: bool,
    pub lose_changes: bool,
    pub replies: BTreeMap<RequestToken, Result<Reply, DataError>>,
    pub reports: Vec<(DiskId, Report)>,
    next_token: u64,
    mutant: Option<Mutant>,
    pub trim_percent: u64,
    pub network_us: u64,
    pub read_us: u64,
    broadcast: MapVersion,
}

impl World {
    pub fn new(seed: u64, members: u64, in_sync: u64, mutant: Option<Mutant>) -> Self {
        let mut world = Self {
            now_us: 1,
            order: 0,
            queue: BinaryHeap::new(),
            random: Random(seed),
            meta: Meta::new(PG, members, in_sync, 2, 4),
            nodes: BTreeMap::new(),
            links: BTreeMap::new(),
            cut: BTreeSet::new(),
            lose: None,
            keep: None,
            kept: Vec::new(),
            hold_maps: false,
            lose_changes: false,
            replies: BTreeMap::new(),
            reports: Vec::new(),
            next_token: 0,
            mutant,
            trim_percent: 0,
            network_us: 100,
            read_us: 100,
            broadcast: MapVersion(0),
        };
        for node in 1..=members {
            let id = NodeId(node);
            let sim = SimNode {
                store: ModelStore::new(),
                replica: None,
                incarnation: Incarnation(1),
                map_version: MapVersion(0),
                leases: Vec::new(),
                syncing: false,
                sync_again: false,
                given_up: false,
                isolated: false,
                stale_map: false,
            };
            world.nodes.insert(id, sim);
            world.start_process(id, Incarnation(1));
            world.schedule(1000 * node, Pending::Tick(id));
        }
        world.schedule(1, Pending::Heartbeats);
        world
    }

    pub const fn now_ms(&self) -> u64 {
        self.now_us / 1000
    }

    fn schedule(&mut self, after_us: u64, what: Pending) {
        self.order += 1;
        self.queue.push(Reverse(Scheduled { at_us: self.now_us + after_us, order: self.order, what }));
    }

    fn start_process(&mut self, node: NodeId, incarnation: Incarnation) {
        let mutant = self.mutant;
        let Some(sim) = self.nodes.get_mut(&node) else { return };
        let config = ReplicaConfig { pg: PG, disk: disk(node), node, incarnation };
        sim.store.restarted();
        let mut replica = Replica::new(config, sim.store.saved(), &sim.store);
        if let Some(mutant) = mutant {
            replica.plant(mutant);
        }
        sim.replica = Some(replica);
        sim.incarnation = incarnation;
        sim.map_version = MapVersion(0);
        sim.leases.clear();
        sim.syncing = false;
        sim.sync_again = false;
        sim.given_up = false;
        self.reset_links(node);
    }

    /// All connections of a node begin anew: what was under way is lost or arrives late.
    pub fn reset_links(&mut self, node: NodeId) {
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|n| *n != node).collect();
        for other in others {
            self.reset_link(node, other);
        }
    }

    pub fn reset_link(&mut self, a: NodeId, b: NodeId) {
        for (from, to) in [(a, b), (b, a)] {
            let link = self.links.entry((from, to)).or_default();
            link.connection += 1;
            link.last_us = 0;
        }
        self.feed(a, Event::PeerDown(disk(b)));
        self.feed(b, Event::PeerDown(disk(a)));
    }

    pub fn crash(&mut self, node: NodeId) {
        if let Some(sim) = self.nodes.get_mut(&node) {
            sim.replica = None;
        }
        self.reset_links(node);
    }

    pub fn power_off(&mut self, node: NodeId) {
        if let Some(sim) = self.nodes.get_mut(&node) {
            sim.store.lose_power();
        }
        self.crash(node);
    }

    /// Its disk is gone for good; the node lives on without it.
    pub fn lose_disk(&mut self, node: NodeId) {
        self.power_off(node);
        self.meta.gone_disks.insert(disk(node));
        self.meta.version = self.meta.version.next();
    }

    /// The process comes back and registers.
    pub fn start(&mut self, node: NodeId, nothing_lost: bool) {
        let incarnation = self.meta.register(node, nothing_lost, self.now_ms());
        if let Some(sim) = self.nodes.get_mut(&node).filter(|_| nothing_lost) {
            // The proof includes an fsync that succeeded.
            sim.store.synced(sim.store.record_count());
        }
        self.start_process(node, incarnation);
        self.broadcast_map();
    }

    pub fn is_up(&self, node: NodeId) -> bool {
        self.nodes[&node].replica.is_some()
    }

    pub fn partition(&mut self, a: NodeId, b: NodeId) {
        self.cut.insert((a, b));
        self.cut.insert((b, a));
    }

    pub fn isolate(&mut self, node: NodeId) {
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|n| *n != node).collect();
        for other in others {
            self.partition(node, other);
        }
        if let Some(sim) = self.nodes.get_mut(&node) {
            sim.isolated = true;
        }
    }

    pub fn heal(&mut self) {
        let cut: Vec<_> = std::mem::take(&mut self.cut).into_iter().collect();
        for (a, b) in cut {
            if a < b {
                self.reset_link(a, b);
            }
        }
        for sim in self.nodes.values_mut() {
            sim.isolated = false;
            sim.stale_map = false;
        }
        self.broadcast = MapVersion(0);
        self.broadcast_map();
    }

    fn clock(&self, node: NodeId) -> Clock {
        let sim = &self.nodes[&node];
        let until = sim.leases.iter().filter(|(_, v)| *v <= sim.map_version).map(|(until, _)| *until).max();
        Clock { now: BootTime { nanoseconds: self.now_us * 1000 }, lease_until: until.map(BootTime::from_millis) }
    }

    /// One event into one replica, then the end of its batch.
    pub fn feed(&mut self, node: NodeId, event: Event) {
        self.feed_all(node, vec![event]);
    }

    /// Several events in one batch.
    pub fn feed_all(&mut self, node: NodeId, events: Vec<Event>) {
        let clock = self.clock(node);
        let Some(sim) = self.nodes.get_mut(&node) else { return };
        let Some(mut replica) = sim.replica.take() else { return };
        for event in events {
            let mut actions = Vec::new();
            replica.step(event, clock, &self.nodes[&node].store, &mut actions);
            self.carry_out(node, actions);
        }
        let mut actions = Vec::new();
        replica.end_batch(clock, &self.nodes[&node].store, &mut actions);
        self.carry_out(node, actions);
        if let Some(sim) = self.nodes.get_mut(&node) {
            sim.replica = Some(replica);
        }
    }

    fn carry_out(&mut self, node: NodeId, actions: Vec<Action>) {
        for action in actions {
            let Some(sim) = self.nodes.get_mut(&node) else { return };
            let incarnation = sim.incarnation;
            let later = |event| Pending::Store { node, incarnation, event: Box::new(event) };
            if sim.given_up {
                return;
            }
            match action {
                Action::Append(entries) => {
                    if !sim.store.append(&entries) {
                        sim.given_up = true;
                        self.schedule(0, later(Event::DiskFailed));
                        return;
                    }
                }
                Action::SetCommitted(position) => sim.store.set_committed(position),
                Action::CutTail { after } => sim.store.cut(after),
                Action::ResetLog { at, history } => sim.store.reset(at, history),
                Action::ReplaceDedupe(table) => sim.store.replace_dedupe(table),
                Action::SaveState { state, ticket } => {
                    sim.store.save(state, ticket);
                    self.sync(node);
                }
                Action::RequestSync => self.sync(node),
                Action::ReadBlocks { ticket, chunk, range } => {
                    let outcome = sim.store.read(chunk, range);
                    let delay = self.random.below(self.read_us) + 1;
                    self.schedule(delay, later(Event::BlocksRead { ticket, outcome }));
                }
                Action::ReadPresence { ticket, chunk } => {
                    let mut runs: Vec<(BlockIndex, u16)> = Vec::new();
                    let held = sim.store.chunks_map().get(&chunk);
                    for block in held.into_iter().flat_map(|held| held.blocks.keys()) {
                        match runs.last_mut() {
                            Some((first, count)) if first.0 + *count == *block => *count += 1,
                            _ => runs.push((BlockIndex(*block), 1)),
                        }
                    }
                    self.schedule(10, later(Event::PresenceRead { ticket, runs }));
                }
                Action::ReadObject { ticket, object } => {
                    let ends = sim.store.chunks_map().iter().filter(|(c, _)| c.object == object);
                    let end = |(c, held): (&weft_types::ChunkId, &super::store::Chunk)| {
                        u64::from(c.index.0) * u64::from(CHUNK_BLOCKS) * BLOCK_SIZE as u64 + u64::from(held.end_bytes)
                    };
                    let end_bytes = ends.map(end).max().unwrap_or(0);
                    let generation = sim.store.object_generation(object);
                    let read = Event::ObjectRead { ticket, generation, end_bytes, allocated_bytes: 0 };
                    self.schedule(10, later(read));
                }
                Action::RepairBlock { chunk, block, hash, bytes } => sim.store.repair(chunk, block, hash, &bytes),
                Action::Send(envelope) => self.send(node, envelope),
                Action::Reply { token, result } => {
                    let before = self.replies.insert(token, result);
                    assert!(before.is_none(), "{token:?} was answered twice");
                }
                Action::RequestChange(request) => {
                    if !sim.isolated && !self.lose_changes {
                        let delay = 1000 + self.random.below(4000);
                        self.schedule(delay, Pending::Change(request));
                    }
                }
                Action::Report(report) => self.reports.push((disk(node), report)),
            }
        }
    }

    fn sync(&mut self, node: NodeId) {
        let delay = 200 + self.random.below(3000);
        let Some(sim) = self.nodes.get_mut(&node) else { return };
        if sim.syncing {
            sim.sync_again = true;
            return;
        }
        sim.syncing = true;
        let (incarnation, records) = (sim.incarnation, sim.store.record_count());
        self.schedule(delay, Pending::Synced { node, incarnation, records });
    }

    pub fn send(&mut self, from: NodeId, envelope: Envelope) {
        let to = NodeId(envelope.to.0 as u64);
        if self.keep.as_ref().is_some_and(|keep| keep(&envelope)) {
            self.kept.push(envelope);
            return;
        }
        if self.cut.contains(&(from, to)) || self.lose.as_ref().is_some_and(|lose| lose(&envelope)) {
            return;
        }
        let delay = self.network_us / 2 + self.random.below(self.network_us);
        let link = self.links.entry((from, to)).or_default();
        // In order within a connection.
        let at = (self.now_us + delay).max(link.last_us);
        link.last_us = at;
        let connection = link.connection;
        self.schedule(at - self.now_us, Pending::Deliver { from, to, connection, envelope: Box::new(envelope) });
    }

    pub fn broadcast_map(&mut self) {
        if self.hold_maps || self.meta.version == self.broadcast {
            return;
        }
        self.broadcast = self.meta.version;
        let map = self.group_map();
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for node in nodes {
            let sim = &self.nodes[&node];
            if !sim.isolated && !sim.stale_map {
                let delay = 500 + self.random.below(3000);
                self.schedule(delay, Pending::Map { node, map: Box::new(map.clone()) });
            }
        }
    }

    pub fn group_map(&self) -> GroupMap {
        let live_nodes = self.meta.nodes.iter().filter(|(_, n)| n.live).map(|(id, _)| *id).collect();
        let live_sessions = self.meta.sessions.clone();
        GroupMap {
            record: self.meta.record.clone(),
            volume: VolumeFacts { chunk_size: ChunkSize::new(u32::from(CHUNK_BLOCKS) * BLOCK_SIZE as u32).unwrap() },
            cluster: Arc::new(ClusterFacts {
                version: self.meta.version,
                live_sessions,
                live_nodes,
                gone_disks: self.meta.gone_disks.clone(),
            }),
        }
    }

    /// A client sends a request to the node that the metadata group calls primary.
    pub fn request(&mut self, request: ClientRequest) -> RequestToken {
        let node = self.meta.record.primary_member().map_or(NodeId(1), |m| m.node);
        self.request_to(node, request)
    }

    /// A change that names no map is made under the first map of the epoch that its primary knows.
    pub fn as_sent_to(&self, node: NodeId, mut request: ClientRequest) -> ClientRequest {
        if let Some(version) = stated_version(&mut request).filter(|version| **version == MapVersion(0)) {
            *version = self.meta.record.epoch_since.min(self.nodes[&node].map_version);
        }
        request
    }

    pub fn request_to(&mut self, node: NodeId, request: ClientRequest) -> RequestToken {
        let request = self.as_sent_to(node, request);
        self.next_token += 1;
        let token = RequestToken(self.next_token);
        let delay = 50 + self.random.below(self.network_us);
        self.schedule(delay, Pending::Request { node, token, request: Box::new(request) });
        token
    }

    /// Carries out the next thing that is under way.
    pub fn step(&mut self) {
        let Some(Reverse(next)) = self.queue.pop() else { return };
        self.now_us = self.now_us.max(next.at_us);
        match next.what {
            Pending::Deliver { from, to, connection, envelope } => {
                let current = self.links[&(from, to)].connection == connection;
                // Of an old connection some arrive, late and perhaps twice.
                if !current && self.random.chance(60) {
                    return;
                }
                if !current && self.random.chance(30) {
                    let delay = self.random.below(20_000);
                    let envelope = envelope.clone();
                    self.schedule(delay, Pending::Deliver { from, to, connection, envelope });
                }
                if !self.cut.contains(&(from, to)) {
                    self.feed(to, Event::Peer(*envelope));
                }
            }
            Pending::Store { node, incarnation, event } => {
                if self.nodes[&node].incarnation == incarnation {
                    self.feed(node, *event);
                }
            }
            Pending::Synced { node, incarnation, records } => self.synced(node, incarnation, records),
            Pending::Map { node, map } => self.map_arrives(node, *map),
            Pending::Lease { node, incarnation, until_ms, version } => {
                let now_ms = self.now_ms();
                if let Some(sim) = self.nodes.get_mut(&node).filter(|s| s.incarnation == incarnation) {
                    sim.leases.retain(|(until, _)| *until > now_ms);
                    sim.leases.push((until_ms, version));
                }
            }
            Pending::Change(request) => {
                self.meta.change(&request);
                self.broadcast_map();
            }
            Pending::Tick(node) => {
                self.schedule(50_000, Pending::Tick(node));
                let trim = self.random.chance(self.trim_percent);
                if let Some(sim) = self.nodes.get_mut(&node).filter(|s| s.replica.is_some()) {
                    if trim {
                        sim.store.trim();
                    }
                    sim.store.checkpoint();
                    if self.now_us.is_multiple_of(4) {
                        self.sync(node);
                    }
                    self.feed(node, Event::Tick);
                }
            }
            Pending::Heartbeats => self.heartbeats(),
            Pending::Request { node, token, request } => {
                if self.is_up(node) {
                    self.feed(node, Event::Request { token, request: *request });
                }
            }
        }
    }

    fn synced(&mut self, node: NodeId, incarnation: Incarnation, records: usize) {
        let Some(sim) = self.nodes.get_mut(&node).filter(|s| s.incarnation == incarnation && s.replica.is_some())
        else {
            return;
        };
        sim.store.synced(records);
        sim.syncing = false;
        let events = vec![Event::StateSaved(sim.store.saved_durable()), Event::Durable(sim.store.durable())];
        let again = std::mem::take(&mut sim.sync_again);
        self.feed_all(node, events);
        if again {
            self.sync(node);
        }
    }

    fn map_arrives(&mut self, node: NodeId, map: GroupMap) {
        let Some(sim) = self.nodes.get_mut(&node) else { return };
        if sim.replica.is_none() || map.cluster.version <= sim.map_version || sim.stale_map || sim.isolated {
            return;
        }
        // A process knows its own registration before any map counts for it.
        if self.meta.nodes[&node].incarnation != sim.incarnation {
            return;
        }
        let version = map.cluster.version;
        sim.map_version = version;
        self.feed(node, Event::Map(map));
        if let Some(known) = self.meta.nodes.get_mut(&node) {
            known.applied = known.applied.max(version);
        }
    }

    fn heartbeats(&mut self) {
        self.schedule(250_000, Pending::Heartbeats);
        let now_ms = self.now_ms();
        let version = self.meta.version;
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for node in nodes {
            let sim = &self.nodes[&node];
            let incarnation = sim.incarnation;
            let registered = self.meta.nodes[&node].incarnation == incarnation && self.meta.nodes[&node].live;
            if sim.replica.is_none() || sim.isolated || !registered {
                continue;
            }
            if let Some(known) = self.meta.nodes.get_mut(&node) {
                known.heard_ms = now_ms;
            }
            self.schedule(1000, Pending::Lease { node, incarnation, until_ms: now_ms + LEASE_MS, version });
        }
        self.meta.tick(now_ms);
        // A node that was declared dead and is well registers again, as the same run of the disk.
        let returned: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(id, s)| s.replica.is_some() && !s.isolated && !self.meta.nodes[id].live)
            .map(|(id, _)| *id)
            .collect();
        for node in returned {
            self.start(node, true);
        }
        self.broadcast_map();
    }

    pub fn run_ms(&mut self, milliseconds: u64) {
        let until = self.now_us + milliseconds * 1000;
        while self.queue.peek().is_some_and(|Reverse(next)| next.at_us <= until) {
            self.step();
        }
        self.now_us = until;
    }

    /// Runs until the condition holds; false when it does not within the time.
    pub fn run_until(&mut self, most_ms: u64, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let until = self.now_us + most_ms * 1000;
        while !holds(self) {
            if self.now_us >= until {
                return false;
            }
            self.step();
        }
        true
    }

    pub fn in_sync(&self) -> usize {
        self.meta.record.members.iter().filter(|m| m.is_level()).count()
    }
}

/// The map that a change names; reads and flushes are served under any.
fn stated_version(request: &mut ClientRequest) -> Option<&mut MapVersion> {
    match request {
        ClientRequest::Write { request, .. } => Some(&mut request.map_version),
        ClientRequest::Discard(request) => Some(&mut request.map_version),
        ClientRequest::Fill(request) => Some(&mut request.map_version),
        ClientRequest::Truncate(request) => Some(&mut request.map_version),
        ClientRequest::DeleteObject { map_version, .. } => Some(map_version),
        ClientRequest::Read(_)
        | ClientRequest::Flush { .. }
        | ClientRequest::ObjectExtent { .. }
        | ClientRequest::Presence { .. } => None,
    }
}
