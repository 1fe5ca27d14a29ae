//! What a run found to be wrong, and which oracle saw it.

use std::fmt;

/// Whatever watches a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Oracle {
    /// What clients read and wrote has no order in which it could have happened.
    Linearizable,
    /// A read shows less than what was flushed.
    Flushed,
    /// Half a block holds parts of two writes.
    Torn,
    /// A read fails for good.
    Readable,
    /// After the faults everything serves again, with all its copies, in bounded time.
    Settles,
    /// Level replicas hold the same blocks.
    Replicas,
    /// What the metadata group says of members is so.
    Promises,
    /// Nobody acts on a right that another has already.
    Rights,
    /// A disk that lost nothing but its power opens, a store refuses nothing that a machine asks of it, and space that was
    /// given up comes back.
    Disks,
    /// Locks exclude, come in order, and are lost by nobody who lives.
    Locks,
    /// A file is as long as it must be, and holds what was written since it was cut.
    Sizes,
    /// Who has room keeps it, and nobody is given what is not there.
    Room,
    /// What was deleted leaves nothing behind.
    Leaks,
    /// What clients are told of names has an order in which it could have happened.
    Names,
    /// The program's own assertions.
    Panic,
    /// Metadata state and data side can go on.
    Integrity,
}

impl fmt::Display for Oracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linearizable => "linearizable",
            Self::Flushed => "flushed",
            Self::Torn => "torn blocks",
            Self::Readable => "readable",
            Self::Settles => "settles",
            Self::Replicas => "replicas equal",
            Self::Promises => "promises",
            Self::Rights => "rights",
            Self::Disks => "disks",
            Self::Locks => "locks",
            Self::Sizes => "sizes",
            Self::Room => "room",
            Self::Leaks => "leaks",
            Self::Names => "names",
            Self::Panic => "assertion",
            Self::Integrity => "integrity",
        })
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    pub oracle: Oracle,
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.oracle, self.what)
    }
}
