//! What must hold before a development cluster is started; each failure is one sentence with the remedy.

use super::mounts;
use super::state::{Node, State};
use crate::failure::{Failure, Outcome};
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

/// A node that was killed a moment ago may still be on its way out of the kernel.
const PORT_PATIENCE: Duration = Duration::from_secs(2);

/// Root, and a kernel with FUSE: needed to mount.
///
/// # Errors
/// When either is missing.
pub fn machine() -> Outcome {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::input("weft dev has to mount a file system, which takes root: run it again with `sudo`"));
    }
    match fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Failure::input(
            "/dev/fuse does not exist: load the kernel module with `modprobe fuse`; in a container, start it with \
             `--device /dev/fuse --cap-add SYS_ADMIN`",
        )),
        Err(error) => Err(Failure::input(format!(
            "/dev/fuse cannot be opened ({error}): in a container, start it with `--device /dev/fuse --cap-add SYS_ADMIN`"
        ))),
    }
}

/// A directory that nothing is mounted on; made when it is missing. A dead mount of ours is taken away.
///
/// # Errors
/// When it is no directory, not empty, or another file system is mounted there.
pub fn mount_point(path: &Path) -> Outcome {
    let shown = path.display();
    if let Some(mounted) = mounts::mounted_at(path) {
        if !mounted.is_weft() {
            return Err(Failure::input(format!(
                "{shown} is busy: {} is mounted there; choose another directory, or `umount {shown}` first",
                mounted.source
            )));
        }
        // A server that is gone answers ENOTCONN; one that lives is somebody else's mount.
        if !matches!(rustix::fs::statfs(path), Err(rustix::io::Errno::NOTCONN)) {
            return Err(Failure::input(format!(
                "{shown} is busy: a Weft volume is mounted there; choose another directory, or `weft unmount {shown}` first"
            )));
        }
        mounts::unmount(path, rustix::mount::UnmountFlags::DETACH).map_err(|e| {
            Failure::failed(format!("could not take the dead mount at {shown} away: {e}; try `umount -l {shown}`"))
        })?;
    }
    match fs::metadata(path) {
        Ok(found) if !found.is_dir() => {
            Err(Failure::input(format!("{shown} is no directory: choose another mountpoint with --mount")))
        }
        Ok(_) => match fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
            Ok(false) => Ok(()),
            Ok(true) => Err(Failure::input(format!(
                "{shown} is not empty, and a mount would hide what is in it: choose another mountpoint, or move it away"
            ))),
            Err(error) => Err(Failure::input(format!("{shown} cannot be read ({error}): choose another mountpoint"))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => fs::create_dir_all(path)
            .map_err(|e| Failure::input(format!("could not create the mountpoint {shown}: {e}; choose another one"))),
        Err(error) => {
            Err(Failure::input(format!("{shown} cannot be used as a mountpoint ({error}): choose another one")))
        }
    }
}

/// A new or empty directory, or one that a development cluster lives in.
///
/// # Errors
/// When something else is in it.
pub fn data_directory(root: &Path) -> Outcome {
    let shown = root.display();
    if let Err(error) = fs::create_dir_all(root) {
        return Err(Failure::input(format!("could not create {shown}: {error}; choose another directory with --dir")));
    }
    let names: Vec<String> = match fs::read_dir(root) {
        Ok(entries) => entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect(),
        Err(error) => {
            return Err(Failure::input(format!(
                "could not read {shown}: {error}; choose another directory with --dir"
            )));
        }
    };
    let ours = |name: &String| name.ends_with(".lock") || name == "dev.json" || name == "lost+found";
    if names.iter().any(|n| n == "dev.json") || names.iter().all(ours) {
        return Ok(());
    }
    Err(Failure::input(format!(
        "{shown} is not empty and holds no development cluster: choose another directory with --dir"
    )))
}

/// As many nodes as the directory was made for.
///
/// # Errors
/// When the numbers differ.
pub fn node_count(state: &State, asked: u8, root: &Path) -> Outcome {
    if state.nodes.len() == usize::from(asked) {
        return Ok(());
    }
    Err(Failure::input(format!(
        "the cluster in {} has {} nodes, not {asked}: start it with `--nodes {}`, or delete it with `weft dev reset`",
        root.display(),
        state.nodes.len(),
        state.nodes.len()
    )))
}

/// Nobody else uses the nodes' ports.
///
/// # Errors
/// When one is in use.
pub fn ports(nodes: &[Node]) -> Outcome {
    for address in nodes.iter().flat_map(|n| [n.control_address, n.data_address, n.join_address]) {
        let deadline = Instant::now() + PORT_PATIENCE;
        while port(address).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        port(address)?;
    }
    Ok(())
}

fn port(address: SocketAddr) -> Outcome {
    match UdpSocket::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(Failure::input(format!(
            "UDP port {address} is in use, probably by another development cluster: stop that one first \
             (`ss -ulnp` shows the process)"
        ))),
        Err(error) => {
            Err(Failure::input(format!("UDP port {address} cannot be used: {error}; is the loopback device up?")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named() {
        let taken = UdpSocket::bind("127.1.9.9:0").unwrap();
        let address = taken.local_addr().unwrap();
        let sentence = port(address).unwrap_err().to_string();
        assert!(sentence.contains(&address.to_string()) && sentence.contains("in use"), "{sentence}");
    }

    #[test]
    fn a_mountpoint_that_is_busy_no_directory_or_not_empty_is_refused() {
        assert!(mount_point(Path::new("/proc")).unwrap_err().to_string().contains("busy"));
        assert!(mount_point(Path::new("/etc/hostname")).unwrap_err().to_string().contains("no directory"));
        assert!(mount_point(Path::new("/etc")).unwrap_err().to_string().contains("not empty"));
    }
}
