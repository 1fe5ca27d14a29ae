//! A primary: what it owns, how entries get into the log and out to the members, and when they count as acknowledged and
//! readable. Peering, requests, reads, flush and resync have files of their own.

use crate::actions::{Action, Reply};
use crate::changes::Changes;
use crate::core::Context;
use crate::events::{ClusterFacts, GroupMap, ReadOutcome, ReadTicket};
use crate::flush::FlushWaiter;
use crate::foresight::Foresight;
use crate::locks::{Locks, Scope};
use crate::merge::Merge;
use crate::mutants::Mutant;
use crate::peering::Peering;
use crate::peers::{Link, Peer};
use crate::reads::ClientRead;
use crate::repair::Repair;
use crate::requests::Waiting;
use crate::resync::{CopyRead, Resync};
use crate::tuning::{MAX_WAITING_REQUESTS, RESYNC_DEFAULT_BYTES_PER_SECOND};
use crate::window::{Cost, Waiter, Window};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use weft_proto::replication::{Append, Appended, Envelope, Message, Resend, SyncWish};
use weft_types::error::NotServing;
use weft_types::limits::BACKUP_PROGRESS_TIMEOUT;
use weft_types::map::MemberState;
use weft_types::{
    AckMode, DataError, DiskId, Effect, Entry, EntryHeader, Epoch, LogPosition, ObjectId, Origin, PgRecord, Sequence,
    SetVersion, TruncateGeneration,
};

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Peering(Peering),
    Serving,
    /// The map moves the primary away, or a later one was heard of: nothing is answered any more (design 4.3).
    Moved,
}

/// An entry of the open batch.
struct Queued {
    /// As the journal here and every member stores it.
    entry: Arc<Entry>,
    /// As this one member stores it (a resync copy).
    only: Option<(DiskId, Arc<Entry>)>,
}

/// What a read of the store was for.
pub(crate) enum ReadPurpose {
    Merge { merge: u64, edge: crate::merge::Edge },
    Client(u64),
    Copy(CopyRead),
    Repair(u64),
}

pub(crate) struct Primary {
    pub epoch: Epoch,
    pub set_version: SetVersion,
    pub phase: Phase,
    pub peers: Vec<Peer>,
    /// First entry of this epoch; `ZERO` until the log before it is settled.
    pub first: LogPosition,
    /// Carried out here: the last entry given to `Action::Append`.
    pub appended: LogPosition,
    /// On every member that counts (design 5.1).
    pub acked: LogPosition,
    /// On every member that is not behind (design 5.5).
    pub readable: LogPosition,
    pub window: Window,
    batch: Vec<Queued>,
    /// Room that the open batch takes.
    pub batch_room: u64,
    /// Truncate generations that the open batch brings and the store does not know yet.
    pub new_generations: Vec<(ObjectId, TruncateGeneration)>,
    pub waiting: VecDeque<Waiting>,
    pub waiting_bytes: usize,
    /// Something changed that waiting requests may have waited for.
    pub recheck: bool,
    pub locks: Locks,
    pub merges: BTreeMap<u64, Merge>,
    pub reads: BTreeMap<u64, ClientRead>,
    /// Reads that wait for entries to become readable.
    pub blocked_reads: usize,
    pub purposes: BTreeMap<ReadTicket, ReadPurpose>,
    pub next_id: u64,
    /// Reads of the store that must see the open batch.
    after_append: Vec<Action>,
    pub flushes: Vec<FlushWaiter>,
    /// Clients that wait for an entry that has left the window, or for its durability.
    pub late: Vec<(LogPosition, Waiter)>,
    pub sync: SyncWish,
    pub foresight: Foresight,
    pub changes: Changes,
    pub resync: Option<Resync>,
    pub resync_rate: u64,
    pub next_run: u64,
    pub repairs: BTreeMap<u64, Repair>,
}

impl Primary {
    pub fn new(cx: &mut Context<'_>, map: &GroupMap) -> Self {
        let now = cx.clock.now;
        let mut primary = Self {
            epoch: map.record.epoch,
            set_version: map.record.set_version,
            phase: Phase::Peering(Peering::new(now)),
            peers: Vec::new(),
            first: LogPosition::ZERO,
            appended: cx.core.log_end,
            acked: LogPosition::ZERO,
            readable: LogPosition::ZERO,
            window: Window::default(),
            batch: Vec::new(),
            batch_room: 0,
            new_generations: Vec::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            recheck: false,
            locks: Locks::default(),
            merges: BTreeMap::new(),
            reads: BTreeMap::new(),
            blocked_reads: 0,
            purposes: BTreeMap::new(),
            next_id: 0,
            after_append: Vec::new(),
            flushes: Vec::new(),
            late: Vec::new(),
            sync: SyncWish::Later,
            foresight: Foresight::default(),
            changes: Changes::default(),
            resync: None,
            resync_rate: RESYNC_DEFAULT_BYTES_PER_SECOND,
            next_run: 0,
            repairs: BTreeMap::new(),
        };
        primary.update_peers(cx, &map.record, &map.cluster);
        primary
    }

    pub fn on_map(&mut self, cx: &mut Context<'_>, map: &GroupMap) {
        if map.record.set_version > self.set_version {
            self.set_version = map.record.set_version;
            self.changes.clear();
        }
        self.update_peers(cx, &map.record, &map.cluster);
        let waits = cx.core.planted(Mutant::MoveAwaitsWrites) && self.window.len() > 0;
        if map.record.pending_move.is_some() && !waits && !cx.core.planted(Mutant::AnswerWhileMoved) {
            self.move_away(cx);
            return;
        }
        if map.record.levelled_epoch == self.epoch && self.first != LogPosition::ZERO && self.phase != Phase::Serving {
            self.serve(cx);
        }
        self.refuse_struck(cx);
        self.resync_on_map(cx);
        self.recheck = true;
        self.advance(cx);
        self.work(cx);
    }

    fn update_peers(&mut self, cx: &Context<'_>, record: &PgRecord, facts: &ClusterFacts) {
        let now = cx.clock.now;
        self.peers.retain(|p| record.member(p.disk).is_some() || p.candidate.is_some_and(|v| record.set_version <= v));
        for member in &record.members {
            if member.disk == cx.core.config.disk {
                continue;
            }
            match self.peers.iter_mut().find(|p| p.disk == member.disk) {
                Some(peer) => peer.update(member, facts, record.set_version, now),
                None => self.peers.push(Peer::new(member, facts, now)),
            }
        }
        if cx.core.planted(Mutant::GoneDiskLives) {
            self.peers.iter_mut().for_each(|p| p.live = facts.live_nodes.contains(&p.node));
        }
        self.peers.sort_by_key(|p| p.disk);
    }

    /// Everything that is asked again until it is done. Cheap when there is nothing to do.
    pub fn work(&mut self, cx: &mut Context<'_>) {
        self.prepare_members(cx);
        if matches!(self.phase, Phase::Peering(_)) {
            self.peer_on(cx);
        }
        if self.phase == Phase::Serving {
            self.hand_over(cx);
            self.recognise_caught_up(cx);
            self.resync_work(cx);
        }
    }

    pub fn on_tick(&mut self, cx: &mut Context<'_>) {
        if self.phase == Phase::Moved {
            return;
        }
        self.work(cx);
        self.remove_silent_members(cx);
        self.changes_again(cx);
        self.flush_again(cx);
        self.repair_tick(cx);
        self.expire_requests(cx);
        for peer in &mut self.peers {
            let behind = peer.cursor == self.appended && peer.told_committed < self.readable;
            if peer.is_joined() && (peer.is_to_be_asked(cx.clock.now) || behind || peer.is_short_of_room()) {
                // An idle member learns too what it may checkpoint, and tells what room it has. One that declined what it was
                // sent asks for it again when it has room.
                peer.told_committed = self.readable;
                let (epoch, committed, sync) = (self.epoch, self.readable, SyncWish::Later);
                let message = Message::Append(Append { epoch, entries: Vec::new(), committed, sync });
                cx.send(peer.disk, peer.incarnation, message);
            }
        }
        self.recheck = true;
    }

    fn prepare_members(&mut self, cx: &mut Context<'_>) {
        if self.phase == Phase::Moved || !cx.core.state_is_durable() {
            return;
        }
        for peer in &mut self.peers {
            if !peer.state.is_out() {
                peer.prepare(cx, self.epoch);
            }
        }
    }

    pub fn on_state_saved(&mut self, cx: &mut Context<'_>) {
        self.work(cx);
    }

    pub fn on_durable(&mut self, cx: &mut Context<'_>) {
        self.settle(cx);
    }

    pub fn on_message(&mut self, cx: &mut Context<'_>, envelope: Envelope) {
        let Some(at) = self.peers.iter().position(|p| p.disk == envelope.from) else { return };
        if self.peers[at].incarnation != envelope.from_incarnation {
            return;
        }
        match envelope.message {
            Message::Appended(report) if report.epoch == self.epoch => self.on_report(cx, at, &report),
            Message::Promised(promised)
                if promised.epoch == self.epoch && promised.handshake == self.peers[at].handshake =>
            {
                self.on_promised(cx, at, promised);
            }
            Message::Deposed { promised } if promised > self.epoch => self.move_away(cx),
            Message::Fetched { epoch, after, entries, trimmed } if epoch == self.epoch => {
                self.on_fetched(cx, envelope.from, after, &entries, trimmed);
            }
            Message::CannotLevel { epoch, .. } if epoch == self.epoch => self.peers[at].link = Link::Apart,
            Message::Withdrawn { epoch } if epoch == self.epoch => self.peers[at].withdrawn = true,
            Message::FetchedBlocks { epoch, repair, hashes, bytes, .. } if epoch == self.epoch => {
                self.on_fetched_blocks(cx, envelope.from, repair, &hashes, &bytes);
            }
            message => self.on_resync_message(cx, envelope.from, message),
        }
        self.work(cx);
    }

    fn on_report(&mut self, cx: &mut Context<'_>, at: usize, report: &Appended) {
        let peer = &mut self.peers[at];
        match report.resend {
            Resend::Prepare => {
                if !matches!(peer.link, Link::Preparing { .. }) {
                    peer.restart(cx.clock.now);
                    let disk = peer.disk;
                    self.resync_stream_broke(disk);
                }
                return;
            }
            Resend::FromEnd | Resend::No => {}
        }
        let mut further = peer.take_report(report, cx.clock.now);
        if cx.core.planted(Mutant::SyncedIsEnough) && report.durable == report.end {
            peer.durable = self.appended;
            further = true;
        }
        if report.resend == Resend::FromEnd && peer.is_joined() && report.end < peer.cursor {
            peer.rewind(report.end);
            let disk = peer.disk;
            self.resync_stream_broke(disk);
        }
        if further {
            self.advance(cx);
        }
    }

    pub fn on_connection_reset(&mut self, cx: &mut Context<'_>, disk: DiskId) {
        if let Some(peer) = self.peers.iter_mut().find(|p| p.disk == disk) {
            if let Link::Preparing { asked } = &mut peer.link {
                // The question may be lost.
                *asked = None;
            } else {
                // Keep the clock of a member that was silent already: a flapping connection is no progress.
                let (progress, told) = (peer.progress, peer.told_committed);
                peer.restart(cx.clock.now);
                peer.progress = progress;
                if cx.core.planted(Mutant::ToldForEver) {
                    peer.told_committed = told;
                }
                self.resync_stream_broke(disk);
            }
        }
        self.prepare_members(cx);
    }

    /// Gives an entry its place in the log. It leaves with the batch.
    pub fn sequence(
        &mut self,
        cx: &mut Context<'_>,
        effect: Effect,
        data: Bytes,
        origin: Option<Origin>,
        waiter: Option<Waiter>,
    ) -> LogPosition {
        let scope = scope_of(&effect);
        if let Some((object, generation)) = generation_of(&effect)
            && cx.view.object_generation(object).is_none_or(|known| known < generation)
        {
            self.new_generations.push((object, generation));
        }
        let cost = Cost::of(&effect, data.len());
        let header = self.next_header(cx, effect, origin, None);
        let position = header.position;
        if self.foresight.sequenced() || waiter.as_ref().is_some_and(|w| w.ack == AckMode::Disk) {
            self.sync = SyncWish::Now;
        }
        self.window.push(position, scope, origin.map(|o| (o.session, o.operation)), waiter, cost);
        self.batch_room += cost.room_bytes;
        self.batch.push(Queued { entry: Arc::new(Entry { header, data }), only: None });
        position
    }

    /// A resync copy: an effect on `target` alone, at a place of its own (design 5.7).
    pub fn sequence_copy(&mut self, cx: &mut Context<'_>, target: DiskId, effect: Effect, data: Bytes) -> LogPosition {
        let mut header = self.next_header(cx, effect, None, Some(target));
        let position = header.position;
        let copy = Arc::new(Entry { header: header.clone(), data });
        header.effect = Effect::Nothing;
        if cx.core.planted(Mutant::CopyBlocksReads) {
            let cost = Cost::of(&copy.header.effect, copy.data.len());
            self.window.push(position, scope_of(&copy.header.effect), None, None, cost);
        }
        let entry = Arc::new(Entry { header, data: Bytes::new() });
        self.batch.push(Queued { entry, only: Some((target, copy)) });
        position
    }

    fn next_header(
        &self,
        cx: &mut Context<'_>,
        effect: Effect,
        origin: Option<Origin>,
        only_for: Option<DiskId>,
    ) -> EntryHeader {
        let previous = cx.core.log_end;
        let position = LogPosition::new(self.epoch, Sequence(previous.sequence.0 + 1));
        cx.core.log_end = position;
        EntryHeader { position, previous, origin, only_for, effect }
    }

    /// A read of the store that sees every entry sequenced so far.
    pub fn read_store(&mut self, cx: &mut Context<'_>, action: Action) {
        if self.batch.is_empty() {
            cx.act(action);
        } else {
            self.after_append.push(action);
        }
    }

    /// One append here and one message to each member for all that was sequenced since the last call.
    pub fn end_batch(&mut self, cx: &mut Context<'_>) {
        if std::mem::take(&mut self.recheck) {
            self.retry_waiting(cx);
        }
        self.resync_pump(cx);
        for peer in &mut self.peers {
            if peer.is_joined() && peer.cursor < self.appended {
                peer.catch_up(cx, self.epoch, self.readable);
            }
        }
        let batch = std::mem::take(&mut self.batch);
        if let Some(last) = batch.last() {
            let last = last.entry.header.position;
            let previous = std::mem::replace(&mut self.appended, last);
            let entries: Vec<_> = batch.iter().map(|q| Arc::clone(&q.entry)).collect();
            for at in 0..self.peers.len() {
                self.send_batch(cx, at, previous, &batch, &entries);
            }
            // The network is under way while the journal is written; acknowledgements follow the append in the list.
            cx.act(Action::Append(entries));
            self.batch_room = 0;
            self.new_generations.clear();
            self.advance(cx);
        }
        cx.out.append(&mut self.after_append);
        self.send_syncs(cx);
    }

    fn send_batch(
        &mut self,
        cx: &mut Context<'_>,
        at: usize,
        previous: LogPosition,
        batch: &[Queued],
        entries: &[Arc<Entry>],
    ) {
        let peer = &mut self.peers[at];
        let disk = peer.disk;
        let special = batch.iter().any(|q| q.only.as_ref().is_some_and(|(only, _)| *only == disk));
        let filled = || entries.iter().map(|entry| entry.header.effect.most_filled_bytes()).sum();
        let fits = peer.counts() || cx.core.planted(Mutant::FillSentBlindly) || peer.takes_fills(filled());
        if !peer.takes_live() || peer.cursor != previous || !fits {
            if special && !cx.core.planted(Mutant::CopyFromJournal) {
                self.resync_copies_lost(disk);
            }
            return;
        }
        let mine = |q: &Queued| match &q.only {
            Some((only, copy)) if *only == disk => Arc::clone(copy),
            _ => Arc::clone(&q.entry),
        };
        let sent = if special { batch.iter().map(mine).collect() } else { entries.to_vec() };
        if self.sync == SyncWish::Now {
            peer.sync = SyncWish::Now;
        }
        peer.append(cx, self.epoch, self.readable, sent);
    }

    /// Who has what decides what is acknowledged and what is readable (design 5.1, 5.5).
    pub fn advance(&mut self, cx: &mut Context<'_>) {
        if self.phase != Phase::Serving {
            return;
        }
        let mut acked = self.appended;
        let mut readable = self.appended;
        for peer in &self.peers {
            let counts = if cx.core.planted(Mutant::CandidateNotCounted) { peer.is_in_sync() } else { peer.counts() };
            if counts {
                acked = acked.min(peer.acked);
            }
            if peer.counts_for_reading() && counts {
                readable = readable.min(peer.acked);
            }
        }
        if cx.core.planted(Mutant::AcknowledgeEarly) {
            let mut ends: Vec<_> = self.peers.iter().filter(|p| p.counts()).map(|p| p.acked).collect();
            ends.sort_unstable();
            acked = ends.get(1).copied().unwrap_or(self.appended).min(self.appended);
            readable = readable.max(acked);
        }
        let progress = acked > self.acked || readable > self.readable;
        self.acked = self.acked.max(acked);
        self.readable = self.readable.max(readable).max(self.acked);
        if progress {
            cx.set_committed(self.readable);
            self.release_reads(cx);
            if !self.waiting.is_empty() {
                self.recheck = true;
            }
        }
        self.settle(cx);
    }

    /// Everything up to here survives the loss of power of every member that counts.
    pub fn durable_on_all(&self, cx: &Context<'_>) -> LogPosition {
        if cx.core.planted(Mutant::FlushPrimaryOnly) {
            return cx.core.durable;
        }
        self.peers.iter().filter(|p| p.counts()).map(|p| p.durable).fold(cx.core.durable, LogPosition::min)
    }

    /// Answers whoever waited for what is now acknowledged or durable.
    fn settle(&mut self, cx: &mut Context<'_>) {
        if self.phase != Phase::Serving {
            return;
        }
        let durable = self.durable_on_all(cx);
        while let Some(mut entry) = self.window.pop_through(self.acked) {
            if let Some(waiter) = entry.waiter.take() {
                let in_memory = waiter.ack == AckMode::Memory || cx.core.planted(Mutant::DiskAckInMemory);
                if in_memory || entry.position <= durable {
                    answer(cx, waiter);
                } else {
                    self.late.push((entry.position, waiter));
                }
            }
        }
        if !self.late.is_empty() {
            let acked = self.acked;
            let (ready, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.late)
                .into_iter()
                .partition(|(at, waiter)| *at <= acked && (waiter.ack == AckMode::Memory || *at <= durable));
            self.late = rest;
            ready.into_iter().for_each(|(_, waiter)| answer(cx, waiter));
        }
        self.answer_flushes(cx, durable);
    }

    /// A member that has entries to store and stores none is removed from the set (design 5.3).
    fn remove_silent_members(&mut self, cx: &mut Context<'_>) {
        let now = cx.clock.now;
        let mut silent = Vec::new();
        for peer in &mut self.peers {
            let owes = match self.phase {
                Phase::Serving => peer.acked < self.appended || !peer.is_joined(),
                // Dead members do not hold up peering; live ones that stay silent do.
                Phase::Peering(_) => peer.live && matches!(peer.link, Link::Preparing { .. }),
                Phase::Moved => false,
            };
            let apart = peer.link == Link::Apart || peer.withdrawn;
            if !owes && !apart {
                peer.progress = now;
            } else if (peer.is_in_sync() || peer.candidate.is_some())
                && (apart || now.since(peer.progress) >= BACKUP_PROGRESS_TIMEOUT)
            {
                silent.push(peer.disk);
            }
        }
        for disk in silent {
            self.ask_removal(cx, disk);
        }
    }

    /// A member that was behind or lossy and is levelled now (design 5.5).
    fn recognise_caught_up(&mut self, cx: &mut Context<'_>) {
        let mut caught = None;
        for peer in &mut self.peers {
            let flawed = matches!(peer.state, MemberState::InSync { lossy, behind } if lossy || behind);
            if flawed && peer.is_joined() && peer.acked >= self.readable && peer.acked >= self.first {
                if !cx.core.planted(Mutant::BehindAsLevel) {
                    // From now on nothing becomes readable without it.
                    peer.catching = Some(self.set_version);
                }
                caught = Some(peer.disk);
            }
        }
        if let Some(disk) = caught {
            self.ask(cx, weft_proto::control::SetChange::Caught { disk });
        }
    }

    /// The primary's rights end: nothing is answered at this epoch any more (design 4.3).
    pub fn move_away(&mut self, cx: &mut Context<'_>) {
        if self.phase == Phase::Moved {
            return;
        }
        self.refuse_all(cx, &DataError::NotServing { reason: NotServing::Moving });
        self.phase = Phase::Moved;
        self.resync = None;
    }

    pub fn step_down(&mut self, cx: &mut Context<'_>) {
        let known = cx.core.map_version();
        self.refuse_all(cx, &DataError::NotPrimary { known });
        // What was sequenced and neither appended nor sent does not exist.
        self.batch.clear();
        self.new_generations.clear();
        cx.core.log_end = self.appended;
    }

    /// Ends every request with an error. Sequenced ones may have happened; the client asks again.
    pub fn refuse_all(&mut self, cx: &mut Context<'_>, error: &DataError) {
        let mut tokens: Vec<_> = self.waiting.drain(..).map(|w| w.token).collect();
        self.waiting_bytes = 0;
        tokens.extend(self.window.drain_waiters().map(|w| w.token));
        tokens.extend(std::mem::take(&mut self.late).into_iter().map(|(_, w)| w.token));
        tokens.extend(std::mem::take(&mut self.flushes).into_iter().map(|f| f.token));
        tokens.extend(std::mem::take(&mut self.merges).into_values().map(|m| m.token));
        tokens.extend(std::mem::take(&mut self.reads).into_values().map(|r| r.token));
        self.blocked_reads = 0;
        self.locks = Locks::default();
        self.purposes.clear();
        self.repairs.clear();
        for token in tokens {
            cx.act(Action::Reply { token, result: Err(error.clone()) });
        }
    }

    pub fn on_blocks_read(&mut self, cx: &mut Context<'_>, ticket: ReadTicket, outcome: ReadOutcome) {
        match self.purposes.remove(&ticket) {
            Some(ReadPurpose::Merge { merge, edge }) => self.on_edge_read(cx, merge, edge, outcome),
            Some(ReadPurpose::Client(read)) => self.on_client_read(cx, read, outcome),
            Some(ReadPurpose::Copy(copy)) => self.on_copy_read(cx, &copy, outcome),
            Some(ReadPurpose::Repair(repair)) => self.on_repair_read(cx, repair, outcome),
            None => {}
        }
    }

    pub fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Why the group does not serve fully, for status.
    pub fn trouble(&self, map: Option<&GroupMap>) -> Option<String> {
        match &self.phase {
            Phase::Peering(peering) => Some(format!("peering at epoch {}: {}", self.epoch, peering.describe(self))),
            Phase::Moved => Some("the primary is being moved".to_owned()),
            Phase::Serving => {
                let record = &map?.record;
                let level = record.members.iter().filter(|m| m.is_level()).count();
                if level < usize::from(record.min_in_sync) {
                    let min = record.min_in_sync;
                    return Some(format!("writes wait: {level} in-sync members are level, the minimum is {min}"));
                }
                if self.waiting.len() >= MAX_WAITING_REQUESTS {
                    return Some("its queue is full".to_owned());
                }
                let silent = self.peers.iter().find(|p| p.counts() && !p.is_joined());
                silent.map(|p| format!("waits for member {}", p.disk))
            }
        }
    }
}

fn answer(cx: &mut Context<'_>, waiter: Waiter) {
    cx.act(Action::Reply { token: waiter.token, result: Ok::<Reply, _>(waiter.reply) });
}

fn generation_of(effect: &Effect) -> Option<(ObjectId, TruncateGeneration)> {
    match effect {
        Effect::Write { chunk, generation, .. } | Effect::Fill { chunk, generation, .. } => {
            Some((chunk.object, *generation))
        }
        Effect::Truncate { object, generation, .. } => Some((*object, *generation)),
        _ => None,
    }
}

fn scope_of(effect: &Effect) -> Option<Scope> {
    match effect {
        Effect::Nothing => None,
        Effect::Write { chunk, range, .. }
        | Effect::Discard { chunk, range, .. }
        | Effect::Fill { chunk, range, .. } => Some(Scope::Blocks(*chunk, *range)),
        Effect::Truncate { object, .. } | Effect::DeleteObject { object } => Some(Scope::Object(*object)),
        Effect::DeleteChunk { chunk } => Some(Scope::Object(chunk.object)),
    }
}
