//! Tuning of QUIC for a local network, with the reason for each value, and the UDP socket under it.

use quinn::congestion::CubicConfig;
use quinn::{MtuDiscoveryConfig, TransportConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use weft_types::limits::{CONNECTION_IDLE_TIMEOUT, CONNECTION_KEEP_ALIVE};

/// Round trips within a rack take tens of microseconds; until measured, one millisecond keeps the first retransmission
/// of a lost handshake packet far below the connect timeout.
const INITIAL_RTT: Duration = Duration::from_millis(1);
/// Larger than bandwidth times delay of any local network (100 Gbit/s times 1 ms is 12 MiB), so that flow control is
/// never what limits; readers drain at once.
pub const STREAM_WINDOW_BYTES: u32 = 16 << 20;
/// Of a connection's streams, those that carry much at the same time.
const STREAMS_AT_ONCE: u32 = 2;
/// Sent and not yet acknowledged; keeps the data alive, so it is memory.
const SEND_WINDOW_BYTES: u64 = 8 << 20;
/// A local network has no slow start to respect: begin with what the receive buffer of a socket holds.
const INITIAL_CONGESTION_WINDOW_BYTES: u64 = 1 << 20;
/// Both directions of the socket. The kernel may grant less.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Packets that any path carries (RFC 9000).
const SAFE_MTU: u16 = 1200;

/// `initial_mtu` above the safe one is for paths that are known to carry it: the same machine.
pub(crate) fn transport_config(mtu: u16, window_bytes: u32, same_machine: bool) -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(mtu);
    let mut cubic = CubicConfig::default();
    cubic.initial_window(INITIAL_CONGESTION_WINDOW_BYTES);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(crate::lane::Channel::ALL.len() as u32))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(window_bytes))
        .receive_window(VarInt::from_u32(window_bytes.saturating_mul(STREAMS_AT_ONCE)))
        .send_window(SEND_WINDOW_BYTES)
        .initial_rtt(INITIAL_RTT)
        .keep_alive_interval(Some(CONNECTION_KEEP_ALIVE))
        .congestion_controller_factory(Arc::new(cubic))
        .mtu_discovery_config(Some(discovery));
    if let Ok(timeout) = CONNECTION_IDLE_TIMEOUT.try_into() {
        config.max_idle_timeout(Some(timeout));
    }
    config.initial_mtu(if same_machine { mtu.max(SAFE_MTU) } else { SAFE_MTU });
    config
}

/// Limits for peers that have proven nothing: little memory, little time.
pub(crate) fn crypto_limits(config: &mut TransportConfig) {
    config.crypto_buffer_size(16 << 10);
}

/// A UDP socket bound to exactly this address, with large buffers: a burst of a window must fit while the single
/// thread is busy elsewhere.
pub(crate) fn bind_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // A refusal of the larger size is no error: the kernel then grants its maximum.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES).is_err() {
        socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    }
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
