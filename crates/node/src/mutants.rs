//! Planted bugs of the node: each drops one safety rule, and a test has to notice.
//!
//! Responsible for: switching one of them on for the current thread, and for the threads that it starts. Without the
//! `mutants` feature (and outside of this crate's tests) [`planted`] is constant and the compiler removes every trace.

/// The rule that is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// Leases run by a clock that stops while the machine sleeps (design 4.1).
    ClockStopsInSleep,
    /// A lease counts before the map that it names is applied (design 4.2).
    LeaseAtOldMap,
    /// What primaries have sequenced and not every member has is not bounded by the journals (decision 0018).
    NoJournalBound,
    /// Any member of the cluster speaks for any session at the data port (W5).
    AnyOwner,
    /// A machine is not told that entries did not leave because the queue to their member was full (design 5.2).
    SilentOverflow,
    /// Who asks for a size that only a silent session knows asks for nothing that it holds (design 4.4).
    WantNothing,
    /// A copy goes on in another epoch than the one in which it began (decision 0015).
    CopyInAnyEpoch,
    /// Two attempts of one copy run at a time (decision 0015).
    CopyTwiceAtOnce,
}

impl Mutant {
    /// Each of them once.
    pub const ALL: [Self; 8] = [
        Self::ClockStopsInSleep,
        Self::LeaseAtOldMap,
        Self::NoJournalBound,
        Self::AnyOwner,
        Self::SilentOverflow,
        Self::WantNothing,
        Self::CopyInAnyEpoch,
        Self::CopyTwiceAtOnce,
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

    /// What is planted on this thread, for one that it starts.
    #[must_use]
    pub fn active() -> Option<Mutant> {
        ACTIVE.get()
    }
}

#[cfg(any(test, feature = "mutants"))]
pub use switch::{active, plant, planted};

/// Whether this bug is planted: never in production.
#[cfg(not(any(test, feature = "mutants")))]
#[must_use]
pub const fn planted(_: Mutant) -> bool {
    false
}

/// Nothing is ever planted in production.
#[cfg(not(any(test, feature = "mutants")))]
pub(crate) const fn active() -> Option<Mutant> {
    None
}

#[cfg(not(any(test, feature = "mutants")))]
pub(crate) const fn plant(_: Option<Mutant>) {}
