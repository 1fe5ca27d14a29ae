//! One member of one placement group, as a pure state machine: primary, backup, peering, resync (design 5).
//!
//! Responsible for: what a member does when something happens, and in which order. Guarantees the rules of
//! `docs/REPLICATION.md`. Must not know: tokio, clocks, randomness, files, sockets. The same code runs in the node and in
//! the simulator.
//!
//! # Driving it
//! ```text
//! let mut replica = Replica::new(config, saved_state, &view);
//! loop {
//!     // For everything that is ready (several events make one batch of appends and messages):
//!     replica.step(event, clock, &view, &mut actions);      // carry out `actions` in order before the next call
//!     // Then, before waiting again, and at the latest after a few hundred events:
//!     replica.end_batch(clock, &view, &mut actions);        // carry out `actions`
//! }
//! ```
//! `Clock::lease_until` is the lease that counts at the map version last fed (design 4.2): `None` when there is none.

pub mod actions;
mod backup;
mod changes;
mod compare;
mod core;
pub mod events;
mod flush;
mod foresight;
mod history;
mod locks;
mod merge;
pub mod mutants;
mod peering;
mod peers;
mod primary;
mod reads;
mod refused;
mod repair;
mod replica;
mod requests;
mod resync;
pub mod tuning;
pub mod view;
mod window;
mod withdrawal;

#[cfg(test)]
mod sim;

pub use actions::{Action, Reply, Report, SavedState};
pub use events::{
    BadBlock, ClientRequest, ClusterFacts, Event, GroupMap, ReadOutcome, ReadTicket, RequestToken, SaveTicket,
    VolumeFacts,
};
pub use mutants::Mutant;
pub use replica::{Replica, RoleStatus, Status};
pub use view::{Changes, LogUnavailable, Lookup, RemovalMemory, StoreView};

use std::time::Duration;
use weft_types::{BootTime, DiskId, Incarnation, NodeId, PgId};

/// How often the shell feeds `Event::Tick`.
pub const TICK_INTERVAL: Duration = Duration::from_millis(50);

/// Who this replica is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaConfig {
    pub pg: PgId,
    pub disk: DiskId,
    pub node: NodeId,
    /// Of this process, as registered.
    pub incarnation: Incarnation,
}

/// The time and the lease of one step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    pub now: BootTime,
    /// Until when this node may serve; `None` without a lease.
    pub lease_until: Option<BootTime>,
}

impl Clock {
    /// Serving is allowed now (design 4.2).
    #[must_use]
    pub fn has_lease(&self) -> bool {
        self.lease_until.is_some_and(|until| until > self.now)
    }
}
