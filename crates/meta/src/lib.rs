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

mod apply;
mod cluster;
mod codec;
pub mod command;
pub mod groups;
pub mod keys;
pub mod leader;
pub mod locks;
pub mod mutants;
pub mod namespace;
mod nodes;
pub mod placement;
pub mod read;
mod reclaim;
pub mod records;
mod sessions;
mod txn;
pub mod view;
mod volumes;
pub mod voters;

#[cfg(test)]
mod tests;

pub use apply::{Applied, apply};
pub use command::{Command, CommandReply, SetRefusal, Stamped};
pub use view::{Batch, Key, MemoryView, StateError, Value, View};
