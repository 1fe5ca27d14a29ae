//! QEMU's tools as seen from here: what `qemu-img` says about an image, and `qemu-nbd` serving one on a Unix socket.
//!
//! A qcow2 image is read and written through `qemu-nbd`, block by block. A conversion to a raw file first would need
//! the space twice and would read the image twice.

use super::nbd::NbdClient;
use crate::failure::{Failure, Outcome, While};
use serde::Deserialize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long `qemu-nbd` may take to offer its socket.
const SERVER_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfo {
    pub format: String,
    #[serde(default)]
    pub backing_filename: Option<String>,
    #[serde(default)]
    pub encrypted: bool,
}

/// A run of an image as `qemu-img map` lists it.
#[derive(Clone, Debug, Deserialize)]
struct MapEntry {
    start: u64,
    length: u64,
    data: bool,
    zero: bool,
    /// Where its bytes lie in the image file; absent for compressed clusters and holes.
    offset: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct CheckReport {
    #[serde(default)]
    corruptions: u64,
    #[serde(default)]
    check_errors: u64,
}

fn qemu_img(arguments: &[&str], image: &Path) -> Outcome<Output> {
    let run = Command::new("qemu-img").args(arguments).arg(image).stdin(Stdio::null()).output();
    run.map_err(|error| missing_tool("qemu-img", &error))
}

fn missing_tool(tool: &str, error: &std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::NotFound {
        return Failure::failed(format!("{tool} is not installed: install it with `apt-get install qemu-utils`"));
    }
    Failure::failed(format!("could not run {tool}: {error}"))
}

fn first_line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).lines().next().unwrap_or("no reason given").to_owned()
}

/// What kind of image it is.
///
/// # Errors
/// When the tool is missing or cannot read the image.
pub fn info(image: &Path) -> Outcome<ImageInfo> {
    let output = qemu_img(&["info", "--output=json"], image)?;
    if !output.status.success() {
        return Err(Failure::input(format!(
            "{} is no readable image: {}",
            image.display(),
            first_line(&output.stderr)
        )));
    }
    serde_json::from_slice(&output.stdout).doing(format!("understand what qemu-img says of {}", image.display()))
}

/// Refuses an image whose tables are damaged or whose clusters lie past the end of the file, and gives the runs that
/// hold data otherwise.
///
/// # Errors
/// As said.
pub fn data_ranges(image: &Path, format: &str) -> Outcome<Vec<Range<u64>>> {
    let check = qemu_img(&["check", "-f", format, "--output=json"], image)?;
    let report: Option<CheckReport> = serde_json::from_slice(&check.stdout).ok();
    let damaged = report.as_ref().is_none_or(|r| r.corruptions > 0 || r.check_errors > 0);
    if damaged {
        return Err(Failure::input(format!(
            "{} is damaged or truncated: `qemu-img check` finds errors in it; get a whole copy and import that",
            image.display()
        )));
    }
    let output = qemu_img(&["map", "-f", format, "--output=json"], image)?;
    if !output.status.success() {
        return Err(Failure::input(format!("{} cannot be read: {}", image.display(), first_line(&output.stderr))));
    }
    let entries: Vec<MapEntry> =
        serde_json::from_slice(&output.stdout).doing(format!("understand the map of {}", image.display()))?;
    let length = std::fs::metadata(image).doing(format!("read {}", image.display()))?.len();
    if entries.iter().any(|e| e.data && e.offset.is_some_and(|offset| offset >= length)) {
        return Err(Failure::input(format!(
            "{} is truncated: it refers to data past its end at {length} bytes; get a whole copy and import that",
            image.display()
        )));
    }
    let with_data = entries.into_iter().filter(|e| e.data && !e.zero && e.length > 0);
    Ok(with_data.map(|e| e.start..e.start + e.length).collect())
}

/// Makes an empty qcow2 image.
///
/// # Errors
/// When the tool is missing or fails.
pub fn create_qcow2(image: &Path, size_bytes: u64) -> Outcome {
    let run = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(image)
        .arg(size_bytes.to_string())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| missing_tool("qemu-img", &error))?;
    if run.status.success() {
        return Ok(());
    }
    Err(Failure::failed(format!("could not create {}: {}", image.display(), first_line(&run.stderr))))
}

/// Whether a served image may be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Serve {
    ReadOnly,
    Writable,
}

/// A `qemu-nbd` of our own, and a connection to it. Ends with the connection.
pub struct ServedImage {
    pub connection: NbdClient,
    child: Child,
    directory: PathBuf,
}

impl ServedImage {
    /// # Errors
    /// When the tool is missing, or does not serve the image.
    pub fn start(image: &Path, format: &str, access: Serve) -> Outcome<Self> {
        let directory = private_directory()?;
        let socket = directory.join("nbd");
        let mut command = Command::new("qemu-nbd");
        command
            .arg(format!("--format={format}"))
            .arg(format!("--socket={}", socket.display()))
            .arg("--cache=writeback");
        match access {
            Serve::ReadOnly => command.arg("--read-only"),
            Serve::Writable => command.arg("--discard=unmap"),
        };
        command.arg(image).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| {
            // The directory is empty; nothing else depends on it.
            let _ = std::fs::remove_dir(&directory);
            missing_tool("qemu-nbd", &error)
        })?;
        Self::connect(child, directory, &socket, image)
    }

    fn connect(mut child: Child, directory: PathBuf, socket: &Path, image: &Path) -> Outcome<Self> {
        let deadline = Instant::now() + SERVER_PATIENCE;
        let failure = loop {
            if socket.exists() {
                match NbdClient::connect(socket) {
                    Ok(connection) => return Ok(Self { connection, child, directory }),
                    // The socket has its name a moment before the server listens on it.
                    Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
                    Err(error) => break error.to_string(),
                }
            }
            if let Ok(Some(_)) = child.try_wait() {
                let mut text = String::new();
                if let Some(stderr) = child.stderr.as_mut() {
                    // What it said is only decoration of the error.
                    let _ = std::io::Read::read_to_string(stderr, &mut text);
                }
                break first_line(text.as_bytes());
            }
            if Instant::now() > deadline {
                break "it offered no socket in time".to_owned();
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        end(&mut child, &directory);
        Err(Failure::failed(format!("qemu-nbd could not open {}: {failure}", image.display())))
    }

    /// Disconnects and waits until the server has closed the image.
    ///
    /// # Errors
    /// When the server failed, so that what was written may be incomplete.
    pub fn finish(mut self) -> Outcome {
        self.connection.disconnect().doing("end the connection to qemu-nbd")?;
        let status = self.child.wait().doing("wait for qemu-nbd")?;
        if status.success() { Ok(()) } else { Err(Failure::failed(format!("qemu-nbd failed ({status})"))) }
    }
}

impl Drop for ServedImage {
    fn drop(&mut self) {
        end(&mut self.child, &self.directory);
    }
}

fn end(child: &mut Child, directory: &Path) {
    if let Ok(None) = child.try_wait() {
        let _ = child.kill();
        let _ = child.wait();
    }
    // A directory of our own in the temporary directory; a leftover would be harmless.
    let _ = std::fs::remove_dir_all(directory);
}

/// A directory that only this user may enter: who reaches the socket can read the image.
fn private_directory() -> Outcome<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let base = std::env::temp_dir();
    for attempt in 0..100 {
        let path = base.join(format!("weft-nbd-{}-{attempt}", std::process::id()));
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).doing(format!("create {}", path.display())),
        }
    }
    Err(Failure::failed(format!("could not create a directory in {}: remove old weft-nbd-* ones", base.display())))
}
