//! The metadata group's table of locks, held against what owners believe and against what they wait for.
//!
//! Guarantees: it only looks. Must not know: how a lock is granted.

use crate::failure::Oracle;
use crate::held::OwnerOf;
use crate::world::{MS, SECOND, World};
use std::collections::BTreeMap;
use weft_meta::locks::list;
use weft_proto::admin::{LockState, LockSummary};
use weft_types::{LockKind, LockOwner, LockRange, SessionId};

const LOOK_EVERY: u64 = 250 * MS;
/// A dead client's lock is another's within this, when nothing else goes wrong (S4.14).
const DEAD_FOR: u64 = 15 * SECOND;
/// The same among faults: a fence may wait for a node that lags.
const DEAD_FOR_AMONG_FAULTS: u64 = 25 * SECOND;
/// What is begun ends within this after the last fault, when all data operations are answered.
const ENDS_WITHIN: u64 = 60 * SECOND;
const FOR_ONE_MORE: u64 = 40 * SECOND;

/// One wait: an owner that got what it waited for and waits for something else waits anew.
type Wait = (OwnerOf, LockRange, LockKind);

#[derive(Default)]
pub struct LockTable {
    /// Since when somebody waits, as far as was looked.
    waiting: BTreeMap<Wait, u64>,
    /// When a session first asked after its wait in a term.
    asked: BTreeMap<SessionId, (u64, u64)>,
    healed: Option<u64>,
    /// Since when nothing but what is done with files goes on.
    only_files: Option<u64>,
}

impl LockTable {
    pub fn asked(&mut self, session: SessionId, term: u64, now: u64) {
        let known = self.asked.entry(session).or_insert((term, now));
        if known.0 != term {
            *known = (term, now);
        }
    }
}

fn owner(lock: &LockSummary) -> OwnerOf {
    (lock.session, LockOwner(u64::from(lock.process_id)))
}

fn wait_of(lock: &LockSummary) -> Wait {
    (owner(lock), lock.range, lock.kind)
}

fn clash(one: &LockSummary, other: &LockSummary) -> bool {
    let same_bytes = one.inode == other.inode && one.range.overlaps(other.range);
    same_bytes && owner(one) != owner(other) && !one.kind.goes_with(other.kind)
}

impl World {
    pub fn keep_looking_at_locks(&mut self) {
        self.look_at_locks();
        self.look_at_debts();
        self.look_whether_files_end();
        self.after(LOOK_EVERY, "look at locks", Self::keep_looking_at_locks);
    }

    fn look_at_locks(&mut self) {
        let locks = match list(&self.metadata.view, None) {
            Ok(locks) => locks,
            Err(error) => return self.fail(Oracle::Integrity, format!("the metadata state cannot be read: {error}")),
        };
        let (held, waiting): (Vec<_>, Vec<_>) = locks.into_iter().partition(|lock| lock.state == LockState::Held);
        let wrong = self.lost(&held).or_else(|| forgotten(&held, &waiting));
        if let Some(what) = wrong.or_else(|| self.blocked_by_the_dead(&held, &waiting)) {
            self.fail(Oracle::Locks, what);
        }
    }

    /// A lock that its owner believes in and the table does not have, although its session was not struck off.
    fn lost(&self, held: &[LockSummary]) -> Option<String> {
        let beliefs: Vec<_> = self.ledger.open().held.all().collect();
        let lost = beliefs.into_iter().find(|(who, byte, kind)| {
            let has = held.iter().any(|lock| {
                let strong = lock.kind == *kind || lock.kind == LockKind::Exclusive;
                owner(lock) == *who && strong && (lock.range.first..=lock.range.last).contains(byte)
            });
            !has && self.metadata.map.is_live(who.0)
        });
        lost.map(|(who, byte, kind)| format!("{who:?} has byte {byte} {kind:?}, and the table does not know"))
    }

    /// Waits for what only the dead have end in time (S4.14).
    fn blocked_by_the_dead(&mut self, held: &[LockSummary], waiting: &[LockSummary]) -> Option<String> {
        let (now, led_since, term) = (self.now(), self.metadata.led_since, self.metadata.term);
        let before = std::mem::take(&mut self.lock_table.waiting);
        let since = waiting.iter().map(wait_of).map(|wait| (wait, before.get(&wait).copied().unwrap_or(now)));
        self.lock_table.waiting = since.collect();
        self.metadata.leader?;
        let dead = self.ledger.open().held.dead.clone();
        for wait in waiting {
            let Some((_, asked)) = self.lock_table.asked.get(&wait.session).filter(|(of, _)| *of == term) else {
                continue;
            };
            let mut blockers = held.iter().filter(|lock| clash(wait, lock)).map(|lock| dead.get(&lock.session));
            let Some(died) = blockers.clone().flatten().max().filter(|_| blockers.all(|died| died.is_some())) else {
                continue;
            };
            let waits = self.lock_table.waiting.get(&wait_of(wait)).copied().unwrap_or(now);
            let from = waits.max(*asked).max(*died).max(led_since);
            let limit =
                if self.lock_table.healed.is_some_and(|at| from >= at) { DEAD_FOR } else { DEAD_FOR_AMONG_FAULTS };
            if now - from > limit && !dead.contains_key(&wait.session) && !self.is_cut_off(wait.session) {
                let seconds = (now - from) / SECOND;
                return Some(format!("{:?} waits for {seconds} s for what only the dead have", owner(wait)));
            }
        }
        None
    }

    /// Whether the client of a session does not reach somebody, or sleeps.
    fn is_cut_off(&self, session: SessionId) -> bool {
        let index = self.clients.iter().position(|client| client.session_id() == Some(session));
        index.is_none_or(|index| {
            let end = crate::world::End::Client(index);
            let blocked = self.blocked.iter().any(|(from, to)| *from == end || *to == end);
            blocked || self.clients.get(index).is_some_and(|client| client.paused_until > self.now())
        })
    }

    /// When nothing else is under way, what clients do with files comes to its end.
    fn look_whether_files_end(&mut self) {
        let now = self.now();
        if self.quiet {
            self.lock_table.healed.get_or_insert(now);
        }
        let others = !self.quiet
            || !self.all_level()
            || self.metadata.leader.is_none()
            || self.clients.iter().any(|client| client.unanswered() > 0 || client.paused_until > now);
        if others || self.busy_tasks() == 0 {
            self.lock_table.only_files = None;
            return;
        }
        let since = *self.lock_table.only_files.get_or_insert(now);
        // Sessions that act on nothing are struck after half a minute each, one after the other if each has what all others want.
        let stuck = self.ledger.open().stuck.len() as u64;
        if now - since > ENDS_WITHIN + stuck.saturating_sub(1) * FOR_ONE_MORE {
            let waiting: Vec<OwnerOf> = self.ledger.open().held.waiting().collect();
            let what = format!("{} tasks do not end; owners that wait: {waiting:?}", self.busy_tasks());
            self.fail(Oracle::Settles, what);
        }
    }
}

/// A wait for which nobody is in the way.
fn forgotten(held: &[LockSummary], waiting: &[LockSummary]) -> Option<String> {
    let forgotten = waiting.iter().enumerate().find(|(at, wait)| {
        let mut ahead = waiting.iter().take(*at);
        !held.iter().any(|lock| clash(wait, lock)) && !ahead.any(|earlier| clash(wait, earlier))
    });
    forgotten.map(|(_, wait)| format!("{:?} waits for {:?}, which nobody has", owner(wait), wait.range))
}
