//! The subcommands of `weft dev` that act on a running cluster from another terminal.

use super::process::{self, Memory};
use super::state::{Layout, MAX_CLIENTS};
use super::{mounts, preflight, start};
use crate::admin::Admin;
use crate::commands::volume::Health;
use crate::commands::{Consent, Context, Decision};
use crate::failure::{Failure, Outcome, While};
use crate::output::{Listing, say};
use crate::units;
use serde::Serialize;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Status must be quick even when no metadata leader is to be had.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);
const KILL_PATIENCE: Duration = Duration::from_secs(5);
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kill {
    WholeNode,
    WorkerOnly,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterLogs {
    End,
    Follow,
}

#[derive(Serialize)]
struct Status {
    directory: PathBuf,
    volume: String,
    foreground_pid: Option<i32>,
    /// What each node and each mount was made with.
    memory_limit_bytes: u64,
    nodes: Vec<NodeStatus>,
    mounts: Vec<MountStatus>,
    cluster: ClusterView,
}

#[derive(Serialize)]
struct NodeStatus {
    number: u8,
    running: bool,
    pid: Option<i32>,
    /// The process that does the work, and serves data and metadata.
    worker_pid: Option<i32>,
    address: Ipv4Addr,
    control_address: SocketAddr,
    data_address: SocketAddr,
    directory: PathBuf,
    disks: Vec<PathBuf>,
    log: PathBuf,
    memory: Memory,
}

#[derive(Serialize)]
struct MountStatus {
    client: u8,
    running: bool,
    pid: Option<i32>,
    address: Ipv4Addr,
    mount_point: PathBuf,
    mounted: bool,
    log: PathBuf,
    memory: Memory,
}

/// What the cluster says of itself; why not, when it does not answer.
#[derive(Serialize)]
struct ClusterView {
    answers: bool,
    why_not: Option<String>,
    /// Number of the node that leads the metadata group.
    leader: Option<u8>,
    health: Option<Health>,
}

/// # Errors
/// When there is no cluster.
pub fn status(context: Context<'_>, directory: &Path) -> Outcome {
    let layout = Layout::new(directory)?;
    let state = layout.load()?;
    let nodes = state.nodes.iter().map(|node| {
        let process = node.process.filter(|p| p.is_alive());
        let worker = process.and_then(|p| p.descendants().first().copied());
        NodeStatus {
            number: node.number,
            running: process.is_some(),
            pid: process.map(|p| p.pid),
            worker_pid: worker.map(|p| p.pid),
            address: super::state::node_address(node.number),
            control_address: node.control_address,
            data_address: node.data_address,
            directory: node.directory.clone(),
            disks: vec![node.disk.clone()],
            log: node.log.clone(),
            memory: worker.or(process).and_then(process::ProcessName::memory).unwrap_or_default(),
        }
    });
    let mounts = state.mounts.iter().map(|mount| {
        let process = mount.process.filter(|p| p.is_alive());
        MountStatus {
            client: mount.client,
            running: process.is_some(),
            pid: process.map(|p| p.pid),
            address: mount.address,
            mount_point: mount.mount_point.clone(),
            mounted: mounts::mounted_at(&mount.mount_point).is_some_and(|m| m.is_weft()),
            log: mount.log.clone(),
            memory: process.and_then(process::ProcessName::memory).unwrap_or_default(),
        }
    });
    let status = Status {
        nodes: nodes.collect(),
        mounts: mounts.collect(),
        cluster: view(&layout, &state.volume),
        foreground_pid: layout.foreground().filter(|p| p.is_alive()).map(|p| p.pid),
        memory_limit_bytes: u64::from(state.memory_mib) << 20,
        directory: layout.root,
        volume: state.volume,
    };
    context.audience.show(&status, describe)
}

fn view(layout: &Layout, volume: &str) -> ClusterView {
    let asked = Admin::connect_with(&layout.admin(), STATUS_PATIENCE).and_then(|admin| admin.status());
    match asked {
        Err(failure) => ClusterView { answers: false, why_not: Some(failure.to_string()), leader: None, health: None },
        Ok(status) => {
            let leader = status.leader.and_then(|id| status.map.nodes.iter().find(|n| n.id == id));
            let number = leader.and_then(|n| n.name.strip_prefix("node-")?.parse().ok());
            let record = status.map.volumes.iter().find(|v| v.name == volume);
            ClusterView { answers: true, why_not: None, leader: number, health: record.map(|v| Health::of(v, &status)) }
        }
    }
}

fn describe(status: &Status) -> String {
    let mut nodes = Listing::new(
        &[">node", "state", ">pid", ">worker", "address", ">memory", ">peak", ">limit", "disk"],
        "no nodes",
    );
    let pid = |pid: Option<i32>| pid.map_or_else(|| "-".to_owned(), |p| p.to_string());
    for node in &status.nodes {
        let leads = status.cluster.leader == Some(node.number);
        nodes.row([
            node.number.to_string(),
            if node.running { if leads { "runs, leads" } else { "runs" } } else { "down" }.to_owned(),
            pid(node.pid),
            pid(node.worker_pid),
            node.address.to_string(),
            units::bytes(node.memory.resident_bytes),
            units::bytes(node.memory.peak_bytes),
            units::bytes(status.memory_limit_bytes),
            node.disks.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(", "),
        ]);
    }
    let mut mounts =
        Listing::new(&[">client", "state", ">pid", "address", ">memory", ">peak", ">limit", "mounted at"], "no mounts");
    for mount in &status.mounts {
        mounts.row([
            mount.client.to_string(),
            if mount.running && mount.mounted { "mounted" } else { "down" }.to_owned(),
            pid(mount.pid),
            mount.address.to_string(),
            units::bytes(mount.memory.resident_bytes),
            units::bytes(mount.memory.peak_bytes),
            units::bytes(status.memory_limit_bytes),
            mount.mount_point.display().to_string(),
        ]);
    }
    let mut lines = vec![nodes.finish(), String::new(), mounts.finish(), String::new()];
    match (&status.cluster.health, &status.cluster.why_not) {
        (Some(health), _) => {
            lines.push(format!("volume {}: {}", status.volume, health.summary()));
            lines.extend(health.reasons.iter().map(|r| format!("- {r}")));
        }
        (None, Some(why)) => lines.push(why.clone()),
        (None, None) => lines.push(format!("volume {} does not exist yet", status.volume)),
    }
    lines.join("\n")
}

/// # Errors
/// When the node does not run, or survives.
pub fn kill(directory: &Path, number: u8, what: Kill) -> Outcome {
    let layout = Layout::new(directory)?;
    let process = layout.change(|state| {
        let node = start::entry(state, number)?;
        let Some(process) = node.process.filter(|p| p.is_alive()) else {
            return Err(Failure::input(format!("node {number} does not run: start it with `weft dev start {number}`")));
        };
        if what == Kill::WholeNode {
            node.process = None;
        }
        Ok(process)
    })?;
    match what {
        Kill::WholeNode => {
            let workers = process.descendants();
            process.kill_with_descendants();
            let gone = workers.into_iter().chain([process]).all(|p| p.wait_for_end(KILL_PATIENCE));
            if !gone {
                return Err(Failure::failed(format!(
                    "node {number} (pid {}) cannot be killed: see `dmesg`",
                    process.pid
                )));
            }
            say(&format!("killed node {number}; start it again with `weft dev start {number}`"))
        }
        Kill::WorkerOnly => {
            let Some(worker) = process.descendants().first().copied() else {
                return Err(Failure::failed(format!(
                    "node {number} has no worker just now: see `weft dev logs {number}`"
                )));
            };
            worker.signal(rustix::process::Signal::KILL);
            say(&format!("killed the worker of node {number} (pid {}); its parent starts another one", worker.pid))
        }
    }
}

/// # Errors
/// When it runs already or cannot be started.
pub fn start(directory: &Path, number: u8) -> Outcome {
    let layout = Layout::new(directory)?;
    let node = start::entry(&mut layout.load()?, number)?.clone();
    if layout.foreground().is_none_or(|p| !p.is_alive()) {
        return Err(Failure::input("the cluster is not running: start all of it with `weft dev`"));
    }
    let process = start::node_process(&layout, &node, None)?;
    start::wait_started(&node, process)?;
    say(&format!("started node {number} (pid {}); `weft volume heal vms --watch` shows how it catches up", process.pid))
}

/// # Errors
/// When there is no such node or its log cannot be read.
pub fn logs(directory: &Path, number: u8, lines: usize, after: AfterLogs) -> Outcome {
    let layout = Layout::new(directory)?;
    let node = start::entry(&mut layout.load()?, number)?.clone();
    let mut file = File::open(&node.log).doing(format!("open {}", node.log.display()))?;
    let shown = process::last_lines(&node.log, lines);
    say(&shown)?;
    if after == AfterLogs::End {
        return Ok(());
    }
    file.seek(SeekFrom::End(0)).doing("follow the log")?;
    let mut buffer = Vec::new();
    loop {
        file.read_to_end(&mut buffer).doing("follow the log")?;
        std::io::stdout().write_all(&buffer).doing("write to standard output")?;
        buffer.clear();
        std::thread::sleep(FOLLOW_INTERVAL);
    }
}

/// # Errors
/// When the mountpoint cannot be used or the mount does not come up.
pub fn mount(directory: &Path, mount_point: &Path) -> Outcome {
    let layout = Layout::new(directory)?;
    let state = layout.load()?;
    let mount_point = mounts::normalize(mount_point);
    preflight::machine()?;
    preflight::mount_point(&mount_point)?;
    let used = |client: u8| state.mounts.iter().any(|m| m.client == client && m.is_running());
    // Client 1 is the mount of `weft dev` itself.
    let client = (2..=MAX_CLIENTS).find(|c| !used(*c)).ok_or_else(|| {
        Failure::input(format!("there are {MAX_CLIENTS} mounts already: unmount one with `weft unmount DIR`"))
    })?;
    let admin = Admin::connect_with(&layout.admin(), KILL_PATIENCE)?;
    start::mount(&layout, &admin, &layout.mount(client, mount_point.clone()), &state.volume)?;
    say(&format!("mounted volume {} at {} as client {client}", state.volume, mount_point.display()))
}

/// # Errors
/// When it runs, or cannot be deleted.
pub fn reset(directory: &Path, consent: Consent) -> Outcome {
    let layout = Layout::new(directory)?;
    let state = layout.load()?;
    let runs = state.nodes.iter().any(super::state::Node::is_running)
        || state.mounts.iter().any(super::state::Mount::is_running)
        || layout.foreground().is_some_and(process::ProcessName::is_alive);
    if runs {
        return Err(Failure::input(format!(
            "the cluster in {} runs: stop it first with `weft dev stop`",
            layout.root.display()
        )));
    }
    let what = format!("deletes the cluster in {} with all its data", layout.root.display());
    if consent.decide(&what)? == Decision::OnlySay {
        return Ok(());
    }
    // Only what `weft dev` made; the state file last, so that an interrupted deletion can be repeated.
    let nodes = state.nodes.iter().map(|n| n.directory.clone());
    let clients = (1..=MAX_CLIENTS).map(|k| layout.client(k)).filter(|d| d.exists());
    for path in nodes.chain(clients).chain([layout.admin()]).filter(|p| p.exists()) {
        fs::remove_dir_all(&path).doing(format!("delete {}", path.display()))?;
    }
    for name in ["foreground.lock", "state.lock", "dev.json"] {
        let path = layout.root.join(name);
        if path.exists() {
            fs::remove_file(&path).doing(format!("delete {}", path.display()))?;
        }
    }
    // Not empty when the user keeps something else in it, or a mountpoint of its own file system.
    let _ = fs::remove_dir(&layout.root);
    say(&format!("deleted the cluster in {}", layout.root.display()))
}
