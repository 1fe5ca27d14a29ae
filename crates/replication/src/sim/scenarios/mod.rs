//! The executions that broke earlier designs, by name, and what must hold. Where a planted bug drops the rule that stops
//! an execution, the same script must notice it.
//!
//! A file holds one rule of the design. What they share is here.

mod acknowledge;
mod blocks;
mod credits;
mod dedupe;
mod epochs;
mod fills;
mod flush;
mod lossy;
mod peering;
mod reads;
mod resync;
mod sets;
mod truncation;

use super::fuzz::{converged, filled};
use super::meta::disk;
use super::world::{PG, World};
use crate::{ClientRequest, Event, Mutant, Reply, Report, RequestToken};
use weft_proto::data::{Contents, DiscardRequest, FillRequest, ReadRequest, TruncateRequest, WriteRequest};
use weft_proto::replication::{Envelope, Message};
use weft_types::map::MemberState;
use weft_types::{
    AckMode, BLOCK_SIZE, ChunkId, ChunkIndex, DataError, Effect, Epoch, LossGeneration, NodeId, ObjectId, OperationId,
    Origin, PresentBlocks, SessionId, TruncateGeneration,
};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
const S: u64 = 1;
const T: u64 = 2;
type Verdict = Result<(), String>;

fn chunk(index: u32) -> ChunkId {
    ChunkId { object: ObjectId(1), index: ChunkIndex(index) }
}

fn write_of(session: u64, operation: u64, low_water: u64, at: (u32, u32), value: u64) -> ClientRequest {
    write_bytes(session, operation, low_water, at, BLOCK_SIZE, value)
}

fn write_bytes(session: u64, op: u64, low: u64, at: (u32, u32), length: usize, value: u64) -> ClientRequest {
    ClientRequest::Write {
        request: WriteRequest {
            pg: PG,
            map_version: weft_types::MapVersion(0),
            origin: Origin { session: SessionId(session), operation: OperationId(op), low_water: OperationId(low) },
            chunk: chunk(at.0),
            offset_bytes: at.1,
            generation: TruncateGeneration(0),
            ack: AckMode::Memory,
            hashes: Vec::new(),
        },
        data: filled(value, length),
    }
}

fn read_of(session: u64, at: (u32, u32)) -> ClientRequest {
    ClientRequest::Read(ReadRequest {
        pg: PG,
        map_version: weft_types::MapVersion(0),
        session: SessionId(session),
        chunk: chunk(at.0),
        offset_bytes: at.1,
        length_bytes: BLOCK_SIZE as u32,
        contents: Contents::Any,
    })
}

fn flush_of(session: u64) -> ClientRequest {
    ClientRequest::Flush { map_version: weft_types::MapVersion(0), session: SessionId(session) }
}

/// What the client hears within the time, asking once.
fn answer(world: &mut World, token: RequestToken, most_ms: u64) -> Option<Result<Reply, DataError>> {
    world.run_until(most_ms, |w| w.replies.contains_key(&token));
    world.replies.remove(&token)
}

fn ask(world: &mut World, request: ClientRequest, most_ms: u64) -> Option<Result<Reply, DataError>> {
    let token = world.request(request);
    answer(world, token, most_ms)
}

/// Asks until the answer is good.
fn insist(world: &mut World, request: &ClientRequest) -> Result<Reply, String> {
    let mut last = None;
    for _ in 0..60 {
        match ask(world, request.clone(), 500) {
            Some(Ok(reply)) => return Ok(reply),
            other => last = other.or(last),
        }
        world.run_ms(100);
    }
    Err(format!("no good answer: {last:?} {:?}", world.meta.record))
}

fn put(world: &mut World, operation: u64, at: (u32, u32), value: u64) -> Verdict {
    insist(world, &write_of(S, operation, 0, at, value)).map(drop)
}

fn value_at(world: &mut World, at: (u32, u32)) -> Result<u64, String> {
    match insist(world, &read_of(T, at))? {
        Reply::Read(bytes) => Ok(u64::from_le_bytes(bytes[..8].try_into().unwrap())),
        other => Err(format!("{other:?}")),
    }
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, got: T, wanted: T) -> Verdict {
    if got == wanted { Ok(()) } else { Err(format!("{what}: {got:?}, not {wanted:?}")) }
}

fn holds(what: &str, condition: bool) -> Verdict {
    expect(what, condition, true)
}

/// A world that serves.
fn serving(members: u64, in_sync: u64, mutant: Option<Mutant>) -> World {
    let mut world = World::new(7, members, in_sync, mutant);
    assert!(world.run_until(5000, |w| w.meta.record.levelled_epoch == w.meta.record.epoch));
    world.run_ms(20);
    world
}

fn heal_and_converge(world: &mut World) -> Verdict {
    world.lose = None;
    world.keep = None;
    world.hold_maps = false;
    world.lose_changes = false;
    world.heal();
    let all = world.nodes.len();
    let healed = world.run_until(60_000, |w| w.in_sync() == all);
    holds(&format!("all members return: {:?}", world.meta.record), healed)?;
    world.run_ms(500);
    converged(world)
}

fn state(world: &World, node: NodeId) -> MemberState {
    world.meta.record.member(disk(node)).unwrap().state
}

fn in_sync(world: &World, node: NodeId) -> bool {
    world.meta.record.member(disk(node)).is_some_and(weft_types::Member::is_in_sync)
}

fn between(a: NodeId, b: NodeId, envelope: &Envelope) -> bool {
    (envelope.from, envelope.to) == (disk(a), disk(b))
}

/// The script holds, and fails when this rule is dropped.
fn certify(script: impl Fn(Option<Mutant>) -> Verdict + std::panic::RefUnwindSafe, mutants: &[Mutant]) {
    if let Err(what) = script(None) {
        panic!("{what}");
    }
    for mutant in mutants {
        let caught = std::panic::catch_unwind(|| script(Some(*mutant))).map_or(true, |verdict| verdict.is_err());
        assert!(caught, "{mutant:?} goes unnoticed");
    }
}

/// C misses writes to several chunks, and no journal goes back to them.
fn stale_c(world: &mut World, chunks: u32) -> Verdict {
    for index in 0..chunks {
        put(world, u64::from(index) + 1, (index, 0), 1)?;
    }
    world.crash(C);
    holds("C is removed", world.run_until(6000, |w| !in_sync(w, C)))?;
    for index in 0..chunks {
        put(world, u64::from(index) + 101, (index, 0), 2)?;
    }
    insist(world, &flush_of(S))?;
    world.run_ms(200);
    for node in [A, B] {
        world.nodes.get_mut(&node).unwrap().store.trim();
    }
    Ok(())
}

/// A has an entry that nobody else has, and is ousted.
fn ghost_on_a(world: &mut World) -> Verdict {
    put(world, 1, (7, 0), 5)?;
    world.run_ms(100);
    world.partition(A, B);
    world.partition(A, C);
    let _ = world.request_to(A, write_of(S, 2, 0, (7, 0), 6));
    world.run_ms(5);
    world.isolate(A);
    holds("B leads", world.run_until(8000, |w| w.meta.record.levelled_epoch == Epoch(2)))?;
    world.run_ms(50);
    expect("what B serves", value_at(world, (7, 0))?, 5)
}
