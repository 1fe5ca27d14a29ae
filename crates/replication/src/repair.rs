//! Read repair (design 6): a block that does not verify here is taken from a level member that stands at least where this
//! replica's readers stand, under the block's lock, checked against the own trailer's hash where that is intact. Until the lock is
//! there the block may be written, and what was read of it is no longer what it has to be: so it is read again under the lock.

use crate::actions::{Action, Report};
use crate::core::Context;
use crate::events::{BadBlock, ReadOutcome};
use crate::locks::{LockId, Scope};
use crate::merge::Edge;
use crate::mutants::Mutant;
use crate::primary::{Primary, ReadPurpose};
use crate::tuning::REPAIR_TIMEOUT;
use crate::withdrawal::unreadable;
use bytes::Bytes;
use std::collections::BTreeSet;
use weft_proto::replication::Message;
use weft_types::{BLOCK_SIZE, BlockHash, BlockRange, BootTime, ChunkId, DataError, DiskId, block_hash};

/// What goes on when the block is good again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Then {
    Read(u64),
    Merge { merge: u64, edge: Edge },
    Nothing,
}

/// When the block was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    BeforeTheLock,
    /// It is being read again.
    Looking,
    UnderTheLock,
}

pub(crate) struct Repair {
    chunk: ChunkId,
    bad: BadBlock,
    then: Then,
    /// Not held when a merge holds the block already.
    lock: Option<LockId>,
    seen: Seen,
    asked: Option<(DiskId, BootTime)>,
    tried: BTreeSet<DiskId>,
}

impl Primary {
    pub fn repair(&mut self, cx: &mut Context<'_>, chunk: ChunkId, bad: BadBlock, then: Then) {
        let id = self.id();
        // A merge has held its lock since before it read.
        let locked = matches!(then, Then::Merge { .. }) || cx.core.planted(Mutant::RepairAsSeen);
        let seen = if locked { Seen::UnderTheLock } else { Seen::BeforeTheLock };
        let repair = Repair { chunk, bad, then, lock: None, seen, asked: None, tried: BTreeSet::new() };
        self.repairs.insert(id, repair);
        self.repair_on(cx, id);
    }

    /// Asks the next level member, once nothing is under way for the block.
    fn repair_on(&mut self, cx: &mut Context<'_>, id: u64) {
        let Some(repair) = self.repairs.get_mut(&id) else { return };
        let range = BlockRange::new(repair.bad.block, 1);
        let scope = Scope::Blocks(repair.chunk, range);
        if repair.lock.is_none() && !matches!(repair.then, Then::Merge { .. }) {
            if self.locks.conflicts(scope) {
                return;
            }
            repair.lock = Some(self.locks.take(scope));
        }
        if self.window.last_conflict(scope, self.readable).is_some() {
            return;
        }
        match repair.seen {
            Seen::UnderTheLock => {}
            Seen::Looking => return,
            Seen::BeforeTheLock => {
                repair.seen = Seen::Looking;
                let (chunk, ticket) = (repair.chunk, cx.read_ticket());
                self.purposes.insert(ticket, ReadPurpose::Repair(id));
                return self.read_store(cx, Action::ReadBlocks { ticket, chunk, range });
            }
        }
        let at_least = self.readable;
        let next = self
            .peers
            .iter()
            .filter(|p| cx.core.planted(Mutant::RepairFromAnybody) || (p.is_level() && p.acked >= at_least))
            .find(|p| p.is_joined() && !repair.tried.contains(&p.disk));
        let Some(peer) = next else {
            let (chunk, block) = (repair.chunk, repair.bad.block);
            let error = unreadable(cx);
            if error == DataError::Corrupt {
                cx.report(Report::Unrepairable { chunk, block });
            }
            self.end_repair(cx, id, Some(error));
            return;
        };
        repair.tried.insert(peer.disk);
        repair.asked = Some((peer.disk, cx.clock.now));
        let message = Message::FetchBlocks { epoch: self.epoch, repair: id, chunk: repair.chunk, range, at_least };
        cx.send(peer.disk, peer.incarnation, message);
    }

    /// What lies there under the lock.
    pub fn on_repair_read(&mut self, cx: &mut Context<'_>, id: u64, outcome: ReadOutcome) {
        let Some(repair) = self.repairs.get_mut(&id).filter(|repair| repair.seen == Seen::Looking) else { return };
        match outcome {
            ReadOutcome::Done { bad, .. } => match bad.into_iter().next() {
                Some(bad) => {
                    (repair.bad, repair.seen) = (bad, Seen::UnderTheLock);
                    self.repair_on(cx, id);
                }
                // It was written meanwhile.
                None => self.end_repair(cx, id, None),
            },
            ReadOutcome::Failed => self.end_repair(cx, id, Some(DataError::DiskFailed)),
        }
    }

    pub fn on_fetched_blocks(
        &mut self,
        cx: &mut Context<'_>,
        from: DiskId,
        id: u64,
        hashes: &[BlockHash],
        bytes: &Bytes,
    ) {
        let Some(repair) = self.repairs.get(&id) else { return };
        if repair.asked.is_none_or(|(disk, _)| disk != from) {
            return;
        }
        let (chunk, block) = (repair.chunk, repair.bad.block);
        let good = bytes.len() == BLOCK_SIZE && hashes.len() == 1 && {
            let hash = block_hash(cx.core.config.pg.volume, chunk, block, bytes);
            let expected = repair.bad.expected.filter(|_| !cx.core.planted(Mutant::RepairUnchecked));
            hash == hashes[0] && expected.is_none_or(|expected| expected == hash)
        };
        if !good {
            self.repair_on(cx, id);
            return;
        }
        cx.act(Action::RepairBlock { chunk, block, hash: hashes[0], bytes: bytes.clone() });
        cx.report(Report::Repaired { chunk, block, from });
        self.end_repair(cx, id, None);
    }

    fn end_repair(&mut self, cx: &mut Context<'_>, id: u64, error: Option<DataError>) {
        let Some(repair) = self.repairs.remove(&id) else { return };
        if let Some(lock) = repair.lock {
            self.locks.release(Scope::Blocks(repair.chunk, BlockRange::new(repair.bad.block, 1)), lock);
            self.recheck = true;
        }
        match (repair.then, error) {
            (Then::Read(read), None) => self.start_read(cx, read),
            (Then::Read(read), Some(error)) => self.fail_read(cx, read, error),
            (Then::Merge { merge, edge }, None) => self.read_edge(cx, merge, edge),
            (Then::Merge { merge, .. }, Some(error)) => self.fail_merge(cx, merge, error),
            (Then::Nothing, _) => {}
        }
    }

    pub fn repair_tick(&mut self, cx: &mut Context<'_>) {
        let now = cx.clock.now;
        let stale: Vec<u64> = self
            .repairs
            .iter()
            .filter(|(_, r)| r.asked.is_none_or(|(_, at)| now.since(at) >= REPAIR_TIMEOUT))
            .map(|(id, _)| *id)
            .collect();
        for id in stale {
            self.repair_on(cx, id);
        }
    }
}
