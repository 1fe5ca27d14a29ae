//! The map as this node has applied it: to the data thread, and to those who wait for a newer one.
//!
//! Guarantees: versions only rise; the data thread gets every map that is current when it is ready for one, in order.

use super::node::{Exit, Node};
use crate::bridge::ToData;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use weft_meta::{StateError, read};
use weft_proto::control::ControlReply;
use weft_raft::MetaGroup;
use weft_types::map::ClusterMap;
use weft_types::{ErrorKind, MapVersion, VolumeId};

/// Longest poll; the caller asks again.
const MAX_POLL: Duration = Duration::from_secs(30);

pub(crate) struct Maps {
    newest: watch::Sender<Arc<ClusterMap>>,
}

impl Maps {
    pub(crate) fn new(group: &MetaGroup) -> Result<Self, StateError> {
        let map = group.read(|view| read::cluster_map(view, None))?;
        Ok(Self { newest: watch::channel(Arc::new(map)).0 })
    }

    pub(crate) fn current(&self) -> Arc<ClusterMap> {
        self.newest.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.newest.subscribe()
    }
}

/// Publishes newer maps and hands the leader its facts.
pub(crate) async fn follow_changes(node: Rc<Node>) {
    let mut changes = node.group.changes();
    loop {
        let version = changes.borrow_and_update().map_version;
        // Zero before a joining node has anything of the log.
        if version > node.maps.current().version {
            match node.group.read(|view| read::cluster_map(view, None)) {
                Ok(map) => publish(&node, map).await,
                Err(error) => return node.end(Exit::NeedsAPerson(error.to_string())),
            }
        }
        node.leader.on_applied(&node);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

async fn publish(node: &Rc<Node>, map: ClusterMap) {
    let map = Arc::new(map);
    node.peers.learn(&map);
    remember_addresses(node);
    node.maps.newest.send_replace(Arc::clone(&map));
    // Before registration the data thread serves nothing; it gets the newest map right after.
    if node.incarnation.get().is_some() {
        node.tell_data(ToData::Map(map)).await;
    }
}

/// So that a node whose state is lost or far behind still finds the others, and its parent too.
fn remember_addresses(node: &Node) {
    let mut addresses = node.peers.addresses();
    addresses.sort_unstable();
    if addresses.is_empty() {
        return;
    }
    if let Err(error) = node.change_identity(|identity| identity.control_addresses = addresses) {
        tracing::error!(%error, "the addresses of the nodes could not be remembered");
    }
}

/// `GetMap`: answered at once when there is a newer map, else when there is one or the wait is over.
pub(crate) async fn get(node: &Node, volume: Option<VolumeId>, have: MapVersion, wait_ms: u32) -> ControlReply {
    let wait = Duration::from_millis(u64::from(wait_ms)).min(MAX_POLL);
    let mut newest = node.maps.watch();
    let newer = newest.wait_for(|map| map.version > have);
    if !matches!(tokio::time::timeout(wait, newer).await, Ok(Ok(_))) {
        return ControlReply::MapUnchanged;
    }
    match node.group.read(|view| read::cluster_map(view, volume)) {
        Ok(map) => ControlReply::Map(Box::new(map)),
        Err(error) => ControlReply::Refused(ErrorKind::Io(error.to_string())),
    }
}
