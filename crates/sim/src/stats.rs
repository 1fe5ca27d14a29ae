//! What a run exercised, so that a fault that never happened is visible.

use std::collections::BTreeMap;

#[derive(Clone, Debug, Default)]
pub struct Stats {
    counts: BTreeMap<&'static str, u64>,
    /// Things that happened.
    pub events: u64,
    /// Simulated nanoseconds.
    pub simulated_ns: u64,
}

impl Stats {
    pub fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    pub fn add(&mut self, what: &'static str, count: u64) {
        *self.counts.entry(what).or_default() += count;
    }

    #[must_use]
    pub fn get(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    pub fn merge(&mut self, other: &Self) {
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
        self.events += other.events;
        self.simulated_ns += other.simulated_ns;
    }

    /// Names and counts, by name.
    pub fn list(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.counts.iter().map(|(what, count)| (*what, *count))
    }
}
