//! A replicated state in memory, driven by commands. After each command the invariants of design 5 are checked; what is
//! found is kept, so that a scenario with a planted bug fails instead of panicking half way.

use crate::command::{Command, CommandReply, NewNode, Stamped};
use crate::read;
use crate::view::MemoryView;
use crate::{Applied, apply};
use std::collections::BTreeMap;
use weft_proto::control::{ChangeSetRequest, NothingLost, RegisterDisk, RegisterNode, SetChange};
use weft_proto::namespace::{Credentials, FileRecord, Mutation, NamespaceReply, NewInode, Notice, Query};
use weft_types::map::{ClusterMap, Member, MemberState, NodeState, PgRecord};
use weft_types::{
    AckMode, ChunkSize, ClusterId, DiskId, ErrorKind, Incarnation, InodeNumber, NodeId, PgId, RequestNumber, SessionId,
    SessionOwner, StartId, Timestamp, VolumeId,
};

pub(crate) struct World {
    pub view: MemoryView,
    pub clock: i64,
    pub violations: Vec<String>,
    pub wanted: Vec<SessionId>,
    requests: BTreeMap<SessionId, u64>,
    starts: u128,
}

pub(crate) fn disk(node: u64) -> DiskId {
    DiskId(0xd000 + u128::from(node))
}

pub(crate) fn new_node(name: &str) -> NewNode {
    NewNode {
        name: name.to_owned(),
        control_address: ([10, 0, 0, 1], 7000).into(),
        data_address: ([10, 0, 0, 1], 7001).into(),
        failure_domain: Vec::new(),
    }
}

impl World {
    pub fn empty() -> Self {
        let violations = Vec::new();
        Self {
            view: MemoryView::new(),
            clock: 1000,
            violations,
            wanted: Vec::new(),
            requests: BTreeMap::new(),
            starts: 0,
        }
    }

    /// Nodes 1..=count, live, each with one disk.
    pub fn cluster(count: u64) -> Self {
        let mut world = Self::empty();
        world.run(Command::Bootstrap {
            cluster: ClusterId(77),
            authority_certificate: vec![1],
            authority_key: vec![2],
            node: new_node("n1"),
        });
        for id in 2..=count {
            world.run(Command::JoinNode { node: new_node(&format!("n{id}")), token: None });
        }
        for id in 1..=count {
            world.register(id, 0, None);
        }
        world
    }

    /// A cluster with a volume of one placement group, levelled.
    pub fn with_group(nodes: u64, replicas: u8) -> Self {
        let mut world = Self::cluster(nodes);
        world.volume("v", replicas, 1);
        world.level();
        world
    }

    pub fn apply(&mut self, command: Command) -> Applied {
        self.clock += 1;
        let at = Timestamp { seconds: self.clock, nanoseconds: 0 };
        // A namespace request changes no map; reading two of them for each would be most of a test's time.
        let mutates = matches!(command, Command::Mutate { .. });
        let before = (!mutates).then(|| self.map());
        let forced = matches!(command, Command::ForceStale { .. } | Command::RegisterNode(_));
        let applied = apply(&self.view, &Stamped { at, command }).expect("readable state");
        self.view.write(applied.batch.clone());
        self.wanted.extend(applied.wanted_sessions.iter().copied());
        if let Some(before) = before {
            let after = self.map();
            self.check(&before, &after, forced);
        } else if applied.map_changed {
            self.violations.push("a namespace request changed the map".to_owned());
        }
        applied
    }

    pub fn run(&mut self, command: Command) -> CommandReply {
        self.apply(command).reply
    }

    fn check(&mut self, before: &ClusterMap, after: &ClusterMap, may_lose_level: bool) {
        let mut wrong = Vec::new();
        if after.version < before.version {
            wrong.push("the map version fell".to_owned());
        }
        if before.version == after.version && before != after {
            wrong.push("the map changed under one version".to_owned());
        }
        for new in &after.pgs {
            if new.primary.is_some() && !new.primary_member().is_some_and(Member::is_in_sync) {
                wrong.push("the primary is not in the set".to_owned());
            }
            if new.in_sync().next().is_none() {
                wrong.push("the set is empty".to_owned());
            }
            let mut nodes: Vec<NodeId> = new.in_sync().map(|m| m.node).collect();
            nodes.dedup();
            if nodes.len() != new.in_sync().count() {
                wrong.push("two replicas on one node".to_owned());
            }
            let Some(old) = before.pgs.iter().find(|p| p.pg == new.pg) else { continue };
            wrong.extend(changes(old, new, may_lose_level).into_iter().map(str::to_owned));
        }
        self.violations.extend(wrong);
    }

    pub fn verdict(&self) -> Result<(), String> {
        if self.violations.is_empty() { Ok(()) } else { Err(self.violations.join("; ")) }
    }

    pub fn map(&self) -> ClusterMap {
        read::cluster_map(&self.view, None).expect("readable state")
    }

    pub fn pg(&self) -> PgRecord {
        self.map().pgs[0].clone()
    }

    /// Node that leads the group; 0 when nobody does.
    pub fn leader_node(&self) -> u64 {
        self.pg().primary_member().map_or(0, |m| m.node.0)
    }

    /// The live backups' nodes, lowest first.
    pub fn backups(&self) -> Vec<u64> {
        let leader = self.leader_node();
        let mut nodes: Vec<u64> = self.pg().members.iter().map(|m| m.node.0).filter(|n| *n != leader).collect();
        nodes.sort_unstable();
        nodes
    }

    pub fn state(&self, node: u64) -> Option<MemberState> {
        self.pg().member(disk(node)).map(|m| m.state)
    }

    pub fn incarnation(&self, node: u64) -> Incarnation {
        let map = self.map();
        map.nodes.iter().find(|n| n.id == NodeId(node)).map(|n| n.incarnation).unwrap_or_default()
    }

    pub fn register(&mut self, node: u64, previous: u64, proof: Option<Incarnation>) -> CommandReply {
        let disks = vec![RegisterDisk {
            disk: disk(node),
            capacity_bytes: 100 << 30,
            proof: proof.map(|of| NothingLost { of }),
        }];
        self.register_disks(node, previous, disks)
    }

    pub fn register_disks(&mut self, node: u64, previous: u64, disks: Vec<RegisterDisk>) -> CommandReply {
        self.starts += 1;
        self.register_again(node, previous, disks)
    }

    /// Another copy of the last registration, if it is the same otherwise.
    pub fn register_again(&mut self, node: u64, previous: u64, disks: Vec<RegisterDisk>) -> CommandReply {
        self.run(Command::RegisterNode(RegisterNode {
            node: NodeId(node),
            start: StartId(self.starts),
            previous: Incarnation(previous),
            control_address: ([10, 0, 0, 1], 7000).into(),
            data_address: ([10, 0, 0, 1], 7001).into(),
            disks,
        }))
    }

    /// The node restarts; with `lossless` it proves that nothing was lost.
    pub fn restart(&mut self, node: u64, lossless: bool) -> CommandReply {
        let was = self.incarnation(node);
        self.register(node, was.0, lossless.then_some(was))
    }

    pub fn kill(&mut self, node: u64) -> CommandReply {
        let incarnation = self.incarnation(node);
        self.run(Command::NodeDead { node: NodeId(node), incarnation })
    }

    pub fn volume(&mut self, name: &str, replicas: u8, pg_count: u16) -> CommandReply {
        self.run(Command::CreateVolume {
            name: name.to_owned(),
            replicas,
            chunk_size: ChunkSize::DEFAULT,
            ack: AckMode::Memory,
            pg_count,
        })
    }

    pub fn request(&self, change: SetChange) -> ChangeSetRequest {
        let pg = self.pg();
        let primary = pg.primary_member().copied();
        ChangeSetRequest {
            pg: pg.pg,
            epoch: pg.epoch,
            set_version: pg.set_version,
            requester: primary.map(|m| m.disk).unwrap_or_default(),
            incarnation: primary.map(|m| m.incarnation).unwrap_or_default(),
            change,
        }
    }

    /// A set change by the present primary, with present facts.
    pub fn change(&mut self, change: SetChange) -> CommandReply {
        let request = self.request(change);
        self.run(Command::ChangeSet(request))
    }

    /// Ends peering: everybody live and in sync is levelled.
    pub fn level(&mut self) -> CommandReply {
        let map = self.map();
        let live = |m: &&Member| map.nodes.iter().any(|n| n.id == m.node && n.state == NodeState::Live);
        let disks = self.pg().in_sync().filter(live).map(|m| m.disk).collect();
        self.change(SetChange::Levelled { disks })
    }

    pub fn session(&mut self) -> SessionId {
        self.session_of(SessionOwner(1))
    }

    pub fn session_of(&mut self, owner: SessionOwner) -> SessionId {
        let command = Command::OpenSession {
            owner,
            volume_name: "v".to_owned(),
            host: "host".to_owned(),
            mount_point: "/mnt".to_owned(),
        };
        match self.run(command) {
            CommandReply::SessionOpened { session, .. } => session,
            other => panic!("no session: {other:?}"),
        }
    }

    pub fn mutate(&mut self, session: SessionId, mutation: Mutation) -> Result<NamespaceReply, ErrorKind> {
        let request = self.requests.entry(session).or_insert(0);
        *request += 1;
        let number = RequestNumber(*request);
        self.mutate_as(session, number, number, mutation)
    }

    pub fn mutate_as(
        &mut self,
        session: SessionId,
        request: RequestNumber,
        low_water: RequestNumber,
        mutation: Mutation,
    ) -> Result<NamespaceReply, ErrorKind> {
        let volume = VolumeId(1);
        match self.run(Command::Mutate { session, request, low_water, volume, mutation }) {
            CommandReply::Namespace(reply) => reply,
            other => panic!("not a namespace reply: {other:?}"),
        }
    }

    pub fn query(&self, query: Query) -> Result<NamespaceReply, ErrorKind> {
        crate::namespace::query(&self.view, VolumeId(1), &query).expect("readable state")
    }

    /// Makes something in a directory.
    pub fn make(
        &mut self,
        session: SessionId,
        parent: InodeNumber,
        name: &str,
        new: NewInode,
    ) -> Result<InodeNumber, ErrorKind> {
        let reply = self.mutate(session, create(parent, name, new, 0o644))?;
        match reply {
            NamespaceReply::Record(record) => Ok(record.attributes.inode),
            other => panic!("not a record: {other:?}"),
        }
    }

    pub fn open(&mut self, session: SessionId, inode: InodeNumber, write: bool) -> Result<bool, ErrorKind> {
        match self.mutate(session, Mutation::Open { inode, write, truncate: false })? {
            NamespaceReply::Opened { size_cap, .. } => Ok(size_cap),
            other => panic!("not opened: {other:?}"),
        }
    }

    /// Asks for the size cap; whether the session holds it.
    pub fn acquire(&mut self, session: SessionId, inode: InodeNumber, end_bytes: u64) -> Result<bool, ErrorKind> {
        match self.mutate(session, Mutation::AcquireSizeCap { inode, end_bytes })? {
            NamespaceReply::Opened { size_cap, .. } => Ok(size_cap),
            other => panic!("not opened: {other:?}"),
        }
    }

    /// Gives the size cap back with a size.
    pub fn give_up(&mut self, session: SessionId, inode: InodeNumber, size_bytes: u64) -> Result<(), ErrorKind> {
        let generation = self.record(inode).generation;
        let mutation = Mutation::ReleaseSizeCap { inode, generation, size_bytes, modified: None };
        self.mutate(session, mutation).map(drop)
    }

    pub fn notices(&self, session: SessionId) -> Vec<Notice> {
        read::notices(&self.view, session, 0).expect("readable state").1
    }

    pub fn record(&self, inode: InodeNumber) -> FileRecord {
        match self.query(Query::Attributes { inode }) {
            Ok(NamespaceReply::Record(record)) => record,
            other => panic!("no attributes: {other:?}"),
        }
    }

    pub fn size(&self, inode: InodeNumber) -> u64 {
        match self.query(Query::Attributes { inode }) {
            Ok(NamespaceReply::Record(record)) => record.attributes.size_bytes,
            other => panic!("no attributes: {other:?}"),
        }
    }
}

fn changes(old: &PgRecord, new: &PgRecord, may_lose_level: bool) -> Vec<&'static str> {
    let mut wrong = Vec::new();
    if new.epoch < old.epoch || new.set_version < old.set_version || new.loss_generation < old.loss_generation {
        wrong.push("a counter of a group fell");
    }
    if new.primary != old.primary && new.epoch == old.epoch {
        wrong.push("the primary changed within an epoch");
    }
    if new.members != old.members && new.set_version == old.set_version {
        wrong.push("the members changed under one set version");
    }
    let level = |pg: &PgRecord| pg.members.iter().any(Member::is_level);
    if level(old) && !level(new) && !may_lose_level {
        wrong.push("the last level member left the set");
    }
    let count = |pg: &PgRecord| crate::groups::level_count(pg);
    let left = |m: &Member| new.member(m.disk).is_none_or(|n| !n.is_in_sync());
    let level_left = old.members.iter().any(|m| m.is_level() && left(m));
    if level_left && count(new) < usize::from(new.min_in_sync) && !may_lose_level {
        wrong.push("a member was removed and the set is below its minimum");
    }
    wrong
}

pub(crate) fn create(parent: InodeNumber, name: &str, new: NewInode, mode: u16) -> Mutation {
    let credentials = Credentials { uid: 1000, gid: 100, umask: 0 };
    Mutation::Create { parent, name: name.as_bytes().to_vec(), new, mode, credentials, open: false }
}

pub(crate) const PG: PgId = PgId { volume: VolumeId(1), index: 0 };
