//! `cargo xtask test`: everything that `cargo test` knows, with a count at the end.
//!
//! Tests that start clusters use one set of addresses (127.1.0.N) and take a lock among themselves; all others run as
//! cargo runs them.

use crate::command::{cargo, run, show, weft_binary};
use crate::packages;
use clap::Args;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Instant;

#[derive(Args, Default)]
pub struct TestArguments {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Only this package
    #[arg(long, short)]
    package: Option<String>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
struct Count {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Count {
    /// Adds what a line of cargo's output says, if it is a summary of one test program.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.split_once("test result: ").and_then(|(_, rest)| rest.split_once(". ")) else {
            return;
        };
        for part in counts.split(';') {
            let mut words = part.split_whitespace();
            let (Some(Ok(number)), Some(what)) = (words.next().map(str::parse::<u64>), words.next()) else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

pub fn run_tests(arguments: &TestArguments) -> Result<(), String> {
    let began = Instant::now();
    packages::ensure_for_tests()?;
    run(cargo().args(["build", "--release", "--package", "weft-cli"]))?;
    let mut command = cargo();
    command.args(["test", "--release", "--no-fail-fast"]).env("WEFT_BIN", weft_binary());
    match &arguments.package {
        Some(package) => command.args(["--package", package]),
        None => command.arg("--workspace"),
    };
    command.arg("--").arg("--show-output");
    command.args(&arguments.filter);
    eprintln!("$ {}", show(&command));
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| format!("could not run cargo: {e}"))?;
    let mut count = Count::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            count.add(&line);
            println!("{line}");
        }
    }
    let status = child.wait().map_err(|e| format!("could not wait for cargo: {e}"))?;
    println!("{} passed, {} failed", count.passed, count.failed);
    eprintln!("{} ignored; took {} s", count.ignored, began.elapsed().as_secs());
    if status.success() && count.failed == 0 { Ok(()) } else { Err("not all tests passed".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summaries_of_several_test_programs_add_up() {
        let mut count = Count::default();
        count.add("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.03s");
        count.add("test a::b ... ok");
        count.add("test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.03s");
        assert_eq!(count, Count { passed: 14, failed: 3, ignored: 1 });
    }
}
