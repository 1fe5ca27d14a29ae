//! What a healthy cluster does, and what it refuses.

use super::client::{Answer, pattern};
use super::{Client, Cluster, scenario, scenario_with};
use crate::bridge::{ReclaimTo, ToData};
use crate::memory::MemoryPlan;
use crate::mutants::Mutant;
use bytes::Bytes;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use weft_meta::{Command, CommandReply};
use weft_proto::data::{DataReply, DataRequest, FillRequest, TruncateRequest};
use weft_types::error::NotServing;
use weft_types::limits::{BACKUP_PROGRESS_TIMEOUT, MAX_FILL_BYTES};
use weft_types::{
    AckMode, BLOCK_SIZE, BlockIndex, DataError, MapVersion, NodeId, ObjectId, Origin, PresentBlocks, TruncateGeneration,
};

#[test]
fn what_was_written_is_read_back_flushed_and_the_same_on_every_replica() {
    scenario(|| async {
        let cluster = Cluster::start(4).await;
        let client = Client::open(&cluster).await;
        let mut pgs = Vec::new();
        for index in 0..8 {
            let chunk = client.chunk(7, index);
            client.write(chunk, 4096, &pattern(u64::from(index), 3)).await;
            pgs.push(client.pg(chunk));
        }
        for index in 0..8 {
            let bytes = client.read(client.chunk(7, index), 0, 5 * BLOCK_SIZE).await;
            assert!(bytes[..4096].iter().all(|b| *b == 0), "before the write there is nothing");
            assert_eq!(&bytes[4096..4 * 4096], &pattern(u64::from(index), 3)[..]);
            assert!(bytes[4 * 4096..].iter().all(|b| *b == 0));
        }
        pgs.sort_unstable();
        pgs.dedup();
        assert_eq!(client.flush(&pgs).await.len(), pgs.len());
        cluster.assert_replicas_agree(3).await;
        let blocks: u64 = cluster.digests().await.values().map(|group| group[0].blocks).sum();
        assert_eq!(blocks, 24);
        let writes: u64 = {
            let mut sum = 0;
            for node in cluster.running() {
                sum += cluster.counter(node, "write_total_count").await;
            }
            sum
        };
        assert_eq!(writes, 8, "each write was measured once, at its primary");
    });
}

#[test]
fn partial_blocks_are_merged_and_overlapping_writes_keep_their_order() {
    scenario(|| async {
        let cluster = Cluster::start(1).await;
        let client = Client::open(&cluster).await;
        let chunk = client.chunk(1, 0);
        let mut model = vec![0u8; 4 * BLOCK_SIZE];
        for (step, (offset, length)) in
            [(0, 4096), (100, 50), (4000, 200), (8191, 2), (5000, 6000), (0, 1)].into_iter().enumerate()
        {
            let bytes = vec![step as u8 + 1; length];
            client.write(chunk, offset as u32, &bytes).await;
            model[offset..offset + length].copy_from_slice(&bytes);
        }
        assert_eq!(client.read(chunk, 0, model.len()).await, model);
        assert_eq!(client.read(chunk, 4001, 333).await, model[4001..4334]);
        cluster.assert_replicas_agree(3).await;
    });
}

#[test]
fn a_request_that_names_a_newer_map_waits_for_it() {
    scenario(|| async {
        let cluster = Cluster::start(1).await;
        let client = Client::open(&cluster).await;
        let chunk = client.chunk(1, 0);
        let primary = cluster.leader_of(client.pg(chunk));
        client.write(chunk, 0, &pattern(1, 1)).await;
        let next = MapVersion(client.version().0 + 1);
        let request = client.read_request(chunk, 0, BLOCK_SIZE, next);
        let mut early = std::pin::pin!(client.call(primary, &request, Bytes::new()));
        let waited = tokio::time::timeout(Duration::from_millis(300), &mut early).await;
        assert!(waited.is_err(), "answered although the map has not come: {waited:?}");
        assert!(cluster.applied(primary) < next);
        cluster.open_session().await;
        let (reply, bytes) = early.await.unwrap().unwrap();
        assert_eq!((reply, &bytes[..]), (DataReply::Read, &pattern(1, 1)[..]));
        assert!(cluster.applied(primary) >= next);
        assert_eq!(cluster.counter(primary, "requests_waited_for_map").await, 1);
    });
}

#[test]
fn a_request_that_names_a_map_which_never_comes_is_sent_back() {
    scenario(|| async {
        let cluster = Cluster::start(1).await;
        let client = Client::open(&cluster).await;
        let chunk = client.chunk(1, 0);
        let primary = cluster.leader_of(client.pg(chunk));
        let request = client.read_request(chunk, 0, BLOCK_SIZE, MapVersion(client.version().0 + 100));
        let answer = client.call(primary, &request, Bytes::new()).await.unwrap();
        assert_eq!(answer.unwrap_err(), DataError::NotServing { reason: NotServing::Overloaded });
    });
}

#[test]
fn writes_beyond_the_nodes_memory_are_sent_back_and_come_through_later() {
    scenario(|| async {
        let memory = MemoryPlan { client_bytes: 8 * BLOCK_SIZE, ..MemoryPlan::default() };
        let cluster = Cluster::start_within(1, memory).await;
        let client = Rc::new(Client::open(&cluster).await);
        client.write(client.chunk(1, 0), 0, &pattern(3, 1)).await;
        // More than is allowed, and all at once: they are looked at in one turn.
        let data = Bytes::from(pattern(1, 4));
        let origins: Vec<_> = (0..16).map(|_| client.next_origin()).collect();
        let low_water = origins[0].operation;
        let writes = origins.iter().enumerate().map(|(at, origin)| {
            let origin = Origin { low_water, ..*origin };
            client.write_request(client.chunk(1, at as u32), 0, &data, origin, client.version())
        });
        let writes: Vec<_> = writes.collect();
        let pg = client.pg(client.chunk(1, 0));
        let primary = cluster.leader_of(pg);
        let calls = writes.iter().map(|write| {
            let (client, write, data) = (Rc::clone(&client), write.clone(), data.clone());
            tokio::task::spawn_local(async move { client.call(primary, &write, data).await })
        });
        let mut answers = Vec::new();
        for call in calls.collect::<Vec<_>>() {
            answers.push(call.await.unwrap());
        }
        let overloaded = |answer: &Option<Answer>| {
            matches!(answer, Some(Err(DataError::NotServing { reason: NotServing::Overloaded })))
        };
        let refused = answers.iter().filter(|answer| overloaded(answer)).count();
        let taken = answers.iter().filter(|answer| matches!(answer, Some(Ok(_)))).count();
        assert_eq!(refused + taken, writes.len(), "{answers:?}");
        assert!(refused > 0 && taken >= 2, "{answers:?}");
        assert_eq!(cluster.counter(primary, "requests_without_room").await, refused as u64);
        // What was answered is given back, so that even one that is larger than all of it is taken when it is alone.
        for write in &writes {
            let _ = client.persist(pg, |_| write.clone(), data.clone()).await.unwrap();
        }
        let all = pattern(7, 16);
        client.write(client.chunk(1, 0), 0, &all).await;
        assert_eq!(client.read(client.chunk(1, 0), 0, all.len()).await, all);
    });
}

/// The journals of all members fill up with what each other's have no room for, unless primaries hold back. What went wrong.
async fn a_flood_of_writes() -> Result<(), String> {
    let cluster = Cluster::start(6).await;
    let client = Rc::new(Client::open(&cluster).await);
    // Three times a journal, all at once.
    let writes = (0..192u32).map(|number| {
        let client = Rc::clone(&client);
        tokio::task::spawn_local(async move {
            let chunk = client.chunk(1 + u64::from(number / 16), number % 16);
            client.write_among_others(chunk, 0, &pattern(u64::from(number), 16)).await
        })
    });
    let mut unanswered = Vec::new();
    for write in writes.collect::<Vec<_>>() {
        unanswered.extend(write.await.unwrap().err());
    }
    let told = cluster.events();
    if !unanswered.is_empty() || told.iter().any(|event| event.contains("given up")) {
        return Err(format!("{} writes without an answer: {:?}; {told:?}", unanswered.len(), unanswered.first()));
    }
    cluster.until_all_level().await;
    cluster.assert_replicas_agree(3).await;
    let part = cluster.under_way_bytes() / 3;
    for node in cluster.running() {
        let most = cluster.counter(node, "request_bytes_most").await;
        if most > part {
            return Err(format!("node {node} worked on {most} bytes at a time, its part is {part}"));
        }
    }
    Ok(())
}

#[test]
fn a_flood_of_writes_leaves_every_journal_room_for_what_others_have_sequenced() {
    scenario(|| async { a_flood_of_writes().await.unwrap() });
}

#[test]
fn a_flood_of_writes_that_nothing_bounds_is_noticed() {
    scenario_with(Mutant::NoJournalBound, || async {
        let went_wrong = a_flood_of_writes().await;
        assert!(went_wrong.is_err(), "the planted bug goes unnoticed");
    });
}

/// Attack lease-at-old-map and design 4.4: reads and writes of a struck session are refused from the moment at which
/// the node says that it has applied the map.
#[test]
fn a_fenced_session_is_refused_and_others_are_not() {
    scenario(|| async {
        let cluster = Cluster::start(1).await;
        let fenced = Client::open(&cluster).await;
        let other = Client::open(&cluster).await;
        let chunk = fenced.chunk(1, 0);
        fenced.write(chunk, 0, &pattern(1, 1)).await;
        let old = fenced.version();
        cluster.command(Command::StrikeSession { session: fenced.session });
        cluster.publish().await;
        let primary = cluster.leader_of(fenced.pg(chunk));
        while cluster.applied(primary) == old {
            sleep(Duration::from_millis(5)).await;
        }
        // Also by the map that it knew while it was alive.
        let bytes = pattern(2, 1);
        let write = fenced.write_request(chunk, 0, &bytes, fenced.next_origin(), old);
        let answer = fenced.call(primary, &write, bytes.into()).await.unwrap();
        assert_eq!(answer.unwrap_err(), DataError::Fenced);
        let read = fenced.read_request(chunk, 0, BLOCK_SIZE, old);
        assert_eq!(fenced.call(primary, &read, Bytes::new()).await.unwrap().unwrap_err(), DataError::Fenced);
        assert_eq!(other.read(chunk, 0, BLOCK_SIZE).await, pattern(1, 1));
        other.write(chunk, 0, &pattern(3, 1)).await;
    });
}

#[test]
fn without_a_lease_nothing_is_served() {
    scenario(|| async {
        let cluster = Cluster::start(1).await;
        let client = Client::open(&cluster).await;
        let chunk = client.chunk(1, 0);
        client.write(chunk, 0, &pattern(1, 1)).await;
        cluster.stop_leases();
        let primary = cluster.leader_of(client.pg(chunk));
        let deadline = Instant::now() + Duration::from_secs(3);
        while cluster.report(primary).await.lease_held {
            assert!(Instant::now() < deadline, "the lease does not run out");
            sleep(Duration::from_millis(50)).await;
        }
        let read = client.read_request(chunk, 0, BLOCK_SIZE, client.version());
        let answer = client.call(primary, &read, Bytes::new()).await.unwrap();
        assert_eq!(answer.unwrap_err(), DataError::NotServing { reason: NotServing::NoLease });
        let bytes = pattern(2, 1);
        let write = client.write_request(chunk, 0, &bytes, client.next_origin(), client.version());
        let answer = client.call(primary, &write, bytes.into()).await.unwrap();
        assert_eq!(answer.unwrap_err(), DataError::NotServing { reason: NotServing::NoLease });
    });
}

#[test]
fn a_client_cannot_act_as_a_node() {
    scenario(|| async {
        let cluster = Cluster::start(1).await;
        let client = Client::open(&cluster).await;
        let chunk = client.chunk(1, 0);
        let (pg, map_version) = (client.pg(chunk), client.version());
        let primary = cluster.leader_of(pg);
        client.write(chunk, 0, &pattern(1, 1)).await;
        let (object, origin) = (ObjectId(1), None);
        let cut = TruncateRequest { pg, map_version, origin, object, size_bytes: 0, generation: TruncateGeneration(1) };
        for request in [DataRequest::DeleteObject { pg, map_version, origin, object }, DataRequest::Truncate(cut)] {
            let answer = client.call(primary, &request, Bytes::new()).await.unwrap();
            assert_eq!(answer.unwrap_err(), DataError::Malformed);
        }
        assert_eq!(client.read(chunk, 0, BLOCK_SIZE).await, pattern(1, 1));
    });
}

/// The control thread of a node asks data ports too, under the certificate of its node.
#[test]
fn another_connection_of_a_node_does_not_take_the_place_of_its_replication_link() {
    scenario(|| async {
        let cluster = Cluster::start(2).await;
        let client = Client::open(&cluster).await;
        let other = Client::of_node(&cluster, NodeId(1)).await;
        for node in [NodeId(2), NodeId(3)] {
            let version = other.version();
            let (pg, object) = (other.pg(other.chunk(1, 0)), ObjectId(1));
            let extent =
                DataRequest::ObjectExtent { pg, map_version: version, object, generation: TruncateGeneration(0) };
            assert!(other.call(node, &extent, Bytes::new()).await.is_some());
        }
        let before: Vec<_> = cluster.map().pgs;
        for index in 0..8 {
            client.write(client.chunk(1, index), 0, &pattern(u64::from(index), 2)).await;
        }
        sleep(BACKUP_PROGRESS_TIMEOUT + Duration::from_millis(300)).await;
        assert_eq!(cluster.map().pgs, before, "no member was accused");
        cluster.assert_replicas_agree(3).await;
    });
}

#[test]
fn a_clean_up_reaches_every_group_from_any_node() {
    scenario(|| async {
        let cluster = Cluster::start(4).await;
        let client = Client::open(&cluster).await;
        for index in 0..8 {
            client.write(client.chunk(5, index), 0, &pattern(5, 2)).await;
            client.write(client.chunk(6, index), 0, &pattern(6, 2)).await;
        }
        let (volume, object) = (cluster.volume(), ObjectId(5));
        for node in cluster.running() {
            let keep = ReclaimTo::Nothing;
            cluster.ask(node, |done| ToData::Reclaim { volume, object, keep, done }).await.unwrap();
        }
        for index in 0..8 {
            assert!(client.read(client.chunk(5, index), 0, 2 * BLOCK_SIZE).await.iter().all(|b| *b == 0));
            assert_eq!(client.read(client.chunk(6, index), 0, 2 * BLOCK_SIZE).await, pattern(6, 2));
        }
        cluster.assert_replicas_agree(3).await;
        let blocks: u64 = cluster.digests().await.values().map(|group| group[0].blocks).sum();
        assert_eq!(blocks, 16);
    });
}

#[test]
fn the_end_and_the_blocks_of_an_object_are_told() {
    scenario(|| async {
        let cluster = Cluster::start(1).await;
        let client = Client::open(&cluster).await;
        client.write(client.chunk(9, 0), 8192, &pattern(1, 2)).await;
        client.write(client.chunk(9, 2), 0, &[7; 100]).await;
        let chunk = client.chunk(9, 0);
        let (pg, object) = (client.pg(chunk), ObjectId(9));
        let extent =
            |map_version| DataRequest::ObjectExtent { pg, map_version, object, generation: TruncateGeneration(0) };
        let (reply, _) = client.persist(pg, extent, Bytes::new()).await.unwrap();
        let end_bytes = 2 * (64 << 10) + 100;
        assert_eq!(reply, DataReply::ObjectExtent { end_bytes, allocated_bytes: 3 * BLOCK_SIZE as u64 });
        let presence = |map_version| DataRequest::Presence { pg, map_version, chunk };
        let (reply, _) = client.persist(pg, presence, Bytes::new()).await.unwrap();
        assert_eq!(reply, DataReply::Presence(vec![(BlockIndex(2), 2)]));
    });
}

#[test]
fn what_is_filled_is_there_on_every_replica_and_a_fill_is_carried_out_once() {
    scenario(|| async {
        let cluster = Cluster::start(1).await;
        let client = Client::open(&cluster).await;
        let chunk = client.chunk(9, 0);
        let pg = client.pg(chunk);
        client.write(chunk, 8192, &pattern(1, 2)).await;
        let fill = |length_bytes: u32, origin: Origin| {
            move |map_version| {
                DataRequest::Fill(FillRequest {
                    pg,
                    map_version,
                    origin,
                    chunk,
                    offset_bytes: 4196,
                    length_bytes,
                    generation: TruncateGeneration(0),
                    ack: AckMode::Disk,
                    present: PresentBlocks::Keep,
                })
            }
        };
        let presence = |map_version| DataRequest::Presence { pg, map_version, chunk };
        let present = || async { client.persist(pg, presence, Bytes::new()).await.unwrap().0 };
        let too_long = client.persist(pg, fill(MAX_FILL_BYTES + 1, client.next_origin()), Bytes::new()).await;
        assert_eq!(too_long.unwrap_err(), DataError::Malformed);
        // Blocks 1 to 5, of which 2 and 3 are there; a chunk ends at block 16.
        let fill = fill(4 * BLOCK_SIZE as u32, client.next_origin());
        assert_eq!(client.persist(pg, fill, Bytes::new()).await.unwrap().0, DataReply::Done);
        assert_eq!(present().await, DataReply::Presence(vec![(BlockIndex(1), 5)]));
        let bytes = client.read(chunk, 4096, 5 * BLOCK_SIZE).await;
        assert_eq!(bytes[BLOCK_SIZE..3 * BLOCK_SIZE], pattern(1, 2));
        assert!(bytes[..BLOCK_SIZE].iter().chain(&bytes[3 * BLOCK_SIZE..]).all(|byte| *byte == 0));
        cluster.assert_replicas_agree(3).await;
        assert_eq!(cluster.digests().await[&pg][0].blocks, 5);
        // Sent once more, to whoever leads now.
        cluster.kill(cluster.leader_of(pg)).await;
        assert_eq!(client.persist(pg, fill, Bytes::new()).await.unwrap().0, DataReply::Done);
        assert_eq!(present().await, DataReply::Presence(vec![(BlockIndex(1), 5)]));
    });
}

#[test]
fn a_journal_that_fills_up_is_emptied_while_writes_go_on() {
    scenario(|| async {
        let cluster = Cluster::start(2).await;
        let client = Client::open(&cluster).await;
        // Eight segments of 512 KiB hold 4 MiB; this is three times as much.
        for round in 0..200u64 {
            client.write(client.chunk(1, (round % 20) as u32), 0, &pattern(round, 15)).await;
        }
        for index in 0..20u64 {
            assert_eq!(client.read(client.chunk(1, index as u32), 0, 15 * BLOCK_SIZE).await, pattern(180 + index, 15));
        }
        // At once: later every node makes one, because it is time for it. Every write was on two members at least; a third one
        // whose disk stands still for a second is left out, and may have none yet.
        let mut emptied = 0;
        for node in cluster.running() {
            emptied += usize::from(cluster.counter(node, "checkpoints").await > 0);
        }
        assert!(emptied >= 2, "{emptied} of 3 nodes made a checkpoint");
        cluster.assert_replicas_agree(3).await;
    });
}

#[test]
fn deleting_a_volume_gives_its_space_back() {
    scenario(|| async {
        let cluster = Cluster::start(2).await;
        let client = Client::open(&cluster).await;
        for index in 0..8 {
            client.write(client.chunk(7, index), 0, &pattern(u64::from(index), 16)).await;
        }
        let disk = cluster.disk_path(NodeId(1));
        let began = Instant::now();
        while chunk_files(&disk) < 8 {
            assert!(began.elapsed() < Duration::from_secs(30), "the checkpoint made no chunk files");
            sleep(Duration::from_millis(100)).await;
        }
        let volume = cluster.volume();
        cluster.command(Command::CloseSession { session: client.session });
        cluster.command(Command::DeleteVolume { name: super::cluster::VOLUME.to_owned() });
        while !matches!(
            cluster.command(Command::PurgeVolume { volume, max_records: 1000 }),
            CommandReply::VolumePurge { finished: true }
        ) {}
        cluster.publish().await;
        while chunk_files(&disk) > 0 {
            assert!(began.elapsed() < Duration::from_secs(60), "{} chunk files are left", chunk_files(&disk));
            sleep(Duration::from_millis(100)).await;
        }
    });
}

/// Regular files below the disk's `chunks` directory.
fn chunk_files(disk: &std::path::Path) -> usize {
    fn count(directory: &std::path::Path) -> usize {
        let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
        entries.flatten().map(|e| if e.path().is_dir() { count(&e.path()) } else { 1 }).sum()
    }
    count(&disk.join("chunks"))
}

/// How many of a thief's requests, a read and a write, are refused as not its own.
async fn refusals_of_a_thief() -> u64 {
    let cluster = Cluster::start(1).await;
    let client = Client::open(&cluster).await;
    let chunk = client.chunk(1, 0);
    client.write(chunk, 0, &pattern(1, 1)).await;
    let thief = Client::of_member(&cluster, client.session, "thief");
    let primary = cluster.leader_of(client.pg(chunk));
    let other = pattern(2, 1);
    let read = thief.read_request(chunk, 0, BLOCK_SIZE, client.version());
    let write = thief.write_request(chunk, 0, &other, client.next_origin(), client.version());
    let mut refused = 0;
    for (request, payload) in [(read, Bytes::new()), (write, Bytes::from(other))] {
        let answer = thief.call(primary, &request, payload).await.expect("an answer");
        refused += u64::from(answer.is_err_and(|error| error == DataError::Malformed));
    }
    assert_eq!(cluster.counter(primary, "requests_of_other_sessions").await, refused);
    let untouched = client.read(chunk, 0, BLOCK_SIZE).await == pattern(1, 1);
    assert_eq!(untouched, refused == 2, "what the thief wrote");
    refused
}

#[test]
fn nobody_speaks_for_the_session_of_another_client() {
    scenario(|| async { assert_eq!(refusals_of_a_thief().await, 2) });
    scenario_with(Mutant::AnyOwner, || async {
        assert_eq!(refusals_of_a_thief().await, 0, "the planted bug has no effect");
    });
}
