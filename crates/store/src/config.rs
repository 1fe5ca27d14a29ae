//! Settings of one disk, and the planted bugs that tests switch on.

/// Sizes and bounds. Production uses the defaults; tests use small ones.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Bytes of one journal segment. Has to hold the longest entry ([`crate::MAX_ENTRY_BYTES`]) in production.
    pub segment_bytes: u32,
    /// Segments of the journal's ring. Fixed when the disk is formatted, as `segment_bytes` is.
    pub segments: u32,
    /// Share of the ring, in segments, that keeps applied entries for levelling.
    pub retained_segments: u32,
    /// Preallocated bytes that are given up when the disk is full, so that recovery and deletion work.
    pub ballast_bytes: u64,
    /// Free bytes below which nothing more is admitted.
    pub reserve_bytes: u64,
    /// Open chunk files, each with its trailer in memory (about 9 KiB at 4 MiB chunks).
    pub open_chunks: usize,
    /// Entries the journal may index before the checkpoint is due whatever their size (56 bytes of memory each).
    pub max_entries: usize,
    /// The inventory of trailers is not written anew before it is longer than this.
    pub inventory_bytes: u64,
    #[cfg(any(test, feature = "mutants"))]
    pub mutant: Option<Mutant>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            segments: 8,
            retained_segments: 2,
            ballast_bytes: 256 << 20,
            reserve_bytes: 512 << 20,
            open_chunks: 1024,
            max_entries: 262_144,
            inventory_bytes: 1 << 20,
            #[cfg(any(test, feature = "mutants"))]
            mutant: None,
        }
    }
}

impl StoreConfig {
    /// Small sizes for tests and simulations.
    #[must_use]
    pub fn small() -> Self {
        Self {
            segment_bytes: 64 << 10,
            segments: 8,
            retained_segments: 2,
            ballast_bytes: 64 << 10,
            reserve_bytes: 256 << 10,
            open_chunks: 16,
            max_entries: 4096,
            inventory_bytes: 2 << 10,
            #[cfg(any(test, feature = "mutants"))]
            mutant: None,
        }
    }

    /// Whether a planted bug is switched on.
    #[cfg(any(test, feature = "mutants"))]
    pub(crate) fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    #[cfg(not(any(test, feature = "mutants")))]
    pub(crate) const fn has(&self, _mutant: Mutant) -> bool {
        false
    }
}

/// Planted bugs. Each has to be caught by a test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// A sync reports success without having synced.
    SkipFsync,
    /// The sync mark is written before its sync.
    MarkBeforeFsync,
    /// Records of a recycled segment's earlier lap are accepted.
    IgnoreLap,
    /// The journal is trimmed before data and trailers are synced.
    TrimBeforeTrailerSync,
    /// Uncommitted entries are applied to chunk files.
    ApplyUncommitted,
    /// A cut is not written to the journal.
    ForgetCut,
    /// A failed sync does not poison the store.
    RetryFsync,
    /// Records behind a bad one are not told apart from new ones of a later life.
    IgnoreLife,
    /// Replay does not check block data against the entry's hashes.
    TrustData,
    /// A checkpoint does not sync the names of the files it made and removed.
    SkipNameSync,
    /// Files of the Raft log are removed before what makes them needless is synced.
    RemoveBeforeSync,
    /// Files of the Raft log are removed without waiting for the removal of the one before.
    RemoveInAnyOrder,
    /// The Raft log builds on names that a crashed process may not have synced.
    TrustNames,
    /// What a crash left behind the end of the Raft log stays there.
    KeepTail,
    /// A small file takes its name before its contents are synced.
    RenameBeforeSync,
    /// Recovery tells entries apart by their sequence number alone.
    SequenceAlone,
    /// A ballast that does not fit back right after it was given up is forgotten.
    ForgetBallast,
    /// What an opening has to write takes no room of the ballast.
    BeginWithoutBallast,
    /// A cut leaves the dedupe records of what it cut.
    KeepCutRecords,
    /// A checkpoint does not write down where the writes of a chunk ended.
    ForgetEnds,
    /// A disk of another cluster, node or identity is taken for the expected one.
    AnyDisk,
    /// A disk that is marked as failed is opened again.
    ForgetFailure,
    /// Blocks are read without being checked.
    UnverifiedRead,
    /// Blocks of a chunk whose trailer is lost read as absent.
    DamagedIsAbsent,
    /// Reads do not look at the journal.
    IgnoreOverlay,
    /// A checkpoint applies entries whose journal records are not durable.
    ApplyBeforeSync,
    /// A checkpoint writes down that blocks are filled and takes no room for them.
    FillTakesNoRoom,
    /// What fills have yet to take in chunk files is given to others once more.
    FillOwesNothing,
    /// A chunk that was filled does not count as changed, so a resync passes it by.
    FillIsNoChange,
    /// A chunk whose file a checkpoint removed before it found no room stays known as if the file were there.
    KeepRemovedChunk,
    /// A copy that is complete believes to know what went before it was.
    CopyKnowsAll,
    /// An opening does not look whether a trailer is the one that was written last.
    IgnoreInventory,
    /// A process that opens a chunk's file again does not look at that either.
    TrustReopened,
    /// What a checkpoint wrote is noted before it is synced.
    InventoryBeforeSync,
    /// A new file's trailers are compared with those of the file that had its name before.
    IgnoreBirth,
}

impl Mutant {
    /// Each of them once.
    pub const ALL: [Self; 35] = [
        Self::SkipFsync,
        Self::MarkBeforeFsync,
        Self::IgnoreLap,
        Self::TrimBeforeTrailerSync,
        Self::ApplyUncommitted,
        Self::ForgetCut,
        Self::RetryFsync,
        Self::IgnoreLife,
        Self::TrustData,
        Self::SkipNameSync,
        Self::RemoveBeforeSync,
        Self::RemoveInAnyOrder,
        Self::TrustNames,
        Self::KeepTail,
        Self::RenameBeforeSync,
        Self::SequenceAlone,
        Self::ForgetBallast,
        Self::BeginWithoutBallast,
        Self::KeepCutRecords,
        Self::ForgetEnds,
        Self::AnyDisk,
        Self::ForgetFailure,
        Self::UnverifiedRead,
        Self::DamagedIsAbsent,
        Self::IgnoreOverlay,
        Self::ApplyBeforeSync,
        Self::FillTakesNoRoom,
        Self::FillOwesNothing,
        Self::FillIsNoChange,
        Self::KeepRemovedChunk,
        Self::CopyKnowsAll,
        Self::IgnoreInventory,
        Self::TrustReopened,
        Self::InventoryBeforeSync,
        Self::IgnoreBirth,
    ];
}
