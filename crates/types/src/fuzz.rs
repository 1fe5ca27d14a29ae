//! Test support: what drives every decoder of bytes from a peer or a disk with bytes that are wrong.
//!
//! Each crate lists its decoders in a test module `decoders` and calls [`run`]. `cargo xtask fuzz-decoders` runs them for as
//! long as one likes; as plain tests they take a second each.
//! Guarantees: the same bytes in every run without a time limit. What is checked: no panic (also none by overflow), no
//! memory beyond the decoder's limit, nothing accepted behind a value, and what was decoded comes back when encoded.

use crate::arbitrary;
use crate::codec::{decode, decode_limit_bytes, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Debug;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Inputs a decoder gets in a plain test run, divided by its `cost`.
const RUNS: u64 = 3000;
/// Inputs that taught something and are mutated further.
const MAX_POOL: usize = 512;
const MAX_INPUT_BYTES: usize = 64 << 10;
/// Examples that are made up for a type.
const EXAMPLES: u64 = 200;

/// A decoder and how to drive it.
#[derive(Clone, Copy)]
pub struct Decoder {
    pub name: &'static str,
    /// Decodes; what was decoded is encoded and decoded again where that can be done, and has to be the same.
    pub run: fn(&[u8]) -> Outcome,
    /// Valid encodings to begin with.
    pub examples: fn() -> Vec<Vec<u8>>,
    /// Memory that this may take for so many bytes.
    pub limit_bytes: fn(usize) -> usize,
    /// How many times longer one run takes than decoding a message.
    pub cost: u64,
}

/// What became of bytes that a decoder was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Refused,
    Accepted,
    /// A rule was broken: said in a sentence.
    Broken(String),
}

impl Decoder {
    /// A decoder of one type in postcard.
    #[must_use]
    pub fn of<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &'static str) -> Self {
        Self { name, run: round_trip::<T>, examples: examples::<T>, limit_bytes: message_limit_bytes, cost: 1 }
    }
}

/// Valid encodings of a type.
#[must_use]
pub fn examples<T: Serialize + DeserializeOwned>() -> Vec<Vec<u8>> {
    arbitrary::encodings::<T>(EXAMPLES)
}

/// Decodes, encodes, decodes.
#[must_use]
pub fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> Outcome {
    let Ok(value) = decode::<T>(bytes) else { return Outcome::Refused };
    let Ok(mut encoded) = encode(&value) else {
        return Outcome::Broken("what was decoded cannot be encoded".to_owned());
    };
    match decode::<T>(&encoded) {
        Ok(again) if again == value => {}
        other => return Outcome::Broken(format!("{value:?} comes back as {other:?}")),
    }
    encoded.push(0);
    match decode::<T>(&encoded) {
        Err(_) => Outcome::Accepted,
        Ok(_) => Outcome::Broken("a byte behind the value is accepted".to_owned()),
    }
}

/// Memory that [`round_trip`] may take: vectors double, the old half is there while they grow, and there are two values
/// and their encodings.
#[must_use]
pub const fn message_limit_bytes(input_bytes: usize) -> usize {
    decode_limit_bytes(input_bytes) * 6
}

/// Drives decoders. `manifest_dir` is that of the crate, whose `corpus/NAME.hex` holds further inputs, one a line:
/// those that once broke something, and for what lies on disks some that have to stay readable (they begin with `=`).
///
/// # Panics
/// When a rule is broken; the message has the input.
pub fn run(manifest_dir: &str, decoders: &[Decoder]) {
    let limit = std::env::var("WEFT_FUZZ_SECONDS").ok().and_then(|n| n.parse().ok()).map(Duration::from_secs);
    for decoder in decoders {
        let corpus = Path::new(manifest_dir).join("corpus").join(format!("{}.hex", decoder.name));
        if std::env::var_os("WEFT_FUZZ_WRITE_CORPUS").is_some() {
            write_corpus(&corpus, decoder);
        }
        let mut pool = (decoder.examples)();
        let accepted = pool.iter().filter(|input| check(decoder, input) == Outcome::Accepted).count();
        assert!(accepted * 4 >= pool.len(), "{}: {accepted} of {} examples are accepted", decoder.name, pool.len());
        for (input, must_read) in read_corpus(&corpus) {
            let outcome = check(decoder, &input);
            assert!(!must_read || outcome == Outcome::Accepted, "{}: no longer reads {}", decoder.name, hex(&input));
            pool.push(input);
        }
        drive(decoder, pool, limit.map(|limit| limit / decoders.len() as u32));
    }
}

fn drive(decoder: &Decoder, mut pool: Vec<Vec<u8>>, limit: Option<Duration>) {
    let began = Instant::now();
    let mut random = Random(0x5eed);
    let mut runs = 0u64;
    let mut accepted = 0u64;
    loop {
        let done = limit.map_or(runs >= RUNS / decoder.cost, |limit| began.elapsed() >= limit);
        if done {
            break;
        }
        runs += 1;
        let input = mutated(&pool, &mut random);
        if check(decoder, &input) == Outcome::Accepted {
            accepted += 1;
            // What is accepted lies near what should not be.
            if pool.len() < MAX_POOL {
                pool.push(input);
            } else if random.below(8) == 0 {
                let at = random.below(MAX_POOL as u64) as usize;
                pool[at] = input;
            }
        }
    }
    if limit.is_some() {
        println!("{:24} {runs} inputs, {accepted} accepted", decoder.name);
    }
}

/// Runs one input and holds it against the rules.
fn check(decoder: &Decoder, input: &[u8]) -> Outcome {
    let (outcome, peak_bytes) = measured(|| catch_unwind(AssertUnwindSafe(|| (decoder.run)(input))));
    let limit_bytes = (decoder.limit_bytes)(input.len());
    let name = decoder.name;
    match outcome {
        Err(_) => panic!("{name}: panics at {}", hex(input)),
        Ok(Outcome::Broken(what)) => panic!("{name}: {what}, at {}", hex(input)),
        Ok(_) if peak_bytes > limit_bytes => {
            panic!("{name}: takes {peak_bytes} bytes of memory where {limit_bytes} are allowed, at {}", hex(input))
        }
        Ok(outcome) => outcome,
    }
}

/// One to four changes to an input of the pool.
fn mutated(pool: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let pick = |random: &mut Random| pool[random.below(pool.len() as u64) as usize].clone();
    let mut bytes = pick(random);
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() as u64 + 1) as usize;
        match random.below(10) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff][random.below(7) as usize],
            2 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(random.below(9) as u8).wrapping_sub(4),
            3 => bytes.truncate(at),
            4 => {
                let end = (at + random.below(12) as usize).min(bytes.len());
                bytes.drain(at..end);
            }
            5 => {
                let end = (at + random.below(64) as usize).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            6 => {
                // A length or a number as large as it goes.
                let most = [0xff; 9].into_iter().chain([1]).take(1 + random.below(10) as usize);
                bytes.splice(at..(at + 1).min(bytes.len()), most);
            }
            7 => {
                let other = pick(random);
                let from = random.below(other.len() as u64 + 1) as usize;
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            8 => {
                let word = random.next().to_le_bytes();
                let end = (at + 8).min(bytes.len());
                bytes.splice(at..end, word);
            }
            _ => {
                let count = random.below(8);
                bytes.splice(at..at, (0..count).map(|_| 0));
            }
        }
    }
    bytes.truncate(MAX_INPUT_BYTES);
    bytes
}

fn read_corpus(path: &PathBuf) -> Vec<(Vec<u8>, bool)> {
    let Ok(text) = fs::read_to_string(path) else { return Vec::new() };
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let digits = line.strip_prefix('=');
            let input = from_hex(digits.unwrap_or(line));
            (input.unwrap_or_else(|| panic!("{}: not hexadecimal: {line}", path.display())), digits.is_some())
        })
        .collect()
}

fn write_corpus(path: &Path, decoder: &Decoder) {
    let examples = (decoder.examples)();
    let kept = examples.iter().filter(|input| input.len() <= 400 && check(decoder, input) == Outcome::Accepted);
    let lines: Vec<String> = kept.step_by(17).take(10).map(|input| format!("={}\n", hex(input))).collect();
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory).and_then(|()| fs::write(path, lines.concat())).unwrap_or_else(|error| {
        panic!("{}: {error}", path.display());
    });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

/// SplitMix64. Source: Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// An allocator that knows how much each thread has taken. A test binary that measures makes it its global one.
pub struct Counting;

thread_local! {
    static TAKEN: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn took(bytes: isize) {
    // A thread that ends may free after its counters are gone.
    let _ = TAKEN.try_with(|taken| {
        taken.set(taken.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(taken.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; the counters are plain cells that allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        took(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Both are there while the contents move.
        took(new_size as isize);
        // SAFETY: as above.
        let moved = unsafe { System.realloc(pointer, layout, new_size) };
        took(-(layout.size() as isize));
        moved
    }
}

/// Runs something and tells the most memory that it held at a time.
fn measured<T>(what: impl FnOnce() -> T) -> (T, usize) {
    let before = TAKEN.get();
    PEAK.set(before);
    let result = what();
    (result, usize::try_from(PEAK.get() - before).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static COUNTING: Counting = Counting;

    #[test]
    fn memory_is_measured() {
        let (_, peak) = measured(|| drop(vec![0u8; 100_000]));
        assert!((100_000..110_000).contains(&peak), "{peak}");
    }

    fn planted(name: &'static str, run: fn(&[u8]) -> Outcome) -> bool {
        let decoder = Decoder { run, ..Decoder::of::<Vec<u32>>(name) };
        catch_unwind(|| super::run("/nonexistent", &[decoder])).is_err()
    }

    #[test]
    fn decoders_that_break_a_rule_are_caught() {
        assert!(!planted("sound", round_trip::<Vec<u32>>));
        assert!(planted("panics", |bytes| {
            let outcome = round_trip::<Vec<u32>>(bytes);
            assert!(bytes.len() != 9, "planted");
            outcome
        }));
        assert!(planted("allocates on the word of a length", |bytes| {
            let length: Result<(u64, &[u8]), _> = postcard::take_from_bytes(bytes);
            let claimed = length.map_or(0, |(length, _)| length.min(1 << 28));
            drop(std::hint::black_box(Vec::<u8>::with_capacity(claimed as usize)));
            round_trip::<Vec<u32>>(bytes)
        }));
        assert!(planted("accepts bytes behind the value", |bytes| match postcard::from_bytes::<Vec<u32>>(bytes) {
            Ok(value) if encode(&value).is_ok_and(|encoded| encoded.len() < bytes.len()) => {
                Outcome::Broken("accepted".to_owned())
            }
            _ => Outcome::Accepted,
        }));
    }
}
