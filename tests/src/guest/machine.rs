//! A running guest: QEMU, and what the guest says on its serial console.

use super::kernel::{self, Kernel};
use crate::program::end;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A boot without KVM on a busy machine takes well under this.
const BOOT_PATIENCE: Duration = Duration::from_secs(120);
const LAST_LINES: Duration = Duration::from_secs(5);
/// What no guest on healthy storage ever prints.
const TROUBLE: [&str; 7] = [
    "I/O error",
    "EXT4-fs error",
    "EXT4-fs warning",
    "read-only",
    "blocked for more than",
    "Kernel panic",
    "weft-guest: failed",
];

/// How QEMU talks to the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aio {
    Native,
    IoUring,
}

/// What the guest does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Workload {
    Write { mebibytes: u64, seed: u64 },
    Verify { mebibytes: u64, seed: u64 },
}

/// What a guest that finished reported about its writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteReport {
    /// Longest time between two completed fsyncs, by the guest's clock.
    pub longest_gap: Duration,
}

/// What a guest said and when this host heard it, over all the QEMUs that ran it.
#[derive(Clone, Default)]
pub struct Console(Arc<Mutex<Vec<(Instant, String)>>>);

impl Console {
    /// Adds everything that comes from `output`.
    pub fn listen(&self, output: ChildStdout) {
        let lines = Arc::clone(&self.0);
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                lines.lock().unwrap().push((Instant::now(), line));
            }
        });
    }

    /// # Panics
    /// When a reader thread panicked.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|(_, line)| line.clone()).collect()
    }

    #[must_use]
    pub fn tail(&self) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// # Panics
    /// When the guest said anything that no guest on healthy storage says.
    pub fn assert_no_trouble(&self) {
        let trouble = self.lines().into_iter().find(|line| TROUBLE.iter().any(|bad| line.contains(bad)));
        assert!(trouble.is_none(), "the guest met trouble: {trouble:?}\n{}", self.tail());
    }

    /// What the workload said at the end of a guest that has powered off.
    ///
    /// # Panics
    /// When the guest met trouble or came to no clean end.
    #[must_use]
    pub fn summary(&self) -> String {
        // The reader may still be busy with the last lines.
        let deadline = Instant::now() + LAST_LINES;
        while !self.lines().iter().any(|l| l.ends_with("weft-guest: done")) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.assert_no_trouble();
        let lines = self.lines();
        assert!(lines.iter().any(|l| l.ends_with("weft-guest: done")), "no clean end:\n{}", self.tail());
        let summary = lines.iter().find_map(|l| l.split_once("weft-guest: ok ").map(|(_, rest)| rest.to_owned()));
        summary.unwrap_or_else(|| panic!("the workload gave no summary:\n{}", self.tail()))
    }

    /// The last round that a churning guest has reported.
    #[must_use]
    pub fn round(&self) -> u64 {
        let round = |line: &String| line.split_once("weft-guest: round ")?.1.parse().ok();
        self.lines().iter().rev().find_map(round).unwrap_or(0)
    }

    /// The longest time between two rounds of a churning guest that ended at `since` or later, by this host's clock: a
    /// guest's own stands still while it moves.
    ///
    /// # Panics
    /// When a reader thread panicked.
    #[must_use]
    pub fn longest_stall(&self, since: Instant) -> Duration {
        let said = self.0.lock().unwrap();
        let rounds = said.iter().filter(|(_, line)| line.contains("weft-guest: round ")).map(|(at, _)| *at);
        let rounds: Vec<Instant> = rounds.collect();
        let gaps = rounds.windows(2).filter(|gap| gap[1] >= since).map(|gap| gap[1] - gap[0]);
        gaps.max().unwrap_or_default()
    }

    /// Waits until the guest has done so many rounds more.
    ///
    /// # Panics
    /// When it meets trouble or takes too long.
    pub fn wait_rounds(&self, more: u64, patience: Duration) {
        let (goal, deadline) = (self.round() + more, Instant::now() + patience);
        while self.round() < goal {
            self.assert_no_trouble();
            assert!(Instant::now() < deadline, "round {} of {goal}:\n{}", self.round(), self.tail());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A number in a summary of `name=value` words.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn field(summary: &str, name: &str) -> u64 {
    let found = summary.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok());
    found.unwrap_or_else(|| panic!("no {name} in `{summary}`"))
}

pub struct Machine {
    qemu: Child,
    console: Console,
}

impl Machine {
    /// Boots from the image with `cache=none`.
    ///
    /// # Panics
    /// When QEMU cannot be started.
    #[must_use]
    pub fn boot(image: &Path, aio: Aio, workload: Workload) -> Self {
        let Kernel { image: kernel, initramfs } = kernel::prepare();
        let (mode, mebibytes, seed) = match workload {
            Workload::Write { mebibytes, seed } => ("write", mebibytes, seed),
            Workload::Verify { mebibytes, seed } => ("verify", mebibytes, seed),
        };
        let aio = match aio {
            Aio::Native => "native",
            Aio::IoUring => "io_uring",
        };
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(["-machine", "q35", "-accel", "tcg", "-cpu", "qemu64", "-m", "384", "-smp", "1"])
            .args(["-nographic", "-no-reboot", "-nic", "none"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .arg("-append")
            .arg(format!(
                "console=ttyS0 panic=-1 quiet loglevel=4 no_timer_check weft.mode={mode} weft.mib={mebibytes} weft.seed={seed}"
            ))
            .arg("-drive")
            .arg(format!("file={},format=raw,if=none,id=disk,cache=none,aio={aio}", image.display()))
            .args(["-device", "virtio-blk-pci,drive=disk"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let console = Console::default();
        console.listen(qemu.stdout.take().unwrap());
        Self { qemu, console }
    }

    /// Waits until the guest is up.
    ///
    /// # Panics
    /// When it does not boot.
    pub fn wait_booted(&mut self) {
        self.wait_for("weft-guest: booted", BOOT_PATIENCE);
    }

    /// Waits until the writing guest has written so much.
    ///
    /// # Panics
    /// When it takes too long or the guest gets into trouble.
    pub fn wait_written(&mut self, mebibytes: u64, patience: Duration) {
        self.wait_for(&format!("weft-guest: wrote {mebibytes}"), patience);
    }

    fn wait_for(&mut self, line: &str, patience: Duration) {
        let deadline = Instant::now() + patience;
        while !self.console.lines().iter().any(|said| said.ends_with(line)) {
            self.console.assert_no_trouble();
            assert!(
                self.qemu.try_wait().unwrap().is_none(),
                "the guest ended before `{line}`:\n{}",
                self.console.tail()
            );
            assert!(
                Instant::now() < deadline,
                "waited {} s for `{line}`:\n{}",
                patience.as_secs(),
                self.console.tail()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the guest has powered off; the summary of its workload.
    ///
    /// # Panics
    /// When it failed, met an I/O error, or took too long.
    pub fn finish(&mut self, patience: Duration) -> String {
        let deadline = Instant::now() + patience;
        while self.qemu.try_wait().unwrap().is_none() {
            assert!(
                Instant::now() < deadline,
                "the guest did not end in {} s:\n{}",
                patience.as_secs(),
                self.console.tail()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        self.console.summary()
    }

    /// As `finish`, for a writing guest.
    ///
    /// # Panics
    /// As `finish`.
    pub fn finish_writing(&mut self, patience: Duration) -> WriteReport {
        let summary = self.finish(patience);
        eprintln!("guest: {summary}");
        WriteReport { longest_gap: Duration::from_millis(field(&summary, "longest_gap_ms")) }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        end(&mut self.qemu);
    }
}
