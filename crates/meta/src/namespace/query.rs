//! Questions about a volume's namespace. They change nothing.

use super::space::{check_name, file_record};
use crate::codec;
use crate::keys;
use crate::locks;
use crate::records::{EntryRecord, InodeBody, InodeRecord, NoticeRecord, VolumeUsageRecord};
use crate::view::{StateError, View};
use weft_proto::namespace::{DirectoryEntry, FileRecord, NamespaceReply, Query};
use weft_types::limits::MAX_DIRECTORY_PAGE;
use weft_types::{ErrorKind, FileKind, InodeNumber, SessionId, VolumeId};

enum Fault {
    Refused(ErrorKind),
    State(StateError),
}
impl From<ErrorKind> for Fault {
    fn from(error: ErrorKind) -> Self {
        Self::Refused(error)
    }
}
impl From<StateError> for Fault {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

/// Answers one question.
///
/// # Errors
/// When the state cannot be read. A refusal is the inner error.
pub fn query(
    view: &dyn View,
    volume: VolumeId,
    query: &Query,
) -> Result<Result<NamespaceReply, ErrorKind>, StateError> {
    match answer(view, volume, query) {
        Ok(reply) => Ok(Ok(reply)),
        Err(Fault::Refused(error)) => Ok(Err(error)),
        Err(Fault::State(error)) => Err(error),
    }
}

/// The session that alone knows the size of a file. Who answers a stat passes it to the leader as `SessionWanted`: a live
/// holder is left alone, a lapsed one is struck, so that the size becomes known (attack stat-dead-holder).
///
/// # Errors
/// When the state cannot be read.
pub fn size_holder(view: &dyn View, volume: VolumeId, inode: InodeNumber) -> Result<Option<SessionId>, StateError> {
    let record: Option<InodeRecord> = codec::fetch(view, &keys::inode(volume, inode))?;
    Ok(record.and_then(|r| r.size_cap))
}

fn answer(view: &dyn View, volume: VolumeId, query: &Query) -> Result<NamespaceReply, Fault> {
    match query {
        Query::Lookup { parent, name } => lookup(view, volume, *parent, name),
        Query::Attributes { inode } => Ok(NamespaceReply::Record(file_record(*inode, &load(view, volume, *inode)?))),
        Query::ReadLink { inode } => match load(view, volume, *inode)?.body {
            InodeBody::Symlink { target } => Ok(NamespaceReply::Target(target)),
            _ => Err(ErrorKind::Invalid("not a symbolic link".to_owned()).into()),
        },
        Query::ReadDirectory { inode, after, max_entries } => {
            read_directory(view, volume, *inode, *after, *max_entries)
        }
        Query::GetXattr { inode, name } => {
            load(view, volume, *inode)?;
            let value = codec::fetch(view, &keys::xattr(volume, *inode, name))?;
            Ok(NamespaceReply::Xattr(value.ok_or(ErrorKind::NoAttribute)?))
        }
        Query::ListXattrs { inode } => {
            load(view, volume, *inode)?;
            let prefix = keys::xattrs_of(volume, *inode);
            let pairs = view.scan(&prefix, &keys::after_prefix(&prefix), usize::MAX)?;
            Ok(NamespaceReply::XattrNames(pairs.into_iter().map(|(key, _)| key[prefix.len()..].to_vec()).collect()))
        }
        Query::LockConflict { inode, session, owner, range, kind } => {
            let found = locks::conflict(view, (volume, *inode), (*session, *owner), *range, *kind)??;
            Ok(NamespaceReply::LockConflict(found))
        }
        Query::VolumeUsage => {
            let usage: Option<VolumeUsageRecord> = codec::fetch(view, &keys::usage(volume))?;
            Ok(NamespaceReply::Usage { volume, inodes: usage.ok_or(ErrorKind::NotFound)?.inodes })
        }
        Query::TruncationUnknownTo { inode } => {
            Ok(NamespaceReply::Sessions(truncation_unknown_to(view, volume, *inode)?))
        }
    }
}

/// Sessions that have the inode open and have not acknowledged its last truncation.
///
/// # Errors
/// When the state cannot be read.
pub fn truncation_unknown_to(
    view: &dyn View,
    volume: VolumeId,
    inode: InodeNumber,
) -> Result<Vec<SessionId>, StateError> {
    let prefix = keys::openers_of(volume, inode);
    let mut unknown = Vec::new();
    for (key, _) in view.scan(&prefix, &keys::after_prefix(&prefix), usize::MAX)? {
        let session = SessionId(keys::last_u64(&key));
        let notice: Option<NoticeRecord> = codec::fetch(view, &keys::notice(session, inode))?;
        if notice.is_some_and(|n| n.truncated.is_some()) {
            unknown.push(session);
        }
    }
    Ok(unknown)
}

fn load(view: &dyn View, volume: VolumeId, inode: InodeNumber) -> Result<InodeRecord, Fault> {
    Ok(codec::fetch(view, &keys::inode(volume, inode))?.ok_or(ErrorKind::NotFound)?)
}

fn directory_parent(view: &dyn View, volume: VolumeId, inode: InodeNumber) -> Result<InodeNumber, Fault> {
    let record = load(view, volume, inode)?;
    match record.body {
        InodeBody::Directory { parent, .. } if record.kind == FileKind::Directory => Ok(parent),
        _ => Err(ErrorKind::NotDirectory.into()),
    }
}

fn lookup(view: &dyn View, volume: VolumeId, parent: InodeNumber, name: &[u8]) -> Result<NamespaceReply, Fault> {
    let above = directory_parent(view, volume, parent)?;
    // The kernel resolves these itself, except for handles that it has lost the parent of (export).
    let inode = match name {
        b"." => parent,
        b".." => above,
        name => {
            check_name(name)?;
            let entry: Option<EntryRecord> = codec::fetch(view, &keys::entry(volume, parent, name))?;
            entry.ok_or(ErrorKind::NotFound)?.inode
        }
    };
    Ok(NamespaceReply::Record(file_record(inode, &load(view, volume, inode)?)))
}

fn read_directory(
    view: &dyn View,
    volume: VolumeId,
    directory: InodeNumber,
    after: u64,
    max_entries: u32,
) -> Result<NamespaceReply, Fault> {
    let parent = directory_parent(view, volume, directory)?;
    let page = max_entries.clamp(1, MAX_DIRECTORY_PAGE) as usize;
    let start = keys::cookie(volume, directory, after.saturating_add(1));
    let end = keys::after_prefix(&keys::cookies_of(volume, directory));
    let mut pairs = view.scan(&start, &end, page + 1)?;
    let complete = pairs.len() <= page;
    pairs.truncate(page);
    let mut entries = Vec::with_capacity(pairs.len());
    for (key, bytes) in pairs {
        let (name, inode): (Vec<u8>, InodeNumber) = codec::decode(&key, &bytes)?;
        let cookie = key.iter().rev().take(8).rev().fold(0, |value, byte| (value << 8) | u64::from(*byte));
        let record: FileRecord = file_record(inode, &load(view, volume, inode)?);
        entries.push(DirectoryEntry { name, cookie, record });
    }
    Ok(NamespaceReply::Directory { parent, entries, complete })
}
