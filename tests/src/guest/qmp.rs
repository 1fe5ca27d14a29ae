//! QEMU's machine protocol: one command, one answer, over a Unix socket.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// QEMU makes its socket at once when it starts; a busy machine starts it late.
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);
/// QEMU answers when its main loop runs, which an image being opened or closed may hold up.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

pub struct Qmp {
    lines: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects and says hello.
    ///
    /// # Errors
    /// When QEMU does not listen or does not answer.
    pub fn connect(path: &Path) -> Result<Self, String> {
        Self::connect_while(path, || true)
    }

    /// The same, given up when `runs` says that QEMU has ended.
    ///
    /// # Errors
    /// As `connect`.
    pub fn connect_while(path: &Path, mut runs: impl FnMut() -> bool) -> Result<Self, String> {
        let deadline = Instant::now() + CONNECT_PATIENCE;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline || !runs() => {
                    return Err(format!("{}: {error}", path.display()));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        stream.set_read_timeout(Some(ANSWER_PATIENCE)).map_err(|e| e.to_string())?;
        let mut qmp = Self { lines: BufReader::new(stream) };
        qmp.ask("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// # Errors
    /// What QEMU says is wrong, or that it is gone.
    pub fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.lines.get_mut(), "{request}").map_err(|e| format!("{command}: {e}"))?;
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).map_err(|e| format!("{command}: {e}"))? == 0 {
                return Err(format!("{command}: QEMU is gone"));
            }
            // Greeting and events come in between.
            let mut answer: Value = serde_json::from_str(&line).map_err(|e| format!("{command}: {e} in {line}"))?;
            if !answer["error"].is_null() {
                return Err(format!("{command}: {}", answer["error"]["desc"].as_str().unwrap_or("refused")));
            }
            if !answer["return"].is_null() {
                return Ok(answer["return"].take());
            }
        }
    }
}
