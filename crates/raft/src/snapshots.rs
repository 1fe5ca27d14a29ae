//! When a snapshot is built: after enough log entries, and the more the larger the state is.
//!
//! Guarantees: what snapshots write is proportional to what the log writes, whatever the size of the state.

use crate::types::TypeConfig;
use std::path::PathBuf;
use std::time::Duration;

/// Log entries per this many bytes of the last snapshot: a snapshot costs at most this much per entry.
const SNAPSHOT_BYTES_PER_ENTRY: u64 = 400;

/// So often is the file looked at between two snapshots of a small state.
const CHECKS_PER_SNAPSHOT: u64 = 10;
/// The metrics change with every message; this often they are looked at.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

pub(crate) async fn run(raft: openraft::Raft<TypeConfig>, snapshot_file: PathBuf, at_least: u64) {
    let mut metrics = raft.metrics();
    let mut asked_at = 0;
    let mut checked_at = 0;
    while metrics.changed().await.is_ok() {
        tokio::time::sleep(LOOK_PAUSE).await;
        let (applied, snapshot) = {
            let now = metrics.borrow_and_update();
            let next = |id: Option<openraft::LogId<u64>>| id.map_or(0, |id| id.index + 1);
            (next(now.last_applied), next(now.snapshot))
        };
        let since = applied.saturating_sub(snapshot.max(asked_at));
        // The size of the file matters only every so many entries.
        if since < at_least || applied < checked_at + at_least / CHECKS_PER_SNAPSHOT {
            continue;
        }
        checked_at = applied;
        let bytes = tokio::fs::metadata(&snapshot_file).await.map_or(0, |file| file.len());
        if since < bytes / SNAPSHOT_BYTES_PER_ENTRY {
            continue;
        }
        asked_at = applied;
        if raft.trigger().snapshot().await.is_err() {
            return;
        }
    }
}
