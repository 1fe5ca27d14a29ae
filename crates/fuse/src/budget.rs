//! Bytes of writes that were taken from the kernel and are not answered: bounded, by taking nothing further meanwhile. The
//! kernel alone would hand over half a gigabyte.

use std::cell::Cell;
use std::rc::Rc;
use tokio::sync::Notify;

#[derive(Clone)]
pub struct Budget(Rc<Shared>);

struct Shared {
    limit: usize,
    used: Cell<usize>,
    /// Told when bytes were given back.
    changed: Notify,
}

/// Gives the bytes back when dropped.
pub struct Permit {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    pub fn new(limit: usize) -> Self {
        Self(Rc::new(Shared { limit, used: Cell::new(0), changed: Notify::new() }))
    }

    /// Waits until less than the limit is in use. What is taken then may exceed it by one request.
    pub async fn room(&self) {
        while self.0.used.get() >= self.0.limit {
            self.0.changed.notified().await;
        }
    }

    pub fn take(&self, bytes: usize) -> Permit {
        self.0.used.set(self.0.used.get() + bytes);
        Permit { budget: self.clone(), bytes }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.0.used.set(self.budget.0.used.get() - self.bytes);
        self.budget.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    #[test]
    fn nothing_further_is_taken_until_a_request_over_the_limit_is_answered() {
        let budget = Budget::new(10);
        let mut context = Context::from_waker(Waker::noop());
        let first = budget.take(8);
        assert!(pin!(budget.room()).poll(&mut context).is_ready());
        let second = budget.take(8);
        let mut room = pin!(budget.room());
        assert!(room.as_mut().poll(&mut context).is_pending());
        drop(second);
        assert!(room.as_mut().poll(&mut context).is_ready());
        drop(first);
        assert_eq!(budget.0.used.get(), 0);
    }
}
