//! The client of a Weft volume: what a mount, `weft image` and the administrative commands stand on.
//!
//! Responsible for: routing, retries, flush and size semantics of one client session. `core` decides purely; the rest of
//! the crate is the shell that carries its actions out on a tokio runtime.
//! Guarantees: an operation keeps its number across retries, so it happens once (design 5.8); an acknowledged write
//! is what the volume's `ack` mode says; a flush never answers "durable" over a hole (design 5); after the session was
//! struck every operation fails for good (design 4.4).
//! Must not know: FUSE.
//!
//! # The public interface
//!
//! Everything lives on one thread, in a tokio `LocalSet`: [`block_on`] makes one. Every refusal is a
//! [`weft_types::ErrorKind`].
//!
//! ```ignore
//! let client = Client::connect(&ConnectOptions::new("/etc/weft/client"), "vms", "/mnt/vms").await?;
//! client.volume() -> VolumeRecord
//! client.root() -> InodeNumber
//! client.resolve("dir/disk.raw").await? -> FileRecord                    // for the command line
//! client.lookup(parent, name) -> FileRecord       client.attributes(inode) -> Attributes
//! client.set_attributes(inode, AttributeChange) -> Attributes            // size: a whole truncation
//! client.create(parent, name, NewInode, mode, Credentials) -> FileRecord
//! client.create_file(parent, name, mode, Credentials, Access) -> (FileRecord, FileHandle)
//! client.open(inode, Access, OpenContents) -> FileHandle
//! client.link / unlink / remove_directory / rename / read_link
//! client.read_directory(inode, after_cookie, max_entries) -> DirectoryPage
//! client.get_xattr / list_xattrs / set_xattr / remove_xattr
//! client.space() -> VolumeSpace                                          // statfs
//! client.statistics() -> &Statistics                                     // how long each hop took
//! client.close().await                                                   // commits sizes, ends the session
//!
//! file.read(offset, length) -> Bytes        file.write(offset, Bytes, Durability) -> usize
//! file.append(Bytes, Durability) -> (offset, usize)
//! file.flush(FlushScope)   file.discard(range)   file.zero(range, SizeEffect)   file.reserve(range, SizeEffect)   file.extend_to(end)
//! file.truncate(size)      file.presence(range) -> Vec<Range<u64>>              file.seek(offset, Seek) -> Option<u64>
//! file.lock(LockRequest, interrupted) -> LockOutcome       file.unlock(owner, range)
//! file.lock_conflict(owner, range, kind) -> Option<LockHolder>          file.descriptor_closed(owner)
//! file.publish_size()      file.close()
//!
//! let admin = AdminClient::connect(&options).await?;
//! admin.request(AdminRequest) -> AdminReply                              // at the metadata leader; Failed is Err
//! admin.request_node(NodeId, AdminRequest) -> AdminReply
//! admin.request_every_node(AdminRequest) -> Vec<(NodeId, Result<AdminReply, ErrorKind>)>
//! admin.control(ControlRequest) -> ControlReply
//! ```

pub mod admin;
pub mod client;
mod copy;
pub mod core;
pub mod error;
pub mod file;
pub mod identity;
pub mod mutants;
pub mod options;
pub mod presence;
pub mod shell;
pub mod space;
pub mod statistics;

#[cfg(feature = "fake-cluster")]
pub mod fake;

mod allocation;
mod locks;
mod open_inode;
mod size_cap;

pub use admin::AdminClient;
pub use client::{Client, DirectoryPage};
pub use error::ConnectError;
pub use file::FileHandle;
pub use identity::{IDENTITY_FILES, Identity, IdentityError};
pub use locks::{LockOutcome, LockRequest};
pub use options::{
    Access, ConnectOptions, DEFAULT_MEMORY_MIB, Durability, FlushScope, MemoryLimit, OpenContents, SizeEffect,
};
pub use presence::Seek;
pub use shell::boot_time;
pub use space::VolumeSpace;
pub use statistics::Statistics;

use std::future::Future;
use std::io;

/// What a client runs in: a single-thread runtime with a `LocalSet`. For callers that are not asynchronous.
pub struct LocalRuntime {
    // Dropped first: its tasks need the runtime.
    local: tokio::task::LocalSet,
    runtime: tokio::runtime::Runtime,
}

impl LocalRuntime {
    /// # Errors
    /// When the kernel gives no event queue.
    pub fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { local: tokio::task::LocalSet::new(), runtime })
    }

    /// Runs a future to its end. Tasks of the client make progress only meanwhile.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.local.block_on(&self.runtime, future)
    }
}

/// Runs one future in a [`LocalRuntime`] of its own.
///
/// # Errors
/// When the kernel gives no event queue.
pub fn block_on<T>(future: impl Future<Output = T>) -> io::Result<T> {
    Ok(LocalRuntime::new()?.block_on(future))
}
