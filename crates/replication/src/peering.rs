//! Peering (design 5.5): a new primary collects promises, settles on the best log, brings the members onto it, and has
//! that committed before it serves.

use crate::actions::{Action, Report};
use crate::backup::{cut, verifies};
use crate::core::Context;
use crate::events::GroupMap;
use crate::history::last_common;
use crate::mutants::Mutant;
use crate::peers::{Link, Peer};
use crate::primary::{Phase, Primary};
use crate::tuning::{LEVEL_WAIT, PREPARE_RETRY, PROMISE_PATIENCE};
use crate::withdrawal::withdraws;
use bytes::Bytes;
use std::sync::Arc;
use weft_proto::control::SetChange;
use weft_proto::replication::{Message, Promised};
use weft_types::{BootTime, DiskId, Effect, Entry, LogPosition};

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Peering {
    began: BootTime,
    step: Step,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    /// Waits for promises, or for somebody with a log that may be believed.
    Promising,
    /// Takes what is missing from the member with the best log.
    Fetching { from: DiskId, end: LogPosition, asked: BootTime },
    /// The log is settled; members are brought onto it.
    Levelling { since: BootTime },
}

impl Peering {
    pub const fn new(now: BootTime) -> Self {
        Self { began: now, step: Step::Promising }
    }

    pub fn describe(&self, primary: &Primary) -> String {
        match self.step {
            Step::Promising => {
                let missing = primary.peers.iter().filter(|p| must_promise(p)).count();
                if missing > 0 {
                    format!("waits for the promise of {missing} members")
                } else {
                    "no member that is known to have lost nothing is reachable".to_owned()
                }
            }
            Step::Fetching { from, .. } => format!("takes entries from {from}"),
            Step::Levelling { .. } => "brings members level".to_owned(),
        }
    }
}

fn must_promise(peer: &Peer) -> bool {
    peer.is_in_sync() && peer.live && !peer.withdrawn && matches!(peer.link, Link::Preparing { .. })
}

fn promised(peer: &Peer) -> Option<&Promised> {
    match &peer.link {
        Link::Promised(promised) => Some(promised),
        _ => None,
    }
}

impl Primary {
    /// The primary promises itself first: from here on nobody can acknowledge at an older epoch (design 5.2).
    pub fn begin(&mut self, cx: &mut Context<'_>, map: &GroupMap) {
        cx.report(Report::PeeringBegan { epoch: self.epoch });
        cx.core.saved.promised = self.epoch;
        cx.core.saved.loss_generation = map.record.loss_generation;
        // Who leads counts, so its resync was completed, also when it hears of that and of its lead at once.
        cx.core.saved.complete_to = None;
        cx.save();
        if map.record.pending_move.is_some() {
            self.move_away(cx);
        }
    }

    pub fn on_promised(&mut self, cx: &mut Context<'_>, at: usize, promised: Box<Promised>) {
        let peer = &mut self.peers[at];
        if !matches!(peer.link, Link::Preparing { .. }) {
            return;
        }
        peer.credits_bytes = promised.credits_bytes;
        peer.journal_room_bytes = promised.journal_room_bytes;
        peer.progress = cx.clock.now;
        peer.withdrawn = false;
        peer.link = Link::Promised(promised);
    }

    /// One step further, if what is known allows it.
    pub fn peer_on(&mut self, cx: &mut Context<'_>) {
        let Phase::Peering(peering) = &mut self.phase else { return };
        if !cx.core.state_is_durable() {
            return;
        }
        let now = cx.clock.now;
        match peering.step.clone() {
            Step::Promising => {
                let patient = now.since(peering.began) < PROMISE_PATIENCE;
                let all = cx.core.planted(Mutant::SyncingAsSource);
                let silent = |p: &Peer| must_promise(p) || (all && p.live && matches!(p.link, Link::Preparing { .. }));
                if !(patient && self.peers.iter().any(silent)) {
                    self.choose(cx);
                }
            }
            Step::Fetching { from, end, asked } => {
                let gone = self.peers.iter().all(|p| p.disk != from || !p.live || promised(p).is_none());
                if gone {
                    peering.step = Step::Promising;
                } else if now.since(asked) >= PREPARE_RETRY {
                    self.fetch(cx, from, end);
                }
            }
            Step::Levelling { since } => {
                self.join_members(cx);
                self.commit_levelled(cx, since);
            }
        }
    }

    /// The longest log of those that may be believed becomes the log (design 5.4, 5.5).
    fn choose(&mut self, cx: &mut Context<'_>) {
        if self.hand_over(cx) {
            return;
        }
        let Some(map) = cx.core.map.as_ref() else { return };
        let (me, generation) = (cx.core.config.disk, map.record.loss_generation);
        let own_level = map.record.member(me).is_some_and(weft_types::Member::is_level);
        let anybody = cx.core.planted(Mutant::LossyAsSource);
        let mut level = anybody;
        let mut best: Option<(LogPosition, DiskId)> = None;
        let mut offer = |end: LogPosition, disk: DiskId| {
            if best.is_none_or(|(best_end, _)| end > best_end) {
                best = Some((end, disk));
            }
        };
        if own_level || anybody {
            level = true;
            offer(cx.core.log_end, me);
        }
        let syncing = cx.core.planted(Mutant::SyncingAsSource);
        for peer in
            self.peers.iter().filter(|p| p.is_level() || (anybody && p.is_in_sync()) || (syncing && !p.counts()))
        {
            if let Some(promised) = promised(peer) {
                level = true;
                offer(promised.end, peer.disk);
            }
        }
        if !level {
            if self.peers.iter().any(|p| p.is_level() && p.live) {
                return;
            }
            // Only lossy or behind logs are left. The leader let us lead after the wait of rule 5.4.
            offer(cx.core.log_end, me);
            for peer in self.peers.iter().filter(|p| p.is_in_sync()) {
                if let Some(promised) = promised(peer) {
                    offer(promised.end, peer.disk);
                }
            }
        }
        let Some((end, from)) = best else { return };
        let have_it = from == me || end == cx.core.log_end;
        match (level, have_it) {
            (true, true) => self.lead(cx),
            (_, false) => self.adopt(cx, from, end),
            // Ours is the longest of them, or has become it. Once the loss is committed we are level, and lead.
            (false, true) => {
                cx.report(Report::LossAccepted { end });
                self.ask(cx, SetChange::AcceptLoss { from: generation });
            }
        }
    }

    /// Who has lost what it knew of a chunk lets another one lead, if it can.
    pub fn hand_over(&mut self, cx: &mut Context<'_>) -> bool {
        if !withdraws(cx) {
            return false;
        }
        let serves = self.phase == Phase::Serving;
        let able = |p: &&Peer| p.is_level() && p.live && (p.is_joined() || (!serves && promised(p).is_some()));
        let Some(to) = self.peers.iter().find(able).map(|peer| peer.disk) else { return false };
        self.ask(cx, SetChange::Yield { to });
        true
    }

    /// Cuts what only we have and fetches the rest from the member with the best log.
    fn adopt(&mut self, cx: &mut Context<'_>, from: DiskId, end: LogPosition) {
        let Some(theirs) = self.peers.iter().find(|p| p.disk == from).and_then(promised) else { return };
        let common = last_common(&cx.view.history(), &theirs.history);
        if common < theirs.start || (common < cx.core.log_end && common < cx.view.committed()) {
            // Of a level primary nothing has to be cut that is committed. But the log of a member that a resync has brought in
            // begins where that began, and we may have been away since before, kept in the set by the minimum.
            self.ask(cx, SetChange::Yield { to: from });
            return;
        }
        if common < cx.core.log_end {
            cut(cx, common);
            self.appended = common;
        }
        self.fetch(cx, from, end);
    }

    fn fetch(&mut self, cx: &mut Context<'_>, from: DiskId, end: LogPosition) {
        let Some(peer) = self.peers.iter().find(|p| p.disk == from) else { return };
        let (epoch, after) = (self.epoch, cx.core.log_end);
        cx.send(peer.disk, peer.incarnation, Message::Fetch { epoch, after });
        if let Phase::Peering(peering) = &mut self.phase {
            peering.step = Step::Fetching { from, end, asked: cx.clock.now };
        }
    }

    pub fn on_fetched(
        &mut self,
        cx: &mut Context<'_>,
        sender: DiskId,
        after: LogPosition,
        entries: &[Arc<Entry>],
        trimmed: bool,
    ) {
        let Phase::Peering(Peering { step: Step::Fetching { from, end, .. }, .. }) = self.phase else { return };
        if from != sender || after != cx.core.log_end || trimmed {
            return;
        }
        let mut accepted = Vec::with_capacity(entries.len());
        for entry in entries {
            if entry.header.previous != cx.core.log_end || !verifies(cx.core.config.pg.volume, entry) {
                cx.report(Report::DamagedOnTheWay { from });
                break;
            }
            cx.core.log_end = entry.header.position;
            accepted.push(Arc::clone(entry));
        }
        if !accepted.is_empty() {
            self.appended = cx.core.log_end;
            cx.act(Action::Append(accepted));
        }
        if cx.core.log_end < end {
            self.fetch(cx, from, end);
            return;
        }
        if let Phase::Peering(peering) = &mut self.phase {
            peering.step = Step::Promising;
        }
        self.choose(cx);
    }

    /// The log before this epoch is settled: the epoch's first entry closes it.
    fn lead(&mut self, cx: &mut Context<'_>) {
        self.first = self.sequence(cx, Effect::Nothing, Bytes::new(), None, None);
        if let Phase::Peering(peering) = &mut self.phase {
            peering.step = Step::Levelling { since: cx.clock.now };
        }
        self.join_members(cx);
    }

    /// Tells members that promised how their log joins ours.
    pub fn join_members(&mut self, cx: &mut Context<'_>) {
        if self.first == LogPosition::ZERO || cx.view.log_end() != self.appended {
            return;
        }
        let history = cx.view.history();
        let start = cx.view.log_start();
        for peer in &mut self.peers {
            let Link::Promised(theirs) = &peer.link else { continue };
            if !peer.counts() {
                continue;
            }
            let common = last_common(&history, &theirs.history).min(theirs.end);
            if common < start || (common < theirs.end && common < theirs.committed) {
                // The journal does not go back that far, or what would be cut is committed there.
                peer.link = Link::Apart;
                continue;
            }
            let message = Message::Level { epoch: self.epoch, expect_end: theirs.end, cut_after: common };
            peer.link = Link::Joined;
            peer.cursor = common;
            cx.send(peer.disk, peer.incarnation, message);
        }
    }

    /// Commits who was levelled; the rest is behind from then on.
    fn commit_levelled(&mut self, cx: &mut Context<'_>, since: BootTime) {
        if self.appended < self.first {
            return;
        }
        let first = self.first;
        let takes_part = |p: &Peer| p.is_in_sync() && p.live && !p.withdrawn && p.link != Link::Apart;
        let waiting = self.peers.iter().any(|p| takes_part(p) && p.acked < first);
        if waiting && cx.clock.now.since(since) < LEVEL_WAIT && !cx.core.planted(Mutant::SkipPeering) {
            return;
        }
        let mut disks = vec![cx.core.config.disk];
        let skip = cx.core.planted(Mutant::SkipPeering);
        disks.extend(
            self.peers.iter().filter(|p| p.is_in_sync() && p.live && (skip || p.acked >= first)).map(|p| p.disk),
        );
        self.ask(cx, SetChange::Levelled { disks });
    }

    pub fn serve(&mut self, cx: &mut Context<'_>) {
        self.phase = Phase::Serving;
        let now = cx.clock.now;
        for peer in &mut self.peers {
            peer.progress = now;
        }
        cx.report(Report::Serving { epoch: self.epoch });
        self.recheck = true;
    }
}
