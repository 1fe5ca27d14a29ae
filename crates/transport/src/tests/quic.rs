//! What only a network lane can get wrong: certificates, versions, garbage, dead and restarted peers.

use super::rig::{CLUSTER, Echo, SECOND, Server, client, client_hello, echo, endpoint, node, node_hello, run, until};
use crate::ca::Credentials;
use crate::connection::{Handler, NoService};
use crate::dialer::{DialTarget, PeerHandle, PeerState};
use crate::error::{CallError, CloseReason, ConnectError, ProtocolError, SendError};
use crate::quic::{Endpoint, EndpointConfig};
use crate::{Authority, PeerIdentity, Service};
use quinn::crypto::rustls::QuicClientConfig;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_proto::frame::{self, FrameError, FrameKind};
use weft_proto::hello::{Hello, encode_hello, encode_hello_as};
use weft_types::limits::{CONNECTION_IDLE_TIMEOUT, MAX_FRAME_PAYLOAD_BYTES};
use weft_types::{ClusterId, NodeId};

fn serving(authority: &Authority, id: u64) -> (Endpoint, SocketAddr, Rc<Server>) {
    let server = Rc::new(Server::default());
    let there = endpoint(authority, &node(id));
    let handler: Rc<dyn Handler> = Rc::clone(&server) as _;
    drop(there.serve(Rc::new(Cell::new(node_hello(id))), handler));
    let address = there.local_address().unwrap();
    (there, address, server)
}

/// A connection below the framing, for sending what no honest peer sends.
async fn raw(credentials: &Credentials, address: SocketAddr) -> quinn::Connection {
    let tls = crate::quic::tests_only_client_tls(credentials);
    raw_with(tls, address).await.unwrap()
}

async fn raw_with(tls: rustls::ClientConfig, address: SocketAddr) -> Result<quinn::Connection, quinn::ConnectionError> {
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.connect_with(config, address, "weft").unwrap().await
}

fn hello_frame(kind: FrameKind, number: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = bytes::BytesMut::new();
    frame::encode(kind, Service::Transport, number, &(), payload.len(), &mut out).unwrap();
    out.extend_from_slice(payload);
    out.to_vec()
}

#[test]
fn a_peer_without_a_certificate_gets_a_closed_connection_and_nothing_else() {
    run(async {
        let authority = Authority::create(CLUSTER).unwrap();
        let (_there, address, server) = serving(&authority, 1);
        let mut tls = crate::quic::join_client_tls(authority.fingerprint()).unwrap();
        tls.alpn_protocols = vec![b"weft".to_vec()];
        tls.dangerous().set_certificate_verifier(Arc::new(crate::quic::TrustAnyServer));
        // The client side of TLS 1.3 is done before the server has looked for its certificate.
        if let Ok(connection) = raw_with(tls, address).await {
            let ended = tokio::time::timeout(2 * SECOND, connection.closed()).await.unwrap();
            assert!(matches!(ended, quinn::ConnectionError::ConnectionClosed(_)), "{ended:?}");
        }
        assert!(server.opened.borrow().is_empty());
    });
}

#[test]
fn a_certificate_of_another_cluster_is_refused_by_either_side() {
    run(async {
        let (ours, theirs) = (Authority::create(CLUSTER).unwrap(), Authority::create(CLUSTER).unwrap());
        let (_there, address, server) = serving(&ours, 1);
        let here = endpoint(&theirs, &client());
        let result = here.connect(address, client_hello(), None, Rc::new(NoService)).await;
        assert!(matches!(result, Err(ConnectError::Closed(CloseReason::Lane(_)))), "{result:?}");
        assert!(server.opened.borrow().is_empty());
    });
}

#[test]
fn a_client_certificate_does_not_serve_even_if_it_was_issued_for_that() {
    run(async {
        let authority = Authority::create(CLUSTER).unwrap();
        for credentials in [authority.issue(&client()).unwrap(), authority.issue_wrongly(&client())] {
            let config = EndpointConfig::new("127.0.0.1:0".parse().unwrap());
            let there = Endpoint::bind(config, &credentials).unwrap();
            drop(there.serve(Rc::new(Cell::new(client_hello())), Rc::new(NoService)));
            let here = endpoint(&authority, &client());
            let address = there.local_address().unwrap();
            let result = here.connect(address, client_hello(), None, Rc::new(NoService)).await;
            assert!(matches!(result, Err(ConnectError::Closed(CloseReason::Lane(_)))), "{result:?}");
        }
    });
}

#[test]
fn a_peer_that_speaks_as_somebody_else_is_refused_in_words() {
    run(async {
        let authority = Authority::create(CLUSTER).unwrap();
        let (_there, address, server) = serving(&authority, 1);
        for (identity, hello) in [(client(), node_hello(2)), (node(3), node_hello(2))] {
            let here = endpoint(&authority, &identity);
            match here.connect(address, hello, None, Rc::new(NoService)).await {
                Err(ConnectError::Refused(why)) => assert!(why.contains(&identity.to_string()), "{why}"),
                other => panic!("{other:?}"),
            }
        }
        let here = endpoint(&authority, &client());
        let other_cluster = Hello { cluster: ClusterId(9), ..client_hello() };
        assert!(here.connect(address, other_cluster, None, Rc::new(NoService)).await.is_err());
        assert!(server.opened.borrow().is_empty());
    });
}

#[test]
fn a_node_that_is_not_the_expected_one_is_not_talked_to() {
    run(async {
        let authority = Authority::create(CLUSTER).unwrap();
        let (_there, address, _) = serving(&authority, 1);
        let here = endpoint(&authority, &client());
        let result = here.connect(address, client_hello(), Some(&node(2).role), Rc::new(NoService)).await;
        assert!(matches!(result, Err(ConnectError::WrongPeer { .. })), "{result:?}");
    });
}

#[test]
fn another_protocol_version_is_refused_by_a_sentence_that_names_both() {
    run(async {
        let authority = Authority::create(CLUSTER).unwrap();
        let (_there, address, _) = serving(&authority, 1);
        let connection = raw(&authority.issue(&client()).unwrap(), address).await;
        let (mut sink, source) = connection.open_bi().await.unwrap();
        let hello = encode_hello_as(77, &client_hello());
        sink.write_all(&hello_frame(FrameKind::Hello, 0, &hello)).await.unwrap();
        let mut frames = crate::reader::FrameStream::new(crate::quic::tests_only_source(source));
        let reply = frames.next().await.unwrap().unwrap();
        match weft_proto::hello::decode_hello(&reply.payload).unwrap() {
            weft_proto::hello::HelloReply::Refused(why) => {
                let ours = format!("version {} ", weft_proto::PROTOCOL_VERSION);
                assert!(why.contains(&ours) && why.contains("version 77"), "{why}");
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn garbage_and_oversize_frames_close_the_connection_with_a_reason() {
    let mut oversize = hello_frame(FrameKind::OneWay, 0, &[]);
    oversize[4..8].copy_from_slice(&(MAX_FRAME_PAYLOAD_BYTES as u32 + 1).to_le_bytes());
    let too_long = FrameError::PayloadTooLong { bytes: MAX_FRAME_PAYLOAD_BYTES + 1 };
    let unexpected = ProtocolError::Unexpected("hello");
    let second_hello = hello_frame(FrameKind::Hello, 0, &encode_hello(&client_hello()));
    for (bytes, error) in
        [(oversize, too_long.into()), (vec![0; 64], FrameError::UnknownKind(0).into()), (second_hello, unexpected)]
    {
        run(async {
            let authority = Authority::create(CLUSTER).unwrap();
            let (_there, address, server) = serving(&authority, 1);
            let connection = raw(&authority.issue(&client()).unwrap(), address).await;
            let (mut sink, _source) = connection.open_bi().await.unwrap();
            let hello = encode_hello(&client_hello());
            sink.write_all(&hello_frame(FrameKind::Hello, 0, &hello)).await.unwrap();
            let mut channels = Vec::new();
            for number in [1, 2] {
                let (mut sink, source) = connection.open_bi().await.unwrap();
                sink.write_all(&hello_frame(FrameKind::Channel, number, &[])).await.unwrap();
                channels.push((sink, source));
            }
            until("accepted", || server.opened.borrow().len() == 1).await;
            channels[0].0.write_all(&bytes).await.unwrap();
            match tokio::time::timeout(2 * SECOND, connection.closed()).await.unwrap() {
                quinn::ConnectionError::ApplicationClosed(close) => {
                    assert_eq!(String::from_utf8_lossy(&close.reason), error.to_string());
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(*server.closed.borrow(), [CloseReason::Protocol(error)]);
        });
    }
}

fn target(address: SocketAddr, id: u64) -> DialTarget {
    let expect = Some(PeerIdentity::node(CLUSTER, NodeId(id)).role);
    DialTarget { address, expect, hello: Rc::new(Cell::new(client_hello())) }
}

#[test]
fn a_handle_fails_fast_while_the_peer_is_down_and_works_again_when_it_is_back() {
    run(async {
        let authority = Authority::create(CLUSTER).unwrap();
        let credentials = authority.issue(&node(1)).unwrap();
        let (there, address, server) = {
            let there = Endpoint::bind(EndpointConfig::new("127.0.0.1:0".parse().unwrap()), &credentials).unwrap();
            let server = Rc::new(Server::default());
            let handler: Rc<dyn Handler> = Rc::clone(&server) as _;
            drop(there.serve(Rc::new(Cell::new(node_hello(1))), handler));
            let address = there.local_address().unwrap();
            (there, address, server)
        };
        let here = endpoint(&authority, &client());
        let peer = PeerHandle::dial(&here, target(address, 1), Rc::new(NoService));
        assert_eq!(peer.state(), PeerState::Connecting);
        let connection = peer.wait_up(2 * SECOND).await.unwrap();
        assert_eq!(echo(&connection, 1, vec![1; 5000]).await.0, 2);

        there.close("the node is stopping").await;
        until("noticed", || matches!(peer.state(), PeerState::Down(_))).await;
        drop((there, server));
        let started = Instant::now();
        let result = peer.call::<u64, u64>(Service::Data, &1, (), 60 * SECOND).await;
        assert_eq!(result, Err(CallError::NotSent(SendError::Down)));
        assert!(started.elapsed() < 20 * SECOND, "it waited for its deadline");

        tokio::time::sleep(Duration::from_millis(50)).await;
        let again = loop {
            // The old socket goes away when the endpoint's task has ended.
            match Endpoint::bind(EndpointConfig::new(address), &credentials) {
                Ok(endpoint) => break endpoint,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        drop(again.serve(Rc::new(Cell::new(node_hello(1))), Rc::new(Server::default())));
        let connection = peer.wait_up(30 * SECOND).await.unwrap();
        assert_eq!(echo(&connection, 1, vec![1; 5000]).await.0, 2);
    });
}

/// A UDP hop that can be cut without either end closing anything.
async fn cuttable_path(server: SocketAddr) -> (SocketAddr, Rc<Cell<bool>>) {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let cut = Rc::new(Cell::new(false));
    let is_cut = Rc::clone(&cut);
    tokio::task::spawn_local(async move {
        let mut buffer = vec![0u8; 65_536];
        let mut client = None;
        loop {
            let (size, from) = socket.recv_from(&mut buffer).await.unwrap();
            if is_cut.get() {
                continue;
            }
            if from == server {
                if let Some(client) = client {
                    let _ = socket.send_to(&buffer[..size], client).await;
                }
            } else {
                client = Some(from);
                let _ = socket.send_to(&buffer[..size], server).await;
            }
        }
    });
    (address, cut)
}

#[test]
fn a_silent_peer_is_noticed_within_the_idle_timeout() {
    run(async {
        let authority = Authority::create(CLUSTER).unwrap();
        let (_there, address, server) = serving(&authority, 1);
        let (path, cut) = cuttable_path(address).await;
        let here = endpoint(&authority, &client());
        let connection = here.connect(path, client_hello(), None, Rc::new(NoService)).await.unwrap();
        // Keep-alives hold an idle connection and are counted.
        let heard = connection.statistics().unwrap().received_packets;
        tokio::time::sleep(CONNECTION_IDLE_TIMEOUT + SECOND).await;
        assert!(connection.is_open());
        assert!(connection.statistics().unwrap().received_packets > heard);
        cut.set(true);
        let started = Instant::now();
        assert_eq!(connection.closed().await, CloseReason::Silent);
        assert!(started.elapsed() < CONNECTION_IDLE_TIMEOUT + 5 * SECOND);
        until("the server notices too", || *server.closed.borrow() == [CloseReason::Silent]).await;
    });
}

#[test]
fn a_restarted_peer_tells_at_once_that_it_does_not_know_the_connection() {
    let authority = Authority::create(CLUSTER).unwrap();
    let credentials = authority.issue(&node(1)).unwrap();
    // The first life of the server is a runtime of its own, which is dropped whole.
    let (tell, hear) = std::sync::mpsc::channel();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let first = credentials.clone();
    let thread = std::thread::spawn(move || {
        run(async move {
            let there = Endpoint::bind(EndpointConfig::new("127.0.0.1:0".parse().unwrap()), &first).unwrap();
            let serving = there.serve(Rc::new(Cell::new(node_hello(1))), Rc::new(Echo));
            tell.send(there.local_address().unwrap()).unwrap();
            ended.await.unwrap();
            drop(serving);
        });
    });
    let address = hear.recv().unwrap();
    run(async {
        let (path, cut) = cuttable_path(address).await;
        let here = endpoint(&authority, &client());
        let connection = here.connect(path, client_hello(), None, Rc::new(NoService)).await.unwrap();
        assert_eq!(echo(&connection, 1, Vec::new()).await.0, 2);
        // As when a process is killed, nothing that the first life says at its end arrives.
        cut.set(true);
        end.send(()).unwrap();
        thread.join().unwrap();
        let again = loop {
            match Endpoint::bind(EndpointConfig::new(address), &credentials) {
                Ok(endpoint) => break endpoint,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        drop(again.serve(Rc::new(Cell::new(node_hello(1))), Rc::new(Server::default())));
        cut.set(false);
        // By a reset, not by silence, which takes a timeout.
        assert_eq!(connection.closed().await, CloseReason::Reset);
    });
}
