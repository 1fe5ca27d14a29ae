//! Who may ask for what: by the identity in the peer's certificate, never by what a request says of itself.
//!
//! Guarantees: a client gets no Raft message in and speaks for no node; a node speaks only for itself and its disks.

use weft_proto::admin::AdminRequest;
use weft_proto::control::ControlRequest;
use weft_transport::{PeerIdentity, PeerRole};
use weft_types::map::{ClusterMap, NodeState};
use weft_types::{DiskId, ErrorKind, NodeId};

/// # Errors
/// When the peer may not ask this.
pub(crate) fn may_ask(peer: &PeerIdentity, request: &ControlRequest, map: &ClusterMap) -> Result<(), ErrorKind> {
    match request {
        ControlRequest::RegisterNode(register) => is_node(peer, register.node),
        ControlRequest::Heartbeat(heartbeat) => is_node(peer, heartbeat.node),
        ControlRequest::SurrenderLease { node, .. } | ControlRequest::Note { node, .. } => is_node(peer, *node),
        ControlRequest::ChangeSet(change) => has_disk(peer, change.requester, map),
        ControlRequest::DiskFailed { disk, .. } => has_disk(peer, *disk, map),
        ControlRequest::Join(_) => match peer.as_node() {
            Some(node) => not_removed(node, map),
            None => Err(refused("only nodes pass on who wants to join")),
        },
        ControlRequest::OpenSession { .. }
        | ControlRequest::SessionHeartbeat { .. }
        | ControlRequest::CloseSession { .. }
        | ControlRequest::GetMap { .. }
        | ControlRequest::Mutate { .. }
        | ControlRequest::Watch { .. }
        | ControlRequest::AskSize { .. }
        | ControlRequest::TellSize { .. }
        | ControlRequest::Query { .. }
        | ControlRequest::AwaitLock { .. } => Ok(()),
        ControlRequest::Admin(request) => may_administer(peer, request),
    }
}

fn may_administer(peer: &PeerIdentity, request: &AdminRequest) -> Result<(), ErrorKind> {
    match (&peer.role, request) {
        (PeerRole::Admin(_) | PeerRole::Node(_), _) => Ok(()),
        // A mount asks for sizes (statfs) and an image tool for its volume.
        (PeerRole::Client(_), AdminRequest::ClusterStatus | AdminRequest::ListVolumes) => Ok(()),
        (PeerRole::Client(_), _) => Err(refused("this needs the administrator's identity")),
    }
}

/// Whether the peer may send Raft messages, and as which node.
///
/// # Errors
/// When it is no node, or was removed.
pub(crate) fn raft_peer(peer: &PeerIdentity, map: &ClusterMap) -> Result<NodeId, ErrorKind> {
    let node = peer.as_node().ok_or_else(|| refused("only nodes take part in the metadata group"))?;
    not_removed(node, map).map(|()| node)
}

fn is_node(peer: &PeerIdentity, node: NodeId) -> Result<(), ErrorKind> {
    if peer.as_node() == Some(node) { Ok(()) } else { Err(refused("a node speaks only for itself")) }
}

fn not_removed(node: NodeId, map: &ClusterMap) -> Result<(), ErrorKind> {
    if map.nodes.iter().any(|known| known.id == node && known.state == NodeState::Removed) {
        return Err(ErrorKind::Refused(format!("node {node} was removed from the cluster")));
    }
    Ok(())
}

fn has_disk(peer: &PeerIdentity, disk: DiskId, map: &ClusterMap) -> Result<(), ErrorKind> {
    let owner = map.disks.iter().find(|known| known.id == disk).map(|known| known.node);
    match (peer.as_node(), owner) {
        (Some(node), Some(owner)) if node == owner => Ok(()),
        // A disk this node does not know yet: the state machine decides, with the newest state.
        (Some(_), None) => Ok(()),
        _ => Err(refused("a node speaks only for its own disks")),
    }
}

fn refused(why: &str) -> ErrorKind {
    ErrorKind::Refused(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_transport::identity::PeerName;
    use weft_types::map::{DiskRecord, DiskState, NodeRecord};
    use weft_types::{ClusterId, Incarnation, MapVersion};

    const CLUSTER: ClusterId = ClusterId(1);

    fn node(id: u64) -> PeerIdentity {
        PeerIdentity::node(CLUSTER, NodeId(id))
    }

    fn client() -> PeerIdentity {
        PeerIdentity::client(CLUSTER, PeerName::new("hv").unwrap())
    }

    fn map() -> ClusterMap {
        let record = |id, state| NodeRecord {
            id: NodeId(id),
            name: String::new(),
            incarnation: Incarnation(1),
            state,
            control_address: ([127, 0, 0, 1], 1).into(),
            data_address: ([127, 0, 0, 1], 2).into(),
            failure_domain: Vec::new(),
            voter: true,
        };
        ClusterMap {
            cluster: CLUSTER,
            version: MapVersion(1),
            nodes: vec![record(1, NodeState::Live), record(2, NodeState::Live), record(9, NodeState::Removed)],
            disks: vec![DiskRecord { id: DiskId(5), node: NodeId(1), capacity_bytes: 1, state: DiskState::Active }],
            volumes: Vec::new(),
            pgs: Vec::new(),
            live_sessions: Vec::new(),
        }
    }

    #[test]
    fn a_client_sends_no_raft_messages_and_speaks_for_no_node() {
        assert!(raft_peer(&client(), &map()).is_err());
        let surrender = ControlRequest::SurrenderLease { node: NodeId(1), incarnation: Incarnation(1) };
        assert!(may_ask(&client(), &surrender, &map()).is_err());
        let failed = ControlRequest::DiskFailed { disk: DiskId(5), incarnation: Incarnation(1) };
        assert!(may_ask(&client(), &failed, &map()).is_err());
        let remove = ControlRequest::Admin(AdminRequest::RemoveNode { node: NodeId(1) });
        assert!(may_ask(&client(), &remove, &map()).is_err());
        assert!(may_ask(&client(), &ControlRequest::Admin(AdminRequest::ClusterStatus), &map()).is_ok());
    }

    #[test]
    fn a_node_speaks_only_for_itself_and_its_disks_and_not_once_removed() {
        let surrender = ControlRequest::SurrenderLease { node: NodeId(1), incarnation: Incarnation(1) };
        assert!(may_ask(&node(1), &surrender, &map()).is_ok());
        assert!(may_ask(&node(2), &surrender, &map()).is_err());
        let failed = ControlRequest::DiskFailed { disk: DiskId(5), incarnation: Incarnation(1) };
        assert!(may_ask(&node(1), &failed, &map()).is_ok());
        assert!(may_ask(&node(2), &failed, &map()).is_err());
        assert_eq!(raft_peer(&node(2), &map()), Ok(NodeId(2)));
        assert!(raft_peer(&node(9), &map()).is_err());
    }
}
