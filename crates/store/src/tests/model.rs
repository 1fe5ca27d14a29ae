//! A simple model of the store, and a driver that runs both side by side.
//!
//! The journal is one sequence, so after a crash the store must equal the model as it was after some operation, not
//! earlier than the last one that a finished sync covered.

use crate::disk::Disk;
use crate::fault::{PowerLoss, Random, RecordingDisk, SimDisk};
use crate::{
    CheckpointJob, CheckpointOutcome, Completeness, DedupeTable, Expected, Identity, Lookup, Mutant, ReplicaState,
    Store, StoreConfig, StoreError, SyncJob, SyncOutcome,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use weft_types::{
    BLOCK_SIZE, BlockIndex, BlockRange, ChunkId, ChunkIndex, ChunkSize, ClusterId, DiskId, Effect, Entry, EntryHeader,
    Epoch, LogPosition, NodeId, ObjectId, OperationId, Origin, PgId, PresentBlocks, Sequence, SessionId,
    TruncateGeneration, VolumeId, block_hash,
};

pub const VOLUME: VolumeId = VolumeId(7);
pub const BLOCKS: u16 = 16;
const OBJECTS: u64 = 2;
const CHUNKS: u32 = 3;

pub fn identity() -> Identity {
    Identity { cluster: ClusterId(1), disk: DiskId(0xabcd_ef01_2345), node: NodeId(3) }
}

pub fn expected() -> Expected {
    Expected { cluster: ClusterId(1), disk: Some(identity().disk), node: Some(identity().node) }
}

pub const fn pg(index: u16) -> PgId {
    PgId { volume: VOLUME, index }
}

pub const fn chunk(object: u64, index: u32) -> ChunkId {
    ChunkId { object: ObjectId(object), index: ChunkIndex(index) }
}

pub fn at(epoch: u64, sequence: u64) -> LogPosition {
    LogPosition::new(Epoch(epoch), Sequence(sequence))
}

pub fn block_bytes(tag: u64) -> Vec<u8> {
    (0..BLOCK_SIZE / 8).flat_map(|i| (tag.wrapping_mul(0x9e37_79b9) ^ i as u64 | 1).to_le_bytes()).collect()
}

pub fn small_chunks() -> ChunkSize {
    ChunkSize::new(64 << 10).unwrap()
}

/// A formatted and opened store with two groups.
pub fn fresh<D: Disk>(disk: &D, config: &StoreConfig) -> Store<D> {
    Store::format(disk, identity(), config).unwrap();
    let (mut store, _) = Store::open(disk.clone(), expected(), config.clone()).unwrap();
    store.register_volume(VOLUME, small_chunks()).unwrap();
    store.create_pg(pg(0)).unwrap();
    store.create_pg(pg(1)).unwrap();
    store
}

pub fn reopen(disk: &SimDisk, config: &StoreConfig) -> Store<SimDisk> {
    Store::open(disk.clone(), expected(), config.clone()).unwrap().0
}

/// An entry that follows `end` in the given epoch.
pub fn entry(end: LogPosition, epoch: u64, effect: Effect, data: Vec<u8>) -> Entry {
    let position = at(epoch, end.sequence.0 + 1);
    let header = EntryHeader { position, previous: end, origin: None, only_for: None, effect };
    Entry { header, data: Bytes::from(data) }
}

/// A write of blocks whose contents follow from `tag`.
pub fn write(end: LogPosition, epoch: u64, chunk: ChunkId, first: u16, count: u16, tag: u64) -> Entry {
    let mut data = Vec::new();
    let mut hashes = Vec::new();
    for block in first..first + count {
        let bytes = block_bytes(tag + u64::from(block));
        hashes.push(block_hash(VOLUME, chunk, BlockIndex(block), &bytes));
        data.extend_from_slice(&bytes);
    }
    let range = BlockRange::new(BlockIndex(first), count);
    let end_bytes = range.end() * BLOCK_SIZE as u32;
    let effect = Effect::Write { chunk, range, hashes, end_bytes, generation: TruncateGeneration(0) };
    entry(end, epoch, effect, data)
}

/// Content of a chunk: the tag of each present block.
pub type Content = BTreeMap<u16, u64>;

/// The tag of a block that was filled.
const ZEROS: u64 = u64::MAX;

#[derive(Clone, Default, PartialEq, Debug)]
pub struct ModelGroup {
    pub log: Vec<(EntryHeader, u64)>,
    pub promised: u64,
    pub low_water: BTreeMap<SessionId, OperationId>,
}

impl ModelGroup {
    pub fn end(&self) -> LogPosition {
        self.log.last().map_or(LogPosition::ZERO, |(h, _)| h.position)
    }

    fn history(&self) -> Vec<LogPosition> {
        let mut out: Vec<LogPosition> = Vec::new();
        for (header, _) in &self.log {
            match out.last_mut() {
                Some(last) if last.epoch == header.position.epoch => *last = header.position,
                _ => out.push(header.position),
            }
        }
        out
    }

    fn dedupe(&self) -> DedupeTable {
        let mut table = DedupeTable::default();
        for (session, low_water) in &self.low_water {
            table.sessions.entry(*session).or_default().low_water = *low_water;
        }
        for (header, _) in &self.log {
            if let Some(origin) = &header.origin {
                let record = table.sessions.entry(origin.session).or_default();
                if origin.operation >= record.low_water {
                    record.answered.insert(origin.operation, header.position);
                }
            }
        }
        table
    }

    /// Present blocks and end of every chunk that exists.
    pub fn contents(&self) -> BTreeMap<ChunkId, (Content, u32)> {
        let mut out: BTreeMap<ChunkId, (Content, u32)> = BTreeMap::new();
        for (header, tag) in &self.log {
            match &header.effect {
                Effect::Nothing => {}
                Effect::Write { chunk, range, end_bytes, .. } => {
                    let (content, end) = out.entry(*chunk).or_default();
                    content.extend(range.blocks().map(|b| (b.0, tag + u64::from(b.0))));
                    *end = (*end).max(*end_bytes);
                }
                Effect::Discard { chunk, range, .. } => {
                    if let Some((content, _)) = out.get_mut(chunk) {
                        content.retain(|b, _| !range.contains(BlockIndex(*b)));
                    }
                }
                Effect::Truncate { object, keep_blocks, size_bytes, .. } => {
                    for (chunk, (content, end)) in out.iter_mut().filter(|(c, _)| c.object == *object) {
                        let base = u64::from(chunk.index.0) * u64::from(BLOCKS);
                        content.retain(|b, _| base + u64::from(*b) < *keep_blocks);
                        let bytes = size_bytes.saturating_sub(base * BLOCK_SIZE as u64);
                        *end = (*end).min(u32::try_from(bytes).unwrap_or(u32::MAX));
                    }
                    let keep = *keep_blocks;
                    out.retain(|c, _| c.object != *object || u64::from(c.index.0) * u64::from(BLOCKS) < keep);
                }
                Effect::DeleteObject { object } => out.retain(|c, _| c.object != *object),
                Effect::DeleteChunk { chunk } => {
                    out.remove(chunk);
                }
                Effect::Fill { chunk, range, present, .. } => {
                    let (content, _) = out.entry(*chunk).or_default();
                    for block in range.blocks() {
                        if *present == PresentBlocks::Zero {
                            content.remove(&block.0);
                        }
                        content.entry(block.0).or_insert(ZEROS);
                    }
                }
            }
        }
        out
    }
}

#[derive(Clone, Default, PartialEq, Debug)]
pub struct Model {
    pub groups: BTreeMap<PgId, ModelGroup>,
}

/// A disk of tests.
pub trait TestDisk: Disk {
    /// Its power is off, so errors are expected.
    fn is_off(&self) -> bool;
}

impl TestDisk for SimDisk {
    fn is_off(&self) -> bool {
        Self::is_off(self)
    }
}

impl<D: Disk> TestDisk for RecordingDisk<D> {
    fn is_off(&self) -> bool {
        false
    }
}

pub struct World<D: TestDisk = SimDisk> {
    pub disk: D,
    pub config: StoreConfig,
    pub store: Option<Store<D>>,
    pub random: Random,
    /// The model after each operation since the last one known to be durable; the first is that one.
    pub past: Vec<Model>,
    pub epoch: u64,
    /// Whether some entries fill blocks.
    pub fills: bool,
    tag: u64,
    operation: u64,
    sync: Option<(SyncOrOutcome<D>, usize)>,
    checkpoint: Option<(CheckpointOrOutcome<D>, usize)>,
    /// How many of `past` were dropped so far, so that indexes stay valid.
    dropped: usize,
}

enum SyncOrOutcome<D: Disk> {
    Job(SyncJob<D>),
    Outcome(SyncOutcome),
}

enum CheckpointOrOutcome<D: Disk> {
    Job(CheckpointJob<D>),
    Outcome(CheckpointOutcome),
}

pub type Check = Result<(), String>;

impl<D: TestDisk> World<D> {
    /// A store on an empty disk.
    pub fn on(disk: D, config: StoreConfig, seed: u64) -> Self {
        let mut store = fresh(&disk, &config);
        store.sync_now().unwrap();
        let mut model = Model::default();
        model.groups.insert(pg(0), ModelGroup::default());
        model.groups.insert(pg(1), ModelGroup::default());
        Self {
            disk,
            config,
            store: Some(store),
            random: Random::new(seed),
            past: vec![model],
            epoch: 1,
            fills: true,
            tag: 0,
            operation: 0,
            sync: None,
            checkpoint: None,
            dropped: 0,
        }
    }

    pub fn now(&self) -> &Model {
        self.past.last().unwrap()
    }

    pub fn store(&mut self) -> &mut Store<D> {
        self.store.as_mut().unwrap()
    }

    /// Number of the newest state, counted from the beginning.
    pub fn index(&self) -> usize {
        self.dropped + self.past.len() - 1
    }

    /// Number of the oldest state that a crash may leave.
    pub const fn oldest(&self) -> usize {
        self.dropped
    }

    fn durable_up_to(&mut self, index: usize) {
        let drop = index.saturating_sub(self.dropped);
        self.past.drain(..drop);
        self.dropped += drop;
    }

    /// One random operation. `Ok(false)`: the disk lost power in the middle of it.
    pub fn step(&mut self) -> Result<bool, String> {
        let choice = self.random.below(100);
        let group = pg(self.random.below(2) as u16);
        let result = match choice {
            // Power failed between its removal and its creation.
            _ if !self.now().groups.contains_key(&group) => self.create_group(group),
            0..45 => self.append(group),
            45..57 => self.commit(group),
            57..62 => self.cut(group),
            62..66 => self.promise(group),
            66..76 => self.sync_part(),
            76..80 => self.sync_whole(),
            80..90 => self.checkpoint_part(),
            90..95 => self.checkpoint_whole(),
            95..96 => self.remove_group(group),
            _ => Ok(()),
        };
        match result {
            Ok(()) => Ok(true),
            Err(_) if self.disk.is_off() => Ok(false),
            Err(error) => Err(format!("operation {choice} failed: {error}")),
        }
    }

    fn append(&mut self, group: PgId) -> Result<(), StoreError> {
        let mut model = self.now().clone();
        let mut entries = Vec::new();
        let mut states = Vec::new();
        for _ in 0..=self.random.below(4) {
            let end = model.groups[&group].end();
            let entry = self.random_entry(end);
            let log = model.groups.get_mut(&group).unwrap();
            if let Some(origin) = &entry.header.origin {
                let mark = log.low_water.entry(origin.session).or_default();
                *mark = (*mark).max(origin.low_water);
            }
            log.log.push((entry.header.clone(), self.tag));
            entries.push(entry);
            states.push(model.clone());
        }
        match self.store().append(group, &entries) {
            Err(StoreError::JournalFull { .. }) => self.make_room(),
            other => {
                self.past.extend(states);
                other.map(|_| ())
            }
        }
    }

    fn random_entry(&mut self, end: LogPosition) -> Entry {
        self.tag += 1000;
        let target = chunk(1 + self.random.below(OBJECTS), self.random.below(u64::from(CHUNKS)) as u32);
        let first = self.random.below(u64::from(BLOCKS)) as u16;
        let count = 1 + self.random.below(u64::from(BLOCKS - first).min(6)) as u16;
        let range = BlockRange::new(BlockIndex(first), count);
        let generation = TruncateGeneration(0);
        let other = |effect| entry(end, self.epoch, effect, Vec::new());
        let mut out = match self.random.below(100) {
            0..70 if !self.fills => write(end, self.epoch, target, first, count, self.tag),
            0..58 => write(end, self.epoch, target, first, count, self.tag),
            kind @ 58..70 => {
                let present = if kind < 64 { PresentBlocks::Keep } else { PresentBlocks::Zero };
                other(Effect::Fill { chunk: target, range, absent_blocks: count, generation, present })
            }
            70..80 => other(Effect::Discard { chunk: target, range, generation }),
            80..88 => {
                let keep_blocks = self.random.below(u64::from(CHUNKS) * u64::from(BLOCKS));
                let size_bytes = keep_blocks * BLOCK_SIZE as u64;
                other(Effect::Truncate { object: target.object, keep_blocks, size_bytes, generation })
            }
            88..91 => other(Effect::DeleteObject { object: target.object }),
            91..96 => other(Effect::DeleteChunk { chunk: target }),
            _ => other(Effect::Nothing),
        };
        if self.random.chance(60) {
            self.operation += 1;
            out.header.origin = Some(Origin {
                session: SessionId(1 + self.random.below(2)),
                operation: OperationId(self.operation),
                low_water: OperationId(self.operation.saturating_sub(20)),
            });
        }
        out
    }

    fn make_room(&mut self) -> Result<(), StoreError> {
        let groups: Vec<PgId> = self.store().pgs().collect();
        for group in groups {
            let end = self.store().log_end(group)?;
            self.store().set_committed(group, end)?;
        }
        while self.checkpoint.is_some() {
            self.checkpoint_part()?;
        }
        self.checkpoint_whole()
    }

    fn commit(&mut self, group: PgId) -> Result<(), StoreError> {
        let log = &self.now().groups[&group].log;
        if log.is_empty() {
            return Ok(());
        }
        let committed = self.store().committed(group)?;
        let length = self.now().groups[&group].log.len() as u64;
        let pick = self.random.below(length) as usize;
        let position = self.now().groups[&group].log[pick].0.position;
        if position > committed { self.store().set_committed(group, position) } else { Ok(()) }
    }

    fn cut(&mut self, group: PgId) -> Result<(), StoreError> {
        let committed = self.store().committed(group)?;
        let model = &self.now().groups[&group];
        let keep = model.log.iter().filter(|(h, _)| h.position <= committed).count();
        let length = keep + self.random.clone().below((model.log.len() - keep) as u64 + 1) as usize;
        let after = if length == 0 { LogPosition::ZERO } else { model.log[length - 1].0.position };
        let mut next = self.now().clone();
        next.groups.get_mut(&group).unwrap().log.truncate(length);
        self.epoch += 1;
        self.past.push(next);
        self.store().cut_tail(group, after).map(|_| ())
    }

    fn promise(&mut self, group: PgId) -> Result<(), StoreError> {
        let mut next = self.now().clone();
        next.groups.get_mut(&group).unwrap().promised += 1;
        let promised = Epoch(next.groups[&group].promised);
        self.past.push(next);
        let state = ReplicaState { promised, completeness: Completeness::Complete, ..ReplicaState::default() };
        self.store().save_replica_state(group, &state).map(|_| ())
    }

    fn remove_group(&mut self, group: PgId) -> Result<(), StoreError> {
        let mut next = self.now().clone();
        next.groups.remove(&group);
        self.past.push(next);
        self.epoch += 1;
        self.store().remove_pg(group)?;
        self.create_group(group)
    }

    fn create_group(&mut self, group: PgId) -> Result<(), StoreError> {
        let mut next = self.now().clone();
        next.groups.insert(group, ModelGroup::default());
        self.past.push(next);
        self.store().create_pg(group).map(|_| ())
    }

    /// Moves a sync one stage on: begin, run, finish.
    pub fn sync_part(&mut self) -> Result<(), StoreError> {
        match self.sync.take() {
            None => {
                let index = self.index();
                self.sync = self.store().begin_sync()?.map(|job| (SyncOrOutcome::Job(job), index));
                Ok(())
            }
            Some((SyncOrOutcome::Job(job), index)) => {
                self.sync = Some((SyncOrOutcome::Outcome(job.run()), index));
                Ok(())
            }
            Some((SyncOrOutcome::Outcome(outcome), index)) => {
                self.store().finish_sync(outcome)?;
                self.durable_up_to(index);
                self.check_durable();
                Ok(())
            }
        }
    }

    pub fn sync_whole(&mut self) -> Result<(), StoreError> {
        while self.sync.is_some() {
            self.sync_part()?;
        }
        for _ in 0..3 {
            self.sync_part()?;
        }
        Ok(())
    }

    pub fn checkpoint_part(&mut self) -> Result<(), StoreError> {
        match self.checkpoint.take() {
            None => {
                let index = self.index();
                self.checkpoint = self.store().begin_checkpoint()?.map(|job| (CheckpointOrOutcome::Job(job), index));
                Ok(())
            }
            Some((CheckpointOrOutcome::Job(job), index)) => {
                self.checkpoint = Some((CheckpointOrOutcome::Outcome(job.run()), index));
                Ok(())
            }
            Some((CheckpointOrOutcome::Outcome(outcome), index)) => {
                self.store().finish_checkpoint(outcome)?;
                self.durable_up_to(index);
                self.check_durable();
                Ok(())
            }
        }
    }

    pub fn checkpoint_whole(&mut self) -> Result<(), StoreError> {
        while self.checkpoint.is_some() {
            self.checkpoint_part()?;
        }
        for _ in 0..3 {
            self.checkpoint_part()?;
        }
        Ok(())
    }

    /// What is reported as durable must lie on the oldest state that may survive.
    fn check_durable(&mut self) {
        let store = self.store.as_ref().unwrap();
        for (pg, oldest) in &self.past[0].groups {
            let Ok(durable) = store.durable(*pg) else { continue };
            let known = durable == LogPosition::ZERO || oldest.log.iter().any(|(h, _)| h.position == durable);
            assert!(known, "{pg}: {durable} is reported durable and may be lost");
        }
    }

    /// Compares everything that can be asked.
    pub fn verify(&self) -> Check {
        verify(self.now(), self.store.as_ref().unwrap())
    }
}

impl World {
    pub fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        Self::on(SimDisk::new(64 << 20), StoreConfig { mutant, ..StoreConfig::small() }, seed)
    }

    /// Power loss or process death, reopening, and the comparison with every state that may have survived.
    pub fn crash(&mut self, loss: PowerLoss) -> Check {
        self.sync = None;
        self.checkpoint = None;
        self.store = None;
        let interrupted = self.disk.is_off();
        self.disk.power_cycle(loss);
        let opened = Store::open(self.disk.clone(), expected(), self.config.clone());
        let (store, report) = opened.map_err(|error| format!("opening after {loss:?}: {error}"))?;
        if report.corrupt_blocks > 0 || !report.damaged_chunks.is_empty() {
            return Err(format!("damage after {loss:?}: {report:?}"));
        }
        let survivor = self.past.iter().rposition(|model| same_log(model, &store));
        let Some(survivor) = survivor else {
            let ends: Vec<_> = store.pgs().map(|pg| (pg, store.log_end(pg).unwrap())).collect();
            return Err(format!("after {loss:?} the store is in no state that may have survived: {ends:?}"));
        };
        if loss == PowerLoss::KeepAll && !interrupted && survivor + 1 != self.past.len() {
            return Err("a process crash lost something".to_owned());
        }
        let model = self.past.swap_remove(survivor);
        self.past = vec![model];
        self.dropped = 0;
        self.epoch += 1;
        self.store = Some(store);
        self.verify()
    }
}

/// Compares a store with what it should be, in everything that can be asked.
pub fn verify<D: Disk>(model: &Model, store: &Store<D>) -> Check {
    if !same_log(model, store) {
        return Err("logs differ".to_owned());
    }
    for (pg, group) in &model.groups {
        verify_entries(store, *pg, group)?;
        let contents = group.contents();
        for object in 1..=OBJECTS {
            let mut blocks = 0;
            for index in 0..CHUNKS {
                let id = chunk(object, index);
                let content = contents.get(&id);
                blocks += content.map_or(0, |(c, _)| c.len() as u64);
                verify_chunk(store, *pg, id, content)?;
            }
            let allocated = store.allocated_blocks(*pg, ObjectId(object)).map_err(|e| e.to_string())?;
            if allocated != blocks {
                return Err(format!("{pg} object {object}: {allocated} blocks allocated, expected {blocks}"));
            }
        }
    }
    Ok(())
}

/// Whether logs, promises and dedupe records are those of the model.
pub fn same_log<D: Disk>(model: &Model, store: &Store<D>) -> bool {
    store.pgs().eq(model.groups.keys().copied())
        && model.groups.iter().all(|(pg, group)| {
            store.log_end(*pg).unwrap() == group.end()
                && store.history(*pg).unwrap() == group.history()
                && store.replica_state(*pg).unwrap().promised == Epoch(group.promised)
                && *store.dedupe(*pg).unwrap() == group.dedupe()
        })
}

fn verify_entries<D: Disk>(store: &Store<D>, pg: PgId, group: &ModelGroup) -> Check {
    let start = store.log_start(pg).unwrap();
    let kept = store.entries_after(pg, start, usize::MAX, usize::MAX).map_err(|e| e.to_string())?;
    let expected: Vec<&EntryHeader> = group.log.iter().map(|(h, _)| h).filter(|h| h.position > start).collect();
    if kept.iter().map(|e| &e.header).ne(expected.iter().copied()) {
        return Err(format!("{pg}: entries behind {start} differ"));
    }
    for (header, _) in &group.log {
        if !store.contains(pg, header.position).unwrap() {
            return Err(format!("{pg}: {} is said not to be on the log", header.position));
        }
        if let Some(origin) = &header.origin
            && store.dedupe(pg).unwrap().lookup(origin.session, origin.operation) == Lookup::New
        {
            return Err(format!("{pg}: operation {} is forgotten", origin.operation));
        }
    }
    Ok(())
}

fn verify_chunk<D: Disk>(store: &Store<D>, pg: PgId, id: ChunkId, content: Option<&(Content, u32)>) -> Check {
    let whole = BlockRange::new(BlockIndex(0), BLOCKS);
    let (bytes, bad) = store.read_now(pg, id, whole).map_err(|e| e.to_string())?;
    if !bad.is_empty() {
        return Err(format!("{pg} {id}: blocks do not verify: {bad:?}"));
    }
    let hashes = store.block_hashes(pg, id).map_err(|e| e.to_string())?;
    for block in 0..BLOCKS {
        let got = &bytes[usize::from(block) * BLOCK_SIZE..][..BLOCK_SIZE];
        let tag = content.and_then(|(c, _)| c.get(&block));
        let filled = tag.is_none_or(|tag| *tag == ZEROS);
        let expected = tag.filter(|_| !filled).map_or_else(|| vec![0; BLOCK_SIZE], |tag| block_bytes(*tag));
        if got != expected {
            return Err(format!("{pg} {id} block {block}: wrong content, expected tag {tag:?}"));
        }
        let hash = tag.map(|_| block_hash(VOLUME, id, BlockIndex(block), &expected));
        if hashes.blocks[usize::from(block)] != hash {
            return Err(format!("{pg} {id} block {block}: presence or hash is wrong"));
        }
    }
    let end = store.chunk_info(pg, id).map(|info| info.end_bytes);
    if end != content.map(|(_, end)| *end) {
        return Err(format!("{pg} {id}: ends at {end:?}, expected {:?}", content.map(|(_, end)| *end)));
    }
    Ok(())
}
