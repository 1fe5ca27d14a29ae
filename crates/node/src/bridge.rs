//! What the control thread and the data thread of a node tell each other. Nothing else is shared between them.
//!
//! Guarantees: messages of one direction arrive in order. `DataStatus::applied` is raised by the data thread only after
//! the map of that version rules every later decision there, and every operation that the map takes a right from is
//! either sequenced or refused (design 4.3).

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::sync::oneshot;
use weft_proto::admin::{HealProgress, NodeReport, ReplicaDigest};
use weft_proto::control::ChangeSetRequest;
use weft_types::map::ClusterMap;
use weft_types::{BootTime, DiskId, Incarnation, MapVersion, NodeId, ObjectId, PgId, TruncateGeneration, VolumeId};

/// Control to data.
#[derive(Debug)]
pub enum ToData {
    /// The incarnation under which this process was registered, and the map of that moment. Comes first, once. Earlier
    /// maps, which a control side that has lost its state or lags behind still has, are not acted on.
    Registered {
        incarnation: Incarnation,
        map_version: MapVersion,
    },
    /// A newer map.
    Map(Arc<ClusterMap>),
    /// The lease runs until `until`, but counts only once the map of `map_version` is applied (design 4.2).
    Lease {
        until: BootTime,
        map_version: MapVersion,
    },
    /// Background work of the metadata leader: remove an object (or its part past `keep_bytes`) from every placement
    /// group of its volume, wherever they are led. Answered when all of them have done so.
    Reclaim {
        volume: VolumeId,
        object: ObjectId,
        keep: ReclaimTo,
        done: oneshot::Sender<Result<(), String>>,
    },
    Heal {
        volume: VolumeId,
        reply: oneshot::Sender<Vec<HealProgress>>,
    },
    Digests {
        volume: VolumeId,
        reply: oneshot::Sender<Vec<ReplicaDigest>>,
    },
    /// Fills in what the data thread knows of the report.
    Report {
        reply: oneshot::Sender<NodeReport>,
    },
    /// Sync everything, refuse new work, write the clean-stop mark, answer, and end.
    Stop {
        done: oneshot::Sender<()>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReclaimTo {
    Nothing,
    Size { size_bytes: u64, generation: TruncateGeneration },
}

/// Data to control.
#[derive(Debug)]
pub enum ToControl {
    /// Carry this compare-and-set to the metadata leader; the result comes back as a newer map. Sent again by the
    /// placement group itself when the map does not change in time.
    ChangeSet(ChangeSetRequest),
    DiskFailed {
        disk: DiskId,
        why: String,
    },
    /// For the event list.
    Event(String),
    /// The data thread ended; the node cannot go on.
    Ended {
        why: String,
    },
}

/// Written by the data thread, read by heartbeats.
#[derive(Debug, Default)]
pub struct DataStatus {
    /// Map version that the data thread has applied.
    pub applied: AtomicU64,
    pub facts: std::sync::Mutex<DataFacts>,
}

#[derive(Clone, Debug, Default)]
pub struct DataFacts {
    /// Nodes whose data connection answered within the last second.
    pub reachable: Vec<NodeId>,
    pub free_bytes: Vec<(DiskId, u64)>,
    /// Groups that this node leads and that do not serve fully, and why.
    pub troubled: Vec<(PgId, String)>,
}

/// Messages in flight per direction; the sender waits (control) or keeps the newest state and retries (data).
pub const BRIDGE_CAPACITY: usize = 256;
