//! What may be seen of a file that several clients make longer and cut (design 7, docs/SEMANTICS.md).
//!
//! Guarantees: every size that is told lies between what must be there and what can be there by then; no append lands on
//! what was acknowledged before; no bytes come back that were cut off, and none are lost, unless unflushed writes may have
//! been. An operation that was not answered may have happened at any time since. Must not know: who holds what.

use crate::client::growing::UNIT;
use weft_client::core::Life;

type Time = u64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    Append { at: u64, value: u64 },
    Write { at: u64, value: u64 },
    Cut { to: u64 },
}

#[derive(Clone, Copy, Debug)]
pub struct Change {
    what: What,
    start: Time,
    end: Option<Time>,
    /// When the metadata group had answered a cut, and the life of the contents that began with it. Whoever asks for the
    /// size later is told of it, whoever reads under that life sees nothing from before; placement groups may not know.
    took_place: Option<(Time, Life)>,
    /// Not done, and never will be.
    refused: bool,
    /// Unflushed writes may have been lost since.
    weak: bool,
}

impl Change {
    pub const fn new(what: What, start: Time) -> Self {
        Self { what, start, end: None, took_place: None, refused: false, weak: false }
    }

    /// Where it writes, and what.
    const fn written(&self) -> Option<(u64, u64)> {
        match self.what {
            What::Append { at, value } | What::Write { at, value } => Some((at, value)),
            What::Cut { .. } => None,
        }
    }

    const fn cut(&self) -> Option<u64> {
        match self.what {
            What::Cut { to } => Some(to),
            What::Append { .. } | What::Write { .. } => None,
        }
    }

    fn ended_by(&self, time: Time) -> bool {
        self.end.is_some_and(|end| end <= time)
    }

    fn took_place_by(&self, time: Time) -> bool {
        self.ended_by(time) || self.took_place.is_some_and(|(at, _)| at <= time)
    }

    fn began_life_before(&self, life: Life) -> bool {
        let order = |life: Life| (life.object, life.generation);
        self.took_place.is_some_and(|(_, began)| order(began) <= order(life))
    }
}

type IsGone = fn(&Grown, &Change, Time) -> bool;

#[derive(Default)]
pub struct Grown {
    changes: Vec<Change>,
}

impl Grown {
    /// The number of a change that begins.
    pub fn begin(&mut self, change: Change) -> u64 {
        self.changes.push(change);
        self.changes.len() as u64 - 1
    }

    /// It was answered.
    ///
    /// # Errors
    /// What cannot be.
    pub fn answered(&mut self, number: u64, now: Time) -> Result<(), String> {
        let Some(change) = usize::try_from(number).ok().and_then(|at| self.changes.get_mut(at)) else { return Ok(()) };
        change.end = Some(now);
        let change = *change;
        let What::Append { at, .. } = change.what else { return Ok(()) };
        let (least, most) = self.bounds((change.start, now), Some(number), Self::is_cut);
        if at < least {
            return Err(format!("{change:?} landed on what was there: the file had {least} bytes"));
        }
        if at > most {
            return Err(format!("{change:?} landed past the end: the file had {most} bytes"));
        }
        Ok(())
    }

    /// The metadata group has answered a cut.
    pub fn took_place(&mut self, number: u64, life: Life, now: Time) {
        if let Some(change) = usize::try_from(number).ok().and_then(|at| self.changes.get_mut(at)) {
            change.took_place = Some((now, life));
        }
    }

    pub fn refused(&mut self, number: u64) {
        if let Some(change) = usize::try_from(number).ok().and_then(|at| self.changes.get_mut(at)) {
            change.refused = true;
        }
    }

    pub fn lost(&mut self) {
        self.changes.iter_mut().for_each(|change| change.weak = true);
    }

    fn possible(&self, by: Time) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(move |change| !change.refused && change.start < by)
    }

    /// Whether a cut that came after all of this was over by then. One that the metadata group has answered does not count
    /// yet: until it is over, whoever has not heard of it may still extend what is cut, and comes before it.
    fn is_cut(&self, change: &Change, by: Time) -> bool {
        self.changes.iter().any(|cut| cut.cut().is_some() && cut.ended_by(by) && change.ended_by(cut.start))
    }

    /// Whether nobody who asks for the size then is told of this, because of a cut that came after all of it.
    fn is_past(&self, change: &Change, by: Time) -> bool {
        self.changes.iter().any(|cut| cut.cut().is_some() && cut.took_place_by(by) && change.ended_by(cut.start))
    }

    /// How long the file must be and how long it can be within a time. `but`: whose effect is not asked for; `is_gone`: which
    /// changes make it no longer any more.
    fn bounds(&self, (start, end): (Time, Time), but: Option<u64>, is_gone: IsGone) -> (u64, u64) {
        let cuts: Vec<&Change> = self.possible(end).filter(|change| change.cut().is_some()).collect();
        let was_cut = cuts.iter().any(|cut| cut.ended_by(start));
        let last_cuts = || cuts.iter().filter(|cut| !self.is_cut(cut, start)).filter_map(|cut| cut.cut());
        let mut least = if was_cut { last_cuts().min().unwrap_or(0) } else { 0 };
        let left = cuts.iter().filter(|cut| !is_gone(self, cut, start)).filter_map(|cut| cut.cut());
        let mut most = left.max().unwrap_or(0);
        for (number, change) in self.changes.iter().enumerate() {
            let Some((at, _)) = change.written().filter(|_| !change.refused && change.start < end) else { continue };
            if but == Some(number as u64) {
                continue;
            }
            let certain = !change.weak && change.ended_by(start) && cuts.iter().all(|cut| cut.ended_by(change.start));
            if certain {
                least = least.max(at + UNIT);
            }
            if !is_gone(self, change, start) {
                most = most.max(at + UNIT);
            }
        }
        (least, most)
    }

    /// Somebody was told of this size.
    ///
    /// # Errors
    /// What cannot be.
    pub fn stat(&self, size: u64, within: (Time, Time)) -> Result<(), String> {
        let (least, most) = self.bounds(within, None, Self::is_past);
        if size < least || size > most {
            return Err(format!("{size} bytes were told of a file that has from {least} to {most}"));
        }
        Ok(())
    }

    /// Somebody who knew of this life of the contents read a value, or zeros.
    ///
    /// # Errors
    /// What cannot be.
    pub fn read(&self, offset: u64, value: u64, life: Life, (start, end): (Time, Time)) -> Result<(), String> {
        let here = || self.possible(end).filter(|change| change.written().is_some_and(|(at, _)| at == offset));
        let removes = |cut: &Change| cut.cut().is_some_and(|to| to <= offset);
        if value == 0 {
            let kept = here().find(|write| {
                let mut cuts = self.possible(end).filter(|cut| removes(cut));
                !write.weak && write.ended_by(start) && cuts.all(|cut| cut.ended_by(write.start))
            });
            return kept.map_or(Ok(()), |kept| Err(format!("zeros at {offset}, where {kept:?} was answered")));
        }
        let Some(write) = here().find(|change| change.written() == Some((offset, value))) else {
            return Err(format!("{value} at {offset}, which nobody has written there"));
        };
        let later = self.changes.iter().find(|later| {
            let replaces = removes(later) || later.written().is_some_and(|(at, _)| at == offset);
            let known = later.ended_by(start) || later.began_life_before(life);
            replaces && !later.refused && !later.weak && known && write.ended_by(later.start)
        });
        later.map_or(Ok(()), |later| Err(format!("{write:?} is read at {offset} after {later:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(generation: u64) -> Life {
        Life { object: weft_types::ObjectId(1), generation: weft_types::TruncateGeneration(generation) }
    }

    fn done(grown: &mut Grown, what: What, start: Time, end: Time) -> Result<(), String> {
        let number = grown.begin(Change::new(what, start));
        grown.answered(number, end)
    }

    #[test]
    fn an_answered_append_counts_until_it_is_cut() {
        let mut grown = Grown::default();
        assert_eq!(done(&mut grown, What::Append { at: 0, value: 7 }, 1, 2), Ok(()));
        assert!(grown.stat(0, (3, 4)).is_err(), "it is lost");
        assert_eq!(grown.stat(UNIT, (3, 4)), Ok(()));
        assert!(grown.stat(2 * UNIT, (3, 4)).is_err(), "nobody made it so long");
        assert!(done(&mut grown, What::Append { at: 0, value: 8 }, 3, 4).is_err(), "it lands on the first");
        let mut grown = Grown::default();
        assert_eq!(done(&mut grown, What::Append { at: 0, value: 7 }, 1, 2), Ok(()));
        assert!(done(&mut grown, What::Append { at: 2 * UNIT, value: 8 }, 3, 4).is_err(), "it leaves a hole");
        let mut grown = Grown::default();
        assert_eq!(done(&mut grown, What::Append { at: 0, value: 7 }, 1, 2), Ok(()));
        let cut = grown.begin(Change::new(What::Cut { to: 0 }, 3));
        assert_eq!(grown.stat(UNIT, (4, 5)), Ok(()), "not yet");
        assert_eq!(grown.stat(0, (4, 5)), Ok(()), "already");
        assert_eq!(grown.answered(cut, 6), Ok(()));
        assert!(grown.stat(UNIT, (7, 8)).is_err(), "it comes back");
    }

    #[test]
    fn old_bytes_do_not_come_back_and_new_ones_stay() {
        let mut grown = Grown::default();
        assert_eq!(done(&mut grown, What::Append { at: 0, value: 7 }, 1, 2), Ok(()));
        assert!(grown.read(0, 0, life(0), (3, 4)).is_err(), "it is lost");
        assert!(grown.read(0, 9, life(0), (3, 4)).is_err(), "nobody wrote it");
        assert_eq!(grown.read(0, 7, life(0), (3, 4)), Ok(()));
        assert_eq!(done(&mut grown, What::Cut { to: 0 }, 5, 6), Ok(()));
        assert_eq!(done(&mut grown, What::Cut { to: UNIT }, 7, 8), Ok(()));
        assert!(grown.read(0, 7, life(0), (9, 10)).is_err(), "old bytes");
        assert_eq!(grown.read(0, 0, life(0), (9, 10)), Ok(()));
    }

    #[test]
    fn what_may_be_lost_may_be_missing() {
        let mut grown = Grown::default();
        assert_eq!(done(&mut grown, What::Append { at: 0, value: 7 }, 1, 2), Ok(()));
        grown.lost();
        assert_eq!(grown.stat(0, (3, 4)), Ok(()));
        assert_eq!(grown.read(0, 0, life(0), (3, 4)), Ok(()));
    }

    #[test]
    fn a_cut_counts_for_whoever_was_told_of_it_also_when_its_client_died() {
        let mut grown = Grown::default();
        assert_eq!(done(&mut grown, What::Append { at: 0, value: 7 }, 1, 2), Ok(()));
        let cut = grown.begin(Change::new(What::Cut { to: 0 }, 3));
        grown.took_place(cut, life(1), 5);
        assert_eq!(grown.stat(UNIT, (4, 6)), Ok(()), "asked before");
        assert!(grown.stat(UNIT, (6, 7)).is_err(), "the size of before");
        assert_eq!(grown.read(0, 7, life(0), (6, 7)), Ok(()), "read by somebody who was not told");
        assert!(grown.read(0, 7, life(1), (6, 7)).is_err(), "old bytes");
    }
}
