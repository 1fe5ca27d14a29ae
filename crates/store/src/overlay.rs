//! What is journalled and not yet in chunk files, per chunk, newest first.
//!
//! Responsible for: answering where a block's newest content is. Guarantees: memory in proportion to the journal (about
//! 48 bytes a block); uncommitted entries are included. Must not know: files.

use std::collections::BTreeMap;
use weft_types::{BlockHash, BlockRange, LogPosition, PresentBlocks, TruncateGeneration};

/// Where a journalled block lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct JournalBlock {
    /// Of its entry. A log that was reset goes on at a later epoch and perhaps a smaller sequence number.
    pub position: LogPosition,
    pub hash: BlockHash,
    pub lap: u32,
    /// Of the block's bytes in the segment.
    pub offset: u32,
}

/// What became of blocks `from..to`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mark {
    position: LogPosition,
    from: u32,
    to: u32,
    made: Made,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Made {
    Absent,
    /// With zeros where they were absent; as they were where not.
    Present,
    /// Present with zeros, whatever they were.
    Zero,
}

impl Mark {
    const fn covers(&self, block: u32) -> bool {
        self.from <= block && block < self.to
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ChunkOverlay {
    blocks: BTreeMap<u16, JournalBlock>,
    /// In log order.
    marks: Vec<Mark>,
    pub summary: Summary,
}

/// A chunk's attributes with everything journalled taken into account.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    pub version: LogPosition,
    pub generation: TruncateGeneration,
    pub end_bytes: u32,
    pub exists: bool,
}

impl Summary {
    pub(crate) fn write(&mut self, version: LogPosition, generation: TruncateGeneration, end_bytes: u32) {
        self.version = version;
        self.exists = true;
        // A write of an older generation was overtaken by the truncation: it says nothing about the end.
        if generation >= self.generation {
            self.generation = generation;
            self.end_bytes = self.end_bytes.max(end_bytes);
        }
    }

    pub(crate) fn discard(&mut self, version: LogPosition, generation: TruncateGeneration) {
        self.version = version;
        self.generation = self.generation.max(generation);
    }

    pub(crate) fn truncate(&mut self, version: LogPosition, generation: TruncateGeneration, end_bytes: u32) {
        self.version = version;
        if generation >= self.generation {
            self.generation = generation;
            self.end_bytes = self.end_bytes.min(end_bytes);
        }
    }

    /// It claims no end: what it reserves may lie past the end of the file.
    pub(crate) fn fill(&mut self, version: LogPosition, generation: TruncateGeneration) {
        self.version = version;
        self.exists = true;
        self.generation = self.generation.max(generation);
    }

    pub(crate) fn delete(&mut self, version: LogPosition) {
        *self = Self { version, ..Self::default() };
    }
}

/// Where a block's newest content is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Whereabouts {
    Journal(JournalBlock),
    Absent,
    /// Present, all zeros, and nowhere yet.
    Zero,
    /// In the chunk's file; present with zeros where it is absent there.
    FileOrZero,
    /// In the chunk's file, or absent there.
    File,
}

impl ChunkOverlay {
    pub(crate) const fn new(summary: Summary) -> Self {
        Self { blocks: BTreeMap::new(), marks: Vec::new(), summary }
    }

    pub(crate) fn find(&self, block: u16) -> Whereabouts {
        if let Some(found) = self.blocks.get(&block) {
            return Whereabouts::Journal(*found);
        }
        let block = u32::from(block);
        let mut marks = self.marks.iter().filter(|mark| mark.covers(block));
        // What the file has does not count any more.
        let without_the_file = |mark: &Mark| mark.made != Made::Present;
        match marks.next_back().map(|newest| newest.made) {
            Some(Made::Absent) => Whereabouts::Absent,
            Some(Made::Zero) => Whereabouts::Zero,
            Some(Made::Present) if marks.any(without_the_file) => Whereabouts::Zero,
            Some(Made::Present) => Whereabouts::FileOrZero,
            None => Whereabouts::File,
        }
    }

    pub(crate) fn put(&mut self, block: u16, content: JournalBlock) {
        self.blocks.insert(block, content);
    }

    pub(crate) fn clear(&mut self, position: LogPosition, from: u32, to: u32) {
        self.make(position, from, to, Made::Absent);
    }

    /// What blocks become whatever they were.
    fn make(&mut self, position: LogPosition, from: u32, to: u32, made: Made) {
        if from >= to {
            return;
        }
        if let Ok(first) = u16::try_from(from) {
            let inside: Vec<u16> =
                self.blocks.range(first..).map(|(b, _)| *b).take_while(|b| u32::from(*b) < to).collect();
            for block in inside {
                self.blocks.remove(&block);
            }
        }
        // A newer one that covers an older mark replaces it: while the newer is unapplied, its blocks are what it says.
        self.marks.retain(|mark| !(from <= mark.from && mark.to <= to));
        self.marks.push(Mark { position, from, to, made });
    }

    pub(crate) fn fill(&mut self, position: LogPosition, from: u32, to: u32, present: PresentBlocks) {
        if present == PresentBlocks::Zero {
            return self.make(position, from, to, Made::Zero);
        }
        if from >= to {
            return;
        }
        // An older mark of another kind stays: it tells that there are zeros and not what the file has.
        self.marks.retain(|mark| !(mark.made == Made::Present && from <= mark.from && mark.to <= to));
        self.marks.push(Mark { position, from, to, made: Made::Present });
    }

    /// Forgets what a checkpoint has brought to the chunk's file.
    pub(crate) fn applied(&mut self, to: LogPosition) {
        self.blocks.retain(|_, b| b.position > to);
        self.marks.retain(|mark| mark.position > to);
    }

    /// Follows an entry that was copied forward in the journal.
    pub(crate) fn relocate(&mut self, position: LogPosition, range: BlockRange, lap: u32, data_offset: u32) {
        for (at, block) in range.blocks().enumerate() {
            if let Some(found) = self.blocks.get_mut(&block.0).filter(|f| f.position == position) {
                found.lap = lap;
                found.offset = data_offset + (at * weft_types::BLOCK_SIZE) as u32;
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.marks.is_empty()
    }
}
