//! design 5.10: space.

use super::*;

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
