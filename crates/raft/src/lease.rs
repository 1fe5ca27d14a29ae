//! The leader's read lease: for a while after a quorum round nobody else can lead (decision 0010).
//!
//! Responsible for: when a leader may answer from its own state without a round, and for what every voter has to refrain
//! from meanwhile so that this holds: voting while it may have just promised not to, and standing for election.
//! Guarantees: while [`ReadLease::is_held`] no other node has become leader since the round began. In doubt it is not
//! held, and the caller takes a round. Must not know: Raft's messages, tasks, clocks (time is an argument: CLOCK_BOOTTIME).

use crate::group::Timing;
use crate::mutants::{Mutant, planted};
use std::time::Duration;
use weft_types::BootTime;

/// What a round was begun with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RoundStart {
    at: BootTime,
    votes: u64,
}

/// What a node that wants to stand for election has to do first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// Stand: until [`ReadLease::has_stood`] no leader is heard.
    Now,
    /// A leader may still rely on this node.
    After(Duration),
}

/// One node's part in read leases: as the leader that holds one, and as the voter that others rely on.
#[derive(Debug)]
pub(crate) struct ReadLease {
    /// How long a leader relies on a round, from when it began.
    length: Duration,
    /// How long a voter keeps still after it heard a leader, or started: longer than `length` by what clocks may differ.
    promise: Duration,
    started: BootTime,
    heard: Option<BootTime>,
    held_until: Option<BootTime>,
    /// Vote requests that were handed to Raft: a round that overlaps with one gives no lease.
    votes: u64,
    standing: bool,
}

impl ReadLease {
    /// `now`: when this process began to take part.
    pub(crate) fn new(timing: Timing, now: BootTime) -> Self {
        Self {
            length: timing.read_lease(),
            promise: timing.promise(),
            started: now,
            heard: None,
            held_until: None,
            votes: 0,
            standing: false,
        }
    }

    pub(crate) fn round_begins(&self, now: BootTime) -> RoundStart {
        RoundStart { at: now, votes: self.votes }
    }

    /// A majority has answered the round, and all that was committed when it began is applied here.
    pub(crate) fn round_succeeded(&mut self, round: RoundStart) {
        // This node counts itself in the majority, so it must not have voted for somebody else meanwhile.
        if round.votes != self.votes {
            return;
        }
        let until =
            if planted(Mutant::EndlessLease) { BootTime { nanoseconds: u64::MAX } } else { round.at + self.length };
        self.held_until = self.held_until.max(Some(until));
    }

    pub(crate) fn is_held(&self, now: BootTime) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }

    /// A vote request came. `false`: it must not reach Raft, for somebody may rely on this node's not voting. What this
    /// process promised before it was restarted it does not know; so it waits that long. Promises to leaders that this
    /// process has heard are kept by openraft (decision 0010).
    pub(crate) fn may_vote(&mut self, now: BootTime) -> bool {
        let may = (now.since(self.started) >= self.promise || planted(Mutant::VoteAtOnce)) && !self.is_held(now);
        if may {
            self.votes += 1;
            self.held_until = None;
        }
        may
    }

    /// A message of a leader came. `false`: it must not reach Raft, because this node is about to stand for election.
    pub(crate) fn hear_leader(&mut self, now: BootTime) -> bool {
        if !self.standing {
            self.heard = Some(now);
        }
        !self.standing
    }

    /// This node wants to stand for election ahead of openraft's own time. After `Now` comes [`ReadLease::has_stood`].
    pub(crate) fn stand(&mut self, now: BootTime) -> Standing {
        let quiet_since = self.heard.unwrap_or(self.started).max(self.started);
        let waited = now.since(quiet_since);
        if waited >= self.promise || planted(Mutant::VoteAtOnce) {
            self.standing = true;
            self.votes += 1;
            self.held_until = None;
            return Standing::Now;
        }
        Standing::After(self.promise - waited)
    }

    /// Raft has been told to stand; whatever it hears from now on it hears after that.
    pub(crate) fn has_stood(&mut self) {
        self.standing = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing { heartbeat_ms: 100, election_base_ms: 300, election_slot_ms: 60 };

    fn at(milliseconds: u64) -> BootTime {
        BootTime::from_millis(10_000 + milliseconds)
    }

    /// A node that has run for long.
    fn lease() -> ReadLease {
        ReadLease::new(TIMING, BootTime::ZERO)
    }

    #[test]
    fn a_lease_counts_from_the_beginning_of_its_round_and_ends() {
        let mut lease = lease();
        let round = lease.round_begins(at(0));
        assert!(!lease.is_held(at(0)));
        lease.round_succeeded(round);
        assert!(lease.is_held(at(249)));
        assert!(!lease.is_held(at(250)));
    }

    #[test]
    fn an_earlier_round_does_not_shorten_a_lease() {
        let mut lease = lease();
        let (first, second) = (lease.round_begins(at(0)), lease.round_begins(at(100)));
        lease.round_succeeded(second);
        lease.round_succeeded(first);
        assert!(lease.is_held(at(349)));
    }

    #[test]
    fn a_leader_with_a_lease_votes_for_nobody_and_one_that_voted_has_none() {
        let mut lease = lease();
        let round = lease.round_begins(at(0));
        lease.round_succeeded(round);
        assert!(!lease.may_vote(at(100)));
        assert!(lease.may_vote(at(260)));
        assert!(!lease.is_held(at(260)));
    }

    #[test]
    fn a_round_during_which_this_node_may_have_voted_gives_no_lease() {
        let mut lease = lease();
        let round = lease.round_begins(at(0));
        assert!(lease.may_vote(at(1)));
        lease.round_succeeded(round);
        assert!(!lease.is_held(at(2)));
    }

    #[test]
    fn a_restarted_voter_waits_for_what_it_may_have_promised() {
        let mut lease = ReadLease::new(TIMING, at(0));
        assert!(!lease.may_vote(at(299)));
        assert_eq!(lease.stand(at(299)), Standing::After(Duration::from_millis(1)));
        assert!(lease.may_vote(at(300)));
    }

    #[test]
    fn who_has_just_heard_a_leader_does_not_stand() {
        let mut lease = lease();
        assert!(lease.hear_leader(at(0)));
        assert_eq!(lease.stand(at(100)), Standing::After(Duration::from_millis(200)));
        assert_eq!(lease.stand(at(300)), Standing::Now);
        // Between the decision and Raft's hearing of it nothing may be promised.
        assert!(!lease.hear_leader(at(300)));
        lease.has_stood();
        assert!(lease.hear_leader(at(301)));
    }

    /// A restarted voter, a leader that relies on what it promised before, and a candidate that asks for its vote.
    fn elected_within_a_lease() -> bool {
        let (mut leader, mut voter) = (lease(), lease());
        let round = leader.round_begins(at(0));
        assert!(voter.hear_leader(at(1)));
        leader.round_succeeded(round);
        let mut restarted = ReadLease::new(TIMING, at(50));
        restarted.may_vote(at(60)) && leader.is_held(at(60))
    }

    #[test]
    fn nobody_is_elected_with_the_vote_of_a_restarted_voter_while_a_leader_relies_on_it() {
        assert!(!elected_within_a_lease());
        crate::mutants::plant(Some(Mutant::VoteAtOnce));
        let caught = elected_within_a_lease();
        crate::mutants::plant(None);
        assert!(caught, "the planted bug went unnoticed");
    }

    #[test]
    fn a_promise_outlasts_the_lease_that_relies_on_it_by_what_clocks_may_differ() {
        let (length, promise) = (TIMING.read_lease(), TIMING.promise());
        assert!(length + length / 10 < promise, "{length:?} {promise:?}");
    }
}
