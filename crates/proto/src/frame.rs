//! The frame: what one message looks like on a stream.
//!
//! Layout, little endian: `header_len: u32, payload_len: u32, kind: u8, reserved: [u8; 3], correlation: u64`, then the
//! header (postcard), then the payload (raw bytes). The payload is kept apart from the header so that block data are
//! never copied through a serializer.
