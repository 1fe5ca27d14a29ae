//! The configuration of a node: one structure, read from `DIR/node.toml`.
//!
//! Guarantees: an unknown key or a value out of bounds is refused with one sentence that names file and key, before
//! anything is opened or changed. A missing file means the defaults.

use crate::memory::{DEFAULT_MEMORY_MIB, LEAST_MEMORY_MIB, MOST_MEMORY_MIB};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use weft_types::limits::MAX_LABEL_BYTES;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// Name shown in tables. Empty: the host name.
    pub name: String,
    /// Every socket is bound to this address, outgoing ones too. Other nodes must reach it.
    pub listen: IpAddr,
    /// UDP port for metadata, Raft and administration.
    pub control_port: u16,
    /// UDP port for chunk data and replication.
    pub data_port: u16,
    /// UDP port at which a process without a certificate may join with a token.
    pub join_port: u16,
    /// Directories, one per disk; relative ones lie under the node's directory.
    pub disks: Vec<PathBuf>,
    /// Where the box stands, outermost first, for example `["rack-2"]`. The node itself is always the innermost domain.
    pub failure_domain: Vec<String>,
    /// Journal of each disk: what may be written and not yet be in chunk files.
    pub journal_mib: u32,
    /// Memory that this node may take: bounds what it keeps of requests, caches and indexes.
    pub memory_mib: u32,
    /// Pace of resync from this node, per second.
    pub resync_mib_per_second: u32,
    /// Pace of the background scrub, per disk and second; 0 turns it off.
    pub scrub_mib_per_second: u32,
    /// Largest UDP packet to try. Path discovery settles for less where the network carries less.
    pub max_packet_bytes: u16,
    /// Filter for the log, as in `info` or `weft_node=debug,info`. openraft is silent by default: it calls every peer that
    /// is away an error, and what matters of it (leadership, membership, its end) is logged by the node.
    pub log: String,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            control_port: 7400,
            data_port: 7401,
            join_port: 7402,
            disks: vec![PathBuf::from("disks/0")],
            failure_domain: Vec::new(),
            journal_mib: 512,
            memory_mib: DEFAULT_MEMORY_MIB,
            resync_mib_per_second: 200,
            scrub_mib_per_second: 8,
            max_packet_bytes: 6000,
            log: "info,openraft=off".to_owned(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {source}; check that the file exists and may be read")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a valid configuration: {why}; correct the file, nothing was changed")]
    Invalid { path: PathBuf, why: String },
}

impl NodeConfig {
    /// Reads the file; a missing one means the defaults.
    ///
    /// # Errors
    /// When the file cannot be read, has an unknown key, or a value is out of bounds.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(ConfigError::Unreadable { path: path.to_owned(), source }),
        };
        Self::parse(&text).map_err(|why| ConfigError::Invalid { path: path.to_owned(), why })
    }

    /// # Errors
    /// One sentence that names the key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|e| one_line(text, &e))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let ports = [("control_port", self.control_port), ("data_port", self.data_port), ("join_port", self.join_port)];
        for (at, (key, port)) in ports.iter().enumerate() {
            if *port == 0 {
                return Err(format!("{key} must not be 0"));
            }
            if let Some((other, _)) = ports[..at].iter().find(|(_, p)| p == port) {
                return Err(format!("{key} and {other} are both {port}"));
            }
        }
        if self.listen.is_unspecified() || self.listen.is_multicast() {
            return Err(format!("listen = {} is not an address that other nodes can reach", self.listen));
        }
        if self.disks.is_empty() {
            return Err("disks is empty; name at least one directory".to_owned());
        }
        for (at, disk) in self.disks.iter().enumerate() {
            if self.disks[..at].contains(disk) {
                return Err(format!("disks names {} twice", disk.display()));
            }
        }
        within("journal_mib", self.journal_mib, 64, 65_536)?;
        within("memory_mib", self.memory_mib, LEAST_MEMORY_MIB, MOST_MEMORY_MIB)?;
        within("resync_mib_per_second", self.resync_mib_per_second, 1, 100_000)?;
        within("scrub_mib_per_second", self.scrub_mib_per_second, 0, 10_000)?;
        within("max_packet_bytes", u32::from(self.max_packet_bytes), 1200, 6500)?;
        for label in self.failure_domain.iter().chain([&self.name]) {
            if label.len() > MAX_LABEL_BYTES || label.chars().any(|c| c.is_control() || c == '/') {
                return Err(format!("{label:?} is no valid name: at most {MAX_LABEL_BYTES} bytes, without '/'"));
            }
        }
        Ok(())
    }

    #[must_use]
    pub const fn control_address(&self) -> SocketAddr {
        SocketAddr::new(self.listen, self.control_port)
    }

    #[must_use]
    pub const fn data_address(&self) -> SocketAddr {
        SocketAddr::new(self.listen, self.data_port)
    }

    #[must_use]
    pub const fn join_address(&self) -> SocketAddr {
        SocketAddr::new(self.listen, self.join_port)
    }
}

fn within(key: &str, value: u32, least: u32, most: u32) -> Result<(), String> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(format!("{key} = {value} is out of bounds; it may be {least} to {most}"))
}

/// The parser's message without its drawing of the line, and with the line's number.
fn one_line(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().trim().replace('\n', " ");
    match error.span() {
        Some(span) => {
            let line = text.get(..span.start).map_or(1, |before| before.matches('\n').count() + 1);
            format!("line {line}: {message}")
        }
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_by_name_and_line() {
        let why = NodeConfig::parse("listen = \"127.1.0.1\"\njurnal_mib = 64\n").unwrap_err();
        assert!(why.contains("line 2") && why.contains("jurnal_mib"), "{why}");
    }

    #[test]
    fn a_value_out_of_bounds_is_refused_by_key() {
        let why = NodeConfig::parse("journal_mib = 1").unwrap_err();
        assert_eq!(why, "journal_mib = 1 is out of bounds; it may be 64 to 65536");
        let why = NodeConfig::parse("memory_mib = 64").unwrap_err();
        assert_eq!(why, "memory_mib = 64 is out of bounds; it may be 128 to 65536");
        assert!(NodeConfig::parse("control_port = 7401").unwrap_err().contains("both 7401"));
        assert!(NodeConfig::parse("listen = \"0.0.0.0\"").unwrap_err().contains("0.0.0.0"));
        assert!(NodeConfig::parse("disks = [\"a\", \"a\"]").unwrap_err().contains("twice"));
    }

    #[test]
    fn what_is_written_reads_back() {
        let config = NodeConfig { journal_mib: 128, memory_mib: 1024, ..NodeConfig::default() };
        assert_eq!(NodeConfig::parse(&toml::to_string(&config).unwrap()), Ok(config));
    }

    #[test]
    fn a_missing_file_means_the_defaults() {
        assert_eq!(NodeConfig::load(Path::new("/nonexistent/node.toml")).unwrap(), NodeConfig::default());
    }
}
