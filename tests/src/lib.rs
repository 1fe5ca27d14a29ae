//! End-to-end tests: the `weft` binary as a user meets it, on real processes, disks, mounts and guests.
//!
//! Responsible for: starting a development cluster, hurting it, waiting until it is whole, and booting QEMU guests on
//! it. Guarantees: each cluster has a network namespace of its own, so that whatever else runs on the machine shares no
//! address with it; nothing is left running or mounted when a test ends, however it ends. Must not know: anything but the
//! command line and the mount.

pub mod cluster;
pub mod fsx;
pub mod guest;
pub mod host;
pub mod isolation;
pub mod locker;
pub mod postgres;
pub mod program;
pub mod random;
pub mod refusal;
