//! Simulated time, and what the parts of a cluster share.
//!
//! Responsible for: the queue of things to come, the one source of chance, the trace. Guarantees: things happen in the
//! order of their time, and of their making where times are equal; everything that happens goes into the trace, so two
//! runs of one seed can be compared by one number. Must not know: the protocol.

use crate::client::SimClient;
use crate::failure::{Failure, Oracle};
use crate::ledger::Ledger;
use crate::line::SizeLine;
use crate::links::Links;
use crate::lock_table::LockTable;
use crate::members::Members;
use crate::metadata::Metadata;
use crate::node::SimNode;
use crate::operators::Operators;
use crate::oracle::Register;
use crate::plan::Mix;
use crate::stats::Stats;
use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;
use weft_store::fault::Random;
use weft_types::{NodeId, PgId, SessionId};

pub const US: u64 = 1_000;
pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000_000_000;

type Act = Box<dyn FnOnce(&mut World)>;

struct Scheduled {
    at: u64,
    order: u64,
    label: &'static str,
    act: Act,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The heap gives the greatest first, so the earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// Whoever sends and receives messages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum End {
    Node(NodeId),
    Client(usize),
}

/// A place that holds one value: object, chunk, block, half.
pub type Place = (u64, u32, u16, u16);

pub struct World {
    pub now: Rc<Cell<u64>>,
    queue: BinaryHeap<Scheduled>,
    order: u64,
    pub random: Random,
    pub trace: u64,
    pub mix: Mix,
    pub stats: Stats,
    pub nodes: BTreeMap<NodeId, SimNode>,
    pub metadata: Metadata,
    pub links: Links,
    pub clients: Vec<SimClient>,
    /// Directions in which nothing gets through.
    pub blocked: BTreeSet<(End, End)>,
    pub registers: BTreeMap<Place, Register>,
    /// When unflushed writes of a group may have been lost.
    pub losses: BTreeMap<PgId, Vec<u64>>,
    /// Newest truncation of an object in a group that was answered, and the last number drawn.
    pub generations: BTreeMap<(u64, PgId), u64>,
    pub next_generation: u64,
    /// Changes of a truncated object that are not answered, and objects whose truncation is under way. A truncation begins
    /// only when nothing under an earlier generation can still land, which is what sessions acknowledge in the product.
    pub changing: BTreeMap<u64, u64>,
    pub cutting: BTreeSet<u64>,
    /// Sessions that somebody asked for, and those that were evicted by hand.
    pub wanted: BTreeSet<SessionId>,
    pub evicted: BTreeSet<SessionId>,
    /// What sessions owe others, by its number, and since when as far as was looked: later by as long as another session held it
    /// up. And when that was.
    pub debts: BTreeMap<(SessionId, u64), crate::rights::OwedSince>,
    pub looked_at_debts: u64,
    /// The furthest that clients may have been told of, by group.
    pub acknowledged: BTreeMap<PgId, crate::promises::Acknowledged>,
    /// Copies of requests for a set, held back until the set has changed.
    pub held_changes: Vec<weft_proto::control::ChangeSetRequest>,
    /// Stories that wait for their moment.
    pub ambushes: Vec<crate::stories::Ambush>,
    /// Where logs ended when the fence of a session was complete.
    pub fences: BTreeMap<SessionId, BTreeMap<PgId, weft_types::LogPosition>>,
    /// Since when fences and moves are not complete.
    pub struck: BTreeMap<SessionId, u64>,
    pub moving: BTreeMap<PgId, u64>,
    /// Since when every replica is level and there are no more faults.
    pub sound: Option<u64>,
    /// Since when groups have no primary.
    pub headless: BTreeMap<PgId, u64>,
    /// Nodes that hear of no map.
    pub deaf: BTreeSet<NodeId>,
    /// Nodes whose chunk files were damaged.
    pub hurt: BTreeSet<NodeId>,
    /// What operators did.
    pub operators: Operators,
    /// What nodes said that comes again later, and what the metadata group heard of their starts.
    pub oddities: crate::oddities::Oddities,
    pub registrations: crate::registrations::Registrations,
    /// What clients do with files.
    pub ledger: Ledger,
    /// Blocks that threads have for themselves.
    pub plots: BTreeMap<crate::client::plots::Owner, crate::client::plots::Plot>,
    pub plots_made: u64,
    pub brim: crate::room::Brim,
    pub copies: crate::copies::Copies,
    pub lock_table: LockTable,
    pub size_line: SizeLine,
    /// What members were sent, asked and told.
    pub members: Members,
    /// The first thing that must not have happened.
    pub violation: Option<Failure>,
    /// What nodes said, for the oracles of `answers`.
    pub said: crate::answers::Said,
    /// How many messages with bytes of clients each node still damages, and how many were damaged.
    pub damaging: BTreeMap<NodeId, u64>,
    pub damaged: u64,
    /// No more faults and no new operations.
    pub quiet: bool,
    pub verbose: bool,
}

impl World {
    pub fn new(seed: u64, mix: Mix, verbose: bool) -> Self {
        Self {
            now: Rc::new(Cell::new(0)),
            queue: BinaryHeap::new(),
            order: 0,
            random: Random::new(seed ^ 0x0057_4f52_4c44),
            trace: seed,
            stats: Stats::default(),
            nodes: BTreeMap::new(),
            metadata: Metadata::default(),
            links: Links::default(),
            clients: Vec::new(),
            blocked: BTreeSet::new(),
            registers: BTreeMap::new(),
            losses: BTreeMap::new(),
            generations: BTreeMap::new(),
            next_generation: 0,
            changing: BTreeMap::new(),
            cutting: BTreeSet::new(),
            wanted: BTreeSet::new(),
            evicted: BTreeSet::new(),
            debts: BTreeMap::new(),
            looked_at_debts: 0,
            acknowledged: BTreeMap::new(),
            held_changes: Vec::new(),
            ambushes: Vec::new(),
            fences: BTreeMap::new(),
            struck: BTreeMap::new(),
            moving: BTreeMap::new(),
            sound: None,
            headless: BTreeMap::new(),
            deaf: BTreeSet::new(),
            hurt: BTreeSet::new(),
            operators: Operators::default(),
            oddities: crate::oddities::Oddities::default(),
            registrations: crate::registrations::Registrations::default(),
            ledger: Ledger::new(seed),
            plots: BTreeMap::new(),
            plots_made: 0,
            brim: crate::room::Brim::default(),
            copies: crate::copies::Copies::default(),
            lock_table: LockTable::default(),
            size_line: SizeLine::default(),
            members: Members::default(),
            violation: None,
            said: crate::answers::Said::default(),
            damaging: BTreeMap::new(),
            damaged: 0,
            quiet: false,
            mix,
            verbose,
        }
    }

    pub fn now(&self) -> u64 {
        self.now.get()
    }

    pub fn after(&mut self, delay_ns: u64, label: &'static str, act: impl FnOnce(&mut Self) + 'static) {
        self.at(self.now() + delay_ns, label, act);
    }

    pub fn at(&mut self, at_ns: u64, label: &'static str, act: impl FnOnce(&mut Self) + 'static) {
        self.order += 1;
        self.queue.push(Scheduled { at: at_ns.max(self.now()), order: self.order, label, act: Box::new(act) });
    }

    /// Goes on until the time has come, `until` says so, or something is wrong.
    pub fn run(&mut self, to_ns: u64, mut until: impl FnMut(&Self) -> bool) {
        while self.violation.is_none() && !until(self) {
            match self.queue.peek() {
                Some(next) if next.at <= to_ns => {}
                _ => return self.now.set(to_ns.max(self.now())),
            }
            let Some(next) = self.queue.pop() else { return };
            self.now.set(next.at);
            self.note(next.label, next.order);
            self.stats.events += 1;
            (next.act)(self);
        }
    }

    /// Takes something into the trace.
    pub fn note(&mut self, label: &str, number: u64) {
        let mut hash = self.trace ^ self.now();
        for part in [number, label.len() as u64, u64::from(label.as_bytes().first().copied().unwrap_or(0))] {
            hash = (hash ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 29;
        }
        self.trace = hash;
    }

    pub fn fail(&mut self, oracle: Oracle, what: String) {
        if self.violation.is_none() {
            self.violation = Some(Failure { oracle, what });
        }
    }

    pub fn say(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            eprintln!("{:>12.6} {}", self.now() as f64 / SECOND as f64, what());
        }
    }

    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.random.below(high.saturating_sub(low) + 1)
    }

    pub fn is_blocked(&self, from: End, to: End) -> bool {
        self.blocked.contains(&(from, to))
    }

    /// How long a message takes now.
    pub fn latency(&mut self) -> u64 {
        let base = self.mix.latency_us * US;
        let jitter = self.random.below(base + 1);
        let slow = self.mix.slow_message_percent;
        if slow > 0 && self.random.chance(slow) {
            self.stats.count("messages delayed");
            let longest = self.mix.slow_message_ms * MS;
            return base + self.random.below(longest);
        }
        base + jitter
    }

    /// Sends one message outside of the nodes' links: it may be lost, delayed, doubled.
    pub fn send(&mut self, from: End, to: End, label: &'static str, act: impl FnOnce(&mut Self) + 'static) {
        if from != to && (self.is_blocked(from, to) || self.random.chance(self.mix.loss_percent)) {
            self.stats.count("messages lost");
            return;
        }
        let latency = if from == to { 1 } else { self.latency() };
        self.after(latency, label, act);
    }
}
