//! Every message, with wrong bytes.

use crate::control::{ControlReply, ControlRequest};
use crate::data::{DataReply, DataRequest};
use crate::frame::{Frame, FrameDecoder, FrameKind, Refusal, Service, encode};
use crate::hello::{Hello, HelloReply, decode_hello, encode_hello};
use crate::replication::Envelope;
use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use weft_types::DataError;
use weft_types::arbitrary::value;
use weft_types::codec::decode;
use weft_types::fuzz::{Counting, Decoder, Outcome, message_limit_bytes, round_trip, run};
use weft_types::limits::{MAX_FRAME_HEADER_BYTES, MAX_FRAME_PAYLOAD_BYTES};

#[global_allocator]
static COUNTING: Counting = Counting;

/// The message, then a payload that has to fit what it says.
fn envelope(bytes: &[u8]) -> Outcome {
    if let Ok(mut envelope) = decode::<Envelope>(bytes) {
        for payload in [0, 4096, bytes.len()] {
            if envelope.message.attach_payload(Bytes::from(vec![0; payload])).is_ok()
                && envelope.message.payload_len() != payload
            {
                return Outcome::Broken(format!("{payload} bytes of payload became others"));
            }
        }
    }
    round_trip::<Envelope>(bytes)
}

fn hello<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &'static str) -> Decoder {
    fn run<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Outcome {
        let Ok(value) = decode_hello::<T>(bytes) else { return Outcome::Refused };
        match decode_hello::<T>(&encode_hello(&value)) {
            Ok(again) if again == value => Outcome::Accepted,
            other => Outcome::Broken(format!("{value:?} comes back as {other:?}")),
        }
    }
    fn examples<T: Serialize + DeserializeOwned>() -> Vec<Vec<u8>> {
        (0..100).filter_map(value::<T>).map(|value| encode_hello(&value)).collect()
    }
    Decoder { name, run: run::<T>, examples: examples::<T>, limit_bytes: message_limit_bytes, cost: 2 }
}

/// A stream in one piece and in pieces whose length follows from the bytes.
fn frames(bytes: &[u8]) -> Outcome {
    let whole = cut(bytes, usize::MAX);
    let piece = usize::from(bytes.first().copied().unwrap_or(0)) % 40 + 1;
    if cut(bytes, piece) != whole {
        return Outcome::Broken(format!("pieces of {piece} bytes give other frames"));
    }
    let Some(frames) = whole else { return Outcome::Refused };
    for frame in &frames {
        let mut again = BytesMut::new();
        let Ok(request) = frame.decode::<ControlRequest>() else { continue };
        let payload = frame.payload.len();
        if encode(frame.kind, frame.service, frame.correlation, &request, payload, &mut again).is_err() {
            return Outcome::Broken("a frame that was read cannot be written".to_owned());
        }
        again.extend_from_slice(&frame.payload);
        let read = cut(&again, usize::MAX);
        if read.as_deref().and_then(<[Frame]>::first).map(|f| &f.payload) != Some(&frame.payload) {
            return Outcome::Broken("a frame that was written reads otherwise".to_owned());
        }
    }
    Outcome::Accepted
}

fn cut(bytes: &[u8], piece: usize) -> Option<Vec<Frame>> {
    let mut decoder = FrameDecoder::new();
    let mut frames = Vec::new();
    for mut part in bytes.chunks(piece.min(bytes.len().max(1))) {
        while let Some(frame) = decoder.push(&mut part).ok()? {
            frames.push(frame);
        }
    }
    Some(frames)
}

fn streams() -> Vec<Vec<u8>> {
    let mut streams = vec![Vec::new()];
    for (at, request) in (0..40).filter_map(value::<ControlRequest>).enumerate() {
        let mut out = BytesMut::new();
        let kind = [FrameKind::Request, FrameKind::Reply, FrameKind::OneWay][at % 3];
        if encode(kind, Service::Control, at as u64, &request, at, &mut out).is_ok() {
            out.extend_from_slice(&vec![7; at]);
            let mut longer = streams[at % 4 % streams.len()].clone();
            longer.extend_from_slice(&out);
            streams.push(longer);
        }
    }
    streams
}

/// A frame's memory is set aside when its prefix was read; a stream is read several times here.
fn frames_limit_bytes(input_bytes: usize) -> usize {
    2 * (MAX_FRAME_HEADER_BYTES + MAX_FRAME_PAYLOAD_BYTES) + message_limit_bytes(input_bytes)
}

#[test]
fn decoders_of_messages_keep_their_rules_whatever_the_bytes_are() {
    run(
        env!("CARGO_MANIFEST_DIR"),
        &[
            Decoder { name: "frames", run: frames, examples: streams, limit_bytes: frames_limit_bytes, cost: 2 },
            Decoder::of::<ControlRequest>("control-request"),
            Decoder::of::<ControlReply>("control-reply"),
            Decoder::of::<DataRequest>("data-request"),
            Decoder::of::<Result<DataReply, DataError>>("data-reply"),
            Decoder::of::<Refusal>("refusal"),
            Decoder { run: envelope, ..Decoder::of::<Envelope>("replication-envelope") },
            hello::<Hello>("hello"),
            hello::<HelloReply>("hello-reply"),
            hello::<crate::admin::JoinRequest>("join-request"),
            hello::<crate::admin::JoinReply>("join-reply"),
        ],
    );
}
