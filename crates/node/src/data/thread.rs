//! The thread itself: how it starts, what it waits for, how it ends.
//!
//! Guarantees: an error at the start is returned by [`spawn`]; after that the thread ends only by `ToData::Stop`, by the
//! loss of the control thread, or by a panic, and says so with `ToControl::Ended` unless it was asked to. A clean stop
//! marks the disks only after everything is synced and nothing more can be appended.

use super::disks::OpenedDisks;
use super::node::{Completion, DataNode, NodeSettings};
use super::port::{Server, ThreadHost};
use crate::bridge::{DataStatus, ToControl, ToData};
use crate::memory::MemoryPlan;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use weft_replication::TICK_INTERVAL;
use weft_transport::quic::BindError;
use weft_transport::{Credentials, Endpoint, EndpointConfig};
use weft_types::limits::STOP_DRAIN_TIMEOUT;
use weft_types::{ClusterId, NodeId};

/// Finished jobs on their way back. Jobs in flight are bounded elsewhere; a worker that finds this full waits.
const COMPLETIONS: usize = 1024;
/// Things taken from one queue before the turn ends, so that no queue starves the others.
const MAX_PER_TURN: usize = 256;

/// Lets the transport send what is queued before the connections are closed.
const LAST_ANSWERS: Duration = Duration::from_millis(20);

/// What a data thread is started with.
pub struct DataConfig {
    pub cluster: ClusterId,
    pub node: NodeId,
    /// Address of the data port. Port 0 picks a free one (tests).
    pub endpoint: EndpointConfig,
    pub credentials: Credentials,
    pub disks: OpenedDisks,
    /// Pace of resync from the groups that this node leads, together.
    pub resync_bytes_per_second: u64,
    /// Pace of the background scrub per disk; 0 turns it off.
    pub scrub_bytes_per_second: u64,
    pub memory: MemoryPlan,
}

/// A running data thread.
pub struct DataThread {
    /// Where its data port is.
    pub address: SocketAddr,
    pub join: JoinHandle<()>,
}

#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("cannot start the data thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("the data thread ended while it started")]
    Ended,
}

/// Starts the data thread. It serves nothing before `ToData::Registered`, a map and a lease have come.
///
/// # Errors
/// When a thread cannot be started or the data port cannot be bound.
pub fn spawn(
    config: DataConfig,
    to_data: Receiver<ToData>,
    to_control: Sender<ToControl>,
    status: Arc<DataStatus>,
) -> Result<DataThread, SpawnError> {
    let (started, starting) = std::sync::mpsc::sync_channel(1);
    let planted = crate::mutants::active();
    let join = std::thread::Builder::new().name("weft-data".to_owned()).spawn(move || {
        crate::mutants::plant(planted);
        let ended = EndedNotice { to_control: to_control.clone(), asked_to: false };
        run(config, to_data, to_control, status, &started, ended);
    })?;
    let address = starting.recv().map_err(|_| SpawnError::Ended)??;
    Ok(DataThread { address, join })
}

/// Tells the control thread that this one is gone, also when it unwinds.
struct EndedNotice {
    to_control: Sender<ToControl>,
    asked_to: bool,
}

impl Drop for EndedNotice {
    fn drop(&mut self) {
        if !self.asked_to {
            let why = if std::thread::panicking() { "it panicked" } else { "the control thread is gone" };
            // A full queue: the control thread also sees that the thread has ended by its join handle.
            let _ = self.to_control.try_send(ToControl::Ended { why: why.to_owned() });
        }
    }
}

fn run(
    config: DataConfig,
    to_data: Receiver<ToData>,
    to_control: Sender<ToControl>,
    status: Arc<DataStatus>,
    started: &std::sync::mpsc::SyncSender<Result<SocketAddr, SpawnError>>,
    mut ended: EndedNotice,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(started.send(Err(error.into()))),
    };
    let local = LocalSet::new();
    let stopped = local.block_on(&runtime, async {
        let (completed, completions) = channel(COMPLETIONS);
        let endpoint = match Endpoint::bind(config.endpoint, &config.credentials) {
            Ok(endpoint) => endpoint,
            Err(error) => return start_failed(started, error.into()),
        };
        let address = match endpoint.local_address() {
            Ok(address) => address,
            Err(error) => return start_failed(started, SpawnError::Thread(error)),
        };
        let settings = NodeSettings {
            cluster: config.cluster,
            node: config.node,
            resync_bytes_per_second: config.resync_bytes_per_second,
            scrub_bytes_per_second: config.scrub_bytes_per_second,
            memory: config.memory,
            #[cfg(feature = "mutants")]
            mutant: None,
        };
        let node = match DataNode::new(ThreadHost { completed }, settings, config.disks, to_control, status) {
            Ok(node) => node,
            Err(error) => return start_failed(started, error.into()),
        };
        let server = Server::start(node, endpoint.clone());
        if started.send(Ok(address)).is_err() {
            return None;
        }
        let answer = serve(&server, to_data, completions).await;
        server.dismantle();
        endpoint.close("the node is stopping").await;
        answer
    });
    // Dropping the set ends every task of this thread before the answer says that it has ended.
    drop(local);
    drop(runtime);
    if let Some(done) = stopped {
        ended.asked_to = true;
        // The asker may be gone.
        let _ = done.send(());
    }
}

fn start_failed(
    started: &std::sync::mpsc::SyncSender<Result<SocketAddr, SpawnError>>,
    error: SpawnError,
) -> Option<oneshot::Sender<()>> {
    // The caller waits for exactly this message.
    let _ = started.send(Err(error));
    None
}

/// Runs until the clean stop, and gives back whom to answer; `None` when the control thread is gone.
async fn serve(
    server: &Rc<Server>,
    mut to_data: Receiver<ToData>,
    mut completions: Receiver<Completion>,
) -> Option<oneshot::Sender<()>> {
    let turn = server.turn();
    let mut tick = interval(TICK_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopping: Option<(oneshot::Sender<()>, Instant)> = None;
    loop {
        let release = turn.next_release_in().map(|wait| Instant::now() + wait);
        let wake_writers = async {
            match release {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // In this order: a lease or a map must not wait behind a flood of finished reads.
            biased;
            message = to_data.recv() => {
                let mut next = Some(message?);
                let mut taken = 0;
                while let Some(message) = next.take() {
                    match message {
                        ToData::Stop { done } => {
                            turn.begin_stop();
                            stopping.get_or_insert((done, Instant::now() + STOP_DRAIN_TIMEOUT));
                        }
                        message => control_message(server, message),
                    }
                    taken += 1;
                    if taken < MAX_PER_TURN {
                        next = to_data.try_recv().ok();
                    }
                }
            }
            Some(completion) = completions.recv() => {
                turn.complete(completion);
                for _ in 1..MAX_PER_TURN {
                    let Ok(completion) = completions.try_recv() else { break };
                    turn.complete(completion);
                }
            }
            _ = tick.tick() => turn.tick(),
            () = wake_writers => {}
            // A connection was made or lost.
            () = server.link_news() => {}
        }
        server.settle();
        if stopping.as_ref().is_some_and(|(_, by)| Instant::now() >= *by || turn.is_drained()) {
            turn.stop_appending();
            // What was answered just now leaves before the connections are closed.
            tokio::time::sleep(LAST_ANSWERS).await;
            server.disconnect();
            turn.sync_and_mark();
            return stopping.map(|(done, _)| done);
        }
    }
}

fn control_message(server: &Rc<Server>, message: ToData) {
    let is_map = matches!(message, ToData::Map(_));
    server.turn().control(message);
    if is_map {
        server.connect_peers();
    }
}
