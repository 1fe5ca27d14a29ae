//! The machines: one per placement group and local disk.
//!
//! Responsible for: feeding events, carrying actions out, in order. Guarantees: when an action that touches the store
//! fails, the rest of its list is dropped and the disk is given up (so an acknowledgement never leaves without its
//! append). Must not know: why a machine does what it does.

use super::host::Host;
use super::node::{DataNode, Stage};
use super::view::{GroupView, dedupe_table, replica_state};
use crate::bridge::ToControl;
use crate::mutants::{Mutant, planted};
use std::sync::Arc;
use std::time::Instant;
use weft_proto::replication::{Envelope, Message as PeerMessage};
use weft_replication::{Action, Event, GroupMap, Replica, ReplicaConfig, Reply, Report, RequestToken};
use weft_store::{Repaired, Store, StoreError};
use weft_types::map::VolumeRecord;
use weft_types::{BLOCK_SIZE, ChunkSize, DataError, DiskId, Entry, NodeId, ObjectId, PgId};

/// A placement group on a disk of this node. Ordered by group, so that the members of one group on two disks of one
/// node are neighbours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct GroupKey {
    pub(super) pg: PgId,
    pub(super) disk: DiskId,
}

pub(super) struct Group {
    pub(super) replica: Replica,
    pub(super) chunk_size: ChunkSize,
    /// The other members and where they live, by the applied map.
    pub(super) others: Vec<(DiskId, NodeId)>,
}

/// Why a group cannot be had here.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenGroupError {
    #[error("its disk has failed")]
    DiskFailed,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<H: Host> DataNode<H> {
    /// Makes the machine of a group that the map places on a local disk. Its data, if there are any, are kept from
    /// before.
    pub(super) fn open_group(
        &mut self,
        key: GroupKey,
        volume: &VolumeRecord,
        map: &GroupMap,
    ) -> Result<(), OpenGroupError> {
        let disk = self.disks.get_mut(&key.disk).ok_or(OpenGroupError::DiskFailed)?;
        if disk.failure().is_some() {
            return Err(OpenGroupError::DiskFailed);
        }
        disk.store.register_volume(volume.id, volume.chunk_size)?;
        disk.store.create_pg(key.pg)?;
        let config =
            ReplicaConfig { pg: key.pg, disk: key.disk, node: self.settings.node, incarnation: self.incarnation };
        let view = GroupView { store: &disk.store, pg: key.pg };
        #[cfg_attr(not(feature = "mutants"), expect(unused_mut, reason = "only a planted bug changes it"))]
        let mut replica = Replica::new(config, view.saved_state(), &view);
        #[cfg(feature = "mutants")]
        if let Some(mutant) = self.settings.mutant {
            replica.plant(mutant);
        }
        let others = others(map, key.disk);
        self.groups.insert(key, Group { replica, chunk_size: volume.chunk_size, others });
        Ok(())
    }

    /// Feeds one event. The machine's batch is ended at the end of the turn.
    pub(super) fn step(&mut self, key: GroupKey, event: Event) {
        let clock = self.clock();
        let (Some(group), Some(disk)) = (self.groups.get_mut(&key), self.disks.get(&key.disk)) else { return };
        let mut actions = std::mem::take(&mut self.actions);
        group.replica.step(event, clock, &GroupView { store: &disk.store, pg: key.pg }, &mut actions);
        self.touched.insert(key);
        self.carry_out(key, &mut actions);
        self.actions = actions;
    }

    pub(super) fn end_batch(&mut self, key: GroupKey) {
        let clock = self.clock();
        let (Some(group), Some(disk)) = (self.groups.get_mut(&key), self.disks.get(&key.disk)) else { return };
        let mut actions = std::mem::take(&mut self.actions);
        group.replica.end_batch(clock, &GroupView { store: &disk.store, pg: key.pg }, &mut actions);
        self.carry_out(key, &mut actions);
        self.actions = actions;
    }

    fn carry_out(&mut self, key: GroupKey, actions: &mut Vec<Action>) {
        for action in actions.drain(..) {
            if let Err(error) = self.carry_out_one(key, action) {
                // The rest of the list is dropped with the drain.
                self.give_up(key, &error);
                break;
            }
        }
        actions.clear();
    }

    fn carry_out_one(&mut self, key: GroupKey, action: Action) -> Result<(), StoreError> {
        match action {
            Action::Append(entries) => self.append(key, &entries)?,
            Action::SetCommitted(position) => self.store(key)?.set_committed(key.pg, position)?,
            Action::CutTail { after } => {
                self.store(key)?.cut_tail(key.pg, after)?;
                self.dirty(key);
            }
            Action::ResetLog { at, history } => {
                self.store(key)?.reset_log(key.pg, at, history)?;
                self.dirty(key);
            }
            Action::ReplaceDedupe(records) => {
                self.store(key)?.replace_dedupe_table(key.pg, dedupe_table(records))?;
                self.dirty(key);
            }
            Action::SaveState { state, ticket } => {
                let mark = self.store(key)?.save_replica_state(key.pg, &replica_state(state))?;
                if let Some(disk) = self.disks.get_mut(&key.disk) {
                    disk.await_save(mark, key.pg, ticket);
                }
            }
            Action::RequestSync => {
                if let Some(disk) = self.disks.get_mut(&key.disk) {
                    disk.want_sync(key.pg);
                }
            }
            Action::ReadBlocks { ticket, chunk, range } => self.read_blocks(key, ticket, chunk, range),
            Action::ReadPresence { ticket, chunk } => {
                let runs = super::reading::presence(self.store(key)?, key.pg, chunk)?;
                self.ready.push_back((key, Event::PresenceRead { ticket, runs }));
            }
            Action::ReadObject { ticket, object } => {
                let (end_bytes, allocated_bytes) = self.object_extent(key, object)?;
                let generation = self.store(key)?.object_generation(key.pg, object);
                self.ready.push_back((key, Event::ObjectRead { ticket, generation, end_bytes, allocated_bytes }));
            }
            Action::RepairBlock { chunk, block, bytes, .. } => {
                // The store compares the bytes with the hash that it holds, and takes no others.
                if self.store(key)?.repair_block(key.pg, chunk, block, &bytes)? == Repaired::Done {
                    self.counters.blocks_repaired += 1;
                }
            }
            Action::Send(envelope) => self.send(envelope),
            Action::Reply { token, result } => self.reply(token, result),
            Action::RequestChange(request) => self.tell_control(ToControl::ChangeSet(request)),
            Action::Report(report) => self.note(key, &report),
        }
        Ok(())
    }

    /// The store of a group, unless its disk has failed.
    pub(super) fn store(&mut self, key: GroupKey) -> Result<&mut Store<H::Disk>, StoreError> {
        let disk = self.disks.get_mut(&key.disk).ok_or(StoreError::UnknownGroup { pg: key.pg })?;
        match disk.failure() {
            Some(reason) => Err(StoreError::Poisoned { reason: reason.to_owned() }),
            None => Ok(&mut disk.store),
        }
    }

    fn dirty(&mut self, key: GroupKey) {
        if let Some(disk) = self.disks.get_mut(&key.disk) {
            disk.note_dirty(key.pg);
        }
    }

    fn append(&mut self, key: GroupKey, entries: &[Arc<Entry>]) -> Result<(), StoreError> {
        if self.stage == Stage::Stopped {
            // The disks are marked as closed or are about to be: an append now would make the mark a lie.
            return Err(StoreError::Poisoned { reason: "the node has stopped".to_owned() });
        }
        let began = Instant::now();
        let mut result = self.store(key)?.append(key.pg, entries);
        if matches!(result, Err(StoreError::JournalFull { .. })) {
            // What is sequenced is never refused (design 5.10): wait for the checkpoint, here, with everything else.
            self.counters.checkpoint_waits += 1;
            self.checkpoint_now(key.disk)?;
            result = self.store(key)?.append(key.pg, entries);
        }
        result?;
        self.dirty(key);
        self.counters.appended_entries += entries.len() as u64;
        self.counters.appended_bytes += entries.iter().map(|entry| entry.data.len() as u64).sum::<u64>();
        self.counters.journal_append.took(began.elapsed());
        Ok(())
    }

    fn object_extent(&mut self, key: GroupKey, object: ObjectId) -> Result<(u64, u64), StoreError> {
        let chunk_bytes = self.groups.get(&key).map_or(0, |group| u64::from(group.chunk_size.bytes()));
        let store = self.store(key)?;
        let end = store.object_end(key.pg, object);
        let end_bytes = end.map_or(0, |end| u64::from(end.chunk.0) * chunk_bytes + u64::from(end.end_bytes));
        Ok((end_bytes, store.allocated_blocks(key.pg, object)? * BLOCK_SIZE as u64))
    }

    /// To another member: on this node, or over the connection to its own.
    pub(super) fn send(&mut self, envelope: Envelope) {
        let Some(node) = self.homes.get(&envelope.to).copied() else {
            self.counters.peer_messages_unsent += 1;
            return;
        };
        if node == self.settings.node {
            let key = GroupKey { pg: envelope.pg, disk: envelope.to };
            self.ready.push_back((key, Event::Peer(envelope)));
            return;
        }
        if !self.peers.send(node, &envelope) {
            self.counters.peer_messages_unsent += 1;
            if matches!(envelope.message, PeerMessage::Append(_)) && !planted(Mutant::SilentOverflow) {
                // The queue is full. The machine takes the stream for reliable while the connection holds: it has to
                // know that entries are missing, or it would wait for ever for what was never sent.
                let key = GroupKey { pg: envelope.pg, disk: envelope.from };
                self.ready.push_back((key, Event::PeerDown(envelope.to)));
            }
        }
    }

    fn note(&mut self, key: GroupKey, report: &Report) {
        match report {
            Report::Unrepairable { .. } => {
                self.counters.blocks_unrepairable += 1;
                tracing::error!(pg = %key.pg, disk = %key.disk, "{report}");
            }
            Report::Repaired { .. } | Report::DamagedOnTheWay { .. } | Report::LossAccepted { .. } => {
                tracing::warn!(pg = %key.pg, disk = %key.disk, "{report}");
            }
            Report::PeeringBegan { .. } | Report::Serving { .. } => {
                tracing::info!(pg = %key.pg, disk = %key.disk, "{report}");
                return;
            }
            _ => tracing::info!(pg = %key.pg, disk = %key.disk, "{report}"),
        }
        self.tell_control(ToControl::Event(format!("group {} on disk {}: {report}", key.pg, key.disk)));
    }

    /// An action could not be carried out. A failed disk is given up, and the cluster is told. A store that merely
    /// refused (a full journal, an entry out of order) costs this replica its place until the process starts anew: the
    /// disk is not called failed for it, because that is for ever (design 4.6).
    fn give_up(&mut self, key: GroupKey, error: &StoreError) {
        if self.stage == Stage::Stopped {
            return;
        }
        let disk = self.disks.get(&key.disk);
        let broken = disk.is_some_and(|disk| disk.store.failure().is_some())
            || matches!(error, StoreError::Io { .. } | StoreError::Corrupt { .. } | StoreError::JournalCorrupt { .. });
        if broken {
            return self.fail_disk(key.disk, &error.to_string());
        }
        tracing::error!(pg = %key.pg, disk = %key.disk, %error, "a replica is given up until the node restarts");
        let text = format!("group {} on disk {}: given up until the node restarts: {error}", key.pg, key.disk);
        self.tell_control(ToControl::Event(text));
        self.ready.push_back((key, Event::DiskFailed));
    }

    /// Gives a disk up for good: its machines learn it, the cluster is told (design 4.6).
    pub(super) fn fail_disk(&mut self, id: DiskId, why: &str) {
        let Some(disk) = self.disks.get_mut(&id) else { return };
        if !disk.fail(why) {
            return;
        }
        tracing::error!(disk = %id, why, "disk failed: nothing is served from it any more");
        self.tell_control(ToControl::DiskFailed { disk: id, why: why.to_owned() });
        let keys: Vec<GroupKey> = self.groups.keys().filter(|key| key.disk == id).copied().collect();
        self.ready.extend(keys.into_iter().map(|key| (key, Event::DiskFailed)));
    }

    /// Feeds an event to the local leader of a group; what is not led here is answered at once.
    pub(super) fn request_group(&mut self, pg: PgId, token: RequestToken, request: weft_replication::ClientRequest) {
        match self.leading.get(&pg) {
            Some(&disk) if self.groups.contains_key(&GroupKey { pg, disk }) => {
                self.step(GroupKey { pg, disk }, Event::Request { token, request });
            }
            _ => {
                let known = self.applied();
                self.reply(token, Err::<Reply, _>(DataError::NotPrimary { known }));
            }
        }
    }
}

pub(super) fn others(map: &GroupMap, own: DiskId) -> Vec<(DiskId, NodeId)> {
    map.record.members.iter().filter(|member| member.disk != own).map(|member| (member.disk, member.node)).collect()
}
