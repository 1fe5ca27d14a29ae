//! Bounds and intervals of the replication state machine, with the reason for each value.

use std::time::Duration;

/// A promise that was not answered is asked for again: a round trip on a busy network, several times within
/// `BACKUP_PROGRESS_TIMEOUT`.
pub const PREPARE_RETRY: Duration = Duration::from_millis(200);
/// A new primary goes on without the promise of a member that the metadata group calls live but that does not answer.
/// Safe: nothing is acknowledged without this primary, which has promised itself (design 5.5).
pub const PROMISE_PATIENCE: Duration = Duration::from_secs(3);
/// How long a new primary waits for live members to be levelled before it commits those that are.
pub const LEVEL_WAIT: Duration = Duration::from_millis(400);
/// A request for a set change is repeated while the map does not show a newer set.
pub const CHANGE_RETRY: Duration = Duration::from_millis(400);
/// The wait doubles this often: 6.4 s between requests that are refused again and again.
pub const MAX_BACKOFF_DOUBLINGS: u32 = 4;
/// A flush asks silent members again after this long.
pub const SYNC_RETRY: Duration = Duration::from_millis(500);
/// A flush that a member's disk does not finish is refused after this long; the client tries again, and what was synced
/// meanwhile stays synced.
pub const FLUSH_PATIENCE: Duration = Duration::from_secs(10);
/// A client's request that cannot be carried out is refused with the reason after this long; the client tries again.
pub const REQUEST_PATIENCE: Duration = Duration::from_secs(2);
/// Requests that wait in one group.
pub const MAX_WAITING_REQUESTS: usize = 1024;
/// Data of requests that wait in one group.
pub const MAX_WAITING_BYTES: usize = 16 << 20;
/// Sent to one member from the journal and not yet acknowledged: hides a round trip, bounds memory.
pub const MAX_STREAM_BYTES: usize = 2 << 20;
/// One append to the journal of a member. A longer message is taken in parts, each with what of it is committed: a journal that
/// is full then finds something to free between them, where it could not make room for the whole message at once.
pub const APPEND_PART_BYTES: usize = 256 << 10;

/// A member that has entries to store and says nothing for this long is asked where it stands: it may have declined them, or
/// its word is lost. Long against a round trip, and well within `BACKUP_PROGRESS_TIMEOUT`.
pub const SILENT_FOR: Duration = Duration::from_millis(250);
/// Of the room in the journal of a member that does not count, the part that one primary may have under way to it: other groups
/// of the same disk have their share.
pub const JOURNAL_ROOM_SHARE: u64 = 8;
/// An incomplete member frees entries that are not committed when its journal has less room than this: what a few primaries may
/// have under way to it.
pub const SETTLE_BELOW_BYTES: u64 = 4 * MAX_STREAM_BYTES as u64;

/// Chunks of one resync that are compared or copied at a time.
pub const RESYNC_PARALLEL_CHUNKS: usize = 4;
/// One resync copy: long enough for sequential disk speed, short enough not to hold block locks for long.
pub const RESYNC_COPY_BYTES: usize = 256 << 10;
/// Copies sequenced or being read and not yet on the target.
pub const RESYNC_WINDOW_BYTES: usize = 1 << 20;
/// Until the shell says otherwise.
pub const RESYNC_DEFAULT_BYTES_PER_SECOND: u64 = 64 << 20;
/// Chunks in one page of a listing: 12 bytes each, well within a frame's header.
pub const MAX_LISTED_CHUNKS: usize = 32_768;
/// A question of a resync that was not answered is asked again.
pub const RESYNC_RETRY: Duration = Duration::from_secs(1);
/// A resync without progress for this long is begun anew with a new handshake.
pub const RESYNC_STALL: Duration = Duration::from_secs(5);

/// A block that was asked of another member; then the next one is asked.
pub const REPAIR_TIMEOUT: Duration = Duration::from_secs(1);
/// Reads tried for one request before it is answered with `Corrupt`.
pub const MAX_READ_ATTEMPTS: u8 = 4;
