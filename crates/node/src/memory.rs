//! What a node may take of memory, and who in it may have how much.
//!
//! Responsible for: dividing the setting `memory_mib` among what grows with load. Guarantees: the shares together are less
//! than the whole, and what is left is for the program, its connections and the allocator. Must not know: who counts.

use weft_transport::quic::STREAM_WINDOW_BYTES;

/// Below this the shares are too small to work with.
pub const LEAST_MEMORY_MIB: u32 = 128;
/// What was measured as enough for the speed that the benchmark shows.
pub const DEFAULT_MEMORY_MIB: u32 = 256;
pub const MOST_MEMORY_MIB: u32 = 65_536;

/// An open chunk file with its trailer.
const OPEN_CHUNK_BYTES: u64 = 9 << 10;
/// The index of one entry of a journal.
const JOURNAL_ENTRY_BYTES: u64 = 56;
/// A checkpoint works on files that are open.
const LEAST_OPEN_CHUNKS: u64 = 64;
/// Each is a file descriptor.
const MOST_OPEN_CHUNKS: u64 = 4096;
/// The journal is full of them before that: 4 KiB each fill 64 GiB.
const MOST_JOURNAL_ENTRIES: u64 = 16 << 20;
/// A journal of many small writes must not be checkpointed all the time.
const LEAST_JOURNAL_ENTRIES: u64 = 16 << 10;

/// Upper bounds, in the units of whoever keeps to them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryPlan {
    /// Of sled, which holds the metadata.
    pub metadata_cache_bytes: u64,
    /// Data of client writes that were taken and are not answered.
    pub client_bytes: usize,
    /// Data of requests that wait for a newer map or for room in a journal.
    pub held_bytes: usize,
    /// Received from one peer on one stream and not read.
    pub window_bytes: u32,
    /// Per disk.
    pub open_chunks: usize,
    /// Per disk.
    pub journal_entries: usize,
}

impl MemoryPlan {
    /// The shares of a node with so many disks.
    #[must_use]
    pub fn of(memory_mib: u32, disks: usize) -> Self {
        let whole = u64::from(memory_mib) << 20;
        let disks = u64::try_from(disks.max(1)).unwrap_or(u64::MAX);
        let per_disk = whole / 16 / disks;
        let chunks = (per_disk / OPEN_CHUNK_BYTES).clamp(LEAST_OPEN_CHUNKS, MOST_OPEN_CHUNKS);
        let entries = (per_disk / JOURNAL_ENTRY_BYTES).clamp(LEAST_JOURNAL_ENTRIES, MOST_JOURNAL_ENTRIES);
        Self {
            metadata_cache_bytes: whole / 16,
            client_bytes: bounded(whole / 4),
            held_bytes: bounded(whole / 8),
            window_bytes: u32::try_from(whole / 16).unwrap_or(u32::MAX).min(STREAM_WINDOW_BYTES),
            open_chunks: bounded(chunks),
            journal_entries: bounded(entries),
        }
    }
}

impl Default for MemoryPlan {
    fn default() -> Self {
        Self::of(DEFAULT_MEMORY_MIB, 1)
    }
}

fn bounded(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn together(plan: &MemoryPlan, disks: u64) -> u64 {
        let per_disk = plan.open_chunks as u64 * OPEN_CHUNK_BYTES + plan.journal_entries as u64 * JOURNAL_ENTRY_BYTES;
        plan.metadata_cache_bytes + (plan.client_bytes + plan.held_bytes) as u64 + disks * per_disk
    }

    #[test]
    fn the_shares_leave_a_third_to_the_program_itself() {
        for mib in [LEAST_MEMORY_MIB, DEFAULT_MEMORY_MIB, 1024, MOST_MEMORY_MIB] {
            for disks in [1, 2, 4] {
                let together = together(&MemoryPlan::of(mib, disks), disks as u64);
                assert!(together <= (u64::from(mib) << 20) * 2 / 3, "{mib} MiB, {disks} disks: {together}");
            }
        }
    }

    #[test]
    fn more_memory_is_more_for_everybody() {
        let (small, large) = (MemoryPlan::of(LEAST_MEMORY_MIB, 2), MemoryPlan::of(1024, 2));
        assert!(small.metadata_cache_bytes < large.metadata_cache_bytes);
        assert!(small.client_bytes < large.client_bytes && small.held_bytes < large.held_bytes);
        assert!(small.open_chunks < large.open_chunks && small.journal_entries < large.journal_entries);
    }

    #[test]
    fn a_node_with_many_disks_divides_and_keeps_each_working() {
        let plan = MemoryPlan::of(LEAST_MEMORY_MIB, 1000);
        assert_eq!((plan.open_chunks as u64, plan.journal_entries as u64), (LEAST_OPEN_CHUNKS, LEAST_JOURNAL_ENTRIES));
    }
}
