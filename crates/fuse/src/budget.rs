//! Bytes of writes that were taken from the kernel and are not answered: bounded, by making the thread that reads from
//! the kernel wait. The kernel alone would hand over half a gigabyte.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Clone)]
pub struct Budget(Arc<Shared>);

struct Shared {
    limit: usize,
    used: Mutex<Used>,
    changed: Condvar,
}

struct Used {
    bytes: usize,
    open: bool,
}

/// Gives the bytes back when dropped.
pub struct Permit {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    pub fn new(limit: usize) -> Self {
        let used = Mutex::new(Used { bytes: 0, open: true });
        Self(Arc::new(Shared { limit, used, changed: Condvar::new() }))
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        // A counter is never left half changed.
        self.0.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the bytes fit. One request always fits, however large.
    pub fn take(&self, bytes: usize) -> Permit {
        let mut used = self.used();
        while used.open && used.bytes > 0 && used.bytes + bytes > self.0.limit {
            used = self.0.changed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        used.bytes += bytes;
        Permit { budget: self.clone(), bytes }
    }

    /// Nobody waits any more: the mount is ending.
    pub fn open_for_good(&self) {
        self.used().open = false;
        self.0.changed.notify_all();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.used().bytes -= self.bytes;
        self.budget.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn a_request_over_the_limit_waits_until_another_is_answered() {
        let budget = Budget::new(10);
        let first = budget.take(8);
        let (sender, receiver) = mpsc::channel();
        let other = budget.clone();
        std::thread::spawn(move || {
            let permit = other.take(8);
            sender.send(()).unwrap();
            drop(permit);
        });
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
        drop(first);
        receiver.recv_timeout(Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn a_single_request_larger_than_the_limit_passes() {
        drop(Budget::new(1).take(1_000));
    }
}
