//! Leases of sessions: when one has lapsed, when it is struck, when its fence is complete (design 4.4).

use super::events::Facts;
use super::nodes::NodeLeases;
use super::{Proposer, Topic};
use crate::command::Command;
use crate::mutants::{Mutant, planted};
use std::collections::{BTreeMap, BTreeSet};
use weft_types::limits::{LEASE_MARGIN, RECALL_DEADLINE, SESSION_ABANDONED, SESSION_TTL};
use weft_types::{BootTime, SessionId};

#[derive(Clone, Copy, Debug)]
struct SessionLease {
    answered: BootTime,
    /// Somebody asked for what it holds since it was last answered.
    wanted: bool,
    evicted: bool,
    /// Its strike was proposed; it is never answered again.
    condemned: bool,
    struck: bool,
}

/// How long a session has had for what it owes.
#[derive(Clone, Copy, Debug)]
struct Owed {
    /// Since when this leader knows of it, later by as long as another session has held it up.
    since: BootTime,
    /// Another session holds it up since then (decision 0014).
    held_up_since: Option<BootTime>,
}

impl Owed {
    /// What is held up now was not before, or the other way round, or nothing has changed.
    fn follow(mut self, held_up: bool, now: BootTime) -> Self {
        match self.held_up_since {
            None if held_up => self.held_up_since = Some(now),
            Some(from) if !held_up => {
                self.since = self.since + now.since(from);
                self.held_up_since = None;
            }
            _ => {}
        }
        self
    }

    /// Nobody is blamed for what somebody else holds up: that one is struck first, and leaves the time that is left.
    fn is_overdue(&self, now: BootTime) -> bool {
        self.held_up_since.is_none() && now.since(self.since) >= RECALL_DEADLINE
    }
}

#[derive(Debug)]
pub(super) struct SessionLeases {
    leases: BTreeMap<SessionId, SessionLease>,
    /// What sessions owe, by the debt's number.
    debts: BTreeMap<(SessionId, u64), Owed>,
    /// Highest id known; one above was opened by a command that is not in the facts yet.
    highest: SessionId,
}

#[derive(Debug)]
pub(super) enum NoAnswer {
    Silence,
    Fenced,
}

impl SessionLeases {
    /// A new leader waits a whole TTL before it calls a session lapsed (attack new-leader-haste).
    pub fn begin(facts: &Facts, now: BootTime) -> Self {
        let mut leases = Self { leases: BTreeMap::new(), debts: BTreeMap::new(), highest: SessionId(0) };
        leases.sync(facts, if planted(Mutant::HastyLeader) { BootTime::ZERO } else { now });
        leases
    }

    pub fn sync(&mut self, facts: &Facts, now: BootTime) {
        let known: BTreeMap<SessionId, bool> =
            facts.sessions.iter().map(|s| (s.session, s.struck_since.is_some())).collect();
        self.leases.retain(|session, _| known.contains_key(session));
        for (session, struck) in known {
            self.highest = self.highest.max(session);
            let fresh = SessionLease { answered: now, wanted: false, evicted: false, condemned: false, struck };
            self.leases.entry(session).or_insert(fresh).struck = struck;
        }
        let held_up = if planted(Mutant::BlameWhoIsHeldUp) { BTreeSet::new() } else { facts.held_up() };
        let debts = facts.debts.iter().map(|debt| {
            let key = (debt.session, debt.number);
            let owed = self.debts.get(&key).copied().unwrap_or(Owed { since: now, held_up_since: None });
            (key, owed.follow(held_up.contains(&key), now))
        });
        self.debts = debts.collect();
    }

    pub fn receive(&self, session: SessionId) -> Result<(), NoAnswer> {
        match self.leases.get(&session) {
            Some(lease) if lease.struck => Err(NoAnswer::Fenced),
            Some(lease) if lease.condemned => Err(NoAnswer::Silence),
            Some(_) => Ok(()),
            None if session > self.highest => Err(NoAnswer::Silence),
            None => Err(NoAnswer::Fenced),
        }
    }

    /// Whether a heartbeat whose round is done is answered.
    pub fn answer(&mut self, session: SessionId, received: BootTime) -> bool {
        match self.leases.get_mut(&session) {
            Some(lease) if !lease.struck && !lease.condemned => {
                lease.answered = lease.answered.max(received);
                // It is alive; who still wants something of it asks again.
                lease.wanted = false;
                true
            }
            _ => false,
        }
    }

    pub fn want(&mut self, session: SessionId) {
        if let Some(lease) = self.leases.get_mut(&session) {
            lease.wanted = true;
        }
    }

    pub fn evict(&mut self, session: SessionId) {
        if let Some(lease) = self.leases.get_mut(&session) {
            lease.evicted = true;
        }
    }

    /// A lapsed session is left alone until somebody asks for what it holds (attack lapsed-not-struck).
    pub fn strike(&mut self, now: BootTime, propose: &mut Proposer<'_>) {
        for (session, lease) in self.leases.iter_mut().filter(|(_, lease)| !lease.struck) {
            let silent_for = now.since(lease.answered);
            let lapsed = silent_for >= SESSION_TTL + LEASE_MARGIN;
            let mut owed = self.debts.range((*session, 0)..=(*session, u64::MAX)).map(|(_, owed)| owed).peekable();
            let asked = lease.wanted || owed.peek().is_some() || planted(Mutant::StrikeLapsed);
            // A live one that was asked for its cap has had time to give it up (decision 0014).
            lease.condemned |= owed.any(|owed| owed.is_overdue(now)) && !planted(Mutant::NoRecallDeadline);
            if lease.condemned || lease.evicted || (lapsed && asked) || silent_for >= SESSION_ABANDONED {
                lease.condemned = true;
                propose.propose(Topic::Strike(*session), Command::StrikeSession { session: *session });
            }
        }
    }

    /// A fence is complete when every live node has acknowledged that the session is struck (design 4.3, 4.4).
    pub fn complete_fences(&self, facts: &Facts, nodes: &NodeLeases, propose: &mut Proposer<'_>) {
        for fact in &facts.sessions {
            if let Some(since) = fact.struck_since
                && nodes.acknowledged(since)
            {
                let command = Command::FenceComplete { session: fact.session, since };
                propose.propose(Topic::Fence(fact.session), command);
            }
        }
    }
}
