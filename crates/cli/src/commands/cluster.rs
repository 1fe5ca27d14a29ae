//! `weft cluster`: make a cluster, see how it is.

use super::volume::Health;
use super::{Context, node};
use crate::admin::Admin;
use crate::failure::{Failure, Outcome};
use crate::output::{Listing, pairs};
use crate::units;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::path::PathBuf;
use weft_proto::admin::{AdminReply, AdminRequest, ClusterStatus, NodeReport};
use weft_types::NodeId;
use weft_types::map::{DiskState, NodeState};

#[derive(Subcommand)]
pub enum ClusterCommand {
    /// Make a new cluster: its certificate authority, its first node and the administrator's identity
    Init(InitArguments),
    /// Show nodes, disks and volumes
    Status,
    /// Say whether the cluster is healthy, why not, and what may be rebooted now
    Health,
}

#[derive(Args)]
pub struct InitArguments {
    /// Directory of the first node
    #[arg(long)]
    pub dir: PathBuf,
    /// Configuration file [default: node.toml in the directory]
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Directory for the administrator's identity
    #[arg(long, default_value = "/etc/weft")]
    pub admin: PathBuf,
    #[command(flatten)]
    pub setup: node::Setup,
}

/// # Errors
/// As the cluster says; `health` fails with exit code 1 when the cluster is not healthy.
pub fn run(context: Context<'_>, command: &ClusterCommand) -> Outcome {
    match command {
        ClusterCommand::Init(arguments) => super::node_run::init(context, arguments),
        ClusterCommand::Status => status(context),
        ClusterCommand::Health => health(context),
    }
}

#[derive(Serialize)]
struct Shown {
    status: ClusterStatus,
    reports: Vec<(NodeId, NodeReport)>,
    volumes: Vec<(String, Health)>,
}

fn gather(admin: &Admin) -> Outcome<Shown> {
    let status = admin.status()?;
    let mut reports = Vec::new();
    for (node, reply) in admin.ask_live_nodes(&AdminRequest::NodeReport)? {
        // A node without an answer is shown without its report; `state` tells whether the cluster misses it.
        if let Ok(AdminReply::Node(report)) = reply {
            reports.push((node, *report));
        }
    }
    let volumes = status.map.volumes.iter().map(|v| (v.name.clone(), Health::of(v, &status))).collect();
    Ok(Shown { status, reports, volumes })
}

fn status(context: Context<'_>) -> Outcome {
    let admin = Admin::connect(context.cluster)?;
    context.audience.show(&gather(&admin)?, describe)
}

fn describe(shown: &Shown) -> String {
    let status = &shown.status;
    let voters = status.map.nodes.iter().filter(|n| n.voter).count();
    let head = pairs(&[
        ("cluster", status.map.cluster.to_string()),
        ("map version", status.map.version.to_string()),
        (
            "metadata",
            format!(
                "{voters} {}{}",
                if voters == 1 { "voter" } else { "voters" },
                // With a single voter its loss stops the cluster: design 3 wants that said.
                if voters == 1 { ": no metadata redundancy; add nodes until there are three" } else { "" }
            ),
        ),
    ]);
    let mut disks =
        Listing::new(&["disk", "on node", "state", "file system", ">size", ">free", ">journal", "path"], "no disks");
    for disk in &status.map.disks {
        let report = shown.reports.iter().flat_map(|(_, r)| &r.disks).find(|r| r.disk == disk.id);
        let node = status.map.nodes.iter().find(|n| n.id == disk.node).map_or_else(String::new, |n| n.name.clone());
        disks.row([
            disk.id.to_string().chars().take(8).collect(),
            node,
            match disk.state {
                DiskState::Active => "active",
                DiskState::Missing => "MISSING",
                DiskState::Failed => "FAILED",
                DiskState::Removed => "removed",
            }
            .to_owned(),
            report.map_or_else(|| "-".to_owned(), |r| r.filesystem.clone()),
            units::bytes(report.map_or(disk.capacity_bytes, |r| r.total_bytes)),
            report.map_or_else(|| "-".to_owned(), |r| units::bytes(r.free_bytes)),
            report.map_or_else(
                || "-".to_owned(),
                |r| format!("{} %", r.journal_used_bytes * 100 / r.journal_total_bytes.max(1)),
            ),
            report.map_or_else(|| "-".to_owned(), |r| r.path.clone()),
        ]);
    }
    let mut volumes =
        Listing::new(&["volume", ">groups", ">all in sync", "state"], "no volumes yet: `weft volume create NAME`");
    for (name, health) in &shown.volumes {
        volumes.row([name.clone(), health.groups.to_string(), health.full.to_string(), health.summary()]);
    }
    let nodes = node::table(&status.map.nodes, status);
    [head, nodes, disks.finish(), volumes.finish()].join("\n\n")
}

#[derive(Serialize)]
struct Verdict {
    healthy: bool,
    problems: Vec<String>,
    /// Nodes of which any one may be rebooted now without stopping writes.
    may_reboot: Vec<String>,
}

fn health(context: Context<'_>) -> Outcome {
    let admin = Admin::connect(context.cluster)?;
    let verdict = judge(&gather(&admin)?);
    context.audience.show(&verdict, |verdict| {
        let mut lines = vec![if verdict.healthy { "healthy".to_owned() } else { "NOT healthy:".to_owned() }];
        lines.extend(verdict.problems.iter().map(|p| format!("- {p}")));
        lines.push(match verdict.may_reboot.as_slice() {
            [] => "no node may be rebooted now without stopping writes".to_owned(),
            nodes => format!("any one of these may be rebooted now: {}", nodes.join(", ")),
        });
        lines.join("\n")
    })?;
    if verdict.healthy { Ok(()) } else { Err(Failure::failed("the cluster is not healthy: see the reasons above")) }
}

fn judge(shown: &Shown) -> Verdict {
    let map = &shown.status.map;
    let mut problems: Vec<String> = Vec::new();
    if shown.status.leader.is_none() {
        problems.push("the metadata group has no leader: most of its voters are down".to_owned());
    }
    for (name, health) in &shown.volumes {
        problems.extend(health.reasons.iter().map(|reason| format!("volume {name}: {reason}")));
    }
    for node in map.nodes.iter().filter(|n| n.state == NodeState::Down && shown.volumes.is_empty()) {
        problems.push(format!("{} is down: start it again, or replace it", node.name));
    }
    for disk in map.disks.iter().filter(|d| d.state == DiskState::Failed) {
        problems.push(format!("disk {} failed: wipe or replace it, then add it under a new id", disk.id));
    }
    for disk in map.disks.iter().filter(|d| d.state == DiskState::Missing) {
        problems.push(format!("disk {} is missing from its node: attach it and start the node again", disk.id));
    }
    for (node, report) in &shown.reports {
        problems.extend(report.troubled_pgs.iter().map(|(pg, why)| format!("group {pg} on node {node}: {why}")));
    }
    let may_reboot = map
        .nodes
        .iter()
        .filter(|node| node.state == NodeState::Live && loses_nothing(shown, node.id))
        .map(|node| node.name.clone())
        .collect();
    Verdict { healthy: problems.is_empty(), problems, may_reboot }
}

/// Whether every group keeps its minimum of level members, and the metadata group its majority, without this node.
fn loses_nothing(shown: &Shown, without: NodeId) -> bool {
    let map = &shown.status.map;
    let live = |id: NodeId| id != without && map.nodes.iter().any(|n| n.id == id && n.state == NodeState::Live);
    let groups = map
        .pgs
        .iter()
        .all(|g| g.members.iter().filter(|m| m.is_level() && live(m.node)).count() >= usize::from(g.min_in_sync));
    let voters = map.nodes.iter().filter(|n| n.voter);
    let (all, left) = voters.fold((0, 0), |(all, left), n| (all + 1, left + usize::from(live(n.id))));
    groups && left * 2 > all
}
