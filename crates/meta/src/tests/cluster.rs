//! Nodes, tokens, volumes, sessions, events.

use super::world::{World, create, disk, new_node};
use crate::command::{Command, CommandReply};
use crate::read;
use std::collections::BTreeMap;
use weft_proto::admin::TokenRole;
use weft_proto::namespace::{Mutation, NewInode};
use weft_types::limits::{MAX_EVENTS, MAX_REMEMBERED_REPLIES};
use weft_types::map::{MemberState, NodeState};
use weft_types::{ClusterId, ErrorKind, InodeNumber, NodeId, RequestNumber, SessionOwner, VolumeId};

fn refused(reply: CommandReply) -> String {
    match reply {
        CommandReply::Refused(error) => error.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_cluster_begins_once() {
    let mut w = World::cluster(1);
    let again = Command::Bootstrap {
        cluster: ClusterId(1),
        authority_certificate: Vec::new(),
        authority_key: Vec::new(),
        node: new_node("x"),
    };
    assert_eq!(w.run(again), CommandReply::Refused(ErrorKind::Exists));
    assert_eq!(read::cluster(&w.view).unwrap().unwrap().id, ClusterId(77));
    let mut empty = World::empty();
    assert!(matches!(
        empty.run(Command::JoinNode { node: new_node("y"), token: None }),
        CommandReply::Refused(ErrorKind::Unavailable(_))
    ));
}

#[test]
fn a_token_is_good_once_in_time_and_for_its_role() {
    let mut w = World::cluster(1);
    let token = |id: &str, hash: u8, role, expires| Command::CreateToken {
        id: id.to_owned(),
        hash: [hash; 32],
        role,
        name: String::new(),
        expires_at_seconds: expires,
    };
    w.run(token("a", 1, TokenRole::Node, 9999));
    w.run(token("b", 2, TokenRole::Client, 9999));
    w.run(token("old", 3, TokenRole::Client, 10));
    assert_eq!(w.run(token("a", 9, TokenRole::Node, 9999)), CommandReply::Refused(ErrorKind::Exists));
    let join = |hash: u8, name: &str| Command::JoinNode { node: new_node(name), token: Some([hash; 32]) };
    assert!(matches!(w.run(join(2, "n2")), CommandReply::Refused(_)), "a client's token let a node in");
    assert!(matches!(w.run(join(1, "n1")), CommandReply::Refused(_)), "a taken name");
    assert!(matches!(w.run(join(1, "n2")), CommandReply::Joined { node: NodeId(2), .. }), "a refused join used it up");
    assert!(matches!(w.run(join(1, "n3")), CommandReply::Refused(_)));
    let consume = |hash: u8| Command::ConsumeToken { token: [hash; 32], role: TokenRole::Client };
    assert!(matches!(w.run(consume(3)), CommandReply::Refused(_)), "expired");
    assert!(matches!(w.run(consume(2)), CommandReply::TokenAccepted { .. }));
    assert!(matches!(w.run(consume(2)), CommandReply::Refused(_)));
    assert_eq!(w.run(Command::RevokeToken { id: "old".to_owned() }), CommandReply::Done);
    assert_eq!(w.run(Command::RevokeToken { id: "old".to_owned() }), CommandReply::Refused(ErrorKind::NotFound));
    assert_eq!(read::tokens(&w.view).unwrap().len(), 2);
}

#[test]
fn a_wish_for_a_volume_that_cannot_be_is_refused_with_its_reason() {
    let mut w = World::cluster(3);
    assert!(refused(w.volume("v", 0, 4)).contains("at least 1 replica"));
    assert!(refused(w.volume("v", 4, 4)).contains("4 replicas need 4 live nodes with an active disk, there are 3"));
    assert!(refused(w.volume("v", 9, 4)).contains("at most 5 replicas"));
    assert!(refused(w.volume("v", 3, 0)).contains("placement groups"));
    assert!(refused(w.volume("", 3, 4)).contains("must not be empty"));
    assert!(refused(w.volume("a/b", 3, 4)).contains("'/'"));
    assert!(refused(w.volume("a\nb", 3, 4)).contains("control characters"));
    assert!(refused(w.volume(&"x".repeat(64), 3, 4)).contains("at most 63 bytes"));
    assert!(refused(w.volume("..", 3, 4)).contains("'..'"));
    assert!(matches!(w.volume("v", 3, 4), CommandReply::Volume(_)));
    assert_eq!(w.volume("v", 3, 4), CommandReply::Refused(ErrorKind::Exists));
    w.kill(3);
    assert!(refused(w.volume("w", 3, 4)).contains("there are 2"));
}

#[test]
fn primaries_are_balanced_over_nodes() {
    let mut w = World::cluster(3);
    w.volume("v", 3, 32);
    w.volume("w", 3, 32);
    let mut led: BTreeMap<NodeId, u32> = BTreeMap::new();
    for pg in w.map().pgs {
        *led.entry(pg.primary_member().unwrap().node).or_default() += 1;
        assert_eq!(pg.members.len(), 3);
        assert_eq!(pg.min_in_sync, 2);
    }
    assert!(led.values().all(|n| (21..=22).contains(n)), "{led:?}");
}

#[test]
fn a_volume_is_deleted_in_bounded_steps_and_its_name_is_free_afterwards() {
    let mut w = World::with_group(3, 3);
    let s = w.session();
    for i in 0..30 {
        w.make(s, InodeNumber::ROOT, &format!("f{i}"), NewInode::Regular).unwrap();
    }
    let delete = Command::DeleteVolume { name: "v".to_owned() };
    assert!(refused(w.run(delete.clone())).contains("mounted on host"));
    w.run(Command::CloseSession { session: s });
    assert_eq!(w.run(delete), CommandReply::Done);
    let open = Command::OpenSession {
        owner: SessionOwner(1),
        volume_name: "v".to_owned(),
        host: String::new(),
        mount_point: String::new(),
    };
    assert!(matches!(w.run(open), CommandReply::Refused(ErrorKind::Busy(_))));
    let purge = Command::PurgeVolume { volume: VolumeId(1), max_records: 10 };
    let mut steps = 1;
    while w.run(purge.clone()) != (CommandReply::VolumePurge { finished: true }) {
        steps += 1;
        assert!(steps < 100);
    }
    assert!(steps > 5);
    assert!(w.map().volumes.is_empty() && w.map().pgs.is_empty());
    assert!(w.view.pairs().all(|(key, _)| !b"efxizqupw".contains(&key[0])), "something of the volume is left");
    assert!(matches!(w.volume("v", 3, 1), CommandReply::Volume(v) if v.id == VolumeId(2)));
}

#[test]
fn a_node_is_removed_only_when_nothing_depends_on_it() {
    let mut w = World::with_group(3, 3);
    assert!(refused(w.run(Command::RemoveNode { node: NodeId(1) })).contains("stop it first"));
    let b = w.backups()[0];
    w.kill(b);
    assert_eq!(w.run(Command::RemoveNode { node: NodeId(b) }), CommandReply::Done);
    assert!(refused(w.restart(b, true)).contains("was removed"));
    assert_eq!(w.map().nodes.iter().filter(|n| n.state == NodeState::Removed).count(), 1);
    let mut w = World::with_group(1, 1);
    w.kill(1);
    assert!(refused(w.run(Command::RemoveNode { node: NodeId(1) })).contains("only good copy"));
}

/// The members of removed nodes stay in the set, and count as level, until somebody has taken their place.
#[test]
fn two_removals_in_a_row_do_not_give_up_the_last_copy() {
    let mut w = World::with_group(3, 3);
    let (a, backups) = (w.leader_node(), w.backups());
    w.kill(backups[1]);
    w.kill(backups[0]);
    w.kill(a);
    assert_eq!(w.run(Command::RemoveNode { node: NodeId(backups[0]) }), CommandReply::Done);
    assert!(refused(w.run(Command::RemoveNode { node: NodeId(a) })).contains("only good copy"));
    w.restart(a, true);
    assert_eq!(w.leader_node(), a, "{:?}", w.pg());
}

/// A level member on a disk that its node came without, or that failed, is no copy to rely on.
#[test]
fn a_copy_on_a_disk_that_is_gone_is_not_relied_on() {
    for failed in [false, true] {
        let mut w = World::with_group(3, 3);
        let (a, backups) = (w.leader_node(), w.backups());
        w.kill(backups[1]);
        if failed {
            let incarnation = w.incarnation(backups[0]);
            w.run(Command::DiskFailed { disk: disk(backups[0]), incarnation });
        } else {
            let was = w.incarnation(backups[0]).0;
            w.register_disks(backups[0], was, Vec::new());
        }
        w.kill(a);
        assert!(w.state(backups[0]).is_some_and(|s| s != MemberState::Out), "kept by the minimum: {:?}", w.pg());
        assert!(refused(w.run(Command::RemoveNode { node: NodeId(a) })).contains("only good copy"));
    }
}

#[test]
fn replies_are_remembered_up_to_the_low_water_mark() {
    let mut w = World::with_group(3, 3);
    let s = w.session();
    let request = |n: u64| create(InodeNumber::ROOT, &format!("f{n}"), NewInode::Regular, 0o600);
    let number = RequestNumber;
    for n in 1..=10 {
        w.mutate_as(s, number(n), number(1), request(n)).unwrap();
    }
    let first = w.mutate_as(s, number(3), number(1), request(3));
    assert!(first.is_ok(), "a retry is answered: {first:?}");
    let failed = w.mutate_as(s, number(11), number(1), request(5));
    assert_eq!(failed, Err(ErrorKind::Exists));
    w.mutate_as(s, number(12), number(1), Mutation::Unlink { parent: InodeNumber::ROOT, name: b"f5".to_vec() })
        .unwrap();
    assert_eq!(w.mutate_as(s, number(11), number(1), request(5)), Err(ErrorKind::Exists), "a refusal is an answer too");
    w.mutate_as(s, number(13), number(8), request(13)).unwrap();
    assert!(matches!(w.mutate_as(s, number(3), number(8), request(3)), Err(ErrorKind::Refused(_))));
    let remembered = |w: &World| w.view.pairs().filter(|(key, _)| key[0] == b'r').count();
    assert_eq!(remembered(&w), 6, "8 to 13");
    for n in 14..u64::from(MAX_REMEMBERED_REPLIES) + 8 {
        w.mutate_as(s, number(n), number(8), Mutation::Close { inode: InodeNumber(1) }).unwrap();
    }
    assert_eq!(remembered(&w), MAX_REMEMBERED_REPLIES as usize);
    let more = u64::from(MAX_REMEMBERED_REPLIES) + 8;
    assert!(matches!(w.mutate_as(s, number(more), number(8), request(more)), Err(ErrorKind::Busy(_))));
    w.mutate_as(s, number(more), number(more), request(more)).unwrap();
    assert_eq!(remembered(&w), 1);
}

#[test]
fn a_fenced_session_is_refused_for_good() {
    let mut w = World::with_group(3, 3);
    let s = w.session();
    w.run(Command::StrikeSession { session: s });
    assert_eq!(w.make(s, InodeNumber::ROOT, "f", NewInode::Regular), Err(ErrorKind::Fenced));
    assert_eq!(w.run(Command::CloseSession { session: s }), CommandReply::Refused(ErrorKind::Fenced));
    let since = w.map().version;
    assert!(matches!(w.run(Command::FenceComplete { session: s, since: since.next() }), CommandReply::Refused(_)));
    w.run(Command::FenceComplete { session: s, since });
    assert_eq!(w.make(s, InodeNumber::ROOT, "f", NewInode::Regular), Err(ErrorKind::Fenced));
    assert!(read::sessions(&w.view).unwrap().is_empty());
}

#[test]
fn the_event_list_is_bounded() {
    let mut w = World::cluster(1);
    for i in 0..MAX_EVENTS + 20 {
        w.run(Command::Note { node: NodeId(1), what: format!("fact {i}") });
    }
    let all = read::events(&w.view, 0, u32::MAX).unwrap();
    assert_eq!(all.len() as u64, MAX_EVENTS);
    let last = all.last().unwrap().clone();
    assert_eq!(last.what, format!("fact {}", MAX_EVENTS + 19));
    assert_eq!(read::events(&w.view, last.number - 1, 10).unwrap(), [last]);
}

/// The voters change while the answer to a registration is under way, and the node is killed before it hears it.
#[test]
fn a_change_of_voters_locks_nobody_out_and_lets_no_empty_store_in() {
    let mut w = World::cluster(3);
    let voters = Command::SetVoters { voters: [NodeId(1), NodeId(2), NodeId(3)].into() };
    w.run(voters.clone());
    assert!(refused(w.register(2, 0, None)).contains("empty store"));
    let knows = w.incarnation(2).0;
    w.register(2, knows, None);
    w.run(voters);
    assert!(matches!(w.register(2, knows, None), CommandReply::Registered { .. }));
    assert!(refused(w.register(2, 0, None)).contains("empty store"));
}

#[test]
fn voters_are_what_raft_says() {
    let mut w = World::cluster(3);
    w.run(Command::SetVoters { voters: [NodeId(1), NodeId(2), NodeId(3)].into() });
    assert!(w.map().nodes.iter().all(|n| n.voter));
}
