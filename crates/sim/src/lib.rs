//! Whole clusters on simulated time, from one seed.
//!
//! The production data node (`weft_node::data::turn`), the production metadata machine and leader (`weft_meta`), the
//! production replication and store under them, and the client's production core, on simulated disks, clocks and network,
//! in one thread. Only Raft, sockets and threads are modelled. Faults are laid over it; oracles watch what clients see.
//!
//! ```text
//! let verdict = weft_sim::run(seed, &Options::default());
//! verdict.failure: Option<Failure>    what must not have happened
//! verdict.trace: u64                  equal for equal seeds
//! verdict.stats                       what was exercised
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `world` | time, chance, the trace |
//! | `subjects` | what clients of a seed do with files |
//! | `plan`, `stories`, `nemesis` | which faults a seed draws, and when they strike; carrying them out |
//! | `operators` | nodes added and removed, replicas forced |
//! | `aimed`, `oddities` | executions that are aimed at one rule each; faults that only they need |
//! | `metadata` | Raft as a delayed log; committing |
//! | `node`, `host`, `tasks`, `links`, `sizes` | a node's process, what it stands on, its control side |
//! | `client` | sessions, the data core, the workload (`client::workload`) |
//! | `client::desk`, `client::locks`, `client::growing`, `client::names` | tasks of clients that use files, and their requests |
//! | `client::plots` | threads that have blocks for themselves |
//! | `oracle`, `rights`, `registrations`, `promises`, `members`, `answers`, `room`, `copies`, `check`, `failure` | what must hold |
//! | `ledger`, `held`, `lock_table`, `grown`, `line`, `named`, `leaks` | what must hold of files |
//! | `bugs` | bugs planted on purpose, which the oracles have to notice |
//! | `stats` | what was exercised |

mod aimed;
mod answers;
#[cfg(feature = "mutants")]
pub mod bugs;
mod check;
mod client;
mod copies;
mod failure;
mod grown;
mod held;
mod host;
mod leaks;
mod ledger;
mod line;
mod links;
mod lock_table;
mod members;
mod metadata;
mod named;
mod nemesis;
mod node;
mod oddities;
mod operators;
pub mod oracle;
mod plan;
mod promises;
mod registrations;
mod rights;
mod room;
mod shrink;
mod sizes;
mod stats;
mod stories;
mod subjects;
mod tasks;
mod world;

#[cfg(test)]
mod tests;

pub use aimed::name_of as aimed_story;
pub use check::run;
pub use failure::{Failure, Oracle};
pub use plan::{Fault, Mix, Plan};
pub use shrink::shrink;
pub use stats::Stats;
pub use stories::rare_theme;
pub use subjects::{Subject, subject};

use std::collections::BTreeSet;

/// The volume of every run.
pub(crate) const VOLUME: &str = "v";

/// How a seed is run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Faults of the plan that are left out, by their place in it.
    pub without: BTreeSet<usize>,
    /// No faults at all: a healthy cluster on a good network.
    pub calm: bool,
    /// Without stories, as seeds were before there were any: seeds that failed once then still mean the same.
    pub plain: bool,
    /// Without stories that are aimed at one rule, as seeds were before there were any.
    pub without_aimed: bool,
    /// Clients use no files, only registers, as seeds were before there were any.
    pub without_files: bool,
    /// Kinds of faults that are left out, by name ([`Fault::kind`]).
    pub off: BTreeSet<String>,
    /// Tells what happens on the error output.
    pub verbose: bool,
    /// A bug planted on purpose: files' syncs succeed and make nothing durable, on every disk.
    pub pretend_to_sync: bool,
    /// A bug planted on purpose, in one of the crates that run here.
    #[cfg(feature = "mutants")]
    pub bug: Option<bugs::Bug>,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub seed: u64,
    /// What must not have happened.
    pub failure: Option<Failure>,
    /// Equal for equal seeds and options.
    pub trace: u64,
    pub stats: Stats,
}
