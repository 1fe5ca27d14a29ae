//! Disks that fail on purpose, for crash tests, the simulator and the real-process fault tests.
//!
//! Responsible for: losing, tearing and refusing exactly what a real disk may. Guarantees: decided by a seed alone.
//! Must not know: formats of the files on it.

mod random;
mod sim_disk;
mod volatile_disk;

pub use random::Random;
pub use sim_disk::{PowerLoss, SimDisk, SimFile, SimLock};
pub use volatile_disk::{VolatileDisk, VolatileFile};
