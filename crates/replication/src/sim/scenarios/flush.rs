//! design 5, flush.

use super::*;

#[test]
fn flush_other_host() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            world.lose = Some(Box::new(|e| e.from == disk(B) && matches!(e.message, Message::Appended(_))));
            let flushed = ask(&mut world, flush_of(T), 300);
            holds("not before every member reported", flushed.is_none())?;
            world.lose = None;
            insist(&mut world, &flush_of(T)).map(drop)
        },
        &[Mutant::FlushPrimaryOnly],
    );
}

#[test]
fn flush_joiner() {
    certify(
        |mutant| {
            let mut world = serving(3, 2, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            holds("C joins", world.run_until(20_000, |w| in_sync(w, C)))?;
            world.run_ms(50);
            // C has what was written, and never tells that it synced it.
            world.lose = Some(Box::new(|e| {
                e.from == disk(C) && matches!(&e.message, Message::Appended(report) if report.durable == report.end)
            }));
            let written = world.request(write_of(S, 2, 0, (0, 0), 6));
            answer(&mut world, written, 100);
            let flushed = ask(&mut world, flush_of(S), 300);
            holds("the flush waits for C", flushed.is_none())
        },
        &[Mutant::FlushPrimaryOnly],
    );
}

#[test]
fn flush_lossy() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            for operation in 1..10 {
                put(&mut world, operation, (0, 0), operation)?;
            }
            // B loses what it had not synced and is not levelled again: its "synced" covers less than was acknowledged.
            world.power_off(B);
            world.lose =
                Some(Box::new(|e| e.to == disk(B) && matches!(e.message, Message::Level { .. } | Message::Append(_))));
            world.start(B, false);
            world.run_ms(50);
            assert_eq!(ask(&mut world, flush_of(S), 500), None);
            world.lose = None;
            insist(&mut world, &flush_of(S))?;
            assert_eq!(value_at(&mut world, (0, 0)), Ok(9));
            heal_and_converge(&mut world)
        },
        &[Mutant::SyncedIsEnough],
    );
}

#[test]
fn flush_old_watermark() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            for operation in 1..20 {
                put(&mut world, operation, (0, 0), operation)?;
            }
            for node in [A, B, C] {
                world.power_off(node);
            }
            for node in [A, B, C] {
                world.start(node, false);
            }
            // Whatever is durable in the new epoch, the answer names the later loss generation: EIO at the client.
            assert_eq!(insist(&mut world, &flush_of(S)), Ok(Reply::Flushed(LossGeneration(1))));
            heal_and_converge(&mut world)
        },
        &[Mutant::FlushOldGeneration],
    );
}

/// As long as a member of the set has nothing of a new epoch, nothing is acknowledged in it. What earlier ones acknowledged,
/// in memory alone, is owed all the same.
#[test]
fn a_flush_covers_what_earlier_epochs_acknowledged() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            // B promises and is not levelled. It is in the set, and has synced nothing that it tells of.
            world.lose = Some(Box::new(|e| e.to == disk(B) && !matches!(e.message, Message::Prepare { .. })));
            world.meta.begin_move(disk(C));
            world.broadcast_map();
            let behind = |w: &World| matches!(state(w, B), MemberState::InSync { behind: true, .. });
            holds("B is behind", world.run_until(6000, behind))?;
            world.run_ms(10);
            let flushed = ask(&mut world, flush_of(S), 300);
            holds("the flush waits for B", flushed.is_none() && in_sync(&world, B))?;
            world.lose = None;
            insist(&mut world, &flush_of(S)).map(drop)
        },
        &[Mutant::FlushOfThisEpoch],
    );
}
