//! Planted bugs of the client: each drops one safety rule, and a test has to notice.
//!
//! Responsible for: switching one of them on for the current thread. Without the `mutants` feature (and outside of this
//! crate's tests) [`planted`] is constant and the compiler removes every trace.

/// The rule that is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// An unlock does not wait for the file's earlier operations (design 4.5).
    UnlockOvertakesWrites,
    /// The last close of a file, and the end of a session, do not wait for earlier operations (design 4.5).
    CloseOvertakesWrites,
    /// Leases run by a clock that stops while the machine sleeps (design 4.1, 4.4).
    ClockStopsInSleep,
    /// A process that closes the file keeps its locks (SEMANTICS S4).
    CloseKeepsLocks,
    /// A wait that is given up stays in the queue (SEMANTICS S4).
    ForgetToCancel,
}

impl Mutant {
    /// Each of them once.
    pub const ALL: [Self; 5] = [
        Self::UnlockOvertakesWrites,
        Self::CloseOvertakesWrites,
        Self::ClockStopsInSleep,
        Self::CloseKeepsLocks,
        Self::ForgetToCancel,
    ];
}

#[cfg(any(test, feature = "mutants"))]
mod switch {
    use super::Mutant;
    use std::cell::Cell;

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Whether this bug is planted on this thread.
    #[must_use]
    pub fn planted(mutant: Mutant) -> bool {
        ACTIVE.get() == Some(mutant)
    }

    /// Plants a bug on this thread, or removes it.
    pub fn plant(mutant: Option<Mutant>) {
        ACTIVE.set(mutant);
    }
}

#[cfg(any(test, feature = "mutants"))]
pub use switch::{plant, planted};

/// Whether this bug is planted: never in production.
#[cfg(not(any(test, feature = "mutants")))]
#[must_use]
pub const fn planted(_: Mutant) -> bool {
    false
}
