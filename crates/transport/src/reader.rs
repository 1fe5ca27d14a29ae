//! The receiving side of a stream: cuts it into frames and hands each to where it belongs, inline.

use crate::connection::{Connection, Replier, Side};
use crate::error::{CloseReason, ProtocolError};
use crate::lane::{BULK_BYTES, Source};
use crate::message::Message;
use bytes::Bytes;
use weft_proto::frame::{Frame, FrameDecoder, FrameKind, Refusal};

/// Pieces (packets, mostly) that are taken from the transport at once.
const PIECES_PER_READ: usize = 32;

/// A stream seen as frames.
pub(crate) struct FrameStream<S> {
    source: S,
    decoder: FrameDecoder,
    pieces: [Bytes; PIECES_PER_READ],
    /// Of `pieces`: the next one to decode, how far it has been, and how many there are.
    next: usize,
    offset: usize,
    filled: usize,
}

impl<S: Source> FrameStream<S> {
    pub(crate) fn new(source: S) -> Self {
        Self {
            source,
            decoder: FrameDecoder::new(),
            pieces: [const { Bytes::new() }; PIECES_PER_READ],
            next: 0,
            offset: 0,
            filled: 0,
        }
    }

    /// A frame out of what has already been received.
    pub(crate) fn next_received(&mut self) -> Result<Option<Frame>, CloseReason> {
        while self.next < self.filled {
            let piece = &self.pieces[self.next];
            let mut rest = &piece[self.offset..];
            let frame = self.decoder.push(&mut rest).map_err(ProtocolError::from)?;
            self.offset = piece.len() - rest.len();
            if rest.is_empty() {
                // Let go of the packet's buffer at once.
                self.pieces[self.next] = Bytes::new();
                self.next += 1;
                self.offset = 0;
            }
            if frame.is_some() {
                return Ok(frame);
            }
        }
        Ok(None)
    }

    /// The next frame; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, CloseReason> {
        loop {
            if let Some(frame) = self.next_received()? {
                return Ok(Some(frame));
            }
            self.filled = self.source.read(&mut self.pieces).await?;
            self.next = 0;
            self.offset = 0;
            if self.filled == 0 {
                return if self.decoder.is_between_frames() {
                    Ok(None)
                } else {
                    Err(ProtocolError::Frame(weft_proto::frame::FrameError::Truncated).into())
                };
            }
        }
    }
}

/// Reads one channel until the connection ends.
pub(crate) async fn read_loop<S: Source>(
    connection: Connection,
    mut stream: FrameStream<S>,
) -> Result<(), CloseReason> {
    while let Some(frame) = stream.next().await? {
        dispatch(&connection, frame).await?;
        while let Some(frame) = stream.next_received()? {
            dispatch(&connection, frame).await?;
        }
        connection.handler().on_batch_end(&connection);
    }
    Err(ProtocolError::StreamEnded.into())
}

async fn dispatch(connection: &Connection, frame: Frame) -> Result<(), CloseReason> {
    let Frame { kind, service, correlation, header, payload } = frame;
    let message = Message { service, header, payload };
    match kind {
        FrameKind::Request => {
            if connection.is_overloaded() {
                match connection.side() {
                    // Requests are read no further until answers have gone out: back-pressure, not refusal.
                    Side::Accepted => {
                        connection.handler().on_batch_end(connection);
                        connection.wait_for_room_to_serve().await;
                    }
                    // The dialing side always goes on reading, or two busy peers could wait for each other for ever.
                    Side::Dialed => {
                        connection.refuse(service, correlation, &Refusal::Busy);
                        return Ok(());
                    }
                }
            }
            if connection.side() == Side::Accepted
                && message.payload.len() >= BULK_BYTES
                && let Some(gate) = connection.handler().gate(connection)
                && !gate.is_open()
            {
                connection.handler().on_batch_end(connection);
                gate.pass().await;
            }
            let replier = Replier::new(connection, service, correlation);
            connection.handler().on_request(connection, message, replier);
        }
        FrameKind::OneWay => connection.handler().on_message(connection, message),
        FrameKind::Reply => connection.complete(correlation, Ok(message)),
        FrameKind::Refusal => {
            let refusal: Refusal = message.decode().map_err(ProtocolError::from)?;
            connection.complete(correlation, Err(refusal.into()));
        }
        FrameKind::Hello | FrameKind::HelloReply => return Err(ProtocolError::Unexpected("hello").into()),
        FrameKind::Channel => return Err(ProtocolError::Unexpected("channel").into()),
    }
    Ok(())
}
