//! `cargo xtask bench`: one set of fio jobs against `weft dev`, and in the same run against a peer; ratios at the end.

mod budget;
mod fio;
mod metadata;
mod peer;
mod report;
mod weft;

use crate::command::{cargo, run, target_directory};
use crate::packages;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Args)]
pub struct BenchArguments {
    /// Measure this as well, in the same run, and print ratios
    #[arg(long, value_enum)]
    peer: Option<Peer>,
    /// Seconds a job
    #[arg(long, default_value_t = 8)]
    seconds: u32,
    /// Size of the file, as fio takes it
    #[arg(long, default_value = "1G")]
    size: String,
    /// Only jobs whose name contains one of these, separated by `|`
    #[arg(long, value_name = "NAMES")]
    only: Option<String>,
    /// Directory for the data of both; on the disk that is to be measured
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Metadata operations by one thread, the filling of a directory, and what an idle cluster costs, instead of fio
    #[arg(long)]
    metadata: bool,
    /// Write all figures to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Peer {
    Glusterfs,
}

pub fn run_bench(arguments: &BenchArguments) -> Result<(), String> {
    packages::ensure_for_bench(arguments.peer.is_some())?;
    run(cargo().args(["build", "--release", "--package", "weft-cli"]))?;
    let directory = arguments.dir.clone().unwrap_or_else(|| target_directory().join("bench"));
    std::fs::create_dir_all(&directory).map_err(|e| format!("could not create {}: {e}", directory.display()))?;
    if arguments.metadata {
        return run_metadata(arguments, &directory);
    }
    let jobs = fio::Jobs { seconds: arguments.seconds, size: arguments.size.clone(), only: arguments.only.clone() };

    let peer = match arguments.peer {
        Some(Peer::Glusterfs) => {
            println!("\nstarting GlusterFS, replica 3, `virt` profile");
            Some(peer::GlusterVolume::start(&directory.join("glusterfs"))?)
        }
        None => None,
    };
    println!("starting Weft, 3 replicas on 3 nodes");
    let cluster = weft::DevCluster::start(&directory.join("weft"))?;
    let (ours, theirs) = alternate(&jobs, &cluster, peer.as_ref())?;
    drop(peer);
    let memory = cluster.memory()?;
    let budget = budget::measure(&cluster, &jobs)?;
    cluster.stop()?;
    let peer = theirs;

    println!("\n{}", report::table(&ours, peer.as_ref()));
    println!("{}", report::memory(&memory));
    println!("{budget}");
    if let Some(path) = &arguments.json {
        let text =
            serde_json::to_string_pretty(&report::Document { weft: &ours, peer: peer.as_ref(), memory: &memory })
                .map_err(|e| e.to_string())?;
        std::fs::write(path, text).map_err(|e| format!("could not write {}: {e}", path.display()))?;
    }
    report::check_memory(&memory)
}

/// Both sides, job by job, so that a machine that gets slower or faster does so for both. The side that begins changes
/// with each job, so that neither always runs into what the other left to be written back.
fn alternate(
    jobs: &fio::Jobs,
    cluster: &weft::DevCluster,
    peer: Option<&peer::GlusterVolume>,
) -> Result<(Vec<fio::Row>, Option<Vec<fio::Row>>), String> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let our_file = cluster.mount_point().join("bench.fio");
    let their_file = peer.map(|volume| volume.mount_point().join("bench.fio"));
    for (at, job) in jobs.wanted().enumerate() {
        for turn in 0..2 {
            let peers_turn = turn == at % 2;
            match (&their_file, peers_turn) {
                (Some(file), true) => theirs.push(jobs.run("peer", job, file)?),
                (None, true) => {}
                (_, false) => ours.push(jobs.run("weft", job, &our_file)?),
            }
        }
    }
    Ok((ours, peer.map(|_| theirs)))
}

fn run_metadata(arguments: &BenchArguments, directory: &std::path::Path) -> Result<(), String> {
    let peer = match arguments.peer {
        Some(Peer::Glusterfs) => {
            println!("\nGlusterFS, replica 3, `virt` profile");
            let volume = peer::GlusterVolume::start(&directory.join("glusterfs"))?;
            Some(metadata::run(&volume.mount_point(), arguments.seconds)?)
        }
        None => None,
    };
    println!("\nWeft, 3 replicas on 3 nodes");
    let cluster = weft::DevCluster::start(&directory.join("weft"))?;
    let idle = metadata::idle(&cluster.processes()?)?;
    for (who, share) in &idle {
        println!("  idle: {who:8} {:.2} % of a core", share * 100.0);
    }
    let ours = metadata::run(&cluster.mount_point(), arguments.seconds)?;
    println!("  {:12} {:8.0} a second, several clients", "fill", metadata::fill(&cluster, arguments.seconds)?);
    let memory = cluster.memory()?;
    cluster.stop()?;
    println!("\n{}", metadata::table(&ours, peer.as_deref()));
    println!("{}", report::memory(&memory));
    report::check_memory(&memory)
}
