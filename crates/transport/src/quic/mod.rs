//! QUIC: one UDP socket for everything in and out, mutual TLS 1.3, the lane over a quinn connection.

mod config;
mod endpoint;
mod lane;
mod tls;

pub use endpoint::{BindError, DEFAULT_MTU, Endpoint, EndpointConfig, MAX_MTU};

pub(crate) use config::bind_socket;
pub(crate) use tls::{join_client_tls, join_server_tls};
