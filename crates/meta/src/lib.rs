//! The metadata group's brain, as two pure state machines.
//!
//! 1. **Replicated state** ([`apply`]): a deterministic function of an ordered key-value view and a stamped command to a
//!    write batch and a reply. The Raft state machine calls it for every committed entry, in order, and writes the batch
//!    (with its own last-applied mark) in one atomic step. The simulator does the same over a [`MemoryView`].
//! 2. **Leader** ([`leader::Leader`]): what only the Raft leader knows and forgets when it steps down: who answered when,
//!    who acknowledged which map version, what is to be proposed next.
//!
//! Questions about the state: [`read`] (map, volumes, sessions, tokens, events, authority) and
//! [`namespace::query`] (proto `Query`). They read the same view and change nothing.
//!
//! Guarantees: same view and same command give the same bytes; no clock, randomness or I/O; whatever differs between
//! machines (wall time, random ids, certificates) is an input in the command, put there by the proposer.
//! Must not know: Raft, sled, sockets, files, or how a placement group replicates.
//!
//! ```text
//! let applied = weft_meta::apply(&view, &Stamped { at, command })?;   // Err: the state cannot be read; stop the node
//! view.write(applied.batch);                                         // atomically, with last-applied
//! answer(applied.reply);
//! if applied.map_changed || applied.work_changed { leader.step(Applied { facts: read::facts(&view)? }, now) }
//! ```
//!
//! Being filled in; signatures to code against:
//!
//! ```text
//! pub fn apply<V: View>(view: &V, stamped: &Stamped) -> Result<Applied, StateError>;
//! pub struct Applied { batch: Batch, reply: CommandReply, map_changed: bool, work_changed: bool,
//!                      wanted_sessions: Vec<SessionId> }
//! pub mod read {
//!     pub fn cluster_map(view, Option<VolumeId>) -> Result<ClusterMap, StateError>;
//!     pub fn map_version(view) -> Result<MapVersion, StateError>;
//!     pub fn cluster(view) -> Result<Option<ClusterRecord>, StateError>;   // id, CA certificate and key
//!     pub fn volumes(view) -> Result<Vec<VolumeSummary>, StateError>;
//!     pub fn sessions(view) -> Result<Vec<SessionSummary>, StateError>;
//!     pub fn session(view, SessionId) -> Result<Option<SessionRecord>, StateError>;
//!     pub fn tokens(view) -> Result<Vec<TokenSummary>, StateError>;
//!     pub fn events(view, after: u64, max: u32) -> Result<Vec<Event>, StateError>;
//!     pub fn facts(view) -> Result<leader::Facts, StateError>;
//! }
//! pub mod namespace { pub fn query(view, VolumeId, &Query) -> Result<Result<NamespaceReply, ErrorKind>, StateError>; }
//! pub mod voters { pub fn wanted(nodes: &[NodeRecord]) -> BTreeSet<NodeId>; }
//! impl leader::Leader { pub fn new() -> Self; pub fn step(&mut self, LeaderEvent, now: BootTime) -> Vec<LeaderAction>;
//!                       pub fn status(&self, now) -> LeaderStatus /* last heartbeat ms, free bytes */ }
//! ```

pub mod command;
pub mod leader;
pub mod records;
pub mod view;

pub use command::{Command, CommandReply, SetRefusal, Stamped};
pub use view::{Batch, Key, MemoryView, StateError, Value, View};
