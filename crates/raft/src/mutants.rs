//! Planted bugs of this crate: each drops one safety rule, and a test has to notice.
//!
//! Responsible for: switching one of them on for the current thread. Outside of this crate's tests [`planted`] is constant
//! and the compiler removes every trace.

/// The rule that is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mutant {
    /// A read lease never ends (decision 0010).
    EndlessLease,
    /// Who may have promised a leader to keep still votes and stands at once (decision 0010).
    VoteAtOnce,
    /// sled gets the mark of a step before the step (design 3: one batch).
    MarkBeforeState,
}

/// Whether this bug is planted: never in production.
#[cfg(not(test))]
pub(crate) const fn planted(_: Mutant) -> bool {
    false
}

#[cfg(test)]
pub(crate) use switch::{plant, planted};

#[cfg(test)]
mod switch {
    use super::Mutant;
    use std::cell::Cell;

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Whether this bug is planted on this thread.
    pub(crate) fn planted(mutant: Mutant) -> bool {
        ACTIVE.get() == Some(mutant)
    }

    /// Plants a bug on this thread, or removes it.
    pub(crate) fn plant(mutant: Option<Mutant>) {
        ACTIVE.set(mutant);
    }
}
