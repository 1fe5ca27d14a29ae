//! Who may do what, watched at the moment at which the metadata group gives a right to somebody else (design 4).
//!
//! These oracles see the node that would still serve, also when no client happens to ask it. Guarantees: they know the
//! nodes' own clocks and leases, which the leader does not. Must not know: how the leader waits.

use crate::failure::Oracle;
use crate::world::{SECOND, World};
use weft_client::core::SessionState;
use weft_meta::read;
use weft_types::limits::{LOSSLESS_WAIT, RECALL_DEADLINE};
use weft_types::map::ClusterMap;
use weft_types::{Incarnation, NodeId, PgId, PgRecord, SessionId};

/// A new leader waits for leases that others gave, a node lags for a whole lease, and its own lapses: two seconds each, and as
/// long again for whatever gets lost.
const OWED_FOR: u64 = 10 * SECOND;

/// In a sound cluster a session does what others want of it within so long.
const SOUND_FOR: u64 = 10 * SECOND;

impl World {
    /// Whether this node answers clients, by its own clock.
    pub fn serves(&self, node: NodeId) -> bool {
        let node = self.nodes.get(&node).filter(|node| !node.disk_lost);
        node.and_then(|node| node.process.as_ref()).is_some_and(|process| process.turn.holds_lease())
    }

    /// The leader has called a node dead: nobody waits for it any more.
    pub fn called_dead(&mut self, node: NodeId, incarnation: Incarnation) {
        let process = self.nodes.get(&node).and_then(|n| n.process.as_ref());
        if process.and_then(|process| process.incarnation()) == Some(incarnation) && self.serves(node) {
            self.fail(Oracle::Rights, format!("node {node} is called dead while it holds a lease"));
        }
    }

    /// Only who is not heard of, and has what somebody else asks for, is struck off (design 4.4).
    pub fn session_struck(&mut self, session: SessionId) {
        if self.evicted.contains(&session) {
            return;
        }
        let live = self.clients.iter().find_map(|client| client.session_state(session)) == Some(SessionState::Live);
        let owes = match read::facts(&self.metadata.view) {
            Ok(facts) => facts.debts.iter().any(|debt| debt.session == session),
            Err(error) => return self.fail(Oracle::Integrity, format!("the metadata state cannot be read: {error}")),
        };
        if live && self.owes_for_long(session) {
            // Live, and has kept for half a minute what others wait for (decision 0014).
            self.stats.count("sessions struck that owed something for long");
            self.ledger.open().evicted.insert(session);
            // Nothing keeps one from it that wants to: it has had time since the last fault.
            let could = self.sound.is_some_and(|since| self.now() - since >= SOUND_FOR);
            if could && !self.ledger.open().stuck.contains(&session) {
                self.fail(
                    Oracle::Settles,
                    format!("session {session} could not do what others wanted in a sound cluster"),
                );
            }
        } else if !self.wanted.contains(&session) && !owes {
            self.fail(Oracle::Rights, format!("session {session} is struck off, and nobody wants what it has"));
        } else if live {
            self.fail(Oracle::Rights, format!("session {session} is struck off while its clock says that it lives"));
        }
    }

    /// Looks what sessions owe, so that it is known for how long.
    pub fn look_at_debts(&mut self) {
        let Ok(facts) = read::facts(&self.metadata.view) else { return };
        let now = self.now();
        let before = std::mem::take(&mut self.debts);
        let passed = now - std::mem::replace(&mut self.looked_at_debts, now);
        let held_up = facts.held_up();
        let debts = facts.debts.iter().map(|debt| (debt.session, debt.number));
        let since = |debt: &(SessionId, u64)| {
            let since = before.get(debt).copied().unwrap_or(now);
            // Nobody is blamed for the time in which another session held it up (decision 0014).
            if held_up.contains(debt) { now.min(since + passed) } else { since }
        };
        self.debts = debts.map(|debt| (debt, since(&debt))).collect();
    }

    /// A live session that keeps what others wait for is struck in the end (decision 0014).
    fn keeps_for_ever(&self) -> Option<SessionId> {
        let (now, led_since) = (self.now(), self.metadata.led_since);
        let longest = RECALL_DEADLINE.as_secs() * SECOND + OWED_FOR;
        let overdue = |since: u64| now - since.max(led_since) > longest;
        let kept = self.debts.iter().find(|((id, _), since)| overdue(**since) && !self.struck.contains_key(id));
        kept.map(|((id, _), _)| *id)
    }

    fn owes_for_long(&self, session: SessionId) -> bool {
        let now = self.now();
        let mut owed = self.debts.range((session, 0)..=(session, u64::MAX));
        owed.any(|(_, since)| now - since + SECOND >= RECALL_DEADLINE.as_secs() * SECOND)
    }

    /// What a session had is free if its record is gone: nobody may still act on its behalf.
    pub fn session_freed(&mut self, session: SessionId) {
        match read::facts(&self.metadata.view) {
            Ok(facts) if facts.sessions.iter().any(|fact| fact.session == session) => {
                let now = self.now();
                self.struck.entry(session).or_insert(now);
                return;
            }
            Ok(_) => {
                self.struck.remove(&session);
                self.note_fence(session);
            }
            Err(error) => return self.fail(Oracle::Integrity, format!("the metadata state cannot be read: {error}")),
        }
        let now = self.now();
        self.registers.values_mut().for_each(|register| register.fence(session.0, now));
        let knows = |id: &NodeId| {
            let map = self.nodes.get(id).and_then(|n| n.process.as_ref()).and_then(|process| process.turn.map());
            map.is_none_or(|map| !map.is_live(session))
        };
        let late = self.nodes.keys().copied().find(|id| self.serves(*id) && !knows(id));
        if let Some(node) = late {
            self.fail(Oracle::Rights, format!("node {node} serves session {session}, whose fence is complete"));
        }
    }

    /// What waits for nodes to acknowledge it goes on within a bounded time under one leader: a node that does not keep up
    /// loses its lease and is waited for no more (design 4.2).
    pub fn look_at_what_is_owed(&mut self) {
        if self.metadata.leader.is_none() {
            return;
        }
        let (now, led_since) = (self.now(), self.metadata.led_since);
        let overdue = |since: u64| now - since.max(led_since) > OWED_FOR;
        let fence = self.struck.iter().find(|(_, since)| overdue(**since)).map(|(id, _)| format!("fence of {id}"));
        let moved = self.moving.iter().find(|(_, since)| overdue(**since)).map(|(pg, _)| format!("move of group {pg}"));
        if let Some(what) = fence.or(moved) {
            self.fail(Oracle::Settles, format!("the {what} waits for longer than {} s", OWED_FOR / SECOND));
        }
        if let Some(session) = self.keeps_for_ever() {
            self.fail(Oracle::Settles, format!("session {session} keeps what others wait for, and is not struck off"));
        }
    }

    /// A member that lost nothing may come back for a minute before the longest lossy log wins (design 5.4).
    pub fn loss_accepted(&mut self, pg: PgId) {
        let waited = self.headless.get(&pg).map_or(0, |since| self.now() - since);
        // The leader's clock is off by at most one in a hundred.
        if waited < LOSSLESS_WAIT.as_secs() * SECOND / 100 * 98 {
            self.fail(Oracle::Rights, format!("group {pg}: a loss is accepted after {} ms", waited / (SECOND / 1000)));
        }
    }

    /// Whoever is level leaves the set only when enough level members are left (design 5.3).
    pub fn set_shrank(&mut self, before: &PgRecord, after: &PgRecord) {
        let level = |record: &PgRecord| record.members.iter().filter(|member| member.is_level()).count();
        let left = |member: &&weft_types::Member| after.member(member.disk).is_none_or(|now| !now.is_in_sync());
        let gone = before.members.iter().filter(|member| member.is_level()).find(left);
        if let Some(gone) = gone
            && level(after) < usize::from(after.min_in_sync)
        {
            let what = format!("disk {} left the set, and {} level members are left", gone.disk, level(after));
            self.fail(Oracle::Rights, format!("group {}: {what}", after.pg));
        }
    }

    /// A primary gives way only when it knows, or can serve no more (design 4.3).
    pub fn primary_changed(&mut self, before: &PgRecord, new: &ClusterMap) {
        let Some(old) = before.primary_member().map(|member| member.node) else { return };
        // It has levelled nobody at this epoch, so it has served nobody: a lossy primary that leads the others' longest log
        // gives way by its own request, and hears of it like everybody (seed 845).
        if before.levelled_epoch != before.epoch {
            return;
        }
        let still = self.nodes.get(&old).and_then(|n| n.process.as_ref()).is_some_and(|process| {
            let known = new.nodes.iter().find(|n| n.id == old).map(|n| n.incarnation);
            let map = process.turn.map();
            let record = map.as_ref().and_then(|map| map.pgs.iter().find(|r| r.pg == before.pg));
            process.incarnation() == known
                && record
                    .is_some_and(|r| r.epoch == before.epoch && r.primary == before.primary && r.pending_move.is_none())
        });
        if still && self.serves(old) {
            let what =
                format!("group {}: node {old} still leads epoch {} when another takes over", before.pg, before.epoch);
            self.fail(Oracle::Rights, what);
        }
    }
}
