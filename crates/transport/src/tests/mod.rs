//! Behaviour of connections over both lanes, of QUIC endpoints, and of joining.

mod behaviour;
mod joining;
mod quic;
mod rig;
