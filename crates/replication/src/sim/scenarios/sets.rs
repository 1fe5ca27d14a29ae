//! design 5.3 and 4.3: set changes, and primaries that move.

use super::*;

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
