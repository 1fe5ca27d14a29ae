//! Whether what is being sequenced will have to be durable in a moment.
//!
//! A database, and a guest's journal, writes and then flushes, again and again. A group that has seen that a few times
//! asks its members to sync with the append instead of with the flush, so that the disks work while the acknowledgement
//! and the flush travel. A wrong guess costs one sync on each member.
//!
//! Must not know: what a sync is. Decides nothing about what is durable.

/// A flush after so few entries is part of a pattern that is worth following.
const FEW_ENTRIES: u32 = 4;
/// Such flushes before the first sync that nobody has asked for.
const CONFIDENT: u32 = 2;
/// Remembered at most, so that a change of habit is noticed soon.
const MOST_CONFIDENT: u32 = 8;
/// What a wrong guess takes away.
const LOST_BY_A_MISS: u32 = 4;

#[derive(Debug, Default)]
pub(crate) struct Foresight {
    confidence: u32,
    /// Since the last flush.
    entries: u32,
    /// A sync was asked for that no flush has needed yet.
    ahead: bool,
}

impl Foresight {
    /// An entry was sequenced. True when its sync should begin with the append.
    pub fn sequenced(&mut self) -> bool {
        if std::mem::take(&mut self.ahead) {
            self.confidence = self.confidence.saturating_sub(LOST_BY_A_MISS);
        }
        self.entries = self.entries.saturating_add(1);
        self.ahead = self.confidence >= CONFIDENT && self.entries <= FEW_ENTRIES;
        self.ahead
    }

    /// Somebody wants what was acknowledged so far to be durable.
    pub fn flushed(&mut self) {
        self.ahead = false;
        match std::mem::take(&mut self.entries) {
            // A flush for other groups' sake.
            0 => {}
            few if few <= FEW_ENTRIES => self.confidence = (self.confidence + 1).min(MOST_CONFIDENT),
            _ => self.confidence = self.confidence.saturating_sub(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trained(flushes: u32) -> Foresight {
        let mut foresight = Foresight::default();
        for _ in 0..flushes {
            foresight.sequenced();
            foresight.flushed();
        }
        foresight
    }

    #[test]
    fn a_writer_that_flushes_each_write_gets_its_sync_ahead() {
        let mut foresight = trained(CONFIDENT);
        for _ in 0..100 {
            assert!(foresight.sequenced());
            foresight.flushed();
            foresight.flushed();
        }
    }

    #[test]
    fn a_writer_that_never_flushes_is_never_synced_ahead() {
        let mut foresight = Foresight::default();
        assert!((0..1000).all(|_| !foresight.sequenced()));
    }

    #[test]
    fn a_writer_that_stops_flushing_costs_a_few_syncs_at_most() {
        let mut foresight = trained(1000);
        let ahead = (0..1000).filter(|_| foresight.sequenced()).count();
        assert!(ahead as u32 <= MOST_CONFIDENT / LOST_BY_A_MISS, "{ahead}");
    }

    #[test]
    fn rare_flushes_after_many_writes_are_no_pattern() {
        let mut foresight = trained(1000);
        for _ in 0..20 {
            for _ in 0..100 {
                foresight.sequenced();
            }
            foresight.flushed();
        }
        assert!(!foresight.sequenced());
    }
}
