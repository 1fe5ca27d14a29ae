//! A running guest: QEMU, and what the guest says on its serial console.

use super::kernel::{self, Kernel};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A boot without KVM on a busy machine takes well under this.
const BOOT_PATIENCE: Duration = Duration::from_secs(120);
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

pub struct Machine {
    qemu: Child,
    said: Arc<Mutex<Vec<String>>>,
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
                "console=ttyS0 panic=-1 quiet loglevel=4 weft.mode={mode} weft.mib={mebibytes} weft.seed={seed}"
            ))
            .arg("-drive")
            .arg(format!("file={},format=raw,if=none,id=disk,cache=none,aio={aio}", image.display()))
            .args(["-device", "virtio-blk-pci,drive=disk"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let console = BufReader::new(qemu.stdout.take().unwrap());
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let lines = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in console.split(b'\n').map_while(Result::ok) {
                lines.lock().unwrap().push(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
        });
        Self { qemu, said }
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
        while !self.lines().iter().any(|said| said.ends_with(line)) {
            self.assert_no_trouble();
            assert!(self.qemu.try_wait().unwrap().is_none(), "the guest ended before `{line}`:\n{}", self.tail());
            assert!(Instant::now() < deadline, "waited {} s for `{line}`:\n{}", patience.as_secs(), self.tail());
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
            assert!(Instant::now() < deadline, "the guest did not end in {} s:\n{}", patience.as_secs(), self.tail());
            std::thread::sleep(Duration::from_millis(50));
        }
        // The reader may still be busy with the last lines.
        std::thread::sleep(Duration::from_millis(200));
        self.assert_no_trouble();
        let lines = self.lines();
        assert!(lines.iter().any(|l| l.ends_with("weft-guest: done")), "no clean end:\n{}", self.tail());
        let summary = lines.iter().find_map(|l| l.split_once("weft-guest: ok ").map(|(_, rest)| rest.to_owned()));
        summary.unwrap_or_else(|| panic!("the workload gave no summary:\n{}", self.tail()))
    }

    /// As `finish`, for a writing guest.
    ///
    /// # Panics
    /// As `finish`.
    pub fn finish_writing(&mut self, patience: Duration) -> WriteReport {
        let summary = self.finish(patience);
        eprintln!("guest: {summary}");
        let field = |name: &str| {
            let found = summary.split(' ').find_map(|word| word.strip_prefix(name)?.parse::<u64>().ok());
            found.unwrap_or_else(|| panic!("no {name} in `{summary}`"))
        };
        WriteReport { longest_gap: Duration::from_millis(field("longest_gap_ms=")) }
    }

    fn assert_no_trouble(&self) {
        let trouble = self.lines().into_iter().find(|line| TROUBLE.iter().any(|bad| line.contains(bad)));
        assert!(trouble.is_none(), "the guest met trouble: {trouble:?}\n{}", self.tail());
    }

    fn lines(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    fn tail(&self) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Gone already unless a test failed.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
