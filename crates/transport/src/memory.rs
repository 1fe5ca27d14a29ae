//! A lane within one process, for tests: the same connection code, no sockets, no encryption.

use crate::connection::{Connection, Handler};
use crate::error::{CloseReason, ConnectError};
use crate::handshake;
use crate::identity::PeerIdentity;
use crate::lane::{Lane, LaneStatistics, Sink, Source};
use bytes::Bytes;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::sync::{Notify, mpsc};
use weft_proto::hello::Hello;

/// Pieces that a stream holds; a writer waits beyond that, as it would for a peer's flow control.
const PIECES_PER_STREAM: usize = 64;
const STREAMS_WAITING: usize = 8;

type Stream = (MemorySink, MemorySource);

#[derive(Default)]
struct Ending {
    reason: RefCell<Option<(Side, String)>>,
    ended: Notify,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

pub struct MemoryLane {
    side: Side,
    peer: PeerIdentity,
    to_peer: mpsc::Sender<Stream>,
    from_peer: tokio::sync::Mutex<mpsc::Receiver<Stream>>,
    ending: Rc<Ending>,
}

/// A lane between `left` and `right`. The first end returned is held by `left`: its peer is `right`.
#[must_use]
pub fn pair(left: PeerIdentity, right: PeerIdentity) -> (MemoryLane, MemoryLane) {
    let (to_right, from_left) = mpsc::channel(STREAMS_WAITING);
    let (to_left, from_right) = mpsc::channel(STREAMS_WAITING);
    let ending = Rc::new(Ending::default());
    let lane = |side, peer, to_peer, from_peer| MemoryLane {
        side,
        peer,
        to_peer,
        from_peer: tokio::sync::Mutex::new(from_peer),
        ending: Rc::clone(&ending),
    };
    (lane(Side::Left, right, to_right, from_right), lane(Side::Right, left, to_left, from_left))
}

pub struct MemorySink {
    side: Side,
    pieces: mpsc::Sender<Bytes>,
    ending: Rc<Ending>,
}

pub struct MemorySource {
    side: Side,
    pieces: mpsc::Receiver<Bytes>,
    ending: Rc<Ending>,
}

impl Ending {
    fn reason_for(&self, side: Side) -> Option<CloseReason> {
        self.reason
            .borrow()
            .as_ref()
            .map(|(by, why)| if *by == side { CloseReason::Here(why.clone()) } else { CloseReason::Peer(why.clone()) })
    }

    async fn wait(&self, side: Side) -> CloseReason {
        loop {
            let ended = self.ended.notified();
            if let Some(reason) = self.reason_for(side) {
                return reason;
            }
            ended.await;
        }
    }
}

impl Source for MemorySource {
    async fn read(&mut self, pieces: &mut [Bytes]) -> Result<usize, CloseReason> {
        if let Some(reason) = self.ending.reason_for(self.side) {
            return Err(reason);
        }
        let first = tokio::select! {
            biased;
            reason = self.ending.wait(self.side) => return Err(reason),
            piece = self.pieces.recv() => piece,
        };
        let Some(first) = first else { return Ok(0) };
        pieces[0] = first;
        let mut filled = 1;
        while filled < pieces.len() {
            let Ok(next) = self.pieces.try_recv() else { break };
            pieces[filled] = next;
            filled += 1;
        }
        Ok(filled)
    }
}

impl Sink for MemorySink {
    async fn write_all(&mut self, pieces: &mut [Bytes]) -> Result<(), CloseReason> {
        for piece in pieces {
            tokio::select! {
                biased;
                reason = self.ending.wait(self.side) => return Err(reason),
                sent = self.pieces.send(std::mem::take(piece)) => {
                    sent.map_err(|_| CloseReason::Lane("the peer dropped the stream".to_owned()))?;
                }
            }
        }
        Ok(())
    }

    fn set_priority(&self, _priority: i32) {}
}

impl Lane for MemoryLane {
    type Source = MemorySource;
    type Sink = MemorySink;

    fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    fn remote_address(&self) -> Option<SocketAddr> {
        None
    }

    fn statistics(&self) -> Option<LaneStatistics> {
        None
    }

    async fn open(&self) -> Result<Stream, CloseReason> {
        let (there, from_here) = mpsc::channel(PIECES_PER_STREAM);
        let (here, from_there) = mpsc::channel(PIECES_PER_STREAM);
        let other = if self.side == Side::Left { Side::Right } else { Side::Left };
        let sink = |side, pieces| MemorySink { side, pieces, ending: Rc::clone(&self.ending) };
        let source = |side, pieces| MemorySource { side, pieces, ending: Rc::clone(&self.ending) };
        let theirs = (sink(other, here), source(other, from_here));
        self.to_peer.send(theirs).await.map_err(|_| CloseReason::Lane("the peer dropped the lane".to_owned()))?;
        Ok((sink(self.side, there), source(self.side, from_there)))
    }

    async fn accept(&self) -> Result<Stream, CloseReason> {
        let mut from_peer = self.from_peer.lock().await;
        tokio::select! {
            biased;
            reason = self.ending.wait(self.side) => Err(reason),
            stream = from_peer.recv() => {
                stream.ok_or_else(|| CloseReason::Lane("the peer dropped the lane".to_owned()))
            }
        }
    }

    fn close(&self, reason: &str) {
        let mut slot = self.ending.reason.borrow_mut();
        if slot.is_none() {
            *slot = Some((self.side, reason.to_owned()));
        }
        drop(slot);
        self.ending.ended.notify_waiters();
    }

    async fn closed(&self) -> CloseReason {
        self.ending.wait(self.side).await
    }
}

impl Drop for MemoryLane {
    fn drop(&mut self) {
        self.close("dropped");
    }
}

/// One end of a connection to be made with [`connect`].
pub struct End {
    pub identity: PeerIdentity,
    pub hello: Hello,
    pub handler: Rc<dyn Handler>,
}

/// Connects two ends within this process, with the same handshake as over a network. The first one dials.
///
/// # Errors
/// When the handshake fails.
pub async fn connect(dialing: End, accepting: End) -> Result<(Connection, Connection), ConnectError> {
    let (left, right) = pair(dialing.identity, accepting.identity);
    let accept = handshake::accept(right, accepting.hello, accepting.handler);
    let dial = handshake::dial(left, dialing.hello, None, dialing.handler);
    let (dialed, accepted) = tokio::join!(dial, accept);
    Ok((dialed?, accepted?))
}
