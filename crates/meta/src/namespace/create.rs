//! Making names: create, mkdir, symlink, mknod, link.

use super::acl;
use super::space::{Space, add_link, blank, check_name, directory_body, touch};
use crate::records::{InodeBody, InodeRecord};
use crate::txn::Fault;
use weft_proto::namespace::{Credentials, NamespaceReply, NewInode};
use weft_types::limits::MAX_SYMLINK_BYTES;
use weft_types::{ErrorKind, FileKind, InodeNumber};

const SET_GID: u16 = 0o2000;
const PERMISSIONS: u16 = 0o7777;

pub(super) struct Wish<'m> {
    pub name: &'m [u8],
    pub new: &'m NewInode,
    pub mode: u16,
    pub credentials: Credentials,
}

pub(super) fn create(space: &mut Space<'_, '_>, parent: InodeNumber, wish: &Wish<'_>) -> Result<InodeNumber, Fault> {
    check_name(wish.name)?;
    let mut directory = space.directory(parent)?;
    if space.entry(parent, wish.name)?.is_some() {
        return Err(ErrorKind::Exists.into());
    }
    let mut inode = make(space, parent, wish)?;
    inherit_owner(&mut inode, &directory, wish);
    let number = space.new_inode_number()?;
    if acl::inherit(space, parent, &directory, number, &mut inode)? == acl::Inherited::Nothing
        && inode.kind != FileKind::Symlink
    {
        inode.mode &= !(wish.credentials.umask & 0o777);
    }
    space.insert_entry((parent, &mut directory), wish.name, number)?;
    if inode.kind == FileKind::Directory {
        add_link(&mut directory)?;
    }
    touch(&mut directory, space.now());
    space.store(parent, &directory)?;
    space.store(number, &inode)?;
    Ok(number)
}

/// The parts of a new inode that depend on its kind.
fn make(space: &mut Space<'_, '_>, parent: InodeNumber, wish: &Wish<'_>) -> Result<InodeRecord, Fault> {
    let now = space.now();
    Ok(match wish.new {
        NewInode::Regular => {
            let body = InodeBody::File { cut: None, size_unknown: false, written: false };
            let mut inode = blank(FileKind::Regular, body, now);
            inode.object = space.new_object()?;
            inode
        }
        NewInode::Directory => {
            let mut inode = blank(FileKind::Directory, directory_body(parent), now);
            inode.links = 2;
            inode
        }
        NewInode::Symlink { target } => {
            if target.is_empty() {
                return Err(ErrorKind::NotFound.into());
            }
            if target.len() > MAX_SYMLINK_BYTES {
                return Err(ErrorKind::NameTooLong.into());
            }
            if target.contains(&0) {
                return Err(ErrorKind::Invalid("a symlink target has no NUL".to_owned()).into());
            }
            blank(FileKind::Symlink, InodeBody::Symlink { target: target.clone() }, now)
        }
        NewInode::Device { kind, device } => {
            if matches!(kind, FileKind::Regular | FileKind::Directory | FileKind::Symlink) {
                return Err(ErrorKind::Invalid("not a kind of device node".to_owned()).into());
            }
            let mut inode = blank(*kind, InodeBody::Device, now);
            inode.device = *device;
            inode
        }
    })
}

/// A set-group-id directory gives its group to what is made in it, and its bit to subdirectories.
fn inherit_owner(inode: &mut InodeRecord, directory: &InodeRecord, wish: &Wish<'_>) {
    inode.mode = wish.mode & PERMISSIONS;
    inode.uid = wish.credentials.uid;
    inode.gid = wish.credentials.gid;
    if directory.mode & SET_GID != 0 {
        inode.gid = directory.gid;
        if inode.kind == FileKind::Directory {
            inode.mode |= SET_GID;
        }
    }
}

pub(super) fn link(
    space: &mut Space<'_, '_>,
    number: InodeNumber,
    parent: InodeNumber,
    name: &[u8],
) -> Result<NamespaceReply, Fault> {
    check_name(name)?;
    let mut directory = space.directory(parent)?;
    let mut inode = space.load(number)?;
    if inode.kind == FileKind::Directory {
        return Err(ErrorKind::NotPermitted.into());
    }
    if space.entry(parent, name)?.is_some() {
        return Err(ErrorKind::Exists.into());
    }
    // A file without a name does not get one again (as linkat on Linux; O_TMPFILE is not offered).
    if inode.links == 0 {
        return Err(ErrorKind::NotFound.into());
    }
    add_link(&mut inode)?;
    inode.changed = space.now();
    space.insert_entry((parent, &mut directory), name, number)?;
    touch(&mut directory, space.now());
    space.store(parent, &directory)?;
    space.store(number, &inode)?;
    Ok(NamespaceReply::Record(space.record(number)?))
}
