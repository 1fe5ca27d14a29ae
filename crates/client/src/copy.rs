//! copy_file_range(2) within a volume: data through this client, holes as holes.

use crate::file::OpenFile;
use crate::options::{Durability, SizeEffect};
use weft_types::ErrorKind;
use weft_types::limits::{MAX_COPY_BYTES_PER_REQUEST, MAX_IO_BYTES};

impl OpenFile {
    /// Copies up to `length` bytes from `offset` to `to_offset` of `target`, which may be the same file when the ranges do
    /// not overlap. Returns how many; fewer at the end of this file, and for a long range, which the caller goes on with.
    ///
    /// # Errors
    /// As `read` and `write`, when nothing was copied.
    pub async fn copy_to(&self, offset: u64, target: &Self, to_offset: u64, length: u64) -> Result<u64, ErrorKind> {
        self.look_at_size().await?;
        let end = offset.saturating_add(length.min(MAX_COPY_BYTES_PER_REQUEST)).min(self.size_bytes());
        let mut at = offset;
        let place = |at: u64| to_offset + (at - offset);
        for run in self.presence(offset.min(end)..end).await? {
            if run.start > at {
                target.zero(place(at)..place(run.start), SizeEffect::Extend).await?;
            }
            at = run.start;
            while at < run.end {
                let piece = (run.end - at).min(MAX_IO_BYTES as u64);
                let bytes = self.read(at, u32::try_from(piece).unwrap_or(u32::MAX)).await?;
                if bytes.is_empty() {
                    // Cut off meanwhile.
                    return Ok(at - offset);
                }
                at += target.write(place(at), bytes, Durability::Volume).await? as u64;
            }
        }
        if at < end {
            target.zero(place(at)..place(end), SizeEffect::Extend).await?;
        }
        Ok(end.saturating_sub(offset))
    }
}
