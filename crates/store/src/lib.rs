//! One disk of a node: journal, chunk files, recovery, checkpoint, verification.
//!
//! Responsible for: every byte under a disk's directory (`docs/ON-DISK.md`), crash consistency, block verification.
//! Guarantees: what a finished sync covered survives power loss; what was cut stays cut; a block that does not verify
//! is never returned as good. Must not know: epochs' meaning, peers, network, async runtimes, clocks.
//!
//! # Where things are
//! `store` and `query` are what the owner calls; `group` and `overlay` its memory; `journal`, `record`, `chunk_file`,
//! `sealed`, `superblock` the formats; `recover`, `durability`, `checkpoint`, `read` the work; `raw_log` stands alone; `fault` and
//! `inspect` are for tests and for operators.
//!
//! # Driving it
//! One thread owns [`Store`] and calls it inline. Appends reach the page cache at once. Slow work is split in three:
//! `begin_x` on the owner, `job.run()` on any thread, `finish_x(outcome)` on the owner. The simulator runs the three
//! inline on [`fault::SimDisk`].
//!
//! ```text
//! Store::format(disk, Identity, &StoreConfig) -> Result<(), StoreError>
//! Store::open(disk, expected: Expected { cluster, disk, node }, StoreConfig) -> Result<(Store<D>, RecoveryReport), StoreError>
//! store.identity() -> &Identity                          store.failure() -> Option<&str>   (poisoned by a failed fsync)
//! store.register_volume(VolumeId, ChunkSize) -> Result<()>    (journalled; idempotent; a different size is refused)
//!
//! // Placement groups. create_pg is idempotent; everything else on an unknown group is StoreError::UnknownGroup.
//! store.create_pg(pg) / remove_pg(pg) -> Result<JournalMark>   store.pgs() -> impl Iterator<Item = PgId>
//! store.append(pg, &[Entry]) -> Result<JournalMark>      one write for the batch; all or nothing
//! store.log_start(pg) / log_end(pg) / committed(pg) / applied(pg) / durable(pg) -> Result<LogPosition>   (entries after log_start are kept)
//! store.entries_after(pg, LogPosition, max_entries, max_bytes) -> Result<Vec<Entry>>  (blocking read; Err(Trimmed) when before log_start)
//! store.contains(pg, LogPosition) -> Result<bool>        position lies on this log (exact epoch and sequence; by history where trimmed)
//! store.cut_tail(pg, after: LogPosition) -> Result<JournalMark>     refused below `committed`
//! store.reset_log(pg, at: LogPosition, history: Vec<LogPosition>) -> Result<JournalMark>   log goes on at `at` (resync)
//! store.set_committed(pg, LogPosition) -> Result<()>     journalled with the next sync; only raises
//! store.history(pg) -> Result<&[LogPosition]>            kept by the store: last position of every epoch, oldest first, the last one is log_end
//! store.replica_state(pg) -> Option<&ReplicaState>       promised, complete_to, completeness, loss_generation; new groups have the default
//! store.save_replica_state(pg, &ReplicaState) -> Result<JournalMark>   durable once synced_mark() >= it
//! store.dedupe(pg) -> Result<&DedupeTable>;  .lookup(session, operation) -> Lookup::{New, Answered(LogPosition), BelowLowWater(OperationId)}
//! store.replace_dedupe_table(pg, DedupeTable) -> Result<JournalMark>     store.retain_sessions(|SessionId| bool)
//!
//! // Durability. At most one sync runs at a time: None = nothing to do or one is running (`sync_running()`).
//! store.begin_sync() -> Result<Option<SyncJob<D>>>;  SyncJob::run(self) -> SyncOutcome;  store.finish_sync(SyncOutcome) -> Result<()>
//! store.synced_mark() -> JournalMark                     everything appended up to this mark is durable
//! store.sync_now() -> Result<()>                         the three in one, for tools and tests
//!
//! // Checkpoint. Same shape. Some(..) whenever there is durable, committed, unapplied work (or segments to free).
//! store.begin_checkpoint() -> Result<Option<CheckpointJob<D>>>; CheckpointJob::run(self) -> CheckpointOutcome; store.finish_checkpoint(outcome) -> Result<()>
//! store.journal_pressure() -> JournalPressure { unapplied_bytes, used_bytes, total_bytes, entries, .. }.fraction()   checkpoint from 0.3
//! store.journal_room_bytes(), .journal_usable_bytes(), .journal_takes(&entries, CheckpointsFree)   room for entries, at once
//!
//! // Reads. Zeros where absent. Every block verified.
//! store.prepare_read(pg, ChunkId, BlockRange) -> Result<ReadJob<D>>
//! ReadJob::try_now(&self) -> Option<Result<ReadOutcome, StoreError>>   None: would block, call run() elsewhere
//! ReadJob::run(&self) -> Result<ReadOutcome, StoreError>
//! ReadOutcome::Done { bytes: Bytes, bad: Vec<BadBlock { block, expected: Option<BlockHash> }> } | ReadOutcome::Retry (prepare again)
//! store.read_now(pg, chunk, range) -> Result<(Bytes, Vec<BadBlock>)>    prepare, run, retry; for tools and tests
//! store.block_hashes(pg, chunk) -> Result<ChunkHashes { blocks: Vec<Option<BlockHash>>, end_bytes, generation, version, damaged: bool }>
//! store.repair_block(pg, chunk, BlockIndex, &[u8]) -> Result<Repaired>   checks the hash itself; Done | OtherContent | Unknown
//!
//! // Resync.
//! store.chunks_changed_since(pg, LogPosition) -> Result<Changes { chunks, removed: Vec<RemovedChunks>, coverage: Coverage }>
//!     Coverage::RemovalsForgotten: removals that long ago are forgotten; compare all chunks of both sides (`chunks(pg)`)
//! store.chunks(pg) -> Result<Vec<ChunkId>>        store.chunk_info(pg, chunk) -> Option<ChunkInfo { version, end_bytes, generation }>
//! store.object_end(pg, ObjectId) -> Option<ObjectEnd { chunk: ChunkIndex, end_bytes: u32, generation }>
//! store.allocated_blocks(pg, ObjectId) -> Result<u64>
//!
//! // Space (design 5.10): credits() is what may still be admitted; what was sequenced is never refused for space.
//! store.space() -> Space { total_bytes, free_bytes, reserved_bytes }     store.credits() -> u64     store.refresh_space() -> Result<()>
//!
//! // Raft's log.
//! RawLog::open(disk, dir: &str) -> Result<RawLog<D>, StoreError>          creates it when absent; blocking; Send
//! log.append(&[(u64, impl AsRef<[u8]>)]) -> Result<()>    indexes contiguous: first == last_index + 1 (any first when empty)
//! log.sync() -> Result<()>                                 fdatasync; a failure poisons the log for good
//! log.truncate_from(index) -> Result<()>                   drops index and all after it; durable with the next sync
//! log.purge_to(index) -> Result<()>                        drops all up to and including index; durable with the next sync
//! log.read(Range<u64>) -> Result<Vec<(u64, Vec<u8>)>>      what exists of the range
//! log.first_index() -> Option<u64>; log.last_index() -> Option<u64>; log.purged_to() -> Option<u64>
//! log.put_meta(key: &str, &[u8]) -> Result<()>;  log.meta(key) -> Option<&[u8]>;  log.delete_meta(key)   durable with the next sync
//! ```

mod checkpoint;
mod chunk_file;
mod config;
pub mod disk;
mod durability;
mod error;
pub mod fault;
mod group;
pub mod inspect;
mod inventory;
mod journal;
mod overlay;
mod query;
pub mod raw_log;
mod read;
mod real_disk;
mod record;
mod recover;
mod room;
mod sealed;
mod state;
mod store;
mod superblock;
#[cfg(test)]
mod tests;

pub use checkpoint::{CheckpointJob, CheckpointOutcome};
pub use config::{Mutant, StoreConfig};
pub use disk::{Disk, DiskFile};
pub use durability::{SyncJob, SyncOutcome};
pub use error::{Result, StoreError};
pub use query::{Changes, ChunkHashes, ChunkInfo, Coverage, ObjectEnd, Repaired};
pub use raw_log::RawLog;
pub use read::{BadBlock, ReadJob, ReadOutcome};
pub use real_disk::RealDisk;
pub use recover::RecoveryReport;
pub use room::CheckpointsFree;
pub use state::{
    Completeness, DedupeTable, JournalPosition, Lookup, MAX_REMOVED_PER_GROUP, RemovedChunks, ReplicaState,
    SessionRecord,
};
pub use store::{JournalMark, JournalPressure, Space, Store};
pub use superblock::{Expected, FORMAT_VERSION, Identity, check_disk};

/// Longest entry: one write of the data wire with its header and one hash a block.
pub const MAX_ENTRY_BYTES: usize = weft_types::limits::MAX_IO_BYTES + (64 << 10);
