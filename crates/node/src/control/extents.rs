//! How far a file reaches: asked of every placement group of its volume (design 7, "Size").
//!
//! Responsible for: collecting the highest end of any sequenced entry after the holder of a size cap was fenced.
//! Guarantees: an end is told only if every group has answered at the present map.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinSet;
use weft_meta::records::SizeRecovery;
use weft_proto::data::{DataReply, DataRequest};
use weft_transport::connection::NoService;
use weft_transport::dialer::DialTarget;
use weft_transport::{Endpoint, Hello, PeerHandle, Service};
use weft_types::DataError;
use weft_types::map::ClusterMap;

/// One group's answer; it may wait for its writes first.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Connections to data ports, made when a size has to be recovered.
pub(crate) struct Extents {
    endpoint: Endpoint,
    hello: Rc<Cell<Hello>>,
    connections: RefCell<BTreeMap<SocketAddr, PeerHandle>>,
}

impl Extents {
    pub(crate) fn new(endpoint: Endpoint, hello: Rc<Cell<Hello>>) -> Self {
        Self { endpoint, hello, connections: RefCell::default() }
    }

    fn connection(&self, address: SocketAddr) -> PeerHandle {
        let mut connections = self.connections.borrow_mut();
        let dial = || {
            let target = DialTarget { address, expect: None, hello: Rc::clone(&self.hello) };
            PeerHandle::dial(&self.endpoint, target, Rc::new(NoService))
        };
        connections.entry(address).or_insert_with(dial).clone()
    }

    /// `None` when some group did not answer.
    pub(crate) async fn highest_end(&self, map: &ClusterMap, recovery: &SizeRecovery) -> Option<u64> {
        let SizeRecovery { volume, object, generation, .. } = *recovery;
        let mut asked = JoinSet::new();
        for pg in map.pgs.iter().filter(|pg| pg.pg.volume == volume) {
            let primary = pg.primary_member()?.node;
            let address = map.nodes.iter().find(|node| node.id == primary)?.data_address;
            let peer = self.connection(address);
            let request = DataRequest::ObjectExtent { pg: pg.pg, map_version: map.version, object, generation };
            asked.spawn_local(async move { ask(&peer, &request).await });
        }
        let mut highest = 0;
        while let Some(answer) = asked.join_next().await {
            highest = highest.max(answer.ok().flatten()?);
        }
        Some(highest)
    }
}

async fn ask(peer: &PeerHandle, request: &DataRequest) -> Option<u64> {
    let connection = peer.wait_up(TIMEOUT).await?;
    let answer = connection.call::<_, Result<DataReply, DataError>>(Service::Data, request, (), TIMEOUT).await;
    match answer {
        Ok((Ok(DataReply::ObjectExtent { end_bytes, .. }), _)) => Some(end_bytes),
        Ok((other, _)) => {
            tracing::debug!(?other, "a placement group did not say how far a file reaches");
            None
        }
        Err(error) => {
            tracing::debug!(%error, "a placement group did not say how far a file reaches");
            None
        }
    }
}
