//! `cargo xtask test`: everything that `cargo test` knows. What failed, and the count, come at the very end.
//!
//! Cargo runs the test programs one after the other. Those that start clusters have a network namespace for each test
//! (`weft_tests::isolation`) and run one test at a time, for the sake of their timing.

use crate::command::{CHECKED, cargo, checked_weft, run, show};
use crate::fuzz;
use crate::hang;
use crate::packages;
use crate::posix_suite;
use crate::test_output::TestOutput;
use clap::Args;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// A test that ends neither well nor badly for so long hangs: the longest takes a few minutes on a busy machine.
const SILENCE: Duration = Duration::from_secs(8 * 60);
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Test programs named at the end as the slowest.
const SLOWEST: usize = 8;

#[derive(Args, Default)]
pub struct TestArguments {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Only this package
    #[arg(long, short)]
    package: Option<String>,
}

pub fn run_tests(arguments: &TestArguments) -> Result<(), String> {
    let began = Instant::now();
    packages::ensure_for_tests()?;
    run(cargo().args(["build", "--profile", CHECKED, "--package", "weft-cli"]))?;
    run(test_command(arguments).arg("--no-run"))?;
    // What the compiler wrote is written back now, not while the first tests wait for their fsyncs.
    run(&mut Command::new("sync"))?;
    let mut command = test_command(arguments);
    if let Some(program) = posix_suite::ensure() {
        command.env("WEFT_PJDFSTEST", program);
    }
    command.arg("--").arg("--show-output");
    command.args(&arguments.filter);
    eprintln!("$ {}", show(&command));
    let (mut output, succeeded) = watch(&mut command)?;
    let everything = arguments.filter.is_none() && arguments.package.is_none();
    if everything && let Err(why) = fuzz::hunt_planted_bugs() {
        output.fail("weft-fuzz", "planted bugs", why);
    }
    eprintln!("{} ignored; took {} s", output.count.ignored, began.elapsed().as_secs());
    report_slowest(&output);
    report_failures(&output);
    if !succeeded && output.failures.is_empty() {
        println!("cargo failed, and no test did: see its last lines above");
    }
    println!("{} passed, {} failed", output.count.passed, output.count.failed);
    if succeeded && output.count.failed == 0 { Ok(()) } else { Err("not all tests passed".to_owned()) }
}

fn test_command(arguments: &TestArguments) -> Command {
    let mut command = cargo();
    // No documentation tests: there are none that run, and looking for them takes half a minute.
    command.args(["test", "--profile", CHECKED, "--no-fail-fast", "--lib", "--bins", "--tests"]);
    command.env("WEFT_BIN", checked_weft());
    match &arguments.package {
        Some(package) => command.args(["--package", package]),
        None => command.arg("--workspace"),
    };
    command
}

/// Runs it and shows what it prints; whether its exit status was 0.
fn watch(command: &mut Command) -> Result<(TestOutput, bool), String> {
    let could_not = |error: std::io::Error| format!("could not run cargo: {error}");
    // One pipe for both, so that what cargo says stands where it belongs.
    let (reader, writer) = std::io::pipe().map_err(could_not)?;
    let mut child = command.stdout(writer.try_clone().map_err(could_not)?).stderr(writer).spawn().map_err(could_not)?;
    // The command holds ends of the pipe, which would keep the reader waiting.
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    let mut output = TestOutput::default();
    let (mut heard, mut ended) = (Instant::now(), None);
    loop {
        if heard.elapsed() > SILENCE && ended.is_none() {
            end_what_hangs(&child, &mut output);
            heard = Instant::now();
        }
        match lines.recv_timeout(LOOK_INTERVAL) {
            Ok(line) => {
                println!("{line}");
                if output.is_progress(&line) {
                    heard = Instant::now();
                }
                output.line(&line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            // The end of the pipe is not waited for: a process that a test left behind may hold it open.
            Err(RecvTimeoutError::Timeout) if ended.is_some() => break,
            Err(RecvTimeoutError::Timeout) => ended = child.try_wait().map_err(could_not)?,
        }
    }
    let status = match ended {
        Some(status) => status,
        None => child.wait().map_err(could_not)?,
    };
    Ok((output, status.success()))
}

/// Kills the test program, so that cargo goes on with the next one and the run says which it was.
fn end_what_hangs(cargo: &Child, output: &mut TestOutput) {
    let said = format!(
        "xtask: no test of {} ended for {} minutes, and it is killed; running for long: {}",
        output.program(),
        SILENCE.as_secs() / 60,
        output.running_long()
    );
    println!("{said}");
    output.line(&said);
    for line in hang::describe(cargo.id()) {
        println!("{line}");
        output.line(&line);
    }
    let pid = cargo.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    // Without children cargo itself hangs, which only whoever called us can end.
    let _ = Command::new("kill").arg("-9").args(children.split_whitespace()).status();
}

fn report_slowest(output: &TestOutput) {
    let mut ran: Vec<_> = output.ran.iter().collect();
    ran.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    for program in ran.iter().take(SLOWEST) {
        eprintln!("{:7.1} s  {}", program.seconds, program.program);
    }
}

fn report_failures(output: &TestOutput) {
    for failure in &output.failures {
        println!("\n==== failed: {} {} ====", failure.program, failure.test);
        failure.output.iter().for_each(|line| println!("{line}"));
    }
    if !output.failures.is_empty() {
        println!("\nfailed tests:");
    }
    for failure in &output.failures {
        let test = if failure.test.is_empty() { "(the program as a whole)" } else { &failure.test };
        println!("  {}: {test}", failure.program);
        failure.why.iter().for_each(|line| println!("      {line}"));
    }
}
