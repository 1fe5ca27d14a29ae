//! fcntl and flock on the mount: from the kernel's numbers to the client's locks (SEMANTICS S4).
//!
//! fuser does not hand on whether flock(2) asked, so flock is a lock on all bytes, as on NFS. The owner is a number that
//! the kernel makes of the process (POSIX) or of the open file description (OFD, flock).

use crate::errno::reported;
use crate::files::answer;
use crate::server::Server;
use crate::signals;
use fuser::{Errno, ReplyEmpty, ReplyLock};
use weft_client::{LockOutcome, LockRequest};
use weft_proto::namespace::LockWait;
use weft_types::{ErrorKind, LockKind, LockOwner, LockRange};

/// A lock as the kernel describes it.
pub struct Wish {
    pub owner: fuser::LockOwner,
    /// First and last byte.
    pub start: u64,
    pub end: u64,
    /// F_RDLCK, F_WRLCK or F_UNLCK
    pub kind: i32,
}

/// Who asks.
pub struct Asking {
    pub thread: u32,
    pub process: u32,
    /// F_SETLKW
    pub sleeps: bool,
}

impl Wish {
    fn range(&self) -> Result<LockRange, ErrorKind> {
        LockRange::new(self.start, self.end).ok_or_else(|| ErrorKind::Invalid("not a range of bytes".to_owned()))
    }

    const fn owner(&self) -> LockOwner {
        LockOwner(self.owner.0)
    }

    /// `None` to unlock.
    fn kind(&self) -> Result<Option<LockKind>, ErrorKind> {
        match self.kind {
            libc::F_RDLCK => Ok(Some(LockKind::Shared)),
            libc::F_WRLCK => Ok(Some(LockKind::Exclusive)),
            libc::F_UNLCK => Ok(None),
            other => Err(ErrorKind::Invalid(format!("there is no kind of lock {other}"))),
        }
    }
}

const fn kernel_kind(kind: LockKind) -> i32 {
    match kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
    }
}

impl Server {
    pub async fn setlk(&self, handle: fuser::FileHandle, wish: Wish, asking: Asking, reply: ReplyEmpty) {
        let outcome = async {
            let open = self.handles.file(handle)?;
            let range = wish.range()?;
            let Some(kind) = wish.kind()? else {
                open.file.unlock(wish.owner(), range).await?;
                return Ok(LockOutcome::Locked);
            };
            let wait = if asking.sleeps { LockWait::Yes } else { LockWait::No };
            let request = LockRequest { owner: wish.owner(), range, kind, process_id: asking.process, wait };
            open.file.lock(request, signals::interrupted(asking.thread)).await
        };
        match outcome.await {
            Ok(LockOutcome::Locked) => reply.ok(),
            Ok(LockOutcome::Conflict) => reply.error(Errno::from_i32(libc::EAGAIN)),
            // The kernel starts the call anew after the signal, or ends it, as the handler was installed.
            Ok(LockOutcome::Interrupted) => reply.error(Errno::from_i32(libc::EINTR)),
            Err(error) => answer("lock", Err(error), reply),
        }
    }

    pub async fn getlk(&self, handle: fuser::FileHandle, wish: Wish, reply: ReplyLock) {
        let test = async {
            let open = self.handles.file(handle)?;
            let kind =
                wish.kind()?.ok_or_else(|| ErrorKind::Invalid("nothing is in the way of unlocking".to_owned()))?;
            let holder = open.file.lock_conflict(wish.owner(), wish.range()?, kind).await?;
            Ok(holder.map(|holder| {
                // A process of another host has no number here.
                let process = if open.file.is_of_this_host(&holder) { holder.process_id } else { 0 };
                (holder, process)
            }))
        };
        match test.await {
            Ok(Some((holder, process))) => {
                reply.locked(holder.range.first, holder.range.last, kernel_kind(holder.kind), process);
            }
            Ok(None) => reply.locked(wish.start, wish.end, libc::F_UNLCK, 0),
            Err(error) => reply.error(reported("getlk", &error)),
        }
    }
}
