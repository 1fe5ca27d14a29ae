//! One volume's inodes and entries within a command: load, store, count.

use crate::keys;
use crate::mutants::{Mutant, planted};
use crate::reclaim;
use crate::records::{EntryRecord, InodeBody, InodeRecord, VolumeUsageRecord};
use crate::txn::{Fault, Txn};
use weft_proto::namespace::{FileRecord, SizeKnowledge};
use weft_types::limits::{MAX_LINKS, MAX_NAME_BYTES};
use weft_types::{Attributes, ErrorKind, FileKind, InodeNumber, ObjectId, Timestamp, TruncateGeneration, VolumeId};

/// Cookies 1 and 2 are left to `.` and `..`.
const FIRST_COOKIE: u64 = 3;
/// What stat says of a directory; its entries are not counted in bytes.
const DIRECTORY_BYTES: u64 = 4096;

pub(crate) struct Space<'s, 'v> {
    pub txn: &'s mut Txn<'v>,
    pub volume: VolumeId,
}

impl<'s, 'v> Space<'s, 'v> {
    pub fn new(txn: &'s mut Txn<'v>, volume: VolumeId) -> Self {
        Self { txn, volume }
    }

    pub fn now(&self) -> Timestamp {
        self.txn.at
    }

    pub fn find(&self, inode: InodeNumber) -> Result<Option<InodeRecord>, Fault> {
        Ok(self.txn.fetch(&keys::inode(self.volume, inode))?)
    }

    /// An inode named by the client. It may have gone since the client learnt of it.
    pub fn load(&self, inode: InodeNumber) -> Result<InodeRecord, Fault> {
        self.find(inode)?.ok_or(Fault::Refused(ErrorKind::NotFound))
    }

    pub fn store(&mut self, inode: InodeNumber, record: &InodeRecord) -> Result<(), Fault> {
        Ok(self.txn.put(keys::inode(self.volume, inode), record)?)
    }

    pub fn record(&self, inode: InodeNumber) -> Result<FileRecord, Fault> {
        Ok(file_record(inode, &self.load(inode)?))
    }

    /// A directory in which names may be made and removed: not one that was removed while somebody has it open.
    pub fn directory(&self, inode: InodeNumber) -> Result<InodeRecord, Fault> {
        let record = self.load(inode)?;
        if record.kind != FileKind::Directory {
            return Err(ErrorKind::NotDirectory.into());
        }
        if record.links == 0 {
            return Err(ErrorKind::NotFound.into());
        }
        Ok(record)
    }

    pub fn entry(&self, directory: InodeNumber, name: &[u8]) -> Result<Option<EntryRecord>, Fault> {
        Ok(self.txn.fetch(&keys::entry(self.volume, directory, name))?)
    }

    /// Adds a name that is not there. The caller stores the directory and its times.
    pub fn insert_entry(
        &mut self,
        directory: (InodeNumber, &mut InodeRecord),
        name: &[u8],
        inode: InodeNumber,
    ) -> Result<(), Fault> {
        let (number, record) = directory;
        let InodeBody::Directory { entries, next_cookie, .. } = &mut record.body else {
            return Err(ErrorKind::NotDirectory.into());
        };
        let cookie = *next_cookie;
        *next_cookie += 1;
        *entries += 1;
        self.put_entry(number, name, EntryRecord { inode, cookie })
    }

    /// Writes both sides of an entry: by name and by cookie.
    pub fn put_entry(&mut self, directory: InodeNumber, name: &[u8], entry: EntryRecord) -> Result<(), Fault> {
        self.txn.put(keys::entry(self.volume, directory, name), &entry)?;
        self.txn.put(keys::cookie(self.volume, directory, entry.cookie), &(name.to_vec(), entry.inode))?;
        Ok(())
    }

    pub fn remove_entry(
        &mut self,
        directory: (InodeNumber, &mut InodeRecord),
        name: &[u8],
        entry: EntryRecord,
    ) -> Result<(), Fault> {
        let (number, record) = directory;
        if let InodeBody::Directory { entries, next_cookie, .. } = &mut record.body {
            *entries = entries.saturating_sub(1);
            if *entries == 0 && planted(Mutant::ReuseCookies) {
                *next_cookie = FIRST_COOKIE;
            }
        }
        self.txn.remove(keys::entry(self.volume, number, name));
        self.txn.remove(keys::cookie(self.volume, number, entry.cookie));
        Ok(())
    }

    fn usage(&self) -> Result<VolumeUsageRecord, Fault> {
        Ok(self.txn.require(&keys::usage(self.volume))?)
    }

    pub fn new_inode_number(&mut self) -> Result<InodeNumber, Fault> {
        let mut usage = self.usage()?;
        usage.last_inode = usage.last_inode.next();
        usage.inodes += 1;
        self.txn.put(keys::usage(self.volume), &usage)?;
        Ok(usage.last_inode)
    }

    pub fn new_object(&mut self) -> Result<ObjectId, Fault> {
        let mut usage = self.usage()?;
        usage.last_object = usage.last_object.next();
        self.txn.put(keys::usage(self.volume), &usage)?;
        Ok(usage.last_object)
    }

    /// Stores an inode that lost a link or an open; one that has neither goes for good.
    pub fn store_or_drop(&mut self, number: InodeNumber, inode: &InodeRecord) -> Result<(), Fault> {
        let wanted = inode.open_sessions > 0 && !planted(Mutant::DropOpenFile);
        if inode.links > 0 || wanted {
            return self.store(number, inode);
        }
        self.txn.remove(keys::inode(self.volume, number));
        if inode.xattrs > 0 {
            self.txn.remove_all(&keys::xattrs_of(self.volume, number), usize::MAX)?;
        }
        self.txn.remove(keys::size_recovery(self.volume, number));
        if let InodeBody::File { written, .. } = inode.body
            && written
        {
            reclaim::queue_object(self.txn, self.volume, inode.object)?;
        }
        let mut usage = self.usage()?;
        usage.inodes = usage.inodes.saturating_sub(1);
        self.txn.put(keys::usage(self.volume), &usage)?;
        Ok(())
    }
}

/// A name that an entry may have.
pub(crate) fn check_name(name: &[u8]) -> Result<(), ErrorKind> {
    if name.len() > MAX_NAME_BYTES {
        return Err(ErrorKind::NameTooLong);
    }
    if name.is_empty() {
        return Err(ErrorKind::NotFound);
    }
    if name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
        return Err(ErrorKind::Invalid("not a name for a directory entry".to_owned()));
    }
    Ok(())
}

pub(crate) fn add_link(inode: &mut InodeRecord) -> Result<(), ErrorKind> {
    // Subdirectories are not bounded by the link count, as on ext4 with dir_nlink.
    if inode.kind != FileKind::Directory && inode.links >= MAX_LINKS {
        return Err(ErrorKind::TooManyLinks);
    }
    inode.links = inode.links.saturating_add(1);
    Ok(())
}

/// The times of a directory whose entries change.
pub(crate) fn touch(inode: &mut InodeRecord, now: Timestamp) {
    inode.modified = now;
    inode.changed = now;
}

pub(crate) fn file_record(inode: InodeNumber, record: &InodeRecord) -> FileRecord {
    let size_bytes = match &record.body {
        InodeBody::Directory { .. } => DIRECTORY_BYTES,
        InodeBody::Symlink { target } => target.len() as u64,
        InodeBody::File { .. } | InodeBody::Device => record.size_bytes,
    };
    FileRecord {
        attributes: Attributes {
            inode,
            kind: record.kind,
            size_bytes,
            // Only the placement groups know what is present; the client asks them when it must.
            allocated_bytes: if record.kind == FileKind::Directory { DIRECTORY_BYTES } else { 0 },
            mode: record.mode,
            links: record.links,
            uid: record.uid,
            gid: record.gid,
            device: record.device,
            accessed: record.accessed,
            modified: record.modified,
            changed: record.changed,
            created: record.created,
        },
        object: record.object,
        generation: record.generation,
        knowledge: knowledge(record),
    }
}

/// Who may know a larger size. A holder without room cannot have made the file longer.
fn knowledge(record: &InodeRecord) -> SizeKnowledge {
    match (&record.body, record.size_cap) {
        (InodeBody::File { size_unknown: true, .. }, None) => SizeKnowledge::Collecting,
        (InodeBody::File { .. }, Some(session)) if record.max_size_bytes > record.size_bytes => {
            SizeKnowledge::Holder { session, max_size_bytes: record.max_size_bytes }
        }
        _ => SizeKnowledge::Exact,
    }
}

/// A new inode; the caller gives it its kind's own parts.
pub(crate) fn blank(kind: FileKind, body: InodeBody, now: Timestamp) -> InodeRecord {
    InodeRecord {
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        device: 0,
        links: 1,
        size_bytes: 0,
        accessed: now,
        modified: now,
        changed: now,
        created: now,
        object: ObjectId(0),
        generation: TruncateGeneration(0),
        open_sessions: 0,
        size_cap: None,
        max_size_bytes: 0,
        cap_queue: Vec::new(),
        xattrs: 0,
        xattr_bytes: 0,
        body,
    }
}

pub(crate) fn directory_body(parent: InodeNumber) -> InodeBody {
    InodeBody::Directory { parent, entries: 0, next_cookie: FIRST_COOKIE }
}

/// The root directory of a new volume.
pub(crate) fn make_root(txn: &mut Txn<'_>, volume: VolumeId) -> Result<(), Fault> {
    let usage = VolumeUsageRecord { inodes: 1, last_inode: InodeNumber::ROOT, last_object: ObjectId(0) };
    txn.put(keys::usage(volume), &usage)?;
    let mut root = blank(FileKind::Directory, directory_body(InodeNumber::ROOT), txn.at);
    root.mode = 0o755;
    root.links = 2;
    txn.put(keys::inode(volume, InodeNumber::ROOT), &root)?;
    Ok(())
}
