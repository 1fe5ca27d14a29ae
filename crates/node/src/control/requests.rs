//! What each control request does. Whether the peer may ask was decided before ([`super::access`]).
//!
//! Guarantees: what changes something is answered after its commit; what asks for state is answered under the leader's
//! read lease or after a quorum round that began after the question came (design 3, decision 0010). Must not know: connections.

use super::leading::commit;
use super::node::Node;
use super::{admin, joining, locks, maps, watch};
use std::rc::Rc;
use weft_meta::leader::LeaderEvent;
use weft_meta::{Command, CommandReply, StateError, View, namespace, read};
use weft_proto::control::{ControlReply, ControlRequest};
use weft_raft::{GroupError, StateView};
use weft_transport::PeerIdentity;
use weft_types::{ErrorKind, Incarnation, NodeId, SessionId, VolumeId};

/// `None` when no answer is to be given: the caller's deadline ends its wait.
pub(crate) async fn handle(node: Rc<Node>, peer: PeerIdentity, request: ControlRequest) -> Option<ControlReply> {
    let node = &node;
    if let Some(session) = request.session()
        && let Some(refusal) = refusal_to_speak(node, &peer, session)
    {
        return Some(refusal);
    }
    Some(match request {
        ControlRequest::Heartbeat(heartbeat) => {
            return node.leader.ask(node, |ticket| LeaderEvent::HeartbeatReceived { ticket, heartbeat }).await;
        }
        ControlRequest::SessionHeartbeat { session, .. } => {
            return node.leader.ask(node, |ticket| LeaderEvent::SessionHeartbeat { ticket, session }).await;
        }
        ControlRequest::ChangeSet(request) => {
            return node.leader.ask(node, |ticket| LeaderEvent::SetChangeRequested { ticket, request }).await;
        }
        // Answered from this node's own state: a version is a version, wherever it is read.
        ControlRequest::GetMap { volume, have, wait_ms } => maps::get(node, volume, have, wait_ms).await,
        ControlRequest::Admin(request) => ControlReply::Admin(Box::new(match admin::handle(node, request).await {
            Ok(reply) => reply,
            Err(admin::Elsewhere(reply)) => return Some(reply),
        })),
        ControlRequest::SurrenderLease { node: of, incarnation } => surrender(node, of, incarnation).await,
        _ if !node.leader.is_leading() => not_leader(node),
        ControlRequest::RegisterNode(register) => change(node, Command::RegisterNode(register)).await,
        ControlRequest::DiskFailed { disk, incarnation } => {
            change(node, Command::DiskFailed { disk, incarnation }).await
        }
        ControlRequest::Note { node: of, what } => change(node, Command::Note { node: of, what }).await,
        ControlRequest::OpenSession { volume_name, host, mount_point } => {
            let owner = peer.session_owner();
            open_session(node, Command::OpenSession { owner, volume_name, host, mount_point }).await
        }
        ControlRequest::CloseSession { session } => change(node, Command::CloseSession { session }).await,
        ControlRequest::Mutate { session, request, low_water, volume, mutation } => {
            let reply = change(node, Command::Mutate { session, request, low_water, volume, mutation }).await;
            node.watches.mutated();
            reply
        }
        ControlRequest::Query { volume, query } => {
            let answer = |view: &StateView<'_>| namespace::query(view, volume, &query);
            match current(node, answer).await {
                Ok(reply) => ControlReply::Namespace(Box::new(reply)),
                Err(reply) => reply,
            }
        }
        ControlRequest::AwaitLock { session, inode, request, wait_ms } => {
            locks::await_lock(node, session, inode, request, wait_ms).await
        }
        ControlRequest::Watch { session, seen, wait_ms } => watch::watch(node, session, seen, wait_ms).await,
        ControlRequest::AskSize { volume, inode, holder, .. } => watch::ask_size(node, volume, inode, holder).await,
        ControlRequest::TellSize { session, volume, inode, question, told } => {
            watch::tell_size(node, session, (volume, inode), question, told)
        }
        ControlRequest::Join(request) => {
            tracing::info!(name = %request.name, via = %peer, "a process asks to join");
            joining::admit(node, *request).await
        }
    })
}

/// A state that lags does not know the newest sessions and lets their requests through; it then leads nobody either. Ids
/// are never reused and an owner never changes, so what it does know is right.
fn refusal_to_speak(node: &Node, peer: &PeerIdentity, session: SessionId) -> Option<ControlReply> {
    match node.group.read(|view| read::speaks_for(view, peer.session_owner(), session)) {
        Ok(true) => None,
        Ok(false) => {
            tracing::warn!(%peer, %session, "a request for the session of another member was refused");
            let why = format!("session {session} belongs to another member of the cluster");
            Some(ControlReply::Refused(ErrorKind::Refused(why)))
        }
        Err(error) => Some(unreadable(&error)),
    }
}

pub(crate) fn not_leader(node: &Node) -> ControlReply {
    let leader = node.group.status().leader;
    let known = leader.and_then(|(id, address)| Some((id, node.peers.address(id).or(address)?)));
    // Not yet leading although elected, or just deposed: the caller tries again here.
    ControlReply::NotLeader { leader: known.filter(|(id, _)| *id != node.id() || node.group.status().is_leader()) }
}

/// Commits a command and says what came of it.
async fn change(node: &Rc<Node>, command: Command) -> ControlReply {
    committed(node, commit(node, command).await)
}

/// The answer for a command that was proposed.
pub(crate) fn committed(node: &Node, result: Result<CommandReply, GroupError>) -> ControlReply {
    match result {
        Ok(reply) => match reply {
            CommandReply::Registered { incarnation, map_version } => {
                ControlReply::Registered { incarnation, map_version }
            }
            CommandReply::SetChanged { map_version } => ControlReply::SetChanged { map_version },
            CommandReply::SetRefused(refusal) => ControlReply::Refused(refusal.into()),
            CommandReply::Namespace(result) => ControlReply::Namespace(Box::new(result)),
            CommandReply::Refused(why) => ControlReply::Refused(why),
            CommandReply::Done
            | CommandReply::Joined { .. }
            | CommandReply::TokenAccepted { .. }
            | CommandReply::Volume(_)
            | CommandReply::VolumePurge { .. }
            | CommandReply::SessionOpened { .. } => ControlReply::Done,
        },
        Err(error) => unavailable(node, &error),
    }
}

/// No answer of the group: the caller tries again, elsewhere if somebody else leads.
pub(crate) fn unavailable(node: &Node, error: &GroupError) -> ControlReply {
    match error {
        GroupError::NotLeader { .. } => not_leader(node),
        GroupError::Refused(why) => ControlReply::Refused(ErrorKind::Refused(why.clone())),
        GroupError::TimedOut { .. } | GroupError::Overloaded | GroupError::Stopped(_) => {
            ControlReply::Refused(ErrorKind::Unavailable(error.to_string()))
        }
    }
}

/// Asks the state as it is now, all earlier commits included.
pub(crate) async fn current<T>(
    node: &Rc<Node>,
    question: impl FnOnce(&StateView<'_>) -> Result<T, StateError>,
) -> Result<T, ControlReply> {
    node.group.current().await.map_err(|error| unavailable(node, &error))?;
    node.leader.on_applied(node);
    node.group.read(question).map_err(|error| unreadable(&error))
}

pub(crate) fn unreadable(error: &StateError) -> ControlReply {
    ControlReply::Refused(ErrorKind::Io(error.to_string()))
}

async fn open_session(node: &Rc<Node>, command: Command) -> ControlReply {
    let (session, volume) = match commit(node, command).await {
        Ok(CommandReply::SessionOpened { session, volume }) => (session, volume),
        other => return committed(node, other),
    };
    match node.group.read(|view| opened(view, session, volume)) {
        Ok(reply) => reply,
        Err(error) => unreadable(&error),
    }
}

fn opened(view: &dyn View, session: SessionId, volume: VolumeId) -> Result<ControlReply, StateError> {
    Ok(ControlReply::SessionOpened { session, volume, map: read::cluster_map(view, Some(volume))? })
}

/// From a parent process that has seen its worker die, or a worker that stops.
async fn surrender(node: &Rc<Node>, of: NodeId, incarnation: Incarnation) -> ControlReply {
    if node.leader.is_leading() {
        return change(node, Command::SurrenderLease { node: of, incarnation }).await;
    }
    let status = node.group.status();
    if of != node.id() && status.leader.is_some_and(|(leader, _)| leader == of) && status.voters.contains(&node.id()) {
        // The leader's own parent says that it is dead: nobody has to wait until its silence is long enough. The others
        // refuse their vote while they still believe in it, which costs nothing.
        tracing::info!(leader = %of, "the leader's process is dead; this node stands for election");
        if let Err(error) = node.group.campaign().await {
            tracing::debug!(%error, "cannot stand for election");
        }
    }
    not_leader(node)
}
