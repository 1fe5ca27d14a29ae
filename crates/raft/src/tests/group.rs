//! Groups of three over a network in memory that can be cut.

use super::{CLUSTER, config, note, notes};
use crate::{GroupConfig, GroupError, MetaGroup, PeerCall, PeerError, RaftPeers, create_store};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use weft_types::NodeId;

/// For a machine where everybody compiles.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the election timeouts allow.
const FAILOVER: Duration = Duration::from_millis(1500);

#[derive(Default)]
pub(super) struct Net {
    groups: Mutex<BTreeMap<NodeId, MetaGroup>>,
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    rounds: Mutex<u64>,
}

impl Net {
    fn group(&self, node: NodeId) -> Option<MetaGroup> {
        self.groups.lock().unwrap().get(&node).cloned()
    }

    pub(super) fn isolate(&self, node: NodeId) {
        let mut cut = self.cut.lock().unwrap();
        for other in 1..=5 {
            cut.insert((node, NodeId(other)));
            cut.insert((NodeId(other), node));
        }
    }

    fn heal(&self) {
        self.cut.lock().unwrap().clear();
    }
}

struct Wire {
    net: Arc<Net>,
    from: NodeId,
}

impl RaftPeers for Wire {
    fn call(&self, to: NodeId, _address: Option<SocketAddr>, message: Vec<u8>, deadline: Duration) -> PeerCall {
        let (net, from) = (self.net.clone(), self.from);
        Box::pin(async move {
            *net.rounds.lock().unwrap() += 1;
            if net.cut.lock().unwrap().contains(&(from, to)) {
                return Err(PeerError::Unreachable(to));
            }
            let group = net.group(to).ok_or(PeerError::Unreachable(to))?;
            let answer = tokio::time::timeout(deadline, group.handle_message(from, &message)).await;
            if net.cut.lock().unwrap().contains(&(to, from)) {
                return Err(PeerError::TimedOut);
            }
            answer.map_err(|_| PeerError::TimedOut)
        })
    }
}

pub(super) struct Cluster {
    pub(super) net: Arc<Net>,
    directory: TempDir,
}

fn address(node: u64) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + node as u16))
}

fn small_snapshots(directory: &Path, node: NodeId) -> GroupConfig {
    GroupConfig { snapshot_every: 20, ..config(directory, node) }
}

impl Cluster {
    /// Three voters, one after the other as a real cluster grows.
    pub(super) async fn of_three() -> Self {
        let cluster = Self { net: Arc::default(), directory: tempfile::tempdir().unwrap() };
        for node in 1..=3 {
            create_store(&cluster.path(node), CLUSTER, NodeId(node)).unwrap();
            cluster.start(node).await;
            if node == 1 {
                cluster.group(1).bootstrap(address(1)).await.unwrap();
                cluster.leader(&[1]).await;
            } else {
                cluster.group(1).add_learner(NodeId(node), address(node)).await.unwrap();
            }
        }
        let voters = BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]);
        until("learners have caught up", || {
            let status = cluster.group(1).status();
            voters.iter().all(|node| status.is_caught_up(*node))
        })
        .await;
        cluster.group(1).set_voters(&voters).await.unwrap();
        cluster
    }

    fn path(&self, node: u64) -> std::path::PathBuf {
        self.directory.path().join(format!("node-{node}"))
    }

    async fn start(&self, node: u64) {
        let wire = Wire { net: self.net.clone(), from: NodeId(node) };
        let group = MetaGroup::open(small_snapshots(&self.path(node), NodeId(node)), Arc::new(wire)).await.unwrap();
        self.net.groups.lock().unwrap().insert(NodeId(node), group);
    }

    async fn stop(&self, node: u64) {
        let group = self.net.groups.lock().unwrap().remove(&NodeId(node)).unwrap();
        group.shutdown().await;
    }

    pub(super) fn group(&self, node: u64) -> MetaGroup {
        self.net.group(NodeId(node)).unwrap()
    }

    pub(super) async fn leader(&self, among: &[u64]) -> u64 {
        let started = Instant::now();
        loop {
            for node in among {
                if self.group(*node).linearizable().await.is_ok() {
                    return *node;
                }
            }
            assert!(started.elapsed() < PATIENCE, "no leader among {among:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn three_nodes_apply_the_same_commands_and_survive_the_death_of_the_leader() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader(&[1, 2, 3]).await;
    for n in 0..5 {
        cluster.group(leader).propose(note(&format!("{n}"))).await.unwrap();
    }
    let others: Vec<u64> = (1..=3).filter(|node| *node != leader).collect();
    for node in &others {
        until("followers apply", || cluster.group(*node).read(|view| notes(view)).len() == 5).await;
        let error = cluster.group(*node).propose(note("at a follower")).await.unwrap_err();
        assert_eq!(error, GroupError::NotLeader { leader: Some((NodeId(leader), Some(address(leader)))) });
    }
    cluster.stop(leader).await;
    let new = cluster.leader(&others).await;
    cluster.group(new).propose(note("after")).await.unwrap();
    cluster.start(leader).await;
    until("the old leader catches up", || cluster.group(leader).read(|view| notes(view)).len() == 6).await;
}

#[tokio::test]
async fn another_leader_is_found_within_an_election_timeout() {
    let cluster = Cluster::of_three().await;
    let mut took = Vec::new();
    // A machine that is busy elsewhere may spoil one attempt, not each of them.
    while took.len() < 5 && took.iter().all(|took| *took >= FAILOVER) {
        let leader = cluster.leader(&[1, 2, 3]).await;
        let others: Vec<u64> = (1..=3).filter(|node| *node != leader).collect();
        let died = Instant::now();
        cluster.stop(leader).await;
        cluster.leader(&others).await;
        took.push(died.elapsed());
        cluster.start(leader).await;
    }
    assert!(took.iter().any(|took| *took < FAILOVER), "failovers took {took:?}");
}

#[tokio::test]
async fn a_leader_without_majority_confirms_nothing_and_its_command_does_not_survive() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader(&[1, 2, 3]).await;
    cluster.net.isolate(NodeId(leader));
    let old = cluster.group(leader);
    assert!(old.linearizable().await.is_err());
    let ghost = tokio::spawn(async move { old.propose(note("ghost")).await });
    let others: Vec<u64> = (1..=3).filter(|node| *node != leader).collect();
    let new = cluster.leader(&others).await;
    cluster.group(new).propose(note("real")).await.unwrap();
    cluster.net.heal();
    assert!(ghost.await.unwrap().is_err());
    for node in 1..=3 {
        until("all agree", || cluster.group(node).read(|view| notes(view)) == ["real"]).await;
    }
}

#[tokio::test]
async fn a_node_that_was_away_for_long_is_brought_back_by_a_snapshot() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader(&[1, 2, 3]).await;
    let away = (1..=3).find(|node| *node != leader).unwrap();
    cluster.stop(away).await;
    let group = cluster.group(leader);
    let known = group.status().last_log.unwrap();
    for n in 0..100 {
        group.propose(note(&format!("{n}"))).await.unwrap();
    }
    // The snapshot alone does not do: until the purge that follows it the log serves the node.
    until("what the node misses is purged", || group.status().purged.is_some_and(|at| at > known + 30)).await;
    cluster.start(away).await;
    until("it has everything", || cluster.group(away).read(|view| notes(view)).len() == 100).await;
    assert!(cluster.group(away).status().snapshot.is_some(), "it came by a snapshot");
    // And its store opens again.
    cluster.stop(away).await;
    cluster.start(away).await;
    until("it still has everything", || cluster.group(away).read(|view| notes(view)).len() == 100).await;
}

#[tokio::test]
async fn callers_that_wait_together_share_quorum_rounds_and_log_entries() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.group(cluster.leader(&[1, 2, 3]).await);
    let entries_before = leader.status().last_log.unwrap();
    let calls_before = *cluster.net.rounds.lock().unwrap();
    let mut waiting = Vec::new();
    for n in 0..200 {
        let group = leader.clone();
        waiting.push(tokio::spawn(async move {
            group.linearizable().await.unwrap();
            if n % 2 == 0 {
                group.propose(note("together")).await.unwrap();
            }
        }));
    }
    for task in waiting {
        task.await.unwrap();
    }
    until("applied", || leader.read(|view| notes(view)).len() == 100).await;
    assert!(leader.status().last_log.unwrap() - entries_before < 20, "100 proposals took as many log entries");
    assert!(*cluster.net.rounds.lock().unwrap() - calls_before < 150, "200 reads took as many rounds");
}

#[tokio::test]
async fn a_message_in_the_name_of_another_node_is_refused() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader(&[1, 2, 3]).await;
    let follower = cluster.group((1..=3).find(|node| *node != leader).unwrap());
    let vote = openraft::raft::VoteRequest::new(openraft::Vote::new(99, 3), None);
    let message = crate::types::encode(&crate::network::Message::Vote(vote)).unwrap();
    let answer = follower.handle_message(NodeId(2), &message).await;
    let answer: crate::network::Answer = crate::types::decode(&answer).unwrap();
    assert!(matches!(answer, crate::network::Answer::Refused(_)));
    assert!(follower.status().term < 99);
}
