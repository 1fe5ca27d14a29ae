//! What a test that hangs is waiting for: its processes and theirs, with the call of the kernel that each thread is in, and
//! the last lines of every log of its clusters.
//!
//! Responsible for: saying it before everything is killed, because afterwards nobody can tell. Guarantees: reads only;
//! bounded in lines. Must not know: tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

const MOST_PROCESSES: usize = 60;
const LOG_LINES: usize = 6;
const MOST_LINE_CHARS: usize = 240;
/// Where tests keep their clusters, below the directory for temporary files.
const TEST_DIRECTORY: &str = "weft-test-";

struct Process {
    parent: u32,
    command: String,
}

/// Lines about the descendants of a process and about whatever of Weft runs beside them (a mount is a daemon).
#[must_use]
pub fn describe(root: u32) -> Vec<String> {
    let processes = processes();
    let descends = |pid: u32| {
        // A chain of parents is shorter than there are processes.
        let line = std::iter::successors(Some(pid), |at| processes.get(at).map(|process| process.parent));
        line.take(processes.len()).any(|at| at == root)
    };
    let wanted = processes.iter().filter(|(pid, process)| descends(**pid) || process.command.contains("weft"));
    let mut lines: Vec<String> = wanted.take(MOST_PROCESSES).map(|(pid, process)| one(*pid, process)).collect();
    lines.extend(logs());
    lines
}

fn processes() -> BTreeMap<u32, Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, read(pid)?)))
        .collect()
}

fn read(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(Process { parent, command: String::from_utf8_lossy(&command).replace('\0', " ") })
}

/// The process and where each of its threads stands.
fn one(pid: u32, process: &Process) -> String {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stands = threads.map(|thread| {
        let read = |name: &str| fs::read_to_string(thread.path().join(name)).unwrap_or_default().trim().to_owned();
        let state = read("stat").rsplit_once(')').map(|(_, rest)| rest.trim().chars().take(1).collect::<String>());
        format!("{} {} {}", read("comm"), state.unwrap_or_default(), read("wchan"))
    });
    let stands = stands.collect::<Vec<_>>().join(", ");
    format!("{}\n    {stands}", shortened(&format!("process {pid} of {}: {}", process.parent, process.command)))
}

fn logs() -> Vec<String> {
    let mut lines = Vec::new();
    for log in log_files() {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        lines.push(format!("log {}", log.display()));
        lines.extend(all[all.len().saturating_sub(LOG_LINES)..].iter().map(|line| shortened(line)));
    }
    lines
}

fn log_files() -> Vec<PathBuf> {
    let temporary = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    let tests = temporary.filter(|entry| entry.file_name().to_string_lossy().starts_with(TEST_DIRECTORY));
    let parts = tests.flat_map(|test| fs::read_dir(test.path().join("data")).into_iter().flatten().flatten());
    parts.map(|part| part.path().join("log")).filter(|log| log.is_file()).collect()
}

fn shortened(line: &str) -> String {
    line.chars().take(MOST_LINE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_child_is_named_with_what_it_waits_for() {
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        // On a busy machine the child is still starting when it is looked at first.
        let begun = Instant::now();
        let line = loop {
            let line = describe(std::process::id()).into_iter().find(|line| line.contains("sleep 1000"));
            if line.as_ref().is_some_and(|line| line.contains("sleep S")) || begun.elapsed() > PATIENCE {
                break line;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        child.kill().unwrap();
        child.wait().unwrap();
        let line = line.expect("the child");
        assert!(line.contains(&format!("process {} of {}", child.id(), std::process::id())), "{line}");
        assert!(line.contains("sleep S"), "{line}");
    }
}
