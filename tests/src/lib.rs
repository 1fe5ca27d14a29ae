//! End-to-end tests: the `weft` binary as a user meets it, on real processes, disks, mounts and guests.
//!
//! Responsible for: starting a development cluster, hurting it, waiting until it is whole, and booting QEMU guests on
//! it. Guarantees: only one cluster runs at a time on this machine (they share addresses), nothing is left running or
//! mounted when a test ends, however it ends. Must not know: anything but the command line and the mount.

pub mod cluster;
pub mod exclusive;
pub mod guest;
pub mod program;
