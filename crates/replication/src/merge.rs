//! Changes that begin or end within a block: the primary reads the old block under a lock, makes whole blocks, and only
//! then sequences them. Journals and members see whole blocks only.

use crate::actions::Action;
use crate::core::Context;
use crate::events::{ClientRequest, ReadOutcome, RequestToken};
use crate::locks::{LockId, Scope};
use crate::mutants::Mutant;
use crate::primary::{Primary, ReadPurpose};
use crate::requests::{
    Gate, Waiting, ack_mode, good_reply, map_version, origin, refuse_change, reply_error, session, whole_blocks,
};
use crate::window::Waiter;
use crate::withdrawal::unreadable;
use bytes::{Bytes, BytesMut};
use weft_proto::data::{DiscardRequest, TruncateRequest, WriteRequest};
use weft_types::{
    BLOCK_SIZE, BlockIndex, BlockRange, BootTime, ChunkId, ChunkIndex, ChunkSize, DataError, Effect,
    TruncateGeneration, checksum,
};

/// A block that is changed in part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Edge {
    Head,
    Tail,
}

pub(crate) struct Merge {
    pub token: RequestToken,
    request: ClientRequest,
    chunk_size: ChunkSize,
    scope: Scope,
    lock: LockId,
    head: Option<EdgeBlock>,
    tail: Option<EdgeBlock>,
    since: BootTime,
}

struct EdgeBlock {
    chunk: ChunkId,
    block: BlockIndex,
    bytes: Option<Bytes>,
    attempts: u8,
}

impl EdgeBlock {
    const fn new(chunk: ChunkId, block: BlockIndex) -> Self {
        Self { chunk, block, bytes: None, attempts: 0 }
    }
}

impl Primary {
    pub fn start_merge(
        &mut self,
        cx: &mut Context<'_>,
        token: RequestToken,
        request: ClientRequest,
        scope: Scope,
        chunk_size: ChunkSize,
    ) {
        let (head, tail) = edges(&request, chunk_size);
        let lock = self.locks.take(scope);
        let id = self.id();
        let since = cx.clock.now;
        let wanted = [(Edge::Head, head.is_some()), (Edge::Tail, tail.is_some())];
        self.merges.insert(id, Merge { token, request, chunk_size, scope, lock, head, tail, since });
        for (edge, _) in wanted.into_iter().filter(|(_, wanted)| *wanted) {
            self.read_edge(cx, id, edge);
        }
        self.finish_merge(cx, id);
    }

    pub fn read_edge(&mut self, cx: &mut Context<'_>, merge: u64, edge: Edge) {
        let Some(block) = self.merges.get(&merge).and_then(|m| m.edge(edge)) else { return };
        let (chunk, range) = (block.chunk, BlockRange::new(block.block, 1));
        let ticket = cx.read_ticket();
        self.purposes.insert(ticket, ReadPurpose::Merge { merge, edge });
        self.read_store(cx, Action::ReadBlocks { ticket, chunk, range });
    }

    pub fn on_edge_read(&mut self, cx: &mut Context<'_>, id: u64, edge: Edge, outcome: ReadOutcome) {
        let Some(block) = self.merges.get_mut(&id).and_then(|m| m.edge_mut(edge)) else { return };
        match outcome {
            ReadOutcome::Done { bytes, bad } if bad.is_empty() && bytes.len() == BLOCK_SIZE => {
                block.bytes = Some(bytes);
                self.finish_merge(cx, id);
            }
            ReadOutcome::Done { bad, .. } => {
                block.attempts += 1;
                let (chunk, attempts) = (block.chunk, block.attempts);
                let then = crate::repair::Then::Merge { merge: id, edge };
                if attempts >= crate::tuning::MAX_READ_ATTEMPTS || bad.is_empty() {
                    self.fail_merge(cx, id, unreadable(cx));
                } else {
                    self.repair(cx, chunk, bad[0], then);
                }
            }
            ReadOutcome::Failed => self.fail_merge(cx, id, DataError::DiskFailed),
        }
    }

    pub fn fail_merge(&mut self, cx: &mut Context<'_>, id: u64, error: DataError) {
        let Some(merge) = self.merges.remove(&id) else { return };
        self.locks.release(merge.scope, merge.lock);
        self.recheck = true;
        refuse_change(cx, merge.token, origin(&merge.request), error);
    }

    /// When all edges are in hand: checked anew, then sequenced, in one step (design 4.2).
    fn finish_merge(&mut self, cx: &mut Context<'_>, id: u64) {
        let ready = |edge: &Option<EdgeBlock>| edge.as_ref().is_none_or(|e| e.bytes.is_some());
        if !self.merges.get(&id).is_some_and(|m| ready(&m.head) && ready(&m.tail)) {
            return;
        }
        let Some(merge) = self.merges.remove(&id) else { return };
        self.locks.release(merge.scope, merge.lock);
        self.recheck = true;
        match self.gate(cx, map_version(&merge.request), session(&merge.request)) {
            Gate::Wait => {
                let Merge { token, request, since, .. } = merge;
                self.wait(cx, Waiting::again(token, request, since));
                return;
            }
            Gate::Refuse(error) if !cx.core.planted(Mutant::FenceOnlyAtArrival) => {
                reply_error(cx, merge.token, error);
                return;
            }
            Gate::Refuse(_) | Gate::Go => {}
        }
        if self.answer_duplicate(cx, merge.token, &merge.request) {
            return;
        }
        let waiter =
            Waiter { token: merge.token, ack: ack_mode(cx, &merge.request), reply: good_reply(&merge.request) };
        let origin = origin(&merge.request);
        let bytes = |edge: Option<EdgeBlock>| edge.and_then(|e| e.bytes);
        let (head, tail) = (bytes(merge.head), bytes(merge.tail));
        match merge.request {
            ClientRequest::Write { request, data } => self.write_merged(cx, &request, &data, head, tail, waiter),
            ClientRequest::Discard(request) => self.discard_merged(cx, &request, head, tail, waiter),
            ClientRequest::Truncate(request) => self.truncate_merged(cx, &request, merge.chunk_size, head, waiter),
            // Neither is ever merged.
            _ => {
                self.sequence(cx, Effect::Nothing, Bytes::new(), origin, Some(waiter));
            }
        }
    }

    fn write_merged(
        &mut self,
        cx: &mut Context<'_>,
        request: &WriteRequest,
        data: &Bytes,
        head: Option<Bytes>,
        tail: Option<Bytes>,
        waiter: Waiter,
    ) {
        let volume = cx.core.config.pg.volume;
        let end_bytes = request.offset_bytes + data.len() as u32;
        let range = BlockRange::covering(&(request.offset_bytes..end_bytes));
        let mut merged = BytesMut::zeroed(range.byte_len());
        if let Some(head) = head {
            merged[..BLOCK_SIZE].copy_from_slice(&head);
        }
        if let Some(tail) = tail {
            let last = merged.len() - BLOCK_SIZE;
            merged[last..].copy_from_slice(&tail);
        }
        let start = request.offset_bytes as usize % BLOCK_SIZE;
        merged[start..start + data.len()].copy_from_slice(data);
        let merged = merged.freeze();
        let hashes = checksum::block_hashes(volume, request.chunk, range, &merged);
        let whole = whole_blocks(request.offset_bytes, data.len());
        let skip = usize::from(whole.first.0 - range.first.0.min(whole.first.0));
        let damaged = !request.hashes.is_empty() && hashes[skip..skip + usize::from(whole.count)] != request.hashes[..];
        if damaged {
            refuse_change(cx, waiter.token, Some(request.origin), DataError::Malformed);
            return;
        }
        let effect = Effect::Write { chunk: request.chunk, range, hashes, end_bytes, generation: request.generation };
        self.sequence(cx, effect, merged, Some(request.origin), Some(waiter));
    }

    fn discard_merged(
        &mut self,
        cx: &mut Context<'_>,
        request: &DiscardRequest,
        head: Option<Bytes>,
        tail: Option<Bytes>,
        waiter: Waiter,
    ) {
        let (offset, length) = (request.offset_bytes as usize, request.length_bytes as usize);
        let end = offset + length;
        if let Some(old) = head {
            let block = BlockIndex((offset / BLOCK_SIZE) as u16);
            let until = if end / BLOCK_SIZE == offset / BLOCK_SIZE { end % BLOCK_SIZE } else { BLOCK_SIZE };
            self.zero_part(cx, request.chunk, block, &old, offset % BLOCK_SIZE..until, request.generation);
        }
        if let Some(old) = tail {
            let block = BlockIndex((end / BLOCK_SIZE) as u16);
            self.zero_part(cx, request.chunk, block, &old, 0..end % BLOCK_SIZE, request.generation);
        }
        let whole = whole_blocks(request.offset_bytes, length);
        // The last entry carries the operation: a retry after a part of it was lost runs again, which is harmless.
        let effect = if whole.is_empty() {
            Effect::Nothing
        } else {
            Effect::Discard { chunk: request.chunk, range: whole, generation: request.generation }
        };
        self.sequence(cx, effect, Bytes::new(), Some(request.origin), Some(waiter));
    }

    fn truncate_merged(
        &mut self,
        cx: &mut Context<'_>,
        request: &TruncateRequest,
        chunk_size: ChunkSize,
        head: Option<Bytes>,
        waiter: Waiter,
    ) {
        if let Some(old) = head.filter(|_| !cx.core.planted(Mutant::CutKeepsEdge)) {
            let (chunk, within) = place(request, chunk_size);
            let block = BlockIndex((within as usize / BLOCK_SIZE) as u16);
            // Under the generation before: the cut itself must still be news to every member.
            let generation = self.object_generation(cx, request.object).unwrap_or_default();
            self.zero_part(cx, chunk, block, &old, within as usize % BLOCK_SIZE..BLOCK_SIZE, generation);
        }
        let effect = Effect::Truncate {
            object: request.object,
            keep_blocks: request.size_bytes.div_ceil(BLOCK_SIZE as u64),
            size_bytes: request.size_bytes,
            generation: request.generation,
        };
        self.sequence(cx, effect, Bytes::new(), request.origin, Some(waiter));
    }

    /// Writes a block back with a part of it zeroed, unless it is zero there already (or absent).
    fn zero_part(
        &mut self,
        cx: &mut Context<'_>,
        chunk: ChunkId,
        block: BlockIndex,
        old: &Bytes,
        part: std::ops::Range<usize>,
        generation: TruncateGeneration,
    ) {
        if old[part.clone()].iter().all(|byte| *byte == 0) {
            return;
        }
        let mut new = BytesMut::from(&old[..]);
        new[part].fill(0);
        let (range, new) = (BlockRange::new(block, 1), new.freeze());
        let hashes = checksum::block_hashes(cx.core.config.pg.volume, chunk, range, &new);
        // It makes no file longer, so it claims no end.
        let effect = Effect::Write { chunk, range, hashes, end_bytes: 0, generation };
        self.sequence(cx, effect, new, None, None);
    }
}

impl Merge {
    fn edge(&self, edge: Edge) -> Option<&EdgeBlock> {
        match edge {
            Edge::Head => self.head.as_ref(),
            Edge::Tail => self.tail.as_ref(),
        }
    }

    fn edge_mut(&mut self, edge: Edge) -> Option<&mut EdgeBlock> {
        match edge {
            Edge::Head => self.head.as_mut(),
            Edge::Tail => self.tail.as_mut(),
        }
    }
}

/// Chunk and byte within it at which a truncation ends.
fn place(request: &TruncateRequest, chunk_size: ChunkSize) -> (ChunkId, u32) {
    let size = u64::from(chunk_size.bytes());
    let index = u32::try_from(request.size_bytes / size).unwrap_or(u32::MAX);
    (ChunkId { object: request.object, index: ChunkIndex(index) }, (request.size_bytes % size) as u32)
}

/// The blocks that have to be read: changed in part.
fn edges(request: &ClientRequest, chunk_size: ChunkSize) -> (Option<EdgeBlock>, Option<EdgeBlock>) {
    let of_range = |chunk: ChunkId, offset: usize, length: usize| {
        let end = offset + length;
        let block = |byte: usize| EdgeBlock::new(chunk, BlockIndex((byte / BLOCK_SIZE) as u16));
        let one_block = offset / BLOCK_SIZE == (end - 1) / BLOCK_SIZE;
        let head = !offset.is_multiple_of(BLOCK_SIZE) || (one_block && !end.is_multiple_of(BLOCK_SIZE));
        let tail = !end.is_multiple_of(BLOCK_SIZE) && !one_block;
        (head.then(|| block(offset)), tail.then(|| block(end - 1)))
    };
    match request {
        ClientRequest::Write { request, data } => of_range(request.chunk, request.offset_bytes as usize, data.len()),
        ClientRequest::Discard(request) => {
            of_range(request.chunk, request.offset_bytes as usize, request.length_bytes as usize)
        }
        ClientRequest::Truncate(request) => {
            let (chunk, within) = place(request, chunk_size);
            // Read even if the store has no such chunk yet: the open batch may.
            let partial = !(within as usize).is_multiple_of(BLOCK_SIZE);
            (partial.then(|| EdgeBlock::new(chunk, BlockIndex((within as usize / BLOCK_SIZE) as u16))), None)
        }
        _ => (None, None),
    }
}
