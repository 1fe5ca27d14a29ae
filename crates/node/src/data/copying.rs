//! Copies from chunk to chunk without the client in between (decision 0015).
//!
//! The primary of the target reads the source from its primary, in the client's name, as the client itself would: under
//! that one's lease, session check and verification. What it got is then an ordinary write of the client, admitted and
//! sequenced as one, so that dedupe, generations, fences and credits are the machine's, and none of them is decided here.
//!
//! Guarantees: one attempt of an operation at a time, and none goes on in another epoch than the one it began in, so an
//! attempt that was given up lands in no later one (a write that waits in a queue is held to the same); few copies at a
//! time, so memory is bounded; every copy is answered once. Must not know: how a machine decides, what a file is.

use super::host::{CallAnswer, Host, within};
use super::node::{DataNode, Shared};
use super::server::{Answer, Request};
use super::turn::{Speaker, settle};
use crate::mutants::{Mutant, planted};
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use tokio::sync::oneshot;
use weft_proto::data::{Contents, CopyRequest, DataReply, DataRequest, ReadRequest, WriteRequest};
use weft_types::error::NotServing;
use weft_types::limits::{DEFAULT_CALL_TIMEOUT, MAX_COPIES_RUNNING, MAX_QUEUED_COPIES};
use weft_types::{DataError, Epoch, MapVersion, NodeId, OperationId, PgId, PgRecord, SessionId};

/// A copy that was taken on.
struct Copy<R> {
    request: CopyRequest,
    answer: Answer<R>,
    from: Speaker,
    /// Of the target's group when it was taken on.
    epoch: Epoch,
}

pub(super) struct Copies<R> {
    queued: VecDeque<Copy<R>>,
    running: usize,
    /// Queued and running.
    attempts: BTreeSet<(SessionId, OperationId)>,
}

impl<R> Default for Copies<R> {
    fn default() -> Self {
        Self { queued: VecDeque::new(), running: 0, attempts: BTreeSet::new() }
    }
}

const fn not_serving(reason: NotServing) -> DataError {
    DataError::NotServing { reason }
}

impl<H: Host> DataNode<H> {
    /// Takes a copy on; it begins at the end of the turn.
    pub(super) fn want_copy(&mut self, request: CopyRequest, answer: Answer<H::Replier>, from: Speaker) {
        let refusal = match self.epoch_led(request.pg) {
            None => Some(DataError::NotPrimary { known: self.applied() }),
            Some(_) if self.copies.queued.len() >= MAX_QUEUED_COPIES => Some(not_serving(NotServing::Overloaded)),
            // Sent again while the first attempt is under way: that one is let end.
            Some(_) if self.attempts(&request) && !planted(Mutant::CopyTwiceAtOnce) => {
                Some(not_serving(NotServing::Overloaded))
            }
            Some(epoch) => {
                self.copies.attempts.insert(operation(&request));
                self.copies.queued.push_back(Copy { request, answer, from, epoch });
                return;
            }
        };
        if let Some(error) = refusal {
            self.counters.requests_refused += 1;
            answer.send(Err(error));
        }
    }

    /// Whether an attempt of the same operation waits or runs.
    fn attempts(&self, request: &CopyRequest) -> bool {
        self.copies.attempts.contains(&operation(request))
    }

    /// What waits for its turn is refused; what runs is when it wants to write.
    pub(super) fn refuse_copies(&mut self) {
        for copy in std::mem::take(&mut self.copies.queued) {
            self.copies.attempts.remove(&operation(&copy.request));
            self.counters.requests_refused += 1;
            copy.answer.send(Err(not_serving(NotServing::Stopping)));
        }
    }

    /// The epoch in which this node leads a group, by the applied map.
    fn epoch_led(&self, pg: PgId) -> Option<Epoch> {
        self.leading.get(&pg)?;
        self.record_of(pg).map(|record| record.epoch)
    }

    fn record_of(&self, pg: PgId) -> Option<&PgRecord> {
        self.map.as_ref()?.pgs.iter().find(|record| record.pg == pg)
    }
}

const fn operation(request: &CopyRequest) -> (SessionId, OperationId) {
    (request.origin.session, request.origin.operation)
}

/// Starts what is queued, a few at a time. Called at the end of a turn.
pub(super) fn start_queued<H: Host>(shared: &Shared<H>, node: &mut DataNode<H>) {
    while node.copies.running < MAX_COPIES_RUNNING {
        let Some(copy) = node.copies.queued.pop_front() else { return };
        node.copies.running += 1;
        let shared = Rc::clone(shared);
        node.host.spawn(async move { run(&shared, copy).await });
    }
}

async fn run<H: Host>(shared: &Shared<H>, copy: Copy<H::Replier>) {
    let bytes = source_bytes(shared, &copy.request).await;
    let mut node = shared.borrow_mut();
    node.copies.running -= 1;
    node.copies.attempts.remove(&operation(&copy.request));
    let outcome = match bytes {
        Ok(_) if !goes_on(&node, &copy) => Err(not_serving(NotServing::Moving)),
        outcome => outcome,
    };
    match outcome {
        Ok(bytes) => {
            node.counters.bytes_copied += bytes.len() as u64;
            let mut write = write_of(copy.request);
            if planted(Mutant::CopyInAnyEpoch) {
                // No change is taken that names a map of before the epoch, which stops this one too.
                write.map_version = node.applied();
            }
            node.admit(Request::new(DataRequest::Write(write), bytes, copy.answer, copy.from));
        }
        Err(error) => {
            node.counters.requests_refused += 1;
            copy.answer.send(Err(error));
        }
    }
    drop(node);
    settle(shared);
}

/// Only in the epoch in which it began: in a later one another attempt may be under way elsewhere.
fn goes_on<H: Host>(node: &DataNode<H>, copy: &Copy<H::Replier>) -> bool {
    let led = node.epoch_led(copy.request.pg);
    led == Some(copy.epoch) || (led.is_some() && planted(Mutant::CopyInAnyEpoch))
}

/// The bytes as the source's primary has them now.
async fn source_bytes<H: Host>(shared: &Shared<H>, copy: &CopyRequest) -> Result<Bytes, DataError> {
    let (source, own, request) = {
        let node = shared.borrow();
        let source = node.record_of(copy.source.pg).and_then(|record| record.primary_member());
        (source.map(|member| member.node), node.settings.node, DataRequest::Read(read_of(copy, node.applied())))
    };
    let answer = match source {
        Some(node) if node == own => read_here(shared, request).await,
        Some(node) => read_there(shared, node, &request).await,
        None => None,
    };
    match answer {
        Some((Ok(DataReply::Read), bytes)) if bytes.len() == copy.length_bytes as usize => Ok(bytes),
        Some((Err(error @ (DataError::Fenced | DataError::Corrupt | DataError::Malformed)), _)) => Err(error),
        // Nobody serves the source now, or the map is old: the client tries again.
        _ => Err(not_serving(NotServing::NoSource)),
    }
}

async fn read_here<H: Host>(shared: &Shared<H>, body: DataRequest) -> CallAnswer {
    let (answer, answered) = oneshot::channel();
    shared.borrow_mut().admit(Request::new(body, Bytes::new(), Answer::Bytes(answer), Speaker::Node));
    settle(shared);
    let host = shared.borrow().host.clone();
    let (reply, bytes) = within(&host, DEFAULT_CALL_TIMEOUT, answered).await?.ok()?;
    Some((reply, bytes))
}

async fn read_there<H: Host>(shared: &Shared<H>, node: NodeId, body: &DataRequest) -> CallAnswer {
    let call = {
        let here = shared.borrow();
        let link = here.peers.link(node)?;
        here.host.call(&link, body, DEFAULT_CALL_TIMEOUT)
    };
    call.await
}

fn read_of(copy: &CopyRequest, applied: MapVersion) -> ReadRequest {
    ReadRequest {
        pg: copy.source.pg,
        map_version: applied.max(copy.map_version),
        session: copy.origin.session,
        chunk: copy.source.chunk,
        offset_bytes: copy.source.offset_bytes,
        length_bytes: copy.length_bytes,
        // A source that was cut meanwhile is copied as it is then. To refuse would end this attempt for good while an
        // earlier one may have been carried out.
        contents: Contents::OfAtLeast(copy.source.generation),
    }
}

fn write_of(copy: CopyRequest) -> WriteRequest {
    WriteRequest {
        pg: copy.pg,
        map_version: copy.map_version,
        origin: copy.origin,
        chunk: copy.chunk,
        offset_bytes: copy.offset_bytes,
        generation: copy.generation,
        ack: copy.ack,
        hashes: Vec::new(),
    }
}
