//! The control thread: Raft, registration, heartbeats, sessions, namespace, administration.
//!
//! Responsible for: everything of a node that is not chunk data. Guarantees: a heartbeat's lease runs from when it was
//! sent (design 4.1); the data thread hears of maps in order; every request ends by a deadline; a peer is answered
//! according to its certificate. Must not know: disks, placement groups' logs, block data; all of that is behind
//! [`crate::bridge`].
//!
//! One thread, one runtime, one task per request.
//!
//! | file | subject |
//! |---|---|
//! | `node` | what the parts share; starting and stopping |
//! | `serve`, `access` | requests in, answers out; who may ask what |
//! | `requests`, `admin`, `joining` | what each request does |
//! | `leading` | driving `weft_meta::leader::Leader`, and what it asks for |
//! | `membership` | who is in the metadata group, and who votes |
//! | `registration` | this node's own incarnation, heartbeats and lease |
//! | `maps` | newer maps to the data thread and to those who wait for one |
//! | `peers`, `route` | connections to other nodes; finding the leader |
//! | `locks` | requests that wait for a lock |
//! | `extents` | asking placement groups how far a file reaches |
//! | `watch` | telling sessions what others want of them |

mod access;
mod admin;
mod extents;
mod joining;
mod leading;
mod locks;
mod maps;
mod membership;
mod node;
mod peers;
mod registration;
mod requests;
mod route;
mod serve;
#[cfg(test)]
mod tests;
mod watch;

pub use node::{ControlConfig, ControlError, DataSide, Exit, OpenedData, run};
