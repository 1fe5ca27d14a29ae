//! The directory that makes a machine a client of a cluster: `credentials` (certificate, key and the cluster's
//! authority, see `weft_transport::Credentials`) and `cluster.json` (where the cluster's nodes are).

use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use weft_transport::Credentials;
use weft_types::ClusterId;

pub const CREDENTIALS_FILE: &str = "credentials";
pub const CLUSTER_FILE: &str = "cluster.json";

/// All of them make a directory an identity.
pub const IDENTITY_FILES: [&str; 2] = [CREDENTIALS_FILE, CLUSTER_FILE];

#[derive(Clone, Debug)]
pub struct Identity {
    pub cluster: ClusterId,
    /// Control addresses of the cluster's nodes. Those of the current map replace them once it is known.
    pub control_addresses: Vec<SocketAddr>,
    pub credentials: Credentials,
}

/// Text form of `cluster.json`.
#[derive(Serialize, Deserialize)]
struct ClusterFile {
    cluster: String,
    control_addresses: Vec<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{path}: {source}; run `weft client join` on this machine first, or name another identity directory")]
    Missing { path: PathBuf, source: io::Error },
    #[error("{path}: {why}")]
    Malformed { path: PathBuf, why: String },
    #[error("{path}: {source}")]
    Write { path: PathBuf, source: io::Error },
}

impl Identity {
    /// # Errors
    /// When a file is missing, malformed, or names another cluster than the certificate.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        let path = directory.join(CLUSTER_FILE);
        let text = fs::read(&path).map_err(|source| IdentityError::Missing { path: path.clone(), source })?;
        let malformed = |why: String| IdentityError::Malformed { path: path.clone(), why };
        let file: ClusterFile = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        let cluster: ClusterId = file.cluster.parse().map_err(|error| malformed(format!("cluster: {error}")))?;
        if file.control_addresses.is_empty() {
            return Err(malformed("control_addresses is empty".into()));
        }
        let path = directory.join(CREDENTIALS_FILE);
        let credentials = Credentials::load(&path)
            .map_err(|error| IdentityError::Malformed { path: path.clone(), why: error.to_string() })?;
        if credentials.identity().cluster != cluster {
            let why = format!("is for cluster {}, cluster.json names {cluster}", credentials.identity().cluster);
            return Err(IdentityError::Malformed { path, why });
        }
        Ok(Self { cluster, control_addresses: file.control_addresses, credentials })
    }

    /// Writes both files durably. The directory is made if it is missing, readable by its owner only.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, directory: &Path) -> Result<(), IdentityError> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |source| IdentityError::Write { path, source }
        };
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed(directory))?;
        let path = directory.join(CREDENTIALS_FILE);
        self.credentials
            .save(&path)
            .map_err(|error| IdentityError::Malformed { path: path.clone(), why: error.to_string() })?;
        self.save_addresses(directory)
    }

    fn save_addresses(&self, directory: &Path) -> Result<(), IdentityError> {
        let path = directory.join(CLUSTER_FILE);
        let file = ClusterFile { cluster: self.cluster.to_string(), control_addresses: self.control_addresses.clone() };
        let text = serde_json::to_vec_pretty(&file)
            .map_err(|error| IdentityError::Malformed { path: path.clone(), why: error.to_string() })?;
        write_durably(directory, &path, &text).map_err(|source| IdentityError::Write { path, source })
    }

    /// Takes note of where the cluster's nodes are now, in the directory as well. Whoever made the cluster was told of its
    /// first node only, and nodes come and go.
    ///
    /// # Errors
    /// When the file cannot be written; the identity is as good as before then.
    pub fn note_addresses(&mut self, directory: &Path, now: &[SocketAddr]) -> Result<(), IdentityError> {
        if now.is_empty() || now == self.control_addresses {
            return Ok(());
        }
        now.clone_into(&mut self.control_addresses);
        self.save_addresses(directory)
    }
}

/// New file, synced, renamed over the old one, directory synced. Several commands may do that at once.
fn write_durably(directory: &Path, path: &Path, text: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = fs::File::create(&temporary)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_transport::identity::PeerName;
    use weft_transport::{Authority, PeerIdentity};

    #[test]
    fn nodes_that_came_later_are_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let cluster = ClusterId(3);
        let who = PeerIdentity::client(cluster, PeerName::new("a").unwrap());
        let credentials = Authority::create(cluster).unwrap().issue(&who).unwrap();
        let address = |n: u16| SocketAddr::from(([127, 0, 0, 1], n));
        let mut identity = Identity { cluster, control_addresses: vec![address(1)], credentials };
        identity.save(directory.path()).unwrap();
        let now = [address(2), address(3)];
        identity.note_addresses(directory.path(), &now).unwrap();
        // A map that names nobody is no news.
        identity.note_addresses(directory.path(), &[]).unwrap();
        assert_eq!(Identity::load(directory.path()).unwrap().control_addresses, now);
        let files = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(files, IDENTITY_FILES.len(), "something was left behind");
    }
}
