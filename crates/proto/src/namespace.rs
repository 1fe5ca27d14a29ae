//! Operations on the namespace of a volume, as a client sends them to the metadata group, and their results.
//!
//! A mutation is committed through Raft and remembered by (session, request number), so a retry gets the first answer.
//! A query is answered from applied state after one shared quorum round.

use serde::{Deserialize, Serialize};
use weft_types::{Attributes, FileKind, InodeNumber, ObjectId, Timestamp, TruncateGeneration, VolumeId};

/// Who asks: checked against permission bits by the client kernel (`default_permissions`); recorded as owner here.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct Credentials {
    pub uid: u32,
    pub gid: u32,
}

/// How a name is replaced by rename.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub enum RenameMode {
    #[default]
    Replace,
    /// RENAME_NOREPLACE
    NoReplace,
    /// RENAME_EXCHANGE
    Exchange,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum XattrMode {
    CreateOrReplace,
    /// XATTR_CREATE
    Create,
    /// XATTR_REPLACE
    Replace,
}

/// A time to set: one given by the caller, or the moment at which the leader proposes the change.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum TimeChange {
    Now,
    To(Timestamp),
}

/// Fields of an inode to change; `None` leaves a field as it is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct AttributeChange {
    pub mode: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size_bytes: Option<u64>,
    pub accessed: Option<TimeChange>,
    pub modified: Option<TimeChange>,
}

/// What to make at a name.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum NewInode {
    Regular,
    Directory,
    Symlink { target: Vec<u8> },
    Device { kind: FileKind, device: u32 },
}

/// Mutations. Names are bytes without `/` and NUL.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum Mutation {
    /// Make an inode; for a regular file `open` also registers the session as having it open (see `Open`).
    Create {
        parent: InodeNumber,
        name: Vec<u8>,
        new: NewInode,
        mode: u16,
        credentials: Credentials,
        open: bool,
    },
    Link {
        inode: InodeNumber,
        parent: InodeNumber,
        name: Vec<u8>,
    },
    Unlink {
        parent: InodeNumber,
        name: Vec<u8>,
    },
    RemoveDirectory {
        parent: InodeNumber,
        name: Vec<u8>,
    },
    Rename {
        parent: InodeNumber,
        name: Vec<u8>,
        new_parent: InodeNumber,
        new_name: Vec<u8>,
        mode: RenameMode,
    },
    /// A shrinking `size_bytes` raises the truncate generation and registers the cut as a deletion in progress until
    /// `FinishTruncate`; to 0 it swaps the object and queues the old one for deletion.
    SetAttributes {
        inode: InodeNumber,
        change: AttributeChange,
    },
    /// The placement groups hold nothing of the object past the cut any more.
    FinishTruncate {
        inode: InodeNumber,
        generation: TruncateGeneration,
    },
    /// Holder of the size cap: commit a size (never smaller than the committed one within a truncate generation) and a
    /// modification time.
    CommitSize {
        inode: InodeNumber,
        generation: TruncateGeneration,
        size_bytes: u64,
        modified: TimeChange,
    },
    SetXattr {
        inode: InodeNumber,
        name: Vec<u8>,
        value: Vec<u8>,
        mode: XattrMode,
    },
    RemoveXattr {
        inode: InodeNumber,
        name: Vec<u8>,
    },
    /// The session has the inode open: it stays until the last such session closes it. With `write`, asks for the size
    /// cap, which is granted unless another live session holds it (then `Opened.size_cap` is false).
    Open {
        inode: InodeNumber,
        write: bool,
        truncate: bool,
    },
    /// Last close of the inode in this session; gives back the size cap.
    Close {
        inode: InodeNumber,
    },
}

/// Questions. They change nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum Query {
    Lookup {
        parent: InodeNumber,
        name: Vec<u8>,
    },
    Attributes {
        inode: InodeNumber,
    },
    ReadLink {
        inode: InodeNumber,
    },
    /// Entries after `after` (an opaque cookie from the last page; 0 to begin), at most `max_entries`.
    ReadDirectory {
        inode: InodeNumber,
        after: u64,
        max_entries: u32,
    },
    GetXattr {
        inode: InodeNumber,
        name: Vec<u8>,
    },
    ListXattrs {
        inode: InodeNumber,
    },
    VolumeUsage,
}

/// A file as data operations need it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct FileRecord {
    pub attributes: Attributes,
    pub object: ObjectId,
    pub generation: TruncateGeneration,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct DirectoryEntry {
    pub name: Vec<u8>,
    /// Cookie to continue after this entry. Stable while the entry exists; never reused within a directory.
    pub cookie: u64,
    pub record: FileRecord,
}

/// Results of both.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum NamespaceReply {
    Done,
    Record(FileRecord),
    Opened {
        record: FileRecord,
        size_cap: bool,
    },
    /// After `SetAttributes`: when `cut` is set, the caller has to truncate the object in its placement groups to this
    /// size and then send `FinishTruncate`.
    Changed {
        record: FileRecord,
        cut: Option<u64>,
    },
    Target(Vec<u8>),
    Directory {
        parent: InodeNumber,
        entries: Vec<DirectoryEntry>,
        complete: bool,
    },
    Xattr(Vec<u8>),
    XattrNames(Vec<Vec<u8>>),
    Usage {
        volume: VolumeId,
        inodes: u64,
    },
}
