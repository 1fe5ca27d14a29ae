//! An open file: read, write, append, flush, discard, size, close.
//!
//! Guarantees: a write is answered when the placement groups acknowledged it and its effect on the size is known as
//! design 7 wants it; a flush fails once per open file when unflushed writes may have been lost; nothing that failed
//! makes the file longer.

use crate::client::{Client, Inner};
use crate::core::{DescriptionId, Life, LossWatch, Operation, Outcome, RouteTable};
use crate::open_inode::OpenInode;
use crate::options::{Access, Durability, FlushScope, OpenContents, SizeEffect};
use crate::shell::engine::received;
use crate::size_cap::Extending;
use bytes::{Bytes, BytesMut};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use weft_proto::namespace::{AttributeChange, Credentials, FileRecord, Mutation, NamespaceReply, NewInode, Query};
use weft_types::checksum::block_hashes;
use weft_types::geometry::ChunkPart;
use weft_types::limits::{FILLS_AT_A_TIME, MAX_FILE_BYTES, MAX_FILL_BYTES};
use weft_types::{
    AckMode, BLOCK_SIZE, BlockHash, BlockIndex, BlockRange, ChunkId, ErrorKind, InodeNumber, PresentBlocks, VolumeId,
};

/// Chunk operations of one discard or presence request that are under way at a time.
pub(crate) const PARTS_AT_A_TIME: usize = 64;

/// An open file; clones are the same one. Close it with [`FileHandle::close`]; when the last clone of one that was not
/// closed is dropped, it is closed in the background.
#[derive(Clone)]
pub struct FileHandle(Rc<OpenFile>);

pub struct OpenFile {
    pub(crate) client: Rc<Inner>,
    pub(crate) file: Rc<OpenInode>,
    pub(crate) description: DescriptionId,
    losses: RefCell<LossWatch>,
    closed: Cell<bool>,
}

impl std::ops::Deref for FileHandle {
    type Target = OpenFile;
    fn deref(&self) -> &OpenFile {
        &self.0
    }
}

impl Client {
    /// Opens a regular file.
    ///
    /// # Errors
    /// `NotFound` or `Stale` when it is gone, `IsDirectory`, and others that the metadata group refuses with.
    pub async fn open(
        &self,
        inode: InodeNumber,
        access: Access,
        contents: OpenContents,
    ) -> Result<FileHandle, ErrorKind> {
        // What may be lost from now on is what this open file has to hear of.
        let losses = LossWatch::new(self.inner.engine.with_routes(RouteTable::losses));
        let file = OpenInode::open(&self.inner, inode, access, contents).await?;
        Ok(FileHandle::new(&self.inner, file, losses))
    }

    /// Makes a regular file and opens it for writing, in one request.
    ///
    /// # Errors
    /// `Exists`, and others that the metadata group refuses with.
    pub async fn create_file(
        &self,
        parent: InodeNumber,
        name: &[u8],
        mode: u16,
        credentials: Credentials,
        access: Access,
    ) -> Result<(FileRecord, FileHandle), ErrorKind> {
        let losses = LossWatch::new(self.inner.engine.with_routes(RouteTable::losses));
        let (name, new) = (name.to_vec(), NewInode::Regular);
        let reply = self.inner.mutate(Mutation::Create { parent, name, new, mode, credentials, open: true }).await?;
        let (record, size_cap) = match reply {
            NamespaceReply::Opened { record, size_cap, .. } => (record, size_cap),
            reply => (crate::client::record_in(reply)?, false),
        };
        let file = OpenInode::created(&self.inner, &record, size_cap, access).await;
        Ok((record, FileHandle::new(&self.inner, file, losses)))
    }
}

impl FileHandle {
    fn new(client: &Rc<Inner>, file: Rc<OpenInode>, losses: LossWatch) -> Self {
        let description = client.next_description();
        let (client, losses, closed) = (Rc::clone(client), RefCell::new(losses), Cell::new(false));
        Self(Rc::new(OpenFile { client, file, description, losses, closed }))
    }

    /// Waits until everything of the file is answered, commits, closes. Clones must not be used any more.
    ///
    /// # Errors
    /// When the metadata group could not be told; the session then keeps the file open until it ends.
    pub async fn close(self) -> Result<(), ErrorKind> {
        if self.0.closed.replace(true) {
            return Ok(());
        }
        self.0.file.close(&self.0.client, self.0.description).await
    }
}

impl OpenFile {
    #[must_use]
    pub fn inode(&self) -> InodeNumber {
        self.file.inode
    }

    /// Size as this session knows it now.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.file.size_bytes()
    }

    /// Finds out how long the file is now.
    pub(crate) async fn look_at_size(&self) -> Result<(), ErrorKind> {
        self.client.check_fence()?;
        self.file.refresh(&self.client).await
    }

    /// Up to `length` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// `Io` when no replica has a good copy; `TimedOut`, `Fenced`.
    pub async fn read(&self, offset: u64, length: u32) -> Result<Bytes, ErrorKind> {
        self.client.check_fence()?;
        self.file.used();
        let wanted = offset.saturating_add(u64::from(length));
        if wanted > self.file.size_bytes() {
            // Near the end somebody else may have made it longer.
            self.file.refresh(&self.client).await?;
        }
        loop {
            let life = self.file.life()?;
            match self.read_once(offset, wanted, life).await {
                // Another host has truncated it since this session looked.
                Err(ErrorKind::Stale) => self.file.refresh_past(&self.client, life).await?,
                result => return result,
            }
        }
    }

    async fn read_once(&self, offset: u64, wanted: u64, life: Life) -> Result<Bytes, ErrorKind> {
        let end = wanted.min(self.file.size_bytes());
        if offset >= end {
            return Ok(Bytes::new());
        }
        let answers: Vec<_> = self
            .parts(offset..end)?
            .into_iter()
            .map(|part| {
                self.client.engine.submit(
                    None,
                    Operation::Read {
                        chunk: part.chunk,
                        offset_bytes: part.bytes.start,
                        length_bytes: part.bytes.end - part.bytes.start,
                        generation: life.generation,
                    },
                )
            })
            .collect();
        let mut pieces = Vec::with_capacity(answers.len());
        for answer in answers {
            match received(answer.await)? {
                Outcome::Read(bytes) => pieces.push(bytes),
                _ => return Err(ErrorKind::Io("a read was answered with something else".into())),
            }
        }
        if self.file.life()? != life {
            // Truncated while it was read: what lies past the new end is not shown.
            return Err(ErrorKind::Stale);
        }
        Ok(joined(pieces))
    }

    /// Writes all of `data` at `offset`, or a shorter first part of it if the rest failed. Returns what was written.
    ///
    /// # Errors
    /// When nothing of it was written: `NoSpace`, `FileTooLarge`, `Io`, `TimedOut`, `Fenced`.
    pub async fn write(&self, offset: u64, data: Bytes, durability: Durability) -> Result<usize, ErrorKind> {
        let _shared = self.file.gate.read().await;
        self.write_in_gate(offset, data, durability).await
    }

    /// Somebody without the right to keep them is about to write: takes the set-user-id and set-group-id bits away, as
    /// a local file system does.
    ///
    /// # Errors
    /// What the metadata group refuses.
    pub async fn drop_set_id(&self) -> Result<(), ErrorKind> {
        let mode = self.file.mode();
        let kept = without_set_id(mode);
        if kept == mode {
            return Ok(());
        }
        let change = AttributeChange { mode: Some(kept), ..AttributeChange::default() };
        self.client.change_attributes(self.file.inode, change).await.map(drop)
    }

    /// Writes at the end of the file, whichever host made it so long. Returns where that was. Only the holder of the
    /// size cap knows the end, so the cap is waited for.
    ///
    /// # Errors
    /// As `write`.
    pub async fn append(&self, data: Bytes, durability: Durability) -> Result<(u64, usize), ErrorKind> {
        let _one = self.file.appending.lock().await;
        let _shared = self.file.gate.read().await;
        let length = data.len() as u64;
        loop {
            let end = || self.file.size_bytes().saturating_add(length);
            let extending = self.file.begin_extending(&self.client, end).await?;
            let (life, offset) = (self.file.life()?, self.file.size_bytes());
            match self.write_once(offset, data.clone(), durability).await {
                // Truncated meanwhile: the end is elsewhere.
                Err(ErrorKind::Stale) => {
                    drop(extending);
                    self.file.refresh_past(&self.client, life).await?;
                }
                result => return Ok((offset, result?)),
            }
        }
    }

    /// Another host may have truncated the file since this session looked: then the placement groups refuse, nothing
    /// was done, and it is done again under the new generation.
    async fn write_in_gate(&self, offset: u64, data: Bytes, durability: Durability) -> Result<usize, ErrorKind> {
        let end = end_of(offset, data.len() as u64)?;
        loop {
            self.client.check_fence()?;
            let life = self.file.life()?;
            let extending = self.permission_to_reach(end).await?;
            match self.write_once(offset, data.clone(), durability).await {
                Err(ErrorKind::Stale) => {
                    drop(extending);
                    self.file.refresh_past(&self.client, life).await?;
                }
                result => return result,
            }
        }
    }

    /// The size cap, if bytes up to `end` make the file longer.
    pub(crate) async fn permission_to_reach(&self, end: u64) -> Result<Option<Extending>, ErrorKind> {
        if end <= self.file.size_bytes() {
            return Ok(None);
        }
        // Somebody else may have made it longer already: then nobody has to give up the cap.
        self.file.refresh(&self.client).await?;
        if end <= self.file.size_bytes() {
            return Ok(None);
        }
        self.file.begin_extending(&self.client, || end).await.map(Some)
    }

    async fn write_once(&self, offset: u64, data: Bytes, durability: Durability) -> Result<usize, ErrorKind> {
        let end = end_of(offset, data.len() as u64)?;
        let life = self.file.life()?;
        let ack = self.ack(durability);
        let parts = self.parts(offset..end)?;
        let answers: Vec<_> = parts
            .iter()
            .map(|part| {
                let start = usize::try_from(part.file_offset - offset).unwrap_or(usize::MAX);
                let length = (part.bytes.end - part.bytes.start) as usize;
                let data = data.slice(start..start + length);
                let operation = Operation::Write {
                    chunk: part.chunk,
                    offset_bytes: part.bytes.start,
                    generation: life.generation,
                    ack,
                    hashes: whole_block_hashes(self.client.volume, part, &data),
                    data,
                };
                self.client.engine.submit(Some(self.file.inode), operation)
            })
            .collect();
        let (mut written, mut failed) = (0usize, None);
        for (part, answer) in parts.iter().zip(answers) {
            // Wait for all of them: a part that is still under way may not land after an error was reported.
            match (received(answer.await), &failed) {
                (Ok(_), None) => written += (part.bytes.end - part.bytes.start) as usize,
                (Ok(_), Some(_)) => {}
                (Err(error), None) => failed = Some(error),
                (Err(ErrorKind::Fenced), Some(_)) => failed = Some(ErrorKind::Fenced),
                (Err(_), Some(_)) => {}
            }
        }
        match failed {
            Some(ErrorKind::Fenced) => return Err(ErrorKind::Fenced),
            Some(error) if written == 0 => return Err(error),
            _ => {}
        }
        self.file.wrote(&self.client, life, offset + written as u64).await?;
        Ok(written)
    }

    /// Makes everything that was acknowledged for this file, on any host, durable.
    ///
    /// # Errors
    /// `Io` once per open file when unflushed writes may have been lost (as Linux does); `TimedOut`, `Fenced`.
    pub async fn flush(&self, scope: FlushScope) -> Result<(), ErrorKind> {
        self.client.check_fence()?;
        let inode = self.file.inode;
        // Changes that the application was told have timed out may still land: before the flush, or not under it.
        received(self.client.engine.submit(Some(inode), Operation::Settle).await)?;
        // Times alone are committed every second; a flush does not wait for them (SEMANTICS: fsync and times).
        let _ = scope;
        let (answers, committed) =
            tokio::join!(self.client.flush_all_groups(inode), self.file.commit_if_grown(&self.client));
        self.client.allocations.borrow_mut().changed(inode);
        let risen = self.losses.borrow_mut().flushed(&answers?);
        committed?;
        risen.map_err(|risen| {
            tracing::error!(%inode, pg = %risen.pg, "unflushed writes may be lost: an application was told so");
            ErrorKind::Io(format!("unflushed writes may be lost in placement group {}", risen.pg))
        })
    }

    /// What close(2) promises other hosts: they see the size.
    ///
    /// # Errors
    /// As every metadata request.
    pub async fn publish_size(&self) -> Result<(), ErrorKind> {
        self.client.check_fence()?;
        self.file.commit_if_grown(&self.client).await
    }

    /// Makes a range read as zeros and frees its whole blocks. The size stays.
    ///
    /// # Errors
    /// As `write`.
    pub async fn discard(&self, range: Range<u64>) -> Result<(), ErrorKind> {
        let _shared = self.file.gate.read().await;
        loop {
            let life = self.file.life()?;
            match self.discard_once(range.clone(), life).await {
                Err(ErrorKind::Stale) => self.file.refresh_past(&self.client, life).await?,
                result => {
                    self.client.allocations.borrow_mut().changed(self.file.inode);
                    return result;
                }
            }
        }
    }

    async fn discard_once(&self, range: Range<u64>, life: Life) -> Result<(), ErrorKind> {
        self.client.check_fence()?;
        if range.end > self.file.size_bytes() {
            // Somebody else may have made it longer.
            self.file.refresh(&self.client).await?;
        }
        let end = range.end.min(self.round_up_to_chunk(self.file.size_bytes()));
        let parts = self.parts(range.start.min(end)..end)?;
        for batch in parts.chunks(PARTS_AT_A_TIME) {
            let answers: Vec<_> = batch
                .iter()
                .map(|part| {
                    let operation = Operation::Discard {
                        chunk: part.chunk,
                        offset_bytes: part.bytes.start,
                        length_bytes: part.bytes.end - part.bytes.start,
                        generation: life.generation,
                        ack: self.ack(Durability::Volume),
                    };
                    self.client.engine.submit(Some(self.file.inode), operation)
                })
                .collect();
            for answer in answers {
                received(answer.await)?;
            }
        }
        // The time of the change; the size is covered already.
        self.file.wrote(&self.client, life, 0).await
    }

    /// FALLOC_FL_ZERO_RANGE: the range reads as zeros, and later writes into it find room. When there is not enough, what was
    /// zeroed and reserved by then stays so, as on ext4.
    ///
    /// # Errors
    /// As `write`.
    pub async fn zero(&self, range: Range<u64>, size: SizeEffect) -> Result<(), ErrorKind> {
        self.fill(range, size, PresentBlocks::Zero).await
    }

    /// fallocate(2) without a flag that says otherwise: absent blocks of the range become zeros that are there, so that later
    /// writes into it find room. When there is not enough, what was reserved by then stays so, as on ext4.
    ///
    /// # Errors
    /// As `write`.
    pub async fn reserve(&self, range: Range<u64>, size: SizeEffect) -> Result<(), ErrorKind> {
        self.fill(range, size, PresentBlocks::Keep).await
    }

    async fn fill(&self, range: Range<u64>, size: SizeEffect, present: PresentBlocks) -> Result<(), ErrorKind> {
        end_of(range.end, 0)?;
        let _shared = self.file.gate.read().await;
        loop {
            let life = self.file.life()?;
            let filled = self.fill_and_extend(range.clone(), size, present, life).await;
            self.client.allocations.borrow_mut().changed(self.file.inode);
            match filled {
                // Another host has truncated it meanwhile, and cut off some of what was reserved.
                Err(ErrorKind::Stale) => self.file.refresh_past(&self.client, life).await?,
                result => return result,
            }
        }
    }

    async fn fill_and_extend(
        &self,
        range: Range<u64>,
        size: SizeEffect,
        present: PresentBlocks,
        life: Life,
    ) -> Result<(), ErrorKind> {
        match present {
            PresentBlocks::Keep => self.fill_once(range.clone(), life).await?,
            PresentBlocks::Zero => self.zero_once(range.clone(), life).await?,
        }
        if self.file.life()? != life {
            return Err(ErrorKind::Stale);
        }
        // The time of the change; it claims no size.
        self.file.wrote(&self.client, life, 0).await?;
        match size {
            SizeEffect::Keep => Ok(()),
            SizeEffect::Extend => self.extend_in_gate(range.end).await,
        }
    }

    async fn fill_once(&self, range: Range<u64>, life: Life) -> Result<(), ErrorKind> {
        self.submit_fills(self.fills(range, PresentBlocks::Keep, life)).await
    }

    /// Whole blocks become zeros at once. Of a block at either end only a part may: it is zeroed as a discard does that, for a
    /// write would claim that the file reaches there (decision 0020), and reserved. Which of the two comes first makes no
    /// difference.
    async fn zero_once(&self, range: Range<u64>, life: Life) -> Result<(), ErrorKind> {
        let (generation, ack) = (life.generation, self.ack(Durability::Volume));
        let (whole, ragged) = whole_and_ragged(&range);
        let parts = ragged.into_iter().flat_map(|part| {
            let zeroed = self.client.record.chunk_size.split(life.object, part.clone()).map(move |part| {
                let (offset_bytes, length_bytes) = (part.bytes.start, part.bytes.end - part.bytes.start);
                Operation::Discard { chunk: part.chunk, offset_bytes, length_bytes, generation, ack }
            });
            zeroed.chain(self.fills(part, PresentBlocks::Keep, life))
        });
        self.submit_fills(parts.chain(self.fills(whole, PresentBlocks::Zero, life))).await
    }

    fn fills(&self, range: Range<u64>, present: PresentBlocks, life: Life) -> impl Iterator<Item = Operation> + use<> {
        let (generation, ack) = (life.generation, self.ack(Durability::Volume));
        let parts = self.client.record.chunk_size.split(life.object, range);
        parts.flat_map(|part| fill_pieces(&part)).map(move |(chunk, bytes)| {
            let (offset_bytes, length_bytes) = (bytes.start, bytes.end - bytes.start);
            Operation::Fill { chunk, offset_bytes, length_bytes, generation, ack, present }
        })
    }

    /// A bounded number at a time: the kernel holds the inode meanwhile, so none waits for another.
    async fn submit_fills(&self, mut operations: impl Iterator<Item = Operation>) -> Result<(), ErrorKind> {
        self.client.check_fence()?;
        let mut under_way = VecDeque::new();
        let mut failed = None;
        loop {
            while under_way.len() < FILLS_AT_A_TIME && failed.is_none() {
                let Some(operation) = operations.next() else { break };
                under_way.push_back(self.client.engine.submit(Some(self.file.inode), operation));
            }
            // All of them are waited for: one that is under way may not land after an error was reported.
            let Some(answer) = under_way.pop_front() else { return failed.map_or(Ok(()), Err) };
            if let Err(error) = received(answer.await) {
                failed.get_or_insert(error);
            }
        }
    }

    /// Bytes that the file takes on one copy, as of now.
    ///
    /// # Errors
    /// What the metadata group refuses.
    pub async fn allocated_bytes(&self) -> Result<u64, ErrorKind> {
        let record = self.client.record_of(Query::Attributes { inode: self.file.inode }).await?;
        self.client.allocations.borrow_mut().changed(self.file.inode);
        Ok(self.client.with_own_knowledge(record).await?.attributes.allocated_bytes)
    }

    /// The file reaches to `end`, without more room than it has.
    ///
    /// # Errors
    /// As `write`.
    pub async fn extend_to(&self, end: u64) -> Result<(), ErrorKind> {
        end_of(end, 0)?;
        let _shared = self.file.gate.read().await;
        self.extend_in_gate(end).await
    }

    async fn extend_in_gate(&self, end: u64) -> Result<(), ErrorKind> {
        self.client.check_fence()?;
        let Some(_extending) = self.permission_to_reach(end).await? else { return Ok(()) };
        let life = self.file.life()?;
        self.file.wrote(&self.client, life, end).await?;
        // No placement group knows of an end without data: only the metadata group can keep it.
        self.file.commit_if_grown(&self.client).await
    }

    /// # Errors
    /// What the metadata group refuses, and as `write`.
    pub async fn truncate(&self, size_bytes: u64) -> Result<(), ErrorKind> {
        end_of(size_bytes, 0)?;
        let change = AttributeChange { size_bytes: Some(size_bytes), ..AttributeChange::default() };
        self.client.change_attributes(self.file.inode, change).await.map(drop)
    }

    pub(crate) fn ack(&self, durability: Durability) -> AckMode {
        match durability {
            Durability::Volume => self.client.record.ack,
            Durability::Disk => AckMode::Disk,
        }
    }

    pub(crate) fn parts(&self, bytes: Range<u64>) -> Result<Vec<ChunkPart>, ErrorKind> {
        let object = self.file.life()?.object;
        Ok(self.client.record.chunk_size.split(object, bytes).collect())
    }

    pub(crate) fn round_up_to_chunk(&self, bytes: u64) -> u64 {
        bytes.next_multiple_of(u64::from(self.client.record.chunk_size.bytes()))
    }
}

/// The set-group-id bit of a file that its group may not execute means something else, and stays.
fn without_set_id(mode: u16) -> u16 {
    let set_gid = if mode & 0o010 != 0 { 0o2000 } else { 0 };
    mode & !(0o4000 | set_gid)
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if self.closed.get() || !self.client.is_open() {
            return;
        }
        let (file, client, description) = (Rc::clone(&self.file), Rc::clone(&self.client), self.description);
        tokio::task::spawn_local(async move {
            if let Err(error) = file.close(&client, description).await {
                tracing::warn!(inode = %file.inode, %error, "a file was not closed");
            }
        });
    }
}

pub(crate) fn end_of(offset: u64, length: u64) -> Result<u64, ErrorKind> {
    offset.checked_add(length).filter(|end| *end <= MAX_FILE_BYTES).ok_or(ErrorKind::FileTooLarge)
}

fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.pop().unwrap_or_default();
    }
    let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in pieces {
        whole.extend_from_slice(&piece);
    }
    whole.freeze()
}

/// The blocks that a range covers whole, and its bytes before and behind them; either may be empty.
fn whole_and_ragged(range: &Range<u64>) -> (Range<u64>, [Range<u64>; 2]) {
    let block = BLOCK_SIZE as u64;
    let first = range.start.next_multiple_of(block).min(range.end);
    let last = (range.end / block * block).max(first);
    (first..last, [range.start..first, last..range.end])
}

/// A part of a chunk in pieces that one fill may have, each to the end of a block.
fn fill_pieces(part: &ChunkPart) -> impl Iterator<Item = (ChunkId, Range<u32>)> + use<> {
    let (chunk, bytes) = (part.chunk, part.bytes.clone());
    let first = bytes.start / MAX_FILL_BYTES;
    let last = (bytes.end - 1) / MAX_FILL_BYTES;
    (first..=last).map(move |piece| {
        let from = bytes.start.max(piece * MAX_FILL_BYTES);
        (chunk, from..bytes.end.min((piece + 1) * MAX_FILL_BYTES))
    })
}

/// Hashes of the blocks that a part covers whole, in order.
fn whole_block_hashes(volume: VolumeId, part: &ChunkPart, data: &Bytes) -> Vec<BlockHash> {
    let block = BLOCK_SIZE as u32;
    let first = part.bytes.start.div_ceil(block);
    let end = part.bytes.end / block;
    if first >= end {
        return Vec::new();
    }
    // A chunk has at most 2^15 blocks.
    let range = BlockRange::new(BlockIndex(first as u16), (end - first) as u16);
    let skipped = (first * block - part.bytes.start) as usize;
    block_hashes(volume, part.chunk, range, &data[skipped..skipped + range.byte_len()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::{ObjectId, block_hash};

    #[test]
    fn a_large_chunk_is_filled_in_pieces() {
        let chunk = ChunkId { object: ObjectId(3), index: weft_types::ChunkIndex(0) };
        let most = MAX_FILL_BYTES;
        let pieces = |bytes: Range<u32>| {
            let part = ChunkPart { chunk, bytes, file_offset: 0 };
            fill_pieces(&part).map(|(_, piece)| (piece.start, piece.end)).collect::<Vec<_>>()
        };
        assert_eq!(pieces(5..6), [(5, 6)]);
        assert_eq!(pieces(0..most), [(0, most)]);
        assert_eq!(pieces(7..2 * most + 1), [(7, most), (most, 2 * most), (2 * most, 2 * most + 1)]);
    }

    #[test]
    fn zeros_are_made_of_whole_blocks_and_of_the_ragged_ends_that_there_are() {
        let cut = |range: Range<u64>| {
            let (whole, [head, tail]) = whole_and_ragged(&range);
            assert_eq!((head.start, head.end, whole.end, tail.end), (range.start, whole.start, tail.start, range.end));
            (head.end - head.start, whole.end - whole.start, tail.end - tail.start)
        };
        assert_eq!(cut(0..8192), (0, 8192, 0));
        assert_eq!(cut(1..8191), (4095, 0, 4095));
        assert_eq!(cut(4095..8193), (1, 4096, 1));
        assert_eq!(cut(10..20), (10, 0, 0));
        assert_eq!(cut(4096..4100), (0, 0, 4));
        assert_eq!(cut(4000..8192), (96, 4096, 0));
        assert_eq!(cut(7..7), (0, 0, 0));
    }

    #[test]
    fn only_blocks_that_a_part_covers_whole_are_hashed() {
        let chunk = ChunkId { object: ObjectId(3), index: weft_types::ChunkIndex(0) };
        let data = Bytes::from((0..10_000u32).map(|n| n as u8).collect::<Vec<_>>());
        let part = ChunkPart { chunk, bytes: 4_000..14_000, file_offset: 4_000 };
        let hashes = whole_block_hashes(VolumeId(1), &part, &data);
        // Bytes 4,000 to 14,000 cover blocks 1 and 2 whole.
        let expected: Vec<_> = [(1u16, 96usize), (2, 4_192)]
            .map(|(block, at)| block_hash(VolumeId(1), chunk, BlockIndex(block), &data[at..at + BLOCK_SIZE]))
            .to_vec();
        assert_eq!(hashes, expected);
        let inside = ChunkPart { chunk, bytes: 10..4_000, file_offset: 10 };
        assert!(whole_block_hashes(VolumeId(1), &inside, &data.slice(0..3_990)).is_empty());
    }
}
