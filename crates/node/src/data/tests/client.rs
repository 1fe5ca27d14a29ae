//! A client of the data wire: finds the primary in the map, tries again where the wire says that it helps.

use super::cluster::{CLUSTER, Cluster, MEMBER};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use weft_proto::data::{
    Contents, CopyRequest, CopySource, DataReply, DataRequest, FlushRequest, ReadRequest, WriteRequest,
};
use weft_proto::frame::Service;
use weft_proto::hello::{Hello, HelloRole};
use weft_transport::connection::NoService;
use weft_transport::identity::PeerName;
use weft_transport::{CallError, Connection, Endpoint, EndpointConfig, PeerIdentity, PeerRole};
use weft_types::geometry::BLOCK_SIZE;
use weft_types::map::pg_of_chunk;
use weft_types::{
    AckMode, BlockIndex, BlockRange, ChunkId, ChunkIndex, DataError, LossGeneration, MapVersion, NodeId, ObjectId,
    OperationId, Origin, PgId, SessionId, TruncateGeneration, VolumeId, block_hash,
};

const CALL: Duration = Duration::from_secs(5);
/// The same for one of very many: on a busy machine the last is not answered in time otherwise, and all are sent again for ever.
const CALL_AMONG_OTHERS: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) struct Client {
    cluster: Cluster,
    endpoint: Endpoint,
    connections: RefCell<BTreeMap<NodeId, (SocketAddr, Connection)>>,
    pub(super) session: SessionId,
    role: HelloRole,
    operations: Cell<u64>,
    volume: VolumeId,
}

pub(super) type Answer = Result<(DataReply, Bytes), DataError>;

impl Client {
    pub(super) async fn open(cluster: &Cluster) -> Self {
        let session = cluster.open_session().await;
        Self::of_member(cluster, session, MEMBER)
    }

    /// Speaks for a session under the name of some member.
    pub(super) fn of_member(cluster: &Cluster, session: SessionId, name: &str) -> Self {
        let identity = PeerIdentity::client(CLUSTER, PeerName::new(name).unwrap());
        Self::as_peer(cluster, session, &identity, HelloRole::Client { session: Some(session) })
    }

    /// Speaks as a part of a node.
    pub(super) async fn of_node(cluster: &Cluster, node: NodeId) -> Self {
        let role = HelloRole::Node { node, incarnation: cluster.incarnation(node) };
        let session = cluster.open_session().await;
        Self::as_peer(cluster, session, &PeerIdentity::node(CLUSTER, node), role)
    }

    fn as_peer(cluster: &Cluster, session: SessionId, identity: &PeerIdentity, role: HelloRole) -> Self {
        let credentials = cluster.authority.issue(identity).unwrap();
        let endpoint = Endpoint::bind(EndpointConfig::new(([127, 0, 0, 1], 0).into()), &credentials).unwrap();
        let volume = cluster.volume();
        let (connections, operations) = (RefCell::default(), Cell::new(0));
        Self { cluster: cluster.clone(), endpoint, connections, session, role, operations, volume }
    }

    pub(super) fn chunk(&self, object: u64, index: u32) -> ChunkId {
        ChunkId { object: ObjectId(object), index: ChunkIndex(index) }
    }

    pub(super) fn pg(&self, chunk: ChunkId) -> PgId {
        pg_of_chunk(self.volume, self.cluster.map().volumes[0].pg_count, chunk)
    }

    pub(super) fn version(&self) -> MapVersion {
        self.cluster.map().version
    }

    pub(super) fn next_origin(&self) -> Origin {
        self.operations.set(self.operations.get() + 1);
        let operation = OperationId(self.operations.get());
        // One operation at a time: everything before it is answered.
        Origin { session: self.session, operation, low_water: operation }
    }

    async fn connection(&self, node: NodeId) -> Option<Connection> {
        let map = self.cluster.map();
        let address = map.nodes.iter().find(|record| record.id == node)?.data_address;
        if let Some((at, connection)) = self.connections.borrow().get(&node)
            && *at == address
            && connection.is_open()
        {
            return Some(connection.clone());
        }
        let hello = Hello { cluster: CLUSTER, role: self.role };
        let expect = PeerRole::Node(node);
        let connection = self.endpoint.connect(address, hello, Some(&expect), Rc::new(NoService)).await.ok()?;
        self.connections.borrow_mut().insert(node, (address, connection.clone()));
        Some(connection)
    }

    /// One attempt at a given node; `None` when there was no answer.
    pub(super) async fn call(&self, node: NodeId, request: &DataRequest, payload: Bytes) -> Option<Answer> {
        self.call_within(CALL, node, request, payload).await
    }

    async fn call_within(
        &self,
        limit: Duration,
        node: NodeId,
        request: &DataRequest,
        payload: Bytes,
    ) -> Option<Answer> {
        let connection = self.connection(node).await?;
        let call = connection.call::<_, Result<DataReply, DataError>>(Service::Data, request, payload, limit);
        match call.await {
            Ok((reply, bytes)) => Some(reply.map(|reply| (reply, bytes))),
            Err(CallError::Refused(refusal)) => panic!("{refusal}"),
            Err(_) => None,
        }
    }

    /// Until it is answered for good.
    pub(super) async fn persist(
        &self,
        pg: PgId,
        request: impl Fn(MapVersion) -> DataRequest,
        payload: Bytes,
    ) -> Answer {
        match self.persist_or_say(CALL, pg, request, payload).await {
            Ok(answer) => answer,
            Err(what) => panic!("{what}"),
        }
    }

    /// As `persist`; no answer in time is an error.
    async fn persist_or_say(
        &self,
        limit: Duration,
        pg: PgId,
        request: impl Fn(MapVersion) -> DataRequest,
        payload: Bytes,
    ) -> Result<Answer, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let primary = self.cluster.map().pgs.iter().find(|r| r.pg == pg).and_then(|r| r.primary_member().copied());
            let answer = match primary {
                Some(member) => self.call_within(limit, member.node, &request(self.version()), payload.clone()).await,
                None => None,
            };
            match answer {
                Some(Err(DataError::NotPrimary { .. } | DataError::NotServing { .. })) | None => {}
                Some(answer) => return Ok(answer),
            }
            if Instant::now() >= deadline {
                return Err(format!("no answer for {pg}: {answer:?} {:?}", self.cluster.events()));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) fn write_request(
        &self,
        chunk: ChunkId,
        offset: u32,
        bytes: &[u8],
        origin: Origin,
        map_version: MapVersion,
    ) -> DataRequest {
        let end = offset + bytes.len() as u32;
        // The client hashes the blocks that it sends whole.
        let first = offset.div_ceil(BLOCK_SIZE as u32);
        let last = end / BLOCK_SIZE as u32;
        let hash = |block: u32| {
            let from = block as usize * BLOCK_SIZE - offset as usize;
            block_hash(self.volume, chunk, BlockIndex(block as u16), &bytes[from..from + BLOCK_SIZE])
        };
        DataRequest::Write(WriteRequest {
            pg: self.pg(chunk),
            map_version,
            origin,
            chunk,
            offset_bytes: offset,
            generation: TruncateGeneration(0),
            ack: AckMode::Memory,
            hashes: (first..last).map(hash).collect(),
        })
    }

    pub(super) async fn write(&self, chunk: ChunkId, offset: u32, bytes: &[u8]) {
        let origin = self.next_origin();
        let request = |version| self.write_request(chunk, offset, bytes, origin, version);
        let answer = self.persist(self.pg(chunk), request, Bytes::copy_from_slice(bytes)).await;
        assert_eq!(answer.unwrap().0, DataReply::Written);
    }

    /// A write while others of the session are under way: the low-water mark stays.
    pub(super) async fn write_among_others(&self, chunk: ChunkId, offset: u32, bytes: &[u8]) -> Result<(), String> {
        let origin = Origin { low_water: OperationId(0), ..self.next_origin() };
        let request = |version| self.write_request(chunk, offset, bytes, origin, version);
        match self.persist_or_say(CALL_AMONG_OTHERS, self.pg(chunk), request, Bytes::copy_from_slice(bytes)).await? {
            Ok((DataReply::Written, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    pub(super) fn copy_of(
        &self,
        from: (ChunkId, u32),
        to: (ChunkId, u32),
        length_bytes: u32,
        origin: Origin,
        map_version: MapVersion,
    ) -> CopyRequest {
        let ((source, source_offset), (chunk, offset_bytes)) = (from, to);
        let generation = TruncateGeneration(0);
        CopyRequest {
            pg: self.pg(chunk),
            map_version,
            origin,
            chunk,
            offset_bytes,
            length_bytes,
            generation,
            ack: AckMode::Memory,
            source: CopySource { pg: self.pg(source), chunk: source, offset_bytes: source_offset, generation },
        }
    }

    pub(super) async fn copy(&self, from: (ChunkId, u32), to: (ChunkId, u32), length: u32) {
        self.copy_as(self.next_origin(), from, to, length).await;
    }

    /// A copy while others of the session are under way: the low-water mark stays.
    pub(super) async fn copy_among_others(&self, from: (ChunkId, u32), to: (ChunkId, u32), length: u32) {
        let origin = Origin { low_water: OperationId(0), ..self.next_origin() };
        self.copy_as(origin, from, to, length).await;
    }

    async fn copy_as(&self, origin: Origin, from: (ChunkId, u32), to: (ChunkId, u32), length: u32) {
        let request = |version| DataRequest::Copy(self.copy_of(from, to, length, origin, version));
        let answer = self.persist(self.pg(to.0), request, Bytes::new()).await;
        assert_eq!(answer.unwrap().0, DataReply::Written);
    }

    pub(super) fn read_request(&self, chunk: ChunkId, offset: u32, length: usize, version: MapVersion) -> DataRequest {
        DataRequest::Read(ReadRequest {
            pg: self.pg(chunk),
            map_version: version,
            session: self.session,
            chunk,
            offset_bytes: offset,
            length_bytes: length as u32,
            contents: Contents::Any,
        })
    }

    pub(super) async fn read(&self, chunk: ChunkId, offset: u32, length: usize) -> Bytes {
        let request = |version| self.read_request(chunk, offset, length, version);
        let (reply, bytes) = self.persist(self.pg(chunk), request, Bytes::new()).await.unwrap();
        assert_eq!((reply, bytes.len()), (DataReply::Read, length));
        bytes
    }

    /// One request per node, as clients do.
    pub(super) async fn flush(&self, pgs: &[PgId]) -> Vec<(PgId, LossGeneration)> {
        let mut by_node: BTreeMap<NodeId, Vec<PgId>> = BTreeMap::new();
        for pg in pgs {
            by_node.entry(self.cluster.leader_of(*pg)).or_default().push(*pg);
        }
        let mut flushed = Vec::new();
        for (node, pgs) in by_node {
            let (session, map_version) = (self.session, self.version());
            let request = DataRequest::Flush(FlushRequest { session, map_version, pgs: pgs.clone() });
            let answer = self.call(node, &request, Bytes::new()).await.unwrap();
            let Ok((DataReply::Flushed(results), _)) = answer else { panic!("{answer:?}") };
            assert_eq!(results.iter().map(|(pg, _)| *pg).collect::<Vec<_>>(), pgs);
            flushed.extend(results.into_iter().map(|(pg, result)| (pg, result.unwrap())));
        }
        flushed
    }
}

/// Bytes that say where they belong.
pub(super) fn pattern(seed: u64, blocks: u16) -> Vec<u8> {
    let range = BlockRange::new(BlockIndex(0), blocks);
    let mut bytes = Vec::with_capacity(range.byte_len());
    for at in 0..range.byte_len() as u64 / 8 {
        bytes.extend_from_slice(&(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at).to_le_bytes());
    }
    bytes
}
