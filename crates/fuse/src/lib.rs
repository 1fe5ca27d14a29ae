//! The FUSE adapter: decodes a kernel request, calls the client, replies. No storage logic.
//!
//! Threads: the client's thread reads the kernel's requests itself and serves reads, writes and flushes without another
//! hop. All others it passes on to fuser's thread, which decodes them and hands them back as jobs.
//!
//! ```ignore
//! let mut options = MountOptions::new(ConnectOptions::new("/etc/weft"), "vms", "/mnt/vms");
//! options.read_only = false;
//! let mounted = weft_fuse::mount(options)?;            // the error is one sentence for a person
//! mounted.run_until_unmounted_or_signalled()?;         // SIGTERM and SIGINT: commit, close, unmount
//! ```

mod adapter;
mod attributes;
mod budget;
mod device;
mod direct;
mod directories;
mod errno;
mod files;
mod handles;
mod invalidate;
mod kernel;
mod locks;
mod mount;
mod mutants;
mod names;
mod preflight;
mod rollback;
mod server;
mod signals;

pub use mount::{Connector, MountError, MountOptions, Mounted, mount, mount_with};
