//! What clients do with files, as oracles and clients tell each other while a run goes on.
//!
//! Responsible for: the chance that this part of a run draws from, which is its own so that seeds without it stay as they
//! were; facts that oracles need of the world; what they found. Guarantees: nothing here is seen by the cluster.
//! Must not know: the protocol.

use crate::failure::{Failure, Oracle};
use crate::grown::Grown;
use crate::held::Held;
use crate::named::Named;
use std::cell::{RefCell, RefMut};
use std::collections::BTreeSet;
use std::rc::Rc;
use weft_store::fault::Random;
use weft_types::{InodeNumber, SessionId};

/// One for a run; clones are the same one.
#[derive(Clone)]
pub struct Ledger(Rc<RefCell<Pages>>);

pub struct Pages {
    pub random: Random,
    /// No more faults: what is begun ends, nothing new begins.
    pub quiet: bool,
    /// Sessions that were struck off although their clocks say that they live.
    pub evicted: BTreeSet<SessionId>,
    /// Sessions that act on nothing that others want.
    pub stuck: BTreeSet<SessionId>,
    /// When unflushed writes of some group may have been lost.
    pub last_loss: Option<u64>,
    /// The file that clients make longer, once somebody has made it.
    pub growing: Option<InodeNumber>,
    /// Values that were written outside of the registers.
    values: u64,
    pub held: Held,
    pub grown: Grown,
    pub named: Named,
    told_of_giving_up: bool,
    found: Option<Failure>,
    counted: Vec<&'static str>,
}

impl Ledger {
    pub fn new(seed: u64) -> Self {
        Self(Rc::new(RefCell::new(Pages {
            random: Random::new(seed.wrapping_mul(0x9e37_79b9) ^ 0x4c45_4447),
            quiet: false,
            evicted: BTreeSet::new(),
            stuck: BTreeSet::new(),
            last_loss: None,
            growing: None,
            values: 1 << 40,
            held: Held::default(),
            grown: Grown::default(),
            named: Named::default(),
            told_of_giving_up: false,
            found: None,
            counted: Vec::new(),
        })))
    }

    pub fn open(&self) -> RefMut<'_, Pages> {
        self.0.borrow_mut()
    }

    pub fn below(&self, bound: u64) -> u64 {
        self.open().random.below(bound)
    }

    pub fn chance(&self, percent: u64) -> bool {
        self.open().random.chance(percent)
    }

    pub fn count(&self, what: &'static str) {
        self.open().counted.push(what);
    }

    /// A value that nobody has written.
    pub fn new_value(&self) -> u64 {
        let mut pages = self.open();
        pages.values += 1;
        pages.values
    }

    pub fn is_quiet(&self) -> bool {
        self.open().quiet
    }

    pub fn fail(&self, oracle: Oracle, what: String) {
        self.open().fail(oracle, what);
    }
}

impl Pages {
    pub fn fail(&mut self, oracle: Oracle, what: String) {
        self.found.get_or_insert(Failure { oracle, what });
    }

    /// Unflushed writes may have been lost now.
    pub fn losses(&mut self, now: u64) {
        self.last_loss = Some(now);
        self.held.lost();
        self.grown.lost();
    }

    /// What is to be told to the world.
    pub fn take_news(&mut self) -> (Option<Failure>, Vec<&'static str>) {
        if self.named.gave_up && !self.told_of_giving_up {
            self.told_of_giving_up = true;
            self.counted.push("runs with too many possible namespaces");
        }
        (self.found.take(), std::mem::take(&mut self.counted))
    }
}
