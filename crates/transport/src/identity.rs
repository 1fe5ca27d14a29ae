//! Who a peer is: what its certificate says, and nothing else.
//!
//! The text form is the DNS name in the certificate, for example `node-3.<cluster id>.weft`. There is exactly one such
//! name in a certificate of a Weft cluster.

use std::fmt;
use std::str::FromStr;
use weft_proto::hello::{Hello, HelloRole};
use weft_types::{ClusterId, NodeId, SessionOwner};

/// Longest name of a client or administrator: with its role it still is one DNS label (63 bytes).
pub const MAX_PEER_NAME_BYTES: usize = 48;

/// Name of a client host or administrator: lower-case letters, digits and inner hyphens.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerName(String);

impl PeerName {
    /// # Errors
    /// When the text is empty, too long, or holds anything but lower-case letters, digits and inner hyphens.
    pub fn new(text: &str) -> Result<Self, BadIdentity> {
        let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let ends = text.starts_with('-') || text.ends_with('-');
        if text.is_empty() || text.len() > MAX_PEER_NAME_BYTES || !plain || ends {
            return Err(BadIdentity(text.chars().take(80).collect()));
        }
        Ok(Self(text.to_owned()))
    }

    /// The nearest valid name: other characters become hyphens.
    #[must_use]
    pub fn from_host(host: &str) -> Self {
        let mapped: String = host
            .chars()
            .map(|c| c.to_ascii_lowercase())
            .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
            .take(MAX_PEER_NAME_BYTES)
            .collect();
        let trimmed = mapped.trim_matches('-');
        Self(if trimmed.is_empty() { "unnamed".to_owned() } else { trimmed.to_owned() })
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PeerRole {
    Node(NodeId),
    Client(PeerName),
    Admin(PeerName),
}

/// What a certificate binds its key to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerIdentity {
    pub cluster: ClusterId,
    pub role: PeerRole,
}

/// Text that names no peer of a cluster.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{0}' does not name a peer of a cluster")]
pub struct BadIdentity(pub String);

impl PeerIdentity {
    #[must_use]
    pub const fn node(cluster: ClusterId, node: NodeId) -> Self {
        Self { cluster, role: PeerRole::Node(node) }
    }

    #[must_use]
    pub const fn client(cluster: ClusterId, name: PeerName) -> Self {
        Self { cluster, role: PeerRole::Client(name) }
    }

    #[must_use]
    pub const fn admin(cluster: ClusterId, name: PeerName) -> Self {
        Self { cluster, role: PeerRole::Admin(name) }
    }

    /// The node id, if the peer is a node.
    #[must_use]
    pub const fn as_node(&self) -> Option<NodeId> {
        match self.role {
            PeerRole::Node(node) => Some(node),
            PeerRole::Client(_) | PeerRole::Admin(_) => None,
        }
    }

    /// As whom its sessions are kept: by the name in the certificate, whatever its role.
    #[must_use]
    pub fn session_owner(&self) -> SessionOwner {
        SessionOwner::of_certificate(&self.to_string())
    }

    /// Whether the holder of this identity may speak as `hello` says: a client cannot speak as a node, nor a node as
    /// another one.
    #[must_use]
    pub fn allows(&self, hello: &Hello) -> bool {
        self.cluster == hello.cluster
            && match (&self.role, &hello.role) {
                (PeerRole::Node(mine), HelloRole::Node { node, .. }) => mine == node,
                // A node also speaks for its own administration (`weft status` on the box).
                (PeerRole::Node(_) | PeerRole::Admin(_), HelloRole::Admin) => true,
                (PeerRole::Client(_) | PeerRole::Admin(_), HelloRole::Client { .. }) => true,
                _ => false,
            }
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.role {
            PeerRole::Node(node) => write!(f, "node-{node}")?,
            PeerRole::Client(name) => write!(f, "client-{}", name.as_str())?,
            PeerRole::Admin(name) => write!(f, "admin-{}", name.as_str())?,
        }
        write!(f, ".{}.weft", self.cluster)
    }
}

impl FromStr for PeerIdentity {
    type Err = BadIdentity;

    fn from_str(text: &str) -> Result<Self, BadIdentity> {
        let bad = || BadIdentity(text.chars().take(120).collect());
        let mut labels = text.split('.');
        let (Some(who), Some(cluster), Some("weft"), None) =
            (labels.next(), labels.next(), labels.next(), labels.next())
        else {
            return Err(bad());
        };
        let cluster: ClusterId = cluster.parse().map_err(|_| bad())?;
        let (role, id) = who.split_once('-').ok_or_else(bad)?;
        let role = match role {
            "node" => PeerRole::Node(NodeId(id.parse().map_err(|_| bad())?)),
            "client" => PeerRole::Client(PeerName::new(id).map_err(|_| bad())?),
            "admin" => PeerRole::Admin(PeerName::new(id).map_err(|_| bad())?),
            _ => return Err(bad()),
        };
        let identity = Self { cluster, role };
        // One identity, one text: `node-03` and `node-+3` are not node 3.
        if identity.to_string() == text { Ok(identity) } else { Err(bad()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::Incarnation;

    #[test]
    fn an_identity_reads_back_and_has_one_text_only() {
        let cluster = ClusterId(77);
        for identity in [
            PeerIdentity::node(cluster, NodeId(3)),
            PeerIdentity::client(cluster, PeerName::new("hv-12").unwrap()),
            PeerIdentity::admin(cluster, PeerName::new("root").unwrap()),
        ] {
            assert_eq!(identity.to_string().parse(), Ok(identity));
        }
        let id = cluster.to_string();
        for text in [
            format!("node-03.{id}.weft"),
            format!("node-+3.{id}.weft"),
            format!("node-3.{id}.weft."),
            format!("node-3.{id}"),
            format!("king-3.{id}.weft"),
            format!("client-.{id}.weft"),
            format!("client-A.{id}.weft"),
        ] {
            assert!(text.parse::<PeerIdentity>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_client_cannot_speak_as_a_node_nor_a_node_as_another() {
        let cluster = ClusterId(1);
        let as_node = |n| Hello { cluster, role: HelloRole::Node { node: NodeId(n), incarnation: Incarnation(1) } };
        let client = PeerIdentity::client(cluster, PeerName::new("c").unwrap());
        let node = PeerIdentity::node(cluster, NodeId(3));
        assert!(!client.allows(&as_node(3)));
        assert!(node.allows(&as_node(3)));
        assert!(!node.allows(&as_node(4)));
        assert!(!client.allows(&Hello { cluster, role: HelloRole::Admin }));
        assert!(client.allows(&Hello { cluster, role: HelloRole::Client { session: None } }));
        assert!(!node.allows(&Hello { cluster: ClusterId(2), ..as_node(3) }));
    }

    #[test]
    fn any_host_name_becomes_a_valid_peer_name() {
        assert_eq!(PeerName::from_host("HV_12.example.org").as_str(), "hv-12-example-org");
        assert_eq!(PeerName::from_host("...").as_str(), "unnamed");
        assert!(PeerName::new(PeerName::from_host(&"x.".repeat(60)).as_str()).is_ok());
    }
}
