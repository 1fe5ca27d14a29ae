//! Everything that is read from a disk, with wrong bytes under right checksums. Whatever they are, opening the disk gives
//! an answer: no panic, no overflow, no memory beyond what the file's length allows.

use super::model::{VOLUME, chunk, expected, identity, pg, small_chunks, write};
use crate::chunk_file::{Trailer, chunk_dir, chunk_path};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::fault::SimDisk;
use crate::inventory::{self, Change, Contents, TrailerMark};
use crate::raw_log::RawLog;
use crate::record::{self, Frame, HEADER_BYTES, Header, Kind, Place};
use crate::sealed::Seal;
use crate::state::{DedupeTable, DiskState, ReplicaState};
use crate::superblock::{STATE, SUPERBLOCK, Superblock, segment_path};
use crate::{Store, StoreConfig};
use weft_types::codec::encode;
use weft_types::fuzz::{Counting, Decoder, Outcome, examples, message_limit_bytes, run};
use weft_types::{BlockIndex, BlockRange, EntryHeader, LogPosition};

#[global_allocator]
static COUNTING: Counting = Counting;

/// An opened disk of this size takes a few times its journal.
const OPEN_LIMIT_BYTES: usize = 16 << 20;

fn small() -> StoreConfig {
    StoreConfig { segment_bytes: 16 << 10, segments: 4, ballast_bytes: 4096, ..StoreConfig::small() }
}

/// Something that needs a whole disk to be read.
fn disk_reader(name: &'static str, read: fn(&[u8]) -> Outcome, examples: fn() -> Vec<Vec<u8>>) -> Decoder {
    Decoder { name, run: read, examples, limit_bytes: |input| OPEN_LIMIT_BYTES + message_limit_bytes(input), cost: 12 }
}

fn formatted() -> SimDisk {
    let disk = SimDisk::new(64 << 20);
    Store::format(&disk, identity(), &small()).unwrap();
    disk
}

/// Opens, and does a little of everything: what was believed may break only later.
fn use_store(disk: SimDisk) -> Outcome {
    let Ok((mut store, _)) = Store::open(disk, expected(), small()) else { return Outcome::Refused };
    let volume = store.register_volume(VOLUME, small_chunks());
    let groups: Vec<_> = store.pgs().collect();
    for group in groups {
        let Ok(end) = store.log_end(group) else { continue };
        let _ = store.entries_after(group, LogPosition::ZERO, 100, 1 << 20);
        let _ = store.append(group, &[write(end, end.epoch.0 + 1, chunk(1, 0), 0, 1, 1)]);
        let _ = store.read_now(group, chunk(1, 0), BlockRange::new(BlockIndex(0), 4));
        let _ = store.chunks_changed_since(group, LogPosition::ZERO);
        let end = store.log_end(group).unwrap();
        let _ = store.set_committed(group, end);
    }
    let _ = store.sync_now();
    let _ = store.checkpoint_now();
    if volume.is_ok() && store.failure().is_none() { Outcome::Accepted } else { Outcome::Refused }
}

fn put_file(disk: &SimDisk, path: &str, bytes: &[u8]) {
    disk.make_dirs(crate::disk::parent(path)).unwrap();
    disk.open(path, OpenMode::Truncate).unwrap().write_at(bytes, 0).unwrap();
}

fn sealed(seal: Seal, body: &[u8]) -> Vec<u8> {
    let mut bytes = seal.magic.to_vec();
    bytes.extend_from_slice(&seal.version.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), body);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(body);
    bytes
}

fn state_file(body: &[u8]) -> Outcome {
    let disk = formatted();
    put_file(&disk, STATE.path, &sealed(STATE, body));
    use_store(disk)
}

fn superblock_file(body: &[u8]) -> Outcome {
    let disk = formatted();
    put_file(&disk, SUPERBLOCK.path, &sealed(SUPERBLOCK, body));
    use_store(disk)
}

/// State files of disks that were used, and what the type allows.
fn states() -> Vec<Vec<u8>> {
    let mut out = vec![encode(&DiskState { first_live: 1, ..DiskState::default() }).unwrap()];
    for count in 1..4 {
        let disk = formatted();
        let (mut store, _) = Store::open(disk.clone(), expected(), small()).unwrap();
        store.register_volume(VOLUME, small_chunks()).unwrap();
        for group in 0..count {
            store.create_pg(pg(group)).unwrap();
            store.append(pg(group), &[write(LogPosition::ZERO, 1, chunk(1, 0), 0, 1, 1)]).unwrap();
            store.set_committed(pg(group), store.log_end(pg(group)).unwrap()).unwrap();
        }
        store.sync_now().unwrap();
        store.checkpoint_now().unwrap();
        let file = crate::disk::read_file(&disk, STATE.path).unwrap().unwrap();
        out.push(file[24..].to_vec());
    }
    out
}

fn superblocks() -> Vec<Vec<u8>> {
    let config = small();
    let right = Superblock { identity: identity(), segment_bytes: config.segment_bytes, segments: config.segments };
    vec![encode(&right).unwrap()]
}

const KINDS: [Kind; 11] = [
    Kind::Entry,
    Kind::SyncMark,
    Kind::CutTail,
    Kind::ResetLog,
    Kind::ReplicaState,
    Kind::Committed,
    Kind::Dedupe,
    Kind::CreateGroup,
    Kind::RemoveGroup,
    Kind::RegisterVolume,
    Kind::EntryAgain,
];
const RAW_KINDS: [Kind; 6] =
    [Kind::RawEntry, Kind::RawTruncate, Kind::RawPurge, Kind::RawMeta, Kind::RawDeleteMeta, Kind::SyncMark];

/// Input: one byte for the kind, one for the length, the body; again and again. Each becomes a record that verifies.
fn records(kinds: &[Kind], input: &[u8], start: usize, room: usize, place: impl Fn(u32) -> Place, out: &mut Vec<u8>) {
    let mut rest = input;
    while let [kind, length, following @ ..] = rest {
        let (body, after) = following.split_at(following.len().min(usize::from(*length)));
        rest = after;
        let offset = (start + out.len()) as u32;
        let kind = kinds[usize::from(*kind) % kinds.len()];
        let frame = Frame { kind, life: 1, volume: VOLUME.0, group: 0, place: place(offset) };
        if start + out.len() + HEADER_BYTES + body.len() + 64 > room {
            break;
        }
        record::encode(out, frame, |out| out.extend_from_slice(body), &[]);
    }
}

fn journal(input: &[u8]) -> Outcome {
    let disk = formatted();
    let superblock = crate::superblock::read_superblock(&disk).unwrap();
    let salt = superblock.salt();
    let mut segment = crate::journal::segment_header(salt, 1, 1, 0).to_vec();
    let mut body = Vec::new();
    records(&KINDS, input, 64, 16 << 10, |offset| Place { salt, lap: 1, offset }, &mut body);
    segment.extend_from_slice(&body);
    disk.open(&segment_path(1), OpenMode::Existing).unwrap().write_at(&segment, 0).unwrap();
    use_store(disk)
}

fn piece(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, body.len().min(255) as u8];
    out.extend_from_slice(&body[..body.len().min(255)]);
    out
}

/// A volume and a group, then records of every kind.
fn journals() -> Vec<Vec<u8>> {
    let mut begin = piece(9, &encode(&(VOLUME, small_chunks())).unwrap());
    begin.extend(piece(7, &[]));
    let mut out = vec![begin.clone()];
    let mut end = LogPosition::ZERO;
    let mut longer = begin.clone();
    for sequence in 1..8u64 {
        let effect = match sequence % 4 {
            0 => weft_types::Effect::DeleteObject { object: weft_types::ObjectId(1) },
            1 => weft_types::Effect::Nothing,
            2 => weft_types::Effect::DeleteChunk { chunk: chunk(1, 0) },
            _ => weft_types::Effect::Truncate {
                object: weft_types::ObjectId(1),
                keep_blocks: sequence,
                size_bytes: sequence * 4096,
                generation: weft_types::TruncateGeneration(1),
            },
        };
        let header = super::model::entry(end, 1, effect, Vec::new()).header;
        end = header.position;
        longer.extend(piece(0, &encode(&header).unwrap()));
        out.push(longer.clone());
    }
    let tails: Vec<(u8, Vec<Vec<u8>>)> = vec![
        (0, examples::<EntryHeader>()),
        (2, examples::<LogPosition>()),
        (3, examples::<(LogPosition, Vec<LogPosition>)>()),
        (4, examples::<ReplicaState>()),
        (5, examples::<LogPosition>()),
        (6, examples::<DedupeTable>()),
        (9, examples::<(weft_types::VolumeId, weft_types::ChunkSize)>()),
        (10, examples::<EntryHeader>()),
    ];
    for (kind, bodies) in tails {
        for body in bodies.iter().filter(|body| kind != 0 && kind != 10 && kind != 9 && body.len() < 250).take(3) {
            let mut whole = longer.clone();
            whole.extend(piece(kind, body));
            out.push(whole);
        }
        for body in bodies.iter().filter(|body| matches!(kind, 0 | 9 | 10) && body.len() < 250).take(1) {
            let mut whole = longer.clone();
            whole.extend(piece(kind, body));
            out.push(whole);
        }
    }
    out
}

fn raft_log(input: &[u8]) -> Outcome {
    let disk = SimDisk::new(64 << 20);
    let mut file = vec![0u8; 64];
    file[0..8].copy_from_slice(&0x0031_474f_4c57_4152u64.to_le_bytes());
    file[8..16].copy_from_slice(&1u64.to_le_bytes());
    let crc = crc32c::crc32c(&file[..24]);
    file[24..28].copy_from_slice(&crc.to_le_bytes());
    let mut body = Vec::new();
    records(&RAW_KINDS, input, 64, 64 << 10, |offset| Place { salt: 0x7261_6674, lap: 1, offset }, &mut body);
    file.extend_from_slice(&body);
    file.resize(64 << 10, 0);
    put_file(&disk, "raft/0000000000000001.log", &file);
    let Ok(mut log) = RawLog::open_with(disk, "raft", 64 << 10) else { return Outcome::Refused };
    let _ = log.read(0..u64::MAX);
    let next = log.last_index().or(log.purged_to()).map_or(1, |last| last + 1);
    let _ = log.append(&[(next, b"on")]);
    let _ = log.purge_to(next);
    let _ = log.put_meta("vote", b"1");
    let _ = log.sync();
    Outcome::Accepted
}

fn raft_logs() -> Vec<Vec<u8>> {
    let entry = |index: u64| {
        let mut body = index.to_le_bytes().to_vec();
        body.extend_from_slice(b"data");
        piece(0, &body)
    };
    let mut out = vec![Vec::new()];
    let mut log = Vec::new();
    for index in 1..6 {
        log.extend(entry(index));
        out.push(log.clone());
    }
    for (kind, body) in [
        (1, 4u64.to_le_bytes().to_vec()),
        (2, 3u64.to_le_bytes().to_vec()),
        (3, b"\x04\0\0\0vote77".to_vec()),
        (4, b"vote".to_vec()),
    ] {
        let mut whole = log.clone();
        whole.extend(piece(kind, &body));
        out.push(whole);
    }
    out
}

/// The fixed part of a record, with the right magic and checksum.
fn record_header(input: &[u8]) -> Outcome {
    let mut bytes = [0u8; HEADER_BYTES];
    let length = input.len().min(HEADER_BYTES);
    bytes[..length].copy_from_slice(&input[..length]);
    let place = Place { salt: 7, lap: 1, offset: 64 };
    record::seal_header(&mut bytes, place);
    let Some(header) = Header::decode(&bytes, place, false) else { return Outcome::Refused };
    let fits =
        header.record_bytes() >= u64::from(header.data_offset()) && header.data_offset() as usize >= HEADER_BYTES;
    if fits { Outcome::Accepted } else { Outcome::Broken("lengths do not add up".to_owned()) }
}

fn record_headers() -> Vec<Vec<u8>> {
    let place = Place { salt: 7, lap: 1, offset: 64 };
    let one = |kind| {
        let mut out = Vec::new();
        let frame = Frame { kind, life: 3, volume: 7, group: 1, place };
        record::encode(&mut out, frame, |out| out.extend_from_slice(b"body"), b"data");
        out[..HEADER_BYTES].to_vec()
    };
    KINDS.into_iter().chain(RAW_KINDS).map(one).collect()
}

/// A trailer under the right checksum, first alone, then as that of a chunk that is written to.
fn trailer(input: &[u8]) -> Outcome {
    let size = small_chunks();
    let mut bytes = input.to_vec();
    bytes.resize(Trailer::slot_bytes(size) as usize, 0);
    let crc = crc32c::crc32c(&bytes[12..]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    let Some(found) = Trailer::decode(&bytes) else { return Outcome::Refused };
    if found.blocks == size.blocks() && Trailer::decode(&found.encode(size)).as_ref() != Some(&found) {
        return Outcome::Broken(format!("{found:?} comes back as another"));
    }
    let disk = formatted();
    let (mut store, _) = Store::open(disk.clone(), expected(), small()).unwrap();
    store.register_volume(VOLUME, size).unwrap();
    store.create_pg(pg(0)).unwrap();
    store.sync_now().unwrap();
    drop(store);
    disk.make_dirs(&chunk_dir(pg(0), chunk(1, 0))).unwrap();
    let file = disk.open(&chunk_path(pg(0), chunk(1, 0)), OpenMode::Create).unwrap();
    file.write_at(&bytes, Trailer::slot_offset(size, found.mark.serial)).unwrap();
    drop(file);
    disk.power_cycle(crate::fault::PowerLoss::KeepAll);
    use_store(disk)
}

fn trailers() -> Vec<Vec<u8>> {
    let size = small_chunks();
    let mut trailer = Trailer::new(pg(0), chunk(1, 0), size);
    let mut out = Vec::new();
    for serial in 1..6u64 {
        trailer.mark.serial = serial;
        trailer.end_bytes = serial as u32 * 4096;
        trailer.version = super::model::at(1, serial);
        trailer.hashes[serial as usize] = Some(weft_types::BlockHash(serial));
        out.push(trailer.encode(size));
    }
    out
}

/// An inventory whose records have the right checksums, in pieces of any length, and then as that of a disk that is opened.
fn inventory(input: &[u8]) -> Outcome {
    let disk = formatted();
    let (mut store, _) = Store::open(disk.clone(), expected(), small()).unwrap();
    store.register_volume(VOLUME, small_chunks()).unwrap();
    store.create_pg(pg(0)).unwrap();
    store.append(pg(0), &[write(LogPosition::ZERO, 1, chunk(1, 0), 0, 1, 1)]).unwrap();
    let end = store.log_end(pg(0)).unwrap();
    store.set_committed(pg(0), end).unwrap();
    store.checkpoint_now().unwrap();
    drop(store);
    disk.power_cycle(crate::fault::PowerLoss::KeepAll);
    let salt = crate::superblock::read_superblock(&disk).unwrap().salt();
    let mut file = inventory::first_record(salt).to_vec();
    for piece in input.chunks(inventory::RECORD_BYTES) {
        let mut record = [0; inventory::RECORD_BYTES];
        record[..piece.len()].copy_from_slice(piece);
        inventory::seal(&mut record, salt, file.len() as u64);
        file.extend_from_slice(&record);
    }
    let (mut whole, mut pieces) = (Contents::default(), Contents::default());
    whole.take(&file, 0, salt);
    for (at, record) in file.chunks(inventory::RECORD_BYTES).enumerate() {
        pieces.take(record, (at * inventory::RECORD_BYTES) as u64, salt);
    }
    if whole != pieces || whole.end > file.len() as u64 {
        return Outcome::Broken(format!("{whole:?}, and in pieces {pieces:?}"));
    }
    put_file(&disk, inventory::INVENTORY_FILE, &file);
    let refused = whole.end == inventory::RECORD_BYTES as u64;
    let outcome = use_store(disk);
    if refused { Outcome::Refused } else { outcome }
}

fn inventories() -> Vec<Vec<u8>> {
    let mark = TrailerMark { birth: 4, serial: 2 };
    let changes = [
        Change::Written { pg: pg(0), chunk: chunk(1, 0), mark },
        Change::Removed { pg: pg(0), chunk: chunk(1, 0) },
        Change::Written { pg: pg(1), chunk: chunk(1, 1), mark },
        Change::GroupRemoved { pg: pg(1) },
    ];
    (1..=changes.len()).map(|count| changes[..count].iter().flat_map(|change| change.encode(0, 0)).collect()).collect()
}

#[test]
fn decoders_of_what_lies_on_a_disk_keep_their_rules_whatever_the_bytes_are() {
    let alone = |name, run, examples| Decoder { name, run, examples, limit_bytes: message_limit_bytes, cost: 1 };
    run(
        env!("CARGO_MANIFEST_DIR"),
        &[
            Decoder::of::<EntryHeader>("entry-header"),
            Decoder::of::<ReplicaState>("replica-state"),
            Decoder::of::<DedupeTable>("dedupe-table"),
            Decoder::of::<DiskState>("disk-state"),
            alone("record-header", record_header, record_headers),
            disk_reader("state-file", state_file, states),
            disk_reader("superblock-file", superblock_file, superblocks),
            disk_reader("journal", journal, journals),
            disk_reader("raft-log", raft_log, raft_logs),
            disk_reader("trailer", trailer, trailers),
            disk_reader("inventory", inventory, inventories),
        ],
    );
}
