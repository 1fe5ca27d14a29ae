//! A real guest: Debian's cloud kernel, a busybox initramfs, an ext4 root image with the workload, QEMU without KVM.

pub mod image;
pub mod kernel;
pub mod machine;
pub mod movable;
pub mod qmp;

pub use machine::{Aio, Console, Machine, Workload, field};
pub use movable::{Blueprint, Move, Vm, prepare_memory};
