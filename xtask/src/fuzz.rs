//! `cargo xtask fuzz`: builds the simulator and runs seeds with it.

use crate::command::{cargo, run};

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
