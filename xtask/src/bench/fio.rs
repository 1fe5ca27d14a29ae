//! The jobs, and running them with fio. The file is filled first, so that no job writes into holes; all I/O is direct.

use crate::command::capture;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::Command;

/// One job: what it does, and what design 10 asks of it relative to the peer.
pub struct Job {
    pub name: &'static str,
    pattern: &'static str,
    block: &'static str,
    depth: u32,
    more: &'static [&'static str],
    pub first: f64,
    pub goal: f64,
}

pub const JOBS: &[Job] = &[
    Job { name: "w4k-qd1", pattern: "randwrite", block: "4k", depth: 1, more: &[], first: 1.5, goal: 2.5 },
    Job {
        name: "w4k-qd1-fsync",
        pattern: "randwrite",
        block: "4k",
        depth: 1,
        more: &["--fsync=1"],
        first: 2.0,
        goal: 4.0,
    },
    Job { name: "r4k-qd1", pattern: "randread", block: "4k", depth: 1, more: &[], first: 1.5, goal: 2.5 },
    Job { name: "w4k-qd32", pattern: "randwrite", block: "4k", depth: 32, more: &[], first: 4.0, goal: 8.0 },
    Job { name: "r4k-qd32", pattern: "randread", block: "4k", depth: 32, more: &[], first: 3.0, goal: 6.0 },
    Job {
        name: "rw16k-qd16",
        pattern: "randrw",
        block: "16k",
        depth: 16,
        more: &["--rwmixread=70"],
        first: 3.0,
        goal: 5.0,
    },
    Job { name: "w1m-qd8", pattern: "write", block: "1M", depth: 8, more: &[], first: 0.8, goal: 2.0 },
    Job { name: "r1m-qd8", pattern: "read", block: "1M", depth: 8, more: &[], first: 1.0, goal: 2.0 },
];

/// How the jobs are run this time.
pub struct Jobs {
    pub seconds: u32,
    pub size: String,
    pub only: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: String,
    pub read: Option<Figures>,
    pub write: Option<Figures>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    pub iops: f64,
    pub megabytes_per_second: f64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

#[derive(Deserialize)]
struct FioOutput {
    jobs: Vec<FioJob>,
}

#[derive(Deserialize)]
struct FioJob {
    error: i64,
    read: FioSide,
    write: FioSide,
}

#[derive(Deserialize)]
struct FioSide {
    iops: f64,
    bw_bytes: f64,
    lat_ns: FioLatency,
    clat_ns: FioLatency,
}

#[derive(Deserialize)]
struct FioLatency {
    mean: f64,
    #[serde(default)]
    percentile: std::collections::BTreeMap<String, f64>,
}

impl FioSide {
    fn figures(&self) -> Option<Figures> {
        let percentile = |p: &str| self.clat_ns.percentile.get(p).copied().unwrap_or(0.0) / 1e3;
        (self.iops > 0.0).then(|| Figures {
            iops: self.iops,
            megabytes_per_second: self.bw_bytes / 1e6,
            mean_us: self.lat_ns.mean / 1e3,
            p50_us: percentile("50.000000"),
            p99_us: percentile("99.000000"),
        })
    }
}

/// Fills the file; comes before all others and is not compared.
const FILL: Job =
    Job { name: "fill", pattern: "write", block: "1M", depth: 4, more: &["--end_fsync=1"], first: 0.0, goal: 0.0 };

impl Jobs {
    /// The jobs that were asked for, in order, after the one that fills the file.
    pub fn wanted(&self) -> impl Iterator<Item = &'static Job> {
        std::iter::once(&FILL).chain(JOBS.iter().filter(|job| self.wants(job.name)))
    }

    /// Runs a job and prints its line, with what else the machine had to do.
    pub fn run(&self, side: &str, job: &Job, file: &Path) -> Result<Row, String> {
        let row = self.job(job, file)?;
        println!("{side:5} {}  load {}", row.line(), load_average());
        Ok(row)
    }

    pub fn job(&self, job: &Job, file: &Path) -> Result<Row, String> {
        let mut own =
            vec![format!("--rw={}", job.pattern), format!("--bs={}", job.block), format!("--iodepth={}", job.depth)];
        if job.name != FILL.name {
            own.extend([format!("--runtime={}", self.seconds), "--time_based".to_owned()]);
        }
        let arguments: Vec<&str> = own.iter().map(String::as_str).chain(job.more.iter().copied()).collect();
        self.one(job.name, file, &arguments)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.split('|').any(|part| name.contains(part)))
    }

    fn one(&self, name: &str, file: &Path, arguments: &[&str]) -> Result<Row, String> {
        let mut command = Command::new("fio");
        command
            .arg(format!("--name={name}"))
            .arg(format!("--filename={}", file.display()))
            .arg(format!("--size={}", self.size))
            .args(["--ioengine=libaio", "--direct=1", "--randseed=7", "--norandommap", "--refill_buffers"])
            .arg("--output-format=json")
            .args(arguments);
        let output = capture(&mut command)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // fio may put notes in front of the document.
        let document = text.find('{').map_or("", |at| &text[at..]);
        let parsed: FioOutput = serde_json::from_str(document).map_err(|e| format!("{name}: fio's output: {e}"))?;
        let job = parsed.jobs.first().ok_or_else(|| format!("{name}: fio reported no job"))?;
        if job.error != 0 {
            return Err(format!("{name}: fio met the I/O error {}", job.error));
        }
        Ok(Row { name: name.to_owned(), read: job.read.figures(), write: job.write.figures() })
    }
}

/// Of the last minute, as the kernel writes it.
pub fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

impl Row {
    fn line(&self) -> String {
        let sides = [("R", &self.read), ("W", &self.write)];
        let text: Vec<String> = sides
            .iter()
            .filter_map(|(side, figures)| figures.map(|f| (side, f)))
            .map(|(side, f)| {
                format!(
                    "{side} {:8.0} IOPS {:8.1} MB/s mean {:7.0} p99 {:8.0} us",
                    f.iops, f.megabytes_per_second, f.mean_us, f.p99_us
                )
            })
            .collect();
        format!("{:15} {}", self.name, text.join("  "))
    }
}
