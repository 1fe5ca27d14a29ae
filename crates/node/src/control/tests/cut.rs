//! Cables that tests pull: no new call goes from one control address to another.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Mutex;

static CUT: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());

pub(crate) fn is_cut(from: SocketAddr, to: SocketAddr) -> bool {
    let cut = CUT.lock().unwrap();
    cut.contains(&from) || cut.contains(&to)
}

/// Cuts a node off from all others, both ways.
pub(crate) fn isolate(address: SocketAddr) {
    CUT.lock().unwrap().insert(address);
}

pub(crate) fn heal(address: SocketAddr) {
    CUT.lock().unwrap().remove(&address);
}
