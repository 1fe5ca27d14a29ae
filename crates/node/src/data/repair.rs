//! Repair of a block that the scrub found bad.
//!
//! A block that a read finds bad is repaired by its machine, under the block's order. This file serves the scrub, on
//! primaries and backups alike: it asks other members for the block and takes only bytes that have exactly the hash
//! which this replica's own trailer holds. That hash is keyed by the block's address, so the bytes are the right ones
//! whoever sent them, and however stale the sender is (attack repair-from-stale). Where the own hash is lost as well
//! nothing is taken; that is reported.
//!
//! Guarantees: few repairs at a time; each is counted and told. Must not know: epochs, positions.

use super::groups::GroupKey;
use super::host::Host;
use super::node::{DataNode, Shared};
use super::reading::{BlockRead, Reader};
use super::server::{Answer, Kind, Pending};
use crate::bridge::ToControl;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};
use weft_proto::data::{Contents, DataReply, DataRequest, ReadRequest};
use weft_replication::{ReadOutcome, Reply, RequestToken};
use weft_store::Repaired;
use weft_types::limits::DEFAULT_CALL_TIMEOUT;
use weft_types::{BLOCK_SIZE, BlockHash, BlockIndex, BlockRange, ChunkId, DataError, NodeId, SessionId, block_hash};

/// The session that nodes read under when they repair. The metadata group never gives it to a client.
pub(super) const REPAIR_SESSION: SessionId = SessionId(0);
/// Found and not yet worked on; what does not fit is found again in the next round.
const MAX_QUEUED_REPAIRS: usize = 256;
const MAX_REPAIRS_RUNNING: usize = 4;
const REPAIR_ATTEMPTS: u32 = 10;
const REPAIR_PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
pub(super) struct RepairTask {
    pub(super) key: GroupKey,
    pub(super) chunk: ChunkId,
    pub(super) block: BlockIndex,
    pub(super) expected: Option<BlockHash>,
}

#[derive(Default)]
pub(super) struct Repairs {
    queued: VecDeque<RepairTask>,
    running: usize,
}

impl<H: Host> DataNode<H> {
    pub(super) fn want_repair(&mut self, task: RepairTask) {
        if self.repairs.queued.len() < MAX_QUEUED_REPAIRS {
            self.repairs.queued.push_back(task);
        }
    }

    /// Serves another node's repair: the block as this replica has it, if it verifies.
    pub(super) fn serve_repair(&mut self, request: &ReadRequest, answer: Answer<H::Replier>, received: Instant) {
        let token = self.next_token();
        self.requests.insert(token, Pending::new(answer, Kind::Other, received));
        let end = request.offset_bytes.saturating_add(request.length_bytes);
        let range = BlockRange::covering(&(request.offset_bytes..end));
        let whole = range.byte_range() == (u64::from(request.offset_bytes)..u64::from(end));
        let key = self.groups.iter().find(|(key, _)| key.pg == request.pg).map(|(key, group)| (*key, group.chunk_size));
        match key {
            Some((key, size)) if whole && end <= size.bytes() => {
                self.read(BlockRead { key, reader: Reader::Peer(token), chunk: request.chunk, range }, 0);
            }
            Some(_) => self.reply(token, Err(DataError::Malformed)),
            None => {
                let known = self.applied();
                self.reply(token, Err(DataError::NotPrimary { known }));
            }
        }
    }

    pub(super) fn repair_read(&mut self, token: RequestToken, outcome: ReadOutcome) {
        let result = match outcome {
            ReadOutcome::Done { bytes, bad } if bad.is_empty() => Ok(Reply::Read(bytes)),
            ReadOutcome::Done { .. } | ReadOutcome::Failed => Err(DataError::Corrupt),
        };
        self.reply(token, result);
    }
}

/// Starts what is queued, a few at a time. Called at the end of a turn.
pub(super) fn start_queued<H: Host>(shared: &Shared<H>, node: &mut DataNode<H>) {
    while node.repairs.running < MAX_REPAIRS_RUNNING {
        let Some(task) = node.repairs.queued.pop_front() else { return };
        node.repairs.running += 1;
        let shared = Rc::clone(shared);
        node.host.spawn(async move {
            run(&shared, task).await;
            shared.borrow_mut().repairs.running -= 1;
        });
    }
}

async fn run<H: Host>(shared: &Shared<H>, task: RepairTask) {
    let RepairTask { key, chunk, block, expected } = task;
    let told = match expected {
        None => Err("its own hash is lost as well".to_owned()),
        Some(expected) => match fetch(shared, task, expected).await {
            Some((from, bytes)) => {
                let mut node = shared.borrow_mut();
                match node.store(key).and_then(|store| store.repair_block(key.pg, chunk, block, &bytes)) {
                    Ok(Repaired::Done) => Ok(from),
                    // Written anew since the scrub read it.
                    Ok(Repaired::OtherContent { .. } | Repaired::Unknown) => return,
                    Err(error) => {
                        node.fail_disk(key.disk, &error.to_string());
                        return;
                    }
                }
            }
            None => Err("no other member has a good copy now".to_owned()),
        },
    };
    let mut node = shared.borrow_mut();
    let what = match told {
        Ok(from) => {
            node.counters.blocks_repaired += 1;
            format!("was repaired from node {from}")
        }
        Err(why) => {
            node.counters.blocks_unrepairable += 1;
            format!("was not repaired: {why}")
        }
    };
    let text = format!("scrub: block {block} of chunk {chunk} of group {} on disk {} {what}", key.pg, key.disk);
    tracing::warn!("{text}");
    node.tell_control(ToControl::Event(text));
}

/// Asks all members, again after a pause: just after a start nobody is connected yet.
async fn fetch<H: Host>(shared: &Shared<H>, task: RepairTask, expected: BlockHash) -> Option<(NodeId, bytes::Bytes)> {
    for attempt in 0..REPAIR_ATTEMPTS {
        if attempt > 0 {
            let pause = shared.borrow().host.sleep(REPAIR_PAUSE);
            pause.await;
        }
        if let Some(found) = ask_members(shared, task, expected).await {
            return Some(found);
        }
    }
    None
}

/// Good bytes, and from whom.
async fn ask_members<H: Host>(
    shared: &Shared<H>,
    task: RepairTask,
    expected: BlockHash,
) -> Option<(NodeId, bytes::Bytes)> {
    let RepairTask { key, chunk, block, .. } = task;
    let (request, members) = {
        let node = shared.borrow();
        let request = DataRequest::Read(ReadRequest {
            pg: key.pg,
            map_version: node.applied(),
            session: REPAIR_SESSION,
            chunk,
            offset_bytes: u32::from(block.0) * BLOCK_SIZE as u32,
            length_bytes: BLOCK_SIZE as u32,
            contents: Contents::Any,
        });
        (request, node.groups.get(&key)?.others.clone())
    };
    for (_, member) in members {
        let call = {
            let node = shared.borrow();
            let Some(link) = node.peers.link(member) else { continue };
            node.host.call(&link, &request, DEFAULT_CALL_TIMEOUT)
        };
        let Some((Ok(DataReply::Read), bytes)) = call.await else { continue };
        if bytes.len() == BLOCK_SIZE && block_hash(key.pg.volume, chunk, block, &bytes) == expected {
            return Some((member, bytes));
        }
    }
    None
}
