//! Three data threads on this machine, joined by QUIC, under the real metadata machine (without Raft), with a client that
//! speaks the data wire. Files, sockets and threads are real; only the metadata group is played by the test.

mod client;
mod cluster;
mod copies;
mod failures;
mod queue;
mod service;

use crate::mutants::{Mutant, plant};
use client::Client;
use cluster::Cluster;
use std::future::Future;

/// Runs a scenario with a bug planted in its nodes.
fn scenario_with<F: Future<Output = ()>>(mutant: Mutant, body: impl FnOnce() -> F) {
    plant(Some(mutant));
    scenario(body);
    plant(None);
}

/// Runs a scenario on a single-thread runtime, as the processes do.
fn scenario<F: Future<Output = ()>>(body: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        // For hangs. Two checkpoints take 20 s alone, and a busy machine syncs slowly.
        let limit = std::time::Duration::from_secs(240);
        tokio::time::timeout(limit, body()).await.expect("the scenario takes too long");
    });
}
