//! A real guest: Debian's cloud kernel, a busybox initramfs, an ext4 root image with the workload, QEMU without KVM.

pub mod image;
pub mod kernel;
pub mod machine;

pub use machine::{Aio, Machine, Workload};
