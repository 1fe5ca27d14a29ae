//! Reads of a store on behalf of machines and of the scrub.
//!
//! Guarantees: a read that the page cache can answer is answered at once; any other runs on a thread of a small pool.
//! When the pool's queue is full the read runs here, which slows the node down and refuses nobody. Must not know: why
//! somebody reads.

use super::groups::GroupKey;
use super::host::{Host, Pool};
use super::node::{Completion, DataNode};
use super::scrub::ScrubRead;
use std::time::Instant;
use weft_replication::{BadBlock, Event, ReadOutcome, ReadTicket, RequestToken};
use weft_store::{Disk, ReadJob, Store, StoreError};
use weft_types::{BlockIndex, BlockRange, ChunkId, PgId};

/// A read that was overtaken by a checkpoint is prepared anew; more often than this it is not believed any more.
const MAX_ATTEMPTS: u32 = 16;

pub(super) struct Reading<P> {
    pool: P,
}

/// Who reads.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reader {
    Machine(ReadTicket),
    Scrub(ScrubRead),
    /// Another node that repairs a block of its own.
    Peer(RequestToken),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct BlockRead {
    pub(super) key: GroupKey,
    pub(super) reader: Reader,
    pub(super) chunk: ChunkId,
    pub(super) range: BlockRange,
}

/// A cold read is done.
pub struct ReadDone {
    read: BlockRead,
    attempt: u32,
    outcome: Result<weft_store::ReadOutcome, StoreError>,
    began: Instant,
}

impl<P> Reading<P> {
    pub(super) const fn new(pool: P) -> Self {
        Self { pool }
    }
}

impl<H: Host> DataNode<H> {
    pub(super) fn read_blocks(&mut self, key: GroupKey, ticket: ReadTicket, chunk: ChunkId, range: BlockRange) {
        self.read(BlockRead { key, reader: Reader::Machine(ticket), chunk, range }, 0);
    }

    pub(super) fn read(&mut self, read: BlockRead, attempt: u32) {
        for attempt in attempt..MAX_ATTEMPTS {
            let job = self.store(read.key).and_then(|store| store.prepare_read(read.key.pg, read.chunk, read.range));
            let job = match job {
                Ok(job) => job,
                Err(error) => return self.deliver(&read, Err(error)),
            };
            // The scrub goes to the threads at once: its reads are long and nobody waits for them.
            let now = if matches!(read.reader, Reader::Machine(_)) { job.try_now() } else { None };
            match now {
                Some(Ok(weft_store::ReadOutcome::Retry)) => {}
                Some(outcome) => {
                    self.counters.reads_from_memory += 1;
                    return self.deliver(&read, outcome);
                }
                None => return self.read_elsewhere(read, attempt, job),
            }
        }
        self.deliver(&read, Ok(weft_store::ReadOutcome::Retry));
    }

    fn read_elsewhere(&mut self, read: BlockRead, attempt: u32, job: ReadJob<H::Disk>) {
        let began = Instant::now();
        let work = Box::new(move || Completion::Read(ReadDone { read, attempt, outcome: job.run(), began }));
        if let Err(no_room) = self.reading.pool.submit(work)
            && let Completion::Read(done) = (no_room.0)()
        {
            self.read_done(done);
        }
    }

    pub(super) fn read_done(&mut self, done: ReadDone) {
        self.counters.reads_from_disk += 1;
        self.counters.cold_read.took(done.began.elapsed());
        match done.outcome {
            Ok(weft_store::ReadOutcome::Retry) => self.read(done.read, done.attempt + 1),
            outcome => self.deliver(&done.read, outcome),
        }
    }

    fn deliver(&mut self, read: &BlockRead, outcome: Result<weft_store::ReadOutcome, StoreError>) {
        let outcome = match outcome {
            Ok(weft_store::ReadOutcome::Done { bytes, bad }) => {
                self.counters.blocks_bad += bad.len() as u64;
                let bad = bad.iter().map(|b| BadBlock { block: b.block, expected: b.expected }).collect();
                ReadOutcome::Done { bytes, bad }
            }
            Ok(weft_store::ReadOutcome::Retry) => {
                tracing::error!(pg = %read.key.pg, chunk = %read.chunk, "a read was overtaken {MAX_ATTEMPTS} times");
                ReadOutcome::Failed
            }
            Err(error) => {
                tracing::warn!(pg = %read.key.pg, disk = %read.key.disk, chunk = %read.chunk, %error, "a read failed");
                ReadOutcome::Failed
            }
        };
        match read.reader {
            Reader::Machine(ticket) => {
                self.ready.push_back((read.key, Event::BlocksRead { ticket, outcome }));
            }
            Reader::Scrub(scrub) => self.scrubbed(read, scrub, outcome),
            Reader::Peer(token) => self.repair_read(token, outcome),
        }
    }
}

/// Runs of present blocks of a chunk.
pub(super) fn presence<D: Disk>(
    store: &Store<D>,
    pg: PgId,
    chunk: ChunkId,
) -> Result<Vec<(BlockIndex, u16)>, StoreError> {
    if store.chunk_info(pg, chunk).is_none() {
        return Ok(Vec::new());
    }
    Ok(runs(store.present_blocks(pg, chunk)?.into_iter()))
}

fn runs(present: impl Iterator<Item = bool>) -> Vec<(BlockIndex, u16)> {
    let mut runs: Vec<(BlockIndex, u16)> = Vec::new();
    let mut in_run = false;
    for (block, present) in present.enumerate() {
        match runs.last_mut() {
            Some((_, count)) if present && in_run => *count += 1,
            // A chunk has at most 2^15 blocks.
            _ if present => runs.push((BlockIndex(block as u16), 1)),
            _ => {}
        }
        in_run = present;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn present_blocks_are_told_as_runs() {
        let of = |text: &str| runs(text.chars().map(|c| c == '#'));
        assert_eq!(of(""), []);
        assert_eq!(of("..."), []);
        assert_eq!(of("##.#"), [(BlockIndex(0), 2), (BlockIndex(3), 1)]);
        assert_eq!(of(".#.##"), [(BlockIndex(1), 1), (BlockIndex(3), 2)]);
    }
}
