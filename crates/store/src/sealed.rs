//! Small files that are replaced whole: magic, version, length, CRC32C, postcard body.

use crate::config::{Mutant, StoreConfig};
use crate::disk::{Disk, NEW_SUFFIX, parent, read_file, replace_file, write_file};
use crate::error::{IoContext, Result, StoreError};
use crate::record::le32;
use serde::Serialize;
use serde::de::DeserializeOwned;
use weft_types::codec;

const HEADER_BYTES: usize = 24;

/// What a sealed file is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seal {
    pub path: &'static str,
    pub magic: [u8; 8],
    /// That is written.
    pub version: u32,
    /// That can be read still.
    pub oldest: u32,
}

/// A file that was read.
pub(crate) enum Unsealed<T> {
    Absent,
    OtherVersion(u32),
    Value(T),
}

pub(crate) fn write<D: Disk, T: Serialize>(disk: &D, config: &StoreConfig, seal: Seal, value: &T) -> Result<()> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes = postcard::to_extend(value, bytes)
        .map_err(|error| StoreError::Corrupt { file: seal.path.to_owned(), what: error.to_string() })?;
    let length = (bytes.len() - HEADER_BYTES) as u32;
    bytes[0..8].copy_from_slice(&seal.magic);
    bytes[8..12].copy_from_slice(&seal.version.to_le_bytes());
    bytes[12..16].copy_from_slice(&length.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..16]), &bytes[HEADER_BYTES..]);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    if config.has(Mutant::RenameBeforeSync) {
        let temporary = format!("{}{NEW_SUFFIX}", seal.path);
        write_file(disk, &temporary, &bytes).during(seal.path)?;
        disk.rename(&temporary, seal.path).during(seal.path)?;
        return disk.sync_dir(parent(seal.path)).during(seal.path);
    }
    replace_file(disk, seal.path, &bytes).during(seal.path)
}

pub(crate) fn read<D: Disk, T: DeserializeOwned>(disk: &D, seal: Seal) -> Result<Unsealed<T>> {
    let Some(bytes) = read_file(disk, seal.path).during(seal.path)? else { return Ok(Unsealed::Absent) };
    let corrupt = |what: &str| StoreError::Corrupt { file: seal.path.to_owned(), what: what.to_owned() };
    if bytes.len() < HEADER_BYTES || bytes[0..8] != seal.magic {
        return Err(corrupt("it does not begin as such a file does"));
    }
    let body = bytes.get(HEADER_BYTES..HEADER_BYTES + le32(&bytes, 12) as usize).ok_or_else(|| corrupt("too short"))?;
    if le32(&bytes, 16) != crc32c::crc32c_append(crc32c::crc32c(&bytes[..16]), body) {
        return Err(corrupt("checksum mismatch"));
    }
    let version = le32(&bytes, 8);
    if !(seal.oldest..=seal.version).contains(&version) {
        return Ok(Unsealed::OtherVersion(version));
    }
    codec::decode(body).map(Unsealed::Value).map_err(|error| corrupt(&error.to_string()))
}
