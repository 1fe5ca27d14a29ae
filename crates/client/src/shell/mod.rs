//! The half of the client with clocks, sockets and tasks. Carries out what `core` decides, and feeds answers back.
//!
//! Everything runs on one thread, in a tokio `LocalSet`: no locks, no hops between threads.

pub mod control;
pub mod engine;
pub mod network;
pub mod quic;
pub mod upkeep;

use weft_types::BootTime;

/// CLOCK_BOOTTIME of this machine: goes on counting while it sleeps.
#[must_use]
pub fn boot_time() -> BootTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    BootTime { nanoseconds: seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds) }
}
