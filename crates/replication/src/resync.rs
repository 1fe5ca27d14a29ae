//! Resync (design 5.7): brings a syncing member's contents up to this replica's, chunk by chunk, while it takes part in
//! the entry stream, and has it promoted.
//!
//! Why a comparison needs no lock and a copy does: the target applies every entry of the stream. If its block is equal to
//! ours at some moment, it stays equal. If not, the copy must be what our block is at the copy's own place in the log, so
//! nothing may change the block between the read and that place.

use crate::actions::{Action, Report};
use crate::compare::{Difference, compare, runs_to_copy};
use crate::core::Context;
use crate::events::ReadOutcome;
use crate::history::last_common;
use crate::locks::{LockId, Scope};
use crate::mutants::Mutant;
use crate::peers::Link;
use crate::primary::{Primary, ReadPurpose};
use crate::repair::Then;
use crate::tuning::{RESYNC_COPY_BYTES, RESYNC_PARALLEL_CHUNKS, RESYNC_RETRY, RESYNC_STALL, RESYNC_WINDOW_BYTES};
use crate::view::RemovalMemory;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use weft_proto::admin::HealProgress;
use weft_proto::control::SetChange;
use weft_proto::replication::{
    BeginResync, ChunkDigest, ListScope, Listing, Message, RemovedChunks, ResyncLog, SyncWish,
};
use weft_types::map::MemberState;
use weft_types::{BLOCK_SIZE, BlockIndex, BlockRange, BootTime, ChunkId, DiskId, Effect, LogPosition, PgId, checksum};

/// One resync of one member. Made anew whenever the stream to it breaks.
pub(crate) struct Resync {
    pub target: DiskId,
    run: u64,
    began: BootTime,
    progress: BootTime,
    asked: BootTime,
    stage: Stage,
    /// Contents before this are complete on the target.
    complete_to: LogPosition,
    /// The journal gives the target everything after `complete_to`: nothing has to be compared.
    by_journal_alone: bool,
    /// What the target is asked to list.
    scope: ListScope,
    todo: BTreeSet<ChunkId>,
    active: BTreeMap<ChunkId, ChunkCopy>,
    /// Copies of chunks that were begun, to tell them apart.
    attempts: u64,
    total: u64,
    bytes_copied: u64,
    bytes_equal: u64,
    /// Copies sequenced and not yet on the target.
    sent: VecDeque<(LogPosition, usize)>,
    under_way_bytes: usize,
    allowance_bytes: u64,
    refilled: BootTime,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Stage {
    Joining,
    /// The target takes what the journal has, up to here.
    CatchingUp(LogPosition),
    Listing {
        page: Option<ChunkId>,
    },
    Copying,
    Dedupe {
        sent: bool,
    },
    Barrier(LogPosition),
    Promoting,
}

enum ChunkCopy {
    /// Asked for the target's hashes.
    Hashing {
        asked: BootTime,
    },
    Copying {
        attempt: u64,
        ranges: VecDeque<BlockRange>,
        reading: usize,
        last: LogPosition,
    },
}

/// A read for a copy. It may come back when its chunk is compared or copied anew, and is of no use then.
pub(crate) struct CopyRead {
    run: u64,
    chunk: ChunkId,
    attempt: u64,
    range: BlockRange,
    lock: Option<LockId>,
}

impl Primary {
    pub const fn resync_rate(&mut self, bytes_per_second: u64) {
        self.resync_rate = bytes_per_second;
    }

    /// Level-triggered: begins, goes on with, or gives up a resync.
    pub fn resync_work(&mut self, cx: &mut Context<'_>) {
        self.join_members(cx);
        let now = cx.clock.now;
        let Some(resync) = &mut self.resync else {
            self.resync_next(cx);
            return;
        };
        let target = resync.target;
        let asks_again = now.since(resync.asked) >= RESYNC_RETRY;
        let stalled = now.since(resync.progress) >= RESYNC_STALL && !cx.core.planted(Mutant::IgnoreStall);
        let Some(peer) = self.peers.iter_mut().find(|p| p.disk == target) else {
            self.resync = None;
            return;
        };
        let joining_too_long = matches!(peer.link, Link::Joining { since } if now.since(since) >= RESYNC_RETRY);
        if joining_too_long || (stalled && peer.candidate.is_none()) {
            peer.restart(now);
            self.resync = None;
            return;
        }
        let (acked, durable) = (peer.acked, peer.durable);
        resync.landed(acked, now);
        match resync.stage.clone() {
            Stage::CatchingUp(end) if acked >= end => self.resync_caught_up(cx),
            Stage::Listing { .. } if asks_again => self.ask_listing(cx),
            Stage::Dedupe { sent: true } if asks_again => resync.stage = Stage::Dedupe { sent: false },
            Stage::Barrier(barrier) => {
                if durable >= barrier || cx.core.planted(Mutant::PromoteBeforeBarrier) {
                    resync.stage = Stage::Promoting;
                    self.ask(cx, SetChange::Promote { disk: target });
                } else if asks_again {
                    resync.asked = now;
                    // What it synced it may have told in a report that was lost.
                    peer.sync_asked = LogPosition::ZERO;
                    peer.sync = SyncWish::Now;
                }
            }
            _ => {}
        }
    }

    /// Picks the next member that needs one.
    fn resync_next(&mut self, cx: &mut Context<'_>) {
        let now = cx.clock.now;
        let mut begin = None;
        let mut out = None;
        for (at, peer) in self.peers.iter_mut().enumerate().filter(|(_, p)| p.live) {
            match (peer.state, &peer.link) {
                (MemberState::Syncing, Link::Promised(_)) if peer.candidate.is_none() => begin = Some(at),
                // Joined by an earlier run that broke off, or by a promotion that was refused.
                (MemberState::Syncing, Link::Joined | Link::Apart | Link::Joining { .. })
                    if peer.candidate.is_none() =>
                {
                    peer.restart(now);
                }
                (state, _) if state.is_out() => out = Some(peer.disk),
                _ => {}
            }
        }
        if let Some(at) = begin {
            self.begin_resync(cx, at);
        } else if let Some(disk) = out {
            self.ask(cx, SetChange::BeginSync { disk });
        }
    }

    fn begin_resync(&mut self, cx: &mut Context<'_>, at: usize) {
        if cx.view.log_end() != self.appended {
            return;
        }
        self.next_run += 1;
        let (now, run, epoch) = (cx.clock.now, self.next_run, self.epoch);
        let peer = &mut self.peers[at];
        let Link::Promised(theirs) = &peer.link else { return };
        let history = cx.view.history();
        let common = last_common(&history, &theirs.history).min(theirs.end);
        // design 5.7: the smaller of what it was complete to and where the logs part.
        let of_theirs = theirs.complete_to.unwrap_or(theirs.end);
        let complete_to = if cx.core.planted(Mutant::StartAtTheirEnd) { of_theirs } else { of_theirs.min(common) };
        let cut_allowed = common == theirs.end || common >= theirs.committed;
        let (log, joins_at) = if common >= cx.view.log_start() && cut_allowed {
            (ResyncLog::CutAfter(common), common)
        } else {
            (ResyncLog::Restart { at: self.appended, history }, self.appended)
        };
        let begin = BeginResync { epoch, run, expect_end: theirs.end, complete_to, set_version: self.set_version, log };
        peer.link = Link::Joining { since: now };
        peer.cursor = joins_at;
        self.resync = Some(Resync {
            target: peer.disk,
            run,
            began: now,
            progress: now,
            asked: now,
            stage: Stage::Joining,
            complete_to,
            by_journal_alone: joins_at == complete_to,
            scope: ListScope::All,
            todo: BTreeSet::new(),
            active: BTreeMap::new(),
            attempts: 0,
            total: 0,
            bytes_copied: 0,
            bytes_equal: 0,
            sent: VecDeque::new(),
            under_way_bytes: 0,
            allowance_bytes: RESYNC_COPY_BYTES as u64,
            refilled: now,
        });
        cx.send(peer.disk, peer.incarnation, Message::BeginResync(Box::new(begin)));
    }

    /// The target has everything that the journal could give: list what may differ on either side.
    fn resync_caught_up(&mut self, cx: &mut Context<'_>) {
        let Some(resync) = &mut self.resync else { return };
        resync.progress = cx.clock.now;
        if resync.by_journal_alone {
            resync.stage = Stage::Dedupe { sent: false };
            return;
        }
        let changes = cx.view.chunks_changed_since(resync.complete_to);
        if changes.memory == RemovalMemory::Forgotten {
            resync.todo = cx.view.chunks().into_iter().collect();
            resync.scope = ListScope::All;
        } else {
            resync.todo = changes.chunks.into_iter().collect();
            resync.scope = ListScope::Since { position: resync.complete_to, removed: changes.removed };
        }
        resync.stage = Stage::Listing { page: None };
        self.ask_listing(cx);
    }

    fn ask_listing(&mut self, cx: &mut Context<'_>) {
        let epoch = self.epoch;
        let Some(resync) = &mut self.resync else { return };
        let Stage::Listing { page } = resync.stage else { return };
        resync.asked = cx.clock.now;
        let message = Message::ListChanged { epoch, run: resync.run, scope: resync.scope.clone(), page };
        let target = resync.target;
        self.tell(cx, target, message);
    }

    fn tell(&self, cx: &mut Context<'_>, to: DiskId, message: Message) {
        if let Some(peer) = self.peers.iter().find(|p| p.disk == to) {
            cx.send(peer.disk, peer.incarnation, message);
        }
    }

    pub fn on_resync_message(&mut self, cx: &mut Context<'_>, from: DiskId, message: Message) {
        let now = cx.clock.now;
        let this_run = |resync: &Resync, epoch, run| resync.target == from && resync.run == run && epoch == self.epoch;
        match message {
            Message::ResyncReady { epoch, run } => {
                let Some(resync) = self.resync.as_mut().filter(|r| this_run(r, epoch, run)) else { return };
                let Some(peer) = self.peers.iter_mut().find(|p| p.disk == from) else { return };
                if resync.stage == Stage::Joining {
                    peer.link = Link::Joined;
                    peer.progress = now;
                    resync.progress = now;
                    resync.stage = Stage::CatchingUp(self.appended);
                }
            }
            Message::Changed { epoch, run, chunks, removed, listing } => {
                let Some(resync) = self.resync.as_mut().filter(|r| this_run(r, epoch, run)) else { return };
                resync.progress = now;
                self.on_changed(cx, &chunks, &removed, listing);
            }
            Message::ChunkHashed { epoch, run, chunk, digest } => {
                let Some(resync) = self.resync.as_mut().filter(|r| this_run(r, epoch, run)) else { return };
                resync.progress = now;
                self.on_chunk_hashed(cx, chunk, digest.as_ref());
            }
            Message::DedupeTaken { epoch, run, taken } => {
                let Some(resync) = self.resync.as_mut().filter(|r| this_run(r, epoch, run)) else { return };
                if resync.stage == (Stage::Dedupe { sent: true }) {
                    resync.progress = now;
                    if taken {
                        self.choose_barrier(cx);
                    } else {
                        resync.stage = Stage::Dedupe { sent: false };
                    }
                }
            }
            _ => {}
        }
    }

    fn on_changed(&mut self, cx: &mut Context<'_>, chunks: &[ChunkId], removed: &[RemovedChunks], listing: Listing) {
        let Some(resync) = &mut self.resync else { return };
        let Stage::Listing { .. } = resync.stage else { return };
        if !cx.core.planted(Mutant::OneSidedDelta) {
            resync.todo.extend(chunks);
            if !removed.is_empty() {
                // The target dropped them; ours have to be copied.
                let gone = |c: &ChunkId| removed.iter().any(|r| r.object == c.object && c.index >= r.from);
                resync.todo.extend(cx.view.chunks().into_iter().filter(gone));
            }
            if listing == Listing::CompleteOfAll {
                resync.todo.extend(cx.view.chunks());
            }
        }
        if listing == Listing::More {
            resync.stage = Stage::Listing { page: chunks.last().copied() };
            self.ask_listing(cx);
            return;
        }
        resync.total = resync.todo.len() as u64;
        resync.stage = Stage::Copying;
        cx.report(Report::ResyncBegan { disk: resync.target, from: resync.complete_to, chunks: resync.total });
    }

    /// What of one chunk has to be copied.
    fn on_chunk_hashed(&mut self, cx: &mut Context<'_>, chunk: ChunkId, theirs: Option<&ChunkDigest>) {
        let Some(resync) = &mut self.resync else { return };
        if !matches!(resync.active.get(&chunk), Some(ChunkCopy::Hashing { .. })) {
            return;
        }
        let target = resync.target;
        let (difference, equal_blocks) = compare(cx.view.chunk_digest(chunk).as_ref(), theirs);
        resync.bytes_equal += equal_blocks * BLOCK_SIZE as u64;
        match difference {
            Difference::Unknown => {
                // Our own trailer does not verify. Ask again later: scrub may have repaired it.
                resync.active.insert(chunk, ChunkCopy::Hashing { asked: cx.clock.now });
            }
            Difference::Blocks(ranges) => resync.begin_copy(chunk, ranges, LogPosition::ZERO),
            Difference::DeleteThen(ranges) if ranges.is_empty() && cx.core.planted(Mutant::KeepAbsent) => {
                resync.begin_copy(chunk, ranges, LogPosition::ZERO);
            }
            Difference::DeleteThen(ranges) => {
                // What is deleted and what is copied must be the chunk as of one place in the log.
                let scope = Scope::Blocks(chunk, BlockRange::new(BlockIndex(0), u16::MAX));
                if self.locks.conflicts(scope) || self.window.touches(cx.view.log_end(), chunk.object) {
                    resync.active.remove(&chunk);
                    resync.todo.insert(chunk);
                    return;
                }
                let last = self.sequence_copy(cx, target, Effect::DeleteChunk { chunk }, Bytes::new());
                if let Some(resync) = &mut self.resync {
                    resync.begin_copy(chunk, ranges, last);
                }
            }
        }
    }

    /// Asks for hashes and reads what is to be copied, within the allowance. Runs with every batch, before it leaves.
    pub fn resync_pump(&mut self, cx: &mut Context<'_>) {
        let epoch = self.epoch;
        let rate = self.resync_rate;
        let Some(resync) = &mut self.resync else { return };
        let Some(peer) = self.peers.iter().find(|p| p.disk == resync.target) else { return };
        let now = cx.clock.now;
        let takes = peer.takes_live() || (peer.is_joined() && cx.core.planted(Mutant::CopyFromJournal));
        let live = takes && peer.cursor == cx.view.log_end();
        match resync.stage {
            Stage::Copying => {}
            Stage::Dedupe { sent: false } if live => {
                if cx.core.planted(Mutant::NoDedupeCopy) {
                    self.choose_barrier(cx);
                    return;
                }
                // Leaves before this batch's entries: the table is that of `at`.
                let (run, at, table) = (resync.run, cx.view.log_end(), cx.view.dedupe_table());
                resync.stage = Stage::Dedupe { sent: true };
                resync.asked = now;
                cx.send(peer.disk, peer.incarnation, Message::Dedupe { epoch, run, at, table });
                return;
            }
            _ => return,
        }
        if !live || (cx.core.planted(Mutant::CopyAwaitsWrites) && self.window.len() > 0) {
            return;
        }
        let Some(resync) = &mut self.resync else { return };
        resync.refill(now, rate);
        for (chunk, copy) in &mut resync.active {
            if let ChunkCopy::Hashing { asked } = copy
                && now.since(*asked) >= RESYNC_RETRY
            {
                *asked = now;
                let message = Message::HashChunk { epoch, run: resync.run, chunk: *chunk };
                cx.send(peer.disk, peer.incarnation, message);
            }
        }
        while resync.active.len() < RESYNC_PARALLEL_CHUNKS {
            let Some(chunk) = resync.todo.pop_first() else { break };
            resync.active.insert(chunk, ChunkCopy::Hashing { asked: now });
            cx.send(peer.disk, peer.incarnation, Message::HashChunk { epoch, run: resync.run, chunk });
        }
        if resync.active.is_empty() {
            resync.stage = Stage::Dedupe { sent: false };
            self.recheck = true;
            return;
        }
        self.read_copies(cx);
    }

    fn read_copies(&mut self, cx: &mut Context<'_>) {
        let lock_free = cx.core.planted(Mutant::CopyWithoutLock);
        let Some(resync) = &mut self.resync else { return };
        let Some(peer) = self.peers.iter().find(|p| p.disk == resync.target) else { return };
        // Half of what the target takes: a copy that finds no place beside ordinary entries has to be made again.
        let window = RESYNC_WINDOW_BYTES.min(peer.stream_bytes() / 2);
        let mut reads = Vec::new();
        for (chunk, copy) in &mut resync.active {
            let ChunkCopy::Copying { attempt, ranges, reading, .. } = copy else { continue };
            while let Some(range) = ranges.front().copied() {
                let bytes = range.byte_len();
                let full = resync.under_way_bytes + bytes > window && resync.under_way_bytes > 0;
                let scope = Scope::Blocks(*chunk, range);
                if full || resync.allowance_bytes < bytes as u64 || (!lock_free && self.locks.conflicts(scope)) {
                    break;
                }
                ranges.pop_front();
                *reading += 1;
                resync.under_way_bytes += bytes;
                resync.allowance_bytes -= bytes as u64;
                let lock = (!lock_free).then(|| self.locks.take(scope));
                reads.push(CopyRead { run: resync.run, chunk: *chunk, attempt: *attempt, range, lock });
            }
        }
        for read in reads {
            let ticket = cx.read_ticket();
            let (chunk, range) = (read.chunk, read.range);
            self.purposes.insert(ticket, ReadPurpose::Copy(read));
            self.read_store(cx, Action::ReadBlocks { ticket, chunk, range });
        }
    }

    /// The blocks are in hand and locked: give the copy its place in the log.
    pub fn on_copy_read(&mut self, cx: &mut Context<'_>, read: &CopyRead, outcome: ReadOutcome) {
        let scope = Scope::Blocks(read.chunk, read.range);
        if let Some(lock) = read.lock {
            self.locks.release(scope, lock);
            self.recheck = true;
        }
        let any_attempt = cx.core.planted(Mutant::CountLateReads);
        let Some(resync) = self.resync.as_mut().filter(|r| r.run == read.run) else { return };
        resync.under_way_bytes -= read.range.byte_len();
        let (ranges, reading) = match resync.active.get_mut(&read.chunk) {
            Some(ChunkCopy::Copying { attempt, ranges, reading, .. }) if *attempt == read.attempt || any_attempt => {
                (ranges, reading)
            }
            // The copies were lost in the meantime; what this one was for is found again by comparing.
            _ => return,
        };
        *reading -= 1;
        let bytes = match outcome {
            ReadOutcome::Done { bytes, bad } if bad.is_empty() && bytes.len() == read.range.byte_len() => bytes,
            ReadOutcome::Done { bad, .. } => {
                ranges.push_back(read.range);
                if let Some(bad) = bad.first() {
                    self.repair(cx, read.chunk, *bad, Then::Nothing);
                }
                return;
            }
            ReadOutcome::Failed => {
                ranges.push_back(read.range);
                return;
            }
        };
        // Nothing of these blocks is in the open batch (they were locked), so the store's presence is that of now.
        let Some(digest) = cx.view.chunk_digest(read.chunk) else {
            resync.active.remove(&read.chunk);
            resync.todo.insert(read.chunk);
            return;
        };
        self.sequence_copies(cx, read, &bytes, &digest);
    }

    fn sequence_copies(&mut self, cx: &mut Context<'_>, read: &CopyRead, bytes: &Bytes, digest: &ChunkDigest) {
        let Some(target) = self.resync.as_ref().map(|r| r.target) else { return };
        let volume = cx.core.config.pg.volume;
        let mut last = LogPosition::ZERO;
        let mut sent_bytes = 0;
        for (range, present) in runs_to_copy(digest, read.range) {
            let effect = if present {
                let start = usize::from(range.first.0 - read.range.first.0) * BLOCK_SIZE;
                let data = bytes.slice(start..start + range.byte_len());
                let hashes = checksum::block_hashes(volume, read.chunk, range, &data);
                let generation = digest.generation;
                let end_bytes = digest.end_bytes;
                sent_bytes += data.len();
                let effect = Effect::Write { chunk: read.chunk, range, hashes, end_bytes, generation };
                last = self.sequence_copy(cx, target, effect, data);
                continue;
            } else {
                Effect::Discard { chunk: read.chunk, range, generation: digest.generation }
            };
            last = self.sequence_copy(cx, target, effect, Bytes::new());
        }
        let Some(resync) = &mut self.resync else { return };
        resync.bytes_copied += sent_bytes as u64;
        resync.under_way_bytes += sent_bytes;
        resync.sent.push_back((last, sent_bytes));
        if let Some(ChunkCopy::Copying { last: chunk_last, .. }) = resync.active.get_mut(&read.chunk) {
            *chunk_last = last;
        }
    }

    /// design 5.7: from before the barrier's number is chosen, the candidate counts for everything.
    fn choose_barrier(&mut self, cx: &mut Context<'_>) {
        let set_version = self.set_version;
        let Some(resync) = &mut self.resync else { return };
        let Some(peer) = self.peers.iter_mut().find(|p| p.disk == resync.target) else { return };
        peer.candidate = Some(set_version);
        peer.progress = cx.clock.now;
        peer.sync = SyncWish::Now;
        resync.asked = cx.clock.now;
        resync.stage = Stage::Joining;
        let barrier = self.sequence(cx, Effect::Nothing, Bytes::new(), None, None);
        if let Some(resync) = &mut self.resync {
            resync.stage = Stage::Barrier(barrier);
        }
    }

    /// A newer map: the promotion is known, or was refused, or the member is gone.
    pub fn resync_on_map(&mut self, cx: &mut Context<'_>) {
        let Some(resync) = &self.resync else { return };
        let (target, copied) = (resync.target, resync.bytes_copied);
        let waits = matches!(resync.stage, Stage::Barrier(_) | Stage::Promoting);
        let Some(peer) = self.peers.iter().find(|p| p.disk == target) else {
            self.resync = None;
            return;
        };
        if peer.is_in_sync() {
            cx.report(Report::ResyncComplete { disk: target, bytes_copied: copied });
            self.resync = None;
        } else if peer.state.is_out() || !peer.live || matches!(peer.link, Link::Preparing { .. }) {
            self.resync = None;
        } else if waits && peer.candidate.is_none() {
            // The set changed under the request: choose a new barrier in the new set.
            self.choose_barrier(cx);
        }
    }

    /// The stream to a member broke or went back: copies under way may be lost; they are compared again.
    pub fn resync_stream_broke(&mut self, disk: DiskId) {
        let Some(resync) = self.resync.as_mut().filter(|r| r.target == disk) else { return };
        let Some(peer) = self.peers.iter_mut().find(|p| p.disk == disk) else { return };
        if peer.is_joined() {
            return resync.copies_lost();
        }
        if matches!(resync.stage, Stage::Barrier(_)) {
            // Its promotion was never asked for, so nobody else can believe in it.
            peer.candidate = None;
        }
        self.resync = None;
    }

    /// A copy leaves with its batch or never: the journal here has nothing in its place, and that is what a target gets that
    /// takes the batch later. Whatever was being copied is compared again then.
    pub fn resync_copies_lost(&mut self, target: DiskId) {
        if let Some(resync) = self.resync.as_mut().filter(|r| r.target == target) {
            resync.copies_lost();
        }
    }

    pub fn heal_progress(&self, pg: PgId, now: BootTime) -> Option<HealProgress> {
        let resync = self.resync.as_ref()?;
        let open = (resync.todo.len() + resync.active.len()) as u64;
        Some(HealProgress {
            pg,
            target: resync.target,
            chunks_total: resync.total.max(open),
            chunks_done: resync.total.saturating_sub(open),
            bytes_copied: resync.bytes_copied,
            bytes_equal: resync.bytes_equal,
            running_ms: u64::try_from(now.since(resync.began).as_millis()).unwrap_or(u64::MAX),
        })
    }
}

impl Resync {
    /// `last` is where in the log the chunk's last copy so far lies.
    fn begin_copy(&mut self, chunk: ChunkId, ranges: VecDeque<BlockRange>, last: LogPosition) {
        self.attempts += 1;
        self.active.insert(chunk, ChunkCopy::Copying { attempt: self.attempts, ranges, reading: 0, last });
    }

    fn copies_lost(&mut self) {
        let lost: Vec<ChunkId> = self.active.keys().copied().collect();
        self.todo.extend(lost);
        self.active.clear();
        let landed: usize = self.sent.drain(..).map(|(_, bytes)| bytes).sum();
        self.under_way_bytes -= landed;
    }

    /// The target stands at `acked`: what is finished?
    fn landed(&mut self, acked: LogPosition, now: BootTime) {
        while self.sent.front().is_some_and(|(last, _)| *last <= acked) {
            self.under_way_bytes -= self.sent.pop_front().map_or(0, |(_, bytes)| bytes);
            self.progress = now;
        }
        let before = self.active.len();
        self.active.retain(|_, copy| match copy {
            ChunkCopy::Hashing { .. } => true,
            ChunkCopy::Copying { ranges, reading, last, .. } => !ranges.is_empty() || *reading > 0 || *last > acked,
        });
        if self.active.len() < before {
            self.progress = now;
        }
    }

    /// A bucket that fills at the rate and holds a quarter of a second, but always at least one copy.
    fn refill(&mut self, now: BootTime, bytes_per_second: u64) {
        let elapsed = now.since(self.refilled).as_micros().min(1_000_000) as u64;
        let gained = bytes_per_second.saturating_mul(elapsed) / 1_000_000;
        if gained > 0 {
            self.refilled = now;
            let most = (bytes_per_second / 4).max(RESYNC_COPY_BYTES as u64);
            self.allowance_bytes = (self.allowance_bytes + gained).min(most);
        }
        if self.allowance_bytes < RESYNC_COPY_BYTES as u64 {
            // Waiting for the pace is no stall.
            self.progress = self.progress.max(now);
        }
    }
}
