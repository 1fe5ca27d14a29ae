//! Where a node keeps what, under its directory.
//!
//! ```text
//! DIR/node.toml            configuration (see `config`)
//! DIR/identity/            node.json, authority.pem, certificate.pem, key.pem (0600)
//! DIR/raft/                log and vote, applied state, snapshots
//! DIR/disks/0/             the first disk, unless the configuration names others
//! DIR/run/lock             held while the worker runs
//! DIR/run/last-words       why the last worker cannot go on without a person, for its parent
//! DIR/run/worker.json      process and incarnation of the worker, for its parent
//! ```

use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLayout {
    directory: PathBuf,
}

impl NodeLayout {
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.directory.join("node.toml")
    }

    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.directory.join("identity")
    }

    #[must_use]
    pub fn raft(&self) -> PathBuf {
        self.directory.join("raft")
    }

    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.directory.join("run")
    }

    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        self.run().join("lock")
    }

    #[must_use]
    pub fn worker_file(&self) -> PathBuf {
        self.run().join("worker.json")
    }

    #[must_use]
    pub fn last_words_file(&self) -> PathBuf {
        self.run().join("last-words")
    }

    /// A disk as the configuration names it: absolute, or relative to the node's directory.
    #[must_use]
    pub fn disk(&self, configured: &Path) -> PathBuf {
        self.directory.join(configured)
    }
}
