//! Bugs planted on purpose. Each drops one rule; a test must notice. Not compiled into a production build.

/// One planted bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// A member accepts messages of epochs older than its promise (5.2).
    SkipEpochCheck,
    /// A write is acknowledged before the last in-sync member has it (5.1).
    AcknowledgeEarly,
    /// A new primary takes its own log for the best and levels nobody (5.5).
    SkipPeering,
    /// A resync copy takes no block locks (5.7).
    CopyWithoutLock,
    /// A resync copy that its target cannot take now is left to the journal, which has none (5.7).
    CopyFromJournal,
    /// A retry is sequenced again (5.8).
    NoDedupe,
    /// The dedupe table is not copied before promotion (5.8).
    NoDedupeCopy,
    /// `complete_to` is not written down (5.7).
    ForgetCompleteTo,
    /// Reads are answered without a lease (4.2).
    ServeWithoutLease,
    /// A lossy member's log may win (5.4).
    LossyAsSource,
    /// Reads do not wait for entries that are not yet readable (5.6).
    ReadUncommitted,
    /// Only the primary's changes are copied (5.7).
    OneSidedDelta,
    /// A candidate counts for nothing until its promotion is known (5.7).
    CandidateNotCounted,
    /// A flush waits for the primary only (5, flush).
    FlushPrimaryOnly,
    /// A flush covers only what was acknowledged in this epoch (5, flush).
    FlushOfThisEpoch,
    /// A behind member counts as levelled (5.5).
    BehindAsLevel,
    /// The session is not checked again when a waiting write is sequenced (4.2).
    FenceOnlyAtArrival,
    /// A read looks at no truncate generation: it may show what another host has cut off (7, truncate).
    ReadAnyGeneration,
    /// Ends from before a truncation count for the size (7, size).
    EndOfOldGeneration,
    /// A partial write takes no block locks.
    MergeWithoutLock,
    /// A cut or a deletion is answered before it is durable (7, truncate).
    CutInMemory,
}

impl Mutant {
    /// Each of them once.
    pub const ALL: [Self; 21] = [
        Self::SkipEpochCheck,
        Self::AcknowledgeEarly,
        Self::SkipPeering,
        Self::CopyWithoutLock,
        Self::CopyFromJournal,
        Self::NoDedupe,
        Self::NoDedupeCopy,
        Self::ForgetCompleteTo,
        Self::ServeWithoutLease,
        Self::LossyAsSource,
        Self::ReadUncommitted,
        Self::OneSidedDelta,
        Self::CandidateNotCounted,
        Self::FlushPrimaryOnly,
        Self::FlushOfThisEpoch,
        Self::BehindAsLevel,
        Self::FenceOnlyAtArrival,
        Self::ReadAnyGeneration,
        Self::EndOfOldGeneration,
        Self::MergeWithoutLock,
        Self::CutInMemory,
    ];
}
