//! Raft's log and vote in a journal of our own (design 3).
//!
//! Responsible for: openraft's log storage over [`weft_store::RawLog`].
//! Guarantees: openraft hears of a flush only after the fdatasync returned, in order; a failed fdatasync fails that and
//! every later write. Entries leave the disk only below the durable snapshot file, whatever openraft asks for.
//! Must not know: what an entry means.
//!
//! A thread of its own owns the journal, so an fdatasync never blocks the runtime that sends heartbeats. Jobs come over
//! an unbounded channel, but every sender waits for its answer, so there is at most one job per replication task plus
//! those of the Raft core.

use crate::error::OpenError;
use crate::types::{Entry, LogId, StorageError, StorageIoError, TypeConfig, Vote, any, decode, encode};
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogId, RaftLogReader};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use tokio::sync::oneshot;
use weft_store::{Disk, RawLog};
use weft_types::{ClusterId, NodeId};

/// Bytes and number of the newest entries that are kept in memory, so that replication does not read the disk.
const MAX_TAIL_BYTES: usize = 8 << 20;
const MAX_TAIL_ENTRIES: usize = 4096;
/// Writes that share one fdatasync.
const MAX_GROUPED_JOBS: usize = 256;
/// One read for replication: leaves a message well below the frame limit. A single larger entry is still sent whole.
const MAX_READ_BYTES: usize = 1 << 20;

const META_VOTE: &str = "vote";
const META_PURGED: &str = "purged";
const META_IDENTITY: &str = "identity";

/// Whose log this is. Written once, when the store is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct LogIdentity {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
}

/// Index up to which a snapshot file is durable, shared by the state machine (which raises it) and the log.
#[derive(Clone, Default, Debug)]
pub(crate) struct DurableSnapshot(Arc<AtomicU64>);

impl DurableSnapshot {
    /// Zero stands for none, so the index is stored plus one.
    pub(crate) fn raise(&self, index: u64) {
        self.0.fetch_max(index + 1, Ordering::AcqRel);
    }

    pub(crate) fn index(&self) -> Option<u64> {
        self.0.load(Ordering::Acquire).checked_sub(1)
    }
}

/// The journal before Raft runs: opened, looked at and repaired synchronously.
pub(crate) struct LogFile<D: Disk> {
    raw: RawLog<D>,
    purged: Option<LogId>,
}

impl<D: Disk> LogFile<D> {
    pub(crate) fn open(disk: D, directory: &str) -> Result<Self, OpenError> {
        let raw = RawLog::open(disk, directory)?;
        let purged = match raw.meta(META_PURGED) {
            Some(bytes) => decode(bytes).map_err(|error| OpenError::damaged("the log's purge mark", &error))?,
            None => None,
        };
        Ok(Self { raw, purged })
    }

    /// `None`: this store was never made, or was lost (design 3: it must not be used under an old node id).
    pub(crate) fn identity(&self) -> Result<Option<LogIdentity>, OpenError> {
        self.raw
            .meta(META_IDENTITY)
            .map(|bytes| decode(bytes).map_err(|error| OpenError::damaged("the log's identity", &error)))
            .transpose()
    }

    pub(crate) fn write_identity(&mut self, identity: LogIdentity) -> Result<(), OpenError> {
        let bytes = encode(&identity).map_err(|error| OpenError::damaged("the log's identity", &error))?;
        self.raw.put_meta(META_IDENTITY, &bytes)?;
        self.raw.sync()?;
        Ok(())
    }

    pub(crate) const fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// First index that is on disk, purged or not.
    pub(crate) fn first_on_disk(&self) -> Option<u64> {
        self.raw.first_index()
    }

    /// The applied state went back to `to`: entries after it are needed again.
    pub(crate) fn lower_purge_mark(&mut self, to: Option<LogId>) -> Result<(), OpenError> {
        let bytes = encode(&to).map_err(|error| OpenError::damaged("the log's purge mark", &error))?;
        self.raw.put_meta(META_PURGED, &bytes)?;
        self.raw.sync()?;
        self.purged = to;
        Ok(())
    }

    fn last_log_id(&mut self) -> Result<Option<LogId>, OpenError> {
        let Some(index) = self.raw.last_index() else { return Ok(self.purged) };
        if self.purged.is_some_and(|purged| purged.index >= index) {
            return Ok(self.purged);
        }
        let found = self.raw.read(index..index + 1)?;
        let (_, bytes) = found.first().ok_or_else(|| OpenError::Damaged {
            what: "the log".to_owned(),
            why: format!("entry {index} is missing"),
        })?;
        let entry: Entry = decode(bytes).map_err(|error| OpenError::damaged(&format!("log entry {index}"), &error))?;
        Ok(Some(entry.log_id))
    }

    /// Hands the journal to its thread.
    pub(crate) fn start(mut self, durable_snapshot: DurableSnapshot) -> Result<RaftLog, OpenError> {
        let last = self.last_log_id()?;
        let vote = match self.raw.meta(META_VOTE) {
            Some(bytes) => Some(decode(bytes).map_err(|error| OpenError::damaged("the log's vote", &error))?),
            None => None,
        };
        let tail = Tail { entries: BTreeMap::new(), bytes: 0, last, purged: self.purged, vote, flushed: 0 };
        let shared = Arc::new(Mutex::new(tail));
        let (jobs, queue) = mpsc::channel();
        let thread = LogThread { raw: self.raw, shared: shared.clone(), failed: None };
        std::thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || thread.run(&queue))
            .map_err(|source| OpenError::Io { what: "starting the log thread".to_owned(), source })?;
        Ok(RaftLog { shared, jobs, durable_snapshot })
    }
}

/// What is known without asking the disk.
struct Tail {
    entries: BTreeMap<u64, Arc<[u8]>>,
    bytes: usize,
    last: Option<LogId>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    /// Entries up to here are on disk and may leave memory.
    flushed: u64,
}

impl Tail {
    fn insert(&mut self, index: u64, bytes: Arc<[u8]>) {
        self.bytes += bytes.len();
        if let Some(old) = self.entries.insert(index, bytes) {
            self.bytes -= old.len();
        }
    }

    fn shrink(&mut self) {
        while self.bytes > MAX_TAIL_BYTES || self.entries.len() > MAX_TAIL_ENTRIES {
            match self.entries.first_key_value() {
                Some((&index, _)) if index <= self.flushed => self.remove(index),
                _ => return,
            }
        }
    }

    fn remove(&mut self, index: u64) {
        if let Some(old) = self.entries.remove(&index) {
            self.bytes -= old.len();
        }
    }

    fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        let gone: Vec<u64> = self.entries.keys().copied().filter(|index| !keep(*index)).collect();
        for index in gone {
            self.remove(index);
        }
    }

    /// The whole range, when all of it is in memory.
    fn slice(&self, range: &Range<u64>) -> Option<Vec<(u64, Arc<[u8]>)>> {
        let found: Vec<_> = self.entries.range(range.clone()).map(|(index, bytes)| (*index, bytes.clone())).collect();
        (found.len() as u64 == range.end - range.start).then_some(found)
    }
}

fn lock(shared: &Mutex<Tail>) -> MutexGuard<'_, Tail> {
    // A panic while holding it leaves plain data that is still consistent enough to fail cleanly later.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

type ReadResult = Result<Vec<(u64, Vec<u8>)>, String>;

enum Job {
    Write(Write, Done),
    Read { range: Range<u64>, max_bytes: usize, reply: oneshot::Sender<ReadResult> },
}

enum Write {
    Append(Vec<(u64, Arc<[u8]>)>),
    Vote(Vec<u8>),
    Truncate { from: u64 },
    Purge { mark: Vec<u8>, logical: u64, physical: Option<u64> },
}

enum Done {
    Flushed(LogFlushed<TypeConfig>),
    Reply(oneshot::Sender<Result<(), String>>),
}

impl Done {
    fn tell(self, result: Result<(), String>) {
        match self {
            Self::Flushed(callback) => callback.log_io_completed(result.map_err(std::io::Error::other)),
            // The caller may have been cancelled; then nobody waits for the answer.
            Self::Reply(reply) => drop(reply.send(result)),
        }
    }
}

struct LogThread<D: Disk> {
    raw: RawLog<D>,
    shared: Arc<Mutex<Tail>>,
    failed: Option<String>,
}

impl<D: Disk> LogThread<D> {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        while let Ok(first) = queue.recv() {
            let mut writes = Vec::new();
            let mut next = Some(first);
            while let Some(job) = next {
                match job {
                    Job::Write(write, done) => {
                        writes.push((write, done));
                        if writes.len() >= MAX_GROUPED_JOBS {
                            break;
                        }
                    }
                    Job::Read { range, max_bytes, reply } => {
                        // Order is kept: what was written before is flushed before it is read.
                        self.flush(std::mem::take(&mut writes));
                        drop(reply.send(self.read(range, max_bytes)));
                    }
                }
                next = queue.try_recv().ok();
            }
            self.flush(writes);
        }
    }

    fn flush(&mut self, writes: Vec<(Write, Done)>) {
        if writes.is_empty() {
            return;
        }
        let mut result = Ok(());
        let mut highest = 0;
        let mut answers = Vec::with_capacity(writes.len());
        for (write, done) in writes {
            if let Write::Append(entries) = &write {
                highest = entries.last().map_or(highest, |(index, _)| *index);
            }
            result = result.and_then(|()| self.write(write));
            answers.push(done);
        }
        result = result.and_then(|()| self.sync());
        if let Err(why) = &result
            && self.failed.is_none()
        {
            tracing::error!(%why, "the Raft log failed; this node leaves the metadata group until its disk is replaced");
            self.failed = Some(why.clone());
        }
        if result.is_ok() && highest > 0 {
            let mut tail = lock(&self.shared);
            tail.flushed = highest;
            tail.shrink();
        }
        for done in answers {
            done.tell(result.clone());
        }
    }

    fn check(&self) -> Result<(), String> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn sync(&mut self) -> Result<(), String> {
        self.check()?;
        self.raw.sync().map_err(|error| error.to_string())
    }

    fn write(&mut self, write: Write) -> Result<(), String> {
        self.check()?;
        match write {
            Write::Append(entries) => {
                let first = entries.first().map_or(0, |(index, _)| *index);
                if self.raw.last_index().or(self.raw.purged_to()).is_some_and(|last| first > last + 1) {
                    // The log goes on after a snapshot; what is left of it was purged logically.
                    self.raw.purge_to(first - 1).map_err(|error| error.to_string())?;
                }
                self.raw.append(&entries)
            }
            Write::Vote(bytes) => self.raw.put_meta(META_VOTE, &bytes),
            Write::Truncate { from } => self.raw.truncate_from(from),
            Write::Purge { mark, logical, physical } => {
                let marked = self.raw.put_meta(META_PURGED, &mark);
                match physical {
                    Some(to) => marked.and_then(|()| self.raw.purge_to(to.min(logical))),
                    None => marked,
                }
            }
        }
        .map_err(|error| error.to_string())
    }

    fn read(&mut self, range: Range<u64>, max_bytes: usize) -> ReadResult {
        let mut found = Vec::new();
        let mut total = 0;
        let mut at = range.start;
        // Read in steps, so that a long range of large entries is not in memory twice.
        while at < range.end && total < max_bytes {
            let step = self.raw.read(at..range.end.min(at + 64)).map_err(|error| error.to_string())?;
            let Some((last, _)) = step.last() else { break };
            at = last + 1;
            for (index, bytes) in step {
                if total >= max_bytes {
                    break;
                }
                total += bytes.len();
                found.push((index, bytes));
            }
        }
        Ok(found)
    }
}

/// The log as openraft sees it. Clones share it.
#[derive(Clone)]
pub struct RaftLog {
    shared: Arc<Mutex<Tail>>,
    jobs: mpsc::Sender<Job>,
    durable_snapshot: DurableSnapshot,
}

const GONE: &str = "the log thread has ended";

impl RaftLog {
    async fn write(&self, write: Write) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Write(write, Done::Reply(reply))).map_err(|_| GONE.to_owned())?;
        answer.await.map_err(|_| GONE.to_owned())?
    }

    async fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>, StorageError> {
        let error = |why: &str| StorageError::from(StorageIoError::read_logs(any(&why)));
        let range = {
            let tail = lock(&self.shared);
            let first = tail.purged.map_or(0, |purged| purged.index + 1);
            let end = tail.last.map_or(0, |last| last.index + 1);
            let range = range.start.max(first)..range.end.min(end);
            if range.is_empty() {
                return Ok(Vec::new());
            }
            if let Some(found) = tail.slice(&range) {
                drop(tail);
                return decode_all(found.iter().map(|(index, bytes)| (*index, &bytes[..])), max_bytes);
            }
            range
        };
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Read { range, max_bytes, reply }).map_err(|_| error(GONE))?;
        let found = answer.await.map_err(|_| error(GONE))?.map_err(|why| error(&why))?;
        decode_all(found.iter().map(|(index, bytes)| (*index, &bytes[..])), max_bytes)
    }
}

fn decode_all<'a>(found: impl Iterator<Item = (u64, &'a [u8])>, max_bytes: usize) -> Result<Vec<Entry>, StorageError> {
    let mut entries = Vec::new();
    let mut total = 0;
    for (index, bytes) in found {
        if total >= max_bytes {
            break;
        }
        total += bytes.len();
        entries.push(decode(bytes).map_err(|error| StorageIoError::read_log_at_index(index, any(&error)))?);
    }
    Ok(entries)
}

fn bounds<RB: RangeBounds<u64>>(range: &RB) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(at) => *at,
        Bound::Excluded(at) => at + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(at) => at.saturating_add(1),
        Bound::Excluded(at) => *at,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for RaftLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.read(bounds(&range), usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.read(start..end, MAX_READ_BYTES).await
    }
}

impl RaftLogStorage<TypeConfig> for RaftLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let tail = lock(&self.shared);
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let bytes = encode(vote).map_err(|error| StorageIoError::write_vote(any(&error)))?;
        self.write(Write::Vote(bytes)).await.map_err(|why| StorageIoError::write_vote(any(&why)))?;
        lock(&self.shared).vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(lock(&self.shared).vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut encoded: Vec<(u64, Arc<[u8]>)> = Vec::new();
        let mut last = None;
        for entry in entries {
            let bytes = encode(&entry).map_err(|error| StorageIoError::write_logs(any(&error)))?;
            last = Some(*entry.get_log_id());
            encoded.push((entry.log_id.index, bytes.into()));
        }
        {
            let mut tail = lock(&self.shared);
            for (index, bytes) in &encoded {
                tail.insert(*index, bytes.clone());
            }
            tail.last = last.or(tail.last);
        }
        self.jobs
            .send(Job::Write(Write::Append(encoded), Done::Flushed(callback)))
            .map_err(|_| StorageIoError::write_logs(any(&GONE)).into())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let from = log_id.index;
        let error = |why: &str| StorageError::from(StorageIoError::write_logs(any(&why)));
        self.write(Write::Truncate { from }).await.map_err(|why| error(&why))?;
        let purged = {
            let mut tail = lock(&self.shared);
            tail.retain(|index| index < from);
            tail.flushed = tail.flushed.min(from.saturating_sub(1));
            tail.purged
        };
        let before = from.saturating_sub(1);
        let last = if from == 0 || purged.is_some_and(|purged| purged.index >= before) {
            purged
        } else {
            let (reply, answer) = oneshot::channel();
            let job = Job::Read { range: before..from, max_bytes: usize::MAX, reply };
            self.jobs.send(job).map_err(|_| error(GONE))?;
            let found = answer.await.map_err(|_| error(GONE))?.map_err(|why| error(&why))?;
            decode_all(found.iter().map(|(index, bytes)| (*index, &bytes[..])), usize::MAX)?
                .last()
                .map(|entry| entry.log_id)
                .or(purged)
        };
        lock(&self.shared).last = last;
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let mark = encode(&Some(log_id)).map_err(|error| StorageIoError::write_logs(any(&error)))?;
        let logical = log_id.index;
        // Openraft purges only what is in a snapshot it knows of; this holds the disk to what is durable (design 3).
        let physical = self.durable_snapshot.index();
        self.write(Write::Purge { mark, logical, physical })
            .await
            .map_err(|why| StorageIoError::write_logs(any(&why)))?;
        let mut tail = lock(&self.shared);
        tail.purged = tail.purged.max(Some(log_id));
        tail.retain(|index| index > logical);
        tail.last = tail.last.max(Some(log_id));
        Ok(())
    }
}
