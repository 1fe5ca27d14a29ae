//! Read, write and fsync, from the kernel's bytes to the client and back: what a guest's disk consists of.
//!
//! The layout is that of `linux/fuse.h`, version 7.9 and later, which only ever grew at the end. Integers are in the
//! machine's order. A request that is not exactly as expected is left to fuser.

use crate::device::Device;
use crate::errno::reported;
use crate::files::{SetId, Write};
use crate::server::Server;
use bytes::Bytes;
use fuser::{FileHandle, OpenFlags};
use std::rc::Rc;
use std::time::Instant;
use weft_client::FlushScope;
use weft_types::ErrorKind;

const HEADER_BYTES: usize = 40;
/// `fuse_read_in` and `fuse_write_in`: handle, offset, size, flags of the transfer, lock owner, flags of open, padding.
const TRANSFER_BYTES: usize = 40;
/// `fuse_fsync_in`: handle, flags, padding.
const FSYNC_BYTES: usize = 16;

const OP_READ: u32 = 15;
const OP_WRITE: u32 = 16;
const OP_FSYNC: u32 = 20;
const OP_DESTROY: u32 = 38;
/// `FUSE_FSYNC_FDATASYNC`.
const FDATASYNC: u32 = 1;
/// `FUSE_WRITE_KILL_SUIDGID`.
const KILL_SET_ID: u32 = 4;

#[derive(PartialEq, Eq, Debug)]
pub struct Request<'a> {
    unique: u64,
    operation: Operation<'a>,
}

#[derive(PartialEq, Eq, Debug)]
enum Operation<'a> {
    Read { handle: u64, offset: u64, length: u32 },
    Write { handle: u64, offset: u64, flags: i32, set_id: SetId, data: &'a [u8] },
    Fsync { handle: u64, scope: FlushScope },
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes)
}

impl<'a> Request<'a> {
    /// `None` when it is another operation, or not as long as it says.
    pub fn decode(message: &'a [u8]) -> Option<Self> {
        if word(message, 0)? as usize != message.len() {
            return None;
        }
        let (operation, unique) = (word(message, 4)?, long(message, 8)?);
        let body = message.get(HEADER_BYTES..)?;
        let operation = match operation {
            OP_READ if body.len() == TRANSFER_BYTES => {
                Operation::Read { handle: long(body, 0)?, offset: long(body, 8)?, length: word(body, 16)? }
            }
            OP_WRITE => {
                let data = body.get(TRANSFER_BYTES..)?;
                if data.len() != word(body, 16)? as usize {
                    return None;
                }
                let flags = word(body, 32)?.cast_signed();
                let set_id = if word(body, 20)? & KILL_SET_ID == 0 { SetId::Keep } else { SetId::Drop };
                Operation::Write { handle: long(body, 0)?, offset: long(body, 8)?, flags, set_id, data }
            }
            OP_FSYNC if body.len() == FSYNC_BYTES => {
                let scope = if word(body, 8)? & FDATASYNC == 0 { FlushScope::DataAndTimes } else { FlushScope::Data };
                Operation::Fsync { handle: long(body, 0)?, scope }
            }
            _ => return None,
        };
        Some(Self { unique, operation })
    }
}

/// What tells fuser that the mount is gone.
pub fn destroy() -> [u8; HEADER_BYTES] {
    let mut message = [0; HEADER_BYTES];
    message[..4].copy_from_slice(&(HEADER_BYTES as u32).to_ne_bytes());
    message[4..8].copy_from_slice(&OP_DESTROY.to_ne_bytes());
    message
}

/// The right, and the duty, to answer one request.
struct Answer {
    device: Rc<Device>,
    unique: u64,
    given: bool,
}

impl Answer {
    fn header(&self, length: usize, errno: i32) -> [u8; 16] {
        let mut header = [0; 16];
        // At most 1 MiB and a header.
        header[..4].copy_from_slice(&((16 + length) as u32).to_ne_bytes());
        header[4..8].copy_from_slice(&(-errno).to_ne_bytes());
        header[8..].copy_from_slice(&self.unique.to_ne_bytes());
        header
    }

    fn data(mut self, bytes: &[u8]) {
        self.given = true;
        self.device.answer(&[&self.header(bytes.len(), 0), bytes]);
    }

    fn error(mut self, errno: i32) {
        self.given = true;
        self.device.answer(&[&self.header(0, errno)]);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.given {
            self.device.answer(&[&self.header(0, libc::EIO)]);
        }
    }
}

/// Puts a request under way. Its task runs until it is answered.
pub fn serve(server: &Rc<Server>, device: &Rc<Device>, request: Request<'_>) {
    let taken = Instant::now();
    let answer = Answer { device: Rc::clone(device), unique: request.unique, given: false };
    match request.operation {
        Operation::Read { handle, offset, length } => server.spawn("read", move |server| async move {
            match server.read(FileHandle(handle), offset, length).await {
                Ok(bytes) => answer.data(&bytes),
                Err(error) => answer.error(failed("read", &error)),
            }
            server.client.statistics().mount_read.took(taken.elapsed());
        }),
        Operation::Write { handle, offset, flags, set_id, data } => {
            let permit = server.budget.take(data.len());
            let data = Bytes::copy_from_slice(data);
            let write = Write { handle: FileHandle(handle), offset, data, flags: OpenFlags(flags), set_id };
            server.spawn("write", move |server| async move {
                match server.write(write).await {
                    Ok(written) => {
                        let mut body = [0; 8];
                        // A request has 1 MiB at most.
                        body[..4].copy_from_slice(&(written as u32).to_ne_bytes());
                        answer.data(&body);
                    }
                    Err(error) => answer.error(failed("write", &error)),
                }
                drop(permit);
                server.client.statistics().mount_write.took(taken.elapsed());
            });
        }
        Operation::Fsync { handle, scope } => server.spawn("fsync", move |server| async move {
            match server.fsync(FileHandle(handle), scope).await {
                Ok(()) => answer.data(&[]),
                Err(error) => answer.error(failed("fsync", &error)),
            }
            server.client.statistics().mount_flush.took(taken.elapsed());
        }),
    }
}

fn failed(what: &'static str, error: &ErrorKind) -> i32 {
    reported(what, error).code()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(operation: u32, body: &[u8]) -> Vec<u8> {
        let mut message = vec![0; HEADER_BYTES];
        message[..4].copy_from_slice(&((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
        message[4..8].copy_from_slice(&operation.to_ne_bytes());
        message[8..16].copy_from_slice(&77u64.to_ne_bytes());
        message.extend_from_slice(body);
        message
    }

    fn transfer(size: u32, data: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(&5u64.to_ne_bytes());
        body.extend_from_slice(&8192u64.to_ne_bytes());
        body.extend_from_slice(&size.to_ne_bytes());
        body.extend_from_slice(&[0; 12]);
        body.extend_from_slice(&(libc::O_RDWR as u32).to_ne_bytes());
        body.extend_from_slice(&[0; 4]);
        body.extend_from_slice(data);
        body
    }

    #[test]
    fn read_write_and_fsync_are_decoded_and_the_rest_is_left_to_fuser() {
        let read = message(OP_READ, &transfer(4096, &[]));
        let expected = Operation::Read { handle: 5, offset: 8192, length: 4096 };
        assert_eq!(Request::decode(&read), Some(Request { unique: 77, operation: expected }));
        let write = message(OP_WRITE, &transfer(3, b"abc"));
        let expected = |set_id| Operation::Write { handle: 5, offset: 8192, flags: libc::O_RDWR, set_id, data: b"abc" };
        assert_eq!(Request::decode(&write), Some(Request { unique: 77, operation: expected(SetId::Keep) }));
        let mut by_a_user = write.clone();
        by_a_user[HEADER_BYTES + 20] = 4;
        assert_eq!(Request::decode(&by_a_user), Some(Request { unique: 77, operation: expected(SetId::Drop) }));
        let mut body = 5u64.to_ne_bytes().to_vec();
        body.extend_from_slice(&1u32.to_ne_bytes());
        body.extend_from_slice(&[0; 4]);
        let expected = Operation::Fsync { handle: 5, scope: FlushScope::Data };
        assert_eq!(Request::decode(&message(OP_FSYNC, &body)), Some(Request { unique: 77, operation: expected }));
        assert_eq!(Request::decode(&message(1, b"name\0")), None);
    }

    #[test]
    fn a_request_that_is_shorter_than_it_says_is_not_ours() {
        let mut read = message(OP_READ, &transfer(4096, &[]));
        read.pop();
        assert_eq!(Request::decode(&read), None);
        assert_eq!(Request::decode(&message(OP_WRITE, &transfer(4, b"abc"))), None);
        assert_eq!(Request::decode(&message(OP_READ, &[0; 24])), None);
        assert_eq!(Request::decode(&[]), None);
    }
}
