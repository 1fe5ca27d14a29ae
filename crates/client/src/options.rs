//! What a client is told when it starts. Plain data; read from the command line and from `mount -o`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use weft_transport::quic::STREAM_WINDOW_BYTES;

/// What was measured as enough for the speed that the benchmark shows.
pub const DEFAULT_MEMORY_MIB: u32 = 256;
/// Of a client's memory, data of operations that are not answered. As much again may lie in the kernel interface and in
/// the transport; the rest is for the program, maps and caches.
const SHARE_IN_FLIGHT: usize = 4;

/// Memory that a client may take, within bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryLimit {
    mebibytes: u32,
}

impl MemoryLimit {
    pub const LEAST_MIB: u32 = 64;
    pub const MOST_MIB: u32 = 16_384;

    /// `None` when it is out of bounds.
    #[must_use]
    pub fn from_mib(mebibytes: u32) -> Option<Self> {
        (Self::LEAST_MIB..=Self::MOST_MIB).contains(&mebibytes).then_some(Self { mebibytes })
    }

    /// Received on one stream of a connection and not read yet.
    #[must_use]
    pub fn window_bytes(self) -> u32 {
        (self.mebibytes << 20 >> 4).min(STREAM_WINDOW_BYTES)
    }

    /// Data of operations that may be under way at a time.
    #[must_use]
    pub const fn bytes_in_flight(self) -> usize {
        ((self.mebibytes as usize) << 20) / SHARE_IN_FLIGHT
    }
}

impl Default for MemoryLimit {
    fn default() -> Self {
        Self { mebibytes: DEFAULT_MEMORY_MIB }
    }
}

/// How to reach the cluster, and who we are.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Directory with this client's certificate, key, the cluster's authority and `cluster.json`
    /// (see [`crate::identity`]).
    pub identity: PathBuf,
    /// Local address of every socket; `None` lets the kernel choose.
    pub bind: Option<IpAddr>,
    /// Name of this host, for `weft client list`.
    pub host: String,
    /// How long an operation waits while storage or the metadata group is gone. `None` (the default) waits for ever,
    /// as a hard NFS mount does: a guest then stalls and goes on, and no write is lost.
    pub fail_after: Option<Duration>,
    pub memory: MemoryLimit,
}

impl ConnectOptions {
    #[must_use]
    pub fn new(identity: impl Into<PathBuf>) -> Self {
        Self {
            identity: identity.into(),
            bind: None,
            host: host_name(),
            fail_after: None,
            memory: MemoryLimit::default(),
        }
    }
}

/// Name of this machine as the kernel knows it.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Access that an opened file gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Read,
    /// Asks for the size cap (design 7, "Size").
    Write,
}

/// What happens to the contents when a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenContents {
    Keep,
    /// O_TRUNC
    Truncate,
}

/// When a write is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// As the volume says (`ack=memory` or `ack=disk`).
    Volume,
    /// On every in-sync member's disk: O_SYNC, O_DSYNC, FUA.
    Disk,
}

/// What a flush makes durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlushScope {
    /// fdatasync: data, and the size without which they could not be read back.
    Data,
    /// fsync: modification time too.
    DataAndTimes,
}

/// Whether a zeroed range may make the file longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SizeEffect {
    /// FALLOC_FL_KEEP_SIZE
    Keep,
    Extend,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_a_quarter_of_it_is_for_data_under_way() {
        assert_eq!(MemoryLimit::from_mib(MemoryLimit::LEAST_MIB - 1), None);
        assert_eq!(MemoryLimit::from_mib(MemoryLimit::MOST_MIB + 1), None);
        assert_eq!(MemoryLimit::default().bytes_in_flight(), 64 << 20);
        assert_eq!(MemoryLimit::from_mib(64).map(MemoryLimit::bytes_in_flight), Some(16 << 20));
        assert_eq!(MemoryLimit::from_mib(MemoryLimit::MOST_MIB).map(MemoryLimit::bytes_in_flight), Some(4 << 30));
    }
}
