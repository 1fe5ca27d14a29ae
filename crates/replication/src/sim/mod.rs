//! A small deterministic harness for this crate: replicas on modelled disks, a modelled metadata group, a network that
//! delays, loses, doubles and reorders across connections, clients, and oracles. One seed decides everything.

mod fuzz;
mod meta;
mod oracle;
mod scenarios;
mod store;
mod world;

/// Blocks of a chunk here (64 KiB).
pub const CHUNK_BLOCKS: u16 = 16;

/// SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}
