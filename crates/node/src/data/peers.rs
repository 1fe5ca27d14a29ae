//! Connections to the other nodes: one per pair, dialed by the node with the lower id.
//!
//! Other parts of a node (its control thread) may hold connections to a data port as well, under the same certificate. So
//! the dialer of the one connection that carries replication greets first, with an empty message of that service.
//!
//! Responsible for: which connection leads to which node, dialing, and who was heard from lately. Guarantees: everything
//! to one node leaves on the ordered channel of one connection, in order; a broken connection is known at once. Must not
//! know: what the messages mean.

use super::host::Link;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;
use weft_proto::frame::Service;
use weft_proto::replication::Envelope;
use weft_transport::{Channel, Connection, Message, Payload, PeerHandle, SendError};
use weft_types::map::{ClusterMap, NodeState};
use weft_types::{BootTime, NodeId};

/// A node heard from within this time is reachable (design 5.3); two keep-alives fit.
const HEARD_WITHIN: Duration = Duration::from_millis(1000);

/// Says on a dialed connection that it is the one for replication.
pub(super) fn greet(connection: &Connection) -> Result<(), SendError> {
    connection.send(Channel::Ordered, Service::Replication, &(), Payload::None)
}

pub(super) fn is_greeting(message: &Message) -> bool {
    message.service == Service::Replication && message.header.is_empty() && message.payload.is_empty()
}

pub(super) struct Peers<L> {
    links: HashMap<NodeId, Heard<L>>,
}

struct Heard<L> {
    link: L,
    count: u64,
    at: BootTime,
}

impl<L> Default for Peers<L> {
    fn default() -> Self {
        Self { links: HashMap::new() }
    }
}

impl<L: Link> Peers<L> {
    /// Takes a new connection into use; gives back the one that it replaces.
    pub(super) fn opened(&mut self, node: NodeId, link: L, now: BootTime) -> Option<L> {
        self.links.insert(node, Heard { link, count: 0, at: now }).map(|old| old.link)
    }

    /// Whether this was the connection in use.
    pub(super) fn closed(&mut self, node: NodeId, link: &L) -> bool {
        let in_use = self.links.get(&node).is_some_and(|heard| heard.link == *link);
        if in_use {
            self.links.remove(&node);
        }
        in_use
    }

    pub(super) fn link(&self, node: NodeId) -> Option<L> {
        self.links.get(&node).map(|heard| heard.link.clone())
    }

    /// Whether it was queued.
    pub(super) fn send(&self, node: NodeId, envelope: &Envelope) -> bool {
        self.links.get(&node).is_some_and(|heard| heard.link.send(envelope))
    }

    /// Nodes heard from lately. Called at every tick.
    pub(super) fn reachable(&mut self, now: BootTime) -> Vec<NodeId> {
        let mut reachable = Vec::with_capacity(self.links.len());
        for (node, heard) in &mut self.links {
            match heard.link.heard_count() {
                Some(count) if count == heard.count => {}
                count => {
                    heard.count = count.unwrap_or_default();
                    heard.at = now;
                }
            }
            if heard.link.is_open() && now.since(heard.at) < HEARD_WITHIN {
                reachable.push(*node);
            }
        }
        reachable.sort_unstable();
        reachable
    }
}

impl Link for Connection {
    fn send(&self, envelope: &Envelope) -> bool {
        let payload = match envelope.message.payload().count() {
            0 => Payload::None,
            1 => envelope.message.payload().next().cloned().map_or(Payload::None, Payload::One),
            _ => Payload::Many(envelope.message.payload().cloned().collect::<Vec<Bytes>>()),
        };
        Connection::send(self, Channel::Ordered, Service::Replication, envelope, payload).is_ok()
    }

    fn heard_count(&self) -> Option<u64> {
        self.statistics().map(|statistics| statistics.received_packets)
    }

    fn is_open(&self) -> bool {
        Self::is_open(self)
    }
}

/// The connections that this node keeps up. Lives outside the node's state, because dropping a handle closes its
/// connection, and closing calls back.
#[derive(Default)]
pub(super) struct Dialers {
    dialed: BTreeMap<NodeId, (SocketAddr, PeerHandle)>,
}

impl Dialers {
    /// Dials whom the map names anew, forgets whom it names no more.
    pub(super) fn follow(&mut self, own: NodeId, map: &ClusterMap, dial: impl Fn(NodeId, SocketAddr) -> PeerHandle) {
        // Two nodes that dialed each other would have two connections, and two orders.
        let wanted: BTreeMap<NodeId, SocketAddr> = map
            .nodes
            .iter()
            .filter(|node| node.id > own && node.state != NodeState::Removed && node.incarnation.0 != 0)
            .map(|node| (node.id, node.data_address))
            .collect();
        self.dialed.retain(|node, (address, _)| wanted.get(node) == Some(address));
        for (node, address) in wanted {
            self.dialed.entry(node).or_insert_with(|| (address, dial(node, address)));
        }
    }

    /// News that a node is back: it is dialed without a pause.
    pub(super) fn hurry(&self) {
        for (_, handle) in self.dialed.values() {
            if handle.connection().is_none() {
                handle.hurry();
            }
        }
    }
}
