//! Joining, tokens, and what is refused.

use super::rig::{Cluster, RunningNode, ask};
use crate::control::Exit;
use crate::identity::NodeIdentity;
use crate::setup::{self, SetupError};
use std::fs;
use weft_proto::admin::{AdminReply, AdminRequest, TokenRole};
use weft_proto::control::{ControlReply, ControlRequest};
use weft_transport::identity::PeerName;
use weft_transport::join::JoinAs;
use weft_transport::token::Token;
use weft_transport::{Credentials, PeerIdentity};
use weft_types::ErrorKind;
use weft_types::map::NodeState;

fn join_client(cluster: &Cluster, token: &str) -> Result<Credentials, String> {
    let token: Token = token.parse().unwrap();
    let who = JoinAs { name: "hv-1".to_owned(), ..JoinAs::default() };
    let ip = cluster.node(1).place.config.listen;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let joined = tokio::task::LocalSet::new().block_on(&runtime, weft_transport::join::join(ip, &token, &who));
    joined.map(|joined| joined.credentials).map_err(|error| error.to_string())
}

#[test]
fn a_token_admits_once_and_only_for_its_role_and_a_refused_join_leaves_nothing_behind() {
    let cluster = Cluster::of_one();
    let token = cluster.token(TokenRole::Client);
    let credentials = join_client(&cluster, &token).unwrap();
    // The name is the token's, whatever the joining process calls itself.
    let expected = PeerIdentity::client(credentials.identity().cluster, PeerName::new("test").unwrap());
    assert_eq!(credentials.identity(), &expected);
    let why = join_client(&cluster, &token).unwrap_err();
    assert!(why.contains("used"), "{why}");

    let place = cluster.place(2);
    let why = setup::join(&place, &cluster.token(TokenRole::Client)).unwrap_err();
    assert!(matches!(why, SetupError::Join(_)), "{why}");
    assert!(why.to_string().ends_with("nothing was changed"), "{why}");
    // So the next try goes through.
    setup::join(&place, &cluster.token(TokenRole::Node)).unwrap();
    let why = setup::join(&place, &cluster.token(TokenRole::Node)).unwrap_err();
    assert!(matches!(why, SetupError::AlreadyMember { .. }), "{why}");
}

#[test]
fn a_revoked_token_and_a_mistyped_one_admit_nobody() {
    let cluster = Cluster::of_one();
    let request = AdminRequest::CreateToken { role: TokenRole::Client, valid_seconds: 60, name: "x".to_owned() };
    let AdminReply::Token { text, id } = cluster.admin(request) else { panic!() };
    assert_eq!(cluster.admin(AdminRequest::RevokeToken { id }), AdminReply::Done);
    assert!(join_client(&cluster, &text).is_err());
    let why = setup::join(&cluster.place(2), "weft-nonsense").unwrap_err();
    assert!(matches!(why, SetupError::Token(_)), "{why}");
    assert!(!cluster.place(2).layout.identity().exists());
}

#[test]
fn a_client_administers_nothing() {
    let cluster = Cluster::of_one();
    let client = join_client(&cluster, &cluster.token(TokenRole::Client)).unwrap();
    let request = ControlRequest::Admin(AdminRequest::DeleteVolume { name: "vms".to_owned() });
    let reply = ask(&client, cluster.node(1).control(), request).unwrap();
    assert!(matches!(reply, ControlReply::Refused(ErrorKind::Refused(_))), "{reply:?}");
    let status = ControlRequest::Admin(AdminRequest::ClusterStatus);
    assert!(matches!(ask(&client, cluster.node(1).control(), status).unwrap(), ControlReply::Admin(_)));
}

#[test]
fn nobody_speaks_for_the_session_of_another_member() {
    let cluster = Cluster::of_one();
    super::life::volume(&cluster, 1);
    let (session, volume) = super::life::session(&cluster);
    let client = join_client(&cluster, &cluster.token(TokenRole::Client)).unwrap();
    let create = super::life::create(session, volume, 1, "disk.raw");
    let close = ControlRequest::CloseSession { session };
    let renew = ControlRequest::SessionHeartbeat { session, low_water: weft_types::RequestNumber(0) };
    for request in [create.clone(), close, renew] {
        let reply = ask(&client, cluster.node(1).control(), request).unwrap();
        let ControlReply::Refused(ErrorKind::Refused(why)) = &reply else { panic!("{reply:?}") };
        assert!(why.contains("belongs to another member"), "{why}");
    }
    // It is still there, and its owner's.
    assert!(matches!(cluster.ask(create), ControlReply::Namespace(reply) if reply.is_ok()));
}

#[test]
fn a_node_without_its_metadata_store_or_with_an_old_copy_of_it_does_not_come_back() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let lost = (1..=3).find(|number| *number != leader).unwrap();
    let node = cluster.take(lost);
    let place = node.place.clone();
    let before = node.identity();
    node.stop();
    // Restarted once, so that the identity from before is an old one.
    let node = RunningNode::start(&place);
    cluster.wait("it is back", |status| super::rig::live(status) == 3);
    node.stop();
    let now = NodeIdentity::load(&place.layout).unwrap();
    assert!(now.incarnation > before.incarnation);

    NodeIdentity { incarnation: weft_types::Incarnation(0), ..before }.save(&place.layout).unwrap();
    let Exit::NeedsAPerson(why) = RunningNode::start(&place).ended() else { panic!("it came back") };
    assert!(why.contains("empty store") || why.contains("old copy"), "{why}");

    now.save(&place.layout).unwrap();
    fs::remove_dir_all(place.layout.raft()).unwrap();
    let config = weft_raft::GroupConfig::new(place.layout.raft(), now.cluster, now.node).unwrap();
    let (wire, _calls) = crate::control::peers::raft_wire();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let opened = runtime.block_on(weft_raft::MetaGroup::open(config, std::sync::Arc::new(wire)));
    let why = opened.err().unwrap().to_string();
    assert!(why.contains("join anew"), "{why}");
}

#[test]
fn a_removed_node_leaves_the_group_and_is_not_taken_back() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let removed = (1..=3).find(|number| *number != leader).unwrap();
    let node = cluster.take(removed);
    let place = node.place.clone();
    let id = node.identity().node;
    let busy = cluster.admin(AdminRequest::RemoveNode { node: id });
    assert!(matches!(busy, AdminReply::Failed(ErrorKind::Busy(_))), "{busy:?}");
    node.stop();
    assert_eq!(cluster.admin(AdminRequest::RemoveNode { node: id }), AdminReply::Done);
    cluster.wait("it is out", |status| {
        status.map.nodes.iter().any(|node| node.id == id && node.state == NodeState::Removed && !node.voter)
    });
    let Exit::NeedsAPerson(why) = RunningNode::start(&place).ended() else { panic!("it came back") };
    assert!(why.contains("removed"), "{why}");
}
