//! Requests on names, attributes and extended attributes.

use crate::attributes::kernel_attributes;
use crate::errno::reported;
use crate::files::answer;
use crate::server::{Server, TTL};
use fuser::{Errno, Generation, RenameFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyStatfs, ReplyXattr};
use weft_proto::namespace::{Credentials, FileRecord, NewInode, RenameMode, XattrMode};
use weft_types::limits::MAX_NAME_BYTES;
use weft_types::{BLOCK_SIZE, ErrorKind, FileKind, InodeNumber};

/// Of the root only: how long this mount's requests took. It is in no list, and asking for it asks nobody else.
const STATISTICS_XATTR: &[u8] = b"weft.statistics";

/// A name within a directory.
pub struct Place {
    pub parent: InodeNumber,
    pub name: Vec<u8>,
}

fn answer_entry(what: &'static str, result: Result<FileRecord, ErrorKind>, reply: ReplyEntry) {
    match result {
        // Inode numbers are never reused, so one generation is enough.
        Ok(record) => reply.entry(&TTL, &kernel_attributes(&record.attributes), Generation(0)),
        Err(error) => reply.error(reported(what, &error)),
    }
}

/// Lists and values: the kernel asks for the length first, or says how much room it has.
fn answer_xattr(what: &'static str, result: Result<Vec<u8>, ErrorKind>, room: u32, reply: ReplyXattr) {
    match result {
        Ok(value) if room == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > room as usize => reply.error(Errno::from_i32(libc::ERANGE)),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(reported(what, &error)),
    }
}

/// What mknod makes.
pub fn new_inode(mode: u32, device: u32) -> Option<NewInode> {
    let kind = match mode & libc::S_IFMT {
        0 | libc::S_IFREG => return Some(NewInode::Regular),
        libc::S_IFIFO => FileKind::Fifo,
        libc::S_IFSOCK => FileKind::Socket,
        libc::S_IFCHR => FileKind::CharacterDevice,
        libc::S_IFBLK => FileKind::BlockDevice,
        _ => return None,
    };
    Some(NewInode::Device { kind, device })
}

pub fn rename_mode(flags: RenameFlags) -> Option<RenameMode> {
    if flags.is_empty() {
        Some(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Some(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Some(RenameMode::Exchange)
    } else {
        None
    }
}

impl Server {
    pub async fn lookup(&self, place: Place, reply: ReplyEntry) {
        let found = self.client.lookup(place.parent, &place.name).await;
        if let Ok(record) = &found {
            self.handles.told(&record.attributes);
        }
        answer_entry("lookup", found, reply);
    }

    pub async fn getattr(&self, inode: InodeNumber, reply: ReplyAttr) {
        match self.client.attributes(inode).await {
            Ok(attributes) => {
                self.handles.told(&attributes);
                reply.attr(&TTL, &kernel_attributes(&attributes));
            }
            Err(error) => reply.error(reported("getattr", &error)),
        }
    }

    pub async fn readlink(&self, inode: InodeNumber, reply: ReplyData) {
        match self.client.read_link(inode).await {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(reported("readlink", &error)),
        }
    }

    pub async fn make(&self, place: Place, new: NewInode, mode: u16, credentials: Credentials, reply: ReplyEntry) {
        let made = self.client.create(place.parent, &place.name, new, mode, credentials).await;
        answer_entry("create", made, reply);
    }

    pub async fn link(&self, inode: InodeNumber, place: Place, reply: ReplyEntry) {
        answer_entry("link", self.client.link(inode, place.parent, &place.name).await, reply);
    }

    pub async fn unlink(&self, place: Place, reply: ReplyEmpty) {
        answer("unlink", self.client.unlink(place.parent, &place.name).await, reply);
    }

    pub async fn rmdir(&self, place: Place, reply: ReplyEmpty) {
        answer("rmdir", self.client.remove_directory(place.parent, &place.name).await, reply);
    }

    pub async fn rename(&self, from: Place, to: Place, mode: RenameMode, reply: ReplyEmpty) {
        let renamed = self.client.rename(from.parent, &from.name, to.parent, &to.name, mode).await;
        answer("rename", renamed, reply);
    }

    pub async fn statfs(&self, reply: ReplyStatfs) {
        match self.client.space().await {
            Ok(space) => {
                let block = BLOCK_SIZE as u64;
                let free = space.free_bytes / block;
                // Inodes are limited by space only; as on XFS, the free ones are what would fit.
                let files = space.inodes.saturating_add(free);
                let size = BLOCK_SIZE as u32;
                reply.statfs(space.total_bytes / block, free, free, files, free, size, MAX_NAME_BYTES as u32, size);
            }
            Err(error) => reply.error(reported("statfs", &error)),
        }
    }

    pub async fn setxattr(
        &self,
        inode: InodeNumber,
        name: Vec<u8>,
        value: Vec<u8>,
        mode: XattrMode,
        reply: ReplyEmpty,
    ) {
        answer("setxattr", self.client.set_xattr(inode, &name, &value, mode).await, reply);
    }

    pub async fn getxattr(&self, inode: InodeNumber, name: Vec<u8>, room: u32, reply: ReplyXattr) {
        if inode == InodeNumber::ROOT && name == STATISTICS_XATTR {
            return answer_xattr("getxattr", Ok(self.client.statistics().lines().into_bytes()), room, reply);
        }
        answer_xattr("getxattr", self.client.get_xattr(inode, &name).await, room, reply);
    }

    pub async fn listxattr(&self, inode: InodeNumber, room: u32, reply: ReplyXattr) {
        let names = self
            .client
            .list_xattrs(inode)
            .await
            .map(|names| names.into_iter().flat_map(|name| name.into_iter().chain(std::iter::once(0))).collect());
        answer_xattr("listxattr", names, room, reply);
    }

    pub async fn removexattr(&self, inode: InodeNumber, name: Vec<u8>, reply: ReplyEmpty) {
        answer("removexattr", self.client.remove_xattr(inode, &name).await, reply);
    }
}
