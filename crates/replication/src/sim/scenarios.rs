//! The executions that broke earlier designs, by name, and what must hold. Where a planted bug drops the rule that stops
//! an execution, the same script must notice it.

use super::fuzz::{converged, filled};
use super::meta::disk;
use super::world::{PG, World};
use crate::{ClientRequest, Event, Mutant, Reply, Report, RequestToken};
use weft_proto::data::{DiscardRequest, ReadRequest, TruncateRequest, WriteRequest};
use weft_proto::replication::{Envelope, Message};
use weft_types::map::MemberState;
use weft_types::{
    AckMode, BLOCK_SIZE, ChunkId, ChunkIndex, DataError, Effect, Epoch, LossGeneration, NodeId, ObjectId, OperationId,
    Origin, SessionId, TruncateGeneration,
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

#[test]
fn amnesia() {
    certify(
        |mutant| {
            let mut world = serving(2, 2, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            insist(&mut world, &flush_of(S))?;
            put(&mut world, 2, (0, 0), 6)?;
            for node in [B, A] {
                world.power_off(node);
                world.start(node, false);
            }
            let left = value_at(&mut world, (0, 0))?;
            holds("what was flushed is left", left == 5 || left == 6)?;
            let flushed = insist(&mut world, &flush_of(S))?;
            holds("the loss is owned up to", left == 6 || flushed == Reply::Flushed(LossGeneration(1)))?;
            heal_and_converge(&mut world)
        },
        &[Mutant::LossyAsSource],
    );
}

/// A and B serve; C is syncing and is not let in.
fn c_outside(mutant: Option<Mutant>) -> World {
    let mut world = World::new(7, 3, 2, mutant);
    world.lose = Some(Box::new(|e| matches!(e.message, Message::BeginResync(_))));
    assert!(world.run_until(5000, |w| state(w, C) == MemberState::Syncing));
    world.run_ms(20);
    world
}

/// C is promoted, and A does not hear of it.
fn promoted_unheard(world: &mut World) -> Verdict {
    world.hold_maps = true;
    world.lose = None;
    holds("C is promoted", world.run_until(10_000, |w| in_sync(w, C)))
}

#[test]
fn promotion_window() {
    certify(
        |mutant| {
            let mut world = c_outside(mutant);
            put(&mut world, 1, (0, 0), 5)?;
            promoted_unheard(&mut world)?;
            world.partition(A, C);
            let acknowledged = ask(&mut world, write_of(S, 2, 0, (0, 0), 6), 600).is_some();
            // A and B die; only C is left.
            world.crash(A);
            world.crash(B);
            world.hold_maps = false;
            world.heal();
            holds("C leads", world.run_until(6000, |w| w.meta.record.primary == Some(disk(C))))?;
            let left = value_at(&mut world, (0, 0))?;
            holds("C has everything acknowledged", !acknowledged || left == 6)
        },
        &[Mutant::CandidateNotCounted],
    );
}

#[test]
fn barrier_window() {
    certify(
        |mutant| {
            let mut world = c_outside(mutant);
            put(&mut world, 1, (0, 0), 5)?;
            // The barrier is chosen, the promotion does not reach the metadata group yet.
            world.lose_changes = true;
            world.lose = None;
            world.run_ms(2500);
            let lost: fn(&Envelope) -> bool = |e| between(A, C, e) && matches!(e.message, Message::Append(_));
            world.lose = Some(Box::new(lost));
            let acknowledged = ask(&mut world, write_of(S, 2, 0, (0, 0), 6), 300).is_some();
            world.lose_changes = false;
            holds("C is promoted", world.run_until(3000, |w| in_sync(w, C)))?;
            world.crash(A);
            world.crash(B);
            world.lose = None;
            holds("C leads", world.run_until(6000, |w| w.meta.record.primary == Some(disk(C))))?;
            let left = value_at(&mut world, (0, 0))?;
            holds("C has everything acknowledged", !acknowledged || left == 6)
        },
        &[Mutant::CandidateNotCounted],
    );
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

#[test]
fn interrupted_resync() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            stale_c(&mut world, 5)?;
            world.feed(A, Event::ResyncRate { bytes_per_second: 1 });
            world.start(C, true);
            // The first copies fit the first allowance; keep the others back.
            let lost: fn(&Envelope) -> bool =
                |e| matches!(&e.message, Message::ChunkHashed { chunk, .. } if chunk.index.0 > 1);
            world.lose = Some(Box::new(lost));
            world.run_ms(700);
            put(&mut world, 300, (9, 0), 3)?;
            holds("C syncs", state(&world, C) == MemberState::Syncing)?;
            world.crash(C);
            world.run_ms(100);
            world.lose = None;
            world.feed(A, Event::ResyncRate { bytes_per_second: 1 << 30 });
            for node in [A, B] {
                world.nodes.get_mut(&node).unwrap().store.trim();
            }
            world.start(C, true);
            heal_and_converge(&mut world)
        },
        &[Mutant::ForgetCompleteTo],
    );
}

#[test]
fn epoch_reuse() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            world.run_ms(100);
            // (1,n) reaches nobody; C's copy waits in a queue.
            world.keep = Some(Box::new(|e| between(A, C, e) && matches!(e.message, Message::Append(_))));
            world.partition(A, B);
            let _ = world.request(write_of(S, 2, 0, (0, 0), 6));
            world.run_ms(20);
            let kept = std::mem::take(&mut world.kept);
            world.keep = None;
            // A loses power and comes back; B leads, and C has promised B but has none of its entries yet.
            world.lose = Some(Box::new(|e| between(B, C, e) && matches!(e.message, Message::Append(_))));
            world.power_off(A);
            world.start(A, false);
            world.run_ms(150);
            holds("a later epoch", world.meta.record.epoch > Epoch(1))?;
            let end = |w: &World| crate::StoreView::log_end(&w.nodes[&C].store);
            let before = end(&world);
            holds("an entry is kept", !kept.is_empty())?;
            for envelope in kept {
                world.feed(C, Event::Peer(envelope));
            }
            expect("C takes nothing of an old epoch", end(&world), before)?;
            world.lose = None;
            world.heal();
            put(&mut world, 3, (0, 0), 7)?;
            heal_and_converge(&mut world)?;
            expect("the value", value_at(&mut world, (0, 0))?, 7)
        },
        &[Mutant::SkipEpochCheck],
    );
}

#[test]
fn stale_set_request() {
    let mut world = serving(3, 3, None);
    let (epoch, set_version) = (world.meta.record.epoch, world.meta.record.set_version);
    world.meta.elect(Some(disk(A)));
    world.meta.change(&weft_proto::control::ChangeSetRequest {
        pg: PG,
        epoch,
        set_version,
        requester: disk(A),
        incarnation: weft_types::Incarnation(1),
        change: weft_proto::control::SetChange::Remove { disk: disk(B) },
    });
    assert!(in_sync(&world, B));
}

#[test]
fn lease_at_old_map() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            // A heartbeats, but the map with the fence never reaches it: its lease runs out and does not count again.
            world.nodes.get_mut(&A).unwrap().stale_map = true;
            world.meta.sessions.remove(&SessionId(S));
            world.meta.version = world.meta.version.next();
            world.broadcast_map();
            world.run_ms(2500);
            let late = world.request_to(A, write_of(S, 2, 0, (0, 0), 6));
            let written = matches!(answer(&mut world, late, 2500), Some(Ok(_)));
            holds("a fenced session's write is refused", !written)
        },
        &[Mutant::ServeWithoutLease],
    );
}

#[test]
fn serve_without_lease() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            // A can be reached by clients only.
            world.isolate(A);
            holds("another leads", world.run_until(6000, |w| w.meta.record.primary != Some(disk(A))))?;
            world.run_ms(200);
            let old = world.request_to(A, read_of(T, (0, 0)));
            let served = matches!(answer(&mut world, old, 2500), Some(Ok(_)));
            holds("A serves nothing without a lease", !served)
        },
        &[Mutant::ServeWithoutLease],
    );
}

#[test]
fn fence_after_check() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            // A write within a block has passed the check and waits for the old block.
            world.read_us = 400_000;
            let late = world.request(write_bytes(S, 2, 0, (0, 512), 512, 6));
            world.run_ms(2);
            world.meta.sessions.remove(&SessionId(S));
            world.meta.version = world.meta.version.next();
            world.broadcast_map();
            let version = world.meta.version;
            let acknowledged = |w: &World| w.meta.nodes.values().all(|n| n.applied >= version);
            holds("every node acknowledges the fence", world.run_until(1000, acknowledged))?;
            let got = answer(&mut world, late, 1500);
            holds("the write never lands", matches!(got, Some(Err(DataError::Fenced))))
        },
        &[Mutant::FenceOnlyAtArrival],
    );
}

#[test]
fn read_uncommitted() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            world.partition(A, B);
            world.partition(A, C);
            let _ = world.request_to(A, write_of(S, 2, 0, (0, 0), 6));
            world.run_ms(5);
            let early = world.request_to(A, read_of(T, (0, 0)));
            let seen = answer(&mut world, early, 500);
            holds("the read waits", !matches!(seen, Some(Ok(_))))?;
            let beside = world.request_to(A, read_of(T, (1, 0)));
            holds("others do not", matches!(answer(&mut world, beside, 100), Some(Ok(_))))
        },
        &[Mutant::ReadUncommitted],
    );
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

#[test]
fn returning_behind() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            ghost_on_a(&mut world)?;
            heal_and_converge(&mut world)?;
            expect("the ghost", value_at(&mut world, (7, 0))?, 5)
        },
        &[],
    );
}

#[test]
fn one_sided_delta() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 3, (8, 0), 1)?;
            ghost_on_a(&mut world)?;
            // Nobody writes K7 again; the journals forget everything; another object goes.
            put(&mut world, 4, (8, 0), 2)?;
            insist(&mut world, &flush_of(S))?;
            world.run_ms(500);
            for node in [B, C] {
                world.nodes.get_mut(&node).unwrap().store.trim();
            }
            heal_and_converge(&mut world)?;
            world.meta.begin_move(disk(A));
            world.broadcast_map();
            let () = ();
            holds("A leads", world.run_until(5000, |w| w.meta.record.primary == Some(disk(A))))?;
            expect("the ghost", value_at(&mut world, (7, 0))?, 5)
        },
        &[Mutant::OneSidedDelta],
    );
}

#[test]
fn deleted_chunks_stay_deleted() {
    for forget in [false, true] {
        let mut world = serving(3, 3, None);
        stale_c(&mut world, 3).unwrap();
        let delete = ClientRequest::DeleteObject { map_version: world.meta.version, origin: None, object: ObjectId(1) };
        insist(&mut world, &delete).unwrap();
        put(&mut world, 500, (1, 4096), 9).unwrap();
        if forget {
            world.nodes.values_mut().for_each(|n| n.store.forget_removals());
        }
        insist(&mut world, &flush_of(S)).unwrap();
        world.run_ms(300);
        for node in [A, B] {
            world.nodes.get_mut(&node).unwrap().store.trim();
        }
        world.start(C, true);
        heal_and_converge(&mut world).unwrap();
        assert_eq!(world.nodes[&C].store.chunks_map().len(), 1);
    }
}

#[test]
fn forgotten_dedupe() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            stale_c(&mut world, 2)?;
            let lost_answer = write_of(S, 777, 0, (0, 0), 77);
            insist(&mut world, &lost_answer)?;
            insist(&mut world, &write_of(T, 1, 0, (0, 0), 78))?;
            insist(&mut world, &flush_of(S))?;
            world.run_ms(300);
            for node in [A, B] {
                world.nodes.get_mut(&node).unwrap().store.trim();
            }
            world.start(C, true);
            heal_and_converge(&mut world)?;
            world.meta.begin_move(disk(C));
            world.broadcast_map();
            holds("C leads", world.run_until(5000, |w| w.meta.record.primary == Some(disk(C))))?;
            expect("the retry", insist(&mut world, &lost_answer)?, Reply::Written)?;
            expect("the value", value_at(&mut world, (0, 0))?, 78)
        },
        &[Mutant::NoDedupeCopy, Mutant::NoDedupe],
    );
}

#[test]
fn old_copy_after_trim() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            let old = write_of(S, 7, 7, (0, 0), 7);
            insist(&mut world, &old)?;
            insist(&mut world, &write_of(S, 8, 8, (0, 0), 8))?;
            let got = ask(&mut world, old, 500);
            let low_water = OperationId(8);
            expect("the old copy", got, Some(Err(DataError::Answered { low_water })))?;
            expect("the value", value_at(&mut world, (0, 0))?, 8)
        },
        &[Mutant::NoDedupe],
    );
}

#[test]
fn a_retry_in_the_same_batch_is_sequenced_once() {
    let mut world = serving(3, 3, None);
    let request = write_of(S, 7, 7, (0, 0), 7);
    let event = |token| Event::Request { token: RequestToken(token), request: request.clone() };
    let end = |w: &World| crate::StoreView::log_end(&w.nodes[&A].store).sequence.0;
    let before = end(&world);
    world.feed_all(A, vec![event(9001), event(9002)]);
    world.run_ms(50);
    assert_eq!(world.replies.remove(&RequestToken(9001)), Some(Ok(Reply::Written)));
    assert_eq!(world.replies.remove(&RequestToken(9002)), Some(Ok(Reply::Written)));
    assert_eq!(end(&world), before + 1);
}

#[test]
fn cut_tail_dedupe() {
    let mut world = serving(3, 3, None);
    ghost_on_a(&mut world).unwrap();
    heal_and_converge(&mut world).unwrap();
    world.meta.begin_move(disk(A));
    world.broadcast_map();
    assert!(world.run_until(5000, |w| w.meta.record.primary == Some(disk(A))));
    // Not "already done": it never was.
    insist(&mut world, &write_of(S, 2, 0, (7, 0), 6)).unwrap();
    assert_eq!(value_at(&mut world, (7, 0)), Ok(6));
}

#[test]
fn copy_overtaken() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            stale_c(&mut world, 4)?;
            world.read_us = 400_000;
            world.start(C, true);
            let began = |w: &World| w.reports.iter().any(|(_, r)| matches!(r, Report::ResyncBegan { .. }));
            holds("resync begins", world.run_until(5000, began))?;
            world.run_ms(5);
            // The old blocks are being read for copies.
            for index in 0..4 {
                let _ = world.request(write_of(S, 1000 + u64::from(index), 0, (index, 0), 3));
            }
            heal_and_converge(&mut world)
        },
        &[Mutant::CopyWithoutLock],
    );
}

#[test]
fn flush_other_host() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            world.lose = Some(Box::new(|e| e.from == disk(B) && matches!(e.message, Message::Appended(_))));
            let flushed = ask(&mut world, flush_of(T), 300);
            holds("not before every member reported", flushed.is_none())?;
            world.lose = None;
            insist(&mut world, &flush_of(T)).map(drop)
        },
        &[Mutant::FlushPrimaryOnly],
    );
}

#[test]
fn flush_joiner() {
    certify(
        |mutant| {
            let mut world = serving(3, 2, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            holds("C joins", world.run_until(20_000, |w| in_sync(w, C)))?;
            world.run_ms(50);
            // C has what was written, and never tells that it synced it.
            world.lose = Some(Box::new(|e| {
                e.from == disk(C) && matches!(&e.message, Message::Appended(report) if report.durable == report.end)
            }));
            let written = world.request(write_of(S, 2, 0, (0, 0), 6));
            answer(&mut world, written, 100);
            let flushed = ask(&mut world, flush_of(S), 300);
            holds("the flush waits for C", flushed.is_none())
        },
        &[Mutant::FlushPrimaryOnly],
    );
}

#[test]
fn flush_lossy() {
    let mut world = serving(3, 3, None);
    for operation in 1..10 {
        put(&mut world, operation, (0, 0), operation).unwrap();
    }
    // B loses what it had not synced and is not levelled again: its "synced" covers less than was acknowledged.
    world.power_off(B);
    world.lose = Some(Box::new(|e| e.to == disk(B) && matches!(e.message, Message::Level { .. } | Message::Append(_))));
    world.start(B, false);
    world.run_ms(50);
    assert_eq!(ask(&mut world, flush_of(S), 500), None);
    world.lose = None;
    insist(&mut world, &flush_of(S)).unwrap();
    assert_eq!(value_at(&mut world, (0, 0)), Ok(9));
    heal_and_converge(&mut world).unwrap();
}

#[test]
fn flush_old_watermark() {
    let mut world = serving(3, 3, None);
    for operation in 1..20 {
        put(&mut world, operation, (0, 0), operation).unwrap();
    }
    for node in [A, B, C] {
        world.power_off(node);
    }
    for node in [A, B, C] {
        world.start(node, false);
    }
    // Whatever is durable in the new epoch, the answer names the later loss generation: EIO at the client.
    assert_eq!(insist(&mut world, &flush_of(S)), Ok(Reply::Flushed(LossGeneration(1))));
    heal_and_converge(&mut world).unwrap();
}

#[test]
fn the_longest_lossy_log_wins() {
    for longest in [A, B, C] {
        let mut world = serving(3, 3, None);
        for operation in 1..20 {
            put(&mut world, operation, (0, 0), operation).unwrap();
        }
        let store = &mut world.nodes.get_mut(&longest).unwrap().store;
        store.synced(store.record_count());
        for node in [A, B, C] {
            world.power_off(node);
        }
        for node in [A, B, C] {
            world.start(node, false);
        }
        assert_eq!(value_at(&mut world, (0, 0)), Ok(19), "{longest}");
        assert_eq!(world.meta.record.loss_generation, LossGeneration(1));
        heal_and_converge(&mut world).unwrap();
    }
}

#[test]
fn a_lossy_primary_that_cannot_take_over_the_longest_log_lets_its_member_lead() {
    let mut world = serving(3, 3, None);
    for operation in 1..20 {
        put(&mut world, operation, (0, 0), operation).unwrap();
    }
    for node in [B, C] {
        let store = &mut world.nodes.get_mut(&node).unwrap().store;
        store.synced(store.record_count());
    }
    // B's journal no longer reaches back to where A's ends.
    world.nodes.get_mut(&B).unwrap().store.trim();
    for node in [A, B, C] {
        world.power_off(node);
    }
    for node in [A, B, C] {
        world.start(node, false);
    }
    assert_eq!(value_at(&mut world, (0, 0)), Ok(19));
    assert_eq!(world.meta.record.primary, Some(disk(B)));
    heal_and_converge(&mut world).unwrap();
}

#[test]
fn last_lossless() {
    let mut world = serving(3, 3, None);
    put(&mut world, 1, (0, 0), 5).unwrap();
    put(&mut world, 2, (0, 0), 6).unwrap();
    world.isolate(C);
    for node in [A, B] {
        world.power_off(node);
        world.start(node, false);
    }
    world.run_ms(3000);
    assert!(in_sync(&world, C), "the only one that lost nothing is not removed");
    heal_and_converge(&mut world).unwrap();
    assert_eq!(world.meta.record.loss_generation, LossGeneration(0));
    assert_eq!(value_at(&mut world, (0, 0)), Ok(6));
}

#[test]
fn syncing_wins() {
    let mut world = serving(3, 3, None);
    stale_c(&mut world, 4).unwrap();
    world.feed(A, Event::ResyncRate { bytes_per_second: 1 });
    world.lose = Some(Box::new(|e| matches!(e.message, Message::ChunkHashed { .. })));
    world.start(C, true);
    assert!(world.run_until(3000, |w| state(w, C) == MemberState::Syncing));
    world.run_ms(200);
    // C has the longest log, with holes below it; A dies, B is lossy.
    put(&mut world, 600, (9, 0), 6).unwrap();
    world.power_off(B);
    world.crash(A);
    world.start(B, false);
    for _ in 0..400 {
        world.run_ms(10);
        let never = world.meta.record.primary != Some(disk(C));
        assert!(never, "a syncing member leads");
    }
    world.lose = None;
    world.start(A, true);
    heal_and_converge(&mut world).unwrap();
    assert_eq!(value_at(&mut world, (3, 0)), Ok(2), "what was flushed is there");
}

#[test]
fn min_dead_end() {
    let mut world = serving(3, 2, None);
    put(&mut world, 1, (0, 0), 5).unwrap();
    // B dies for good before C, the spare, is in.
    world.crash(B);
    world.meta.node_dead(B);
    world.broadcast_map();
    world.run_ms(50);
    assert_eq!(value_at(&mut world, (0, 0)), Ok(5), "reads go on");
    put(&mut world, 2, (0, 0), 6).unwrap();
    assert!(in_sync(&world, C) && !in_sync(&world, B), "C replaced B: {:?}", world.meta.record);
    assert_eq!(value_at(&mut world, (0, 0)), Ok(6));
}

#[test]
fn resync_deadlock() {
    let mut world = serving(3, 2, None);
    for index in 0..8 {
        put(&mut world, u64::from(index) + 1, (index, 0), 1).unwrap();
    }
    insist(&mut world, &flush_of(S)).unwrap();
    world.run_ms(200);
    for node in [A, B] {
        world.nodes.get_mut(&node).unwrap().store.trim();
    }
    world.read_us = 30_000;
    world.crash(B);
    // Reads overlap copies while nothing can be acknowledged.
    let mut answered = 0;
    for round in 0..100u32 {
        let got = ask(&mut world, read_of(T, (round % 8, 0)), 300);
        answered += u32::from(matches!(got, Some(Ok(_))));
    }
    assert!(answered > 90, "reads go on: {answered}");
    assert!(world.run_until(20_000, |w| in_sync(w, C)), "copies go on");
}

#[test]
fn move_with_stuck_write() {
    let mut world = serving(3, 3, None);
    put(&mut world, 1, (0, 0), 5).unwrap();
    // A reaches the leader but neither B nor C, and holds a write.
    world.partition(A, B);
    world.partition(A, C);
    let stuck = world.request(write_of(S, 2, 0, (0, 0), 6));
    world.run_ms(100);
    world.meta.begin_move(disk(B));
    world.broadcast_map();
    let got = answer(&mut world, stuck, 2000);
    assert!(matches!(got, Some(Err(_))), "not acknowledged by a primary that is moved: {got:?}");
    insist(&mut world, &write_of(S, 2, 0, (0, 0), 6)).unwrap();
    assert_eq!(value_at(&mut world, (0, 0)), Ok(6));
    heal_and_converge(&mut world).unwrap();
}

#[test]
fn enospc_split() {
    let mut world = serving(3, 3, None);
    put(&mut world, 1, (0, 0), 5).unwrap();
    for node in [B, C] {
        world.nodes.get_mut(&node).unwrap().store.credits = 3 * BLOCK_SIZE as u64;
    }
    // The next report tells the primary.
    put(&mut world, 2, (0, 0), 6).unwrap();
    let big = write_bytes(S, 3, 0, (1, 0), 4 * BLOCK_SIZE, 7);
    assert_eq!(ask(&mut world, big, 500), Some(Err(DataError::NoSpace)));
    let discard = ClientRequest::Discard(DiscardRequest {
        pg: PG,
        map_version: world.meta.version,
        origin: Origin { session: SessionId(S), operation: OperationId(4), low_water: OperationId(0) },
        chunk: chunk(0),
        offset_bytes: 0,
        length_bytes: BLOCK_SIZE as u32,
        generation: TruncateGeneration(0),
        ack: AckMode::Memory,
    });
    assert_eq!(ask(&mut world, discard, 500), Some(Ok(Reply::Done)), "freeing space is never refused");
    put(&mut world, 5, (0, 0), 8).unwrap();
}

/// Room that is back is found out by asking: a group in which nothing goes through hears of it in no other way.
#[test]
fn room_that_is_back_is_noticed_without_a_write() {
    let mut world = serving(3, 3, None);
    put(&mut world, 1, (0, 0), 5).unwrap();
    for node in [B, C] {
        world.nodes.get_mut(&node).unwrap().store.credits = 0;
    }
    // The next report tells the primary.
    put(&mut world, 2, (0, 0), 6).unwrap();
    assert_eq!(ask(&mut world, write_of(S, 3, 0, (0, 0), 7), 500), Some(Err(DataError::NoSpace)));
    for node in [B, C] {
        world.nodes.get_mut(&node).unwrap().store.credits = u64::MAX;
    }
    world.run_ms(1000);
    put(&mut world, 4, (0, 0), 8).unwrap();
    assert_eq!(value_at(&mut world, (0, 0)), Ok(8));
}

#[test]
fn repair_from_stale() {
    let mut world = serving(3, 3, None);
    put(&mut world, 1, (0, 0), 5).unwrap();
    put(&mut world, 2, (0, 0), 6).unwrap();
    world.nodes.get_mut(&A).unwrap().store.bad.insert((chunk(0), 0));
    assert_eq!(value_at(&mut world, (0, 0)), Ok(6));
    let repaired = |r: &(weft_types::DiskId, Report)| matches!(r.1, Report::Repaired { .. });
    assert!(world.reports.iter().any(repaired));
    // A syncing member is never asked, even when it is the only other one.
    let mut world = World::new(7, 3, 1, None);
    world.meta.record.min_in_sync = 1;
    world.lose = Some(Box::new(|e| matches!(e.message, Message::Dedupe { .. })));
    put(&mut world, 1, (0, 0), 5).unwrap();
    world.run_ms(2000);
    assert!(!in_sync(&world, B) && !in_sync(&world, C));
    world.nodes.get_mut(&A).unwrap().store.bad.insert((chunk(0), 0));
    assert_eq!(ask(&mut world, read_of(T, (0, 0)), 1000), Some(Err(DataError::Corrupt)));
}

#[test]
fn a_member_without_progress_is_removed_and_returns() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            world.partition(A, C);
            let token = world.request(write_of(S, 2, 0, (0, 0), 6));
            expect("never two of three in silence", answer(&mut world, token, 800), None)?;
            expect("then C is removed", answer(&mut world, token, 2000), Some(Ok(Reply::Written)))?;
            holds("C is out", !in_sync(&world, C))?;
            heal_and_converge(&mut world)
        },
        &[Mutant::AcknowledgeEarly],
    );
}

#[test]
fn two_writes_into_one_block_both_stay() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            world.read_us = 20_000;
            let tokens: Vec<_> = (0..4u32)
                .map(|n| world.request(write_bytes(S, 10 + u64::from(n), 0, (0, n * 1024), 1024, 20 + u64::from(n))))
                .collect();
            for token in tokens {
                expect("written", answer(&mut world, token, 1000), Some(Ok(Reply::Written)))?;
            }
            match insist(&mut world, &read_of(T, (0, 0)))? {
                Reply::Read(bytes) => {
                    let parts: Vec<u64> = bytes.chunks(1024).map(|p| u64::from(p[0])).collect();
                    expect("every part", parts, vec![20, 21, 22, 23])
                }
                other => Err(format!("{other:?}")),
            }
        },
        &[Mutant::MergeWithoutLock],
    );
}

#[test]
fn a_member_that_was_not_levelled_does_not_lead() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            for operation in 1..10 {
                put(&mut world, operation, (0, 0), operation)?;
            }
            // B loses what it had not synced, and hears of nothing.
            world.power_off(B);
            world.lose = Some(Box::new(|e| e.to == disk(B) && !matches!(e.message, Message::Prepare { .. })));
            world.start(B, false);
            world.crash(A);
            world.meta.node_dead(A);
            world.broadcast_map();
            let led = |w: &World| {
                w.meta.record.primary == Some(disk(C)) && w.meta.record.levelled_epoch == w.meta.record.epoch
            };
            holds("C leads", world.run_until(4000, led))?;
            world.crash(C);
            world.meta.node_dead(C);
            world.lose = None;
            world.broadcast_map();
            world.run_ms(500);
            holds("B does not lead", world.meta.record.primary != Some(disk(B)))?;
            world.start(A, true);
            world.start(C, true);
            heal_and_converge(&mut world)?;
            expect("the last write", value_at(&mut world, (0, 0))?, 9)
        },
        &[Mutant::SkipPeering],
    );
}

#[test]
fn what_a_behind_member_lacks_is_not_read_while_it_is_being_recognised() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            // B promises and is not levelled: it is behind.
            world.lose = Some(Box::new(|e| e.to == disk(B) && !matches!(e.message, Message::Prepare { .. })));
            world.meta.begin_move(disk(C));
            world.broadcast_map();
            let behind = |w: &World| matches!(state(w, B), MemberState::InSync { behind: true, .. });
            holds("B is behind", world.run_until(6000, behind))?;
            world.run_ms(5);
            // It is levelled and recognised, and C does not hear of it.
            world.hold_maps = true;
            world.lose = None;
            holds("B is recognised", world.run_until(2000, |w| state(w, B) == state(w, A)))?;
            world.partition(B, C);
            let _ = world.request_to(C, write_of(S, 2, 0, (0, 0), 6));
            world.run_ms(20);
            let early = world.request_to(C, read_of(T, (0, 0)));
            holds("the read waits", answer(&mut world, early, 300).is_none())
        },
        &[Mutant::BehindAsLevel],
    );
}

#[test]
fn grow_shrink_grow() {
    let mut world = serving(3, 3, None);
    put(&mut world, 1, (0, 0), 7).unwrap();
    put(&mut world, 2, (0, 4096), 7).unwrap();
    put(&mut world, 3, (1, 0), 7).unwrap();
    let cut = |size_bytes, generation| {
        ClientRequest::Truncate(TruncateRequest {
            pg: PG,
            map_version: weft_types::MapVersion(0),
            origin: None,
            object: ObjectId(1),
            size_bytes,
            generation: TruncateGeneration(generation),
        })
    };
    insist(&mut world, &cut(1024, 1)).unwrap();
    let late = ask(&mut world, write_of(S, 4, 0, (0, 4096), 8), 500);
    let current = TruncateGeneration(1);
    assert_eq!(late, Some(Err(DataError::StaleGeneration { current })), "made before the cut");
    // The same cut again, and an older one, change nothing.
    insist(&mut world, &cut(1024, 1)).unwrap();
    for at in [(0, 4096), (1, 0)] {
        assert_eq!(value_at(&mut world, at), Ok(0));
    }
    match insist(&mut world, &read_of(T, (0, 0))).unwrap() {
        Reply::Read(bytes) => {
            assert!(bytes[..1024].chunks(8).all(|c| c == 7u64.to_le_bytes()));
            assert!(bytes[1024..].iter().all(|b| *b == 0), "the rest of the block is zeroed");
        }
        other => panic!("{other:?}"),
    }
    heal_and_converge(&mut world).unwrap();
}

#[test]
fn a_write_of_a_truncation_that_has_not_arrived_waits_for_it() {
    let mut world = serving(3, 3, None);
    put(&mut world, 1, (0, 0), 7).unwrap();
    let mut ahead = write_of(S, 2, 0, (0, 4096), 9);
    if let ClientRequest::Write { request, .. } = &mut ahead {
        request.generation = TruncateGeneration(1);
    }
    let token = world.request(ahead);
    assert_eq!(answer(&mut world, token, 200), None);
    let cut = ClientRequest::Truncate(TruncateRequest {
        pg: PG,
        map_version: weft_types::MapVersion(0),
        origin: None,
        object: ObjectId(1),
        size_bytes: 0,
        generation: TruncateGeneration(1),
    });
    insist(&mut world, &cut).unwrap();
    assert_eq!(answer(&mut world, token, 200), Some(Ok(Reply::Written)));
    assert_eq!(value_at(&mut world, (0, 0)), Ok(0));
    assert_eq!(value_at(&mut world, (0, 4096)), Ok(9));
}

#[test]
fn damaged_bytes_are_refused_at_both_ends() {
    let mut world = serving(3, 3, None);
    let mut damaged = write_of(S, 1, 0, (0, 0), 5);
    if let ClientRequest::Write { request, .. } = &mut damaged {
        request.hashes = vec![weft_types::BlockHash(1)];
    }
    assert_eq!(ask(&mut world, damaged, 500), Some(Err(DataError::Malformed)));
    // On the way to a backup: refused there, sent again from the primary's journal.
    world.keep =
        Some(Box::new(|e| between(A, B, e) && matches!(&e.message, Message::Append(a) if !a.entries.is_empty())));
    let token = world.request(write_of(S, 2, 0, (0, 0), 6));
    world.run_ms(5);
    world.keep = None;
    for mut envelope in std::mem::take(&mut world.kept) {
        if let Message::Append(append) = &mut envelope.message {
            for entry in &mut append.entries {
                let entry = std::sync::Arc::make_mut(entry);
                if let Effect::Write { .. } = entry.header.effect {
                    entry.data = filled(99, BLOCK_SIZE);
                }
            }
        }
        world.feed(B, Event::Peer(envelope));
    }
    assert_eq!(answer(&mut world, token, 500), Some(Ok(Reply::Written)));
    assert!(world.reports.iter().any(|(at, r)| *at == disk(B) && matches!(r, Report::DamagedOnTheWay { .. })));
    assert_eq!(value_at(&mut world, (0, 0)), Ok(6));
    heal_and_converge(&mut world).unwrap();
}

#[test]
fn a_write_that_asks_for_the_disk_waits_for_every_disk() {
    let mut world = serving(3, 3, None);
    world.lose = Some(Box::new(|e| {
        e.from == disk(B) && matches!(&e.message, Message::Appended(report) if report.durable == report.end)
    }));
    let mut request = write_of(S, 1, 0, (0, 0), 5);
    if let ClientRequest::Write { request, .. } = &mut request {
        request.ack = AckMode::Disk;
    }
    let token = world.request(request);
    assert_eq!(answer(&mut world, token, 200), None);
    world.lose = None;
    assert_eq!(answer(&mut world, token, 2000), Some(Ok(Reply::Written)));
}
