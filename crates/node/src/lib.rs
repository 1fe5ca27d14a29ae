//! The daemon of one box: a control thread (Raft, registration, heartbeats, sessions, administration) and a data thread
//! (disks, placement groups, client I/O), joined by [`bridge`].
//!
//! Two threads, each with a single-thread runtime and a QUIC endpoint of its own, so that a burst of data cannot delay
//! a heartbeat and a slow metadata commit cannot delay a write.

pub mod bridge;
pub mod config;
pub mod layout;
pub mod supervisor;
