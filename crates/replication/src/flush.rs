//! Flush (design 5): answered when every member of the old and the new set has reported, under its current incarnation, a
//! durable position at or past everything acknowledged before.

use crate::actions::{Action, Reply};
use crate::core::Context;
use crate::events::RequestToken;
use crate::mutants::Mutant;
use crate::primary::Primary;
use crate::requests::Gate;
use crate::tuning::{FLUSH_PATIENCE, SYNC_RETRY};
use weft_proto::replication::{Message, SyncWish};
use weft_types::error::NotServing;
use weft_types::{BootTime, DataError, LogPosition, LossGeneration, MapVersion, SessionId};

pub(crate) struct FlushWaiter {
    pub token: RequestToken,
    session: SessionId,
    target: LogPosition,
    since: BootTime,
    asked: BootTime,
}

impl Primary {
    /// Carries a flush out, or says that it has to wait for the group to serve.
    pub fn try_flush(
        &mut self,
        cx: &mut Context<'_>,
        token: RequestToken,
        map_version: MapVersion,
        session: SessionId,
    ) -> bool {
        match self.gate(cx, map_version, Some(session)) {
            Gate::Wait => return false,
            Gate::Refuse(error) => {
                cx.act(Action::Reply { token, result: Err(error) });
                return true;
            }
            Gate::Go => {}
        }
        let now = cx.clock.now;
        self.foresight.flushed();
        // The position is one of this epoch's log: a larger one of an earlier loss generation cannot meet it. Before anything
        // of this epoch is on every member, what earlier epochs acknowledged is still to be made durable: all of it lies
        // before the first entry of this one.
        let earlier = if cx.core.planted(Mutant::FlushOfThisEpoch) { LogPosition::ZERO } else { self.first };
        self.flushes.push(FlushWaiter { token, session, target: self.acked.max(earlier), since: now, asked: now });
        let durable = self.durable_on_all(cx);
        self.answer_flushes(cx, durable);
        if !self.flushes.is_empty() {
            self.wish_sync();
        }
        true
    }

    fn wish_sync(&mut self) {
        self.sync = SyncWish::Now;
        for peer in &mut self.peers {
            peer.sync = SyncWish::Now;
        }
    }

    pub fn answer_flushes(&mut self, cx: &mut Context<'_>, durable: LogPosition) {
        if self.flushes.is_empty() {
            return;
        }
        let of_map = cx.core.map.as_ref().map_or(LossGeneration(0), |map| map.record.loss_generation);
        let old = cx.core.planted(Mutant::FlushOldGeneration);
        let generation = if old { cx.core.saved.loss_generation } else { of_map };
        let mut at = 0;
        while at < self.flushes.len() {
            if self.flushes[at].target > durable {
                at += 1;
                continue;
            }
            // Lease and session are checked when it is answered, not only when it came (design 4.2).
            match self.gate(cx, MapVersion(0), Some(self.flushes[at].session)) {
                Gate::Wait => at += 1,
                Gate::Go => {
                    let flush = self.flushes.swap_remove(at);
                    cx.act(Action::Reply { token: flush.token, result: Ok(Reply::Flushed(generation)) });
                }
                Gate::Refuse(error) => {
                    let flush = self.flushes.swap_remove(at);
                    cx.act(Action::Reply { token: flush.token, result: Err(error) });
                }
            }
        }
    }

    /// At the end of a batch: one request here and one to every member that has something to sync for somebody. A member
    /// that got entries with this batch was told with them.
    pub fn send_syncs(&mut self, cx: &mut Context<'_>) {
        if std::mem::take(&mut self.sync) == SyncWish::Now && cx.core.durable < self.appended {
            cx.act(Action::RequestSync);
        }
        let target = self.appended;
        for peer in &mut self.peers {
            if peer.sync == SyncWish::Now && peer.is_joined() {
                peer.sync = SyncWish::Later;
                // A sync that is under way reports by itself.
                if peer.durable < target && peer.sync_asked < target {
                    peer.sync_asked = target;
                    let epoch = self.epoch;
                    cx.send(peer.disk, peer.incarnation, Message::Sync { epoch });
                }
            }
        }
    }

    /// Requests and reports may be lost with a connection.
    pub fn flush_again(&mut self, cx: &mut Context<'_>) {
        let now = cx.clock.now;
        let mut stale = !self.late.is_empty();
        for flush in &mut self.flushes {
            if now.since(flush.asked) >= SYNC_RETRY {
                flush.asked = now;
                stale = true;
            }
        }
        let (expired, rest) = std::mem::take(&mut self.flushes)
            .into_iter()
            .partition(|f: &FlushWaiter| now.since(f.since) >= FLUSH_PATIENCE);
        self.flushes = rest;
        let expired: Vec<FlushWaiter> = expired;
        for flush in expired {
            let error = DataError::NotServing { reason: NotServing::Overloaded };
            cx.act(Action::Reply { token: flush.token, result: Err(error) });
        }
        if stale {
            self.peers.iter_mut().for_each(|peer| peer.sync_asked = LogPosition::ZERO);
            self.wish_sync();
            self.advance(cx);
        }
    }
}
