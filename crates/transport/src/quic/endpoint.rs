//! An endpoint: one UDP socket, bound to the configured address, from which peers are dialed and on which they arrive.

use super::config::{STREAM_WINDOW_BYTES, bind_socket, crypto_limits, transport_config};
use super::lane::{QuicLane, close_connection, close_reason};
use super::tls::{member_client_tls, member_server_tls};
use crate::ca::{Credentials, identity_of};
use crate::connection::{Connection, Handler};
use crate::error::ConnectError;
use crate::handshake;
use crate::identity::{PeerIdentity, PeerRole};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::HashedConnectionIdGenerator;
use quinn_proto::crypto::{CryptoError, HmacKey};
use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use tokio::task::JoinHandle;
use weft_proto::hello::Hello;
use weft_types::limits::{CONNECT_TIMEOUT, MAX_CONNECTIONS_PER_ENDPOINT, MAX_HANDSHAKES_PER_ENDPOINT};

/// quinn sends up to ten packets in one segmentation batch, and a batch over 64 KiB vanishes.
pub const MAX_MTU: u16 = 6500;
pub const DEFAULT_MTU: u16 = 6000;

#[derive(Clone, Copy, Debug)]
pub struct EndpointConfig {
    /// Address of the socket, for traffic in and out.
    pub bind: SocketAddr,
    /// Largest UDP payload to send; what a path really carries is discovered up to this. Between peers on the same
    /// machine it is used from the start.
    pub mtu: u16,
    /// Received on one stream and not read yet: memory, for each peer that sends faster than is read.
    pub window_bytes: u32,
}

impl EndpointConfig {
    #[must_use]
    pub const fn new(bind: SocketAddr) -> Self {
        Self { bind, mtu: DEFAULT_MTU, window_bytes: STREAM_WINDOW_BYTES }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot bind {address}: {source}")]
    Socket { address: SocketAddr, source: io::Error },
    #[error("an MTU is between 1200 and {MAX_MTU} bytes, not {0}")]
    Mtu(u16),
    #[error("TLS: {0}")]
    Tls(String),
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Endpoint {
    inner: quinn::Endpoint,
    near: Configs,
    far: Configs,
    local_ip: IpAddr,
}

/// Settings towards peers on this machine, or elsewhere.
#[derive(Clone)]
struct Configs {
    client: quinn::ClientConfig,
    server: Arc<quinn::ServerConfig>,
}

impl Endpoint {
    /// Binds the socket. Must run within a tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be bound or the credentials cannot be used.
    pub fn bind(config: EndpointConfig, credentials: &Credentials) -> Result<Self, BindError> {
        if !(1200..=MAX_MTU).contains(&config.mtu) {
            return Err(BindError::Mtu(config.mtu));
        }
        let in_use = |source| BindError::Socket { address: config.bind, source };
        let socket = bind_socket(config.bind).map_err(in_use)?;
        let local = socket.local_addr().map_err(in_use)?;
        let endpoint_config = endpoint_config(config.mtu, credentials, local);
        let configs = |same_machine| configs(config, same_machine, credentials);
        let (near, far) = (configs(true)?, configs(false)?);
        let server = Some(far.server.as_ref().clone());
        let inner =
            quinn::Endpoint::new(endpoint_config, server, socket, Arc::new(quinn::TokioRuntime)).map_err(in_use)?;
        Ok(Self { inner, near, far, local_ip: local.ip() })
    }

    /// # Errors
    /// When the socket is gone.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn configs_for(&self, peer: IpAddr) -> &Configs {
        if peer.is_loopback() || peer == self.local_ip { &self.near } else { &self.far }
    }

    /// Dials. `expect`, if given, is who has to be there.
    ///
    /// # Errors
    /// See [`ConnectError`]; never takes longer than `CONNECT_TIMEOUT`.
    pub async fn connect(
        &self,
        address: SocketAddr,
        hello: Hello,
        expect: Option<&PeerRole>,
        handler: Rc<dyn Handler>,
    ) -> Result<Connection, ConnectError> {
        let dialing = async {
            let client = self.configs_for(address.ip()).client.clone();
            // The name goes unused: identity is in the certificate, and checked there.
            let connecting = self
                .inner
                .connect_with(client, address, "weft")
                .map_err(|error| ConnectError::Lane(error.to_string()))?;
            let connection = connecting.await.map_err(|error| ConnectError::Closed(close_reason(error)))?;
            let lane = lane_of(connection)?;
            handshake::dial(lane, hello, expect, handler).await
        };
        let after_ms = u64::try_from(CONNECT_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        tokio::time::timeout(CONNECT_TIMEOUT, dialing)
            .await
            .unwrap_or(Err(ConnectError::TimedOut { address, after_ms }))
    }

    /// Accepts connections until the endpoint is closed or the task is aborted. `hello` is read for each, so it may
    /// change (a node learns its incarnation).
    #[must_use]
    pub fn serve(&self, hello: Rc<Cell<Hello>>, handler: Rc<dyn Handler>) -> JoinHandle<()> {
        let endpoint = self.clone();
        tokio::task::spawn_local(async move {
            let handshakes = Rc::new(Cell::new(0usize));
            while let Some(incoming) = endpoint.inner.accept().await {
                // Bounds on peers that have proven nothing yet.
                if handshakes.get() >= MAX_HANDSHAKES_PER_ENDPOINT
                    || endpoint.inner.open_connections() >= MAX_CONNECTIONS_PER_ENDPOINT
                {
                    incoming.refuse();
                    continue;
                }
                let server = Arc::clone(&endpoint.configs_for(incoming.remote_address().ip()).server);
                let (hello, handler, handshakes) = (hello.get(), Rc::clone(&handler), Rc::clone(&handshakes));
                handshakes.set(handshakes.get() + 1);
                tokio::task::spawn_local(async move {
                    let from = incoming.remote_address();
                    let accepted = tokio::time::timeout(CONNECT_TIMEOUT, accept_one(incoming, server, hello, handler));
                    match accepted.await {
                        Ok(Ok(_)) => {}
                        Ok(Err(error)) => tracing::info!(%from, %error, "turned a peer away"),
                        Err(_) => tracing::info!(%from, "a peer did not finish its handshake in time"),
                    }
                    handshakes.set(handshakes.get() - 1);
                });
            }
        })
    }

    /// Closes all connections, telling peers why, and waits briefly until they have been told.
    pub async fn close(&self, reason: &str) {
        self.inner.close(quinn::VarInt::from_u32(0), reason.as_bytes());
        let _ = tokio::time::timeout(std::time::Duration::from_millis(200), self.inner.wait_idle()).await;
    }
}

async fn accept_one(
    incoming: quinn::Incoming,
    server: Arc<quinn::ServerConfig>,
    hello: Hello,
    handler: Rc<dyn Handler>,
) -> Result<Connection, ConnectError> {
    let closed = |error| ConnectError::Closed(close_reason(error));
    let connection = incoming.accept_with(server).map_err(closed)?.await.map_err(closed)?;
    let lane = lane_of(connection)?;
    handshake::accept(lane, hello, handler).await
}

/// The lane of an authenticated connection: the peer is who its certificate says.
fn lane_of(connection: quinn::Connection) -> Result<QuicLane, ConnectError> {
    let peer = peer_identity(&connection).inspect_err(|error| close_connection(&connection, &error.to_string()))?;
    Ok(QuicLane { connection, peer })
}

fn peer_identity(connection: &quinn::Connection) -> Result<PeerIdentity, ConnectError> {
    let chain = connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<rustls_pki_types::CertificateDer<'static>>>().ok())
        .ok_or_else(|| ConnectError::Lane("the peer showed no certificate".to_owned()))?;
    let leaf = chain.first().ok_or_else(|| ConnectError::Lane("the peer showed no certificate".to_owned()))?;
    identity_of(leaf).map_err(|error| ConnectError::Lane(error.to_string()))
}

/// Settings that stay the same over restarts of the process, so that a restarted one can tell its peers at once that
/// their connections are gone (stateless reset, RFC 9000 section 10.3), instead of leaving them to their idle timeout.
fn endpoint_config(mtu: u16, credentials: &Credentials, local: SocketAddr) -> quinn::EndpointConfig {
    let key = ResetKey(credentials.derive_secret(&format!("stateless reset {local}")));
    let ids = credentials.derive_secret(&format!("connection ids {local}"));
    let id_key = u64::from_le_bytes([ids[0], ids[1], ids[2], ids[3], ids[4], ids[5], ids[6], ids[7]]);
    let mut config = quinn::EndpointConfig::new(Arc::new(key));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
    // The bounds were checked against what the setter accepts.
    let _ = config.max_udp_payload_size(mtu);
    config
}

struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // Comparing two hash values of this type takes constant time.
        let given: [u8; blake3::OUT_LEN] = signature.try_into().map_err(|_| CryptoError)?;
        if blake3::keyed_hash(&self.0, data) == blake3::Hash::from_bytes(given) { Ok(()) } else { Err(CryptoError) }
    }
}

fn configs(config: EndpointConfig, same_machine: bool, credentials: &Credentials) -> Result<Configs, BindError> {
    let tls = |error: &dyn std::fmt::Display| BindError::Tls(error.to_string());
    let mut transport = transport_config(config.mtu, config.window_bytes, same_machine);
    crypto_limits(&mut transport);
    let transport = Arc::new(transport);
    let client_tls = member_client_tls(credentials).map_err(|e| tls(&e))?;
    let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(client_tls).map_err(|e| tls(&e))?));
    client.transport_config(Arc::clone(&transport));
    let server_tls = member_server_tls(credentials).map_err(|e| tls(&e))?;
    let mut server =
        quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server_tls).map_err(|e| tls(&e))?));
    server.transport_config(transport).migration(false).max_incoming(MAX_HANDSHAKES_PER_ENDPOINT);
    Ok(Configs { client, server: Arc::new(server) })
}
