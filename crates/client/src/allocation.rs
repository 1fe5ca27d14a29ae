//! Allocated bytes of files, for `st_blocks`: asked of the placement groups, remembered while they cannot have changed
//! much.
//!
//! Guarantees: at most a second old while a file is being written, exact after a flush and when it is not written; bounded
//! memory.

use crate::client::Inner;
use crate::shell::boot_time;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use weft_proto::namespace::FileRecord;
use weft_types::limits::MAX_CLIENT_REMEMBERED_ALLOCATIONS;
use weft_types::{BLOCK_SIZE, BootTime, InodeNumber, ObjectId, Timestamp};

/// A remembered value serves this long whatever happened to the file.
const SERVES_FOR: Duration = Duration::from_secs(1);
/// stat must not hang on a placement group that is failing over: after this an old value or an estimate is shown.
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Default)]
pub struct Allocations {
    known: BTreeMap<InodeNumber, Known>,
    order: VecDeque<InodeNumber>,
}

#[derive(Clone, Copy)]
struct Known {
    object: ObjectId,
    modified: Timestamp,
    asked_at: BootTime,
    bytes: u64,
}

impl Allocations {
    fn fresh(&self, record: &FileRecord, now: BootTime) -> Option<u64> {
        let known = self.known.get(&record.attributes.inode).filter(|known| known.object == record.object)?;
        let age = now.since(known.asked_at);
        // Every change of the contents moves the modification time within a second (size and time are committed then).
        let unchanged = known.modified == record.attributes.modified && age < SERVES_FOR * 60;
        (age < SERVES_FOR || unchanged).then_some(known.bytes)
    }

    /// A flush or a discard of this client: what is remembered is not shown any more, except where nobody answers.
    pub(crate) fn changed(&mut self, inode: InodeNumber) {
        if let Some(known) = self.known.get_mut(&inode) {
            known.asked_at = BootTime::ZERO;
            known.modified = Timestamp { seconds: i64::MIN, nanoseconds: 0 };
        }
    }

    fn remember(&mut self, record: &FileRecord, now: BootTime, bytes: u64) {
        let inode = record.attributes.inode;
        let known = Known { object: record.object, modified: record.attributes.modified, asked_at: now, bytes };
        if self.known.insert(inode, known).is_none() {
            self.order.push_back(inode);
        }
        while self.known.len() > MAX_CLIENT_REMEMBERED_ALLOCATIONS {
            let Some(oldest) = self.order.pop_front() else { break };
            self.known.remove(&oldest);
        }
    }
}

impl Inner {
    /// Bytes of present blocks, over one replica.
    pub(crate) async fn allocated_bytes(&self, record: &FileRecord) -> u64 {
        let size = record.attributes.size_bytes;
        if size == 0 {
            return 0;
        }
        let now = boot_time();
        if let Some(bytes) = self.allocations.borrow().fresh(record, now) {
            return bytes;
        }
        let chunks = size.div_ceil(u64::from(self.record.chunk_size.bytes()));
        let pgs = self.engine.with_routes(|routes| routes.pgs_of_object(record.object, chunks));
        let asked = tokio::time::timeout(PATIENCE, self.group_extents(record.object, pgs)).await;
        if let Ok(Ok(extents)) = asked {
            let bytes = extents.values().map(|extent| extent.allocated_bytes).sum();
            self.allocations.borrow_mut().remember(record, now, bytes);
            return bytes;
        }
        let old = self.allocations.borrow().known.get(&record.attributes.inode).map(|known| known.bytes);
        old.unwrap_or_else(|| size.next_multiple_of(BLOCK_SIZE as u64))
    }
}
