//! What a node's control side does with the metadata group: it registers, keeps its lease, answers, leads.
//!
//! Responsible for: carrying requests to whoever leads and what the production `Leader` decides to Raft, as the control
//! thread does. Guarantees: a request is answered at most once; nobody who does not lead answers as if it did.
//! Must not know: how the leader decides.

use super::{OnReply, Process, SIMULATED_OWNER, control_address, data_address, node_at};
use crate::failure::Oracle;
use crate::world::{End, MS, World};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;
use weft_meta::leader::{LeaderAction, LeaderEvent, Reclaimed, Ticket};
use weft_meta::records::{ReclaimItem, ReclaimWhat};
use weft_meta::{Command, CommandReply, namespace, read};
use weft_node::bridge::{ReclaimTo, ToControl, ToData};
use weft_proto::control::{ControlReply, ControlRequest, NodeHeartbeat, RegisterNode, SetChange};
use weft_types::limits::{HEARTBEAT_INTERVAL, NODE_LEASE};
use weft_types::map::ClusterMap;
use weft_types::map::{MemberState, PgRecord};
use weft_types::{ErrorKind, Incarnation, MapVersion, NodeId, StartId};

/// The number of a start of a process.
pub fn start_of(id: NodeId, life: u64) -> StartId {
    StartId(u128::from(life) << 64 | u128::from(id.0))
}

impl World {
    pub(super) fn register(&mut self, id: NodeId, life: u64) {
        let Some(node) = self.nodes.get(&id).filter(|n| n.life == life) else { return };
        let Some(process) = &node.process else { return };
        let request = ControlRequest::RegisterNode(RegisterNode {
            node: id,
            start: start_of(id, life),
            previous: node.incarnation,
            control_address: control_address(id),
            data_address: data_address(id),
            disks: process.disks.clone(),
        });
        self.keep_registration(id, &request);
        let deadline = self.now() + 10_000 * MS;
        self.node_asks(
            id,
            life,
            request,
            deadline,
            Box::new(move |world, reply| {
                if world.life_of(id) != Some(life) {
                    return;
                }
                match reply {
                    Some(ControlReply::Registered { incarnation, map_version }) => {
                        world.registered(id, life, incarnation, map_version);
                    }
                    other => {
                        world.say(|| format!("node {id} is not registered: {other:?}"));
                        // The others are asked again; this one is told to ask a person.
                        let refused = matches!(other, Some(ControlReply::Refused(ErrorKind::Refused(_))));
                        if refused && world.operators.removed.contains(&id) {
                            world.stats.count("removed nodes that gave up");
                            return world.crash(id, false);
                        }
                        world.after(100 * MS, "register", move |world| world.register(id, life));
                    }
                }
            }),
        );
    }

    fn registered(&mut self, id: NodeId, life: u64, incarnation: Incarnation, map_version: MapVersion) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.incarnation = incarnation;
        node.ran = Some(incarnation);
        let Some(process) = node.process.as_mut() else { return };
        process.incarnation = Some(incarnation);
        let map = Arc::clone(&process.map);
        self.say(|| format!("node {id} is registered as {incarnation}"));
        self.turn_at(id, life, move |_, turn| {
            turn.control(ToData::Registered { incarnation, map_version });
            turn.control(ToData::Map(map));
        });
        self.heartbeats(id, life, incarnation);
    }

    fn heartbeats(&mut self, id: NodeId, life: u64, incarnation: Incarnation) {
        if self.life_of(id) != Some(life) {
            return;
        }
        let interval = u64::try_from(HEARTBEAT_INTERVAL.as_nanos()).unwrap_or(0);
        self.after(interval, "heartbeat", move |world| world.heartbeats(id, life, incarnation));
        if !self.is_awake(id) {
            return;
        }
        let Some(process) = self.nodes.get(&id).and_then(|n| n.process.as_ref()) else { return };
        let applied = MapVersion(process.status.applied.load(Ordering::Acquire));
        let (reachable, free_bytes) = {
            let facts = process.status.facts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            (facts.reachable.clone(), facts.free_bytes.clone())
        };
        let sent = process.host.0.clock.read();
        let heartbeat = NodeHeartbeat { node: id, incarnation, applied, reachable, free_bytes };
        let deadline = self.now() + 1500 * MS;
        let done = move |world: &mut Self, reply: Option<ControlReply>| match reply {
            Some(ControlReply::HeartbeatAnswer { map_version }) => {
                world.turn_at(id, life, move |world, turn| {
                    let until = sent + NODE_LEASE;
                    if let Some(process) = world.nodes.get_mut(&id).and_then(|n| n.process.as_mut()) {
                        process.leases.push((until, map_version));
                    }
                    turn.control(ToData::Lease { until, map_version });
                });
            }
            Some(ControlReply::Refused(ErrorKind::Refused(why))) if world.life_of(id) == Some(life) => {
                world.say(|| format!("node {id}: this incarnation is over: {why}"));
                world.stats.count("incarnations called over");
                world.crash(id, true);
                let delay = world.between(10 * MS, 300 * MS);
                world.after(delay, "restart", move |world| {
                    world.start_node(id);
                });
            }
            _ => {}
        };
        self.node_asks(id, life, ControlRequest::Heartbeat(heartbeat), deadline, Box::new(done));
    }

    /// Asks whoever leads, until the time is over. `done` is called at the node, if its process still lives.
    fn node_asks(&mut self, id: NodeId, life: u64, request: ControlRequest, until: u64, done: OnReply) {
        if self.life_of(id) != Some(life) {
            return;
        }
        let Some(process) = self.nodes.get(&id).and_then(|n| n.process.as_ref()) else { return };
        let Some(address) = process.finder.current() else { return };
        let again = request.clone();
        let deadline = (until - self.now()).min(1500 * MS);
        self.call_control(
            End::Node(id),
            node_at(address),
            request,
            deadline,
            Box::new(move |world, reply| {
                if world.life_of(id) != Some(life) {
                    return;
                }
                if let Some(node) = world.nodes.get(&id).filter(|n| n.paused_until > world.now()) {
                    let at = node.paused_until;
                    return world
                        .at(at, "woken", move |world| world.node_heard(id, life, address, again, until, reply, done));
                }
                world.node_heard(id, life, address, again, until, reply, done);
            }),
        );
    }

    #[allow(clippy::too_many_arguments)]
    fn node_heard(
        &mut self,
        id: NodeId,
        life: u64,
        address: std::net::SocketAddr,
        request: ControlRequest,
        until: u64,
        reply: Option<ControlReply>,
        done: OnReply,
    ) {
        let Some(process) = self.nodes.get_mut(&id).filter(|n| n.life == life).and_then(|n| n.process.as_mut()) else {
            return;
        };
        match reply {
            Some(ControlReply::NotLeader { leader }) => process.finder.redirected(address, leader.map(|(_, at)| at)),
            Some(ControlReply::Refused(ErrorKind::Unavailable(_))) | None => process.finder.unreachable(address),
            Some(reply) => {
                process.finder.answered(address);
                return done(self, Some(reply));
            }
        }
        if self.now() + 30 * MS >= until {
            return done(self, None);
        }
        self.after(30 * MS, "ask again", move |world| world.node_asks(id, life, request, until, done));
    }

    /// One request to the control port of a node, by a deadline.
    pub fn call_control(&mut self, from: End, to: NodeId, request: ControlRequest, deadline_ns: u64, done: OnReply) {
        let slot = std::rc::Rc::new(std::cell::RefCell::new(Some(done)));
        let late = std::rc::Rc::clone(&slot);
        self.after(deadline_ns, "control deadline", move |world| {
            let done = late.borrow_mut().take();
            if let Some(done) = done {
                done(world, None);
            }
        });
        self.send(from, End::Node(to), "control", move |world| {
            world.control_arrives(from, to, request, slot);
        });
    }

    fn control_arrives(
        &mut self,
        from: End,
        to: NodeId,
        request: ControlRequest,
        slot: std::rc::Rc<std::cell::RefCell<Option<OnReply>>>,
    ) {
        if let Some(node) = self.nodes.get(&to).filter(|n| n.paused_until > self.now()) {
            let at = node.paused_until;
            return self.at(at, "woken", move |world| world.control_arrives(from, to, request, slot));
        }
        let back: OnReply = Box::new(move |world, reply| {
            let Some(reply) = reply else { return };
            world.send(End::Node(to), from, "control answer", move |world| {
                let done = slot.borrow_mut().take();
                if let Some(done) = done {
                    done(world, Some(reply));
                }
            });
        });
        self.control_request(to, request, back);
    }

    fn not_leader(&self) -> ControlReply {
        ControlReply::NotLeader { leader: self.metadata.leader.map(|id| (id, control_address(id))) }
    }

    /// What the control thread does with a request.
    pub fn control_request(&mut self, at: NodeId, request: ControlRequest, answer: OnReply) {
        let not_leader = self.not_leader();
        let Some(process) = self.nodes.get_mut(&at).and_then(|n| n.process.as_mut()) else { return };
        if let ControlRequest::GetMap { have, wait_ms, .. } = request {
            if process.map.version > have {
                let map = Box::new((*process.map).clone());
                return answer(self, Some(ControlReply::Map(map)));
            }
            if wait_ms == 0 {
                return answer(self, Some(ControlReply::MapUnchanged));
            }
            return process.polls.push((have, answer));
        }
        let Some(term) = process.term else { return answer(self, Some(not_leader)) };
        let ask = |process: &mut Process, answer: OnReply| {
            process.last_ticket += 1;
            let ticket = Ticket(process.last_ticket);
            process.tickets.insert(ticket, answer);
            ticket
        };
        let command = match request {
            ControlRequest::Heartbeat(heartbeat) => {
                let ticket = ask(process, answer);
                self.hear_who_is_reached(at, term, &heartbeat);
                return self.step_leader(at, LeaderEvent::HeartbeatReceived { ticket, heartbeat });
            }
            ControlRequest::SessionHeartbeat { session, .. } => {
                let ticket = ask(process, answer);
                return self.step_leader(at, LeaderEvent::SessionHeartbeat { ticket, session });
            }
            ControlRequest::ChangeSet(request) => {
                let ticket = ask(process, answer);
                self.hear_accusation(at, term, &request);
                return self.step_leader(at, LeaderEvent::SetChangeRequested { ticket, request });
            }
            ControlRequest::Query { volume, query } => return self.query(at, term, volume, query, answer),
            ControlRequest::SurrenderLease { node, incarnation } => Command::SurrenderLease { node, incarnation },
            ControlRequest::RegisterNode(register) => Command::RegisterNode(register),
            ControlRequest::DiskFailed { disk, incarnation } => Command::DiskFailed { disk, incarnation },
            ControlRequest::Note { node, what } => Command::Note { node, what },
            ControlRequest::OpenSession { volume_name, host, mount_point } => {
                Command::OpenSession { owner: SIMULATED_OWNER, volume_name, host, mount_point }
            }
            ControlRequest::CloseSession { session } => Command::CloseSession { session },
            ControlRequest::Mutate { session, request, low_water, volume, mutation } => {
                Command::Mutate { session, request, low_water, volume, mutation }
            }
            ControlRequest::AwaitLock { session, inode, request, wait_ms } => {
                return self.await_lock(at, (session, inode, request), wait_ms, answer);
            }
            ControlRequest::Watch { session, seen, wait_ms } => return self.watch(at, session, seen, wait_ms, answer),
            ControlRequest::AskSize { volume, inode, holder, .. } => {
                return self.ask_size(at, (volume, inode), holder, answer);
            }
            ControlRequest::TellSize { session, volume, inode, question, told } => {
                let reply = self.tell_size(at, session, (volume, inode), question, told);
                return answer(self, Some(reply));
            }
            ControlRequest::GetMap { .. } | ControlRequest::Admin(_) | ControlRequest::Join(_) => return,
        };
        self.propose(
            at,
            term,
            command,
            Box::new(move |world, reply| {
                let reply = world.committed(reply);
                answer(world, Some(reply));
            }),
        );
    }

    fn committed(&self, reply: Result<CommandReply, crate::metadata::NoAnswer>) -> ControlReply {
        match reply {
            Ok(CommandReply::Registered { incarnation, map_version }) => {
                ControlReply::Registered { incarnation, map_version }
            }
            Ok(CommandReply::SetChanged { map_version }) => ControlReply::SetChanged { map_version },
            Ok(CommandReply::SetRefused(refusal)) => ControlReply::Refused(refusal.into()),
            Ok(CommandReply::Namespace(result)) => ControlReply::Namespace(Box::new(result)),
            Ok(CommandReply::Refused(why)) => ControlReply::Refused(why),
            Ok(CommandReply::SessionOpened { session, volume }) => {
                match read::cluster_map(&self.metadata.view, Some(volume)) {
                    Ok(map) => ControlReply::SessionOpened { session, volume, map },
                    Err(error) => ControlReply::Refused(ErrorKind::Io(error.to_string())),
                }
            }
            Ok(_) => ControlReply::Done,
            Err(_) => ControlReply::Refused(ErrorKind::Unavailable("the group did not answer".to_owned())),
        }
    }

    fn query(
        &mut self,
        at: NodeId,
        term: u64,
        volume: weft_types::VolumeId,
        query: weft_proto::namespace::Query,
        answer: OnReply,
    ) {
        let delay = 2 * self.latency();
        self.after(delay, "query", move |world| {
            let leads = world.metadata.leader == Some(at) && world.metadata.term == term;
            let reply = if leads {
                match namespace::query(&world.metadata.view, volume, &query) {
                    Ok(reply) => ControlReply::Namespace(Box::new(reply)),
                    Err(error) => ControlReply::Refused(ErrorKind::Io(error.to_string())),
                }
            } else {
                ControlReply::Refused(ErrorKind::Unavailable("no quorum".to_owned()))
            };
            answer(world, Some(reply));
        });
    }

    /// Feeds the leader machine of a node and carries out what it asks for.
    pub fn step_leader(&mut self, id: NodeId, event: LeaderEvent) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let life = node.life;
        let Some(process) = node.process.as_mut() else { return };
        let term = process.term.unwrap_or(0);
        let now = process.host.0.clock.read();
        for action in process.leader.step(event, now) {
            self.lead(id, life, term, action);
        }
    }

    fn lead(&mut self, id: NodeId, life: u64, term: u64, action: LeaderAction) {
        let take = |world: &mut Self, ticket: &Ticket| {
            world.nodes.get_mut(&id).and_then(|n| n.process.as_mut()).and_then(|p| p.tickets.remove(ticket))
        };
        let (ticket, reply) = match action {
            LeaderAction::StartQuorumRound { round } => return self.start_round(id, life, term, round),
            LeaderAction::AnswerHeartbeat { ticket, map_version, .. } => {
                (ticket, ControlReply::HeartbeatAnswer { map_version })
            }
            LeaderAction::AnswerSession { ticket, map_version, .. } => {
                (ticket, ControlReply::SessionAlive { map_version })
            }
            LeaderAction::Refuse { ticket, why } => (ticket, ControlReply::Refused(why)),
            LeaderAction::Drop { ticket } => return drop(take(self, &ticket)),
            LeaderAction::Propose(command) => return self.propose(id, term, command, Box::new(|_, _| {})),
            LeaderAction::ProposeFor { ticket, command } => {
                return self.propose(
                    id,
                    term,
                    command,
                    Box::new(move |world, reply| {
                        let reply = world.committed(reply);
                        let waiting = world
                            .nodes
                            .get_mut(&id)
                            .and_then(|n| n.process.as_mut())
                            .and_then(|p| p.tickets.remove(&ticket));
                        if let Some(answer) = waiting {
                            answer(world, Some(reply));
                        }
                    }),
                );
            }
            LeaderAction::StartReclaim(item) => return self.start_reclaim(id, life, item),
            LeaderAction::RecoverSize(recovery) => return self.recover_size(id, life, recovery),
        };
        if let Some(answer) = take(self, &ticket) {
            answer(self, Some(reply));
        }
    }

    fn start_reclaim(&mut self, id: NodeId, life: u64, item: ReclaimItem) {
        let keep = match item.what {
            ReclaimWhat::Object | ReclaimWhat::Replaced { .. } => ReclaimTo::Nothing,
            ReclaimWhat::Cut { size_bytes, generation, .. } => ReclaimTo::Size { size_bytes, generation },
        };
        let (done, finished) = oneshot::channel();
        self.stats.count("deletions begun");
        self.turn_at(id, life, move |_, turn| {
            turn.control(ToData::Reclaim { volume: item.volume, object: item.object, keep, done });
        });
        self.await_reclaim(id, life, item, finished);
    }

    fn await_reclaim(
        &mut self,
        id: NodeId,
        life: u64,
        item: ReclaimItem,
        mut finished: oneshot::Receiver<Result<(), String>>,
    ) {
        self.after(20 * MS, "reclaim", move |world| {
            if world.life_of(id) != Some(life) {
                return;
            }
            let outcome = match finished.try_recv() {
                Ok(Ok(())) => Reclaimed::Finished,
                Ok(Err(_)) | Err(oneshot::error::TryRecvError::Closed) => Reclaimed::Failed,
                Err(oneshot::error::TryRecvError::Empty) => return world.await_reclaim(id, life, item, finished),
            };
            let (volume, object, generation) = (item.volume, item.object, item.generation());
            world.step_leader(id, LeaderEvent::ReclaimFinished { volume, object, generation, outcome });
        });
    }

    /// Carries what the data side reports to the leader.
    pub(super) fn hear_turn(&mut self, id: NodeId, life: u64) {
        loop {
            let Some(process) = self.nodes.get_mut(&id).filter(|n| n.life == life).and_then(|n| n.process.as_mut())
            else {
                return;
            };
            let Ok(message) = process.from_turn.try_recv() else { return };
            let incarnation = process.incarnation;
            match message {
                ToControl::ChangeSet(request) => {
                    self.copy_comes_late(&request);
                    let until = self.now() + 5_000 * MS;
                    self.node_asks(id, life, ControlRequest::ChangeSet(request), until, Box::new(|_, _| {}));
                }
                ToControl::DiskFailed { disk, why } => {
                    self.say(|| format!("node {id}: disk {disk} failed: {why}"));
                    self.stats.count("disks given up");
                    let hurt = self.hurt.contains(&id);
                    if let Some(node) = self.nodes.get_mut(&id) {
                        node.disk_lost = true;
                        // No sync of it has failed, and it can be read.
                        if !hurt && !node.disk_doomed && !node.disk.is_off() {
                            let what = format!("node {id} gives up a disk that has nothing wrong: {why}");
                            self.fail(Oracle::Disks, what);
                        }
                    }
                    if let Some(incarnation) = incarnation {
                        let until = self.now() + 500_000 * MS;
                        let request = ControlRequest::DiskFailed { disk, incarnation };
                        self.node_asks(id, life, request, until, Box::new(|_, _| {}));
                    }
                }
                ToControl::Event(text) => self.heard_event(id, &text),
                ToControl::Ended { why } => {
                    self.fail(Oracle::Integrity, format!("the data side of node {id} ended: {why}"))
                }
            }
        }
    }

    /// A copy of a request that some queue held back, for long enough that all may have changed.
    fn copy_comes_late(&mut self, request: &weft_proto::control::ChangeSetRequest) {
        let percent = self.mix.late_change_percent;
        if percent == 0 || !self.random.chance(percent) {
            return;
        }
        self.stats.count("requests for a set that come late");
        self.held_changes.push(request.clone());
    }

    /// A set has changed: copies of requests for it arrive where they would do harm, or wait for another change.
    pub fn set_changed(&mut self, record: &PgRecord) {
        for request in std::mem::take(&mut self.held_changes) {
            let older = request.set_version < record.set_version || request.epoch < record.epoch;
            let member = |disk| record.member(disk).map(|member| member.state);
            let arrives = match &request.change {
                SetChange::Promote { disk } => member(*disk) == Some(MemberState::Syncing),
                SetChange::Levelled { .. } => record.levelled_epoch < record.epoch,
                SetChange::Caught { disk } => matches!(
                    member(*disk),
                    Some(MemberState::InSync { lossy, behind }) if lossy || behind
                ),
                _ => self.random.chance(40),
            };
            if request.pg != record.pg || !older || !arrives {
                self.held_changes.push(request);
                continue;
            }
            let delay = self.random.below(10 * MS);
            self.after(delay, "late copy", move |world| {
                if let Some(leader) = world.metadata.leader {
                    world.control_request(leader, ControlRequest::ChangeSet(request), Box::new(|_, _| {}));
                }
            });
        }
    }

    /// A primary begins to copy: `group P on disk D: resync of T began ...`.
    fn copying(&mut self, text: &str) {
        let map = Arc::clone(&self.metadata.map);
        let of = |record: &&weft_types::PgRecord| text.starts_with(&format!("group {} ", record.pg));
        let Some(record) = map.pgs.iter().find(of) else { return };
        let target = |member: &&weft_types::Member| text.contains(&format!("resync of {} ", member.disk));
        let target = record.members.iter().find(target).map(|member| member.disk);
        self.moment(crate::stories::Moment::Copying, Some(record.pg), target);
    }

    fn heard_event(&mut self, id: NodeId, text: &str) {
        self.say(|| format!("node {id} tells: {text}"));
        if text.contains("chunks to compare") {
            self.copying(text);
        }
        if text.contains("given up until the node restarts") {
            self.fail(Oracle::Disks, format!("node {id}: {text}"));
        }
        for (part, name) in [
            ("was repaired", "blocks repaired by the scrub"),
            ("was not repaired", "blocks that could not be repaired"),
            ("repaired", "blocks repaired"),
            ("chunks to compare", "resyncs that compare chunks"),
        ] {
            if text.contains(part) {
                return self.stats.count(name);
            }
        }
    }

    /// A newer map is applied at this node.
    pub fn publish_map(&mut self, id: NodeId, map: Arc<ClusterMap>) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let life = node.life;
        let Some(process) = node.process.as_mut() else { return };
        process.map = Arc::clone(&map);
        let known = map.nodes.iter().filter(|n| n.state != weft_types::map::NodeState::Removed);
        process.finder.learned(known.map(|n| n.control_address).collect());
        let ready: Vec<(MapVersion, OnReply)> = std::mem::take(&mut process.polls);
        if process.incarnation.is_some() {
            let map = Arc::clone(&map);
            self.turn_at(id, life, move |_, turn| turn.control(ToData::Map(map)));
        }
        for (_, answer) in ready {
            answer(self, Some(ControlReply::Map(Box::new((*map).clone()))));
        }
    }
}
