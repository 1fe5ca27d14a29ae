//! The applied state in sled (design 3): one tree, key prefixes, atomic batches.
//!
//! Responsible for: reading and writing the state, and the frozen picture of it that a snapshot is built from.
//! Guarantees: the last applied log id and the membership change in the same atomic batch as the state they belong to; a
//! frozen picture does not see later batches. sled's flush is no fsync, so nothing here counts as durable: what power
//! loss must not take is in the log and in the snapshot file.
//!
//! Steps are gathered in memory and handed to sled many at a time, because a batch of its own for each step costs sled
//! more than computing the step (it wakes its I/O threads each time). A process that dies before that applies them again
//! from the log, as it does for what sled itself had not written.
//! Must not know: what keys and values mean.

use crate::mutants::{Mutant, planted};
use crate::types::{LogId, SnapshotMeta, StoredMembership, decode, encode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use weft_meta::{Batch, Key, StateError, Value, View};

/// How often sled hands its buffers to the kernel. What a killed process loses is applied again from the log.
const FLUSH_INTERVAL_MS: u64 = 500;
/// A database that was just closed keeps its lock until its threads have ended.
const OPEN_ATTEMPTS: u32 = 40;
const OPEN_RETRY: Duration = Duration::from_millis(50);
/// Pairs that a frozen picture hands out under one lock.
const FROZEN_STEP: usize = 128;
/// Old values kept for a frozen picture; above this, applying waits for the snapshot to be built.
pub(crate) const MAX_UNDO_BYTES: usize = 32 << 20;

/// Changes gathered for sled; above this, applying waits. Half of it is handed over at once, the rest by the clock.
const MAX_GATHERED_BYTES: usize = 8 << 20;

const STATE: u8 = b's';
const APPLIED_KEY: &[u8] = b"r/applied";

/// How far the state is, kept in the state.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug, Default)]
pub(crate) struct AppliedMark {
    pub(crate) last: Option<LogId>,
    pub(crate) membership: StoredMembership,
}

type Changes = BTreeMap<Key, Option<Value>>;

/// One generation of the applied state: a sled directory, what is on its way there, and what is frozen of it.
pub(crate) struct Applied {
    database: sled::Db,
    path: PathBuf,
    gathered: Mutex<Gathered>,
    /// Held by whoever hands changes to sled, so that they arrive in order.
    handing_over: Mutex<()>,
    frozen: Mutex<Vec<Arc<Mutex<Frozen>>>>,
}

/// Changes that sled does not have yet.
#[derive(Default)]
struct Gathered {
    newest: Changes,
    newest_bytes: usize,
    /// Older ones that are being handed over.
    leaving: Option<Arc<Changes>>,
    /// The mark of all of them.
    mark: Option<AppliedMark>,
    failed: Option<StateError>,
}

impl Gathered {
    fn find(&self, key: &[u8]) -> Option<Option<Value>> {
        let older = || self.leaving.as_ref().and_then(|leaving| leaving.get(key));
        self.newest.get(key).or_else(older).cloned()
    }

    /// The gathered changes of a range, newer ones over older ones.
    fn range(&self, start: &[u8], end: &[u8]) -> Changes {
        let range = || (Bound::Included(start), Bound::Excluded(end));
        let mut found = Changes::new();
        for layer in self.leaving.as_deref().into_iter().chain([&self.newest]) {
            found.extend(layer.range::<[u8], _>(range()).map(|(key, value)| (key.clone(), value.clone())));
        }
        found
    }
}

fn store(error: &dyn std::fmt::Display) -> StateError {
    StateError::Store(error.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn state_key(key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(key.len() + 1);
    full.push(STATE);
    full.extend_from_slice(key);
    full
}

impl Applied {
    /// Opens or creates. Blocking.
    pub(crate) fn open(path: &Path, cache_bytes: u64) -> Result<Self, StateError> {
        let config = sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(Some(FLUSH_INTERVAL_MS));
        let mut attempt = 1;
        let database = loop {
            match config.open() {
                Ok(database) => break database,
                Err(sled::Error::Io(error)) if attempt < OPEN_ATTEMPTS && is_locked(&error) => {
                    attempt += 1;
                    std::thread::sleep(OPEN_RETRY);
                }
                Err(error) => return Err(store(&error)),
            }
        };
        Ok(Self {
            database,
            path: path.to_path_buf(),
            gathered: Mutex::default(),
            handing_over: Mutex::new(()),
            frozen: Mutex::default(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// `None`: nothing was ever applied, or loading a snapshot was interrupted.
    pub(crate) fn mark(&self) -> Result<Option<AppliedMark>, StateError> {
        if let Some(mark) = &lock(&self.gathered).mark {
            return Ok(Some(mark.clone()));
        }
        match self.database.get(APPLIED_KEY).map_err(|error| store(&error))? {
            None => Ok(None),
            Some(bytes) => decode(&bytes).map(Some).map_err(|error| StateError::Corrupt {
                key: String::from_utf8_lossy(APPLIED_KEY).into_owned(),
                why: error.to_string(),
            }),
        }
    }

    /// Takes a step and its mark. Readers see it at once; sled gets it, whole, with the next [`Applied::hand_over`].
    pub(crate) fn write(&self, changes: Changes, mark: &AppliedMark) -> Result<(), StateError> {
        let mut gathered = lock(&self.gathered);
        if let Some(failed) = &gathered.failed {
            return Err(failed.clone());
        }
        for (key, value) in changes {
            gathered.newest_bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            gathered.newest.insert(key, value);
        }
        gathered.mark = Some(mark.clone());
        Ok(())
    }

    /// Whether so much is gathered that it should be handed over before the clock says so.
    pub(crate) fn is_half_full(&self) -> bool {
        lock(&self.gathered).newest_bytes > MAX_GATHERED_BYTES / 2
    }

    /// Whether applying should wait: for sled, or for a snapshot that has to remember too much.
    pub(crate) fn is_full(&self) -> bool {
        lock(&self.gathered).newest_bytes > MAX_GATHERED_BYTES || self.is_undo_full()
    }

    /// Gives sled everything gathered so far, in one atomic batch with its mark. Blocking, on any thread.
    pub(crate) fn hand_over(&self) -> Result<(), StateError> {
        let _in_order = lock(&self.handing_over);
        let (changes, mark) = {
            let mut gathered = lock(&self.gathered);
            if let Some(failed) = &gathered.failed {
                return Err(failed.clone());
            }
            let Some(mark) = gathered.mark.clone() else { return Ok(()) };
            let changes = Arc::new(std::mem::take(&mut gathered.newest));
            gathered.newest_bytes = 0;
            gathered.leaving = Some(Arc::clone(&changes));
            (changes, mark)
        };
        let result = self.write_to_sled(&changes, &mark);
        let mut gathered = lock(&self.gathered);
        match &result {
            Ok(()) => {
                gathered.leaving = None;
                if gathered.mark.as_ref() == Some(&mark) {
                    gathered.mark = None;
                }
            }
            // What is gathered stays readable; nothing more is applied.
            Err(error) => gathered.failed = Some(error.clone()),
        }
        result
    }

    fn write_to_sled(&self, changes: &Changes, mark: &AppliedMark) -> Result<(), StateError> {
        let mark = encode(mark).map_err(|error| store(&error))?;
        let mut batch = sled::Batch::default();
        // Held over the write, so that a picture is either before or after all of this batch.
        let mut frozen = lock(&self.frozen);
        frozen.retain(|picture| Arc::strong_count(picture) > 1);
        for (key, value) in changes {
            let key = state_key(key);
            for picture in frozen.iter() {
                self.keep_old(&mut lock(picture), &key)?;
            }
            match value {
                Some(value) => batch.insert(key, value.as_slice()),
                None => batch.remove(key),
            }
        }
        if planted(Mutant::MarkBeforeState) {
            self.database.insert(APPLIED_KEY, mark.as_slice()).map_err(|error| store(&error))?;
        }
        batch.insert(APPLIED_KEY, mark);
        self.database.apply_batch(batch).map_err(|error| store(&error))
    }

    fn keep_old(&self, picture: &mut Frozen, key: &[u8]) -> Result<(), StateError> {
        if picture.is_passed(key) || picture.undo.contains_key(key) {
            return Ok(());
        }
        let old = self.database.get(key).map_err(|error| store(&error))?.map(|value| value.to_vec());
        picture.undo_bytes += key.len() + old.as_ref().map_or(0, Vec::len);
        picture.undo.insert(key.to_vec(), old);
        Ok(())
    }

    /// Whether a picture holds so much that applying should wait for it.
    fn is_undo_full(&self) -> bool {
        let mut frozen = lock(&self.frozen);
        frozen.retain(|picture| Arc::strong_count(picture) > 1);
        frozen.iter().any(|picture| lock(picture).undo_bytes > MAX_UNDO_BYTES)
    }

    /// Loads pairs of a snapshot into a new, empty database. The mark comes last, by [`Applied::write`].
    pub(crate) fn load(&self, pairs: Vec<(Key, Value)>) -> Result<(), StateError> {
        let mut batch = sled::Batch::default();
        for (key, value) in pairs {
            batch.insert(state_key(&key), value);
        }
        self.database.apply_batch(batch).map_err(|error| store(&error))
    }

    /// Freezes the state as it is now; nothing may be written meanwhile.
    pub(crate) fn freeze(self: &Arc<Self>) -> Result<Picture, StateError> {
        self.hand_over()?;
        let mut frozen = lock(&self.frozen);
        let mark = self.mark()?.unwrap_or_default();
        let cursor = Arc::new(Mutex::new(Frozen::default()));
        frozen.push(cursor.clone());
        Ok(Picture { applied: self.clone(), cursor, mark })
    }

    /// Hands everything to the kernel. Not an fsync.
    pub(crate) fn flush(&self) -> Result<(), StateError> {
        self.database.flush().map(drop).map_err(|error| store(&error))
    }
}

/// sled reports a lock held by a dying instance as an error of kind `Other` that says so.
fn is_locked(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock || error.to_string().contains("lock")
}

impl View for Applied {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, StateError> {
        if let Some(changed) = lock(&self.gathered).find(key) {
            return Ok(changed);
        }
        let found = self.database.get(state_key(key)).map_err(|error| store(&error))?;
        Ok(found.map(|value| value.to_vec()))
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Key, Value)>, StateError> {
        if start >= end {
            return Ok(Vec::new());
        }
        // First what is gathered: a change that leaves in between is then seen twice, which does no harm.
        let over = lock(&self.gathered).range(start, end);
        lay_over(over, limit, |limit| self.scan_sled(start, end, limit))
    }
}

impl Applied {
    fn scan_sled(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Key, Value)>, StateError> {
        self.database
            .range(state_key(start)..state_key(end))
            .take(limit)
            .map(|pair| pair.map(|(key, value)| (key[1..].to_vec(), value.to_vec())).map_err(|error| store(&error)))
            .collect()
    }
}

/// What a picture still has to hand out, and the old values of what changed meanwhile.
#[derive(Default)]
struct Frozen {
    /// Everything up to this key was handed out.
    passed: Option<Vec<u8>>,
    undo: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    undo_bytes: usize,
}

impl Frozen {
    fn is_passed(&self, key: &[u8]) -> bool {
        self.passed.as_deref().is_some_and(|passed| key <= passed)
    }
}

/// The state at one moment, handed out in key order while the state moves on.
pub(crate) struct Picture {
    applied: Arc<Applied>,
    cursor: Arc<Mutex<Frozen>>,
    mark: AppliedMark,
}

impl Picture {
    pub(crate) const fn mark(&self) -> &AppliedMark {
        &self.mark
    }

    /// The next pairs; empty at the end.
    pub(crate) fn next_pairs(&self) -> Result<Vec<(Key, Value)>, StateError> {
        loop {
            // The same order of locks as in `Applied::write`.
            let _no_writes = lock(&self.applied.frozen);
            let mut cursor = lock(&self.cursor);
            let start = cursor.passed.clone().map_or(Bound::Included(vec![STATE]), Bound::Excluded);
            let end = Bound::Excluded(vec![STATE + 1]);
            let mut merged: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
            let mut last_read = None;
            for pair in self.applied.database.range((start.clone(), end.clone())).take(FROZEN_STEP) {
                let (key, value) = pair.map_err(|error| store(&error))?;
                last_read = Some(key.to_vec());
                merged.insert(key.to_vec(), Some(value.to_vec()));
            }
            // Deleted keys are only among the old values. A short read means that no later key exists.
            let until = if merged.len() < FROZEN_STEP { end } else { last_read.map_or(end, Bound::Included) };
            for (key, old) in cursor.undo.range((start, until)) {
                merged.insert(key.clone(), old.clone());
            }
            let Some(last) = merged.keys().next_back().cloned() else { return Ok(Vec::new()) };
            let handed_out: Vec<Vec<u8>> = cursor.undo.range(..=last.clone()).map(|(key, _)| key.clone()).collect();
            for key in handed_out {
                if let Some(old) = cursor.undo.remove(&key) {
                    cursor.undo_bytes -= key.len() + old.map_or(0, |old| old.len());
                }
            }
            cursor.passed = Some(last);
            let pairs: Vec<_> =
                merged.into_iter().filter_map(|(key, value)| Some((key[1..].to_vec(), value?))).collect();
            if !pairs.is_empty() {
                return Ok(pairs);
            }
            // All of them were made after the freeze: go on.
        }
    }
}

/// A view of the state with changes laid over it that are not written yet: what the second command of a batch sees.
pub(crate) struct Overlay<'a> {
    base: &'a Applied,
    changes: Changes,
}

impl<'a> Overlay<'a> {
    pub(crate) const fn new(base: &'a Applied) -> Self {
        Self { base, changes: Changes::new() }
    }

    pub(crate) fn add(&mut self, batch: Batch) {
        self.changes.extend(batch);
    }

    pub(crate) fn into_changes(self) -> Changes {
        self.changes
    }
}

impl View for Overlay<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, StateError> {
        match self.changes.get(key) {
            Some(changed) => Ok(changed.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Key, Value)>, StateError> {
        if start >= end {
            return Ok(Vec::new());
        }
        let range = (Bound::Included(start), Bound::Excluded(end));
        let over = self.changes.range::<[u8], _>(range).map(|(key, value)| (key.clone(), value.clone())).collect();
        lay_over(over, limit, |limit| self.base.scan(start, end, limit))
    }
}

/// The first pairs of a scan with changes laid over it.
fn lay_over(
    over: Changes,
    limit: usize,
    scan: impl FnOnce(usize) -> Result<Vec<(Key, Value)>, StateError>,
) -> Result<Vec<(Key, Value)>, StateError> {
    if over.is_empty() {
        return scan(limit);
    }
    // Each removed key hides at most one stored pair.
    let hidden = over.values().filter(|value| value.is_none()).count();
    let mut merged: Changes = scan(limit.saturating_add(hidden))?.into_iter().map(|(k, v)| (k, Some(v))).collect();
    merged.extend(over);
    Ok(merged.into_iter().filter_map(|(key, value)| Some((key, value?))).take(limit).collect())
}

/// The mark of a state that came from a snapshot.
pub(crate) fn mark_of(meta: &SnapshotMeta) -> AppliedMark {
    AppliedMark { last: meta.last_log_id, membership: meta.last_membership.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE_BYTES: u64 = 1 << 20;

    fn change(pairs: &[(&str, Option<&str>)]) -> BTreeMap<Key, Option<Value>> {
        pairs.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.map(|v| v.as_bytes().to_vec()))).collect()
    }

    fn keys(pairs: &[(Key, Value)]) -> Vec<String> {
        pairs.iter().map(|(k, _)| String::from_utf8_lossy(k).into_owned()).collect()
    }

    #[test]
    fn a_scan_sees_changes_laid_over_the_state_and_not_what_they_removed() {
        let directory = tempfile::tempdir().unwrap();
        let applied = Applied::open(&directory.path().join("a"), CACHE_BYTES).unwrap();
        let mark = AppliedMark::default();
        applied.write(change(&[("a", Some("1")), ("b", Some("2")), ("d", Some("4"))]), &mark).unwrap();
        let mut overlay = Overlay::new(&applied);
        overlay.add(vec![(b"a".to_vec(), None), (b"c".to_vec(), Some(b"3".to_vec()))]);
        assert_eq!(keys(&overlay.scan(b"", b"z", 2).unwrap()), ["b", "c"]);
        assert_eq!(keys(&overlay.scan(b"", b"z", 9).unwrap()), ["b", "c", "d"]);
        assert_eq!(keys(&overlay.scan(b"c", b"d", 9).unwrap()), ["c"]);
        assert_eq!(overlay.get(b"a").unwrap(), None);
        assert_eq!(overlay.get(b"d").unwrap(), Some(b"4".to_vec()));
    }

    #[test]
    fn a_frozen_picture_does_not_see_what_is_written_while_it_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let applied = Arc::new(Applied::open(&directory.path().join("a"), CACHE_BYTES).unwrap());
        let mark = AppliedMark::default();
        let before: BTreeMap<Key, Option<Value>> =
            (0..1000u32).map(|n| (format!("k{n:05}").into_bytes(), Some(n.to_le_bytes().to_vec()))).collect();
        applied.write(before.clone(), &mark).unwrap();

        let picture = applied.freeze().unwrap();
        let mut seen = Vec::new();
        let mut step = 0u32;
        loop {
            let pairs = picture.next_pairs().unwrap();
            if pairs.is_empty() {
                break;
            }
            seen.extend(pairs);
            // Change, delete and insert on both sides of the cursor, and past the end.
            step += 1;
            let mut changes = BTreeMap::new();
            for n in (step..1000).step_by(7) {
                changes.insert(format!("k{n:05}").into_bytes(), if n % 2 == 0 { None } else { Some(vec![9]) });
                changes.insert(format!("k{n:05}x").into_bytes(), Some(vec![8]));
            }
            changes.insert(format!("z{step}").into_bytes(), Some(vec![7]));
            applied.write(changes, &mark).unwrap();
            applied.hand_over().unwrap();
        }
        let expected: Vec<_> = before.into_iter().map(|(k, v)| (k, v.unwrap())).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn reads_see_gathered_changes_before_while_and_after_sled_gets_them() {
        let directory = tempfile::tempdir().unwrap();
        let applied = Applied::open(&directory.path().join("a"), CACHE_BYTES).unwrap();
        let mark = AppliedMark::default();
        applied.write(change(&[("a", Some("1")), ("b", Some("2")), ("c", Some("3"))]), &mark).unwrap();
        applied.hand_over().unwrap();
        applied.write(change(&[("b", None), ("d", Some("4"))]), &mark).unwrap();
        // As in the middle of a hand-over: older changes leave while newer ones come.
        {
            let mut gathered = lock(&applied.gathered);
            let leaving = std::mem::take(&mut gathered.newest);
            gathered.leaving = Some(Arc::new(leaving));
        }
        applied.write(change(&[("d", Some("5")), ("a", None)]), &mark).unwrap();
        assert_eq!(keys(&applied.scan(b"", b"z", 9).unwrap()), ["c", "d"]);
        assert_eq!(applied.get(b"d").unwrap(), Some(b"5".to_vec()));
        assert_eq!(applied.get(b"b").unwrap(), None);
        let leaving = lock(&applied.gathered).leaving.clone().unwrap();
        applied.write_to_sled(&leaving, &mark).unwrap();
        applied.hand_over().unwrap();
        assert_eq!(keys(&applied.scan(b"", b"z", 9).unwrap()), ["c", "d"]);
        assert!(lock(&applied.gathered).newest.is_empty());
        assert_eq!(applied.mark().unwrap(), Some(mark));
    }
}
