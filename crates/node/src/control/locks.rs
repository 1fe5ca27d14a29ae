//! Requests that wait for a lock: held open until the wait is over (decision 0009).
//!
//! Guarantees: no polling of the state while nothing happens; as long as somebody waits, the sessions in the way are asked
//! after, so that one that has lapsed is struck (design 4.4). Must not know: what makes a wait end.

use super::node::Node;
use super::requests::{current, not_leader, unreadable};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;
use weft_meta::leader::LeaderEvent;
use weft_meta::locks::{LockWaitState, wait_state};
use weft_proto::control::ControlReply;
use weft_raft::SettledWait;
use weft_types::limits::{LOCK_BLOCKER_CHECK, LOCK_POLL_WAIT};
use weft_types::{ErrorKind, InodeNumber, RequestNumber, SessionId};

/// `AwaitLock`: answered when the wait is over, or after `wait_ms`.
pub(crate) async fn await_lock(
    node: &Rc<Node>,
    session: SessionId,
    inode: InodeNumber,
    request: RequestNumber,
    wait_ms: u32,
) -> ControlReply {
    let deadline = Instant::now() + Duration::from_millis(u64::from(wait_ms)).min(LOCK_POLL_WAIT);
    // Before the first look, so that nothing happens unseen in between.
    let mut settled = node.group.settled_waits();
    let mut state = match current(node, |view| wait_state(view, session, inode, request)).await {
        Ok(state) => state,
        Err(reply) => return reply,
    };
    loop {
        match state {
            LockWaitState::Over => return ControlReply::LockGranted,
            LockWaitState::Fenced => return ControlReply::Refused(ErrorKind::Fenced),
            LockWaitState::Waiting { blockers } => {
                for session in blockers {
                    node.leader.step(node, LeaderEvent::SessionWanted { session });
                }
            }
        }
        let look_again = deadline.min(Instant::now() + LOCK_BLOCKER_CHECK);
        let _ = tokio::time::timeout_at(look_again, heard_of(&mut settled, (session, request))).await;
        if !node.leader.is_leading() {
            return not_leader(node);
        }
        // What is applied here is enough: a wait that is over stays over.
        state = match node.group.read(|view| wait_state(view, session, inode, request)) {
            Ok(state) => state,
            Err(error) => return unreadable(&error),
        };
        if Instant::now() >= deadline && matches!(state, LockWaitState::Waiting { .. }) {
            return ControlReply::LockWaits;
        }
    }
}

/// Ends when this wait is over, or when so much happened that it may be.
async fn heard_of(settled: &mut tokio::sync::broadcast::Receiver<SettledWait>, wait: SettledWait) {
    while settled.recv().await.is_ok_and(|over| over != wait) {}
}
