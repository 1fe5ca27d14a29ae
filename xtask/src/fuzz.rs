//! `cargo xtask fuzz`: builds the simulator and runs seeds with it.

use crate::command::{CHECKED, cargo, run, show, target_directory};
use std::path::PathBuf;
use std::process::Command;
use std::thread::available_parallelism;

#[derive(clap::Args, Debug, Default)]
pub struct FuzzArguments {
    /// For the simulator: `--seeds N --jobs J`, `--seed S` to replay one, `--mutants` to hunt for planted bugs
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub fn run_fuzz(arguments: &FuzzArguments) -> Result<(), String> {
    // Planted bugs are compiled in only for whoever asks for them.
    let asks = |argument: &String| argument.starts_with("--mutant") || argument == "--help";
    let planted = if arguments.arguments.iter().any(asks) { PlantedBugs::In } else { PlantedBugs::Out };
    run(Command::new(build(planted)?).args(&arguments.arguments))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PlantedBugs {
    In,
    Out,
}

/// The simulator, with the profile of the tests and from the whole workspace, so that nothing that they need is built once more.
fn build(planted: PlantedBugs) -> Result<PathBuf, String> {
    let mut command = cargo();
    command.args(["build", "--quiet", "--profile", CHECKED, "--workspace", "--bin", "weft-fuzz"]);
    if planted == PlantedBugs::In {
        command.args(["--features", "weft-sim/mutants"]);
    }
    run(&mut command)?;
    Ok(target_directory().join(CHECKED).join("weft-fuzz"))
}

/// Seeds to try for a planted bug that the seed in the table does not show any more.
const QUICK_BUDGET: &str = "200";

/// Whether the simulator notices every planted bug that its table says it notices. What is tested has none of them compiled in.
pub fn hunt_planted_bugs() -> Result<(), String> {
    let program = build(PlantedBugs::In)?;
    let jobs = available_parallelism().map_or(1, usize::from).to_string();
    let mut command = Command::new(program);
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
