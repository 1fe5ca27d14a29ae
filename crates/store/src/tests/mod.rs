//! Tests of the whole store on simulated and real disks.

mod attacks;
mod crash;
mod crash_points;
mod decoders;
mod disk_identity;
mod fills;
mod inventory;
mod model;
mod raw_log;
mod raw_log_crash;
mod real_crash;
mod sim_disk;
mod space_and_reads;
