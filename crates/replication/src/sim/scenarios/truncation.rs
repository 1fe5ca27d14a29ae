//! Truncate generations at a placement group: what is read, and what counts for the size, around a cut.

use super::{A, S, T, Verdict, answer, certify, expect, insist, put, read_of, serving, value_at, write_of};
use crate::sim::world::{PG, World};
use crate::{ClientRequest, Event, Mutant, Reply, RequestToken, StoreView};
use weft_proto::data::{Contents, TruncateRequest};
use weft_types::{DataError, MapVersion, ObjectId, TruncateGeneration};

const OBJECT: ObjectId = ObjectId(1);

fn cut(size_bytes: u64, generation: u64) -> ClientRequest {
    ClientRequest::Truncate(TruncateRequest {
        pg: PG,
        map_version: MapVersion(0),
        origin: None,
        object: OBJECT,
        size_bytes,
        generation: TruncateGeneration(generation),
    })
}

/// A read by somebody who works under this generation.
fn read_under(at: (u32, u32), generation: u64) -> ClientRequest {
    read_for(at, Contents::Of(TruncateGeneration(generation)))
}

fn read_for(at: (u32, u32), contents: Contents) -> ClientRequest {
    let mut read = read_of(T, at);
    if let ClientRequest::Read(request) = &mut read {
        request.contents = contents;
    }
    read
}

fn end_as_of(world: &mut World, generation: u64) -> Result<u64, String> {
    let (map_version, generation) = (MapVersion(0), TruncateGeneration(generation));
    match insist(world, &ClientRequest::ObjectExtent { map_version, object: OBJECT, generation })? {
        Reply::ObjectExtent { end_bytes, .. } => Ok(end_bytes),
        other => Err(format!("{other:?}")),
    }
}

/// The metadata group has answered a shrink to some, and a growth after it; the cut is still on its way here.
fn a_read_after_shrink_and_grow(mutant: Option<Mutant>) -> Verdict {
    let mut world = serving(3, 3, mutant);
    put(&mut world, 1, (0, 8192), 7)?;
    let token = world.request(read_under((0, 8192), 1));
    let early = answer(&mut world, token, 200);
    expect("a read that knows of the cut is answered before it", early.is_some(), false)?;
    insist(&mut world, &cut(4096, 1))?;
    match answer(&mut world, token, 500) {
        Some(Ok(Reply::Read(bytes))) => expect("old bytes come back", bytes.iter().any(|b| *b != 0), false)?,
        other => return Err(format!("{other:?}")),
    }
    // Somebody who does not know of the cut is told, and looks at the size again.
    let token = world.request(read_under((0, 8192), 0));
    let current = TruncateGeneration(1);
    let told = answer(&mut world, token, 500);
    expect("a read of before the cut", told, Some(Err(DataError::StaleGeneration { current })))
}

/// A copy reads its source so (decision 0015).
fn a_read_of_a_copy_around_a_cut(mutant: Option<Mutant>) -> Verdict {
    let mut world = serving(3, 3, mutant);
    put(&mut world, 1, (0, 8192), 7)?;
    let of_at_least = |generation| read_for((0, 8192), Contents::OfAtLeast(TruncateGeneration(generation)));
    let token = world.request(of_at_least(1));
    let early = answer(&mut world, token, 200);
    expect("a copy that knows of the cut reads before it", early.is_some(), false)?;
    insist(&mut world, &cut(4096, 1))?;
    let token_of_before = world.request(of_at_least(0));
    for token in [token, token_of_before] {
        match answer(&mut world, token, 500) {
            Some(Ok(Reply::Read(bytes))) => expect("old bytes come back", bytes.iter().any(|b| *b != 0), false)?,
            other => return Err(format!("{other:?}")),
        }
    }
    Ok(())
}

fn ends_around_a_cut(mutant: Option<Mutant>) -> Verdict {
    let mut world = serving(3, 3, mutant);
    put(&mut world, 1, (0, 8192), 7)?;
    expect("the end", end_as_of(&mut world, 0)?, 12_288)?;
    // The holder of generation 1 died, and the cut has not arrived here.
    expect("an end of an older generation counts", end_as_of(&mut world, 1)?, 0)?;
    insist(&mut world, &cut(4096, 1))?;
    let mut write = write_of(S, 2, 0, (0, 4096), 9);
    if let ClientRequest::Write { request, .. } = &mut write {
        request.generation = TruncateGeneration(1);
    }
    insist(&mut world, &write)?;
    expect("the end after the cut", end_as_of(&mut world, 1)?, 8192)?;
    expect("what was cut off", value_at(&mut world, (0, 8192))?, 0)
}

/// Simulator, seeds 2874 and 9108 of a later build: the cut comes between the lookup of an end and its answer.
fn an_end_looked_up_before_a_cut(mutant: Option<Mutant>) -> Verdict {
    // Whole blocks are cut in one step; a part of one is read first, and the end is looked up before or beside that.
    for (size_bytes, asked_first, left) in [(4096, true, 0), (6000, true, 0), (4096, false, 4096), (6000, false, 0)] {
        let mut world = serving(3, 3, mutant);
        put(&mut world, 1, (0, 8192), 7)?;
        let (map_version, generation) = (MapVersion(0), TruncateGeneration(1));
        let extent = ClientRequest::ObjectExtent { map_version, object: OBJECT, generation };
        let (token, cut_token) = (RequestToken(9001), RequestToken(9002));
        let mut events = vec![
            Event::Request { token, request: extent },
            Event::Request { token: cut_token, request: world.as_sent_to(A, cut(size_bytes, 1)) },
        ];
        if !asked_first {
            events.reverse();
        }
        // In one batch: what was asked first is looked up before the batch is appended, and the other after.
        world.feed_all(A, events);
        let end_bytes = match answer(&mut world, token, 500) {
            Some(Ok(Reply::ObjectExtent { end_bytes, .. })) => end_bytes,
            other => return Err(format!("the end: {other:?}")),
        };
        expect("an end beside a cut", end_bytes, left)?;
        expect("the cut", answer(&mut world, cut_token, 500), Some(Ok(Reply::Done)))?;
        expect("the end after it", end_as_of(&mut world, 1)?, size_bytes)?;
    }
    Ok(())
}

/// Simulator, seed 1703: an answered cut was lost with the power, and whoever worked under it waited for ever.
fn a_cut_outlives_a_loss_of_power(mutant: Option<Mutant>) -> Verdict {
    let mut world = serving(3, 3, mutant);
    put(&mut world, 1, (0, 8192), 7)?;
    insist(&mut world, &cut(4096, 1))?;
    let nodes: Vec<_> = world.nodes.keys().copied().collect();
    for node in &nodes {
        world.power_off(*node);
    }
    for node in &nodes {
        world.start(*node, false);
    }
    // Asks until a lossy member leads.
    value_at(&mut world, (0, 0))?;
    let token = world.request(read_under((0, 8192), 0));
    match answer(&mut world, token, 500) {
        Some(Err(DataError::StaleGeneration { current })) => expect("the cut", current, TruncateGeneration(1)),
        other => Err(format!("a read of before the cut: {other:?}")),
    }
}

#[test]
fn an_end_from_before_a_cut_does_not_count_after_it() {
    certify(an_end_looked_up_before_a_cut, &[Mutant::EndBesideLaterCut]);
}

#[test]
fn an_answered_cut_outlives_a_loss_of_power() {
    certify(a_cut_outlives_a_loss_of_power, &[Mutant::CutInMemory]);
}

#[test]
fn a_read_waits_for_the_cut_that_its_reader_knows_of() {
    certify(a_read_after_shrink_and_grow, &[Mutant::ReadAnyGeneration]);
}

#[test]
fn a_copy_reads_what_a_later_cut_has_left_and_waits_for_the_one_it_knows_of() {
    certify(a_read_of_a_copy_around_a_cut, &[Mutant::ReadAnyGeneration]);
}

#[test]
fn attack_size_of_old_generation() {
    certify(ends_around_a_cut, &[Mutant::EndOfOldGeneration]);
}

/// S3.8.
#[test]
fn a_shrink_is_one_entry_however_much_it_cuts_off() {
    for size_bytes in [0, 4096, 6000] {
        let mut world = serving(3, 3, None);
        for index in 0..40 {
            put(&mut world, 1 + u64::from(index), (index, 0), 7).unwrap();
        }
        let end = |world: &World| world.nodes[&A].store.log_end().sequence.0;
        let before = end(&world);
        insist(&mut world, &cut(size_bytes, 1)).unwrap();
        assert_eq!(end(&world), before + 1, "cut to {size_bytes} bytes");
        for index in 1..40 {
            assert_eq!(value_at(&mut world, (index, 0)), Ok(0));
        }
    }
}
