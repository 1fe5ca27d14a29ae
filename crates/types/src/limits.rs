//! Every bound of the system, with the reason for its value. A queue, frame, map or retry without a limit here is a bug.

use std::time::Duration;

/// Longest name of a directory entry, as on Linux file systems (NAME_MAX).
pub const MAX_NAME_BYTES: usize = 255;
/// Longest symlink target (PATH_MAX without its NUL).
pub const MAX_SYMLINK_BYTES: usize = 4095;
/// Longest extended attribute value and name, as the Linux VFS allows.
pub const MAX_XATTR_VALUE_BYTES: usize = 65_536;
pub const MAX_XATTR_NAME_BYTES: usize = 255;
/// Largest file: 2^31 chunks of 4 MiB leaves the sign bit of a chunk number free.
pub const MAX_FILE_BYTES: u64 = 1 << 53;
/// Longest volume or node name: it appears in tables, paths and certificates.
pub const MAX_LABEL_BYTES: usize = 63;

/// One read or write of the data wire: what FUSE sends at most.
pub const MAX_IO_BYTES: usize = 1 << 20;
/// One fill: a chunk of the usual size. What is sequenced draws on the reserve of a disk, so one request must not be of its
/// order of magnitude.
pub const MAX_FILL_BYTES: u32 = 4 << 20;
/// Fills that a client has under way at a time: enough to hide the way to the groups, and together far below the reserve of a
/// disk, which is what they draw on when several primaries admit them against the same room.
pub const FILLS_AT_A_TIME: usize = 16;
/// Header of a frame: room for a full page of directory entries or a large map.
pub const MAX_FRAME_HEADER_BYTES: usize = 4 << 20;
/// Payload of a frame: one batch of entries to a backup.
pub const MAX_FRAME_PAYLOAD_BYTES: usize = 8 << 20;
/// Entries of one append message, so that a batch cannot grow without bound under load.
pub const MAX_APPEND_ENTRIES: usize = 512;
/// Requests a node holds for one connection before it stops reading from it (back-pressure, not refusal).
pub const MAX_REQUESTS_PER_CONNECTION: usize = 1024;
/// Bytes of data that one placement group keeps in memory for entries not yet on every member.
pub const MAX_INFLIGHT_BYTES_PER_PG: usize = 16 << 20;
/// Entries sequenced and not yet acknowledged by every member, per placement group.
pub const MAX_INFLIGHT_ENTRIES_PER_PG: usize = 4096;
/// Answered operations that a placement group remembers per session beyond its low-water mark.
pub const MAX_DEDUPE_PER_SESSION: usize = 4096;
/// Epochs of history kept per replica (epoch and its last sequence number), oldest dropped first; a replica that has
/// been away for longer is copied whole.
pub const MAX_HISTORY_EPOCHS: usize = 1024;
/// Placement groups of one volume.
pub const MAX_PGS_PER_VOLUME: u16 = 4096;
pub const DEFAULT_PGS_PER_VOLUME: u16 = 32;
/// Copies of a chunk.
pub const MAX_REPLICAS: u8 = 5;

/// A node's lease (design 4.1).
pub const NODE_LEASE: Duration = Duration::from_millis(2000);
/// Added to a TTL before a leader calls anybody dead: covers clock rate differences.
pub const LEASE_MARGIN: Duration = Duration::from_millis(250);
/// Eight attempts fit into a lease.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(250);
/// A client session (design 4.4).
pub const SESSION_TTL: Duration = Duration::from_millis(10_000);
pub const SESSION_HEARTBEAT_INTERVAL: Duration = Duration::from_millis(1000);
/// A backup without progress for this long is removed from the set (design 5.3).
pub const BACKUP_PROGRESS_TIMEOUT: Duration = Duration::from_millis(1000);
/// Journals are synced at least this often (design 5, "Acknowledged").
pub const JOURNAL_SYNC_INTERVAL: Duration = Duration::from_millis(200);
/// No lossless member for this long: the longest lossy log wins (design 5.4).
pub const LOSSLESS_WAIT: Duration = Duration::from_secs(60);
/// Deadline of a call that does not state its own.
pub const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes that wait to be sent on one channel of a connection; beyond that calls wait and one-way messages are refused.
/// Room for the catch-up of sixteen placement groups at a time, what a node leads of a default volume when another died.
pub const MAX_QUEUED_BYTES_PER_CHANNEL: usize = 48 << 20;
/// Answers that wait to be sent on one connection before no further request is read from it.
pub const MAX_QUEUED_REPLY_BYTES: usize = 4 << 20;
/// From dialing to a usable connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(1000);
/// A connection on which nothing was heard for this long is dead; several keep-alives fit into it.
pub const CONNECTION_IDLE_TIMEOUT: Duration = Duration::from_millis(3000);
pub const CONNECTION_KEEP_ALIVE: Duration = Duration::from_millis(500);
/// Pause before dialing again: first and longest.
pub const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(20);
pub const RECONNECT_PAUSE_MAX: Duration = Duration::from_millis(500);
/// Peers of one endpoint that have not finished their handshake; more are turned away.
pub const MAX_HANDSHAKES_PER_ENDPOINT: usize = 128;
/// Authenticated connections of one endpoint: a hundred nodes and some hundred mounts.
pub const MAX_CONNECTIONS_PER_ENDPOINT: usize = 2048;
/// Join requests that one node works on at a time, and the largest one.
pub const MAX_JOINS_IN_FLIGHT: usize = 8;
pub const MAX_JOIN_MESSAGE_BYTES: usize = 64 << 10;
/// Longest wait for one exchange with a join endpoint.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Data operations a client has under way; more wait in the client. FUSE sends 512 in the background at most.
pub const MAX_CLIENT_OPERATIONS_IN_FLIGHT: usize = 1024;
/// Mutating metadata requests a client has under way.
pub const MAX_CLIENT_MUTATIONS_IN_FLIGHT: usize = 64;
/// Directory entries of one page: about 200 KiB.
pub const MAX_DIRECTORY_PAGE_ENTRIES: u32 = 1024;
/// Inodes whose allocated bytes a client remembers for stat.
pub const MAX_CLIENT_REMEMBERED_ALLOCATIONS: usize = 16_384;

/// Nodes of a cluster: every map lists them all.
pub const MAX_NODES: usize = 256;
/// Nodes that were removed. The map names them too, for their certificates do not expire and they must be refused.
pub const MAX_REMOVED_NODES: usize = 1024;
/// Disks of a cluster.
pub const MAX_DISKS: usize = 1024;
/// Volumes of a cluster: every node's map lists all their placement groups.
pub const MAX_VOLUMES: usize = 1024;
/// Sessions of a cluster: nodes look each one up when they sequence a write.
pub const MAX_SESSIONS: usize = 4096;
/// Inodes that one session may have open.
pub const MAX_OPENS_PER_SESSION: u64 = 65_536;
/// Sessions that stand in line for one file's size cap; more have to ask again.
pub const MAX_CAP_WAITERS: usize = 64;
/// Room that a new file or a first extension gets: small files need no second request.
pub const SIZE_CAP_ROOM_MIN: u64 = 16 << 20;
/// Most room beyond what was asked for: what a stat elsewhere has to ask the holder about.
pub const SIZE_CAP_ROOM_MAX: u64 = 1 << 30;
/// A holder keeps the cap at least so long, so that two appending hosts do more than pass it to and fro.
pub const SIZE_CAP_HOLD: Duration = Duration::from_millis(20);
/// A live holder that was asked for its cap, or to acknowledge a truncation, and did neither by then is struck.
pub const RECALL_DEADLINE: Duration = Duration::from_secs(30);
/// Longest wait for the holder's word on a size; then the record is looked at again.
pub const ASK_SIZE_TIMEOUT: Duration = Duration::from_millis(1000);
/// Notices of one answer to a watch.
pub const MAX_NOTICES_PER_ANSWER: usize = 256;
/// Notices for files that are not open (yet) that a client remembers.
pub const MAX_EARLY_NOTICES: usize = 4096;
/// Inodes of which the kernel is still to be told that they changed elsewhere.
pub const MAX_QUEUED_INVALIDATIONS: usize = 1024;
/// Copied by one copy_file_range: the kernel holds the inode meanwhile, and asks again for the rest.
pub const MAX_COPY_BYTES_PER_REQUEST: u64 = 16 << 20;
/// Pieces of one copy_file_range that are under way at a time: more would only stand in the queue of one node.
pub const COPIES_AT_A_TIME: usize = 8;
/// Debts (recalls, unacknowledged truncations) that the metadata leader watches at a time.
pub const MAX_DEBTS_LISTED: usize = 4096;
/// Questions for a size that wait at the metadata leader for one file.
pub const MAX_SIZE_ASKERS: usize = 256;

/// Replies to metadata requests remembered per session above its low-water mark; more wait (design 3).
pub const MAX_REMEMBERED_REPLIES: u32 = 4096;
/// Hard links of one inode (as ext4).
pub const MAX_LINKS: u32 = 65_000;
/// Names and values of one inode's extended attributes together.
pub const MAX_XATTR_BYTES_PER_INODE: u32 = 1 << 20;
/// Extended attributes of one inode: their names fit one `listxattr` buffer of 64 KiB.
pub const MAX_XATTRS_PER_INODE: u32 = 256;
/// Entries in one page of a directory: the page fits a frame header.
pub const MAX_DIRECTORY_PAGE: u32 = 2048;
/// Depth of a directory tree; bounds the walk that keeps rename from making a cycle.
pub const MAX_DIRECTORY_DEPTH: usize = 4096;
/// Notable facts kept for `weft events`; the oldest go first.
pub const MAX_EVENTS: u64 = 1024;
/// Join tokens kept, used and expired ones included.
pub const MAX_TOKENS: usize = 1024;
/// Deletions that the metadata leader has in hand at a time.
pub const MAX_RECLAIMS_RUNNING: usize = 16;
/// Deletions that the metadata leader reads ahead.
pub const MAX_RECLAIMS_LISTED: usize = 256;
/// Metadata records removed by one command while a volume is deleted: one Raft entry stays short.
pub const MAX_PURGE_RECORDS: u32 = 4096;
/// A metadata leader that did nothing for this long was starved of CPU or paused: heartbeats lie unread, so it hears
/// everybody for as long again before it calls anybody dead or lapsed.
pub const LEADER_STALL: Duration = Duration::from_millis(750);
/// Between two such commands, so that other commands are not held up.
pub const PURGE_PAUSE: Duration = Duration::from_millis(50);
/// Heartbeats and session heartbeats that wait for one quorum round.
pub const MAX_WAITING_HEARTBEATS: usize = 8192;
/// A member that is dead for this long is replaced by a spare disk (a reboot is cheaper than a copy).
pub const REPLACE_AFTER: Duration = Duration::from_secs(600);
/// A cut that its client has not finished by then is worked off by the metadata leader.
pub const CUT_GRACE: Duration = Duration::from_secs(10);
/// A session that lapsed this long ago is struck although nobody asked, so that what it holds does not stay for ever.
pub const SESSION_ABANDONED: Duration = Duration::from_secs(24 * 3600);
/// Wait before a failed piece of background work is tried again.
pub const WORK_RETRY: Duration = Duration::from_secs(2);
/// Wait before a leader proposes again what has had no effect (the proposal may have been refused).
pub const PROPOSE_RETRY: Duration = Duration::from_millis(1000);

/// Requests that a data thread holds back for a newer map or because a journal fills up.
pub const MAX_HELD_REQUESTS: usize = 4096;
/// A request that names a map version which has not arrived by then is sent back.
pub const MAP_WAIT_TIMEOUT: Duration = Duration::from_secs(2);
/// Cold reads that wait for a thread, per node; each holds a file handle and a buffer only once it runs.
pub const MAX_QUEUED_READS: usize = 1024;
/// Threads for cold reads: enough to keep a fast disk's queue busy.
pub const READ_THREADS: usize = 4;
/// Events and disk failures that wait for the control thread.
pub const MAX_UNSENT_TO_CONTROL: usize = 256;
/// Copies from chunk to chunk that a node works on at a time; each keeps up to `MAX_IO_BYTES` in memory.
pub const MAX_COPIES_RUNNING: usize = 8;
/// Copies that wait for their turn on a node, without data; more are sent back to their clients.
pub const MAX_QUEUED_COPIES: usize = 256;
/// Requests of one clean-up (reclaim) that are on their way at a time.
pub const MAX_RECLAIM_FAN_OUT: usize = 8;
/// A clean-up that has not reached every group by then is reported as failed; the metadata leader tries again.
pub const RECLAIM_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a clean stop waits for what is sequenced to be answered.
pub const STOP_DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// Byte ranges of one inode that are locked, or that are waited for twice over: they are one metadata record, rewritten
/// at each change (about 25 bytes each). ENOLCK beyond.
pub const MAX_LOCKS_PER_INODE: usize = 2048;
/// Byte ranges that one session has locked. ENOLCK beyond.
pub const MAX_LOCKS_PER_SESSION: u32 = 65_536;
/// Locks that one session waits for; each is a request that a node holds open. ENOLCK beyond.
pub const MAX_LOCK_WAITS_PER_SESSION: u32 = 256;
/// Owners that the search for a deadlock looks at; a lock whose wait cannot be judged within it is refused (ENOLCK).
pub const MAX_DEADLOCK_SEARCH_OWNERS: usize = 1024;
/// Locks and waits that one listing shows.
pub const MAX_LOCKS_LISTED: usize = 10_000;
/// How long the leader holds a request that waits for a lock before it is asked again.
pub const LOCK_POLL_WAIT: Duration = Duration::from_secs(10);
/// How often, meanwhile, it asks after the sessions that are in the way: a dead one is struck only when somebody asks.
pub const LOCK_BLOCKER_CHECK: Duration = Duration::from_secs(1);
/// How often a mount looks whether a process that waits for a lock was sent a signal.
pub const LOCK_SIGNAL_CHECK: Duration = Duration::from_millis(200);
