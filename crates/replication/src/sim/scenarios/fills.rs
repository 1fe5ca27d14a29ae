//! design 5.10, 7: what was reserved (decision 0020).

use super::*;

const BLOCK: u32 = BLOCK_SIZE as u32;

/// Blocks of a chunk: the first and how many.
fn fill_of(operation: u64, chunk_index: u32, blocks: (u32, u32)) -> ClientRequest {
    fill_bytes(operation, chunk_index, (blocks.0 * BLOCK, blocks.1 * BLOCK), PresentBlocks::Keep)
}

/// The same over what is there too.
fn zeros_of(operation: u64, chunk_index: u32, blocks: (u32, u32)) -> ClientRequest {
    fill_bytes(operation, chunk_index, (blocks.0 * BLOCK, blocks.1 * BLOCK), PresentBlocks::Zero)
}

fn fill_bytes(operation: u64, chunk_index: u32, bytes: (u32, u32), present: PresentBlocks) -> ClientRequest {
    ClientRequest::Fill(FillRequest {
        pg: PG,
        map_version: weft_types::MapVersion(0),
        origin: Origin { session: SessionId(S), operation: OperationId(operation), low_water: OperationId(0) },
        chunk: chunk(chunk_index),
        offset_bytes: bytes.0,
        length_bytes: bytes.1,
        generation: TruncateGeneration(0),
        ack: AckMode::Memory,
        present,
    })
}

fn discard_of(operation: u64, chunk_index: u32, blocks: (u32, u32)) -> ClientRequest {
    ClientRequest::Discard(DiscardRequest {
        pg: PG,
        map_version: weft_types::MapVersion(0),
        origin: Origin { session: SessionId(S), operation: OperationId(operation), low_water: OperationId(0) },
        chunk: chunk(chunk_index),
        offset_bytes: blocks.0 * BLOCK,
        length_bytes: blocks.1 * BLOCK,
        generation: TruncateGeneration(0),
        ack: AckMode::Memory,
    })
}

fn presence(world: &mut World, chunk_index: u32) -> Result<Vec<(u16, u16)>, String> {
    let request = ClientRequest::Presence { map_version: weft_types::MapVersion(0), chunk: chunk(chunk_index) };
    match insist(world, &request)? {
        Reply::Presence(runs) => Ok(runs.into_iter().map(|(first, count)| (first.0, count)).collect()),
        other => Err(format!("{other:?}")),
    }
}

/// Nobody has room, and the primary has been told so.
fn fill_up(world: &mut World, operation: u64) -> Verdict {
    for node in [A, B, C] {
        world.nodes.get_mut(&node).unwrap().store.credits = 0;
    }
    // Over what is there already.
    put(world, operation, (0, 0), operation)
}

#[test]
fn a_write_into_what_was_reserved_needs_no_room() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            insist(&mut world, &fill_of(2, 0, (4, 5)))?;
            expect("what is there", presence(&mut world, 0)?, vec![(0, 1), (4, 5)])?;
            expect("what was reserved reads as", value_at(&mut world, (0, 4 * BLOCK))?, 0)?;
            fill_up(&mut world, 3)?;
            let elsewhere = [write_of(S, 4, 0, (0, BLOCK), 7), fill_of(5, 1, (0, 1))];
            for request in elsewhere {
                expect("elsewhere", ask(&mut world, request, 500), Some(Err(DataError::NoSpace)))?;
            }
            let whole = write_of(S, 6, 0, (0, 4 * BLOCK), 8);
            expect("a whole block", ask(&mut world, whole, 500), Some(Ok(Reply::Written)))?;
            let half = write_bytes(S, 7, 0, (0, 5 * BLOCK), BLOCK_SIZE / 2, 9);
            expect("half a block", ask(&mut world, half, 500), Some(Ok(Reply::Written)))?;
            // One block of it lies outside.
            let past = write_bytes(S, 8, 0, (0, 8 * BLOCK), 2 * BLOCK_SIZE, 9);
            expect("in part outside", ask(&mut world, past, 500), Some(Err(DataError::NoSpace)))?;
            // Again what is reserved already, on a full disk.
            expect("the same again", ask(&mut world, fill_of(9, 0, (4, 5)), 500), Some(Ok(Reply::Done)))?;
            heal_and_converge(&mut world)?;
            world.crash(A);
            insist(&mut world, &write_of(S, 10, 0, (0, 6 * BLOCK), 10))?;
            expect("after a failover", value_at(&mut world, (0, 6 * BLOCK))?, 10)?;
            expect("what was written before", value_at(&mut world, (0, 4 * BLOCK))?, 8)
        },
        &[Mutant::ReservedNeedsRoom],
    );
}

#[test]
fn zeros_over_what_is_there_are_read_and_keep_its_room() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            for block in 0..4 {
                put(&mut world, 1 + u64::from(block), (0, block * BLOCK), 5)?;
            }
            // Two blocks of three are there; then all of them, and no room is left.
            insist(&mut world, &zeros_of(10, 0, (2, 3)))?;
            expect("what is there", presence(&mut world, 0)?, vec![(0, 5)])?;
            fill_up(&mut world, 11)?;
            expect("zeros", ask(&mut world, zeros_of(12, 0, (1, 2)), 500), Some(Ok(Reply::Done)))?;
            expect("elsewhere", ask(&mut world, zeros_of(13, 0, (4, 2)), 500), Some(Err(DataError::NoSpace)))?;
            let read = |world: &mut World| (0..5).map(|block| value_at(world, (0, block * BLOCK))).collect();
            expect("what is read", read(&mut world), Ok::<Vec<u64>, String>(vec![11, 0, 0, 0, 0]))?;
            expect("what is there", presence(&mut world, 0)?, vec![(0, 5)])?;
            for block in 1..5 {
                let write = write_of(S, 20 + u64::from(block), 0, (0, block * BLOCK), 8);
                expect("a write into it", ask(&mut world, write, 500), Some(Ok(Reply::Written)))?;
            }
            insist(&mut world, &zeros_of(30, 0, (3, 1)))?;
            heal_and_converge(&mut world)?;
            world.crash(A);
            expect("after a failover", read(&mut world), Ok(vec![11, 8, 8, 0, 8]))
        },
        &[Mutant::ZeroIsNothing],
    );
}

/// A fill is rounded outwards, and zeros there would destroy what lies beside the range.
#[test]
fn zeros_for_a_part_of_a_block_are_refused() {
    let mut world = serving(3, 3, None);
    put(&mut world, 1, (0, 0), 5).unwrap();
    for (operation, bytes) in [(2, (1, BLOCK)), (3, (0, BLOCK - 1)), (4, (BLOCK / 2, BLOCK / 2)), (5, (0, 0))] {
        let zeros = fill_bytes(operation, 0, bytes, PresentBlocks::Zero);
        assert_eq!(ask(&mut world, zeros, 500), Some(Err(DataError::Malformed)), "{bytes:?}");
    }
    assert_eq!(value_at(&mut world, (0, 0)), Ok(5));
    insist(&mut world, &fill_bytes(6, 0, (1, BLOCK), PresentBlocks::Keep)).unwrap();
    assert_eq!(value_at(&mut world, (0, 0)), Ok(5));
}

#[test]
fn a_read_waits_for_zeros_that_are_not_on_every_member() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            world.partition(A, B);
            world.partition(A, C);
            let _ = world.request_to(A, zeros_of(2, 0, (0, 1)));
            world.run_ms(5);
            let early = world.request_to(A, read_of(T, (0, 0)));
            let seen = answer(&mut world, early, 500);
            holds("the read waits", !matches!(seen, Some(Ok(_))))
        },
        &[Mutant::ReadUncommitted],
    );
}

/// Execution: half a block is written while it becomes zeros, in both orders.
#[test]
fn zeros_and_a_write_into_a_part_of_them_come_one_after_the_other() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            put(&mut world, 2, (1, 0), 5)?;
            world.read_us = 20_000;
            let half = |operation, chunk_index| write_bytes(S, operation, 0, (chunk_index, 0), BLOCK_SIZE / 2, 7);
            let requests = [half(3, 0), zeros_of(4, 0, (0, 1)), zeros_of(5, 1, (0, 1)), half(6, 1)];
            let tokens = requests.map(|request| world.request(request));
            for token in tokens {
                holds("answered", matches!(answer(&mut world, token, 1000), Some(Ok(_))))?;
            }
            for chunk_index in 0..2 {
                let halves = [value_at(&mut world, (chunk_index, 0))?, second_half(&mut world, chunk_index)?];
                holds(&format!("{halves:?}"), halves == [0, 0] || halves == [7, 0])?;
            }
            heal_and_converge(&mut world)
        },
        &[Mutant::MergeWithoutLock],
    );
}

fn second_half(world: &mut World, chunk_index: u32) -> Result<u64, String> {
    match insist(world, &read_of(T, (chunk_index, 0)))? {
        Reply::Read(bytes) => Ok(u64::from(bytes[BLOCK_SIZE / 2])),
        other => Err(format!("{other:?}")),
    }
}

#[test]
fn a_fill_needs_room_on_every_member() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            world.nodes.get_mut(&C).unwrap().store.credits = 10 * BLOCK_SIZE as u64;
            put(&mut world, 2, (0, 0), 6)?;
            let refused = ask(&mut world, fill_of(3, 0, (0, 4)), 500);
            expect("three blocks and a new file", refused, Some(Err(DataError::NoSpace)))?;
            expect("what is there", presence(&mut world, 0)?, vec![(0, 1)])?;
            world.nodes.get_mut(&C).unwrap().store.credits = 12 * BLOCK_SIZE as u64;
            world.run_ms(500);
            insist(&mut world, &fill_of(4, 0, (0, 4)))?;
            expect("what is there", presence(&mut world, 0)?, vec![(0, 4)])?;
            heal_and_converge(&mut world)
        },
        &[Mutant::FillOnOwnCredits, Mutant::AdmitWithoutCredits],
    );
}

#[test]
fn a_fill_that_is_asked_for_again_is_carried_out_once() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            let lost_answer = fill_of(7, 0, (2, 4));
            insist(&mut world, &lost_answer)?;
            insist(&mut world, &discard_of(8, 0, (2, 3)))?;
            expect("the retry", insist(&mut world, &lost_answer)?, Reply::Done)?;
            expect("what is there", presence(&mut world, 0)?, vec![(5, 1)])?;
            // Also by whoever leads next.
            world.crash(A);
            expect("the retry", insist(&mut world, &lost_answer)?, Reply::Done)?;
            expect("what is there", presence(&mut world, 0)?, vec![(5, 1)])
        },
        &[Mutant::NoDedupe],
    );
}

#[test]
fn zeros_that_are_asked_for_again_do_not_come_over_what_was_written_since() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            let lost_answer = zeros_of(7, 0, (0, 1));
            insist(&mut world, &lost_answer)?;
            put(&mut world, 8, (0, 0), 6)?;
            expect("the retry", insist(&mut world, &lost_answer)?, Reply::Done)?;
            expect("what was written since", value_at(&mut world, (0, 0))?, 6)
        },
        &[Mutant::NoDedupe],
    );
}

/// A leads, has sequenced the fill, and dies before anybody has it all.
#[test]
fn a_fill_in_the_middle_of_a_failover_is_done_by_the_next_primary() {
    let mut world = serving(3, 3, None);
    put(&mut world, 1, (0, 0), 5).unwrap();
    world.partition(A, C);
    let cut_short = fill_of(2, 0, (3, 9));
    assert_eq!(ask(&mut world, cut_short.clone(), 20), None, "answered although C has not got it");
    world.crash(A);
    world.heal();
    insist(&mut world, &cut_short).unwrap();
    assert_eq!(presence(&mut world, 0), Ok(vec![(0, 1), (3, 9)]));
    world.start(A, true);
    heal_and_converge(&mut world).unwrap();
}

/// Execution: a discard and a write into the same blocks come at once. What the store shows is the time before the discard.
#[test]
fn a_write_after_a_discard_in_the_same_batch_needs_room_again() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            insist(&mut world, &fill_of(2, 0, (4, 4)))?;
            fill_up(&mut world, 3)?;
            let event = |token, request| {
                let request = world.as_sent_to(A, request);
                Event::Request { token: RequestToken(token), request }
            };
            let both = vec![event(9001, discard_of(4, 0, (4, 4))), event(9002, write_of(S, 5, 0, (0, 5 * BLOCK), 7))];
            world.feed_all(A, both);
            world.run_ms(500);
            expect("the discard", world.replies.remove(&RequestToken(9001)), Some(Ok(Reply::Done)))?;
            let write = world.replies.remove(&RequestToken(9002));
            expect("the write", write, Some(Err(DataError::NoSpace)))
        },
        &[Mutant::PresenceBeforeBatch],
    );
}

/// Execution: C comes back with a disk that is nearly full. Fills cost nothing to send, so the stream alone would not hold
/// them back. A member that has no room is given up; the reservation of the others does not wait for it.
#[test]
fn a_syncing_member_is_sent_no_more_fills_than_it_has_room_for() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            world.crash(C);
            holds("C is removed", world.run_until(6000, |w| !in_sync(w, C)))?;
            insist(&mut world, &fill_of(2, 0, (0, 16)))?;
            let most = 8;
            world.nodes.get_mut(&C).unwrap().store.capacity_blocks = Some(most);
            world.start(C, true);
            world.run_ms(500);
            for operation in 3..6 {
                let filled = ask(&mut world, fill_of(operation, operation as u32, (0, 16)), 500);
                expect("a fill meanwhile", filled, Some(Ok(Reply::Done)))?;
            }
            world.run_ms(12_000);
            let present = world.nodes[&C].store.present_blocks();
            holds(&format!("C took {present} blocks, of {most}"), present <= most)?;
            holds("C is not in sync", !in_sync(&world, C))?;
            world.nodes.get_mut(&C).unwrap().store.capacity_blocks = None;
            heal_and_converge(&mut world)
        },
        &[Mutant::FillSentBlindly],
    );
}

/// Execution: all of it is there at the primary, so the zeros take no room; C, which has little, lacks it still, because what
/// is copied to it is slow to be read.
#[test]
fn a_syncing_member_is_sent_no_more_zeros_than_it_has_room_for() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            world.crash(C);
            holds("C is removed", world.run_until(6000, |w| !in_sync(w, C)))?;
            for operation in 2..42 {
                insist(&mut world, &fill_of(operation, operation as u32, (0, 16)))?;
            }
            insist(&mut world, &flush_of(S))?;
            world.run_ms(300);
            for node in [A, B] {
                world.nodes.get_mut(&node).unwrap().store.trim();
            }
            let most = 8;
            world.nodes.get_mut(&C).unwrap().store.capacity_blocks = Some(most);
            let usual_us = std::mem::replace(&mut world.read_us, 1_000_000_000);
            world.start(C, true);
            world.run_ms(500);
            // Chunks that are being copied are locked; the last ones are not yet.
            for operation in 42..46 {
                let zeroed = ask(&mut world, zeros_of(operation, operation as u32 - 4, (0, 16)), 500);
                expect("zeros meanwhile", zeroed, Some(Ok(Reply::Done)))?;
            }
            world.run_ms(100);
            let present = world.nodes[&C].store.present_blocks();
            holds(&format!("C took {present} blocks, of {most}"), present <= most)?;
            holds("C is not in sync", !in_sync(&world, C))?;
            // Whoever waits for the slow reads ends with its process.
            world.read_us = usual_us;
            world.crash(A);
            world.start(A, true);
            world.nodes.get_mut(&C).unwrap().store.capacity_blocks = None;
            heal_and_converge(&mut world)
        },
        &[Mutant::FillSentBlindly],
    );
}

/// C comes back with what was there before the zeros, and no journal tells of them.
#[test]
fn zeros_are_there_after_a_resync() {
    let mut world = serving(3, 3, None);
    stale_c(&mut world, 2).unwrap();
    insist(&mut world, &zeros_of(501, 0, (0, 4))).unwrap();
    insist(&mut world, &flush_of(S)).unwrap();
    world.run_ms(300);
    for node in [A, B] {
        world.nodes.get_mut(&node).unwrap().store.trim();
    }
    world.start(C, true);
    heal_and_converge(&mut world).unwrap();
    world.meta.begin_move(disk(C));
    world.broadcast_map();
    assert!(world.run_until(5000, |w| w.meta.record.primary == Some(disk(C))));
    assert_eq!(presence(&mut world, 0), Ok(vec![(0, 4)]));
    assert_eq!(value_at(&mut world, (0, 0)), Ok(0));
    assert_eq!(value_at(&mut world, (1, 0)), Ok(2));
}

#[test]
fn what_was_reserved_stays_reserved_after_a_resync() {
    let mut world = serving(3, 3, None);
    stale_c(&mut world, 2).unwrap();
    insist(&mut world, &fill_of(501, 0, (8, 4))).unwrap();
    insist(&mut world, &fill_of(502, 6, (0, 16))).unwrap();
    insist(&mut world, &flush_of(S)).unwrap();
    world.run_ms(300);
    for node in [A, B] {
        world.nodes.get_mut(&node).unwrap().store.trim();
    }
    world.start(C, true);
    heal_and_converge(&mut world).unwrap();
    world.meta.begin_move(disk(C));
    world.broadcast_map();
    assert!(world.run_until(5000, |w| w.meta.record.primary == Some(disk(C))));
    assert_eq!(presence(&mut world, 6), Ok(vec![(0, 16)]));
    fill_up(&mut world, 503).unwrap();
    assert_eq!(ask(&mut world, write_of(S, 504, 0, (6, 15 * BLOCK), 7), 500), Some(Ok(Reply::Written)));
    assert_eq!(ask(&mut world, write_of(S, 505, 0, (0, 11 * BLOCK), 7), 500), Some(Ok(Reply::Written)));
    assert_eq!(ask(&mut world, write_of(S, 506, 0, (7, 0), 7), 500), Some(Err(DataError::NoSpace)));
}
