//! A guest that moves between hosts while it runs: one QEMU after the other, one console.
//!
//! The guest's memory is a file that both QEMUs map, and is not sent: QEMU 7.2 under TCG itself damages what it sends now
//! and then (twice in a hundred moves, on a local file too), and these tests judge storage. Each boot has a memory of its
//! own, so that a guest that is started anew meets nothing of one that is thought to be dead.

use super::kernel::{self, Kernel};
use super::machine::Console;
use super::qmp::Qmp;
use crate::cluster::wait_until;
use crate::program::{end, has_ended, run};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MEMORY_MIB: u32 = 256;
const MEMORY: &str = "memory";
const MEMORY_OPTIONS: &str = "size=2g,mode=0700";
/// The devices' state and what the disk has under way.
const MOVE_PATIENCE: Duration = Duration::from_secs(60);
/// It has closed its socket already.
const END_PATIENCE: Duration = Duration::from_secs(5);
const EXIT_PATIENCE: Duration = Duration::from_secs(60);
const BOOT_PATIENCE: Duration = Duration::from_secs(120);

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// One QEMU.
pub struct Vm {
    process: Child,
    qmp: Option<Qmp>,
    memory: Arc<Memory>,
    directory: PathBuf,
    number: u64,
}

/// The memory of one guest, from its boot to the end of its last QEMU.
struct Memory(PathBuf);

impl Memory {
    fn new(directory: &Path, number: u64) -> Self {
        Self(directory.join(MEMORY).join(format!("guest-{number}")))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Mounts a file system in memory below the directory, for the guests' memory. It goes with what is mounted below the
/// directory of a test, however that ends.
///
/// # Panics
/// When it cannot be mounted.
pub fn prepare_memory(directory: &Path) {
    let place = directory.join(MEMORY);
    std::fs::create_dir(&place).unwrap();
    let _ = run(Command::new("mount").args(["-t", "tmpfs", "-o", MEMORY_OPTIONS, "weft-guests"]).arg(place));
}

/// What a VM is made of, on any host.
#[derive(Clone)]
pub struct Blueprint {
    /// For sockets and memory; [`prepare_memory`] was called for it.
    pub directory: PathBuf,
    /// `raw` or `qcow2`
    pub format: &'static str,
    /// `churn` or `recheck`
    pub mode: &'static str,
    /// Rounds that a recheck has to find.
    pub rounds: u64,
    pub seed: u64,
}

enum Arrival {
    Boot,
    /// Waits for another QEMU to hand over the guest with this memory.
    Incoming(Arc<Memory>),
}

/// A move that is being made: the QEMU that waits for the guest, and where.
pub struct Move {
    to: Vm,
    uri: String,
}

impl Blueprint {
    fn start(&self, image: &Path, console: &Console, arrival: Arrival) -> Vm {
        let Kernel { image: kernel, initramfs } = kernel::prepare();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let memory = match &arrival {
            Arrival::Boot => Arc::new(Memory::new(&self.directory, number)),
            Arrival::Incoming(memory) => Arc::clone(memory),
        };
        let socket = self.directory.join(format!("qmp-{number}"));
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-machine", "q35,memory-backend=ram", "-accel", "tcg", "-cpu", "qemu64", "-smp", "1"])
            .args(["-m", &MEMORY_MIB.to_string(), "-display", "none", "-no-reboot", "-nic", "none"])
            .args(["-monitor", "none", "-serial", "stdio"])
            .arg("-object")
            .arg(format!("memory-backend-file,id=ram,size={MEMORY_MIB}M,share=on,mem-path={}", memory.0.display()))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .arg("-append")
            .arg(format!(
                "console=ttyS0 panic=-1 quiet loglevel=4 no_timer_check weft.mode={} weft.mib={} weft.seed={}",
                self.mode, self.rounds, self.seed
            ))
            .arg("-drive")
            .arg(format!(
                "file={},format={},if=none,id=disk,cache=none,aio=native,file.locking=on,discard=unmap",
                image.display(),
                self.format
            ))
            .args(["-device", "virtio-blk-pci,drive=disk"]);
        if matches!(arrival, Arrival::Incoming(_)) {
            command.args(["-incoming", "defer"]);
        }
        let process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut process = process.unwrap();
        console.listen(process.stdout.take().unwrap());
        Vm { process, qmp: None, memory, directory: self.directory.clone(), number }
    }

    /// Boots the guest.
    ///
    /// # Panics
    /// When it does not boot.
    #[must_use]
    pub fn boot(&self, image: &Path, console: &Console) -> Vm {
        let mut vm = self.start(image, console, Arrival::Boot);
        let deadline = Instant::now() + BOOT_PATIENCE;
        while !console.lines().iter().any(|line| line.ends_with("weft-guest: booted")) {
            assert!(Instant::now() < deadline, "the guest did not boot:\n{}", console.tail());
            assert!(vm.process.try_wait().unwrap().is_none(), "{}\n{}", vm.complaint(), console.tail());
            std::thread::sleep(Duration::from_millis(20));
        }
        vm
    }

    /// Tries to start a QEMU; one that finds its image locked says so and ends.
    ///
    /// # Errors
    /// What it said.
    ///
    /// # Panics
    /// When it cannot be run at all.
    pub fn try_boot(&self, image: &Path, console: &Console) -> Result<Vm, String> {
        let mut vm = self.start(image, console, Arrival::Boot);
        let socket = vm.socket();
        // It opens its image before it answers.
        match Qmp::connect_while(&socket, || vm.process.try_wait().unwrap().is_none()) {
            Ok(qmp) => {
                vm.qmp = Some(qmp);
                Ok(vm)
            }
            Err(why) => {
                let ended = has_ended(&mut vm.process, END_PATIENCE);
                Err(if ended { vm.complaint() } else { format!("it runs and does not answer: {why}") })
            }
        }
    }

    /// Starts a QEMU that waits for the guest on another host's mount of its image. The guest does not notice.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn prepare_move(&self, from: &mut Vm, image: &Path, console: &Console) -> Move {
        let mut to = self.start(image, console, Arrival::Incoming(Arc::clone(&from.memory)));
        let uri = format!("unix:{}", self.directory.join(format!("move-{}", to.number)).display());
        let shared = json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": true }] });
        to.ask("migrate-set-capabilities", shared.clone());
        to.ask("migrate-incoming", json!({ "uri": uri }));
        from.ask("migrate-set-capabilities", shared);
        Move { to, uri }
    }
}

impl Move {
    /// Sends the guest on its way and returns at once.
    ///
    /// # Panics
    /// When the QEMU that has the guest refuses.
    pub fn begin(&self, from: &mut Vm) {
        from.ask("migrate", json!({ "uri": self.uri }));
    }

    /// Waits until the guest runs in its new QEMU, which is returned. The old one has ended.
    ///
    /// # Panics
    /// When the move fails or takes too long.
    #[must_use]
    pub fn finish(self, mut from: Vm, console: &Console) -> Vm {
        let mut to = self.to;
        let deadline = Instant::now() + MOVE_PATIENCE;
        loop {
            let state = from.ask("query-migrate", json!({}));
            match state["status"].as_str() {
                Some("completed") => {
                    eprintln!("moved in {} ms, paused for {} ms", state["total-time"], state["downtime"]);
                    break;
                }
                Some("failed" | "cancelled") => panic!("the move failed: {state}\n{}", to.complaint()),
                _ => {}
            }
            assert!(Instant::now() < deadline, "the move goes on and on: {state}\n{}", console.tail());
            std::thread::sleep(Duration::from_millis(5));
        }
        from.quit();
        wait_until("the guest to run on its new host", MOVE_PATIENCE, || {
            to.ask("query-status", json!({}))["status"].as_str() == Some("running")
        });
        to
    }

    /// The QEMU that waited for the guest dies.
    pub fn abandon(self) {
        self.to.kill();
    }
}

impl Vm {
    fn socket(&self) -> PathBuf {
        self.directory.join(format!("qmp-{}", self.number))
    }

    fn ask(&mut self, command: &str, arguments: serde_json::Value) -> serde_json::Value {
        if self.qmp.is_none() {
            let socket = self.socket();
            match Qmp::connect(&socket) {
                Ok(qmp) => self.qmp = Some(qmp),
                Err(why) => panic!("{why}: {}", self.complaint()),
            }
        }
        let answer = self.qmp.as_mut().unwrap().ask(command, arguments);
        answer.unwrap_or_else(|why| panic!("{why}: {}", self.complaint()))
    }

    /// What it wrote to standard error, once it has ended.
    fn complaint(&mut self) -> String {
        use std::io::Read;
        if self.process.try_wait().ok().flatten().is_none() {
            return "QEMU runs".to_owned();
        }
        let mut text = String::new();
        if let Some(mut errors) = self.process.stderr.take() {
            let _ = errors.read_to_string(&mut text);
        }
        text
    }

    fn quit(&mut self) {
        // It may be gone before it has answered.
        if let Some(qmp) = self.qmp.as_mut() {
            let _ = qmp.ask("quit", json!({}));
        }
        wait_until("QEMU to end", EXIT_PATIENCE, || self.process.try_wait().unwrap().is_some());
    }

    /// Tells the workload to come to its end.
    ///
    /// # Panics
    /// When QEMU is gone.
    pub fn tell_to_stop(&mut self) {
        let input = self.process.stdin.as_mut().unwrap();
        input.write_all(b"stop\n").and_then(|()| input.flush()).unwrap();
    }

    /// Waits until the guest has powered off; the summary of its workload.
    ///
    /// # Panics
    /// When it failed or takes too long.
    #[must_use]
    pub fn finish(mut self, console: &Console, patience: Duration) -> String {
        let deadline = Instant::now() + patience;
        while self.process.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the guest did not end:\n{}", console.tail());
            std::thread::sleep(Duration::from_millis(50));
        }
        console.summary()
    }

    /// SIGKILL, as if the host lost power.
    ///
    /// # Panics
    /// When it does not go.
    pub fn kill(mut self) {
        self.process.kill().unwrap();
        wait_until("a killed QEMU to be gone", EXIT_PATIENCE, || self.process.try_wait().unwrap().is_some());
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}
