//! Requests that have to wait before they may be looked at: for a newer map, or because a journal fills up.
//!
//! Guarantees: a request that names a newer map than the applied one is not looked at before that map is (design 4.2);
//! both queues are bounded in number, bytes and time. Must not know: what a request is.

use std::collections::VecDeque;
use std::time::Duration;
use weft_types::limits::MAX_HELD_REQUESTS;
use weft_types::{BootTime, MapVersion};

/// What a held request waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Until {
    Map(MapVersion),
    Time(BootTime),
}

struct Held<T> {
    until: Until,
    deadline: BootTime,
    bytes: usize,
    item: T,
}

/// Requests set aside, oldest first.
pub(super) struct Waiting<T> {
    held: VecDeque<Held<T>>,
    bytes: usize,
    limit_bytes: usize,
}

/// There is no room; the request comes back.
pub(super) struct Full<T>(pub(super) T);

impl<T> Waiting<T> {
    pub(super) const fn new(limit_bytes: usize) -> Self {
        Self { held: VecDeque::new(), bytes: 0, limit_bytes }
    }

    pub(super) fn for_map(
        &mut self,
        version: MapVersion,
        deadline: BootTime,
        bytes: usize,
        item: T,
    ) -> Result<(), Full<T>> {
        self.hold(Held { until: Until::Map(version), deadline, bytes, item })
    }

    pub(super) fn for_time(&mut self, release: BootTime, bytes: usize, item: T) -> Result<(), Full<T>> {
        // It is released by time, so its deadline is the release itself.
        self.hold(Held { until: Until::Time(release), deadline: release, bytes, item })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    fn hold(&mut self, held: Held<T>) -> Result<(), Full<T>> {
        if self.held.len() >= MAX_HELD_REQUESTS || self.bytes + held.bytes > self.limit_bytes {
            return Err(Full(held.item));
        }
        self.bytes += held.bytes;
        self.held.push_back(held);
        Ok(())
    }

    /// Takes out what may go on at this map version and time.
    pub(super) fn released(&mut self, applied: MapVersion, now: BootTime) -> Vec<T> {
        self.take(|held| match held.until {
            Until::Map(version) => version <= applied,
            Until::Time(release) => release <= now,
        })
    }

    /// Takes out what has waited too long.
    pub(super) fn expired(&mut self, now: BootTime) -> Vec<T> {
        self.take(|held| matches!(held.until, Until::Map(_)) && held.deadline <= now)
    }

    /// Takes out everything.
    pub(super) fn all(&mut self) -> Vec<T> {
        self.take(|_| true)
    }

    /// When the next one is released by time.
    pub(super) fn next_release(&self) -> Option<BootTime> {
        let time = |held: &Held<T>| match held.until {
            Until::Time(release) => Some(release),
            Until::Map(_) => None,
        };
        self.held.iter().filter_map(time).min()
    }

    fn take(&mut self, wanted: impl Fn(&Held<T>) -> bool) -> Vec<T> {
        if !self.held.iter().any(&wanted) {
            return Vec::new();
        }
        let mut taken = Vec::new();
        for held in std::mem::take(&mut self.held) {
            if wanted(&held) {
                self.bytes -= held.bytes;
                taken.push(held.item);
            } else {
                self.held.push_back(held);
            }
        }
        taken
    }
}

/// Share of the journal's room for clients (`room`) from which writers are slowed down, and from which they wait.
const SLOW_FROM: f64 = 0.7;
const STOP_AT: f64 = 1.0;
/// The delay of a write when the journal is all but full: long against a write, short against any timeout.
const LONGEST_DELAY: Duration = Duration::from_millis(100);

/// How long a write is held back at this share of it (design 6: slow writers down gradually). Rises with the
/// square, so that the first slowing is hardly felt and a stand-still is not needed.
#[must_use]
pub(super) fn delay_under_pressure(fraction: f64) -> Option<Duration> {
    if fraction <= SLOW_FROM {
        return None;
    }
    let share = ((fraction - SLOW_FROM) / (STOP_AT - SLOW_FROM)).min(1.0);
    Some(LONGEST_DELAY.mul_f64(share * share))
}

/// Whether a write has to wait whatever it has waited already.
#[must_use]
pub(super) fn must_wait(fraction: f64) -> bool {
    fraction >= STOP_AT
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1 << 20;
    const V: fn(u64) -> MapVersion = MapVersion;
    const MS: fn(u64) -> BootTime = BootTime::from_millis;

    #[test]
    fn a_request_waits_until_its_map_version_is_applied() {
        let mut waiting = Waiting::new(LIMIT);
        for version in [5, 7, 6] {
            assert!(waiting.for_map(V(version), MS(100), 1, version).is_ok());
        }
        assert!(waiting.released(V(4), MS(0)).is_empty());
        assert_eq!(waiting.released(V(6), MS(0)), [5, 6]);
        assert!(waiting.expired(MS(99)).is_empty());
        assert_eq!(waiting.expired(MS(100)), [7]);
    }

    #[test]
    fn bytes_and_number_are_bounded_and_given_back() {
        let mut waiting = Waiting::new(LIMIT);
        assert!(waiting.for_map(V(1), MS(1), LIMIT, ()).is_ok());
        assert!(waiting.for_map(V(1), MS(1), 1, ()).is_err());
        assert_eq!(waiting.all().len(), 1);
        for _ in 0..MAX_HELD_REQUESTS {
            assert!(waiting.for_map(V(1), MS(1), 0, ()).is_ok());
        }
        assert!(waiting.for_map(V(1), MS(1), 0, ()).is_err());
    }

    #[test]
    fn a_slowed_write_is_released_by_time_and_never_expires() {
        let mut waiting = Waiting::new(LIMIT);
        assert!(waiting.for_time(MS(30), 1, 'b').is_ok());
        assert!(waiting.for_time(MS(20), 1, 'a').is_ok());
        assert_eq!(waiting.next_release(), Some(MS(20)));
        assert!(waiting.expired(MS(1000)).is_empty());
        assert_eq!(waiting.released(V(0), MS(20)), ['a']);
    }

    #[test]
    fn writers_are_slowed_gradually() {
        assert_eq!(delay_under_pressure(0.7), None);
        let some = delay_under_pressure(0.8).unwrap();
        let more = delay_under_pressure(0.9).unwrap();
        assert!(some < more && more <= LONGEST_DELAY);
        assert!(!must_wait(0.99) && must_wait(1.0));
        assert_eq!(delay_under_pressure(2.0), Some(LONGEST_DELAY));
    }
}
