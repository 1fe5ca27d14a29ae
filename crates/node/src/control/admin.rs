//! Administrative requests.
//!
//! Guarantees: what changes the cluster goes through the leader; what one node alone knows is answered by that node.

use super::leading::commit;
use super::node::Node;
use super::requests::{current, not_leader, unavailable, unreadable};
use crate::bridge::ToData;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;
use weft_meta::leader::LeaderEvent;
use weft_meta::{Command, CommandReply, locks, read};
use weft_proto::admin::{AdminReply, AdminRequest, ClusterStatus, NodeReport, TokenRole};
use weft_proto::control::ControlReply;
use weft_transport::ca::fingerprint;
use weft_transport::identity::{MAX_PEER_NAME_BYTES, PeerName};
use weft_transport::token::{MAX_TOKEN_ADDRESSES, Token};
use weft_types::map::NodeState;
use weft_types::{ErrorKind, MapVersion};

const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Digests read the hashes of every block of a volume.
const DIGEST_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest life of a join token.
const MAX_TOKEN_SECONDS: u64 = 365 * 24 * 3600;

/// The answer is not an administrative one: somebody else leads, or the group does not answer.
pub(crate) struct Elsewhere(pub(crate) ControlReply);

type Answer = Result<AdminReply, Elsewhere>;

pub(crate) async fn handle(node: &Rc<Node>, request: AdminRequest) -> Answer {
    match request {
        AdminRequest::HealStatus { volume } => {
            Ok(from_data(node, REPORT_TIMEOUT, |reply| ToData::Heal { volume, reply })
                .await
                .map_or_else(no_data, AdminReply::Heal))
        }
        AdminRequest::ReplicaDigests { volume } => {
            let answer = from_data(node, DIGEST_TIMEOUT, |reply| ToData::Digests { volume, reply }).await;
            Ok(answer.map_or_else(no_data, AdminReply::Digests))
        }
        AdminRequest::NodeReport => Ok(node_report(node).await),
        AdminRequest::ClusterStatus if node.group.status().leader.is_none() => {
            // Nobody leads: what this node has is better than nothing, and says that nobody leads.
            let map = (*node.maps.current()).clone();
            Ok(AdminReply::Cluster(status_of(node, map)))
        }
        _ if !node.leader.is_leading() => Err(Elsewhere(not_leader(node))),
        request => as_leader(node, request).await,
    }
}

async fn as_leader(node: &Rc<Node>, request: AdminRequest) -> Answer {
    match request {
        AdminRequest::ClusterStatus => {
            let map = current(node, |view| read::cluster_map(view, None)).await.map_err(Elsewhere)?;
            Ok(AdminReply::Cluster(status_of(node, map)))
        }
        AdminRequest::ListVolumes => {
            current(node, |view| read::volumes(view)).await.map_err(Elsewhere).map(AdminReply::Volumes)
        }
        AdminRequest::ListSessions => {
            current(node, |view| read::sessions(view)).await.map_err(Elsewhere).map(AdminReply::Sessions)
        }
        AdminRequest::ListLocks { volume } => {
            current(node, |view| locks::list(view, volume)).await.map_err(Elsewhere).map(AdminReply::Locks)
        }
        AdminRequest::ListTokens => {
            current(node, |view| read::tokens(view)).await.map_err(Elsewhere).map(AdminReply::Tokens)
        }
        AdminRequest::Events { after, max } => {
            current(node, |view| read::events(view, after, max)).await.map_err(Elsewhere).map(AdminReply::Events)
        }
        AdminRequest::CreateVolume { name, replicas, chunk_size, ack, pg_count } => {
            change(node, Command::CreateVolume { name, replicas, chunk_size, ack, pg_count }).await
        }
        AdminRequest::DeleteVolume { name } => change(node, Command::DeleteVolume { name }).await,
        AdminRequest::EvictSession { session } => {
            if current(node, |view| read::session(view, session)).await.map_err(Elsewhere)?.is_none() {
                return Ok(AdminReply::Failed(ErrorKind::NotFound));
            }
            node.leader.step(node, LeaderEvent::EvictSession { session });
            Ok(AdminReply::Done)
        }
        AdminRequest::CreateToken { role, valid_seconds, name } => create_token(node, role, valid_seconds, name).await,
        AdminRequest::RevokeToken { id } => change(node, Command::RevokeToken { id }).await,
        AdminRequest::RemoveNode { node: of } => {
            if of == node.id() {
                let why = format!("node {of} leads the metadata group and is live: stop it first");
                return Ok(AdminReply::Failed(ErrorKind::Busy(why)));
            }
            change(node, Command::RemoveNode { node: of }).await
        }
        AdminRequest::HealStatus { .. } | AdminRequest::ReplicaDigests { .. } | AdminRequest::NodeReport => {
            Ok(AdminReply::Failed(ErrorKind::NotSupported))
        }
    }
}

async fn change(node: &Rc<Node>, command: Command) -> Answer {
    match commit(node, command).await {
        Ok(CommandReply::Volume(record)) => Ok(AdminReply::Volume(record)),
        Ok(CommandReply::Refused(why)) => Ok(AdminReply::Failed(why)),
        Ok(CommandReply::SetRefused(why)) => Ok(AdminReply::Failed(why.into())),
        Ok(_) => Ok(AdminReply::Done),
        Err(error) => Err(Elsewhere(unavailable(node, &error))),
    }
}

fn status_of(node: &Node, map: weft_types::map::ClusterMap) -> ClusterStatus {
    let leader = node.leader.status();
    ClusterStatus {
        map,
        leader: node.group.status().leader.map(|(id, _)| id),
        answering: node.id(),
        last_heartbeat_ms: leader.last_heartbeat_ms,
        free_bytes: leader.free_bytes,
    }
}

async fn create_token(node: &Rc<Node>, role: TokenRole, valid_seconds: u64, name: String) -> Answer {
    if !(1..=MAX_TOKEN_SECONDS).contains(&valid_seconds) {
        let why = format!("a token is valid for 1 to {MAX_TOKEN_SECONDS} seconds, not {valid_seconds}");
        return Ok(AdminReply::Failed(ErrorKind::Invalid(why)));
    }
    // It becomes part of the certificate.
    if role == TokenRole::Client && PeerName::new(&name).is_err() {
        let why = format!(
            "`{name}` is no name for a client: use lower-case letters, digits and inner hyphens, {MAX_PEER_NAME_BYTES} at most"
        );
        return Ok(AdminReply::Failed(ErrorKind::Invalid(why)));
    }
    let cluster = node.group.read(|view| read::cluster(view)).map_err(|error| Elsewhere(unreadable(&error)))?;
    let Some(cluster) = cluster else { return Ok(AdminReply::Failed(ErrorKind::NotFound)) };
    let token = match Token::create(fingerprint(&cluster.authority_certificate), &join_addresses(node)) {
        Ok(token) => token,
        Err(error) => return Ok(AdminReply::Failed(ErrorKind::Io(error.to_string()))),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let command = Command::CreateToken {
        id: token.id.to_string(),
        hash: token.secret_hash().0,
        role,
        name,
        expires_at_seconds: i64::try_from(now + valid_seconds).unwrap_or(i64::MAX),
    };
    match change(node, command).await? {
        AdminReply::Done => Ok(AdminReply::Token { text: token.to_text(), id: token.id.to_string() }),
        other => Ok(other),
    }
}

/// Where a token may be presented: here, and at the other live nodes that use the same ports, as is usual.
fn join_addresses(node: &Node) -> Vec<SocketAddr> {
    let mut addresses = vec![node.join_address];
    let map = node.maps.current();
    for other in map.nodes.iter().filter(|other| other.id != node.id() && other.state == NodeState::Live) {
        if other.control_address.port() == node.control_address.port() {
            addresses.push(SocketAddr::new(other.control_address.ip(), node.join_address.port()));
        }
    }
    addresses.truncate(MAX_TOKEN_ADDRESSES);
    addresses
}

async fn from_data<T>(
    node: &Rc<Node>,
    timeout: Duration,
    message: impl FnOnce(oneshot::Sender<T>) -> ToData,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    let ask = async {
        node.tell_data(message(reply)).await;
        answer.await.ok()
    };
    tokio::time::timeout(timeout, ask).await.ok().flatten()
}

fn no_data() -> AdminReply {
    AdminReply::Failed(ErrorKind::Unavailable("the data thread of this node does not answer".to_owned()))
}

async fn node_report(node: &Rc<Node>) -> AdminReply {
    let Some(mut report): Option<NodeReport> = from_data(node, REPORT_TIMEOUT, |reply| ToData::Report { reply }).await
    else {
        return no_data();
    };
    report.node = node.id();
    report.applied = MapVersion(node.data_status.applied.load(Ordering::Acquire));
    (report.resident_bytes, report.resident_peak_bytes) = resident_bytes();
    let raft = node.group.status();
    let count = |name: &str, value: Option<u64>| (format!("raft_{name}"), value.unwrap_or(0));
    report.counters.extend([
        count("term", Some(raft.term)),
        count("last_log", raft.last_log),
        count("applied", raft.applied),
        count("snapshot", raft.snapshot),
        count("voters", Some(raft.voters.len() as u64)),
    ]);
    AdminReply::Node(Box::new(report))
}

/// Now and at most, from the kernel's own accounting.
fn resident_bytes() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    (field("VmRSS:"), field("VmHWM:"))
}
