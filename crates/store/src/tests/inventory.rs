//! The newest trailer of a chunk is lost, by a disk that said it wrote it or by rot, and an older one is there (decision 0025).

use super::model::{block_bytes, chunk, entry, expected, fresh, pg, write};
use crate::chunk_file::{Trailer, chunk_path};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::fault::{PowerLoss, SimDisk};
use crate::inventory::{Change, INVENTORY_FILE, Inventory, TrailerMark};
use crate::{Mutant, RecoveryReport, Store, StoreConfig};
use weft_types::{BlockIndex, BlockRange, ChunkId, Effect, LogPosition};

const FIRST: ChunkId = chunk(1, 0);
const OTHER: ChunkId = chunk(2, 0);

/// What a read of a block gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    Tag(u64),
    Zeros,
    /// It is reported as bad.
    Bad,
}

struct Rig {
    disk: SimDisk,
    store: Store<SimDisk>,
    config: StoreConfig,
    end: LogPosition,
}

impl Rig {
    fn new(mutant: Option<Mutant>) -> Self {
        // One open chunk: whoever looks at another one opens the first anew.
        let config = StoreConfig { mutant, open_chunks: 1, retained_segments: 0, ..StoreConfig::small() };
        let disk = SimDisk::new(64 << 20);
        let store = fresh(&disk, &config);
        Self { disk, store, config, end: LogPosition::ZERO }
    }

    fn take(&mut self, entry: weft_types::Entry) {
        self.end = entry.header.position;
        self.store.append(pg(0), &[entry]).unwrap();
        self.store.set_committed(pg(0), self.end).unwrap();
        self.store.checkpoint_now().unwrap();
    }

    /// A block, in a checkpoint of its own.
    fn write(&mut self, chunk: ChunkId, block: u16, tag: u64) {
        self.take(write(self.end, 1, chunk, block, 1, tag - u64::from(block)));
    }

    /// As `write`, but the trailer is lost: the block is written first, and then it.
    fn write_and_lose_trailer(&mut self, chunk: ChunkId, block: u16, tag: u64) {
        assert!(self.disk.lose_write(&chunk_path(pg(0), chunk), u64::MAX, 1));
        self.write(chunk, block, tag);
    }

    fn reopen(mut self) -> (Self, RecoveryReport) {
        drop(self.store);
        self.disk.power_cycle(PowerLoss::LoseAll);
        let (store, report) = Store::open(self.disk.clone(), expected(), self.config.clone()).unwrap();
        self.store = store;
        (self, report)
    }

    fn read(&self, chunk: ChunkId, block: u16) -> Found {
        let (bytes, bad) = self.store.read_now(pg(0), chunk, BlockRange::new(BlockIndex(block), 1)).unwrap();
        match () {
            () if !bad.is_empty() => Found::Bad,
            () if bytes.iter().all(|byte| *byte == 0) => Found::Zeros,
            () => Found::Tag((0..1000).find(|tag| bytes == block_bytes(*tag)).expect("a block that was written")),
        }
    }

    fn is_damaged(&self) -> bool {
        self.store.is_damaged(pg(0)).unwrap()
    }

    fn trailer(&self, chunk: ChunkId) -> TrailerMark {
        let size = super::model::small_chunks();
        let file = self.disk.open(&chunk_path(pg(0), chunk), OpenMode::ReadOnly).unwrap();
        Trailer::read(&file, pg(0), chunk, size).unwrap().unwrap().mark
    }
}

#[test]
fn an_opening_notices_that_the_newest_trailer_was_lost() {
    let opened = |mutant| {
        let mut rig = Rig::new(mutant);
        rig.write(FIRST, 0, 10);
        rig.write(OTHER, 0, 20);
        rig.write_and_lose_trailer(FIRST, 1, 11);
        rig.reopen()
    };
    let (rig, report) = opened(None);
    assert_eq!(report.damaged_chunks, vec![(pg(0), FIRST)]);
    assert!(rig.is_damaged());
    assert_eq!(rig.read(FIRST, 1), Found::Bad, "nobody knows what is in it");
    assert_eq!(rig.read(OTHER, 0), Found::Tag(20));
    let described = crate::inspect::ChunkFiles::of(&rig.disk).unwrap();
    assert!(described.describe(pg(0), FIRST).unwrap().unwrap().newest_is_lost);
    assert!(!described.describe(pg(0), OTHER).unwrap().unwrap().newest_is_lost);
    let (rig, _) = opened(Some(Mutant::IgnoreInventory));
    assert_eq!(rig.read(FIRST, 1), Found::Zeros, "what was written reads as zeros");
}

/// A disk lies, or rots: the slot that is read is the older one either way.
#[test]
fn an_opening_notices_that_the_newest_trailer_is_rotten() {
    let mut rig = Rig::new(None);
    rig.write(FIRST, 0, 10);
    rig.write(FIRST, 1, 11);
    let at = Trailer::slot_offset(super::model::small_chunks(), rig.trailer(FIRST).serial);
    assert!(rig.disk.flip(&chunk_path(pg(0), FIRST), at + 100, 1));
    let (rig, report) = rig.reopen();
    assert_eq!(report.damaged_chunks, vec![(pg(0), FIRST)]);
    assert_eq!(rig.read(FIRST, 1), Found::Bad);
}

#[test]
fn a_process_that_opens_the_file_again_notices_it_too() {
    let again = |mutant| {
        let mut rig = Rig::new(mutant);
        rig.write(FIRST, 0, 10);
        rig.write(OTHER, 0, 20);
        rig.write_and_lose_trailer(FIRST, 1, 11);
        rig.read(OTHER, 0);
        rig
    };
    let rig = again(None);
    assert_eq!(rig.read(FIRST, 1), Found::Bad, "nobody knows what is in it");
    assert!(rig.is_damaged());
    let rig = again(Some(Mutant::TrustReopened));
    assert_eq!(rig.read(FIRST, 1), Found::Zeros, "what was written reads as zeros");
}

/// What is written to such a chunk is known afterwards, and nothing else; an old trailer that is still there is passed over.
#[test]
fn a_checkpoint_does_not_build_on_a_trailer_that_is_too_old() {
    let mut rig = Rig::new(None);
    rig.write(FIRST, 0, 10);
    rig.write(OTHER, 0, 20);
    rig.write_and_lose_trailer(FIRST, 1, 11);
    rig.read(OTHER, 0);
    rig.write(FIRST, 2, 12);
    for reopened in [false, true] {
        if reopened {
            rig = rig.reopen().0;
        }
        assert_eq!(rig.read(FIRST, 2), Found::Tag(12));
        assert_eq!((rig.read(FIRST, 1), rig.read(FIRST, 0)), (Found::Bad, Found::Bad));
        assert!(rig.is_damaged());
    }
}

/// The newest trailer was lost, and the next one not: nothing is missing, as the process had all of it in memory.
#[test]
fn the_trailer_after_a_lost_one_makes_good_for_it() {
    let mut rig = Rig::new(None);
    rig.write(FIRST, 0, 10);
    rig.write_and_lose_trailer(FIRST, 1, 11);
    rig.read(FIRST, 0);
    rig.write(FIRST, 2, 12);
    // It was in the cache, or it was not and the chunk is damaged. What it is not is wrong.
    let (rig, _) = rig.reopen();
    assert!(matches!(rig.read(FIRST, 1), Found::Bad | Found::Tag(11)));
}

/// A chunk is removed and written again, and the inventory missed both.
fn made_anew(mutant: Option<Mutant>) -> Vec<(weft_types::PgId, ChunkId)> {
    let mut rig = Rig::new(mutant);
    for tag in 0..5 {
        rig.write(FIRST, 0, tag);
    }
    let before = rig.trailer(FIRST);
    assert!(rig.disk.lose_write(INVENTORY_FILE, u64::MAX, 0));
    rig.take(entry(rig.end, 1, Effect::DeleteChunk { chunk: FIRST }, vec![]));
    assert!(rig.disk.lose_write(INVENTORY_FILE, u64::MAX, 0));
    rig.write(FIRST, 0, 30);
    let after = rig.trailer(FIRST);
    assert!(after.birth > before.birth && after.serial < before.serial);
    let (rig, report) = rig.reopen();
    assert_eq!(rig.read(FIRST, 0), Found::Tag(30));
    report.damaged_chunks
}

#[test]
fn a_file_is_not_measured_by_the_one_that_had_its_name_before() {
    assert_eq!(made_anew(None), vec![]);
    assert_eq!(made_anew(Some(Mutant::IgnoreBirth)), vec![(pg(0), FIRST)]);
}

/// Records that are damaged, or a file that is, make nobody take a good trailer for a lost one.
#[test]
fn a_damaged_inventory_is_written_anew_and_accuses_nobody() {
    let mut rig = Rig::new(None);
    for index in 0..20 {
        rig.write(chunk(1, index), 0, u64::from(index));
    }
    let length = rig.disk.open(INVENTORY_FILE, OpenMode::ReadOnly).unwrap().len().unwrap();
    for offset in (0..length).rev().step_by(7) {
        assert!(rig.disk.flip(INVENTORY_FILE, offset, 1));
        let (opened, report) = rig.reopen();
        rig = opened;
        assert_eq!(report.damaged_chunks, vec![], "byte {offset}");
    }
    assert!(rig.disk.make_unreadable(INVENTORY_FILE, 0));
    let (mut rig, report) = rig.reopen();
    assert_eq!(report.damaged_chunks, vec![]);
    // A process that cannot read it when it is to be written anew goes on.
    assert!(rig.disk.make_unreadable(INVENTORY_FILE, 0));
    for tag in 0..200 {
        rig.write(chunk(1, 7), 0, tag);
    }
    let (mut rig, report) = rig.reopen();
    assert_eq!(report.damaged_chunks, vec![]);
    // And it serves again.
    rig.write_and_lose_trailer(chunk(1, 7), 1, 99);
    assert_eq!(rig.reopen().1.damaged_chunks, vec![(pg(0), chunk(1, 7))]);
}

#[test]
fn a_disk_that_has_no_inventory_yet_gets_one() {
    let mut rig = Rig::new(None);
    rig.write(FIRST, 0, 10);
    rig.disk.remove(INVENTORY_FILE).unwrap();
    rig.disk.sync_dir("").unwrap();
    let (mut rig, report) = rig.reopen();
    assert_eq!(report.damaged_chunks, vec![]);
    rig.write_and_lose_trailer(FIRST, 1, 11);
    assert_eq!(rig.reopen().1.damaged_chunks, vec![(pg(0), FIRST)]);
}

#[test]
fn the_inventory_does_not_grow_without_bound_and_forgets_nothing_that_is_there() {
    let mut rig = Rig::new(None);
    let mut longest = 0;
    for round in 0..400u32 {
        rig.write(chunk(1, round % 5), (round % 16) as u16, u64::from(round));
        if round % 9 == 0 {
            rig.write(chunk(2, 0), 0, 1);
            rig.take(entry(rig.end, 1, Effect::DeleteChunk { chunk: chunk(2, 0) }, vec![]));
        }
        longest = longest.max(rig.disk.open(INVENTORY_FILE, OpenMode::ReadOnly).unwrap().len().unwrap());
    }
    // One batch more than what makes it be written anew, or less.
    assert!((2048 - 100..2048 + 100).contains(&longest), "{longest} bytes");
    for index in 0..5 {
        rig.write_and_lose_trailer(chunk(1, index), 0, 7);
    }
    let lost: Vec<_> = (0..5).map(|index| (pg(0), chunk(1, index))).collect();
    let (rig, report) = rig.reopen();
    assert_eq!(report.damaged_chunks, lost);
    let marks = crate::inventory::Contents::read(&rig.disk, salt(&rig.disk)).unwrap().marks;
    assert_eq!(marks.into_keys().collect::<Vec<_>>(), lost, "what was removed is not in it");
}

fn salt(disk: &SimDisk) -> u64 {
    crate::superblock::read_superblock(disk).unwrap().salt()
}

#[test]
fn a_full_disk_gets_no_inventory_and_loses_nothing_else() {
    let disk = SimDisk::new(8 << 10);
    let config = StoreConfig { inventory_bytes: 1 << 20, ..StoreConfig::small() };
    let load = || Inventory::load(disk.clone(), 5, &config);
    let (inventory, loaded) = load();
    inventory.begin(&loaded, std::iter::empty()).unwrap();
    let note = |inventory: &Inventory<SimDisk>, indices: std::ops::Range<u32>, serial| {
        let mark = TrailerMark { birth: 1, serial };
        let changes: Vec<_> =
            indices.map(|index| Change::Written { pg: pg(0), chunk: chunk(1, index), mark }).collect();
        inventory.append(&changes)
    };
    note(&inventory, 0..10, 1).unwrap();
    // Two pages are all there is.
    note(&inventory, 0..1000, 2).unwrap();
    note(&inventory, 10..20, 1).unwrap();
    let (_, loaded) = load();
    let marks: Vec<_> = (0..20).map(|index| ((pg(0), chunk(1, index)), TrailerMark { birth: 1, serial: 1 })).collect();
    assert_eq!(loaded.marks.into_iter().collect::<Vec<_>>(), marks);
    // A disk on which nothing at all is left goes on without one, and gets one when there is room.
    let full = SimDisk::new(0);
    let (inventory, loaded) = Inventory::load(full.clone(), 5, &config);
    inventory.begin(&loaded, std::iter::empty()).unwrap();
    note(&inventory, 0..3, 1).unwrap();
    full.set_capacity(1 << 20);
    note(&inventory, 3..5, 1).unwrap();
    note(&inventory, 5..7, 1).unwrap();
    let marks = Inventory::load(full, 5, &config).1.marks;
    assert!(marks.contains_key(&(pg(0), chunk(1, 6))));
}
