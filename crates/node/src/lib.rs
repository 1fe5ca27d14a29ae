//! The daemon of one box: a control thread (Raft, registration, heartbeats, sessions, administration) and a data thread
//! (disks, placement groups, client I/O), joined by [`bridge`].
//!
//! Two threads, each with a single-thread runtime and a QUIC endpoint of its own, so that a burst of data cannot delay
//! a heartbeat and a slow metadata commit cannot delay a write.
//!
//! # Entry points
//! All of them block, and are called outside of any runtime. Errors print as one sentence.
//!
//! ```text
//! Place::open(directory, config_file) -> Place                    reads the configuration
//! setup::initialise(&place, |admin| save it) -> NodeIdentity      `weft cluster init`
//! setup::join(&place, token) -> NodeIdentity                      `weft node run --join`, first half
//! is_initialised(&place.layout)
//! parent::run(&place, || command of a worker) -> exit status      `weft node run`
//! worker::run(&place, Parent::Process(id)) -> exit status         what that command does
//! ```

pub mod bridge;
pub mod config;
pub mod control;
pub mod data;
#[cfg(test)]
mod decoders;
pub mod identity;
pub mod layout;
pub mod memory;
pub mod mutants;
pub mod parent;
pub mod place;
pub mod preflight;
pub mod setup;
pub mod supervisor;
pub mod worker;

pub use identity::is_initialised;
pub use place::Place;
