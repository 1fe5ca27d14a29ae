//! What an append costs, apart from hashing, in time and in CPU time of its thread:
//! `cargo run --release -p weft-store --example append_cost [DIRECTORY]`.

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use std::time::Instant;
use weft_store::{Expected, Identity, RealDisk, Store, StoreConfig};
use weft_types::{
    BLOCK_SIZE, BlockHash, BlockIndex, BlockRange, ChunkId, ChunkIndex, ChunkSize, ClusterId, DiskId, Effect, Entry,
    EntryHeader, Epoch, LogPosition, NodeId, ObjectId, PgId, Sequence, TruncateGeneration, VolumeId, block_hash,
};

const ENTRIES: u64 = 50_000;
const VOLUME: VolumeId = VolumeId(1);

fn entry(sequence: u64, data: &Bytes, hash: impl Fn(ChunkId, BlockIndex) -> BlockHash) -> Entry {
    let place = sequence.wrapping_mul(2_654_435_761);
    let chunk = ChunkId { object: ObjectId(1), index: ChunkIndex((place % 1000) as u32) };
    let block = BlockIndex((place / 1000 % 1024) as u16);
    let effect = Effect::Write {
        chunk,
        range: BlockRange::new(block, 1),
        hashes: vec![hash(chunk, block)],
        end_bytes: 4096,
        generation: TruncateGeneration(0),
    };
    let position = LogPosition::new(Epoch(1), Sequence(sequence));
    let previous = if sequence == 1 { LogPosition::ZERO } else { LogPosition::new(Epoch(1), Sequence(sequence - 1)) };
    Entry { header: EntryHeader { position, previous, origin: None, only_for: None, effect }, data: data.clone() }
}

fn cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let base = std::env::args().nth(1).map_or_else(std::env::temp_dir, Into::into);
    let path = base.join(format!("weft-append-cost-{}", std::process::id()));
    std::fs::create_dir(&path)?;
    let result = measure(&path);
    std::fs::remove_dir_all(&path)?;
    result
}

fn measure(path: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    let disk = RealDisk::new(path)?;
    let identity = Identity { cluster: ClusterId(1), disk: DiskId(2), node: NodeId(3) };
    let config = StoreConfig { ballast_bytes: 0, ..StoreConfig::default() };
    Store::format(&disk, identity, &config)?;
    let expected = Expected { cluster: identity.cluster, disk: None, node: None };
    let (mut store, _) = Store::open(disk, expected, config)?;
    store.register_volume(VOLUME, ChunkSize::DEFAULT)?;
    let pg = PgId { volume: VOLUME, index: 0 };
    store.create_pg(pg)?;
    let data = Bytes::from(vec![7u8; BLOCK_SIZE]);
    let hash = |chunk, block| block_hash(VOLUME, chunk, block, &data);
    let entries: Vec<Entry> = (1..=ENTRIES).map(|sequence| entry(sequence, &data, hash)).collect();
    let timed = |what: &str, count: u64, begun: (Instant, f64)| {
        let wall = begun.0.elapsed().as_secs_f64() * 1e6 / count as f64;
        let cpu = (cpu_seconds() - begun.1) * 1e6 / count as f64;
        println!("{what}: {wall:.2} us each, {cpu:.2} us of CPU");
    };
    let begun = (Instant::now(), cpu_seconds());
    for entry in &entries {
        store.append(pg, std::slice::from_ref(entry))?;
    }
    timed("append, 4 KiB", ENTRIES, begun);
    let begun = (Instant::now(), cpu_seconds());
    store.sync_now()?;
    timed("sync, all of it", 1, begun);
    store.set_committed(pg, store.log_end(pg)?)?;
    let read = |what: &str, store: &Store<RealDisk>| -> Result<(), weft_store::StoreError> {
        let begun = (Instant::now(), cpu_seconds());
        for entry in entries.iter().take(20_000) {
            if let Effect::Write { chunk, range, .. } = &entry.header.effect {
                let job = store.prepare_read(pg, *chunk, *range)?;
                match job.try_now() {
                    Some(outcome) => drop(outcome?),
                    None => drop(job.run()?),
                }
            }
        }
        timed(what, 20_000, begun);
        Ok(())
    };
    read("read from the journal", &store)?;
    let begun = (Instant::now(), cpu_seconds());
    store.checkpoint_now()?;
    timed("checkpoint, per block", ENTRIES, begun);
    read("read from chunk files", &store)?;
    Ok(())
}
