//! What runs on the client's thread: takes requests from the kernel and jobs from fuser's thread, starts them, lives
//! until the mount ends.

use crate::budget::Budget;
use crate::device::{self, Descriptors};
use crate::handles::Handles;
use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Instrument as _;
use weft_client::{Client, MemoryLimit};

/// How long the kernel may use attributes and entries without asking: not at all, for any host may change them
/// (design 7, "The kernel's cached size").
pub const TTL: Duration = Duration::ZERO;

/// Requests that fuser's thread has read and the client's thread has not begun. The kernel sends 512 in the background
/// and one for each waiting thread; past this fuser's thread waits.
pub const JOBS: usize = 1024;

/// One kernel request, decoded.
pub type Job = Box<dyn FnOnce(&Rc<Server>) + Send>;

pub struct Server {
    pub client: Client,
    pub handles: Handles,
    pub budget: Budget,
    /// For spans.
    requests: Cell<u64>,
}

impl Server {
    /// Runs a request of the kernel in a task and a span of its own. What it asks the nodes is logged within that span,
    /// with the session and number by which they name it in their own.
    pub fn spawn<F: Future<Output = ()> + 'static>(
        self: &Rc<Self>,
        what: &'static str,
        run: impl FnOnce(Rc<Self>) -> F,
    ) {
        let request = self.requests.get();
        self.requests.set(request.wrapping_add(1));
        let span = tracing::debug_span!("fuse", what, request);
        tokio::task::spawn_local(run(Rc::clone(self)).instrument(span));
    }
}

/// Serves until fuser has ended and every job is done, or until told to stop; then closes what is open and ends the
/// session.
pub async fn serve(
    client: Client,
    memory: MemoryLimit,
    mounted: oneshot::Receiver<Descriptors>,
    mut jobs: mpsc::Receiver<Job>,
    mut stop: watch::Receiver<bool>,
) {
    let budget = Budget::new(memory.bytes_in_flight());
    let server = Rc::new(Server { client, handles: Handles::default(), budget, requests: Cell::new(1) });
    // Nothing comes when mounting failed; then it is stopped.
    if let Ok(descriptors) = mounted.await
        && let Err(error) = device::start(&server, descriptors)
    {
        tracing::error!(%error, "the kernel's requests cannot be read");
    }
    loop {
        let job = tokio::select! {
            job = jobs.recv() => job,
            _ = stop.wait_for(|stop| *stop) => None,
        };
        let Some(job) = job else { break };
        job(&server);
    }
    for open in server.handles.take_files() {
        if let Err(error) = open.file.clone().close().await {
            tracing::warn!(inode = %open.file.inode(), %error, "a file was not closed");
        }
    }
    match server.client.clone().close().await {
        Ok(()) => tracing::info!("session closed"),
        Err(error) => tracing::error!(%error, "the session was not closed; it ends by its lease"),
    }
}
