//! What only the Raft leader knows: who answered when, who acknowledged what, what is to be proposed next.
//!
//! Responsible for: design 4.1 to 4.4 as far as they are about time: leases of nodes, sessions that lapse, pending moves
//! and fences that complete, the wait for a lossless member, repair, background deletion. All of it is volatile; a new
//! leader begins anew and waits a whole TTL before it calls anybody dead.
//! Guarantees: pure. An answer to a heartbeat leaves only after a quorum round that began after the heartbeat came; nobody
//! is called dead before TTL + margin after the last heartbeat that was answered.
//! Must not know: Raft, sockets, wall clocks.

mod events;

pub use events::{Facts, LeaderAction, LeaderEvent, Reclaimed, RoundId, SessionFact, Ticket};
