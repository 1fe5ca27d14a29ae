//! Reads (design 5.6): served by the primary alone, after every overlapping entry has become readable, and only if lease
//! and session still hold when the bytes are in hand.

use crate::actions::{Action, Reply, Report};
use crate::core::Context;
use crate::events::{ReadOutcome, ReadTicket, RequestToken};
use crate::locks::Scope;
use crate::mutants::Mutant;
use crate::primary::{Primary, ReadPurpose};
use crate::repair::Then;
use crate::requests::{Gate, reply_error};
use crate::tuning::{MAX_READ_ATTEMPTS, REQUEST_PATIENCE};
use crate::withdrawal::unreadable;
use weft_proto::data::{Contents, ReadRequest};
use weft_types::error::NotServing;
use weft_types::limits::MAX_IO_BYTES;
use weft_types::{
    BLOCK_SIZE, BlockIndex, BlockRange, BootTime, ChunkId, ChunkSize, DataError, LogPosition, MapVersion, ObjectId,
    SessionId, TruncateGeneration,
};

pub(crate) enum ReadKind {
    Bytes(ReadRequest),
    Presence(ChunkId),
    /// How far the object reaches as of this truncate generation.
    Extent(ObjectId, TruncateGeneration),
}

pub(crate) struct ClientRead {
    pub token: RequestToken,
    session: Option<SessionId>,
    kind: ReadKind,
    scope: Scope,
    attempts: u8,
    since: BootTime,
    stage: Stage,
}

enum Stage {
    /// Waits for this entry to become readable, then reads.
    Blocked(LogPosition),
    Reading,
    /// Has the answer; waits for an entry that came in between to become readable.
    Held(LogPosition, Reply),
}

impl Primary {
    /// Starts a read; false when the group does not serve now.
    pub fn try_read(
        &mut self,
        cx: &mut Context<'_>,
        token: RequestToken,
        map_version: MapVersion,
        session: Option<SessionId>,
        kind: ReadKind,
    ) -> bool {
        match self.gate(cx, map_version, session) {
            Gate::Wait => return false,
            Gate::Refuse(error) => {
                reply_error(cx, token, error);
                return true;
            }
            Gate::Go => {}
        }
        if let ReadKind::Bytes(read) = &kind
            && let Some(wanted) = read.contents.generation()
            && !cx.core.planted(Mutant::ReadAnyGeneration)
        {
            match self.object_generation(cx, read.chunk.object) {
                // The cut that the reader knows of has to happen here first: what it cuts off is not read any more.
                Some(current) if current < wanted => return false,
                Some(current) if current > wanted && read.contents == Contents::Of(wanted) => {
                    reply_error(cx, token, DataError::StaleGeneration { current });
                    return true;
                }
                _ => {}
            }
        }
        let chunk_size = cx.core.map.as_ref().map_or(ChunkSize::DEFAULT, |map| map.volume.chunk_size);
        let Some(scope) = scope_of(&kind, chunk_size) else {
            reply_error(cx, token, DataError::Malformed);
            return true;
        };
        let id = self.id();
        let read = ClientRead { token, session, kind, scope, attempts: 0, since: cx.clock.now, stage: Stage::Reading };
        self.reads.insert(id, read);
        self.start_read(cx, id);
        true
    }

    pub fn start_read(&mut self, cx: &mut Context<'_>, id: u64) {
        let Some(read) = self.reads.get_mut(&id) else { return };
        // The end of an object counts every sequenced entry, readable or not (design 7, size).
        let waits = !matches!(read.kind, ReadKind::Extent(..)) && !cx.core.planted(Mutant::ReadUncommitted);
        if let Some(until) = self.window.last_conflict(read.scope, self.readable).filter(|_| waits) {
            read.stage = Stage::Blocked(until);
            self.blocked_reads += 1;
            return;
        }
        read.stage = Stage::Reading;
        let ticket = cx.read_ticket();
        let action = match (&read.kind, read.scope) {
            (ReadKind::Bytes(_), Scope::Blocks(chunk, range)) => Action::ReadBlocks { ticket, chunk, range },
            (ReadKind::Presence(chunk), _) => Action::ReadPresence { ticket, chunk: *chunk },
            (ReadKind::Extent(object, _), _) => Action::ReadObject { ticket, object: *object },
            (ReadKind::Bytes(_), Scope::Object(_)) => return,
        };
        self.purposes.insert(ticket, ReadPurpose::Client(id));
        self.read_store(cx, action);
    }

    pub fn on_client_read(&mut self, cx: &mut Context<'_>, id: u64, outcome: ReadOutcome) {
        let Some(read) = self.reads.get_mut(&id) else { return };
        let ReadKind::Bytes(request) = &read.kind else { return };
        match outcome {
            ReadOutcome::Done { bytes, bad } if bad.is_empty() => {
                let start = request.offset_bytes as usize % BLOCK_SIZE;
                let end = start + request.length_bytes as usize;
                if end > bytes.len() {
                    self.fail_read(cx, id, DataError::DiskFailed);
                    return;
                }
                let bytes = bytes.slice(start..end);
                self.have_answer(cx, id, Reply::Read(bytes));
            }
            ReadOutcome::Done { bad, .. } => {
                read.attempts += 1;
                let Scope::Blocks(chunk, _) = read.scope else { return };
                if read.attempts >= MAX_READ_ATTEMPTS {
                    let error = unreadable(cx);
                    if error == DataError::Corrupt {
                        cx.report(Report::Unrepairable { chunk, block: bad[0].block });
                    }
                    self.fail_read(cx, id, error);
                } else {
                    self.repair(cx, chunk, bad[0], Then::Read(id));
                }
            }
            ReadOutcome::Failed => self.fail_read(cx, id, DataError::DiskFailed),
        }
    }

    pub fn on_presence_read(&mut self, cx: &mut Context<'_>, ticket: ReadTicket, runs: Vec<(BlockIndex, u16)>) {
        if let Some(ReadPurpose::Client(id)) = self.purposes.remove(&ticket) {
            self.have_answer(cx, id, Reply::Presence(runs));
        }
    }

    /// `looked_up` is the object's generation at the place of the log at which its end was looked up.
    pub fn on_object_read(
        &mut self,
        cx: &mut Context<'_>,
        ticket: ReadTicket,
        looked_up: Option<TruncateGeneration>,
        end_bytes: u64,
        allocated_bytes: u64,
    ) {
        let Some(ReadPurpose::Client(id)) = self.purposes.remove(&ticket) else { return };
        let Some(ReadKind::Extent(object, generation)) = self.reads.get(&id).map(|read| &read.kind) else { return };
        // A cut that has not arrived here yet: these ends are of an earlier life of the contents, and what is left of
        // them after the cut is no longer than the size that was committed with it (attack size-of-old-generation).
        // Not by what is known now: a cut that was sequenced since the lookup says nothing about an end from before it.
        let beside = cx.core.planted(Mutant::EndBesideLaterCut);
        let known = if beside { self.object_generation(cx, *object) } else { looked_up };
        let old = known.unwrap_or_default() < *generation && !cx.core.planted(Mutant::EndOfOldGeneration);
        let end_bytes = if old { 0 } else { end_bytes };
        self.have_answer(cx, id, Reply::ObjectExtent { end_bytes, allocated_bytes });
    }

    /// The bytes may show entries that came while they were read: those have to be readable too before anybody sees them.
    fn have_answer(&mut self, cx: &mut Context<'_>, id: u64, reply: Reply) {
        let Some(read) = self.reads.get_mut(&id) else { return };
        let waits = !matches!(read.kind, ReadKind::Extent(..)) && !cx.core.planted(Mutant::ReadUncommitted);
        if let Some(until) = self.window.last_conflict(read.scope, self.readable).filter(|_| waits) {
            read.stage = Stage::Held(until, reply);
            self.blocked_reads += 1;
            return;
        }
        self.answer_read(cx, id, reply);
    }

    fn answer_read(&mut self, cx: &mut Context<'_>, id: u64, reply: Reply) {
        let Some(read) = self.reads.remove(&id) else { return };
        let result = match self.gate(cx, MapVersion(0), read.session) {
            Gate::Wait if cx.core.planted(Mutant::LeaseCheckedOnce) => Ok(reply),
            Gate::Go => Ok(reply),
            Gate::Refuse(error) => Err(error),
            Gate::Wait => Err(DataError::NotServing { reason: NotServing::NoLease }),
        };
        cx.act(Action::Reply { token: read.token, result });
    }

    pub fn fail_read(&mut self, cx: &mut Context<'_>, id: u64, error: DataError) {
        if let Some(read) = self.reads.remove(&id) {
            reply_error(cx, read.token, error);
        }
    }

    /// More has become readable.
    pub fn release_reads(&mut self, cx: &mut Context<'_>) {
        if self.blocked_reads == 0 {
            return;
        }
        let readable = self.readable;
        let released: Vec<u64> = self
            .reads
            .iter()
            .filter(|(_, r)| r.stage.until().is_some_and(|u| u <= readable))
            .map(|(id, _)| *id)
            .collect();
        for id in released {
            self.blocked_reads -= 1;
            let Some(read) = self.reads.get_mut(&id) else { continue };
            match std::mem::replace(&mut read.stage, Stage::Reading) {
                Stage::Held(_, reply) => self.answer_read(cx, id, reply),
                Stage::Blocked(_) | Stage::Reading => self.start_read(cx, id),
            }
        }
    }

    pub fn expire_reads(&mut self, cx: &mut Context<'_>) {
        if self.blocked_reads == 0 {
            return;
        }
        let now = cx.clock.now;
        let expired: Vec<u64> = self
            .reads
            .iter()
            .filter(|(_, r)| r.stage.until().is_some() && now.since(r.since) >= REQUEST_PATIENCE)
            .map(|(id, _)| *id)
            .collect();
        for id in expired {
            self.blocked_reads -= 1;
            self.fail_read(cx, id, DataError::NotServing { reason: NotServing::Overloaded });
        }
    }
}

impl Stage {
    const fn until(&self) -> Option<LogPosition> {
        match self {
            Self::Blocked(until) | Self::Held(until, _) => Some(*until),
            Self::Reading => None,
        }
    }
}

fn scope_of(kind: &ReadKind, chunk_size: ChunkSize) -> Option<Scope> {
    match kind {
        ReadKind::Bytes(request) => {
            let end = u64::from(request.offset_bytes) + u64::from(request.length_bytes);
            let fits = request.length_bytes > 0
                && request.length_bytes as usize <= MAX_IO_BYTES
                && end <= u64::from(chunk_size.bytes());
            fits.then(|| Scope::Blocks(request.chunk, BlockRange::covering(&(request.offset_bytes..end as u32))))
        }
        ReadKind::Presence(chunk) => Some(Scope::Blocks(*chunk, BlockRange::new(BlockIndex(0), chunk_size.blocks()))),
        ReadKind::Extent(object, _) => Some(Scope::Object(*object)),
    }
}
