//! The read lease on real groups: a deposed leader answers nothing old.

use super::group::{Cluster, until};
use super::{note, notes};
use crate::mutants::{Mutant, plant};
use weft_types::NodeId;

/// Cuts the leader off, lets the others go on without it, and asks it. Whether it gave an answer that lacks what was
/// committed before the question.
async fn deposed_leader_answers_from_the_past() -> bool {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader(&[1, 2, 3]).await;
    let old = cluster.group(leader);
    old.propose(note("before")).await.unwrap();
    old.linearizable().await.unwrap();
    cluster.net.isolate(NodeId(leader));
    let others: Vec<u64> = (1..=3).filter(|node| *node != leader).collect();
    let new = cluster.leader(&others).await;
    cluster.group(new).propose(note("after")).await.unwrap();
    let answered = old.current().await.is_ok();
    answered && old.read(|view| notes(view)) == ["before"]
}

#[tokio::test]
async fn a_deposed_leader_gives_no_answer_from_the_past() {
    assert!(!deposed_leader_answers_from_the_past().await);
}

#[tokio::test]
async fn an_endless_lease_is_noticed() {
    plant(Some(Mutant::EndlessLease));
    let caught = deposed_leader_answers_from_the_past().await;
    plant(None);
    assert!(caught, "the planted bug went unnoticed");
}

#[tokio::test]
async fn questions_under_a_lease_take_no_round() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.group(cluster.leader(&[1, 2, 3]).await);
    // A pause of this thread can outlast a lease, so it may take several tries.
    for _ in 0..50 {
        leader.linearizable().await.unwrap();
        let before = leader.rounds_taken();
        for _ in 0..1000 {
            leader.current().await.unwrap();
        }
        if leader.rounds_taken() == before {
            return;
        }
    }
    panic!("a thousand questions in a row always took a round");
}

#[tokio::test]
async fn a_node_that_hears_its_leader_does_not_depose_it() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader(&[1, 2, 3]).await;
    let follower = (1..=3).find(|node| *node != leader).unwrap();
    let term = cluster.group(leader).status().term;
    until("the follower hears the leader", || {
        cluster.group(follower).status().leader.is_some_and(|(id, _)| id == NodeId(leader))
    })
    .await;
    // It waits for the leader's silence, which does not come.
    cluster.group(follower).campaign().await.unwrap();
    assert_eq!(cluster.group(follower).status().term, term);
    cluster.group(leader).propose(note("goes on")).await.unwrap();
}
