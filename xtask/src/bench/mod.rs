//! `cargo xtask bench`: one set of fio jobs against `weft dev`, and in the same run against a peer; ratios at the end.

mod budget;
mod fio;
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
    let jobs = fio::Jobs { seconds: arguments.seconds, size: arguments.size.clone(), only: arguments.only.clone() };

    // The peer first: what it leaves in the page cache is its own, and it is gone when Weft is measured.
    let peer = match arguments.peer {
        Some(Peer::Glusterfs) => {
            println!("\nGlusterFS, replica 3, `virt` profile");
            let volume = peer::GlusterVolume::start(&directory.join("glusterfs"))?;
            Some(jobs.run(&volume.mount_point().join("bench.fio"))?)
        }
        None => None,
    };
    println!("\nWeft, 3 replicas on 3 nodes");
    let cluster = weft::DevCluster::start(&directory.join("weft"))?;
    let ours = jobs.run(&cluster.mount_point().join("bench.fio"))?;
    let memory = cluster.memory()?;
    let budget = budget::measure(&cluster, &jobs)?;
    cluster.stop()?;

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
