//! Openraft's own suite, which certifies any storage.

use super::new_store;
use crate::log::RaftLog;
use crate::machine::Machine;
use crate::types::{StorageError, TypeConfig};
use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;

struct Builder;

/// Keeps the lock and the directory for as long as the stores are used.
type Guard = (TempDir, Box<dyn Send + Sync>);

impl StoreBuilder<TypeConfig, RaftLog, Machine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, RaftLog, Machine), StorageError> {
        let directory = tempfile::tempdir().unwrap();
        let store = new_store(directory.path());
        Ok(((directory, Box::new(store.lock)), store.log, store.machine))
    }
}

#[test]
fn the_storage_passes_openrafts_own_suite() {
    Suite::test_all(Builder).unwrap();
}
