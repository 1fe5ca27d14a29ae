//! A member that does not lead: promises, appends what the primary sends in order, reports how far it is, and answers
//! the questions of peering and resync.

use crate::actions::{Action, Report};
use crate::core::Context;
use crate::events::{ReadOutcome, ReadTicket};
use crate::mutants::Mutant;
use crate::peers::ENTRY_COST_BYTES;
use crate::tuning::{APPEND_PART_BYTES, MAX_LISTED_CHUNKS, SETTLE_BELOW_BYTES};
use crate::view::{LogUnavailable, RemovalMemory};
use crate::withdrawal::{needs_copying, withdraws};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_proto::replication::{
    Append, Appended, BeginResync, Envelope, ListScope, Listing, Message, Promised, Resend, ResyncLog, SyncWish,
};
use weft_types::limits::{MAX_APPEND_ENTRIES, MAX_FRAME_PAYLOAD_BYTES};
use weft_types::{
    BlockRange, ChunkId, DiskId, Effect, Entry, Epoch, Incarnation, LogPosition, Member, PgRecord, SetVersion,
    VolumeId, checksum,
};

/// Who leads us, as far as this process has been told by its primary.
struct Leader {
    epoch: Epoch,
    disk: DiskId,
    incarnation: Incarnation,
    handshake: u64,
    /// The promise of this epoch is durable and was given.
    given: bool,
    stream: Stream,
    /// We take part as a resync's target that nobody believes in yet, so our log is nobody's: what it holds may be settled
    /// here (decision 0021). Over with the dedupe table, behind which we are a candidate.
    settles: bool,
    /// The first entry that we had no room for, without its data. Until it finds room nothing after it is asked for.
    declined: Option<Arc<Entry>>,
}

impl Leader {
    /// The stream begins anew.
    fn part(&mut self) {
        self.stream = Stream::Apart;
        self.settles = false;
        self.declined = None;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    /// Our log may differ from the primary's: nothing is appended.
    Apart,
    /// Our log is a prefix of the primary's.
    Joined,
}

/// An answer that waits until what it depends on is written down.
enum AfterSave {
    Promise { handshake: u64 },
    ResyncReady { epoch: Epoch, run: u64 },
}

/// Blocks being read for a member that repairs.
struct BlocksAsked {
    to: DiskId,
    to_incarnation: Incarnation,
    epoch: Epoch,
    repair: u64,
    chunk: ChunkId,
    range: BlockRange,
}

#[derive(Default)]
pub(crate) struct Backup {
    leader: Option<Leader>,
    after_save: Vec<AfterSave>,
    /// Set when the primary is owed a report at the end of the batch.
    report: Option<Resend>,
    sync: SyncWish,
    /// Set of the last resync that was begun here: only a later one can call us complete.
    syncing_since: SetVersion,
    reads: BTreeMap<ReadTicket, BlocksAsked>,
}

impl Backup {
    /// The map may say that a resync was completed (design 5.7).
    pub fn on_map(&mut self, cx: &mut Context<'_>, record: &PgRecord) {
        let config = cx.core.config;
        let promoted =
            record.member(config.disk).is_some_and(|m| m.is_in_sync() && m.incarnation == config.incarnation)
                && record.set_version > self.syncing_since;
        if promoted && cx.core.saved.complete_to.is_some() {
            cx.core.saved.complete_to = None;
            cx.core.saved.loss_generation = record.loss_generation;
            cx.save();
        }
    }

    pub fn on_durable(&mut self) {
        if self.joined().is_some() {
            self.report.get_or_insert(Resend::No);
        }
    }

    pub fn on_state_saved(&mut self, cx: &mut Context<'_>) {
        if !cx.core.state_is_durable() {
            return;
        }
        for answer in std::mem::take(&mut self.after_save) {
            match answer {
                AfterSave::Promise { handshake } => self.promise(cx, handshake),
                AfterSave::ResyncReady { epoch, run } => {
                    if let Some(leader) = self.leader.as_mut().filter(|l| l.epoch == epoch) {
                        leader.stream = Stream::Joined;
                        leader.settles = true;
                        cx.send(leader.disk, leader.incarnation, Message::ResyncReady { epoch, run });
                        self.report.get_or_insert(Resend::No);
                    }
                }
            }
        }
    }

    /// One report and one sync for all messages of the batch.
    pub fn end_batch(&mut self, cx: &mut Context<'_>) {
        if std::mem::take(&mut self.sync) == SyncWish::Now && cx.core.durable < cx.core.log_end {
            cx.act(Action::RequestSync);
        }
        let Some(resend) = self.report.take() else { return };
        let Some(leader) = &self.leader else { return };
        let report = Appended {
            epoch: leader.epoch,
            end: cx.core.log_end,
            durable: cx.core.durable.min(cx.core.log_end),
            credits_bytes: cx.view.credits_bytes(),
            journal_room_bytes: cx.view.journal_room_bytes(),
            resend,
        };
        cx.send(leader.disk, leader.incarnation, Message::Appended(report));
    }

    /// Who leads hears of a loss when there is nothing to write, too.
    pub fn on_tick(&mut self, cx: &mut Context<'_>) {
        if !withdraws(cx) {
            return;
        }
        let Some(map) = &cx.core.map else { return };
        let (epoch, primary) = (map.record.epoch, map.record.primary_member().copied());
        if let Some(primary) = primary.filter(|primary| primary.disk != cx.core.config.disk) {
            say_withdrawn(cx, primary.disk, primary.incarnation, epoch);
        }
    }

    pub fn on_message(&mut self, cx: &mut Context<'_>, envelope: Envelope) {
        let Envelope { from, from_incarnation, message, .. } = envelope;
        let Some(epoch) = epoch_of_primary(&message) else { return };
        let old = epoch < cx.core.saved.promised;
        if !old && withdraws(cx) {
            say_withdrawn(cx, from, from_incarnation, epoch);
            return;
        }
        if let Message::Prepare { epoch, handshake } = message {
            self.on_prepare(cx, from, from_incarnation, epoch, handshake);
            return;
        }
        // design 5.2: nothing of an older epoch, whatever the connection it waited in.
        if old && !(cx.core.planted(Mutant::SkipEpochCheck) && matches!(message, Message::Append(_))) {
            let promised = cx.core.saved.promised;
            cx.send(from, from_incarnation, Message::Deposed { promised });
            return;
        }
        let led = self
            .leader
            .as_ref()
            .is_some_and(|l| l.epoch == epoch && l.disk == from && l.incarnation == from_incarnation && l.given);
        if !led && !old {
            self.ask_for_prepare(cx, from, from_incarnation, epoch);
            return;
        }
        match message {
            Message::Append(append) => self.on_append(cx, &append, from),
            Message::Level { expect_end, cut_after, .. } => self.on_level(cx, expect_end, cut_after),
            Message::Sync { .. } => {
                self.sync = SyncWish::Now;
                self.report.get_or_insert(Resend::No);
            }
            Message::Fetch { after, .. } => fetch(cx, from, from_incarnation, epoch, after),
            Message::BeginResync(begin) => self.on_begin_resync(cx, *begin),
            Message::FetchBlocks { repair, chunk, range, at_least, .. } => {
                let asked = BlocksAsked { to: from, to_incarnation: from_incarnation, epoch, repair, chunk, range };
                self.on_fetch_blocks(cx, asked, at_least);
            }
            other => self.on_resync_question(cx, from, from_incarnation, other),
        }
    }

    fn joined(&self) -> Option<&Leader> {
        self.leader.as_ref().filter(|l| l.stream == Stream::Joined)
    }

    /// Promises are durable before they are given (design 5.2).
    fn on_prepare(
        &mut self,
        cx: &mut Context<'_>,
        from: DiskId,
        incarnation: Incarnation,
        epoch: Epoch,
        handshake: u64,
    ) {
        let promised = cx.core.saved.promised;
        if epoch < promised {
            cx.send(from, incarnation, Message::Deposed { promised });
            return;
        }
        if let Some(leader) = self.leader.as_mut().filter(|l| l.epoch == epoch) {
            if leader.disk != from || leader.incarnation != incarnation || handshake < leader.handshake {
                return;
            }
            if handshake > leader.handshake {
                leader.handshake = handshake;
                leader.part();
            }
        } else {
            self.leader = Some(Leader {
                epoch,
                disk: from,
                incarnation,
                handshake,
                given: false,
                stream: Stream::Apart,
                settles: false,
                declined: None,
            });
            self.report = None;
        }
        if epoch > promised {
            cx.core.saved.promised = epoch;
            cx.save();
        }
        if cx.core.state_is_durable() || cx.core.planted(Mutant::PromiseInMemory) {
            self.promise(cx, handshake);
        } else {
            self.after_save.push(AfterSave::Promise { handshake });
        }
    }

    fn promise(&mut self, cx: &mut Context<'_>, handshake: u64) {
        let Some(leader) = self.leader.as_mut().filter(|l| l.handshake == handshake) else { return };
        leader.given = true;
        let promised = Promised {
            epoch: leader.epoch,
            handshake,
            end: cx.core.log_end,
            start: cx.view.log_start(),
            committed: cx.view.committed(),
            durable: cx.core.durable.min(cx.core.log_end),
            history: cx.view.history(),
            complete_to: complete_to(cx),
            credits_bytes: cx.view.credits_bytes(),
            journal_room_bytes: cx.view.journal_room_bytes(),
        };
        cx.send(leader.disk, leader.incarnation, Message::Promised(Box::new(promised)));
    }

    /// The sender leads an epoch that we have not promised in this run.
    fn ask_for_prepare(&self, cx: &mut Context<'_>, to: DiskId, to_incarnation: Incarnation, epoch: Epoch) {
        let end = cx.core.log_end;
        let report = Appended {
            epoch,
            end,
            durable: LogPosition::ZERO,
            credits_bytes: 0,
            journal_room_bytes: 0,
            resend: Resend::Prepare,
        };
        cx.send(to, to_incarnation, Message::Appended(report));
    }

    fn on_level(&mut self, cx: &mut Context<'_>, expect_end: LogPosition, cut_after: LogPosition) {
        let Some(leader) = &mut self.leader else { return };
        if cx.core.log_end != expect_end {
            // A late copy, or entries of this epoch arrived since: cutting now could drop what we acknowledged.
            let resend = if leader.stream == Stream::Joined { Resend::FromEnd } else { Resend::Prepare };
            self.report = Some(resend);
            return;
        }
        if cut_after < expect_end {
            if cut_after < cx.view.committed() {
                let (epoch, end) = (leader.epoch, cx.core.log_end);
                cx.send(leader.disk, leader.incarnation, Message::CannotLevel { epoch, end });
                return;
            }
            cut(cx, cut_after);
        }
        leader.stream = Stream::Joined;
        self.report.get_or_insert(Resend::No);
    }

    fn on_append(&mut self, cx: &mut Context<'_>, append: &Append, from: DiskId) {
        if self.joined().is_none() && !cx.core.planted(Mutant::SkipEpochCheck) {
            self.report = Some(Resend::Prepare);
            return;
        }
        let had = append.entries.partition_point(|e| e.header.position.sequence <= cx.core.log_end.sequence);
        let new = &append.entries[had..];
        let (takes, mut resend) = self.takes(cx, new);
        let (mut part, mut part_bytes, mut taken_bytes) = (Vec::with_capacity(new.len()), 0, 0);
        for (at, entry) in new.iter().enumerate() {
            let header = &entry.header;
            if at >= takes {
                // No progress is told, so we leave the set when it takes long (design 5.3).
                self.decline(entry);
                resend = Resend::No;
                break;
            }
            // design 5.2: contiguous, or not at all.
            if header.previous != cx.core.log_end && !cx.core.planted(Mutant::AcceptGap) {
                resend = Resend::FromEnd;
                break;
            }
            if !verifies(cx.core.config.pg.volume, entry) && !cx.core.planted(Mutant::UnverifiedAppend) {
                cx.report(Report::DamagedOnTheWay { from });
                resend = Resend::FromEnd;
                break;
            }
            cx.core.log_end = header.position;
            resend = Resend::No;
            part.push(Arc::clone(entry));
            part_bytes += entry.data.len() + ENTRY_COST_BYTES;
            if part_bytes >= APPEND_PART_BYTES {
                cx.act(Action::Append(std::mem::take(&mut part)));
                taken_bytes += part_bytes;
                part_bytes = 0;
                self.commit(cx, append.committed, taken_bytes);
            }
        }
        if !part.is_empty() {
            cx.act(Action::Append(part));
        }
        self.commit(cx, append.committed, taken_bytes + part_bytes);
        if append.sync == SyncWish::Now {
            self.sync = SyncWish::Now;
        }
        if resend != Resend::No || self.report.is_none() {
            self.report = Some(resend);
        }
    }

    /// How many of these entries are taken, and what is asked of the primary when none of them follows our log.
    ///
    /// A journal that is full of what no checkpoint may free yet, or whose disk is full too, would refuse an append, which costs
    /// the replica its place: such entries are left to be sent again (decision 0021).
    fn takes(&mut self, cx: &Context<'_>, new: &[Arc<Entry>]) -> (usize, Resend) {
        let any = cx.core.planted(Mutant::TakeIntoFullJournal);
        let fit = |entries: &[Arc<Entry>]| if any { entries.len() } else { cx.view.journal_takes(entries) };
        let Some(leader) = &mut self.leader else { return (fit(new), Resend::No) };
        match leader.declined.take() {
            None => (fit(new), Resend::No),
            Some(first) if fit(std::slice::from_ref(&first)) == 0 => {
                leader.declined = Some(first);
                (0, Resend::No)
            }
            // There is room: we want what we declined.
            Some(_) => (fit(new), Resend::FromEnd),
        }
    }

    fn decline(&mut self, entry: &Entry) {
        if let Some(leader) = &mut self.leader {
            let without_data = || Arc::new(Entry { header: entry.header.clone(), data: Bytes::new() });
            leader.declined.get_or_insert_with(without_data);
        }
    }

    /// Tells the store what is never cut again.
    ///
    /// A resync's target that is short of room in its journal settles what it holds by itself. Its log is nobody's: should
    /// another primary not have these entries, the log is begun anew, and what they changed is compared (decision 0021).
    fn commit(&self, cx: &mut Context<'_>, committed: LogPosition, taken_bytes: usize) {
        let settles = cx.core.saved.complete_to.is_some()
            && self.joined().is_some_and(|leader| leader.settles)
            && cx.view.journal_room_bytes() < SETTLE_BELOW_BYTES + taken_bytes as u64
            && !cx.core.planted(Mutant::CopiesAwaitCommitment);
        let end = cx.core.log_end;
        cx.set_committed(if settles { end } else { committed.min(end) });
    }

    /// design 5.7: what is missing is remembered durably before the first entry after the gap is taken.
    fn on_begin_resync(&mut self, cx: &mut Context<'_>, begin: BeginResync) {
        let Some(leader) = &self.leader else { return };
        if cx.core.log_end != begin.expect_end || leader.stream == Stream::Joined {
            self.report = Some(Resend::Prepare);
            return;
        }
        self.syncing_since = self.syncing_since.max(begin.set_version);
        let complete_to = cx.core.saved.complete_to.map_or(begin.complete_to, |p| p.min(begin.complete_to));
        if cx.core.saved.complete_to != Some(complete_to) {
            cx.core.saved.complete_to = Some(complete_to);
            cx.save();
        }
        match begin.log {
            ResyncLog::CutAfter(after) if after == cx.core.log_end => {}
            ResyncLog::CutAfter(after) if after >= cx.view.committed() => cut(cx, after),
            ResyncLog::CutAfter(_) => {
                let (epoch, end) = (leader.epoch, cx.core.log_end);
                cx.send(leader.disk, leader.incarnation, Message::CannotLevel { epoch, end });
                return;
            }
            ResyncLog::Restart { at, history } => {
                cx.act(Action::ResetLog { at, history });
                cx.core.log_end = at;
                cx.core.committed = cx.core.committed.min(at);
                cx.core.durable = cx.core.durable.min(at);
            }
        }
        self.after_save.push(AfterSave::ResyncReady { epoch: begin.epoch, run: begin.run });
        self.on_state_saved(cx);
    }

    fn on_resync_question(&mut self, cx: &mut Context<'_>, from: DiskId, incarnation: Incarnation, message: Message) {
        let answer = match message {
            Message::ListChanged { epoch, run, scope, page } => list(cx, epoch, run, &scope, page),
            Message::HashChunk { epoch, run, chunk } => {
                Message::ChunkHashed { epoch, run, chunk, digest: cx.view.chunk_digest(chunk) }
            }
            Message::Dedupe { epoch, run, at, table } => {
                let taken = self.joined().is_some() && cx.core.log_end == at;
                if taken {
                    cx.act(Action::ReplaceDedupe(table));
                    // From here on we may be believed in.
                    self.leader.iter_mut().for_each(|leader| leader.settles = false);
                }
                Message::DedupeTaken { epoch, run, taken }
            }
            _ => return,
        };
        cx.send(from, incarnation, answer);
    }

    fn on_fetch_blocks(&mut self, cx: &mut Context<'_>, asked: BlocksAsked, at_least: LogPosition) {
        // design 6: a member that is not in the stream, or not far enough, has an old block that verifies.
        let old = self.joined().is_none() || cx.core.log_end < at_least || cx.core.saved.complete_to.is_some();
        if old && !cx.core.planted(Mutant::RepairFromAnybody) {
            answer_blocks(cx, &asked, None);
            return;
        }
        let ticket = cx.read_ticket();
        let (chunk, range) = (asked.chunk, asked.range);
        self.reads.insert(ticket, asked);
        cx.act(Action::ReadBlocks { ticket, chunk, range });
    }

    pub fn on_blocks_read(&mut self, cx: &mut Context<'_>, ticket: ReadTicket, outcome: &ReadOutcome) {
        let Some(asked) = self.reads.remove(&ticket) else { return };
        match outcome {
            ReadOutcome::Done { bytes, bad } if bad.is_empty() => answer_blocks(cx, &asked, Some(bytes.clone())),
            ReadOutcome::Done { .. } | ReadOutcome::Failed => answer_blocks(cx, &asked, None),
        }
    }
}

fn answer_blocks(cx: &mut Context<'_>, asked: &BlocksAsked, bytes: Option<Bytes>) {
    let bytes = bytes.unwrap_or_default();
    let hashes = if bytes.is_empty() {
        Vec::new()
    } else {
        checksum::block_hashes(cx.core.config.pg.volume, asked.chunk, asked.range, &bytes)
    };
    let length_bytes = u32::try_from(bytes.len()).unwrap_or(0);
    let message = Message::FetchedBlocks { epoch: asked.epoch, repair: asked.repair, hashes, bytes, length_bytes };
    cx.send(asked.to, asked.to_incarnation, message);
}

/// The epoch at which a primary speaks; `None` for what only a primary receives.
fn say_withdrawn(cx: &mut Context<'_>, to: DiskId, to_incarnation: Incarnation, epoch: Epoch) {
    if !cx.core.planted(Mutant::WithdrawSilently) {
        cx.send(to, to_incarnation, Message::Withdrawn { epoch });
    }
}

fn epoch_of_primary(message: &Message) -> Option<Epoch> {
    match message {
        Message::Prepare { epoch, .. }
        | Message::Fetch { epoch, .. }
        | Message::Level { epoch, .. }
        | Message::Sync { epoch }
        | Message::ListChanged { epoch, .. }
        | Message::HashChunk { epoch, .. }
        | Message::Dedupe { epoch, .. }
        | Message::FetchBlocks { epoch, .. } => Some(*epoch),
        Message::Append(append) => Some(append.epoch),
        Message::BeginResync(begin) => Some(begin.epoch),
        Message::Promised(_)
        | Message::Deposed { .. }
        | Message::Fetched { .. }
        | Message::CannotLevel { .. }
        | Message::Appended(_)
        | Message::ResyncReady { .. }
        | Message::Changed { .. }
        | Message::ChunkHashed { .. }
        | Message::DedupeTaken { .. }
        | Message::FetchedBlocks { .. }
        | Message::Withdrawn { .. } => None,
    }
}

pub(crate) fn cut(cx: &mut Context<'_>, after: LogPosition) {
    cx.act(Action::CutTail { after });
    cx.core.log_end = after;
    cx.core.durable = cx.core.durable.min(after);
}

/// Every member checks the blocks before it appends them: a byte that flipped on the way is not stored.
pub(crate) fn verifies(volume: VolumeId, entry: &Entry) -> bool {
    let Effect::Write { chunk, range, hashes, .. } = &entry.header.effect else { return entry.data.is_empty() };
    entry.data.len() == range.byte_len()
        && hashes.len() == usize::from(range.count)
        && range
            .blocks()
            .zip(entry.data.chunks_exact(weft_types::BLOCK_SIZE))
            .zip(hashes)
            .all(|((block, bytes), hash)| weft_types::block_hash(volume, *chunk, block, bytes) == *hash)
}

fn fetch(cx: &mut Context<'_>, from: DiskId, incarnation: Incarnation, epoch: Epoch, after: LogPosition) {
    let (entries, trimmed) = match cx.view.entries_after(after, MAX_APPEND_ENTRIES, MAX_FRAME_PAYLOAD_BYTES / 2) {
        Ok(entries) => (entries, false),
        Err(LogUnavailable::Trimmed) => (Vec::new(), true),
        // The asker repeats itself.
        Err(LogUnavailable::Unreadable) => return,
    };
    let entries = entries.into_iter().map(|entry| Arc::new(crate::peers::seen_by(entry, from))).collect();
    cx.send(from, incarnation, Message::Fetched { epoch, after, entries, trimmed });
}

fn list(cx: &Context<'_>, epoch: Epoch, run: u64, scope: &ListScope, page: Option<ChunkId>) -> Message {
    let (all, removed, last) = match scope {
        ListScope::All => (cx.view.chunks(), Vec::new(), Listing::Complete),
        ListScope::Since { position, removed: removed_there } => {
            let changes = cx.view.chunks_changed_since(*position);
            if changes.memory == RemovalMemory::Forgotten {
                (cx.view.chunks(), Vec::new(), Listing::CompleteOfAll)
            } else {
                let mut chunks: BTreeSet<ChunkId> = changes.chunks.into_iter().collect();
                if !removed_there.is_empty() {
                    chunks.extend(cx.view.chunks().into_iter().filter(|chunk| {
                        removed_there.iter().any(|r| r.object == chunk.object && chunk.index >= r.from)
                    }));
                }
                (chunks.into_iter().collect(), changes.removed, Listing::Complete)
            }
        }
    };
    let from = page.map_or(0, |last| all.partition_point(|chunk| *chunk <= last));
    let chunks: Vec<ChunkId> = all[from..].iter().take(MAX_LISTED_CHUNKS).copied().collect();
    if from + chunks.len() < all.len() {
        Message::Changed { epoch, run, chunks, removed: Vec::new(), listing: Listing::More }
    } else {
        Message::Changed { epoch, run, chunks, removed, listing: last }
    }
}

/// How far this member was complete. One that has lost what it knew of a chunk and does not count is compared with all that there is.
fn complete_to(cx: &Context<'_>) -> Option<LogPosition> {
    let me = cx.core.config.disk;
    let counts = cx.core.map.as_ref().and_then(|map| map.record.member(me)).is_some_and(Member::is_in_sync);
    if !counts && needs_copying(cx) { Some(LogPosition::ZERO) } else { cx.core.saved.complete_to }
}
