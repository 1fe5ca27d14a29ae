//! Carries out the faults of a plan.
//!
//! Guarantees: a fault that destroys a copy for good (a failed or replaced disk, a damaged file) strikes only while every
//! other copy is whole, so what was flushed always exists somewhere; everything that was broken heals by itself after its
//! time, and all at once at the end. Must not know: what the cluster makes of it.

use crate::plan::Fault;
use crate::stories::Role;
use crate::world::{End, MS, World};
use weft_meta::Command;
use weft_meta::leader::LeaderEvent;
use weft_store::fault::Random;
use weft_types::NodeId;

/// Chunk files are named by object and chunk, in hexadecimal.
fn is_chunk_file(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.len() == 25 && name.as_bytes()[16] == b'-')
}

impl World {
    pub fn schedule(&mut self, faults: &[(u64, Fault)]) {
        for (at, fault) in faults {
            let fault = *fault;
            self.at(*at, "fault", move |world| {
                if !world.quiet {
                    world.strike(fault);
                }
            });
        }
    }

    fn restart_later(&mut self, node: NodeId, back_ms: u64) {
        self.after(back_ms * MS, "restart", move |world| {
            world.start_node(node);
        });
    }

    pub fn block(&mut self, from: End, to: End, heal_ms: u64) {
        self.blocked.insert((from, to));
        self.after(heal_ms * MS, "heal", move |world| {
            world.blocked.remove(&(from, to));
            world.disturbed();
        });
    }

    pub fn strike(&mut self, fault: Fault) {
        self.say(|| format!("fault: {fault:?}"));
        self.disturbed();
        match fault {
            Fault::Crash { node, parent, back_ms } => {
                self.crash(NodeId(node), parent);
                self.restart_later(NodeId(node), back_ms);
            }
            Fault::CleanStop { node, back_ms } => {
                self.stop_cleanly(NodeId(node));
                self.restart_later(NodeId(node), back_ms + 600);
            }
            Fault::PowerCut { node, back_ms } => {
                self.power_off(NodeId(node));
                self.restart_later(NodeId(node), back_ms);
            }
            Fault::PowerCutOfAll { back_ms } => {
                self.stats.count("power cuts of all");
                for node in self.nodes.keys().copied().collect::<Vec<_>>() {
                    self.power_off(node);
                    let extra = self.random.below(500);
                    self.restart_later(node, back_ms + extra);
                }
            }
            Fault::PowerCutWithin { node, operations, back_ms } => {
                if let Some(found) = self.nodes.get(&NodeId(node)) {
                    found.disk.power_off_after(operations);
                }
                self.stats.count("power cuts within an operation");
                self.restart_later(NodeId(node), back_ms + 1000);
            }
            Fault::Partition { from, to, both, heal_ms } => {
                self.stats.count(if both { "partitions" } else { "one-way partitions" });
                let (a, b) = (End::Node(NodeId(from)), End::Node(NodeId(to)));
                self.block(a, b, heal_ms);
                if both {
                    self.block(b, a, heal_ms);
                }
            }
            Fault::Isolate { node, heal_ms } => {
                self.stats.count("nodes isolated");
                let own = End::Node(NodeId(node));
                let others = self.nodes.keys().filter(|id| id.0 != node).map(|id| End::Node(*id));
                let all: Vec<End> = others.chain((0..self.clients.len()).map(End::Client)).collect();
                for other in all {
                    self.block(own, other, heal_ms);
                    self.block(other, own, heal_ms);
                }
            }
            Fault::ClientPartition { client, node, both, heal_ms } => {
                self.stats.count("client partitions");
                let (a, b) = (End::Client(client as usize), End::Node(NodeId(node)));
                self.block(a, b, heal_ms);
                if both {
                    self.block(b, a, heal_ms);
                }
            }
            Fault::BreakLinks { node } => {
                self.stats.count("links broken");
                self.break_links(NodeId(node), None);
            }
            Fault::Pause { node, ms } => {
                self.stats.count("processes paused");
                let now = self.now();
                // Who sleeps already wakes when it was to wake: what was put off until then must not be overtaken.
                if let Some(node) = self.nodes.get_mut(&NodeId(node)).filter(|node| node.paused_until <= now) {
                    node.pause(now, now + ms * MS);
                }
            }
            Fault::PauseClient { client, ms } => {
                self.stats.count("clients paused");
                let now = self.now();
                if let Some(client) = self.clients.get_mut(client as usize).filter(|c| c.paused_until <= now) {
                    client.paused_until = now + ms * MS;
                }
            }
            Fault::CrashClient { client } => self.crash_client(client as usize),
            Fault::Evict { client } => {
                let session = self.clients.get(client as usize).and_then(crate::client::SimClient::session_id);
                if let (Some(session), Some(leader)) = (session, self.metadata.leader) {
                    self.stats.count("sessions evicted");
                    self.evicted.insert(session);
                    self.ledger.open().evicted.insert(session);
                    self.step_leader(leader, LeaderEvent::EvictSession { session });
                }
            }
            Fault::UnseatLeader => self.unseat_leader(),
            Fault::SlowDisk { node, times, ms } => {
                self.stats.count("slow disks");
                let id = NodeId(node);
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.slowness = times;
                }
                self.after(ms * MS, "disk is fast again", move |world| {
                    world.disturbed();
                    if let Some(node) = world.nodes.get_mut(&id) {
                        node.slowness = 1;
                    }
                });
            }
            Fault::MovePrimary { choice } => self.move_primary(choice),
            Fault::Split { group, role, clients, heal_ms } => self.split(group, role, clients, heal_ms),
            Fault::Deafen { node, ms } => {
                self.stats.count("nodes deafened");
                self.deaf.insert(NodeId(node));
                self.after(ms * MS, "hears again", move |world| {
                    world.deaf.remove(&NodeId(node));
                });
            }
            Fault::DamageBytes { node, messages } => {
                self.damaging.insert(NodeId(node), messages);
            }
            Fault::AddNode { crash_ms } => self.add_node(crash_ms),
            Fault::RemoveNode { node, away } => self.remove_node(NodeId(node), away),
            Fault::RemoveTheDead { ms } => self.remove_the_dead(ms),
            Fault::ForceReplica { rash, ms } => self.force_replica(rash, ms),
            Fault::SpeakForAnother { client } => self.speak_for_another(client as usize),
            Fault::Disk(fault) => self.strike_disk(fault),
            Fault::Stale(fault) => self.strike_with_what_is_stale(fault),
            Fault::Fit { node, room_kib } => self.fit(NodeId(node), room_kib),
            Fault::SlowLeading { group, times, ms } => {
                let map = std::sync::Arc::clone(&self.metadata.map);
                let record = map.pgs.get((group % map.pgs.len().max(1) as u64) as usize);
                if let Some(node) = record.and_then(|record| self.in_role(Role::Primary, record, None)) {
                    self.strike(Fault::SlowDisk { node: node.0, times, ms });
                }
            }
            Fault::Ambush { moment, blows } => self.ambushes.push(crate::stories::Ambush { moment, blows }),
            fault => self.damage(fault),
        }
    }

    /// Two sides that do not reach each other. Some clients are on the side of the one node.
    fn split(&mut self, group: u64, role: Role, clients: u64, heal_ms: u64) {
        let map = std::sync::Arc::clone(&self.metadata.map);
        let Some(record) = map.pgs.get((group % map.pgs.len().max(1) as u64) as usize) else { return };
        let Some(node) = self.in_role(role, record, None) else { return };
        self.stats.count("splits");
        let (mut here, mut there) = (vec![End::Node(node)], Vec::new());
        there.extend(self.nodes.keys().filter(|id| **id != node).map(|id| End::Node(*id)));
        for client in 0..self.clients.len() {
            let side = if clients >> client & 1 == 1 { &mut here } else { &mut there };
            side.push(End::Client(client));
        }
        for one in &here {
            for other in &there {
                self.block(*one, *other, heal_ms);
                self.block(*other, *one, heal_ms);
            }
        }
    }

    /// Faults that cost a copy.
    fn damage(&mut self, fault: Fault) {
        if let Fault::Full { node, ms } = fault {
            return self.fill(NodeId(node), ms);
        }
        if let Fault::Rot { node, choice } = fault {
            return self.rot_in_many_places(NodeId(node), choice);
        }
        if !self.is_whole() {
            self.stats.count("damage withheld");
            return;
        }
        match fault {
            Fault::FailSync { node } => {
                if let Some(node) = self.nodes.get_mut(&NodeId(node)) {
                    node.disk.fail_syncs(1);
                    node.disk_doomed = true;
                    self.stats.count("failing fsyncs");
                }
            }
            Fault::ReplaceDisk { node, back_ms } => {
                let id = NodeId(node);
                self.stats.count("disks replaced");
                self.crash(id, true);
                let capacity = self.mix.capacity_bytes;
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.replace_disk(capacity);
                }
                self.restart_later(id, back_ms);
            }
            Fault::FlipBit { node, choice } => self.hurt_chunk(NodeId(node), choice, true),
            Fault::Unreadable { node, choice } => self.hurt_chunk(NodeId(node), choice, false),
            Fault::Stray { node, choice, lost } => self.lead_astray(NodeId(node), choice, lost),
            _ => {}
        }
    }

    fn hurt_chunk(&mut self, id: NodeId, choice: u64, flip: bool) {
        let Some(node) = self.nodes.get(&id) else { return };
        let files: Vec<String> = node.disk.files().into_iter().filter(|f| is_chunk_file(f)).collect();
        if files.is_empty() {
            return;
        }
        let mut random = Random::new(choice);
        let path = &files[random.below(files.len() as u64) as usize];
        let offset = random.below(u64::from(crate::client::CHUNK_BYTES));
        let done = if flip {
            node.disk.flip(path, offset, 1 << random.below(8))
        } else {
            node.disk.make_unreadable(path, offset)
        };
        if done {
            self.hurt.insert(id);
            self.stats.count(if flip { "bits flipped" } else { "parts made unreadable" });
        }
    }

    /// One of the next writes to a chunk file, of data or of a trailer, does not arrive where it should.
    fn lead_astray(&mut self, id: NodeId, choice: u64, lost: bool) {
        let Some(node) = self.nodes.get(&id) else { return };
        let files: Vec<String> = node.disk.files().into_iter().filter(|f| is_chunk_file(f)).collect();
        let mut random = Random::new(choice);
        let any = |random: &mut Random| files.get(random.below(files.len().max(1) as u64) as usize);
        let (Some(from), Some(to)) = (any(&mut random), any(&mut random)) else { return };
        let (good, block) = (random.below(3), random.below(u64::from(crate::client::BLOCKS)));
        let data_bytes = u64::from(crate::client::CHUNK_BYTES);
        let below = if random.chance(50) { data_bytes } else { u64::MAX };
        let in_trailers = below > data_bytes && random.chance(30);
        let offset = block * weft_types::BLOCK_SIZE as u64;
        let offset = if in_trailers { data_bytes + offset % (2 * weft_types::BLOCK_SIZE as u64) } else { offset };
        let done = if lost {
            node.disk.lose_write(from, below, good)
        } else {
            node.disk.misdirect_write(from, below, good, to, offset)
        };
        if done {
            self.hurt.insert(id);
            self.stats.count(if lost { "writes to be lost" } else { "writes to be misdirected" });
        }
    }

    /// Bits flip in many places of one copy, while each of its groups has another level one that is whole, and nobody else's is
    /// hurt: also while a third is copied to.
    fn rot_in_many_places(&mut self, id: NodeId, choice: u64) {
        let map = std::sync::Arc::clone(&self.metadata.map);
        let has_another = |record: &weft_types::PgRecord| {
            let mut others = record.members.iter().filter(|member| member.is_level() && member.node != id);
            others.any(|member| self.standing(record.pg, member).is_some())
        };
        let doomed = self.nodes.values().any(|node| node.disk_doomed || node.disk_lost);
        if !self.hurt.is_empty() || doomed || !map.pgs.iter().all(has_another) {
            self.stats.count("damage withheld");
            return;
        }
        let Some(node) = self.nodes.get(&id) else { return };
        let mut random = Random::new(choice);
        for path in node.disk.files().into_iter().filter(|file| is_chunk_file(file)) {
            // In its second block, or in the fourth: where much is written.
            let offset = (1 + 2 * random.below(2)) * weft_types::BLOCK_SIZE as u64 + random.below(4096);
            if node.disk.flip(&path, offset, 1 << random.below(8)) {
                self.stats.count("bits flipped");
            }
        }
        self.hurt.insert(id);
    }

    fn fill(&mut self, id: NodeId, ms: u64) {
        let normal = self.mix.capacity_bytes;
        let Some(node) = self.nodes.get(&id) else { return };
        let Ok(usage) = weft_store::Disk::usage(&node.disk) else { return };
        self.stats.count("disks filled");
        node.disk.set_capacity(usage.total_bytes - usage.free_bytes + (64 << 10));
        if let Some(node) = self.nodes.get_mut(&id) {
            (node.fitted, node.small) = (None, false);
        }
        self.after(ms * MS, "room again", move |world| {
            world.disturbed();
            if let Some(node) = world.nodes.get(&id) {
                node.disk.set_capacity(normal);
            }
        });
    }

    /// As if the disk were a smaller one.
    pub fn fit(&mut self, id: NodeId, room_kib: u64) {
        let now = self.now();
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Ok(usage) = weft_store::Disk::usage(&node.disk) else { return };
        let process = node.process.as_ref();
        let owed = process.and_then(|process| process.turn.look_at_store(node.disk_id, |s| s.space().reserved_bytes));
        let owed = owed.unwrap_or(node.store_config.reserve_bytes);
        let capacity = usage.total_bytes - usage.free_bytes + owed + (room_kib << 10);
        node.disk.set_capacity(capacity);
        // Whoever knows of less room than there is sends no more than there is.
        let grows = node.fitted.is_some() && capacity >= usage.total_bytes;
        if !grows {
            node.fitted = Some(now);
        }
        self.stats.count(if grows { "small disks made larger" } else { "disks made small" });
    }

    fn move_primary(&mut self, choice: u64) {
        let map = std::sync::Arc::clone(&self.metadata.map);
        if map.pgs.is_empty() {
            return;
        }
        let record = &map.pgs[(choice % map.pgs.len() as u64) as usize];
        let level = record.members.iter().filter(|m| m.is_level() && Some(m.disk) != record.primary);
        let Some(to) = level.map(|m| m.disk).nth((choice >> 8) as usize % record.members.len().max(1)) else { return };
        let (Some(leader), term) = (self.metadata.leader, self.metadata.term) else { return };
        let (pg, epoch, set_version) = (record.pg, record.epoch, record.set_version);
        self.propose(leader, term, Command::MovePrimary { pg, epoch, set_version, to }, Box::new(|_, _| {}));
    }

    /// Every node that was not removed is up and every group has all its members, level, on the disks that are there now, so that a copy may be
    /// lost. A damaged copy counts as lost until the end of the run, a disk whose next sync fails until it is replaced.
    pub fn is_whole(&self) -> bool {
        let map = &self.metadata.map;
        let present = |node: &crate::node::SimNode| {
            let known = map.nodes.iter().find(|known| known.id == node.id).map(|known| known.incarnation);
            let registered = node.process.as_ref().and_then(|process| process.incarnation());
            !node.disk_lost && !node.disk_doomed && registered.is_some() && registered == known
        };
        let on_its_disk =
            |member: &weft_types::Member| self.nodes.get(&member.node).is_some_and(|node| node.disk_id == member.disk);
        self.hurt.is_empty()
            && self.present().all(present)
            && self.all_level()
            && map.pgs.iter().flat_map(|record| &record.members).all(on_its_disk)
    }

    pub fn all_level(&self) -> bool {
        let level = |record: &weft_types::PgRecord| {
            record.primary.is_some()
                && record.levelled_epoch == record.epoch
                && record.pending_move.is_none()
                && record.members.len() == usize::from(record.replicas)
                && record.members.iter().all(weft_types::Member::is_level)
        };
        !self.metadata.map.pgs.is_empty() && self.metadata.map.pgs.iter().all(level)
    }

    /// No fault any more: everything that was broken works again, everybody is started. Who is paused sleeps to the end of
    /// its time: what came meanwhile was put off until then, and waking it now would let what comes next overtake that.
    pub fn heal(&mut self) {
        self.quiet = true;
        self.ledger.open().quiet = true;
        self.blocked.clear();
        self.deaf.clear();
        self.damaging.clear();
        self.mix.loss_percent = 0;
        self.mix.duplicate_percent = 0;
        self.mix.full_queue_one_in = 0;
        self.mix.slow_message_percent = 0;
        self.mix.late_map_percent = 0;
        self.mix.late_change_percent = 0;
        let capacity = self.mix.capacity_bytes;
        for node in self.nodes.values_mut() {
            node.slowness = 1;
            (node.fitted, node.small, node.full_since) = (None, false, None);
            node.disk.set_capacity(capacity);
            node.disk.fail_syncs(0);
            node.disk.writes_stray_no_more();
            node.disk.power_off_after(u64::MAX / 2);
            if let Some(process) = &node.process {
                process.host.0.full_queue_one_in.set(0);
            }
        }
        self.keep_nodes_up();
    }

    /// Starts whoever is down, with a new disk where the old one is lost.
    fn keep_nodes_up(&mut self) {
        let capacity = self.mix.capacity_bytes;
        for id in self.present().map(|node| node.id).collect::<Vec<_>>() {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            if node.disk_lost {
                self.stats.count("lost disks replaced");
                self.crash(id, true);
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.replace_disk(capacity);
                }
            }
            if !self.is_up(id) {
                self.start_node(id);
            }
        }
        self.after(700 * MS, "keep up", Self::keep_nodes_up);
    }
}
