//! This node's right to serve (design 4.1, 4.2).
//!
//! Guarantees: a lease counts only once the map version that it names is applied, so a node that regained its lease
//! before it knows of a fence does not serve on it (attack lease-at-old-map). Must not know: who grants leases.

use crate::mutants::{Mutant, planted};
use rustix::time::{ClockId, Timespec, clock_gettime};
use weft_types::{BootTime, MapVersion};

/// CLOCK_BOOTTIME: it goes on counting while the machine sleeps, so a sleeper wakes without a lease.
#[must_use]
pub fn boot_time() -> BootTime {
    time_of(clock_gettime)
}

/// The same of a machine whose clocks are given.
fn time_of(clocks: impl FnOnce(ClockId) -> Timespec) -> BootTime {
    let now = clocks(if planted(Mutant::ClockStopsInSleep) { ClockId::Monotonic } else { ClockId::Boottime });
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    BootTime { nanoseconds: seconds * 1_000_000_000 + nanoseconds }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lease {
    /// Counts: its map is applied.
    counting: Option<BootTime>,
    /// Granted at a version that is not applied yet.
    granted: Option<(BootTime, MapVersion)>,
}

impl Lease {
    pub(super) fn grant(&mut self, until: BootTime, at: MapVersion, applied: MapVersion) {
        if at <= applied || planted(Mutant::LeaseAtOldMap) {
            self.counting = self.counting.max(Some(until));
            return;
        }
        // Of grants that wait, one at an earlier version counts sooner; but the leader grants at its newest version, so
        // the latest grant is the one worth keeping.
        self.granted = Some((until, at));
    }

    pub(super) fn applied(&mut self, version: MapVersion) {
        if let Some((until, at)) = self.granted
            && at <= version
        {
            self.counting = self.counting.max(Some(until));
            self.granted = None;
        }
    }

    /// Until when this node may serve, as far as it knows.
    pub(super) const fn until(&self) -> Option<BootTime> {
        self.counting
    }

    pub(super) fn is_held(&self, now: BootTime) -> bool {
        self.counting.is_some_and(|until| until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::plant;
    use weft_types::limits::NODE_LEASE;

    const V: fn(u64) -> MapVersion = MapVersion;

    /// Attack lease-at-old-map.
    #[test]
    fn a_lease_does_not_count_before_its_map_is_applied() {
        let mut lease = Lease::default();
        lease.grant(BootTime::from_millis(2000), V(7), V(6));
        assert!(!lease.is_held(BootTime::from_millis(100)));
        lease.applied(V(6));
        assert!(!lease.is_held(BootTime::from_millis(100)));
        lease.applied(V(7));
        assert!(lease.is_held(BootTime::from_millis(100)));
        assert!(!lease.is_held(BootTime::from_millis(2000)));
    }

    #[test]
    fn an_earlier_lease_goes_on_while_a_later_one_waits_for_its_map() {
        let mut lease = Lease::default();
        lease.grant(BootTime::from_millis(2000), V(1), V(1));
        lease.grant(BootTime::from_millis(2500), V(2), V(1));
        assert_eq!(lease.until(), Some(BootTime::from_millis(2000)));
    }

    #[test]
    fn an_answer_that_arrives_late_does_not_shorten_the_lease() {
        let mut lease = Lease::default();
        lease.grant(BootTime::from_millis(2500), V(1), V(1));
        lease.grant(BootTime::from_millis(2000), V(1), V(1));
        assert_eq!(lease.until(), Some(BootTime::from_millis(2500)));
    }

    fn counts_early(mutant: Option<Mutant>) -> bool {
        plant(mutant);
        let mut lease = Lease::default();
        lease.grant(BootTime::from_millis(2000), V(7), V(6));
        plant(None);
        lease.is_held(BootTime::from_millis(100))
    }

    #[test]
    fn a_lease_that_counts_before_its_map_is_noticed() {
        assert!(!counts_early(None));
        assert!(counts_early(Some(Mutant::LeaseAtOldMap)), "the planted bug has no effect");
    }

    /// The clocks of a machine that was awake for so long, and slept for so long.
    fn clocks(awake_s: i64, asleep_s: i64) -> impl FnOnce(ClockId) -> Timespec {
        move |clock| {
            let counts_sleep = clock == ClockId::Boottime;
            Timespec { tv_sec: awake_s + if counts_sleep { asleep_s } else { 0 }, tv_nsec: 0 }
        }
    }

    /// Whether a node that slept for ten seconds within its lease wakes with it.
    fn holds_after_sleep(mutant: Option<Mutant>) -> bool {
        plant(mutant);
        let mut lease = Lease::default();
        let sent = time_of(clocks(100, 0));
        lease.grant(sent + NODE_LEASE, V(1), V(1));
        assert!(lease.is_held(time_of(clocks(101, 0))), "awake it holds");
        let held = lease.is_held(time_of(clocks(101, 10)));
        plant(None);
        held
    }

    /// Attack suspend.
    #[test]
    fn a_node_that_sleeps_beyond_its_lease_wakes_without_one() {
        assert!(!holds_after_sleep(None));
        assert!(holds_after_sleep(Some(Mutant::ClockStopsInSleep)), "the planted bug has no effect");
    }

    #[test]
    fn the_boot_clock_advances() {
        let before = boot_time();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(boot_time().since(before).as_millis() >= 2);
    }
}
