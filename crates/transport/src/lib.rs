//! Connections between the processes of a cluster.
//!
//! Responsible for: the [`lane::Lane`] trait and its two implementations (QUIC with mutual TLS 1.3, and memory for
//! tests); [`Connection`]s that carry calls, one-way messages and their answers over a lane; [`dialer::PeerHandle`]s that keep a
//! connection to one address up; the cluster's certificates ([`ca`]) and the joining of new members ([`join`]).
//! Guarantees: frames of one channel arrive in order, once, or the connection ends; every call ends by its deadline;
//! queues are bounded; a peer is who its certificate says, and belongs to this cluster.
//! Must not know: what any message means.
//!
//! Everything here runs on a single-thread tokio runtime inside a `LocalSet`. Handlers are called inline by the task
//! that reads the stream: no task, lock or channel hop per message.

pub mod ca;
pub mod connection;
pub mod dialer;
pub mod error;
pub mod gate;
pub mod identity;
pub mod join;
pub mod lane;
pub mod memory;
pub mod message;
pub mod quic;
pub mod token;

mod durable;
mod handshake;
mod outgoing;
mod reader;
#[cfg(test)]
mod tests;

pub use ca::{Authority, Credentials};
pub use connection::{Connection, Handler, Replier};
pub use dialer::{PeerHandle, PeerState};
pub use error::{CallError, CloseReason, ConnectError, SendError};
pub use gate::Gate;
pub use identity::{PeerIdentity, PeerRole};
pub use lane::Channel;
pub use message::{Message, Payload};
pub use quic::{Endpoint, EndpointConfig};
pub use weft_proto::frame::Service;
pub use weft_proto::hello::{Hello, HelloRole};
