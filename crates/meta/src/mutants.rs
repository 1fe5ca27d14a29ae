//! Planted bugs: each drops one safety rule, and a test has to notice.
//!
//! Responsible for: switching one of them on for the current thread. Without the `mutants` feature (and outside of this
//! crate's tests) [`planted`] is constant and the compiler removes every trace.

/// The rule that is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// Set changes are not compared with the epoch, set version and incarnation they name (design 5.3).
    SkipCompareAndSet,
    /// The last member that is neither lossy nor behind may be removed (design 5.3).
    RemoveLastLevel,
    /// Lossy and behind members count towards the minimum (design 5.3).
    CountLossyTowardsMinimum,
    /// A restarted node's replicas stay lossless without proof (design 5.4).
    TrustRestart,
    /// A restarted primary keeps its epoch (design 5.4).
    KeepEpochOnRestart,
    /// Members that were not levelled are not marked behind (design 5.5).
    ForgetBehind,
    /// A move takes effect at once (design 4.3).
    MoveAtOnce,
    /// A struck session's caps are free before every live node has acknowledged (design 4.4).
    FenceWithoutAcknowledgement,
    /// A heartbeat is answered without a quorum round that began after it came (design 4.1).
    AnswerWithoutRound,
    /// A new leader does not wait before it calls somebody dead (design 4.1).
    HastyLeader,
    /// A node that does not apply the map is answered (design 4.2).
    AnswerLaggard,
    /// A lapsed session is struck although nobody asked (design 4.4).
    StrikeLapsed,
    /// Retried requests are applied again (design 3).
    NoDedupe,
    /// After a fence the size cap is granted before the size is collected (design 7 size).
    SizeLostOnFence,
    /// A recovered or committed size of an older truncate generation counts (design 7 size).
    SizeOfOldGeneration,
    /// An unlinked file goes although a session has it open (design 7).
    DropOpenFile,
    /// Rename does not look for cycles.
    AllowCycles,
    /// Cookies of a directory start anew when it becomes empty.
    ReuseCookies,
    /// A store that forgot its incarnation may register under the old id (design 3).
    AcceptEmptyStore,
    /// A failed disk is admitted again under its id (design 4.6).
    ReadmitFailedDisk,
}

impl Mutant {
    /// Each of them once.
    pub const ALL: [Self; 20] = [
        Self::SkipCompareAndSet,
        Self::RemoveLastLevel,
        Self::CountLossyTowardsMinimum,
        Self::TrustRestart,
        Self::KeepEpochOnRestart,
        Self::ForgetBehind,
        Self::MoveAtOnce,
        Self::FenceWithoutAcknowledgement,
        Self::AnswerWithoutRound,
        Self::HastyLeader,
        Self::AnswerLaggard,
        Self::StrikeLapsed,
        Self::NoDedupe,
        Self::SizeLostOnFence,
        Self::SizeOfOldGeneration,
        Self::DropOpenFile,
        Self::AllowCycles,
        Self::ReuseCookies,
        Self::AcceptEmptyStore,
        Self::ReadmitFailedDisk,
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
