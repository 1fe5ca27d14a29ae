//! Removing names: unlink and rmdir.

use super::space::{Space, check_name, touch};
use crate::records::{InodeBody, InodeRecord};
use crate::txn::Fault;
use weft_proto::namespace::NamespaceReply;
use weft_types::{ErrorKind, FileKind, InodeNumber};

pub(super) fn unlink(space: &mut Space<'_, '_>, parent: InodeNumber, name: &[u8]) -> Result<NamespaceReply, Fault> {
    check_name(name)?;
    let mut directory = space.directory(parent)?;
    let entry = space.entry(parent, name)?.ok_or(ErrorKind::NotFound)?;
    let mut inode = space.load(entry.inode)?;
    if inode.kind == FileKind::Directory {
        return Err(ErrorKind::IsDirectory.into());
    }
    space.remove_entry((parent, &mut directory), name, entry)?;
    touch(&mut directory, space.now());
    space.store(parent, &directory)?;
    drop_name(space, entry.inode, &mut inode)?;
    Ok(NamespaceReply::Done)
}

pub(super) fn remove_directory(
    space: &mut Space<'_, '_>,
    parent: InodeNumber,
    name: &[u8],
) -> Result<NamespaceReply, Fault> {
    check_name(name)?;
    let mut directory = space.directory(parent)?;
    let entry = space.entry(parent, name)?.ok_or(ErrorKind::NotFound)?;
    let mut inode = space.load(entry.inode)?;
    check_empty_directory(&inode)?;
    space.remove_entry((parent, &mut directory), name, entry)?;
    directory.links = directory.links.saturating_sub(1);
    touch(&mut directory, space.now());
    space.store(parent, &directory)?;
    drop_name(space, entry.inode, &mut inode)?;
    Ok(NamespaceReply::Done)
}

pub(super) fn check_empty_directory(inode: &InodeRecord) -> Result<(), ErrorKind> {
    match inode.body {
        InodeBody::Directory { entries: 0, .. } => Ok(()),
        InodeBody::Directory { .. } => Err(ErrorKind::NotEmpty),
        _ => Err(ErrorKind::NotDirectory),
    }
}

/// One name less. A directory has one name, and its own `.` goes with it.
pub(super) fn drop_name(space: &mut Space<'_, '_>, number: InodeNumber, inode: &mut InodeRecord) -> Result<(), Fault> {
    inode.links = if inode.kind == FileKind::Directory { 0 } else { inode.links.saturating_sub(1) };
    inode.changed = space.now();
    space.store_or_drop(number, inode)
}
