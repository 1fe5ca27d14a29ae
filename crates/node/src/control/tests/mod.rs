//! Whole control nodes over QUIC on loopback addresses.

pub(crate) mod cut;
mod life;
mod members;
mod rig;
