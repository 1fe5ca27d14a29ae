//! How a new member gets its certificate: over a port of its own, on which only the server has one.
//!
//! The joining side knows the cluster by the fingerprint in its token, sends a signing request and gets a certificate.
//! One connection carries one exchange: the request, end of stream, the reply, end of stream.
//! Guarantees: an unauthenticated peer costs little memory and time, and a wrong token costs it a pause.

use crate::ca::{CaError, Credentials, MemberKey, fingerprint};
use crate::error::ConnectError;
use crate::quic::{BindError, bind_socket, join_client_tls, join_server_tls};
use crate::token::Token;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use std::cell::Cell;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use weft_proto::admin::{JoinReply, JoinRequest};
use weft_proto::hello::{HelloError, decode_hello, encode_hello};
use weft_types::limits::{CONNECT_TIMEOUT, JOIN_TIMEOUT, MAX_JOIN_MESSAGE_BYTES, MAX_JOINS_IN_FLIGHT};
use weft_types::{ClusterId, ErrorKind, NodeId};

/// A refused request holds its place for this long, which bounds how fast tokens can be guessed.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(500);

/// Decides on a request: checks the token, admits the member to the metadata, signs.
pub type JoinHandler = Rc<dyn Fn(JoinRequest, SocketAddr) -> Pin<Box<dyn Future<Output = JoinReply>>>>;

/// A running join endpoint. Dropping it ends it.
pub struct JoinServer {
    endpoint: quinn::Endpoint,
    task: JoinHandle<()>,
}

impl Drop for JoinServer {
    fn drop(&mut self) {
        self.task.abort();
        self.endpoint.close(quinn::VarInt::from_u32(0), b"stopped");
    }
}

impl JoinServer {
    /// Serves join requests on `bind` until dropped.
    ///
    /// # Errors
    /// When the address cannot be bound or the credentials cannot be used.
    pub fn start(bind: SocketAddr, credentials: &Credentials, handler: JoinHandler) -> Result<Self, BindError> {
        let tls = |error: &dyn std::fmt::Display| BindError::Tls(error.to_string());
        let in_use = |source| BindError::Socket { address: bind, source };
        let crypto =
            QuicServerConfig::try_from(join_server_tls(credentials).map_err(|e| tls(&e))?).map_err(|e| tls(&e))?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(Arc::new(small_transport())).migration(false).max_incoming(MAX_JOINS_IN_FLIGHT);
        let socket = bind_socket(bind).map_err(in_use)?;
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint =
            quinn::Endpoint::new(quinn::EndpointConfig::default(), Some(config), socket, runtime).map_err(in_use)?;
        let task = tokio::task::spawn_local(accept_loop(endpoint.clone(), handler));
        Ok(Self { endpoint, task })
    }

    /// # Errors
    /// When the socket is gone.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }
}

fn small_transport() -> quinn::TransportConfig {
    let mut config = quinn::TransportConfig::default();
    config
        .max_concurrent_bidi_streams(quinn::VarInt::from_u32(1))
        .max_concurrent_uni_streams(quinn::VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .receive_window(quinn::VarInt::from_u32(MAX_JOIN_MESSAGE_BYTES as u32))
        .send_window(MAX_JOIN_MESSAGE_BYTES as u64)
        .crypto_buffer_size(16 << 10);
    if let Ok(timeout) = JOIN_TIMEOUT.try_into() {
        config.max_idle_timeout(Some(timeout));
    }
    config
}

async fn accept_loop(endpoint: quinn::Endpoint, handler: JoinHandler) {
    let working = Rc::new(Cell::new(0usize));
    while let Some(incoming) = endpoint.accept().await {
        if working.get() >= MAX_JOINS_IN_FLIGHT {
            incoming.refuse();
            continue;
        }
        working.set(working.get() + 1);
        let (handler, working) = (Rc::clone(&handler), Rc::clone(&working));
        tokio::task::spawn_local(async move {
            let from = incoming.remote_address();
            match tokio::time::timeout(JOIN_TIMEOUT, exchange(incoming, handler)).await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => tracing::info!(%from, %why, "join failed"),
                Err(_) => tracing::info!(%from, "join took too long"),
            }
            working.set(working.get() - 1);
        });
    }
}

async fn exchange(incoming: quinn::Incoming, handler: JoinHandler) -> Result<(), String> {
    let from = incoming.remote_address();
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let connection = incoming.accept().map_err(|e| text(&e))?.await.map_err(|e| text(&e))?;
    let (mut sink, mut source) = connection.accept_bi().await.map_err(|e| text(&e))?;
    let bytes = source.read_to_end(MAX_JOIN_MESSAGE_BYTES).await.map_err(|e| text(&e))?;
    let reply = match decode_hello::<JoinRequest>(&bytes) {
        Ok(request) => handler(request, from).await,
        Err(error) => JoinReply::Refused(ErrorKind::Refused(error.to_string())),
    };
    if let JoinReply::Refused(why) = &reply {
        tracing::info!(%from, %why, "refused to let a process join");
        tokio::time::sleep(PAUSE_AFTER_REFUSAL).await;
    }
    sink.write_all(&encode_hello(&reply)).await.map_err(|e| text(&e))?;
    sink.finish().map_err(|e| text(&e))?;
    // The joining side closes when it has the reply.
    connection.closed().await;
    Ok(())
}

/// What a joining process says about itself.
#[derive(Clone, Debug, Default)]
pub struct JoinAs {
    pub name: String,
    /// For nodes.
    pub control_address: Option<SocketAddr>,
    pub data_address: Option<SocketAddr>,
    pub failure_domain: Vec<String>,
}

/// What joining yields.
#[derive(Clone, Debug)]
pub struct Joined {
    pub cluster: ClusterId,
    /// For nodes.
    pub node: Option<NodeId>,
    pub credentials: Credentials,
    pub control_addresses: Vec<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("the token holds no address")]
    NoAddress,
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("{address}: {source}")]
    Connect { address: SocketAddr, source: ConnectError },
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error("{0}")]
    Refused(ErrorKind),
    #[error("the authority that answered is not the one in the token")]
    WrongAuthority,
    #[error(transparent)]
    Credentials(#[from] CaError),
    #[error("the certificate is for another cluster or node than the reply says")]
    Inconsistent,
}

/// Joins the cluster of the token: tries its addresses in turn until one answers. Sends from `local_ip`.
///
/// # Errors
/// See [`JoinError`]. Nothing was written anywhere.
pub async fn join(local_ip: IpAddr, token: &Token, who: &JoinAs) -> Result<Joined, JoinError> {
    let key = MemberKey::generate()?;
    let request = JoinRequest {
        protocol_version: weft_proto::PROTOCOL_VERSION,
        token: token.to_text(),
        signing_request: key.signing_request()?,
        name: who.name.clone(),
        control_address: who.control_address,
        data_address: who.data_address,
        failure_domain: who.failure_domain.clone(),
    };
    let request = encode_hello(&request);
    let mut last = JoinError::NoAddress;
    for address in &token.addresses {
        match ask(local_ip, *address, token, &request).await {
            Ok(reply) => return accept_reply(reply, key, token),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn accept_reply(reply: JoinReply, key: MemberKey, token: &Token) -> Result<Joined, JoinError> {
    match reply {
        JoinReply::Refused(why) => Err(JoinError::Refused(why)),
        JoinReply::Accepted { cluster, node, certificate, authority, control_addresses } => {
            if fingerprint(&authority) != token.authority_fingerprint {
                return Err(JoinError::WrongAuthority);
            }
            let credentials = key.into_credentials(&certificate, &authority)?;
            let identity = credentials.identity();
            if identity.cluster != cluster || identity.as_node() != node {
                return Err(JoinError::Inconsistent);
            }
            Ok(Joined { cluster, node, credentials, control_addresses })
        }
    }
}

async fn ask(local_ip: IpAddr, address: SocketAddr, token: &Token, request: &[u8]) -> Result<JoinReply, JoinError> {
    let tls = |error: &dyn std::fmt::Display| BindError::Tls(error.to_string());
    let local = SocketAddr::new(local_ip, 0);
    let in_use = |source| BindError::Socket { address: local, source };
    let crypto = QuicClientConfig::try_from(join_client_tls(token.authority_fingerprint).map_err(|e| tls(&e))?)
        .map_err(|e| tls(&e))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(small_transport()));
    let runtime = Arc::new(quinn::TokioRuntime);
    let socket = bind_socket(local).map_err(in_use)?;
    let endpoint = quinn::Endpoint::new(quinn::EndpointConfig::default(), None, socket, runtime).map_err(in_use)?;

    let failed = |source| JoinError::Connect { address, source };
    let timed_out = |after: Duration| {
        failed(ConnectError::TimedOut { address, after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX) })
    };
    let lane = |error: &dyn std::fmt::Display| failed(ConnectError::Lane(error.to_string()));
    let connecting = endpoint.connect_with(config, address, "weft").map_err(|e| lane(&e))?;
    let connection = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_| timed_out(CONNECT_TIMEOUT))?
        .map_err(|e| lane(&e))?;
    let exchange = async {
        let (mut sink, mut source) = connection.open_bi().await.map_err(|e| lane(&e))?;
        sink.write_all(request).await.map_err(|e| lane(&e))?;
        sink.finish().map_err(|e| lane(&e))?;
        let reply = source.read_to_end(MAX_JOIN_MESSAGE_BYTES).await.map_err(|e| lane(&e))?;
        Ok(decode_hello::<JoinReply>(&reply)?)
    };
    let reply = tokio::time::timeout(JOIN_TIMEOUT, exchange).await.unwrap_or_else(|_| Err(timed_out(JOIN_TIMEOUT)));
    connection.close(quinn::VarInt::from_u32(0), b"done");
    let _ = tokio::time::timeout(Duration::from_millis(100), endpoint.wait_idle()).await;
    reply
}
