//! A `weft dev` cluster for one test.

use crate::isolation::Isolation;
use crate::program::{self, end, has_ended, output, run, said, weft_binary};
use rustix::process::Pid;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const READY_PATIENCE: Duration = Duration::from_secs(120);
const STOP_PATIENCE: Duration = Duration::from_secs(90);
/// Resync of what a test writes, on a busy machine.
pub const HEAL_PATIENCE: Duration = Duration::from_secs(180);
/// Small journals, so that a test does not spend its time on filling them with zeros.
const JOURNAL_MIB: &str = "64";
const LOG_LINES_ON_FAILURE: usize = 40;

pub struct Cluster {
    data: PathBuf,
    mount: PathBuf,
    foreground: Option<Child>,
    said: Arc<Mutex<Vec<String>>>,
    // Dropped last: whatever is left goes with it.
    isolation: Isolation,
}

impl Cluster {
    /// Three nodes in a fresh directory, volume `vms` mounted.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn start() -> Self {
        Self::start_in(Isolation::enter(), "data")
    }

    /// The same, with nodes and mounts that may take so much memory.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn start_within(memory_mib: u32) -> Self {
        let mut cluster = Self::prepare(Isolation::enter(), "data");
        cluster.run_dev_with(&["--memory-mib", &memory_mib.to_string()]);
        cluster
    }

    /// The same in a namespace that the caller has, with everything it keeps below the directory `data` of its files (a
    /// small file system, say).
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn start_in(isolation: Isolation, data: &str) -> Self {
        let mut cluster = Self::prepare(isolation, data);
        cluster.run_dev();
        cluster
    }

    fn prepare(isolation: Isolation, data: &str) -> Self {
        let (data, mount) = (isolation.files().join(data), isolation.files().join("mnt"));
        Self { data, mount, foreground: None, said: Arc::default(), isolation }
    }

    /// Starts `weft dev` and waits for its `ready:` line.
    ///
    /// # Panics
    /// When it ends or takes too long.
    pub fn run_dev(&mut self) {
        self.run_dev_with(&[]);
    }

    fn run_dev_with(&mut self, words: &[&str]) {
        let mut command = self.weft(&["dev", "--journal-mib", JOURNAL_MIB]);
        command.args(words);
        command.arg("--mount").arg(&self.mount).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        self.foreground = Some(child);
        self.said = Arc::default();
        let said = Arc::clone(&self.said);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                eprintln!("[weft dev] {line}");
                said.lock().unwrap().push(line);
            }
        });
        wait_until("weft dev to be ready", READY_PATIENCE, || {
            let ended = self.foreground.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "weft dev ended ({ended:?}) before it was ready");
            self.said().iter().any(|line| line.starts_with("ready:"))
        });
    }

    /// Lines that `weft dev` printed since it was last started.
    ///
    /// # Panics
    /// When a reader thread panicked.
    #[must_use]
    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    #[must_use]
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// Where the test may keep files of its own; deleted with the cluster.
    #[must_use]
    pub fn files(&self) -> &Path {
        self.isolation.files()
    }

    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A `weft` command on this cluster.
    #[must_use]
    pub fn weft(&self, words: &[&str]) -> Command {
        weft_on(&self.data, words)
    }

    /// Runs a `weft` command that has to succeed; what it printed.
    #[must_use]
    pub fn ok(&self, words: &[&str]) -> String {
        run(&mut self.weft(words))
    }

    /// Runs a `weft` command that has to succeed and prints JSON.
    ///
    /// # Panics
    /// When it fails or prints something else.
    #[must_use]
    pub fn json(&self, words: &[&str]) -> Value {
        let text = run(self.weft(words).arg("--json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("weft {words:?}: {error} in:\n{text}"))
    }

    /// The reply even of a command that fails, if it is JSON.
    #[must_use]
    pub fn try_json(&self, words: &[&str]) -> Option<Value> {
        let output = output(self.weft(words).arg("--json"));
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Kills a node with SIGKILL, parent and worker.
    pub fn kill_node(&self, number: u64) {
        eprint!("{}", self.ok(&["dev", "kill", &number.to_string()]));
    }

    /// Parent and worker of a node, to be killed at a moment that a command would miss.
    ///
    /// # Panics
    /// When the node does not run.
    #[must_use]
    pub fn processes_of_node(&self, number: u64) -> Vec<Pid> {
        let status = self.json(&["dev", "status"]);
        let node = status["nodes"].as_array().and_then(|nodes| nodes.iter().find(|n| n["number"] == number));
        let node = node.expect("a node of this number");
        let pid = |name: &str| node[name].as_i64().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        // The parent first: it would start the worker anew.
        vec![pid("pid").expect("the node runs"), pid("worker_pid").expect("its worker runs")]
    }

    pub fn start_node(&self, number: u64) {
        eprint!("{}", self.ok(&["dev", "start", &number.to_string()]));
    }

    /// Number of the node that leads the metadata group.
    ///
    /// # Panics
    /// When none does.
    #[must_use]
    pub fn leader(&self) -> u64 {
        self.json(&["dev", "status"])["cluster"]["leader"].as_u64().expect("a metadata leader")
    }

    /// Process ids of all nodes (parents and workers) and mounts.
    #[must_use]
    pub fn process_ids(&self) -> Vec<i64> {
        let status = self.json(&["dev", "status"]);
        let nodes = status["nodes"].as_array().into_iter().flatten();
        let mounts = status["mounts"].as_array().into_iter().flatten();
        nodes
            .flat_map(|n| [&n["pid"], &n["worker_pid"]])
            .chain(mounts.map(|m| &m["pid"]))
            .filter_map(Value::as_i64)
            .collect()
    }

    /// Waits until every replica is in sync.
    ///
    /// # Panics
    /// When that takes too long; says what is missing.
    pub fn wait_healthy(&self) {
        let began = Instant::now();
        let mut last = String::new();
        while began.elapsed() < HEAL_PATIENCE {
            if let Some(healing) = self.try_json(&["volume", "heal", "vms"]) {
                if healing["replicas_missing"].as_u64() == Some(0) {
                    eprintln!("all replicas in sync after {:.1} s", began.elapsed().as_secs_f64());
                    return;
                }
                last = healing.to_string();
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        panic!("the replicas are not in sync after {} s: {last}", HEAL_PATIENCE.as_secs());
    }

    /// All replicas hold the same blocks. Checkpoints may be under way, so a difference gets a few more looks.
    ///
    /// # Panics
    /// When they differ.
    pub fn assert_replicas_identical(&self) {
        let mut last = String::new();
        for _ in 0..20 {
            let output = output(&mut self.weft(&["volume", "digest", "vms"]));
            last = said(&output);
            if output.status.success() {
                eprint!("{last}");
                return;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        panic!("{last}");
    }

    /// Prints what every process took at its peak, and holds it against the limit.
    ///
    /// # Panics
    /// When one took more.
    pub fn check_memory(&self) {
        let status = self.json(&["dev", "status"]);
        let limit = status["memory_limit_bytes"].as_u64().expect("a limit of memory");
        for (kind, name) in [("nodes", "number"), ("mounts", "client")] {
            for process in status[kind].as_array().into_iter().flatten() {
                let peak = process["memory"]["peak_bytes"].as_u64().unwrap_or(0);
                eprintln!("memory: {kind} {} peak {} MiB", process[name], peak >> 20);
                assert!(peak <= limit, "{kind} {} took {} MiB at its peak", process[name], peak >> 20);
            }
        }
    }

    /// Stops cleanly, by the signal that Ctrl-C sends, and checks that nothing is left.
    ///
    /// # Panics
    /// When it takes too long or leaves something behind.
    pub fn stop(&mut self) {
        let pids = self.process_ids();
        let mut child = self.foreground.take().expect("weft dev runs");
        let pid = Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let mut status = None;
        wait_until("weft dev to stop", STOP_PATIENCE, || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.is_some_and(|s| s.success()), "weft dev ended with {status:?}");
        assert!(!is_mounted(&self.mount), "{} is still mounted", self.mount.display());
        for pid in pids {
            assert!(is_dead(&pid.to_string()), "process {pid} is left");
        }
    }

    /// SIGKILL to everything at once, as if the machine's processes vanished. The mount stays behind, dead.
    ///
    /// # Panics
    /// When there is nothing to kill.
    pub fn kill_everything(&mut self) {
        let mut child = self.foreground.take().expect("weft dev runs");
        let mut pids: Vec<String> = self.process_ids().iter().map(ToString::to_string).collect();
        assert!(pids.len() >= 7, "three nodes with their workers, and a mount: {pids:?}");
        pids.push(child.id().to_string());
        let _ = run(Command::new("kill").arg("-9").args(&pids));
        child.wait().unwrap();
        wait_until("the killed processes to be gone", Duration::from_secs(30), || pids.iter().all(|pid| is_dead(pid)));
    }

    /// What is left after a test killed nodes and mount itself: the foreground command.
    ///
    /// # Panics
    /// When it is not running.
    pub fn kill_everything_left(&mut self) {
        let mut child = self.foreground.take().expect("weft dev runs");
        child.kill().unwrap();
        assert!(has_ended(&mut child, STOP_PATIENCE), "weft dev stays although it was killed");
    }

    /// Collects the foreground command, which somebody else has stopped.
    ///
    /// # Panics
    /// When it did not end well.
    pub fn forget_foreground(&mut self) {
        let status = self.foreground.take().expect("weft dev ran").wait().unwrap();
        assert!(status.success(), "weft dev ended with {status}");
    }

    /// The JSON of a command that may say with its exit code that something is wrong.
    ///
    /// # Panics
    /// When it prints no JSON.
    #[must_use]
    pub fn json_of_failing(&self, words: &[&str]) -> Value {
        self.try_json(words).unwrap_or_else(|| panic!("weft {words:?} printed no JSON"))
    }

    fn show_logs(&self) {
        for entry in std::fs::read_dir(&self.data).into_iter().flatten().flatten() {
            let log = entry.path().join("log");
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            if !lines.is_empty() {
                let tail = &lines[lines.len().saturating_sub(LOG_LINES_ON_FAILURE)..];
                eprintln!("--- {} ---\n{}", log.display(), tail.join("\n"));
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        // Nothing here may panic: it runs while a failed test unwinds.
        let stopped = self.weft(&["dev", "stop"]).output().is_ok_and(|o| o.status.success());
        if let Some(mut child) = self.foreground.take()
            && !(stopped && has_ended(&mut child, STOP_PATIENCE))
        {
            end(&mut child);
        }
        // What could not be stopped is ended by the guard of the namespace.
    }
}

/// A `weft` command on the cluster in `data`.
#[must_use]
pub fn weft_on(data: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(weft_binary());
    command.args(words).env_remove("WEFT_CLUSTER");
    if words.first() == Some(&"dev") {
        command.arg("--dir").arg(data);
    } else {
        command.arg("--cluster").arg(data);
    }
    command
}

/// Gone, or a zombie that nobody has collected yet.
#[must_use]
pub fn is_dead(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.trim_start().is_empty() || rest.trim_start().starts_with(['Z', 'X']))
}

/// Whether something is mounted at exactly this path.
#[must_use]
pub fn is_mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().any(|line| line.split(' ').nth(4).is_some_and(|point| Path::new(point) == path))
}

/// Polls until it holds.
///
/// # Panics
/// When it does not hold in time.
pub fn wait_until(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !holds() {
        assert!(Instant::now() < deadline, "waited {} s for {what}, in vain", patience.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Bytes that cannot be confused with those of another place: every 8-byte word tells its own offset and a seed.
#[must_use]
pub fn pattern(seed: u64, offset: u64, length: usize) -> Vec<u8> {
    (0..length / 8)
        .flat_map(|word| {
            (seed.rotate_left(32) ^ (offset + word as u64 * 8)).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()
        })
        .collect()
}

/// Runs a program with a file of the mount as its last argument.
#[must_use]
pub fn run_on(program: &str, words: &[&str], path: &Path) -> String {
    program::run(Command::new(program).args(words).arg(path))
}
