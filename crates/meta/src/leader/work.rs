//! Background work that the leader hands out: deletions, sizes to collect after a fence, volumes to purge.

use super::events::{Debt, DebtKind, Facts, LeaderAction, Reclaimed};
use super::{Proposer, Topic};
use crate::command::Command;
use crate::mutants::{Mutant, planted};
use crate::records::{ReclaimItem, ReclaimWhat, SizeRecovery};
use std::collections::BTreeMap;
use weft_types::limits::{CUT_GRACE, MAX_PURGE_RECORDS, MAX_RECLAIMS_RUNNING, PURGE_PAUSE, WORK_RETRY};
use weft_types::map::VolumeState;
use weft_types::{BootTime, InodeNumber, ObjectId, TruncateGeneration, VolumeId};

type ReclaimKey = (VolumeId, ObjectId, TruncateGeneration);
type SizeKey = (VolumeId, InodeNumber, TruncateGeneration);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Begins at this time.
    Due(BootTime),
    Running,
    Finished,
    /// With the end that was collected.
    Collected(u64),
}

#[derive(Debug, Default)]
pub(super) struct Work {
    reclaims: BTreeMap<ReclaimKey, State>,
    sizes: BTreeMap<SizeKey, State>,
}

const fn key_of(item: &ReclaimItem) -> ReclaimKey {
    (item.volume, item.object, item.generation())
}

const fn size_key(recovery: &SizeRecovery) -> SizeKey {
    (recovery.volume, recovery.inode, recovery.generation)
}

/// Whether some session may still work on the contents as they were before this truncation: what it wrote late would
/// come back. (Decision 0013.)
fn is_owed(item: &ReclaimItem, facts: &Facts) -> bool {
    item.truncated_inode().is_some_and(|inode| {
        let of_item = |debt: &&Debt| (debt.volume, debt.inode) == (item.volume, inode);
        facts.debts.iter().filter(of_item).any(|debt| debt.kind == DebtKind::Acknowledgement)
    })
}

impl Work {
    pub fn sync(&mut self, facts: &Facts, now: BootTime) {
        let mut reclaims = BTreeMap::new();
        for item in &facts.reclaims {
            // A cut is its client's to carry out; the leader steps in when that takes long.
            let begin = match item.what {
                ReclaimWhat::Object | ReclaimWhat::Replaced { .. } => now,
                ReclaimWhat::Cut { .. } => now + CUT_GRACE,
            };
            let key = key_of(item);
            reclaims.insert(key, self.reclaims.get(&key).copied().unwrap_or(State::Due(begin)));
        }
        self.reclaims = reclaims;
        let mut sizes = BTreeMap::new();
        for recovery in &facts.size_recoveries {
            let key = size_key(recovery);
            sizes.insert(key, self.sizes.get(&key).copied().unwrap_or(State::Due(now)));
        }
        self.sizes = sizes;
    }

    pub fn reclaimed(&mut self, key: ReclaimKey, outcome: Reclaimed, now: BootTime) {
        if let Some(state) = self.reclaims.get_mut(&key) {
            *state = match outcome {
                Reclaimed::Finished => State::Finished,
                Reclaimed::Failed => State::Due(now + WORK_RETRY),
            };
        }
    }

    pub fn collected(&mut self, recovery: SizeRecovery, end_bytes: Option<u64>, now: BootTime) {
        if let Some(state) = self.sizes.get_mut(&size_key(&recovery)) {
            *state = end_bytes.map_or(State::Due(now + WORK_RETRY), State::Collected);
        }
    }

    pub fn run(&mut self, facts: &Facts, now: BootTime, propose: &mut Proposer<'_>) {
        self.run_reclaims(facts, now, propose);
        self.run_sizes(facts, now, propose);
        for volume in facts.map.volumes.iter().filter(|v| v.state == VolumeState::Deleting) {
            let command = Command::PurgeVolume { volume: volume.id, max_records: MAX_PURGE_RECORDS };
            propose.propose_every(PURGE_PAUSE, Topic::Purge(volume.id), command);
        }
    }

    fn run_reclaims(&mut self, facts: &Facts, now: BootTime, propose: &mut Proposer<'_>) {
        let mut running = self.reclaims.values().filter(|s| **s == State::Running).count();
        for item in &facts.reclaims {
            if is_owed(item, facts) && !planted(Mutant::CutBeforeAcknowledged) {
                continue;
            }
            let key = key_of(item);
            match self.reclaims.get_mut(&key) {
                Some(state @ State::Due(_)) if running < MAX_RECLAIMS_RUNNING => {
                    if matches!(*state, State::Due(at) if at <= now) {
                        *state = State::Running;
                        running += 1;
                        propose.act(LeaderAction::StartReclaim(*item));
                    }
                }
                Some(State::Finished) => {
                    let (volume, object, generation) = key;
                    let command = Command::ReclaimDone { volume, object, generation };
                    propose.propose(Topic::Reclaimed(volume, object, generation), command);
                }
                _ => {}
            }
        }
    }

    fn run_sizes(&mut self, facts: &Facts, now: BootTime, propose: &mut Proposer<'_>) {
        for recovery in &facts.size_recoveries {
            let Some(state) = self.sizes.get_mut(&size_key(recovery)) else { continue };
            match *state {
                State::Due(at) if at <= now => {
                    *state = State::Running;
                    propose.act(LeaderAction::RecoverSize(*recovery));
                }
                State::Collected(end_bytes) => {
                    let SizeRecovery { volume, inode, generation, .. } = *recovery;
                    let command = Command::SizeRecovered { volume, inode, generation, end_bytes };
                    propose.propose(Topic::Size(volume, inode, generation), command);
                }
                _ => {}
            }
        }
    }
}
