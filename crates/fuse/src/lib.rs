//! The FUSE adapter: decodes a kernel request, calls the client, replies. No storage logic.
//!
//! Threads: fuser's thread reads requests from the kernel and hands each to the client's thread, in one hop; the client's
//! thread does everything else and writes the reply to the kernel itself. fuser's thread waits only when the bytes of
//! writes under way reach their limit.
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
mod directories;
mod errno;
mod files;
mod handles;
mod kernel;
mod mount;
mod names;
mod preflight;
mod rollback;
mod server;

pub use mount::{Connector, MountError, MountOptions, Mounted, mount, mount_with};
