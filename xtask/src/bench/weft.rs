//! The thing measured: a `weft dev` cluster in a directory of its own, stopped and deleted afterwards.

use crate::command::{attempt, capture, released_weft};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub struct DevCluster {
    directory: PathBuf,
    foreground: Option<Child>,
}

/// Resident memory of one process, as the kernel counts it.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessMemory {
    pub who: String,
    pub resident_bytes: u64,
    pub peak_bytes: u64,
}

#[derive(Deserialize)]
struct Status {
    nodes: Vec<NodeStatus>,
    mounts: Vec<MountStatus>,
}

#[derive(Deserialize)]
struct NodeStatus {
    number: u8,
    worker_pid: Option<i32>,
    memory: Memory,
}

#[derive(Deserialize)]
struct MountStatus {
    client: u8,
    memory: Memory,
}

#[derive(Deserialize)]
struct Memory {
    resident_bytes: u64,
    peak_bytes: u64,
}

impl DevCluster {
    pub fn start(directory: &Path) -> Result<Self, String> {
        let mut cluster = Self { directory: directory.to_path_buf(), foreground: None };
        cluster.delete();
        fs::create_dir_all(directory).map_err(|e| format!("could not create {}: {e}", directory.display()))?;
        let mut child = cluster
            .weft(&["dev"])
            .arg("--mount")
            .arg(cluster.mount_point())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("could not start weft: {e}"))?;
        let output = child.stdout.take();
        cluster.foreground = Some(child);
        let mut lines = BufReader::new(output.ok_or("weft has no output")?).lines().map_while(Result::ok);
        if !lines.any(|line| line.starts_with("ready:")) {
            return Err("weft dev ended before it was ready: see what it said above".to_owned());
        }
        // Keep reading, so that a full pipe never stops the foreground command.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(cluster)
    }

    pub fn mount_point(&self) -> PathBuf {
        self.directory.join("mnt")
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// A `weft` command on this cluster; `dev` commands get its directory.
    pub fn weft(&self, words: &[&str]) -> Command {
        let mut command = Command::new(released_weft());
        command.args(words);
        if words.first() == Some(&"dev") {
            command.arg("--dir").arg(self.data());
        } else {
            command.arg("--cluster").arg(self.data());
        }
        command
    }

    pub fn memory(&self) -> Result<Vec<ProcessMemory>, String> {
        let status = self.status()?;
        let row =
            |who: String, m: &Memory| ProcessMemory { who, resident_bytes: m.resident_bytes, peak_bytes: m.peak_bytes };
        let nodes = status.nodes.iter().map(|n| row(format!("node {}", n.number), &n.memory));
        let mounts = status.mounts.iter().map(|m| row(format!("mount {}", m.client), &m.memory));
        Ok(nodes.chain(mounts).collect())
    }

    /// The processes that do the nodes' work.
    pub fn processes(&self) -> Result<Vec<(String, i32)>, String> {
        let status = self.status()?;
        Ok(status.nodes.iter().filter_map(|n| Some((format!("node {}", n.number), n.worker_pid?))).collect())
    }

    fn status(&self) -> Result<Status, String> {
        let output = capture(&mut self.weft(&["dev", "status", "--json"]))?;
        serde_json::from_slice(&output.stdout).map_err(|e| format!("weft dev status: {e}"))
    }

    pub fn stop(mut self) -> Result<(), String> {
        capture(&mut self.weft(&["dev", "stop"]))?;
        if let Some(mut child) = self.foreground.take() {
            child.wait().map_err(|e| format!("could not wait for weft dev: {e}"))?;
        }
        Ok(())
    }

    fn delete(&mut self) {
        if self.data().join("dev.json").exists() {
            attempt(&mut self.weft(&["dev", "stop"]));
            attempt(&mut self.weft(&["dev", "reset", "--yes"]));
        }
        if let Some(mut child) = self.foreground.take() {
            // After `dev stop` it has ended; if that failed, it must not outlive the bench.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for DevCluster {
    fn drop(&mut self) {
        self.delete();
    }
}
