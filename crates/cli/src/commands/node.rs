//! `weft node`: run a node, list them.

use super::{Consent, Context, Decision};
use crate::admin::{Admin, unexpected};
use crate::failure::{Failure, Outcome};
use crate::output::Listing;
use crate::units;
use clap::{Args, Subcommand};
use std::net::IpAddr;
use std::path::PathBuf;
use weft_proto::admin::{AdminReply, AdminRequest, ClusterStatus};
use weft_types::map::{NodeRecord, NodeState};

#[derive(Subcommand)]
pub enum NodeCommand {
    /// Run a node of the cluster on this machine
    Run(RunArguments),
    /// List the nodes
    List,
    /// Remove a node that is down for good; its id is never used again
    Remove(RemoveArguments),
}

#[derive(Args)]
pub struct RemoveArguments {
    /// Name or number of the node
    node: String,
    #[command(flatten)]
    consent: Consent,
}

#[derive(Args)]
pub struct RunArguments {
    /// Directory of the node: configuration, identity and state
    #[arg(long)]
    pub dir: PathBuf,
    /// Configuration file [default: node.toml in the directory]
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Join a cluster with this token first; only for a node that is in none yet. @FILE reads it from a file, - from
    /// standard input, so that nobody sees it in the list of processes
    #[arg(long, value_name = "TOKEN")]
    pub join: Option<String>,
    #[command(flatten)]
    pub setup: Setup,
    /// How the parent process starts the process that does the work; not for people
    #[arg(long, hide = true)]
    pub worker_of: Option<u32>,
}

/// Shorthand for a configuration file; writes one where there is none yet.
#[derive(Args, Default)]
pub struct Setup {
    /// Address of the node: every socket is bound to it, and other nodes must reach it
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<IpAddr>,
    /// Name of the node [default: the host's name]
    #[arg(long)]
    pub name: Option<String>,
    /// Directory for data, best on a file system of its own; may be repeated [default: disks/0 in the node's directory]
    #[arg(long)]
    pub disk: Vec<PathBuf>,
    /// Where the box stands, outermost first, for example rack-2/box-7
    #[arg(long)]
    pub domain: Option<String>,
}

/// # Errors
/// As the cluster says. `Run` is dispatched apart, because it never talks to the cluster as an administrator.
pub fn run(context: Context<'_>, command: &NodeCommand) -> Outcome {
    match command {
        NodeCommand::Run(arguments) => super::node_run::run(arguments),
        NodeCommand::List => list(context),
        NodeCommand::Remove(arguments) => remove(context, arguments),
    }
}

fn list(context: Context<'_>) -> Outcome {
    let status = Admin::connect(context.cluster)?.status()?;
    context.audience.show(&status.map.nodes, |nodes| table(nodes, &status))
}

/// The nodes of a cluster as a table.
#[must_use]
pub fn table(nodes: &[NodeRecord], status: &ClusterStatus) -> String {
    let mut table =
        Listing::new(&[">id", "node", "state", "metadata", "address", ">disks", ">free", ">last heard"], "no nodes");
    for node in nodes {
        let disks: Vec<_> = status.map.disks.iter().filter(|d| d.node == node.id).collect();
        let free: u64 =
            status.free_bytes.iter().filter(|(id, _)| disks.iter().any(|d| d.id == *id)).map(|(_, b)| b).sum();
        let heard = status.last_heartbeat_ms.iter().find(|(id, _)| *id == node.id);
        table.row([
            node.id.to_string(),
            node.name.clone(),
            state_name(node.state).to_owned(),
            match (status.leader == Some(node.id), node.voter) {
                (true, _) => "leader",
                (false, true) => "voter",
                (false, false) => "learner",
            }
            .to_owned(),
            node.control_address.to_string(),
            disks.len().to_string(),
            units::bytes(free),
            heard.map_or_else(|| "-".to_owned(), |(_, ms)| format!("{}.{} s ago", ms / 1000, ms % 1000 / 100)),
        ]);
    }
    table.finish()
}

#[must_use]
pub const fn state_name(state: NodeState) -> &'static str {
    match state {
        NodeState::Joined => "joined",
        NodeState::Live => "live",
        NodeState::Down => "down",
        NodeState::Removed => "removed",
    }
}

fn remove(context: Context<'_>, arguments: &RemoveArguments) -> Outcome {
    let admin = Admin::connect(context.cluster)?;
    let status = admin.status()?;
    let named = |n: &&NodeRecord| n.name == arguments.node || n.id.to_string() == arguments.node;
    let Some(node) = status.map.nodes.iter().find(named) else {
        return Err(Failure::input(format!("there is no node `{}`: see `weft node list`", arguments.node)));
    };
    if node.state == NodeState::Live {
        return Err(Failure::input(format!("node {} is live: stop it before you remove it", node.name)));
    }
    let what = format!("removes node {} for good: it can only come back empty, under a new id", node.name);
    if arguments.consent.decide(&what)? == Decision::OnlySay {
        return Ok(());
    }
    match admin.ask(AdminRequest::RemoveNode { node: node.id }, &format!("remove node {}", node.name))? {
        AdminReply::Done => context.audience.show(node, |n| format!("removed node {}", n.name)),
        other => Err(unexpected(&other)),
    }
}
