//! When a snapshot is built: after enough log entries, and the more the larger the state is.
//!
//! Guarantees: what snapshots write is proportional to what the log writes, whatever the size of the state.

use crate::types::TypeConfig;
use std::path::PathBuf;

/// Log entries per this many bytes of the last snapshot: a snapshot costs at most this much per entry.
const SNAPSHOT_BYTES_PER_ENTRY: u64 = 400;

pub(crate) async fn run(raft: openraft::Raft<TypeConfig>, snapshot_file: PathBuf, at_least: u64) {
    let mut metrics = raft.metrics();
    let mut asked_at = 0;
    while metrics.changed().await.is_ok() {
        let (applied, snapshot) = {
            let now = metrics.borrow_and_update();
            let next = |id: Option<openraft::LogId<u64>>| id.map_or(0, |id| id.index + 1);
            (next(now.last_applied), next(now.snapshot))
        };
        let since = applied.saturating_sub(snapshot.max(asked_at));
        if since < at_least {
            continue;
        }
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
