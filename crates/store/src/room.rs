//! Room in a disk's journal: what may still be appended to it.
//!
//! Responsible for: saying it before anything is appended, because what is sequenced has to find room everywhere (decision
//! 0018). Guarantees: nothing here changes anything or walks over entries. Must not know: who appends, and who is held back.

use crate::disk::Disk;
use crate::durability::apply_to;
use crate::record::{HEADER_BYTES, padded};
use crate::store::{Store, encode};
use std::borrow::Borrow;
use weft_types::Entry;

/// Free segments that entries leave alone: for records without which nothing could be applied and freed.
pub(crate) const APPEND_LEAVES_SEGMENTS: u64 = 1;
/// Free segments that entries of other nodes' primaries leave alone besides, for those of this node's.
const OTHERS_LEAVE_SEGMENTS: u64 = 1;
/// In a ring of fewer segments that would be too much of it.
const SEGMENTS_TO_LEAVE_ANY: u64 = 8;

/// What the next checkpoint will do for the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckpointsFree {
    /// Its disk is full.
    Nothing,
    WhatIsCommitted,
}

impl<D: Disk> Store<D> {
    /// The whole journal.
    pub fn journal_bytes(&self) -> u64 {
        self.journal.total_bytes()
    }

    pub fn segment_bytes(&self) -> u64 {
        u64::from(self.journal.segment_bytes())
    }

    /// The most that entries can have of it: not what is kept for levelling, nor what appending leaves.
    pub fn journal_usable_bytes(&self) -> u64 {
        let kept = u64::from(self.config.retained_segments) + APPEND_LEAVES_SEGMENTS;
        self.journal_bytes().saturating_sub(kept * self.segment_bytes())
    }

    /// What [`Store::append`] takes now, as long as no entry has to leave the end of a segment empty.
    pub fn journal_room_bytes(&self) -> u64 {
        self.journal.room().saturating_sub(APPEND_LEAVES_SEGMENTS * self.segment_bytes())
    }

    fn others_leave_segments(&self) -> u64 {
        let ring = self.journal.total_bytes() / self.segment_bytes();
        APPEND_LEAVES_SEGMENTS + if ring < SEGMENTS_TO_LEAVE_ANY { 0 } else { OTHERS_LEAVE_SEGMENTS }
    }

    /// How many of these entries of another node's primary the journal takes, from the first on: now, or after the checkpoint
    /// that an append to a full journal waits for. By their headers: the data need not be there. That they follow the log is
    /// not looked at.
    pub fn journal_takes<E: Borrow<Entry>>(&self, entries: &[E], checkpoints: CheckpointsFree) -> usize {
        let at_most = entries.iter().map(|entry| longest_record(entry.borrow())).sum::<u64>();
        // Each segment that they begin may cost the end of the one before it.
        let leave = self.others_leave_segments();
        if self.journal.room() > 2 * at_most + (leave + 1) * self.segment_bytes() {
            return entries.len();
        }
        let sizes: Vec<u64> = entries.iter().map(|entry| record_bytes(entry.borrow())).collect();
        let fit_from = |first_live: u64| {
            let fits = |count: &usize| {
                let sizes = sizes[..*count].iter().copied();
                self.journal.fits_from(first_live, sizes, leave)
            };
            (1..=sizes.len()).take_while(fits).count()
        };
        let now = fit_from(self.journal.first_live());
        match checkpoints {
            CheckpointsFree::WhatIsCommitted if now < sizes.len() => {
                fit_from(self.wanted_first_live(|group| apply_to(group, &self.config)))
            }
            _ => now,
        }
    }
}

fn record_bytes(entry: &Entry) -> u64 {
    // What cannot be encoded does not fit.
    let body = encode(&entry.header).map_or(usize::MAX / 2, |body| body.len());
    padded((HEADER_BYTES + body + entry.header.effect.data_len()) as u64)
}

/// No less than `record_bytes`, without encoding anything: a hash of 32 bytes for each block, and the rest of a header.
fn longest_record(entry: &Entry) -> u64 {
    const REST_BYTES: usize = 512;
    let data = entry.header.effect.data_len();
    padded((HEADER_BYTES + REST_BYTES + data + data.div_ceil(weft_types::BLOCK_SIZE) * 40) as u64)
}
