//! Stopping a development cluster: unmounted first, then the nodes, nothing left behind.

use super::mounts;
use super::process::{self, ProcessName};
use super::state::{Layout, Mount};
use crate::failure::{Failure, Outcome, While};
use crate::output::{say, tell};
use rustix::mount::UnmountFlags;
use rustix::process::Signal;
use std::path::Path;
use std::time::{Duration, Instant};

/// A mount that has storage to talk to ends well within this; one that has none never would.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(15);
/// A node's parent gives its worker 30 s for a clean stop; this is a little more.
const NODE_PATIENCE: Duration = Duration::from_secs(35);
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// Stops all that runs. Goes on past failures, so that as little as possible is left; the first one is returned.
///
/// # Errors
/// When a process or a mount could not be ended.
pub fn everything(layout: &Layout) -> Outcome {
    let state = layout.load()?;
    let mut result = Ok(());
    for mount in &state.mounts {
        result = result.and(end_mount(mount));
    }
    let running: Vec<(u8, ProcessName)> =
        state.nodes.iter().filter_map(|n| Some((n.number, n.process.filter(|p| p.is_alive())?))).collect();
    for (_, process) in &running {
        process.signal(Signal::TERM);
    }
    let deadline = Instant::now() + NODE_PATIENCE;
    for (number, process) in running {
        result = result.and(end_node(number, process, deadline.saturating_duration_since(Instant::now())));
    }
    let cleared = layout.change(|state| {
        state.nodes.iter_mut().for_each(|n| n.process = None);
        state.mounts.iter_mut().for_each(|m| m.process = None);
        Ok(())
    });
    result.and(cleared)
}

fn end_node(number: u8, process: ProcessName, patience: Duration) -> Outcome {
    if process.wait_for_end(patience) {
        return Ok(());
    }
    tell(&format!("node {number} did not stop in time and is killed; it recovers at its next start"));
    process.kill_with_descendants();
    if process.wait_for_end(KILL_PATIENCE) {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "node {number} (pid {}) cannot be killed: it hangs in the kernel; see `dmesg`",
        process.pid
    )))
}

/// Unmounts, and ends the mount's process by force if it does not end by itself.
fn end_mount(mount: &Mount) -> Outcome {
    let process = mount.process.filter(|p| p.is_alive());
    if let Some(process) = process {
        process.signal(Signal::TERM);
        if !process.wait_for_end(UNMOUNT_PATIENCE) {
            tell(&format!(
                "{} did not unmount in time (is it in use?) and is taken away by force",
                mount.mount_point.display()
            ));
        }
    }
    if mounts::mounted_at(&mount.mount_point).is_some_and(|m| m.is_weft()) {
        mounts::unmount(&mount.mount_point, UnmountFlags::DETACH | UnmountFlags::FORCE)
            .doing(format!("unmount {}", mount.mount_point.display()))?;
    }
    if let Some(process) = process {
        process.kill_with_descendants();
        if !process.wait_for_end(KILL_PATIENCE) {
            return Err(Failure::failed(format!("the mount process {} cannot be killed: see `dmesg`", process.pid)));
        }
    }
    Ok(())
}

/// `weft dev stop`: asks the foreground command to stop, or does its work when there is none.
///
/// # Errors
/// When there is no cluster, or something cannot be ended.
pub fn from_another_terminal(directory: &Path) -> Outcome {
    let layout = Layout::new(directory)?;
    layout.load()?;
    if let Some(foreground) = layout.foreground().filter(|p| p.is_alive()) {
        foreground.signal(Signal::TERM);
        let patience = UNMOUNT_PATIENCE + NODE_PATIENCE + KILL_PATIENCE * 2;
        if !foreground.wait_for_end(patience) {
            return Err(Failure::failed(format!(
                "the foreground command (pid {}) did not stop within {} s: kill it, then run `weft dev stop` again",
                foreground.pid,
                patience.as_secs()
            )));
        }
    }
    // Also after a foreground that was there: what it could not end is tried once more.
    everything(&layout)?;
    process::reap_children();
    say(&format!("stopped the cluster in {}; `weft dev` starts it again with all data", layout.root.display()))
}
