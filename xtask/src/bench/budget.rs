//! Where the time of a 4 KiB write goes: fio's own latency, split by the times that mount and nodes keep per operation.
//!
//! Each keeps pairs of counters `NAME_count` and `NAME_us_sum`; the difference over one job, divided, is the mean of that
//! hop. Hops lie within one another, so each line is an outer one less what lies within it, and the lines add up to what
//! fio saw.

use super::fio::{JOBS, Jobs};
use super::weft::DevCluster;
use crate::command::capture;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;

/// The job whose time is split.
const JOB: &str = "w4k-qd1";

type Counters = BTreeMap<String, u64>;

pub fn measure(cluster: &DevCluster, jobs: &Jobs) -> Result<String, String> {
    let job = JOBS.iter().find(|job| job.name == JOB).ok_or("the job of the budget is gone")?;
    let before = counters(cluster)?;
    let row = jobs.job(job, &cluster.mount_point().join("bench.fio"))?;
    let after = counters(cluster)?;
    let grown = |name: String| {
        let value = |counters: &Counters| counters.get(&name).copied().unwrap_or(0);
        value(&after).saturating_sub(value(&before)) as f64
    };
    let hop = |name: &str| grown(format!("{name}_us_sum")) / grown(format!("{name}_count")).max(1.0);
    let mean = row.write.map_or(0.0, |figures| figures.mean_us);
    let (mount, exchange, total) = (hop("mount_write"), hop("write_exchange"), hop("write_total"));
    let (replicate, backup) = (hop("write_replicate"), hop("backup_append"));
    let lines = [
        ("fio, kernel, waking the mount", mean - mount),
        ("mount", mount - exchange),
        ("to the primary and back", exchange - total),
        ("primary: log, journal, frames", total - replicate),
        ("to the backups and back", replicate - backup),
        ("a backup: checks, journal", backup),
    ];
    let mut text = format!("budget of a 4 KiB write at queue depth 1, load {}:\n", super::fio::load_average());
    for (what, each) in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {what:32} {each:8.1} us");
    }
    let _ = writeln!(text, "  {:32} {mean:8.1} us", "in all, as fio saw it");
    let _ = writeln!(text, "of these, a write to the journal  {:8.1} us", hop("journal_append"));
    Ok(text)
}

/// Counters of the mount and of all nodes, added up.
fn counters(cluster: &DevCluster) -> Result<Counters, String> {
    let output = capture(&mut cluster.weft(&["cluster", "status", "--json"]))?;
    let status: Value = serde_json::from_slice(&output.stdout).map_err(|e| format!("weft cluster status: {e}"))?;
    let mut sums = Counters::new();
    let reports = status["reports"].as_array().into_iter().flatten().filter_map(|pair| pair.get(1));
    for counter in reports.filter_map(|report| report["counters"].as_array()).flatten() {
        if let (Some(name), Some(value)) = (counter[0].as_str(), counter[1].as_u64()) {
            *sums.entry(name.to_owned()).or_default() += value;
        }
    }
    let asked = ["--only-values", "--name=weft.statistics", "--absolute-names"];
    let output = capture(Command::new("getfattr").args(asked).arg(cluster.mount_point()))?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some((name, value)) = line.split_once(' ')
            && let Ok(value) = value.parse::<u64>()
        {
            *sums.entry(name.to_owned()).or_default() += value;
        }
    }
    Ok(sums)
}
