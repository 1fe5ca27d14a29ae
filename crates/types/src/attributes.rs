//! Attributes of an inode as stat sees them.

use crate::ids::InodeNumber;
use serde::{Deserialize, Serialize};

/// Wall-clock time of a file. Only for display and for utimens: no protocol decision reads it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, Debug)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanoseconds: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum FileKind {
    Regular,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharacterDevice,
    BlockDevice,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Attributes {
    pub inode: InodeNumber,
    pub kind: FileKind,
    pub size_bytes: u64,
    /// Bytes of blocks that are present, over one replica.
    pub allocated_bytes: u64,
    /// Permission bits, 0o7777 at most.
    pub mode: u16,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    /// Device number of a device node, as in `st_rdev`.
    pub device: u32,
    pub accessed: Timestamp,
    pub modified: Timestamp,
    pub changed: Timestamp,
    pub created: Timestamp,
}
