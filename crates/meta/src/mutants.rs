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
    /// The size cap is granted while another session holds it (design 7 size).
    GrantHeldCap,
    /// Who gives up the size cap is not heard about the size (design 7 size).
    ReleaseForgetsSize,
    /// The last session in line for a size cap gets it first (decision 0014).
    ServeLastInLine,
    /// A holder that keeps its cap although it was asked for it is left alone (decision 0014).
    NoRecallDeadline,
    /// A holder that cannot give up its cap because another session holds up a cut is struck with that one (decision 0014).
    BlameWhoIsHeldUp,
    /// A truncation is answered before other sessions know of it (design 7 truncate).
    TruncateUnacknowledged,
    /// An object is cut or deleted while a session may still write under the generation before (decision 0013).
    CutBeforeAcknowledged,
    /// A truncation to zero takes effect while a cut is under way, and its deletion takes the place of the cut.
    SwapDuringCut,
    /// A size collected for a cap that reached less far counts in full (design 7 size).
    CollectPastRoom,
    /// A failed disk is admitted again under its id (design 4.6).
    ReadmitFailedDisk,
    /// Locks on the same bytes are not seen to be in each other's way (S4.1).
    IgnoreOverlap,
    /// Equal owner numbers of two sessions are taken for one owner (S4.2).
    OwnerWithoutSession,
    /// F_GETLK sees only locks of the asking session (S4.5).
    TestOnlyOwnLocks,
    /// A freed range is given to nobody who waits for it (S4.7).
    ForgetWaiters,
    /// A wait overtakes an earlier one that it gets in the way of (S4.8).
    OvertakeWaiters,
    /// Owners that wait for each other wait for ever (S4.9).
    NoDeadlockSearch,
    /// The last close of a file leaves its locks (S4.11).
    CloseKeepsLocks,
    /// Any member of the cluster speaks for any session (W5).
    AnyOwner,
    /// Each commit of a node's registration is a restart (design 5.4).
    RegisterTwice,
    /// A promotion leaves the dead member that it replaces in the set (design 5.3).
    PromoteBesideDead,
    /// Whom a primary accuses is removed, whoever else reaches it (design 5.3).
    BelieveAccuser,
    /// Any clean-stop mark is a proof, whatever incarnation it names (design 5.4).
    TrustAnyMark,
    /// A syncing member may lead (design 5.5).
    ElectSyncing,
    /// A late word about an incarnation that is over is taken for one about the present (design 4.1).
    AnyIncarnationDies,
    /// A node that holds the only good copy may be removed (design 5.9).
    RemoveOnlyCopy,
    /// A stale replica is made primary without a rise of the loss generation (design 5.9).
    ForceWithoutLoss,
    /// A replica whose copy broke off is made primary (design 5.9, decision 0023).
    ForceIncomplete,
    /// An operator may make a stale replica primary while one in sync lives (design 5.9).
    ForceOverLive,
    /// Nobody waits for a member that lost nothing before the longest lossy log wins (design 5.4).
    AcceptLossAtOnce,
    /// A level primary keeps its place although its log does not join the longest one any more (decision 0007).
    LevelNeverYields,
    /// A lossy member is handed the lead while one lives that lost nothing (decision 0007).
    YieldToAnybody,
    /// A primary that serves gives way before it knows (decision 0024).
    YieldAtOnce,
}

impl Mutant {
    /// Each of them once.
    pub const ALL: [Self; 51] = [
        Self::GrantHeldCap,
        Self::ReleaseForgetsSize,
        Self::ServeLastInLine,
        Self::NoRecallDeadline,
        Self::BlameWhoIsHeldUp,
        Self::TruncateUnacknowledged,
        Self::CutBeforeAcknowledged,
        Self::SwapDuringCut,
        Self::CollectPastRoom,
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
        Self::IgnoreOverlap,
        Self::OwnerWithoutSession,
        Self::TestOnlyOwnLocks,
        Self::ForgetWaiters,
        Self::OvertakeWaiters,
        Self::NoDeadlockSearch,
        Self::CloseKeepsLocks,
        Self::AnyOwner,
        Self::RegisterTwice,
        Self::PromoteBesideDead,
        Self::BelieveAccuser,
        Self::TrustAnyMark,
        Self::ElectSyncing,
        Self::AnyIncarnationDies,
        Self::RemoveOnlyCopy,
        Self::ForceWithoutLoss,
        Self::ForceIncomplete,
        Self::ForceOverLive,
        Self::AcceptLossAtOnce,
        Self::LevelNeverYields,
        Self::YieldToAnybody,
        Self::YieldAtOnce,
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
