//! This node's own life in the cluster: its incarnation, its heartbeats and its lease.
//!
//! Guarantees: nothing is served under an incarnation that is not durable here; a lease runs from when its heartbeat was
//! sent, by CLOCK_BOOTTIME (design 4.1), so a sleeper wakes without one. Must not know: what a lease permits.

use super::node::{Exit, Node, OpenedData};
use super::route::{Retry, ask_leader};
use crate::bridge::{ToControl, ToData};
use crate::data::boot_time;
use crate::supervisor::WorkerFacts;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use weft_proto::control::{ControlReply, ControlRequest, NodeHeartbeat, RegisterNode};
use weft_transport::HelloRole;
use weft_types::limits::{HEARTBEAT_INTERVAL, NODE_LEASE};
use weft_types::{ErrorKind, Incarnation, MapVersion, StartId};

const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Heartbeats on their way: as many as fit into a lease.
const MAX_HEARTBEATS_IN_FLIGHT: usize = 8;
/// An answer that comes later than this is worth little; a fresh heartbeat is on its way.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_millis(1500);
const SURRENDER_TIMEOUT: Duration = Duration::from_secs(5);
/// Set changes, notes and failed disks on their way to the leader.
const MAX_REPORTS_IN_FLIGHT: usize = 64;
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// A failed disk is reported until the leader knows.
const FAILED_DISK_ATTEMPTS: u32 = 100;

/// Registers once the disks are open, then sends heartbeats for as long as the node runs.
pub(crate) async fn live(node: Rc<Node>, opened: oneshot::Receiver<Result<OpenedData, String>>) {
    let data = match opened.await {
        Ok(Ok(data)) => data,
        Ok(Err(why)) => return node.end(Exit::NeedsAPerson(why)),
        Err(_) => return node.end(Exit::Restart("the disks were not opened".to_owned())),
    };
    tracing::info!(data = %data.address, disks = data.disks.len(), "disks are open");
    let Some(incarnation) = register(&node, data).await else { return };
    let in_flight = Arc::new(Semaphore::new(MAX_HEARTBEATS_IN_FLIGHT));
    let mut interval = tokio::time::interval(HEARTBEAT_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        // A full set of unanswered heartbeats: the next one waits for one of them to end.
        let Ok(permit) = Arc::clone(&in_flight).try_acquire_owned() else { continue };
        let node = Rc::clone(&node);
        tokio::task::spawn_local(async move {
            heartbeat(&node, incarnation).await;
            drop(permit);
        });
    }
}

/// `None` when the node has to end.
async fn register(node: &Rc<Node>, data: OpenedData) -> Option<Incarnation> {
    let start = match crate::setup::random_id() {
        Ok(id) => StartId(id),
        Err(why) => {
            node.end(Exit::NeedsAPerson(why.to_string()));
            return None;
        }
    };
    let request = RegisterNode {
        node: node.id(),
        start,
        previous: node.identity.borrow().incarnation,
        control_address: node.control_address,
        data_address: data.address,
        disks: data.disks,
    };
    let mut last_why = String::new();
    let (incarnation, map_version) = loop {
        let request = ControlRequest::RegisterNode(request.clone());
        match ask_leader(node, request, REGISTER_TIMEOUT, Retry::Always).await {
            Ok(ControlReply::Registered { incarnation, map_version }) => break (incarnation, map_version),
            Ok(ControlReply::Refused(why @ (ErrorKind::Refused(_) | ErrorKind::NotFound | ErrorKind::Invalid(_)))) => {
                node.end(Exit::NeedsAPerson(format!("the cluster does not take this node: {why}")));
                return None;
            }
            Ok(ControlReply::Refused(why)) => note_change(&mut last_why, &why.to_string()),
            Ok(other) => note_change(&mut last_why, &format!("unexpected answer {other:?}")),
            Err(why) => note_change(&mut last_why, &why),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    };
    // Durable first: the next registration has to name it (design 3, 5.4).
    if let Err(error) = node.change_identity(|identity| identity.incarnation = incarnation) {
        node.end(Exit::NeedsAPerson(format!("the incarnation could not be made durable: {error}")));
        return None;
    }
    let mut hello = node.hello.get();
    hello.role = HelloRole::Node { node: node.id(), incarnation };
    node.hello.set(hello);
    if let Some(process_id) = node.publish_as_process {
        let facts = WorkerFacts { process_id, node: node.id(), incarnation };
        if let Err(error) = facts.publish(&node.layout) {
            tracing::warn!(%error, "the parent process cannot be told; a crash will cost a whole lease");
        }
    }
    tracing::info!(%incarnation, "registered");
    node.tell_data(ToData::Registered { incarnation, map_version }).await;
    node.incarnation.set(Some(incarnation));
    node.tell_data(ToData::Map(node.maps.current())).await;
    Some(incarnation)
}

fn note_change(last: &mut String, why: &str) {
    if last != why {
        tracing::info!(%why, "cannot register yet");
        why.clone_into(last);
    }
}

async fn heartbeat(node: &Rc<Node>, incarnation: Incarnation) {
    let (reachable, free_bytes) = {
        let facts = node.data_status.facts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (facts.reachable.clone(), facts.free_bytes.clone())
    };
    let applied = MapVersion(node.data_status.applied.load(Ordering::Acquire));
    let request = NodeHeartbeat { node: node.id(), incarnation, applied, reachable, free_bytes };
    // Before anything else happens to it: the lease runs from here.
    let sent = boot_time();
    match ask_leader(node, ControlRequest::Heartbeat(request), HEARTBEAT_TIMEOUT, Retry::Always).await {
        Ok(ControlReply::HeartbeatAnswer { map_version }) => {
            node.tell_data(ToData::Lease { until: sent + NODE_LEASE, map_version }).await;
        }
        Ok(ControlReply::Refused(ErrorKind::Refused(why))) => {
            // It was called dead, or another process registered as this node.
            node.end(Exit::Restart(format!("this incarnation is over: {why}")));
        }
        Ok(other) => tracing::debug!(?other, "a heartbeat got no lease"),
        Err(why) => tracing::debug!(%why, "a heartbeat was not answered"),
    }
}

/// Gives the lease back by a commit, so that nobody waits for it to lapse.
pub(crate) async fn surrender(node: &Rc<Node>) {
    let Some(incarnation) = node.incarnation.get() else { return };
    let request = ControlRequest::SurrenderLease { node: node.id(), incarnation };
    match ask_leader(node, request, SURRENDER_TIMEOUT, Retry::Always).await {
        Ok(ControlReply::Done) => tracing::info!(%incarnation, "lease surrendered"),
        Ok(other) => tracing::warn!(?other, "the lease could not be surrendered; it lapses by itself"),
        Err(why) => tracing::warn!(%why, "the lease could not be surrendered; it lapses by itself"),
    }
}

/// Carries what the data thread reports to the leader.
pub(crate) async fn hear_data(node: Rc<Node>, mut from_data: mpsc::Receiver<ToControl>) {
    let in_flight = Arc::new(Semaphore::new(MAX_REPORTS_IN_FLIGHT));
    while let Some(message) = from_data.recv().await {
        let (request, attempts) = match message {
            ToControl::ChangeSet(request) => (ControlRequest::ChangeSet(request), 1),
            ToControl::DiskFailed { disk, why } => {
                let Some(incarnation) = node.incarnation.get() else { continue };
                tracing::error!(%disk, %why, "a disk failed; it is not used any more. Replace it");
                (ControlRequest::DiskFailed { disk, incarnation }, FAILED_DISK_ATTEMPTS)
            }
            ToControl::Event(what) => (ControlRequest::Note { node: node.id(), what }, 1),
            ToControl::Ended { why } => return node.end(Exit::Restart(format!("the data thread ended: {why}"))),
        };
        // The data thread keeps the newest while this queue is full.
        let Ok(permit) = Arc::clone(&in_flight).acquire_owned().await else { return };
        let node = Rc::clone(&node);
        tokio::task::spawn_local(async move {
            report(&node, request, attempts).await;
            drop(permit);
        });
    }
    node.end(Exit::Restart("the data thread is gone".to_owned()));
}

async fn report(node: &Rc<Node>, request: ControlRequest, attempts: u32) {
    for _ in 0..attempts {
        match ask_leader(node, request.clone(), REPORT_TIMEOUT, Retry::Always).await {
            Ok(ControlReply::Refused(ErrorKind::Unavailable(why))) | Err(why) => {
                tracing::debug!(%why, "a report did not reach the leader");
            }
            Ok(ControlReply::Refused(why)) => return tracing::debug!(%why, ?request, "the leader refused a report"),
            Ok(_) => return,
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}
