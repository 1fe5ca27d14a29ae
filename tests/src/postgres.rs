//! A PostgreSQL server whose data directory lies on a mount.
//!
//! Responsible for: initdb, starting, SIGKILL of the server with all its processes, stopping, queries. Guarantees: socket
//! and log lie on a local directory, so that they say something while the mount is gone; the server runs as the user
//! `postgres`, as it has to. Must not know: clusters, mounts.

use crate::cluster::{is_dead, wait_until};
use crate::program::run;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const USER: &str = "postgres";
/// Recovery from the write-ahead log included.
const START_PATIENCE: Duration = Duration::from_secs(180);
const END_PATIENCE: Duration = Duration::from_secs(60);
const LOG_LINES_ON_FAILURE: usize = 30;

pub struct Server {
    /// Where initdb, postgres and their like are.
    programs: PathBuf,
    data: PathBuf,
    /// Local: the socket, the log, what pgbench notes.
    beside: PathBuf,
    process: Option<Child>,
}

impl Server {
    /// Makes a database cluster with checksums of its pages in the directory `data`.
    ///
    /// # Panics
    /// When initdb fails.
    #[must_use]
    pub fn create(programs: &Path, data: &Path, beside: &Path) -> Self {
        for directory in [data, beside] {
            fs::create_dir_all(directory).unwrap();
            let _ = run(Command::new("chown").arg(format!("{USER}:{USER}")).arg(directory));
            fs::set_permissions(directory, Permissions::from_mode(0o700)).unwrap();
        }
        let (programs, data, beside) = (programs.to_owned(), data.to_owned(), beside.to_owned());
        let server = Self { programs, data, beside, process: None };
        let words = ["--data-checksums", "--auth=trust", "--locale=C", "--encoding=UTF8", "--username=postgres", "-D"];
        let _ = run(server.program("initdb").args(words).arg(&server.data));
        server
    }

    /// The same files through another mount.
    pub fn moves_to(&mut self, data: &Path) {
        assert!(self.process.is_none(), "it runs");
        self.data = data.to_owned();
    }

    #[must_use]
    pub fn beside(&self) -> &Path {
        &self.beside
    }

    /// Starts it and waits until it answers, which is after recovery. How long that took.
    ///
    /// # Panics
    /// When it ends or takes too long.
    pub fn start(&mut self, settings: &[&str]) -> Duration {
        let began = Instant::now();
        let log = OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let mut command = self.program("postgres");
        command.arg("-D").arg(&self.data).arg("-k").arg(&self.beside);
        // What a commit promises, spelled out.
        let durable = ["listen_addresses=", "fsync=on", "synchronous_commit=on", "full_page_writes=on"];
        for setting in durable.iter().chain(settings) {
            command.arg("-c").arg(setting);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(command.spawn().unwrap());
        while !self.program("pg_isready").arg("--quiet").status().unwrap().success() {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "postgres ended ({ended:?}):\n{}", self.log_tail());
            assert!(began.elapsed() < START_PATIENCE, "postgres does not answer:\n{}", self.log_tail());
            std::thread::sleep(Duration::from_millis(50));
        }
        began.elapsed()
    }

    /// SIGKILL to the server and every process of it.
    ///
    /// # Panics
    /// When one does not go.
    pub fn kill(&mut self) {
        let mut server = self.process.take().expect("it runs");
        // The server first: it would start anew what it sees dying.
        server.kill().unwrap();
        let others = self.processes();
        let _ = Command::new("kill").arg("-9").args(&others).stderr(Stdio::null()).status().unwrap();
        server.wait().unwrap();
        wait_until("the processes of postgres to be gone", END_PATIENCE, || others.iter().all(|pid| is_dead(pid)));
        assert!(self.processes().is_empty(), "a process of postgres is left");
    }

    /// Stops it in good order.
    ///
    /// # Panics
    /// When it does not end well.
    pub fn stop(&mut self) {
        let mut server = self.process.take().expect("it runs");
        let _ = run(Command::new("kill").arg("-INT").arg(server.id().to_string()));
        let mut status = None;
        wait_until("postgres to stop", END_PATIENCE, || {
            status = server.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.is_some_and(|s| s.success()), "postgres ended with {status:?}:\n{}", self.log_tail());
    }

    /// A program of PostgreSQL, as its user, which finds this server.
    #[must_use]
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", USER, "--regid", USER, "--init-groups"]).arg(self.programs.join(name));
        command.current_dir("/").env("PGHOST", &self.beside).env("PGUSER", USER).env("PGDATABASE", "postgres");
        command
    }

    /// What `psql` prints, without decoration: columns parted by `|`.
    #[must_use]
    pub fn query(&self, sql: &str) -> String {
        let words = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql];
        run(self.program("psql").args(words)).trim().to_owned()
    }

    /// For what a client says that was cut short.
    ///
    /// # Panics
    /// When the file cannot be made.
    #[must_use]
    pub fn client_log(&self) -> File {
        OpenOptions::new().create(true).append(true).open(self.beside.join("clients.log")).unwrap()
    }

    /// Every process of the server works in its data directory.
    fn processes(&self) -> Vec<String> {
        let all = fs::read_dir("/proc").unwrap().flatten();
        let here = |path: &Path| fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd == self.data);
        all.filter(|entry| here(&entry.path())).filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn log(&self) -> PathBuf {
        self.beside.join("server.log")
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_ON_FAILURE)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing here may panic: it runs while a failed test unwinds. What is left is ended with the namespace.
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}", self.log().display(), self.log_tail());
        }
        if let Some(mut server) = self.process.take() {
            let _ = server.kill();
            let _ = Command::new("kill").arg("-9").args(self.processes()).stderr(Stdio::null()).status();
            let _ = server.wait();
        }
    }
}
