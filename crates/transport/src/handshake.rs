//! From a lane to a connection: hellos are exchanged and checked, channels are opened, tasks are started.

use crate::connection::{Connection, Handler, LaneControl, Parts, Side};
use crate::error::{CloseReason, ConnectError, ProtocolError};
use crate::identity::{PeerIdentity, PeerRole};
use crate::lane::{Channel, Lane, LaneStatistics, Sink, Source};
use crate::reader::{FrameStream, read_loop};
use bytes::Bytes;
use std::rc::Rc;
use weft_proto::frame::{Frame, FrameKind, Service};
use weft_proto::hello::{Hello, HelloReply, decode_hello, encode_hello};

/// The two halves of a channel.
struct Streams<L: Lane> {
    sink: L::Sink,
    frames: FrameStream<L::Source>,
}

struct LaneHandle<L>(Rc<L>);

impl<L: Lane> LaneControl for LaneHandle<L> {
    fn close(&self, reason: &str) {
        self.0.close(reason);
    }

    fn statistics(&self) -> Option<LaneStatistics> {
        self.0.statistics()
    }
}

/// The dialing side. `expect`, if given, is who has to be at the other end.
pub(crate) async fn dial<L: Lane>(
    lane: L,
    hello: Hello,
    expect: Option<&PeerRole>,
    handler: Rc<dyn Handler>,
) -> Result<Connection, ConnectError> {
    let result = dial_streams(&lane, hello, expect).await;
    match result {
        Ok((theirs, streams)) => Ok(start(lane, Side::Dialed, theirs, streams, handler)),
        Err(error) => {
            lane.close(&error.to_string());
            Err(error)
        }
    }
}

async fn dial_streams<L: Lane>(
    lane: &L,
    hello: Hello,
    expect: Option<&PeerRole>,
) -> Result<(Hello, Vec<Streams<L>>), ConnectError> {
    check_identity(lane.peer(), hello.cluster, expect)?;
    let mut first = open_stream(lane, FrameKind::Hello, 0, encode_hello(&hello)).await?;
    let frame = next_frame(&mut first.frames, FrameKind::HelloReply).await?;
    let theirs = match decode_hello(&frame.payload)? {
        HelloReply::Welcome(theirs) => theirs,
        HelloReply::Refused(why) => return Err(ConnectError::Refused(why)),
    };
    check_hello(lane.peer(), &theirs)?;
    let mut streams = vec![first];
    for channel in &Channel::ALL[1..] {
        streams.push(open_stream(lane, FrameKind::Channel, *channel as u64, Vec::new()).await?);
    }
    Ok((theirs, streams))
}

/// The accepting side.
pub(crate) async fn accept<L: Lane>(
    lane: L,
    hello: Hello,
    handler: Rc<dyn Handler>,
) -> Result<Connection, ConnectError> {
    let result = accept_streams(&lane, hello).await;
    match result {
        Ok((theirs, streams)) => Ok(start(lane, Side::Accepted, theirs, streams, handler)),
        Err(error) => {
            lane.close(&error.to_string());
            Err(error)
        }
    }
}

async fn accept_streams<L: Lane>(lane: &L, hello: Hello) -> Result<(Hello, Vec<Streams<L>>), ConnectError> {
    let (mut sink, source) = lane.accept().await.map_err(ConnectError::Closed)?;
    let mut frames = FrameStream::new(source);
    let frame = next_frame(&mut frames, FrameKind::Hello).await?;
    let checked = decode_hello::<Hello>(&frame.payload).map_err(ConnectError::from).and_then(|theirs| {
        check_identity(lane.peer(), hello.cluster, None)?;
        check_hello(lane.peer(), &theirs)?;
        Ok(theirs)
    });
    let theirs = match checked {
        Ok(theirs) => theirs,
        Err(error) => {
            let refusal = encode_hello(&HelloReply::Refused(error.to_string()));
            write_frame(&mut sink, FrameKind::HelloReply, 0, refusal).await?;
            // Give the refusal time to arrive: closing at once would throw it away. The peer closes when it has it.
            let _ = tokio::time::timeout(REFUSAL_LINGER, frames.next()).await;
            return Err(error);
        }
    };
    write_frame(&mut sink, FrameKind::HelloReply, 0, encode_hello(&HelloReply::Welcome(hello))).await?;
    let mut streams = vec![Some(Streams { sink, frames }), None, None];
    for _ in 1..Channel::ALL.len() {
        let (sink, source) = lane.accept().await.map_err(ConnectError::Closed)?;
        let mut frames = FrameStream::new(source);
        let frame = next_frame(&mut frames, FrameKind::Channel).await?;
        let protocol = |error: ProtocolError| ConnectError::Closed(error.into());
        let channel = Channel::from_number(frame.correlation)
            .ok_or_else(|| protocol(ProtocolError::UnknownChannel(frame.correlation)))?;
        let slot = &mut streams[channel.index()];
        if slot.is_some() {
            return Err(protocol(ProtocolError::ChannelTwice));
        }
        *slot = Some(Streams { sink, frames });
    }
    Ok((theirs, streams.into_iter().flatten().collect()))
}

const REFUSAL_LINGER: std::time::Duration = std::time::Duration::from_millis(200);

fn check_identity(
    peer: &PeerIdentity,
    cluster: weft_types::ClusterId,
    expect: Option<&PeerRole>,
) -> Result<(), ConnectError> {
    if peer.cluster != cluster {
        return Err(ConnectError::OtherCluster);
    }
    match expect {
        Some(role) if *role != peer.role => Err(ConnectError::WrongPeer {
            expected: PeerIdentity { cluster, role: role.clone() }.to_string(),
            found: peer.to_string(),
        }),
        _ => Ok(()),
    }
}

fn check_hello(peer: &PeerIdentity, theirs: &Hello) -> Result<(), ConnectError> {
    if peer.cluster != theirs.cluster {
        return Err(ConnectError::OtherCluster);
    }
    if peer.allows(theirs) {
        return Ok(());
    }
    Err(ConnectError::Impostor { certificate: peer.to_string(), claimed: format!("{:?}", theirs.role) })
}

async fn open_stream<L: Lane>(
    lane: &L,
    kind: FrameKind,
    number: u64,
    payload: Vec<u8>,
) -> Result<Streams<L>, ConnectError> {
    let (mut sink, source) = lane.open().await.map_err(ConnectError::Closed)?;
    write_frame(&mut sink, kind, number, payload).await?;
    Ok(Streams { sink, frames: FrameStream::new(source) })
}

async fn write_frame<S: Sink>(
    sink: &mut S,
    kind: FrameKind,
    number: u64,
    payload: Vec<u8>,
) -> Result<(), ConnectError> {
    let mut out = bytes::BytesMut::new();
    weft_proto::frame::encode(kind, Service::Transport, number, &(), payload.len(), &mut out)
        .map_err(|error| ConnectError::Closed(ProtocolError::from(error).into()))?;
    let mut pieces = vec![out.freeze()];
    if !payload.is_empty() {
        pieces.push(Bytes::from(payload));
    }
    sink.write_all(&mut pieces).await.map_err(ConnectError::Closed)
}

async fn next_frame<S: Source>(frames: &mut FrameStream<S>, kind: FrameKind) -> Result<Frame, ConnectError> {
    let frame = frames.next().await.map_err(ConnectError::Closed)?;
    match frame {
        Some(frame) if frame.kind == kind => Ok(frame),
        Some(_) => Err(ConnectError::Closed(ProtocolError::Unexpected("other than hello or channel").into())),
        None => Err(ConnectError::Closed(ProtocolError::StreamEnded.into())),
    }
}

/// Starts the tasks of a connection: a reader and a writer per channel, one for deadlines, one that waits for the end.
fn start<L: Lane>(lane: L, side: Side, hello: Hello, streams: Vec<Streams<L>>, handler: Rc<dyn Handler>) -> Connection {
    let lane = Rc::new(lane);
    let connection = Connection::new(Parts {
        side,
        identity: lane.peer().clone(),
        hello,
        address: lane.remote_address(),
        handler: Rc::clone(&handler),
        lane: Box::new(LaneHandle(Rc::clone(&lane))),
    });
    handler.on_open(&connection);
    for (channel, Streams { mut sink, frames }) in Channel::ALL.into_iter().zip(streams) {
        sink.set_priority(channel.priority());
        let reading = connection.clone();
        tokio::task::spawn_local(async move {
            if let Err(reason) = read_loop(reading.clone(), frames).await {
                reading.finish(reason);
            }
        });
        let writing = connection.clone();
        tokio::task::spawn_local(async move {
            if let Err(reason) = writing.outgoing(channel).write_loop(&mut sink).await {
                writing.finish(reason);
            }
        });
    }
    let watched = connection.clone();
    tokio::task::spawn_local(async move { watched.watch_deadlines().await });
    let ending = connection.clone();
    tokio::task::spawn_local(async move {
        let reason: CloseReason = lane.closed().await;
        ending.finish(reason);
    });
    connection
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::NoService;
    use crate::memory::pair;
    use crate::tests::rig::{client, client_hello, node, node_hello, run};
    use weft_proto::PROTOCOL_VERSION;
    use weft_proto::hello::encode_hello_as;

    /// A release that does not exist.
    const OTHER: u32 = 77;

    fn sentence() -> String {
        format!(
            "this side speaks protocol version {PROTOCOL_VERSION} and the peer version {OTHER}: run the same release of weft \
             on both"
        )
    }

    #[test]
    fn a_peer_of_another_version_that_dials_is_told_and_so_is_this_side() {
        run(async {
            let (there, here) = pair(client(), node(1));
            let dialing = async {
                let hello = encode_hello_as(OTHER, &client_hello());
                let mut stream = open_stream(&there, FrameKind::Hello, 0, hello).await.unwrap();
                let reply = next_frame(&mut stream.frames, FrameKind::HelloReply).await.unwrap();
                let HelloReply::Refused(why) = decode_hello(&reply.payload).unwrap() else { panic!("it was let in") };
                why
            };
            let (told, accepted) = tokio::join!(dialing, accept(here, node_hello(1), Rc::new(NoService)));
            assert_eq!(told, sentence());
            assert_eq!(accepted.err().map(|error| error.to_string()), Some(sentence()));
        });
    }

    #[test]
    fn a_peer_of_another_version_that_is_dialed_is_recognised_by_its_answer() {
        run(async {
            let (here, there) = pair(client(), node(1));
            let accepting = async {
                let (mut sink, source) = there.accept().await.unwrap();
                let mut frames = FrameStream::new(source);
                let hello = next_frame(&mut frames, FrameKind::Hello).await.unwrap();
                assert!(decode_hello::<Hello>(&hello.payload).is_ok());
                let refusal = encode_hello_as(OTHER, &HelloReply::Refused("in words of its own".to_owned()));
                write_frame(&mut sink, FrameKind::HelloReply, 0, refusal).await.unwrap();
                // Held until the other side has read it.
                there.closed().await
            };
            let (_, dialed) = tokio::join!(accepting, dial(here, client_hello(), None, Rc::new(NoService)));
            assert_eq!(dialed.err().map(|error| error.to_string()), Some(sentence()));
        });
    }
}
