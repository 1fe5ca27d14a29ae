//! Changes that this member refused for good, so that no copy of them is ever carried out (design 4.5, 5.8).
//!
//! A refusal leaves nothing in the log, and the client that hears of it goes on: it writes something else there, or gives its
//! lock away. A copy of the request that was held back on its way must not be carried out when the reason is gone, when
//! there is room again, say. Guarantees: an operation that is in here is refused again, in whatever epoch this member
//! leads; what it takes is bounded. Lost with the process, and unknown to other members: both lead under a new epoch, which
//! takes no request that was sent before it began (`requests`). Must not know: why something was refused.

use std::collections::{BTreeMap, BTreeSet};
use weft_types::limits::MAX_DEDUPE_PER_SESSION;
use weft_types::{DataError, OperationId, Origin, SessionId};

#[derive(Default)]
pub(crate) struct Refused {
    sessions: BTreeMap<SessionId, OfSession>,
}

#[derive(Default)]
struct OfSession {
    /// The highest that a refused request told: whatever is below it was answered.
    low_water: OperationId,
    operations: BTreeMap<OperationId, DataError>,
}

impl Refused {
    /// Whether there was room to take note of it. If not, the refusal must not be final.
    pub fn note(&mut self, origin: Origin, error: &DataError) -> bool {
        let of = self.sessions.entry(origin.session).or_default();
        of.low_water = of.low_water.max(origin.low_water);
        of.operations = of.operations.split_off(&of.low_water);
        if of.operations.len() >= MAX_DEDUPE_PER_SESSION {
            return false;
        }
        of.operations.insert(origin.operation, error.clone());
        true
    }

    /// What a copy of it is told.
    pub fn find(&self, origin: Origin) -> Option<DataError> {
        let of = self.sessions.get(&origin.session)?;
        if origin.operation < of.low_water {
            return Some(DataError::Answered { low_water: of.low_water });
        }
        of.operations.get(&origin.operation).cloned()
    }

    /// Nothing of other sessions is carried out any more.
    pub fn keep(&mut self, live: &BTreeSet<SessionId>) {
        self.sessions.retain(|session, _| live.contains(session));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn origin(operation: u64, low_water: u64) -> Origin {
        let (operation, low_water) = (OperationId(operation), OperationId(low_water));
        Origin { session: SessionId(1), operation, low_water }
    }

    #[test]
    fn a_refusal_is_kept_until_everything_before_it_is_answered() {
        let mut refused = Refused::default();
        assert!(refused.note(origin(7, 3), &DataError::NoSpace));
        assert_eq!(refused.find(origin(7, 3)), Some(DataError::NoSpace));
        assert_eq!(refused.find(origin(6, 3)), None);
        assert_eq!(refused.find(Origin { session: SessionId(2), ..origin(7, 3) }), None);
        assert!(refused.note(origin(9, 9), &DataError::NoSpace));
        assert_eq!(refused.find(origin(7, 3)), Some(DataError::Answered { low_water: OperationId(9) }));
        assert_eq!(refused.sessions[&SessionId(1)].operations.len(), 1);
        refused.keep(&BTreeSet::new());
        assert!(refused.sessions.is_empty());
    }

    #[test]
    fn what_is_kept_of_a_session_is_bounded() {
        let mut refused = Refused::default();
        let bound = MAX_DEDUPE_PER_SESSION as u64;
        assert!((0..bound).all(|operation| refused.note(origin(operation, 0), &DataError::NoSpace)));
        assert!(!refused.note(origin(bound, 0), &DataError::NoSpace));
        assert_eq!(refused.find(origin(bound, 0)), None);
        assert!(refused.note(origin(bound, 1), &DataError::NoSpace));
    }
}
