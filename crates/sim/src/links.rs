//! Connections between nodes: one per pair, dialed by the lower id, ordered, reliable while they last.
//!
//! Responsible for: dialing, breaking, what a partition does to a connection. A direction that is blocked holds its messages
//! back, as retransmission does; blocked for `CONNECTION_IDLE_TIMEOUT` the connection breaks. Guarantees: order within a
//! connection; what was on its way when it broke is lost, or comes later beside the messages of the next one.
//! Must not know: what the messages mean.

use crate::host::{SimHost, SimLink};
use crate::metadata::short;
use crate::world::{End, MS, World};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use weft_proto::replication::{Envelope, Message};
use weft_types::limits::{CONNECTION_IDLE_TIMEOUT, CONNECTION_KEEP_ALIVE};
use weft_types::{Entry, NodeId};

#[derive(Default)]
pub struct Links {
    /// One end each; the other end is `other`.
    ends: BTreeMap<u64, LinkEnd>,
    pairs: BTreeMap<(NodeId, NodeId), u64>,
    next: u64,
}

struct LinkEnd {
    other: u64,
    node: NodeId,
    life: u64,
    peer: NodeId,
    link: SimLink,
    /// When the last message sent from here arrives.
    busy_until: u64,
    /// Sent from here while the direction was blocked.
    held: VecDeque<Envelope>,
    blocked_since: Option<u64>,
}

impl World {
    /// Starts the upkeep of all links.
    pub fn keep_links(&mut self) {
        self.dial();
        self.watch_links();
    }

    fn dial(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for (at, low) in ids.iter().enumerate() {
            for high in &ids[at + 1..] {
                self.dial_pair(*low, *high);
            }
        }
        let pause = self.between(10 * MS, 60 * MS);
        self.after(pause, "dial", Self::dial);
    }

    fn dial_pair(&mut self, low: NodeId, high: NodeId) {
        let open = self.links.pairs.get(&(low, high)).and_then(|id| self.links.ends.get(id));
        if open.is_some_and(|end| end.link.open.get()) {
            return;
        }
        let (a, b) = (End::Node(low), End::Node(high));
        if self.is_blocked(a, b) || self.is_blocked(b, a) || !self.knows(low, high) {
            return;
        }
        let (Some(low_life), Some(high_life)) = (self.listening(low), self.listening(high)) else { return };
        if self.random.chance(30) {
            return;
        }
        let (one, two) = (self.links.next + 1, self.links.next + 2);
        self.links.next += 2;
        self.links.pairs.insert((low, high), one);
        self.stats.count("links made");
        self.say(|| format!("link {one}/{two} from node {low} to node {high}"));
        for (id, other, node, life, peer) in [(one, two, low, low_life, high), (two, one, high, high_life, low)] {
            let Some(host) = self.host_of(node) else { continue };
            let link = SimLink { id, host, open: Rc::new(Cell::new(true)), heard: Rc::new(Cell::new(1)) };
            let end = LinkEnd {
                other,
                node,
                life,
                peer,
                link: link.clone(),
                busy_until: 0,
                held: VecDeque::new(),
                blocked_since: None,
            };
            self.links.ends.insert(id, end);
            let delay = self.latency();
            self.after(delay, "link opens", move |world| {
                // It broke before this end was told of it: news of it now could come after those of its end.
                if !link.open.get() {
                    return;
                }
                world.turn_at(node, life, move |world, turn| {
                    world.say(|| format!("node {node} hears that link {id} to node {peer} is open"));
                    turn.link_opened(peer, link);
                });
            });
        }
    }

    /// Whether this node's map names the other one, so that it dials it.
    fn knows(&self, node: NodeId, other: NodeId) -> bool {
        let map = self.nodes.get(&node).and_then(|n| n.process.as_ref()).map(|p| &p.map);
        map.is_some_and(|map| map.nodes.iter().any(|n| n.id == other && n.incarnation.0 != 0))
    }

    fn listening(&self, node: NodeId) -> Option<u64> {
        self.nodes.get(&node).filter(|n| n.process.is_some()).map(|n| n.life)
    }

    fn host_of(&self, node: NodeId) -> Option<SimHost> {
        self.nodes.get(&node)?.process.as_ref().map(|p| p.host.clone())
    }

    /// Keep-alives, idle timeouts, what was held back.
    fn watch_links(&mut self) {
        let ids: Vec<u64> = self.links.ends.keys().copied().collect();
        for id in ids {
            self.watch_end(id);
        }
        let pause = u64::try_from(CONNECTION_KEEP_ALIVE.as_nanos()).unwrap_or(0) / 2;
        self.after(pause, "keep alive", Self::watch_links);
    }

    fn watch_end(&mut self, id: u64) {
        let now = self.now();
        let Some(end) = self.links.ends.get(&id).filter(|end| end.link.open.get()) else { return };
        let (node, peer, other) = (end.node, end.peer, end.other);
        let alive = self.listening(node) == Some(end.life);
        let blocked = self.is_blocked(End::Node(node), End::Node(peer)) || !alive;
        let Some(end) = self.links.ends.get_mut(&id) else { return };
        if blocked {
            let since = *end.blocked_since.get_or_insert(now);
            if now - since >= u64::try_from(CONNECTION_IDLE_TIMEOUT.as_nanos()).unwrap_or(u64::MAX) {
                self.stats.count("links timed out");
                self.break_link(id);
            }
            return;
        }
        end.blocked_since = None;
        let held: Vec<Envelope> = end.held.drain(..).collect();
        if let Some(end) = self.links.ends.get(&other) {
            end.link.heard.set(end.link.heard.get() + 1);
        }
        for envelope in held {
            self.transmit(id, envelope);
        }
    }

    /// A node sent this over its end of a link.
    pub fn transmit(&mut self, id: u64, mut envelope: Envelope) {
        if let Message::Append(append) = &envelope.message {
            self.look_at_entries(envelope.pg, &append.entries);
            self.look_at_refused(envelope.pg, &append.entries);
        }
        self.note_promise(&envelope);
        self.damage_bytes(id, &mut envelope);
        self.look_at_sent(&envelope);
        let Some(end) = self.links.ends.get(&id) else { return };
        let (from, to, other) = (end.node, end.peer, end.other);
        let held = !end.held.is_empty();
        if let Message::Append(append) = &envelope.message {
            self.look_at_copied(from, envelope.pg, append);
        }
        let blocked = self.is_blocked(End::Node(from), End::Node(to));
        let latency = if blocked { 0 } else { self.latency() };
        let now = self.now();
        let Some(end) = self.links.ends.get_mut(&id) else { return };
        if blocked || held {
            end.held.push_back(envelope);
            return;
        }
        let at = (now + latency).max(end.busy_until + 1);
        end.busy_until = at;
        self.stats.count("messages between nodes");
        self.at(at, "envelope", move |world| world.receive(other, from, envelope));
    }

    fn receive(&mut self, id: u64, from: NodeId, envelope: Envelope) {
        let Some(end) = self.links.ends.get(&id) else { return };
        let (node, life) = (end.node, end.life);
        if !end.link.open.get() {
            // The connection broke while this was on its way: mostly it is lost; what was read already comes late.
            if !self.random.chance(self.mix.late_percent) {
                self.stats.count("messages lost with their link");
                return;
            }
            self.stats.count("messages late, beside those of the next link");
        }
        if let Some(end) = self.links.ends.get(&id) {
            end.link.heard.set(end.link.heard.get() + 1);
        }
        self.turn_at(node, life, move |world, turn| {
            world.say(|| format!("node {node} hears from node {from}: {}", short(&envelope)));
            if matches!(envelope.message, Message::Promised(_)) {
                world.moment(crate::stories::Moment::Promising, Some(envelope.pg), Some(envelope.from));
            }
            world.look_at_given_promise(turn, envelope.pg, envelope.to);
            let promised = world.promised_past(turn, &envelope);
            let damaged = world.damaged_in(turn, &envelope);
            world.look_at_heard(&envelope);
            world.look_at_room_of(from, turn, &envelope);
            let (pg, disk) = (envelope.pg, envelope.to);
            turn.peer_message(from, envelope);
            if let Some(before) = promised {
                world.look_at_promise(turn, pg, disk, &before);
            }
            if let Some(damaged) = damaged {
                world.look_at_damage(turn, pg, disk, damaged);
            }
        });
    }

    /// What a broken network card or memory does to bytes before they are sealed for the way.
    fn damage_bytes(&mut self, id: u64, envelope: &mut Envelope) {
        let Some(node) = self.links.ends.get(&id).map(|end| end.node) else { return };
        let Message::Append(append) = &mut envelope.message else { return };
        let Some(left) = self.damaging.get_mut(&node).filter(|left| **left > 0) else { return };
        let Some(entry) = append.entries.iter_mut().find(|entry| !entry.data.is_empty()) else { return };
        *left -= 1;
        let mut bytes = entry.data.to_vec();
        let at = *left as usize * 977 % bytes.len();
        bytes[at] ^= 1 << (*left % 8);
        *entry = Arc::new(Entry { header: entry.header.clone(), data: bytes.into() });
        self.damaged += 1;
        self.stats.count("messages damaged on their way");
    }

    /// Breaks the connection of which this is an end. Each side learns of it in its own time.
    pub fn break_link(&mut self, id: u64) {
        let Some(end) = self.links.ends.get(&id) else { return };
        let other = end.other;
        for id in [id, other] {
            let Some(end) = self.links.ends.get_mut(&id) else { continue };
            if !end.link.open.replace(false) {
                continue;
            }
            end.held.clear();
            self.say(|| format!("link {id} breaks"));
            let Some(end) = self.links.ends.get(&id) else { continue };
            let (node, life, peer, link) = (end.node, end.life, end.peer, end.link.clone());
            self.links.pairs.retain(|_, open| *open != id);
            let delay = self.between(MS, 40 * MS);
            self.after(delay, "link closes", move |world| {
                world.turn_at(node, life, move |world, turn| {
                    world.say(|| format!("node {node} hears that link {id} to node {peer} is closed"));
                    turn.link_closed(peer, &link);
                });
            });
            // Late messages still find it for a while.
            self.after(10_000 * MS, "link forgotten", move |world| drop(world.links.ends.remove(&id)));
        }
    }

    /// Breaks every connection of a node, or those to one other.
    pub fn break_links(&mut self, node: NodeId, other: Option<NodeId>) {
        let ends = self.links.ends.iter();
        let of_node = ends.filter(|(_, end)| end.node == node && end.link.open.get());
        let ids: Vec<u64> = of_node.filter(|(_, e)| other.is_none_or(|o| e.peer == o)).map(|(id, _)| *id).collect();
        for id in ids {
            self.break_link(id);
        }
    }

    /// The other end of a link, if both processes are still those that made it.
    pub fn other_end(&self, id: u64) -> Option<(NodeId, u64)> {
        let end = self.links.ends.get(&id).filter(|end| end.link.open.get())?;
        let other = self.links.ends.get(&end.other)?;
        Some((other.node, other.life))
    }
}
