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
    /// What was read for a copy that was lost meanwhile counts as a part of the next one (5.7).
    CountLateReads,
    /// A late copy of a change that was refused is carried out (4.5, 5.8).
    ForgetRefusals,
    /// A change that was sent to the primary of an earlier epoch is carried out (4.5, 5.8).
    TakeFromEarlierEpoch,
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
    /// An end that was looked up before a cut counts as one of after it when the cut comes before the answer (7, size).
    EndBesideLaterCut,
    /// A partial write takes no block locks.
    MergeWithoutLock,
    /// A cut or a deletion is answered before it is durable (7, truncate).
    CutInMemory,
    /// A member that says it has synced all it has counts as having synced everything (5, flush).
    SyncedIsEnough,
    /// A flush names the loss generation with which its epoch began (5, flush).
    FlushOldGeneration,
    /// A syncing member's log may win (5.5).
    SyncingAsSource,
    /// A primary that is moved first waits until what it has sequenced is acknowledged (4.3).
    MoveAwaitsWrites,
    /// A primary that is moved goes on answering at its epoch (4.3).
    AnswerWhileMoved,
    /// A bad block is taken from any member, and given by any (6, reads).
    RepairFromAnybody,
    /// A fetched block is not compared with the own trailer's hash (6, reads).
    RepairUnchecked,
    /// A bad block is repaired as it was when it was found, though it was written before its lock was taken (6, reads).
    RepairAsSeen,
    /// A member whose disk has lost what it knew of a chunk goes on as if nothing were (decision 0024).
    DamagedStays,
    /// It goes also when the others are not enough for writes to go on (decision 0024).
    WithdrawAlways,
    /// Who is about to give way because of that answers meanwhile that a block is lost (decision 0024).
    CorruptBeforeYield,
    /// Who takes no part any more does not say so (decision 0024).
    WithdrawSilently,
    /// A write is admitted whatever room the members have (5.10).
    AdmitWithoutCredits,
    /// A fill is admitted when the primary has the room, whatever the others have (5.10).
    FillOnOwnCredits,
    /// A write into blocks that are present is refused without room for it, as if they were absent (5.10).
    ReservedNeedsRoom,
    /// Presence is looked up without a look at the open batch, which may make blocks absent (5.10).
    PresenceBeforeBatch,
    /// A syncing member is sent fills whatever room it has (5.10).
    FillSentBlindly,
    /// Zeros over blocks that are all present are taken for a fill that has nothing to do (decision 0020).
    ZeroIsNothing,
    /// A resync copies nothing while a write waits to be acknowledged (5.7).
    CopyAwaitsWrites,
    /// A read waits for the resync copies of what it reads (5.7).
    CopyBlocksReads,
    /// What a member was told of commitment on a connection that broke counts as told.
    ToldForEver,
    /// A member whose disk is gone counts as live while its node lives (5.4).
    GoneDiskLives,
    /// A resync that makes no progress is never begun anew (5.7).
    IgnoreStall,
    /// A promise is given before it is durable (5.2).
    PromiseInMemory,
    /// An entry is taken although the one before it is missing (5.2).
    AcceptGap,
    /// A member appends blocks without checking them (5.7, 6).
    UnverifiedAppend,
    /// The lease is not checked again when the bytes of a read are in hand (5.6).
    LeaseCheckedOnce,
    /// Writes do not wait while too few members are level (5.3).
    NoMinimum,
    /// The list of live sessions is not looked at (4.4).
    ServeStruck,
    /// A request that names a newer map is carried out under the old one (4.2).
    IgnoreMapVersion,
    /// A member is promoted before everything up to the barrier is durable there (5.7).
    PromoteBeforeBarrier,
    /// A resync starts where the target's log ends, although it parted from ours before (5.7).
    StartAtTheirEnd,
    /// A chunk that is absent at the source stays at the target (5.7).
    KeepAbsent,
    /// A write that asks for the disk is answered from memory (5, acknowledged).
    DiskAckInMemory,
    /// A write looks at no truncate generation (7, truncate).
    WriteAnyGeneration,
    /// A cut leaves the rest of its last block as it is (7, truncate).
    CutKeepsEdge,
    /// An incomplete member frees only what every member that counts has (5.7).
    CopiesAwaitCommitment,
    /// Clients are let in although the journal of a member has no room beside what is under way to it (decision 0018).
    WriteIntoFullJournals,
    /// A member takes entries although neither its journal nor its disk has room (5.10).
    TakeIntoFullJournal,
}

impl Mutant {
    /// Each of them once.
    pub const ALL: [Self; 64] = [
        Self::SkipEpochCheck,
        Self::AcknowledgeEarly,
        Self::SkipPeering,
        Self::CopyWithoutLock,
        Self::CopyFromJournal,
        Self::CountLateReads,
        Self::ForgetRefusals,
        Self::TakeFromEarlierEpoch,
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
        Self::EndBesideLaterCut,
        Self::MergeWithoutLock,
        Self::CutInMemory,
        Self::SyncedIsEnough,
        Self::FlushOldGeneration,
        Self::SyncingAsSource,
        Self::MoveAwaitsWrites,
        Self::AnswerWhileMoved,
        Self::RepairFromAnybody,
        Self::RepairUnchecked,
        Self::RepairAsSeen,
        Self::DamagedStays,
        Self::WithdrawAlways,
        Self::CorruptBeforeYield,
        Self::WithdrawSilently,
        Self::AdmitWithoutCredits,
        Self::FillOnOwnCredits,
        Self::ReservedNeedsRoom,
        Self::PresenceBeforeBatch,
        Self::FillSentBlindly,
        Self::ZeroIsNothing,
        Self::CopyAwaitsWrites,
        Self::CopyBlocksReads,
        Self::ToldForEver,
        Self::GoneDiskLives,
        Self::IgnoreStall,
        Self::PromiseInMemory,
        Self::AcceptGap,
        Self::UnverifiedAppend,
        Self::LeaseCheckedOnce,
        Self::NoMinimum,
        Self::ServeStruck,
        Self::IgnoreMapVersion,
        Self::PromoteBeforeBarrier,
        Self::StartAtTheirEnd,
        Self::KeepAbsent,
        Self::DiskAckInMemory,
        Self::WriteAnyGeneration,
        Self::CutKeepsEdge,
        Self::CopiesAwaitCommitment,
        Self::WriteIntoFullJournals,
        Self::TakeIntoFullJournal,
    ];
}
