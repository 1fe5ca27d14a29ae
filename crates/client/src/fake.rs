//! A cluster in memory, for tests: the real metadata state machine, and placement groups that keep blocks in a map.
//!
//! Only with the feature `fake-cluster`. It keeps the contracts that the client relies on (routing by the map, operation
//! numbers, generations, fencing) and breaks them in no way but those a test asks for: nodes that are down, answers that
//! get lost, no space. It replicates nothing and survives nothing.

use crate::shell::boot_time;
use crate::shell::network::{DataAnswer, DataCall, LocalFuture, Network, NoAnswer};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use weft_meta::command::NewNode;
use weft_meta::locks::{self, LockWaitState};
use weft_meta::records::SizeRecovery;
use weft_meta::{Command, CommandReply, MemoryView, Stamped, apply, namespace, read};
use weft_proto::admin::{AdminReply, AdminRequest, ClusterStatus, LockSummary};
use weft_proto::control::{ControlReply, ControlRequest, RegisterDisk, RegisterNode, ToldSize};
use weft_proto::data::{Contents, DataReply, DataRequest};
use weft_proto::namespace::{NamespaceReply, Notice, Query, SizeKnowledge};
use weft_types::checksum::block_hash;
use weft_types::error::NotServing;
use weft_types::{
    AckMode, BLOCK_SIZE, BlockIndex, BlockRange, ChunkId, ChunkIndex, ChunkSize, ClusterId, DataError, DiskId,
    ErrorKind, Incarnation, InodeNumber, LossGeneration, MapVersion, NodeId, ObjectId, OperationId, Origin, PgId,
    PresentBlocks, SessionId, SessionOwner, StartId, Timestamp, TruncateGeneration, VolumeId,
};

const DISK_BYTES: u64 = 100 << 30;

/// Clones are the same cluster, from any thread.
#[derive(Clone)]
pub struct FakeCluster(Arc<Mutex<State>>);

struct State {
    view: MemoryView,
    chunk_size: ChunkSize,
    blocks: BTreeMap<(ObjectId, ChunkIndex, BlockIndex), Box<[u8]>>,
    generations: BTreeMap<ObjectId, TruncateGeneration>,
    groups: BTreeMap<PgId, Group>,
    down: BTreeSet<NodeId>,
    faults: Faults,
    counts: Counts,
    /// Questions for sizes that their holders have not heard of, and the holders' last words.
    untold: BTreeMap<(SessionId, InodeNumber), u64>,
    questions: u64,
    told: BTreeMap<InodeNumber, (u64, ToldSize)>,
}

#[derive(Default)]
struct Group {
    /// Operations that were done and may be asked for again.
    done: BTreeMap<SessionId, BTreeSet<OperationId>>,
    low_water: BTreeMap<SessionId, OperationId>,
    loss_generation: LossGeneration,
}

/// What goes wrong, and how often still.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Data requests that are carried out and whose answers are lost.
    pub lose_answers: u32,
    /// Data requests that are refused with `NotServing`.
    pub refuse: u32,
    /// Writes that find no space, as long as it is set.
    pub no_space: bool,
    /// Mutations that are committed and whose answers are lost.
    pub lose_mutation_answers: u32,
    /// Nobody answers control requests.
    pub no_leader: bool,
    /// How long a node takes to answer.
    pub latency: Duration,
}

/// What the nodes have seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub writes_applied: u64,
    pub duplicates: u64,
    pub reads: u64,
    pub copies: u64,
    pub fills: u64,
    pub flush_requests: u64,
    pub synced_writes: u64,
    pub queries: u64,
    pub mutations: u64,
    pub lock_polls: u64,
    pub map_requests: u64,
}

impl FakeCluster {
    /// Three nodes of one disk each, and a volume.
    ///
    /// # Panics
    /// When the metadata state machine refuses what it must take.
    #[must_use]
    pub fn new(volume: &str, chunk_size: ChunkSize, pg_count: u16) -> Self {
        let mut state = State {
            view: MemoryView::new(),
            chunk_size,
            blocks: BTreeMap::new(),
            generations: BTreeMap::new(),
            groups: BTreeMap::new(),
            down: BTreeSet::new(),
            faults: Faults::default(),
            counts: Counts::default(),
            untold: BTreeMap::new(),
            questions: 0,
            told: BTreeMap::new(),
        };
        let new_node = |n: u16| NewNode {
            name: format!("node-{n}"),
            control_address: control_address(n),
            data_address: data_address(n),
            failure_domain: vec![format!("box-{n}")],
        };
        state.command(Command::Bootstrap {
            cluster: ClusterId(7),
            authority_certificate: vec![1],
            authority_key: vec![2],
            node: new_node(1),
        });
        for n in 2..=3 {
            state.command(Command::JoinNode { node: new_node(n), token: None });
        }
        for n in 1..=3 {
            state.register(n, Incarnation(0));
        }
        let name = volume.to_owned();
        let reply =
            state.command(Command::CreateVolume { name, replicas: 3, chunk_size, ack: AckMode::Memory, pg_count });
        assert!(matches!(reply, CommandReply::Volume(_)), "{reply:?}");
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network that leads to it.
    #[must_use]
    pub fn network(&self) -> Rc<dyn Network> {
        Rc::new(FakeNetwork(self.clone()))
    }

    #[must_use]
    pub fn control_addresses(&self) -> Vec<SocketAddr> {
        (1..=3).map(control_address).collect()
    }

    pub fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state().faults);
    }

    /// Of those data requests that a test has refused.
    #[must_use]
    pub fn refusals_left(&self) -> u32 {
        self.state().faults.refuse
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        self.state().counts.clone()
    }

    /// The node stops answering; nobody knows yet.
    pub fn cut_off(&self, node: u64) {
        self.state().down.insert(NodeId(node));
    }

    /// The metadata group declares it dead: its primaries move.
    pub fn declare_dead(&self, node: u64) {
        let mut state = self.state();
        let map = state.map(None);
        let incarnation = map.nodes.iter().find(|n| n.id == NodeId(node)).map(|n| n.incarnation).unwrap_or_default();
        state.command(Command::NodeDead { node: NodeId(node), incarnation });
    }

    pub fn strike(&self, session: SessionId) {
        self.state().command(Command::StrikeSession { session });
    }

    /// Every node has acknowledged that the session is struck; the placement groups have told the sizes of what it wrote.
    pub fn complete_fence(&self, session: SessionId) {
        let mut state = self.state();
        let since = state.map(None).version;
        state.command(Command::FenceComplete { session, since });
        state.recover_sizes();
    }

    /// Locks and waits, of all volumes.
    ///
    /// # Panics
    /// When the state cannot be read.
    #[must_use]
    pub fn locks(&self) -> Vec<LockSummary> {
        match locks::list(&self.state().view, None) {
            Ok(locks) => locks,
            Err(error) => panic!("the metadata state cannot be read: {error}"),
        }
    }

    /// Unflushed writes of every group may be lost.
    pub fn lose_unflushed_writes(&self) {
        let mut state = self.state();
        let volume = state.map(None).volumes[0].clone();
        for index in 0..volume.pg_count {
            let group = state.groups.entry(PgId { volume: volume.id, index }).or_default();
            group.loss_generation = group.loss_generation.next();
        }
    }

    /// Whether a stat has to ask the holder of the size cap.
    ///
    /// # Panics
    /// When the inode is not there.
    #[must_use]
    pub fn asks_holder(&self, inode: InodeNumber) -> bool {
        let state = self.state();
        let volume = state.map(None).volumes[0].id;
        match namespace::query(&state.view, volume, &Query::Attributes { inode }) {
            Ok(Ok(NamespaceReply::Record(record))) => record.knowledge != SizeKnowledge::Exact,
            other => panic!("no attributes: {other:?}"),
        }
    }

    /// Blocks that hold data, over all objects.
    #[must_use]
    pub fn present_blocks(&self) -> usize {
        self.state().blocks.len()
    }
}

fn control_address(n: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + n))
}

fn data_address(n: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8000 + n))
}

impl State {
    fn command(&mut self, command: Command) -> CommandReply {
        let nanoseconds = boot_time().nanoseconds;
        let at = Timestamp {
            seconds: i64::try_from(1_700_000_000 + nanoseconds / 1_000_000_000).unwrap_or(0),
            nanoseconds: u32::try_from(nanoseconds % 1_000_000_000).unwrap_or(0),
        };
        match apply(&self.view, &Stamped { at, command }) {
            Ok(applied) => {
                self.view.write(applied.batch);
                applied.reply
            }
            Err(error) => panic!("the metadata state cannot be read: {error}"),
        }
    }

    fn register(&mut self, n: u16, previous: Incarnation) {
        let disk = RegisterDisk { disk: DiskId(u128::from(n)), capacity_bytes: DISK_BYTES, proof: None };
        let request = RegisterNode {
            node: NodeId(u64::from(n)),
            start: StartId(u128::from(previous.0) << 16 | u128::from(n)),
            previous,
            control_address: control_address(n),
            data_address: data_address(n),
            disks: vec![disk],
        };
        let reply = self.command(Command::RegisterNode(request));
        assert!(matches!(reply, CommandReply::Registered { .. }), "{reply:?}");
    }

    /// What the leader does for files whose size only a fenced session knew. Otherwise who asks for it waits for good.
    fn recover_sizes(&mut self) {
        let facts = match read::facts(&self.view) {
            Ok(facts) => facts,
            Err(error) => panic!("the metadata state cannot be read: {error}"),
        };
        for SizeRecovery { volume, inode, object, generation, .. } in facts.size_recoveries {
            let end_bytes = self.ends(object).map(|(_, end_bytes)| end_bytes).max().unwrap_or(0);
            self.command(Command::SizeRecovered { volume, inode, generation, end_bytes });
        }
    }

    /// The end of each block of the object that is present, counted from the object's first byte.
    fn ends(&self, object: ObjectId) -> impl Iterator<Item = (ChunkIndex, u64)> + '_ {
        let chunk_bytes = u64::from(self.chunk_size.bytes());
        let of_object = self.blocks.keys().filter(move |(of, ..)| *of == object);
        of_object.map(move |(_, index, block)| {
            (*index, u64::from(index.0) * chunk_bytes + (u64::from(block.0) + 1) * BLOCK_SIZE as u64)
        })
    }

    fn map(&self, volume: Option<VolumeId>) -> weft_types::map::ClusterMap {
        match read::cluster_map(&self.view, volume) {
            Ok(map) => map,
            Err(error) => panic!("the metadata state cannot be read: {error}"),
        }
    }

    fn control(&mut self, request: ControlRequest) -> ControlReply {
        let reply = match request {
            ControlRequest::OpenSession { volume_name, host, mount_point } => {
                match self.command(Command::OpenSession { owner: SessionOwner(1), volume_name, host, mount_point }) {
                    CommandReply::SessionOpened { session, volume } => {
                        return ControlReply::SessionOpened { session, volume, map: self.map(Some(volume)) };
                    }
                    reply => reply,
                }
            }
            ControlRequest::SessionHeartbeat { session, .. } => {
                let map = self.map(None);
                return if map.is_live(session) {
                    ControlReply::SessionAlive { map_version: map.version }
                } else {
                    ControlReply::Refused(ErrorKind::Fenced)
                };
            }
            ControlRequest::CloseSession { session } => self.command(Command::CloseSession { session }),
            ControlRequest::GetMap { volume, have, .. } => {
                self.counts.map_requests += 1;
                let map = self.map(volume);
                return if map.version > have { ControlReply::Map(Box::new(map)) } else { ControlReply::MapUnchanged };
            }
            ControlRequest::Mutate { session, request, low_water, volume, mutation } => {
                self.counts.mutations += 1;
                self.command(Command::Mutate { session, request, low_water, volume, mutation })
            }
            ControlRequest::Query { volume, query } => {
                self.counts.queries += 1;
                return match namespace::query(&self.view, volume, &query) {
                    Ok(result) => ControlReply::Namespace(Box::new(result)),
                    Err(error) => panic!("the metadata state cannot be read: {error}"),
                };
            }
            ControlRequest::AwaitLock { session, inode, request, .. } => {
                self.counts.lock_polls += 1;
                return match locks::wait_state(&self.view, session, inode, request) {
                    Ok(LockWaitState::Over) => ControlReply::LockGranted,
                    Ok(LockWaitState::Waiting { .. }) => ControlReply::LockWaits,
                    Ok(LockWaitState::Fenced) => ControlReply::Refused(ErrorKind::Fenced),
                    Err(error) => panic!("the metadata state cannot be read: {error}"),
                };
            }
            ControlRequest::Watch { session, seen, .. } => {
                let (upto, mut notices) = match read::notices(&self.view, session, seen) {
                    Ok(found) => found,
                    Err(error) => panic!("the metadata state cannot be read: {error}"),
                };
                let asked = self.untold.iter().filter(|((holder, _), _)| *holder == session);
                notices
                    .extend(asked.map(|((_, inode), number)| Notice::SizeWanted { inode: *inode, question: *number }));
                self.untold.retain(|(holder, _), _| *holder != session);
                return ControlReply::Notices { upto, notices };
            }
            ControlRequest::AskSize { inode, holder, .. } => {
                self.questions += 1;
                self.untold.insert((holder, inode), self.questions);
                return ControlReply::Done;
            }
            ControlRequest::TellSize { inode, question, told, .. } => {
                self.told.insert(inode, (question, told));
                return ControlReply::Done;
            }
            ControlRequest::Admin(AdminRequest::ClusterStatus) => {
                let map = self.map(None);
                let free_bytes = map.disks.iter().map(|disk| (disk.id, disk.capacity_bytes / 2)).collect();
                let (leader, answering) = (Some(NodeId(1)), NodeId(1));
                let status = ClusterStatus { map, leader, answering, last_heartbeat_ms: Vec::new(), free_bytes };
                return ControlReply::Admin(Box::new(AdminReply::Cluster(status)));
            }
            other => return ControlReply::Refused(ErrorKind::Refused(format!("{other:?} is not for a fake cluster"))),
        };
        match reply {
            CommandReply::Namespace(result) => ControlReply::Namespace(Box::new(result)),
            CommandReply::Refused(error) => ControlReply::Refused(error),
            CommandReply::Done => ControlReply::Done,
            other => ControlReply::Refused(ErrorKind::Refused(format!("{other:?}"))),
        }
    }

    fn data(&mut self, node: NodeId, request: &DataRequest, payload: &Bytes) -> (Result<DataReply, DataError>, Bytes) {
        if self.faults.refuse > 0 {
            self.faults.refuse -= 1;
            return (Err(DataError::NotServing { reason: NotServing::NoLease }), Bytes::new());
        }
        let map = self.map(None);
        let lead = |pg: PgId| {
            let record = map.pgs.iter().find(|record| record.pg == pg);
            match record.and_then(|record| record.primary_member()) {
                Some(member) if member.node == node => Ok(()),
                _ => Err(DataError::NotPrimary { known: map.version }),
            }
        };
        let live = |session: SessionId| {
            if map.is_live(session) { Ok(()) } else { Err(DataError::Fenced) }
        };
        let result = self.serve(request, payload, &lead, &live, map.version);
        match result {
            Ok((reply, bytes)) => (Ok(reply), bytes),
            Err(error) => (Err(error), Bytes::new()),
        }
    }

    fn serve(
        &mut self,
        request: &DataRequest,
        payload: &Bytes,
        lead: &dyn Fn(PgId) -> Result<(), DataError>,
        live: &dyn Fn(SessionId) -> Result<(), DataError>,
        version: MapVersion,
    ) -> Result<(DataReply, Bytes), DataError> {
        let empty = Bytes::new();
        match request {
            DataRequest::Write(write) => {
                lead(write.pg)?;
                live(write.origin.session)?;
                assert!(write.map_version <= version, "a client cannot know a newer map");
                if !self.begin(write.pg, write.origin)? {
                    return Ok((DataReply::Written, empty));
                }
                if self.faults.no_space {
                    return Err(DataError::NoSpace);
                }
                self.check_generation(write.chunk.object, write.generation)?;
                self.check_hashes(write, payload)?;
                if write.ack == AckMode::Disk {
                    self.counts.synced_writes += 1;
                }
                self.put(write.chunk, write.offset_bytes, payload);
                self.end(write.pg, write.origin);
                Ok((DataReply::Written, empty))
            }
            DataRequest::Read(read) => {
                lead(read.pg)?;
                live(read.session)?;
                if let Contents::Of(generation) = read.contents {
                    self.check_generation(read.chunk.object, generation)?;
                }
                self.counts.reads += 1;
                Ok((DataReply::Read, self.get(read.chunk, read.offset_bytes, read.length_bytes)))
            }
            DataRequest::Copy(copy) => {
                lead(copy.pg)?;
                live(copy.origin.session)?;
                if self.begin(copy.pg, copy.origin)? {
                    self.check_generation(copy.chunk.object, copy.generation)?;
                    let bytes = self.get(copy.source.chunk, copy.source.offset_bytes, copy.length_bytes);
                    self.put(copy.chunk, copy.offset_bytes, &bytes);
                    self.end(copy.pg, copy.origin);
                }
                self.counts.copies += 1;
                Ok((DataReply::Written, empty))
            }
            DataRequest::Discard(discard) => {
                lead(discard.pg)?;
                live(discard.origin.session)?;
                if self.begin(discard.pg, discard.origin)? {
                    self.check_generation(discard.chunk.object, discard.generation)?;
                    self.discard(discard.chunk, discard.offset_bytes, discard.length_bytes);
                    self.end(discard.pg, discard.origin);
                }
                Ok((DataReply::Done, empty))
            }
            DataRequest::Fill(fill) => {
                lead(fill.pg)?;
                live(fill.origin.session)?;
                if self.faults.no_space {
                    return Err(DataError::NoSpace);
                }
                if self.begin(fill.pg, fill.origin)? {
                    self.check_generation(fill.chunk.object, fill.generation)?;
                    let range = fill.offset_bytes..fill.offset_bytes + fill.length_bytes;
                    let whole = [range.start, range.end].iter().all(|at| at.is_multiple_of(BLOCK_SIZE as u32));
                    if fill.present == PresentBlocks::Zero && !whole {
                        return Err(DataError::Malformed);
                    }
                    for block in BlockRange::covering(&range).blocks() {
                        let key = (fill.chunk.object, fill.chunk.index, block);
                        let held = self.blocks.entry(key).or_insert_with(|| vec![0; BLOCK_SIZE].into());
                        if fill.present == PresentBlocks::Zero {
                            held.fill(0);
                        }
                    }
                    self.end(fill.pg, fill.origin);
                    self.counts.fills += 1;
                }
                Ok((DataReply::Done, empty))
            }
            DataRequest::Truncate(truncate) => {
                lead(truncate.pg)?;
                self.truncate(truncate.object, truncate.size_bytes, truncate.generation);
                Ok((DataReply::Done, empty))
            }
            DataRequest::DeleteObject { pg, object, .. } => {
                lead(*pg)?;
                self.blocks.retain(|(of, _, _), _| of != object);
                Ok((DataReply::Done, empty))
            }
            DataRequest::Flush(flush) => {
                live(flush.session)?;
                self.counts.flush_requests += 1;
                let answers = flush.pgs.iter().map(|pg| {
                    let generation = self.groups.get(pg).map(|g| g.loss_generation).unwrap_or_default();
                    (*pg, lead(*pg).map(|()| generation))
                });
                Ok((DataReply::Flushed(answers.collect()), empty))
            }
            DataRequest::ObjectExtent { pg, object, .. } => {
                lead(*pg)?;
                let pg_count = self.map(None).volumes[0].pg_count;
                let in_group = |index: ChunkIndex| {
                    weft_types::map::pg_of_chunk(pg.volume, pg_count, ChunkId { object: *object, index }) == *pg
                };
                let ends = self.ends(*object).filter(|(index, _)| in_group(*index));
                let (count, end_bytes) = ends.fold((0u64, 0u64), |(count, end), (_, at)| (count + 1, end.max(at)));
                Ok((DataReply::ObjectExtent { end_bytes, allocated_bytes: count * BLOCK_SIZE as u64 }, empty))
            }
            DataRequest::Presence { pg, chunk, .. } => {
                lead(*pg)?;
                let mut runs: Vec<(BlockIndex, u16)> = Vec::new();
                let chunk_end = (chunk.object, chunk.index, BlockIndex(u16::MAX));
                for (_, _, block) in
                    self.blocks.range((chunk.object, chunk.index, BlockIndex(0))..=chunk_end).map(|b| b.0)
                {
                    match runs.last_mut() {
                        Some((first, count)) if first.0 + *count == block.0 => *count += 1,
                        _ => runs.push((*block, 1)),
                    }
                }
                Ok((DataReply::Presence(runs), empty))
            }
        }
    }

    /// Whether the operation is new. Trims as the mark says.
    fn begin(&mut self, pg: PgId, origin: Origin) -> Result<bool, DataError> {
        let group = self.groups.entry(pg).or_default();
        let mark = group.low_water.entry(origin.session).or_default();
        *mark = (*mark).max(origin.low_water);
        let low_water = *mark;
        if origin.operation < low_water {
            return Err(DataError::Answered { low_water });
        }
        let done = group.done.entry(origin.session).or_default();
        done.retain(|number| *number >= low_water);
        let new = !done.contains(&origin.operation);
        if !new {
            self.counts.duplicates += 1;
        }
        Ok(new)
    }

    fn end(&mut self, pg: PgId, origin: Origin) {
        self.counts.writes_applied += 1;
        self.groups.entry(pg).or_default().done.entry(origin.session).or_default().insert(origin.operation);
    }

    fn check_generation(&self, object: ObjectId, generation: TruncateGeneration) -> Result<(), DataError> {
        let current = self.generations.get(&object).copied().unwrap_or_default();
        if generation < current { Err(DataError::StaleGeneration { current }) } else { Ok(()) }
    }

    fn check_hashes(&self, write: &weft_proto::data::WriteRequest, payload: &Bytes) -> Result<(), DataError> {
        let start = write.offset_bytes as usize;
        let first = start.div_ceil(BLOCK_SIZE);
        let end = (start + payload.len()) / BLOCK_SIZE;
        if write.hashes.len() != end.saturating_sub(first) {
            return Err(DataError::Malformed);
        }
        for (hash, block) in write.hashes.iter().zip(first..end) {
            let at = block * BLOCK_SIZE - start;
            let index = BlockIndex(u16::try_from(block).map_err(|_| DataError::Malformed)?);
            if *hash != block_hash(write.pg.volume, write.chunk, index, &payload[at..at + BLOCK_SIZE]) {
                return Err(DataError::Malformed);
            }
        }
        Ok(())
    }

    fn put(&mut self, chunk: ChunkId, offset: u32, data: &[u8]) {
        let range = offset..offset + u32::try_from(data.len()).unwrap_or(u32::MAX);
        for block in BlockRange::covering(&range).blocks() {
            let bytes = self.blocks.entry((chunk.object, chunk.index, block)).or_insert_with(zero_block);
            let start = u32::from(block.0) * BLOCK_SIZE as u32;
            let (from, to) = (range.start.max(start), range.end.min(start + BLOCK_SIZE as u32));
            bytes[(from - start) as usize..(to - start) as usize]
                .copy_from_slice(&data[(from - offset) as usize..(to - offset) as usize]);
        }
    }

    fn get(&self, chunk: ChunkId, offset: u32, length: u32) -> Bytes {
        let mut out = BytesMut::zeroed(length as usize);
        let range = offset..offset + length;
        for block in BlockRange::covering(&range).blocks() {
            let Some(bytes) = self.blocks.get(&(chunk.object, chunk.index, block)) else { continue };
            let start = u32::from(block.0) * BLOCK_SIZE as u32;
            let (from, to) = (range.start.max(start), range.end.min(start + BLOCK_SIZE as u32));
            out[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
        }
        out.freeze()
    }

    fn discard(&mut self, chunk: ChunkId, offset: u32, length: u32) {
        let range = offset..offset + length;
        for block in BlockRange::covering(&range).blocks() {
            let start = u32::from(block.0) * BLOCK_SIZE as u32;
            let key = (chunk.object, chunk.index, block);
            if range.start <= start && start + BLOCK_SIZE as u32 <= range.end {
                self.blocks.remove(&key);
            } else if let Some(bytes) = self.blocks.get_mut(&key) {
                let (from, to) = (range.start.max(start), range.end.min(start + BLOCK_SIZE as u32));
                bytes[(from - start) as usize..(to - start) as usize].fill(0);
            }
        }
    }

    fn truncate(&mut self, object: ObjectId, size_bytes: u64, generation: TruncateGeneration) {
        let current = self.generations.entry(object).or_default();
        *current = (*current).max(generation);
        let chunk_bytes = u64::from(self.chunk_size.bytes());
        self.blocks.retain(|(of, index, block), bytes| {
            let start = u64::from(index.0) * chunk_bytes + u64::from(block.0) * BLOCK_SIZE as u64;
            if *of == object && start < size_bytes && size_bytes < start + BLOCK_SIZE as u64 {
                bytes[(size_bytes - start) as usize..].fill(0);
            }
            *of != object || start < size_bytes
        });
    }
}

fn zero_block() -> Box<[u8]> {
    vec![0; BLOCK_SIZE].into_boxed_slice()
}

struct FakeNetwork(FakeCluster);

impl Network for FakeNetwork {
    fn data(&self, call: DataCall, on_answer: Box<dyn FnOnce(DataAnswer)>) {
        let cluster = self.0.clone();
        tokio::task::spawn_local(async move {
            let latency = cluster.state().faults.latency;
            if !latency.is_zero() {
                tokio::time::sleep(latency).await;
            }
            if cluster.state().down.contains(&call.node) {
                // Silent, as a node behind a cut cable is.
                tokio::time::sleep(call.deadline).await;
                return on_answer(Err(NoAnswer("no answer".into())));
            }
            let answer = {
                let mut state = cluster.state();
                let answer = state.data(call.node, &call.request, &call.payload);
                let lost = state.faults.lose_answers > 0 && answer.0.is_ok();
                if lost {
                    state.faults.lose_answers -= 1;
                    Err(NoAnswer("connection lost".into()))
                } else {
                    Ok(answer)
                }
            };
            on_answer(answer);
        });
    }

    fn control(
        &self,
        address: SocketAddr,
        request: ControlRequest,
        deadline: Duration,
    ) -> LocalFuture<Result<ControlReply, NoAnswer>> {
        let cluster = self.0.clone();
        Box::pin(async move {
            // Node 1 leads while it lives, then node 2.
            let leader = if cluster.state().down.contains(&NodeId(1)) { 2 } else { 1 };
            let asked = address.port() - 7000;
            if cluster.state().down.contains(&NodeId(u64::from(asked))) || cluster.state().faults.no_leader {
                tokio::time::sleep(deadline).await;
                return Err(NoAnswer("no answer".into()));
            }
            if asked != leader {
                let leader = Some((NodeId(u64::from(leader)), control_address(leader)));
                return Ok(ControlReply::NotLeader { leader });
            }
            if let ControlRequest::GetMap { wait_ms, .. } | ControlRequest::AwaitLock { wait_ms, .. } = &request {
                let rounds = (u64::from(*wait_ms).min(deadline.as_millis() as u64)) / 10;
                for _ in 0..rounds {
                    let reply = cluster.state().control(request.clone());
                    if !matches!(reply, ControlReply::MapUnchanged | ControlReply::LockWaits) {
                        return Ok(reply);
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            if let ControlRequest::Watch { wait_ms, .. } = &request {
                let rounds = (u64::from(*wait_ms).min(deadline.as_millis() as u64)) / 2;
                for _ in 0..rounds {
                    let reply = cluster.state().control(request.clone());
                    if !matches!(&reply, ControlReply::Notices { notices, .. } if notices.is_empty()) {
                        return Ok(reply);
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
            if let ControlRequest::AskSize { inode, .. } = &request {
                let number = {
                    let mut state = cluster.state();
                    state.control(request.clone());
                    state.questions
                };
                for _ in 0..100 {
                    if let Some((question, told)) = cluster.state().told.get(inode).copied()
                        && question >= number
                    {
                        return Ok(ControlReply::SizeTold(told));
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                return Ok(ControlReply::Done);
            }
            tokio::task::yield_now().await;
            let mut state = cluster.state();
            let is_mutation = matches!(request, ControlRequest::Mutate { .. });
            let reply = state.control(request);
            if is_mutation && state.faults.lose_mutation_answers > 0 {
                state.faults.lose_mutation_answers -= 1;
                return Err(NoAnswer("connection lost".into()));
            }
            Ok(reply)
        })
    }

    fn keep_only(&self, _addresses: &[SocketAddr]) {}
}
