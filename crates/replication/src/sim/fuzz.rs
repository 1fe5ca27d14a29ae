//! Random runs: clients, faults, then healing; afterwards every oracle is asked.

use super::Random;
use super::meta::disk;
use super::oracle::{Interval, Register};
use super::world::{PG, World};
use crate::{ClientRequest, Mutant, Reply, RequestToken};
use bytes::Bytes;
use std::collections::BTreeMap;
use weft_proto::data::{Contents, DiscardRequest, FillRequest, ReadRequest, TruncateRequest, WriteRequest};
use weft_types::{
    AckMode, BLOCK_SIZE, ChunkId, ChunkIndex, DataError, LossGeneration, NodeId, ObjectId, OperationId, Origin,
    PresentBlocks, SessionId, TruncateGeneration,
};

/// A half block: (chunk, block, half).
type Place = (u32, u16, u16);
const HALF: usize = BLOCK_SIZE / 2;

#[derive(Clone, Debug)]
enum Op {
    Write {
        value: u64,
        chunk: u32,
        block: u16,
        halves: std::ops::Range<u16>,
    },
    Read {
        chunk: u32,
        block: u16,
    },
    Flush {
        covers: BTreeMap<Place, Vec<u64>>,
    },
    /// On an object that only convergence is asked of.
    Churn(u64),
}

struct Thread {
    session: u64,
    op: Option<Running>,
    next_us: u64,
}

struct Running {
    op: Op,
    operation: u64,
    start_us: u64,
    tokens: Vec<RequestToken>,
    retry_us: u64,
}

struct Clients {
    threads: Vec<Thread>,
    operations: BTreeMap<u64, u64>,
    registers: BTreeMap<Place, Register>,
    flushed: BTreeMap<Place, Vec<u64>>,
    next_value: u64,
    random: Random,
    answered: u64,
    generation: u64,
}

/// How hard a run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Faults {
    /// Processes crash and connections fail, but no power is lost.
    Crashes,
    /// Power too: lossy members, and perhaps a loss that must be owned up to.
    Power,
}

pub fn filled(value: u64, bytes: usize) -> Bytes {
    Bytes::from(value.to_le_bytes().repeat(bytes / 8))
}

fn decode(bytes: &[u8]) -> u64 {
    let value = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(bytes.chunks(8).all(|c| c == value.to_le_bytes()), "a torn register");
    value
}

impl Clients {
    fn new(seed: u64) -> Self {
        let thread = |n: u64| Thread { session: 1 + n / 2, op: None, next_us: 100_000 };
        Self {
            threads: (0..4).map(thread).collect(),
            operations: BTreeMap::new(),
            registers: BTreeMap::new(),
            flushed: BTreeMap::new(),
            next_value: 0,
            random: Random(seed ^ 0x5eed),
            answered: 0,
            generation: 0,
        }
    }

    fn choose(&mut self, now_us: u64) -> Op {
        let chunk = self.random.below(2) as u32;
        let block = self.random.below(3) as u16;
        match self.random.below(100) {
            0..40 => {
                self.next_value += 1;
                let value = self.next_value;
                let half = self.random.below(2) as u16;
                let halves = if self.random.chance(60) { 0..2 } else { half..half + 1 };
                for half in halves.clone() {
                    let register = self.registers.entry((chunk, block, half)).or_default();
                    register.writes.insert(value, Interval { start: now_us, end: None });
                }
                Op::Write { value, chunk, block, halves }
            }
            40..80 => Op::Read { chunk, block },
            80..92 => {
                let done = |r: &Register| r.writes.iter().filter(|(_, w)| w.end.is_some()).map(|(v, _)| *v).collect();
                Op::Flush { covers: self.registers.iter().map(|(place, r)| (*place, done(r))).collect() }
            }
            _ => Op::Churn(self.random.next()),
        }
    }

    fn request(&mut self, world: &World, thread: usize) -> Option<ClientRequest> {
        let session = SessionId(self.threads[thread].session);
        let low = self.threads.iter().filter(|t| t.session == session.0).filter_map(|t| t.op.as_ref());
        let low_water = OperationId(low.map(|r| r.operation).min().unwrap_or(0));
        let running = self.threads[thread].op.as_ref()?;
        let origin = Origin { session, operation: OperationId(running.operation), low_water };
        let map_version = world.meta.version;
        let object = ObjectId(1);
        let generation = TruncateGeneration(0);
        Some(match &running.op {
            Op::Write { value, chunk, block, halves } => ClientRequest::Write {
                request: WriteRequest {
                    pg: PG,
                    map_version,
                    origin,
                    chunk: ChunkId { object, index: ChunkIndex(*chunk) },
                    offset_bytes: u32::from(*block) * BLOCK_SIZE as u32 + u32::from(halves.start) * HALF as u32,
                    generation,
                    ack: if value % 8 == 0 { AckMode::Disk } else { AckMode::Memory },
                    hashes: Vec::new(),
                },
                data: filled(*value, halves.len() * HALF),
            },
            Op::Read { chunk, block } => ClientRequest::Read(ReadRequest {
                pg: PG,
                map_version,
                session,
                chunk: ChunkId { object, index: ChunkIndex(*chunk) },
                offset_bytes: u32::from(*block) * BLOCK_SIZE as u32,
                length_bytes: BLOCK_SIZE as u32,
                contents: Contents::Any,
            }),
            Op::Flush { .. } => ClientRequest::Flush { map_version, session },
            Op::Churn(choice) => self.churn(world, *choice, origin),
        })
    }

    fn churn(&mut self, world: &World, choice: u64, origin: Origin) -> ClientRequest {
        let object = ObjectId(2 + choice % 2);
        let map_version = world.meta.version;
        let chunk = ChunkId { object, index: ChunkIndex((choice >> 8) as u32 % 2) };
        let offset_bytes = (choice >> 16) as u32 % 40_000;
        let length_bytes = 1 + (choice >> 32) as u32 % 20_000;
        let known = world.nodes.values().filter_map(|n| crate::StoreView::object_generation(&n.store, object)).max();
        let generation = known.unwrap_or_default();
        match (choice >> 4) % 10 {
            0..5 => ClientRequest::Write {
                request: WriteRequest {
                    pg: PG,
                    map_version,
                    origin,
                    chunk,
                    offset_bytes,
                    generation,
                    ack: AckMode::Memory,
                    hashes: Vec::new(),
                },
                data: filled(choice, (length_bytes as usize / 8 + 1) * 8),
            },
            7 => {
                // Half of them over what is there too, and those of whole blocks.
                let block = BLOCK_SIZE as u32;
                let (offset_bytes, length_bytes, present) = if choice & 1 << 9 == 0 {
                    (offset_bytes, length_bytes, PresentBlocks::Keep)
                } else {
                    (offset_bytes / block * block, length_bytes.next_multiple_of(block), PresentBlocks::Zero)
                };
                ClientRequest::Fill(FillRequest {
                    pg: PG,
                    map_version,
                    origin,
                    chunk,
                    offset_bytes,
                    length_bytes,
                    generation,
                    ack: AckMode::Memory,
                    present,
                })
            }
            5..7 => ClientRequest::Discard(DiscardRequest {
                pg: PG,
                map_version,
                origin,
                chunk,
                offset_bytes,
                length_bytes,
                generation,
                ack: AckMode::Memory,
            }),
            8 => ClientRequest::Truncate(TruncateRequest {
                pg: PG,
                map_version,
                origin: Some(origin),
                object,
                size_bytes: u64::from(offset_bytes),
                generation: generation.next(),
            }),
            _ => ClientRequest::DeleteObject { map_version, origin: Some(origin), object },
        }
    }

    fn work(&mut self, world: &mut World, begin_new: bool) {
        for at in 0..self.threads.len() {
            self.collect(world, at);
            let now_us = world.now_us;
            if self.threads[at].op.is_none() && begin_new && now_us >= self.threads[at].next_us {
                let op = self.choose(now_us);
                let operation = self.operations.entry(self.threads[at].session).or_default();
                *operation += 1;
                let running = Running { op, operation: *operation, start_us: now_us, tokens: Vec::new(), retry_us: 0 };
                self.threads[at].op = Some(running);
            }
            let due = self.threads[at].op.as_ref().is_some_and(|r| now_us >= r.retry_us);
            if due {
                self.send(world, at);
            }
        }
    }

    fn send(&mut self, world: &mut World, at: usize) {
        let Some(request) = self.request(world, at) else { return };
        if self.random.chance(4) {
            // A copy that somebody's queue delivers much later, when nobody waits for it.
            let late = request.clone();
            let node = NodeId(1 + self.random.below(world.nodes.len() as u64));
            world.request_to(node, late);
        }
        let token = world.request(request);
        let retry_us = world.now_us + 300_000 + self.random.below(600_000);
        if let Some(running) = &mut self.threads[at].op {
            running.tokens.push(token);
            running.retry_us = retry_us;
        }
    }

    fn collect(&mut self, world: &mut World, at: usize) {
        let Some(running) = &mut self.threads[at].op else { return };
        let mut good = None;
        for token in running.tokens.clone() {
            match world.replies.remove(&token) {
                None => {}
                Some(Ok(reply)) => good = Some(reply),
                Some(Err(DataError::Answered { .. })) => panic!("an open operation was called answered"),
                Some(Err(DataError::StaleGeneration { .. })) => good = Some(Reply::Done),
                Some(Err(_)) => {
                    running.tokens.retain(|t| *t != token);
                    running.retry_us = running.retry_us.min(world.now_us + 30_000);
                }
            }
        }
        let Some(reply) = good else { return };
        let Some(running) = self.threads[at].op.take() else { return };
        self.threads[at].next_us = world.now_us + self.random.below(25_000);
        self.answered += 1;
        let span = Interval { start: running.start_us, end: Some(world.now_us) };
        match (running.op, reply) {
            (Op::Write { value, chunk, block, halves }, Reply::Written) => {
                for half in halves {
                    let register = self.registers.entry((chunk, block, half)).or_default();
                    register.writes.insert(value, span);
                }
            }
            (Op::Read { chunk, block }, Reply::Read(bytes)) => {
                for half in 0..2u16 {
                    let value = decode(&bytes[usize::from(half) * HALF..usize::from(half + 1) * HALF]);
                    self.registers.entry((chunk, block, half)).or_default().reads.push((value, span));
                }
            }
            (Op::Flush { covers }, Reply::Flushed(generation)) => {
                // A flush at a later loss generation is EIO to whoever opened the file before.
                if generation.0 == self.generation {
                    for (place, values) in covers {
                        self.flushed.entry(place).or_default().extend(values);
                    }
                }
            }
            (Op::Churn(_), _) => {}
            (op, reply) => panic!("{op:?} was answered with {reply:?}"),
        }
    }

    /// What is read in the end must not be older than what was flushed.
    fn check_flushed(&self) -> Result<(), String> {
        for (place, values) in &self.flushed {
            let register = &self.registers[place];
            let Some((last, _)) = register.reads.last() else { continue };
            let last_end = register.writes.get(last).map_or(Some(0), |w| w.end);
            for value in values {
                let flushed = register.writes[value];
                if last_end.is_some_and(|end| end < flushed.start) {
                    return Err(format!("{place:?}: {value} was flushed, {last} is older and is what is left"));
                }
            }
        }
        Ok(())
    }
}

struct Nemesis {
    random: Random,
    faults: Faults,
    next_us: u64,
}

impl Nemesis {
    fn work(&mut self, world: &mut World) {
        if world.now_us < self.next_us {
            return;
        }
        self.next_us = world.now_us + 100_000 + self.random.below(900_000);
        let count = world.nodes.len() as u64;
        let node = NodeId(1 + self.random.below(count));
        let other = NodeId(1 + self.random.below(count));
        let down: Vec<NodeId> = world.nodes.keys().copied().filter(|n| !world.is_up(*n)).collect();
        match self.random.below(18) {
            0..3 if down.len() < 2 && world.is_up(node) => {
                world.crash(node);
                if self.random.chance(50) {
                    // The parent notices at once (design 4.1).
                    world.meta.node_dead(node);
                    world.broadcast_map();
                }
            }
            3..5 if self.faults == Faults::Power && world.is_up(node) => {
                world.power_off(node);
                if self.random.chance(50) {
                    let quick = self.random.chance(50);
                    world.start(node, false);
                    if quick && world.is_up(other) && other != node {
                        world.power_off(other);
                        world.start(other, false);
                    }
                }
            }
            5..9 => {
                if let Some(node) = down.first() {
                    // A process that crashed lost nothing; whoever lost power lost it when it happened.
                    world.start(*node, self.faults == Faults::Crashes);
                }
            }
            9 | 10 if node != other => world.partition(node, other),
            11 => world.isolate(node),
            12 | 13 => {
                world.hold_maps = false;
                world.lose_changes = false;
                world.heal();
            }
            14 => world.reset_links(node),
            15 => world.hold_maps = !world.hold_maps,
            16 => world.lose_changes = !world.lose_changes,
            17 => {
                let to = world.meta.record.members.iter().find(|m| m.is_level() && m.disk == disk(node));
                if to.is_some() && world.meta.record.primary != Some(disk(node)) && world.meta.record.primary.is_some()
                {
                    world.meta.begin_move(disk(node));
                    world.broadcast_map();
                }
            }
            _ => {}
        }
    }
}

/// One run. `Err` tells what an oracle found.
pub fn run(seed: u64, faults: Faults, mutant: Option<Mutant>) -> Result<u64, String> {
    let members = 3 + seed % 2;
    let mut world = World::new(seed, members, 3, mutant);
    world.trim_percent = if seed.is_multiple_of(3) { 0 } else { 10 };
    world.read_us = if seed.is_multiple_of(5) { 3000 } else { 100 };
    if seed % 4 > 1 {
        // So small that a resync's target is short of room from the first.
        world.nodes.values_mut().for_each(|node| node.store.journal_bytes = Some(4 << 20));
    }
    let mut clients = Clients::new(seed);
    let mut nemesis = Nemesis { random: Random(seed ^ 0xfa11), faults, next_us: 300_000 };
    while world.now_ms() < 8_000 {
        world.run_ms(1);
        nemesis.work(&mut world);
        clients.work(&mut world, true);
    }
    // Liveness: everything heals, everybody comes back.
    world.hold_maps = false;
    world.lose_changes = false;
    world.heal();
    let down: Vec<NodeId> = world.nodes.keys().copied().filter(|n| !world.is_up(*n)).collect();
    for node in down {
        world.start(node, faults == Faults::Crashes);
    }
    let deadline = world.now_ms() + 60_000;
    let settled = |world: &World, clients: &Clients| {
        world.in_sync() == world.nodes.len()
            && world.meta.record.pending_move.is_none()
            && clients.threads.iter().all(|t| t.op.is_none())
    };
    while !settled(&world, &clients) {
        world.run_ms(2);
        clients.work(&mut world, false);
        if world.now_ms() > deadline {
            let record = &world.meta.record;
            let open: Vec<_> = clients.threads.iter().filter_map(|t| t.op.as_ref()).map(|r| &r.op).collect();
            let status: Vec<_> = world.nodes.values().map(|n| n.replica.as_ref().map(crate::Replica::status)).collect();
            return Err(format!("does not settle: {record:?}\n{status:#?}\n{open:?}"));
        }
    }
    final_reads(&mut world, &mut clients)?;
    let lost = world.meta.record.loss_generation > LossGeneration(0);
    clients.check_flushed()?;
    if !lost {
        for (place, register) in &clients.registers {
            register.check().map_err(|what| format!("{place:?}: {what}"))?;
        }
    }
    world.run_ms(1000);
    converged(&world)?;
    Ok(clients.answered)
}

fn final_reads(world: &mut World, clients: &mut Clients) -> Result<(), String> {
    for chunk in 0..2 {
        for block in 0..3 {
            let operation = clients.operations.entry(1).or_default();
            *operation += 1;
            clients.threads[0].op = Some(Running {
                op: Op::Read { chunk, block },
                operation: *operation,
                start_us: world.now_us,
                tokens: Vec::new(),
                retry_us: 0,
            });
            let deadline = world.now_ms() + 10_000;
            while clients.threads[0].op.is_some() {
                world.run_ms(1);
                clients.work(world, false);
                if world.now_ms() > deadline {
                    return Err("a read in a healthy cluster is not answered".to_owned());
                }
            }
        }
    }
    Ok(())
}

/// All in-sync replicas hold the same chunks, block by block, with the same ends and generations.
pub fn converged(world: &World) -> Result<(), String> {
    let mut first = None;
    for (node, sim) in &world.nodes {
        let in_sync = world.meta.record.member(disk(*node)).is_some_and(weft_types::Member::is_level);
        if !in_sync {
            continue;
        }
        let contents: BTreeMap<_, _> = sim
            .store
            .chunks_map()
            .iter()
            .filter(|(_, c)| !c.blocks.is_empty())
            .map(|(id, c)| (*id, (c.blocks.iter().map(|(b, (_, h))| (*b, *h)).collect::<Vec<_>>(), c.generation)))
            .collect();
        match &first {
            None => first = Some((*node, contents)),
            Some((other, expected)) if *expected != contents => {
                for (id, chunk) in &contents {
                    if expected.get(id) != Some(chunk) {
                        return Err(format!("{node} and {other} differ in {id}:\n{chunk:?}\n{:?}", expected.get(id)));
                    }
                }
                return Err(format!("{node} lacks chunks that {other} has"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn seeds(default: u64) -> std::ops::Range<u64> {
    let from = std::env::var("WEFT_SEED").ok().and_then(|v| v.parse().ok());
    let count = std::env::var("WEFT_SEEDS").ok().and_then(|v| v.parse().ok());
    let first = from.unwrap_or(1);
    first..first + count.unwrap_or(if from.is_some() { 1 } else { default })
}

fn run_all(faults: Faults, default: u64) {
    let mut answered = 0;
    for seed in seeds(default) {
        let result = std::panic::catch_unwind(|| run(seed, faults, None));
        match result {
            Ok(Ok(count)) => answered += count,
            Ok(Err(what)) => panic!("WEFT_SEED={seed} {faults:?}: {what}"),
            Err(_) => panic!("WEFT_SEED={seed} {faults:?}: a replica panicked (see above)"),
        }
    }
    println!("{answered} operations answered");
    assert!(answered > 100, "clients got hardly anything done: {answered}");
}

#[test]
fn random_runs_with_crashes_and_partitions_stay_linearizable_and_converge() {
    run_all(Faults::Crashes, 24);
}

#[test]
fn random_runs_with_power_loss_keep_what_was_flushed_and_converge() {
    run_all(Faults::Power, 24);
}

/// Random runs find these without being told where to look; the other planted bugs are caught by scenarios.
#[test]
fn random_runs_catch_planted_bugs() {
    // Any change of what is sent moves the seeds that meet a bug, so a few are tried.
    let caught = |mutant, faults| {
        let meets = |seed: &u64| !matches!(std::panic::catch_unwind(|| run(*seed, faults, Some(mutant))), Ok(Ok(_)));
        let seed = (1..=60).find(meets);
        println!("{mutant:?}: seed {seed:?}");
        seed.is_some()
    };
    assert!(caught(Mutant::OneSidedDelta, Faults::Crashes));
    assert!(caught(Mutant::NoDedupe, Faults::Crashes));
}
