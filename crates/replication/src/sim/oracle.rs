//! Is a register's history linearizable? Every write has its own value, so the test of Gibbons and Korach ("Testing
//! Shared Memories", 1997) applies: the operations of one value span a zone; zones must not contradict each other.

use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug)]
pub struct Interval {
    pub start: u64,
    /// `None`: not answered; may take effect at any later time, or never.
    pub end: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub struct Register {
    pub writes: BTreeMap<u64, Interval>,
    pub reads: Vec<(u64, Interval)>,
}

struct Zone {
    value: u64,
    /// Earliest end and latest start of the value's operations.
    first_end: u64,
    last_start: u64,
}

impl Register {
    pub fn check(&self) -> Result<(), String> {
        let mut zones = BTreeMap::new();
        zones.insert(0, Zone { value: 0, first_end: 0, last_start: 0 });
        for (value, write) in &self.writes {
            let first_end = write.end.unwrap_or(u64::MAX);
            zones.insert(*value, Zone { value: *value, first_end, last_start: write.start });
        }
        for (value, read) in &self.reads {
            let end = read.end.unwrap_or(u64::MAX);
            let Some(zone) = zones.get_mut(value) else { return Err(format!("read {value}, which nobody wrote")) };
            if self.writes.get(value).is_some_and(|w| end < w.start) {
                return Err(format!("read {value} before it was written"));
            }
            zone.first_end = zone.first_end.min(end);
            zone.last_start = zone.last_start.max(read.start);
        }
        let done: Vec<&Zone> = zones.values().filter(|z| z.first_end != u64::MAX).collect();
        for a in &done {
            for b in &done {
                if a.value == b.value || a.first_end >= a.last_start {
                    continue;
                }
                let (low, high) = (a.first_end, a.last_start);
                // Two forward zones overlap, or a backward zone lies within a forward one.
                let clash = low < b.last_start && b.first_end < high;
                if clash {
                    return Err(format!(
                        "value {} (from {low} to {high}) and value {} ({} to {}) contradict each other",
                        a.value, b.value, b.first_end, b.last_start
                    ));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(writes: &[(u64, u64, u64)], reads: &[(u64, u64, u64)]) -> Register {
        let interval = |s, e| Interval { start: s, end: Some(e) };
        Register {
            writes: writes.iter().map(|(v, s, e)| (*v, interval(*s, *e))).collect(),
            reads: reads.iter().map(|(v, s, e)| (*v, interval(*s, *e))).collect(),
        }
    }

    #[test]
    fn the_oracle_sees_stale_reads_and_lost_writes() {
        assert!(register(&[(1, 1, 2), (2, 3, 4)], &[(2, 5, 6)]).check().is_ok());
        assert!(register(&[(1, 1, 2), (2, 3, 4)], &[(1, 5, 6)]).check().is_err());
        assert!(register(&[(1, 1, 2)], &[(0, 3, 4)]).check().is_err());
        assert!(register(&[(1, 1, 9)], &[(1, 2, 3), (0, 4, 5)]).check().is_err());
        assert!(register(&[(1, 1, 9)], &[(0, 2, 3), (1, 4, 5)]).check().is_ok());
    }
}
