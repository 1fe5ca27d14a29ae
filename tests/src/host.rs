//! A hypervisor of a test: a mount of the volume, with an address of its own on which it can be cut off or killed.
//!
//! Responsible for: mounting; dropping every packet from and to the mount's address, in silence, as a pulled cable does;
//! SIGKILL to the mount. Guarantees: nothing outside the test's network namespace is filtered. Must not know: guests.

use crate::cluster::{Cluster, wait_until};
use crate::program::run;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const EXIT_PATIENCE: Duration = Duration::from_secs(30);

pub struct Host {
    mount: PathBuf,
    address: String,
    pid: Pid,
}

impl Host {
    /// The one that has the cluster's first mount.
    ///
    /// # Panics
    /// When the cluster does not know it.
    #[must_use]
    pub fn first(cluster: &Cluster) -> Self {
        Self::at(cluster, cluster.mount().to_owned())
    }

    /// Another one, with a mount beside the first.
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[must_use]
    pub fn another(cluster: &Cluster, name: &str) -> Self {
        let mount = cluster.mount().with_file_name(name);
        eprint!("{}", run(cluster.weft(&["dev", "mount"]).arg(&mount)));
        Self::at(cluster, mount)
    }

    fn at(cluster: &Cluster, mount: PathBuf) -> Self {
        let here = |value: &Value| value["mount_point"].as_str() == mount.to_str();
        let status = cluster.json(&["dev", "status"]);
        let shown = status["mounts"].as_array().and_then(|mounts| mounts.iter().find(|m| here(m))).expect("the mount");
        let pid = shown["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        Self {
            address: shown["address"].as_str().expect("its address").to_owned(),
            pid: pid.expect("its process"),
            mount,
        }
    }

    #[must_use]
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// From now on no packet reaches the mount, and none from it reaches anybody; nobody is told.
    pub fn cut_off(&self) {
        self.filter("-I");
    }

    pub fn reconnect(&self) {
        self.filter("-D");
    }

    /// Where packets arrive: one that is refused where it leaves would tell its sender.
    fn filter(&self, change: &str) {
        for direction in ["-s", "-d"] {
            let words = ["-w", change, "INPUT", direction, &self.address, "-j", "DROP"];
            let _ = run(Command::new("iptables").args(words));
        }
    }

    /// SIGKILL, as if the host lost power. The mountpoint stays behind, dead.
    ///
    /// # Panics
    /// When it does not go.
    pub fn kill(&self) {
        kill_process(self.pid, Signal::KILL).unwrap();
        let pid = self.pid.as_raw_nonzero().to_string();
        wait_until("the killed mount to be gone", EXIT_PATIENCE, || crate::cluster::is_dead(&pid));
    }

    /// Takes the mountpoint of a mount away that is dead or good for nothing any more.
    pub fn clear(&self) {
        let _ = run(Command::new("umount").arg("-l").arg(&self.mount));
    }
}
