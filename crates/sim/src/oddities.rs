//! Faults that only aimed stories need: what rarely happens to disks, and what comes back from an earlier life of a node.
//!
//! Guarantees: as of all faults, a copy is destroyed only while every other one is whole, and everything heals by itself; a run
//! without them asks for no chance here. Must not know: what the cluster makes of it.

use crate::node::CLUSTER;
use crate::world::{End, MS, World};
use std::collections::{BTreeMap, BTreeSet};
use weft_proto::control::ControlRequest;
use weft_store::disk::OpenMode;
use weft_store::fault::{PowerLoss, Random, SimDisk};
use weft_store::{Disk as _, DiskFile as _, Identity, Store};
use weft_types::map::DiskState;
use weft_types::{BLOCK_SIZE, ClusterId, DiskId, Incarnation, NodeId};

/// After so long whoever was killed for what it wrote is started again.
const KILLED_FOR_MS: u64 = 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskFault {
    /// Some syncs fail, and later ones succeed. When the process has given the disk up it is started again on the same disk.
    FailsAndStays { node: u64, syncs: u64, back_ms: u64 },
    /// The disk of another cluster is put in for a while.
    Foreign { node: u64, back_ms: u64 },
    /// Bits of every register flip on the disk of a primary.
    Rot { choice: u64 },
    /// Chunks of registers lose trailers. A process finds that when it is started again, or opens a file again.
    Trailers { node: u64, choice: u64, back_ms: u64 },
    /// The power goes, and of what no sync made durable one sector of each file is lost, in the midst of the rest. The next
    /// process is killed when it has written so much to its journal.
    Gap { node: u64, sector: u64, back_ms: u64, written_bytes: u64 },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stale {
    /// A killed process's lease is surrendered a second time, when the next one has one.
    Surrender { node: u64, back_ms: u64, after_ms: u64 },
    /// A start's request for an incarnation is committed a second time.
    SameStart { node: u64, back_ms: u64, after_ms: u64 },
    /// The request of a start that was killed at once is committed when the next one has lost its power.
    EarlierStart { node: u64, after_ms: u64 },
    /// A node forgets who it was, with its store of the metadata group, and has it back after a while.
    Forgets { node: u64, ms: u64 },
    /// The leader and another node are on one side, where the majority's last answers arrive late.
    LateAnswers { choice: u64, slow_ms: u64, heal_ms: u64 },
}

/// What is kept to come again.
#[derive(Default)]
pub struct Oddities {
    /// Whose next request for an incarnation is kept, and those that were.
    keeps: BTreeSet<NodeId>,
    kept: BTreeMap<NodeId, ControlRequest>,
    /// So much longer the second half of a quorum round takes.
    pub slow_answers_ns: u64,
}

impl World {
    pub fn strike_disk(&mut self, fault: DiskFault) {
        match fault {
            DiskFault::FailsAndStays { node, syncs, back_ms } => self.fail_and_stay(NodeId(node), syncs, back_ms),
            DiskFault::Foreign { node, back_ms } => self.put_in_foreign_disk(NodeId(node), back_ms),
            DiskFault::Trailers { node, choice, back_ms } => self.lose_trailers(NodeId(node), choice, back_ms),
            DiskFault::Gap { node, sector, back_ms, written_bytes } => {
                self.leave_gap(NodeId(node), sector, back_ms, written_bytes);
            }
            DiskFault::Rot { choice } => {
                let first = self.metadata.map.pgs.first();
                if let Some(primary) = first.and_then(|record| record.primary_member()).map(|member| member.node) {
                    self.rot(primary, choice);
                }
            }
        }
    }

    fn fail_and_stay(&mut self, id: NodeId, syncs: u64, back_ms: u64) {
        if !self.is_whole() {
            return self.stats.count("damage withheld");
        }
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.disk.fail_syncs(syncs);
        node.disk_doomed = true;
        let disk = node.disk_id;
        self.stats.count("failing fsyncs of disks that stay");
        self.start_on_failed_disk(id, disk, back_ms * MS, 100);
    }

    /// Once the group knows that the disk failed: until then, and on a disk that could not be marked, nobody would refuse it.
    fn start_on_failed_disk(&mut self, id: NodeId, disk: DiskId, pause_ns: u64, tries: u32) {
        self.after(pause_ns, "failed disk", move |world| {
            if world.nodes.get(&id).is_none_or(|node| node.disk_id != disk) {
                return;
            }
            let known = world.metadata.map.disks.iter().any(|d| d.id == disk && d.state == DiskState::Failed);
            if !known && tries > 0 && !world.quiet {
                return world.start_on_failed_disk(id, disk, 50 * MS, tries - 1);
            }
            if known {
                world.crash(id, true);
                if let Some(node) = world.nodes.get_mut(&id) {
                    node.disk_lost = false;
                }
                world.stats.count("starts on a failed disk");
                world.start_node(id);
            }
            world.after(1500 * MS, "failed disk", move |world| world.replace_failed_disk(id, disk));
        });
    }

    fn replace_failed_disk(&mut self, id: NodeId, disk: DiskId) {
        let capacity = self.mix.capacity_bytes;
        if self.nodes.get(&id).is_none_or(|node| node.disk_id != disk) {
            return;
        }
        self.crash(id, true);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.replace_disk(capacity);
        }
        self.start_node(id);
    }

    fn put_in_foreign_disk(&mut self, id: NodeId, back_ms: u64) {
        self.crash(id, true);
        let capacity = self.mix.capacity_bytes;
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.own_disk.is_none()) else { return };
        let foreign = SimDisk::new(capacity);
        let identity = Identity { cluster: ClusterId(CLUSTER.0 + 1), disk: node.disk_id, node: id };
        // A simulated disk without faults does not fail.
        let _ = Store::format(&foreign, identity, &node.store_config);
        node.own_disk = Some(std::mem::replace(&mut node.disk, foreign));
        self.start_node(id);
        self.after(back_ms * MS, "own disk", move |world| {
            if let Some(node) = world.nodes.get_mut(&id)
                && let Some(own) = node.own_disk.take()
            {
                node.disk = own;
            }
            world.start_node(id);
        });
    }

    fn leave_gap(&mut self, id: NodeId, sector: u64, back_ms: u64, written_bytes: u64) {
        self.stats.count("power cuts that leave a gap");
        self.power_off_with(id, PowerLoss::LoseOne { nth: sector });
        self.after(back_ms * MS, "restart", move |world| {
            world.start_node(id);
            let room = world.journal_room_bytes(id);
            if let Some(node) = world.nodes.get_mut(&id) {
                node.killed_at_room = room.map(|room| room.saturating_sub(written_bytes));
            }
        });
    }

    fn journal_room_bytes(&self, id: NodeId) -> Option<u64> {
        let node = self.nodes.get(&id)?;
        node.process.as_ref()?.turn.look_at_store(node.disk_id, Store::journal_room_bytes)
    }

    /// After each turn: whoever has written so much to its journal is killed.
    pub fn look_at_journal(&mut self, id: NodeId) {
        let Some(at) = self.nodes.get(&id).and_then(|node| node.killed_at_room) else { return };
        if self.journal_room_bytes(id).is_some_and(|room| room <= at) {
            self.crash(id, false);
            self.after(KILLED_FOR_MS * MS, "restart", move |world| {
                world.start_node(id);
            });
        }
    }

    /// Whether a copy on this node may be damaged: it is the only one that is, or was.
    fn may_damage(&mut self, id: NodeId) -> bool {
        let only = self.hurt.len() == 1 && self.hurt.contains(&id);
        if !only && !self.is_whole() {
            self.stats.count("damage withheld");
            return false;
        }
        self.hurt.insert(id);
        true
    }

    /// Files of registers on the disk of a node.
    fn register_files(&self, id: NodeId) -> Vec<String> {
        let of_registers = |path: &String| {
            let name = path.rsplit('/').next().unwrap_or_default();
            (0..crate::client::REGISTER_OBJECTS)
                .any(|object| name.starts_with(&format!("{:016x}-", crate::client::FIRST_OBJECT + object)))
                && name.len() == 25
        };
        self.nodes.get(&id).map_or_else(Vec::new, |node| node.disk.files().into_iter().filter(of_registers).collect())
    }

    fn rot(&mut self, id: NodeId, choice: u64) {
        let files = self.register_files(id);
        if files.is_empty() || !self.may_damage(id) {
            return;
        }
        let mut random = Random::new(choice);
        for path in files {
            for block in 0..u64::from(crate::client::BLOCKS) {
                let offset = block * BLOCK_SIZE as u64 + random.below(BLOCK_SIZE as u64);
                if self.nodes.get(&id).is_some_and(|node| node.disk.flip(&path, offset, 1)) {
                    self.stats.count("bits of registers flipped");
                }
            }
        }
    }

    fn lose_trailers(&mut self, id: NodeId, choice: u64, back_ms: u64) {
        let files = self.register_files(id);
        if files.is_empty() || !self.may_damage(id) {
            return;
        }
        let (mut random, mut which) = (Random::new(choice), Random::new(!choice));
        // Or the process goes on, and finds it when it opens the file again.
        let killed = which.chance(60);
        if killed {
            self.crash(id, false);
        }
        for _ in 0..1 + random.below(3) {
            let path = &files[random.below(files.len() as u64) as usize];
            let Some(node) = self.nodes.get(&id) else { return };
            let length = node.disk.open(path, OpenMode::Existing).and_then(|file| file.len()).unwrap_or(0);
            let data = u64::from(crate::client::CHUNK_BYTES);
            let slot = length.saturating_sub(data) / 2;
            if slot == 0 {
                continue;
            }
            // Both, or one of them, which may be the one that counts. What is flipped twice is whole again.
            let slots = [0..2, 0..1, 1..2][which.below(3) as usize].clone();
            let count = if slots == (0..2) { "chunks that lose both trailers" } else { "chunks that lose a trailer" };
            let lost = slots.into_iter().all(|number| node.disk.flip(path, data + number * slot + 16, 1));
            self.stats.add(count, u64::from(lost));
        }
        if killed {
            self.after(back_ms * MS, "restart", move |world| {
                world.start_node(id);
            });
        }
    }
}

impl World {
    pub fn strike_with_what_is_stale(&mut self, fault: Stale) {
        match fault {
            Stale::Surrender { node, back_ms, after_ms } => self.surrender_again(NodeId(node), back_ms, after_ms),
            Stale::SameStart { node, back_ms, after_ms } => {
                let id = NodeId(node);
                self.crash(id, true);
                self.oddities.keeps.insert(id);
                self.after(back_ms * MS, "restart", move |world| {
                    world.start_node(id);
                });
                self.after((back_ms + after_ms) * MS, "late copy", move |world| world.registration_comes_late(id));
            }
            Stale::EarlierStart { node, after_ms } => self.start_twice(NodeId(node), after_ms),
            Stale::Forgets { node, ms } => self.forget(NodeId(node), ms),
            Stale::LateAnswers { choice, slow_ms, heal_ms } => self.answer_late(choice, slow_ms, heal_ms),
        }
    }

    /// To whoever leads; nobody waits for an answer.
    fn comes_late(&mut self, request: ControlRequest) {
        if let Some(leader) = self.metadata.leader {
            self.stats.count("control requests that come late");
            self.say(|| format!("a late copy arrives: {}", crate::metadata::short(&request)));
            self.control_request(leader, request, Box::new(|_, _| {}));
        }
    }

    fn surrender_again(&mut self, id: NodeId, back_ms: u64, after_ms: u64) {
        let process = self.nodes.get(&id).and_then(|node| node.process.as_ref());
        let Some(incarnation) = process.and_then(|process| process.incarnation()) else { return };
        self.crash(id, true);
        self.after(back_ms * MS, "restart", move |world| {
            world.start_node(id);
        });
        self.after((back_ms + after_ms) * MS, "late copy", move |world| {
            world.comes_late(ControlRequest::SurrenderLease { node: id, incarnation });
        });
    }

    /// A request for an incarnation leaves a node.
    pub fn keep_registration(&mut self, id: NodeId, request: &ControlRequest) {
        if self.oddities.keeps.remove(&id) {
            self.oddities.kept.insert(id, request.clone());
        }
    }

    fn registration_comes_late(&mut self, id: NodeId) {
        if let Some(request) = self.oddities.kept.remove(&id) {
            self.comes_late(request);
        }
    }

    fn start_twice(&mut self, id: NodeId, after_ms: u64) {
        self.crash(id, true);
        self.oddities.keeps.insert(id);
        self.start_node(id);
        // It dies before it hears of anything.
        self.crash(id, false);
        self.after(20 * MS, "restart", move |world| {
            world.start_node(id);
        });
        self.after(after_ms * MS, "late copy", move |world| {
            if !world.quiet {
                world.power_off(id);
            }
            world.registration_comes_late(id);
            world.after(100 * MS, "restart", move |world| {
                world.start_node(id);
            });
        });
    }

    fn forget(&mut self, id: NodeId, ms: u64) {
        self.crash(id, true);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let knew = std::mem::replace(&mut node.incarnation, Incarnation(0));
        self.start_node(id);
        self.after(ms * MS, "remembers", move |world| {
            let unheard = world.nodes.get(&id).is_some_and(|node| node.incarnation == Incarnation(0));
            if unheard {
                world.crash(id, true);
                if let Some(node) = world.nodes.get_mut(&id) {
                    node.incarnation = knew;
                }
                world.start_node(id);
            }
        });
    }

    fn answer_late(&mut self, choice: u64, slow_ms: u64, heal_ms: u64) {
        let Some(leader) = self.metadata.leader else { return };
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|id| *id != leader).collect();
        let beside = others[choice as usize % others.len()];
        self.stats.count("leaders that hear late of a majority");
        self.oddities.slow_answers_ns = slow_ms * MS;
        // A round that began before the split is under way.
        self.after(150 * MS, "split", move |world| {
            let here = [leader, beside];
            for one in here {
                for other in others.iter().filter(|id| !here.contains(id)) {
                    world.block_both(End::Node(one), End::Node(*other), heal_ms);
                }
            }
        });
        self.after(heal_ms * MS, "answers are fast again", |world| world.oddities.slow_answers_ns = 0);
    }

    fn block_both(&mut self, a: End, b: End, heal_ms: u64) {
        self.block(a, b, heal_ms);
        self.block(b, a, heal_ms);
    }
}
