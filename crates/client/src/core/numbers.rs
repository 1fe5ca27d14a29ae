//! Numbers that name operations and requests across retries, and the low-water marks below which all are answered.
//!
//! A mark is kept per placement group, because an operation belongs to one group: a group that is stuck then holds back
//! neither the marks nor the windows of the others (design 5.8).

use std::collections::{BTreeSet, VecDeque};
use weft_types::limits::MAX_DEDUPE_PER_SESSION;
use weft_types::{OperationId, RequestNumber};

/// Unanswered operations of one session in one placement group, and those answered above the oldest of them.
///
/// Guarantees: never more than `MAX_DEDUPE_PER_SESSION` numbers at or above the mark, so that a group never has to
/// forget an answer that a retry may still ask for.
#[derive(Debug, Default)]
pub struct OperationWindow {
    /// Rising numbers; the front one is unanswered.
    entries: VecDeque<(OperationId, Answered)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answered {
    No,
    Yes,
}

impl OperationWindow {
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.entries.len() >= MAX_DEDUPE_PER_SESSION
    }

    /// Takes up a number, which must be larger than any before.
    pub fn begin(&mut self, number: OperationId) {
        debug_assert!(self.entries.back().is_none_or(|(last, _)| *last < number));
        self.entries.push_back((number, Answered::No));
    }

    /// The operation will not be sent again.
    pub fn answered(&mut self, number: OperationId) {
        if let Ok(at) = self.entries.binary_search_by_key(&number, |(n, _)| *n) {
            self.entries[at].1 = Answered::Yes;
        }
        while self.entries.front().is_some_and(|(_, answered)| *answered == Answered::Yes) {
            self.entries.pop_front();
        }
    }

    /// Every operation of this group below it has been answered. `next` is the number that comes next.
    #[must_use]
    pub fn low_water(&self, next: OperationId) -> OperationId {
        self.entries.front().map_or(next, |(number, _)| *number)
    }
}

/// Numbers of a session's mutating metadata requests.
#[derive(Debug)]
pub struct RequestNumbers {
    next: RequestNumber,
    unanswered: BTreeSet<RequestNumber>,
}

impl Default for RequestNumbers {
    fn default() -> Self {
        Self { next: RequestNumber(1), unanswered: BTreeSet::new() }
    }
}

impl RequestNumbers {
    pub fn begin(&mut self) -> RequestNumber {
        let number = self.next;
        self.next = number.next();
        self.unanswered.insert(number);
        number
    }

    pub fn answered(&mut self, number: RequestNumber) {
        self.unanswered.remove(&number);
    }

    #[must_use]
    pub fn low_water(&self) -> RequestNumber {
        self.unanswered.first().copied().unwrap_or(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_stays_at_the_oldest_unanswered_operation() {
        let mut window = OperationWindow::default();
        for n in [3, 5, 9] {
            window.begin(OperationId(n));
        }
        window.answered(OperationId(5));
        assert_eq!(window.low_water(OperationId(10)), OperationId(3));
        window.answered(OperationId(3));
        assert_eq!(window.low_water(OperationId(10)), OperationId(9));
        window.answered(OperationId(9));
        assert_eq!(window.low_water(OperationId(10)), OperationId(10));
    }

    #[test]
    fn a_window_fills_with_answered_numbers_while_the_oldest_is_stuck() {
        let mut window = OperationWindow::default();
        for n in 1..=MAX_DEDUPE_PER_SESSION as u64 {
            assert!(!window.is_full());
            window.begin(OperationId(n));
            if n > 1 {
                window.answered(OperationId(n));
            }
        }
        assert!(window.is_full());
        window.answered(OperationId(1));
        assert!(!window.is_full());
    }

    #[test]
    fn the_mark_of_requests_follows_the_oldest_unanswered_one() {
        let mut numbers = RequestNumbers::default();
        let (a, b) = (numbers.begin(), numbers.begin());
        numbers.answered(b);
        assert_eq!(numbers.low_water(), a);
        numbers.answered(a);
        assert_eq!(numbers.low_water(), RequestNumber(3));
    }
}
