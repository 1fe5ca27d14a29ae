//! What can be said against starting a node before anything of it is opened.
//!
//! Responsible for: identity, disks and ports, looked at by the parent process. Guarantees: nothing is changed, and each
//! refusal is one sentence with the remedy. Must not know: how a node runs. The worker checks all of it again when it
//! opens things, since they may have changed meanwhile.

use crate::data::{OpenDiskError, check_disk};
use crate::identity::{IdentityError, NodeIdentity, load_credentials};
use crate::place::Place;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};
use weft_raft::{OpenError, check_store};
use weft_store::StoreError;

/// A node that was killed a moment ago may still be on its way out of the kernel.
const PATIENCE: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Disk(#[from] OpenDiskError),
    #[error(transparent)]
    Metadata(#[from] OpenError),
    #[error(
        "UDP port {address} is in use ({key} in node.toml): stop the process that has it (`ss -ulnp` shows it), or choose \
         another one"
    )]
    PortInUse { key: &'static str, address: SocketAddr },
    #[error("UDP port {address} cannot be used ({key} in node.toml): {source}; is this an address of this machine?")]
    Port { key: &'static str, address: SocketAddr, source: io::Error },
}

/// # Errors
/// The first thing that is wrong.
pub fn check(place: &Place) -> Result<(), PreflightError> {
    let identity = NodeIdentity::load(&place.layout)?;
    load_credentials(&place.layout, &identity)?;
    for path in place.disks() {
        check_disk(&path, identity.cluster, identity.node)?;
    }
    let config = &place.config;
    for (key, address) in [
        ("control_port", config.control_address()),
        ("data_port", config.data_address()),
        ("join_port", config.join_address()),
    ] {
        check_port(key, address, PATIENCE)?;
    }
    // After the ports: a process that had them has let go of the store too, or will in a moment.
    check_metadata(&place.layout.raft(), &identity)
}

fn check_metadata(directory: &Path, identity: &NodeIdentity) -> Result<(), PreflightError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match check_store(directory, identity.cluster, identity.node) {
            Err(OpenError::Store(StoreError::Locked { .. })) if Instant::now() < deadline => {}
            other => return Ok(other?),
        }
        std::thread::sleep(INTERVAL);
    }
}

fn check_port(key: &'static str, address: SocketAddr, patience: Duration) -> Result<(), PreflightError> {
    let deadline = Instant::now() + patience;
    loop {
        match UdpSocket::bind(address) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if Instant::now() >= deadline {
                    return Err(PreflightError::PortInUse { key, address });
                }
            }
            Err(source) => return Err(PreflightError::Port { key, address, source }),
        }
        std::thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_and_an_address_of_another_machine_are_named() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let why = check_port("data_port", address, Duration::ZERO).unwrap_err().to_string();
        assert!(why.contains(&address.to_string()) && why.contains("in use") && why.contains("data_port"), "{why}");
        // RFC 5737: an address that no machine has.
        let elsewhere = "192.0.2.1:7401".parse().unwrap();
        let why = check_port("data_port", elsewhere, Duration::ZERO).unwrap_err().to_string();
        assert!(why.contains("192.0.2.1:7401") && why.contains("of this machine"), "{why}");
    }
}
