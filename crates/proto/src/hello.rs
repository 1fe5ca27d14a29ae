//! The first message each way on a connection: who speaks, of which cluster, in which version of the protocol.
//!
//! Its first eight bytes (`WEFT`, version) are the same in every version for ever, so that a refusal can name both.

use crate::PROTOCOL_VERSION;
use crate::frame::{FrameError, decode_header};
use serde::{Deserialize, Serialize};
use weft_types::{ClusterId, Incarnation, NodeId, SessionId};

const MAGIC: [u8; 4] = *b"WEFT";

/// As whom a peer speaks. It has to agree with the peer's certificate.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum HelloRole {
    Node {
        node: NodeId,
        /// Zero before the process has registered.
        incarnation: Incarnation,
    },
    Client {
        /// None before a session was opened.
        session: Option<SessionId>,
    },
    Admin,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Hello {
    pub cluster: ClusterId,
    pub role: HelloRole,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum HelloReply {
    Welcome(Hello),
    Refused(String),
}

/// A hello of another version, or none at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HelloError {
    #[error(
        "this side speaks protocol version {ours} and the peer version {theirs}: run the same release of weft on both"
    )]
    OtherVersion { ours: u32, theirs: u32 },
    #[error("the peer does not speak the Weft protocol")]
    NotWeft,
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Magic, version, postcard body.
#[must_use]
pub fn encode_hello<T: Serialize>(body: &T) -> Vec<u8> {
    encode_hello_as(PROTOCOL_VERSION, body)
}

/// The same under a given version; what an older or newer peer would send.
#[must_use]
pub fn encode_hello_as<T: Serialize>(version: u32, body: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&version.to_le_bytes());
    // Serializing a plain value into a vector cannot fail; an empty body would be refused by the peer.
    out.extend_from_slice(&postcard::to_stdvec(body).unwrap_or_default());
    out
}

/// # Errors
/// When the bytes are no hello, or one of another version.
pub fn decode_hello<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, HelloError> {
    let (magic, rest) = bytes.split_at_checked(4).ok_or(HelloError::NotWeft)?;
    let (version, body) = rest.split_at_checked(4).ok_or(HelloError::NotWeft)?;
    if magic != MAGIC {
        return Err(HelloError::NotWeft);
    }
    let theirs = u32::from_le_bytes([version[0], version[1], version[2], version[3]]);
    if theirs != PROTOCOL_VERSION {
        return Err(HelloError::OtherVersion { ours: PROTOCOL_VERSION, theirs });
    }
    Ok(decode_header(body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_of_another_version_is_refused_by_a_sentence_that_names_both() {
        let hello = Hello { cluster: ClusterId(1), role: HelloRole::Admin };
        assert_eq!(decode_hello::<Hello>(&encode_hello(&hello)), Ok(hello));
        let refused = decode_hello::<Hello>(&encode_hello_as(PROTOCOL_VERSION + 1, &hello)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!(
                "this side speaks protocol version {PROTOCOL_VERSION} and the peer version {}: run the same release of weft \
                 on both",
                PROTOCOL_VERSION + 1
            )
        );
        assert_eq!(decode_hello::<Hello>(b"HTTP/1.1"), Err(HelloError::NotWeft));
    }
}
