//! `weft volume`: create, list, inspect and delete volumes.

use super::heal::{self, DigestArguments, HealArguments};
use super::{Consent, Context, Decision, check_name};
use crate::admin::{Admin, unexpected};
use crate::failure::{Failure, Outcome};
use crate::output::{Listing, pairs};
use crate::units;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use std::time::{Duration, Instant};
use weft_proto::admin::{AdminReply, AdminRequest, ClusterStatus, VolumeSummary};
use weft_types::map::{NodeState, PgRecord, VolumeRecord, VolumeState};
use weft_types::{AckMode, ChunkSize, limits};

/// A new volume's groups need a moment until their primaries serve; the command waits so long before it says otherwise.
const NEW_VOLUME_SERVES_WITHIN: Duration = Duration::from_secs(10);
const NEW_VOLUME_POLL: Duration = Duration::from_millis(50);

#[derive(Subcommand)]
pub enum VolumeCommand {
    /// Create a volume
    Create(CreateArguments),
    /// List the volumes
    List,
    /// Show how a volume is configured
    Info { name: String },
    /// Show where a volume's replicas stand, and why it is not healthy
    Status { name: String },
    /// Delete a volume with all its files
    Delete(DeleteArguments),
    /// Show the resync of returning replicas
    Heal(HealArguments),
    /// Compare the replicas by hash
    Digest(DigestArguments),
}

#[derive(Args)]
pub struct CreateArguments {
    name: String,
    /// Copies of every chunk, each on another node
    #[arg(long, default_value_t = 3)]
    replica: u8,
    /// Chunk size, a power of two from 64KiB to 128MiB
    #[arg(long, default_value = "4MiB", value_parser = parse_chunk_size)]
    chunk: ChunkSize,
    /// When a write is acknowledged
    #[arg(long, value_enum, default_value_t = Ack::Memory)]
    ack: Ack,
    /// Placement groups: units in which data are spread and moved
    #[arg(long, default_value_t = limits::DEFAULT_PGS_PER_VOLUME)]
    groups: u16,
}

#[derive(Args)]
pub struct DeleteArguments {
    name: String,
    #[command(flatten)]
    consent: Consent,
}

#[derive(Clone, Copy, ValueEnum)]
enum Ack {
    /// When it is in the memory of every in-sync replica; journals sync within 200 ms
    Memory,
    /// When it is on the disk of every in-sync replica
    Disk,
}

/// # Errors
/// As the commands say.
pub fn run(context: Context<'_>, command: &VolumeCommand) -> Outcome {
    match command {
        VolumeCommand::Create(arguments) => create(context, arguments),
        VolumeCommand::List => list(context),
        VolumeCommand::Info { name } => info(context, name),
        VolumeCommand::Status { name } => status(context, name),
        VolumeCommand::Delete(arguments) => delete(context, arguments),
        VolumeCommand::Heal(arguments) => heal::run(context, arguments),
        VolumeCommand::Digest(arguments) => heal::digest(context, arguments),
    }
}

fn create(context: Context<'_>, arguments: &CreateArguments) -> Outcome {
    check_name("volume", &arguments.name)?;
    if arguments.replica == 0 || arguments.replica > limits::MAX_REPLICAS {
        return Err(Failure::input(format!(
            "--replica {} is out of range: 1 to {} copies are possible",
            arguments.replica,
            limits::MAX_REPLICAS
        )));
    }
    if arguments.groups == 0 || arguments.groups > limits::MAX_PGS_PER_VOLUME {
        return Err(Failure::input(format!(
            "--groups {} is out of range: 1 to {} are possible",
            arguments.groups,
            limits::MAX_PGS_PER_VOLUME
        )));
    }
    let admin = Admin::connect(context.cluster)?;
    let record = create_volume(&admin, arguments)?;
    let serves = wait_until_it_serves(&admin, &record)?;
    context.audience.show(&record, |record| {
        let created = format!("created volume {} with {} replicas; ", record.name, record.replicas);
        if serves {
            format!("{created}mount it with `weft mount {} DIR`", record.name)
        } else {
            format!("{created}not all of it serves yet: see `weft volume status {}`", record.name)
        }
    })
}

/// Gives the groups of a new volume the moment that their primaries need. Whether all of them serve.
fn wait_until_it_serves(admin: &Admin, volume: &VolumeRecord) -> Outcome<bool> {
    let by = Instant::now() + NEW_VOLUME_SERVES_WITHIN;
    loop {
        let health = Health::of(volume, &admin.status()?);
        if health.groups > 0 && health.down == 0 {
            return Ok(true);
        }
        if Instant::now() >= by {
            return Ok(false);
        }
        std::thread::sleep(NEW_VOLUME_POLL);
    }
}

fn create_volume(admin: &Admin, arguments: &CreateArguments) -> Outcome<VolumeRecord> {
    let request = AdminRequest::CreateVolume {
        name: arguments.name.clone(),
        replicas: arguments.replica,
        chunk_size: arguments.chunk,
        ack: match arguments.ack {
            Ack::Memory => AckMode::Memory,
            Ack::Disk => AckMode::Disk,
        },
        pg_count: arguments.groups,
    };
    match admin.ask(request, &format!("create volume `{}`", arguments.name))? {
        AdminReply::Volume(record) => Ok(record),
        other => Err(unexpected(&other)),
    }
}

/// A volume as `weft dev` makes it.
///
/// # Errors
/// When the cluster refuses.
pub fn create_default(admin: &Admin, name: &str, replica: u8) -> Outcome<VolumeRecord> {
    let arguments = CreateArguments {
        name: name.to_owned(),
        replica,
        chunk: ChunkSize::DEFAULT,
        ack: Ack::Memory,
        groups: limits::DEFAULT_PGS_PER_VOLUME,
    };
    let record = create_volume(admin, &arguments)?;
    wait_until_it_serves(admin, &record)?;
    Ok(record)
}

fn list(context: Context<'_>) -> Outcome {
    let admin = Admin::connect(context.cluster)?;
    let (volumes, status) = (admin.volumes()?, admin.status()?);
    context.audience.show(&volumes, |volumes| {
        let mut table = Listing::new(
            &["volume", ">replicas", ">chunk", "ack", ">files", "state"],
            "no volumes yet: create one with `weft volume create NAME`",
        );
        for volume in volumes {
            let record = &volume.record;
            table.row([
                record.name.clone(),
                record.replicas.to_string(),
                units::bytes(record.chunk_size.bytes().into()),
                ack_name(record.ack).to_owned(),
                content(volume.inodes).to_string(),
                Health::of(record, &status).summary(),
            ]);
        }
        table.finish()
    })
}

fn info(context: Context<'_>, name: &str) -> Outcome {
    let volume = Admin::connect(context.cluster)?.volume(name)?;
    context.audience.show(&volume, |VolumeSummary { record, inodes }| {
        pairs(&[
            ("volume", record.name.clone()),
            ("id", record.id.to_string()),
            ("replicas", record.replicas.to_string()),
            ("writes wait below", format!("{} in-sync replicas", record.min_in_sync)),
            ("chunk size", units::bytes(record.chunk_size.bytes().into())),
            ("acknowledge", ack_name(record.ack).to_owned()),
            ("placement groups", record.pg_count.to_string()),
            ("files, directories", content(*inodes).to_string()),
            ("state", if record.state == VolumeState::Active { "active" } else { "being deleted" }.to_owned()),
        ])
    })
}

#[derive(Serialize)]
struct VolumeStatus {
    volume: VolumeRecord,
    health: Health,
    groups: Vec<PgRecord>,
}

fn status(context: Context<'_>, name: &str) -> Outcome {
    let admin = Admin::connect(context.cluster)?;
    let (volume, status) = (admin.volume(name)?.record, admin.status()?);
    let health = Health::of(&volume, &status);
    let groups = status.map.pgs.iter().filter(|g| g.pg.volume == volume.id).cloned().collect();
    context.audience.show(&VolumeStatus { volume, health, groups }, |shown| {
        let mut table = Listing::new(
            &["node", ">leads", ">in sync", ">lossy or behind", ">syncing", ">out"],
            "no placement groups",
        );
        for node in &status.map.nodes {
            let members: Vec<_> = shown.groups.iter().flat_map(|g| &g.members).filter(|m| m.node == node.id).collect();
            let leads = shown.groups.iter().filter(|g| g.primary_member().is_some_and(|m| m.node == node.id)).count();
            let in_state = |wanted: fn(&weft_types::map::MemberState) -> bool| {
                members.iter().filter(|m| wanted(&m.state)).count().to_string()
            };
            use weft_types::map::MemberState::{InSync, Syncing};
            table.row([
                node.name.clone(),
                leads.to_string(),
                in_state(|s| matches!(s, InSync { lossy: false, behind: false })),
                in_state(|s| matches!(s, InSync { lossy, behind } if *lossy || *behind)),
                in_state(|s| matches!(s, Syncing)),
                in_state(|s| s.is_out()),
            ]);
        }
        let mut text = format!("volume {}: {}\n\n{}", shown.volume.name, shown.health.summary(), table.finish());
        for reason in &shown.health.reasons {
            text.push_str("\n- ");
            text.push_str(reason);
        }
        text
    })
}

fn delete(context: Context<'_>, arguments: &DeleteArguments) -> Outcome {
    let admin = Admin::connect(context.cluster)?;
    let volume = admin.volume(&arguments.name)?;
    let what = format!(
        "deletes volume {} for good, with the {} files and directories in it",
        arguments.name,
        content(volume.inodes)
    );
    if arguments.consent.decide(&what)? == Decision::OnlySay {
        return Ok(());
    }
    let request = AdminRequest::DeleteVolume { name: arguments.name.clone() };
    match admin.ask(request, &format!("delete volume `{}`", arguments.name))? {
        AdminReply::Done => context.audience.show(&volume, |v| format!("deleted volume {}", v.record.name)),
        other => Err(unexpected(&other)),
    }
}

/// Where the groups of a volume stand, in counts and in sentences.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Health {
    pub groups: usize,
    /// All replicas in sync.
    pub full: usize,
    /// Serving, with fewer replicas than asked for.
    pub degraded: usize,
    /// Reads go on, writes wait.
    pub writes_wait: usize,
    /// Nothing is served.
    pub down: usize,
    pub reasons: Vec<String>,
}

impl Health {
    #[must_use]
    pub fn of(volume: &VolumeRecord, status: &ClusterStatus) -> Self {
        let mut health = Self { groups: 0, full: 0, degraded: 0, writes_wait: 0, down: 0, reasons: Vec::new() };
        let map = &status.map;
        for group in map.pgs.iter().filter(|g| g.pg.volume == volume.id) {
            health.groups += 1;
            let live = |node| map.nodes.iter().any(|n| n.id == node && n.state == NodeState::Live);
            let level = group.members.iter().filter(|m| m.is_level() && live(m.node)).count();
            let serves = group.levelled_epoch == group.epoch && group.primary_member().is_some_and(|m| live(m.node));
            if !serves {
                health.down += 1;
            } else if level < usize::from(group.min_in_sync) {
                health.writes_wait += 1;
            } else if level < usize::from(group.replicas) {
                health.degraded += 1;
            } else {
                health.full += 1;
            }
        }
        let down: Vec<&str> =
            map.nodes.iter().filter(|n| n.state == NodeState::Down).map(|n| n.name.as_str()).collect();
        if !down.is_empty() {
            health.reasons.push(format!("{} is down: start it again, or replace it", down.join(", ")));
        }
        if health.down > 0 {
            health
                .reasons
                .push(format!("{} placement groups serve nothing: their in-sync replicas are not up", health.down));
        }
        if health.writes_wait > 0 {
            health.reasons.push(format!(
                "writes to {} placement groups wait: fewer than {} in-sync replicas are up (reads go on)",
                health.writes_wait, volume.min_in_sync
            ));
        }
        if health.degraded > 0 {
            health.reasons.push(format!(
                "{} placement groups have fewer than {} replicas in sync: see `weft volume heal {}`",
                health.degraded, volume.replicas, volume.name
            ));
        }
        health
    }

    #[must_use]
    pub fn summary(&self) -> String {
        if self.down > 0 {
            format!("{} of {} groups down", self.down, self.groups)
        } else if self.writes_wait > 0 {
            format!("writes wait in {} of {} groups", self.writes_wait, self.groups)
        } else if self.degraded > 0 {
            format!("degraded: {} of {} groups lack replicas", self.degraded, self.groups)
        } else {
            "healthy".to_owned()
        }
    }
}

/// Files and directories of a volume that users made; the root is none of them.
const fn content(inodes: u64) -> u64 {
    inodes.saturating_sub(1)
}

const fn ack_name(ack: AckMode) -> &'static str {
    match ack {
        AckMode::Memory => "memory",
        AckMode::Disk => "disk",
    }
}

fn parse_chunk_size(text: &str) -> Result<ChunkSize, String> {
    let bytes = units::parse_bytes(text)?;
    let bytes = u32::try_from(bytes).map_err(|_| format!("a chunk size is at most 128 MiB, not {text}"))?;
    ChunkSize::new(bytes).map_err(|error| error.to_string())
}
