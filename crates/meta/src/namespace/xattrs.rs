//! Extended attributes. POSIX ACLs are two of them, with a meaning of their own (see `acl`).

use super::acl;
use super::space::Space;
use crate::keys;
use crate::txn::Fault;
use weft_proto::namespace::{NamespaceReply, XattrMode};
use weft_types::limits::{
    MAX_XATTR_BYTES_PER_INODE, MAX_XATTR_NAME_BYTES, MAX_XATTR_VALUE_BYTES, MAX_XATTRS_PER_INODE,
};
use weft_types::{ErrorKind, InodeNumber};

fn check(name: &[u8], value: &[u8]) -> Result<(), ErrorKind> {
    if name.is_empty() || name.contains(&0) {
        return Err(ErrorKind::Invalid("not a name for an extended attribute".to_owned()));
    }
    if name.len() > MAX_XATTR_NAME_BYTES {
        return Err(ErrorKind::NameTooLong);
    }
    if value.len() > MAX_XATTR_VALUE_BYTES {
        return Err(ErrorKind::TooLarge);
    }
    Ok(())
}

fn cost(name: &[u8], value: &[u8]) -> u32 {
    // Both are bounded by `check`.
    u32::try_from(name.len() + value.len()).unwrap_or(u32::MAX)
}

pub(super) fn set(
    space: &mut Space<'_, '_>,
    number: InodeNumber,
    name: &[u8],
    value: &[u8],
    mode: XattrMode,
) -> Result<NamespaceReply, Fault> {
    check(name, value)?;
    let mut inode = space.load(number)?;
    let key = keys::xattr(space.volume, number, name);
    let old: Option<Vec<u8>> = space.txn.fetch(&key)?;
    match (mode, &old) {
        (XattrMode::Create, Some(_)) => return Err(ErrorKind::Exists.into()),
        (XattrMode::Replace, None) => return Err(ErrorKind::NoAttribute.into()),
        _ => {}
    }
    inode.changed = space.now();
    if name == acl::ACCESS && acl::apply_access(&mut inode, value)? == acl::Stored::InModeAlone {
        space.store(number, &inode)?;
        return if old.is_some() { remove(space, number, name) } else { Ok(NamespaceReply::Done) };
    }
    match old {
        Some(old) => inode.xattr_bytes = inode.xattr_bytes.saturating_sub(cost(name, &old)),
        None => inode.xattrs += 1,
    }
    inode.xattr_bytes = inode.xattr_bytes.saturating_add(cost(name, value));
    if inode.xattrs > MAX_XATTRS_PER_INODE || inode.xattr_bytes > MAX_XATTR_BYTES_PER_INODE {
        return Err(ErrorKind::NoSpace.into());
    }
    space.txn.put(key, &value.to_vec())?;
    space.store(number, &inode)?;
    Ok(NamespaceReply::Done)
}

pub(super) fn remove(space: &mut Space<'_, '_>, number: InodeNumber, name: &[u8]) -> Result<NamespaceReply, Fault> {
    let mut inode = space.load(number)?;
    let key = keys::xattr(space.volume, number, name);
    let old: Vec<u8> = space.txn.fetch(&key)?.ok_or(ErrorKind::NoAttribute)?;
    inode.xattrs = inode.xattrs.saturating_sub(1);
    inode.xattr_bytes = inode.xattr_bytes.saturating_sub(cost(name, &old));
    inode.changed = space.now();
    space.txn.remove(key);
    space.store(number, &inode)?;
    Ok(NamespaceReply::Done)
}
