//! `cargo xtask fuzz-decoders`: what tests do in seconds, for as long as one likes.

use crate::command::{CHECKED, cargo, run};
use clap::Args;

/// Crates that decode bytes of a peer or a disk; each lists its decoders in a test module of that name.
const DECODING: [&str; 7] =
    ["weft-types", "weft-proto", "weft-meta", "weft-store", "weft-raft", "weft-transport", "weft-node"];

#[derive(Args)]
pub struct DecoderArguments {
    /// Time for the decoders of each crate
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

pub fn fuzz_decoders(arguments: &DecoderArguments) -> Result<(), String> {
    let seconds = arguments.seconds.to_string();
    DECODING.into_iter().try_for_each(|package| {
        let mut tests = cargo();
        tests.args(["test", "--profile", CHECKED, "--quiet", "--package", package, "--lib", "decoders"]);
        run(tests.args(["--", "--nocapture"]).env("WEFT_FUZZ_SECONDS", &seconds))
    })
}
