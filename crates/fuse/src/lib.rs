//! The FUSE adapter: decodes a kernel request, calls the client, replies. No storage logic.
//!
//! ```ignore
//! let mounted = weft_fuse::mount(MountOptions { connect, volume, mount_point, read_only, .. })?; // Err: one sentence
//! mounted.run_until_unmounted_or_signalled()?;   // SIGTERM, SIGINT: flush and unmount
//! weft_fuse::unmount(mount_point, Force::No)?;   // for `weft unmount`
//! ```
