//! What the leader tells sessions without being asked, and questions for a size that only a holder knows.
//!
//! Modelled after `weft_node::control::watch`. Guarantees: what is volatile there is volatile here: it is lost with the
//! process or its lead. Must not know: what a session does about a notice.

use super::OnReply;
use crate::world::{MS, World};
use weft_meta::leader::LeaderEvent;
use weft_meta::{namespace, read};
use weft_proto::control::{ControlReply, ToldSize};
use weft_proto::namespace::Notice;
use weft_types::limits::ASK_SIZE_TIMEOUT;
use weft_types::{InodeNumber, NodeId, SessionId, VolumeId};

pub struct Watch {
    session: SessionId,
    seen: u64,
    number: u64,
    answer: OnReply,
}

pub struct Asker {
    file: (VolumeId, InodeNumber),
    holder: SessionId,
    number: u64,
    /// The holder has not been told.
    untold: bool,
    answer: OnReply,
}

/// A question of which an asker has heard nothing.
type Told = Option<ToldSize>;

impl World {
    pub(super) fn watch(&mut self, at: NodeId, session: SessionId, seen: u64, wait_ms: u32, answer: OnReply) {
        let Some(number) = self.next_number(at) else { return };
        let life = self.life_of(at);
        if let Some(process) = self.nodes.get_mut(&at).and_then(|n| n.process.as_mut()) {
            process.watches.push(Watch { session, seen, number, answer });
        }
        self.after(u64::from(wait_ms) * MS, "watch", move |world| {
            if world.life_of(at) != life {
                return;
            }
            let over = world.take_watch(at, number);
            if let Some(watch) = over {
                let nothing = ControlReply::Notices { upto: watch.seen, notices: Vec::new() };
                (watch.answer)(world, Some(nothing));
            }
        });
        self.look_at_watches(at);
    }

    fn next_number(&mut self, at: NodeId) -> Option<u64> {
        let process = self.nodes.get_mut(&at).and_then(|n| n.process.as_mut())?;
        process.last_ticket += 1;
        Some(process.last_ticket)
    }

    fn take_watch(&mut self, at: NodeId, number: u64) -> Option<Watch> {
        let process = self.nodes.get_mut(&at).and_then(|n| n.process.as_mut())?;
        let found = process.watches.iter().position(|watch| watch.number == number)?;
        Some(process.watches.remove(found))
    }

    /// Answers the watches for which there is something.
    fn look_at_watches(&mut self, at: NodeId) {
        let Some(process) = self.nodes.get_mut(&at).and_then(|n| n.process.as_mut()) else { return };
        let mut ready = Vec::new();
        for watch in std::mem::take(&mut process.watches) {
            let Ok((upto, mut notices)) = read::notices(&self.metadata.view, watch.session, watch.seen) else {
                continue;
            };
            let asked = process.askers.iter_mut().filter(|asker| asker.holder == watch.session && asker.untold);
            for asker in asked {
                asker.untold = false;
                notices.push(Notice::SizeWanted { inode: asker.file.1, question: asker.number });
            }
            if notices.is_empty() {
                process.watches.push(watch);
            } else {
                ready.push((watch.answer, ControlReply::Notices { upto, notices }));
            }
        }
        for (answer, reply) in ready {
            answer(self, Some(reply));
        }
    }

    pub(super) fn ask_size(&mut self, at: NodeId, file: (VolumeId, InodeNumber), holder: SessionId, answer: OnReply) {
        self.wanted.insert(holder);
        self.step_leader(at, LeaderEvent::SessionWanted { session: holder });
        let Some(number) = self.next_number(at) else { return };
        let life = self.life_of(at);
        if let Some(process) = self.nodes.get_mut(&at).and_then(|n| n.process.as_mut()) {
            process.askers.push(Asker { file, holder, number, untold: true, answer });
        }
        let longest = u64::try_from(ASK_SIZE_TIMEOUT.as_nanos()).unwrap_or(u64::MAX);
        self.after(longest, "nobody told", move |world| {
            if world.life_of(at) == life {
                world.answer_askers(at, |asker| (asker.number == number).then_some(None));
            }
        });
        self.metadata_moved(at);
    }

    fn answer_askers(&mut self, at: NodeId, told: impl Fn(&Asker) -> Option<Told>) {
        let Some(process) = self.nodes.get_mut(&at).and_then(|n| n.process.as_mut()) else { return };
        let mut ready = Vec::new();
        for asker in std::mem::take(&mut process.askers) {
            match told(&asker) {
                Some(told) => ready.push((asker.answer, told)),
                None => process.askers.push(asker),
            }
        }
        for (answer, told) in ready {
            answer(self, Some(told.map_or(ControlReply::Done, ControlReply::SizeTold)));
        }
    }

    pub(super) fn tell_size(
        &mut self,
        at: NodeId,
        session: SessionId,
        file: (VolumeId, InodeNumber),
        question: u64,
        told: ToldSize,
    ) -> ControlReply {
        if self.holder_of(file) == Some(session) {
            self.answer_askers(at, |asker| (asker.file == file && asker.number <= question).then_some(Some(told)));
        }
        ControlReply::Done
    }

    fn holder_of(&self, (volume, inode): (VolumeId, InodeNumber)) -> Option<SessionId> {
        namespace::size_holder(&self.metadata.view, volume, inode).ok().flatten()
    }

    /// Something was committed: the node that leads looks whether it has something to say.
    pub fn metadata_moved(&mut self, at: NodeId) {
        let Some(process) = self.nodes.get(&at).and_then(|n| n.process.as_ref()) else { return };
        if process.watches.is_empty() && process.askers.is_empty() {
            return;
        }
        let files: Vec<_> = process.askers.iter().map(|asker| (asker.file, asker.holder)).collect();
        let given_up: Vec<_> =
            files.into_iter().filter(|(file, holder)| self.holder_of(*file) != Some(*holder)).collect();
        self.answer_askers(at, |asker| given_up.contains(&(asker.file, asker.holder)).then_some(None));
        self.look_at_watches(at);
    }

    /// This node leads no more.
    pub fn end_watches(&mut self, at: NodeId) {
        let Some(process) = self.nodes.get_mut(&at).and_then(|n| n.process.as_mut()) else { return };
        let watches = std::mem::take(&mut process.watches).into_iter().map(|watch| watch.answer);
        let answers: Vec<OnReply> =
            watches.chain(std::mem::take(&mut process.askers).into_iter().map(|asker| asker.answer)).collect();
        for answer in answers {
            answer(self, Some(ControlReply::NotLeader { leader: None }));
        }
    }
}
