//! Heartbeats wait here for a quorum round that begins after they came (design 4.1); many share one round.

use super::events::{LeaderAction, RoundId, Ticket};
use crate::mutants::{Mutant, planted};
use weft_types::limits::MAX_WAITING_HEARTBEATS;
use weft_types::{BootTime, Incarnation, NodeId, SessionId};

#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub ticket: Ticket,
    pub who: Who,
    pub received_at: BootTime,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Who {
    Node { node: NodeId, incarnation: Incarnation },
    Session { session: SessionId },
}

#[derive(Debug)]
pub(super) struct Rounds {
    last: u64,
    running: Option<(RoundId, Vec<Waiting>)>,
    /// Came after the running round began.
    next: Vec<Waiting>,
}

impl Rounds {
    pub const fn new(last: u64) -> Self {
        Self { last, running: None, next: Vec::new() }
    }

    pub const fn last(&self) -> u64 {
        self.last
    }

    pub fn wait(&mut self, waiting: Waiting, out: &mut Vec<LeaderAction>) {
        if self.next.len() >= MAX_WAITING_HEARTBEATS {
            out.push(LeaderAction::Drop { ticket: waiting.ticket });
            return;
        }
        match &mut self.running {
            Some((_, joined)) if planted(Mutant::AnswerWithoutRound) => joined.push(waiting),
            Some(_) => self.next.push(waiting),
            None => {
                self.next.push(waiting);
                self.start(out);
            }
        }
    }

    /// Those whose round this was; the next one begins if anybody waits for it.
    pub fn done(&mut self, round: RoundId, out: &mut Vec<LeaderAction>) -> Vec<Waiting> {
        match self.running.take() {
            Some((id, waiting)) if id == round => {
                if !self.next.is_empty() {
                    self.start(out);
                }
                waiting
            }
            other => {
                self.running = other;
                Vec::new()
            }
        }
    }

    fn start(&mut self, out: &mut Vec<LeaderAction>) {
        self.last += 1;
        let round = RoundId(self.last);
        self.running = Some((round, std::mem::take(&mut self.next)));
        out.push(LeaderAction::StartQuorumRound { round });
    }
}
