//! `cargo xtask`: what a developer and CI run.
//!
//! `test` runs every test, `fuzz` attacks simulated clusters, `bench` measures, `ci` is what CI runs, `fix` is the only one that changes files.

mod attack;
mod bench;
mod command;
mod compose;
mod fsx;
mod fuzz;
mod hang;
mod packages;
mod posix_suite;
mod test;
mod test_output;
mod workloads;

use clap::{Parser, Subcommand};
use command::{cargo, run};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer tasks of Weft")]
struct CommandLine {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the tests need (when root), build, run every test
    Test(test::TestArguments),
    /// Run simulated clusters under faults, one per seed; see `--help` of what it starts
    #[command(disable_help_flag = true)]
    Fuzz(fuzz::FuzzArguments),
    /// Measure a development cluster with fio, and a peer beside it
    Bench(bench::BenchArguments),
    /// Start docker-compose.yml, kill a node, heal, compare; needs a container engine
    ComposeTest(compose::ComposeArguments),
    /// Random operations on a file against a model, through one mount or several
    Fsx(fsx::FsxArguments),
    /// PostgreSQL and a real project on a mount, with everything killed in between; minutes
    Workloads(workloads::WorkloadArguments),
    /// Give every decoder wrong bytes
    FuzzDecoders(attack::DecoderArguments),
    /// Formatting, lints, tests: what CI runs; changes nothing
    Ci,
    /// Format, and apply what the linter can fix by itself
    Fix,
}

fn main() -> ExitCode {
    let outcome = match CommandLine::parse().task {
        Task::Test(arguments) => test::run_tests(&arguments),
        Task::Fuzz(arguments) => fuzz::run_fuzz(&arguments),
        Task::Bench(arguments) => bench::run_bench(&arguments),
        Task::ComposeTest(arguments) => compose::run_compose_test(&arguments),
        Task::Fsx(arguments) => fsx::run_fsx(&arguments),
        Task::Workloads(arguments) => workloads::run_workloads(&arguments),
        Task::FuzzDecoders(arguments) => attack::fuzz_decoders(&arguments),
        Task::Ci => ci(),
        Task::Fix => fix(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}

fn ci() -> Result<(), String> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args([
        "clippy",
        "--profile",
        command::CHECKED,
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    test::run_tests(&test::TestArguments::default())
}

fn fix() -> Result<(), String> {
    run(cargo().args([
        "clippy",
        "--profile",
        command::CHECKED,
        "--workspace",
        "--all-targets",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
    ]))?;
    run(cargo().args(["fmt", "--all"]))
}
