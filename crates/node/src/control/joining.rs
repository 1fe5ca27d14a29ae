//! Processes that come with a token and leave with a certificate.
//!
//! Guarantees: a token is used up in the same commit that admits its bearer; nothing is used up by a request that could
//! not be signed. Must not know: how the token came here.

use super::leading::commit;
use super::node::Node;
use super::requests::{not_leader, unavailable, unreadable};
use super::route::{Retry, ask_leader};
use std::rc::{Rc, Weak};
use weft_meta::command::NewNode;
use weft_meta::records::ClusterRecord;
use weft_meta::{Command, CommandReply, read};
use weft_proto::PROTOCOL_VERSION;
use weft_proto::admin::{JoinReply, JoinRequest, TokenRole};
use weft_proto::control::{ControlReply, ControlRequest};
use weft_transport::PeerIdentity;
use weft_transport::ca::Authority;
use weft_transport::identity::PeerName;
use weft_transport::join::JoinHandler;
use weft_transport::token::Token;
use weft_types::limits::JOIN_TIMEOUT;
use weft_types::{ErrorKind, NodeId};

/// What the join port does with a request: passes it to the leader, which may be here.
pub(crate) fn handler(node: Weak<Node>) -> JoinHandler {
    Rc::new(move |request, from| {
        let node = node.clone();
        Box::pin(async move {
            let Some(node) = node.upgrade() else { return refused("the node is stopping") };
            tracing::info!(%from, name = %request.name, "a join request");
            let request = ControlRequest::Join(Box::new(request));
            // Less than the joining side waits, so that it hears why.
            match ask_leader(&node, request, JOIN_TIMEOUT * 8 / 10, Retry::OnlyIfUnhandled).await {
                Ok(ControlReply::Joined(reply)) => *reply,
                Ok(ControlReply::Refused(why)) => JoinReply::Refused(why),
                Ok(other) => refused(&format!("unexpected answer {other:?}")),
                Err(why) => {
                    JoinReply::Refused(ErrorKind::Unavailable(format!("the metadata group does not answer: {why}")))
                }
            }
        })
    })
}

fn refused(why: &str) -> JoinReply {
    JoinReply::Refused(ErrorKind::Refused(why.to_owned()))
}

fn reply(reply: JoinReply) -> ControlReply {
    ControlReply::Joined(Box::new(reply))
}

/// On the leader.
pub(crate) async fn admit(node: &Rc<Node>, request: JoinRequest) -> ControlReply {
    if request.protocol_version != PROTOCOL_VERSION {
        return reply(refused(&format!(
            "this cluster speaks protocol version {PROTOCOL_VERSION}, the joining process version {}: use the same release",
            request.protocol_version
        )));
    }
    let Ok(token) = request.token.parse::<Token>() else { return reply(refused("the token is malformed")) };
    let cluster = match node.group.read(|view| read::cluster(view)) {
        Ok(Some(cluster)) => cluster,
        Ok(None) => return not_leader(node),
        Err(error) => return unreadable(&error),
    };
    let authority = match Authority::load(cluster.id, &cluster.authority_certificate, &cluster.authority_key) {
        Ok(authority) => authority,
        Err(error) => return reply(JoinReply::Refused(ErrorKind::Io(error.to_string()))),
    };
    // A request that cannot be signed must not cost the token. Whose it will be does not matter yet.
    let probe = PeerIdentity::client(cluster.id, PeerName::from_host(&request.name));
    if let Err(error) = authority.sign(&request.signing_request, &probe) {
        return reply(refused(&error.to_string()));
    }
    let hash = token.secret_hash().0;
    match (request.control_address, request.data_address) {
        (Some(control_address), Some(data_address)) => {
            let new = NewNode {
                name: request.name.clone(),
                control_address,
                data_address,
                failure_domain: request.failure_domain.clone(),
            };
            admit_node(node, &cluster, &authority, &request, Command::JoinNode { node: new, token: Some(hash) }).await
        }
        _ => {
            let command = Command::ConsumeToken { token: hash, role: TokenRole::Client };
            match commit(node, command).await {
                // The name is the administrator's choice, never what the bearer says of itself.
                Ok(CommandReply::TokenAccepted { name, .. }) => {
                    let identity = PeerIdentity::client(cluster.id, PeerName::from_host(&name));
                    reply(accept(node, &cluster, &authority, &request, &identity, None))
                }
                Ok(CommandReply::Refused(why)) => reply(JoinReply::Refused(why)),
                Ok(other) => reply(refused(&format!("unexpected reply {other:?}"))),
                Err(error) => unavailable(node, &error),
            }
        }
    }
}

async fn admit_node(
    node: &Rc<Node>,
    cluster: &ClusterRecord,
    authority: &Authority,
    request: &JoinRequest,
    command: Command,
) -> ControlReply {
    match commit(node, command).await {
        Ok(CommandReply::Joined { node: id, .. }) => {
            // It becomes a member of the metadata group by `membership`, which looks at the map.
            let identity = PeerIdentity::node(cluster.id, id);
            reply(accept(node, cluster, authority, request, &identity, Some(id)))
        }
        Ok(CommandReply::Refused(why)) => reply(JoinReply::Refused(why)),
        Ok(other) => reply(refused(&format!("unexpected reply {other:?}"))),
        Err(error) => unavailable(node, &error),
    }
}

fn accept(
    node: &Node,
    cluster: &ClusterRecord,
    authority: &Authority,
    request: &JoinRequest,
    identity: &PeerIdentity,
    id: Option<NodeId>,
) -> JoinReply {
    let mut control_addresses = node.peers.addresses();
    control_addresses.retain(|address| Some(*address) != request.control_address);
    if control_addresses.is_empty() {
        control_addresses.push(node.control_address);
    }
    match authority.sign(&request.signing_request, identity) {
        Ok(certificate) => JoinReply::Accepted {
            cluster: cluster.id,
            node: id,
            certificate,
            authority: cluster.authority_certificate.clone(),
            control_addresses,
        },
        Err(error) => JoinReply::Refused(ErrorKind::Io(error.to_string())),
    }
}
