//! An image outside, to be read: its size, which ranges hold data, and the bytes.

use super::qemu::{self, Serve, ServedImage};
use crate::failure::{Failure, Outcome, While};
use rustix::fs::SeekFrom;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

/// Disks are made of these; an image that is no whole number of them was cut off.
const SECTOR_BYTES: u64 = 512;

pub struct Source {
    pub size_bytes: u64,
    pub format: &'static str,
    /// Ascending; everything else reads as zeros.
    pub data: Vec<Range<u64>>,
    reader: Reader,
}

enum Reader {
    Raw(File),
    Served(Box<ServedImage>),
}

impl Source {
    /// # Errors
    /// One sentence when the image is unsupported, damaged, truncated or unreadable.
    pub fn open(path: &Path) -> Outcome<Self> {
        let file = File::open(path).map_err(|e| Failure::input(format!("could not open {}: {e}", path.display())))?;
        let kind = file.metadata().doing(format!("read {}", path.display()))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Failure::input(format!("{} is neither a file nor a block device", path.display())));
        }
        if !begins_like_another_format(&file) {
            return Self::open_raw(file, path);
        }
        let info = qemu::info(path)?;
        match info.format.as_str() {
            "raw" => Self::open_raw(file, path),
            "qcow2" => Self::open_qcow2(&info, path),
            other => Err(Failure::input(format!(
                "{} has the format {other}, and only raw and qcow2 are supported: convert it with \
                 `qemu-img convert -O qcow2 {} NEW.qcow2`",
                path.display(),
                path.display()
            ))),
        }
    }

    fn open_raw(file: File, path: &Path) -> Outcome<Self> {
        let size_bytes =
            rustix::fs::seek(&file, SeekFrom::End(0)).doing(format!("find the end of {}", path.display()))?;
        if size_bytes == 0 {
            return Err(Failure::input(format!("{} is empty: there is no image in it", path.display())));
        }
        if size_bytes % SECTOR_BYTES != 0 {
            return Err(Failure::input(format!(
                "{} has {size_bytes} bytes, which is no whole number of {SECTOR_BYTES}-byte sectors: it is truncated or \
                 no disk image; get a whole copy and import that",
                path.display()
            )));
        }
        let data = data_ranges(&file, size_bytes).doing(format!("find the holes of {}", path.display()))?;
        Ok(Self { size_bytes, format: "raw", data, reader: Reader::Raw(file) })
    }

    fn open_qcow2(info: &qemu::ImageInfo, path: &Path) -> Outcome<Self> {
        if let Some(backing) = &info.backing_filename {
            return Err(Failure::input(format!(
                "{} builds on another image ({backing}): flatten it first with `qemu-img convert -O qcow2 {} FLAT.qcow2`",
                path.display(),
                path.display()
            )));
        }
        if info.encrypted {
            return Err(Failure::input(format!(
                "{} is encrypted, which is not supported: decrypt it first",
                path.display()
            )));
        }
        let data = qemu::data_ranges(path, "qcow2")?;
        let served = ServedImage::start(path, "qcow2", Serve::ReadOnly)?;
        let size_bytes = served.connection.size_bytes();
        Ok(Self { size_bytes, format: "qcow2", data, reader: Reader::Served(Box::new(served)) })
    }

    /// Bytes that have to be moved.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.data.iter().map(|r| r.end - r.start).sum()
    }

    /// Fills the whole buffer from `offset`.
    ///
    /// # Errors
    /// When the image gets shorter while it is read, or its device fails.
    pub fn read(&mut self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        match &mut self.reader {
            Reader::Raw(file) => file.read_exact_at(buffer, offset),
            Reader::Served(served) => served.connection.read(offset, buffer),
        }
    }
}

/// Whether the first bytes belong to a format that QEMU knows, so that it is worth asking. A raw image needs no tool.
fn begins_like_another_format(file: &File) -> bool {
    const MAGICS: [&[u8]; 9] = [
        b"QFI\xfb",
        b"KDMV",
        b"COWD",
        b"vhdxfile",
        b"conectix",
        b"QED\0",
        b"WithoutFreeSpace",
        b"# Disk De",
        b"LUKS\xba\xbe",
    ];
    /// Offset of VirtualBox's signature within its header.
    const VDI_OFFSET: usize = 64;
    let mut head = [0u8; 72];
    if file.read_exact_at(&mut head, 0).is_err() {
        return false;
    }
    MAGICS.iter().any(|magic| head.starts_with(magic)) || head[VDI_OFFSET..].starts_with(&[0x7f, 0x10, 0xda, 0xbe])
}

/// Runs that are not holes. A file system without SEEK_DATA gives one run, which is right too.
fn data_ranges(file: &File, size_bytes: u64) -> rustix::io::Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size_bytes {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            // Block devices know no holes.
            Err(rustix::io::Errno::INVAL) => {
                ranges.push(at..size_bytes);
                break;
            }
            Err(error) => return Err(error),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(size_bytes);
        ranges.push(start..end);
        at = end;
    }
    Ok(ranges)
}
