//! What clients saw, and whether it can have been.
//!
//! Each half block is a register and every write has a value of its own, so the test of Gibbons and Korach ("Testing Shared
//! Memories", 1997) applies: the operations of one value span a zone; zones must not contradict each other. It costs
//! n log n; the tests compare it with a search through all orders on small histories.

use crate::failure::{Failure, Oracle};
use std::collections::BTreeMap;

/// Nanoseconds of simulated time.
pub type Time = u64;

/// How a write ended, as its client knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Answered(Time),
    /// Not answered: takes effect at any later time, or never.
    Open,
    /// Not answered, and its session was fenced by then: takes effect before, or never (design 4.4).
    NotAfter(Time),
    /// Refused for good: never takes effect.
    Refused,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Write {
    pub start: Time,
    pub end: End,
    /// Whose it is, to find what a fence ends.
    pub session: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Read {
    pub value: u64,
    pub start: Time,
    pub end: Time,
}

#[derive(Clone, Debug, Default)]
pub struct Register {
    pub writes: BTreeMap<u64, Write>,
    pub reads: Vec<Read>,
    /// A flush that was answered at the first time covers what began at the second.
    flushed: Vec<(Time, Time, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Zone {
    value: u64,
    /// Earliest end and latest start of the value's operations.
    first_end: Time,
    last_start: Time,
}

impl Register {
    /// A flush that was answered at `answered` covered this value.
    pub fn flushed(&mut self, answered: Time, value: u64) {
        if let Some(write) = self.writes.get(&value) {
            self.flushed.push((answered, write.start, value));
        }
    }

    /// The fence of a session is complete.
    pub fn fence(&mut self, session: u64, at: Time) {
        for write in self.writes.values_mut().filter(|w| w.session == session && w.end == End::Open) {
            write.end = End::NotAfter(at);
        }
    }

    /// Checks everything, knowing that unflushed writes may have been lost at `losses`, and all that there was at `forced`
    /// (both ascending).
    ///
    /// # Errors
    /// A sentence on what cannot have been.
    pub fn check(&self, losses: &[Time], forced: &[Time]) -> Result<(), Failure> {
        self.check_flushed(forced).map_err(|what| Failure { oracle: Oracle::Flushed, what })?;
        self.check_order(losses).map_err(|what| Failure { oracle: Oracle::Linearizable, what })
    }

    fn check_order(&self, losses: &[Time]) -> Result<(), String> {
        match (losses.first(), losses.last()) {
            (Some(first), Some(last)) => {
                check(&self.before(*first)).map_err(|what| format!("before the loss: {what}"))?;
                check(&self.after(*last)?).map_err(|what| format!("after the loss: {what}"))
            }
            _ => check(self),
        }
    }

    /// No read shows less than what was flushed before it began.
    fn check_flushed(&self, forced: &[Time]) -> Result<(), String> {
        let mut flushed = self.flushed.clone();
        flushed.sort_unstable();
        let mut reads = self.reads.clone();
        reads.sort_unstable_by_key(|read| read.start);
        let mut newest: Option<(Time, u64)> = None;
        let mut next = flushed.into_iter().peekable();
        for read in reads {
            while let Some((_, start, value)) = next.next_if(|(answered, ..)| *answered <= read.start) {
                newest = newest.max(Some((start, value)));
            }
            let Some((start, value)) = newest else { continue };
            // What was written before may be gone, whether it was flushed before or by a flush that was under way.
            if forced.iter().any(|forced| start <= *forced && *forced < read.end) {
                continue;
            }
            let ended = match self.writes.get(&read.value) {
                Some(Write { end: End::Answered(end), .. }) => Some(*end),
                Some(_) => None,
                None => Some(0),
            };
            if ended.is_some_and(|ended| ended < start) {
                return Err(format!("value {value} was flushed, and later the older value {} was read", read.value));
            }
        }
        Ok(())
    }

    fn before(&self, loss: Time) -> Self {
        let mut part = Self::default();
        for (value, write) in self.writes.iter().filter(|(_, write)| write.start < loss) {
            let end = match write.end {
                End::Answered(end) if end > loss => End::Open,
                end => end,
            };
            part.writes.insert(*value, Write { end, ..*write });
        }
        part.reads = self.reads.iter().filter(|read| read.end <= loss).copied().collect();
        part
    }

    /// One value is what the loss left: it becomes the first value.
    fn after(&self, loss: Time) -> Result<Self, String> {
        let reads = self.reads.iter().filter(|read| read.start >= loss).copied().collect();
        let mut part = Self { reads, ..Self::default() };
        let mut left = None;
        for read in &mut part.reads {
            let old = match self.writes.get(&read.value) {
                Some(write) => matches!(write.end, End::Answered(end) if end <= loss),
                None if read.value == 0 => true,
                None => return Err(format!("{} was read, which nobody wrote", read.value)),
            };
            if old {
                if left.is_some_and(|left| left != read.value) {
                    return Err(format!("both {left:?} and {} are what a loss left", read.value));
                }
                left = Some(read.value);
                read.value = 0;
                read.start -= loss;
                read.end -= loss;
            } else {
                read.start -= loss;
                read.end -= loss;
            }
        }
        for (value, write) in &self.writes {
            if matches!(write.end, End::Answered(end) if end <= loss) {
                continue;
            }
            let end = match write.end {
                End::Answered(end) => End::Answered(end - loss),
                End::NotAfter(end) => End::NotAfter(end.saturating_sub(loss)),
                end => end,
            };
            part.writes.insert(*value, Write { start: write.start.saturating_sub(loss), end, ..*write });
        }
        Ok(part)
    }
}

/// Gibbons and Korach's test.
fn check(register: &Register) -> Result<(), String> {
    let mut reads: BTreeMap<u64, (Time, Time)> = BTreeMap::new();
    for read in &register.reads {
        let span = reads.entry(read.value).or_insert((read.end, read.start));
        *span = (span.0.min(read.end), span.1.max(read.start));
        if let Some(write) = register.writes.get(&read.value) {
            if write.end == End::Refused {
                return Err(format!("{} was refused for good, and was read", read.value));
            }
            if read.end < write.start {
                return Err(format!("{} was read before it was written", read.value));
            }
        } else if read.value != 0 {
            return Err(format!("{} was read, which nobody wrote", read.value));
        }
    }
    let mut zones = vec![Zone { value: 0, first_end: 0, last_start: reads.get(&0).map_or(0, |span| span.1) }];
    for (value, write) in &register.writes {
        let seen = reads.get(value);
        let end = match (write.end, seen) {
            (End::Answered(end), _) | (End::NotAfter(end), Some(_)) => end,
            (End::Open, Some(_)) => Time::MAX,
            // Never seen: it may never have happened.
            (End::Open | End::NotAfter(_) | End::Refused, _) => continue,
        };
        let (first_end, last_start) = seen.map_or((end, write.start), |s| (s.0.min(end), s.1.max(write.start)));
        if first_end < write.start {
            return Err(format!("{value} has to have happened before it began, at {}", write.start));
        }
        zones.push(Zone { value: *value, first_end, last_start });
    }
    let (mut forward, backward): (Vec<Zone>, Vec<Zone>) = zones.iter().partition(|z| z.first_end < z.last_start);
    forward.sort_unstable_by_key(|zone| (zone.first_end, zone.last_start));
    for pair in forward.windows(2) {
        if pair[1].first_end < pair[0].last_start {
            return Err(contradiction(&pair[0], &pair[1]));
        }
    }
    for zone in &backward {
        // Forward zones do not overlap, so only the last one that begins before this one can hold it.
        let at = forward.partition_point(|f| f.first_end < zone.last_start);
        if at > 0 && zone.first_end < forward[at - 1].last_start {
            return Err(contradiction(&forward[at - 1], zone));
        }
    }
    Ok(())
}

fn contradiction(a: &Zone, b: &Zone) -> String {
    format!(
        "values {} ({} to {}) and {} ({} to {}) contradict each other",
        a.value, a.first_end, a.last_start, b.value, b.first_end, b.last_start
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_store::fault::Random;

    /// Searches all orders: Wing and Gong, "Testing and Verifying Concurrent Objects", 1993.
    fn linearizable(register: &Register) -> bool {
        let mut ops: Vec<(Time, Time, bool, Option<u64>, u64)> = Vec::new();
        for (value, write) in &register.writes {
            let (end, optional) = match write.end {
                End::Answered(end) => (end, false),
                End::NotAfter(end) => (end, true),
                End::Open => (Time::MAX, true),
                End::Refused => continue,
            };
            ops.push((write.start, end, optional, Some(*value), *value));
        }
        for read in &register.reads {
            ops.push((read.start, read.end, false, None, read.value));
        }
        search(&ops, (1 << ops.len()) - 1, 0)
    }

    fn search(ops: &[(Time, Time, bool, Option<u64>, u64)], left: u32, state: u64) -> bool {
        let members = || (0..ops.len()).filter(move |at| left >> at & 1 == 1);
        if members().all(|at| ops[at].2) {
            return true;
        }
        members().any(|at| {
            let (start, _, optional, write, value) = ops[at];
            // Everything that has to come and ended before this one began comes first.
            let may_be_next = members().all(|other| other == at || ops[other].1 >= start || ops[other].2);
            let rest = left & !(1 << at);
            if optional && search(ops, rest, state) {
                return true;
            }
            // An optional one that is over may not come any more.
            let expired = members().filter(|o| ops[*o].2 && ops[*o].1 < start).fold(rest, |rest, o| rest & !(1 << o));
            match write {
                _ if !may_be_next => false,
                Some(value) => search(ops, expired, value),
                None => value == state && search(ops, expired, state),
            }
        })
    }

    #[test]
    fn the_fast_test_agrees_with_a_search_of_all_orders() {
        let mut verdicts = [0u32; 2];
        for seed in 0..6_000 {
            let mut random = Random::new(seed);
            let mut register = Register::default();
            for value in 1..=random.below(4) {
                let start = 1 + random.below(12);
                let end = match random.below(6) {
                    0 => End::Open,
                    1 => End::NotAfter(start + random.below(6)),
                    _ => End::Answered(start + random.below(6)),
                };
                register.writes.insert(value, Write { start, end, session: 1 });
            }
            for _ in 0..random.below(5) {
                let start = 1 + random.below(14);
                register.reads.push(Read { value: random.below(4), start, end: start + random.below(5) });
            }
            let known = register.reads.iter().all(|r| r.value == 0 || register.writes.contains_key(&r.value));
            if !known {
                assert!(check(&register).is_err());
                continue;
            }
            let expected = linearizable(&register);
            verdicts[usize::from(expected)] += 1;
            assert_eq!(check(&register).is_ok(), expected, "seed {seed}: {register:?} {:?}", check(&register));
        }
        assert!(verdicts.iter().all(|count| *count > 300), "one-sided histories: {verdicts:?}");
    }

    fn write(start: Time, end: End) -> Write {
        Write { start, end, session: 1 }
    }

    #[test]
    fn a_write_of_a_fenced_session_must_not_land_after_its_fence() {
        let mut register = Register::default();
        register.writes.insert(1, write(10, End::Open));
        register.reads = vec![Read { value: 0, start: 30, end: 40 }, Read { value: 1, start: 50, end: 60 }];
        assert!(register.check(&[], &[]).is_ok());
        register.fence(1, 20);
        assert!(register.check(&[], &[]).is_err());
    }

    #[test]
    fn after_a_loss_something_older_may_be_read_but_not_older_than_what_was_flushed() {
        let mut register = Register::default();
        register.writes.insert(1, write(10, End::Answered(20)));
        register.writes.insert(2, write(30, End::Answered(40)));
        register.writes.insert(3, write(50, End::Answered(60)));
        register.reads = vec![Read { value: 2, start: 110, end: 120 }];
        assert!(register.check(&[], &[]).is_err());
        assert!(register.check(&[100], &[]).is_ok());
        register.flushed(70, 3);
        assert!(register.check(&[100], &[]).is_err());
    }

    #[test]
    fn a_loss_leaves_one_value_not_two() {
        let mut register = Register::default();
        register.writes.insert(1, write(10, End::Answered(20)));
        register.writes.insert(2, write(30, End::Answered(40)));
        register.reads = vec![Read { value: 2, start: 110, end: 120 }, Read { value: 1, start: 130, end: 140 }];
        assert!(register.check(&[100], &[]).is_err());
    }

    #[test]
    fn a_refused_write_is_never_seen() {
        let mut register = Register::default();
        register.writes.insert(1, write(10, End::Refused));
        register.reads = vec![Read { value: 1, start: 20, end: 30 }];
        assert!(register.check(&[], &[]).is_err());
    }
}
