//! fuser's callbacks, for everything but read, write and fsync (see `device`): decode, hand over to the client's thread.

use crate::attributes::time_change;
use crate::directories::DirectoryStream;
use crate::files::{CopyRange, Create};
use crate::locks::{Asking, Wish};
use crate::names::{Place, new_inode, rename_mode};
use crate::server::{Job, Server};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
};
use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::time::SystemTime;
use tokio::sync::mpsc;
use weft_proto::namespace::{AttributeChange, Credentials, NewInode, XattrMode};
use weft_types::InodeNumber;
use weft_types::limits::MAX_IO_BYTES;

/// The kernel's default of 16 would hold a guest back long before the network does.
const MAX_BACKGROUND: u16 = 512;

/// Asked of the kernel where it offers them. Left out on purpose: WRITEBACK_CACHE (breaks coherence between hosts);
/// SETXATTR_EXT, SECURITY_CTX, CREATE_SUPP_GROUP, HANDLE_KILLPRIV_V2 (fuser 0.18 misreads the requests they change).
const WANTED: [InitFlags; 11] = [
    InitFlags::FUSE_POSIX_LOCKS,
    InitFlags::FUSE_FLOCK_LOCKS,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_AUTO_INVAL_DATA,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    // The umask counts only where no default ACL does, which only the metadata group knows.
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_DONT_MASK,
];
/// O_TRUNC comes with the open, not as a truncate after it.
const WANTED_FOR_OPEN: InitFlags = InitFlags::FUSE_ATOMIC_O_TRUNC;

pub struct Adapter {
    jobs: mpsc::Sender<Job>,
}

impl Adapter {
    pub fn new(jobs: mpsc::Sender<Job>) -> Self {
        Self { jobs }
    }

    /// Runs a request as a task on the client's thread. When that thread is gone the reply is dropped, and a dropped
    /// reply is EIO.
    fn run<F: Future<Output = ()> + 'static>(
        &self,
        what: &'static str,
        request: impl FnOnce(Rc<Server>) -> F + Send + 'static,
    ) {
        // Waits while the queue is full: that holds the kernel back.
        let _ = self.jobs.blocking_send(Box::new(move |server: &Rc<Server>| server.spawn(what, request)));
    }
}

fn inode(number: INodeNo) -> InodeNumber {
    InodeNumber(number.0)
}

fn place(parent: INodeNo, name: &OsStr) -> Place {
    Place { parent: inode(parent), name: name.as_bytes().to_vec() }
}

fn credentials(request: &Request, umask: u32) -> Credentials {
    Credentials { uid: request.uid(), gid: request.gid(), umask: permissions(umask) }
}

fn permissions(mode: u32) -> u16 {
    // Twelve bits remain.
    (mode & 0o7777) as u16
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in WANTED.into_iter().chain([WANTED_FOR_OPEN]) {
            if config.add_capabilities(flag).is_err() {
                tracing::info!(?flag, "this kernel does not offer it");
            }
        }
        let unusable = |what: &str, nearest: u32| io::Error::other(format!("{what} must be {nearest}"));
        config.set_max_background(MAX_BACKGROUND).map_err(|n| unusable("max_background", n.into()))?;
        config.set_max_write(MAX_IO_BYTES as u32).map_err(|n| unusable("max_write", n))?;
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let place = place(parent, name);
        self.run("lookup", move |server| async move { server.lookup(place, reply).await });
    }

    // Inodes have no state here: nothing to forget.
    fn forget(&self, _request: &Request, _ino: INodeNo, _nlookup: u64) {}

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.run("getattr", move |server| async move { server.getattr(inode(ino), reply).await });
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = AttributeChange {
            mode: mode.map(permissions),
            uid,
            gid,
            size_bytes: size,
            accessed: atime.map(time_change),
            modified: mtime.map(time_change),
        };
        self.run("setattr", move |server| async move { server.setattr(inode(ino), fh, change, reply).await });
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        self.run("readlink", move |server| async move { server.readlink(inode(ino), reply).await });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let Some(new) = new_inode(mode, rdev) else { return reply.error(Errno::from_i32(libc::EINVAL)) };
        let (place, credentials) = (place(parent, name), credentials(request, umask));
        self.run("mknod", move |server| async move {
            server.make(place, new, permissions(mode), credentials, reply).await;
        });
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (place, credentials) = (place(parent, name), credentials(request, umask));
        self.run("mkdir", move |server| async move {
            server.make(place, NewInode::Directory, permissions(mode), credentials, reply).await;
        });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (place, credentials) = (place(parent, link_name), credentials(request, 0));
        let new = NewInode::Symlink { target: target.as_os_str().as_bytes().to_vec() };
        self.run("symlink", move |server| async move { server.make(place, new, 0o777, credentials, reply).await });
    }

    fn link(&self, _request: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let place = place(newparent, newname);
        self.run("link", move |server| async move { server.link(inode(ino), place, reply).await });
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let place = place(parent, name);
        self.run("unlink", move |server| async move { server.unlink(place, reply).await });
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let place = place(parent, name);
        self.run("rmdir", move |server| async move { server.rmdir(place, reply).await });
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let Some(mode) = rename_mode(flags) else { return reply.error(Errno::from_i32(libc::EINVAL)) };
        let (from, to) = (place(parent, name), place(newparent, newname));
        self.run("rename", move |server| async move { server.rename(from, to, mode, reply).await });
    }

    fn open(&self, _request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.run("open", move |server| async move { server.open(inode(ino), flags, reply).await });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let wish = Create {
            parent: inode(parent),
            name: name.as_bytes().to_vec(),
            mode: permissions(mode),
            credentials: credentials(request, umask),
            flags: OpenFlags(flags),
        };
        self.run("create", move |server| async move { server.create(wish, reply).await });
    }

    fn flush(&self, _request: &Request, _ino: INodeNo, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        self.run("flush", move |server| async move { server.flush(fh, owner, reply).await });
    }

    fn getlk(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        _pid: u32,
        reply: ReplyLock,
    ) {
        self.run("getlk", move |server| async move { server.getlk(fh, Wish { owner, start, end, kind }, reply).await });
    }

    fn setlk(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        // The header names the thread, the lock its process.
        let asking = Asking { thread: request.pid(), process: pid, sleeps: sleep };
        let wish = Wish { owner, start, end, kind };
        self.run("setlk", move |server| async move { server.setlk(fh, wish, asking, reply).await });
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.run("release", move |server| async move { server.release(fh, reply).await });
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.run("opendir", move |server| async move {
            let handle = server.handles.add_directory(DirectoryStream::new(inode(ino)));
            reply.opened(handle, FopenFlags::empty());
        });
    }

    fn readdir(&self, _request: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.run("readdir", move |server| async move { server.readdir(fh, offset, reply).await });
    }

    fn readdirplus(&self, _request: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        self.run("readdirplus", move |server| async move { server.readdirplus(fh, offset, reply).await });
    }

    fn releasedir(&self, _request: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.run("releasedir", move |server| async move {
            server.handles.remove_directory(fh);
            reply.ok();
        });
    }

    // Every change of a directory is durable on a majority before it is answered.
    fn fsyncdir(&self, _request: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.run("statfs", move |server| async move { server.statfs(reply).await });
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            0 => XattrMode::CreateOrReplace,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return reply.error(Errno::from_i32(libc::EINVAL)),
        };
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        self.run("setxattr", move |server| async move { server.setxattr(inode(ino), name, value, mode, reply).await });
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes().to_vec();
        self.run("getxattr", move |server| async move { server.getxattr(inode(ino), name, size, reply).await });
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.run("listxattr", move |server| async move { server.listxattr(inode(ino), size, reply).await });
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.run("removexattr", move |server| async move { server.removexattr(inode(ino), name, reply).await });
    }

    fn fallocate(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.run("fallocate", move |server| async move { server.fallocate(fh, offset, length, mode, reply).await });
    }

    fn lseek(&self, _request: &Request, _ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.run("lseek", move |server| async move { server.lseek(fh, offset, whence, reply).await });
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let range = CopyRange { from: (fh_in, offset_in), to: (fh_out, offset_out), length };
        self.run("copy_file_range", move |server| async move { server.copy_file_range(range, reply).await });
    }
}
