//! design 5.6 and 4.2: what may be read, by whom, and when it is checked.

use super::*;

#[test]
fn read_uncommitted() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            world.partition(A, B);
            world.partition(A, C);
            let _ = world.request_to(A, write_of(S, 2, 0, (0, 0), 6));
            world.run_ms(5);
            let early = world.request_to(A, read_of(T, (0, 0)));
            let seen = answer(&mut world, early, 500);
            holds("the read waits", !matches!(seen, Some(Ok(_))))?;
            let beside = world.request_to(A, read_of(T, (1, 0)));
            holds("others do not", matches!(answer(&mut world, beside, 100), Some(Ok(_))))
        },
        &[Mutant::ReadUncommitted],
    );
}

#[test]
fn lease_at_old_map() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            // A heartbeats, but the map with the fence never reaches it: its lease runs out and does not count again.
            world.nodes.get_mut(&A).unwrap().stale_map = true;
            world.meta.sessions.remove(&SessionId(S));
            world.meta.version = world.meta.version.next();
            world.broadcast_map();
            world.run_ms(2500);
            let late = world.request_to(A, write_of(S, 2, 0, (0, 0), 6));
            let written = matches!(answer(&mut world, late, 2500), Some(Ok(_)));
            holds("a fenced session's write is refused", !written)
        },
        &[Mutant::ServeWithoutLease],
    );
}

#[test]
fn serve_without_lease() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            // A can be reached by clients only.
            world.isolate(A);
            holds("another leads", world.run_until(6000, |w| w.meta.record.primary != Some(disk(A))))?;
            world.run_ms(200);
            let old = world.request_to(A, read_of(T, (0, 0)));
            let served = matches!(answer(&mut world, old, 2500), Some(Ok(_)));
            holds("A serves nothing without a lease", !served)
        },
        &[Mutant::ServeWithoutLease],
    );
}

#[test]
fn fence_after_check() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            // A write within a block has passed the check and waits for the old block.
            world.read_us = 400_000;
            let late = world.request(write_bytes(S, 2, 0, (0, 512), 512, 6));
            world.run_ms(2);
            world.meta.sessions.remove(&SessionId(S));
            world.meta.version = world.meta.version.next();
            world.broadcast_map();
            let version = world.meta.version;
            let acknowledged = |w: &World| w.meta.nodes.values().all(|n| n.applied >= version);
            holds("every node acknowledges the fence", world.run_until(1000, acknowledged))?;
            let got = answer(&mut world, late, 1500);
            holds("the write never lands", matches!(got, Some(Err(DataError::Fenced))))
        },
        &[Mutant::FenceOnlyAtArrival],
    );
}

/// design 5.6: the lease is checked again after the bytes are in hand.
#[test]
fn a_read_whose_lease_ran_out_while_the_disk_was_busy_is_not_answered() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            world.read_us = 6_000_000;
            world.isolate(A);
            let reads: Vec<_> = (0..10).map(|_| world.request_to(A, read_of(T, (0, 0)))).collect();
            world.run_ms(2500);
            let early = world.replies.len();
            world.run_ms(4000);
            holds("some take longer than the lease", world.replies.len() > early)?;
            let good = reads.iter().filter(|t| matches!(world.replies.get(t), Some(Ok(_)))).count();
            expect("answers without a lease", good.saturating_sub(early), 0)
        },
        &[Mutant::LeaseCheckedOnce],
    );
}

/// design 4.4: the list is looked at when a write is sequenced and when a read is served.
#[test]
fn a_session_that_is_not_on_the_list_is_served_nothing() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            world.meta.sessions.remove(&SessionId(S));
            world.meta.version = world.meta.version.next();
            world.broadcast_map();
            world.run_ms(50);
            for request in [write_of(S, 2, 0, (0, 0), 6), read_of(S, (0, 0)), flush_of(S)] {
                expect("the answer", ask(&mut world, request, 500), Some(Err(DataError::Fenced)))?;
            }
            expect("the value", value_at(&mut world, (0, 0))?, 5)
        },
        &[Mutant::ServeStruck],
    );
}

/// design 4.2: a node behind the map that a request names waits for it.
#[test]
fn a_request_that_names_a_newer_map_waits_for_it() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            let mut ahead = write_of(S, 1, 0, (0, 0), 5);
            if let ClientRequest::Write { request, .. } = &mut ahead {
                request.map_version = world.meta.version.next();
            }
            let token = world.request(ahead);
            expect("the write waits", answer(&mut world, token, 500), None)?;
            world.meta.version = world.meta.version.next();
            world.broadcast_map();
            expect("then it is done", answer(&mut world, token, 500), Some(Ok(Reply::Written)))
        },
        &[Mutant::IgnoreMapVersion],
    );
}
