//! What only tests use: stores in temporary directories, and a network in memory that can be cut.

mod crash;
mod decoders;
mod every_write;
mod group;
mod lease;
mod log;
mod suite;

use crate::group::{GroupConfig, OpenStore, Timing, create_store, open_store};
use crate::types::{Commands, Entry, LogId};
use openraft::{CommittedLeaderId, EntryPayload};
use std::path::Path;
use weft_meta::{Command, Stamped};
use weft_types::{ClusterId, NodeId, Timestamp};

const CLUSTER: ClusterId = ClusterId(7);
const NODE: NodeId = NodeId(1);

fn config(directory: &Path, node: NodeId) -> GroupConfig {
    GroupConfig {
        directory: directory.to_path_buf(),
        cluster: CLUSTER,
        node,
        timing: Timing { heartbeat_ms: 50, election_base_ms: 200, election_slot_ms: 40 },
        snapshot_every: 10_000,
        cache_bytes: GroupConfig::DEFAULT_CACHE_BYTES,
        boot_id: "this boot".to_owned(),
    }
}

fn new_store(directory: &Path) -> OpenStore {
    create_store(directory, CLUSTER, NODE).unwrap();
    open_store(&config(directory, NODE)).unwrap()
}

fn note(text: &str) -> Command {
    Command::Note { node: NODE, what: text.to_owned() }
}

fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1, NODE.0), index)
}

fn entry(index: u64, command: Command) -> Entry {
    let commands = vec![Stamped { at: Timestamp::default(), command }];
    Entry { log_id: log_id(index), payload: EntryPayload::Normal(Commands { commands }) }
}

/// What was noted, oldest first.
fn notes<V: weft_meta::View>(view: &V) -> Vec<String> {
    weft_meta::read::events(view, 0, 10_000).unwrap().into_iter().map(|event| event.what).collect()
}
