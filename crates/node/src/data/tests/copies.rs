//! Copies from chunk to chunk, which the target's primary reads for itself (decision 0015).

use super::client::{Answer, pattern};
use super::{Client, Cluster, scenario, scenario_with};
use crate::mutants::Mutant;
use bytes::Bytes;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use weft_meta::{Command, CommandReply};
use weft_proto::data::{CopyRequest, DataReply, DataRequest, TruncateRequest};
use weft_types::error::NotServing;
use weft_types::{ChunkId, DataError, MapVersion, NodeId, ObjectId, PgId, TruncateGeneration};

const SOURCE: u64 = 1;
const TARGET: u64 = 2;
const CUT: TruncateGeneration = TruncateGeneration(1);

#[test]
fn a_copy_between_any_two_groups_is_what_the_source_holds() {
    scenario(|| async {
        let cluster = Cluster::start(4).await;
        let client = Client::open(&cluster).await;
        let mut copied = 0;
        for index in 0..8 {
            let (from, to) = (client.chunk(SOURCE, index), client.chunk(TARGET, (index * 3 + 1) % 8));
            let (source, target) = (pattern(u64::from(index), 5), pattern(100, 8));
            client.write(from, 4096, &source).await;
            client.write(to, 0, &target).await;
            // A part of a block at each end, and what is absent in the source.
            client.copy((from, 3000), (to, 1000), 9000).await;
            let mut model = target.clone();
            model[1000..1000 + 1096].fill(0);
            model[2096..10_000].copy_from_slice(&source[..7904]);
            assert_eq!(client.read(to, 0, model.len()).await, model, "chunk {index}");
            // Whole blocks.
            client.copy((from, 8192), (to, 16_384), 8192).await;
            model[16_384..24_576].copy_from_slice(&source[4096..12_288]);
            assert_eq!(client.read(to, 0, model.len()).await, model, "chunk {index}");
            copied += 9000 + 8192;
        }
        cluster.assert_replicas_agree(3).await;
        let mut counted = 0;
        for node in cluster.running() {
            counted += cluster.counter(node, "bytes_copied").await;
        }
        assert_eq!(counted, copied, "every byte was copied by the nodes, once");
    });
}

#[test]
fn malformed_copies_are_refused() {
    scenario(|| async {
        let cluster = Cluster::start(1).await;
        let client = Client::open(&cluster).await;
        let (from, to) = (client.chunk(SOURCE, 0), client.chunk(TARGET, 0));
        let primary = cluster.leader_of(client.pg(to));
        type Damage = fn(&mut CopyRequest);
        let damages: [Damage; 6] = [
            // Under which only nodes read.
            |copy| copy.origin.session = crate::data::repair::REPAIR_SESSION,
            |copy| copy.length_bytes = 0,
            |copy| copy.length_bytes = u32::MAX,
            |copy| copy.source.offset_bytes = 65_536,
            |copy| copy.offset_bytes = 65_536,
            |copy| copy.source.pg = PgId { volume: weft_types::VolumeId(77), ..copy.source.pg },
        ];
        for damage in damages {
            let mut copy = client.copy_of((from, 0), (to, 0), 4096, client.next_origin(), client.version());
            damage(&mut copy);
            let answer = client.call(primary, &DataRequest::Copy(copy), Bytes::new()).await.unwrap();
            assert_eq!(answer.unwrap_err(), DataError::Malformed);
        }
    });
}

#[test]
fn a_copy_that_is_sent_again_is_carried_out_once_wherever_the_target_is_led() {
    scenario(|| async {
        let cluster = Cluster::start(4).await;
        let client = Client::open(&cluster).await;
        let other = Client::open(&cluster).await;
        let (from, to) = (client.chunk(SOURCE, 0), client.chunk(TARGET, 0));
        client.write(from, 0, &pattern(1, 2)).await;
        let origin = client.next_origin();
        let again = || async {
            let request = |version| DataRequest::Copy(client.copy_of((from, 0), (to, 0), 8192, origin, version));
            let answer = client.persist(client.pg(to), request, Bytes::new()).await;
            assert_eq!(answer.unwrap().0, DataReply::Written);
        };
        again().await;
        assert_eq!(client.read(to, 0, 8192).await, pattern(1, 2));
        // Its answer was lost, say. Meanwhile both sides were written.
        other.write(from, 0, &pattern(2, 2)).await;
        other.write(to, 0, &pattern(3, 2)).await;
        again().await;
        assert_eq!(client.read(to, 0, 8192).await, pattern(3, 2), "a copy that was acknowledged was made again");
        cluster.kill(cluster.leader_of(client.pg(to))).await;
        again().await;
        assert_eq!(client.read(to, 0, 8192).await, pattern(3, 2), "another primary made it again");
    });
}

#[test]
fn copies_go_on_when_the_primary_of_either_side_is_killed() {
    scenario(|| async {
        let cluster = Cluster::start(4).await;
        let client = Rc::new(Client::open(&cluster).await);
        for index in 0..8 {
            client.write(client.chunk(SOURCE, index), 0, &pattern(u64::from(index), 16)).await;
        }
        let copiers: Vec<_> = (0..8u32)
            .map(|index| {
                let client = Rc::clone(&client);
                tokio::task::spawn_local(async move {
                    for round in 0..40u32 {
                        let (from, to) = (client.chunk(SOURCE, index), client.chunk(TARGET + u64::from(round), index));
                        client.copy_among_others((from, 100), (to, 5000), 50_000).await;
                        sleep(Duration::from_millis(10)).await;
                    }
                })
            })
            .collect();
        for victim in [NodeId(1), NodeId(2), NodeId(3)] {
            sleep(Duration::from_millis(200)).await;
            cluster.kill(victim).await;
            sleep(Duration::from_millis(300)).await;
            cluster.start_node(victim).await;
            cluster.until_all_level().await;
        }
        for copier in copiers {
            copier.await.unwrap();
        }
        for index in 0..8u32 {
            let source = pattern(u64::from(index), 16);
            for round in 0..40u64 {
                let bytes = client.read(client.chunk(TARGET + round, index), 5000, 50_000).await;
                assert_eq!(bytes, source[100..50_100], "copy {round} of chunk {index}");
            }
        }
        cluster.assert_replicas_agree(3).await;
    });
}

/// A copy whose source waits for a cut: the test decides when it goes on.
struct Held {
    cluster: Cluster,
    client: Rc<Client>,
    from: ChunkId,
    to: ChunkId,
    target_primary: NodeId,
    copy: CopyRequest,
    answer: JoinHandle<Option<Answer>>,
}

impl Held {
    async fn start() -> Self {
        let cluster = Cluster::start(4).await;
        let client = Rc::new(Client::open(&cluster).await);
        let from = client.chunk(SOURCE, 0);
        let led_elsewhere =
            |chunk: &ChunkId| cluster.leader_of(client.pg(*chunk)) != cluster.leader_of(client.pg(from));
        let to = (0..64).map(|index| client.chunk(TARGET, index)).find(led_elsewhere).unwrap();
        client.write(from, 0, &pattern(1, 2)).await;
        client.write(to, 0, &pattern(2, 2)).await;
        let mut copy = client.copy_of((from, 0), (to, 0), 8192, client.next_origin(), client.version());
        copy.source.generation = CUT;
        let target_primary = cluster.leader_of(client.pg(to));
        let answer = {
            let (client, copy) = (Rc::clone(&client), DataRequest::Copy(copy.clone()));
            tokio::task::spawn_local(async move { client.call(target_primary, &copy, Bytes::new()).await })
        };
        sleep(Duration::from_millis(200)).await;
        assert!(!answer.is_finished(), "the source did not wait");
        Self { cluster, client, from, to, target_primary, copy, answer }
    }

    /// The cut arrives, from somebody else; the answer that the copy then gets.
    async fn released(self, by: &Client) -> Result<DataReply, DataError> {
        let cut = |map_version| {
            DataRequest::Truncate(TruncateRequest {
                pg: by.pg(self.from),
                map_version,
                origin: Some(by.next_origin()),
                object: ObjectId(SOURCE),
                size_bytes: 4096,
                generation: CUT,
            })
        };
        by.persist(by.pg(self.from), cut, Bytes::new()).await.unwrap();
        self.answer.await.unwrap().expect("an answer").map(|(reply, _)| reply)
    }
}

/// The second attempt of a copy that is under way: what it is answered, if at all.
async fn a_second_attempt() -> Option<DataError> {
    let held = Held::start().await;
    let other = Client::open(&held.cluster).await;
    let copy = DataRequest::Copy(held.copy.clone());
    let again = held.client.call(held.target_primary, &copy, Bytes::new());
    let again = tokio::time::timeout(Duration::from_millis(500), again).await.ok().flatten();
    let to = held.to;
    assert_eq!(held.released(&other).await, Ok(DataReply::Written));
    // What was cut off is not copied.
    let mut expected = pattern(1, 2);
    expected[4096..].fill(0);
    assert_eq!(other.read(to, 0, 8192).await, expected);
    again.and_then(Result::err)
}

#[test]
fn a_copy_waits_for_the_cut_that_it_knows_of_and_a_second_attempt_for_the_first() {
    let busy = DataError::NotServing { reason: NotServing::Overloaded };
    let expected = busy.clone();
    scenario(|| async move {
        assert_eq!(a_second_attempt().await, Some(expected), "two attempts of one operation at a time");
    });
    scenario_with(Mutant::CopyTwiceAtOnce, || async move {
        assert_ne!(a_second_attempt().await, Some(busy), "the planted bug goes unnoticed");
    });
}

#[test]
fn a_copy_of_a_session_that_is_fenced_in_the_middle_never_lands() {
    scenario(|| async {
        let held = Held::start().await;
        let other = Client::open(&held.cluster).await;
        let old = held.client.version();
        held.cluster.command(Command::StrikeSession { session: held.client.session });
        held.cluster.publish().await;
        // The node acknowledges the fence while the copy is under way.
        while held.cluster.applied(held.target_primary) <= old {
            sleep(Duration::from_millis(5)).await;
        }
        other.write(held.to, 0, &pattern(3, 2)).await;
        let to = held.to;
        let answer = held.released(&other).await;
        assert_eq!(answer, Err(DataError::Fenced));
        assert_eq!(other.read(to, 0, 8192).await, pattern(3, 2), "a fenced session's copy landed");
    });
}

/// A copy that began before its target was led elsewhere and back: its answer, and whether what came meanwhile is there.
async fn a_copy_over_two_moves() -> (Result<DataReply, DataError>, bool) {
    let held = Held::start().await;
    let other = Client::open(&held.cluster).await;
    let (pg, first) = (held.client.pg(held.to), held.target_primary);
    let second = held.cluster.running().into_iter().find(|node| *node != first).unwrap();
    // There and back: the node that read for the copy leads again, and has been told all of it.
    move_primary(&held.cluster, pg, second).await;
    other.write(held.to, 0, &pattern(3, 2)).await;
    move_primary(&held.cluster, pg, first).await;
    other.write(held.to, 8192, &pattern(4, 1)).await;
    let to = held.to;
    let answer = held.released(&other).await;
    (answer, other.read(to, 0, 8192).await == pattern(3, 2))
}

#[test]
fn a_copy_does_not_go_on_in_a_later_epoch() {
    scenario(|| async {
        let moving = DataError::NotServing { reason: NotServing::Moving };
        assert_eq!(a_copy_over_two_moves().await, (Err(moving), true), "an attempt of an earlier epoch went on");
    });
    scenario_with(Mutant::CopyInAnyEpoch, || async {
        assert_eq!(a_copy_over_two_moves().await, (Ok(DataReply::Written), false), "the planted bug has no effect");
    });
}

/// As the metadata leader does it when it need not wait for anybody's lease.
async fn move_primary(cluster: &Cluster, pg: PgId, to: NodeId) {
    let record = || cluster.map().pgs.iter().find(|record| record.pg == pg).unwrap().clone();
    let before = record();
    let disk = before.members.iter().find(|member| member.node == to).unwrap().disk;
    let begin = Command::MovePrimary { pg, epoch: before.epoch, set_version: before.set_version, to: disk };
    let reply = cluster.command(begin);
    assert!(matches!(reply, CommandReply::SetChanged { .. }), "{reply:?}");
    cluster.publish().await;
    let since: MapVersion = cluster.map().version;
    let old = before.primary_member().unwrap().node;
    while cluster.applied(old) < since {
        sleep(Duration::from_millis(5)).await;
    }
    cluster.command(Command::CompleteMove { pg, epoch: before.epoch, since });
    cluster.publish().await;
    cluster
        .until("the group is led there", |map| {
            let record = map.pgs.iter().find(|record| record.pg == pg).unwrap();
            record.primary_member().is_some_and(|m| m.node == to) && record.levelled_epoch == record.epoch
        })
        .await;
}
