//! The data thread: disks, placement groups, client I/O.
//!
//! Responsible for: driving one replica machine per placement group and disk (`weft-replication`), the stores under them
//! (`weft-store`) and the data port (`weft-transport`). Guarantees: a machine's actions are carried out in order, and
//! nothing that depends on an append leaves before it; nothing here blocks but a journal that is full; every queue is
//! bounded. Must not know: Raft, who leads the metadata group, how leases are granted: all of that comes over the bridge.
//!
//! # One turn
//! Everything that has arrived (frames, finished syncs and reads, messages of the control thread, the tick) is fed to
//! the machines it concerns; their actions are carried out at once. Then each machine that was touched ends its batch,
//! which appends and sends what gathered, and one sync per disk is begun where somebody waits for it. A write passes no
//! channel and starts no task.
//!
//! | file | subject |
//! |---|---|
//! | `disks`, `proof` | opening disks, what can be proven of their last run |
//! | `turn`, `host` | the node as its shell drives it, and what it stands on; shells are the thread and the simulator |
//! | `thread`, `port` | the thread, its loop, its clean stop; the data port |
//! | `node` | the state of the thread and the turn |
//! | `groups` | machines: stepping them, carrying out their actions |
//! | `map` | what a newer map changes here |
//! | `server` | requests: admission, answers |
//! | `waiting`, `lease` | requests that wait for a map; the right to serve |
//! | `flush` | one flush of many groups |
//! | `copying` | copies that are read from another group's primary |
//! | `syncing`, `checkpoint`, `reading`, `workers` | what blocks, on other threads |
//! | `peers` | connections between nodes |
//! | `reclaim`, `scrub`, `repair` | background work |
//! | `report`, `digest`, `counters` | what people see |

mod checkpoint;
mod copying;
mod counters;
mod digest;
mod disks;
mod flush;
mod groups;
pub mod host;
mod lease;
mod map;
mod node;
mod peers;
mod port;
mod proof;
mod reading;
mod reclaim;
mod repair;
mod report;
mod room;
mod scrub;
mod server;
mod syncing;
mod thread;
pub mod turn;
mod view;
mod waiting;
mod workers;

#[cfg(test)]
mod tests;

pub use disks::{NodeDisk, OpenDiskError, OpenedDisk, OpenedDisks, check_disk, format_disk, open_disks, open_on};
pub use lease::boot_time;
pub use node::{Completion, NodeSettings};
pub use proof::{CacheLife, MARK_FILE};
pub use thread::{DataConfig, DataThread, SpawnError, spawn};
