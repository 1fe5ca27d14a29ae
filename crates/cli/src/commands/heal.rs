//! `weft volume heal` and `weft volume digest`: how far resync is, and whether the replicas are the same.

use super::Context;
use crate::admin::Admin;
use crate::failure::{Failure, Outcome};
use crate::output::Listing;
use crate::units;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use weft_proto::admin::{AdminReply, AdminRequest, HealProgress, ReplicaDigest};
use weft_types::map::VolumeRecord;
use weft_types::{DiskId, PgId};

/// Pause between two looks of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Args)]
pub struct HealArguments {
    name: String,
    /// Stay until every replica is in sync
    #[arg(long)]
    watch: bool,
}

#[derive(Args)]
pub struct DigestArguments {
    name: String,
    /// Show every placement group, not only those that differ
    #[arg(long)]
    all: bool,
}

/// What is left to do for a volume.
#[derive(Serialize)]
struct Healing {
    volume: String,
    /// Replicas that are not in sync, of how many.
    replicas_missing: usize,
    replicas: usize,
    chunks_total: u64,
    chunks_done: u64,
    bytes_copied: u64,
    bytes_equal: u64,
    eta_seconds: Option<u64>,
    running: Vec<HealProgress>,
}

/// # Errors
/// When the volume does not exist or the cluster does not answer.
pub fn run(context: Context<'_>, arguments: &HealArguments) -> Outcome {
    let admin = Admin::connect(context.cluster)?;
    let volume = admin.volume(&arguments.name)?.record;
    if !arguments.watch {
        return context.audience.show(&look(&admin, &volume)?, describe);
    }
    watch(&admin, &volume, context)
}

fn watch(admin: &Admin, volume: &VolumeRecord, context: Context<'_>) -> Outcome {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} chunks  {msg}") {
        bar.set_style(style);
    }
    let began = Instant::now();
    let mut watched = Watched::default();
    loop {
        let mut healing = look(admin, volume)?;
        watched.add_to(&mut healing);
        if healing.replicas_missing == 0 {
            bar.finish_and_clear();
            let seconds = began.elapsed().as_secs();
            return context.audience.show(&healing, |h| {
                format!(
                    "volume {}: all {} replicas are in sync (watched for {})",
                    h.volume,
                    h.replicas,
                    units::seconds(seconds)
                )
            });
        }
        bar.set_length(healing.chunks_total);
        bar.set_position(healing.chunks_done);
        bar.set_message(match healing.eta_seconds {
            Some(eta) => format!("{} copied, about {} left", units::bytes(healing.bytes_copied), units::seconds(eta)),
            None => format!("{} replicas wait for their node or their turn", healing.replicas_missing),
        });
        std::thread::sleep(WATCH_INTERVAL);
    }
}

/// Every resync that was seen, as it was seen last. One that is complete is told of no more, and the bar must not go back.
#[derive(Default)]
struct Watched(BTreeMap<(PgId, DiskId), HealProgress>);

impl Watched {
    fn add_to(&mut self, healing: &mut Healing) {
        for ended in self.0.values_mut() {
            ended.chunks_done = ended.chunks_total;
        }
        self.0.extend(healing.running.iter().map(|progress| ((progress.pg, progress.target), progress.clone())));
        let sum = |part: fn(&HealProgress) -> u64| self.0.values().map(part).sum();
        healing.chunks_total = sum(|progress| progress.chunks_total);
        healing.chunks_done = sum(|progress| progress.chunks_done);
        healing.bytes_copied = sum(|progress| progress.bytes_copied);
        healing.bytes_equal = sum(|progress| progress.bytes_equal);
    }
}

fn look(admin: &Admin, volume: &VolumeRecord) -> Outcome<Healing> {
    let status = admin.status()?;
    let mut running = Vec::new();
    for (_, reply) in admin.ask_live_nodes(&AdminRequest::HealStatus { volume: volume.id })? {
        // A node that does not answer just now leads nothing that could be shown; the next look asks again.
        if let Ok(AdminReply::Heal(progress)) = reply {
            running.extend(progress);
        }
    }
    running.sort_by_key(|p| (p.pg, p.target));
    let members: Vec<_> = status.map.pgs.iter().filter(|g| g.pg.volume == volume.id).collect();
    let replicas: usize = members.iter().map(|g| usize::from(g.replicas)).sum();
    let level: usize = members.iter().map(|g| g.members.iter().filter(|m| m.is_level()).count()).sum();
    let (total, done) = running.iter().fold((0, 0), |(t, d), p| (t + p.chunks_total, d + p.chunks_done));
    Ok(Healing {
        volume: volume.name.clone(),
        replicas_missing: replicas.saturating_sub(level),
        replicas,
        chunks_total: total,
        chunks_done: done,
        bytes_copied: running.iter().map(|p| p.bytes_copied).sum(),
        bytes_equal: running.iter().map(|p| p.bytes_equal).sum(),
        eta_seconds: running.iter().filter_map(eta_seconds).max(),
        running,
    })
}

/// Time left at the speed so far.
fn eta_seconds(progress: &HealProgress) -> Option<u64> {
    let left = progress.chunks_total.saturating_sub(progress.chunks_done);
    (progress.chunks_done > 0).then(|| progress.running_ms.saturating_mul(left) / progress.chunks_done / 1000)
}

fn describe(healing: &Healing) -> String {
    if healing.replicas_missing == 0 {
        return format!("volume {}: all {} replicas are in sync", healing.volume, healing.replicas);
    }
    let mut table = Listing::new(
        &["group", "target disk", ">chunks", ">copied", ">found equal", ">time left"],
        "no resync is running",
    );
    for progress in &healing.running {
        table.row([
            progress.pg.to_string(),
            short(progress.target),
            format!("{}/{}", progress.chunks_done, progress.chunks_total),
            units::bytes(progress.bytes_copied),
            units::bytes(progress.bytes_equal),
            eta_seconds(progress).map_or_else(|| "-".to_owned(), units::seconds),
        ]);
    }
    format!(
        "volume {}: {} of {} replicas are not in sync\n\n{}",
        healing.volume,
        healing.replicas_missing,
        healing.replicas,
        table.finish()
    )
}

/// Whether the replicas of a volume hold the same blocks.
#[derive(Serialize)]
struct Comparison {
    volume: String,
    identical: bool,
    groups: usize,
    replicas: usize,
    blocks: u64,
    /// Digest over the digests of all groups, by disk.
    disks: BTreeMap<String, String>,
    differing: Vec<ReplicaDigest>,
    missing: Vec<String>,
    all: Vec<ReplicaDigest>,
}

/// # Errors
/// When the replicas differ or cannot all be read (exit code 1), after showing how.
pub fn digest(context: Context<'_>, arguments: &DigestArguments) -> Outcome {
    let admin = Admin::connect(context.cluster)?;
    let volume = admin.volume(&arguments.name)?.record;
    let comparison = compare(&admin, &volume)?;
    context.audience.show(&comparison, |c| describe_comparison(c, arguments.all))?;
    if comparison.identical {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "the replicas of volume {} are not identical now: writes may be under way, or see `weft volume heal {}`",
        volume.name, volume.name
    )))
}

fn compare(admin: &Admin, volume: &VolumeRecord) -> Outcome<Comparison> {
    let status = admin.status()?;
    let mut missing = Vec::new();
    let mut all = Vec::new();
    for (node, reply) in admin.ask_live_nodes(&AdminRequest::ReplicaDigests { volume: volume.id })? {
        match reply {
            Ok(AdminReply::Digests(digests)) => all.extend(digests),
            Ok(other) => missing.push(format!("node {node} answered {other:?}")),
            Err(error) => missing.push(format!("node {node}: {error}")),
        }
    }
    all.sort_by_key(|d| (d.pg, d.disk));
    let mut by_group: BTreeMap<PgId, Vec<&ReplicaDigest>> = BTreeMap::new();
    for digest in &all {
        by_group.entry(digest.pg).or_default().push(digest);
    }
    let mut differing = Vec::new();
    for group in status.map.pgs.iter().filter(|g| g.pg.volume == volume.id) {
        let held = by_group.get(&group.pg).map(Vec::as_slice).unwrap_or_default();
        if held.len() < usize::from(group.replicas) {
            missing.push(format!("group {}: {} of {} replicas answered", group.pg, held.len(), group.replicas));
        }
        if held.windows(2).any(|pair| pair[0].digest != pair[1].digest) {
            differing.extend(held.iter().copied().cloned());
        }
    }
    Ok(Comparison {
        volume: volume.name.clone(),
        identical: differing.is_empty() && missing.is_empty(),
        groups: by_group.len(),
        replicas: all.len(),
        blocks: all.iter().map(|d| d.blocks).sum(),
        disks: disk_digests(&all),
        differing,
        missing,
        all,
    })
}

/// One short line per disk. A disk that holds every group has the same text as any other that does.
fn disk_digests(all: &[ReplicaDigest]) -> BTreeMap<String, String> {
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    for digest in all {
        texts.entry(digest.disk.to_string()).or_default().push_str(&format!("{} {}\n", digest.pg, digest.digest));
    }
    texts.into_iter().map(|(disk, text)| (disk, blake3::hash(text.as_bytes()).to_hex().to_string())).collect()
}

fn describe_comparison(comparison: &Comparison, every_group: bool) -> String {
    let shown = if every_group { &comparison.all } else { &comparison.differing };
    let mut table = Listing::new(&["group", "disk", ">chunks", ">blocks", "digest"], "");
    for digest in shown {
        table.row([
            digest.pg.to_string(),
            short(digest.disk),
            digest.chunks.to_string(),
            digest.blocks.to_string(),
            digest.digest.chars().take(16).collect(),
        ]);
    }
    let mut lines = vec![format!(
        "volume {}: {} ({} replicas of {} groups, {} blocks)",
        comparison.volume,
        if comparison.identical { "all replicas are identical" } else { "the replicas are NOT identical" },
        comparison.replicas,
        comparison.groups,
        comparison.blocks
    )];
    lines.extend(comparison.disks.iter().map(|(disk, digest)| format!("  disk {disk}  {digest}")));
    lines.extend(comparison.missing.iter().map(|m| format!("  missing: {m}")));
    if !shown.is_empty() {
        lines.push(table.finish());
    }
    lines.join("\n")
}

/// First part of a disk's id: enough to tell disks of one cluster apart in a table.
fn short(disk: DiskId) -> String {
    disk.to_string().chars().take(8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::VolumeId;

    fn progress(index: u16, chunks_done: u64, bytes_copied: u64) -> HealProgress {
        let pg = PgId { volume: VolumeId(1), index };
        let (target, chunks_total, bytes_equal, running_ms) = (DiskId(7), 100, 0, 1000);
        HealProgress { pg, target, chunks_total, chunks_done, bytes_copied, bytes_equal, running_ms }
    }

    fn seen(watched: &mut Watched, running: Vec<HealProgress>) -> (u64, u64, u64) {
        let mut healing = Healing {
            volume: "v".to_owned(),
            replicas_missing: 1,
            replicas: 3,
            chunks_total: 0,
            chunks_done: 0,
            bytes_copied: 0,
            bytes_equal: 0,
            eta_seconds: None,
            running,
        };
        watched.add_to(&mut healing);
        (healing.chunks_done, healing.chunks_total, healing.bytes_copied)
    }

    #[test]
    fn a_resync_that_is_complete_stays_in_the_bar() {
        let mut watched = Watched::default();
        assert_eq!(seen(&mut watched, vec![progress(0, 10, 5), progress(1, 20, 6)]), (30, 200, 11));
        assert_eq!(seen(&mut watched, vec![progress(1, 60, 16)]), (160, 200, 21));
        assert_eq!(seen(&mut watched, vec![progress(1, 90, 18), progress(2, 1, 1)]), (191, 300, 24));
        assert_eq!(seen(&mut watched, Vec::new()), (300, 300, 24));
    }
}
