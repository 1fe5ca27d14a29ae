//! The files beside the log: applied states, the snapshot, and which of them may be believed after a restart.
//!
//! Responsible for: opening, setting aside and rebuilding the applied state, and putting a snapshot in place crash-safely.
//! Guarantees: one durable snapshot file at a time (write, fsync, rename, fsync of the directory); an applied state is used
//! only if it is complete, not older than the snapshot and the purge point, and was written under this boot of the machine
//! (sled does not fsync, so after a power cut its contents are rebuilt from snapshot and log, design 3).
//! Must not know: openraft's engine.

use crate::applied::{Applied, Picture, mark_of};
use crate::error::OpenError;
use crate::log::DurableSnapshot;
use crate::snapshot_file::{SnapshotError, SnapshotReader, SnapshotWriter, verify};
use crate::types::{LogId, SnapshotMeta};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) const SNAPSHOT: &str = "snapshot.weft";
const DAMAGED: &str = "snapshot.damaged";
const BUILDING: &str = "building.tmp";
const INSTALLING: &str = "installing.tmp";
const APPLIED_PREFIX: &str = "applied-";
const SET_ASIDE_SUFFIX: &str = ".set-aside";
const BOOT_SUFFIX: &str = ".boot";
/// Pairs and bytes loaded into sled in one batch.
const LOAD_PAIRS: usize = 512;
const LOAD_BYTES: usize = 1 << 20;

/// What the log says when the applied state is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogFacts {
    pub(crate) purged: Option<LogId>,
    pub(crate) first_on_disk: Option<u64>,
}

pub(crate) struct Opened {
    pub(crate) files: Files,
    pub(crate) applied: Arc<Applied>,
    /// The state was rebuilt and is older than the log's purge mark, which has to follow it.
    pub(crate) purge_mark: Option<Option<LogId>>,
}

/// Why a file operation of the state machine failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    State(#[from] weft_meta::StateError),
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error("the snapshot received is of {found}, announced was {announced}")]
    OtherSnapshot { found: String, announced: String },
}

fn during(what: &'static str) -> impl FnOnce(io::Error) -> FilesError {
    move |source| FilesError::Io { what, source }
}

/// Where the files are and how they are opened.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) directory: PathBuf,
    /// Identity of this boot of the machine.
    pub(crate) boot: String,
    /// Of sled.
    pub(crate) cache_bytes: u64,
}

pub(crate) struct Files {
    place: Place,
    durable: DurableSnapshot,
    /// The durable snapshot. Held while a new one takes its place.
    current: Mutex<Option<SnapshotMeta>>,
}

impl Files {
    /// Opens what is there, or rebuilds it.
    ///
    /// # Errors
    /// When neither the applied state nor the snapshot can be used.
    pub(crate) fn open(place: Place, log: LogFacts, durable: DurableSnapshot) -> Result<Opened, OpenError> {
        let files = Self { place, durable, current: Mutex::new(None) };
        files.remove_temporary()?;
        let snapshot = match verify(&files.snapshot_path()) {
            Ok(meta) => Ok(Some(meta)),
            Err(SnapshotError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(SnapshotError::Io(source)) => return Err(OpenError::io("reading the snapshot file")(source)),
            Err(error @ SnapshotError::OtherVersion { .. }) => return Err(OpenError::damaged("the store", &error)),
            Err(error @ SnapshotError::Damaged(_)) => Err(error),
        };
        let newest = files.applied_numbers()?.last().copied();
        let needed = snapshot.as_ref().ok().and_then(|meta| meta.as_ref()?.last_log_id).max(log.purged);
        if let Some(number) = newest {
            match files.usable(number, needed) {
                Ok(applied) => {
                    files.adopt(snapshot)?;
                    files.remove_older(number)?;
                    return Ok(Opened { files, applied: Arc::new(applied), purge_mark: None });
                }
                Err(why) => files.set_aside(number, &why)?,
            }
        }
        let snapshot =
            snapshot.map_err(|error| OpenError::damaged("the applied state cannot be used, and the store", &error))?;
        let last = snapshot.as_ref().and_then(|meta| meta.last_log_id);
        // The log has to go on where the snapshot ends.
        let next = last.map_or(0, |last| last.index + 1);
        if log.first_on_disk.is_some_and(|first| first > next) || (log.first_on_disk.is_none() && log.purged > last) {
            return Err(OpenError::Damaged {
                what: "the metadata store".to_owned(),
                why: format!(
                    "the applied state cannot be used, and the log begins after entry {next} that is needed to rebuild it"
                ),
            });
        }
        let number = newest.map_or(1, |number| number + 1);
        let applied = files.create(number)?;
        if let Some(meta) = &snapshot {
            let input = File::open(files.snapshot_path()).map_err(OpenError::io("opening the snapshot file"))?;
            files
                .load(&applied, input, meta, None)
                .and_then(|()| Ok(applied.write(BTreeMap::new(), &mark_of(meta))?))
                .and_then(|()| Ok(applied.hand_over()?))
                .map_err(|error| OpenError::damaged("the snapshot", &error))?;
            tracing::info!(last = ?meta.last_log_id, "rebuilt the applied metadata state from the snapshot file");
        }
        files.adopt(Ok(snapshot))?;
        let purge_mark = (log.purged > last).then_some(last);
        Ok(Opened { files, applied: Arc::new(applied), purge_mark })
    }

    fn snapshot_path(&self) -> PathBuf {
        self.place.directory.join(SNAPSHOT)
    }

    fn applied_path(&self, number: u64) -> PathBuf {
        self.place.directory.join(format!("{APPLIED_PREFIX}{number:06}"))
    }

    fn boot_path(&self, number: u64) -> PathBuf {
        self.place.directory.join(format!("{APPLIED_PREFIX}{number:06}{BOOT_SUFFIX}"))
    }

    fn current(&self) -> MutexGuard<'_, Option<SnapshotMeta>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn applied_numbers(&self) -> Result<Vec<u64>, OpenError> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.place.directory).map_err(OpenError::io("listing the metadata store"))? {
            let entry = entry.map_err(OpenError::io("listing the metadata store"))?;
            let name = entry.file_name();
            if let Some(number) = name.to_str().and_then(|name| name.strip_prefix(APPLIED_PREFIX)?.parse().ok()) {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn remove_temporary(&self) -> Result<(), OpenError> {
        for name in [BUILDING, INSTALLING] {
            match fs::remove_file(self.place.directory.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(OpenError::io("removing a half-written snapshot")(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn remove_older(&self, number: u64) -> Result<(), OpenError> {
        for older in self.applied_numbers()?.into_iter().filter(|older| *older < number) {
            self.remove(older).map_err(OpenError::io("removing an old applied state"))?;
        }
        Ok(())
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        for result in [fs::remove_file(self.boot_path(number)), fs::remove_dir_all(self.applied_path(number))] {
            match result {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The applied state, or why it may not be used.
    fn usable(&self, number: u64, needed: Option<LogId>) -> Result<Applied, String> {
        match fs::read_to_string(self.boot_path(number)) {
            Ok(boot) if boot == self.place.boot => {}
            Ok(_) => return Err("the machine was started anew since it was written".to_owned()),
            Err(error) => return Err(format!("it is not known under which boot it was written: {error}")),
        }
        let applied =
            Applied::open(&self.applied_path(number), self.place.cache_bytes).map_err(|error| error.to_string())?;
        let Some(mark) = applied.mark().map_err(|error| error.to_string())? else {
            return if needed.is_none() { Ok(applied) } else { Err("it is incomplete".to_owned()) };
        };
        if mark.last < needed {
            return Err(format!("it is at {:?}, older than the snapshot or the purged log ({needed:?})", mark.last));
        }
        Ok(applied)
    }

    /// Kept for a person to look at; only the last one, so that it cannot fill the disk.
    fn set_aside(&self, number: u64, why: &str) -> Result<(), OpenError> {
        tracing::warn!(%why, number, "the applied metadata state is set aside and rebuilt from snapshot and log");
        for entry in fs::read_dir(&self.place.directory).map_err(OpenError::io("listing the metadata store"))?.flatten()
        {
            if entry.file_name().to_string_lossy().ends_with(SET_ASIDE_SUFFIX) {
                fs::remove_dir_all(entry.path()).map_err(OpenError::io("removing what was set aside earlier"))?;
            }
        }
        let from = self.applied_path(number);
        let to = self.place.directory.join(format!("{APPLIED_PREFIX}{number:06}{SET_ASIDE_SUFFIX}"));
        fs::rename(&from, to).map_err(OpenError::io("setting the applied state aside"))?;
        self.remove(number).map_err(OpenError::io("setting the applied state aside"))
    }

    fn create(&self, number: u64) -> Result<Applied, OpenError> {
        let applied = Applied::open(&self.applied_path(number), self.place.cache_bytes)
            .map_err(|error| OpenError::damaged("the new applied state", &error))?;
        fs::write(self.boot_path(number), &self.place.boot).map_err(OpenError::io("creating the applied state"))?;
        Ok(applied)
    }

    fn adopt(&self, snapshot: Result<Option<SnapshotMeta>, SnapshotError>) -> Result<(), OpenError> {
        match snapshot {
            Ok(meta) => {
                if let Some(last) = meta.as_ref().and_then(|meta| meta.last_log_id) {
                    self.durable.raise(last.index);
                }
                *self.current() = meta;
            }
            Err(error) => {
                // The applied state is good, so a new snapshot is built from it.
                tracing::error!(%error, "a snapshot of the metadata is set aside; check this disk");
                fs::rename(self.snapshot_path(), self.place.directory.join(DAMAGED))
                    .map_err(OpenError::io("setting the damaged snapshot aside"))?;
            }
        }
        Ok(())
    }

    /// Reads a snapshot into a new state and, if asked, into a file of ours. The state's mark is not written.
    fn load(
        &self,
        applied: &Applied,
        input: File,
        announced: &SnapshotMeta,
        mut copy: Option<&mut SnapshotWriter>,
    ) -> Result<(), FilesError> {
        let mut reader = SnapshotReader::open(input)?;
        if reader.meta() != announced {
            return Err(FilesError::OtherSnapshot {
                found: reader.meta().to_string(),
                announced: announced.to_string(),
            });
        }
        let mut pairs = Vec::new();
        let mut bytes = 0;
        while let Some((key, value)) = reader.next_pair()? {
            if let Some(copy) = copy.as_deref_mut() {
                copy.pair(&key, &value)?;
            }
            bytes += key.len() + value.len();
            pairs.push((key, value));
            if pairs.len() >= LOAD_PAIRS || bytes >= LOAD_BYTES {
                applied.load(std::mem::take(&mut pairs))?;
                bytes = 0;
            }
        }
        applied.load(pairs)?;
        Ok(())
    }

    fn put_in_place(
        &self,
        current: &mut Option<SnapshotMeta>,
        from: &str,
        meta: &SnapshotMeta,
    ) -> Result<(), FilesError> {
        fs::rename(self.place.directory.join(from), self.snapshot_path()).map_err(during("renaming the snapshot"))?;
        File::open(&self.place.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(during("syncing the directory of the snapshot"))?;
        // Only now may the log be purged up to it.
        if let Some(last) = meta.last_log_id {
            self.durable.raise(last.index);
        }
        *current = Some(meta.clone());
        Ok(())
    }

    /// Writes a picture of the state as the current snapshot. Blocking.
    pub(crate) fn build(&self, picture: &Picture) -> Result<(SnapshotMeta, File), FilesError> {
        let mut current = self.current();
        let mark = picture.mark();
        if let Some(newer) = current.as_ref().filter(|meta| meta.last_log_id > mark.last) {
            // One was installed while this one waited.
            let file = File::open(self.snapshot_path()).map_err(during("opening the snapshot"))?;
            return Ok((newer.clone(), file));
        }
        let meta = SnapshotMeta {
            last_log_id: mark.last,
            last_membership: mark.membership.clone(),
            snapshot_id: snapshot_id(mark.last),
        };
        let mut writer = SnapshotWriter::create(&self.place.directory.join(BUILDING), &meta)?;
        loop {
            let pairs = picture.next_pairs()?;
            if pairs.is_empty() {
                break;
            }
            for (key, value) in pairs {
                writer.pair(&key, &value)?;
            }
        }
        writer.finish()?;
        self.put_in_place(&mut current, BUILDING, &meta)?;
        let file = File::open(self.snapshot_path()).map_err(during("opening the snapshot"))?;
        Ok((meta, file))
    }

    /// Takes over a snapshot that a leader sent: a durable file of our own first, then a new applied state. Blocking.
    pub(crate) fn install(&self, meta: &SnapshotMeta, input: File) -> Result<Arc<Applied>, FilesError> {
        let mut current = self.current();
        let newest = self.applied_numbers().map_err(|error| during("listing")(io::Error::other(error.to_string())))?;
        let number = newest.last().map_or(1, |number| number + 1);
        let applied = self
            .create(number)
            .map_err(|error| during("creating the applied state")(io::Error::other(error.to_string())))?;
        let mut writer = SnapshotWriter::create(&self.place.directory.join(INSTALLING), meta)?;
        let loaded = self.load(&applied, input, meta, Some(&mut writer));
        if let Err(error) = loaded {
            drop(applied);
            // What was loaded has no mark, so a leftover is never used.
            if let Err(error) = self.remove(number) {
                tracing::warn!(%error, number, "a half-loaded applied state could not be removed");
            }
            return Err(error);
        }
        writer.finish()?;
        self.put_in_place(&mut current, INSTALLING, meta)?;
        applied.write(BTreeMap::new(), &mark_of(meta))?;
        applied.hand_over()?;
        applied.flush()?;
        Ok(Arc::new(applied))
    }

    /// Removes a state that was replaced, unless somebody still reads it; then the next start does.
    pub(crate) fn discard(&self, old: Arc<Applied>) {
        let path = old.path().to_path_buf();
        if let Some(applied) = Arc::into_inner(old) {
            drop(applied);
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!(%error, path = %path.display(), "an old applied state could not be removed");
            }
        }
    }

    /// The durable snapshot, checked once more: what is sent to a follower must be good.
    pub(crate) fn current_snapshot(&self) -> Result<Option<(SnapshotMeta, File)>, FilesError> {
        let current = self.current();
        if current.is_none() {
            return Ok(None);
        }
        let path = self.snapshot_path();
        let meta = verify(&path)?;
        let file = File::open(path).map_err(during("opening the snapshot"))?;
        Ok(Some((meta, file)))
    }

    /// An anonymous file to receive into: nothing is left of it after a crash.
    pub(crate) fn receiving_file(&self) -> io::Result<File> {
        let path = self.place.directory.join("receiving.tmp");
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        fs::remove_file(path)?;
        Ok(file)
    }
}

/// Unique per build: a stream of another build must not be continued.
fn snapshot_id(last: Option<LogId>) -> String {
    let nanoseconds =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    match last {
        Some(last) => format!("{}-{}-{}-{nanoseconds:x}", last.leader_id.term, last.leader_id.node_id, last.index),
        None => format!("empty-{nanoseconds:x}"),
    }
}
