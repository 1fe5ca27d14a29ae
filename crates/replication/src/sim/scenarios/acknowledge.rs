//! design 5.1: acknowledge when every member that counts has it.

use super::*;
use crate::StoreView;

#[test]
fn a_member_without_progress_is_removed_and_returns() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            world.partition(A, C);
            let token = world.request(write_of(S, 2, 0, (0, 0), 6));
            expect("never two of three in silence", answer(&mut world, token, 800), None)?;
            expect("then C is removed", answer(&mut world, token, 2000), Some(Ok(Reply::Written)))?;
            holds("C is out", !in_sync(&world, C))?;
            heal_and_converge(&mut world)
        },
        &[Mutant::AcknowledgeEarly],
    );
}

#[test]
fn a_write_that_asks_for_the_disk_waits_for_every_disk() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            world.lose = Some(Box::new(|e| {
                e.from == disk(B) && matches!(&e.message, Message::Appended(report) if report.durable == report.end)
            }));
            let mut request = write_of(S, 1, 0, (0, 0), 5);
            if let ClientRequest::Write { request, .. } = &mut request {
                request.ack = AckMode::Disk;
            }
            let token = world.request(request);
            assert_eq!(answer(&mut world, token, 200), None);
            world.lose = None;
            assert_eq!(answer(&mut world, token, 2000), Some(Ok(Reply::Written)));
            Ok(())
        },
        &[Mutant::DiskAckInMemory],
    );
}

/// Simulator, seed 739: what was told on a connection that broke counted as told, and an idle member never heard it.
#[test]
fn a_member_whose_stream_begins_anew_is_told_again_what_is_committed() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            world.lose = Some(Box::new(|e| {
                e.to == disk(C) && matches!(&e.message, Message::Append(append) if append.entries.is_empty())
            }));
            put(&mut world, 1, (0, 0), 5)?;
            world.run_ms(500);
            assert!(world.nodes[&C].store.committed() < world.nodes[&A].store.committed());
            world.lose = None;
            world.reset_link(A, C);
            world.run_ms(2_000);
            assert_eq!(world.nodes[&C].store.committed(), world.nodes[&A].store.committed());
            Ok(())
        },
        &[Mutant::ToldForEver],
    );
}
