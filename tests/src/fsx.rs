//! Random operations on one file against a model of it, in the manner of fsx: whatever was done through one mount has to
//! read back through any other, at once.
//!
//! Guarantees: one seed decides all; after each step the whole window and the size are compared, through a mount that the
//! seed chooses; a failure is cut down to a short list of operations before it is shown.

use crate::random::Random;
use rustix::fs::{FallocateFlags, fallocate, ftruncate};
use std::collections::VecDeque;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const O_DIRECT: i32 = 0o40000;
/// Operations reach from here on, so that they cross the border of a chunk.
const BASE: u64 = (4 << 20) - WINDOW as u64 / 2;
const WINDOW: usize = 384 << 10;
const LONGEST: usize = 96 << 10;
const PAGE: usize = 4096;
/// Operations shown when a failure cannot be cut down.
const SHOWN: usize = 60;
/// Reruns that are spent on cutting a failure down.
const MAX_RERUNS: usize = 80;

/// One operation. Offsets count from `BASE`.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Mount that does it, and mount through which it is checked.
    mount: usize,
    checked_by: usize,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Read {
        offset: usize,
        length: usize,
    },
    Write {
        offset: usize,
        length: usize,
        fill: u8,
    },
    DirectWrite {
        block: usize,
        blocks: usize,
        fill: u8,
    },
    DirectRead {
        block: usize,
        blocks: usize,
    },
    Append {
        length: usize,
        fill: u8,
    },
    Truncate {
        size: usize,
    },
    /// Below the window: the object is swapped or loses most of its chunks.
    TruncateFar {
        size: u64,
    },
    Punch {
        offset: usize,
        length: usize,
    },
    Zero {
        offset: usize,
        length: usize,
        keep: Keep,
    },
    Allocate {
        offset: usize,
        length: usize,
        keep: Keep,
    },
    Copy {
        from: usize,
        to: usize,
        length: usize,
    },
    MapWrite {
        offset: usize,
        length: usize,
        fill: u8,
    },
    MapRead {
        offset: usize,
        length: usize,
    },
    Sync,
    Reopen,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Keep {
    Size,
    Nothing,
}

/// How a file is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mapping {
    /// Through the handle that is open: this host's pages are coherent with its reads and writes.
    OfOpenHandle,
    /// Through a handle opened for it, which drops pages that this host's kernel keeps: between hosts that is what mapping
    /// promises.
    OpenedAnew,
}

pub struct Plan {
    pub seed: u64,
    /// The same directory through each mount.
    pub directories: Vec<PathBuf>,
    pub mapping: Mapping,
}

/// Contents as they have to be. Past `size` the window is zero.
struct Model {
    size: u64,
    window: Vec<u8>,
}

struct Handles {
    path: PathBuf,
    plain: File,
    direct: File,
    append: File,
}

/// A file under test.
struct Subject {
    model: Model,
    mounts: Vec<Handles>,
    mapping: Mapping,
}

pub struct Failure {
    why: String,
    log: Vec<Step>,
    seed: u64,
    shortened: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.why)?;
        let first = self.log.len().saturating_sub(SHOWN);
        let kind = if self.shortened { "this is enough" } else { "the last operations" };
        writeln!(f, "{kind} (offsets from {BASE}):")?;
        self.log[first..].iter().try_for_each(|step| writeln!(f, "  {step:?}"))
    }
}

/// Runs until `enough` says so of the number of steps; how many there were.
///
/// # Errors
/// The first difference, cut down.
pub fn run(plan: &Plan, mut enough: impl FnMut(u64) -> bool) -> Result<u64, Failure> {
    let mut random = Random::new(plan.seed);
    let mut subject = Subject::create(plan, "fsx").map_err(|why| plan.failure(why, Vec::new()))?;
    let mut log = VecDeque::new();
    let mut steps = 0;
    while !enough(steps) {
        let step = choose(&mut random, plan.directories.len());
        log.push_back(step);
        // A failure is looked for among these; older ones have long been checked.
        if log.len() > 4000 {
            log.pop_front();
        }
        if let Err(why) = subject.step(step) {
            return Err(shorten(plan, why, log.into()));
        }
        steps += 1;
    }
    Ok(steps)
}

impl Plan {
    fn failure(&self, why: String, log: Vec<Step>) -> Failure {
        Failure { why, log, seed: self.seed, shortened: false }
    }
}

/// Leaves out ever smaller parts of the log as long as it still fails.
fn shorten(plan: &Plan, why: String, log: Vec<Step>) -> Failure {
    let mut reruns = 0;
    let mut fails = |steps: &[Step]| {
        reruns += 1;
        let mut subject = Subject::create(plan, &format!("fsx-again-{reruns}")).ok()?;
        let found = steps.iter().find_map(|step| subject.step(*step).err());
        subject.remove();
        (reruns <= MAX_RERUNS).then_some(found).flatten()
    };
    let Some(mut why_short) = fails(&log) else { return plan.failure(why, log) };
    let mut short = log;
    let mut part = short.len() / 2;
    while part > 0 && short.len() > 1 {
        let mut at = 0;
        while at < short.len() {
            let mut fewer = short.clone();
            fewer.drain(at..(at + part).min(short.len()));
            match fails(&fewer) {
                Some(why) => (short, why_short) = (fewer, why),
                None => at += part,
            }
        }
        part /= 2;
    }
    Failure { why: format!("{why_short} (first seen as: {why})"), log: short, seed: plan.seed, shortened: true }
}

fn choose(random: &mut Random, mounts: usize) -> Step {
    let (mount, checked_by) = (random.below(mounts), random.below(mounts));
    let length = if random.below(4) == 0 { 1 + random.below(LONGEST) } else { 1 + random.below(9000) };
    let offset = random.below(WINDOW - length);
    let blocks = 1 + random.below(LONGEST / PAGE);
    let block = random.below(WINDOW / PAGE - blocks);
    let fill = random.draw() as u8;
    let keep = if random.below(2) == 0 { Keep::Size } else { Keep::Nothing };
    let what = match random.below(100) {
        0..10 => What::Read { offset, length },
        10..28 => What::Write { offset, length, fill },
        28..40 => What::DirectWrite { block, blocks, fill },
        40..44 => What::DirectRead { block, blocks },
        44..52 => What::Append { length: length.min(20_000), fill },
        52..62 => What::Truncate { size: random.below(WINDOW) },
        62..64 => What::TruncateFar { size: if random.below(2) == 0 { 0 } else { random.draw() % BASE } },
        64..71 => What::Punch { offset, length },
        71..78 => What::Zero { offset, length, keep },
        78..82 => What::Allocate { offset, length, keep },
        82..88 => {
            let length = length.min(WINDOW / 3);
            let from = random.below(WINDOW / 2 - length);
            What::Copy { from, to: WINDOW / 2 + random.below(WINDOW / 2 - length), length }
        }
        88..93 => What::MapWrite { offset, length, fill },
        93..96 => What::MapRead { offset, length },
        96..98 => What::Sync,
        _ => What::Reopen,
    };
    Step { mount, checked_by, what }
}

impl Model {
    fn new() -> Self {
        Self { size: 0, window: vec![0; WINDOW] }
    }

    /// End of the file within the window.
    fn end(&self) -> usize {
        usize::try_from(self.size.saturating_sub(BASE)).unwrap_or(WINDOW).min(WINDOW)
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        self.window[offset..offset + data.len()].copy_from_slice(data);
        self.size = self.size.max(BASE + (offset + data.len()) as u64);
    }

    fn zero(&mut self, offset: usize, length: usize, keep: Keep) {
        let end = offset + length;
        self.window[offset..end].fill(0);
        if keep == Keep::Nothing {
            self.size = self.size.max(BASE + end as u64);
        }
    }

    fn truncate(&mut self, size: u64) {
        self.size = size;
        let end = self.end();
        self.window[end..].fill(0);
    }
}

impl Handles {
    fn open(path: &Path) -> Result<Self, String> {
        let open = |flags: i32, append: bool| {
            let mut options = OpenOptions::new();
            options.read(true).append(append).custom_flags(flags);
            if !append {
                options.write(true);
            }
            options.open(path).map_err(|error| format!("open {}: {error}", path.display()))
        };
        Ok(Self {
            path: path.to_owned(),
            plain: open(0, false)?,
            direct: open(O_DIRECT, false)?,
            append: open(0, true)?,
        })
    }
}

impl Handles {
    fn mapped(
        &self,
        mapping: Mapping,
        offset: usize,
        length: usize,
        visit: impl FnOnce(&mut [u8]),
    ) -> Result<(), String> {
        if mapping == Mapping::OfOpenHandle {
            return mapped(&self.plain, offset, length, visit);
        }
        let anew = OpenOptions::new().read(true).write(true).open(&self.path);
        mapped(&anew.map_err(|error| format!("open {}: {error}", self.path.display()))?, offset, length, visit)
    }
}

/// Bytes that tell their place and which write made them.
fn contents(offset: usize, length: usize, fill: u8) -> Vec<u8> {
    (offset..offset + length).map(|at| (fill ^ (at as u8) ^ ((at >> 8) as u8).wrapping_mul(31)) | 1).collect()
}

/// Memory that O_DIRECT takes.
struct Aligned(Vec<u8>, usize);

impl Aligned {
    fn new(length: usize) -> Self {
        let bytes = vec![0; length + PAGE];
        let skip = bytes.as_ptr().align_offset(PAGE);
        Self(bytes, skip)
    }

    fn bytes(&mut self, length: usize) -> &mut [u8] {
        &mut self.0[self.1..self.1 + length]
    }
}

impl Subject {
    fn create(plan: &Plan, name: &str) -> Result<Self, String> {
        let paths: Vec<PathBuf> = plan.directories.iter().map(|d| d.join(format!("{name}-{}", plan.seed))).collect();
        File::create(&paths[0]).map_err(|error| format!("create {}: {error}", paths[0].display()))?;
        let mounts = paths.iter().map(|path| Handles::open(path)).collect::<Result<_, _>>()?;
        Ok(Self { model: Model::new(), mounts, mapping: plan.mapping })
    }

    fn remove(self) {
        // What is left of a failed run may be looked at; a rerun leaves nothing.
        let _ = std::fs::remove_file(&self.mounts[0].path);
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        self.carry_out(step).map_err(|error| format!("{step:?}: {error}"))?;
        self.check(step.checked_by).map_err(|why| format!("after {step:?}: {why}"))
    }

    fn carry_out(&mut self, step: Step) -> Result<(), String> {
        let text = |error: std::io::Error| error.to_string();
        let errno = |error: rustix::io::Errno| error.to_string();
        let end = self.model.end();
        let (model, on, mapping) = (&mut self.model, &mut self.mounts[step.mount], self.mapping);
        match step.what {
            What::Read { offset, length } => {
                let mut found = vec![0; length];
                let read = on.plain.read_at(&mut found, BASE + offset as u64).map_err(text)?;
                same(&found[..read], &model.window[offset..(offset + length).min(end.max(offset))], offset)
            }
            What::Write { offset, length, fill } => {
                let data = contents(offset, length, fill);
                on.plain.write_all_at(&data, BASE + offset as u64).map_err(text)?;
                model.write(offset, &data);
                Ok(())
            }
            What::DirectWrite { block, blocks, fill } => {
                let (offset, length) = (block * PAGE, blocks * PAGE);
                let mut buffer = Aligned::new(length);
                buffer.bytes(length).copy_from_slice(&contents(offset, length, fill));
                on.direct.write_all_at(buffer.bytes(length), BASE + offset as u64).map_err(text)?;
                model.write(offset, buffer.bytes(length));
                Ok(())
            }
            What::DirectRead { block, blocks } => {
                let (offset, length) = (block * PAGE, blocks * PAGE);
                let mut buffer = Aligned::new(length);
                let read = on.direct.read_at(buffer.bytes(length), BASE + offset as u64).map_err(text)?;
                same(
                    &buffer.bytes(length)[..read],
                    &model.window[offset..(offset + length).min(end.max(offset))],
                    offset,
                )
            }
            What::Append { length, fill } => {
                let at = model.size.saturating_sub(BASE) as usize;
                if model.size < BASE || at + length > WINDOW {
                    return Ok(());
                }
                let data = contents(at, length, fill);
                on.append.write_all(&data).map_err(text)?;
                model.write(at, &data);
                Ok(())
            }
            What::Truncate { size } => {
                ftruncate(&on.plain, BASE + size as u64).map_err(errno)?;
                model.truncate(BASE + size as u64);
                Ok(())
            }
            What::TruncateFar { size } => {
                ftruncate(&on.plain, size).map_err(errno)?;
                model.truncate(size);
                Ok(())
            }
            What::Punch { offset, length } => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&on.plain, flags, BASE + offset as u64, length as u64).map_err(errno)?;
                model.zero(offset, length, Keep::Size);
                Ok(())
            }
            What::Zero { offset, length, keep } => {
                let flags = FallocateFlags::ZERO_RANGE | keep.flags();
                fallocate(&on.plain, flags, BASE + offset as u64, length as u64).map_err(errno)?;
                model.zero(offset, length, keep);
                Ok(())
            }
            What::Allocate { offset, length, keep } => {
                fallocate(&on.plain, keep.flags(), BASE + offset as u64, length as u64).map_err(errno)?;
                if keep == Keep::Nothing {
                    model.size = model.size.max(BASE + (offset + length) as u64);
                }
                Ok(())
            }
            What::Copy { from, to, length } => {
                let (mut source, mut target) = (BASE + from as u64, BASE + to as u64);
                let mut left = length.min(end.saturating_sub(from));
                let data = model.window[from..from + left].to_vec();
                let file = &on.plain;
                // The kernel cuts the copy at the size it last heard of, before any file system is asked (SEMANTICS S5). A
                // program that copies asks for the size first, as this does.
                rustix::fs::fstat(file).map_err(errno)?;
                while left > 0 {
                    let copied = rustix::fs::copy_file_range(file, Some(&mut source), file, Some(&mut target), left)
                        .map_err(errno)?;
                    if copied == 0 {
                        return Err("copy_file_range ended early".to_owned());
                    }
                    left -= copied;
                }
                if !data.is_empty() {
                    model.write(to, &data);
                }
                Ok(())
            }
            What::MapWrite { offset, length, fill } => {
                let length = length.min(end.saturating_sub(offset));
                if length == 0 {
                    return Ok(());
                }
                let data = contents(offset, length, fill);
                on.mapped(mapping, offset, length, |bytes| bytes.copy_from_slice(&data))?;
                model.write(offset, &data);
                Ok(())
            }
            What::MapRead { offset, length } => {
                let length = length.min(end.saturating_sub(offset));
                if length == 0 {
                    return Ok(());
                }
                let mut found = vec![0; length];
                on.mapped(mapping, offset, length, |bytes| found.copy_from_slice(bytes))?;
                same(&found, &model.window[offset..offset + length], offset)
            }
            What::Sync => on.plain.sync_all().map_err(text),
            What::Reopen => {
                *on = Handles::open(&on.path)?;
                Ok(())
            }
        }
    }

    /// Size and contents through one mount.
    fn check(&self, mount: usize) -> Result<(), String> {
        let on = &self.mounts[mount];
        let size = on.plain.metadata().map_err(|error| format!("stat: {error}"))?.len();
        if size != self.model.size {
            return Err(format!("mount {mount} says {size} bytes, it has {}", self.model.size));
        }
        let mut found = vec![0; WINDOW];
        let mut read = 0;
        loop {
            match on.plain.read_at(&mut found[read..], BASE + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) => return Err(format!("read: {error}")),
            }
        }
        same(&found[..read], &self.model.window[..self.model.end()], 0).map_err(|why| format!("mount {mount}: {why}"))
    }
}

impl Keep {
    fn flags(self) -> FallocateFlags {
        match self {
            Self::Size => FallocateFlags::KEEP_SIZE,
            Self::Nothing => FallocateFlags::empty(),
        }
    }
}

/// Maps the pages around a range, lets `visit` work on it, writes back and unmaps.
fn mapped(file: &File, offset: usize, length: usize, visit: impl FnOnce(&mut [u8])) -> Result<(), String> {
    let first = offset / PAGE * PAGE;
    let size = offset + length - first;
    let failed = |what: &str| format!("{what}: {}", std::io::Error::last_os_error());
    let at = libc::off_t::try_from(BASE + first as u64).map_err(|error| error.to_string())?;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh mapping, which nobody else in this process knows.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), size, access, libc::MAP_SHARED, file.as_raw_fd(), at) };
    if start == libc::MAP_FAILED {
        return Err(failed("mmap"));
    }
    // SAFETY: the range lies within the mapping made above and within the file, which only this thread changes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>().add(offset - first), length) };
    visit(bytes);
    // SAFETY: the mapping is ours, whole, and `bytes` is not used after this.
    let synced = unsafe { libc::msync(start, size, libc::MS_SYNC) };
    let synced = if synced == 0 { Ok(()) } else { Err(failed("msync")) };
    // SAFETY: as above.
    let unmapped = unsafe { libc::munmap(start, size) };
    synced.and(if unmapped == 0 { Ok(()) } else { Err(failed("munmap")) })
}

/// Where two stretches differ, if they do.
fn same(found: &[u8], wanted: &[u8], offset: usize) -> Result<(), String> {
    if found.len() != wanted.len() {
        return Err(format!("{} bytes at {offset} instead of {}", found.len(), wanted.len()));
    }
    match found.iter().zip(wanted).position(|(f, w)| f != w) {
        None => Ok(()),
        Some(at) => {
            let wrong = found.iter().zip(wanted).filter(|(f, w)| f != w).count();
            let (f, w) = (found[at], wanted[at]);
            Err(format!("{wrong} bytes differ, the first at {}: {f:#04x} instead of {w:#04x}", offset + at))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn plan(seed: u64) -> (tempfile::TempDir, Plan) {
        let directory = tempfile::tempdir().unwrap();
        let directories = vec![directory.path().to_owned()];
        (directory, Plan { seed, directories, mapping: Mapping::OpenedAnew })
    }

    #[test]
    fn a_local_file_system_passes() {
        let (_directory, plan) = plan(7);
        // Direct I/O and zeroing of ranges are not there on every file system; then there is nothing to compare with.
        let zero = What::Zero { offset: 0, length: 10, keep: Keep::Nothing };
        let probed = Subject::create(&plan, "probe").and_then(|mut probe| {
            probe.step(Step { mount: 0, checked_by: 0, what: zero })?;
            probe.step(Step { mount: 0, checked_by: 0, what: What::Copy { from: 0, to: WINDOW / 2, length: 10 } })
        });
        if probed.is_err() {
            return;
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        let steps = run(&plan, |steps| steps >= 400 || Instant::now() > deadline).unwrap_or_else(|why| panic!("{why}"));
        assert!(steps > 10);
    }

    #[test]
    fn a_difference_is_found_and_cut_down() {
        let (_directory, plan) = plan(8);
        let Ok(mut subject) = Subject::create(&plan, "fsx") else { return };
        let write = |offset| Step { mount: 0, checked_by: 0, what: What::Write { offset, length: 10, fill: 3 } };
        subject.step(write(0)).unwrap();
        // Somebody else changes the file behind the model's back.
        subject.mounts[0].plain.write_all_at(b"x", BASE + 5).unwrap();
        let why = subject.step(write(100)).unwrap_err();
        assert!(why.contains("the first at 5"), "{why}");
    }
}
