//! Values of the replicated state that have no type in `weft-types` or `weft-proto`.
//!
//! Responsible for: their shapes. Each is stored as a version byte and postcard (see `codec`).

use serde::{Deserialize, Serialize};
use weft_proto::admin::TokenRole;
use weft_types::map::NodeRecord;
use weft_types::{
    ClusterId, FileKind, Incarnation, InodeNumber, MapVersion, ObjectId, RequestNumber, SessionId, SessionOwner,
    StartId, Timestamp, TruncateGeneration, VolumeId,
};

/// The cluster's identity and its certificate authority.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ClusterRecord {
    pub id: ClusterId,
    pub authority_certificate: Vec<u8>,
    pub authority_key: Vec<u8>,
    pub created: Timestamp,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct NodeEntry {
    pub record: NodeRecord,
    /// What the node named as its previous incarnation when it last registered. A node that never learnt the answer
    /// names it again; one that names anything else has lost or rolled back its store.
    pub registered_from: Incarnation,
    /// Which start of its process registered last.
    pub registered_start: StartId,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct TokenRecord {
    pub id: String,
    pub role: TokenRole,
    pub name: String,
    pub expires_at_seconds: i64,
    pub used: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum SessionState {
    Live,
    /// Off the list since this map version; still owns its caps.
    Struck {
        since: MapVersion,
    },
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct SessionRecord {
    pub id: SessionId,
    /// Who opened it; nobody else speaks for it.
    pub owner: SessionOwner,
    pub volume: VolumeId,
    pub host: String,
    pub mount_point: String,
    pub state: SessionState,
}

/// How far a session's requests are answered, and what it has open.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct RequestWindow {
    /// Requests below are answered and forgotten; they are refused.
    pub low_water: RequestNumber,
    /// Replies remembered.
    pub remembered: u32,
    /// Inodes the session has open.
    pub opens: u64,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct InodeRecord {
    pub kind: FileKind,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub device: u32,
    pub links: u32,
    pub size_bytes: u64,
    pub accessed: Timestamp,
    pub modified: Timestamp,
    pub changed: Timestamp,
    pub created: Timestamp,
    pub object: ObjectId,
    /// Counts shrinking truncations of the inode; goes on counting when the object is swapped.
    pub generation: TruncateGeneration,
    /// Sessions that have it open.
    pub open_sessions: u32,
    /// Session that alone knows the size.
    pub size_cap: Option<SessionId>,
    /// The holder may make the file this long.
    pub max_size_bytes: u64,
    /// Who waits for the cap, longest first; at most `MAX_CAP_WAITERS`.
    pub cap_queue: Vec<SessionId>,
    pub xattrs: u32,
    pub xattr_bytes: u32,
    pub body: InodeBody,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum InodeBody {
    File {
        /// A cut that is not known finished: size it cuts to. No other cut begins before this one ends.
        cut: Option<u64>,
        /// The size-cap holder was fenced: the cap is granted again only after its size is collected.
        size_unknown: bool,
        /// A session had it open for writing since its object was made: there may be data to delete.
        written: bool,
    },
    Directory {
        parent: InodeNumber,
        entries: u64,
        next_cookie: u64,
    },
    Symlink {
        target: Vec<u8>,
    },
    Device,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct EntryRecord {
    pub inode: InodeNumber,
    pub cookie: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct VolumeUsageRecord {
    pub inodes: u64,
    /// Counted up, never reused.
    pub last_inode: InodeNumber,
    pub last_object: ObjectId,
}

/// A deletion in progress.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ReclaimItem {
    pub volume: VolumeId,
    pub object: ObjectId,
    pub what: ReclaimWhat,
    pub since: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum ReclaimWhat {
    /// The object has no inode any more.
    Object,
    /// A truncation to zero gave the inode another object.
    Replaced { inode: InodeNumber },
    /// What lies at or past `size_bytes`.
    Cut { inode: InodeNumber, size_bytes: u64, generation: TruncateGeneration },
}

impl ReclaimItem {
    /// The inode whose sessions have to know of the truncation before it is carried out.
    #[must_use]
    pub const fn truncated_inode(&self) -> Option<InodeNumber> {
        match self.what {
            ReclaimWhat::Object => None,
            ReclaimWhat::Replaced { inode } | ReclaimWhat::Cut { inode, .. } => Some(inode),
        }
    }

    /// The generation that `Command::ReclaimDone` has to name.
    #[must_use]
    pub const fn generation(&self) -> TruncateGeneration {
        match self.what {
            ReclaimWhat::Object | ReclaimWhat::Replaced { .. } => TruncateGeneration(0),
            ReclaimWhat::Cut { generation, .. } => generation,
        }
    }
}

/// What a session has to be told of an inode that it has open (`namespace::notices`). Each part carries the notice's
/// number at which it came up, so that a later one of the same kind is a debt of its own.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct NoticeRecord {
    pub number: u64,
    pub session: SessionId,
    pub volume: VolumeId,
    pub inode: InodeNumber,
    pub recalled: Option<u64>,
    pub granted: Option<u64>,
    pub truncated: Option<(TruncateGeneration, u64)>,
}

impl NoticeRecord {
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.recalled.is_none() && self.granted.is_none() && self.truncated.is_none()
    }
}

/// A file whose size only a fenced session knew: collect the highest sequenced end from every placement group.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct SizeRecovery {
    pub volume: VolumeId,
    pub inode: InodeNumber,
    pub object: ObjectId,
    pub generation: TruncateGeneration,
    /// The holder was not allowed to go further.
    pub max_bytes: u64,
}
