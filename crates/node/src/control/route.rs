//! Finding the metadata leader: what Raft knows, what others say, else everybody in turn.

use super::node::Node;
use super::requests;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;
use weft_proto::control::{ControlReply, ControlRequest};
use weft_transport::CallError;

/// One attempt at one node.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(700);
const PAUSE: Duration = Duration::from_millis(25);

/// Whether a request that may have been handled is sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Retry {
    Always,
    /// It must not happen twice, and has no number of its own.
    OnlyIfUnhandled,
}

pub(crate) struct Route {
    own: SocketAddr,
    /// Where the leader answered, or was said to be.
    hint: Cell<Option<SocketAddr>>,
    /// From `node.json`; for a node whose own state is still empty.
    known: RefCell<Vec<SocketAddr>>,
    turn: Cell<usize>,
}

impl Route {
    pub(crate) fn new(known: &[SocketAddr], own: SocketAddr) -> Self {
        Self { own, hint: Cell::new(None), known: RefCell::new(known.to_vec()), turn: Cell::new(0) }
    }

    fn next(&self, node: &Node) -> Option<SocketAddr> {
        let leader = node.group.status().leader;
        let named = leader.and_then(|(id, address)| node.peers.address(id).or(address));
        if let Some(address) = named.filter(|address| *address != self.own) {
            return Some(address);
        }
        if let Some(address) = self.hint.get() {
            return Some(address);
        }
        let mut all = node.peers.addresses();
        all.extend(self.known.borrow().iter().copied());
        all.retain(|address| *address != self.own);
        all.sort_unstable();
        all.dedup();
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        all.get(turn.checked_rem(all.len())?).copied()
    }
}

/// Asks the leader, wherever it is, here included. The answer is never `NotLeader`.
///
/// # Errors
/// When no leader answers within `timeout`; why the last attempt failed.
pub(crate) async fn ask_leader(
    node: &Rc<Node>,
    request: ControlRequest,
    timeout: Duration,
    retry: Retry,
) -> Result<ControlReply, String> {
    let deadline = Instant::now() + timeout;
    let mut why = "no leader is known".to_owned();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(why);
        }
        if node.leader.is_leading() {
            let own = requests::handle(Rc::clone(node), node.name.clone(), request.clone());
            match tokio::time::timeout(left, own).await {
                Ok(Some(ControlReply::NotLeader { .. }) | None) => "leadership was just lost".clone_into(&mut why),
                Ok(Some(reply)) => return Ok(reply),
                Err(_) => return Err("the metadata group did not answer in time".to_owned()),
            }
        } else if let Some(address) = node.route.next(node) {
            match node.peers.ask(address, &request, left.min(attempt_timeout(&request))).await {
                Ok(ControlReply::NotLeader { leader }) => {
                    why = format!("{address} does not lead");
                    let said = leader.map(|(_, said)| said).filter(|said| *said != address && *said != node.route.own);
                    node.route.hint.set(said);
                }
                Ok(reply) => {
                    node.route.hint.set(Some(address));
                    return Ok(reply);
                }
                Err(error) => {
                    why = format!("{address}: {error}");
                    node.route.hint.set(None);
                    if retry == Retry::OnlyIfUnhandled && !unhandled(&error) {
                        return Err(why);
                    }
                }
            }
        }
        tokio::time::sleep(PAUSE.min(left)).await;
    }
}

fn unhandled(error: &CallError) -> bool {
    error.was_not_handled()
}

/// What takes several commits may take longer than what takes one.
fn attempt_timeout(request: &ControlRequest) -> Duration {
    match request {
        ControlRequest::Join(_) | ControlRequest::RegisterNode(_) => Duration::from_secs(5),
        _ => ATTEMPT_TIMEOUT,
    }
}
