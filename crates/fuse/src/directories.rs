//! Directory streams: pages of the metadata group, entries for the kernel.
//!
//! The offset of an entry is its cookie, which stays while the entry exists, so that a stream goes on where it was
//! however the directory changes. Cookies begin at 3; 1 and 2 stand for `.` and `..`.

use crate::attributes::{file_type, kernel_attributes};
use crate::server::{Server, TTL};
use fuser::{FileType, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use weft_client::DirectoryPage;
use weft_proto::namespace::DirectoryEntry;
use weft_types::limits::MAX_DIRECTORY_PAGE_ENTRIES;
use weft_types::{ErrorKind, InodeNumber};

const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

pub struct DirectoryStream {
    inode: InodeNumber,
    /// The page at hand, and the offset after which it begins.
    page: Option<(u64, DirectoryPage)>,
}

/// What takes entries until it is full.
trait Listing {
    /// Returns whether it is full; the entry was not taken then.
    fn add(
        &mut self,
        inode: InodeNumber,
        offset: u64,
        kind: FileType,
        name: &[u8],
        entry: Option<&DirectoryEntry>,
    ) -> bool;
}

impl Listing for ReplyDirectory {
    fn add(
        &mut self,
        inode: InodeNumber,
        offset: u64,
        kind: FileType,
        name: &[u8],
        _: Option<&DirectoryEntry>,
    ) -> bool {
        ReplyDirectory::add(self, INodeNo(inode.0), offset, kind, OsStr::from_bytes(name))
    }
}

impl Listing for ReplyDirectoryPlus {
    fn add(
        &mut self,
        inode: InodeNumber,
        offset: u64,
        kind: FileType,
        name: &[u8],
        entry: Option<&DirectoryEntry>,
    ) -> bool {
        let attributes = match entry {
            Some(entry) => kernel_attributes(&entry.record.attributes),
            // The kernel takes nothing but inode and kind of `.` and `..`.
            None => dot_attributes(inode, kind),
        };
        let name = OsStr::from_bytes(name);
        ReplyDirectoryPlus::add(self, INodeNo(inode.0), offset, name, &TTL, &attributes, Generation(0))
    }
}

fn dot_attributes(inode: InodeNumber, kind: FileType) -> fuser::FileAttr {
    let epoch = std::time::UNIX_EPOCH;
    fuser::FileAttr {
        ino: INodeNo(inode.0),
        size: 0,
        blocks: 0,
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        crtime: epoch,
        kind,
        perm: 0o755,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl DirectoryStream {
    pub fn new(inode: InodeNumber) -> Self {
        Self { inode, page: None }
    }

    async fn fill(&mut self, server: &Server, offset: u64, listing: &mut impl Listing) -> Result<(), ErrorKind> {
        if offset == 0 {
            // A rewind shows the directory as it is now.
            self.page = None;
        }
        let mut after = offset;
        self.load(server, after).await?;
        let parent = self.page.as_ref().map_or(self.inode, |(_, page)| page.parent);
        if after < DOT {
            if listing.add(self.inode, DOT, FileType::Directory, b".", None) {
                return Ok(());
            }
            after = DOT;
        }
        if after < DOT_DOT {
            if listing.add(parent, DOT_DOT, FileType::Directory, b"..", None) {
                return Ok(());
            }
            after = DOT_DOT;
        }
        loop {
            self.load(server, after).await?;
            let Some((_, page)) = &self.page else { return Ok(()) };
            let from = page.entries.partition_point(|entry| entry.cookie <= after);
            for entry in &page.entries[from..] {
                let attributes = &entry.record.attributes;
                let kind = file_type(attributes.kind);
                if listing.add(attributes.inode, entry.cookie, kind, &entry.name, Some(entry)) {
                    return Ok(());
                }
                after = entry.cookie;
            }
            if page.complete {
                return Ok(());
            }
        }
    }

    /// Makes the page at hand one that goes on after `after`.
    async fn load(&mut self, server: &Server, after: u64) -> Result<(), ErrorKind> {
        let serves = self.page.as_ref().is_some_and(|(begins_after, page)| {
            *begins_after <= after && (page.complete || page.entries.last().is_some_and(|last| last.cookie > after))
        });
        if !serves {
            // Offsets 1 and 2 come before every entry.
            let after = if after <= DOT_DOT { 0 } else { after };
            let page = server.client.read_directory(self.inode, after, MAX_DIRECTORY_PAGE_ENTRIES).await?;
            self.page = Some((after, page));
        }
        Ok(())
    }
}

impl Server {
    pub async fn readdir(&self, handle: fuser::FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match self.fill(handle, offset, &mut reply).await {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(crate::errno::reported("readdir", &error)),
        }
    }

    pub async fn readdirplus(&self, handle: fuser::FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        match self.fill(handle, offset, &mut reply).await {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(crate::errno::reported("readdirplus", &error)),
        }
    }

    async fn fill(&self, handle: fuser::FileHandle, offset: u64, listing: &mut impl Listing) -> Result<(), ErrorKind> {
        let stream = self.handles.directory(handle)?;
        let mut stream = stream.lock().await;
        stream.fill(self, offset, listing).await
    }
}
