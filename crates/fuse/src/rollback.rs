//! Tells the kernel's own SETATTR after a failed extending write from an application's truncate (design 7, "The
//! kernel's cached size").
//!
//! When an asynchronous direct write that would make the file longer fails, the kernel sends SETATTR with the size it
//! has cached, on the same file handle, at once. That size may be old: another host may have made the file longer since.
//! Carried out, it would cut off that host's data. An application that truncates to just that size, on just that handle,
//! right after its write failed, gets what it sees of the file as well: from this host's view the size is that already.

use crate::mutants::{Mutant, planted};

/// For one open file.
#[derive(Debug, Default)]
pub struct RollbackGuard {
    expected: Option<u64>,
}

/// What to do with a size that the kernel sets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SizeChange {
    CarryOut,
    /// It is the kernel's rollback: answer with the attributes as they are.
    Ignore,
}

impl RollbackGuard {
    /// A write up to `end` failed while the kernel believed the file to have `kernel_size` bytes.
    pub fn write_failed(&mut self, kernel_size: u64, end: u64) {
        if end > kernel_size {
            self.expected = Some(kernel_size);
        }
    }

    /// The kernel goes on with something else on this handle: no rollback will come.
    pub fn other_request(&mut self) {
        self.expected = None;
    }

    /// The kernel sets a size on this handle.
    pub fn set_size(&mut self, size: u64) -> SizeChange {
        let expected = if planted(Mutant::IgnoreForEver) { self.expected } else { self.expected.take() };
        if expected == Some(size) && !planted(Mutant::CarryOutRollback) {
            SizeChange::Ignore
        } else {
            SizeChange::CarryOut
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::plant;

    /// Attack kernel-rollback: what the kernel sets, and then an application.
    fn set_twice(mutant: Option<Mutant>) -> [SizeChange; 2] {
        plant(mutant);
        let mut guard = RollbackGuard::default();
        guard.write_failed(4096, 8192);
        let sizes = [guard.set_size(4096), guard.set_size(4096)];
        plant(None);
        sizes
    }

    #[test]
    fn the_kernels_rollback_after_a_failed_extending_write_is_ignored_once() {
        let right = [SizeChange::Ignore, SizeChange::CarryOut];
        assert_eq!(set_twice(None), right);
        for mutant in [Mutant::CarryOutRollback, Mutant::IgnoreForEver] {
            assert_ne!(set_twice(Some(mutant)), right, "{mutant:?} goes unnoticed");
        }
    }

    #[test]
    fn a_truncate_to_another_size_is_carried_out() {
        let mut guard = RollbackGuard::default();
        guard.write_failed(4096, 8192);
        assert_eq!(guard.set_size(0), SizeChange::CarryOut);
    }

    #[test]
    fn a_failed_write_within_the_file_brings_no_rollback() {
        let mut guard = RollbackGuard::default();
        guard.write_failed(8192, 4096);
        assert_eq!(guard.set_size(8192), SizeChange::CarryOut);
    }

    #[test]
    fn after_another_request_a_truncate_is_the_applications() {
        let mut guard = RollbackGuard::default();
        guard.write_failed(4096, 8192);
        guard.other_request();
        assert_eq!(guard.set_size(4096), SizeChange::CarryOut);
    }
}
