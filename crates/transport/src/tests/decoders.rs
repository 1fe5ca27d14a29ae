//! What strangers and files give this crate to read, with wrong bytes.

use crate::ca::{Authority, Credentials, MemberKey, identity_of};
use crate::identity::{PeerIdentity, PeerName};
use crate::token::Token;
use std::sync::OnceLock;
use weft_types::fuzz::{Counting, Decoder, Outcome, run};
use weft_types::{ClusterId, NodeId};

#[global_allocator]
static COUNTING: Counting = Counting;

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::create(ClusterId(7)).unwrap())
}

fn identities() -> [PeerIdentity; 3] {
    let name = || PeerName::new("a-host").unwrap();
    [
        PeerIdentity::node(ClusterId(7), NodeId(3)),
        PeerIdentity::client(ClusterId(7), name()),
        PeerIdentity::admin(ClusterId(7), name()),
    ]
}

fn token(bytes: &[u8]) -> Outcome {
    // As typed, and as a body under the right check sum.
    let typed = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Token>().ok());
    match typed.or_else(|| Token::from_body(bytes).ok()) {
        None => Outcome::Refused,
        Some(token) if token.to_text().parse() == Ok(token.clone()) => Outcome::Accepted,
        Some(token) => Outcome::Broken(format!("{token:?} reads back as another")),
    }
}

fn tokens() -> Vec<Vec<u8>> {
    let addresses = ["10.0.0.1:7103".parse().unwrap(), "[fd00::2]:7103".parse().unwrap()];
    let tokens = (0..3).map(|count| Token::create([count as u8; 32], &addresses[..count]).unwrap());
    tokens.flat_map(|token| [token.to_text().into_bytes(), token.body()]).collect()
}

fn peer_name(bytes: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(bytes) else { return Outcome::Refused };
    match text.parse::<PeerIdentity>() {
        Ok(identity) if identity.to_string() == text => Outcome::Accepted,
        Ok(identity) => Outcome::Broken(format!("'{text}' is read as '{identity}'")),
        Err(_) => Outcome::Refused,
    }
}

fn peer_names() -> Vec<Vec<u8>> {
    identities().iter().map(|identity| identity.to_string().into_bytes()).collect()
}

fn certificate(bytes: &[u8]) -> Outcome {
    identity_of(bytes).map_or(Outcome::Refused, |_| Outcome::Accepted)
}

fn certificates() -> Vec<Vec<u8>> {
    let signed = |identity: &PeerIdentity| {
        let request = MemberKey::generate().unwrap().signing_request().unwrap();
        authority().sign(&request, identity).unwrap()
    };
    identities().iter().map(signed).collect()
}

fn signing_request(bytes: &[u8]) -> Outcome {
    authority().sign(bytes, &identities()[0]).map_or(Outcome::Refused, |_| Outcome::Accepted)
}

fn signing_requests() -> Vec<Vec<u8>> {
    vec![MemberKey::generate().unwrap().signing_request().unwrap()]
}

fn credentials(bytes: &[u8]) -> Outcome {
    Credentials::parse(bytes).map_or(Outcome::Refused, |_| Outcome::Accepted)
}

fn credential_files() -> Vec<Vec<u8>> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("credentials");
    authority().issue(&identities()[0]).unwrap().save(&path).unwrap();
    vec![std::fs::read(path).unwrap()]
}

#[test]
fn decoders_of_credentials_keep_their_rules_whatever_the_bytes_are() {
    let limit_bytes = |input: usize| (256 << 10) + 64 * input;
    let target = |name, run, examples, cost| Decoder { name, run, examples, limit_bytes, cost };
    run(
        env!("CARGO_MANIFEST_DIR"),
        &[
            target("token", token, tokens, 1),
            target("peer-name", peer_name, peer_names, 1),
            target("certificate", certificate, certificates, 2),
            target("signing-request", signing_request, signing_requests, 6),
            target("credentials", credentials, credential_files, 6),
        ],
    );
}
