//! `weft dev` itself: starts everything, says so, waits for a signal, stops everything.

use super::state::{Layout, State};
use super::{RunArguments, Sizes, mounts, preflight, process, start, stop};
use crate::admin::single_thread_runtime;
use crate::failure::{Outcome, While};
use crate::output::tell;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

const VOLUME: &str = "vms";
/// Pause between two looks at the processes.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// The wish of the user, or of a service manager, that this command ends.
pub struct Interrupt {
    runtime: Runtime,
    signals: [Signal; 3],
    seen: bool,
}

impl Interrupt {
    /// # Errors
    /// When the kernel refuses signal handlers.
    pub fn listen() -> Outcome<Self> {
        let runtime = single_thread_runtime()?;
        let guard = runtime.enter();
        let listen = |kind| signal(kind).doing("listen for signals");
        let signals =
            [listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?];
        drop(guard);
        Ok(Self { runtime, signals, seen: false })
    }

    /// Waits; true as soon as a signal came, and ever after.
    pub fn wait(&mut self, time: Duration) -> bool {
        if !self.seen {
            let [interrupt, terminate, hangup] = &mut self.signals;
            self.seen = self.runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => true,
                    _ = terminate.recv() => true,
                    _ = hangup.recv() => true,
                    () = tokio::time::sleep(time) => false,
                }
            });
        }
        self.seen
    }
}

/// # Errors
/// When something does not hold or does not start; then everything that was started is stopped again.
pub fn run(arguments: &RunArguments) -> Outcome {
    let layout = Layout::new(&arguments.dir)?;
    let mount_point = mounts::normalize(&arguments.mount);
    preflight::machine()?;
    preflight::data_directory(&layout.root)?;
    let _lock = layout.lock_foreground()?;
    let fresh = !layout.state_file().exists();
    if !fresh {
        preflight::node_count(&layout.load()?, arguments.nodes, &layout.root)?;
        end_leftovers(&layout)?;
    }
    preflight::mount_point(&mount_point)?;
    let nodes: Vec<_> = (1..=arguments.nodes).map(|number| layout.node(number)).collect();
    preflight::ports(&nodes)?;
    if fresh {
        layout.create(arguments.nodes, VOLUME, arguments.memory_mib)?;
    }
    let sizes = Sizes { journal_mib: arguments.journal_mib, memory_mib: arguments.memory_mib };
    let mut interrupt = Interrupt::listen()?;
    let served = serve(&layout, sizes, &mount_point, &mut interrupt);
    tell("stopping: unmounting, then stopping the nodes");
    let stopped = stop::everything(&layout);
    served.and(stopped)?;
    tell("stopped; all data are kept, and `weft dev` goes on with them");
    Ok(())
}

/// Processes of a run whose foreground command was killed.
fn end_leftovers(layout: &Layout) -> Outcome {
    let state = layout.load()?;
    let left =
        state.nodes.iter().filter(|n| n.is_running()).count() + state.mounts.iter().filter(|m| m.is_running()).count();
    if left > 0 {
        tell(&format!("stopping {left} processes that an earlier `weft dev` left behind"));
    }
    stop::everything(layout)
}

fn serve(layout: &Layout, sizes: Sizes, mount_point: &Path, interrupt: &mut Interrupt) -> Outcome {
    let state = layout.load()?;
    tell(&format!("starting {} nodes in {}", state.nodes.len(), layout.root.display()));
    let admin = start::nodes(layout, sizes, interrupt)?;
    let replicas = start::volume(&admin, &state.volume, state.nodes.len())?;
    start::mount(layout, &admin, &layout.mount(1, mount_point.to_path_buf()), &state.volume)?;
    drop(admin);
    announce(&state, replicas, mount_point);
    let mut reported = Vec::new();
    while !interrupt.wait(WATCH_INTERVAL) {
        process::reap_children();
        report_ended(&layout.load()?, &mut reported);
    }
    Ok(())
}

/// Says once of every process that it ended by itself. One that was killed on purpose has no process noted any more.
fn report_ended(state: &State, reported: &mut Vec<process::ProcessName>) {
    let nodes = state.nodes.iter().filter_map(|n| Some((format!("node {}", n.number), n.process?, &n.log)));
    let mounts =
        state.mounts.iter().filter_map(|m| Some((format!("the mount of client {}", m.client), m.process?, &m.log)));
    for (who, process, log) in nodes.chain(mounts) {
        if !process.is_alive() && !reported.contains(&process) {
            tell(&format!("{who} (pid {}) ended; its log is {}", process.pid, log.display()));
            reported.push(process);
        }
    }
}

fn announce(state: &State, replicas: u8, mount_point: &Path) {
    let here = std::env::current_dir().unwrap_or_default();
    let short = |path: &Path| path.strip_prefix(&here).unwrap_or(path).display().to_string();
    let program = std::env::current_exe().map_or_else(|_| "weft".to_owned(), |path| short(&path));
    let (nodes, mount) = (state.nodes.len(), short(mount_point));
    tell(&format!(
        "ready: volume `{}` ({replicas} replicas on {nodes} nodes) is mounted at {mount}; try `echo hello > {mount}/file`, \
         and in another terminal `{program} dev status`, `{program} dev kill {nodes}`, \
         `{program} image import DISK.qcow2 {}/disk.raw`; Ctrl-C stops everything",
        state.volume, state.volume
    ));
}
