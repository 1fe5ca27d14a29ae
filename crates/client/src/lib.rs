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
//! All futures are `Send`; they must run inside a tokio runtime (a `current_thread` one is fastest). Every refusal is a
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
//! client.close().await                                                   // commits sizes, ends the session
//!
//! file.read(offset, length) -> ReadData     file.write(offset, Bytes, Durability)   file.append(Bytes, Durability) -> u64
//! file.flush(FlushScope)   file.discard(range)   file.zero(range, SizeEffect)   file.allocate(range)
//! file.truncate(size)      file.presence(range) -> Vec<Range<u64>>              file.seek(offset, Seek) -> u64
//! file.close().await
//!
//! let admin = AdminClient::connect(&options).await?;
//! admin.request(AdminRequest) -> AdminReply                              // at the metadata leader
//! admin.request_node(NodeId, AdminRequest) -> AdminReply
//! admin.request_every_node(AdminRequest) -> Vec<(NodeId, Result<AdminReply, ErrorKind>)>
//! ```

pub mod options;

pub use options::{Access, ConnectOptions, Durability, FlushScope, OpenContents, SizeEffect};
