//! What Raft's storage and network read, with wrong bytes.

use crate::applied::AppliedMark;
use crate::log::LogIdentity;
use crate::network::{Answer, Message};
use crate::snapshot_file::SnapshotReader;
use crate::types::{Entry, LogId, SnapshotMeta, Vote, decode, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use weft_types::arbitrary::value;
use weft_types::fuzz::{Counting, Decoder, Outcome, message_limit_bytes, run};

#[global_allocator]
static COUNTING: Counting = Counting;

/// What is written again has to read the same; these types do not all compare.
fn stable<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Outcome {
    let Ok(value) = decode::<T>(bytes) else { return Outcome::Refused };
    let Ok(first) = encode(&value) else { return Outcome::Broken("it cannot be encoded".to_owned()) };
    let second = decode::<T>(&first).ok().and_then(|again| encode(&again).ok());
    let mut longer = first.clone();
    longer.push(0);
    if second.as_ref() != Some(&first) {
        return Outcome::Broken(format!("{first:?} comes back as {second:?}"));
    }
    if decode::<T>(&longer).is_ok() {
        Outcome::Broken("a byte behind it is accepted".to_owned())
    } else {
        Outcome::Accepted
    }
}

fn examples<T: Serialize + DeserializeOwned>() -> Vec<Vec<u8>> {
    (0..150).filter_map(value::<T>).filter_map(|value| encode(&value).ok()).collect()
}

fn of<T: Serialize + DeserializeOwned>(name: &'static str) -> Decoder {
    Decoder { name, run: stable::<T>, examples: examples::<T>, limit_bytes: message_limit_bytes, cost: 1 }
}

/// A snapshot file up to its hash; the right hash follows.
fn snapshot(bytes: &[u8]) -> Outcome {
    let mut file = bytes.to_vec();
    file.extend_from_slice(blake3::hash(bytes).as_bytes());
    let Ok(mut reader) = SnapshotReader::open(&file[..]) else { return Outcome::Refused };
    loop {
        match reader.next_pair() {
            Ok(Some(_)) => {}
            Ok(None) => return Outcome::Accepted,
            Err(_) => return Outcome::Refused,
        }
    }
}

fn snapshots() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for pairs in 0..6u64 {
        let header = encode(&SnapshotMeta::default()).unwrap();
        let mut file = b"WEFTSNAP\x01\0\0\0".to_vec();
        file.extend_from_slice(&(header.len() as u32).to_le_bytes());
        file.extend_from_slice(&header);
        for pair in 0..pairs {
            file.extend_from_slice(&3u32.to_le_bytes());
            file.extend_from_slice(&(pair as u32 * 10).to_le_bytes());
            file.extend_from_slice(&[b'k', b'e', pair as u8]);
            file.extend_from_slice(&vec![9; pair as usize * 10]);
        }
        file.extend_from_slice(&u32::MAX.to_le_bytes());
        file.extend_from_slice(&pairs.to_le_bytes());
        out.push(file);
    }
    out
}

#[test]
fn decoders_of_raft_keep_their_rules_whatever_the_bytes_are() {
    // Reading is buffered; beyond that a part of a snapshot takes what is there of it, whatever it claims.
    let snapshot_limit = |input| (1 << 20) + message_limit_bytes(input);
    run(
        env!("CARGO_MANIFEST_DIR"),
        &[
            of::<Message>("raft-message"),
            of::<Answer>("raft-answer"),
            of::<Entry>("raft-entry"),
            of::<Vote>("raft-vote"),
            of::<Option<LogId>>("raft-purge-mark"),
            of::<LogIdentity>("raft-identity"),
            of::<AppliedMark>("applied-mark"),
            Decoder { name: "snapshot", run: snapshot, examples: snapshots, limit_bytes: snapshot_limit, cost: 2 },
        ],
    );
}
