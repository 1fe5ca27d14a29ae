//! Whether large requests are read further: how a side that has no memory left makes its peers wait.
//!
//! Guarantees: a closed gate holds up only what is large and came from a peer that dialed, each request for a bounded time,
//! so that nobody waits for ever for somebody who waits for him. Must not know: what memory is used for.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

/// A request that has waited so long is handed over all the same, for its service to refuse or to take.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// Clones are the same gate.
#[derive(Clone)]
pub struct Gate(Rc<Shared>);

struct Shared {
    open: Cell<bool>,
    opened: Notify,
}

impl Default for Gate {
    fn default() -> Self {
        Self(Rc::new(Shared { open: Cell::new(true), opened: Notify::new() }))
    }
}

impl Gate {
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.open.get()
    }

    pub fn set_open(&self, open: bool) {
        if !self.0.open.replace(open) && open {
            self.0.opened.notify_waiters();
        }
    }

    /// Waits until it is open, but not for longer than a request may be held up.
    pub(crate) async fn pass(&self) {
        let opened = async {
            while !self.is_open() {
                self.0.opened.notified().await;
            }
        };
        // Too long is as good as open.
        let _ = tokio::time::timeout(LONGEST_WAIT, opened).await;
    }
}
