//! Loss generations as one open file has seen them: "as Linux does", a flush fails once per open file when unflushed
//! writes may have been lost since the file was opened or since the last failure (design 5, "Flush").

use super::mutants::{Mutant, planted};
use std::sync::Arc;
use weft_types::{LossGeneration, PgId};

/// Guarantees: a rise in a group that a flush covers is reported exactly once to this open file.
#[derive(Clone, Debug)]
pub struct LossWatch {
    /// By group number. Shared with all files opened at the same map until one of them sees a rise.
    seen: Arc<Vec<LossGeneration>>,
}

/// A flush that cannot say "durable".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Risen {
    pub pg: PgId,
    pub before: LossGeneration,
    pub now: LossGeneration,
}

impl LossWatch {
    /// `known` is what the map says when the file is opened. An old map errs towards reporting.
    #[must_use]
    pub fn new(known: Arc<Vec<LossGeneration>>) -> Self {
        Self { seen: known }
    }

    /// Takes in what a flush answered.
    ///
    /// # Errors
    /// The first group whose generation rose; all of them count as seen from now on.
    pub fn flushed(&mut self, answers: &[(PgId, LossGeneration)]) -> Result<(), Risen> {
        let mut risen = None;
        for (pg, now) in answers {
            let index = usize::from(pg.index);
            let before = self.seen.get(index).copied().unwrap_or_default();
            if *now > before && !planted(Mutant::IgnoreRise) {
                risen = risen.or(Some(Risen { pg: *pg, before, now: *now }));
                let seen = Arc::make_mut(&mut self.seen);
                if index >= seen.len() {
                    seen.resize(index + 1, LossGeneration(0));
                }
                seen[index] = *now;
            }
        }
        risen.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use weft_types::VolumeId;

    fn pg(index: u16) -> PgId {
        PgId { volume: VolumeId(1), index }
    }

    /// Attack flush-old-watermark, as the host sees it.
    pub fn a_rise_is_reported_once() -> Result<(), String> {
        let mut watch = LossWatch::new(Arc::new(vec![LossGeneration(4)]));
        let answers = [(pg(0), LossGeneration(5))];
        match (watch.flushed(&answers), watch.flushed(&answers)) {
            (Err(_), Ok(())) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn a_rise_fails_one_flush_of_each_open_file() {
        let known = Arc::new(vec![LossGeneration(0), LossGeneration(4)]);
        let (mut a, mut b) = (LossWatch::new(Arc::clone(&known)), LossWatch::new(known));
        let answers = [(pg(0), LossGeneration(0)), (pg(1), LossGeneration(5))];
        assert_eq!(a.flushed(&answers), Err(Risen { pg: pg(1), before: LossGeneration(4), now: LossGeneration(5) }));
        assert_eq!(a.flushed(&answers), Ok(()));
        assert!(b.flushed(&answers).is_err());
    }

    #[test]
    fn two_groups_that_rose_together_fail_one_flush() {
        let mut watch = LossWatch::new(Arc::new(vec![LossGeneration(0); 2]));
        let answers = [(pg(0), LossGeneration(1)), (pg(1), LossGeneration(1))];
        assert!(watch.flushed(&answers).is_err());
        assert_eq!(watch.flushed(&answers), Ok(()));
    }
}
