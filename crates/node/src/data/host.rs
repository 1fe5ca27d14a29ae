//! What a data node stands on: clock, disks, connections, helper threads, tasks.
//!
//! Responsible for: the traits between the turn and its shell. Guarantees: everything that decides what a node does comes
//! through here or in an event, so the same node runs in its thread and in the simulator; all of it is resolved at compile
//! time, the turn pays nothing for it. Must not know: QUIC, tokio's runtime, which of the two shells it is.

use super::node::Completion;
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;
use weft_proto::data::{DataReply, DataRequest};
use weft_proto::replication::Envelope;
use weft_store::Disk;
use weft_transport::Payload;
use weft_types::{BootTime, DataError};

/// A call's answer and the bytes that came with it; `None` when there was none in time.
pub type CallAnswer = Option<(Result<DataReply, DataError>, Bytes)>;

/// A shell. Clones are the same one.
pub trait Host: Clone + 'static {
    type Disk: Disk;
    type Link: Link;
    type Replier: Replier;
    type Pool: Pool;

    /// CLOCK_BOOTTIME, or the simulated one. The only clock that decides anything.
    fn now(&self) -> BootTime;

    /// # Errors
    /// When a thread cannot be started.
    fn pool(&self, name: &'static str, threads: usize, queue: usize) -> io::Result<Self::Pool>;

    fn spawn(&self, task: impl Future<Output = ()> + 'static);

    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + 'static;

    /// Asks another node's data port.
    fn call(
        &self,
        link: &Self::Link,
        request: &DataRequest,
        deadline: Duration,
    ) -> impl Future<Output = CallAnswer> + 'static;
}

/// The connection to another node that carries replication: ordered, reliable while it lasts.
pub trait Link: Clone + PartialEq + 'static {
    /// Whether it was queued.
    fn send(&self, envelope: &Envelope) -> bool;
    /// Counts up whenever the other end was heard from; `None` when nobody knows.
    fn heard_count(&self) -> Option<u64>;
    fn is_open(&self) -> bool;
}

/// Where the answer to one request goes. One that is dropped tells the caller so.
pub trait Replier: 'static {
    fn reply(self, result: &Result<DataReply, DataError>, payload: Payload);
}

/// A job for a helper thread, and what to tell the node when it is done.
pub type Job<C = Completion> = Box<dyn FnOnce() -> C + Send>;

/// The queue is full or the workers are gone; the job comes back.
pub struct NoRoom<C = Completion>(pub Job<C>);

/// Helper threads that share one bounded queue and run its jobs in order. A job that was taken always comes back as its
/// completion.
pub trait Pool: 'static {
    /// # Errors
    /// When there is no room; the job comes back.
    fn submit(&self, job: Job) -> Result<(), NoRoom>;
    /// The caller is about to block until a job of this pool has run.
    fn hurry(&self);
}

/// `None` when the time is over first.
pub(super) async fn within<H: Host, T>(host: &H, time: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut sleep = pin!(host.sleep(time));
    let mut work = pin!(work);
    std::future::poll_fn(|context| {
        if let Poll::Ready(value) = work.as_mut().poll(context) {
            return Poll::Ready(Some(value));
        }
        sleep.as_mut().poll(context).map(|()| None)
    })
    .await
}

/// Futures that run side by side in one task.
pub(super) struct Together<T> {
    running: Vec<Pin<Box<dyn Future<Output = T>>>>,
}

impl<T> Default for Together<T> {
    fn default() -> Self {
        Self { running: Vec::new() }
    }
}

impl<T> Together<T> {
    pub(super) fn len(&self) -> usize {
        self.running.len()
    }

    pub(super) fn add(&mut self, work: impl Future<Output = T> + 'static) {
        self.running.push(Box::pin(work));
    }

    /// The next one that is done; `None` when none is left.
    pub(super) async fn next(&mut self) -> Option<T> {
        std::future::poll_fn(|context| {
            for at in 0..self.running.len() {
                if let Poll::Ready(value) = self.running[at].as_mut().poll(context) {
                    drop(self.running.swap_remove(at));
                    return Poll::Ready(Some(value));
                }
            }
            if self.running.is_empty() { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }
}
