//! A mount from beginning to end: connects, mounts, serves, commits, unmounts.

use crate::adapter::Adapter;
use crate::device;
use crate::invalidate;
use crate::kernel::{self, Writable};
use crate::preflight;
use crate::server::{JOBS, serve};
use fuser::{BackgroundSession, Config, Session, SessionACL};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::thread::JoinHandle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use weft_client::{Client, ConnectError, ConnectOptions, LocalRuntime};

/// What to mount, and where.
#[derive(Clone, Debug)]
pub struct MountOptions {
    pub connect: ConnectOptions,
    pub volume: String,
    pub mount_point: PathBuf,
    pub read_only: bool,
}

impl MountOptions {
    #[must_use]
    pub fn new(connect: ConnectOptions, volume: impl Into<String>, mount_point: impl Into<PathBuf>) -> Self {
        Self { connect, volume: volume.into(), mount_point: mount_point.into(), read_only: false }
    }
}

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("mounting needs root: run it with sudo")]
    NotRoot,
    #[error("/dev/fuse is missing: load the module with `modprobe fuse`, or give the container the device")]
    NoFuse,
    #[error("{mount_point}: {source}", mount_point = .mount_point.display())]
    MountPoint { mount_point: PathBuf, source: io::Error },
    #[error("{} is not a directory", .mount_point.display())]
    NotDirectory { mount_point: PathBuf },
    #[error("{} already has a {filesystem} file system mounted: unmount it first", .mount_point.display())]
    AlreadyMounted { mount_point: PathBuf, filesystem: String },
    #[error(
        "{} is a mount whose process is gone and it could not be taken away ({why}): run `umount -l {}`",
        .mount_point.display(), .mount_point.display()
    )]
    Stale { mount_point: PathBuf, why: String },
    #[error("cannot read the list of mounts: {0}")]
    MountList(io::Error),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("cannot mount at {}: {source}", .mount_point.display())]
    Kernel { mount_point: PathBuf, source: io::Error },
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error("{} is still mounted: somebody uses it", .mount_point.display())]
    StillMounted { mount_point: PathBuf },
    #[error("the kernel connection of {} failed: {source}", .mount_point.display())]
    Session { mount_point: PathBuf, source: io::Error },
}

/// Makes the client, on the thread that will run it.
pub type Connector = Box<
    dyn FnOnce(ConnectOptions, String, String) -> Pin<Box<dyn Future<Output = Result<Client, ConnectError>>>> + Send,
>;

/// A mount that is served by this process.
pub struct Mounted {
    mount_point: PathBuf,
    session: BackgroundSession,
    client: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

/// Connects to the cluster and mounts. Returns when the mount can be used.
///
/// # Errors
/// One sentence for a person.
pub fn mount(options: MountOptions) -> Result<Mounted, MountError> {
    let connect = |options: ConnectOptions, volume: String, mount_point: String| {
        let connecting = async move { Client::connect(&options, &volume, &mount_point).await };
        Box::pin(connecting) as Pin<Box<dyn Future<Output = _>>>
    };
    mount_with(options, Box::new(connect))
}

/// The same with a client from elsewhere; what tests use.
///
/// # Errors
/// As `mount`.
pub fn mount_with(options: MountOptions, connector: Connector) -> Result<Mounted, MountError> {
    let mount_point = preflight::check(&options.mount_point)?;
    let (jobs, job_queue) = mpsc::channel(JOBS);
    let (stop, stopping) = watch::channel(false);
    let (descriptors, mounted) = oneshot::channel();
    let (invalid, invalidations) = invalidate::queue();
    let (connected, outcome) = std::sync::mpsc::sync_channel(1);
    let source = format!("weft:{}", options.volume);
    let memory = options.connect.memory;
    let (connect, volume, shown) = (options.connect, options.volume, mount_point.display().to_string());
    let client = std::thread::Builder::new()
        .name("weft-client".into())
        .spawn(move || {
            let runtime = match LocalRuntime::new() {
                Ok(runtime) => runtime,
                Err(error) => return drop(connected.send(Err(MountError::Thread(error)))),
            };
            runtime.block_on(async move {
                match connector(connect, volume, shown).await {
                    Ok(client) => {
                        // The other side waits for exactly this.
                        let _ = connected.send(Ok(()));
                        client.on_invalid(Box::new(move |inode| {
                            // A full queue only costs mapped pages their freshness.
                            let _ = invalid.try_send(inode);
                        }));
                        serve(client, memory, mounted, job_queue, stopping).await;
                    }
                    Err(error) => drop(connected.send(Err(error.into()))),
                }
            });
        })
        .map_err(MountError::Thread)?;
    match outcome.recv() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(MountError::Thread(io::Error::other("the client's thread ended"))),
    }
    let writable = if options.read_only { Writable::No } else { Writable::Yes };
    let adapter = Adapter::new(jobs);
    let failed = |source| MountError::Kernel { mount_point: mount_point.clone(), source };
    let started = kernel::mount(&source, &mount_point, writable).map_err(failed).and_then(|device| {
        // The thread ends with the client, which holds the other end of the queue.
        if let Err(error) = device.try_clone().and_then(|kernel| invalidations.run(kernel)) {
            tracing::error!(%error, "mapped pages of this mount will not follow other hosts");
        }
        let served = device::split(device).and_then(|(ours, fusers)| {
            // The client's thread waits for exactly this.
            let _ = descriptors.send(ours);
            let mut config = Config::default();
            config.acl = SessionACL::All;
            Session::from_fd(adapter, fusers, SessionACL::All, config).and_then(Session::spawn)
        });
        served.map_err(|source| {
            // The kernel would hang everybody who looks at the mountpoint.
            let _ = kernel::unmount(&mount_point, UnmountFlags::DETACH);
            failed(source)
        })
    });
    match started {
        Ok(session) => {
            tracing::info!(mount_point = %mount_point.display(), source, "mounted");
            Ok(Mounted { mount_point, session, client, stop })
        }
        Err(error) => {
            // Ends the session with the cluster.
            let _ = stop.send(true);
            let _ = client.join();
            Err(error)
        }
    }
}

impl Mounted {
    /// Serves until somebody unmounts, or SIGTERM or SIGINT asks to. A mount that is in use is then detached: it goes
    /// away from the tree at once and is served until its last file is closed. A second signal ends it.
    ///
    /// # Errors
    /// When the kernel connection failed or the mount could not be taken away.
    pub fn run_until_unmounted_or_signalled(self) -> Result<(), MountError> {
        let Self { mount_point, session, client, stop } = self;
        let (ended, end) = oneshot::channel();
        let watcher = std::thread::Builder::new()
            .name("weft-watch".into())
            .spawn(move || drop(ended.send(session.join())))
            .map_err(MountError::Thread)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(MountError::Thread)?;
        let served = runtime.block_on(wait(&mount_point, end)).map_err(MountError::Thread)?;
        // The client's thread ends the session.
        let _ = stop.send(true);
        if client.join().is_err() {
            tracing::error!("the client's thread panicked");
        }
        match served {
            Served::Ended(result) => {
                if watcher.join().is_err() {
                    tracing::error!("the watching thread panicked");
                }
                result.map_err(|source| MountError::Session { mount_point: mount_point.clone(), source })?;
            }
            // fuser's thread still waits for the kernel; it ends with the process.
            Served::Abandoned => {}
        }
        match kernel::mounted_at(&mount_point).map_err(MountError::MountList)? {
            Some(filesystem) if filesystem == kernel::FILESYSTEM => Err(MountError::StillMounted { mount_point }),
            _ => Ok(()),
        }
    }

    /// Takes the mount away as a signal would, and ends.
    ///
    /// # Errors
    /// When it is in use, or could not be taken away.
    pub fn unmount(self) -> Result<(), MountError> {
        let failed = |error: Errno| MountError::Kernel { mount_point: self.mount_point.clone(), source: error.into() };
        kernel::unmount(&self.mount_point, UnmountFlags::empty()).map_err(failed)?;
        self.run_until_unmounted_or_signalled()
    }
}

enum Served {
    /// The kernel ended the connection: the mount is gone.
    Ended(io::Result<()>),
    /// Told twice to stop.
    Abandoned,
}

async fn wait(mount_point: &std::path::Path, end: oneshot::Receiver<io::Result<()>>) -> io::Result<Served> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut signals = 0u32;
    tokio::pin!(end);
    loop {
        tokio::select! {
            result = &mut end => {
                return Ok(Served::Ended(result.unwrap_or_else(|_| Err(io::Error::other("fuser's thread panicked")))));
            }
            _ = terminate.recv() => signals += 1,
            _ = interrupt.recv() => signals += 1,
        }
        if signals > 1 {
            tracing::warn!("told twice to stop: ending with files open");
            return Ok(Served::Abandoned);
        }
        match kernel::unmount(mount_point, UnmountFlags::empty()) {
            Ok(()) => tracing::info!("unmounted"),
            Err(Errno::BUSY) => {
                tracing::warn!("in use: detached; it is served until the last file is closed");
                if let Err(error) = kernel::unmount(mount_point, UnmountFlags::DETACH) {
                    tracing::error!(%error, "could not be detached");
                }
            }
            // Somebody else took it away already.
            Err(Errno::INVAL) => {}
            Err(error) => tracing::error!(%error, "could not be unmounted"),
        }
    }
}
