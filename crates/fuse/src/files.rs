//! Requests on open files.

use crate::attributes::kernel_attributes;
use crate::errno::reported;
use crate::handles::OpenFile;
use crate::rollback::SizeChange;
use crate::server::{Server, TTL};
use bytes::Bytes;
use fuser::{
    Errno, FopenFlags, Generation, OpenAccMode, OpenFlags, ReplyAttr, ReplyCreate, ReplyEmpty, ReplyLseek, ReplyOpen,
    ReplyWrite,
};
use weft_client::{Access, Durability, FileHandle, FlushScope, OpenContents, Seek, SizeEffect};
use weft_proto::namespace::{AttributeChange, Credentials};
use weft_types::{ErrorKind, InodeNumber, LockOwner};

/// The kernel keeps no data, and lets writes of one file run in parallel. Each close is told, also of files that are open
/// only for reading: it is what ends the locks of a process.
const OPEN_FLAGS: FopenFlags = FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);

fn access(flags: OpenFlags) -> Access {
    match flags.acc_mode() {
        OpenAccMode::O_RDONLY => Access::Read,
        OpenAccMode::O_WRONLY | OpenAccMode::O_RDWR => Access::Write,
    }
}

fn contents(flags: OpenFlags) -> OpenContents {
    if flags.0 & libc::O_TRUNC == 0 { OpenContents::Keep } else { OpenContents::Truncate }
}

fn durability(flags: OpenFlags) -> Durability {
    // O_SYNC contains O_DSYNC.
    if flags.0 & libc::O_DSYNC == 0 { Durability::Volume } else { Durability::Disk }
}

/// A write as the kernel asked for it.
pub struct Write {
    pub handle: fuser::FileHandle,
    pub offset: u64,
    pub data: Bytes,
    pub flags: OpenFlags,
    pub set_id: SetId,
}

/// What a write does to the set-id bits: the kernel says whether the writer may keep them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetId {
    Keep,
    Drop,
}

/// Handles and offsets of copy_file_range(2).
pub struct CopyRange {
    pub from: (fuser::FileHandle, u64),
    pub to: (fuser::FileHandle, u64),
    pub length: u64,
}

pub struct Create {
    pub parent: InodeNumber,
    pub name: Vec<u8>,
    pub mode: u16,
    pub credentials: Credentials,
    pub flags: OpenFlags,
}

impl Server {
    pub async fn open(&self, inode: InodeNumber, flags: OpenFlags, reply: ReplyOpen) {
        match self.client.open(inode, access(flags), contents(flags)).await {
            Ok(file) => reply.opened(self.handles.add_file(file), OPEN_FLAGS),
            Err(error) => reply.error(reported("open", &error)),
        }
    }

    pub async fn create(&self, wish: Create, reply: ReplyCreate) {
        match self.create_or_open(wish).await {
            Ok((attributes, file)) => {
                let handle = self.handles.add_file(file);
                let attributes = kernel_attributes(&attributes);
                reply.created(&TTL, &attributes, Generation(0), handle, OPEN_FLAGS);
            }
            Err(error) => reply.error(reported("create", &error)),
        }
    }

    async fn create_or_open(
        &self,
        wish: Create,
    ) -> Result<(weft_types::Attributes, weft_client::FileHandle), ErrorKind> {
        let Create { parent, name, mode, credentials, flags } = wish;
        loop {
            match self.client.create_file(parent, &name, mode, credentials, access(flags)).await {
                Ok((record, file)) => return Ok((record.attributes, file)),
                // The kernel saw no such name; another host was quicker. Without O_EXCL that is an open.
                Err(ErrorKind::Exists) if flags.0 & libc::O_EXCL == 0 => {}
                Err(error) => return Err(error),
            }
            let record = match self.client.lookup(parent, &name).await {
                Ok(record) => record,
                Err(ErrorKind::NotFound) => continue,
                Err(error) => return Err(error),
            };
            let inode = record.attributes.inode;
            let file = self.client.open(inode, access(flags), contents(flags)).await?;
            return Ok((self.client.attributes(inode).await?, file));
        }
    }

    pub async fn read(&self, handle: fuser::FileHandle, offset: u64, length: u32) -> Result<Bytes, ErrorKind> {
        self.handles.file(handle)?.file.read(offset, length).await
    }

    /// Returns how much was written.
    pub async fn write(&self, write: Write) -> Result<usize, ErrorKind> {
        let Write { handle, offset, data, flags, set_id } = write;
        let open = self.handles.file(handle)?;
        if set_id == SetId::Drop {
            open.file.drop_set_id().await?;
        }
        write_to(&open, offset, data, flags).await
    }

    pub async fn fsync(&self, handle: fuser::FileHandle, scope: FlushScope) -> Result<(), ErrorKind> {
        let open = self.handles.file(handle)?;
        open.rollback.borrow_mut().other_request();
        open.file.flush(scope).await
    }

    /// close(2) of one descriptor.
    pub async fn flush(&self, handle: fuser::FileHandle, owner: fuser::LockOwner, reply: ReplyEmpty) {
        let flush = async {
            let open = self.handles.file(handle)?;
            let published = open.file.publish_size().await;
            // The descriptor is gone whatever became of the size.
            open.file.descriptor_closed(LockOwner(owner.0)).await?;
            published
        };
        answer("close", flush.await, reply);
    }

    /// The last close. Nobody waits for the reply.
    pub async fn release(&self, handle: fuser::FileHandle, reply: ReplyEmpty) {
        let result = match self.handles.remove_file(handle) {
            Some(open) => open.file.clone().close().await,
            None => Ok(()),
        };
        answer("release", result, reply);
    }

    pub async fn fallocate(&self, handle: fuser::FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        let allocate = async {
            let open = self.handles.file(handle)?;
            open.rollback.borrow_mut().other_request();
            let end = offset.checked_add(length).ok_or(ErrorKind::FileTooLarge)?;
            let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
            let size = if keep_size { SizeEffect::Keep } else { SizeEffect::Extend };
            match mode & !libc::FALLOC_FL_KEEP_SIZE {
                0 => {
                    self.check_space(&open.file, length).await?;
                    open.file.reserve(offset..end, size).await
                }
                libc::FALLOC_FL_ZERO_RANGE => {
                    self.check_space(&open.file, length).await?;
                    open.file.zero(offset..end, size).await
                }
                libc::FALLOC_FL_PUNCH_HOLE if keep_size => open.file.discard(offset..end).await,
                _ => Err(ErrorKind::NotSupported),
            }
        };
        answer("fallocate", allocate.await, reply);
    }

    pub async fn copy_file_range(&self, range: CopyRange, reply: ReplyWrite) {
        let copy = async {
            let (from, to) = (self.handles.file(range.from.0)?, self.handles.file(range.to.0)?);
            to.rollback.borrow_mut().other_request();
            let copied = from.file.copy_to(range.from.1, &to.file, range.to.1, range.length).await?;
            to.kernel_size.set(to.kernel_size.get().max(range.to.1 + copied));
            Ok(copied)
        };
        match copy.await {
            Ok(copied) => reply.written(u32::try_from(copied).unwrap_or(u32::MAX)),
            Err(error) => reply.error(reported("copy_file_range", &error)),
        }
    }

    /// What cannot be had at all is refused before anything is reserved: a volume that was filled in vain is full for
    /// everybody. What the file has already it need not find.
    async fn check_space(&self, file: &FileHandle, length: u64) -> Result<(), ErrorKind> {
        let free = self.client.space().await?.free_bytes;
        if length <= free {
            return Ok(());
        }
        let had = file.allocated_bytes().await?;
        if length > free.saturating_add(had) { Err(ErrorKind::NoSpace) } else { Ok(()) }
    }

    pub async fn lseek(&self, handle: fuser::FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let seek = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::from_i32(libc::EINVAL)),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::from_i32(libc::ENXIO)) };
        let found = async { self.handles.file(handle)?.file.seek(offset, seek).await };
        match found.await {
            Ok(Some(at)) => reply.offset(i64::try_from(at).unwrap_or(i64::MAX)),
            Ok(None) => reply.error(Errno::from_i32(libc::ENXIO)),
            Err(error) => reply.error(reported("lseek", &error)),
        }
    }

    pub async fn setattr(
        &self,
        inode: InodeNumber,
        handle: Option<fuser::FileHandle>,
        mut change: AttributeChange,
        reply: ReplyAttr,
    ) {
        if let (Some(size), Some(handle)) = (change.size_bytes, handle)
            && let Ok(open) = self.handles.file(handle)
            && open.rollback.borrow_mut().set_size(size) == SizeChange::Ignore
        {
            tracing::debug!(%inode, size, "the kernel rolls back a failed write: the size stays");
            change.size_bytes = None;
        }
        let attributes = if change == AttributeChange::default() {
            self.client.attributes(inode).await
        } else {
            self.client.set_attributes(inode, change).await
        };
        match attributes {
            Ok(attributes) => {
                self.handles.told(&attributes);
                reply.attr(&TTL, &kernel_attributes(&attributes));
            }
            Err(error) => reply.error(reported("setattr", &error)),
        }
    }
}

async fn write_to(open: &OpenFile, offset: u64, data: Bytes, flags: OpenFlags) -> Result<usize, ErrorKind> {
    open.rollback.borrow_mut().other_request();
    let (length, durability) = (data.len() as u64, durability(flags));
    let result = if flags.0 & libc::O_APPEND == 0 {
        open.file.write(offset, data, durability).await
    } else {
        // The kernel's offset is the end of the file as it knew it, which may be old.
        open.file.append(data, durability).await.map(|(_, written)| written)
    };
    let result = match result {
        // Data that could not be read back without the size are not durable without it.
        Ok(written) if durability == Durability::Disk => open.file.publish_size().await.map(|()| written),
        result => result,
    };
    let end = offset.saturating_add(length);
    match &result {
        Ok(written) => open.kernel_size.set(open.kernel_size.get().max(offset.saturating_add(*written as u64))),
        // Only an asynchronous direct write is rolled back.
        Err(_) if flags.0 & libc::O_DIRECT != 0 => {
            open.rollback.borrow_mut().write_failed(open.kernel_size.get(), end);
        }
        Err(_) => {}
    }
    result
}

pub fn answer(what: &'static str, result: Result<(), ErrorKind>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(reported(what, &error)),
    }
}
