//! A lane: a few ordered byte streams, each both ways, to one authenticated peer.
//!
//! Responsible for: what a transport has to offer so that [`crate::Connection`] can run over it. QUIC implements it
//! ([`crate::quic`]), memory does ([`crate::memory`]), TLS over TCP could.
//! Guarantees asked of an implementation: bytes of a stream arrive in order and unchanged or the stream fails; streams
//! do not block one another; `peer` is authenticated.

use crate::error::CloseReason;
use crate::identity::PeerIdentity;
use bytes::Bytes;
use std::future::Future;
use std::net::SocketAddr;

/// The long-lived streams of a connection. A stream per request was measured ten times slower.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Channel {
    /// Requests and replies with little data, and control messages.
    Small = 0,
    /// Messages that must arrive in the order sent, of any size: the entries to one backup (design 5.2).
    Ordered = 1,
    /// Requests and replies with at least [`BULK_BYTES`] of data.
    Bulk = 2,
}

/// Payloads of this size and up go to [`Channel::Bulk`], so that they do not delay small ones.
pub const BULK_BYTES: usize = 64 << 10;

impl Channel {
    pub const ALL: [Self; 3] = [Self::Small, Self::Ordered, Self::Bulk];

    /// Where a message goes that may go anywhere.
    #[must_use]
    pub const fn for_size(payload_bytes: usize) -> Self {
        if payload_bytes >= BULK_BYTES { Self::Bulk } else { Self::Small }
    }

    pub(crate) fn from_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|c| *c as u64 == number)
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// Small messages overtake large ones on the way out.
    pub(crate) const fn priority(self) -> i32 {
        match self {
            Self::Small => 1,
            Self::Ordered | Self::Bulk => 0,
        }
    }
}

/// How a network path is doing.
#[derive(Clone, Copy, Debug)]
pub struct LaneStatistics {
    /// Packets received so far, keep-alives included: one that grows shows a live peer.
    pub received_packets: u64,
    pub lost_packets: u64,
    pub round_trip: std::time::Duration,
    pub congestion_window_bytes: u64,
    /// Bytes of the largest packet that the path is known to carry.
    pub mtu: u16,
}

/// Receiving half of a stream.
pub trait Source: 'static {
    /// Fills the front of `pieces` with what has arrived, waiting for the first; `Ok(0)` at the end of the stream.
    fn read(&mut self, pieces: &mut [Bytes]) -> impl Future<Output = Result<usize, CloseReason>>;
}

/// Sending half of a stream.
pub trait Sink: 'static {
    /// Hands all pieces over, in order, waiting while the stream's buffer is full.
    fn write_all(&mut self, pieces: &mut [Bytes]) -> impl Future<Output = Result<(), CloseReason>>;
    /// Where the transport knows priorities.
    fn set_priority(&self, priority: i32);
}

pub trait Lane: 'static {
    type Source: Source;
    type Sink: Sink;

    /// Who is at the other end, proven.
    fn peer(&self) -> &PeerIdentity;
    fn remote_address(&self) -> Option<SocketAddr>;
    /// `None` where there is no network to measure.
    fn statistics(&self) -> Option<LaneStatistics>;
    fn open(&self) -> impl Future<Output = Result<(Self::Sink, Self::Source), CloseReason>>;
    fn accept(&self) -> impl Future<Output = Result<(Self::Sink, Self::Source), CloseReason>>;
    /// Ends the lane at once, telling the peer why.
    fn close(&self, reason: &str);
    /// Waits until the lane has ended and says why.
    fn closed(&self) -> impl Future<Output = CloseReason>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_go_to_the_bulk_channel_from_64_kib_on() {
        assert_eq!(Channel::for_size(0), Channel::Small);
        assert_eq!(Channel::for_size(BULK_BYTES - 1), Channel::Small);
        assert_eq!(Channel::for_size(BULK_BYTES), Channel::Bulk);
    }

    #[test]
    fn channels_are_told_apart_by_their_number() {
        for channel in Channel::ALL {
            assert_eq!(Channel::from_number(channel as u64), Some(channel));
            assert_eq!(Channel::ALL[channel.index()], channel);
        }
        assert_eq!(Channel::from_number(3), None);
    }
}
