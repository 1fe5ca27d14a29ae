//! Clients' requests: what may be carried out now, what has to wait and what is refused. Lease check, session check and
//! sequencing are one step (design 4.2): whatever waited is checked anew.

use crate::actions::{Action, Reply};
use crate::core::Context;
use crate::events::{ClientRequest, RequestToken};
use crate::locks::Scope;
use crate::mutants::Mutant;
use crate::primary::{Phase, Primary};
use crate::reads::ReadKind;
use crate::tuning::{MAX_WAITING_BYTES, MAX_WAITING_REQUESTS, REQUEST_PATIENCE};
use crate::view::Lookup;
use crate::window::Waiter;
use bytes::Bytes;
use weft_proto::data::{FillRequest, WriteRequest};
use weft_types::error::NotServing;
use weft_types::limits::{MAX_FILL_BYTES, MAX_INFLIGHT_BYTES_PER_PG, MAX_INFLIGHT_ENTRIES_PER_PG, MAX_IO_BYTES};
use weft_types::{
    AckMode, BLOCK_SIZE, BlockIndex, BlockRange, BootTime, ChunkSize, DataError, Effect, LogPosition, MapVersion,
    ObjectId, Origin, PresentBlocks, SessionId, TruncateGeneration, checksum,
};

/// A request that cannot be carried out yet.
pub(crate) struct Waiting {
    pub token: RequestToken,
    request: ClientRequest,
    since: BootTime,
}

enum Admission {
    /// Looked up only where it matters.
    Go {
        absent_blocks: u16,
    },
    /// When the open batch has been appended, or journals have room.
    Later,
    NoSpace,
}

impl Admission {
    const FREE: Self = Self::Go { absent_blocks: 0 };
}

/// What a new chunk file takes beside its blocks, about: trailers of a chunk of 4 MiB, and what the filesystem knows of it.
const FILE_BLOCKS: u64 = 8;

pub(crate) enum Gate {
    Go,
    Wait,
    Refuse(DataError),
}

impl Primary {
    pub fn on_request(&mut self, cx: &mut Context<'_>, token: RequestToken, request: ClientRequest) {
        let now = cx.clock.now;
        if let Some(request) = self.attempt(cx, token, request) {
            self.wait(cx, Waiting { token, request, since: now });
        }
    }

    pub fn wait(&mut self, cx: &mut Context<'_>, waiting: Waiting) {
        let bytes = data_len(&waiting.request);
        if self.waiting.len() >= MAX_WAITING_REQUESTS || self.waiting_bytes + bytes > MAX_WAITING_BYTES {
            let result = Err(DataError::NotServing { reason: NotServing::Overloaded });
            cx.act(Action::Reply { token: waiting.token, result });
            return;
        }
        self.waiting_bytes += bytes;
        self.waiting.push_back(waiting);
    }

    /// Tries everything that waits again, in the order it came.
    pub fn retry_waiting(&mut self, cx: &mut Context<'_>) {
        let queue = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        for Waiting { token, request, since } in queue {
            if let Some(request) = self.attempt(cx, token, request) {
                self.waiting_bytes += data_len(&request);
                self.waiting.push_back(Waiting { token, request, since });
            }
        }
    }

    /// Refuses what has waited too long, and says why.
    pub fn expire_requests(&mut self, cx: &mut Context<'_>) {
        let now = cx.clock.now;
        while self.waiting.front().is_some_and(|w| now.since(w.since) >= REQUEST_PATIENCE) {
            let Some(waiting) = self.waiting.pop_front() else { return };
            self.waiting_bytes -= data_len(&waiting.request);
            let reason = self.wait_reason(cx, &waiting.request);
            cx.act(Action::Reply { token: waiting.token, result: Err(DataError::NotServing { reason }) });
        }
        self.expire_reads(cx);
    }

    /// Requests of sessions that were struck off: refused now, so that the fence can be acknowledged (design 4.3).
    pub fn refuse_struck(&mut self, cx: &mut Context<'_>) {
        let Some(map) = cx.core.map.as_ref() else { return };
        let live = &map.cluster.live_sessions;
        let struck: Vec<RequestToken> = self
            .waiting
            .iter()
            .filter(|w| session(&w.request).is_some_and(|s| !live.contains(&s)))
            .map(|w| w.token)
            .collect();
        if !struck.is_empty() && !cx.core.planted(Mutant::FenceOnlyAtArrival) {
            self.waiting.retain(|w| !struck.contains(&w.token));
            self.waiting_bytes = self.waiting.iter().map(|w| data_len(&w.request)).sum();
            for token in struck {
                cx.act(Action::Reply { token, result: Err(DataError::Fenced) });
            }
        }
    }

    fn wait_reason(&self, cx: &Context<'_>, request: &ClientRequest) -> NotServing {
        match self.phase {
            Phase::Peering(_) => NotServing::Peering(self.epoch),
            Phase::Moved => NotServing::Moving,
            Phase::Serving if !cx.clock.has_lease() => NotServing::NoLease,
            Phase::Serving if !self.has_minimum(cx) => NotServing::BelowMinimum,
            Phase::Serving => match generation(request) {
                Some((object, wanted)) if self.object_generation(cx, object).is_some_and(|have| have < wanted) => {
                    NotServing::Truncating
                }
                _ => NotServing::Overloaded,
            },
        }
    }

    /// Lease, session, map version and phase, as they are now.
    pub fn gate(&self, cx: &Context<'_>, map_version: MapVersion, session: Option<SessionId>) -> Gate {
        let Some(map) = cx.core.map.as_ref() else { return Gate::Wait };
        if self.phase == Phase::Moved {
            return Gate::Refuse(DataError::NotServing { reason: NotServing::Moving });
        }
        let early = map_version > map.cluster.version && !cx.core.planted(Mutant::IgnoreMapVersion);
        if early || self.phase != Phase::Serving {
            return Gate::Wait;
        }
        if !cx.clock.has_lease() && !cx.core.planted(Mutant::ServeWithoutLease) {
            return Gate::Wait;
        }
        match session.filter(|_| !cx.core.planted(Mutant::ServeStruck)) {
            Some(session) if !map.cluster.live_sessions.contains(&session) => Gate::Refuse(DataError::Fenced),
            _ => Gate::Go,
        }
    }

    /// Carries a request out, or gives it back when it has to wait.
    fn attempt(&mut self, cx: &mut Context<'_>, token: RequestToken, request: ClientRequest) -> Option<ClientRequest> {
        match &request {
            ClientRequest::Read(read) => {
                let (version, session) = (read.map_version, Some(read.session));
                return (!self.try_read(cx, token, version, session, ReadKind::Bytes(read.clone()))).then_some(request);
            }
            ClientRequest::Presence { map_version, chunk } => {
                return (!self.try_read(cx, token, *map_version, None, ReadKind::Presence(*chunk))).then_some(request);
            }
            ClientRequest::ObjectExtent { map_version, object, generation } => {
                let kind = ReadKind::Extent(*object, *generation);
                return (!self.try_read(cx, token, *map_version, None, kind)).then_some(request);
            }
            ClientRequest::Flush { map_version, session } => {
                return (!self.try_flush(cx, token, *map_version, *session)).then_some(request);
            }
            _ => {}
        }
        self.attempt_change(cx, token, request)
    }

    fn attempt_change(
        &mut self,
        cx: &mut Context<'_>,
        token: RequestToken,
        request: ClientRequest,
    ) -> Option<ClientRequest> {
        if sent_to_an_earlier_epoch(cx, &request) {
            let known = cx.core.map_version();
            return reply_error(cx, token, DataError::NotPrimary { known });
        }
        match self.gate(cx, map_version(&request), session(&request)) {
            Gate::Wait => return Some(request),
            Gate::Refuse(error) => return reply_error(cx, token, error),
            Gate::Go => {}
        }
        let chunk_size = cx.core.map.as_ref().map_or(ChunkSize::DEFAULT, |map| map.volume.chunk_size);
        let Some(scope) = valid_scope(&request, chunk_size) else {
            return reply_error(cx, token, DataError::Malformed);
        };
        if self.answer_duplicate(cx, token, &request) {
            return None;
        }
        if let Some((object, wanted)) = generation(&request) {
            let known = self.object_generation(cx, object);
            let truncating = matches!(request, ClientRequest::Truncate(_));
            let looks = truncating || !cx.core.planted(Mutant::WriteAnyGeneration);
            match known.filter(|_| looks) {
                Some(current) if truncating && current >= wanted => {
                    // Cut already; what was written since must stay. The cut may not be durable yet.
                    let waiter = Waiter { token, ack: ack_mode(cx, &request), reply: Reply::Done };
                    self.answer_when_acked(cx, cx.core.log_end, waiter);
                    return None;
                }
                Some(current) if wanted < current => {
                    return reply_error(cx, token, DataError::StaleGeneration { current });
                }
                // design 7, truncate: the cut that this client knows of has to happen here first.
                Some(current) if wanted > current && !truncating => return Some(request),
                _ => {}
            }
        }
        if !self.has_minimum(cx) || self.window_is_full() {
            return Some(request);
        }
        let locked = self.locks.conflicts(scope) && !cx.core.planted(Mutant::MergeWithoutLock);
        // A cut never queues behind writes: some of them may wait for this very cut.
        let queues = !matches!(request, ClientRequest::Truncate(_))
            && self.waiting.iter().any(|w| scope_of(&w.request, chunk_size).is_some_and(|s| s.conflicts(scope)));
        if locked || queues {
            return Some(request);
        }
        match self.admission(cx, &request, scope) {
            Admission::Go { absent_blocks } => {
                self.start_change(cx, token, request, (scope, absent_blocks), chunk_size)
            }
            Admission::Later => Some(request),
            Admission::NoSpace => refuse_change(cx, token, origin(&request), DataError::NoSpace),
        }
    }

    fn start_change(
        &mut self,
        cx: &mut Context<'_>,
        token: RequestToken,
        request: ClientRequest,
        (scope, absent_blocks): (Scope, u16),
        chunk_size: ChunkSize,
    ) -> Option<ClientRequest> {
        match request {
            ClientRequest::Write { request, data } if is_whole(&request, data.len()) => {
                self.write_whole(cx, token, request, data);
            }
            ClientRequest::DeleteObject { origin, object, .. } => {
                let waiter = Waiter { token, ack: ack_mode(cx, &request), reply: Reply::Done };
                self.sequence(cx, Effect::DeleteObject { object }, Bytes::new(), origin, Some(waiter));
            }
            ClientRequest::Fill(request) => self.fill(cx, token, &request, absent_blocks),
            other => self.start_merge(cx, token, other, scope, chunk_size),
        }
        None
    }

    /// The hot path: whole blocks, no lock, no copy.
    fn write_whole(&mut self, cx: &mut Context<'_>, token: RequestToken, request: WriteRequest, data: Bytes) {
        let end_bytes = request.offset_bytes + data.len() as u32;
        let range = BlockRange::covering(&(request.offset_bytes..end_bytes));
        let computed = checksum::block_hashes(cx.core.config.pg.volume, request.chunk, range, &data);
        if !request.hashes.is_empty() && request.hashes != computed {
            // Damaged on the way from the client: refused, not stored.
            refuse_change(cx, token, Some(request.origin), DataError::Malformed);
            return;
        }
        let effect =
            Effect::Write { chunk: request.chunk, range, hashes: computed, end_bytes, generation: request.generation };
        let waiter = Waiter { token, ack: request.ack, reply: Reply::Written };
        self.sequence(cx, effect, data, Some(request.origin), Some(waiter));
    }

    /// Whole blocks, outwards: a block that is reserved in part is reserved. Zeros come for whole blocks only.
    fn fill(&mut self, cx: &mut Context<'_>, token: RequestToken, request: &FillRequest, absent_blocks: u16) {
        let range = BlockRange::covering(&(request.offset_bytes..request.offset_bytes + request.length_bytes));
        let (chunk, generation, present) = (request.chunk, request.generation, request.present);
        let keeps = present == PresentBlocks::Keep || cx.core.planted(Mutant::ZeroIsNothing);
        let effect = if absent_blocks == 0 && keeps {
            // Nothing to do but to remember that it was done.
            Effect::Nothing
        } else {
            Effect::Fill { chunk, range, absent_blocks, generation, present }
        };
        let waiter = Waiter { token, ack: request.ack, reply: Reply::Done };
        self.sequence(cx, effect, Bytes::new(), Some(request.origin), Some(waiter));
    }

    /// design 5.8: an operation that has a place in the log is answered from it; one below the low-water mark never runs.
    pub fn answer_duplicate(&mut self, cx: &mut Context<'_>, token: RequestToken, request: &ClientRequest) -> bool {
        let Some(origin) = origin(request) else { return false };
        if cx.core.planted(Mutant::NoDedupe) {
            return false;
        }
        let known = match self.window.find_origin(cx.view.log_end(), origin.session, origin.operation) {
            Some(position) => Lookup::Answered(position),
            None => cx.view.lookup(origin.session, origin.operation),
        };
        match known {
            // A copy of something that was refused, whose client has gone on.
            Lookup::New if cx.core.planted(Mutant::ForgetRefusals) => false,
            Lookup::New => cx.core.refused.find(origin).is_some_and(|error| {
                reply_error(cx, token, error);
                true
            }),
            Lookup::BelowLowWater(low_water) => {
                reply_error(cx, token, DataError::Answered { low_water });
                true
            }
            Lookup::Answered(position) => {
                let waiter = Waiter { token, ack: ack_mode(cx, request), reply: good_reply(request) };
                self.answer_when_acked(cx, position, waiter);
                true
            }
        }
    }

    fn answer_when_acked(&mut self, cx: &mut Context<'_>, position: LogPosition, waiter: Waiter) {
        let in_memory = waiter.ack == AckMode::Memory || cx.core.planted(Mutant::DiskAckInMemory);
        let durable = in_memory || position <= self.durable_on_all(cx);
        if position <= self.acked && durable {
            cx.act(Action::Reply { token: waiter.token, result: Ok(waiter.reply) });
            return;
        }
        if !durable {
            self.sync = weft_proto::replication::SyncWish::Now;
        }
        self.late.push((position, waiter));
    }

    /// The latest truncate generation of an object, the open batch included.
    pub fn object_generation(&self, cx: &Context<'_>, object: ObjectId) -> Option<TruncateGeneration> {
        let queued = self.new_generations.iter().filter(|(o, _)| *o == object).map(|(_, generation)| *generation).max();
        cx.view.object_generation(object).max(queued)
    }

    /// design 5.3: writes wait while too few members are level.
    fn has_minimum(&self, cx: &Context<'_>) -> bool {
        if cx.core.planted(Mutant::NoMinimum) {
            return true;
        }
        cx.core.map.as_ref().is_some_and(|map| {
            let level = map.record.members.iter().filter(|m| m.is_level()).count();
            level >= usize::from(map.record.min_in_sync)
        })
    }

    pub fn window_is_full(&self) -> bool {
        self.window.len() >= MAX_INFLIGHT_ENTRIES_PER_PG || self.window.data_bytes() >= MAX_INFLIGHT_BYTES_PER_PG as u64
    }

    /// design 5.10: a change is admitted when every member has room for the blocks that it makes present. Blocks that are
    /// present have theirs. Looking them up costs more than the usual answer, so that is done only when room is short.
    fn admission(&self, cx: &Context<'_>, request: &ClientRequest, scope: Scope) -> Admission {
        let block = BLOCK_SIZE as u64;
        if matches!(request, ClientRequest::Write { .. } | ClientRequest::Fill(_)) && !self.journals_have_room(cx) {
            return Admission::Later;
        }
        let extra = match request {
            ClientRequest::Write { data, .. } if self.has_credits(cx, data.len() as u64 + block) => {
                return Admission::FREE;
            }
            ClientRequest::Write { .. } if cx.core.planted(Mutant::ReservedNeedsRoom) => return Admission::NoSpace,
            ClientRequest::Write { .. } => block,
            ClientRequest::Fill(_) => FILE_BLOCKS * block,
            _ => return Admission::FREE,
        };
        let Scope::Blocks(chunk, range) = scope else { return Admission::FREE };
        // What the store shows is the log without the open batch, and that may hold a discard of these very blocks.
        let blind = cx.core.planted(Mutant::PresenceBeforeBatch);
        if !blind && self.window.last_conflict(scope, cx.view.log_end()).is_some() {
            return Admission::Later;
        }
        let absent_blocks = cx.view.absent_blocks(chunk, range);
        let bytes = u64::from(absent_blocks) * block + extra;
        let own_only = matches!(request, ClientRequest::Fill(_)) && cx.core.planted(Mutant::FillOnOwnCredits);
        if absent_blocks == 0 || self.has_credits(cx, bytes) || (own_only && cx.view.credits_bytes() >= bytes) {
            Admission::Go { absent_blocks }
        } else {
            Admission::NoSpace
        }
    }

    /// Decision 0018: the journal of every member has room beside what is under way to it. What frees space does not ask. A member
    /// whose disk is full is not waited for: no checkpoint frees its journal, and it leaves (decision 0021).
    fn journals_have_room(&self, cx: &Context<'_>) -> bool {
        if cx.core.planted(Mutant::WriteIntoFullJournals) {
            return true;
        }
        let mut counting = self.peers.iter().filter(|p| p.counts() && p.is_joined());
        cx.view.journal_room_bytes() > 0 && counting.all(|p| p.journal_room_bytes > 0 || p.credits_bytes == 0)
    }

    /// design 5.10: room on every member for what is under way and for this.
    fn has_credits(&self, cx: &Context<'_>, bytes: u64) -> bool {
        if cx.core.planted(Mutant::AdmitWithoutCredits) {
            return true;
        }
        cx.view.credits_bytes() >= self.batch_room + bytes
            && self
                .peers
                .iter()
                .filter(|p| p.counts() && p.is_joined())
                .all(|p| p.credits_bytes >= self.window.room_after(p.acked) + bytes)
    }
}

/// The request names a map of before this epoch. It may be a copy that was held back while the primary of another epoch
/// refused the operation for good, which only that member remembers (`refused`), and its client has gone on since. A client
/// that still wants it asks again with the new map.
fn sent_to_an_earlier_epoch(cx: &Context<'_>, request: &ClientRequest) -> bool {
    let begun = cx.core.map.as_ref().map(|map| map.record.epoch_since);
    begun.is_some_and(|begun| map_version(request) < begun) && !cx.core.planted(Mutant::TakeFromEarlierEpoch)
}

/// Refuses a change. When the client takes that for an answer, no copy of the request is carried out later.
pub(crate) fn refuse_change(
    cx: &mut Context<'_>,
    token: RequestToken,
    origin: Option<Origin>,
    error: DataError,
) -> Option<ClientRequest> {
    let last = matches!(error, DataError::NoSpace | DataError::Corrupt | DataError::Malformed);
    let noted = !last || origin.is_none_or(|origin| cx.core.refused.note(origin, &error));
    let error = if noted { error } else { DataError::NotServing { reason: NotServing::Overloaded } };
    reply_error(cx, token, error)
}

pub(crate) fn reply_error(cx: &mut Context<'_>, token: RequestToken, error: DataError) -> Option<ClientRequest> {
    cx.act(Action::Reply { token, result: Err(error) });
    None
}

fn is_whole(request: &WriteRequest, length: usize) -> bool {
    (request.offset_bytes as usize).is_multiple_of(BLOCK_SIZE) && length.is_multiple_of(BLOCK_SIZE)
}

fn data_len(request: &ClientRequest) -> usize {
    match request {
        ClientRequest::Write { data, .. } => data.len(),
        _ => 0,
    }
}

pub(crate) fn map_version(request: &ClientRequest) -> MapVersion {
    match request {
        ClientRequest::Write { request, .. } => request.map_version,
        ClientRequest::Read(request) => request.map_version,
        ClientRequest::Discard(request) => request.map_version,
        ClientRequest::Fill(request) => request.map_version,
        ClientRequest::Truncate(request) => request.map_version,
        ClientRequest::DeleteObject { map_version, .. }
        | ClientRequest::Flush { map_version, .. }
        | ClientRequest::ObjectExtent { map_version, .. }
        | ClientRequest::Presence { map_version, .. } => *map_version,
    }
}

pub(crate) fn origin(request: &ClientRequest) -> Option<Origin> {
    match request {
        ClientRequest::Write { request, .. } => Some(request.origin),
        ClientRequest::Discard(request) => Some(request.origin),
        ClientRequest::Fill(request) => Some(request.origin),
        ClientRequest::Truncate(request) => request.origin,
        ClientRequest::DeleteObject { origin, .. } => *origin,
        ClientRequest::Read(_)
        | ClientRequest::Flush { .. }
        | ClientRequest::ObjectExtent { .. }
        | ClientRequest::Presence { .. } => None,
    }
}

pub(crate) fn session(request: &ClientRequest) -> Option<SessionId> {
    match request {
        ClientRequest::Read(request) => Some(request.session),
        ClientRequest::Flush { session, .. } => Some(*session),
        other => origin(other).map(|o| o.session),
    }
}

/// A cut or a deletion is answered when it is durable: whoever asked for it tells the metadata group then that it is done,
/// and nobody carries it out again (7, truncate). Lost, it would leave old bytes past the cut, and whoever works under its
/// generation would wait for it for ever.
pub(crate) fn ack_mode(cx: &Context<'_>, request: &ClientRequest) -> AckMode {
    match request {
        ClientRequest::Write { request, .. } => request.ack,
        ClientRequest::Discard(request) => request.ack,
        ClientRequest::Fill(request) => request.ack,
        ClientRequest::Truncate(_) | ClientRequest::DeleteObject { .. } if !cx.core.planted(Mutant::CutInMemory) => {
            AckMode::Disk
        }
        _ => AckMode::Memory,
    }
}

pub(crate) const fn good_reply(request: &ClientRequest) -> Reply {
    match request {
        ClientRequest::Write { .. } => Reply::Written,
        _ => Reply::Done,
    }
}

pub(crate) fn generation(request: &ClientRequest) -> Option<(ObjectId, TruncateGeneration)> {
    match request {
        ClientRequest::Write { request, .. } => Some((request.chunk.object, request.generation)),
        ClientRequest::Discard(request) => Some((request.chunk.object, request.generation)),
        ClientRequest::Fill(request) => Some((request.chunk.object, request.generation)),
        ClientRequest::Truncate(request) => Some((request.object, request.generation)),
        ClientRequest::Read(request) => {
            request.contents.generation().map(|generation| (request.chunk.object, generation))
        }
        _ => None,
    }
}

/// What a well-formed request changes; `None` for one that is malformed.
fn valid_scope(request: &ClientRequest, chunk_size: ChunkSize) -> Option<Scope> {
    if let ClientRequest::Write { request, data } = request {
        let whole = whole_blocks(request.offset_bytes, data.len());
        let counted = request.hashes.is_empty() || request.hashes.len() == usize::from(whole.count);
        if data.is_empty() || data.len() > MAX_IO_BYTES || !counted {
            return None;
        }
    }
    scope_of(request, chunk_size)
}

fn scope_of(request: &ClientRequest, chunk_size: ChunkSize) -> Option<Scope> {
    let blocks = |chunk, offset: u32, length: usize| {
        let end = u64::from(offset) + length as u64;
        (length > 0 && end <= u64::from(chunk_size.bytes()))
            .then(|| Scope::Blocks(chunk, BlockRange::covering(&(offset..end as u32))))
    };
    match request {
        ClientRequest::Write { request, data } => blocks(request.chunk, request.offset_bytes, data.len()),
        ClientRequest::Discard(request) => blocks(request.chunk, request.offset_bytes, request.length_bytes as usize),
        ClientRequest::Fill(request) if request.length_bytes > MAX_FILL_BYTES || !may_be_rounded(request) => None,
        ClientRequest::Fill(request) => blocks(request.chunk, request.offset_bytes, request.length_bytes as usize),
        ClientRequest::Truncate(request) => Some(Scope::Object(request.object)),
        ClientRequest::DeleteObject { object, .. } => Some(Scope::Object(*object)),
        _ => None,
    }
}

/// A fill is rounded outwards. Where it makes zeros of what is there, that would destroy what lies beside the range.
fn may_be_rounded(request: &FillRequest) -> bool {
    let whole = |bytes: u32| (bytes as usize).is_multiple_of(BLOCK_SIZE);
    request.present == PresentBlocks::Keep || (whole(request.offset_bytes) && whole(request.length_bytes))
}

/// The blocks that a byte range covers whole.
pub(crate) fn whole_blocks(offset: u32, length: usize) -> BlockRange {
    let first = (offset as usize).div_ceil(BLOCK_SIZE);
    let end = (offset as usize + length) / BLOCK_SIZE;
    BlockRange::new(BlockIndex(first as u16), end.saturating_sub(first) as u16)
}

impl Waiting {
    /// A request that has to wait once more; its patience goes on counting.
    pub const fn again(token: RequestToken, request: ClientRequest, since: BootTime) -> Self {
        Self { token, request, since }
    }
}
