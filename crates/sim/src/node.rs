//! A storage node: its disk, its process, and what its control side does with the metadata group.
//!
//! Responsible for: starting and ending processes, driving the production [`Turn`] and the production `Leader`, and carrying
//! messages between them as the control thread does. Guarantees: what a process put out before it died is out, nothing
//! after. Must not know: how data is replicated, how the leader decides.

pub mod control;
mod waits;
mod watches;

use crate::failure::Oracle;
use crate::host::{NodeClock, Out, SimHost, SimReplier};
use crate::world::{End, MS, US, World};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use weft_client::core::LeaderFinder;
use weft_meta::leader::{Leader, LeaderEvent, LeaderStatus, Ticket};
use weft_node::bridge::{BRIDGE_CAPACITY, DataStatus, ToControl};
use weft_node::data::host::CallAnswer;
use weft_node::data::turn::{Speaker, Turn};
use weft_node::data::{CacheLife, NodeSettings, OpenedDisks, open_on};
use weft_node::memory::MemoryPlan;
use weft_proto::control::{ControlReply, ControlRequest, RegisterDisk};
use weft_proto::data::{DataReply, DataRequest};
use weft_replication::TICK_INTERVAL;
use weft_store::fault::{PowerLoss, SimDisk};
use weft_store::{Identity, Store, StoreConfig};
use weft_types::map::ClusterMap;
use weft_types::{BootTime, ClusterId, DataError, DiskId, Incarnation, MapVersion, NodeId, PgId, SessionOwner};

/// Where a store writes down that a sync has failed.
const FAILURE_MARK: &str = "failed";
pub const CLUSTER: ClusterId = ClusterId(0xc1);
/// Every simulated client is of one member.
pub const SIMULATED_OWNER: SessionOwner = SessionOwner(0x51);

pub type OnReply = Box<dyn FnOnce(&mut World, Option<ControlReply>)>;
/// Why no answer of a node came.
pub type OnData = Box<dyn FnOnce(&mut World, Option<(Result<DataReply, DataError>, Bytes)>)>;

pub struct SimNode {
    pub id: NodeId,
    pub disk: SimDisk,
    pub disk_id: DiskId,
    /// Distinguishes the boots of the machine.
    pub boot: u64,
    /// Counts processes.
    pub life: u64,
    pub process: Option<Process>,
    clock: NodeClock,
    /// As written down by the last process.
    pub incarnation: Incarnation,
    /// The last run, unless it began to stop cleanly, and the last one of which the machine may have lost something with its power.
    pub ran: Option<Incarnation>,
    pub lost_of: Option<Incarnation>,
    /// The disk of another cluster is in it, and its own lies beside.
    pub own_disk: Option<SimDisk>,
    /// The process is killed when its journal has no more room than this.
    pub killed_at_room: Option<u64>,
    names_apart: bool,
    pub paused_until: u64,
    /// How many times slower than usual the disk is.
    pub slowness: u64,
    /// The disk is of no more use; it has to be replaced.
    pub disk_lost: bool,
    /// Its next sync fails, or has failed.
    pub disk_doomed: bool,
    pub store_config: StoreConfig,
    /// Since when it has the room that it has, and nobody else takes of it.
    pub fitted: Option<u64>,
    /// It was so before anybody wrote to it, and all that is there was admitted by members that know it.
    pub small: bool,
    /// Since when it has had no room to give, at every look.
    pub full_since: Option<u64>,
    /// Planted in every replica.
    #[cfg(feature = "mutants")]
    mutant: Option<weft_replication::Mutant>,
    disks_made: u64,
}

pub struct Process {
    pub turn: Turn<SimHost>,
    pub host: SimHost,
    from_turn: mpsc::Receiver<ToControl>,
    status: Arc<DataStatus>,
    disks: Vec<RegisterDisk>,
    incarnation: Option<Incarnation>,
    /// As applied by this node's control side.
    pub map: Arc<ClusterMap>,
    leader: Leader,
    /// The term in which this process believes to lead.
    pub term: Option<u64>,
    /// Length of the log that the leader's facts are of.
    pub seen: u64,
    pub tickets: BTreeMap<Ticket, OnReply>,
    last_ticket: u64,
    finder: LeaderFinder,
    /// Polls for a newer map.
    polls: Vec<(MapVersion, OnReply)>,
    /// Those for the end of a wait for a lock.
    lock_polls: Vec<waits::LockPoll>,
    /// Sessions that wait to be told something, and those that ask how long a file is.
    watches: Vec<watches::Watch>,
    askers: Vec<watches::Asker>,
    requests: BTreeMap<u64, (DataRequest, OnData)>,
    /// Groups of which this one knew, when it last had put everything out, that another is to lead them.
    pub moved_away: BTreeSet<PgId>,
    /// Leases that were granted to it: until when, and the map that they name.
    pub leases: Vec<(BootTime, MapVersion)>,
    timer: Option<u64>,
    settling: bool,
}

impl Process {
    /// What it knows as the leader of the metadata group.
    pub fn leader_status(&self) -> LeaderStatus {
        self.leader.status(self.host.0.clock.read())
    }

    /// Once it is registered.
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.incarnation
    }
}

pub fn control_address(node: NodeId) -> std::net::SocketAddr {
    std::net::SocketAddr::from(([10, 0, 0, node.0 as u8], 1))
}

pub fn data_address(node: NodeId) -> std::net::SocketAddr {
    std::net::SocketAddr::from(([10, 0, 0, node.0 as u8], 2))
}

pub fn node_at(address: std::net::SocketAddr) -> NodeId {
    match address.ip() {
        std::net::IpAddr::V4(ip) => NodeId(u64::from(ip.octets()[3])),
        std::net::IpAddr::V6(_) => NodeId(0),
    }
}

impl SimNode {
    pub fn new(id: NodeId, clock: NodeClock, store_config: StoreConfig, capacity: u64) -> Self {
        let mut node = Self {
            id,
            disk: SimDisk::new(capacity),
            disk_id: DiskId(0),
            boot: 1,
            life: 0,
            process: None,
            clock,
            incarnation: Incarnation(0),
            ran: None,
            lost_of: None,
            own_disk: None,
            killed_at_room: None,
            names_apart: false,
            paused_until: 0,
            slowness: 1,
            disk_lost: false,
            disk_doomed: false,
            store_config,
            fitted: None,
            small: false,
            full_since: None,
            #[cfg(feature = "mutants")]
            mutant: None,
            disks_made: 0,
        };
        node.replace_disk(capacity);
        node
    }

    /// Another node like this one, with an empty disk.
    pub fn sibling(&self, id: NodeId, clock: NodeClock, capacity: u64) -> Self {
        #[cfg_attr(not(feature = "mutants"), expect(unused_mut, reason = "only a planted bug changes it"))]
        let mut node = Self::new(id, clock, self.store_config.clone(), capacity);
        #[cfg(feature = "mutants")]
        {
            node.mutant = self.mutant;
        }
        node
    }

    /// Plants a bug in the store or in every replica, from the next start on.
    #[cfg(feature = "mutants")]
    pub fn plant(&mut self, bug: Option<crate::bugs::Bug>) {
        match bug {
            Some(crate::bugs::Bug::Store(mutant)) => self.store_config.mutant = Some(mutant),
            Some(crate::bugs::Bug::Replication(mutant)) => self.mutant = Some(mutant),
            Some(_) | None => {}
        }
    }

    /// It does nothing until then. Its clock goes on, as CLOCK_BOOTTIME does while a machine sleeps.
    pub fn pause(&mut self, now: u64, until: u64) {
        self.paused_until = until;
        if weft_node::mutants::planted(weft_node::mutants::Mutant::ClockStopsInSleep) {
            self.clock.missed_ns.set(self.clock.missed_ns.get() + (until - now));
        }
    }

    /// Of this disk and of those that take its place.
    pub fn keep_names_apart(&mut self) {
        self.names_apart = true;
        self.disk.keep_names_apart();
    }

    /// Why the disk that is in it must be refused.
    fn must_not_open(&self) -> Option<&'static str> {
        let marked = || self.disk.files().iter().any(|file| file == FAILURE_MARK);
        if self.own_disk.is_some() {
            Some("of another cluster")
        } else {
            marked().then_some("that is marked as failed")
        }
    }

    /// Puts in an empty disk under a new id.
    pub fn replace_disk(&mut self, capacity: u64) {
        self.disks_made += 1;
        self.disk = SimDisk::new(capacity);
        self.disk_id = DiskId(u128::from(self.id.0) * 1000 + u128::from(self.disks_made));
        self.disk_lost = false;
        self.disk_doomed = false;
        (self.fitted, self.small, self.full_since) = (None, false, None);
        let identity = Identity { cluster: CLUSTER, disk: self.disk_id, node: self.id };
        // A simulated disk without faults does not fail.
        let _ = Store::format(&self.disk, identity, &self.store_config);
        if self.names_apart {
            self.disk.keep_names_apart();
        }
    }
}

impl World {
    pub fn life_of(&self, node: NodeId) -> Option<u64> {
        self.nodes.get(&node).filter(|n| n.process.is_some()).map(|n| n.life)
    }

    pub fn is_up(&self, node: NodeId) -> bool {
        self.life_of(node).is_some()
    }

    /// Up and not paused.
    pub fn is_awake(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|n| n.process.is_some() && n.paused_until <= self.now())
    }

    /// Starts the process of a node. `false` when its disk does not open.
    pub fn start_node(&mut self, id: NodeId) -> bool {
        let now = self.now();
        let full_queue = self.mix.full_queue_one_in;
        let (scrub, resync) = (self.mix.scrub_bytes_per_second, self.mix.resync_bytes_per_second);
        let map = Arc::clone(&crate::metadata::Metadata::default().map);
        let addresses: Vec<_> = self.metadata.voters.iter().map(|voter| control_address(*voter)).collect();
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        if node.process.is_some() || node.disk_lost {
            return false;
        }
        node.life += 1;
        let host = SimHost::new(node.clock.clone());
        host.0.full_queue_one_in.set(full_queue);
        let life = || Ok(CacheLife { boot_id: format!("boot-{}", node.boot), mount_id: Some(1) });
        let path = format!("/node-{id}");
        let opened = open_on(node.disk.clone(), Path::new(&path), CLUSTER, &node.store_config, life);
        let disks = match OpenedDisks::gather([opened]) {
            Ok(disks) => disks,
            Err(error) => {
                if node.own_disk.is_some() {
                    self.stats.count("disks of another cluster refused");
                    return false;
                }
                let off = node.disk.is_off();
                node.disk_lost = !off;
                if !off && !node.disk_doomed {
                    let what =
                        format!("the disk of node {id} does not open, and it lost nothing but its power: {error}");
                    self.fail(Oracle::Disks, what);
                    return false;
                }
                self.say(|| format!("node {id} does not start: {error}"));
                if off {
                    self.power_off(id);
                } else {
                    self.stats.count("disks that did not open");
                }
                return false;
            }
        };
        if let Some(what) = node.must_not_open() {
            self.fail(Oracle::Disks, format!("node {id} opens a disk {what}"));
            return false;
        }
        let facts = disks.registrations();
        let settings = NodeSettings {
            cluster: CLUSTER,
            node: id,
            resync_bytes_per_second: resync,
            scrub_bytes_per_second: scrub,
            memory: MemoryPlan::default(),
            #[cfg(feature = "mutants")]
            mutant: node.mutant,
        };
        let (to_control, from_turn) = mpsc::channel(BRIDGE_CAPACITY);
        let status = Arc::new(DataStatus::default());
        let Ok(turn) = Turn::start(host.clone(), settings, disks, to_control, Arc::clone(&status)) else {
            return false;
        };
        node.paused_until = now;
        node.process = Some(Process {
            turn,
            host,
            from_turn,
            status,
            disks: facts,
            incarnation: None,
            map,
            leader: Leader::new(),
            term: None,
            seen: 0,
            tickets: BTreeMap::new(),
            last_ticket: 0,
            finder: LeaderFinder::new(addresses),
            polls: Vec::new(),
            lock_polls: Vec::new(),
            watches: Vec::new(),
            askers: Vec::new(),
            requests: BTreeMap::new(),
            moved_away: BTreeSet::new(),
            leases: Vec::new(),
            timer: None,
            settling: false,
        });
        let life = node.life;
        self.say(|| format!("node {id} starts, life {life}"));
        self.stats.count("processes started");
        self.disturbed();
        self.node_ticks(id, life);
        self.leader_ticks(id, life);
        self.register(id, life);
        true
    }

    fn node_ticks(&mut self, id: NodeId, life: u64) {
        let interval = u64::try_from(TICK_INTERVAL.as_nanos()).unwrap_or(0);
        let jitter = self.random.below(interval / 20);
        self.after(interval + jitter, "tick", move |world| {
            if world.life_of(id) == Some(life) {
                world.node_ticks(id, life);
                world.turn_at(id, life, |_, turn| turn.tick());
            }
        });
    }

    fn leader_ticks(&mut self, id: NodeId, life: u64) {
        self.after(100 * MS, "leader tick", move |world| {
            if world.life_of(id) != Some(life) {
                return;
            }
            world.leader_ticks(id, life);
            let leads = world.nodes.get(&id).and_then(|n| n.process.as_ref()).is_some_and(|p| p.term.is_some());
            if leads && world.is_awake(id) {
                world.step_leader(id, LeaderEvent::Tick);
            }
        });
    }

    /// Lets something happen to a node's data side, now or when it is awake, if the process is still the same.
    pub fn turn_at(&mut self, id: NodeId, life: u64, act: impl FnOnce(&mut Self, &Turn<SimHost>) + 'static) {
        if self.life_of(id) != Some(life) {
            return;
        }
        let Some(node) = self.nodes.get(&id) else { return };
        if node.paused_until > self.now() {
            let at = node.paused_until;
            return self.at(at, "woken", move |world| world.turn_at(id, life, act));
        }
        let Some(process) = &node.process else { return };
        let turn = process.turn.clone();
        act(self, &turn);
        if self.mix.batch_us == 0 {
            turn.settle();
            self.carry_out(id, life);
        } else if let Some(process) = self.nodes.get_mut(&id).and_then(|n| n.process.as_mut())
            && !process.settling
        {
            process.settling = true;
            let delay = self.random.below(self.mix.batch_us * US);
            self.after(delay, "settle", move |world| world.settle(id, life));
        }
    }

    fn settle(&mut self, id: NodeId, life: u64) {
        let Some(process) = self.nodes.get_mut(&id).filter(|n| n.life == life).and_then(|n| n.process.as_mut()) else {
            return;
        };
        process.settling = false;
        let turn = process.turn.clone();
        turn.settle();
        self.carry_out(id, life);
    }

    /// Empties a process's outbox.
    fn carry_out(&mut self, id: NodeId, life: u64) {
        loop {
            let now = self.now();
            let Some(process) = self.nodes.get(&id).filter(|n| n.life == life).and_then(|n| n.process.as_ref()) else {
                return;
            };
            let host = process.host.clone();
            if host.0.tasks.run(now) {
                process.turn.settle();
            }
            if self.nodes.get(&id).is_some_and(|n| n.disk.is_off()) {
                self.say(|| format!("the power of node {id} fails within an operation"));
                return self.power_off(id);
            }
            let outs = std::mem::take(&mut *host.0.outbox.borrow_mut());
            if outs.is_empty() {
                break;
            }
            for out in outs {
                self.put_out(id, life, out);
            }
        }
        if let Some(process) = self.nodes.get_mut(&id).and_then(|n| n.process.as_mut()) {
            process.moved_away = crate::answers::moved_away(&process.turn);
            let broken = process.host.all_is_out();
            if let Some(what) = broken {
                self.fail(Oracle::Promises, format!("node {id}: {what}"));
            }
        }
        self.look_at_groups(Some(id));
        self.look_at_minimum(id);
        self.look_at_fullness(id);
        self.look_at_flood(id);
        self.look_at_trailers(id);
        self.hear_turn(id, life);
        self.look_at_journal(id);
        self.arm_timer(id, life);
    }

    fn put_out(&mut self, id: NodeId, life: u64, out: Out) {
        match out {
            Out::Envelope { link, envelope } => self.transmit(link, envelope),
            Out::Reply { request, result, payload } => self.answer_data(id, request, Some((result, payload))),
            Out::NoReply { request } => self.answer_data(id, request, None),
            Out::Call { link, request, deadline, answer } => {
                let Some((peer, peer_life)) = self.other_end(link) else { return };
                self.call_node(id, life, peer, peer_life, request, deadline, answer);
            }
            Out::Job { pool, job } => {
                let slow = self.nodes.get(&id).map_or(1, |n| n.slowness);
                let usual = if pool.name == "weft-checkpoint" { 3000 } else { self.mix.disk_us };
                let takes = self.between(usual * US / 4, usual * US) * slow;
                // The work is done early or late within the time that it takes.
                let runs = if self.random.chance(50) { 0 } else { takes };
                let running = std::rc::Rc::clone(&pool);
                self.after(runs, "job", move |world| {
                    if world.life_of(id) == Some(life) {
                        running.run(job);
                        world.look_at_fullness(id);
                        if world.nodes.get(&id).is_some_and(|n| n.disk.is_off()) {
                            world.power_off(id);
                        }
                    }
                });
                self.after(takes, "job done", move |world| {
                    world.turn_at(id, life, move |_, turn| {
                        if let Some(completion) = pool.finish(job) {
                            turn.complete(completion);
                        }
                    });
                });
            }
        }
    }

    fn answer_data(&mut self, id: NodeId, request: u64, answer: Option<(Result<DataReply, DataError>, Bytes)>) {
        let Some(process) = self.nodes.get_mut(&id).and_then(|n| n.process.as_mut()) else { return };
        if let Some((body, done)) = process.requests.remove(&request) {
            if let Some((result, _)) = &answer {
                self.look_at_answer(id, &body, result);
            }
            done(self, answer);
        }
    }

    /// A request arrives at a node's data port. `done` is called at that node, at most once.
    pub fn data_request(
        &mut self,
        to: NodeId,
        life: u64,
        body: DataRequest,
        payload: Bytes,
        from: Speaker,
        done: OnData,
    ) {
        self.turn_at(to, life, move |world, turn| {
            let Some(process) = world.nodes.get_mut(&to).and_then(|n| n.process.as_mut()) else { return };
            process.last_ticket += 1;
            let request = process.last_ticket;
            process.requests.insert(request, (body.clone(), done));
            let replier = SimReplier::new(request, process.host.clone());
            turn.request(body, payload, replier, from);
        });
    }

    #[allow(clippy::too_many_arguments)]
    fn call_node(
        &mut self,
        from: NodeId,
        life: u64,
        to: NodeId,
        to_life: u64,
        request: DataRequest,
        deadline: std::time::Duration,
        answer: oneshot::Sender<CallAnswer>,
    ) {
        let attempt = self.attempt_reads(from, life, &request);
        let (a, b) = (End::Node(from), End::Node(to));
        let slot = std::rc::Rc::new(std::cell::RefCell::new(Some(answer)));
        let late = std::rc::Rc::clone(&slot);
        let deadline = u64::try_from(deadline.as_nanos()).unwrap_or(0);
        self.after(deadline, "call deadline", move |world| {
            // Dropping it ends the wait.
            if late.borrow_mut().take().is_some() {
                world.attempt_has_read(attempt);
                world.turn_at(from, life, |_, _| {});
            }
        });
        self.send(a, b, "call", move |world| {
            let back: OnData = Box::new(move |world, result| {
                world.send(b, a, "call answer", move |world| {
                    if let Some(answer) = slot.borrow_mut().take() {
                        world.attempt_has_read(attempt);
                        // The asker may be gone.
                        let _ = answer.send(result);
                    }
                    world.turn_at(from, life, |_, _| {});
                });
            });
            world.data_request(to, to_life, request, Bytes::new(), Speaker::Node, back);
        });
    }

    fn arm_timer(&mut self, id: NodeId, life: u64) {
        let now = self.now();
        let Some(process) = self.nodes.get_mut(&id).and_then(|n| n.process.as_mut()) else { return };
        let release =
            process.turn.next_release_in().map(|wait| now + u64::try_from(wait.as_nanos()).unwrap_or(0) + 10 * US);
        let timer = process.host.0.tasks.next_timer();
        let Some(at) = [release, timer].into_iter().flatten().min() else { return };
        if process.timer.is_some_and(|armed| armed <= at && armed > now) {
            return;
        }
        process.timer = Some(at.max(now + 1));
        self.at(at.max(now + 1), "timer", move |world| world.turn_at(id, life, |_, _| {}));
    }

    /// The process dies where it is. The machine goes on, so nothing that was written is lost.
    pub fn crash(&mut self, id: NodeId, parent_sees_it: bool) {
        if !self.is_up(id) {
            return;
        }
        let incarnation = self.end_process(id);
        if let Some(node) = self.nodes.get(&id) {
            node.disk.power_cycle(PowerLoss::KeepAll);
        }
        self.stats.count("processes killed");
        self.say(|| format!("node {id} is killed"));
        if let Some(incarnation) = incarnation.filter(|_| parent_sees_it) {
            self.surrender_by_parent(id, incarnation);
        }
    }

    /// The machine loses its power, and with it what was not synced.
    pub fn power_off(&mut self, id: NodeId) {
        let seed = self.random.next_u64();
        let how = match self.random.below(4) {
            0 => PowerLoss::LoseAll,
            _ => PowerLoss::Random { seed },
        };
        self.power_off_with(id, how);
    }

    pub fn power_off_with(&mut self, id: NodeId, how: PowerLoss) {
        self.end_process(id);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.disk.power_cycle(how);
        node.boot += 1;
        node.lost_of = node.ran.or(node.lost_of);
        self.stats.count("power cuts");
        self.say(|| format!("node {id} loses its power"));
    }

    fn end_process(&mut self, id: NodeId) -> Option<Incarnation> {
        let node = self.nodes.get_mut(&id)?;
        let process = node.process.take()?;
        node.killed_at_room = None;
        // A killed process neither syncs nor answers: whatever dropping it puts out stays in its own outbox.
        process.host.0.tasks.clear();
        let incarnation = process.incarnation;
        drop(process);
        self.break_links(id, None);
        self.leader_died(id);
        incarnation
    }

    /// A clean stop: refuse new work, sync, mark, surrender.
    pub fn stop_cleanly(&mut self, id: NodeId) {
        let Some(process) = self.nodes.get(&id).and_then(|n| n.process.as_ref()) else { return };
        let (turn, life) = (process.turn.clone(), self.life_of(id));
        turn.begin_stop();
        turn.settle();
        let Some(life) = life else { return };
        self.carry_out(id, life);
        let delay = self.between(MS, 500 * MS);
        self.after(delay, "stops", move |world| {
            if world.life_of(id) != Some(life) {
                return;
            }
            turn.stop_appending();
            // If the power goes from here on, the mark may be on the disk, and everything before it.
            if let Some(node) = world.nodes.get_mut(&id) {
                node.ran = None;
            }
            turn.sync_and_mark();
            world.carry_out(id, life);
            world.stats.count("clean stops");
            let incarnation = world.end_process(id);
            if let Some(node) = world.nodes.get(&id) {
                node.disk.power_cycle(PowerLoss::KeepAll);
            }
            if let Some(incarnation) = incarnation {
                world.surrender_by_parent(id, incarnation);
            }
        });
    }

    /// The parent process asks whoever leads. Nobody tells it when that fails.
    fn surrender_by_parent(&mut self, node: NodeId, incarnation: Incarnation) {
        self.hurry_election(node);
        let delay = self.between(MS, 50 * MS);
        self.after(delay, "surrender", move |world| world.try_surrender(node, incarnation, 20));
    }

    fn try_surrender(&mut self, node: NodeId, incarnation: Incarnation, tries: u32) {
        let Some(leader) = self.metadata.leader.filter(|l| !self.is_blocked(End::Node(node), End::Node(*l))) else {
            if tries > 0 {
                self.after(100 * MS, "surrender", move |world| world.try_surrender(node, incarnation, tries - 1));
            }
            return;
        };
        let request = ControlRequest::SurrenderLease { node, incarnation };
        self.send(End::Node(node), End::Node(leader), "surrender", move |world| {
            world.control_request(leader, request, Box::new(|_, _| {}));
        });
    }
}
