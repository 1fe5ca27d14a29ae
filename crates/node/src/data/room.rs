//! Room in a journal for what clients write (decision 0018).
//!
//! Responsible for: how much of a journal is kept for what is sequenced already, here and by the primaries of other nodes, and
//! what is left for more. Guarantees: as long as every primary holds its clients back by it, and no node has more than its part
//! under way, an entry finds room in the journal of every member. Must not know: requests.

use weft_store::{Disk, MAX_ENTRY_BYTES, Store};

/// Of every journal, for what the primaries of all nodes have sequenced and not every member has.
pub(super) const UNCOMMITTED_SHARE: f64 = 0.15;

/// What all nodes together may have under way to a journal of so many bytes.
pub(super) fn under_way_bytes(journal_bytes: u64) -> u64 {
    (journal_bytes as f64 * UNCOMMITTED_SHARE) as u64
}

/// Kept free of what clients begin to write: what is under way, and what entries leave empty at the end of a segment.
fn kept_bytes<D: Disk>(store: &Store<D>) -> u64 {
    under_way_bytes(store.journal_bytes()) + (MAX_ENTRY_BYTES as u64).min(store.segment_bytes() / 2)
}

/// What clients may still write before they have to wait for a checkpoint.
pub(super) fn for_clients_bytes<D: Disk>(store: &Store<D>) -> u64 {
    store.journal_room_bytes().saturating_sub(kept_bytes(store))
}

/// The part of it that is in use: 1 when they have to wait.
pub(super) fn share_in_use<D: Disk>(store: &Store<D>) -> f64 {
    let all = store.journal_usable_bytes().saturating_sub(kept_bytes(store)).max(1);
    1.0 - (for_clients_bytes(store) as f64 / all as f64).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NodeConfig;
    use crate::setup::store_config;
    use weft_store::StoreConfig;

    /// Writers must never wait for a checkpoint that is not due, so there is room when nothing but what is kept is in the ring.
    #[test]
    fn clients_have_room_in_a_journal_of_any_size() {
        for journal_mib in [64, 65, 128, 512, 1000, 65_536] {
            let config = store_config(&NodeConfig { journal_mib, ..NodeConfig::default() });
            check(&config);
        }
        check(&StoreConfig { segment_bytes: 512 << 10, ..StoreConfig::small() });
    }

    fn check(config: &StoreConfig) {
        let segment = u64::from(config.segment_bytes);
        let total = u64::from(config.segments) * segment;
        // One more for the segment that is being written.
        let idle = total - (u64::from(config.retained_segments) + 2) * segment;
        let kept = under_way_bytes(total) + (MAX_ENTRY_BYTES as u64).min(segment / 2);
        assert!(idle > kept + total / 8, "{idle} of {total}, {kept} are kept");
    }
}
