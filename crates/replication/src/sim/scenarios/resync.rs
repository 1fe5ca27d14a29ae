//! design 5.7: a replica that returns.

use super::*;
use crate::StoreView;
use crate::sim::CHUNK_BLOCKS;

/// A and B serve; C is syncing and is not let in.
pub(super) fn c_outside(mutant: Option<Mutant>) -> World {
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
        &[Mutant::OneSidedDelta, Mutant::StartAtTheirEnd],
    );
}

fn a_chunk_deleted_while_c_was_away(mutant: Option<Mutant>, forget: bool) -> Verdict {
    let mut world = serving(3, 3, mutant);
    stale_c(&mut world, 3)?;
    let delete = ClientRequest::DeleteObject { map_version: world.meta.version, origin: None, object: ObjectId(1) };
    insist(&mut world, &delete)?;
    put(&mut world, 500, (1, 4096), 9)?;
    if forget {
        world.nodes.values_mut().for_each(|n| n.store.forget_removals());
    }
    insist(&mut world, &flush_of(S))?;
    world.run_ms(300);
    for node in [A, B] {
        world.nodes.get_mut(&node).unwrap().store.trim();
    }
    world.start(C, true);
    heal_and_converge(&mut world)?;
    expect("chunks", world.nodes[&C].store.chunks_map().len(), 1)
}

#[test]
fn deleted_chunks_stay_deleted() {
    certify(|mutant| a_chunk_deleted_while_c_was_away(mutant, false), &[Mutant::KeepAbsent]);
    certify(|mutant| a_chunk_deleted_while_c_was_away(mutant, true), &[Mutant::KeepAbsent]);
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
fn resync_deadlock() {
    certify(
        |mutant| {
            let mut world = c_outside(mutant);
            for index in 0..8 {
                put(&mut world, u64::from(index) + 1, (index, 0), 1)?;
            }
            insist(&mut world, &flush_of(S))?;
            world.run_ms(200);
            for node in [A, B] {
                world.nodes.get_mut(&node).unwrap().store.trim();
            }
            world.read_us = 30_000;
            holds("C is not in yet", !in_sync(&world, C))?;
            world.crash(B);
            world.lose = None;
            // Reads overlap copies while nothing can be acknowledged.
            let stuck = world.request(write_of(S, 100, 0, (9, 0), 2));
            world.lose_changes = true;
            let mut waited = 0;
            for round in 0..300u32 {
                let got = ask(&mut world, read_of(T, (round % 8, 0)), 300);
                waited += u32::from(!matches!(got, Some(Ok(_))));
            }
            expect("reads that waited", waited, 0)?;
            world.lose_changes = false;
            world.run_until(5000, |w| in_sync(w, C));
            holds("copies go on", in_sync(&world, C))?;
            drop(answer(&mut world, stuck, 2000));
            Ok(())
        },
        &[Mutant::CopyAwaitsWrites, Mutant::CopyBlocksReads],
    );
}

/// Copies that are lost with nothing after them: no entry comes that would show the gap.
#[test]
fn a_resync_whose_copies_are_lost_in_silence_begins_anew() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            stale_c(&mut world, 4)?;
            world.start(C, true);
            let began = |w: &World| w.reports.iter().any(|(_, r)| matches!(r, Report::ResyncBegan { .. }));
            holds("resync begins", world.run_until(5000, began))?;
            world.lose = Some(Box::new(|e| {
                between(A, C, e) && matches!(&e.message, Message::Append(append) if !append.entries.is_empty())
            }));
            world.run_ms(100);
            world.lose = None;
            holds("nothing shows the gap", !in_sync(&world, C))?;
            heal_and_converge(&mut world)
        },
        &[Mutant::IgnoreStall],
    );
}

/// design 5.7: in-sync is a commit after a flush barrier.
#[test]
fn a_member_is_promoted_when_everything_up_to_the_barrier_is_on_its_disk() {
    certify(
        |mutant| {
            let mut world = c_outside(mutant);
            put(&mut world, 1, (0, 0), 5)?;
            world.lose = Some(Box::new(|e| {
                e.from == disk(C) && matches!(&e.message, Message::Appended(report) if report.durable == report.end)
            }));
            world.run_ms(3000);
            holds("C is not promoted", state(&world, C) == MemberState::Syncing)?;
            world.lose = None;
            holds("then it is", world.run_until(10_000, |w| in_sync(w, C)))
        },
        &[Mutant::PromoteBeforeBarrier],
    );
}

/// Otherwise a member with a small journal could never catch up: a checkpoint frees only what is committed.
#[test]
fn a_long_message_is_taken_in_parts_each_with_what_of_it_is_committed() {
    let mut world = serving(3, 3, None);
    world.crash(C);
    assert!(world.run_until(6000, |w| !in_sync(w, C)));
    let length = usize::from(CHUNK_BLOCKS) * BLOCK_SIZE;
    for operation in 1..=40 {
        insist(&mut world, &write_bytes(S, operation, operation, (0, 0), length, operation)).unwrap();
    }
    world.start(C, true);
    heal_and_converge(&mut world).unwrap();
    let most = world.nodes[&C].store.most_uncommitted_bytes;
    // A message of the model's journal has seven entries.
    assert!(most <= 5 * length, "{most} bytes had to fit the journal at once");
}

/// C has missed the filling of so many chunks, and its journal holds four of them.
fn stale_c_with_a_small_journal(world: &mut World, chunks: u32) -> Verdict {
    world.crash(C);
    holds("C is removed", world.run_until(6000, |w| !in_sync(w, C)))?;
    for index in 0..chunks {
        let operation = u64::from(index) + 1;
        insist(world, &write_bytes(S, operation, operation, (index, 0), CHUNK_BYTES, operation))?;
    }
    insist(world, &flush_of(S))?;
    world.run_ms(200);
    for node in [A, B] {
        world.nodes.get_mut(&node).unwrap().store.trim();
    }
    world.nodes.get_mut(&C).unwrap().store.journal_bytes = Some(4 * CHUNK_BYTES);
    Ok(())
}

const CHUNK_BYTES: usize = CHUNK_BLOCKS as usize * BLOCK_SIZE;

/// Two nodes gone one after the other: what is copied to the first cannot be committed without the second, and does not fit
/// its journal. The set is at its minimum, so the group is whole again only with the copy.
#[test]
fn a_resync_goes_on_while_what_it_copies_cannot_be_committed() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            stale_c_with_a_small_journal(&mut world, 24)?;
            world.crash(B);
            world.start(C, true);
            holds("C becomes complete", world.run_until(30_000, |w| in_sync(w, C)))?;
            put(&mut world, 100, (30, 0), 7)?;
            world.start(B, true);
            heal_and_converge(&mut world)
        },
        &[Mutant::CopiesAwaitCommitment],
    );
}

/// What an incomplete member settled by itself is not in the log of the next primary.
#[test]
fn what_a_resync_settled_and_the_next_primary_lacks_is_undone() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            stale_c_with_a_small_journal(&mut world, 8)?;
            // B gets no entries, and C does not get to the end.
            world.lose = Some(Box::new(|e| {
                let entries = matches!(&e.message, Message::Append(append) if !append.entries.is_empty());
                (between(A, B, e) && entries) || matches!(e.message, Message::Dedupe { .. })
            }));
            world.start(C, true);
            world.run_ms(1500);
            let _ = world.request(write_of(S, 100, 0, (3, 0), 77));
            world.run_ms(100);
            let map_version = world.meta.version;
            let _ = world.request(ClientRequest::DeleteObject { map_version, origin: None, object: ObjectId(1) });
            world.run_ms(100);
            // No other member knows this chunk.
            let _ = world.request(write_of(S, 101, 0, (40, 0), 78));
            world.run_ms(100);
            holds("C syncs", state(&world, C) == MemberState::Syncing)?;
            let settled = world.nodes[&C].store.committed();
            holds("C has settled what B lacks", settled > world.nodes[&B].store.log_end())?;
            world.crash(A);
            world.meta.node_dead(A);
            world.broadcast_map();
            holds("B leads", world.run_until(8000, |w| w.meta.record.primary == Some(disk(B))))?;
            world.lose = None;
            holds("C becomes complete", world.run_until(30_000, |w| in_sync(w, C)))?;
            converged(&world)?;
            expect("what B leads with", value_at(&mut world, (3, 0))?, 4)?;
            world.start(A, true);
            heal_and_converge(&mut world)
        },
        &[Mutant::OneSidedDelta],
    );
}

/// A copy is in the stream only: the journal holds nothing in its place.
#[test]
fn a_copy_that_its_target_has_no_room_for_is_made_again() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            stale_c(&mut world, 4)?;
            world.read_us = 100_000;
            world.start(C, true);
            let began = |w: &World| w.reports.iter().any(|(_, r)| matches!(r, Report::ResyncBegan { .. }));
            holds("resync begins", world.run_until(5000, began))?;
            // While the blocks are read, the target tells that it is full.
            world.nodes.get_mut(&C).unwrap().store.credits = 0;
            let _ = world.request(write_of(S, 1000, 0, (9, 0), 3));
            world.run_ms(300);
            world.nodes.get_mut(&C).unwrap().store.credits = u64::MAX;
            heal_and_converge(&mut world)
        },
        &[Mutant::CopyFromJournal],
    );
}

/// The stream goes back while blocks are read for copies: their chunks are compared anew, and then the reads return.
#[test]
fn blocks_read_for_a_copy_that_was_lost_meanwhile_are_no_part_of_the_next_one() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            stale_c(&mut world, 4)?;
            world.read_us = 400_000;
            world.start(C, true);
            let began = |w: &World| w.reports.iter().any(|(_, r)| matches!(r, Report::ResyncBegan { .. }));
            holds("resync begins", world.run_until(5000, began))?;
            world.run_ms(5);
            // One entry is lost on its way to the target, and the next one shows the gap.
            let lost = std::cell::Cell::new(false);
            world.lose = Some(Box::new(move |e| {
                let entries = matches!(&e.message, Message::Append(append) if !append.entries.is_empty());
                between(A, C, e) && entries && !lost.replace(true)
            }));
            for operation in [1000, 1001] {
                let _ = world.request(write_of(S, operation, 0, (9, 0), operation));
                world.run_ms(5);
            }
            holds("the copies are not made yet", !in_sync(&world, C))?;
            heal_and_converge(&mut world)
        },
        &[Mutant::CountLateReads],
    );
}
