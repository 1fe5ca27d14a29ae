//! Behaviour of connections over both lanes, of QUIC endpoints, and of joining.

mod behaviour;
mod decoders;
mod joining;
mod quic;
pub(crate) mod rig;
