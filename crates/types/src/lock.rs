//! Byte-range locks: who, what, how (decision 0009).
//!
//! Owns: the owner's number, the range and the kind. Must not know: who may hold what together with whom elsewhere.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Whoever a client kernel says owns a lock: a process (POSIX) or an open file description (OFD, flock). Means
/// something only together with the session. Any 64 bits: the kernel makes a hash of it, so it is no counted id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, Debug)]
#[serde(transparent)]
pub struct LockOwner(pub u64);

impl fmt::Display for LockOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The last byte that a lock can cover: the largest `off_t`.
pub const MAX_LOCK_OFFSET: u64 = i64::MAX as u64;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
pub enum LockKind {
    Shared,
    Exclusive,
}

impl LockKind {
    /// Whether two owners may hold these on the same byte.
    #[must_use]
    pub const fn goes_with(self, other: Self) -> bool {
        matches!((self, other), (Self::Shared, Self::Shared))
    }
}

/// Bytes `first` to `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct LockRange {
    pub first: u64,
    pub last: u64,
}

impl LockRange {
    pub const WHOLE_FILE: Self = Self { first: 0, last: MAX_LOCK_OFFSET };

    /// `None` when it ends before it begins, or ends past what a file can have.
    #[must_use]
    pub const fn new(first: u64, last: u64) -> Option<Self> {
        if first <= last && last <= MAX_LOCK_OFFSET { Some(Self { first, last }) } else { None }
    }

    /// A range from the wire is believed only then.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        Self::new(self.first, self.last).is_some()
    }

    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Overlaps, or one begins right behind the other.
    #[must_use]
    pub const fn touches(self, other: Self) -> bool {
        self.first <= other.last.saturating_add(1) && other.first <= self.last.saturating_add(1)
    }

    /// The smallest range that covers both.
    #[must_use]
    pub fn joined(self, other: Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last) }
    }

    /// What is left of this range before and after `other`.
    #[must_use]
    pub fn without(self, other: Self) -> [Option<Self>; 2] {
        if !self.overlaps(other) {
            return [Some(self), None];
        }
        let before = (self.first < other.first).then(|| Self { first: self.first, last: other.first - 1 });
        let after = (self.last > other.last).then(|| Self { first: other.last + 1, last: self.last });
        [before, after]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, last: u64) -> LockRange {
        LockRange::new(first, last).unwrap()
    }

    #[test]
    fn any_owner_that_a_kernel_makes_and_the_whole_file_can_travel() {
        for owner in [0, 1 << 62, u64::MAX] {
            let said = (LockOwner(owner), LockRange::WHOLE_FILE);
            let bytes = crate::codec::encode(&said).unwrap();
            assert_eq!(crate::codec::decode::<(LockOwner, LockRange)>(&bytes), Ok(said));
        }
    }

    #[test]
    fn a_range_has_a_byte_and_ends_where_files_can() {
        assert_eq!(LockRange::new(5, 4), None);
        assert_eq!(LockRange::new(0, u64::MAX), None);
        assert!(LockRange::WHOLE_FILE.is_valid());
        assert!(!LockRange { first: 9, last: 3 }.is_valid());
    }

    #[test]
    fn taking_the_middle_away_leaves_both_ends() {
        assert_eq!(range(0, 9).without(range(3, 5)), [Some(range(0, 2)), Some(range(6, 9))]);
        assert_eq!(range(0, 9).without(range(0, 5)), [None, Some(range(6, 9))]);
        assert_eq!(range(0, 9).without(range(5, 20)), [Some(range(0, 4)), None]);
        assert_eq!(range(0, 9).without(range(0, 9)), [None, None]);
        assert_eq!(range(0, 9).without(range(10, 12)), [Some(range(0, 9)), None]);
    }

    #[test]
    fn neighbours_touch_and_do_not_overlap() {
        assert!(range(0, 4).touches(range(5, 9)) && range(5, 9).touches(range(0, 4)));
        assert!(!range(0, 4).overlaps(range(5, 9)));
        assert!(!range(0, 3).touches(range(5, 9)));
        assert!(LockRange::WHOLE_FILE.touches(range(MAX_LOCK_OFFSET, MAX_LOCK_OFFSET)));
    }
}
