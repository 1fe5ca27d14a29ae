//! Every message that crosses a process boundary, and the frame that carries it.
//!
//! Responsible for: the shapes of messages and the frame codec. All of them are versioned by [`PROTOCOL_VERSION`], which
//! both ends state when a connection opens; peers of another version are refused by name.
//! Guarantees: decoding never panics and never allocates beyond the limits in `weft_types::limits`.
//! Must not know: what anybody does on receipt of a message.

pub mod admin;
pub mod control;
pub mod data;
#[cfg(test)]
mod decoders;
pub mod frame;
pub mod hello;
pub mod namespace;
pub mod replication;

/// Version of every message in this crate. Raise it with any change that an older peer would misread.
pub const PROTOCOL_VERSION: u32 = 3;
