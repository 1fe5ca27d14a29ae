//! The session's lease as its owner counts it (design 4.4): from when the answered heartbeat was sent, by CLOCK_BOOTTIME.
//!
//! Lapsed is not struck: a lapsed session must not use its caps, for somebody else may be getting them, but forgets
//! nothing and goes on when it hears that it was not struck. Struck is for good.

use std::time::Duration;
use weft_types::BootTime;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionState {
    Live,
    Lapsed,
    Struck,
}

#[derive(Clone, Copy, Debug)]
pub struct SessionClock {
    ttl: Duration,
    until: BootTime,
    struck: bool,
}

impl SessionClock {
    /// A session whose opening was asked for at `sent`.
    #[must_use]
    pub fn new(ttl: Duration, sent: BootTime) -> Self {
        Self { ttl, until: sent + ttl, struck: false }
    }

    /// A heartbeat that was sent at `sent` has been answered.
    pub fn answered(&mut self, sent: BootTime) {
        self.until = self.until.max(sent + self.ttl);
    }

    pub fn struck(&mut self) {
        self.struck = true;
    }

    #[must_use]
    pub fn state(&self, now: BootTime) -> SessionState {
        if self.struck {
            SessionState::Struck
        } else if now < self.until {
            SessionState::Live
        } else {
            SessionState::Lapsed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const TTL: Duration = Duration::from_secs(10);

    #[test]
    fn the_lease_counts_from_sending_not_from_the_answer() {
        let mut clock = SessionClock::new(TTL, BootTime::from_millis(0));
        clock.answered(BootTime::from_millis(1_000)); // answered at 5 s, say
        assert_eq!(clock.state(BootTime::from_millis(10_999)), SessionState::Live);
        assert_eq!(clock.state(BootTime::from_millis(11_000)), SessionState::Lapsed);
    }

    #[test]
    fn a_lapsed_session_that_was_not_struck_resumes() {
        let mut clock = SessionClock::new(TTL, BootTime::from_millis(0));
        assert_eq!(clock.state(BootTime::from_millis(60_000)), SessionState::Lapsed);
        clock.answered(BootTime::from_millis(60_000));
        assert_eq!(clock.state(BootTime::from_millis(60_001)), SessionState::Live);
    }

    #[test]
    fn a_struck_session_never_resumes() {
        let mut clock = SessionClock::new(TTL, BootTime::from_millis(0));
        clock.struck();
        clock.answered(BootTime::from_millis(1_000));
        assert_eq!(clock.state(BootTime::from_millis(1_001)), SessionState::Struck);
    }

    #[test]
    fn an_old_answer_does_not_shorten_the_lease() {
        let mut clock = SessionClock::new(TTL, BootTime::from_millis(5_000));
        clock.answered(BootTime::from_millis(1_000));
        assert_eq!(clock.state(BootTime::from_millis(14_000)), SessionState::Live);
    }
}
