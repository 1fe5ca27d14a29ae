//! What sessions are told without asking: notices out of the replicated state, and questions for a size that only the
//! holder of the cap knows (design 7, "Size").
//!
//! Guarantees: an asker is answered with a size that its holder looked up after the question came, or, as soon as that
//! session holds the cap no more, that it has to look at the record again. Bounded: askers of a file, notices of an
//! answer. Must not know: what a session does about a notice.

use super::node::Node;
use super::requests;
use crate::mutants::{Mutant, planted};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use weft_meta::leader::LeaderEvent;
use weft_meta::{namespace, read};
use weft_proto::control::{ControlReply, ToldSize};
use weft_proto::namespace::Notice;
use weft_types::limits::{ASK_SIZE_TIMEOUT, MAX_NOTICES_PER_ANSWER, MAX_SIZE_ASKERS};
use weft_types::{InodeNumber, SessionId, VolumeId};

/// Longest wait of one watch; the session watches again.
const MAX_WATCH: Duration = Duration::from_secs(30);

struct Asker {
    number: u64,
    answer: oneshot::Sender<ToldSize>,
}

/// What is volatile: a new leader is asked anew.
#[derive(Default)]
pub(crate) struct Watches {
    /// Files whose holder has not been told yet that somebody asks, with the latest question's number.
    untold: RefCell<BTreeMap<(SessionId, InodeNumber), u64>>,
    askers: RefCell<BTreeMap<(VolumeId, InodeNumber), Vec<Asker>>>,
    last_number: Cell<u64>,
    asked: Notify,
    mutated: Notify,
}

impl Watches {
    /// A session has changed something, so it may hold a cap no more.
    pub(crate) fn mutated(&self) {
        self.mutated.notify_waiters();
    }

    fn take_untold(&self, session: SessionId) -> Vec<Notice> {
        let mut untold = self.untold.borrow_mut();
        let all = (session, InodeNumber(0))..=(session, InodeNumber(u64::MAX));
        let keys: Vec<_> = untold.range(all).map(|(key, _)| *key).take(MAX_NOTICES_PER_ANSWER).collect();
        let notice = |key: (SessionId, InodeNumber)| {
            untold.remove(&key).map(|question| Notice::SizeWanted { inode: key.1, question })
        };
        keys.into_iter().filter_map(notice).collect()
    }
}

/// `Watch`: answered as soon as there is something to say.
pub(crate) async fn watch(node: &Rc<Node>, session: SessionId, seen: u64, wait_ms: u32) -> ControlReply {
    let deadline = Instant::now() + Duration::from_millis(u64::from(wait_ms)).min(MAX_WATCH);
    let mut changes = node.group.changes();
    let mut status = node.group.watch_status();
    loop {
        if !node.leader.is_leading() {
            return requests::not_leader(node);
        }
        let asked = node.watches.asked.notified();
        tokio::pin!(asked);
        // Before looking, so that what comes in between wakes us.
        asked.as_mut().enable();
        changes.borrow_and_update();
        status.borrow_and_update();
        let (upto, mut notices) = match node.group.read(|view| read::notices(view, session, seen)) {
            Ok(found) => found,
            Err(error) => return requests::unreadable(&error),
        };
        notices.extend(node.watches.take_untold(session));
        if !notices.is_empty() {
            return ControlReply::Notices { upto, notices };
        }
        tokio::select! {
            _ = changes.changed() => {}
            _ = status.changed() => {}
            () = asked => {}
            () = tokio::time::sleep_until(deadline) => return ControlReply::Notices { upto: seen, notices: Vec::new() },
        }
    }
}

/// `AskSize`: passes the question to the holder and waits for its word.
pub(crate) async fn ask_size(node: &Rc<Node>, volume: VolumeId, inode: InodeNumber, holder: SessionId) -> ControlReply {
    // A lapsed holder is struck, so that the size becomes known (attack stat-dead-holder).
    if !planted(Mutant::WantNothing) {
        node.leader.step(node, LeaderEvent::SessionWanted { session: holder });
    }
    let watches = &node.watches;
    let number = watches.last_number.get() + 1;
    watches.last_number.set(number);
    let (answer, told) = oneshot::channel();
    {
        let mut askers = watches.askers.borrow_mut();
        let of_file = askers.entry((volume, inode)).or_default();
        of_file.retain(|asker| !asker.answer.is_closed());
        if of_file.len() >= MAX_SIZE_ASKERS {
            return ControlReply::Done;
        }
        of_file.push(Asker { number, answer });
    }
    watches.untold.borrow_mut().insert((holder, inode), number);
    watches.asked.notify_waiters();
    // A holder that gave the cap up (it closed the file, say) has nothing to tell and was no holder when it heard the
    // question: its word would be waited for in vain.
    let told = tokio::select! {
        told = tokio::time::timeout(ASK_SIZE_TIMEOUT, told) => told.ok().and_then(Result::ok),
        () = until_given_up(node, (volume, inode), holder) => None,
    };
    let mut askers = watches.askers.borrow_mut();
    if let Some(of_file) = askers.get_mut(&(volume, inode)) {
        of_file.retain(|asker| asker.number != number);
        if of_file.is_empty() {
            askers.remove(&(volume, inode));
            watches.untold.borrow_mut().remove(&(holder, inode));
        }
    }
    told.map_or(ControlReply::Done, ControlReply::SizeTold)
}

/// Ends when the session holds the cap of the file no more, by its own doing or by a fence.
async fn until_given_up(node: &Rc<Node>, (volume, inode): (VolumeId, InodeNumber), holder: SessionId) {
    let mut changes = node.group.changes();
    loop {
        let mutated = node.watches.mutated.notified();
        tokio::pin!(mutated);
        // Before looking, so that what comes in between wakes us.
        mutated.as_mut().enable();
        changes.borrow_and_update();
        let holds = node.group.read(|view| namespace::size_holder(view, volume, inode));
        if matches!(holds, Ok(now) if now != Some(holder)) {
            return;
        }
        tokio::select! {
            () = mutated => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// `TellSize`: the holder's word, for everybody whose question it has heard.
pub(crate) fn tell_size(
    node: &Rc<Node>,
    session: SessionId,
    (volume, inode): (VolumeId, InodeNumber),
    question: u64,
    told: ToldSize,
) -> ControlReply {
    // One that gave the cap up meanwhile has committed its size; whoever asked looks at the record again.
    let holds = node.group.read(|view| namespace::size_holder(view, volume, inode));
    if !matches!(holds, Ok(Some(holder)) if holder == session) {
        return ControlReply::Done;
    }
    if let Some(of_file) = node.watches.askers.borrow_mut().get_mut(&(volume, inode)) {
        for asker in of_file.extract_if(.., |asker| asker.number <= question) {
            // The asker may have given up.
            let _ = asker.answer.send(told);
        }
    }
    ControlReply::Done
}
