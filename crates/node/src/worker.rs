//! The process that does the work: opens everything, runs the data thread and the control thread, and ends.
//!
//! Guarantees: what a person must fix ends it with [`EXIT_NEEDS_A_PERSON`] before anything is served; any other end is
//! one that the parent answers with a new incarnation.

use crate::bridge::{BRIDGE_CAPACITY, DataStatus};
use crate::control::{self, ControlConfig, ControlError, DataSide, Exit};
use crate::data::{self, DataConfig, OpenDiskError, SpawnError};
use crate::identity::{IdentityError, NodeIdentity, load_credentials};
use crate::place::Place;
use crate::setup::store_config;
use crate::supervisor::{EXIT_NEEDS_A_PERSON, die_with_parent};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use weft_raft::{GroupConfig, OpenError};
use weft_transport::EndpointConfig;

/// Worth another try by the parent.
const EXIT_RESTART: u8 = 1;

/// Why the worker could not start. `Display` is one sentence for a person.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Disk(#[from] OpenDiskError),
    #[error(transparent)]
    Data(#[from] SpawnError),
    #[error(transparent)]
    Group(#[from] OpenError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("{0}")]
    System(#[from] std::io::Error),
}

/// Whether the worker has a parent that watches it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parent {
    None,
    Process(u32),
}

/// Runs the node of `place` in this process until it is told to stop or cannot go on; gives the exit status. Blocks;
/// must not be called on a runtime.
#[must_use]
pub fn run(place: &Place, parent: Parent) -> u8 {
    if let Parent::Process(id) = parent
        && let Err(error) = die_with_parent(id)
    {
        tracing::error!(%error, "this process must not outlive its parent");
        return EXIT_RESTART;
    }
    match work(place, parent) {
        Ok(Exit::Stopped) => 0,
        Ok(Exit::Restart(why)) => {
            tracing::warn!(%why, "this incarnation ends");
            EXIT_RESTART
        }
        Ok(Exit::NeedsAPerson(why)) => {
            tracing::error!(%why, "the node stops");
            EXIT_NEEDS_A_PERSON
        }
        Err(error) => {
            tracing::error!(%error, "the node cannot start");
            EXIT_NEEDS_A_PERSON
        }
    }
}

fn work(place: &Place, parent: Parent) -> Result<Exit, StartError> {
    let Place { layout, config } = place;
    let identity = NodeIdentity::load(layout)?;
    let credentials = load_credentials(layout, &identity)?;
    let group = GroupConfig::new(layout.raft(), identity.cluster, identity.node)?;
    let paths: Vec<PathBuf> = place.disks().collect();
    let disks = data::open_disks(&paths, identity.cluster, &store_config(config))?;
    let registrations = disks.registrations();
    let endpoint = |bind| EndpointConfig { mtu: config.max_packet_bytes, ..EndpointConfig::new(bind) };
    let (to_data, for_data) = mpsc::channel(BRIDGE_CAPACITY);
    let (to_control, from_data) = mpsc::channel(BRIDGE_CAPACITY);
    let status = Arc::new(DataStatus::default());
    let data_config = DataConfig {
        cluster: identity.cluster,
        node: identity.node,
        endpoint: endpoint(config.data_address()),
        credentials: credentials.clone(),
        disks,
        resync_bytes_per_second: u64::from(config.resync_mib_per_second) << 20,
        scrub_bytes_per_second: u64::from(config.scrub_mib_per_second) << 20,
    };
    let thread = data::spawn(data_config, for_data, to_control, Arc::clone(&status))?;
    let data = DataSide { to_data, from_data, status, address: thread.address, disks: registrations };
    let control = ControlConfig {
        layout: layout.clone(),
        identity,
        credentials,
        group,
        endpoint: endpoint(config.control_address()),
        join_address: config.join_address(),
        publish_as_process: matches!(parent, Parent::Process(_)).then(std::process::id),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exit = tokio::task::LocalSet::new().block_on(&runtime, async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        Ok::<_, StartError>(control::run(control, data, stop).await?)
    })?;
    // The data thread ends with its queue; a clean stop has waited for it already.
    if exit == Exit::Stopped && thread.join.join().is_err() {
        tracing::error!("the data thread panicked while it stopped");
    }
    Ok(exit)
}
