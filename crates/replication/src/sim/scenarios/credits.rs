//! design 5.10: space.

use super::*;

#[test]
fn enospc_split() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            for node in [B, C] {
                world.nodes.get_mut(&node).unwrap().store.credits = 3 * BLOCK_SIZE as u64;
            }
            // The next report tells the primary.
            put(&mut world, 2, (0, 0), 6)?;
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
            put(&mut world, 5, (0, 0), 8)
        },
        &[Mutant::AdmitWithoutCredits],
    );
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
    assert_eq!(ask(&mut world, write_of(S, 3, 0, (5, 0), 7), 500), Some(Err(DataError::NoSpace)));
    for node in [B, C] {
        world.nodes.get_mut(&node).unwrap().store.credits = u64::MAX;
    }
    world.run_ms(1000);
    put(&mut world, 4, (5, 0), 8).unwrap();
    assert_eq!(value_at(&mut world, (5, 0)), Ok(8));
}

/// Who is told that there is no room goes on (4.5). A copy of what it asked for comes when there is room again.
#[test]
fn a_late_copy_of_a_refused_write_is_refused_too() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            let credits = |world: &mut World, bytes| {
                for node in [B, C] {
                    world.nodes.get_mut(&node).unwrap().store.credits = bytes;
                }
            };
            credits(&mut world, 0);
            // The next report tells the primary.
            put(&mut world, 2, (0, 0), 6)?;
            let refused = write_of(S, 3, 0, (5, 0), 7);
            assert_eq!(ask(&mut world, refused.clone(), 500), Some(Err(DataError::NoSpace)));
            credits(&mut world, u64::MAX);
            world.run_ms(1000);
            put(&mut world, 4, (5, 0), 8)?;
            holds("the copy is refused", ask(&mut world, refused, 500) == Some(Err(DataError::NoSpace)))?;
            holds("what came after it stays", value_at(&mut world, (5, 0)) == Ok(8))?;
            put(&mut world, 5, (0, 0), 9)
        },
        &[Mutant::ForgetRefusals],
    );
}

/// Moves the primary there, as planned.
fn lead(world: &mut World, to: NodeId) -> Verdict {
    world.meta.begin_move(disk(to));
    let serves = |w: &World| {
        let record = &w.meta.record;
        record.primary == Some(disk(to)) && record.levelled_epoch == record.epoch
    };
    holds(&format!("{to} leads"), world.run_until(10_000, serves))?;
    world.run_ms(50);
    Ok(())
}

/// Another member refused it, and the first leads again when the copy arrives that was held back on its way there (4.5).
#[test]
fn a_late_copy_of_a_write_that_another_primary_refused_is_not_carried_out() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            let mut late = write_of(S, 3, 0, (5, 0), 7);
            let ClientRequest::Write { request, .. } = &mut late else { return Err("a write".to_owned()) };
            request.map_version = world.meta.version;
            lead(&mut world, B)?;
            let credits = |world: &mut World, bytes| {
                for node in [A, C] {
                    world.nodes.get_mut(&node).unwrap().store.credits = bytes;
                }
            };
            credits(&mut world, 0);
            // The next report tells the primary.
            put(&mut world, 2, (0, 0), 6)?;
            let retry = ask(&mut world, write_of(S, 3, 0, (5, 0), 7), 500);
            holds("the retry is refused", retry == Some(Err(DataError::NoSpace)))?;
            credits(&mut world, u64::MAX);
            world.run_ms(1000);
            put(&mut world, 4, (5, 0), 8)?;
            lead(&mut world, A)?;
            let token = world.request_to(A, late);
            let told = answer(&mut world, token, 500);
            holds(&format!("the copy is refused: {told:?}"), matches!(told, Some(Err(DataError::NotPrimary { .. }))))?;
            holds("what came after it stays", value_at(&mut world, (5, 0)) == Ok(8))?;
            put(&mut world, 5, (0, 0), 9)
        },
        &[Mutant::TakeFromEarlierEpoch],
    );
}

/// The disk of C is full, and overwriting goes on, which needs no room: its journal fills up, and no checkpoint frees any of it.
fn fill_journal_of_c(world: &mut World) -> Verdict {
    put(world, 1, (0, 0), 1)?;
    world.run_ms(200);
    let store = &mut world.nodes.get_mut(&C).unwrap().store;
    store.credits = 0;
    store.journal_bytes = Some(8 * BLOCK_SIZE);
    Ok(())
}

#[test]
fn a_member_without_room_in_journal_and_disk_declines_and_returns() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            fill_journal_of_c(&mut world)?;
            for operation in 2..30 {
                put(&mut world, operation, (0, 0), operation)?;
            }
            holds("C has left", !in_sync(&world, C))?;
            world.nodes.get_mut(&C).unwrap().store.credits = u64::MAX;
            heal_and_converge(&mut world)?;
            expect("what is left", value_at(&mut world, (0, 0))?, 29)
        },
        &[Mutant::TakeIntoFullJournal],
    );
}

/// Decision 0018. The journal of C fills up, because its checkpoints do not get on. Writes wait for that, so what is under way
/// finds room, and nobody is removed for it.
#[test]
fn a_member_short_of_journal_holds_up_writers_and_stays() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 1)?;
            world.run_ms(200);
            let store = |world: &mut World, hang| {
                let store = &mut world.nodes.get_mut(&C).unwrap().store;
                store.journal_bytes = Some(20 * BLOCK_SIZE);
                store.checkpoints_hang = hang;
            };
            store(&mut world, true);
            let mut waiting = None;
            for operation in 2..40 {
                let token = world.request(write_of(S, operation, 0, (0, 0), operation));
                match answer(&mut world, token, 500) {
                    Some(Ok(Reply::Written)) => {}
                    None => {
                        waiting = Some((token, operation));
                        break;
                    }
                    other => return Err(format!("write {operation}: {other:?}")),
                }
            }
            let (token, operation) = waiting.ok_or("a write waits")?;
            world.run_ms(1200);
            holds("C stays", in_sync(&world, C))?;
            store(&mut world, false);
            expect("the write that waited", answer(&mut world, token, 200), Some(Ok(Reply::Written)))?;
            expect("what is left", value_at(&mut world, (0, 0))?, operation)
        },
        &[Mutant::WriteIntoFullJournals],
    );
}

/// It cannot leave, so writes wait for it, and go on by themselves.
#[test]
fn a_member_that_declined_and_cannot_leave_is_sent_the_entries_again() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            world.crash(B);
            holds("B is removed", world.run_until(6000, |w| !in_sync(w, B)))?;
            fill_journal_of_c(&mut world)?;
            let mut waiting = None;
            for operation in 2..30 {
                let token = world.request(write_of(S, operation, 0, (0, 0), operation));
                if answer(&mut world, token, 500).is_none() {
                    waiting = Some((token, operation));
                    break;
                }
            }
            let (token, operation) = waiting.ok_or("a write waits")?;
            world.run_ms(3000);
            holds("C stays", in_sync(&world, C))?;
            world.nodes.get_mut(&C).unwrap().store.credits = u64::MAX;
            let told = answer(&mut world, token, 1000);
            expect("the write that waited", told, Some(Ok(Reply::Written)))?;
            expect("what is left", value_at(&mut world, (0, 0))?, operation)?;
            world.start(B, true);
            heal_and_converge(&mut world)
        },
        &[Mutant::TakeIntoFullJournal],
    );
}
