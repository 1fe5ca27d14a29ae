//! How a record becomes bytes: one version byte, then postcard.
//!
//! Guarantees: the same record gives the same bytes on every machine; an unknown version is an error, never a guess.

use crate::view::{StateError, View};
use serde::Serialize;
use serde::de::DeserializeOwned;

const VERSION: u8 = 2;

pub(crate) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, StateError> {
    postcard::to_extend(record, vec![VERSION])
        .map_err(|e| StateError::Store(format!("a metadata record cannot be encoded: {e}")))
}

pub(crate) fn decode<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T, StateError> {
    let corrupt = |why: String| StateError::Corrupt { key: crate::keys::text(key), why };
    match bytes.split_first() {
        Some((&VERSION, body)) => weft_types::codec::decode(body).map_err(|e| corrupt(e.to_string())),
        Some((version, _)) => Err(corrupt(format!("version {version} is unknown"))),
        None => Err(corrupt("it is empty".to_owned())),
    }
}

/// A record, or `None` when there is none.
pub(crate) fn fetch<T: DeserializeOwned>(view: &dyn View, key: &[u8]) -> Result<Option<T>, StateError> {
    view.get(key)?.map(|bytes| decode(key, &bytes)).transpose()
}

/// Every record whose key begins with `prefix`, ascending, at most `limit`.
pub(crate) fn fetch_all<T: DeserializeOwned>(
    view: &dyn View,
    prefix: &[u8],
    limit: usize,
) -> Result<Vec<T>, StateError> {
    let pairs = view.scan(prefix, &crate::keys::after_prefix(prefix), limit)?;
    pairs.iter().map(|(key, bytes)| decode(key, bytes)).collect()
}
