//! Disks that fail on purpose, for crash tests, the simulator and the real-process fault tests.
//!
//! Responsible for: losing, tearing and refusing exactly what a real disk may. Guarantees: decided by a seed alone.
//! Must not know: formats of the files on it.

mod platter;
mod random;
mod recording_disk;
mod sim_disk;
mod volatile_disk;

pub use platter::{Platter, Survivors};
pub use random::Random;
pub use recording_disk::{Inode, Names, Operation, RecordingDisk, RecordingFile};
pub use sim_disk::{PowerLoss, SimDisk, SimFile, SimLock};
pub use volatile_disk::{VolatileDisk, VolatileFile};
