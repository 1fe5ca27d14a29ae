//! Identities of things. Owns: every id newtype and its text form. Ids are never reused within a cluster.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! id64 {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(#[serde(deserialize_with = "crate::codec::count")] pub u64);

        impl $name {
            /// The id that follows this one. Ids are counted up by the metadata group only.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}
pub(crate) use id64;

macro_rules! id128 {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let v = self.0;
                write!(
                    f,
                    "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
                    (v >> 96) as u32,
                    (v >> 80) as u16,
                    (v >> 64) as u16,
                    (v >> 48) as u16,
                    v & 0xffff_ffff_ffff
                )
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = MalformedId;

            /// Reads the hyphenated text form; hyphens may be left out.
            fn from_str(text: &str) -> Result<Self, MalformedId> {
                let digits: String = text.chars().filter(|c| *c != '-').collect();
                if digits.len() != 32 {
                    return Err(MalformedId);
                }
                u128::from_str_radix(&digits, 16).map(Self).map_err(|_| MalformedId)
            }
        }
    };
}

/// A 128-bit id that is not 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id has 32 hexadecimal digits")]
pub struct MalformedId;

id128!(
    /// A cluster, drawn at random by `weft cluster init`.
    ClusterId
);
id128!(
    /// A disk, drawn at random when it is formatted. A wiped disk gets a new one.
    DiskId
);
id128!(
    /// The member of the cluster that opened a session: a hash of the name in its certificate.
    SessionOwner
);

impl SessionOwner {
    /// The first 128 bits of the BLAKE3 hash of the whole name, for example `client-hv1.<cluster id>.weft`.
    #[must_use]
    pub fn of_certificate(name: &str) -> Self {
        let mut first = [0u8; 16];
        first.copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..16]);
        Self(u128::from_le_bytes(first))
    }
}

id64!(
    /// A node of the metadata group; also its Raft id. A node with an empty store joins under a new one.
    NodeId
);
id64!(
    /// One run of a node, counted up at each registration.
    Incarnation
);
id128!(
    /// One start of a node's process, drawn at random: tells a request that is asked again from a restart.
    StartId
);
id64!(
    /// A client's lease with the metadata group.
    SessionId
);
id64!(
    /// A data operation of a session, counted up by the client; names it across retries.
    OperationId
);
id64!(
    /// A mutating metadata request of a session, counted up by the client; names it across retries.
    RequestNumber
);
id64!(
    /// A file, directory or other inode of a volume. Never reused.
    InodeNumber
);

impl InodeNumber {
    /// The root directory of every volume.
    pub const ROOT: Self = Self(1);
}

id64!(
    /// The data identity of a file. Never reused; a truncation to zero swaps it.
    ObjectId
);

/// A volume. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, Debug)]
#[serde(transparent)]
pub struct VolumeId(pub u32);

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A placement group: the unit of replication. Belongs to one volume for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct PgId {
    pub volume: VolumeId,
    pub index: u16,
}

impl fmt::Display for PgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.volume, self.index)
    }
}

impl fmt::Debug for PgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PgId({self})")
    }
}

/// A chunk: a fixed-size run of an object's bytes. Its volume is that of the placement group that holds it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ChunkId {
    pub object: ObjectId,
    pub index: crate::geometry::ChunkIndex,
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.object, self.index)
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_id_reads_back_from_its_text_form() {
        let id = ClusterId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        assert_eq!(id.to_string(), "01234567-89ab-cdef-0011-223344556677");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("12".parse::<ClusterId>(), Err(MalformedId));
    }
}
