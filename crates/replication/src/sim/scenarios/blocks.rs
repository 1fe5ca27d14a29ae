//! design 6 and 7: blocks, their checksums, truncation.

use super::*;

#[test]
fn repair_from_stale() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            stale_c(&mut world, 1)?;
            // C syncs, and its old block verifies. A's is bad, trailer and all; B, which has a good one, says nothing.
            world.lose = Some(Box::new(|e| match &e.message {
                Message::ChunkHashed { .. } => true,
                Message::FetchedBlocks { .. } => e.from == disk(B),
                _ => false,
            }));
            world.start(C, true);
            holds("C syncs", world.run_until(3000, |w| state(w, C) == MemberState::Syncing))?;
            world.run_ms(200);
            let store = &mut world.nodes.get_mut(&A).unwrap().store;
            store.bad.insert((chunk(0), 0));
            store.trailers_are_lost = true;
            let got = ask(&mut world, read_of(T, (0, 0)), 5000);
            expect("nobody who may be asked has it", got, Some(Err(DataError::Corrupt)))?;
            world.lose = None;
            expect("B has it", value_at(&mut world, (0, 0))?, 2)?;
            heal_and_converge(&mut world)
        },
        &[Mutant::RepairFromAnybody],
    );
}

/// A disk has lost what it knew of a chunk, as its next process finds. While it leads nobody can read the chunk, and no repair of a
/// block may believe another member, so another one leads; whichever it is, it leaves the set and is copied to (decision 0024).
#[test]
fn a_member_that_has_lost_its_trailers_is_copied_to() {
    certify(
        |mutant| {
            for node in [A, B] {
                let mut world = serving(3, 3, mutant);
                put(&mut world, 1, (0, 0), 5)?;
                insist(&mut world, &flush_of(S))?;
                world.run_ms(300);
                world.crash(node);
                let store = &mut world.nodes.get_mut(&node).unwrap().store;
                store.trim();
                store.lost_trailers.insert(chunk(0));
                world.start(node, true);
                let whole = |w: &World| in_sync(w, node) && w.nodes[&node].store.lost_trailers.is_empty();
                holds("it is copied to", world.run_until(15_000, whole))?;
                expect("it is read", value_at(&mut world, (0, 0))?, 5)?;
                heal_and_converge(&mut world)?;
                world.meta.begin_move(disk(node));
                world.broadcast_map();
                holds("it leads", world.run_until(5000, |w| w.meta.record.primary == Some(disk(node))))?;
                expect("it has it", value_at(&mut world, (0, 0))?, 5)?;
            }
            Ok(())
        },
        &[Mutant::DamagedStays],
    );
}

/// Simulator, seed 12327: nobody wrote, so nobody missed the member that took no part. And when somebody writes, the write does not
/// wait for as long as one does that waits for a silent member.
#[test]
fn who_withdraws_says_so() {
    certify(
        |mutant| {
            for writes in [false, true] {
                let mut world = serving(3, 3, mutant);
                put(&mut world, 1, (0, 0), 5)?;
                insist(&mut world, &flush_of(S))?;
                world.run_ms(300);
                let store = &mut world.nodes.get_mut(&B).unwrap().store;
                store.trim();
                store.lost_trailers.insert(chunk(0));
                if writes {
                    let written = ask(&mut world, write_of(S, 2, 0, (1, 0), 6), 1000);
                    expect("a write meanwhile", written, Some(Ok(Reply::Written)))?;
                }
                let whole = |w: &World| in_sync(w, B) && w.nodes[&B].store.lost_trailers.is_empty();
                holds("it is copied to", world.run_until(5000, whole))?;
                heal_and_converge(&mut world)?;
            }
            Ok(())
        },
        &[Mutant::DamagedStays, Mutant::WithdrawSilently],
    );
}

/// Simulator, seed 592: a primary opens a chunk's file again and finds its trailers lost. Others have the block, and one of them leads
/// soon.
#[test]
fn who_gives_way_says_of_no_block_that_it_is_lost() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            insist(&mut world, &flush_of(S))?;
            world.run_ms(300);
            let store = &mut world.nodes.get_mut(&A).unwrap().store;
            store.trim();
            store.lost_trailers.insert(chunk(0));
            // A write of a part reads the rest of its block.
            for request in [read_of(T, (0, 0)), write_bytes(S, 2, 0, (0, 0), 512, 6)] {
                for _ in 0..60 {
                    match ask(&mut world, request.clone(), 500) {
                        Some(Ok(_)) => break,
                        Some(Err(DataError::Corrupt)) => return Err("others have it".to_owned()),
                        _ => world.run_ms(100),
                    }
                }
            }
            expect("what is read", value_at(&mut world, (0, 0))?, 6)?;
            heal_and_converge(&mut world)
        },
        &[Mutant::CorruptBeforeYield],
    );
}

/// The others are not enough for writes to go on, so it stays, and serves what it has.
#[test]
fn a_member_that_has_lost_its_trailers_stays_while_it_is_needed() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            put(&mut world, 2, (1, 0), 6)?;
            insist(&mut world, &flush_of(S))?;
            world.run_ms(300);
            world.crash(C);
            holds("C is removed", world.run_until(6000, |w| !in_sync(w, C)))?;
            world.crash(A);
            let store = &mut world.nodes.get_mut(&A).unwrap().store;
            store.trim();
            store.lost_trailers.insert(chunk(0));
            world.start(A, true);
            // The write that is answered is on two disks.
            let still = |w: &World| w.meta.record.member(disk(A)).is_some_and(weft_types::Member::is_level);
            let mut level = true;
            for at in 0..600 {
                if at == 100 {
                    let written = ask(&mut world, write_of(S, 3, 3, (1, 0), 7), 1000);
                    expect("a write meanwhile", written, Some(Ok(Reply::Written)))?;
                }
                world.run_ms(10);
                level &= still(&world);
            }
            holds("it stays level", level)?;
            expect("it is read", value_at(&mut world, (1, 0))?, 7)?;
            // With C there are enough.
            world.start(C, true);
            let whole = |w: &World| in_sync(w, A) && w.nodes[&A].store.lost_trailers.is_empty();
            holds("it is copied to", world.run_until(30_000, whole))?;
            expect("what was lost is there", value_at(&mut world, (0, 0))?, 5)?;
            heal_and_converge(&mut world)
        },
        &[Mutant::WithdrawAlways],
    );
}

/// A disk that loses a write in silence has an old block, and an old trailer that says it is good.
#[test]
fn a_block_is_repaired_with_nothing_but_what_its_own_trailer_names() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            let old = world.nodes[&B].store.block(chunk(0), 0);
            put(&mut world, 2, (0, 0), 6)?;
            world.run_ms(10);
            world.nodes.get_mut(&B).unwrap().store.set_back(chunk(0), 0, old);
            world.nodes.get_mut(&A).unwrap().store.bad.insert((chunk(0), 0));
            expect("what C has", value_at(&mut world, (0, 0))?, 6)?;
            let from_c =
                |r: &(weft_types::DiskId, Report)| matches!(r.1, Report::Repaired { from, .. } if from == disk(C));
            holds("it is repaired", world.reports.iter().any(from_c))
        },
        &[Mutant::RepairUnchecked],
    );
}

/// Seed 203 of the simulator, with a write that a disk lost.
#[test]
fn a_bad_block_that_is_written_before_its_repair_begins_is_no_loss() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            world.run_ms(10);
            world.nodes.get_mut(&A).unwrap().store.bad.insert((chunk(0), 0));
            world.read_us = 400_000;
            let read = world.request(read_of(T, (0, 0)));
            world.run_ms(5);
            let wrote = world.request(write_of(S, 2, 0, (0, 0), 6));
            expect("written", answer(&mut world, wrote, 1000), Some(Ok(Reply::Written)))?;
            match answer(&mut world, read, 5000) {
                Some(Ok(Reply::Read(bytes))) => expect("what it reads", u64::from(bytes[0]), 6),
                other => Err(format!("{other:?}")),
            }
        },
        &[Mutant::RepairAsSeen],
    );
}

/// Simulator, story `rot`: others had the new block, which is not what the read was to find, and so nobody had a good one.
#[test]
fn a_bad_block_that_is_written_while_it_is_read_is_read_again() {
    let mut world = serving(3, 3, None);
    put(&mut world, 1, (0, 0), 5).unwrap();
    world.nodes.get_mut(&A).unwrap().store.bad.insert((chunk(0), 0));
    world.read_us = 400_000;
    let reads: Vec<_> = (0..8).map(|_| world.request(read_of(T, (0, 0)))).collect();
    // What is written is good.
    world.nodes.get_mut(&A).unwrap().store.bad.clear();
    put(&mut world, 2, (0, 0), 6).unwrap();
    let waited = reads.iter().filter(|read| !world.replies.contains_key(read)).count();
    assert!(waited > 4, "only {waited} reads were under way when the block was written");
    for read in reads {
        let Some(Ok(Reply::Read(bytes))) = answer(&mut world, read, 5000) else { panic!("no good copy was found") };
        assert!(bytes[..8] == 5u64.to_le_bytes() || bytes[..8] == 6u64.to_le_bytes());
    }
    assert!(!world.reports.iter().any(|(_, report)| matches!(report, Report::Unrepairable { .. })));
}

#[test]
fn two_writes_into_one_block_both_stay() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 5)?;
            world.read_us = 20_000;
            let tokens: Vec<_> = (0..4u32)
                .map(|n| world.request(write_bytes(S, 10 + u64::from(n), 0, (0, n * 1024), 1024, 20 + u64::from(n))))
                .collect();
            for token in tokens {
                expect("written", answer(&mut world, token, 1000), Some(Ok(Reply::Written)))?;
            }
            match insist(&mut world, &read_of(T, (0, 0)))? {
                Reply::Read(bytes) => {
                    let parts: Vec<u64> = bytes.chunks(1024).map(|p| u64::from(p[0])).collect();
                    expect("every part", parts, vec![20, 21, 22, 23])
                }
                other => Err(format!("{other:?}")),
            }
        },
        &[Mutant::MergeWithoutLock],
    );
}

#[test]
fn damaged_bytes_are_refused_at_both_ends() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            let mut damaged = write_of(S, 1, 0, (0, 0), 5);
            if let ClientRequest::Write { request, .. } = &mut damaged {
                request.hashes = vec![weft_types::BlockHash(1)];
            }
            assert_eq!(ask(&mut world, damaged, 500), Some(Err(DataError::Malformed)));
            // On the way to a backup: refused there, sent again from the primary's journal.
            world.keep = Some(Box::new(|e| {
                between(A, B, e) && matches!(&e.message, Message::Append(a) if !a.entries.is_empty())
            }));
            let token = world.request(write_of(S, 2, 0, (0, 0), 6));
            world.run_ms(5);
            world.keep = None;
            for mut envelope in std::mem::take(&mut world.kept) {
                if let Message::Append(append) = &mut envelope.message {
                    for entry in &mut append.entries {
                        let entry = std::sync::Arc::make_mut(entry);
                        if let Effect::Write { .. } = entry.header.effect {
                            entry.data = filled(99, BLOCK_SIZE);
                        }
                    }
                }
                world.feed(B, Event::Peer(envelope));
            }
            assert_eq!(answer(&mut world, token, 500), Some(Ok(Reply::Written)));
            assert!(world.reports.iter().any(|(at, r)| *at == disk(B) && matches!(r, Report::DamagedOnTheWay { .. })));
            assert_eq!(value_at(&mut world, (0, 0)), Ok(6));
            heal_and_converge(&mut world)
        },
        &[Mutant::UnverifiedAppend],
    );
}

#[test]
fn grow_shrink_grow() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 7)?;
            put(&mut world, 2, (0, 4096), 7)?;
            put(&mut world, 3, (1, 0), 7)?;
            let cut = |size_bytes, generation| {
                ClientRequest::Truncate(TruncateRequest {
                    pg: PG,
                    map_version: weft_types::MapVersion(0),
                    origin: None,
                    object: ObjectId(1),
                    size_bytes,
                    generation: TruncateGeneration(generation),
                })
            };
            insist(&mut world, &cut(1024, 1))?;
            let late = ask(&mut world, write_of(S, 4, 0, (0, 4096), 8), 500);
            let current = TruncateGeneration(1);
            assert_eq!(late, Some(Err(DataError::StaleGeneration { current })), "made before the cut");
            // The same cut again, and an older one, change nothing.
            insist(&mut world, &cut(1024, 1))?;
            for at in [(0, 4096), (1, 0)] {
                assert_eq!(value_at(&mut world, at), Ok(0));
            }
            match insist(&mut world, &read_of(T, (0, 0))).unwrap() {
                Reply::Read(bytes) => {
                    assert!(bytes[..1024].chunks(8).all(|c| c == 7u64.to_le_bytes()));
                    assert!(bytes[1024..].iter().all(|b| *b == 0), "the rest of the block is zeroed");
                }
                other => panic!("{other:?}"),
            }
            heal_and_converge(&mut world)
        },
        &[Mutant::WriteAnyGeneration, Mutant::CutKeepsEdge],
    );
}

#[test]
fn a_write_of_a_truncation_that_has_not_arrived_waits_for_it() {
    certify(
        |mutant| {
            let mut world = serving(3, 3, mutant);
            put(&mut world, 1, (0, 0), 7)?;
            let mut ahead = write_of(S, 2, 0, (0, 4096), 9);
            if let ClientRequest::Write { request, .. } = &mut ahead {
                request.generation = TruncateGeneration(1);
            }
            let token = world.request(ahead);
            assert_eq!(answer(&mut world, token, 200), None);
            let cut = ClientRequest::Truncate(TruncateRequest {
                pg: PG,
                map_version: weft_types::MapVersion(0),
                origin: None,
                object: ObjectId(1),
                size_bytes: 0,
                generation: TruncateGeneration(1),
            });
            insist(&mut world, &cut)?;
            assert_eq!(answer(&mut world, token, 200), Some(Ok(Reply::Written)));
            assert_eq!(value_at(&mut world, (0, 0)), Ok(0));
            assert_eq!(value_at(&mut world, (0, 4096)), Ok(9));
            Ok(())
        },
        &[Mutant::WriteAnyGeneration],
    );
}
