//! The frame: what one message looks like on a stream.
//!
//! Layout, little endian: `header_len: u32, payload_len: u32, kind: u8, service: u8, reserved: [u8; 2], correlation:
//! u64`, then the header (postcard), then the payload (raw bytes). The payload is kept apart from the header so that
//! block data are never copied through a serializer.
//!
//! Guarantees: decoding never panics; a length is checked against the limits before a byte is allocated for it; a
//! received frame lives in one buffer of exactly its size, so that keeping its payload pins nothing else.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use weft_types::limits::{MAX_FRAME_HEADER_BYTES, MAX_FRAME_PAYLOAD_BYTES};

/// Bytes before the header of a frame.
pub const FRAME_PREFIX_BYTES: usize = 20;

/// What a frame is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// First frame of a connection, by the side that dialed.
    Hello = 1,
    /// Answer to it.
    HelloReply = 2,
    /// First frame of every further stream: which channel it carries (in `correlation`).
    Channel = 3,
    /// Wants exactly one `Reply` or `Refusal` with the same correlation id.
    Request = 4,
    Reply = 5,
    /// Wants no answer.
    OneWay = 6,
    /// The request was not handled; the header is a [`Refusal`].
    Refusal = 7,
}

impl FrameKind {
    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Hello,
            2 => Self::HelloReply,
            3 => Self::Channel,
            4 => Self::Request,
            5 => Self::Reply,
            6 => Self::OneWay,
            7 => Self::Refusal,
            _ => return None,
        })
    }
}

/// Which family of messages the header belongs to; tells the receiver what to decode it as.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Service {
    /// The connection itself.
    Transport = 0,
    /// [`crate::control`].
    Control = 1,
    /// [`crate::data`].
    Data = 2,
    /// [`crate::replication`].
    Replication = 3,
    /// Messages of the Raft group.
    Raft = 4,
    /// [`crate::admin::JoinRequest`].
    Join = 5,
}

impl Service {
    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Transport,
            1 => Self::Control,
            2 => Self::Data,
            3 => Self::Replication,
            4 => Self::Raft,
            5 => Self::Join,
            _ => return None,
        })
    }
}

/// Why a request was answered by the transport and not by its handler.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the peer does not offer this service")]
    NoSuchService,
    #[error("the peer could not decode the request")]
    Malformed,
    #[error("the peer has too many requests in flight")]
    Busy,
    #[error("the peer gave the request up without an answer")]
    Dropped,
}

/// Bytes that are no frame. The connection they came on is closed with this as its reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame header of {bytes} bytes; {MAX_FRAME_HEADER_BYTES} are allowed")]
    HeaderTooLong { bytes: usize },
    #[error("a frame payload of {bytes} bytes; {MAX_FRAME_PAYLOAD_BYTES} are allowed")]
    PayloadTooLong { bytes: usize },
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    #[error("unknown service {0}")]
    UnknownService(u8),
    #[error("reserved bytes of a frame are not zero")]
    ReservedNotZero,
    #[error("a frame's header does not decode")]
    BadHeader,
    #[error("the stream ended within a frame")]
    Truncated,
}

/// The fixed first part of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FramePrefix {
    pub header_bytes: usize,
    pub payload_bytes: usize,
    pub kind: FrameKind,
    pub service: Service,
    pub correlation: u64,
}

impl FramePrefix {
    /// # Errors
    /// When the bytes are no prefix, or announce more than the limits allow.
    pub fn decode(bytes: &[u8; FRAME_PREFIX_BYTES]) -> Result<Self, FrameError> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let header_bytes = word(0) as usize;
        let payload_bytes = word(4) as usize;
        if header_bytes > MAX_FRAME_HEADER_BYTES {
            return Err(FrameError::HeaderTooLong { bytes: header_bytes });
        }
        if payload_bytes > MAX_FRAME_PAYLOAD_BYTES {
            return Err(FrameError::PayloadTooLong { bytes: payload_bytes });
        }
        let kind = FrameKind::from_byte(bytes[8]).ok_or(FrameError::UnknownKind(bytes[8]))?;
        let service = Service::from_byte(bytes[9]).ok_or(FrameError::UnknownService(bytes[9]))?;
        if bytes[10] != 0 || bytes[11] != 0 {
            return Err(FrameError::ReservedNotZero);
        }
        let correlation = u64::from(word(12)) | u64::from(word(16)) << 32;
        Ok(Self { header_bytes, payload_bytes, kind, service, correlation })
    }

    fn write(&self, out: &mut [u8]) {
        // Both lengths were checked against limits far below 2^32.
        out[0..4].copy_from_slice(&(self.header_bytes as u32).to_le_bytes());
        out[4..8].copy_from_slice(&(self.payload_bytes as u32).to_le_bytes());
        out[8] = self.kind as u8;
        out[9] = self.service as u8;
        out[10..12].copy_from_slice(&[0, 0]);
        out[12..20].copy_from_slice(&self.correlation.to_le_bytes());
    }
}

/// One received frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    pub kind: FrameKind,
    pub service: Service,
    pub correlation: u64,
    pub header: Bytes,
    pub payload: Bytes,
}

impl Frame {
    /// # Errors
    /// When the header is not exactly one `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        decode_header(&self.header)
    }
}

/// Decodes a frame header, within the bounds of `weft_types::codec`; trailing bytes are an error.
///
/// # Errors
/// When the header is not exactly one `T`.
pub fn decode_header<T: DeserializeOwned>(header: &[u8]) -> Result<T, FrameError> {
    weft_types::codec::decode(header).map_err(|_| FrameError::BadHeader)
}

/// Appends prefix and header of a frame to `out`. The payload, `payload_bytes` long, has to follow on the same stream.
///
/// # Errors
/// When header or payload are longer than the limits; `out` is then as it was.
pub fn encode<T: Serialize + ?Sized>(
    kind: FrameKind,
    service: Service,
    correlation: u64,
    header: &T,
    payload_bytes: usize,
    out: &mut BytesMut,
) -> Result<(), FrameError> {
    if payload_bytes > MAX_FRAME_PAYLOAD_BYTES {
        return Err(FrameError::PayloadTooLong { bytes: payload_bytes });
    }
    let start = out.len();
    out.put_bytes(0, FRAME_PREFIX_BYTES);
    let result = postcard::serialize_with_flavor(header, Appender(out)).is_ok();
    let header_bytes = out.len() - start - FRAME_PREFIX_BYTES;
    if !result || header_bytes > MAX_FRAME_HEADER_BYTES {
        out.truncate(start);
        return Err(FrameError::HeaderTooLong { bytes: header_bytes });
    }
    let prefix = FramePrefix { header_bytes, payload_bytes, kind, service, correlation };
    prefix.write(&mut out[start..start + FRAME_PREFIX_BYTES]);
    Ok(())
}

/// Lets postcard append to a `BytesMut`, whole slices at once.
struct Appender<'a>(&'a mut BytesMut);

impl postcard::ser_flavors::Flavor for Appender<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.put_u8(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Cuts a stream of bytes, in pieces of any size, into frames.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    prefix: [u8; FRAME_PREFIX_BYTES],
    prefix_filled: usize,
    body: Option<(FramePrefix, BytesMut)>,
}

impl FrameDecoder {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what it needs from the front of `input`; returns a frame as soon as one is complete. Call it again with
    /// the rest until it returns `None`.
    ///
    /// # Errors
    /// When the bytes are no frame. The decoder must not be used after that.
    pub fn push(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        if self.body.is_none() {
            let take = (FRAME_PREFIX_BYTES - self.prefix_filled).min(input.len());
            let (now, rest) = input.split_at(take);
            self.prefix[self.prefix_filled..self.prefix_filled + take].copy_from_slice(now);
            self.prefix_filled += take;
            *input = rest;
            if self.prefix_filled < FRAME_PREFIX_BYTES {
                return Ok(None);
            }
            let prefix = FramePrefix::decode(&self.prefix)?;
            self.body = Some((prefix, BytesMut::with_capacity(prefix.header_bytes + prefix.payload_bytes)));
        }
        let Some((prefix, body)) = self.body.as_mut() else { return Ok(None) };
        let take = (prefix.header_bytes + prefix.payload_bytes - body.len()).min(input.len());
        let (now, rest) = input.split_at(take);
        body.extend_from_slice(now);
        *input = rest;
        if body.len() < prefix.header_bytes + prefix.payload_bytes {
            return Ok(None);
        }
        let Some((prefix, body)) = self.body.take() else { return Ok(None) };
        self.prefix_filled = 0;
        let mut payload = body.freeze();
        let header = payload.split_to(prefix.header_bytes);
        let FramePrefix { kind, service, correlation, .. } = prefix;
        Ok(Some(Frame { kind, service, correlation, header, payload }))
    }

    /// Whether the bytes so far end on a frame boundary.
    #[must_use]
    pub const fn is_between_frames(&self) -> bool {
        self.prefix_filled == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (BytesMut, Vec<u8>) {
        let payload = vec![7u8; 5000];
        let mut out = BytesMut::new();
        encode(FrameKind::Request, Service::Data, 0x0102_0304_0506_0708, &(5u32, "abc"), payload.len(), &mut out)
            .unwrap();
        (out, payload)
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let (out, _) = sample();
        let expected: [u8; 25] =
            [5, 0, 0, 0, 0x88, 0x13, 0, 0, 4, 2, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, 5, 3, b'a', b'b', b'c'];
        assert_eq!(&out[..], &expected);
    }

    #[test]
    fn a_frame_reads_back_however_the_stream_is_cut() {
        let (mut out, payload) = sample();
        out.extend_from_slice(&payload);
        let one = out.clone();
        out.extend_from_slice(&one);
        for step in [1usize, 3, 19, 20, 21, 4096, 20_000] {
            let mut decoder = FrameDecoder::new();
            let mut frames = Vec::new();
            for piece in out.chunks(step) {
                let mut rest = piece;
                while let Some(frame) = decoder.push(&mut rest).unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames.len(), 2, "step {step}");
            assert!(decoder.is_between_frames());
            for frame in frames {
                assert_eq!(frame.kind, FrameKind::Request);
                assert_eq!(frame.correlation, 0x0102_0304_0506_0708);
                assert_eq!(frame.decode::<(u32, String)>(), Ok((5, "abc".to_owned())));
                assert_eq!(frame.payload, payload);
            }
        }
    }

    #[test]
    fn a_frame_without_header_and_payload_is_complete_with_its_prefix() {
        let mut out = BytesMut::new();
        encode(FrameKind::OneWay, Service::Raft, 1, &(), 0, &mut out).unwrap();
        assert_eq!(out.len(), FRAME_PREFIX_BYTES);
        let mut rest = &out[..];
        assert!(FrameDecoder::new().push(&mut rest).unwrap().is_some());
    }

    #[test]
    fn lengths_over_the_limits_are_refused_before_anything_is_allocated() {
        let (out, _) = sample();
        let mut long = out.clone();
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(FrameDecoder::new().push(&mut &long[..]), Err(FrameError::PayloadTooLong { .. })));
        let mut long = out.clone();
        long[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(FrameDecoder::new().push(&mut &long[..]), Err(FrameError::HeaderTooLong { .. })));
        let mut out = BytesMut::new();
        let refused = encode(FrameKind::Reply, Service::Data, 1, &(), MAX_FRAME_PAYLOAD_BYTES + 1, &mut out);
        assert!(matches!(refused, Err(FrameError::PayloadTooLong { .. })));
        assert!(out.is_empty());
    }

    #[test]
    fn unknown_kinds_services_and_reserved_bytes_are_refused() {
        let (out, _) = sample();
        let with = |at: usize, byte: u8| {
            let mut bytes = out.clone();
            bytes[at] = byte;
            FrameDecoder::new().push(&mut &bytes[..])
        };
        assert_eq!(with(8, 0), Err(FrameError::UnknownKind(0)));
        assert_eq!(with(8, 8), Err(FrameError::UnknownKind(8)));
        assert_eq!(with(9, 99), Err(FrameError::UnknownService(99)));
        assert_eq!(with(10, 1), Err(FrameError::ReservedNotZero));
    }

    #[test]
    fn a_header_with_trailing_bytes_is_refused() {
        assert_eq!(decode_header::<u8>(&[1, 2]), Err(FrameError::BadHeader));
        assert_eq!(decode_header::<u8>(&[1]), Ok(1));
    }
}
