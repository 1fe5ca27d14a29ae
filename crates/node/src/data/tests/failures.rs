//! Kills, returns, damage.

use super::client::pattern;
use super::{Client, Cluster, scenario};
use crate::data::{MARK_FILE, open_disks};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use weft_proto::control::NothingLost;
use weft_store::StoreConfig;
use weft_types::{BLOCK_SIZE, NodeId};

#[test]
fn service_goes_on_after_the_primary_is_killed_and_it_is_brought_up_to_date_when_it_returns() {
    scenario(|| async {
        let cluster = Cluster::start(4).await;
        let client = Client::open(&cluster).await;
        for index in 0..8 {
            client.write(client.chunk(1, index), 0, &pattern(u64::from(index), 4)).await;
        }
        let victim = cluster.leader_of(client.pg(client.chunk(1, 0)));
        cluster.kill(victim).await;
        for index in 0..8 {
            assert_eq!(client.read(client.chunk(1, index), 0, 4 * BLOCK_SIZE).await, pattern(u64::from(index), 4));
            client.write(client.chunk(1, index), 8192, &pattern(100 + u64::from(index), 4)).await;
        }
        cluster.start_node(victim).await;
        cluster.until_all_level().await;
        cluster.assert_replicas_agree(3).await;
        // It counts again: with the others gone one after the other, what it has is what there is.
        let other = cluster.running().into_iter().find(|node| *node != victim).unwrap();
        cluster.kill(other).await;
        for index in 0..8 {
            let bytes = client.read(client.chunk(1, index), 8192, 4 * BLOCK_SIZE).await;
            assert_eq!(bytes, pattern(100 + u64::from(index), 4));
        }
    });
}

#[test]
fn writes_under_way_while_nodes_are_killed_and_return_are_neither_lost_nor_doubled() {
    scenario(|| async {
        let cluster = Cluster::start(4).await;
        let client = Rc::new(Client::open(&cluster).await);
        let writers: Vec<_> = (0..8u32)
            .map(|writer| {
                let client = Rc::clone(&client);
                tokio::task::spawn_local(async move {
                    let chunk = client.chunk(3, writer);
                    // Odd lengths and offsets: merged with what is there, under the block's lock.
                    for round in 0..60u64 {
                        let bytes = pattern(u64::from(writer) * 1000 + round, 2);
                        client.write_among_others(chunk, 1000, &bytes[..5000]).await.unwrap();
                        sleep(Duration::from_millis(20)).await;
                    }
                })
            })
            .collect();
        for victim in [NodeId(1), NodeId(2)] {
            sleep(Duration::from_millis(300)).await;
            cluster.kill(victim).await;
            sleep(Duration::from_millis(300)).await;
            cluster.start_node(victim).await;
            cluster.until_all_level().await;
        }
        for writer in writers {
            writer.await.unwrap();
        }
        for writer in 0..8u32 {
            let last = pattern(u64::from(writer) * 1000 + 59, 2);
            assert_eq!(client.read(client.chunk(3, writer), 1000, 5000).await, last[..5000], "writer {writer}");
        }
        cluster.until_all_level().await;
        cluster.assert_replicas_agree(3).await;
    });
}

#[test]
fn all_nodes_killed_at_once_come_back_with_everything_that_was_acknowledged() {
    scenario(|| async {
        let cluster = Cluster::start(2).await;
        let client = Client::open(&cluster).await;
        for index in 0..6 {
            client.write(client.chunk(1, index), 0, &pattern(u64::from(index), 3)).await;
        }
        let nodes = cluster.running();
        for node in &nodes {
            cluster.kill(*node).await;
        }
        for node in &nodes {
            cluster.start_node(*node).await;
        }
        let map = cluster.map();
        for index in 0..6 {
            assert_eq!(client.read(client.chunk(1, index), 0, 3 * BLOCK_SIZE).await, pattern(u64::from(index), 3));
        }
        // The page cache outlived the processes, which they proved: nobody waited for `LOSSLESS_WAIT`, nothing was lost.
        assert!(cluster.map().pgs.iter().zip(&map.pgs).all(|(now, then)| now.loss_generation == then.loss_generation));
        cluster.until_all_level().await;
        cluster.assert_replicas_agree(3).await;
    });
}

#[test]
fn a_clean_stop_is_proven_and_the_proof_is_used_up() {
    scenario(|| async {
        let cluster = Cluster::start(1).await;
        let client = Client::open(&cluster).await;
        client.write(client.chunk(1, 0), 0, &pattern(1, 1)).await;
        let node = NodeId(2);
        let incarnation = cluster.incarnation(node);
        let path = cluster.disk_path(node);
        cluster.stop_cleanly(node).await;
        let mark = || std::fs::read_to_string(path.join(MARK_FILE)).unwrap();
        assert!(mark().contains("clean_stop"), "{}", mark());
        {
            let config = StoreConfig { segment_bytes: 512 << 10, ..StoreConfig::small() };
            let disks = open_disks(std::slice::from_ref(&path), super::cluster::CLUSTER, node, &config).unwrap();
            assert_eq!(disks.previous_incarnation(), incarnation);
            assert_eq!(disks.registrations()[0].proof, Some(NothingLost { of: incarnation }));
        }
        assert!(mark().contains("running"), "{}", mark());
        cluster.start_node(node).await;
        cluster.until_all_level().await;
        cluster.assert_replicas_agree(3).await;
    });
}

/// Flips one byte of `needle` wherever a file under `root` has it, except in journals. How many it found.
fn damage(root: &Path, needle: &[u8]) -> usize {
    let mut found = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "journal") {
                found += damage(&path, needle);
            }
            continue;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) else { continue };
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        found += 1;
    }
    found
}

/// Writes until the first chunk has gone from the journal to its file on every node.
async fn fill_until_checkpointed(cluster: &Cluster, client: &Client) {
    for round in 0..100u64 {
        client.write(client.chunk(2, (round % 20) as u32), 0, &pattern(1000 + round, 15)).await;
    }
    // Checkpoints are ten seconds apart when nothing presses; a busy machine syncs slowly.
    let deadline = Instant::now() + Duration::from_secs(150);
    for node in cluster.running() {
        while cluster.counter(node, "checkpoints").await < 2 {
            assert!(Instant::now() < deadline, "no checkpoint on {node}: {:?}", cluster.report(node).await.counters);
            // One that met everything leaves nothing for a second.
            client.write(client.chunk(2, 0), 0, &pattern(7, 1)).await;
            sleep(Duration::from_millis(50)).await;
        }
    }
}

#[test]
fn a_flipped_byte_is_never_returned_and_is_repaired_from_another_member() {
    scenario(|| async {
        let cluster = Cluster::start(1).await;
        let client = Client::open(&cluster).await;
        let chunk = client.chunk(1, 0);
        client.write(chunk, 0, &pattern(42, 4)).await;
        fill_until_checkpointed(&cluster, &client).await;
        let primary = cluster.leader_of(client.pg(chunk));
        let second_block = &pattern(42, 4)[BLOCK_SIZE..BLOCK_SIZE + 64];
        assert_eq!(damage(&cluster.disk_path(primary), second_block), 1, "the block is in one chunk file");
        assert_eq!(client.read(chunk, 0, 4 * BLOCK_SIZE).await, pattern(42, 4));
        let deadline = Instant::now() + Duration::from_secs(30);
        while cluster.counter(primary, "blocks_repaired").await == 0 {
            assert!(Instant::now() < deadline, "not repaired");
            sleep(Duration::from_millis(20)).await;
        }
        let bad = cluster.counter(primary, "blocks_bad").await;
        assert!(bad > 0);
        assert_eq!(client.read(chunk, 0, 4 * BLOCK_SIZE).await, pattern(42, 4));
        assert_eq!(cluster.counter(primary, "blocks_bad").await, bad, "the second read found nothing bad");
        cluster.until_told("was repaired").await;
    });
}

#[test]
fn the_scrub_finds_and_repairs_damage_on_a_backup() {
    scenario(|| async {
        let cluster = Cluster::start(1).await;
        let client = Client::open(&cluster).await;
        let chunk = client.chunk(1, 0);
        client.write(chunk, 0, &pattern(43, 4)).await;
        fill_until_checkpointed(&cluster, &client).await;
        let primary = cluster.leader_of(client.pg(chunk));
        let backup = cluster.running().into_iter().find(|node| *node != primary).unwrap();
        cluster.stop_cleanly(backup).await;
        assert_eq!(damage(&cluster.disk_path(backup), &pattern(43, 4)[..64]), 1);
        cluster.scrub_bytes_per_second.set(64 << 20);
        cluster.start_node(backup).await;
        let deadline = Instant::now() + Duration::from_secs(30);
        while cluster.counter(backup, "blocks_repaired").await == 0 {
            assert!(Instant::now() < deadline, "not repaired: {:?}", cluster.report(backup).await.counters);
            sleep(Duration::from_millis(20)).await;
        }
        cluster.until_told("scrub: block 0").await;
    });
}
