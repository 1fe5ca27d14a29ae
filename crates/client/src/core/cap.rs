//! The size cap of one file as this session holds it (design 7, "Size"; decision 0014).
//!
//! Responsible for: who may extend now, when a recalled cap is given up. Guarantees: nobody extends past the room that was
//! granted, nor while the cap is being given up; it is given up only when no extending write is under way; a grant serves
//! at least one of those who waited for it, and lasts `SIZE_CAP_HOLD`. Must not know: messages, timers.

use super::mutants::{Mutant, planted};
use weft_types::BootTime;
use weft_types::limits::SIZE_CAP_HOLD;

/// What somebody has to do who wants to make the file longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Extend, and call `done` when every write of it was answered and its end is known.
    Go,
    /// Ask the metadata group for the cap, or for more room.
    Ask,
    /// Wait until the cap was given up, then ask for it again.
    Wait,
}

/// When a recalled cap can be given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GivingUp {
    /// There is nothing to give up, or nobody wants it.
    NotAsked,
    /// Now: nothing is extended until `given_up`.
    Now,
    /// Not before this time.
    At(BootTime),
    /// When those who extend are done.
    WhenDone,
}

#[derive(Clone, Copy, Debug)]
struct Grant {
    since: BootTime,
    max_size_bytes: u64,
    /// Somebody has extended under it.
    used: bool,
}

#[derive(Clone, Debug, Default)]
pub struct SizeCap {
    grant: Option<Grant>,
    recalled: bool,
    /// `Now` was answered: the cap is on its way back.
    leaving: bool,
    /// Its room is being given back.
    resting: bool,
    extending: u32,
    waiting: u32,
}

impl SizeCap {
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.grant.is_some() && !self.leaving
    }

    /// How far the file may reach that this session knows nothing of: 0 when it does not hold the cap.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        self.grant.map_or(0, |grant| grant.max_size_bytes)
    }

    /// Granted, or granted more room.
    pub fn granted(&mut self, now: BootTime, max_size_bytes: u64) {
        if self.leaving {
            // An answer from before: what is being given up is not ours to use.
            return;
        }
        match &mut self.grant {
            Some(grant) => grant.max_size_bytes = grant.max_size_bytes.max(max_size_bytes),
            None => self.grant = Some(Grant { since: now, max_size_bytes, used: false }),
        }
    }

    /// The room was given back with a commit of this size; the cap stays.
    pub fn room_given_back(&mut self, size_bytes: u64) {
        if let Some(grant) = &mut self.grant {
            grant.max_size_bytes = size_bytes;
        }
    }

    /// The room is about to be given back: whether nobody extends now. Nobody does until `end_rest`.
    pub fn begin_rest(&mut self) -> bool {
        let rests = self.is_held() && self.extending == 0 && self.waiting == 0 && !self.resting;
        self.resting |= rests;
        rests
    }

    pub fn end_rest(&mut self) {
        self.resting = false;
    }

    /// Somebody wants to extend up to `end_bytes`. Who is told `Ask` or `Wait` counts as waiting until `Go` or
    /// `waits_no_more`.
    pub fn admit(&mut self, now: BootTime, end_bytes: u64) -> Admission {
        if self.resting {
            return Admission::Wait;
        }
        if self.leaving && !planted(Mutant::ExtendWhileGivingUp) {
            return Admission::Wait;
        }
        let Some(grant) = &mut self.grant else { return Admission::Ask };
        let over = self.recalled && grant.used && now >= grant.since + SIZE_CAP_HOLD;
        if over {
            return Admission::Wait;
        }
        if end_bytes > grant.max_size_bytes && !planted(Mutant::ExtendPastRoom) {
            return Admission::Ask;
        }
        grant.used = true;
        self.extending += 1;
        Admission::Go
    }

    pub const fn waits(&mut self) {
        self.waiting += 1;
    }

    pub const fn waits_no_more(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// One that was admitted is done.
    pub const fn done(&mut self) {
        self.extending = self.extending.saturating_sub(1);
    }

    pub const fn recall(&mut self) {
        self.recalled = true;
    }

    /// Whether a recalled cap can go. `Now` begins the giving up.
    pub fn giving_up(&mut self, now: BootTime) -> GivingUp {
        if !self.recalled || self.leaving {
            return GivingUp::NotAsked;
        }
        if self.resting {
            return GivingUp::WhenDone;
        }
        let Some(grant) = self.grant else {
            // Granted and recalled before this session knew: given up as it came.
            if self.waiting > 0 {
                return GivingUp::WhenDone;
            }
            self.leaving = true;
            return GivingUp::Now;
        };
        let until = grant.since + SIZE_CAP_HOLD;
        if self.waiting > 0 && !grant.used && !planted(Mutant::GrantServesNobody) {
            return GivingUp::WhenDone;
        }
        if now < until {
            return GivingUp::At(until);
        }
        if self.extending > 0 && !planted(Mutant::GiveUpWhileExtending) {
            return GivingUp::WhenDone;
        }
        self.leaving = true;
        GivingUp::Now
    }

    /// The metadata group has taken it back.
    pub fn given_up(&mut self) {
        *self = Self { extending: self.extending, waiting: self.waiting, ..Self::default() };
    }

    /// The file was closed: whatever was granted ended with it.
    pub fn closed(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::super::mutants::plant;
    use super::*;

    type Outcome = Result<(), String>;

    fn at(millis: u64) -> BootTime {
        BootTime::from_millis(millis)
    }

    fn must(holds: bool, why: &str) -> Outcome {
        if holds { Ok(()) } else { Err(why.to_owned()) }
    }

    fn nothing_is_extended_past_the_room() -> Outcome {
        let mut cap = SizeCap::default();
        must(cap.admit(at(0), 1) == Admission::Ask, "extends without the cap")?;
        cap.granted(at(0), 100);
        must(cap.admit(at(0), 100) == Admission::Go, "the room is not used")?;
        must(cap.admit(at(0), 101) == Admission::Ask, "extends past the room")
    }

    fn a_cap_goes_only_when_nobody_extends() -> Outcome {
        let mut cap = SizeCap::default();
        cap.granted(at(0), 100);
        must(cap.admit(at(0), 50) == Admission::Go, "no room")?;
        cap.recall();
        must(cap.giving_up(at(0)) == GivingUp::At(at(20)), "a grant lasts a while")?;
        must(cap.giving_up(at(30)) == GivingUp::WhenDone, "goes while a write is under way")?;
        cap.done();
        must(cap.giving_up(at(30)) == GivingUp::Now, "stays for ever")?;
        must(cap.admit(at(30), 60) == Admission::Wait, "extends while the cap is being given up")?;
        cap.given_up();
        must(cap.admit(at(31), 60) == Admission::Ask, "extends after the cap was given up")
    }

    fn a_cap_that_is_leaving_is_not_used() -> Outcome {
        let mut cap = SizeCap::default();
        cap.granted(at(0), 100);
        cap.recall();
        must(cap.giving_up(at(30)) == GivingUp::Now, "stays although nobody uses it")?;
        must(cap.admit(at(31), 60) == Admission::Wait, "extends while the cap is being given up")
    }

    fn a_grant_serves_who_waited_for_it() -> Outcome {
        let mut cap = SizeCap::default();
        must(cap.admit(at(0), 10) == Admission::Ask, "extends without the cap")?;
        cap.waits();
        cap.recall();
        cap.granted(at(1), 100);
        // The machine was busy: the one that waited did not run yet.
        must(cap.giving_up(at(500)) == GivingUp::WhenDone, "the cap went to and fro and served nobody")?;
        cap.waits_no_more();
        must(cap.admit(at(501), 10) == Admission::Go, "who waited is not served")?;
        // A further one waits: the other host has waited for longer.
        must(cap.admit(at(501), 20) == Admission::Wait, "the other host starves")?;
        cap.done();
        must(cap.giving_up(at(502)) == GivingUp::Now, "stays")
    }

    #[test]
    fn nothing_is_extended_without_room() {
        nothing_is_extended_past_the_room().unwrap();
    }
    #[test]
    fn a_recalled_cap_is_given_up_when_the_writes_under_way_are_done() {
        a_cap_goes_only_when_nobody_extends().unwrap();
    }
    #[test]
    fn a_cap_that_is_being_given_up_is_not_used() {
        a_cap_that_is_leaving_is_not_used().unwrap();
    }
    #[test]
    fn two_hosts_take_turns_and_each_turn_serves_somebody() {
        a_grant_serves_who_waited_for_it().unwrap();
    }

    #[test]
    fn a_cap_that_was_recalled_before_it_was_known_is_given_up_as_it_came() {
        let mut cap = SizeCap::default();
        cap.recall();
        assert_eq!(cap.giving_up(at(0)), GivingUp::Now);
        cap.given_up();
        assert_eq!(cap.giving_up(at(0)), GivingUp::NotAsked);
    }

    #[test]
    fn every_planted_bug_of_the_cap_is_noticed() {
        let scenario = |mutant| match mutant {
            Mutant::ExtendPastRoom => nothing_is_extended_past_the_room as fn() -> Outcome,
            Mutant::GiveUpWhileExtending => a_cap_goes_only_when_nobody_extends,
            Mutant::ExtendWhileGivingUp => a_cap_that_is_leaving_is_not_used,
            Mutant::GrantServesNobody => a_grant_serves_who_waited_for_it,
            Mutant::SettleEveryGeneration | Mutant::SettleNothing => super::super::tests::older_generations_are_settled,
            Mutant::IgnoreRise => super::super::loss::tests::a_rise_is_reported_once,
        };
        for mutant in Mutant::ALL {
            plant(None);
            assert_eq!(scenario(mutant)(), Ok(()), "{mutant:?}: the scenario fails without it");
            plant(Some(mutant));
            let outcome = scenario(mutant)();
            plant(None);
            assert!(outcome.is_err(), "{mutant:?} goes unnoticed");
        }
    }
}
