//! A data node as its shell drives it: the data thread (`thread`, `port`) or the simulator.
//!
//! Responsible for: the entry points of a turn. Feed whatever is ready, then call [`Turn::settle`]; what comes out leaves
//! through the [`Host`], the repliers and the channel to the control side. Guarantees: no entry point blocks but
//! [`Turn::sync_and_mark`], and a write that finds the journal full. Must not know: which shell it is.

use super::disks::OpenedDisks;
use super::groups::GroupKey;
use super::host::Host;
use super::node::{Completion, DataNode, NodeSettings, Shared, Stage};
use super::server::{Answer, Request};
use super::{copying, map, reclaim, repair, scrub, syncing};
use crate::bridge::{DataStatus, ToControl, ToData};
use bytes::Bytes;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use weft_proto::admin::NodeReport;
use weft_proto::data::DataRequest;
use weft_proto::hello::{Hello, HelloRole};
use weft_proto::replication::Envelope;
use weft_replication::{Event, Status};
use weft_store::Store;
use weft_types::map::ClusterMap;
use weft_types::{DataError, DiskId, NodeId, PgId, SessionOwner};

/// Who sent a request, by its certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speaker {
    /// A client or administrator, which speaks for its own sessions.
    Client(SessionOwner),
    /// A node, which acts for any session.
    Node,
}

/// Clones are the same node.
pub struct Turn<H: Host> {
    shared: Shared<H>,
}

impl<H: Host> Clone for Turn<H> {
    fn clone(&self) -> Self {
        Self { shared: Rc::clone(&self.shared) }
    }
}

/// Ends a turn from within one of its tasks.
pub(super) fn settle<H: Host>(shared: &Shared<H>) {
    let mut node = shared.borrow_mut();
    node.settle();
    repair::start_queued(shared, &mut node);
    copying::start_queued(shared, &mut node);
}

impl<H: Host> Turn<H> {
    pub(super) fn new(node: DataNode<H>) -> Self {
        Self { shared: Rc::new(RefCell::new(node)) }
    }

    /// A node on opened disks. It serves nothing before `ToData::Registered`, a map and a lease have come.
    ///
    /// # Errors
    /// When its helper threads cannot be started.
    pub fn start(
        host: H,
        settings: NodeSettings,
        disks: OpenedDisks<H::Disk>,
        to_control: Sender<ToControl>,
        status: Arc<DataStatus>,
    ) -> std::io::Result<Self> {
        Ok(Self::new(DataNode::new(host, settings, disks, to_control, status)?))
    }

    /// Ends the turn: everything that was fed is acted on, every batch is ended, wanted syncs are begun.
    pub fn settle(&self) {
        settle(&self.shared);
    }

    /// What the control side says, `Stop` aside: that one is the shell's, see [`Turn::begin_stop`].
    pub fn control(&self, message: ToData) {
        match message {
            ToData::Registered { incarnation, map_version } => {
                self.shared.borrow_mut().registered(incarnation, map_version);
            }
            ToData::Map(map) => map::apply(&mut self.shared.borrow_mut(), &map),
            ToData::Lease { until, map_version } => self.shared.borrow_mut().lease_granted(until, map_version),
            ToData::Reclaim { volume, object, keep, done } => {
                reclaim::start(&self.shared, reclaim::Reclaim { volume, object, keep }, done);
            }
            ToData::Heal { volume, reply } => {
                let progress = self.shared.borrow().heal_progress(volume);
                // Whoever asked may have given up.
                let _ = reply.send(progress);
            }
            ToData::Digests { volume, reply } => super::digest::start(&self.shared, volume, reply),
            ToData::Report { reply } => {
                let report = self.report();
                let _ = reply.send(report);
            }
            ToData::Stop { .. } => {}
        }
    }

    /// Whether clients may send much.
    #[must_use]
    pub fn has_room_for_clients(&self) -> bool {
        self.shared.borrow().has_room_for_clients()
    }

    pub fn request(&self, body: DataRequest, payload: Bytes, replier: H::Replier, from: Speaker) {
        let mut node = self.shared.borrow_mut();
        node.begin_turn();
        let request = Request::new(body, payload, Answer::Wire(replier), from);
        if request.is_proper() {
            node.admit(request);
        } else {
            node.refuse_request(request, DataError::Malformed);
        }
    }

    /// From the node at the other end of a link.
    pub fn peer_message(&self, from: NodeId, envelope: Envelope) {
        let mut node = self.shared.borrow_mut();
        node.begin_turn();
        node.peer_message(from, envelope);
    }

    /// A message that could not be read, or from nobody who may speak.
    pub fn malformed(&self) {
        self.shared.borrow_mut().counters.peer_messages_refused += 1;
    }

    /// A link in the place of an earlier one to this node, if there was one. That is left to end by itself.
    pub fn link_opened(&self, peer: NodeId, link: H::Link) {
        let mut node = self.shared.borrow_mut();
        let now = node.host.now();
        if node.peers.opened(peer, link, now).is_some() {
            node.peer_changed(peer, Event::PeerDown);
        }
        node.peer_changed(peer, Event::PeerUp);
    }

    pub fn link_closed(&self, peer: NodeId, link: &H::Link) {
        let mut node = self.shared.borrow_mut();
        if node.peers.closed(peer, link) {
            node.peer_changed(peer, Event::PeerDown);
        }
    }

    pub fn complete(&self, completion: Completion) {
        self.shared.borrow_mut().complete(completion);
    }

    /// Every `TICK_INTERVAL`.
    pub fn tick(&self) {
        let mut node = self.shared.borrow_mut();
        node.tick();
        scrub::tick(&mut node);
    }

    /// When the node wants to be settled even if nothing happens.
    #[must_use]
    pub fn next_release_in(&self) -> Option<Duration> {
        self.shared.borrow().next_release_in()
    }

    pub fn begin_stop(&self) {
        self.shared.borrow_mut().begin_stop();
    }

    /// Nothing that clients wait for is left.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.shared.borrow().is_drained()
    }

    /// Nothing is appended from here on, whatever still arrives.
    pub fn stop_appending(&self) {
        self.shared.borrow_mut().stage = Stage::Stopped;
    }

    /// The end of a clean stop. Blocks.
    pub fn sync_and_mark(&self) {
        syncing::sync_and_mark(&self.shared);
    }

    /// Lets go of disks, links and requests, so that nothing of this run touches a disk afterwards.
    pub fn dismantle(&self) {
        let mut node = self.shared.borrow_mut();
        node.dismantle();
        // Dropping them may call back, so the state must not be in use then.
        let links = std::mem::take(&mut node.peers);
        let requests = std::mem::take(&mut node.requests);
        let copies = std::mem::take(&mut node.copies);
        drop(node);
        drop((links, requests, copies));
    }

    #[must_use]
    pub fn hello(&self) -> Hello {
        let node = self.shared.borrow();
        let role = HelloRole::Node { node: node.settings.node, incarnation: node.incarnation };
        Hello { cluster: node.settings.cluster, role }
    }

    #[must_use]
    pub fn node(&self) -> NodeId {
        self.shared.borrow().settings.node
    }

    /// Whether the node may serve now, as far as it knows.
    #[must_use]
    pub fn holds_lease(&self) -> bool {
        let node = self.shared.borrow();
        node.lease.is_held(node.host.now())
    }

    /// The applied map.
    #[must_use]
    pub fn map(&self) -> Option<Arc<ClusterMap>> {
        self.shared.borrow().map.clone()
    }

    #[must_use]
    pub fn report(&self) -> NodeReport {
        self.shared.borrow().report()
    }

    /// The writes of clients that are worked on, and the bytes of their data.
    #[must_use]
    pub fn writes_under_way(&self) -> (usize, usize) {
        self.shared.borrow().writes_under_way()
    }

    /// What the machine of a group on a disk of this node says of itself.
    #[must_use]
    pub fn replica_status(&self, pg: PgId, disk: DiskId) -> Option<Status> {
        Some(self.shared.borrow().groups.get(&GroupKey { pg, disk })?.replica.status())
    }

    /// Looks at the store of a disk; `None` when there is none or it has failed.
    pub fn look_at_store<T>(&self, disk: DiskId, look: impl FnOnce(&Store<H::Disk>) -> T) -> Option<T> {
        let node = self.shared.borrow();
        let disk = node.disks.get(&disk).filter(|disk| disk.failure().is_none())?;
        Some(look(&disk.store))
    }
}
