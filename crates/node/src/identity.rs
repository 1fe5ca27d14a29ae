//! Who this node is: `DIR/identity/`.
//!
//! Responsible for: `node.json` (cluster, node id, last incarnation, where the others are), the credentials beside it,
//! and the mark of an unfinished setup. Guarantees: `node.json` is written last, durably, so a directory that has it is
//! whole; the incarnation is durable before anything is served under it. Must not know: how one becomes a member.

use crate::layout::NodeLayout;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use weft_transport::Credentials;
use weft_types::{ClusterId, Incarnation, NodeId};

const NODE_FILE: &str = "node.json";
const CREDENTIALS_FILE: &str = "credentials";
const UNFINISHED_FILE: &str = "unfinished";
const VERSION: u32 = 1;

/// `node.json`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeIdentity {
    pub cluster: ClusterId,
    pub node: NodeId,
    /// Zero before the first registration.
    pub incarnation: Incarnation,
    /// Control addresses of the cluster's nodes, as last known; how to find the others when Raft does not tell.
    pub control_addresses: Vec<SocketAddr>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    version: u32,
    cluster: String,
    node: NodeId,
    incarnation: Incarnation,
    control_addresses: Vec<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{}: this directory holds no node; make a cluster with `weft cluster init`, or join one with `weft node run --join TOKEN`", .0.display())]
    Absent(PathBuf),
    #[error("{}: {what} here was interrupted and nothing of it is in use; remove {} and what is in the node's disk directories, then repeat it (a join needs a new token)", directory.display(), .remove.join(", "))]
    Unfinished { directory: PathBuf, what: String, remove: Vec<String> },
    #[error("{}: {why}", path.display())]
    Malformed { path: PathBuf, why: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Io { path, source }
}

impl NodeIdentity {
    /// # Errors
    /// When there is none, its setup was interrupted, or it does not read.
    pub fn load(layout: &NodeLayout) -> Result<Self, IdentityError> {
        let path = layout.identity().join(NODE_FILE);
        check_finished(layout)?;
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(IdentityError::Absent(layout.directory().to_owned()));
            }
            Err(error) => return Err(at(&path)(error)),
        };
        Self::parse(&bytes).map_err(|why| IdentityError::Malformed { path, why })
    }

    /// # Errors
    /// Why it does not read.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let file: NodeFile = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if file.version != VERSION {
            return Err(format!(
                "version {}, this program reads version {VERSION}; run the release that wrote it",
                file.version
            ));
        }
        let cluster = file.cluster.parse().map_err(|error| format!("cluster: {error}"))?;
        Ok(Self { cluster, node: file.node, incarnation: file.incarnation, control_addresses: file.control_addresses })
    }

    /// # Errors
    /// When it cannot be made durable.
    pub fn save(&self, layout: &NodeLayout) -> Result<(), IdentityError> {
        let file = NodeFile {
            version: VERSION,
            cluster: self.cluster.to_string(),
            node: self.node,
            incarnation: self.incarnation,
            control_addresses: self.control_addresses.clone(),
        };
        let path = layout.identity().join(NODE_FILE);
        let text = serde_json::to_vec_pretty(&file).map_err(|error| at(&path)(error.into()))?;
        replace_file(&path, &text).map_err(at(&path))
    }
}

#[must_use]
pub fn credentials_file(layout: &NodeLayout) -> PathBuf {
    layout.identity().join(CREDENTIALS_FILE)
}

/// # Errors
/// When they are missing, or for somebody else than `node.json` says.
pub fn load_credentials(layout: &NodeLayout, identity: &NodeIdentity) -> Result<Credentials, IdentityError> {
    let path = credentials_file(layout);
    let malformed = |why: String| IdentityError::Malformed { path: path.clone(), why };
    let credentials = Credentials::load(&path).map_err(|error| malformed(error.to_string()))?;
    let named = credentials.identity();
    if named.cluster != identity.cluster || named.as_node() != Some(identity.node) {
        return Err(malformed(format!(
            "the certificate is for {named}, and this is node {} of cluster {}",
            identity.node, identity.cluster
        )));
    }
    Ok(credentials)
}

/// Whether a node was set up here, completely.
#[must_use]
pub fn is_initialised(layout: &NodeLayout) -> bool {
    layout.identity().join(NODE_FILE).is_file() && check_finished(layout).is_ok()
}

fn unfinished_file(layout: &NodeLayout) -> PathBuf {
    layout.identity().join(UNFINISHED_FILE)
}

/// # Errors
/// When an earlier setup was interrupted.
pub fn check_finished(layout: &NodeLayout) -> Result<(), IdentityError> {
    match fs::read_to_string(unfinished_file(layout)) {
        Ok(what) => {
            let shown = |path: PathBuf| path.display().to_string();
            let remove = vec![shown(layout.identity()), shown(layout.raft())];
            Err(IdentityError::Unfinished { directory: layout.directory().to_owned(), what, remove })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(at(&unfinished_file(layout))(error)),
    }
}

/// Notes durably that a setup is under way; `what` completes "... was interrupted".
///
/// # Errors
/// When it cannot be made durable.
pub fn begin_setup(layout: &NodeLayout, what: &str) -> Result<(), IdentityError> {
    use std::os::unix::fs::DirBuilderExt;
    let directory = layout.identity();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(at(&directory))?;
    let path = unfinished_file(layout);
    replace_file(&path, what.as_bytes()).map_err(at(&path))
}

/// The setup is complete, or nothing of it was begun that would have to be removed.
///
/// # Errors
/// When it cannot be made durable.
pub fn end_setup(layout: &NodeLayout) -> Result<(), IdentityError> {
    let path = unfinished_file(layout);
    fs::remove_file(&path).map_err(at(&path))?;
    sync_directory(&layout.identity()).map_err(at(&path))
}

/// New file, synced, renamed over the old one, directory synced: after a crash it is the old or the new one.
fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> NodeIdentity {
        NodeIdentity {
            cluster: ClusterId(9),
            node: NodeId(3),
            incarnation: Incarnation(12),
            control_addresses: vec![([127, 0, 0, 1], 7400).into()],
        }
    }

    #[test]
    fn an_identity_reads_back_and_an_interrupted_setup_is_explained() {
        let directory = tempfile::tempdir().unwrap();
        let layout = NodeLayout::new(directory.path());
        assert!(matches!(NodeIdentity::load(&layout), Err(IdentityError::Absent(_))));
        begin_setup(&layout, "a join").unwrap();
        let why = NodeIdentity::load(&layout).unwrap_err().to_string();
        assert!(why.contains("a join here was interrupted") && why.contains("new token"), "{why}");
        identity().save(&layout).unwrap();
        assert!(!is_initialised(&layout));
        end_setup(&layout).unwrap();
        assert!(is_initialised(&layout));
        assert_eq!(NodeIdentity::load(&layout).unwrap(), identity());
    }

    #[test]
    fn a_node_file_with_an_unknown_key_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let layout = NodeLayout::new(directory.path());
        fs::create_dir_all(layout.identity()).unwrap();
        fs::write(layout.identity().join(NODE_FILE), br#"{"version":1,"cluster":"x","node":1,"surplus":2}"#).unwrap();
        let why = NodeIdentity::load(&layout).unwrap_err().to_string();
        assert!(why.contains("node.json") && why.contains("surplus"), "{why}");
    }
}
