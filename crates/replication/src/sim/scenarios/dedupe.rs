//! design 5.8: retries.

use super::*;

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
    let request = world.as_sent_to(A, write_of(S, 7, 7, (0, 0), 7));
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
