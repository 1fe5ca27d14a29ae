//! `weft mount` and `weft unmount`: a mount is a process of its own.

use super::Context;
use crate::dev::{mounts, preflight, process};
use crate::failure::{Failure, Outcome, While};
use crate::{locate, units};
use clap::Args;
use rustix::mount::UnmountFlags;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use weft_client::{ConnectOptions, MemoryLimit};
use weft_fuse::MountOptions;

/// How long the command waits for its mount process to be ready.
const READY_PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Args)]
pub struct MountArguments {
    volume: String,
    mount_point: PathBuf,
    /// Options as in fstab: ro, bind=ADDRESS, fail_after=SECONDS, memory_mib=MIB
    #[arg(short = 'o', value_delimiter = ',')]
    options: Vec<String>,
    /// Local address of every socket
    #[arg(long)]
    bind: Option<IpAddr>,
    /// Do not change anything through this mount
    #[arg(long)]
    read_only: bool,
    /// Fail operations that wait this long for storage that is gone, instead of waiting for ever
    #[arg(long, value_parser = units::parse_duration)]
    fail_after: Option<Duration>,
    /// Memory that the mount process may take, in MiB (64 to 16384)
    #[arg(long, value_name = "MIB")]
    memory_mib: Option<String>,
    /// Stay in the foreground and log to standard error
    #[arg(long)]
    foreground: bool,
    /// Where the mount process logs
    #[arg(long, default_value = "/var/log/weft-mount.log", conflicts_with = "foreground")]
    log: PathBuf,
}

#[derive(Args)]
pub struct UnmountArguments {
    mount_point: PathBuf,
    /// Take the mount away even if it is in use or its storage is gone; operations under way fail
    #[arg(long)]
    force: bool,
}

struct Settings {
    bind: Option<IpAddr>,
    read_only: bool,
    fail_after: Option<Duration>,
    memory: MemoryLimit,
}

impl Settings {
    fn of(arguments: &MountArguments) -> Outcome<Self> {
        let mut settings = Self {
            bind: arguments.bind,
            read_only: arguments.read_only,
            fail_after: arguments.fail_after,
            memory: MemoryLimit::default(),
        };
        if let Some(mebibytes) = &arguments.memory_mib {
            settings.memory =
                memory(mebibytes).map_err(|why| Failure::input(format!("--memory-mib {mebibytes} {why}")))?;
        }
        for option in &arguments.options {
            let wrong = |why: &str| Failure::input(format!("mount option `{option}` {why}"));
            match option.split_once('=') {
                None if matches!(option.as_str(), "ro" | "rw") => settings.read_only = option == "ro",
                // What fstab and systemd add for themselves.
                None if matches!(option.as_str(), "defaults" | "_netdev" | "nofail" | "auto" | "noauto") => {}
                Some(("bind", address)) => {
                    settings.bind = Some(address.parse().map_err(|_| wrong("needs an IP address"))?);
                }
                Some(("fail_after", seconds)) => {
                    let seconds = seconds.parse().map_err(|_| wrong("needs a number of seconds"))?;
                    settings.fail_after = Some(Duration::from_secs(seconds));
                }
                Some(("memory_mib", mebibytes)) => {
                    settings.memory = memory(mebibytes).map_err(|why| wrong(&why))?;
                }
                _ => {
                    return Err(wrong("is not known: ro, rw, bind=ADDRESS, fail_after=SECONDS and memory_mib=MIB are"));
                }
            }
        }
        Ok(settings)
    }
}

/// Reads mebibytes.
fn memory(text: &str) -> Result<MemoryLimit, String> {
    let (least, most) = (MemoryLimit::LEAST_MIB, MemoryLimit::MOST_MIB);
    let limit = text.parse().ok().and_then(MemoryLimit::from_mib);
    limit.ok_or_else(|| format!("needs a number of MiB from {least} to {most}"))
}

/// # Errors
/// When the mountpoint cannot be used, the volume does not exist or the cluster does not answer.
pub fn mount(context: Context<'_>, arguments: &MountArguments) -> Outcome {
    super::check_name("volume", &arguments.volume)?;
    let settings = Settings::of(arguments)?;
    let identity = locate::identity_directory(context.cluster)?;
    let mount_point = mounts::normalize(&arguments.mount_point);
    preflight::machine()?;
    preflight::mount_point(&mount_point)?;
    if !arguments.foreground {
        return in_background(arguments, &identity, mount_point);
    }
    let mut connect = ConnectOptions::new(&identity);
    connect.bind = settings.bind;
    connect.fail_after = settings.fail_after;
    connect.memory = settings.memory;
    let mut options = MountOptions::new(connect, &arguments.volume, &mount_point);
    options.read_only = settings.read_only;
    let what = || format!("mount volume `{}` at {}", arguments.volume, mount_point.display());
    let mounted = weft_fuse::mount(options).doing(what())?;
    mounted.run_until_unmounted_or_signalled().doing(format!("serve {}", mount_point.display()))
}

/// Starts the same command with `--foreground` as a process of its own and waits until the kernel shows the mount.
fn in_background(arguments: &MountArguments, identity: &std::path::Path, mount_point: PathBuf) -> Outcome {
    let mut again =
        vec!["--cluster".to_owned(), identity.display().to_string(), "mount".to_owned(), "--foreground".to_owned()];
    for option in &arguments.options {
        again.extend(["-o".to_owned(), option.clone()]);
    }
    if let Some(bind) = arguments.bind {
        again.extend(["--bind".to_owned(), bind.to_string()]);
    }
    if let Some(time) = arguments.fail_after {
        again.extend(["--fail-after".to_owned(), format!("{}s", time.as_secs())]);
    }
    if let Some(mebibytes) = &arguments.memory_mib {
        again.extend(["--memory-mib".to_owned(), mebibytes.clone()]);
    }
    if arguments.read_only {
        again.push("--read-only".to_owned());
    }
    again.extend([arguments.volume.clone(), mount_point.display().to_string()]);
    let process = process::spawn_self(&again, &arguments.log, None)?;
    let deadline = Instant::now() + READY_PATIENCE;
    while !mounts::mounted_at(&mount_point).is_some_and(|m| m.is_weft()) {
        process::reap_children();
        if !process.is_alive() {
            let said = process::last_lines(&arguments.log, 1);
            return Err(Failure::failed(format!("the mount process ended: {said} (log: {})", arguments.log.display())));
        }
        if Instant::now() > deadline {
            process.kill_with_descendants();
            return Err(Failure::failed(format!(
                "{} was not mounted within {} s: see {}",
                mount_point.display(),
                READY_PATIENCE.as_secs(),
                arguments.log.display()
            )));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    crate::output::say(&format!("mounted volume {} at {}", arguments.volume, mount_point.display()))
}

/// # Errors
/// When it is no Weft mount, or in use.
pub fn unmount(arguments: &UnmountArguments) -> Outcome {
    let mount_point = mounts::normalize(&arguments.mount_point);
    let shown = mount_point.display();
    match mounts::mounted_at(&mount_point) {
        Some(mounted) if mounted.is_weft() => {}
        Some(mounted) => {
            return Err(Failure::input(format!("{shown} is no Weft mount but {}: use `umount`", mounted.filesystem)));
        }
        None => return Err(Failure::input(format!("nothing is mounted at {shown}: see `weft client list`"))),
    }
    let flags = if arguments.force { UnmountFlags::DETACH | UnmountFlags::FORCE } else { UnmountFlags::empty() };
    mounts::unmount(&mount_point, flags).map_err(|error| match error {
        rustix::io::Errno::BUSY => Failure::failed(format!(
            "{shown} is in use: end the programs that use it (`fuser -vm {shown}` shows them), or repeat with --force"
        )),
        other => Failure::failed(format!("could not unmount {shown}: {other}")),
    })?;
    crate::output::say(&format!("unmounted {shown}"))
}
