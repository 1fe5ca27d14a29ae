//! What can go wrong with a connection, a call and a message. Facts inside; text only for logs.

use std::net::SocketAddr;
use weft_proto::frame::{FrameError, Refusal};
use weft_proto::hello::HelloError;

/// Why a connection could not be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no answer from {address} within {after_ms} ms")]
    TimedOut { address: SocketAddr, after_ms: u64 },
    #[error("cannot connect: {0}")]
    Lane(String),
    /// Other version, other cluster, or not the peer that its certificate names. Trying again does not help.
    #[error("refused by the peer: {0}")]
    Refused(String),
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error("expected {expected} there and found {found}")]
    WrongPeer { expected: String, found: String },
    #[error("the peer is of another cluster")]
    OtherCluster,
    #[error("the peer's certificate is {certificate}, but it speaks as {claimed}")]
    Impostor { certificate: String, claimed: String },
    #[error("connection closed during the handshake: {0}")]
    Closed(CloseReason),
}

/// Why a connection ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CloseReason {
    #[error("closed here: {0}")]
    Here(String),
    #[error("closed by the peer: {0}")]
    Peer(String),
    /// Nothing was heard for the idle timeout: the peer is dead or cut off.
    #[error("the peer was silent for too long")]
    Silent,
    /// The peer's process was restarted and does not know this connection.
    #[error("the peer does not know this connection any more")]
    Reset,
    #[error("the peer broke the protocol: {0}")]
    Protocol(#[from] ProtocolError),
    #[error("transport failed: {0}")]
    Lane(String),
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProtocolError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("a frame of kind {0} where none is allowed")]
    Unexpected(&'static str),
    #[error("a stream for the unknown channel {0}")]
    UnknownChannel(u64),
    #[error("a second stream for a channel")]
    ChannelTwice,
    #[error("a stream ended while the connection goes on")]
    StreamEnded,
}

/// Why a call has no reply.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallError {
    /// Never sent.
    #[error(transparent)]
    NotSent(#[from] SendError),
    /// The connection ended after the request was queued: the peer may or may not have handled it.
    #[error("connection ended before the answer: {0}")]
    Closed(CloseReason),
    #[error("no answer within {waited_ms} ms")]
    DeadlinePassed { waited_ms: u64 },
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the reply does not decode")]
    MalformedReply,
}

/// Why a message was not queued. It has not been and will not be sent.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    #[error("not connected")]
    Down,
    #[error("the send queue is full")]
    QueueFull,
    #[error("too many calls in flight")]
    TooManyInFlight,
    #[error(transparent)]
    TooLong(#[from] FrameError),
}

impl CallError {
    /// Whether the request certainly was not handled.
    #[must_use]
    pub const fn was_not_handled(&self) -> bool {
        matches!(self, Self::NotSent(_) | Self::Refused(Refusal::NoSuchService | Refusal::Busy | Refusal::Malformed))
    }

    /// Whether the two sides do not understand each other: the same request would fare the same again.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::MalformedReply
                | Self::NotSent(SendError::TooLong(_))
                | Self::Refused(Refusal::NoSuchService | Refusal::Malformed)
        )
    }
}
