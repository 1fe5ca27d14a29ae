//! A queue to another node that is full: what of the stream does not leave, its machine hears of.

use crate::bridge::DataStatus;
use crate::data::groups::GroupKey;
use crate::data::host::{CallAnswer, Host, Job, Link, NoRoom, Pool, Replier};
use crate::data::node::{DataNode, NodeSettings};
use crate::data::{OpenedDisks, boot_time};
use crate::memory::MemoryPlan;
use crate::mutants::{Mutant, plant};
use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use weft_proto::data::{DataReply, DataRequest};
use weft_proto::replication::{Append, Envelope, Message, SyncWish};
use weft_replication::Event;
use weft_store::fault::SimDisk;
use weft_transport::Payload;
use weft_types::{BootTime, ClusterId, DataError, DiskId, Epoch, Incarnation, LogPosition, NodeId, PgId, VolumeId};

const OWN: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);
const KEY: GroupKey = GroupKey { pg: PgId { volume: VolumeId(1), index: 0 }, disk: DiskId(1) };

/// A machine that does nothing but send.
#[derive(Clone)]
struct Sender;

/// A connection whose queue has room, or none.
#[derive(Clone)]
struct Queue(Rc<Cell<bool>>);

impl PartialEq for Queue {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Link for Queue {
    fn send(&self, _: &Envelope) -> bool {
        self.0.get()
    }

    fn heard_count(&self) -> Option<u64> {
        None
    }

    fn is_open(&self) -> bool {
        true
    }
}

struct NoAnswer;

impl Replier for NoAnswer {
    fn reply(self, _: &Result<DataReply, DataError>, _: Payload) {}
}

struct NoThreads;

impl Pool for NoThreads {
    fn submit(&self, job: Job) -> Result<(), NoRoom> {
        Err(NoRoom(job))
    }

    fn hurry(&self) {}
}

impl Host for Sender {
    type Disk = SimDisk;
    type Link = Queue;
    type Replier = NoAnswer;
    type Pool = NoThreads;

    fn now(&self) -> BootTime {
        boot_time()
    }

    fn pool(&self, _: &'static str, _: usize, _: usize) -> std::io::Result<NoThreads> {
        Ok(NoThreads)
    }

    fn spawn(&self, _: impl Future<Output = ()> + 'static) {}

    fn sleep(&self, _: Duration) -> impl Future<Output = ()> + 'static {
        std::future::pending()
    }

    fn call(&self, _: &Queue, _: &DataRequest, _: Duration) -> impl Future<Output = CallAnswer> + 'static {
        std::future::ready(None)
    }
}

fn append() -> Envelope {
    let (epoch, committed) = (Epoch(1), LogPosition::ZERO);
    Envelope {
        pg: KEY.pg,
        from: KEY.disk,
        from_incarnation: Incarnation(1),
        to: DiskId(2),
        to_incarnation: Incarnation(1),
        message: Message::Append(Append { epoch, entries: Vec::new(), committed, sync: SyncWish::Later }),
    }
}

/// Whether the machine hears that its stream broke, when the queue has room and when it has none.
fn hears_of_it(mutant: Option<Mutant>) -> [bool; 2] {
    plant(mutant);
    let settings = NodeSettings {
        cluster: ClusterId(1),
        node: OWN,
        resync_bytes_per_second: 1,
        scrub_bytes_per_second: 0,
        memory: MemoryPlan::default(),
        #[cfg(feature = "mutants")]
        mutant: None,
    };
    let (to_control, _from_data) = tokio::sync::mpsc::channel(8);
    let status = Arc::new(DataStatus::default());
    let mut node = DataNode::new(Sender, settings, OpenedDisks::default(), to_control, status).unwrap();
    node.homes.insert(DiskId(2), OTHER);
    let queue = Queue(Rc::default());
    drop(node.peers.opened(OTHER, queue.clone(), boot_time()));
    let hears = [true, false].map(|room| {
        queue.0.set(room);
        node.send(append());
        matches!(node.ready.pop_front(), Some((KEY, Event::PeerDown(DiskId(2)))))
    });
    plant(None);
    hears
}

#[test]
fn a_machine_hears_that_its_stream_broke_when_the_queue_to_a_member_is_full() {
    assert_eq!(hears_of_it(None), [false, true]);
    assert_eq!(hears_of_it(Some(Mutant::SilentOverflow)), [false, false], "the planted bug has no effect");
}
