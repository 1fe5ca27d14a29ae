//! `cargo xtask`: what a developer and CI run.
//!
//! `test` runs every test, `bench` measures, `ci` is what CI runs, `fix` is the only one that changes files.

mod bench;
mod command;
mod packages;
mod test;

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
    /// Measure a development cluster with fio, and a peer beside it
    Bench(bench::BenchArguments),
    /// Formatting, lints, tests: what CI runs; changes nothing
    Ci,
    /// Format, and apply what the linter can fix by itself
    Fix,
}

fn main() -> ExitCode {
    let outcome = match CommandLine::parse().task {
        Task::Test(arguments) => test::run_tests(&arguments),
        Task::Bench(arguments) => bench::run_bench(&arguments),
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
    run(cargo().args(["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    test::run_tests(&test::TestArguments::default())
}

fn fix() -> Result<(), String> {
    run(cargo().args([
        "clippy",
        "--release",
        "--workspace",
        "--all-targets",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
    ]))?;
    run(cargo().args(["fmt", "--all"]))
}
