//! Where the time of a 4 KiB write goes: fio's own latency, split by the times that the nodes keep per operation.
//!
//! A node reports pairs of counters `NAME_count` and `NAME_us_sum`; the difference over one job, divided, is the mean
//! of that hop. What no counter covers (kernel, FUSE, client, network) is what remains of fio's figure.

use super::fio::{JOBS, Jobs};
use super::weft::DevCluster;
use crate::command::capture;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The job whose time is split.
const JOB: &str = "w4k-qd1";

type Counters = BTreeMap<String, u64>;

pub fn measure(cluster: &DevCluster, jobs: &Jobs) -> Result<String, String> {
    let job = JOBS.iter().find(|job| job.name == JOB).ok_or("the job of the budget is gone")?;
    let before = counters(cluster)?;
    let row = jobs.job(job, &cluster.mount_point().join("bench.fio"))?;
    let after = counters(cluster)?;
    let mean = row.write.map_or(0.0, |figures| figures.mean_us);
    let mut text = format!("budget of a 4 KiB write at queue depth 1: {mean:.0} us in all\n");
    for (name, total_after) in &after {
        let Some(hop) = name.strip_suffix("_us_sum") else { continue };
        let count_name = format!("{hop}_count");
        let grown = |name: &str, now: u64| now.saturating_sub(before.get(name).copied().unwrap_or(0));
        let count = grown(&count_name, after.get(&count_name).copied().unwrap_or(0));
        if count > 0 {
            let each = grown(name, *total_after) as f64 / count as f64;
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {hop:32} {each:8.1} us  ({count} times)");
        }
    }
    Ok(text)
}

/// Counters of all nodes, added up.
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
    Ok(sums)
}
