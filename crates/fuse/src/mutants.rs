//! Planted bugs of the adapter: each drops one rule, and a test has to notice.
//!
//! Responsible for: switching one of them on for the current thread. Outside of this crate's tests [`planted`] is constant
//! and the compiler removes every trace.

/// The rule that is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mutant {
    /// The kernel's own SETATTR after a failed extending write is carried out as an application's (design 7, kernel size).
    CarryOutRollback,
    /// A size set after the one that follows a failed write is taken for the kernel's as well.
    IgnoreForEver,
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
