//! Tests of the whole store on simulated and real disks.

mod attacks;
mod crash;
mod disk_identity;
mod model;
mod raw_log;
mod space_and_reads;
