//! The lane over a quinn connection. The only file that turns quinn's errors into ours.

use crate::error::CloseReason;
use crate::identity::PeerIdentity;
use crate::lane::{Lane, LaneStatistics, Sink, Source};
use bytes::Bytes;
use quinn::{ConnectionError, ReadError, VarInt, WriteError};
use std::net::SocketAddr;

/// Longest reason sent with a close: it has to fit into one packet.
const MAX_REASON_BYTES: usize = 512;

pub(crate) struct QuicLane {
    pub(crate) connection: quinn::Connection,
    pub(crate) peer: PeerIdentity,
}

pub(crate) struct QuicSink(quinn::SendStream);
pub(crate) struct QuicSource(pub(super) quinn::RecvStream);

pub(crate) fn close_reason(error: ConnectionError) -> CloseReason {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            CloseReason::Peer(String::from_utf8_lossy(&close.reason).into_owned())
        }
        ConnectionError::TimedOut => CloseReason::Silent,
        ConnectionError::Reset => CloseReason::Reset,
        ConnectionError::LocallyClosed => CloseReason::Here("endpoint closed".to_owned()),
        other => CloseReason::Lane(other.to_string()),
    }
}

pub(crate) fn close_connection(connection: &quinn::Connection, reason: &str) {
    let mut end = reason.len().min(MAX_REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    connection.close(VarInt::from_u32(0), &reason.as_bytes()[..end]);
}

impl Source for QuicSource {
    async fn read(&mut self, pieces: &mut [Bytes]) -> Result<usize, CloseReason> {
        match self.0.read_chunks(pieces).await {
            Ok(filled) => Ok(filled.unwrap_or(0)),
            Err(ReadError::ConnectionLost(error)) => Err(close_reason(error)),
            Err(error) => Err(CloseReason::Lane(error.to_string())),
        }
    }
}

impl Sink for QuicSink {
    async fn write_all(&mut self, pieces: &mut [Bytes]) -> Result<(), CloseReason> {
        match self.0.write_all_chunks(pieces).await {
            Ok(()) => Ok(()),
            Err(WriteError::ConnectionLost(error)) => Err(close_reason(error)),
            Err(error) => Err(CloseReason::Lane(error.to_string())),
        }
    }

    fn set_priority(&self, priority: i32) {
        // Fails only on a stream that has ended, which its reader reports.
        let _ = self.0.set_priority(priority);
    }
}

impl Lane for QuicLane {
    type Source = QuicSource;
    type Sink = QuicSink;

    fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    fn remote_address(&self) -> Option<SocketAddr> {
        Some(self.connection.remote_address())
    }

    fn statistics(&self) -> Option<LaneStatistics> {
        let stats = self.connection.stats();
        Some(LaneStatistics {
            received_packets: stats.udp_rx.datagrams,
            lost_packets: stats.path.lost_packets,
            round_trip: stats.path.rtt,
            congestion_window_bytes: stats.path.cwnd,
            mtu: stats.path.current_mtu,
        })
    }

    async fn open(&self) -> Result<(QuicSink, QuicSource), CloseReason> {
        let (sink, source) = self.connection.open_bi().await.map_err(close_reason)?;
        Ok((QuicSink(sink), QuicSource(source)))
    }

    async fn accept(&self) -> Result<(QuicSink, QuicSource), CloseReason> {
        let (sink, source) = self.connection.accept_bi().await.map_err(close_reason)?;
        Ok((QuicSink(sink), QuicSource(source)))
    }

    fn close(&self, reason: &str) {
        close_connection(&self.connection, reason);
    }

    async fn closed(&self) -> CloseReason {
        close_reason(self.connection.closed().await)
    }
}
