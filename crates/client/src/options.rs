//! What a client is told when it starts. Plain data; read from the command line and from `mount -o`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

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
}

impl ConnectOptions {
    #[must_use]
    pub fn new(identity: impl Into<PathBuf>) -> Self {
        Self { identity: identity.into(), bind: None, host: host_name(), fail_after: None }
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
