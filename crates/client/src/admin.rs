//! Administrative requests: to the metadata leader, to one node, or to all of them.

use crate::error::ConnectError;
use crate::identity::Identity;
use crate::options::ConnectOptions;
use crate::shell::control::Control;
use crate::shell::network::Network;
use crate::shell::quic::QuicNetwork;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use weft_proto::admin::{AdminReply, AdminRequest};
use weft_proto::control::{ControlReply, ControlRequest};
use weft_types::map::{ClusterMap, NodeState};
use weft_types::{ErrorKind, NodeId};

/// How long a command looks for a leader when no `fail_after` is given.
const PATIENCE: Duration = Duration::from_secs(10);
/// A digest reads every replica's hashes.
const NODE_DEADLINE: Duration = Duration::from_secs(60);

/// Speaks with the cluster without a session. Must run in a `LocalSet` (see [`crate::block_on`]).
pub struct AdminClient {
    control: Control,
    network: Rc<dyn Network>,
    addresses: Vec<SocketAddr>,
    patience: Duration,
    /// Where it lies and what it says; none for a network of a test.
    identity: Option<(PathBuf, RefCell<Identity>)>,
}

impl AdminClient {
    /// Reads the identity and binds a socket; connections are made when they are needed.
    ///
    /// # Errors
    /// When this machine has no identity or the socket cannot be bound.
    pub async fn connect(options: &ConnectOptions) -> Result<Self, ConnectError> {
        let identity = Identity::load(&options.identity)?;
        let network = QuicNetwork::bind(&identity, options)?;
        let mut client = Self::over(network, identity.control_addresses.clone(), options.fail_after);
        client.identity = Some((options.identity.clone(), RefCell::new(identity)));
        Ok(client)
    }

    #[must_use]
    pub fn over(network: Rc<dyn Network>, addresses: Vec<SocketAddr>, fail_after: Option<Duration>) -> Self {
        let patience = fail_after.unwrap_or(PATIENCE);
        let control = Control::new(Rc::clone(&network), addresses.clone(), Some(patience));
        Self { control, network, addresses, patience, identity: None }
    }

    /// Asks the metadata leader.
    ///
    /// # Errors
    /// `TimedOut` when no leader answers, and what it refuses with (`AdminReply::Failed` becomes an error).
    pub async fn request(&self, request: AdminRequest) -> Result<AdminReply, ErrorKind> {
        let request = ControlRequest::Admin(request);
        let reply = admin_reply(self.control.call(Some(self.patience), || request.clone()).await?)?;
        if let AdminReply::Cluster(status) = &reply {
            self.learned(&status.map);
        }
        Ok(reply)
    }

    /// The addresses of a map replace those of the identity, for this run and for the next.
    fn learned(&self, map: &ClusterMap) {
        let present = map.nodes.iter().filter(|n| n.state != NodeState::Removed);
        let addresses: Vec<SocketAddr> = present.map(|n| n.control_address).collect();
        if let Some((directory, identity)) = &self.identity
            && let Err(error) = identity.borrow_mut().note_addresses(directory, &addresses)
        {
            // An identity that lies where we may not write is still good.
            tracing::debug!(%error, "the addresses of the cluster's nodes were not saved");
        }
        self.control.learned(addresses);
    }

    /// Any control request to the leader; what tools need besides administration.
    ///
    /// # Errors
    /// `TimedOut` when no leader answers.
    pub async fn control(&self, request: ControlRequest) -> Result<ControlReply, ErrorKind> {
        self.control.call(Some(self.patience), || request.clone()).await
    }

    /// Asks the node at a control address, whether it leads or not.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer.
    pub async fn request_address(&self, address: SocketAddr, request: AdminRequest) -> Result<AdminReply, ErrorKind> {
        let request = ControlRequest::Admin(request);
        match self.network.control(address, request, NODE_DEADLINE).await {
            Ok(reply) => admin_reply(reply),
            Err(error) => Err(ErrorKind::Unavailable(format!("{address}: {error}"))),
        }
    }

    /// # Errors
    /// `NotFound` for a node that is not in the map, `Unavailable` when it does not answer.
    pub async fn request_node(&self, node: NodeId, request: AdminRequest) -> Result<AdminReply, ErrorKind> {
        let map = self.map().await?;
        let address = map.nodes.iter().find(|n| n.id == node).map(|n| n.control_address);
        self.request_address(address.ok_or(ErrorKind::NotFound)?, request).await
    }

    /// Asks every node that was not removed, all at once.
    ///
    /// # Errors
    /// When no leader answers with the list of nodes. A node's own failure is its element's.
    pub async fn request_every_node(
        &self,
        request: AdminRequest,
    ) -> Result<Vec<(NodeId, Result<AdminReply, ErrorKind>)>, ErrorKind> {
        let map = self.map().await?;
        let calls: Vec<_> = map
            .nodes
            .iter()
            .filter(|node| node.state != NodeState::Removed)
            .map(|node| {
                let call =
                    self.network.control(node.control_address, ControlRequest::Admin(request.clone()), NODE_DEADLINE);
                (node.id, tokio::task::spawn_local(call))
            })
            .collect();
        let mut answers = Vec::with_capacity(calls.len());
        for (node, call) in calls {
            let answer = match call.await {
                Ok(Ok(reply)) => admin_reply(reply),
                Ok(Err(error)) => Err(ErrorKind::Unavailable(error.to_string())),
                Err(error) => Err(ErrorKind::Unavailable(error.to_string())),
            };
            answers.push((node, answer));
        }
        Ok(answers)
    }

    /// The current map.
    ///
    /// # Errors
    /// When no leader answers.
    pub async fn map(&self) -> Result<ClusterMap, ErrorKind> {
        match self.request(AdminRequest::ClusterStatus).await? {
            AdminReply::Cluster(status) => Ok(status.map),
            other => Err(ErrorKind::Io(format!("unexpected answer to a status request: {other:?}"))),
        }
    }

    /// Control addresses that the identity names.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

fn admin_reply(reply: ControlReply) -> Result<AdminReply, ErrorKind> {
    match reply {
        ControlReply::Admin(reply) => match *reply {
            AdminReply::Failed(error) => Err(error),
            reply => Ok(reply),
        },
        ControlReply::Refused(error) => Err(error),
        ControlReply::NotLeader { .. } => Err(ErrorKind::Unavailable("the node passed the request on".into())),
        other => Err(ErrorKind::Io(format!("unexpected answer to an administrative request: {other:?}"))),
    }
}
