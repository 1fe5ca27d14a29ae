//! How long the hops of a mount's reads and writes take. Counted in place, read as text by whoever asks.
//!
//! A hop is kept in nanoseconds and told in microseconds, under the names that nodes use for theirs.

use std::cell::Cell;
use std::fmt::Write;
use std::time::Duration;

/// Number and total time of one hop.
#[derive(Debug, Default)]
pub struct Hop {
    count: Cell<u64>,
    nanoseconds: Cell<u64>,
}

impl Hop {
    pub fn took(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.count.set(self.count.get() + 1);
        self.nanoseconds.set(self.nanoseconds.get().saturating_add(nanoseconds));
    }
}

#[derive(Debug, Default)]
pub struct Statistics {
    /// From the moment a write was taken from the kernel to the moment it was answered.
    pub mount_write: Hop,
    pub mount_read: Hop,
    pub mount_flush: Hop,
    /// From the moment a request was given to the transport to the moment its answer came out of it.
    pub write_exchange: Hop,
    pub read_exchange: Hop,
    pub flush_exchange: Hop,
}

impl Statistics {
    /// A line `NAME VALUE` for each counter.
    #[must_use]
    pub fn lines(&self) -> String {
        let hops = [
            ("mount_write", &self.mount_write),
            ("mount_read", &self.mount_read),
            ("mount_flush", &self.mount_flush),
            ("write_exchange", &self.write_exchange),
            ("read_exchange", &self.read_exchange),
            ("flush_exchange", &self.flush_exchange),
        ];
        let mut text = String::new();
        for (name, hop) in hops {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name}_count {}", hop.count.get());
            let _ = writeln!(text, "{name}_us_sum {}", hop.nanoseconds.get() / 1000);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_shorter_than_a_microsecond_add_up() {
        let statistics = Statistics::default();
        for _ in 0..10 {
            statistics.mount_write.took(Duration::from_nanos(300));
        }
        let lines = statistics.lines();
        assert!(lines.contains("mount_write_count 10\n"), "{lines}");
        assert!(lines.contains("mount_write_us_sum 3\n"), "{lines}");
        assert!(lines.contains("read_exchange_count 0\n"), "{lines}");
    }
}
