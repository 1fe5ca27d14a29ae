//! The half of the client with clocks, sockets and tasks. Carries out what `core` decides, and feeds answers back.
//!
//! Everything runs on one thread, in a tokio `LocalSet`: no locks, no hops between threads.

pub mod control;
pub mod engine;
pub mod network;
pub mod quic;
pub mod upkeep;

use crate::mutants::{Mutant, planted};
use rustix::time::{ClockId, Timespec, clock_gettime};
use weft_types::BootTime;

/// CLOCK_BOOTTIME of this machine: goes on counting while it sleeps.
#[must_use]
pub fn boot_time() -> BootTime {
    time_of(clock_gettime)
}

/// The same of a machine whose clocks are given.
fn time_of(clocks: impl FnOnce(ClockId) -> Timespec) -> BootTime {
    let now = clocks(if planted(Mutant::ClockStopsInSleep) { ClockId::Monotonic } else { ClockId::Boottime });
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    BootTime { nanoseconds: seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{SessionClock, SessionState};
    use crate::mutants::plant;
    use std::time::Duration;

    const TTL: Duration = Duration::from_secs(10);

    /// A machine that was awake for so long, and slept for so long.
    fn clocks(awake_s: i64, asleep_s: i64) -> impl FnOnce(ClockId) -> Timespec {
        move |clock| {
            let counts_sleep = clock == ClockId::Boottime;
            Timespec { tv_sec: awake_s + if counts_sleep { asleep_s } else { 0 }, tv_nsec: 0 }
        }
    }

    fn wakes_as(mutant: Option<Mutant>) -> SessionState {
        plant(mutant);
        let session = SessionClock::new(TTL, time_of(clocks(100, 0)));
        let state = session.state(time_of(clocks(101, 60)));
        plant(None);
        state
    }

    /// Attack suspend.
    #[test]
    fn a_host_that_slept_longer_than_its_session_lasts_wakes_lapsed() {
        assert_eq!(wakes_as(None), SessionState::Lapsed);
        assert_eq!(wakes_as(Some(Mutant::ClockStopsInSleep)), SessionState::Live, "the planted bug has no effect");
    }
}
