//! What a handler or a caller gets: a decoded-on-demand header and the raw payload behind it.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use weft_proto::frame::{FrameError, Service, decode_header};

/// A received request, one-way message or reply.
#[derive(Clone, Debug)]
pub struct Message {
    pub service: Service,
    pub header: Bytes,
    pub payload: Bytes,
}

impl Message {
    /// # Errors
    /// When the header is not exactly one `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        decode_header(&self.header)
    }
}

/// Bytes to send behind a header, in one piece or many; they are not copied together.
#[derive(Clone, Debug, Default)]
pub enum Payload {
    #[default]
    None,
    One(Bytes),
    Many(Vec<Bytes>),
}

impl Payload {
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(bytes) => bytes.len(),
            Self::Many(parts) => parts.iter().map(Bytes::len).sum(),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::None } else { Self::One(bytes) }
    }
}

impl From<Vec<Bytes>> for Payload {
    fn from(parts: Vec<Bytes>) -> Self {
        Self::Many(parts)
    }
}

impl From<()> for Payload {
    fn from((): ()) -> Self {
        Self::None
    }
}
