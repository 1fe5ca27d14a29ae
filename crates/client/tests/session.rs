//! The whole client against a cluster in memory: the real metadata state machine, and placement groups in a map.

use bytes::Bytes;
use std::time::{Duration, Instant};
use weft_client::fake::FakeCluster;
use weft_client::{
    Access, Client, ConnectOptions, Durability, FileHandle, FlushScope, OpenContents, Seek, SizeEffect, block_on,
};
use weft_proto::namespace::{AttributeChange, Credentials, NewInode, RenameMode, XattrMode};
use weft_types::{ChunkSize, ErrorKind, InodeNumber};

const CHUNK: u64 = 64 << 10;
const ROOT: InodeNumber = InodeNumber::ROOT;

fn cluster() -> FakeCluster {
    FakeCluster::new("vms", ChunkSize::new(CHUNK as u32).unwrap(), 8)
}

async fn connect(cluster: &FakeCluster) -> Client {
    connect_with(cluster, None).await
}

async fn connect_with(cluster: &FakeCluster, fail_after: Option<Duration>) -> Client {
    let mut options = ConnectOptions::new("/unused");
    options.fail_after = fail_after;
    Client::connect_over(cluster.network(), cluster.control_addresses(), &options, "vms", "/mnt").await.unwrap()
}

async fn create(client: &Client, name: &str) -> FileHandle {
    let wish = client.create_file(ROOT, name.as_bytes(), 0o644, Credentials::default(), Access::Write);
    wish.await.unwrap().1
}

fn pattern(length: usize, seed: u8) -> Bytes {
    (0..length).map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed)).collect::<Vec<_>>().into()
}

async fn size_of(client: &Client, file: &FileHandle) -> u64 {
    client.attributes(file.inode()).await.unwrap().size_bytes
}

#[test]
fn what_was_written_reads_back_across_chunks_and_at_odd_offsets() {
    block_on(async {
        let client = connect(&cluster()).await;
        let file = create(&client, "a").await;
        let data = pattern(200_000, 1);
        assert_eq!(file.write(12_345, data.clone(), Durability::Volume).await.unwrap(), 200_000);
        assert_eq!(file.read(12_345, 200_000).await.unwrap(), data);
        assert_eq!(file.read(12_000, 345).await.unwrap(), Bytes::from(vec![0; 345]));
        // Short only at the end.
        assert_eq!(file.read(212_000, 10_000).await.unwrap().len(), 345);
        assert!(file.read(300_000, 10).await.unwrap().is_empty());
        file.close().await.unwrap();
        client.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_lost_answer_is_retried_and_the_write_happens_once() {
    let cluster = cluster();
    block_on(async {
        let client = connect(&cluster).await;
        let file = create(&client, "a").await;
        cluster.set_faults(|faults| faults.lose_answers = 3);
        file.write(0, pattern(4096, 1), Durability::Volume).await.unwrap();
        let counts = cluster.counts();
        assert_eq!((counts.writes_applied, counts.duplicates), (1, 3));
    })
    .unwrap();
}

#[test]
fn a_lost_answer_of_a_mutation_gets_the_first_answer_again() {
    let cluster = cluster();
    block_on(async {
        let client = connect(&cluster).await;
        cluster.set_faults(|faults| faults.lose_mutation_answers = 2);
        // Sent anew under another number it would be told that the name exists.
        client.create(ROOT, b"d", NewInode::Directory, 0o755, Credentials::default()).await.unwrap();
        assert_eq!(cluster.counts().mutations, 3);
    })
    .unwrap();
}

#[test]
fn writes_resume_soon_after_the_map_moves_away_from_a_silent_node() {
    let cluster = cluster();
    block_on(async {
        let client = connect(&cluster).await;
        let file = create(&client, "a").await;
        cluster.cut_off(3);
        let later = cluster.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            later.declare_dead(3);
        });
        let began = Instant::now();
        for n in 0..16 {
            file.write(n * CHUNK, pattern(4096, n as u8), Durability::Volume).await.unwrap();
        }
        file.flush(FlushScope::DataAndTimes).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        for n in 0..16 {
            assert_eq!(file.read(n * CHUNK, 4096).await.unwrap(), pattern(4096, n as u8));
        }
    })
    .unwrap();
}

#[test]
fn the_client_finds_the_next_leader_when_the_first_is_cut_off() {
    let cluster = cluster();
    block_on(async {
        let client = connect(&cluster).await;
        cluster.cut_off(1);
        let began = Instant::now();
        client.create(ROOT, b"d", NewInode::Directory, 0o755, Credentials::default()).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        // The map is followed at the new leader.
        cluster.declare_dead(1);
        let file = create(&client, "a").await;
        for n in 0..16 {
            file.write(n * CHUNK, pattern(4096, 1), Durability::Volume).await.unwrap();
        }
    })
    .unwrap();
}

#[test]
fn a_struck_session_fails_everything_for_good() {
    let cluster = cluster();
    block_on(async {
        let client = connect(&cluster).await;
        let file = create(&client, "a").await;
        file.write(0, pattern(4096, 1), Durability::Volume).await.unwrap();
        cluster.strike(client.session());
        assert_eq!(file.write(0, pattern(4096, 2), Durability::Volume).await, Err(ErrorKind::Fenced));
        assert_eq!(file.read(0, 4096).await, Err(ErrorKind::Fenced));
        assert_eq!(file.flush(FlushScope::Data).await, Err(ErrorKind::Fenced));
        assert!(client.is_fenced());
    })
    .unwrap();
}

#[test]
fn loss_fails_the_next_flush_of_each_open_file_once() {
    let cluster = cluster();
    block_on(async {
        let client = connect(&cluster).await;
        let file = create(&client, "a").await;
        let second = client.open(file.inode(), Access::Write, OpenContents::Keep).await.unwrap();
        file.write(0, pattern(4096, 1), Durability::Volume).await.unwrap();
        file.flush(FlushScope::Data).await.unwrap();
        cluster.lose_unflushed_writes();
        assert!(matches!(file.flush(FlushScope::Data).await, Err(ErrorKind::Io(_))));
        file.flush(FlushScope::Data).await.unwrap();
        assert!(matches!(second.flush(FlushScope::Data).await, Err(ErrorKind::Io(_))));
        second.flush(FlushScope::Data).await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_stat_elsewhere_shows_what_only_the_holder_knows() {
    let cluster = cluster();
    block_on(async {
        let (a, b) = (connect(&cluster).await, connect(&cluster).await);
        let file = create(&a, "a").await;
        for round in 1..=20u64 {
            file.write((round - 1) * 500, pattern(500, 1), Durability::Volume).await.unwrap();
            assert_eq!(size_of(&a, &file).await, round * 500);
            assert_eq!(size_of(&b, &file).await, round * 500, "nobody has flushed");
        }
        let other = b.open(file.inode(), Access::Read, OpenContents::Keep).await.unwrap();
        assert_eq!(other.read(9_500, 5_000).await.unwrap(), pattern(500, 1));
        file.write(10_000, pattern(100, 2), Durability::Volume).await.unwrap();
        assert_eq!(other.read(10_000, 5_000).await.unwrap(), pattern(100, 2));
        // A reader recalls nothing: the writer goes on without asking anybody.
        let mutations = cluster.counts().mutations;
        file.write(10_100, pattern(100, 3), Durability::Volume).await.unwrap();
        assert_eq!(cluster.counts().mutations, mutations);
    })
    .unwrap();
}

#[test]
fn a_file_at_rest_has_a_size_that_needs_no_question() {
    let cluster = cluster();
    block_on(async {
        let (a, b) = (connect(&cluster).await, connect(&cluster).await);
        let file = create(&a, "a").await;
        file.write(0, pattern(5_000, 1), Durability::Volume).await.unwrap();
        // The room is given back, within two rounds of upkeep.
        let began = Instant::now();
        while cluster.asks_holder(file.inode()) {
            assert!(began.elapsed() < Duration::from_secs(20), "the room is never given back");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(size_of(&b, &file).await, 5_000);
        file.append(pattern(10, 1), Durability::Volume).await.unwrap();
        assert_eq!(size_of(&b, &file).await, 5_010);
    })
    .unwrap();
}

#[test]
fn two_writers_make_a_file_longer_in_turn_and_lose_nothing() {
    let cluster = cluster();
    block_on(async {
        let (a, b) = (connect(&cluster).await, connect(&cluster).await);
        let first = create(&a, "a").await;
        let second = b.open(first.inode(), Access::Write, OpenContents::Keep).await.unwrap();
        first.write(0, pattern(1_000, 1), Durability::Volume).await.unwrap();
        // The first one keeps the file open and says nothing of its size.
        assert_eq!(second.append(pattern(500, 2), Durability::Volume).await.unwrap(), (1_000, 500));
        let appends = |file: FileHandle, seed: u8| async move {
            for _ in 0..25 {
                assert_eq!(file.append(pattern(64, seed), Durability::Volume).await.unwrap().1, 64);
            }
        };
        let one = tokio::task::spawn_local(appends(first.clone(), 3));
        let other = tokio::task::spawn_local(appends(second.clone(), 4));
        one.await.unwrap();
        other.await.unwrap();
        assert_eq!((size_of(&a, &first).await, size_of(&b, &second).await), (4_700, 4_700));
        let records = first.read(1_500, 3_200).await.unwrap();
        let of = |seed| records.chunks(64).filter(|record| **record == pattern(64, seed)).count();
        assert_eq!((of(3), of(4)), (25, 25), "a record is torn or overwritten");
    })
    .unwrap();
}

#[test]
fn when_a_truncation_returns_every_host_works_under_it() {
    let cluster = cluster();
    block_on(async {
        let (a, b) = (connect(&cluster).await, connect(&cluster).await);
        let file = create(&a, "a").await;
        let other = b.open(file.inode(), Access::Write, OpenContents::Keep).await.unwrap();
        for round in 0..5 {
            file.write(0, pattern(100_000, round), Durability::Volume).await.unwrap();
            other.truncate(1_000).await.unwrap();
            assert_eq!(file.size_bytes(), 1_000, "it was not told before the truncation was answered");
            assert!(file.read(8_192, 4_096).await.unwrap().is_empty());
            assert_eq!(file.append(pattern(10, round), Durability::Volume).await.unwrap(), (1_000, 10));
            other.truncate(0).await.unwrap();
            assert!(file.read(0, 4_096).await.unwrap().is_empty());
        }
    })
    .unwrap();
}

#[test]
fn a_copy_within_a_volume_keeps_holes() {
    let cluster = cluster();
    block_on(async {
        let client = connect(&cluster).await;
        let (from, to) = (create(&client, "a").await, create(&client, "b").await);
        from.write(2 * CHUNK, pattern(10_000, 1), Durability::Volume).await.unwrap();
        to.write(0, pattern(200_000, 9), Durability::Volume).await.unwrap();
        let length = from.size_bytes();
        assert_eq!(from.copy_to(0, &to, 100, length + 50).await.unwrap(), length);
        assert_eq!(to.read(100, 2 * CHUNK as u32).await.unwrap(), Bytes::from(vec![0; 2 * CHUNK as usize]));
        assert_eq!(to.read(100 + 2 * CHUNK, 10_000).await.unwrap(), pattern(10_000, 1));
        assert_eq!(to.read(0, 100).await.unwrap(), pattern(200_000, 9).slice(..100));
        assert_eq!(to.presence(4_096..2 * CHUNK).await.unwrap(), []);
    })
    .unwrap();
}

#[test]
fn old_bytes_never_come_back_after_shrink_and_grow() {
    let cluster = cluster();
    block_on(async {
        let client = connect(&cluster).await;
        let file = create(&client, "a").await;
        file.write(0, pattern(300_000, 1), Durability::Volume).await.unwrap();
        file.truncate(5_000).await.unwrap();
        file.truncate(300_000).await.unwrap();
        assert_eq!(file.read(0, 5_000).await.unwrap(), pattern(5_000, 1));
        let rest = file.read(5_000, 295_000).await.unwrap();
        assert_eq!(rest.len(), 295_000);
        assert!(rest.iter().all(|byte| *byte == 0));
        // To zero: another object, and writing goes on.
        file.truncate(0).await.unwrap();
        assert_eq!(size_of(&client, &file).await, 0);
        file.write(0, pattern(10, 7), Durability::Volume).await.unwrap();
        assert_eq!(file.read(0, 100).await.unwrap(), pattern(10, 7));
    })
    .unwrap();
}

#[test]
fn a_writer_follows_a_truncation_by_another_host() {
    let cluster = cluster();
    block_on(async {
        let (a, b) = (connect(&cluster).await, connect(&cluster).await);
        let file = create(&a, "a").await;
        file.write(0, pattern(100_000, 1), Durability::Volume).await.unwrap();
        file.publish_size().await.unwrap();
        let change = AttributeChange { size_bytes: Some(1_000), ..AttributeChange::default() };
        b.set_attributes(file.inode(), change).await.unwrap();
        file.write(50_000, pattern(100, 2), Durability::Volume).await.unwrap();
        assert_eq!(file.size_bytes(), 50_100);
        let gap = file.read(1_000, 49_000).await.unwrap();
        assert!(gap.len() == 49_000 && gap.iter().all(|byte| *byte == 0));
    })
    .unwrap();
}

#[test]
fn a_failed_extending_write_leaves_the_size() {
    let cluster = cluster();
    block_on(async {
        let client = connect(&cluster).await;
        let file = create(&client, "a").await;
        file.write(0, pattern(4096, 1), Durability::Volume).await.unwrap();
        cluster.set_faults(|faults| faults.no_space = true);
        assert_eq!(file.write(4096, pattern(4096, 1), Durability::Volume).await, Err(ErrorKind::NoSpace));
        assert_eq!(size_of(&client, &file).await, 4096);
    })
    .unwrap();
}

#[test]
fn holes_are_found_and_discard_makes_them() {
    let cluster = cluster();
    block_on(async {
        let client = connect(&cluster).await;
        let file = create(&client, "a").await;
        let block = 4096u64;
        file.write(3 * CHUNK, pattern(8192, 1), Durability::Volume).await.unwrap();
        file.write(40 * CHUNK, pattern(4096, 1), Durability::Volume).await.unwrap();
        assert_eq!(file.seek(0, Seek::Data).await.unwrap(), Some(3 * CHUNK));
        assert_eq!(file.seek(3 * CHUNK, Seek::Hole).await.unwrap(), Some(3 * CHUNK + 2 * block));
        assert_eq!(file.seek(0, Seek::Hole).await.unwrap(), Some(0));
        assert_eq!(file.seek(4 * CHUNK, Seek::Data).await.unwrap(), Some(40 * CHUNK));
        assert_eq!(file.seek(40 * CHUNK, Seek::Hole).await.unwrap(), Some(40 * CHUNK + block));
        assert_eq!(file.seek(41 * CHUNK, Seek::Data).await.unwrap(), None);
        assert_eq!(client.attributes(file.inode()).await.unwrap().allocated_bytes, 3 * block);
        file.discard(3 * CHUNK..3 * CHUNK + block).await.unwrap();
        assert_eq!(
            file.presence(0..u64::MAX).await.unwrap(),
            [3 * CHUNK + block..3 * CHUNK + 2 * block, 40 * CHUNK..40 * CHUNK + block]
        );
        file.discard(0..50 * CHUNK).await.unwrap();
        assert_eq!(cluster.present_blocks(), 0);
        assert_eq!(size_of(&client, &file).await, 40 * CHUNK + block);
    })
    .unwrap();
}

#[test]
fn zeros_take_their_room_and_leave_what_is_beside_them() {
    let cluster = cluster();
    block_on(async {
        let client = connect(&cluster).await;
        let file = create(&client, "a").await;
        let block = 4096u64;
        let mut data = pattern(3 * CHUNK as usize, 1).to_vec();
        file.write(0, data.clone().into(), Durability::Volume).await.unwrap();
        // Whole blocks, a ragged head and tail over the border of a chunk, and within one block.
        let ranges = [
            block..3 * block,
            CHUNK - 5000..CHUNK + 5000,
            2 * CHUNK + 10..2 * CHUNK + 90,
            100..block,
            CHUNK..CHUNK + 7,
        ];
        for range in ranges {
            file.zero(range.clone(), SizeEffect::Extend).await.unwrap();
            data[range.start as usize..range.end as usize].fill(0);
            assert_eq!(file.read(0, 3 * CHUNK as u32).await.unwrap(), data, "{range:?}");
        }
        assert_eq!(cluster.present_blocks() as u64, 3 * CHUNK / block);
        // Holes get their room, those of which the range touches a part too, and the file grows.
        file.discard(CHUNK..2 * CHUNK).await.unwrap();
        assert_eq!(cluster.present_blocks() as u64, 2 * CHUNK / block);
        file.zero(CHUNK + 10..2 * CHUNK - 10, SizeEffect::Keep).await.unwrap();
        assert_eq!(cluster.present_blocks() as u64, 3 * CHUNK / block);
        let fills = cluster.counts().fills;
        file.zero(3 * CHUNK + 1..40 * CHUNK - 1, SizeEffect::Extend).await.unwrap();
        assert_eq!(cluster.counts().fills - fills, 37 + 2, "one request a chunk, and one for each end");
        assert_eq!(cluster.present_blocks() as u64, 40 * CHUNK / block);
        assert_eq!(size_of(&client, &file).await, 40 * CHUNK - 1);
        assert_eq!(client.attributes(file.inode()).await.unwrap().allocated_bytes, 40 * CHUNK);
        // Past the end, with the size kept: nothing that any placement group knows of makes the file longer.
        file.zero(50 * CHUNK + 1..51 * CHUNK - 1, SizeEffect::Keep).await.unwrap();
        assert_eq!(size_of(&client, &file).await, 40 * CHUNK - 1);
        assert_eq!(cluster.present_blocks() as u64, 41 * CHUNK / block);
    })
    .unwrap();
}

#[test]
fn zeros_without_room_fail_and_are_made_again() {
    let cluster = cluster();
    block_on(async {
        let client = connect(&cluster).await;
        let file = create(&client, "a").await;
        cluster.set_faults(|faults| faults.no_space = true);
        assert_eq!(file.zero(0..9 * CHUNK, SizeEffect::Extend).await, Err(ErrorKind::NoSpace));
        assert_eq!(size_of(&client, &file).await, 0);
        cluster.set_faults(|faults| faults.no_space = false);
        file.zero(0..9 * CHUNK, SizeEffect::Extend).await.unwrap();
        assert_eq!(size_of(&client, &file).await, 9 * CHUNK);
    })
    .unwrap();
}

#[test]
fn what_is_reserved_is_there_with_zeros_and_keeps_what_was_written() {
    let cluster = cluster();
    block_on(async {
        let client = connect(&cluster).await;
        let file = create(&client, "a").await;
        let block = 4096u64;
        let data = pattern(4096, 1);
        file.write(CHUNK, data.clone(), Durability::Volume).await.unwrap();
        // One request a chunk; blocks that are touched in part are reserved whole.
        let chunks = 40;
        file.reserve(100..chunks * CHUNK - 100, SizeEffect::Extend).await.unwrap();
        assert_eq!(cluster.counts().fills, chunks);
        assert_eq!(cluster.present_blocks() as u64, chunks * CHUNK / block);
        assert_eq!(size_of(&client, &file).await, chunks * CHUNK - 100);
        assert_eq!(client.attributes(file.inode()).await.unwrap().allocated_bytes, chunks * CHUNK);
        assert_eq!(file.read(CHUNK, 4096).await.unwrap(), data);
        assert!(file.read(7 * CHUNK, 8192).await.unwrap().iter().all(|byte| *byte == 0));
        assert_eq!(file.seek(0, Seek::Hole).await.unwrap(), Some(chunks * CHUNK - 100));
        // Past the end, with the size kept; a shorter size takes it away.
        file.reserve(50 * CHUNK..51 * CHUNK, SizeEffect::Keep).await.unwrap();
        assert_eq!(size_of(&client, &file).await, chunks * CHUNK - 100);
        assert_eq!(cluster.present_blocks() as u64, (chunks + 1) * CHUNK / block);
        file.truncate(2 * CHUNK).await.unwrap();
        assert_eq!(cluster.present_blocks() as u64, 2 * CHUNK / block);
    })
    .unwrap();
}

#[test]
fn a_reservation_without_room_fails_and_leaves_the_size() {
    let cluster = cluster();
    block_on(async {
        let client = connect(&cluster).await;
        let file = create(&client, "a").await;
        cluster.set_faults(|faults| faults.no_space = true);
        assert_eq!(file.reserve(0..9 * CHUNK, SizeEffect::Extend).await, Err(ErrorKind::NoSpace));
        assert_eq!(size_of(&client, &file).await, 0);
        cluster.set_faults(|faults| faults.no_space = false);
        file.reserve(0..9 * CHUNK, SizeEffect::Extend).await.unwrap();
        assert_eq!(size_of(&client, &file).await, 9 * CHUNK);
    })
    .unwrap();
}

#[test]
fn a_reservation_follows_a_truncation_by_another_host() {
    let cluster = cluster();
    block_on(async {
        let (a, b) = (connect(&cluster).await, connect(&cluster).await);
        let file = create(&a, "a").await;
        file.write(0, pattern(100_000, 1), Durability::Volume).await.unwrap();
        file.publish_size().await.unwrap();
        let change = AttributeChange { size_bytes: Some(1_000), ..AttributeChange::default() };
        b.set_attributes(file.inode(), change).await.unwrap();
        file.reserve(0..3 * CHUNK, SizeEffect::Extend).await.unwrap();
        assert_eq!(size_of(&b, &file).await, 3 * CHUNK);
        assert_eq!(cluster.present_blocks() as u64, 3 * CHUNK / 4096);
        assert!(file.read(1_000, 99_000).await.unwrap().iter().all(|byte| *byte == 0), "old bytes came back");
    })
    .unwrap();
}

#[test]
fn synchronous_writes_ask_for_the_disk() {
    let cluster = cluster();
    block_on(async {
        let client = connect(&cluster).await;
        let file = create(&client, "a").await;
        file.write(0, pattern(4096, 1), Durability::Disk).await.unwrap();
        file.write(0, pattern(4096, 1), Durability::Volume).await.unwrap();
        assert_eq!(cluster.counts().synced_writes, 1);
        // One request a node, however many groups.
        file.flush(FlushScope::Data).await.unwrap();
        assert!(cluster.counts().flush_requests <= 3);
    })
    .unwrap();
}

#[test]
fn a_mount_told_to_fail_reports_a_time_out_and_the_write_still_counts_later() {
    let cluster = cluster();
    block_on(async {
        let client = connect_with(&cluster, Some(Duration::from_millis(200))).await;
        let file = create(&client, "a").await;
        cluster.set_faults(|faults| faults.refuse = 8);
        let failed = file.write(0, pattern(4096, 1), Durability::Volume).await;
        assert!(matches!(failed, Err(ErrorKind::TimedOut { .. })), "{failed:?}");
        let began = Instant::now();
        while cluster.counts().writes_applied == 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "the write was forgotten");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(cluster.counts().writes_applied, 1);
    })
    .unwrap();
}

#[test]
fn names_links_attributes_and_xattrs_work_end_to_end() {
    block_on(async {
        let client = connect(&cluster()).await;
        let who = Credentials { uid: 1000, gid: 100, umask: 0 };
        let directory = client.create(ROOT, b"d", NewInode::Directory, 0o755, who).await.unwrap().attributes.inode;
        for n in 0..2_500 {
            let name = format!("file-{n:05}");
            client.create(directory, name.as_bytes(), NewInode::Regular, 0o600, who).await.unwrap();
        }
        let (mut after, mut seen) = (0, 0);
        loop {
            let page = client.read_directory(directory, after, 1_000).await.unwrap();
            assert_eq!(page.parent, ROOT);
            seen += page.entries.len();
            after = page.entries.last().map_or(after, |last| last.cookie);
            if page.complete {
                break;
            }
        }
        assert_eq!(seen, 2_500);
        let file = client.resolve("/d/file-00007").await.unwrap().attributes;
        assert_eq!((file.uid, file.mode), (1000, 0o600));
        client.rename(directory, b"file-00007", ROOT, b"moved", RenameMode::NoReplace).await.unwrap();
        assert_eq!(client.lookup(directory, b"file-00007").await, Err(ErrorKind::NotFound));
        assert_eq!(client.link(file.inode, ROOT, b"twice").await.unwrap().attributes.links, 2);
        client.set_xattr(file.inode, b"user.k", b"v", XattrMode::Create).await.unwrap();
        assert_eq!(client.get_xattr(file.inode, b"user.k").await.unwrap(), b"v");
        assert_eq!(client.list_xattrs(file.inode).await.unwrap(), [b"user.k".to_vec()]);
        assert_eq!(client.get_xattr(file.inode, b"user.x").await, Err(ErrorKind::NoAttribute));
        let link = NewInode::Symlink { target: b"d/else".to_vec() };
        let link = client.create(ROOT, b"l", link, 0o777, who).await.unwrap().attributes.inode;
        assert_eq!(client.read_link(link).await.unwrap(), b"d/else");
        assert_eq!(client.remove_directory(ROOT, b"d").await, Err(ErrorKind::NotEmpty));
        client.unlink(ROOT, b"twice").await.unwrap();
        let space = client.space().await.unwrap();
        assert_eq!(space.total_bytes, 100 << 30);
        assert_eq!(space.free_bytes, 50 << 30);
    })
    .unwrap();
}

#[test]
fn an_unlinked_file_lives_while_it_is_open() {
    block_on(async {
        let client = connect(&cluster()).await;
        let file = create(&client, "a").await;
        file.write(0, pattern(4096, 1), Durability::Volume).await.unwrap();
        client.unlink(ROOT, b"a").await.unwrap();
        assert_eq!(file.read(0, 4096).await.unwrap(), pattern(4096, 1));
        file.write(4096, pattern(4096, 2), Durability::Volume).await.unwrap();
        file.flush(FlushScope::DataAndTimes).await.unwrap();
        let inode = file.inode();
        file.close().await.unwrap();
        assert!(client.attributes(inode).await.is_err());
    })
    .unwrap();
}

#[test]
fn a_time_that_is_set_after_a_write_stays() {
    block_on(async {
        let client = connect(&cluster()).await;
        let file = create(&client, "a").await;
        file.write(0, pattern(4096, 1), Durability::Volume).await.unwrap();
        let time = weft_types::Timestamp { seconds: 1_000, nanoseconds: 5 };
        let modified = Some(weft_proto::namespace::TimeChange::To(time));
        let change = AttributeChange { modified, ..AttributeChange::default() };
        assert_eq!(client.set_attributes(file.inode(), change).await.unwrap().modified, time);
        let inode = file.inode();
        file.close().await.unwrap();
        let attributes = client.attributes(inode).await.unwrap();
        assert_eq!((attributes.modified, attributes.size_bytes), (time, 4096));
    })
    .unwrap();
}
