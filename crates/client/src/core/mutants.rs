//! Planted bugs: each drops one rule of the client's core, and a test has to notice. Without the `mutants` feature (and
//! outside of this crate's tests) [`planted`] is constant and the compiler removes every trace.

/// The rule that is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// A holder extends further than it was allowed to (design 7 size).
    ExtendPastRoom,
    /// The size cap is given up while an extending write is under way (design 7 size).
    GiveUpWhileExtending,
    /// A write extends while the cap is on its way back (design 7 size).
    ExtendWhileGivingUp,
    /// A cap that is recalled at once goes back before it served anybody (decision 0014).
    GrantServesNobody,
    /// A truncation is acknowledged only when operations under the new generation are answered: they wait for the cut,
    /// and the cut waits for the acknowledgement (decision 0013).
    SettleEveryGeneration,
    /// A truncation is acknowledged while operations of the generation before are under way (decision 0013).
    SettleNothing,
    /// A flush does not look whether the loss generation rose (design 5, flush).
    IgnoreRise,
}

impl Mutant {
    /// Each of them once.
    pub const ALL: [Self; 7] = [
        Self::ExtendPastRoom,
        Self::GiveUpWhileExtending,
        Self::ExtendWhileGivingUp,
        Self::GrantServesNobody,
        Self::SettleEveryGeneration,
        Self::SettleNothing,
        Self::IgnoreRise,
    ];
}

/// Whether this bug is planted: never in production.
#[cfg(not(any(test, feature = "mutants")))]
#[must_use]
pub const fn planted(_: Mutant) -> bool {
    false
}

#[cfg(any(test, feature = "mutants"))]
pub use switch::{plant, planted};

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
