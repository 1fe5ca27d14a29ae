//! The kernel's requests, read on the client's own thread.
//!
//! Reads, writes and flushes are decoded here and go to the client without changing threads: waking a thread costs as
//! much as a good part of the network. Everything else is passed on to fuser, message by message, over a socket pair that
//! fuser takes for the device; its answers come back the same way. The kernel sees one server.
//!
//! Guarantees: every request is answered once (one that is dropped is EIO); bytes of writes that were taken and are not
//! answered are bounded, by reading nothing further from the kernel. Must not know: what a request means to a volume.

use crate::direct::{self, Request};
use crate::server::Server;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use weft_types::limits::MAX_IO_BYTES;

/// A request is its data and some headers; the kernel insists on room for more than it will ever send.
const REQUEST_BYTES: usize = MAX_IO_BYTES + (64 << 10);
/// What may lie in the socket pair. fuser's answers are written by the thread that also takes them out, after at most 61
/// tasks of a turn, each with one answer of up to 1 MiB: this must hold them all, or that thread would wait for itself.
const LINK_BYTES: usize = 80 << 20;

/// The end of a mount is told as an error of the device, and read as one.
const TO_READ: Interest = Interest::READABLE.add(Interest::ERROR);

/// The descriptors of a mount, before it is served.
pub struct Descriptors {
    device: OwnedFd,
    link: OwnedFd,
}

/// Makes the socket pair. The second value is for fuser.
///
/// # Errors
/// When the kernel gives no sockets.
pub fn split(device: OwnedFd) -> io::Result<(Descriptors, OwnedFd)> {
    let (link, fusers) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    for end in [&link, &fusers] {
        sockopt::set_socket_send_buffer_size_force(end, LINK_BYTES)?;
    }
    rustix::io::ioctl_fionbio(&device, true)?;
    rustix::io::ioctl_fionbio(&link, true)?;
    Ok((Descriptors { device, link }, fusers))
}

/// The way back to the kernel.
pub struct Device {
    device: AsyncFd<OwnedFd>,
    link: AsyncFd<OwnedFd>,
}

impl Device {
    /// Answers a request. The kernel takes an answer whole and at once.
    pub fn answer(&self, parts: &[&[u8]]) {
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        match rustix::io::writev(self.device.get_ref(), &slices) {
            Ok(_) => {}
            // The request was given up meanwhile, or the mount is gone.
            Err(Errno::NOENT | Errno::NODEV) => tracing::trace!("nobody waits for this answer"),
            Err(error) => tracing::warn!(%error, "the kernel did not take an answer"),
        }
    }

    /// Passes a request on to fuser.
    async fn pass_on(&self, request: &[u8]) -> io::Result<()> {
        loop {
            let mut ready = self.link.writable().await?;
            if let Ok(sent) = ready.try_io(|link| rustix::io::write(link.get_ref(), request).map_err(io::Error::from)) {
                return sent.map(drop);
            }
        }
    }
}

/// Starts serving: two tasks, which end with the mount.
///
/// # Errors
/// When the descriptors cannot be watched.
pub fn start(server: &Rc<Server>, descriptors: Descriptors) -> io::Result<()> {
    let Descriptors { device, link } = descriptors;
    // SAFETY: both own their descriptors, which nothing closes or replaces before they are dropped.
    let (device, link) = unsafe { (AsyncFd::register_with_interest(device, TO_READ)?, AsyncFd::register(link)?) };
    let device = Rc::new(Device { device, link });
    let (server, requests, answers) = (Rc::clone(server), Rc::clone(&device), device);
    tokio::task::spawn_local(async move {
        if let Err(error) = take_requests(&server, &requests).await {
            tracing::error!(%error, "the kernel's requests cannot be read any more");
        }
        // fuser ends when it is told that the mount is gone, as the kernel itself would tell it by an error.
        if let Err(error) = requests.pass_on(&direct::destroy()).await {
            tracing::debug!(%error, "fuser has ended before");
        }
    });
    tokio::task::spawn_local(async move {
        if let Err(error) = return_answers(&answers).await {
            tracing::error!(%error, "answers cannot be taken over any more");
        }
    });
    Ok(())
}

/// Until the mount is gone.
async fn take_requests(server: &Rc<Server>, device: &Rc<Device>) -> io::Result<()> {
    let mut buffer = vec![0; REQUEST_BYTES];
    loop {
        server.budget.room().await;
        let mut ready = device.device.ready(TO_READ).await?;
        let read = ready.try_io(|fd| rustix::io::read(fd.get_ref(), &mut *buffer).map_err(io::Error::from));
        let Ok(read) = read else { continue };
        let length = match read.map_err(|error| (Errno::from_io_error(&error), error)) {
            Ok(length) => length,
            Err((Some(Errno::NODEV), _)) => return Ok(()),
            // The request was taken back before it was read.
            Err((Some(Errno::NOENT | Errno::INTR), _)) => continue,
            Err((_, error)) => return Err(error),
        };
        let request = &buffer[..length];
        match Request::decode(request) {
            Some(request) => direct::serve(server, device, request),
            None => device.pass_on(request).await?,
        }
    }
}

/// fuser's answers, and what it tells the kernel unasked.
async fn return_answers(device: &Rc<Device>) -> io::Result<()> {
    let mut buffer = vec![0; REQUEST_BYTES];
    loop {
        let mut ready = device.link.readable().await?;
        match ready.try_io(|link| rustix::io::read(link.get_ref(), &mut *buffer).map_err(io::Error::from)) {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(length)) => device.answer(&[&buffer[..length]]),
            Ok(Err(error)) => return Err(error),
            Err(_) => {}
        }
    }
}
