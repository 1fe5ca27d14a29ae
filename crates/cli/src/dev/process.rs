//! Processes of a development cluster: starting them apart from this terminal, finding out whether they live, ending
//! them. A process is named by pid and start time, so that a pid that was used again is never mistaken for ours.

use crate::failure::{Outcome, While};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Pause between two looks at a process that is asked to end.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessName {
    pub pid: i32,
    /// Clock ticks between boot and the start of the process, as `/proc/PID/stat` has it.
    pub started_ticks: u64,
}

/// The part of `/proc/PID/stat` that matters here.
struct Stat {
    state: char,
    parent: i32,
    started_ticks: u64,
}

impl ProcessName {
    /// The process of this pid as it runs now.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        read_stat(pid).map(|stat| Self { pid, started_ticks: stat.started_ticks })
    }

    /// Whether it runs still. A zombie does not.
    #[must_use]
    pub fn is_alive(self) -> bool {
        read_stat(self.pid).is_some_and(|s| s.started_ticks == self.started_ticks && !matches!(s.state, 'Z' | 'X'))
    }

    /// Sends a signal to the process alone; one that is gone is no error.
    pub fn signal(self, signal: Signal) {
        if self.is_alive()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // A race with its end gives ESRCH, which is what the caller wants anyhow.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// SIGKILL to the process and everything it started, the children first named and then all struck at once.
    pub fn kill_with_descendants(self) {
        let descendants = self.descendants();
        self.signal(Signal::KILL);
        for process in descendants {
            process.signal(Signal::KILL);
        }
    }

    /// Processes below this one that run now.
    #[must_use]
    pub fn descendants(self) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        if !self.is_alive() {
            return found;
        }
        let everybody: Vec<(i32, Stat)> =
            numeric_entries("/proc").filter_map(|pid| Some((pid, read_stat(pid)?))).collect();
        let mut parents = vec![self.pid];
        while let Some(parent) = parents.pop() {
            for (pid, stat) in everybody.iter().filter(|(_, stat)| stat.parent == parent) {
                found.push(Self { pid: *pid, started_ticks: stat.started_ticks });
                parents.push(*pid);
            }
        }
        found
    }

    /// Whether it ended within the time.
    #[must_use]
    pub fn wait_for_end(self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            reap_children();
            if !self.is_alive() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Resident and peak resident bytes, for status.
    #[must_use]
    pub fn memory(self) -> Option<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
        };
        Some(Memory { resident_bytes: field("VmRSS:")?, peak_bytes: field("VmHWM:")? })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Memory {
    pub resident_bytes: u64,
    pub peak_bytes: u64,
}

/// Starts this program again with other arguments, in a process group of its own (Ctrl-C in the terminal is for the
/// foreground command only), with its output appended to `log`. It reads `input`, which others cannot see.
///
/// # Errors
/// When the log cannot be opened or the program cannot be started.
pub fn spawn_self(arguments: &[String], log: &Path, input: Option<&str>) -> Outcome<ProcessName> {
    let program = std::env::current_exe().doing("find the path of this program")?;
    let output = open_log(log)?;
    let errors = output.try_clone().doing(format!("open {}", log.display()))?;
    let mut child = Command::new(&program)
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(output)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .doing(format!("start {}", program.display()))?;
    if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
        // It fits into a pipe, so nobody waits. A process that ended already says why in its log.
        let _ = writeln!(pipe, "{text}");
    }
    let pid = i32::try_from(child.id()).doing("read a process id")?;
    // The child is our own and not reaped yet, so the entry exists even if it has ended already.
    ProcessName::of(pid).ok_or("it ended at once").doing(format!("start `weft {}`", arguments.join(" ")))
}

fn open_log(log: &Path) -> Outcome<File> {
    OpenOptions::new().create(true).append(true).open(log).doing(format!("open the log {}", log.display()))
}

/// Collects the exit status of children that have ended, so that they do not linger as zombies.
pub fn reap_children() {
    while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
}

/// Last lines of a log, for an error message.
#[must_use]
pub fn last_lines(log: &Path, count: usize) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn numeric_entries(directory: &str) -> impl Iterator<Item = i32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn read_stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold spaces and parentheses; the fields begin after the last one (proc(5)).
    let fields: Vec<&str> = text.get(text.rfind(')')? + 2..)?.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        started_ticks: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> (std::process::Child, ProcessName) {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let name = ProcessName::of(i32::try_from(child.id()).unwrap()).unwrap();
        (child, name)
    }

    #[test]
    fn a_pid_that_was_used_again_is_not_ours() {
        let (mut child, name) = sleeper();
        assert!(name.is_alive());
        let other = ProcessName { started_ticks: name.started_ticks + 1, ..name };
        assert!(!other.is_alive());
        other.signal(Signal::KILL);
        assert!(name.is_alive(), "the signal must not reach a process that only shares the pid");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!name.is_alive());
    }

    #[test]
    fn killing_takes_the_grandchildren_along() {
        let mut shell = Command::new("sh").args(["-c", "sleep 61 & wait"]).spawn().unwrap();
        let name = ProcessName::of(i32::try_from(shell.id()).unwrap()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while name.descendants().is_empty() && Instant::now() < deadline {
            std::thread::sleep(POLL_INTERVAL);
        }
        let below = name.descendants();
        assert_eq!(below.len(), 1);
        name.kill_with_descendants();
        shell.wait().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while below[0].is_alive() && Instant::now() < deadline {
            std::thread::sleep(POLL_INTERVAL);
        }
        assert!(!below[0].is_alive());
    }
}
