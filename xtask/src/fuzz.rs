//! `cargo xtask fuzz`: builds the simulator and runs seeds with it.

use crate::command::{CHECKED, cargo, run, show, target_directory};
use std::process::Command;
use std::thread::available_parallelism;

#[derive(clap::Args, Debug, Default)]
pub struct FuzzArguments {
    /// For the simulator: `--seeds N --jobs J`, `--seed S` to replay one, `--mutants` to hunt for planted bugs
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub fn run_fuzz(arguments: &FuzzArguments) -> Result<(), String> {
    let program = ["run", "--release", "--quiet", "-p", "weft-sim", "--bin", "weft-fuzz"];
    let mut command = cargo();
    command.args(program);
    // Planted bugs are compiled in only for whoever asks for them.
    if arguments.arguments.iter().any(|argument| argument.starts_with("--mutant") || argument == "--help") {
        command.args(["--features", "mutants"]);
    }
    run(command.arg("--").args(&arguments.arguments))
}

/// Seeds to try for a planted bug that the seed in the table does not show any more.
const QUICK_BUDGET: &str = "200";

/// Whether the simulator notices every planted bug that its table says it notices. Built beside what is tested, which has none of
/// them compiled in; from the whole workspace, so that no dependency is built with other features.
pub fn hunt_planted_bugs() -> Result<(), String> {
    let features = ["--features", "weft-sim/mutants"];
    run(cargo().args(["build", "--profile", CHECKED, "--workspace"]).args(features).args(["--bin", "weft-fuzz"]))?;
    let jobs = available_parallelism().map_or(1, usize::from).to_string();
    let mut command = Command::new(target_directory().join(CHECKED).join("weft-fuzz"));
    command.args(["--mutants", "--budget", QUICK_BUDGET, "--jobs", &jobs]);
    let shown = show(&command);
    eprintln!("$ {shown}");
    let output = command.output().map_err(|error| format!("could not run `{shown}`: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    if output.status.success() {
        return Ok(());
    }
    // Its last line names those that got away.
    Err(format!("`{shown}` failed ({}): {}", output.status, said.lines().last().unwrap_or_default()))
}
