//! Keeps one connection to one peer up: dials, dials again with a bounded pause, and fails calls fast meanwhile.

use crate::connection::{Connection, Handler};
use crate::error::{CallError, ConnectError, SendError};
use crate::identity::PeerRole;
use crate::lane::Channel;
use crate::message::{Message, Payload};
use crate::quic::Endpoint;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use weft_proto::frame::Service;
use weft_proto::hello::Hello;
use weft_types::limits::{RECONNECT_PAUSE_MAX, RECONNECT_PAUSE_MIN};

/// What is known of the peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerState {
    /// Never connected so far.
    Connecting,
    Up,
    /// Why the last connection ended or the last attempt failed.
    Down(String),
}

type Dial = dyn Fn() -> Pin<Box<dyn Future<Output = Result<Connection, ConnectError>>>>;

struct Shared {
    connection: RefCell<Option<Connection>>,
    state: RefCell<PeerState>,
    changed: Notify,
    /// Cuts the pause before the next attempt short.
    hurry: Notify,
    stopped: Cell<bool>,
}

/// The handle of a kept connection. Dropping the last one closes it.
#[derive(Clone)]
pub struct PeerHandle(Rc<Owner>);

struct Owner {
    shared: Rc<Shared>,
    task: AbortHandle,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.stopped.set(true);
        self.task.abort();
        if let Some(connection) = self.shared.connection.borrow_mut().take() {
            connection.close("not needed any more");
        }
    }
}

/// Whom to dial, and as whom.
#[derive(Clone)]
pub struct DialTarget {
    pub address: SocketAddr,
    pub expect: Option<PeerRole>,
    /// Read for each attempt.
    pub hello: Rc<Cell<Hello>>,
}

impl PeerHandle {
    /// Dials at once and keeps the connection up. `handler` sees each new connection as another one.
    #[must_use]
    pub fn dial(endpoint: &Endpoint, target: DialTarget, handler: Rc<dyn Handler>) -> Self {
        let endpoint = endpoint.clone();
        Self::dial_with(move || {
            let (endpoint, target, handler) = (endpoint.clone(), target.clone(), Rc::clone(&handler));
            Box::pin(async move {
                let hello = target.hello.get();
                endpoint.connect(target.address, hello, target.expect.as_ref(), handler).await
            })
        })
    }

    /// The same over any lane.
    #[must_use]
    pub fn dial_with(
        dial: impl Fn() -> Pin<Box<dyn Future<Output = Result<Connection, ConnectError>>>> + 'static,
    ) -> Self {
        let shared = Rc::new(Shared {
            connection: RefCell::default(),
            state: RefCell::new(PeerState::Connecting),
            changed: Notify::new(),
            hurry: Notify::new(),
            stopped: Cell::new(false),
        });
        let task = tokio::task::spawn_local(keep_up(Rc::clone(&shared), Box::new(dial)));
        Self(Rc::new(Owner { shared, task: task.abort_handle() }))
    }

    /// The open connection, if there is one.
    #[must_use]
    pub fn connection(&self) -> Option<Connection> {
        self.0.shared.connection.borrow().as_ref().filter(|c| c.is_open()).cloned()
    }

    #[must_use]
    pub fn state(&self) -> PeerState {
        self.0.shared.state.borrow().clone()
    }

    /// Waits for the next change of [`Self::state`].
    pub async fn changed(&self) {
        self.0.shared.changed.notified().await;
    }

    /// Waits until the peer is up, at most for `timeout`.
    pub async fn wait_up(&self, timeout: Duration) -> Option<Connection> {
        let waiting = async {
            loop {
                if let Some(connection) = self.connection() {
                    return connection;
                }
                self.0.shared.changed.notified().await;
            }
        };
        tokio::time::timeout(timeout, waiting).await.ok()
    }

    /// Dials now instead of after the pause; for news that the peer is back.
    pub fn hurry(&self) {
        self.0.shared.hurry.notify_one();
    }

    /// Ends the current connection, for news that the peer's process is gone, and dials anew.
    pub fn reset(&self, reason: &str) {
        if let Some(connection) = self.connection() {
            connection.close(reason);
        }
    }

    /// See [`Connection::call`].
    ///
    /// # Errors
    /// At once with `SendError::Down` while there is no connection.
    pub async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        service: Service,
        request: &Q,
        payload: impl Into<Payload>,
        timeout: Duration,
    ) -> Result<(A, Bytes), CallError> {
        let connection = self.connection().ok_or(SendError::Down)?;
        connection.call(service, request, payload, timeout).await
    }

    /// See [`Connection::call_with`].
    ///
    /// # Errors
    /// When the request was not queued.
    pub fn call_with<Q: Serialize>(
        &self,
        channel: Channel,
        service: Service,
        request: &Q,
        payload: impl Into<Payload>,
        timeout: Duration,
        on_reply: impl FnOnce(Result<Message, CallError>) + 'static,
    ) -> Result<(), SendError> {
        let connection = self.connection().ok_or(SendError::Down)?;
        connection.call_with(channel, service, request, payload, timeout, on_reply)
    }

    /// See [`Connection::send`].
    ///
    /// # Errors
    /// When the message was not queued.
    pub fn send<M: Serialize>(
        &self,
        channel: Channel,
        service: Service,
        message: &M,
        payload: impl Into<Payload>,
    ) -> Result<(), SendError> {
        self.connection().ok_or(SendError::Down)?.send(channel, service, message, payload)
    }
}

async fn keep_up(shared: Rc<Shared>, dial: Box<Dial>) {
    let mut pause = RECONNECT_PAUSE_MIN;
    while !shared.stopped.get() {
        match dial().await {
            Ok(connection) => {
                pause = RECONNECT_PAUSE_MIN;
                *shared.connection.borrow_mut() = Some(connection.clone());
                shared.set_state(PeerState::Up);
                let reason = connection.closed().await;
                *shared.connection.borrow_mut() = None;
                shared.set_state(PeerState::Down(reason.to_string()));
            }
            Err(error) => {
                shared.set_state(PeerState::Down(error.to_string()));
            }
        }
        // Also after a connection that was up: a peer that accepts and closes must not be dialed in a tight loop.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.hurry.notified() => {}
        }
        pause = (pause * 2).min(RECONNECT_PAUSE_MAX);
    }
}

impl Shared {
    fn set_state(&self, state: PeerState) {
        let mut current = self.state.borrow_mut();
        if *current == state {
            return;
        }
        match &state {
            PeerState::Down(why) if *current == PeerState::Up => tracing::info!(%why, "connection lost"),
            PeerState::Down(why) => tracing::debug!(%why, "cannot connect"),
            _ => {}
        }
        *current = state;
        drop(current);
        self.changed.notify_waiters();
    }
}
