//! Operations on the namespace of a volume, as a client sends them to the metadata group, and their results.
//!
//! A mutation is committed through Raft and remembered by (session, request number), so a retry gets the first answer.
//! A query is answered from applied state after one shared quorum round.

use serde::{Deserialize, Serialize};
use weft_types::{
    Attributes, FileKind, InodeNumber, LockKind, LockOwner, LockRange, ObjectId, RequestNumber, SessionId, Timestamp,
    TruncateGeneration, VolumeId,
};

/// Who asks: checked against permission bits by the client kernel (`default_permissions`); recorded as owner here.
/// What `umask` names is taken from the mode of what is made, unless the directory has a default ACL.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct Credentials {
    pub uid: u32,
    pub gid: u32,
    pub umask: u16,
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
        room: Room,
    },
    /// The session has to make the file longer, up to `end_bytes` at least: asks for the size cap. Answered by `Opened`;
    /// while another session holds it, `size_cap` is false, the holder is asked to give it up (`Notice::Recall`) and the
    /// asker stands in line. When it is its turn it is told (`Notice::CapGranted`) and holds the cap already.
    AcquireSizeCap {
        inode: InodeNumber,
        end_bytes: u64,
    },
    /// The holder has stopped extending: commits what it knows and passes the cap to the next in line.
    ReleaseSizeCap {
        inode: InodeNumber,
        generation: TruncateGeneration,
        size_bytes: u64,
        modified: Option<TimeChange>,
    },
    /// The session works under this truncate generation or a later one, and nothing it began before is under way.
    AcknowledgeTruncate {
        inode: InodeNumber,
        generation: TruncateGeneration,
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
    /// Last close of the inode in this session; gives back the size cap and every lock.
    Close {
        inode: InodeNumber,
    },
    /// Byte-range locks of a file that the session has open (decision 0009).
    Lock {
        inode: InodeNumber,
        change: LockChange,
    },
}

/// Whether a lock that cannot be had now is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum LockWait {
    /// F_SETLK: the answer is `LockConflict`.
    No,
    /// F_SETLKW: the answer is `LockWaits`.
    Yes,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum LockChange {
    /// The owner's locks in the range become this kind, whatever they were. Answer: `Locked`, or as `wait` says.
    Set { owner: LockOwner, range: LockRange, kind: LockKind, process_id: u32, wait: LockWait },
    /// The owner has nothing locked in the range any more.
    Unlock { owner: LockOwner, range: LockRange },
    /// The owner is gone: neither locks nor waits of it are left in this inode.
    Release { owner: LockOwner },
    /// Gives up the wait that began with this request. Answer: `Done`, or `Locked` when it was granted before.
    Cancel { request: RequestNumber },
}

/// A lock that stands in the way.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct LockHolder {
    pub session: SessionId,
    pub process_id: u32,
    pub range: LockRange,
    pub kind: LockKind,
}

/// Whether the holder of the size cap goes on making the file longer.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum Room {
    Keep,
    /// Not for now: the committed size is exact until it asks for room again.
    GiveBack,
}

/// Who may know a larger size than the record's.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub enum SizeKnowledge {
    /// Nobody: the record's size is the file's.
    #[default]
    Exact,
    /// The holder of the size cap, which may have made the file longer, up to here.
    Holder { session: SessionId, max_size_bytes: u64 },
    /// The holder was fenced; the placement groups are being asked.
    Collecting,
}

/// What the metadata leader tells a session (`ControlRequest::Watch`).
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum Notice {
    /// Another session wants the size cap: give it up.
    Recall { inode: InodeNumber },
    /// The session holds the size cap now.
    CapGranted { inode: InodeNumber },
    /// The file was truncated elsewhere: acknowledge the generation.
    Truncated { inode: InodeNumber, generation: TruncateGeneration },
    /// Somebody wants to know the size now: `ControlRequest::TellSize`, naming the question.
    SizeWanted { inode: InodeNumber, question: u64 },
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
    /// F_GETLK: the first lock of another owner that would be in the way. Answer: `LockConflict`.
    LockConflict {
        inode: InodeNumber,
        session: SessionId,
        owner: LockOwner,
        range: LockRange,
        kind: LockKind,
    },
    /// Sessions that have the inode open and owe the acknowledgement of a truncation.
    TruncationUnknownTo {
        inode: InodeNumber,
    },
}

/// A file as data operations need it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct FileRecord {
    pub attributes: Attributes,
    pub object: ObjectId,
    pub generation: TruncateGeneration,
    pub knowledge: SizeKnowledge,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct DirectoryEntry {
    pub name: Vec<u8>,
    /// Cookie to continue after this entry. Stable while the entry exists; never reused within a directory.
    pub cookie: u64,
    pub record: FileRecord,
}

/// Whether a truncation has to be acknowledged by other sessions before it is carried out and answered.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum OtherSessions {
    NothingToSay,
    /// Ask `TruncationUnknownTo` until nobody is left.
    Told,
}

/// Results of both.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum NamespaceReply {
    Done,
    Record(FileRecord),
    Opened {
        record: FileRecord,
        size_cap: bool,
        others: OtherSessions,
    },
    /// After `SetAttributes`: when `cut` is set, the caller has to truncate the object in its placement groups to this
    /// size and then send `FinishTruncate`.
    Changed {
        record: FileRecord,
        cut: Option<u64>,
        others: OtherSessions,
    },
    Sessions(Vec<SessionId>),
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
    /// The lock is held.
    Locked,
    /// The lock is waited for; `AwaitLock` with this request tells when it is held.
    LockWaits {
        request: RequestNumber,
    },
    /// Nothing was locked; this is in the way.
    LockConflict(Option<LockHolder>),
}
