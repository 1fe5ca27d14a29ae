//! design 5.2: an epoch belongs to one primary incarnation.

use super::*;

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

/// design 5.2: contiguous, or not at all.
#[test]
fn an_entry_behind_a_gap_is_asked_for_again() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            world.lose = Some(Box::new(|e| {
                between(A, C, e) && matches!(&e.message, Message::Append(append) if !append.entries.is_empty())
            }));
            let first = world.request(write_of(S, 1, 0, (0, 0), 5));
            world.run_ms(3);
            world.lose = None;
            let second = world.request(write_of(S, 2, 0, (1, 0), 6));
            for token in [first, second] {
                expect("the answer", answer(&mut world, token, 500), Some(Ok(Reply::Written)))?;
            }
            heal_and_converge(&mut world)
        },
        &[Mutant::AcceptGap],
    );
}

/// design 5.2: promises are durable.
#[test]
fn a_promise_that_was_given_outlives_a_loss_of_power() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            world.keep = Some(Box::new(|e| e.from == disk(C) && matches!(e.message, Message::Promised(_))));
            world.meta.begin_move(disk(B));
            world.broadcast_map();
            holds("C promises", world.run_until(3000, |w| !w.kept.is_empty()))?;
            world.power_off(C);
            expect("what C remembers", world.nodes[&C].store.saved().promised, Epoch(2))
        },
        &[Mutant::PromiseInMemory],
    );
}
