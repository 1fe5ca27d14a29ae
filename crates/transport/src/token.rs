//! A join token: what a new member needs to find the cluster, to know it from an impostor, and to be let in.
//!
//! Text form: `weft-` and base32 of the postcard body and a check sum. It holds a secret; the cluster keeps only the
//! secret's hash.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

const PREFIX: &str = "weft-";
const CHECK_BYTES: usize = 4;
/// Addresses in a token: any one that answers is enough.
pub const MAX_TOKEN_ADDRESSES: usize = 8;
/// Longest text that is read as a token.
const MAX_TOKEN_TEXT_BYTES: usize = 1024;

/// Random, public; names a token in lists and in the cluster's metadata.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenId(pub u64);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TokenSecret([u8; 16]);

/// See the module.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub id: TokenId,
    /// BLAKE3 of the authority's certificate.
    pub authority_fingerprint: [u8; 32],
    /// Join addresses of nodes.
    pub addresses: Vec<SocketAddr>,
    secret: TokenSecret,
}

/// BLAKE3 of a token's secret; what the cluster stores.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct TokenSecretHash(pub [u8; 32]);

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenError {
    #[error("this is not a join token; one begins with 'weft-' and is copied whole")]
    Malformed,
    #[error("the system gives no random bytes")]
    NoRandomness,
}

impl fmt::Debug for Token {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id).field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Token {
    /// A new token with a random id and secret.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn create(authority_fingerprint: [u8; 32], addresses: &[SocketAddr]) -> Result<Self, TokenError> {
        let (mut id, mut secret) = ([0u8; 8], [0u8; 16]);
        fill_random(&mut id)?;
        fill_random(&mut secret)?;
        let addresses = addresses.iter().copied().take(MAX_TOKEN_ADDRESSES).collect();
        let id = TokenId(u64::from_le_bytes(id));
        Ok(Self { id, authority_fingerprint, addresses, secret: TokenSecret(secret) })
    }

    #[must_use]
    pub fn secret_hash(&self) -> TokenSecretHash {
        TokenSecretHash(*self.hash().as_bytes())
    }

    /// Whether this token's secret is the one behind `stored`. Takes the same time wherever they differ.
    #[must_use]
    pub fn matches(&self, stored: TokenSecretHash) -> bool {
        // `blake3::Hash` compares in constant time.
        self.hash() == blake3::Hash::from_bytes(stored.0)
    }

    fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_derive_key("weft 2025 join token secret v1");
        hasher.update(&self.id.0.to_le_bytes()).update(&self.secret.0);
        hasher.finalize()
    }

    pub(crate) fn from_body(body: &[u8]) -> Result<Self, TokenError> {
        let token: Self = weft_proto::frame::decode_header(body).map_err(|_| TokenError::Malformed)?;
        if token.addresses.len() > MAX_TOKEN_ADDRESSES { Err(TokenError::Malformed) } else { Ok(token) }
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// The text form. It holds the secret: show it once, to the one who asked for it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut bytes = self.body();
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..CHECK_BYTES]);
        format!("{PREFIX}{}", base32(&bytes))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > MAX_TOKEN_TEXT_BYTES {
            return Err(TokenError::Malformed);
        }
        let digits = text.strip_prefix(PREFIX).ok_or(TokenError::Malformed)?;
        let bytes = from_base32(digits).ok_or(TokenError::Malformed)?;
        let (body, check) =
            bytes.split_at_checked(bytes.len().saturating_sub(CHECK_BYTES)).ok_or(TokenError::Malformed)?;
        if check != &blake3::hash(body).as_bytes()[..CHECK_BYTES] {
            return Err(TokenError::Malformed);
        }
        Self::from_body(body)
    }
}

fn fill_random(buffer: &mut [u8]) -> Result<(), TokenError> {
    let filled = rustix::rand::getrandom(&mut *buffer, rustix::rand::GetRandomFlags::empty());
    if filled == Ok(buffer.len()) { Ok(()) } else { Err(TokenError::NoRandomness) }
}

/// RFC 4648 base32 in lower case without padding.
const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in bytes {
        bits = bits << 8 | u32::from(*byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            text.push(char::from(DIGITS[(bits >> held & 31) as usize]));
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        text.push(char::from(DIGITS[(bits << (5 - held) & 31) as usize]));
    }
    text
}

fn from_base32(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut bits, mut held) = (0u32, 0u32);
    for digit in text.bytes() {
        let value = DIGITS.iter().position(|d| *d == digit.to_ascii_lowercase())?;
        bits = bits << 5 | value as u32;
        held += 5;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    // What is left of the last digit is padding: zeros, and less than a digit.
    (bits == 0 && held < 5).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_from_its_text_and_a_typing_error_is_noticed() {
        let addresses = ["10.0.0.1:7103".parse().unwrap(), "[fd00::2]:7103".parse().unwrap()];
        let token = Token::create([7; 32], &addresses).unwrap();
        let text = token.to_text();
        assert_eq!(text.parse::<Token>(), Ok(token.clone()));
        assert_eq!(format!(" {text}\n").parse::<Token>(), Ok(token));
        for at in [5, 20, text.len() - 1] {
            let mut wrong = text.clone().into_bytes();
            wrong[at] = if wrong[at] == b'b' { b'c' } else { b'b' };
            assert!(String::from_utf8(wrong).unwrap().parse::<Token>().is_err(), "digit {at}");
        }
        assert!("weft-".parse::<Token>().is_err());
        assert!("".parse::<Token>().is_err());
    }

    #[test]
    fn only_the_right_secret_matches_the_stored_hash() {
        let (one, two) = (Token::create([7; 32], &[]).unwrap(), Token::create([7; 32], &[]).unwrap());
        assert!(one.matches(one.secret_hash()));
        assert!(!two.matches(one.secret_hash()));
        assert!(!format!("{one:?}").contains(&base32(&one.secret.0)));
    }
}
