//! Joining: with the right token, with a wrong one, and towards an impostor.

use super::rig::{CLUSTER, client_hello, endpoint, node, node_hello, run};
use crate::connection::NoService;
use crate::identity::{PeerIdentity, PeerName};
use crate::join::{JoinAs, JoinError, JoinServer, join};
use crate::token::Token;
use crate::{Authority, ConnectError};
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use weft_proto::admin::{JoinReply, JoinRequest};
use weft_types::ErrorKind;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A cluster of one node that lets in who has `token`'s secret, as a client.
fn cluster(authority: &Authority, token: &Rc<Cell<Option<Token>>>) -> (JoinServer, SocketAddr) {
    let (signer, token) = (authority.clone(), Rc::clone(token));
    let handler = move |request: JoinRequest, _from: SocketAddr| {
        let expected = token.take();
        token.set(expected.clone());
        let given: Option<Token> = request.token.parse().ok();
        let stored = expected.map(|token| token.secret_hash());
        let reply = match (given, stored) {
            (Some(given), Some(stored)) if given.matches(stored) => {
                let name = PeerName::new(&request.name).unwrap();
                let certificate = signer.sign(&request.signing_request, &PeerIdentity::client(CLUSTER, name)).unwrap();
                JoinReply::Accepted {
                    cluster: CLUSTER,
                    node: None,
                    certificate,
                    authority: signer.certificate().to_vec(),
                    control_addresses: vec!["127.0.0.1:1".parse().unwrap()],
                }
            }
            _ => JoinReply::Refused(ErrorKind::Refused("no such token".to_owned())),
        };
        Box::pin(async move { reply }) as _
    };
    let credentials = authority.issue(&node(1)).unwrap();
    let server = JoinServer::start("127.0.0.1:0".parse().unwrap(), &credentials, Rc::new(handler)).unwrap();
    let address = server.local_address().unwrap();
    (server, address)
}

fn who() -> JoinAs {
    JoinAs { name: "hv-7".to_owned(), ..JoinAs::default() }
}

#[test]
fn a_process_with_a_token_joins_and_then_connects_with_its_certificate() {
    run(async {
        let authority = Authority::create(CLUSTER).unwrap();
        let expected = Rc::new(Cell::new(None));
        let (_server, address) = cluster(&authority, &expected);
        let dead = "127.0.0.1:9".parse().unwrap();
        let token = Token::create(authority.fingerprint(), &[dead, address]).unwrap();
        expected.set(Some(token.clone()));
        let joined = join(LOCAL, &token.to_text().parse().unwrap(), &who()).await.unwrap();
        assert_eq!(joined.cluster, CLUSTER);
        assert_eq!(joined.credentials.identity().to_string(), format!("client-hv-7.{CLUSTER}.weft"));

        let there = endpoint(&authority, &node(1));
        drop(there.serve(Rc::new(Cell::new(node_hello(1))), Rc::new(NoService)));
        let config = crate::EndpointConfig::new("127.0.0.1:0".parse().unwrap());
        let here = crate::Endpoint::bind(config, &joined.credentials).unwrap();
        let to = there.local_address().unwrap();
        here.connect(to, client_hello(), Some(&node(1).role), Rc::new(NoService)).await.unwrap();
    });
}

#[test]
fn a_wrong_secret_is_refused() {
    run(async {
        let authority = Authority::create(CLUSTER).unwrap();
        let expected = Rc::new(Cell::new(None));
        let (_server, address) = cluster(&authority, &expected);
        expected.set(Some(Token::create(authority.fingerprint(), &[address]).unwrap()));
        let guessed = Token::create(authority.fingerprint(), &[address]).unwrap();
        let refused = join(LOCAL, &guessed, &who()).await;
        assert!(matches!(refused, Err(JoinError::Refused(ErrorKind::Refused(_)))), "{refused:?}");
    });
}

#[test]
fn a_token_is_not_shown_to_an_impostor() {
    run(async {
        let (real, impostor) = (Authority::create(CLUSTER).unwrap(), Authority::create(CLUSTER).unwrap());
        let seen = Rc::new(Cell::new(false));
        let mark = Rc::clone(&seen);
        let handler = move |_: JoinRequest, _: SocketAddr| {
            mark.set(true);
            Box::pin(async { JoinReply::Refused(ErrorKind::NotFound) }) as _
        };
        let credentials = impostor.issue(&node(1)).unwrap();
        let server = JoinServer::start("127.0.0.1:0".parse().unwrap(), &credentials, Rc::new(handler)).unwrap();
        let token = Token::create(real.fingerprint(), &[server.local_address().unwrap()]).unwrap();
        let result = join(LOCAL, &token, &who()).await;
        assert!(matches!(result, Err(JoinError::Connect { source: ConnectError::Lane(_), .. })), "{result:?}");
        assert!(!seen.get());
    });
}

#[test]
fn a_client_certificate_cannot_pose_as_a_join_server() {
    run(async {
        let authority = Authority::create(CLUSTER).unwrap();
        let credentials = authority.issue(&super::rig::client()).unwrap();
        let handler = |_: JoinRequest, _: SocketAddr| Box::pin(async { JoinReply::Refused(ErrorKind::NotFound) }) as _;
        let server = JoinServer::start("127.0.0.1:0".parse().unwrap(), &credentials, Rc::new(handler)).unwrap();
        let token = Token::create(authority.fingerprint(), &[server.local_address().unwrap()]).unwrap();
        let result = join(LOCAL, &token, &who()).await;
        assert!(matches!(result, Err(JoinError::Connect { source: ConnectError::Lane(_), .. })), "{result:?}");
    });
}
