//! design 5.5: a new epoch, and members that were not levelled in it.

use super::*;
use crate::StoreView;

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
fn syncing_wins() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            stale_c(&mut world, 4)?;
            world.feed(A, Event::ResyncRate { bytes_per_second: 1 });
            world.lose = Some(Box::new(|e| matches!(e.message, Message::ChunkHashed { .. })));
            world.start(C, true);
            holds("C syncs", world.run_until(3000, |w| state(w, C) == MemberState::Syncing))?;
            world.run_ms(200);
            // C has the longest log, with holes below it; A dies, B is lossy.
            put(&mut world, 600, (9, 0), 6)?;
            world.run_ms(1);
            world.power_off(B);
            world.crash(A);
            let end = |w: &World, node| crate::StoreView::log_end(&w.nodes[&node].store);
            holds("C has the longest log", end(&world, C) > end(&world, B))?;
            world.start(B, false);
            let leads = |w: &World| {
                w.meta.record.primary == Some(disk(B)) && w.meta.record.levelled_epoch == w.meta.record.epoch
            };
            for _ in 0..1000 {
                world.run_ms(10);
                holds("no syncing member leads", world.meta.record.primary != Some(disk(C)))?;
                if leads(&world) {
                    break;
                }
            }
            holds("B goes on from its own log", leads(&world))?;
            expect("and owns up to the loss", world.meta.record.loss_generation, LossGeneration(1))?;
            world.lose = None;
            world.start(A, true);
            heal_and_converge(&mut world)?;
            expect("what was flushed", value_at(&mut world, (3, 0))?, 2)
        },
        &[Mutant::SyncingAsSource],
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

/// Simulator, seed 9518. B is away and cannot leave; C is brought in by a resync whose log begins behind B's end; then A dies.
#[test]
fn a_level_primary_whose_log_does_not_reach_the_longest_one_hands_over() {
    let mut world = serving(3, 3, None);
    // C has to begin its log anew.
    stale_c(&mut world, 4).unwrap();
    world.crash(B);
    for operation in 601..604 {
        world.request(write_of(S, operation, 0, (1, 0), operation));
    }
    world.run_ms(100);
    world.start(C, true);
    assert!(world.run_until(10_000, |w| in_sync(w, C)), "C is promoted: {:?}", world.meta.record);
    world.crash(A);
    world.start(B, true);
    assert!(in_sync(&world, B), "B has left: {:?}", world.meta.record);
    let (b_ends, c_begins) = (world.nodes[&B].store.log_end(), world.nodes[&C].store.log_start());
    assert!(b_ends < c_begins, "C's log begins at {c_begins}, B's ends at {b_ends}");
    world.meta.elect(Some(disk(C)));
    let serves = |w: &World| w.meta.record.levelled_epoch == w.meta.record.epoch;
    assert!(world.run_until(20_000, serves), "nobody leads: {:?}", world.meta.record);
    assert_eq!(world.meta.record.primary, Some(disk(C)));
    world.start(A, true);
    heal_and_converge(&mut world).unwrap();
    assert_eq!(value_at(&mut world, (0, 0)), Ok(2));
}
