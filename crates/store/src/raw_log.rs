//! An append-only log of numbered, opaque records with small durable values beside it: Raft's log and vote.
//!
//! Responsible for: append, truncate, purge, read, and recovery after a crash. Guarantees: after `sync` has returned
//! `Ok`, everything done before it survives power loss; a failed write or sync poisons the log for good, also across
//! restarts (design 3). Must not know: what the records mean. Blocking: run it on a thread of its own.
//!
//! Files are `<dir>/<number>.log`, zero-filled before use so that a sync changes no metadata. Each names where its
//! predecessor ended; a bad record before that point, or before the last sync mark, is corruption and is reported.

use crate::config::Mutant;
use crate::disk::{Disk, DiskFile, OpenMode, read_file, replace_file};
use crate::error::{IoContext, Result, StoreError};
use crate::record::{self, Frame, HEADER_BYTES, Header, Kind, Place, le32, le64};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// Bytes of one file.
pub const RAW_SEGMENT_BYTES: u64 = 4 << 20;
/// Longest record: a Raft entry is one request or one batch of them.
pub const MAX_RAW_RECORD_BYTES: usize = 64 << 20;

/// Highest index of a record: far beyond what a log reaches, and low enough to be counted on from.
const MAX_INDEX: u64 = u64::MAX >> 1;

const MAGIC: u64 = 0x0031_474f_4c57_4152;
const FILE_HEADER_BYTES: u64 = 64;
const SALT: u64 = 0x7261_6674;
const FAILED_FILE: &str = "failed";

/// See the module's first lines.
pub struct RawLog<D: Disk> {
    disk: D,
    dir: String,
    segment_bytes: u64,
    files: VecDeque<LogFile<D>>,
    entries: VecDeque<Location>,
    /// Index of `entries[0]`.
    first: u64,
    purged_to: Option<u64>,
    meta: BTreeMap<String, Vec<u8>>,
    unsynced: bool,
    poisoned: Option<String>,
    buffer: Vec<u8>,
    #[cfg(any(test, feature = "mutants"))]
    mutant: Option<Mutant>,
}

struct LogFile<D: Disk> {
    number: u64,
    file: D::File,
    /// Where the next record goes.
    end: u64,
    length: u64,
    /// Entries in it that are neither truncated nor purged.
    live: usize,
}

#[derive(Clone, Copy)]
struct Location {
    file: u64,
    offset: u64,
    body_bytes: u32,
}

impl<D: Disk> RawLog<D> {
    /// Opens the log in `dir`, creating it when it does not exist.
    ///
    /// # Errors
    /// When it is corrupt, was poisoned by an earlier failure, or cannot be read.
    pub fn open(disk: D, dir: &str) -> Result<Self> {
        Self::open_with(disk, dir, RAW_SEGMENT_BYTES)
    }

    /// As [`RawLog::open`], with another file size.
    ///
    /// # Errors
    /// As [`RawLog::open`].
    pub fn open_with(disk: D, dir: &str, segment_bytes: u64) -> Result<Self> {
        Self::new(disk, dir, segment_bytes).opened()
    }

    /// With a planted bug.
    ///
    /// # Errors
    /// As [`RawLog::open`].
    #[cfg(any(test, feature = "mutants"))]
    pub fn open_mutant(disk: D, dir: &str, segment_bytes: u64, mutant: Option<Mutant>) -> Result<Self> {
        Self { mutant, ..Self::new(disk, dir, segment_bytes) }.opened()
    }

    fn new(disk: D, dir: &str, segment_bytes: u64) -> Self {
        Self {
            disk,
            dir: dir.to_owned(),
            segment_bytes,
            files: VecDeque::new(),
            entries: VecDeque::new(),
            first: 0,
            purged_to: None,
            meta: BTreeMap::new(),
            unsynced: false,
            poisoned: None,
            buffer: Vec::new(),
            #[cfg(any(test, feature = "mutants"))]
            mutant: None,
        }
    }

    #[cfg(any(test, feature = "mutants"))]
    fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    #[cfg(not(any(test, feature = "mutants")))]
    const fn has(&self, _mutant: Mutant) -> bool {
        false
    }

    fn opened(mut self) -> Result<Self> {
        let (disk, dir) = (&self.disk, &self.dir);
        if let Some(reason) = read_file(disk, &format!("{dir}/{FAILED_FILE}")).during("reading the failure mark")? {
            let reason = String::from_utf8_lossy(&reason).into_owned();
            return Err(StoreError::MarkedFailed { disk: format!("{}/{dir}", disk.describe()), reason });
        }
        disk.make_dirs(dir).during("creating the raft log's directory")?;
        disk.sync_dir(crate::disk::parent(dir)).during("syncing the raft log's parent directory")?;
        // The name of the newest file may be in the cache only, left there by a process that died before its sync.
        if !self.has(Mutant::TrustNames) {
            disk.sync_dir(dir).during("syncing the raft log's directory")?;
        }
        self.recover()?;
        if self.files.is_empty() {
            self.add_file(1, 0)?;
        }
        Ok(self)
    }

    /// Appends records; the first index follows the last one (any index starts an empty log that was never purged).
    ///
    /// # Errors
    /// When indexes are not contiguous (nothing is written), or on a failed write (the log is poisoned).
    pub fn append<B: AsRef<[u8]>>(&mut self, records: &[(u64, B)]) -> Result<()> {
        self.check()?;
        let Some((first, _)) = records.first() else { return Ok(()) };
        if let Some(next) = self.next_index().filter(|next| next != first) {
            return Err(StoreError::RawLog { what: format!("index {first} appended where {next} is next") });
        }
        for ((index, bytes), expected) in records.iter().zip(*first..) {
            if *index != expected {
                return Err(StoreError::RawLog { what: format!("index {index} appended where {expected} is next") });
            }
            if *index > MAX_INDEX {
                return Err(StoreError::RawLog { what: format!("index {index} is beyond every log") });
            }
            if bytes.as_ref().len() > MAX_RAW_RECORD_BYTES {
                return Err(StoreError::RawLog { what: format!("record {index} is too long") });
            }
        }
        if self.entries.is_empty() {
            self.first = *first;
        }
        for (index, bytes) in records {
            let bytes = bytes.as_ref();
            let location = self.put(Kind::RawEntry, |body| {
                body.extend_from_slice(&index.to_le_bytes());
                body.extend_from_slice(bytes);
            })?;
            self.note_entry(*index, location);
        }
        self.flush_buffer()
    }

    /// Makes everything done so far durable.
    ///
    /// # Errors
    /// When the sync fails; the log is then poisoned: nobody knows what of it is on the disk.
    pub fn sync(&mut self) -> Result<()> {
        self.check()?;
        if !self.unsynced {
            return Ok(());
        }
        let Some(last) = self.files.back() else { return Ok(()) };
        let (number, end) = (last.number, last.end);
        if self.has(Mutant::MarkBeforeFsync) {
            self.put_mark(number, end)?;
        }
        let Some(last) = self.files.back() else { return Ok(()) };
        if !self.has(Mutant::SkipFsync)
            && let Err(error) = last.file.sync_data()
        {
            return Err(self.poison(&format!("sync failed: {error}")));
        }
        // Only now: a mark that reached the disk proves that what it names was synced before (design 6).
        if !self.has(Mutant::MarkBeforeFsync) {
            self.put_mark(number, end)?;
        }
        self.unsynced = false;
        Ok(())
    }

    fn put_mark(&mut self, number: u64, end: u64) -> Result<()> {
        self.put(Kind::SyncMark, |body| {
            body.extend_from_slice(&number.to_le_bytes());
            body.extend_from_slice(&end.to_le_bytes());
        })?;
        self.flush_buffer()
    }

    /// Drops `index` and all after it.
    ///
    /// # Errors
    /// On a failed write.
    pub fn truncate_from(&mut self, index: u64) -> Result<()> {
        self.check()?;
        self.put(Kind::RawTruncate, |body| body.extend_from_slice(&index.to_le_bytes()))?;
        self.drop_from(index);
        self.flush_buffer()
    }

    /// Drops everything up to and including `index`, also when the log does not reach it yet (a snapshot was
    /// installed); the log then goes on at `index + 1`.
    ///
    /// # Errors
    /// On a failed write.
    pub fn purge_to(&mut self, index: u64) -> Result<()> {
        self.check()?;
        if index > MAX_INDEX {
            return Err(StoreError::RawLog { what: format!("index {index} is beyond every log") });
        }
        if self.purged_to.is_some_and(|purged| purged >= index) {
            return Ok(());
        }
        self.put(Kind::RawPurge, |body| body.extend_from_slice(&index.to_le_bytes()))?;
        self.drop_to(index);
        self.flush_buffer()?;
        if self.files.front().is_some_and(|f| f.live == 0) && self.files.len() > 1 {
            // What makes the old files needless has to be durable before they go.
            if !self.has(Mutant::RemoveBeforeSync) {
                self.sync()?;
            }
            self.remove_dead_files()?;
        }
        Ok(())
    }

    /// Reads what exists of a range of indexes.
    ///
    /// # Errors
    /// When a record cannot be read or no longer verifies.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<(u64, Vec<u8>)>> {
        let Some(last) = self.last_index() else { return Ok(Vec::new()) };
        let from = range.start.max(self.first);
        let to = range.end.min(last + 1);
        let mut out = Vec::new();
        for index in from..to {
            let Some(location) = self.entries.get((index - self.first) as usize) else { break };
            out.push((index, self.read_entry(index, *location)?));
        }
        Ok(out)
    }

    #[must_use]
    pub fn first_index(&self) -> Option<u64> {
        (!self.entries.is_empty()).then_some(self.first)
    }

    #[must_use]
    pub fn last_index(&self) -> Option<u64> {
        self.first_index().map(|first| first + self.entries.len() as u64 - 1)
    }

    #[must_use]
    pub const fn purged_to(&self) -> Option<u64> {
        self.purged_to
    }

    /// Keeps a small value under a name. Durable with the next sync.
    ///
    /// # Errors
    /// On a failed write.
    pub fn put_meta(&mut self, key: &str, value: &[u8]) -> Result<()> {
        self.check()?;
        self.put_meta_record(key, value)?;
        self.meta.insert(key.to_owned(), value.to_vec());
        self.flush_buffer()
    }

    #[must_use]
    pub fn meta(&self, key: &str) -> Option<&[u8]> {
        self.meta.get(key).map(Vec::as_slice)
    }

    /// # Errors
    /// On a failed write.
    pub fn delete_meta(&mut self, key: &str) -> Result<()> {
        self.check()?;
        if self.meta.remove(key).is_some() {
            self.put(Kind::RawDeleteMeta, |body| body.extend_from_slice(key.as_bytes()))?;
            self.flush_buffer()?;
        }
        Ok(())
    }

    fn next_index(&self) -> Option<u64> {
        self.last_index().or(self.purged_to).map(|last| last + 1)
    }

    fn check(&self) -> Result<()> {
        match &self.poisoned {
            Some(reason) => Err(StoreError::Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    fn poison(&mut self, reason: &str) -> StoreError {
        self.poisoned = Some(reason.to_owned());
        // Best effort: the process must not come back to a log of which nobody knows what is on the disk.
        if let Err(error) = replace_file(&self.disk, &format!("{}/{FAILED_FILE}", self.dir), reason.as_bytes()) {
            tracing::error!(%error, dir = %self.dir, "the raft log failed and the failure could not be recorded");
        }
        StoreError::Poisoned { reason: reason.to_owned() }
    }

    /// Frames a record into the buffer, in a new file when the current one is full.
    fn put(&mut self, kind: Kind, write_body: impl FnOnce(&mut Vec<u8>)) -> Result<Location> {
        let mut body = Vec::new();
        write_body(&mut body);
        let needed = record::padded((HEADER_BYTES + body.len()) as u64);
        let pending = self.buffer.len() as u64;
        let Some(last) = self.files.back() else {
            return Err(StoreError::RawLog { what: "has no file".to_owned() });
        };
        if last.end + pending + needed > last.length {
            self.roll(needed)?;
        }
        let Some(last) = self.files.back() else {
            return Err(StoreError::RawLog { what: "has no file".to_owned() });
        };
        let offset = last.end + self.buffer.len() as u64;
        let place = Place { salt: SALT, lap: last.number, offset: offset as u32 };
        let location = Location { file: last.number, offset, body_bytes: body.len() as u32 };
        let frame = Frame { kind, life: 0, volume: 0, group: 0, place };
        record::encode(&mut self.buffer, frame, |out| out.extend_from_slice(&body), &[]);
        Ok(location)
    }

    fn put_meta_record(&mut self, key: &str, value: &[u8]) -> Result<()> {
        self.put(Kind::RawMeta, |body| {
            body.extend_from_slice(&(key.len() as u32).to_le_bytes());
            body.extend_from_slice(key.as_bytes());
            body.extend_from_slice(value);
        })?;
        Ok(())
    }

    fn flush_buffer(&mut self) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        let Some(last) = self.files.back_mut() else { return Ok(()) };
        let written = last.file.write_at(&buffer, last.end);
        last.end += buffer.len() as u64;
        self.unsynced |= !buffer.is_empty();
        self.buffer = buffer;
        self.buffer.clear();
        written.map_err(|error| self.poison(&format!("write failed: {error}")))
    }

    /// Starts a new file. The old one is synced first, so that a file with a successor is complete.
    fn roll(&mut self, needed: u64) -> Result<()> {
        self.flush_buffer()?;
        let Some(last) = self.files.back() else { return Ok(()) };
        let (number, end) = (last.number, last.end);
        if let Err(error) = last.file.sync_data() {
            return Err(self.poison(&format!("sync failed: {error}")));
        }
        if let Err(error) = self.add_file_sized(number + 1, end, needed) {
            return Err(self.poison(&format!("starting a new file failed: {error}")));
        }
        Ok(())
    }

    fn add_file(&mut self, number: u64, previous_end: u64) -> Result<()> {
        self.add_file_sized(number, previous_end, 0)
    }

    /// Creates a file that begins with all that older files would be needed for: the purge point and the values.
    fn add_file_sized(&mut self, number: u64, previous_end: u64, needed: u64) -> Result<()> {
        let mut head = vec![0; FILE_HEADER_BYTES as usize];
        head[0..8].copy_from_slice(&MAGIC.to_le_bytes());
        head[8..16].copy_from_slice(&number.to_le_bytes());
        head[16..24].copy_from_slice(&previous_end.to_le_bytes());
        let crc = crc32c::crc32c(&head[..24]);
        head[24..28].copy_from_slice(&crc.to_le_bytes());
        let mut put = |kind: Kind, body: &[u8]| {
            let place = Place { salt: SALT, lap: number, offset: head.len() as u32 };
            let frame = Frame { kind, life: 0, volume: 0, group: 0, place };
            record::encode(&mut head, frame, |out| out.extend_from_slice(body), &[]);
        };
        if let Some(purged) = self.purged_to {
            put(Kind::RawPurge, &purged.to_le_bytes());
        }
        for (key, value) in &self.meta {
            let mut body = (key.len() as u32).to_le_bytes().to_vec();
            body.extend_from_slice(key.as_bytes());
            body.extend_from_slice(value);
            put(Kind::RawMeta, &body);
        }
        let end = head.len() as u64;
        let length = self.segment_bytes.max(end + needed + record::ALIGNMENT as u64);
        head.resize(length as usize, 0);
        let path = self.path(number);
        replace_file(&self.disk, &path, &head).during("creating a raft log file")?;
        let file = self.disk.open(&path, OpenMode::Existing).during("opening a raft log file")?;
        self.files.push_back(LogFile { number, file, end, length, live: 0 });
        Ok(())
    }

    fn path(&self, number: u64) -> String {
        format!("{}/{number:016x}.log", self.dir)
    }

    fn note_entry(&mut self, index: u64, location: Location) {
        if self.entries.is_empty() {
            self.first = index;
        }
        self.entries.push_back(location);
        self.count_live(location.file, 1);
    }

    fn count_live(&mut self, file: u64, change: isize) {
        if let Some(file) = self.files.iter_mut().rev().find(|f| f.number == file) {
            file.live = file.live.saturating_add_signed(change);
        }
    }

    fn drop_from(&mut self, index: u64) {
        while self.last_index().is_some_and(|last| last >= index) {
            if let Some(location) = self.entries.pop_back() {
                self.count_live(location.file, -1);
            }
        }
    }

    fn drop_to(&mut self, index: u64) {
        while self.first_index().is_some_and(|first| first <= index) {
            if let Some(location) = self.entries.pop_front() {
                self.count_live(location.file, -1);
                self.first += 1;
            }
        }
        self.purged_to = self.purged_to.max(Some(index));
    }

    /// Removes files from the front that hold nothing live. Their order matters: a truncation lies after what it cut, and
    /// a crash must not bring back a file without the ones that follow it. So each is gone for good before the next.
    fn remove_dead_files(&mut self) -> Result<()> {
        while self.files.len() > 1 && self.files.front().is_some_and(|f| f.live == 0) {
            if let Some(dead) = self.files.pop_front() {
                self.disk.remove(&self.path(dead.number)).during("removing a purged raft log file")?;
                if !self.has(Mutant::RemoveInAnyOrder) {
                    self.disk.sync_dir(&self.dir).during("syncing the raft log's directory")?;
                }
            }
        }
        Ok(())
    }

    fn read_entry(&self, index: u64, location: Location) -> Result<Vec<u8>> {
        let corrupt = || StoreError::Corrupt { file: self.path(location.file), what: format!("record {index}") };
        let file = self.files.iter().find(|f| f.number == location.file).ok_or_else(corrupt)?;
        let mut bytes = vec![0; HEADER_BYTES + location.body_bytes as usize];
        file.file.read_exact_at(&mut bytes, location.offset).during("reading the raft log")?;
        let place = Place { salt: SALT, lap: location.file, offset: location.offset as u32 };
        let header = Header::decode(&bytes, place, false).ok_or_else(corrupt)?;
        if !header.body_verifies(&bytes[HEADER_BYTES..]) || le64(&bytes, HEADER_BYTES) != index {
            return Err(corrupt());
        }
        bytes.drain(..HEADER_BYTES + 8);
        Ok(bytes)
    }

    fn recover(&mut self) -> Result<()> {
        let mut numbers = Vec::new();
        for entry in self.disk.list(&self.dir).during("listing the raft log")? {
            if let Some(number) = entry.name.strip_suffix(".log").and_then(|n| u64::from_str_radix(n, 16).ok()) {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        let mut contents = Vec::new();
        for number in numbers {
            let path = self.path(number);
            let bytes = read_file(&self.disk, &path).during("reading the raft log")?.unwrap_or_default();
            contents.push((number, path, bytes));
        }
        for at in 0..contents.len() {
            let (number, path, bytes) = &contents[at];
            let corrupt = |what: &str| StoreError::Corrupt { file: path.clone(), what: what.to_owned() };
            let previous_end = file_header(*number, bytes).ok_or_else(|| corrupt("its header"))?;
            if at > 0 && contents[at - 1].0 + 1 != *number {
                return Err(corrupt("the file before it is missing"));
            }
            if at > 0 && self.files.back().is_some_and(|f| f.end < previous_end) {
                return Err(StoreError::Corrupt {
                    file: contents[at - 1].1.clone(),
                    what: "a synced record".to_owned(),
                });
            }
            let limit = contents.get(at + 1).and_then(|(n, _, b)| file_header(*n, b));
            let end = self.replay(*number, path, bytes, limit)?;
            if limit.is_none() {
                self.check_marks_beyond(*number, path, bytes, end)?;
                self.clear_tail(bytes, end)?;
            }
        }
        match (self.first_index(), self.purged_to) {
            (Some(first), Some(purged)) if first > purged + 1 => {
                Err(StoreError::Corrupt { file: self.dir.clone(), what: format!("entries before {first} are missing") })
            }
            _ => Ok(()),
        }
    }

    /// Replays one file; answers where its records end.
    fn replay(&mut self, number: u64, path: &str, bytes: &[u8], limit: Option<u64>) -> Result<u64> {
        let file = self.disk.open(path, OpenMode::Existing).during("opening a raft log file")?;
        self.files.push_back(LogFile { number, file, end: 0, length: bytes.len() as u64, live: 0 });
        let mut at = FILE_HEADER_BYTES;
        while limit.is_none_or(|limit| at < limit) {
            let Some((header, body)) = record_at(number, bytes, at) else { break };
            let location = Location { file: number, offset: at, body_bytes: header.body_bytes };
            self.replay_record(header.kind, body, location)?;
            at += header.record_bytes();
        }
        if let Some(last) = self.files.back_mut() {
            last.end = at;
        }
        Ok(at)
    }

    fn replay_record(&mut self, kind: Kind, body: &[u8], location: Location) -> Result<()> {
        // A record whose checksum is right and whose numbers cannot be: written by something that is not this program.
        let indexed = matches!(kind, Kind::RawEntry | Kind::RawTruncate | Kind::RawPurge);
        if indexed && (body.len() < 8 || le64(body, 0) > MAX_INDEX) {
            let what = format!("the record at {} names no possible index", location.offset);
            return Err(StoreError::Corrupt { file: self.path(location.file), what });
        }
        match kind {
            Kind::RawEntry => {
                let index = le64(body, 0);
                // Behind a gap at the front: the entries before it were in a file that is gone, and a purge that allowed
                // that follows. `recover` checks that it did.
                let expected = self.last_index().map_or(index, |last| last + 1);
                if expected != index {
                    let what = format!("index {index} at {} does not follow", location.offset);
                    return Err(StoreError::Corrupt { file: self.path(location.file), what });
                }
                self.note_entry(index, location);
            }
            Kind::RawTruncate => self.drop_from(le64(body, 0)),
            Kind::RawPurge => self.drop_to(le64(body, 0)),
            Kind::RawMeta => {
                let key_end = 4 + le32(body, 0) as usize;
                if let (Some(key), Some(value)) = (body.get(4..key_end), body.get(key_end..)) {
                    self.meta.insert(String::from_utf8_lossy(key).into_owned(), value.to_vec());
                }
            }
            Kind::RawDeleteMeta => {
                self.meta.remove(String::from_utf8_lossy(body).as_ref());
            }
            _ => {}
        }
        Ok(())
    }

    /// A sync mark beyond a bad record says that the record had been synced: that is corruption, no torn tail.
    fn check_marks_beyond(&self, number: u64, path: &str, bytes: &[u8], end: u64) -> Result<()> {
        let mut at = end;
        while at + (HEADER_BYTES as u64) < bytes.len() as u64 {
            if let Some((header, body)) = record_at(number, bytes, at) {
                let claimed = le64(body, 8);
                if header.kind == Kind::SyncMark && le64(body, 0) == number && claimed > end {
                    return Err(StoreError::JournalCorrupt {
                        at: format!("{path} offset {end}"),
                        synced_to: format!("offset {claimed}"),
                    });
                }
            }
            at += record::ALIGNMENT as u64;
        }
        Ok(())
    }

    /// Zeroes what a crash left behind the end, so that it cannot follow a record that is written there later.
    fn clear_tail(&mut self, bytes: &[u8], end: u64) -> Result<()> {
        let Some(last) = self.files.back() else { return Ok(()) };
        let tail = bytes.get(end as usize..).unwrap_or_default();
        if let Some(used) = tail.iter().rposition(|b| *b != 0).filter(|_| !self.has(Mutant::KeepTail)) {
            last.file.write_at(&vec![0; used + 1], end).during("clearing the raft log's tail")?;
        }
        // What was read may have come from the page cache of a process that died before its sync.
        last.file.sync_data().during("syncing the raft log")
    }
}

/// Where the predecessor of a file ended.
fn file_header(number: u64, bytes: &[u8]) -> Option<u64> {
    let head = bytes.get(..FILE_HEADER_BYTES as usize)?;
    let intact = le64(head, 0) == MAGIC && le64(head, 8) == number && le32(head, 24) == crc32c::crc32c(&head[..24]);
    intact.then(|| le64(head, 16))
}

fn record_at(number: u64, bytes: &[u8], at: u64) -> Option<(Header, &[u8])> {
    let rest = bytes.get(at as usize..)?;
    let header = Header::decode(rest, Place { salt: SALT, lap: number, offset: at as u32 }, false)?;
    let body = rest.get(HEADER_BYTES..HEADER_BYTES + header.body_bytes as usize)?;
    header.body_verifies(body).then_some((header, body))
}
