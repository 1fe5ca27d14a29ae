//! copy_file_range(2) within a volume: holes as holes, data from node to node (decision 0015).

use crate::core::Operation;
use crate::file::{OpenFile, end_of};
use crate::options::Durability;
use crate::shell::engine::received;
use std::ops::Range;
use weft_proto::data::CopySource;
use weft_types::limits::{COPIES_AT_A_TIME, MAX_COPY_BYTES_PER_REQUEST, MAX_IO_BYTES};
use weft_types::{BLOCK_SIZE, ChunkId, ChunkSize, ErrorKind, ObjectId};

/// Bytes that lie in one chunk of the source and in one of the target, and fit one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    source: ChunkId,
    source_offset: u32,
    target: ChunkId,
    target_offset: u32,
    length: u32,
}

impl OpenFile {
    /// Copies up to `length` bytes from `offset` to `to_offset` of `target`, which may be the same file when the ranges do
    /// not overlap. Returns how many; fewer at the end of this file, and for a long range, which the caller goes on with.
    /// What another host cuts off from this file meanwhile is copied as it was or as zeros.
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
                target.make_hole(place(at)..place(run.start)).await?;
            }
            at = run.start + target.pull(place(run.start), self, &run).await?;
            if at < run.end {
                return Ok(at - offset);
            }
        }
        if at < end {
            target.make_hole(place(at)..place(end)).await?;
        }
        Ok(end.saturating_sub(offset))
    }

    /// Zeros without room of their own: a hole stays one in the copy.
    async fn make_hole(&self, range: Range<u64>) -> Result<(), ErrorKind> {
        end_of(range.end, 0)?;
        self.discard(range.clone()).await?;
        self.extend_to(range.end).await
    }

    /// Lets the nodes write `range` of the source at `to`. Returns how much of it, from its beginning, was written.
    async fn pull(&self, to: u64, source: &Self, range: &Range<u64>) -> Result<u64, ErrorKind> {
        let end = end_of(to, range.end - range.start)?;
        let _shared = self.file.gate.read().await;
        loop {
            self.client.check_fence()?;
            let life = self.file.life()?;
            let extending = self.permission_to_reach(end).await?;
            match self.pull_once(to, source, range).await {
                // This file was truncated by another host since this session looked.
                Err(ErrorKind::Stale) => {
                    drop(extending);
                    self.file.refresh_past(&self.client, life).await?;
                }
                result => return result,
            }
        }
    }

    async fn pull_once(&self, to: u64, source: &Self, range: &Range<u64>) -> Result<u64, ErrorKind> {
        let (life, source_life) = (self.file.life()?, source.file.life()?);
        let pieces = pieces(self.client.record.chunk_size, (source_life.object, range), (life.object, to));
        let (mut written, mut failed) = (0, None);
        for batch in pieces.chunks(COPIES_AT_A_TIME) {
            let answers: Vec<_> = batch
                .iter()
                .map(|piece| {
                    let operation = Operation::Copy {
                        chunk: piece.target,
                        offset_bytes: piece.target_offset,
                        length_bytes: piece.length,
                        generation: life.generation,
                        ack: self.ack(Durability::Volume),
                        source: CopySource {
                            pg: self.client.engine.with_routes(|routes| routes.pg_of(piece.source)),
                            chunk: piece.source,
                            offset_bytes: piece.source_offset,
                            generation: source_life.generation,
                        },
                    };
                    self.client.engine.submit(Some(self.file.inode), operation)
                })
                .collect();
            for (piece, answer) in batch.iter().zip(answers) {
                // Wait for all of them: one that is still under way may not land after an error was reported.
                match received(answer.await) {
                    Ok(_) if failed.is_none() => written += u64::from(piece.length),
                    Err(error) if failed.is_none() || error == ErrorKind::Fenced => failed = Some(error),
                    Ok(_) | Err(_) => {}
                }
            }
            if failed.is_some() {
                break;
            }
        }
        match failed {
            Some(ErrorKind::Fenced) => return Err(ErrorKind::Fenced),
            Some(error) if written == 0 => return Err(error),
            _ => {}
        }
        self.file.wrote(&self.client, life, to + written).await?;
        Ok(written)
    }
}

/// Cuts a range where a chunk ends on either side, and into requests; these begin at blocks of the target where they can,
/// so that its primary need not merge.
fn pieces(chunk_size: ChunkSize, source: (ObjectId, &Range<u64>), target: (ObjectId, u64)) -> Vec<Piece> {
    let (object, range) = source;
    let end = target.1 + (range.end - range.start);
    let mut pieces = Vec::new();
    for part in chunk_size.split(target.0, target.1..end) {
        let from = range.start + (part.file_offset - target.1);
        let length = u64::from(part.bytes.end - part.bytes.start);
        for inner in chunk_size.split(object, from..from + length) {
            let skipped = (inner.file_offset - from) as u32;
            let (mut at, inner_length) = (0, inner.bytes.end - inner.bytes.start);
            while at < inner_length {
                let target_offset = part.bytes.start + skipped + at;
                let room = MAX_IO_BYTES as u32 - target_offset % BLOCK_SIZE as u32;
                let length = room.min(inner_length - at);
                let source_offset = inner.bytes.start + at;
                pieces.push(Piece { source: inner.chunk, source_offset, target: part.chunk, target_offset, length });
                at += length;
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::ChunkIndex;

    const MIB: u64 = 1 << 20;

    fn cut(range: Range<u64>, to: u64) -> Vec<Piece> {
        pieces(ChunkSize::new(4 << 20).unwrap(), (ObjectId(1), &range), (ObjectId(2), to))
    }

    #[test]
    fn pieces_cover_the_range_once_and_cross_no_chunk() {
        for (range, to) in [(0..9 * MIB, 0), (5..9 * MIB, 0), (0..9 * MIB, 77), (4 * MIB - 1..4 * MIB + 1, 4 * MIB - 1)]
        {
            let pieces = cut(range.clone(), to);
            let (mut from, mut at) = (range.start, to);
            for piece in &pieces {
                let place = |chunk: ChunkId, offset: u32| u64::from(chunk.index.0) * 4 * MIB + u64::from(offset);
                assert_eq!(place(piece.source, piece.source_offset), from);
                assert_eq!(place(piece.target, piece.target_offset), at);
                assert!(piece.length > 0 && piece.length as usize <= MAX_IO_BYTES);
                assert!(piece.source_offset + piece.length <= 4 << 20 && piece.target_offset + piece.length <= 4 << 20);
                (from, at) = (from + u64::from(piece.length), at + u64::from(piece.length));
            }
            assert_eq!(from, range.end);
        }
    }

    #[test]
    fn requests_begin_at_blocks_of_the_target() {
        let pieces = cut(0..3 * MIB, 100);
        assert_eq!(pieces[0].length as usize, MAX_IO_BYTES - 100);
        assert_eq!(pieces[1].target_offset as usize % BLOCK_SIZE, 0);
        assert_eq!(pieces[1].target.index, ChunkIndex(0));
    }
}
