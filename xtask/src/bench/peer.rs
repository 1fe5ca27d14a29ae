//! The peer: a GlusterFS replica-3 volume with its `virt` profile, three bricks on this machine, mounted over FUSE.
//!
//! It lives in a network namespace of its own, because GlusterFS refuses loopback addresses. All of it is taken away
//! when the value is dropped.

use crate::command::{attempt, capture};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const NAMESPACE: &str = "weft-bench-peer";
const ADDRESS: &str = "10.98.0.1";
const VOLUME: &str = "peer";
const BRICKS: [&str; 3] = ["b1", "b2", "b3"];

pub struct GlusterVolume {
    directory: PathBuf,
}

impl GlusterVolume {
    pub fn start(directory: &Path) -> Result<Self, String> {
        // What an interrupted run left behind would be in the way.
        let volume = Self { directory: directory.to_path_buf() };
        volume.take_away();
        volume.set_up().inspect_err(|_| volume.take_away())?;
        Ok(volume)
    }

    pub fn mount_point(&self) -> PathBuf {
        self.directory.join("mnt")
    }

    fn set_up(&self) -> Result<(), String> {
        for name in BRICKS.iter().chain(&["mnt"]) {
            fs::create_dir_all(self.directory.join(name)).map_err(|e| format!("could not create {name}: {e}"))?;
        }
        capture(Command::new("ip").args(["netns", "add", NAMESPACE]))?;
        capture(&mut inside(&["ip", "link", "set", "lo", "up"]))?;
        capture(&mut inside(&["ip", "addr", "add", &format!("{ADDRESS}/32"), "dev", "lo"]))?;
        capture(inside(&["glusterd", "--log-level", "WARNING", "-p"]).arg(self.pid_file()))?;
        self.wait_for_daemon()?;
        let mut create = gluster(&["volume", "create", VOLUME, "replica", "3"]);
        for brick in BRICKS {
            create.arg(format!("{ADDRESS}:{}", self.directory.join(brick).display()));
        }
        capture(create.arg("force"))?;
        capture(&mut gluster(&["volume", "set", VOLUME, "group", "virt"]))?;
        capture(&mut gluster(&["volume", "start", VOLUME]))?;
        // The bricks report their ports a moment after the command returns.
        std::thread::sleep(Duration::from_secs(2));
        let source = format!("{ADDRESS}:/{VOLUME}");
        capture(inside(&["mount", "-t", "glusterfs", &source]).arg(self.mount_point()))?;
        Ok(())
    }

    fn wait_for_daemon(&self) -> Result<(), String> {
        for _ in 0..100 {
            if attempt(&mut gluster(&["pool", "list"])) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Err("glusterd does not answer: see /var/log/glusterfs".to_owned())
    }

    fn pid_file(&self) -> PathBuf {
        self.directory.join("glusterd.pid")
    }

    /// Undoes as much as there is; each step may find nothing to do.
    fn take_away(&self) {
        attempt(Command::new("umount").arg(self.mount_point()));
        if self.pid_file().exists() {
            attempt(&mut gluster(&["volume", "stop", VOLUME, "force"]));
            attempt(&mut gluster(&["volume", "delete", VOLUME]));
            if let Ok(pid) = fs::read_to_string(self.pid_file()) {
                attempt(Command::new("kill").arg(pid.trim()));
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        attempt(Command::new("ip").args(["netns", "del", NAMESPACE]));
        // May not exist; what cannot be deleted shows up when the bricks are made anew.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Drop for GlusterVolume {
    fn drop(&mut self) {
        self.take_away();
    }
}

fn inside(words: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{NAMESPACE}")).args(words);
    command
}

fn gluster(words: &[&str]) -> Command {
    let mut command = inside(&["gluster", "--mode=script"]);
    command.args(words);
    command
}
