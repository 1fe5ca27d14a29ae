//! Time as the protocol sees it: CLOCK_BOOTTIME, which goes on counting while the machine sleeps. Wall clocks decide
//! nothing in Weft, so there is no wall-clock type here (see [`crate::attributes::Timestamp`] for file times).

use serde::{Deserialize, Serialize};
use std::ops::{Add, Sub};
use std::time::Duration;

/// Nanoseconds of CLOCK_BOOTTIME on one machine. Values of different machines must not be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct BootTime {
    pub nanoseconds: u64,
}

impl BootTime {
    pub const ZERO: Self = Self { nanoseconds: 0 };

    #[must_use]
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self { nanoseconds: milliseconds * 1_000_000 }
    }

    /// Time since `earlier`; zero when `earlier` is in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanoseconds.saturating_sub(earlier.nanoseconds))
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self { nanoseconds: self.nanoseconds.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)) }
    }
}

impl Sub<Duration> for BootTime {
    type Output = Self;
    fn sub(self, rhs: Duration) -> Self {
        Self { nanoseconds: self.nanoseconds.saturating_sub(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)) }
    }
}
