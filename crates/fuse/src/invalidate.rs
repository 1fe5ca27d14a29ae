//! Tells the kernel that what it keeps of an inode is old: size, attributes and mapped pages (design 7, "The kernel's
//! cached size").
//!
//! Guarantees: done by a thread of its own on a descriptor of its own, which serves no request and holds no lock, for the
//! kernel may first have to write pages back through this very mount. (fuser's notifier would go through the thread that
//! serves, see `device`.) Bounded: when the queue is full a notice is dropped; the kernel asks for attributes each time
//! anyway, so this costs a mapped page its freshness and nothing else.

use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use weft_types::InodeNumber;
use weft_types::limits::MAX_QUEUED_INVALIDATIONS;

/// `FUSE_NOTIFY_INVAL_INODE` of the kernel's interface.
const INVALIDATE_INODE: i32 = 2;
const MESSAGE_BYTES: usize = 40;

pub struct Invalidations(Receiver<InodeNumber>);

/// The client's end is a clone of the sender; the thread ends when the last one is gone.
pub fn queue() -> (SyncSender<InodeNumber>, Invalidations) {
    let (sender, receiver) = sync_channel(MAX_QUEUED_INVALIDATIONS);
    (sender, Invalidations(receiver))
}

impl Invalidations {
    /// `kernel` is a descriptor of the mount's device.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn run(self, kernel: OwnedFd) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("weft-invalid".into()).spawn(move || {
            for inode in self.0 {
                match rustix::io::write(&kernel, &message(inode)) {
                    // The kernel does not know the inode (any more), or the mount is gone.
                    Ok(_) | Err(Errno::NOENT | Errno::NODEV) => {}
                    Err(error) => tracing::debug!(%inode, %error, "the kernel was not told"),
                }
            }
        })
    }
}

/// The header of an answer to nothing, whose error is the kind of notice; inode, offset 0 and length 0: all pages, and the
/// attributes.
fn message(inode: InodeNumber) -> [u8; MESSAGE_BYTES] {
    let mut message = [0; MESSAGE_BYTES];
    message[..4].copy_from_slice(&(MESSAGE_BYTES as u32).to_ne_bytes());
    message[4..8].copy_from_slice(&INVALIDATE_INODE.to_ne_bytes());
    message[16..24].copy_from_slice(&inode.0.to_ne_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_a_header_without_a_request_and_the_inode() {
        let message = message(InodeNumber(0x0102_0304));
        assert_eq!(message[..16], [40u32.to_ne_bytes(), 2u32.to_ne_bytes(), [0; 4], [0; 4]].concat()[..]);
        assert_eq!(message[16..24], 0x0102_0304u64.to_ne_bytes());
        assert_eq!(message[24..], [0; 16]);
    }
}
