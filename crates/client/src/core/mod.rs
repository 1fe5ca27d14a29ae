//! The pure half of the client: `step(event) -> actions`, and small machines around it. No tokio, clock, randomness, I/O.
//!
//! Responsible for: where an operation goes, when it is sent again, under which number, and what its answer means.
//! Guarantees: same events, same actions. The simulator runs this code on simulated time.
//! Must not know: connections, threads, FUSE.

pub mod cap;
pub mod data;
pub mod leader;
pub mod lock_book;
pub mod loss;
pub mod mutants;
pub mod numbers;
pub mod operation;
pub mod retry;
pub mod route;
pub mod session;
pub mod size;

#[cfg(test)]
mod tests;

pub use cap::{Admission, GivingUp, SizeCap};
pub use data::{Action, DataCore, DataCoreConfig, Event};
pub use leader::LeaderFinder;
pub use lock_book::{Before, DescriptionId, LockBook};
pub use loss::LossWatch;
pub use numbers::{OperationWindow, RequestNumbers};
pub use operation::{AttemptId, FileKey, Operation, Outcome, Ticket};
pub use route::{RouteTable, Target};
pub use session::{SessionClock, SessionState};
pub use size::{CapUse, Extension, FileSize, Life};
