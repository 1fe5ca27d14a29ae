//! `weft dev`: a whole cluster on this machine, for trying out, developing and testing.
//!
//! Node N binds every socket to 127.1.0.N and client K to 127.1.1.K (all of 127/8 is local on Linux), so that a packet
//! filter can cut one of them off. Every node and every mount is a process of its own.

pub mod control;
pub mod foreground;
pub mod mounts;
pub mod preflight;
pub mod process;
pub mod start;
pub mod state;
pub mod stop;

use crate::commands::{Consent, Context};
use crate::failure::Outcome;
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DevArguments {
    #[command(subcommand)]
    command: Option<DevCommand>,
    #[command(flatten)]
    run: RunArguments,
}

#[derive(Args)]
pub struct RunArguments {
    /// Number of nodes; fixed when the directory is first used
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=i64::from(state::MAX_NODES)))]
    pub nodes: u8,
    /// Directory of everything the cluster keeps
    #[arg(long, default_value = "./weft-data")]
    pub dir: PathBuf,
    /// Where volume `vms` is mounted
    #[arg(long, default_value = "./weft-mnt")]
    pub mount: PathBuf,
    /// Journal of each disk, in MiB; fixed when the directory is first used
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(64..=65_536))]
    pub journal_mib: u32,
    /// Memory that each node and each mount may take, in MiB; fixed when the directory is first used
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(128..=16_384))]
    pub memory_mib: u32,
}

/// What the parts of a new cluster are made with.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub journal_mib: u32,
    pub memory_mib: u32,
}

#[derive(Args)]
pub struct Place {
    /// Directory of the cluster
    #[arg(long, default_value = "./weft-data")]
    pub dir: PathBuf,
}

#[derive(Subcommand)]
enum DevCommand {
    /// Show processes, addresses, disks and mounts
    Status(Place),
    /// Stop the cluster cleanly
    Stop(Place),
    /// Delete the cluster with all its data
    Reset {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        consent: Consent,
    },
    /// Kill a node with SIGKILL, as a crash would
    Kill {
        /// Number of the node
        node: u8,
        /// Kill only the process that does the work; its parent starts it again
        #[arg(long)]
        worker_only: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Start a node that was killed
    Start {
        /// Number of the node
        node: u8,
        #[command(flatten)]
        place: Place,
    },
    /// Show the log of a node
    Logs {
        /// Number of the node
        node: u8,
        /// Show so many lines from the end
        #[arg(long, default_value_t = 100)]
        lines: usize,
        /// Go on showing what is added
        #[arg(long, short)]
        follow: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Mount the volume once more, as another client
    Mount {
        mount_point: PathBuf,
        #[command(flatten)]
        place: Place,
    },
}

/// # Errors
/// As the commands say.
pub fn run(context: Context<'_>, arguments: &DevArguments) -> Outcome {
    let Some(command) = &arguments.command else { return foreground::run(&arguments.run) };
    match command {
        DevCommand::Status(place) => control::status(context, &place.dir),
        DevCommand::Stop(place) => stop::from_another_terminal(&place.dir),
        DevCommand::Reset { place, consent } => control::reset(&place.dir, *consent),
        DevCommand::Kill { node, worker_only, place } => {
            let what = if *worker_only { control::Kill::WorkerOnly } else { control::Kill::WholeNode };
            control::kill(&place.dir, *node, what)
        }
        DevCommand::Start { node, place } => control::start(&place.dir, *node),
        DevCommand::Logs { node, lines, follow, place } => {
            let after = if *follow { control::AfterLogs::Follow } else { control::AfterLogs::End };
            control::logs(&place.dir, *node, *lines, after)
        }
        DevCommand::Mount { mount_point, place } => control::mount(&place.dir, mount_point),
    }
}
