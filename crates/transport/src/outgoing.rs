//! The send queue of one channel: frames are gathered here and written in batches, all that are queued per wake-up.

use crate::error::{CloseReason, SendError};
use crate::lane::Sink;
use crate::message::Payload;
use bytes::{Bytes, BytesMut};
use serde::Serialize;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};
use tokio::sync::Notify;
use weft_proto::frame::{self, FrameKind, Service};
use weft_types::limits::MAX_QUEUED_BYTES_PER_CHANNEL;

/// Data up to this size are copied behind their header; larger ones are sent from where they are.
const COPY_BELOW_BYTES: usize = 1024;
/// Room for headers that is allocated at a time.
const HEADER_ROOM_BYTES: usize = 8 << 10;

#[derive(Default)]
pub(crate) struct Outgoing {
    queue: RefCell<Queue>,
    queued_bytes: Cell<usize>,
    writer: RefCell<Option<Waker>>,
    /// Told when bytes were handed to the lane.
    pub(crate) room: Notify,
    ended: Cell<bool>,
}

#[derive(Default)]
struct Queue {
    pieces: Vec<Bytes>,
    tail: BytesMut,
    bytes: usize,
}

pub(crate) struct OutgoingFrame<'a, T: ?Sized> {
    pub(crate) kind: FrameKind,
    pub(crate) service: Service,
    pub(crate) correlation: u64,
    pub(crate) header: &'a T,
    pub(crate) payload: Payload,
}

impl Outgoing {
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes.get()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.queued_bytes.get() < MAX_QUEUED_BYTES_PER_CHANNEL
    }

    /// Queues a frame whatever the queue holds; callers check [`Self::has_room`] where they may wait or refuse.
    pub(crate) fn push<T: Serialize + ?Sized>(&self, frame: OutgoingFrame<'_, T>) -> Result<(), SendError> {
        let OutgoingFrame { kind, service, correlation, header, payload } = frame;
        let mut queue = self.queue.borrow_mut();
        let queue = &mut *queue;
        if queue.tail.capacity() - queue.tail.len() < COPY_BELOW_BYTES {
            let full = queue.tail.split().freeze();
            if !full.is_empty() {
                queue.pieces.push(full);
            }
            queue.tail.reserve(HEADER_ROOM_BYTES);
        }
        let before = queue.tail.len();
        let payload_bytes = payload.len();
        frame::encode(kind, service, correlation, header, payload_bytes, &mut queue.tail)?;
        let added = queue.tail.len() - before + payload_bytes;
        match payload {
            Payload::None => {}
            Payload::One(bytes) => queue.add(bytes),
            Payload::Many(parts) => parts.into_iter().for_each(|part| queue.add(part)),
        }
        queue.bytes += added;
        self.queued_bytes.set(self.queued_bytes.get() + added);
        self.wake_writer();
        Ok(())
    }

    fn wake_writer(&self) {
        if let Some(waker) = self.writer.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The connection is over: the writer stops.
    pub(crate) fn end(&self) {
        self.ended.set(true);
        self.wake_writer();
        self.room.notify_waiters();
    }

    /// Takes everything queued, waiting for the first; `None` when the connection is over.
    async fn take(&self, batch: &mut Vec<Bytes>) -> Option<usize> {
        poll_fn(|context| {
            if self.ended.get() {
                return Poll::Ready(None);
            }
            let mut queue = self.queue.borrow_mut();
            let bytes = queue.bytes;
            if bytes == 0 {
                *self.writer.borrow_mut() = Some(context.waker().clone());
                return Poll::Pending;
            }
            let tail = queue.tail.split().freeze();
            if !tail.is_empty() {
                queue.pieces.push(tail);
            }
            queue.bytes = 0;
            std::mem::swap(&mut queue.pieces, batch);
            Poll::Ready(Some(bytes))
        })
        .await
    }

    pub(crate) async fn write_loop<S: Sink>(&self, sink: &mut S) -> Result<(), CloseReason> {
        let mut batch = Vec::new();
        while let Some(bytes) = self.take(&mut batch).await {
            sink.write_all(&mut batch).await?;
            batch.clear();
            self.queued_bytes.set(self.queued_bytes.get() - bytes);
            self.room.notify_waiters();
        }
        Ok(())
    }
}

impl Queue {
    fn add(&mut self, bytes: Bytes) {
        if bytes.len() <= COPY_BELOW_BYTES {
            self.tail.extend_from_slice(&bytes);
            return;
        }
        let head = self.tail.split().freeze();
        if !head.is_empty() {
            self.pieces.push(head);
        }
        self.pieces.push(bytes);
    }
}
