//! Counters that order the life of the cluster and of a placement group's log.

use crate::ids::id64;
use serde::{Deserialize, Serialize};
use std::fmt;

id64!(
    /// The reign of one primary incarnation over a placement group.
    Epoch
);
id64!(
    /// Position within a placement group's log; contiguous, and it goes on counting across epochs.
    Sequence
);
id64!(
    /// Counts changes of a placement group's in-sync set.
    SetVersion
);
id64!(
    /// Rises when an unflushed, acknowledged write may have been lost.
    LossGeneration
);
id64!(
    /// Counts every committed change that routes I/O or takes a right away.
    MapVersion
);
id64!(
    /// Counts the shrinking truncations of an object.
    TruncateGeneration
);

/// A place in a placement group's log. Compares by epoch first: a later epoch's log wins over a longer one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct LogPosition {
    pub epoch: Epoch,
    pub sequence: Sequence,
}

impl LogPosition {
    /// Before the first entry of any log.
    pub const ZERO: Self = Self { epoch: Epoch(0), sequence: Sequence(0) };

    #[must_use]
    pub const fn new(epoch: Epoch, sequence: Sequence) -> Self {
        Self { epoch, sequence }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({},{})", self.epoch, self.sequence)
    }
}

impl fmt::Debug for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
