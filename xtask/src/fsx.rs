//! `cargo xtask fsx`: random operations on a file against a model, for as long as wanted.

use crate::command::{CHECKED, cargo, checked_weft, run};
use crate::packages;
use clap::Args;

#[derive(Args)]
pub struct FsxArguments {
    /// How long
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Through how many mounts of the volume at once
    #[arg(long, default_value_t = 1)]
    mounts: u64,
    /// First seed; each file has the next one
    #[arg(long)]
    seed: Option<u64>,
}

pub fn run_fsx(arguments: &FsxArguments) -> Result<(), String> {
    packages::ensure_for_tests()?;
    run(cargo().args(["build", "--profile", CHECKED, "--package", "weft-cli"]))?;
    let mut command = cargo();
    command.args(["test", "--profile", CHECKED, "--package", "weft-tests", "--test", "fsx", "--", "--nocapture"]);
    command.env("WEFT_BIN", checked_weft());
    command.env("WEFT_FSX_SECONDS", (arguments.minutes * 60).to_string());
    command.env("WEFT_FSX_MOUNTS", arguments.mounts.max(1).to_string());
    if let Some(seed) = arguments.seed {
        command.env("WEFT_FSX_SEED", seed.to_string());
    }
    run(&mut command)
}
