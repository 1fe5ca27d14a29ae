//! The process that does the work: opens everything, runs the data thread and the control thread, and ends.
//!
//! Guarantees: what a person must fix ends it with [`EXIT_NEEDS_A_PERSON`] before anything is served; any other end is
//! one that the parent answers with a new incarnation.

use crate::bridge::{BRIDGE_CAPACITY, DataStatus};
use crate::control::{self, ControlConfig, ControlError, DataSide, Exit, OpenedData};
use crate::data::{self, DataConfig, DataThread, OpenDiskError, SpawnError};
use crate::identity::{IdentityError, NodeIdentity, load_credentials};
use crate::place::Place;
use crate::setup::{memory_plan, store_config};
use crate::supervisor::{EXIT_NEEDS_A_PERSON, die_with_parent};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use weft_proto::control::RegisterDisk;
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
            leave_last_words(place, &why);
            EXIT_NEEDS_A_PERSON
        }
        Err(error) => {
            tracing::error!(%error, "the node cannot start");
            leave_last_words(place, &error.to_string());
            EXIT_NEEDS_A_PERSON
        }
    }
}

/// For the parent, which says it to whoever started the node.
fn leave_last_words(place: &Place, why: &str) {
    let file = place.layout.last_words_file();
    let written = std::fs::create_dir_all(place.layout.run()).and_then(|()| std::fs::write(file, why));
    if let Err(error) = written {
        tracing::warn!(%error, "the reason stands only here, in the log");
    }
}

/// Why the last worker of this place ended with [`EXIT_NEEDS_A_PERSON`]; taken away by asking.
#[must_use]
pub fn take_last_words(place: &Place) -> Option<String> {
    let file = place.layout.last_words_file();
    let words = std::fs::read_to_string(&file).ok()?;
    // If it stays, it is at worst said once more.
    let _ = std::fs::remove_file(&file);
    Some(words)
}

fn work(place: &Place, parent: Parent) -> Result<Exit, StartError> {
    let Place { layout, config } = place;
    let identity = NodeIdentity::load(layout)?;
    let credentials = load_credentials(layout, &identity)?;
    let memory = memory_plan(config);
    let group = GroupConfig {
        cache_bytes: memory.metadata_cache_bytes,
        ..GroupConfig::new(layout.raft(), identity.cluster, identity.node)?
    };
    let paths: Vec<PathBuf> = place.disks().collect();
    let store = store_config(config);
    let endpoint = |bind| EndpointConfig {
        mtu: config.max_packet_bytes,
        window_bytes: memory.window_bytes,
        ..EndpointConfig::new(bind)
    };
    let (to_data, for_data) = mpsc::channel(BRIDGE_CAPACITY);
    let (to_control, from_data) = mpsc::channel(BRIDGE_CAPACITY);
    let status = Arc::new(DataStatus::default());
    let (cluster, node) = (identity.cluster, identity.node);
    let (data_endpoint, data_credentials) = (endpoint(config.data_address()), credentials.clone());
    let resync_bytes_per_second = u64::from(config.resync_mib_per_second) << 20;
    let scrub_bytes_per_second = u64::from(config.scrub_mib_per_second) << 20;
    let data_status = Arc::clone(&status);
    let start = move || -> Result<(DataThread, Vec<RegisterDisk>), StartError> {
        let disks = data::open_disks(&paths, cluster, node, &store)?;
        let registrations = disks.registrations();
        let data_config = DataConfig {
            cluster,
            node,
            endpoint: data_endpoint,
            credentials: data_credentials,
            disks,
            resync_bytes_per_second,
            scrub_bytes_per_second,
            memory,
        };
        Ok((data::spawn(data_config, for_data, to_control, data_status)?, registrations))
    };
    let (opened, opening) = oneshot::channel();
    // The metadata group does not wait for disks: on a busy one their recovery takes seconds.
    let starter = std::thread::Builder::new().name("weft-open".to_owned()).spawn(move || {
        let (told, thread) = match start() {
            Ok((thread, disks)) => (Ok(OpenedData { address: thread.address, disks }), Some(thread)),
            Err(error) => (Err(error.to_string()), None),
        };
        // Without a receiver the node is ending; the data thread then ends with its queue.
        drop(opened.send(told));
        thread
    })?;
    let data = DataSide { to_data, from_data, status, opened: opening };
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
    if exit == Exit::Stopped
        && !starter.join().is_ok_and(|thread| thread.is_none_or(|thread| thread.join.join().is_ok()))
    {
        tracing::error!("the data thread panicked while it stopped");
    }
    Ok(exit)
}
