//! The figures as a table: ours, the peer's, the ratio, and what design 10 asks for.

use super::fio::{Figures, JOBS, Row};
use super::weft::ProcessMemory;
use serde::Serialize;
use std::fmt::Write;

/// What a node or a mount may take (docs/TESTING.md).
const MEMORY_LIMIT_BYTES: u64 = 256 << 20;

#[derive(Serialize)]
pub struct Document<'a> {
    pub weft: &'a [Row],
    pub peer: Option<&'a Vec<Row>>,
    pub memory: &'a [ProcessMemory],
}

/// Bandwidth for the sequential jobs, operations for the others.
fn figure(name: &str, figures: Figures) -> String {
    if name.contains("1m") || name == "fill" {
        format!("{:.0} MB/s", figures.megabytes_per_second)
    } else {
        format!("{:.0} IOPS", figures.iops)
    }
}

pub fn table(ours: &[Row], peer: Option<&Vec<Row>>) -> String {
    let mut text = format!(
        "{:15} {:5} {:>12} {:>12} {:>7} {:>7} {:>7}  {}\n",
        "job", "side", "weft", "peer", "ratio", "first", "goal", "mean (p99) latency, weft"
    );
    for row in ours {
        for (side, figures) in [("read", row.read), ("write", row.write)] {
            let Some(figures) = figures else { continue };
            let theirs = peer
                .and_then(|rows| rows.iter().find(|r| r.name == row.name))
                .and_then(|r| if side == "read" { r.read } else { r.write });
            let job = JOBS.iter().find(|job| job.name == row.name);
            let ratio = theirs.map(|t| figures.megabytes_per_second / t.megabytes_per_second.max(1e-9));
            let times = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}x"));
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{:15} {:5} {:>12} {:>12} {:>7} {:>7} {:>7}  {:.0} ({:.0}) us",
                row.name,
                side,
                figure(&row.name, figures),
                theirs.map_or_else(|| "-".to_owned(), |t| figure(&row.name, t)),
                times(ratio),
                times(job.map(|j| j.first)),
                times(job.map(|j| j.goal)),
                figures.mean_us,
                figures.p99_us
            );
        }
    }
    text
}

pub fn memory(processes: &[ProcessMemory]) -> String {
    let mut text = String::from("memory, resident (peak):");
    for process in processes {
        let _ = write!(text, "  {} {} ({}) MiB", process.who, process.resident_bytes >> 20, process.peak_bytes >> 20);
    }
    text.push('\n');
    text
}

/// Every process has to stay within its limit.
pub fn check_memory(processes: &[ProcessMemory]) -> Result<(), String> {
    match processes.iter().find(|p| p.peak_bytes > MEMORY_LIMIT_BYTES) {
        None => Ok(()),
        Some(over) => Err(format!(
            "{} took {} MiB at its peak, and {} MiB are allowed",
            over.who,
            over.peak_bytes >> 20,
            MEMORY_LIMIT_BYTES >> 20
        )),
    }
}
