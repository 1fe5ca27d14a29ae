//! Starting the parts of a development cluster and waiting until they serve.

use super::Sizes;
use super::foreground::Interrupt;
use super::mounts;
use super::process::{self, ProcessName};
use super::state::{Layout, Mount, Node, State};
use crate::admin::Admin;
use crate::commands::node_run::Membership;
use crate::commands::{client, node_run, token, volume};
use crate::failure::{Failure, Outcome, While};
use crate::locate;
use std::fs;
use std::time::{Duration, Instant};
use weft_node::config::NodeConfig;
use weft_node::place::Place;
use weft_proto::admin::{ClusterStatus, TokenRole};
use weft_types::map::NodeState;

/// A cluster on a loaded two-core machine, replaying full journals.
const START_PATIENCE: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// One attempt to reach the metadata leader.
const ATTEMPT_PATIENCE: Duration = Duration::from_secs(2);
const TOKEN_VALID: Duration = Duration::from_secs(600);
const LOG_LINES_IN_ERRORS: usize = 5;

/// Name of a node in the cluster's tables.
#[must_use]
pub fn node_name(number: u8) -> String {
    format!("node-{number}")
}

/// Starts every node, the first time by making the cluster and letting the others join; ends when all are live.
///
/// # Errors
/// When a node does not come up; names its log.
pub fn nodes(layout: &Layout, sizes: Sizes, interrupt: &mut Interrupt) -> Outcome<Admin> {
    let state = layout.load()?;
    let (mut members, mut others) = (Vec::new(), Vec::new());
    for node in &state.nodes {
        match node_run::membership(&node.directory)? {
            Membership::Member => members.push(node),
            Membership::None => others.push(node),
            // The first start was interrupted. Nothing of such a node is in use, so it is made once more.
            Membership::Unfinished => {
                fs::remove_dir_all(&node.directory).doing(format!("delete {}", node.directory.display()))?;
                others.push(node);
            }
        }
    }
    if members.is_empty()
        && let Some(first) = others.first().copied()
    {
        make_cluster(layout, first, sizes)?;
        members.push(others.remove(0));
    }
    // Those that joined before start at once: the metadata group may need most of them to elect a leader.
    for node in members {
        node_process(layout, node, None)?;
    }
    let admin = reach_leader(layout, interrupt)?;
    for node in others {
        configure(node, sizes)?;
        let (_, text) = token::create(&admin, TokenRole::Node, &node_name(node.number), TOKEN_VALID)?;
        node_process(layout, node, Some(&text))?;
    }
    wait(layout, interrupt, "all nodes to be live", || {
        let live = admin.status().map(|status| live_nodes(&status)).unwrap_or(0);
        Ok(live >= state.nodes.len())
    })?;
    Ok(admin)
}

/// The cluster with its first node. An administrator's identity left by an interrupted attempt belongs to a cluster that
/// never was.
fn make_cluster(layout: &Layout, first: &Node, sizes: Sizes) -> Outcome {
    if layout.admin().exists() {
        fs::remove_dir_all(layout.admin()).doing(format!("delete {}", layout.admin().display()))?;
    }
    configure(first, sizes)?;
    let place = Place::open(&first.directory, None).map_err(|error| Failure::failed(error.to_string()))?;
    node_run::initialise(&place, &layout.admin()).map(drop)
}

fn configure(node: &Node, sizes: Sizes) -> Outcome {
    let config = NodeConfig {
        name: node_name(node.number),
        listen: node.control_address.ip(),
        journal_mib: sizes.journal_mib,
        memory_mib: sizes.memory_mib,
        ..NodeConfig::default()
    };
    node_run::configure(&node.directory, &config)
}

fn live_nodes(status: &ClusterStatus) -> usize {
    status.map.nodes.iter().filter(|node| node.state == NodeState::Live).count()
}

/// Starts one node and notes its process.
///
/// # Errors
/// When it runs already or cannot be started.
pub fn node_process(layout: &Layout, node: &Node, join: Option<&str>) -> Outcome<ProcessName> {
    let mut arguments =
        vec!["node".to_owned(), "run".to_owned(), "--dir".to_owned(), node.directory.display().to_string()];
    if join.is_some() {
        arguments.extend(["--join".to_owned(), "-".to_owned()]);
    }
    layout.change(|state| {
        let entry = entry(state, node.number)?;
        if entry.is_running() {
            return Err(Failure::input(format!("node {} runs already: see `weft dev status`", node.number)));
        }
        let process = process::spawn_self(&arguments, &node.log, join)?;
        entry.process = Some(process);
        Ok(process)
    })
}

/// Waits until the node has found its directory, disks and ports in order and works, or has ended.
///
/// # Errors
/// When it ended; says why.
pub fn wait_started(node: &Node, process: ProcessName) -> Outcome {
    let deadline = Instant::now() + START_PATIENCE;
    // Its worker is started once nothing can be said against it.
    while process.descendants().is_empty() && Instant::now() < deadline {
        process::reap_children();
        if !process.is_alive() {
            return Err(ended(&format!("node {}", node.number), &node.log));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// The node of this number.
///
/// # Errors
/// When there is none.
pub fn entry(state: &mut State, number: u8) -> Outcome<&mut Node> {
    let count = state.nodes.len();
    state
        .nodes
        .iter_mut()
        .find(|n| n.number == number)
        .ok_or_else(|| Failure::input(format!("there is no node {number}: this cluster has nodes 1 to {count}")))
}

fn reach_leader(layout: &Layout, interrupt: &mut Interrupt) -> Outcome<Admin> {
    let mut found = None;
    wait(layout, interrupt, "the metadata group to elect a leader", || {
        if let Ok(admin) = Admin::connect_with(&layout.admin(), ATTEMPT_PATIENCE)
            && admin.status().is_ok_and(|status| status.leader.is_some())
        {
            found = Some(admin);
        }
        Ok(found.is_some())
    })?;
    found.ok_or_else(|| Failure::failed("the metadata group has no leader: see the logs of the nodes"))
}

/// Polls until `done`; gives up when a node's process ends, the user interrupts, or time is over.
fn wait(layout: &Layout, interrupt: &mut Interrupt, what: &str, mut done: impl FnMut() -> Outcome<bool>) -> Outcome {
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        if done()? {
            return Ok(());
        }
        process::reap_children();
        for node in layout.load()?.nodes {
            if node.process.is_some_and(|p| !p.is_alive()) {
                return Err(ended(&format!("node {}", node.number), &node.log));
            }
        }
        if interrupt.wait(POLL_INTERVAL) {
            return Err(Failure::failed(format!("interrupted while waiting for {what}: everything was stopped")));
        }
        if Instant::now() > deadline {
            return Err(Failure::failed(format!(
                "waited {} s for {what}, in vain: see the logs with `weft dev logs N`",
                START_PATIENCE.as_secs()
            )));
        }
    }
}

fn ended(who: &str, log: &std::path::Path) -> Failure {
    let lines = process::last_lines(log, LOG_LINES_IN_ERRORS);
    // A process that could say why did so last.
    match lines.lines().last().and_then(|line| line.strip_prefix("weft: ")) {
        Some(why) => Failure::failed(format!("{who} ended: {why} (its log is {})", log.display())),
        None => Failure::failed(format!("{who} ended; the last lines of its log {} are:\n{lines}", log.display())),
    }
}

/// Creates the volume if it is not there.
///
/// # Errors
/// As the cluster says.
pub fn volume(admin: &Admin, name: &str, nodes: usize) -> Outcome<u8> {
    if let Some(found) = admin.volumes()?.into_iter().find(|v| v.record.name == name) {
        return Ok(found.record.replicas);
    }
    let replicas = u8::try_from(nodes.min(3)).doing("count the nodes")?;
    Ok(volume::create_default(admin, name, replicas)?.replicas)
}

/// Starts a mount of its own process, with an identity of its own, and waits until the kernel shows it.
///
/// # Errors
/// When the process ends or does not mount in time.
pub fn mount(layout: &Layout, admin: &Admin, mount: &Mount, volume: &str) -> Outcome {
    let directory = layout.client(mount.client);
    fs::create_dir_all(&directory).doing(format!("create {}", directory.display()))?;
    if !locate::has_identity(&directory) {
        let (_, text) = token::create(admin, TokenRole::Client, &format!("client-{}", mount.client), TOKEN_VALID)?;
        client::join(&text, &directory, Some(mount.address.into()))?;
    }
    let text = |s: &str| s.to_owned();
    let memory_mib = layout.load()?.memory_mib;
    let arguments = [
        text("--cluster"),
        directory.display().to_string(),
        text("mount"),
        text("--foreground"),
        text("--bind"),
        mount.address.to_string(),
        text("--memory-mib"),
        memory_mib.to_string(),
        volume.to_owned(),
        mount.mount_point.display().to_string(),
    ];
    let process = process::spawn_self(&arguments, &mount.log, None)?;
    layout.change(|state| {
        state.mounts.retain(|m| m.client != mount.client);
        state.mounts.push(Mount { process: Some(process), ..mount.clone() });
        state.mounts.sort_by_key(|m| m.client);
        Ok(())
    })?;
    let deadline = Instant::now() + START_PATIENCE;
    while !mounts::mounted_at(&mount.mount_point).is_some_and(|m| m.is_weft()) {
        process::reap_children();
        if !process.is_alive() {
            return Err(ended(&format!("the mount at {}", mount.mount_point.display()), &mount.log));
        }
        if Instant::now() > deadline {
            return Err(Failure::failed(format!(
                "{} was not mounted within {} s: see {}",
                mount.mount_point.display(),
                START_PATIENCE.as_secs(),
                mount.log.display()
            )));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}
