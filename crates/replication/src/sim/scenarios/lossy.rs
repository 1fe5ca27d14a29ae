//! design 5.4: members that may have lost what they acknowledged.

use super::*;

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

/// Simulator, seeds 155, 335 and 377: the last member that had lost nothing had its disk replaced, while its node lived on.
#[test]
fn a_level_member_whose_disk_is_gone_is_not_waited_for_although_its_node_lives() {
    certify(
        |mutant| {
            let mut world = serving(2, 2, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            insist(&mut world, &flush_of(S))?;
            world.power_off(A);
            world.lose_disk(B);
            world.start(A, false);
            assert_eq!(value_at(&mut world, (0, 0)), Ok(5));
            assert_eq!(world.meta.record.loss_generation, LossGeneration(1));
            Ok(())
        },
        &[Mutant::GoneDiskLives],
    );
}
