//! A process of its own that holds locks: drives the program `lock-client`.

use crate::cluster::wait_until;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// No answer that is not waited for on purpose takes this long, even when a metadata leader dies in between.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Locker {
    process: Child,
    commands: ChildStdin,
    answers: Receiver<String>,
}

impl Locker {
    /// Starts `program` (the path of `lock-client`) with the file open.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn open(program: &str, file: &Path) -> Self {
        let mut process = Command::new(program).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (commands, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The test may have ended.
                let _ = sender.send(line);
            }
        });
        let locker = Self { process, commands, answers };
        assert_eq!(locker.answer(PATIENCE).as_deref(), Some("ready"));
        locker
    }

    /// Gives a command without waiting for its answer.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn begin(&mut self, command: &str) {
        writeln!(self.commands, "{command}").and_then(|()| self.commands.flush()).unwrap();
    }

    /// The next answer, or `None` when there is none in time.
    ///
    /// # Panics
    /// When the process ended.
    #[must_use]
    pub fn answer(&self, patience: Duration) -> Option<String> {
        match self.answers.recv_timeout(patience) {
            Ok(answer) => Some(answer),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("lock-client ended"),
        }
    }

    /// A command and its answer.
    ///
    /// # Panics
    /// When there is none.
    pub fn ask(&mut self, command: &str) -> String {
        self.begin(command);
        self.answer(PATIENCE).unwrap_or_else(|| panic!("no answer to `{command}` in {} s", PATIENCE.as_secs()))
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL; how long the process took to be gone.
    ///
    /// # Panics
    /// When it does not go.
    pub fn kill(mut self) -> Duration {
        let began = Instant::now();
        self.process.kill().unwrap();
        wait_until("a killed process to be gone", PATIENCE, || self.process.try_wait().unwrap().is_some());
        began.elapsed()
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        // It may sleep in a mount that is gone; it is not waited for.
        let _ = self.process.kill();
        let _ = self.process.try_wait();
    }
}
