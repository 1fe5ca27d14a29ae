//! Calls to the metadata leader: finds it, follows redirects, tries every node, numbers what changes something.

use super::boot_time;
use super::network::Network;
use crate::core::retry::pause;
use crate::core::{LeaderFinder, RequestNumbers};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, oneshot};
use weft_proto::control::{ControlReply, ControlRequest};
use weft_proto::namespace::{Mutation, NamespaceReply, Query};
use weft_types::limits::MAX_CLIENT_MUTATIONS_IN_FLIGHT;
use weft_types::{ErrorKind, RequestNumber, SessionId, VolumeId};

/// Deadline of one attempt at one node. A leader that lost its quorum must not hold a request for long.
const ATTEMPT_DEADLINE: Duration = Duration::from_millis(1500);

pub struct Control {
    network: Rc<dyn Network>,
    finder: RefCell<LeaderFinder>,
    moved: Notify,
    /// `None` waits for ever.
    fail_after: Option<Duration>,
}

impl Control {
    pub fn new(network: Rc<dyn Network>, addresses: Vec<SocketAddr>, fail_after: Option<Duration>) -> Self {
        Self { network, finder: RefCell::new(LeaderFinder::new(addresses)), moved: Notify::new(), fail_after }
    }

    pub fn learned(&self, addresses: Vec<SocketAddr>) {
        self.finder.borrow_mut().learned(addresses);
    }

    pub fn network(&self) -> &Rc<dyn Network> {
        &self.network
    }

    /// Asks one node once, wherever the leader is believed to be.
    ///
    /// # Errors
    /// A sentence on why there is no answer of the leader; the finder has moved on.
    pub async fn try_once(&self, request: ControlRequest, deadline: Duration) -> Result<ControlReply, String> {
        let Some(address) = self.finder.borrow().current() else {
            return Err("no control address is known".into());
        };
        tracing::debug!(%address, session = ?request.session(), number = ?request.number(), "asking");
        let failed = match self.network.control(address, request, deadline).await {
            Ok(ControlReply::NotLeader { leader }) => {
                self.finder.borrow_mut().redirected(address, leader.map(|(_, at)| at));
                Err(format!("{address} does not lead the metadata group"))
            }
            Ok(ControlReply::Refused(ErrorKind::Unavailable(why))) => {
                self.finder.borrow_mut().unreachable(address);
                Err(format!("{address} cannot answer now: {why}"))
            }
            Ok(reply) => {
                self.finder.borrow_mut().answered(address);
                return Ok(reply);
            }
            Err(error) => {
                self.finder.borrow_mut().unreachable(address);
                Err(format!("{address}: {error}"))
            }
        };
        if self.finder.borrow().current() != Some(address) {
            self.moved.notify_waiters();
        }
        failed
    }

    /// Ends when somebody found that the leader is elsewhere.
    pub async fn leader_moved(&self) {
        self.moved.notified().await;
    }

    /// Asks until the leader answers, or `fail_after` is over. `request` is made anew for each attempt.
    ///
    /// # Errors
    /// `TimedOut` only.
    pub async fn call(
        &self,
        patience: Option<Duration>,
        mut request: impl FnMut() -> ControlRequest,
    ) -> Result<ControlReply, ErrorKind> {
        let began = boot_time();
        loop {
            let why = match self.try_once(request(), ATTEMPT_DEADLINE).await {
                Ok(reply) => return Ok(reply),
                Err(why) => why,
            };
            tracing::debug!(why, "asking again");
            let waited = boot_time().since(began);
            if patience.is_some_and(|limit| waited >= limit) {
                return Err(ErrorKind::TimedOut {
                    waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
                    why: format!("no metadata leader answered (last: {why})"),
                });
            }
            // The first redirect is followed at once.
            let failures = self.finder.borrow().failures();
            if failures > 1 {
                tokio::time::sleep(pause(failures - 1)).await;
            }
        }
    }

    /// As `call`, with the patience that the mount was given.
    ///
    /// # Errors
    /// `TimedOut` only.
    pub async fn ask(&self, request: ControlRequest) -> Result<ControlReply, ErrorKind> {
        self.call(self.fail_after, || request.clone()).await
    }

    /// # Errors
    /// The answer's refusal, or `TimedOut`.
    pub async fn query(&self, volume: VolumeId, query: Query) -> Result<NamespaceReply, ErrorKind> {
        namespace_reply(self.ask(ControlRequest::Query { volume, query }).await?)
    }
}

/// Mutations of one session.
pub struct Mutations {
    control: Rc<Control>,
    session: SessionId,
    volume: VolumeId,
    numbers: RefCell<RequestNumbers>,
    permits: Rc<Semaphore>,
    /// For what other sessions wait for: it must not stand behind requests that wait for those sessions.
    owed_permits: Rc<Semaphore>,
}

impl Mutations {
    pub fn new(control: Rc<Control>, session: SessionId, volume: VolumeId) -> Self {
        let permits = Rc::new(Semaphore::new(MAX_CLIENT_MUTATIONS_IN_FLIGHT));
        let owed_permits = Rc::new(Semaphore::new(MAX_CLIENT_MUTATIONS_IN_FLIGHT));
        Self { control, session, volume, numbers: RefCell::default(), permits, owed_permits }
    }

    pub fn low_water(&self) -> RequestNumber {
        self.numbers.borrow().low_water()
    }

    /// Does it once, across leader changes. Runs to its end even if the caller goes away: a request whose number was
    /// used may be done any time until it is answered.
    ///
    /// # Errors
    /// The answer's refusal, or `TimedOut`.
    pub async fn run(self: &Rc<Self>, mutation: Mutation) -> Result<NamespaceReply, ErrorKind> {
        let receiver = self.begin(mutation);
        let gone = || ErrorKind::Io("the client is shutting down".into());
        match self.control.fail_after {
            None => receiver.await.unwrap_or_else(|_| Err(gone())),
            Some(limit) => match tokio::time::timeout(limit, receiver).await {
                Ok(result) => result.unwrap_or_else(|_| Err(gone())),
                Err(_) => Err(ErrorKind::TimedOut {
                    waited_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
                    why: "no metadata leader answered".into(),
                }),
            },
        }
    }

    /// The same, however long it takes: for what must not happen after something that is begun later.
    ///
    /// # Errors
    /// The answer's refusal.
    pub async fn run_to_the_end(self: &Rc<Self>, mutation: Mutation) -> Result<NamespaceReply, ErrorKind> {
        self.begin(mutation).await.unwrap_or_else(|_| Err(ErrorKind::Io("the client is shutting down".into())))
    }

    fn begin(self: &Rc<Self>, mutation: Mutation) -> oneshot::Receiver<Result<NamespaceReply, ErrorKind>> {
        let (sender, receiver) = oneshot::channel();
        let this = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let owed = matches!(mutation, Mutation::ReleaseSizeCap { .. } | Mutation::AcknowledgeTruncate { .. });
            let permits = if owed { &this.owed_permits } else { &this.permits };
            let Ok(_permit) = permits.acquire().await else { return };
            let number = this.numbers.borrow_mut().begin();
            let reply = this.until_answered(number, mutation).await;
            this.numbers.borrow_mut().answered(number);
            // The caller may have gone away.
            let _ = sender.send(reply);
        });
        receiver
    }
}

impl Mutations {
    /// For ever: the mark must not pass a number that may still be acted on.
    async fn until_answered(&self, number: RequestNumber, mutation: Mutation) -> Result<NamespaceReply, ErrorKind> {
        let mut refused = 0u32;
        loop {
            let request = || ControlRequest::Mutate {
                session: self.session,
                request: number,
                low_water: self.low_water(),
                volume: self.volume,
                mutation: mutation.clone(),
            };
            match self.control.call(None, request).await.and_then(namespace_reply) {
                // "Not yet": the leader did not take it, and wants the same request again (a cut is under way).
                Err(ErrorKind::WouldBlock) => {
                    refused = refused.saturating_add(1);
                    tokio::time::sleep(pause(refused)).await;
                }
                reply => return reply,
            }
        }
    }
}

fn namespace_reply(reply: ControlReply) -> Result<NamespaceReply, ErrorKind> {
    match reply {
        ControlReply::Namespace(result) => *result,
        ControlReply::Refused(error) => Err(error),
        other => Err(ErrorKind::Io(format!("the metadata leader answered with {other:?}, which was not asked for"))),
    }
}
