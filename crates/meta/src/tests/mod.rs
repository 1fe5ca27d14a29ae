//! Tests of both machines. `world` drives them and watches the invariants; each attack is a scenario that can be run
//! with a planted bug.

mod attacks;
mod caps;
mod cluster;
mod decoders;
mod files;
mod leading;
mod leases;
mod lock_model;
mod locks;
mod model;
mod mutants;
mod sets;
mod world;

/// A scenario's outcome: what went wrong, if anything.
type Outcome = Result<(), String>;

/// Ends a scenario with a reason unless the condition holds.
macro_rules! must {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}
pub(crate) use must;
