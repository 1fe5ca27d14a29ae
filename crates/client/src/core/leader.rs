//! Which control address to ask: follow redirects, else try every known node in turn.

use std::net::SocketAddr;

/// Guarantees: as long as nobody answers, every known address is tried before one is tried again.
#[derive(Clone, Debug)]
pub struct LeaderFinder {
    known: Vec<SocketAddr>,
    current: usize,
    /// Failures since somebody last answered as leader.
    failures: u32,
}

impl LeaderFinder {
    /// `known` must not be empty; an empty list yields no address.
    #[must_use]
    pub fn new(known: Vec<SocketAddr>) -> Self {
        Self { known, current: 0, failures: 0 }
    }

    #[must_use]
    pub fn current(&self) -> Option<SocketAddr> {
        self.known.get(self.current).copied()
    }

    #[must_use]
    pub fn known(&self) -> &[SocketAddr] {
        &self.known
    }

    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// `from` answered that it does not lead and whom it believes to.
    pub fn redirected(&mut self, from: SocketAddr, to: Option<SocketAddr>) {
        self.failures = self.failures.saturating_add(1);
        match to {
            // A redirect to itself or in a circle is an election in progress: go on in turn.
            Some(to) if to != from && self.failures < 3 => self.prefer(to),
            to => {
                // It is tried when its turn comes, also when it joined after the others were learned: if it were not, a
                // client that looked for a leader during an election would never find one that it does not know.
                if let Some(to) = to.filter(|to| !self.known.contains(to)) {
                    self.known.push(to);
                }
                self.skip(from);
            }
        }
    }

    /// No answer from `from`.
    pub fn unreachable(&mut self, from: SocketAddr) {
        self.failures = self.failures.saturating_add(1);
        self.skip(from);
    }

    /// `from` answered as leader.
    pub fn answered(&mut self, from: SocketAddr) {
        // A late answer from an old leader does not bring it back.
        if self.current() == Some(from) {
            self.failures = 0;
        }
    }

    /// Control addresses of a newer map. Addresses that are not in it are forgotten, unless it names none.
    pub fn learned(&mut self, addresses: Vec<SocketAddr>) {
        if addresses.is_empty() {
            return;
        }
        let current = self.current();
        self.known = addresses;
        self.current = current.and_then(|c| self.known.iter().position(|a| *a == c)).unwrap_or(0);
    }

    fn prefer(&mut self, address: SocketAddr) {
        self.current = self.known.iter().position(|a| *a == address).unwrap_or_else(|| {
            self.known.push(address);
            self.known.len() - 1
        });
    }

    // Many calls share the finder: only the first that failed at an address moves on from it.
    fn skip(&mut self, from: SocketAddr) {
        if self.current() == Some(from) {
            self.current = (self.current + 1) % self.known.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], n))
    }

    #[test]
    fn a_redirect_is_followed() {
        let mut finder = LeaderFinder::new(vec![address(1), address(2), address(3)]);
        finder.redirected(address(1), Some(address(3)));
        assert_eq!(finder.current(), Some(address(3)));
    }

    #[test]
    fn a_redirect_to_an_unknown_address_is_followed() {
        let mut finder = LeaderFinder::new(vec![address(1)]);
        finder.redirected(address(1), Some(address(9)));
        assert_eq!(finder.current(), Some(address(9)));
    }

    /// Simulator, seed 1073 when this was found: the others were asked in turn for ever.
    #[test]
    fn an_unknown_leader_is_found_after_an_election_too() {
        let mut finder = LeaderFinder::new(vec![address(1), address(2), address(3)]);
        for _ in 0..5 {
            let asked = finder.current().unwrap();
            finder.redirected(asked, None);
        }
        let mut asked = Vec::new();
        for _ in 0..5 {
            let at = finder.current().unwrap();
            asked.push(at);
            if at != address(9) {
                finder.redirected(at, Some(address(9)));
            }
        }
        assert!(asked.contains(&address(9)), "never asked: {asked:?}");
    }

    #[test]
    fn every_node_is_tried_while_nobody_leads() {
        let mut finder = LeaderFinder::new(vec![address(1), address(2), address(3)]);
        let mut asked = Vec::new();
        for _ in 0..3 {
            let at = finder.current().unwrap();
            asked.push(at);
            finder.redirected(at, None);
        }
        asked.sort();
        assert_eq!(asked, [address(1), address(2), address(3)]);
    }

    #[test]
    fn two_nodes_that_name_each_other_do_not_trap_the_client() {
        let mut finder = LeaderFinder::new(vec![address(1), address(2), address(3)]);
        let mut asked = Vec::new();
        for _ in 0..8 {
            let at = finder.current().unwrap();
            asked.push(at);
            match at {
                a if a == address(1) => finder.redirected(a, Some(address(2))),
                a if a == address(2) => finder.redirected(a, Some(address(1))),
                a => finder.answered(a),
            }
        }
        assert!(asked.contains(&address(3)));
    }

    #[test]
    fn a_second_failure_at_the_old_address_does_not_skip_the_new_one() {
        let mut finder = LeaderFinder::new(vec![address(1), address(2), address(3)]);
        finder.unreachable(address(1));
        finder.unreachable(address(1));
        assert_eq!(finder.current(), Some(address(2)));
    }
}
