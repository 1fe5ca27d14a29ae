//! The metadata group's consensus: openraft over a journal of our own and sled.
//!
//! Responsible for: durability and order of metadata commands. Log and vote lie in [`weft_store::RawLog`] (fsync before
//! openraft hears of it); the applied state lies in sled, which does not fsync and is therefore rebuilt from a durable
//! snapshot file and the log whenever it may not be believed (design 3).
//! Guarantees: an answered proposal survives the power loss of a minority; replicas apply the same commands in the same
//! order; a node without its store does not come back under its old id.
//! Must not know: what a command means (`weft-meta` does), connections ([`RaftPeers`] carries messages), leases.
//!
//! ```text
//! create_store(directory, cluster, node)                         once, when the node is made
//! MetaGroup::open(GroupConfig, Arc<dyn RaftPeers>).await          bootstrap(address) on the first node of a cluster
//! group.propose(Command) -> CommandReply                          group.current() then group.read(|view| ..)
//! group.linearizable()                                            proof of leadership by a round of its own
//! group.changes() / watch_status() / take_wanted_sessions()       group.handle_message(from, bytes) -> bytes
//! group.add_learner / set_voters / remove_learner / campaign / shutdown
//! ```
//!
//! A store's directory holds `log/`, `applied-N/` (sled), `snapshot.weft` and `lock`.

#![allow(clippy::result_large_err, reason = "openraft's errors are large; they are made when Raft ends")]

mod applied;
mod error;
mod files;
mod group;
mod lease;
mod log;
mod machine;
mod mutants;
mod network;
mod proposals;
mod rounds;
mod snapshot_file;
mod snapshots;
mod status;
mod types;

pub use error::{GroupError, OpenError};
pub use group::{GroupConfig, MetaGroup, Timing, check_store, create_store};
pub use machine::{Changes, SettledWait, StateView};
pub use network::{MAX_MESSAGE_BYTES, PeerCall, PeerError, RaftPeers};
pub use status::{GroupRole, GroupStatus};

#[cfg(test)]
mod tests;
