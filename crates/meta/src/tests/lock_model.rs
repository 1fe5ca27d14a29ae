//! Random lock operations of several owners in two sessions, compared after each step with a table that knows nothing of
//! ranges: for each byte, who has it and how. `WEFT_SEED` replays one run, `WEFT_SEEDS` runs more.

use super::locks::{EXCLUSIVE, SHARED, Two, range};
use super::model::Random;
use crate::locks::list;
use crate::mutants::{Mutant, plant};
use std::collections::{BTreeMap, BTreeSet};
use weft_proto::admin::LockState;
use weft_proto::namespace::{LockChange, LockWait, Mutation, NamespaceReply};
use weft_types::{ErrorKind, LockKind, LockOwner, LockRange, RequestNumber, SessionId};

const BYTES: u64 = 24;
const OWNERS: u64 = 3;
const STEPS: u64 = 300;
const SEEDS: u64 = 40;

type Who = (SessionId, u64);

struct WaitingFor {
    who: Who,
    bytes: LockRange,
    kind: LockKind,
    request: RequestNumber,
}

/// The reference: no ranges, only bytes; no graph, only everybody who is in somebody's way.
#[derive(Default)]
struct Reference {
    bytes: BTreeMap<u64, BTreeMap<Who, LockKind>>,
    queue: Vec<WaitingFor>,
}

fn clash(a: (Who, LockRange, LockKind), b: (Who, LockRange, LockKind)) -> bool {
    let shares = (a.1.first..=a.1.last).any(|byte| (b.1.first..=b.1.last).contains(&byte));
    a.0 != b.0 && shares && (a.2 == EXCLUSIVE || b.2 == EXCLUSIVE)
}

impl Reference {
    fn holders_in_the_way(&self, who: Who, bytes: LockRange, kind: LockKind) -> BTreeSet<Who> {
        let on_bytes = (bytes.first..=bytes.last).filter_map(|byte| self.bytes.get(&byte)).flatten();
        let others = on_bytes.filter(|(other, held)| **other != who && (kind == EXCLUSIVE || **held == EXCLUSIVE));
        others.map(|(other, _)| *other).collect()
    }

    fn set(&mut self, who: Who, bytes: LockRange, kind: Option<LockKind>) {
        for byte in bytes.first..=bytes.last {
            let holders = self.bytes.entry(byte).or_default();
            match kind {
                Some(kind) => drop(holders.insert(who, kind)),
                None => drop(holders.remove(&who)),
            }
        }
    }

    /// Everybody whom the waits in the queue wait for, one pair each.
    fn edges(&self) -> Vec<(Who, Who)> {
        let mut edges = Vec::new();
        for (at, wait) in self.queue.iter().enumerate() {
            let holders = self.holders_in_the_way(wait.who, wait.bytes, wait.kind);
            edges.extend(holders.into_iter().map(|other| (wait.who, other)));
            for earlier in &self.queue[..at] {
                if clash((wait.who, wait.bytes, wait.kind), (earlier.who, earlier.bytes, earlier.kind)) {
                    edges.push((wait.who, earlier.who));
                }
            }
        }
        edges
    }

    fn waits_for_itself(&self, who: Who) -> bool {
        let edges = self.edges();
        let mut reached: BTreeSet<Who> = edges.iter().filter(|(from, _)| *from == who).map(|(_, to)| *to).collect();
        loop {
            let further: BTreeSet<Who> =
                edges.iter().filter(|(from, _)| reached.contains(from)).map(|(_, to)| *to).collect();
            if further.is_subset(&reached) {
                return reached.contains(&who);
            }
            reached.extend(further);
        }
    }

    fn grant(&mut self) {
        let mut still: Vec<WaitingFor> = Vec::new();
        for wait in std::mem::take(&mut self.queue) {
            let this = (wait.who, wait.bytes, wait.kind);
            let behind = still.iter().any(|earlier| clash(this, (earlier.who, earlier.bytes, earlier.kind)));
            if behind || !self.holders_in_the_way(wait.who, wait.bytes, wait.kind).is_empty() {
                still.push(wait);
            } else {
                self.set(wait.who, wait.bytes, Some(wait.kind));
            }
        }
        self.queue = still;
    }

    fn drop_owners(&mut self, gone: impl Fn(Who) -> bool) {
        for holders in self.bytes.values_mut() {
            holders.retain(|who, _| !gone(*who));
        }
        self.queue.retain(|wait| !gone(wait.who));
        self.grant();
    }
}

fn run(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let mut two = Two::new();
    let mut reference = Reference::default();
    for step in 0..STEPS {
        let what = one_step(&mut random, &mut two, &mut reference)
            .map_err(|why| format!("seed {seed}, step {step}: {why}"))?;
        compare(&two, &reference).map_err(|why| format!("seed {seed}, step {step} ({what}): {why}"))?;
    }
    two.w.verdict()
}

fn one_step(random: &mut Random, two: &mut Two, reference: &mut Reference) -> Result<String, String> {
    let session = if random.below(2) == 0 { two.s } else { two.t };
    let who = (session, random.below(OWNERS));
    let owner = LockOwner(who.1);
    let (a, b) = (random.below(BYTES), random.below(BYTES));
    let bytes = range(a.min(b), a.max(b));
    let kind = if random.below(2) == 0 { SHARED } else { EXCLUSIVE };
    let waits_already = reference.queue.iter().any(|wait| wait.who == who);
    let inode = two.file;
    let ask = |two: &mut Two, change| two.w.mutate(session, Mutation::Lock { inode, change });
    match random.below(20) {
        // An owner that waits does nothing else.
        0..=11 if !waits_already => {
            let wait = if random.below(3) == 0 { LockWait::No } else { LockWait::Yes };
            let reply = ask(two, LockChange::Set { owner, range: bytes, kind, process_id: 1, wait });
            expect_lock(reference, who, bytes, kind, wait, &reply)?;
            Ok(format!("{who:?} {kind:?} {bytes:?} {wait:?}: {reply:?}"))
        }
        12..=16 if !waits_already => {
            let reply = ask(two, LockChange::Unlock { owner, range: bytes });
            reference.set(who, bytes, None);
            reference.grant();
            if reply == Ok(NamespaceReply::Done) {
                Ok(format!("{who:?} unlocks {bytes:?}"))
            } else {
                Err(format!("{reply:?}"))
            }
        }
        17 => {
            let reply = ask(two, LockChange::Release { owner });
            reference.drop_owners(|other| other == who);
            if reply == Ok(NamespaceReply::Done) { Ok(format!("{who:?} is gone")) } else { Err(format!("{reply:?}")) }
        }
        18 => {
            let Some(at) = reference.queue.iter().position(|wait| wait.who.0 == session) else {
                return Ok("nothing to give up".to_owned());
            };
            let wait = reference.queue.remove(at);
            let reply = ask(two, LockChange::Cancel { request: wait.request });
            reference.grant();
            if reply == Ok(NamespaceReply::Done) {
                Ok(format!("{:?} gives up", wait.who))
            } else {
                Err(format!("{reply:?}"))
            }
        }
        19 if random.below(4) == 0 => {
            two.w.mutate(session, Mutation::Close { inode }).map_err(|e| e.to_string())?;
            two.w.open(session, inode, false).map_err(|e| e.to_string())?;
            reference.drop_owners(|other| other.0 == session);
            Ok(format!("{session:?} closes"))
        }
        _ => Ok("nothing".to_owned()),
    }
}

fn expect_lock(
    reference: &mut Reference,
    who: Who,
    bytes: LockRange,
    kind: LockKind,
    wait: LockWait,
    reply: &Result<NamespaceReply, ErrorKind>,
) -> Result<(), String> {
    let free = reference.holders_in_the_way(who, bytes, kind).is_empty();
    if free {
        reference.set(who, bytes, Some(kind));
        reference.grant();
        return if *reply == Ok(NamespaceReply::Locked) { Ok(()) } else { Err(format!("free, but {reply:?}")) };
    }
    if wait == LockWait::No {
        let refused = matches!(reply, Ok(NamespaceReply::LockConflict(Some(_))));
        return if refused { Ok(()) } else { Err(format!("not free, but {reply:?}")) };
    }
    let request = match reply {
        Ok(NamespaceReply::LockWaits { request }) => Some(*request),
        Err(ErrorKind::Deadlock) => None,
        other => return Err(format!("not free, but {other:?}")),
    };
    reference.queue.push(WaitingFor { who, bytes, kind, request: request.unwrap_or_default() });
    let circle = reference.waits_for_itself(who);
    if circle {
        reference.queue.pop();
    }
    if circle == request.is_none() { Ok(()) } else { Err(format!("circle: {circle}, answer {reply:?}")) }
}

fn compare(two: &Two, reference: &Reference) -> Result<(), String> {
    let locks = list(&two.w.view, None).map_err(|e| e.to_string())?;
    let held: Vec<_> = locks.iter().filter(|lock| lock.state == LockState::Held).collect();
    let mut bytes: BTreeMap<u64, Vec<(SessionId, LockKind)>> = BTreeMap::new();
    for lock in &held {
        for byte in lock.range.first..=lock.range.last {
            bytes.entry(byte).or_default().push((lock.session, lock.kind));
        }
    }
    for byte in 0..BYTES {
        let mut have = bytes.remove(&byte).unwrap_or_default();
        let mut want: Vec<_> =
            reference.bytes.get(&byte).into_iter().flatten().map(|(who, kind)| (who.0, *kind)).collect();
        have.sort_unstable();
        want.sort_unstable();
        if have != want {
            return Err(format!("byte {byte}: {have:?}, should be {want:?}"));
        }
    }
    let waiting = locks.len() - held.len();
    if waiting != reference.queue.len() {
        return Err(format!("{waiting} wait, should be {}", reference.queue.len()));
    }
    Ok(())
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn s4_3_locks_split_join_and_change_kind_as_a_table_of_bytes_says() {
    let first = setting("WEFT_SEED").unwrap_or(0);
    let count = setting("WEFT_SEEDS").unwrap_or(if setting("WEFT_SEED").is_some() { 1 } else { SEEDS });
    for seed in first..first + count {
        run(seed).unwrap();
    }
}

#[test]
fn the_table_of_bytes_notices_each_planted_bug_of_ranges_and_queues() {
    for mutant in [
        Mutant::IgnoreOverlap,
        Mutant::OwnerWithoutSession,
        Mutant::ForgetWaiters,
        Mutant::OvertakeWaiters,
        Mutant::NoDeadlockSearch,
        Mutant::CloseKeepsLocks,
    ] {
        plant(Some(mutant));
        let outcome = (0..SEEDS).try_for_each(run);
        plant(None);
        assert!(outcome.is_err(), "{mutant:?} goes unnoticed");
    }
}
