//! Clean-up on behalf of the metadata leader: an object, or its part past a size, goes from every placement group of its
//! volume, wherever that is led.
//!
//! Guarantees: the answer is good only when every group's primary has said that it is done; groups that do not answer are
//! asked again until `RECLAIM_TIMEOUT`. Deleting and cutting are idempotent, so repeating does no harm. Must not know:
//! why something is removed.

use super::host::{Host, Together, within};
use super::node::Shared;
use super::server::{Answer, Request};
use super::turn::{Speaker, settle};
use crate::bridge::ReclaimTo;
use bytes::Bytes;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::oneshot;
use weft_proto::data::{DataReply, DataRequest, TruncateRequest};
use weft_types::limits::{DEFAULT_CALL_TIMEOUT, MAX_RECLAIM_FAN_OUT, RECLAIM_TIMEOUT};
use weft_types::{DataError, MapVersion, NodeId, ObjectId, PgId, VolumeId};

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
pub(super) struct Reclaim {
    pub(super) volume: VolumeId,
    pub(super) object: ObjectId,
    pub(super) keep: ReclaimTo,
}

impl Reclaim {
    fn request(&self, pg: PgId, map_version: MapVersion) -> DataRequest {
        let (origin, object) = (None, self.object);
        match self.keep {
            ReclaimTo::Nothing => DataRequest::DeleteObject { pg, map_version, origin, object },
            ReclaimTo::Size { size_bytes, generation } => {
                DataRequest::Truncate(TruncateRequest { pg, map_version, origin, object, size_bytes, generation })
            }
        }
    }
}

pub(super) fn start<H: Host>(shared: &Shared<H>, reclaim: Reclaim, done: oneshot::Sender<Result<(), String>>) {
    let (host, shared) = (shared.borrow().host.clone(), Rc::clone(shared));
    host.clone().spawn(async move {
        let result = match within(&host, RECLAIM_TIMEOUT, run(&host, &shared, reclaim)).await {
            Some(result) => result,
            None => Err(format!("not every group answered within {} s", RECLAIM_TIMEOUT.as_secs())),
        };
        // Whoever asked may have lost the lead meanwhile.
        let _ = done.send(result);
    });
}

async fn run<H: Host>(host: &H, shared: &Shared<H>, reclaim: Reclaim) -> Result<(), String> {
    let map = shared.borrow().map.clone().ok_or_else(|| "no map yet".to_owned())?;
    let mut groups = map.pgs.iter().map(|record| record.pg).filter(|pg| pg.volume == reclaim.volume);
    let mut running = Together::default();
    loop {
        while running.len() < MAX_RECLAIM_FAN_OUT {
            let Some(pg) = groups.next() else { break };
            running.add(one_group(host.clone(), Rc::clone(shared), reclaim, pg));
        }
        match running.next().await {
            None => return Ok(()),
            Some(result) => result?,
        }
    }
}

/// Asks until the group's primary has done it.
async fn one_group<H: Host>(host: H, shared: Shared<H>, reclaim: Reclaim, pg: PgId) -> Result<(), String> {
    let mut pause = PAUSE_MIN;
    loop {
        let Some((version, leader, own)) = route(&shared, pg) else {
            // The group is gone with its volume, and the data with the group.
            return Ok(());
        };
        if let Some(leader) = leader {
            let request = reclaim.request(pg, version);
            let answer = if leader == own {
                ask_here(&host, &shared, request).await
            } else {
                ask_there(&host, &shared, leader, &request).await
            };
            match answer {
                Some(Ok(_)) => return Ok(()),
                Some(Err(DataError::Malformed)) => return Err(format!("group {pg} calls the request malformed")),
                Some(Err(error)) => tracing::debug!(%pg, %error, "a clean-up is tried again"),
                None => {}
            }
        }
        host.sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Map version, the node that leads the group, and this node; `None` when the map does not know the group.
fn route<H: Host>(shared: &Shared<H>, pg: PgId) -> Option<(MapVersion, Option<NodeId>, NodeId)> {
    let node = shared.borrow();
    let map = node.map.as_ref()?;
    let record = map.pgs.iter().find(|record| record.pg == pg)?;
    Some((map.version, record.primary_member().map(|member| member.node), node.settings.node))
}

async fn ask_here<H: Host>(host: &H, shared: &Shared<H>, body: DataRequest) -> Option<Result<DataReply, DataError>> {
    let (answer, answered) = oneshot::channel();
    shared.borrow_mut().admit(Request::new(body, Bytes::new(), Answer::Local(answer), Speaker::Node));
    settle(shared);
    within(host, DEFAULT_CALL_TIMEOUT, answered).await?.ok()
}

async fn ask_there<H: Host>(
    host: &H,
    shared: &Shared<H>,
    node: NodeId,
    body: &DataRequest,
) -> Option<Result<DataReply, DataError>> {
    let link = shared.borrow().peers.link(node)?;
    host.call(&link, body, DEFAULT_CALL_TIMEOUT).await.map(|(reply, _)| reply)
}
