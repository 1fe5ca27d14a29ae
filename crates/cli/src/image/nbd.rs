//! The little of the NBD protocol that it takes to read and write an export of `qemu-nbd` on a Unix socket.
//!
//! Source: the NBD protocol specification, <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>:
//! fixed newstyle handshake, NBD_OPT_EXPORT_NAME, simple replies, one request at a time.

use std::io::{self, Error, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const HANDSHAKE_MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
/// FIXED_NEWSTYLE and NO_ZEROES; the server must offer both.
const HANDSHAKE_FLAGS: u16 = 3;
const OPTION_EXPORT_NAME: u32 = 1;
/// A local server that does not answer for this long is broken.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
enum Request {
    Read = 0,
    Write = 1,
    Disconnect = 2,
    Flush = 3,
}

pub struct NbdClient {
    stream: UnixStream,
    size_bytes: u64,
    cookie: u64,
}

impl NbdClient {
    /// # Errors
    /// When the socket cannot be connected or the server does not speak the protocol.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        if read_u64(&mut stream)? != HANDSHAKE_MAGIC || read_u64(&mut stream)? != OPTION_MAGIC {
            return Err(protocol("the server does not speak NBD"));
        }
        let mut flags = [0u8; 2];
        stream.read_exact(&mut flags)?;
        if u16::from_be_bytes(flags) & HANDSHAKE_FLAGS != HANDSHAKE_FLAGS {
            return Err(protocol("the server speaks an older kind of NBD"));
        }
        stream.write_all(&u32::from(HANDSHAKE_FLAGS).to_be_bytes())?;
        stream.write_all(&OPTION_MAGIC.to_be_bytes())?;
        stream.write_all(&OPTION_EXPORT_NAME.to_be_bytes())?;
        // The default export has the empty name.
        stream.write_all(&0u32.to_be_bytes())?;
        let size_bytes = read_u64(&mut stream)?;
        let mut transmission_flags = [0u8; 2];
        stream.read_exact(&mut transmission_flags)?;
        Ok(Self { stream, size_bytes, cookie: 0 })
    }

    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// # Errors
    /// When the server reports an error or breaks the protocol.
    pub fn read(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.send(Request::Read, offset, buffer.len(), &[])?;
        self.receive()?;
        self.stream.read_exact(buffer)
    }

    /// # Errors
    /// When the server reports an error or breaks the protocol.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.send(Request::Write, offset, bytes.len(), bytes)?;
        self.receive()
    }

    /// # Errors
    /// When the server could not make everything durable.
    pub fn flush(&mut self) -> io::Result<()> {
        self.send(Request::Flush, 0, 0, &[])?;
        self.receive()
    }

    /// # Errors
    /// When the request cannot be sent. There is no answer to it.
    pub fn disconnect(&mut self) -> io::Result<()> {
        self.send(Request::Disconnect, 0, 0, &[])
    }

    fn send(&mut self, request: Request, offset: u64, length: usize, payload: &[u8]) -> io::Result<()> {
        self.cookie += 1;
        let length = u32::try_from(length).map_err(|_| protocol("a request is too large"))?;
        let mut header = [0u8; 28];
        header[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        header[6..8].copy_from_slice(&(request as u16).to_be_bytes());
        header[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        header[16..24].copy_from_slice(&offset.to_be_bytes());
        header[24..28].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&header)?;
        self.stream.write_all(payload)
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut reply = [0u8; 16];
        self.stream.read_exact(&mut reply)?;
        let word = |at: usize| u32::from_be_bytes([reply[at], reply[at + 1], reply[at + 2], reply[at + 3]]);
        let cookie = (u64::from(word(8)) << 32) | u64::from(word(12));
        if word(0) != REPLY_MAGIC || cookie != self.cookie {
            return Err(protocol("the server answered something else"));
        }
        match word(4) {
            0 => Ok(()),
            error => Err(Error::from_raw_os_error(i32::try_from(error).unwrap_or(libc::EIO))),
        }
    }
}

fn read_u64(stream: &mut UnixStream) -> io::Result<u64> {
    let mut bytes = [0u8; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

fn protocol(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}
