//! Requests that the leader holds open until something has happened: `AwaitLock` (decision 0009).
//!
//! Modelled after `weft_node::control::locks`: the same looks at the state, on simulated time. Guarantees: as long as
//! somebody waits, the sessions in the way are asked after. Must not know: what makes a wait end.

use super::OnReply;
use crate::world::{MS, World};
use weft_meta::leader::LeaderEvent;
use weft_meta::locks::{LockWaitState, wait_state};
use weft_proto::control::ControlReply;
use weft_types::limits::{LOCK_BLOCKER_CHECK, LOCK_POLL_WAIT};
use weft_types::{ErrorKind, InodeNumber, NodeId, RequestNumber, SessionId};

/// A request that waits for a lock at one node.
pub struct LockPoll {
    pub session: SessionId,
    pub inode: InodeNumber,
    pub request: RequestNumber,
    deadline: u64,
    number: u64,
    answer: OnReply,
}

impl World {
    pub(super) fn await_lock(
        &mut self,
        at: NodeId,
        (session, inode, request): (SessionId, InodeNumber, RequestNumber),
        wait_ms: u32,
        answer: OnReply,
    ) {
        let Some(process) = self.nodes.get_mut(&at).and_then(|n| n.process.as_mut()) else { return };
        process.last_ticket += 1;
        let number = process.last_ticket;
        let longest = u64::try_from(LOCK_POLL_WAIT.as_nanos()).unwrap_or(u64::MAX);
        let deadline = self.now() + (u64::from(wait_ms) * MS).min(longest);
        // A quorum round that begins now.
        let delay = 2 * self.latency();
        let (life, term) = (self.life_of(at), self.metadata.term);
        self.after(delay, "lock poll", move |world| {
            if world.life_of(at) != life {
                return;
            }
            if world.metadata.leader != Some(at) || world.metadata.term != term {
                let why = ErrorKind::Unavailable("no quorum".to_owned());
                return answer(world, Some(ControlReply::Refused(why)));
            }
            world.lock_table.asked(session, term, world.now());
            world.look_at_poll(at, LockPoll { session, inode, request, deadline, number, answer });
        });
    }

    fn look_at_poll(&mut self, at: NodeId, poll: LockPoll) {
        let reply = match wait_state(&self.metadata.view, poll.session, poll.inode, poll.request) {
            Ok(LockWaitState::Over) => ControlReply::LockGranted,
            Ok(LockWaitState::Fenced) => ControlReply::Refused(ErrorKind::Fenced),
            Ok(LockWaitState::Waiting { blockers }) => {
                for session in blockers {
                    self.wanted.insert(session);
                    self.step_leader(at, LeaderEvent::SessionWanted { session });
                }
                if self.now() < poll.deadline {
                    return self.keep_poll(at, poll);
                }
                ControlReply::LockWaits
            }
            Err(error) => ControlReply::Refused(ErrorKind::Io(error.to_string())),
        };
        (poll.answer)(self, Some(reply));
    }

    fn keep_poll(&mut self, at: NodeId, poll: LockPoll) {
        let check = u64::try_from(LOCK_BLOCKER_CHECK.as_nanos()).unwrap_or(u64::MAX);
        let again = poll.deadline.min(self.now() + check).max(self.now() + 1);
        let (number, life) = (poll.number, self.life_of(at));
        let Some(process) = self.nodes.get_mut(&at).and_then(|n| n.process.as_mut()) else { return };
        process.lock_polls.push(poll);
        self.at(again, "lock poll", move |world| {
            if world.life_of(at) == life {
                world.look_again(at, |poll| poll.number == number);
            }
        });
    }

    fn look_again(&mut self, at: NodeId, which: impl Fn(&LockPoll) -> bool) {
        let Some(process) = self.nodes.get_mut(&at).and_then(|n| n.process.as_mut()) else { return };
        let found: Vec<LockPoll> = process.lock_polls.extract_if(.., |poll| which(poll)).collect();
        for poll in found {
            self.look_at_poll(at, poll);
        }
    }

    /// Waits for locks are over: whoever asks after them hears it from the node that leads.
    pub fn waits_settled(&mut self, settled: &[(SessionId, RequestNumber)]) {
        let Some(leader) = self.metadata.leader.filter(|_| !settled.is_empty()) else { return };
        self.look_again(leader, |poll| settled.contains(&(poll.session, poll.request)));
    }

    /// Polls of a node that leads no more.
    pub fn end_polls(&mut self, at: NodeId) {
        let Some(process) = self.nodes.get_mut(&at).and_then(|n| n.process.as_mut()) else { return };
        for poll in std::mem::take(&mut process.lock_polls) {
            (poll.answer)(self, Some(ControlReply::NotLeader { leader: None }));
        }
    }
}
