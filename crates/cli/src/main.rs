//! `weft`, the one binary: reads the command line, runs one command, says in one sentence what went wrong.
//!
//! Exit codes: 0 done, 1 could not be done, 2 the request was wrong and nothing was changed.

mod admin;
mod commands;
mod dev;
mod failure;
mod image;
mod locate;
mod output;
mod units;

use clap::{Parser, Subcommand};
use commands::Context;
use failure::Outcome;
use output::Audience;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Shared storage for virtual machines on commodity boxes
#[derive(Parser)]
#[command(name = "weft", version, propagate_version = true, subcommand_required = true, arg_required_else_help = true)]
struct CommandLine {
    /// Directory of the identity with which to speak to the cluster
    /// [default: ./weft-data of `weft dev`, then /etc/weft]
    #[arg(long, global = true, env = "WEFT_CLUSTER", value_name = "DIR")]
    cluster: Option<PathBuf>,
    /// Print JSON for programs instead of text for people
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a whole cluster on this machine
    Dev(dev::DevArguments),
    /// Make a cluster, see how it is
    #[command(subcommand)]
    Cluster(commands::cluster::ClusterCommand),
    /// Run, list and remove nodes
    #[command(subcommand)]
    Node(commands::node::NodeCommand),
    /// One-time permissions to join
    #[command(subcommand)]
    Token(commands::token::TokenCommand),
    /// Create, inspect, heal and delete volumes
    #[command(subcommand)]
    Volume(commands::volume::VolumeCommand),
    /// Copy images in and out of volumes
    #[command(subcommand)]
    Image(commands::image::ImageCommand),
    /// Mount a volume
    Mount(commands::mount::MountArguments),
    /// Unmount a volume
    Unmount(commands::mount::UnmountArguments),
    /// Join as a client; list and evict sessions of mounts
    #[command(subcommand)]
    Client(commands::client::ClientCommand),
    /// Show who holds which locks, and who waits
    #[command(subcommand)]
    Lock(commands::lock::LockCommand),
    /// Show what happened lately
    Events(commands::events::EventsArguments),
    /// Look inside a disk; changes nothing
    #[command(subcommand)]
    Debug(commands::debug::DebugCommand),
}

fn main() -> ExitCode {
    let line = CommandLine::parse();
    if let Err(failure) = log_to_standard_error(&line.command).and_then(|()| run(&line)) {
        eprintln!("weft: {failure}");
        return failure.exit_code();
    }
    ExitCode::SUCCESS
}

fn run(line: &CommandLine) -> Outcome {
    let context = Context { cluster: line.cluster.as_deref(), audience: Audience::of(line.json) };
    match &line.command {
        Command::Dev(arguments) => dev::run(context, arguments),
        Command::Cluster(command) => commands::cluster::run(context, command),
        Command::Node(command) => commands::node::run(context, command),
        Command::Token(command) => commands::token::run(context, command),
        Command::Volume(command) => commands::volume::run(context, command),
        Command::Image(command) => commands::image::run(context, command),
        Command::Mount(arguments) => commands::mount::mount(context, arguments),
        Command::Unmount(arguments) => commands::mount::unmount(arguments),
        Command::Client(command) => commands::client::run(context, command),
        Command::Lock(command) => commands::lock::run(context, command),
        Command::Events(arguments) => commands::events::run(context, arguments),
        Command::Debug(command) => commands::debug::run(context, command),
    }
}

/// Daemons log what they do; a command for a person logs only what needs attention. `$WEFT_LOG` overrides both.
fn log_to_standard_error(command: &Command) -> Outcome {
    use failure::While;
    let daemon = match command {
        // A node reads its filter from its configuration.
        Command::Node(commands::node::NodeCommand::Run(_)) => return Ok(()),
        Command::Mount(_) => true,
        _ => false,
    };
    start_log(if daemon { "info" } else { "error" }).doing("start the log")
}

/// # Errors
/// When a log was started before.
pub fn start_log(default_filter: &str) -> Result<(), String> {
    let filter = std::env::var("WEFT_LOG").unwrap_or_else(|_| default_filter.to_owned());
    let filter = EnvFilter::try_new(&filter).map_err(|e| format!("`{filter}` is no log filter: {e}"))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    subscriber.try_init().map_err(|e| e.to_string())
}
