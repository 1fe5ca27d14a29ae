//! Copies from chunk to chunk, held against what nodes do for them (docs/decisions/0015).
//!
//! Responsible for: a node works on one attempt of an operation at a time, and what an attempt read is used only in the epoch of
//! the target's group in which it began. Both are told by the source that is read: threads copy from a block once. Guarantees:
//! the oracles only look. Must not know: how a node copies.

use crate::failure::Oracle;
use crate::world::World;
use std::collections::{BTreeMap, BTreeSet};
use weft_proto::data::{Contents, CopyRequest, DataRequest};
use weft_proto::replication::Append;
use weft_types::{ChunkId, Epoch, NodeId, OperationId, PgId, PgRecord, SessionId};

/// A place that is read for a copy, in the name of a session.
type Source = (SessionId, ChunkId, u32);
/// A node's process, and what it reads.
pub type Attempt = (NodeId, u64, Source);

#[derive(Default)]
pub struct Copies {
    /// What clients have sent: its source, and the source's group.
    operations: BTreeMap<(SessionId, OperationId), (Source, PgId)>,
    reading: BTreeSet<Attempt>,
    /// When a node last began to read.
    began: BTreeMap<(NodeId, Source), u64>,
    /// When each epoch began, and on which node groups were led from when on.
    epochs: BTreeMap<(PgId, Epoch), u64>,
    led: BTreeMap<PgId, Vec<(u64, NodeId)>>,
}

impl Copies {
    pub fn sent(&mut self, copy: &CopyRequest) {
        let source = (copy.origin.session, copy.source.chunk, copy.source.offset_bytes);
        self.operations.insert((copy.origin.session, copy.origin.operation), (source, copy.source.pg));
    }

    pub fn group_changed(&mut self, record: &PgRecord, now: u64) {
        self.epochs.entry((record.pg, record.epoch)).or_insert(now);
        if let Some(primary) = record.primary_member() {
            let led = self.led.entry(record.pg).or_default();
            if led.last().is_none_or(|(_, node)| *node != primary.node) {
                led.push((now, primary.node));
            }
        }
    }

    /// Whether a node led a group at some time since then: what it reads of itself is not seen.
    fn has_led(&self, pg: PgId, node: NodeId, since: u64) -> bool {
        let Some(led) = self.led.get(&pg) else { return true };
        let before = led.iter().rfind(|(at, _)| *at <= since);
        before.is_none_or(|(_, led)| *led == node) || led.iter().any(|(at, led)| *at >= since && *led == node)
    }
}

impl World {
    /// A node asks another one for what it is to copy.
    pub fn attempt_reads(&mut self, node: NodeId, life: u64, request: &DataRequest) -> Option<Attempt> {
        let DataRequest::Read(read) = request else { return None };
        let source = (read.session, read.chunk, read.offset_bytes);
        if !matches!(read.contents, Contents::OfAtLeast(_)) {
            return None;
        }
        let attempt = (node, life, source);
        self.stats.count("sources read for copies");
        let now = self.now();
        self.copies.began.insert((node, source), now);
        if !self.copies.reading.insert(attempt) {
            let what = format!("node {node} works on two attempts of a copy of {source:?} at a time");
            self.fail(Oracle::Rights, what);
        }
        Some(attempt)
    }

    pub fn attempt_has_read(&mut self, attempt: Option<Attempt>) {
        if let Some(attempt) = attempt {
            self.copies.reading.remove(&attempt);
        }
    }

    /// Entries on their way from who sequenced them: what is copied was read by an attempt that began in their epoch.
    pub fn look_at_copied(&mut self, from: NodeId, pg: PgId, append: &Append) {
        for entry in append.entries.iter().filter(|entry| entry.header.position.epoch == append.epoch) {
            let Some(origin) = entry.header.origin else { continue };
            let known = self.copies.operations.get(&(origin.session, origin.operation));
            let Some((source, source_pg)) = known.copied() else { continue };
            let Some(began) = self.copies.epochs.get(&(pg, append.epoch)).copied() else { continue };
            let read = self.copies.began.get(&(from, source)).copied();
            if read.is_none_or(|read| read < began) && !self.copies.has_led(source_pg, from, began) {
                let at = entry.header.position;
                let what =
                    format!("{at} is a copy whose source was read at {read:?}, before its epoch began at {began}");
                return self.fail(Oracle::Rights, format!("group {pg}: {what}"));
            }
        }
    }
}
