//! Error kinds to errno: one exhaustive match, so that a new kind cannot be forgotten.

use fuser::Errno;
use weft_types::ErrorKind;

/// What the application sees.
pub fn errno(error: &ErrorKind) -> Errno {
    Errno::from_i32(match error {
        ErrorKind::NotFound => libc::ENOENT,
        ErrorKind::Exists => libc::EEXIST,
        ErrorKind::NotDirectory => libc::ENOTDIR,
        ErrorKind::IsDirectory => libc::EISDIR,
        ErrorKind::NotEmpty => libc::ENOTEMPTY,
        ErrorKind::NameTooLong => libc::ENAMETOOLONG,
        ErrorKind::Invalid(_) => libc::EINVAL,
        ErrorKind::Access => libc::EACCES,
        ErrorKind::NotPermitted => libc::EPERM,
        ErrorKind::TooManyLinks => libc::EMLINK,
        ErrorKind::Loop => libc::ELOOP,
        ErrorKind::NoAttribute => libc::ENODATA,
        ErrorKind::TooLarge => libc::E2BIG,
        // QEMU pauses a guest on ENOSPC and gives it EIO on anything else: never mix them up (design 6).
        ErrorKind::NoSpace => libc::ENOSPC,
        ErrorKind::FileTooLarge => libc::EFBIG,
        ErrorKind::WouldBlock => libc::EAGAIN,
        ErrorKind::Deadlock => libc::EDEADLK,
        ErrorKind::Busy(_) => libc::EBUSY,
        // A fenced mount answers EIO for good (design 4.4).
        ErrorKind::Fenced => libc::EIO,
        ErrorKind::Stale => libc::ESTALE,
        ErrorKind::NotSupported => libc::EOPNOTSUPP,
        ErrorKind::Io(_) => libc::EIO,
        ErrorKind::TimedOut { .. } => libc::ETIMEDOUT,
        ErrorKind::Unavailable(_) => libc::EIO,
        ErrorKind::Refused(_) => libc::EIO,
        ErrorKind::NoLocks(_) => libc::ENOLCK,
    })
}

/// Logs an error that is no everyday answer, and translates it.
pub fn reported(what: &'static str, error: &ErrorKind) -> Errno {
    match error {
        ErrorKind::Io(_) | ErrorKind::Unavailable(_) | ErrorKind::Refused(_) | ErrorKind::TimedOut { .. } => {
            tracing::warn!(what, %error, "an operation failed");
        }
        _ => tracing::trace!(what, %error, "refused"),
    }
    errno(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_space_is_enospc_and_a_fence_is_eio() {
        assert_eq!(errno(&ErrorKind::NoSpace).code(), libc::ENOSPC);
        assert_eq!(errno(&ErrorKind::Fenced).code(), libc::EIO);
    }
}
