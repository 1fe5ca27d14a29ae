//! Images in and out of volumes: sources and targets outside (raw files, and qcow2 by way of QEMU's tools), and the
//! copying between them and a file of a volume. Holes stay holes in both directions.

pub mod copy;
pub mod nbd;
pub mod path;
pub mod qemu;
pub mod source;
pub mod target;

/// Bytes moved at once: what one data request of the client carries.
pub const PIECE_BYTES: u64 = weft_types::limits::MAX_IO_BYTES as u64;
/// Pieces under way at once: enough to keep three nodes busy, little enough to bound memory.
pub const PIECES_IN_FLIGHT: usize = 8;
