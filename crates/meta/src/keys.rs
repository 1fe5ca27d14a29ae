//! The key space of the replicated state. This is the only file that lays out keys.
//!
//! A key is one letter and fixed-width big-endian parts, so that records of one thing lie together and in order:
//!
//! | key | record |
//! |---|---|
//! | `c` | cluster: id, certificate authority |
//! | `k` name | counter |
//! | `n` node | `NodeEntry` |
//! | `d` disk | `DiskRecord` |
//! | `v` volume | `VolumeRecord` |
//! | `w` name | volume id |
//! | `u` volume | `VolumeUsageRecord`: inode and object counters |
//! | `p` volume index | `PgRecord` |
//! | `s` session | `SessionRecord` |
//! | `l` session | `RequestWindow` |
//! | `r` session request | remembered reply |
//! | `o` session inode | (nothing): the session has the inode open |
//! | `j` volume inode session | (nothing): the same, by inode |
//! | `m` session inode | `NoticeRecord`: what the session has to be told |
//! | `i` volume inode | `InodeRecord` |
//! | `e` volume directory name | `EntryRecord` |
//! | `f` volume directory cookie | name and inode: the order of readdir |
//! | `x` volume inode name | extended attribute |
//! | `q` volume object | `ReclaimItem` |
//! | `z` volume inode | `SizeRecovery` |
//! | `t` token hash | `TokenRecord` |
//! | `g` number | `Event` |
//! | `b` volume inode | `InodeLocks`: byte-range locks held and waited for |
//! | `h` session owner inode request | (nothing): this owner waits for a lock there |
//! | `a` session | `LockUse`: how many locks and waits the session has |

use crate::command::TokenHash;
use crate::view::Key;
use weft_types::{DiskId, InodeNumber, LockOwner, NodeId, ObjectId, PgId, RequestNumber, SessionId, VolumeId};

pub(crate) const CLUSTER: &[u8] = b"c";
pub(crate) const NODES: &[u8] = b"n";
pub(crate) const DISKS: &[u8] = b"d";
pub(crate) const VOLUMES: &[u8] = b"v";
pub(crate) const GROUPS: &[u8] = b"p";
pub(crate) const SESSIONS: &[u8] = b"s";
pub(crate) const RECLAIMS: &[u8] = b"q";
pub(crate) const SIZE_RECOVERIES: &[u8] = b"z";
pub(crate) const TOKENS: &[u8] = b"t";
pub(crate) const LOCKS: &[u8] = b"b";

pub(crate) const MAP_VERSION: &[u8] = b"kmap";
pub(crate) const LAST_NODE: &[u8] = b"knode";
pub(crate) const LAST_INCARNATION: &[u8] = b"kincarnation";
pub(crate) const LAST_VOLUME: &[u8] = b"kvolume";
pub(crate) const LAST_SESSION: &[u8] = b"ksession";
pub(crate) const LAST_EVENT: &[u8] = b"kevent";
pub(crate) const LAST_NOTICE: &[u8] = b"knotice";
pub(crate) const NOTICES: &[u8] = b"m";

/// Letters under which a volume's own records lie, each followed by the volume id.
pub(crate) const OF_VOLUME: &[u8] = b"efxizqbj";

fn key(letter: u8, parts: &[&[u8]]) -> Key {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|p| p.len()).sum::<usize>());
    key.push(letter);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

pub(crate) fn node(id: NodeId) -> Key {
    key(b'n', &[&id.0.to_be_bytes()])
}
pub(crate) fn disk(id: DiskId) -> Key {
    key(b'd', &[&id.0.to_be_bytes()])
}
pub(crate) fn volume(id: VolumeId) -> Key {
    key(b'v', &[&id.0.to_be_bytes()])
}
pub(crate) fn volume_name(name: &str) -> Key {
    key(b'w', &[name.as_bytes()])
}
pub(crate) fn usage(id: VolumeId) -> Key {
    key(b'u', &[&id.0.to_be_bytes()])
}
pub(crate) fn group(id: PgId) -> Key {
    key(b'p', &[&id.volume.0.to_be_bytes(), &id.index.to_be_bytes()])
}
pub(crate) fn groups_of(id: VolumeId) -> Key {
    key(b'p', &[&id.0.to_be_bytes()])
}
pub(crate) fn session(id: SessionId) -> Key {
    key(b's', &[&id.0.to_be_bytes()])
}
pub(crate) fn window(id: SessionId) -> Key {
    key(b'l', &[&id.0.to_be_bytes()])
}
pub(crate) fn reply(id: SessionId, request: RequestNumber) -> Key {
    key(b'r', &[&id.0.to_be_bytes(), &request.0.to_be_bytes()])
}
pub(crate) fn replies_of(id: SessionId) -> Key {
    key(b'r', &[&id.0.to_be_bytes()])
}
pub(crate) fn open(id: SessionId, inode: InodeNumber) -> Key {
    key(b'o', &[&id.0.to_be_bytes(), &inode.0.to_be_bytes()])
}
pub(crate) fn opens_of(id: SessionId) -> Key {
    key(b'o', &[&id.0.to_be_bytes()])
}
pub(crate) fn opener(volume: VolumeId, inode: InodeNumber, session: SessionId) -> Key {
    key(b'j', &[&volume.0.to_be_bytes(), &inode.0.to_be_bytes(), &session.0.to_be_bytes()])
}
pub(crate) fn openers_of(volume: VolumeId, inode: InodeNumber) -> Key {
    key(b'j', &[&volume.0.to_be_bytes(), &inode.0.to_be_bytes()])
}
pub(crate) fn notice(id: SessionId, inode: InodeNumber) -> Key {
    key(b'm', &[&id.0.to_be_bytes(), &inode.0.to_be_bytes()])
}
pub(crate) fn notices_of(id: SessionId) -> Key {
    key(b'm', &[&id.0.to_be_bytes()])
}
pub(crate) fn inode(volume: VolumeId, inode: InodeNumber) -> Key {
    key(b'i', &[&volume.0.to_be_bytes(), &inode.0.to_be_bytes()])
}
pub(crate) fn inodes_of(volume: VolumeId) -> Key {
    key(b'i', &[&volume.0.to_be_bytes()])
}
pub(crate) fn entry(volume: VolumeId, directory: InodeNumber, name: &[u8]) -> Key {
    key(b'e', &[&volume.0.to_be_bytes(), &directory.0.to_be_bytes(), name])
}
pub(crate) fn cookie(volume: VolumeId, directory: InodeNumber, cookie: u64) -> Key {
    key(b'f', &[&volume.0.to_be_bytes(), &directory.0.to_be_bytes(), &cookie.to_be_bytes()])
}
pub(crate) fn cookies_of(volume: VolumeId, directory: InodeNumber) -> Key {
    key(b'f', &[&volume.0.to_be_bytes(), &directory.0.to_be_bytes()])
}
pub(crate) fn xattr(volume: VolumeId, inode: InodeNumber, name: &[u8]) -> Key {
    key(b'x', &[&volume.0.to_be_bytes(), &inode.0.to_be_bytes(), name])
}
pub(crate) fn xattrs_of(volume: VolumeId, inode: InodeNumber) -> Key {
    key(b'x', &[&volume.0.to_be_bytes(), &inode.0.to_be_bytes()])
}
pub(crate) fn reclaim(volume: VolumeId, object: ObjectId) -> Key {
    key(b'q', &[&volume.0.to_be_bytes(), &object.0.to_be_bytes()])
}
pub(crate) fn size_recovery(volume: VolumeId, inode: InodeNumber) -> Key {
    key(b'z', &[&volume.0.to_be_bytes(), &inode.0.to_be_bytes()])
}
pub(crate) fn locks(volume: VolumeId, inode: InodeNumber) -> Key {
    key(b'b', &[&volume.0.to_be_bytes(), &inode.0.to_be_bytes()])
}
pub(crate) fn locks_of(volume: VolumeId) -> Key {
    key(b'b', &[&volume.0.to_be_bytes()])
}
/// Volume and inode of a key made by `locks`.
pub(crate) fn place_of_locks(key: &[u8]) -> Option<(VolumeId, InodeNumber)> {
    let (volume, inode) = key.get(1..)?.split_first_chunk::<4>()?;
    let inode = <[u8; 8]>::try_from(inode).ok()?;
    Some((VolumeId(u32::from_be_bytes(*volume)), InodeNumber(u64::from_be_bytes(inode))))
}
pub(crate) fn lock_wait(session: SessionId, owner: LockOwner, inode: InodeNumber, request: RequestNumber) -> Key {
    let (owner, inode, request) = (owner.0.to_be_bytes(), inode.0.to_be_bytes(), request.0.to_be_bytes());
    key(b'h', &[&session.0.to_be_bytes(), &owner, &inode, &request])
}
pub(crate) fn lock_waits_of_owner(session: SessionId, owner: LockOwner) -> Key {
    key(b'h', &[&session.0.to_be_bytes(), &owner.0.to_be_bytes()])
}
pub(crate) fn lock_use(session: SessionId) -> Key {
    key(b'a', &[&session.0.to_be_bytes()])
}
pub(crate) fn token(hash: &TokenHash) -> Key {
    key(b't', &[hash])
}
pub(crate) fn event(number: u64) -> Key {
    key(b'g', &[&number.to_be_bytes()])
}
pub(crate) fn of_volume(letter: u8, volume: VolumeId) -> Key {
    key(letter, &[&volume.0.to_be_bytes()])
}

/// The number that a key ends with.
pub(crate) fn last_u64(key: &[u8]) -> u64 {
    key.iter().rev().take(8).rev().fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

/// The first key that does not begin with `prefix`.
#[must_use]
pub fn after_prefix(prefix: &[u8]) -> Key {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    // Only a prefix of 0xff bytes comes here; keys begin with a letter, so everything is below this.
    vec![0xff; prefix.len() + 1]
}

/// A key for people: its letter and the rest in hexadecimal.
pub(crate) fn text(key: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    if let Some((letter, rest)) = key.split_first() {
        text.push(char::from(*letter));
        text.push(':');
        for byte in rest {
            let _ = write!(text, "{byte:02x}");
        }
    }
    text
}
