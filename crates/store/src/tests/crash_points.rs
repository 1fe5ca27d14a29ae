//! Crashes at every point of a recorded run, each laid out as real files and recovered from.
//!
//! A recorded run is a trace of operations and, beside it, what the caller had done and what it had been promised. The
//! disk after a crash is made by `fault::Platter`; see there for what may be lost.

use crate::RealDisk;
use crate::disk::Disk;
use crate::fault::{Operation, Platter, RecordingDisk, Survivors};
use std::path::Path;
use tempfile::TempDir;

/// How far the caller had come when so many operations were recorded.
#[derive(Clone, Copy, Debug)]
struct Step {
    operations: usize,
    /// Number of the oldest state that a power cut may leave, and of the newest.
    oldest: usize,
    newest: usize,
}

/// A trace with the states of a model that belong to it.
pub struct Recorded<M> {
    pub operations: Vec<Operation>,
    history: Vec<M>,
    steps: Vec<Step>,
}

/// Which states may be found after a crash.
pub struct Allowed<'a, M> {
    pub states: &'a [M],
    /// The caller was not in the middle of anything.
    pub between_steps: bool,
}

impl<M> Recorded<M> {
    pub const fn new() -> Self {
        Self { operations: Vec::new(), history: Vec::new(), steps: Vec::new() }
    }

    /// Adds the states that came into being since the last call.
    pub fn states(&mut self, new: impl IntoIterator<Item = M>) {
        self.history.extend(new);
    }

    pub const fn state_count(&self) -> usize {
        self.history.len()
    }

    /// Notes that a step of the caller ended.
    pub fn step(&mut self, operations: usize, oldest: usize) {
        self.steps.push(Step { operations, oldest, newest: self.history.len() - 1 });
    }

    /// Operations before the first step: preparations, which are examined elsewhere.
    pub fn first(&self) -> usize {
        self.steps[0].operations
    }

    /// States that may be found when the crash came after `operations` operations.
    pub fn allowed(&self, operations: usize) -> Allowed<'_, M> {
        let ended = self.steps.iter().rposition(|step| step.operations <= operations).unwrap();
        let running = self.steps.get(ended + 1).filter(|_| self.steps[ended].operations < operations);
        let newest = running.unwrap_or(&self.steps[ended]).newest;
        Allowed { states: &self.history[self.steps[ended].oldest..=newest], between_steps: running.is_none() }
    }
}

/// Crashes that are tried at one point: everything and nothing survives, and samples of what lies between.
pub fn crashes(seed: u64, samples: u64) -> Vec<Survivors> {
    let mut out = vec![Survivors::All, Survivors::None];
    for sample in 0..samples {
        let seed = seed.wrapping_mul(1000).wrapping_add(sample);
        out.push(match sample % 3 {
            0 => Survivors::Writes { seed },
            1 => Survivors::Sectors { seed },
            _ => Survivors::TornLast { seed },
        });
    }
    out
}

/// A directory for crash images. In memory where that exists: the images are real files either way, and thousands of
/// syncs of a real device would tell nothing more.
pub fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir()
        && let Ok(directory) = tempfile::tempdir_in(memory)
    {
        return directory;
    }
    tempfile::tempdir().unwrap()
}

/// Lays a crashed disk out as real files and gives a disk that records what happens to it.
pub fn laid_out(platter: &Platter, root: &Path) -> RecordingDisk<RealDisk> {
    platter.materialise(root).unwrap();
    RecordingDisk::new(RealDisk::new(root).unwrap(), platter.names().clone(), platter.next_inode())
}

/// Length of a file; `None` when it does not exist.
pub fn length<D: Disk>(disk: &D, path: &str) -> Option<u64> {
    use crate::disk::{DiskFile, OpenMode};
    disk.open(path, OpenMode::ReadOnly).ok().map(|file| file.len().unwrap())
}
