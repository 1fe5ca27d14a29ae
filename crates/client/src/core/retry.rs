//! What an error of the data wire means for the operation, and how long to wait before it is sent again.

use std::time::Duration;
use weft_types::error::NotServing;
use weft_types::{DataError, ErrorKind};

/// First pause. A failover takes longer than one round trip but not much; a map change ends every pause at once.
pub const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause: what a failover that no map change announces may cost.
pub const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Pause before the next attempt after `failures` failed ones.
#[must_use]
pub fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(LONGEST_PAUSE)
}

/// What to do with an operation that was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Send it again, under the same number, after a pause or when the map changes.
    Retry,
    /// As `Retry`, and the map this client routes by is probably old.
    RetryWithNewMap,
    /// It is answered: nothing was done, or nothing more will be.
    Fail(ErrorKind),
    /// This session was struck off (design 4.4).
    Fenced,
}

/// Whether an error ends the operation. Only those end it that the primary gives instead of sequencing.
#[must_use]
pub fn judge(error: &DataError) -> Verdict {
    match error {
        DataError::NotPrimary { .. } => Verdict::RetryWithNewMap,
        DataError::NotServing { reason: NotServing::Overloaded | NotServing::Truncating } => Verdict::Retry,
        // Not done, and will not be under this generation: the caller fetches the attributes and starts anew.
        DataError::StaleGeneration { .. } => Verdict::Fail(ErrorKind::Stale),
        DataError::NotServing { .. } | DataError::DiskFailed => Verdict::RetryWithNewMap,
        DataError::Fenced => Verdict::Fenced,
        DataError::NoSpace => Verdict::Fail(ErrorKind::NoSpace),
        DataError::Corrupt => Verdict::Fail(ErrorKind::Io("no replica has a good copy of a block".into())),
        DataError::Lost { current } => {
            Verdict::Fail(ErrorKind::Io(format!("unflushed writes may be lost (loss generation {current})")))
        }
        DataError::Answered { low_water } => {
            Verdict::Fail(ErrorKind::Io(format!("operation is below the low-water mark {low_water}")))
        }
        DataError::Malformed => Verdict::Fail(ErrorKind::Io("the request was damaged or malformed".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_20_to_200_milliseconds() {
        let pauses: Vec<_> = (1..7).map(|n| pause(n).as_millis()).collect();
        assert_eq!(pauses, [20, 40, 80, 160, 200, 200]);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }
}
