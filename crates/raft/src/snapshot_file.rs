//! The snapshot file: all of the applied state at one log id (docs/ON-DISK.md).
//!
//! Layout, little endian: magic `WEFTSNAP`, `version: u32`, `header_len: u32`, header (postcard), then one
//! `key_len: u32, value_len: u32, key, value` per pair in key order, then `u32::MAX`, `pairs: u64`, and the BLAKE3 hash
//! of everything before it.
//! Guarantees: a reader that came to the end without an error has seen every byte as it was written. Memory is bounded
//! by one pair. Must not know: what keys and values mean.

use crate::types::{SnapshotMeta, decode, encode};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

const MAGIC: [u8; 8] = *b"WEFTSNAP";
const VERSION: u32 = 1;
const END: u32 = u32::MAX;
/// Larger than any key or value that the metadata state machine writes; bounds what a damaged length can make us read.
const MAX_PART_BYTES: u32 = 16 << 20;
const MAX_HEADER_BYTES: u32 = 1 << 20;
const BUFFER_BYTES: usize = 256 << 10;

/// Why a snapshot file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("the snapshot file is damaged: {0}")]
    Damaged(String),
    #[error(
        "the snapshot file has version {found}, this program reads version {VERSION}; run the release that wrote it"
    )]
    OtherVersion { found: u32 },
    #[error("snapshot file: {0}")]
    Io(#[from] io::Error),
}

/// Writes a snapshot to a file that the caller renames into place after `finish`.
pub(crate) struct SnapshotWriter {
    out: BufWriter<File>,
    hash: blake3::Hasher,
    pairs: u64,
}

impl SnapshotWriter {
    pub(crate) fn create(path: &Path, meta: &SnapshotMeta) -> Result<Self, SnapshotError> {
        let header = encode(meta).map_err(io::Error::other)?;
        let out = BufWriter::with_capacity(BUFFER_BYTES, File::create(path)?);
        let mut writer = Self { out, hash: blake3::Hasher::new(), pairs: 0 };
        writer.put(&MAGIC)?;
        writer.put(&VERSION.to_le_bytes())?;
        writer.put(&length(header.len(), MAX_HEADER_BYTES)?.to_le_bytes())?;
        writer.put(&header)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes)
    }

    pub(crate) fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<(), SnapshotError> {
        self.put(&length(key.len(), MAX_PART_BYTES)?.to_le_bytes())?;
        self.put(&length(value.len(), MAX_PART_BYTES)?.to_le_bytes())?;
        self.put(key)?;
        self.put(value)?;
        self.pairs += 1;
        Ok(())
    }

    /// Ends the file and makes it durable.
    pub(crate) fn finish(mut self) -> Result<(), SnapshotError> {
        self.put(&END.to_le_bytes())?;
        self.put(&self.pairs.to_le_bytes())?;
        let hash = self.hash.finalize();
        self.out.write_all(hash.as_bytes())?;
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(())
    }
}

fn length(bytes: usize, limit: u32) -> io::Result<u32> {
    u32::try_from(bytes).ok().filter(|len| *len <= limit).ok_or_else(|| {
        io::Error::other(format!("{bytes} bytes are more than the {limit} that a snapshot may hold in one part"))
    })
}

/// Key and value.
type Pair = (Vec<u8>, Vec<u8>);

/// Reads a snapshot pair by pair.
pub(crate) struct SnapshotReader<R> {
    input: BufReader<R>,
    hash: blake3::Hasher,
    pairs: u64,
    meta: SnapshotMeta,
}

impl<R: Read> SnapshotReader<R> {
    /// Reads the header.
    pub(crate) fn open(input: R) -> Result<Self, SnapshotError> {
        let mut input = BufReader::with_capacity(BUFFER_BYTES, input);
        let mut hash = blake3::Hasher::new();
        let mut fixed = [0; 16];
        take(&mut input, &mut hash, &mut fixed)?;
        if fixed[..8] != MAGIC {
            return Err(SnapshotError::Damaged("it does not begin like one".to_owned()));
        }
        let found = u32_at(&fixed, 8);
        if found != VERSION {
            return Err(SnapshotError::OtherVersion { found });
        }
        let header_len = u32_at(&fixed, 12);
        if header_len > MAX_HEADER_BYTES {
            return Err(SnapshotError::Damaged("header length".to_owned()));
        }
        let header = take_part(&mut input, &mut hash, header_len)?;
        let meta = decode(&header).map_err(|error| SnapshotError::Damaged(format!("header: {error}")))?;
        Ok(Self { input, hash, pairs: 0, meta })
    }

    pub(crate) const fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// The next pair; `None` at the end, once the hash was found right. What was read before is to be believed only then.
    pub(crate) fn next_pair(&mut self) -> Result<Option<Pair>, SnapshotError> {
        let mut first = [0; 4];
        take(&mut self.input, &mut self.hash, &mut first)?;
        let key_len = u32::from_le_bytes(first);
        if key_len == END {
            return self.end().map(|()| None);
        }
        let mut second = [0; 4];
        take(&mut self.input, &mut self.hash, &mut second)?;
        let value_len = u32::from_le_bytes(second);
        if key_len > MAX_PART_BYTES || value_len > MAX_PART_BYTES {
            return Err(SnapshotError::Damaged(format!("length of pair {}", self.pairs)));
        }
        let key = take_part(&mut self.input, &mut self.hash, key_len)?;
        let value = take_part(&mut self.input, &mut self.hash, value_len)?;
        self.pairs += 1;
        Ok(Some((key, value)))
    }

    fn end(&mut self) -> Result<(), SnapshotError> {
        let mut count = [0; 8];
        take(&mut self.input, &mut self.hash, &mut count)?;
        let expected = self.hash.finalize();
        let mut stored = [0; 32];
        self.input.read_exact(&mut stored).map_err(short)?;
        if stored != *expected.as_bytes() {
            return Err(SnapshotError::Damaged("checksum".to_owned()));
        }
        if u64::from_le_bytes(count) != self.pairs {
            return Err(SnapshotError::Damaged("number of pairs".to_owned()));
        }
        if self.input.read(&mut [0; 1])? != 0 {
            return Err(SnapshotError::Damaged("bytes after its end".to_owned()));
        }
        Ok(())
    }
}

fn take<R: Read>(input: &mut R, hash: &mut blake3::Hasher, into: &mut [u8]) -> Result<(), SnapshotError> {
    input.read_exact(into).map_err(short)?;
    hash.update(into);
    Ok(())
}

/// Reads a part of this length. Memory is taken as bytes come, not on the word of the length.
fn take_part<R: Read>(input: &mut R, hash: &mut blake3::Hasher, bytes: u32) -> Result<Vec<u8>, SnapshotError> {
    let mut part = Vec::new();
    input.by_ref().take(u64::from(bytes)).read_to_end(&mut part)?;
    if part.len() < bytes as usize {
        return Err(short(io::ErrorKind::UnexpectedEof.into()));
    }
    hash.update(&part);
    Ok(part)
}

fn short(error: io::Error) -> SnapshotError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        SnapshotError::Damaged("it ends too early".to_owned())
    } else {
        SnapshotError::Io(error)
    }
}

fn u32_at(bytes: &[u8; 16], at: usize) -> u32 {
    let mut part = [0; 4];
    part.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(part)
}

/// Reads a whole file and says what it is a snapshot of, if every byte is right.
pub(crate) fn verify(path: &Path) -> Result<SnapshotMeta, SnapshotError> {
    let mut reader = SnapshotReader::open(File::open(path)?)?;
    while reader.next_pair()?.is_some() {}
    Ok(reader.meta)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(directory: &Path) -> std::path::PathBuf {
        let path = directory.join("snapshot");
        let mut writer = SnapshotWriter::create(&path, &SnapshotMeta::default()).unwrap();
        writer.pair(b"a", b"one").unwrap();
        writer.pair(b"b", &[7; 10_000]).unwrap();
        writer.finish().unwrap();
        path
    }

    #[test]
    fn a_snapshot_file_reads_back_pair_by_pair() {
        let directory = tempfile::tempdir().unwrap();
        let mut reader = SnapshotReader::open(File::open(written(directory.path())).unwrap()).unwrap();
        assert_eq!(reader.next_pair().unwrap(), Some((b"a".to_vec(), b"one".to_vec())));
        assert_eq!(reader.next_pair().unwrap(), Some((b"b".to_vec(), vec![7; 10_000])));
        assert_eq!(reader.next_pair().unwrap(), None);
    }

    #[test]
    fn a_snapshot_file_begins_with_these_golden_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = std::fs::read(written(directory.path())).unwrap();
        assert_eq!(&bytes[..12], b"WEFTSNAP\x01\0\0\0");
    }

    #[test]
    fn no_flipped_bit_and_no_cut_of_a_snapshot_file_goes_unnoticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = written(directory.path());
        let good = std::fs::read(&path).unwrap();
        verify(&path).unwrap();
        for at in (0..200).chain(good.len() - 60..good.len()) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            assert!(verify(&path).is_err(), "bit flip at {at} was not seen");
        }
        for cut in [0, 7, 15, 40, good.len() / 2, good.len() - 1] {
            std::fs::write(&path, &good[..cut]).unwrap();
            assert!(verify(&path).is_err(), "cut to {cut} bytes was not seen");
        }
        let mut longer = good;
        longer.push(0);
        std::fs::write(&path, &longer).unwrap();
        assert!(verify(&path).is_err());
    }
}
