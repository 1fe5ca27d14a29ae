//! What a primary knows of one other member, and the stream of entries to it.
//!
//! A stream begins with a handshake (`Prepare`, `Promised`, then `Level` or `BeginResync`). From then on the member's
//! log is a prefix of the primary's, and entries follow from memory while the member keeps up, from the journal when not.

use crate::core::Context;
use crate::events::ClusterFacts;
use crate::mutants::Mutant;
use crate::tuning::{JOURNAL_ROOM_SHARE, MAX_STREAM_BYTES, PREPARE_RETRY, SILENT_FOR};
use crate::view::LogUnavailable;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use weft_proto::replication::{Append, Appended, Message, Promised, SyncWish};
use weft_types::limits::{BACKUP_PROGRESS_TIMEOUT, MAX_APPEND_ENTRIES, MAX_FRAME_PAYLOAD_BYTES};
use weft_types::map::MemberState;
use weft_types::{BootTime, DiskId, Effect, Entry, Epoch, Incarnation, LogPosition, Member, NodeId, SetVersion};

/// How far the handshake with a member is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Link {
    /// Asked for its promise at this time, if at all.
    Preparing { asked: Option<BootTime> },
    /// Promised; not told yet how to join.
    Promised(Box<Promised>),
    /// Told how to join a resync; has not said that it did.
    Joining { since: BootTime },
    /// In the stream.
    Joined,
    /// Its log cannot be brought onto ours: only a resync can help.
    Apart,
}

struct Sent {
    last: LogPosition,
    bytes: usize,
    fills: usize,
}

pub(crate) struct Peer {
    pub disk: DiskId,
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub state: MemberState,
    /// Its node and its disk are there, as the metadata group knows.
    pub live: bool,
    pub link: Link,
    pub handshake: u64,
    /// Last entry sent.
    pub cursor: LogPosition,
    /// Messages sent and not acknowledged; bounds what is sent ahead of the member.
    sent: VecDeque<Sent>,
    sent_bytes: usize,
    /// Room on its disk that what was sent fills.
    sent_fills: usize,
    /// Last committed position it was told.
    pub told_committed: LogPosition,
    pub acked: LogPosition,
    pub durable: LogPosition,
    pub credits_bytes: u64,
    /// In its journal, as it last told.
    pub journal_room_bytes: u64,
    /// When it is asked where it stands unless it tells before.
    ask_at: BootTime,
    /// When it last got further, or had nothing to do.
    pub progress: BootTime,
    /// It asks to be taken out, and has taken part in nothing since (decision 0024).
    pub withdrawn: bool,
    /// Promotion is under way since this set: counts for everything until a later set is known (design 5.7).
    pub candidate: Option<SetVersion>,
    /// Recognition as level is under way since this set: counts for reading until a later set is known (design 5.5).
    pub catching: Option<SetVersion>,
    pub sync: SyncWish,
    /// Everything up to here it was asked to sync, with the entries or after them.
    pub sync_asked: LogPosition,
}

impl Peer {
    pub fn new(member: &Member, facts: &ClusterFacts, now: BootTime) -> Self {
        Self {
            disk: member.disk,
            node: member.node,
            incarnation: member.incarnation,
            state: member.state,
            live: facts.is_live(member),
            link: Link::Preparing { asked: None },
            handshake: 0,
            cursor: LogPosition::ZERO,
            sent: VecDeque::new(),
            sent_bytes: 0,
            sent_fills: 0,
            told_committed: LogPosition::ZERO,
            acked: LogPosition::ZERO,
            durable: LogPosition::ZERO,
            credits_bytes: 0,
            journal_room_bytes: 0,
            ask_at: now + SILENT_FOR,
            progress: now,
            withdrawn: false,
            candidate: None,
            catching: None,
            sync: SyncWish::Later,
            sync_asked: LogPosition::ZERO,
        }
    }

    /// Takes over what a newer map says.
    pub fn update(&mut self, member: &Member, facts: &ClusterFacts, set_version: SetVersion, now: BootTime) {
        self.node = member.node;
        self.live = facts.is_live(member);
        if self.incarnation != member.incarnation {
            // Another run of the member: what it told before says nothing about what it has now (design 5, flush).
            self.incarnation = member.incarnation;
            self.acked = LogPosition::ZERO;
            self.durable = LogPosition::ZERO;
            self.restart(now);
        }
        if self.state != member.state {
            let was_in_sync = self.is_in_sync();
            self.state = member.state;
            if was_in_sync != self.is_in_sync() && self.candidate.is_none() {
                self.restart(now);
            }
        }
        if self.candidate.is_some_and(|since| set_version > since) {
            self.candidate = None;
        }
        if self.catching.is_some_and(|since| set_version > since) {
            self.catching = None;
        }
    }

    /// The stream has to begin anew. What was acknowledged stays true: same incarnation, same epoch.
    pub fn restart(&mut self, now: BootTime) {
        self.link = Link::Preparing { asked: None };
        self.handshake += 1;
        self.withdrawn = false;
        // It may not have heard it.
        self.told_committed = LogPosition::ZERO;
        self.forget_sent();
        self.progress = now;
    }

    /// What was asked may be lost with what was sent.
    fn forget_sent(&mut self) {
        self.sync_asked = LogPosition::ZERO;
        self.sent.clear();
        self.sent_bytes = 0;
        self.sent_fills = 0;
    }

    /// The member misses entries after `end`: go on from there.
    pub fn rewind(&mut self, end: LogPosition) {
        self.cursor = end.max(self.acked);
        self.forget_sent();
    }

    /// It takes more without being asked to wait. A syncing member that is slow or full must not fill our memory, its
    /// disk or its journal: it gets the rest from the journal later.
    pub fn takes_live(&self) -> bool {
        self.is_joined() && (self.counts() || (self.sent_bytes < 2 * self.stream_bytes() && self.has_room()))
    }

    /// What may be under way to it. All of its disk waits when its journal is full, so one that does not count gets no more
    /// than its journal is sure to take.
    pub fn stream_bytes(&self) -> usize {
        if self.counts() {
            return MAX_STREAM_BYTES;
        }
        let share = self.journal_room_bytes / JOURNAL_ROOM_SHARE;
        usize::try_from(share).map_or(MAX_STREAM_BYTES, |share| share.min(MAX_STREAM_BYTES))
    }

    /// It has entries to store, or is sent none because its journal had no room, and has said nothing for a while. Asked once;
    /// again when that may be lost, because on a slow network more questions make it slower.
    pub fn is_to_be_asked(&mut self, now: BootTime) -> bool {
        let silent = (self.acked < self.cursor || self.stream_bytes() == 0) && now >= self.ask_at;
        if silent {
            self.ask_at = now + BACKUP_PROGRESS_TIMEOUT;
        }
        silent
    }

    /// Its last word on space would make us hold something back. It has to be asked again: a member that is idle says
    /// nothing by itself, and neither a resync nor a write may wait for room that is there by now.
    pub fn is_short_of_room(&self) -> bool {
        self.credits_bytes < self.taken_room() + ROOM_TO_ASK_AGAIN_BYTES
            || (self.counts() && self.journal_room_bytes == 0)
    }

    fn has_room(&self) -> bool {
        self.credits_bytes > self.taken_room()
    }

    /// Of what it has told, for what it was sent since.
    const fn taken_room(&self) -> u64 {
        (self.sent_bytes + self.sent_fills) as u64
    }

    /// Whether it may be sent entries that fill so much. A member that counts has been asked for its credits; one that does
    /// not must not run out of room for what nobody asked it for, and may have less than the primary of what is to be zeros.
    pub fn takes_fills(&self, bytes: usize) -> bool {
        bytes == 0 || self.counts() || self.credits_bytes > self.taken_room() + bytes as u64
    }

    pub const fn is_in_sync(&self) -> bool {
        matches!(self.state, MemberState::InSync { .. })
    }

    pub const fn is_level(&self) -> bool {
        matches!(self.state, MemberState::InSync { lossy: false, behind: false })
    }

    pub const fn is_joined(&self) -> bool {
        matches!(self.link, Link::Joined)
    }

    /// Every acknowledgement and flush waits for it (design 5.1).
    pub const fn counts(&self) -> bool {
        self.is_in_sync() || self.candidate.is_some()
    }

    /// Every read of a new entry waits for it (design 5.5).
    pub const fn counts_for_reading(&self) -> bool {
        matches!(self.state, MemberState::InSync { behind: false, .. })
            || self.candidate.is_some()
            || (self.is_in_sync() && self.catching.is_some())
    }

    /// Asks for a promise, again when the last question was long ago.
    pub fn prepare(&mut self, cx: &mut Context<'_>, epoch: Epoch) {
        let Link::Preparing { asked } = self.link else { return };
        if !self.live || asked.is_some_and(|at| cx.clock.now.since(at) < PREPARE_RETRY) {
            return;
        }
        self.link = Link::Preparing { asked: Some(cx.clock.now) };
        let handshake = self.handshake;
        cx.send(self.disk, self.incarnation, Message::Prepare { epoch, handshake });
    }

    /// Takes a report. True when the member got further.
    pub fn take_report(&mut self, report: &Appended, now: BootTime) -> bool {
        self.withdrawn = false;
        self.credits_bytes = report.credits_bytes;
        self.journal_room_bytes = report.journal_room_bytes;
        self.ask_at = now + SILENT_FOR;
        let further = report.end > self.acked || report.durable > self.durable;
        if report.end > self.acked {
            self.acked = report.end;
            while self.sent.front().is_some_and(|sent| sent.last <= self.acked) {
                let Some(sent) = self.sent.pop_front() else { break };
                self.sent_bytes -= sent.bytes;
                self.sent_fills -= sent.fills;
            }
            self.progress = now;
        }
        self.durable = self.durable.max(report.durable);
        further
    }

    /// Sends entries of the journal after the cursor to a member that does not keep up.
    pub fn catch_up(&mut self, cx: &mut Context<'_>, epoch: Epoch, committed: LogPosition) {
        let end = cx.view.log_end();
        while self.is_joined()
            && (self.counts() || self.has_room())
            && self.cursor < end
            && self.sent_bytes < self.stream_bytes()
        {
            let budget = self.stream_bytes().min(MAX_FRAME_PAYLOAD_BYTES / 2);
            match cx.view.entries_after(self.cursor, MAX_APPEND_ENTRIES, budget) {
                Ok(mut entries) if !entries.is_empty() => {
                    if !cx.core.planted(Mutant::FillSentBlindly) {
                        self.keep_what_fits(&mut entries);
                    }
                    if entries.is_empty() {
                        return;
                    }
                    let entries = entries.into_iter().map(|entry| Arc::new(seen_by(entry, self.disk))).collect();
                    self.append(cx, epoch, committed, entries);
                }
                Err(LogUnavailable::Trimmed) => {
                    self.restart(cx.clock.now);
                    return;
                }
                Ok(_) | Err(LogUnavailable::Unreadable) => return,
            }
        }
    }

    /// Drops entries from the first one on that fills more than there is room for. They follow when there is.
    fn keep_what_fits(&self, entries: &mut Vec<Entry>) {
        let mut filled = 0;
        let first_too_many = entries.iter().position(|entry| {
            filled += entry.header.effect.most_filled_bytes();
            !self.takes_fills(filled)
        });
        entries.truncate(first_too_many.unwrap_or(entries.len()));
    }

    pub fn append(&mut self, cx: &mut Context<'_>, epoch: Epoch, committed: LogPosition, entries: Vec<Arc<Entry>>) {
        let Some(last) = entries.last() else { return };
        if self.acked >= self.cursor {
            // It had nothing to do until now.
            self.progress = cx.clock.now;
            self.ask_at = cx.clock.now + SILENT_FOR;
        }
        self.cursor = last.header.position;
        let bytes = entries.iter().map(|e| e.data.len() + ENTRY_COST_BYTES).sum();
        let fills = entries.iter().map(|e| e.header.effect.most_filled_bytes()).sum();
        self.sent.push_back(Sent { last: self.cursor, bytes, fills });
        self.sent_bytes += bytes;
        self.sent_fills += fills;
        self.told_committed = committed;
        let sync = std::mem::take(&mut self.sync);
        if sync == SyncWish::Now {
            self.sync_asked = self.cursor;
        }
        cx.send(self.disk, self.incarnation, Message::Append(Append { epoch, entries, committed, sync }));
    }
}

/// More than is ever sent ahead to one member, so that asking is over before anything is held back.
const ROOM_TO_ASK_AGAIN_BYTES: u64 = 4 * MAX_STREAM_BYTES as u64;

/// What an entry costs besides its data, so that a long run of empty ones is bounded too.
pub(crate) const ENTRY_COST_BYTES: usize = 128;

/// A resync copy is `Nothing` to everybody but its target (design 5.7).
pub(crate) fn seen_by(mut entry: Entry, disk: DiskId) -> Entry {
    if entry.header.only_for.is_some_and(|only| only != disk) {
        entry.header.effect = Effect::Nothing;
        entry.data = Bytes::new();
    }
    entry
}
