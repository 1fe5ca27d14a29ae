//! design 5.3 and 4.3: set changes, and primaries that move.

use super::*;
use weft_types::error::NotServing;

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
fn min_dead_end() {
    certify(
        |mutant| {
            let mut world = super::resync::c_outside(mutant);
            put(&mut world, 1, (0, 0), 5)?;
            insist(&mut world, &flush_of(S))?;
            world.run_ms(200);
            for node in [A, B] {
                world.nodes.get_mut(&node).unwrap().store.trim();
            }
            // B dies for good before C, the spare, is in.
            holds("C is not in yet", !in_sync(&world, C))?;
            world.crash(B);
            world.meta.node_dead(B);
            world.broadcast_map();
            world.lose = None;
            let stuck = world.request(write_of(S, 2, 0, (0, 0), 6));
            world.run_ms(50);
            expect("reads of other blocks go on", value_at(&mut world, (1, 0))?, 0)?;
            expect("writes wait", answer(&mut world, stuck, 100), None)?;
            put(&mut world, 2, (0, 0), 6)?;
            holds(&format!("C replaced B: {:?}", world.meta.record), in_sync(&world, C) && !in_sync(&world, B))?;
            expect("the value", value_at(&mut world, (0, 0))?, 6)
        },
        &[Mutant::CopyAwaitsWrites],
    );
}

#[test]
fn move_with_stuck_write() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            // A reaches the leader but neither B nor C, and holds a write.
            world.partition(A, B);
            world.partition(A, C);
            let stuck = world.request(write_of(S, 2, 0, (0, 0), 6));
            world.run_ms(100);
            world.meta.begin_move(disk(B));
            world.broadcast_map();
            // At once: A's word that it has the map is what the move waits for, and the write may wait for ever.
            let got = answer(&mut world, stuck, 10);
            let moving = Err(DataError::NotServing { reason: NotServing::Moving });
            expect("the write that is stuck", got, Some(moving.clone()))?;
            expect("B does not lead yet", world.meta.record.primary, Some(disk(A)))?;
            let late = world.request_to(A, read_of(T, (1, 0)));
            expect("A answers nothing more", answer(&mut world, late, 10), Some(moving))?;
            insist(&mut world, &write_of(S, 2, 0, (0, 0), 6))?;
            expect("the value", value_at(&mut world, (0, 0))?, 6)?;
            heal_and_converge(&mut world)
        },
        &[Mutant::MoveAwaitsWrites, Mutant::AnswerWhileMoved],
    );
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

/// design 5.3: lossy members do not count towards the minimum, however well they keep up.
#[test]
fn writes_wait_while_too_few_members_are_level() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            world.crash(C);
            holds("C leaves", world.run_until(6000, |w| !in_sync(w, C)))?;
            // B is lossy. It is levelled, and nobody hears of that.
            world.lose_changes = true;
            world.power_off(B);
            world.start(B, false);
            world.run_ms(300);
            let token = world.request(write_of(S, 2, 0, (0, 0), 6));
            expect("the write waits", answer(&mut world, token, 500), None)?;
            expect("reads go on", value_at(&mut world, (0, 0))?, 5)?;
            world.lose_changes = false;
            expect("then it is done", answer(&mut world, token, 2000), Some(Ok(Reply::Written)))
        },
        &[Mutant::NoMinimum],
    );
}

/// A report that its sender had no room for is lost although the connection holds.
#[test]
fn a_member_that_says_nothing_is_asked_where_it_stands() {
    let mut world = serving(3, 3, None);
    put(&mut world, 1, (0, 0), 5).unwrap();
    world.run_ms(1000);
    let lost = std::cell::Cell::new(false);
    world.lose =
        Some(Box::new(move |e| between(C, A, e) && matches!(&e.message, Message::Appended(_)) && !lost.replace(true)));
    let told = ask(&mut world, write_of(S, 2, 0, (0, 0), 6), 500);
    assert_eq!(told, Some(Ok(Reply::Written)));
    assert!(in_sync(&world, C));
}
