//! Where two logs part (design 5.5, 5.7).
//!
//! An epoch belongs to one primary, whose log in that epoch is one sequence: a log that holds an entry of an epoch holds
//! every earlier entry of it, and two logs that hold the same entry agree on all before it. So the last common entry is
//! in the latest epoch that both know, at the smaller of their ends in it.

use weft_types::LogPosition;

/// Last position that both logs hold. Each history lists the last position of every epoch, oldest first.
pub(crate) fn last_common(ours: &[LogPosition], theirs: &[LogPosition]) -> LogPosition {
    let (mut a, mut b) = (ours.iter().rev().peekable(), theirs.iter().rev().peekable());
    while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
        if x.epoch == y.epoch {
            return **x.min(y);
        }
        if x.epoch > y.epoch {
            a.next();
        } else {
            b.next();
        }
    }
    LogPosition::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::{Epoch, Sequence};

    fn history(pairs: &[(u64, u64)]) -> Vec<LogPosition> {
        pairs.iter().map(|(e, s)| LogPosition::new(Epoch(*e), Sequence(*s))).collect()
    }

    #[test]
    fn logs_part_at_the_smaller_end_of_their_last_common_epoch() {
        let ours = history(&[(1, 10), (3, 20), (6, 30)]);
        assert_eq!(last_common(&ours, &history(&[(1, 10), (3, 22), (5, 40)])), history(&[(3, 20)])[0]);
        assert_eq!(last_common(&ours, &history(&[(1, 7)])), history(&[(1, 7)])[0]);
        assert_eq!(last_common(&ours, &history(&[(1, 12), (2, 15)])), history(&[(1, 10)])[0]);
        assert_eq!(last_common(&ours, &ours), history(&[(6, 30)])[0]);
    }

    #[test]
    fn logs_without_a_common_epoch_share_nothing() {
        assert_eq!(last_common(&history(&[(2, 5)]), &history(&[(3, 5)])), LogPosition::ZERO);
        assert_eq!(last_common(&history(&[(2, 5)]), &[]), LogPosition::ZERO);
    }
}
