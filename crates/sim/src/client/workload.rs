//! What clients do: writes, reads and flushes of registers, and changes of other objects.
//!
//! Responsible for: drawing the next operation of a thread, with what the oracles have to know of it before it begins.
//! Guarantees: every written value is unique. Must not know: how operations are sent, and what comes of them.

use super::*;
use weft_types::MapVersion;

const FIRST_CHURN_OBJECT: u64 = 100;
/// So many have numbers from there on; blocks that clients lock have the next ones, and more than that lie behind them.
const CHURN_OBJECTS_BEFORE_CELLS: u64 = locks::FIRST_CELL - FIRST_CHURN_OBJECT;
const FURTHER_CHURN_OBJECTS: u64 = 1000;

const fn churn_object(number: u64) -> u64 {
    if number < CHURN_OBJECTS_BEFORE_CELLS { FIRST_CHURN_OBJECT + number } else { FURTHER_CHURN_OBJECTS + number }
}

impl World {
    pub(super) fn choose(&mut self, id: SessionId, volume: VolumeId, index: usize, thread: usize) -> (Op, Operation) {
        let mut object = self.random.below(REGISTER_OBJECTS);
        let mut chunk = self.random.below(u64::from(CHUNKS)) as u32;
        let mut block = self.random.below(u64::from(BLOCKS)) as u16;
        if self.mix.hot_percent > 0 && self.random.chance(self.mix.hot_percent) {
            (object, chunk, block) = (0, 0, 0);
        }
        if thread < self.mix.readers || index < self.mix.reading_clients {
            return (Op::Read { object, chunk, block }, read(object, chunk, block));
        }
        if thread + self.mix.writers >= self.mix.threads {
            return self.choose_write(id, volume, object, chunk, block, 0..2);
        }
        let churns = self.mix.churn_percent > 0 && self.random.chance(self.mix.churn_percent);
        match if churns { 99 } else { self.random.below(100) } {
            0..40 => {
                let first = self.random.below(2) as u16;
                let halves = if self.random.chance(60) { 0..2 } else { first..first + 1 };
                self.choose_write(id, volume, object, chunk, block, halves)
            }
            40..80 => (Op::Read { object, chunk, block }, read(object, chunk, block)),
            80..90 => self.choose_flush(index),
            _ => {
                let operation = self.choose_churn(volume);
                let cut = match &operation {
                    Operation::Truncate { pg, object, generation, .. } => {
                        Some((object.0 - FIRST_OBJECT, *pg, generation.0))
                    }
                    _ => None,
                };
                let changes = match &operation {
                    Operation::Write { chunk, .. }
                    | Operation::Discard { chunk, .. }
                    | Operation::Fill { chunk, .. } => Some(chunk.object.0 - FIRST_OBJECT),
                    _ => None,
                };
                if let Some(object) = changes {
                    *self.changing.entry(object).or_default() += 1;
                }
                if let Some((object, ..)) = cut {
                    self.cutting.insert(object);
                }
                (Op::Churn { cut, changes, what: describe(&operation) }, operation)
            }
        }
    }

    fn choose_write(
        &mut self,
        id: SessionId,
        volume: VolumeId,
        object: u64,
        chunk: u32,
        block: u16,
        halves: std::ops::Range<u16>,
    ) -> (Op, Operation) {
        self.stats.count("writes");
        let value = self.stats.get("writes");
        let places: Vec<Place> = halves.clone().map(|half| (object, chunk, block, half)).collect();
        let write = Write { start: self.now(), end: oracle::End::Open, session: id.0 };
        for place in &places {
            self.registers.entry(*place).or_default().writes.insert(value, write);
        }
        let data = filled(value, halves.len() * HALF);
        let offset = u32::from(block) * BLOCK_SIZE as u32 + u32::from(halves.start) * HALF as u32;
        let at = chunk_id(object, chunk);
        let hashes =
            if halves.len() == 2 { vec![block_hash(volume, at, BlockIndex(block), &data)] } else { Vec::new() };
        let ack = if self.random.chance(12) { AckMode::Disk } else { AckMode::Memory };
        let operation = Operation::Write {
            chunk: at,
            offset_bytes: offset,
            generation: TruncateGeneration(0),
            ack,
            hashes,
            data: data.into(),
        };
        (Op::Write { value, places }, operation)
    }

    fn choose_flush(&mut self, index: usize) -> (Op, Operation) {
        let mut covers = Vec::new();
        for (place, register) in &self.registers {
            for (value, write) in &register.writes {
                if let oracle::End::Answered(end) = write.end {
                    covers.push((*place, *value, end));
                }
            }
        }
        // Only the newest of each place is worth remembering: older ones follow from it.
        let mut newest: BTreeMap<Place, (u64, u64, u64)> = BTreeMap::new();
        for (place, value, end) in covers {
            let start = self.registers[&place].writes[&value].start;
            let entry = newest.entry(place).or_insert((start, value, end));
            *entry = (*entry).max((start, value, end));
        }
        let covers = newest.into_iter().map(|(place, (_, value, end))| (place, value, end)).collect();
        let routes = self.clients.get(index).and_then(|c| c.session.as_ref()).map(|s| s.core.routes());
        let pgs: Vec<PgId> = routes.map(|routes| routes.pgs().collect()).unwrap_or_default();
        let acknowledged = self.acknowledged.clone();
        (Op::Flush { covers, acknowledged }, Operation::Flush { pgs })
    }

    fn choose_churn(&mut self, volume: VolumeId) -> Operation {
        let object = churn_object(self.random.below(self.mix.churn_objects));
        let chunk = chunk_id(object, self.random.below(2) as u32);
        let offset_bytes = self.random.below(40_000) as u32;
        let length_bytes = 1 + self.random.below(20_000) as u32;
        let routes = self.clients.iter().find_map(|c| c.session.as_ref()).map(|s| s.core.routes().pg_of(chunk));
        let pg = routes.unwrap_or(PgId { volume, index: 0 });
        let generation = TruncateGeneration(self.generations.get(&(object, pg)).copied().unwrap_or(0));
        let ack = AckMode::Memory;
        let cuts = self.mix.cut_percent > 0 && self.random.chance(self.mix.cut_percent);
        let kind = match if cuts { 9 } else { self.random.below(12) } {
            9 if self.mix.registers_only => 10,
            _ if self.cutting.contains(&object) => 10,
            _ if self.mix.short_changes => 6,
            9 if self.changing.get(&object).is_some_and(|open| *open > 0) => 10,
            kind => kind,
        };
        match kind {
            0..6 => {
                let data = Bytes::from(filled(self.random.next_u64(), (length_bytes as usize / 8 + 1) * 8));
                Operation::Write {
                    chunk,
                    offset_bytes,
                    generation,
                    ack,
                    hashes: whole(volume, chunk, offset_bytes, &data),
                    data,
                }
            }
            6..8 => Operation::Discard { chunk, offset_bytes, length_bytes, generation, ack },
            8 => {
                self.stats.count("fills");
                // Half of them over what is there too, and those of whole blocks.
                let block = BLOCK_SIZE as u32;
                let (offset_bytes, length_bytes, present) = if offset_bytes.is_multiple_of(2) {
                    (offset_bytes, length_bytes, PresentBlocks::Keep)
                } else {
                    (offset_bytes / block * block, length_bytes.next_multiple_of(block), PresentBlocks::Zero)
                };
                Operation::Fill { chunk, offset_bytes, length_bytes, generation, ack, present }
            }
            9 => {
                self.stats.count("truncations");
                // Drawn once and for all; other operations use it only after it was answered.
                self.next_generation += 1;
                let generation = TruncateGeneration(self.next_generation);
                let size_bytes = u64::from(chunk.index.0) * u64::from(CHUNK_BYTES) + u64::from(offset_bytes);
                Operation::Truncate { pg, object: chunk.object, size_bytes, generation }
            }
            10 => Operation::Presence { chunk },
            _ => Operation::ObjectExtent { pg, object: chunk.object },
        }
    }
}

impl World {
    /// Whoever heard of a cut from the metadata group may ask the placement group how long the object is before the cut has
    /// arrived there, or with it.
    pub(super) fn ask_for_ends(&mut self, index: usize, operation: &Operation) {
        let Operation::Truncate { pg, object, generation, .. } = *operation else { return };
        for _ in 0..self.mix.ends_asked {
            let map = Arc::clone(&self.metadata.map);
            let Some(node) = map.pgs.iter().find(|r| r.pg == pg).and_then(|r| r.primary_member()).map(|m| m.node)
            else {
                return;
            };
            let request = DataRequest::ObjectExtent { pg, map_version: MapVersion(0), object, generation };
            self.send(End::Client(index), End::Node(node), "asks for an end", move |world| {
                let Some(life) = world.life_of(node) else { return };
                world.data_request(node, life, request, Bytes::new(), Speaker::Node, Box::new(|_, _| {}));
            });
        }
    }
}

fn describe(operation: &Operation) -> String {
    match operation {
        Operation::Write { chunk, offset_bytes, generation, data, .. } => {
            format!("write of {} bytes at {offset_bytes} of {chunk}, {generation:?}", data.len())
        }
        other => format!("{other:?}"),
    }
}

pub(super) fn read(object: u64, chunk: u32, block: u16) -> Operation {
    let offset_bytes = u32::from(block) * BLOCK_SIZE as u32;
    let chunk = chunk_id(object, chunk);
    // Registers are never truncated.
    Operation::Read { chunk, offset_bytes, length_bytes: BLOCK_SIZE as u32, generation: TruncateGeneration(0) }
}

/// A whole block of one value, at the beginning of a chunk.
pub(super) fn write_of(volume: VolumeId, chunk: ChunkId, value: u64) -> Operation {
    let data = filled(value, BLOCK_SIZE);
    let hashes = vec![block_hash(volume, chunk, BlockIndex(0), &data)];
    let generation = TruncateGeneration(0);
    Operation::Write { chunk, offset_bytes: 0, generation, ack: AckMode::Memory, hashes, data: data.into() }
}

/// Hashes of the blocks that bytes at an offset cover whole.
fn whole(volume: VolumeId, chunk: ChunkId, offset: u32, bytes: &[u8]) -> Vec<weft_types::BlockHash> {
    let end = offset + bytes.len() as u32;
    let blocks = offset.div_ceil(BLOCK_SIZE as u32)..end / BLOCK_SIZE as u32;
    blocks
        .map(|block| {
            let from = (block * BLOCK_SIZE as u32 - offset) as usize;
            block_hash(volume, chunk, BlockIndex(block as u16), &bytes[from..from + BLOCK_SIZE])
        })
        .collect()
}

/// Every eight bytes of a half block hold its value.
pub(super) fn filled(value: u64, bytes: usize) -> Vec<u8> {
    value.to_le_bytes().repeat(bytes / 8)
}
