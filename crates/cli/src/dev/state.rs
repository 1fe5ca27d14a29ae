//! `dev.json`: what a development cluster on this machine consists of, shared by the foreground command and those
//! typed in other terminals. Changed only under the lock, replaced as a whole by rename.

use super::process::ProcessName;
use crate::failure::{Failure, Outcome, While};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

/// Version of the file's layout; another one is refused by name.
const STATE_VERSION: u32 = 1;
pub const CONTROL_PORT: u16 = 7400;
pub const DATA_PORT: u16 = 7401;
pub const JOIN_PORT: u16 = 7402;
const FOREGROUND_LOCK: &str = "foreground.lock";
/// Node N has 127.1.0.N, so there are no more than this.
pub const MAX_NODES: u8 = 64;
/// Client K has 127.1.1.K.
pub const MAX_CLIENTS: u8 = 64;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub version: u32,
    pub volume: String,
    /// Of each process.
    #[serde(default = "default_memory_mib")]
    pub memory_mib: u32,
    pub nodes: Vec<Node>,
    pub mounts: Vec<Mount>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Node {
    pub number: u8,
    pub directory: PathBuf,
    pub disk: PathBuf,
    pub log: PathBuf,
    pub control_address: SocketAddr,
    pub data_address: SocketAddr,
    pub join_address: SocketAddr,
    /// The parent process of the node; `None` when it was stopped or killed on purpose.
    pub process: Option<ProcessName>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mount {
    pub client: u8,
    pub address: Ipv4Addr,
    pub mount_point: PathBuf,
    pub log: PathBuf,
    pub process: Option<ProcessName>,
}

impl Node {
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some_and(ProcessName::is_alive)
    }
}

impl Mount {
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some_and(ProcessName::is_alive)
    }
}

/// Paths within a development directory.
#[derive(Clone, Debug)]
pub struct Layout {
    pub root: PathBuf,
}

impl Layout {
    /// # Errors
    /// When the current directory, to which `root` may be relative, is gone.
    pub fn new(root: &Path) -> Outcome<Self> {
        Ok(Self { root: std::path::absolute(root).doing(format!("resolve {}", root.display()))? })
    }

    #[must_use]
    pub fn state_file(&self) -> PathBuf {
        self.root.join("dev.json")
    }

    #[must_use]
    pub fn admin(&self) -> PathBuf {
        self.root.join(crate::locate::DEV_ADMIN)
    }

    #[must_use]
    pub fn client(&self, number: u8) -> PathBuf {
        self.root.join(format!("client-{number}"))
    }

    #[must_use]
    pub fn node(&self, number: u8) -> Node {
        let directory = self.root.join(format!("node-{number}"));
        Node {
            number,
            disk: directory.join("disks/0"),
            log: directory.join("log"),
            control_address: SocketAddrV4::new(node_address(number), CONTROL_PORT).into(),
            data_address: SocketAddrV4::new(node_address(number), DATA_PORT).into(),
            join_address: SocketAddrV4::new(node_address(number), JOIN_PORT).into(),
            process: None,
            directory,
        }
    }

    #[must_use]
    pub fn mount(&self, client: u8, mount_point: PathBuf) -> Mount {
        Mount {
            client,
            address: client_address(client),
            mount_point,
            log: self.client(client).join("log"),
            process: None,
        }
    }

    /// Held by the foreground `weft dev` for as long as it runs; names its process.
    ///
    /// # Errors
    /// When another one holds it.
    pub fn lock_foreground(&self) -> Outcome<File> {
        let mut file = open_lock(&self.root.join(FOREGROUND_LOCK))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Failure::input(format!(
                    "a development cluster already runs in {}: see `weft dev status`, or end it with `weft dev stop`",
                    self.root.display()
                )));
            }
            Err(error) => return Err(error).doing(format!("lock {}", self.root.display())),
        }
        let pid = i32::try_from(std::process::id()).doing("read a process id")?;
        let name = ProcessName::of(pid).ok_or("/proc is not mounted").doing("find this process")?;
        let text = serde_json::to_vec(&name).doing("write JSON")?;
        file.set_len(0).and_then(|()| file.write_all(&text)).doing(format!("write to {}", self.root.display()))?;
        Ok(file)
    }

    /// The process of the last foreground `weft dev`, which may have ended.
    #[must_use]
    pub fn foreground(&self) -> Option<ProcessName> {
        serde_json::from_slice(&fs::read(self.root.join(FOREGROUND_LOCK)).ok()?).ok()
    }

    /// # Errors
    /// When there is no development cluster, or its file does not read.
    pub fn load(&self) -> Outcome<State> {
        let path = self.state_file();
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Failure::input(format!(
                    "there is no development cluster in {}: start one with `weft dev`, or name its directory with --dir",
                    self.root.display()
                )));
            }
            other => other.doing(format!("read {}", path.display()))?,
        };
        let state: State = serde_json::from_str(&text).doing(format!("read {}", path.display()))?;
        if state.version == STATE_VERSION {
            return Ok(state);
        }
        Err(Failure::input(format!(
            "{} has version {}, this program knows version {STATE_VERSION}: use the program that made it",
            path.display(),
            state.version
        )))
    }

    /// Changes the state under the lock.
    ///
    /// # Errors
    /// When it cannot be read or replaced, or `change` fails; then nothing is written.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> Outcome<T>) -> Outcome<T> {
        let lock = open_lock(&self.root.join("state.lock"))?;
        flock(&lock, FlockOperation::LockExclusive).doing(format!("lock {}", self.root.display()))?;
        let mut state = self.load()?;
        let result = change(&mut state)?;
        self.store(&state)?;
        Ok(result)
    }

    /// First state of a new cluster.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(&self, nodes: u8, volume: &str, memory_mib: u32) -> Outcome {
        let nodes = (1..=nodes).map(|number| self.node(number)).collect();
        let volume = volume.to_owned();
        self.store(&State { version: STATE_VERSION, volume, memory_mib, nodes, mounts: Vec::new() })
    }

    fn store(&self, state: &State) -> Outcome {
        let path = self.state_file();
        let draft = self.root.join("dev.json.new");
        let text = serde_json::to_string_pretty(state).doing("write JSON")?;
        fs::write(&draft, text).doing(format!("write {}", draft.display()))?;
        fs::rename(&draft, &path).doing(format!("replace {}", path.display()))
    }
}

/// Of a cluster that was made before it could be chosen.
const fn default_memory_mib() -> u32 {
    weft_client::DEFAULT_MEMORY_MIB
}

#[must_use]
pub const fn node_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, 0, number)
}

#[must_use]
pub const fn client_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, 1, number)
}

fn open_lock(path: &Path) -> Outcome<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .read(true)
        .open(path)
        .doing(format!("open {}", path.display()))
}
