//! POSIX ACLs in their extended-attribute form: inheritance, and their tie to the mode bits.
//!
//! Responsible for: what a local file system does on create, chmod and setxattr. Who may do what is checked by the client
//! kernel from the same attributes.
//! Format: `struct posix_acl_xattr_header` and entries of Linux `include/uapi/linux/posix_acl_xattr.h`, version 2, little
//! endian: tag u16, permissions u16, id u32.

use super::space::Space;
use crate::keys;
use crate::records::InodeRecord;
use crate::txn::Fault;
use weft_types::{ErrorKind, FileKind, InodeNumber};

pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const ENTRY_BYTES: usize = 8;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// Where an access ACL is kept after it was set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    AsAttribute,
    /// It says no more than the mode bits do.
    InModeAlone,
}

fn parse(value: &[u8]) -> Result<Vec<Entry>, ErrorKind> {
    let invalid = || ErrorKind::Invalid("not a POSIX ACL".to_owned());
    let (header, body) = value.split_at_checked(4).ok_or_else(invalid)?;
    if header != VERSION.to_le_bytes() || body.len() % ENTRY_BYTES != 0 {
        return Err(invalid());
    }
    let entries: Vec<Entry> = body
        .chunks_exact(ENTRY_BYTES)
        .map(|e| Entry {
            tag: u16::from_le_bytes([e[0], e[1]]),
            permissions: u16::from_le_bytes([e[2], e[3]]),
            id: u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
        })
        .collect();
    let known = |e: &Entry| [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER].contains(&e.tag) && e.permissions <= 7;
    let once = |tag: u16| entries.iter().filter(|e| e.tag == tag).count() == 1;
    let named = entries.iter().any(|e| e.tag == USER || e.tag == GROUP);
    let masks = entries.iter().filter(|e| e.tag == MASK).count();
    let complete = once(USER_OBJ) && once(GROUP_OBJ) && once(OTHER) && masks <= 1 && (masks == 1 || !named);
    if entries.is_empty() || (entries.iter().all(known) && complete) { Ok(entries) } else { Err(invalid()) }
}

fn format(entries: &[Entry]) -> Vec<u8> {
    let mut value = VERSION.to_le_bytes().to_vec();
    for entry in entries {
        value.extend_from_slice(&entry.tag.to_le_bytes());
        value.extend_from_slice(&entry.permissions.to_le_bytes());
        value.extend_from_slice(&entry.id.to_le_bytes());
    }
    value
}

/// The tag whose entry is the group class of the mode: the mask, where there is one.
fn group_class(entries: &[Entry]) -> u16 {
    if entries.iter().any(|e| e.tag == MASK) { MASK } else { GROUP_OBJ }
}

fn shift(entries: &[Entry], tag: u16) -> Option<u16> {
    let group = group_class(entries);
    match tag {
        USER_OBJ => Some(6),
        OTHER => Some(0),
        tag if tag == group => Some(3),
        _ => None,
    }
}

fn mode_of(entries: &[Entry]) -> u16 {
    entries.iter().filter_map(|e| Some(e.permissions << shift(entries, e.tag)?)).fold(0, |mode, bits| mode | bits)
}

/// Setting an access ACL sets the permission bits.
pub(super) fn apply_access(inode: &mut InodeRecord, value: &[u8]) -> Result<Stored, ErrorKind> {
    if inode.kind == FileKind::Symlink {
        return Err(ErrorKind::NotSupported);
    }
    let entries = parse(value)?;
    if entries.is_empty() {
        return Ok(Stored::InModeAlone);
    }
    inode.mode = (inode.mode & !0o777) | mode_of(&entries);
    let minimal = entries.iter().all(|e| [USER_OBJ, GROUP_OBJ, OTHER].contains(&e.tag));
    Ok(if minimal { Stored::InModeAlone } else { Stored::AsAttribute })
}

/// chmod rewrites the entries that mirror the mode.
pub(super) fn follow_mode(space: &mut Space<'_, '_>, number: InodeNumber, inode: &InodeRecord) -> Result<(), Fault> {
    if inode.xattrs == 0 {
        return Ok(());
    }
    let key = keys::xattr(space.volume, number, ACCESS);
    let Some(value) = space.txn.fetch::<Vec<u8>>(&key)? else { return Ok(()) };
    let mut entries = parse(&value)?;
    let shifts: Vec<Option<u16>> = entries.iter().map(|e| shift(&entries, e.tag)).collect();
    for (entry, shift) in entries.iter_mut().zip(shifts) {
        if let Some(shift) = shift {
            entry.permissions = (inode.mode >> shift) & 7;
        }
    }
    space.txn.put(key, &format(&entries))?;
    Ok(())
}

/// Whether a new inode has its permissions from its directory's default ACL, or from its mode and the umask.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Inherited {
    Nothing,
    DefaultAcl,
}

/// What is made in a directory with a default ACL inherits it, limited by the mode it was made with.
pub(super) fn inherit(
    space: &mut Space<'_, '_>,
    parent: InodeNumber,
    directory: &InodeRecord,
    number: InodeNumber,
    inode: &mut InodeRecord,
) -> Result<Inherited, Fault> {
    if directory.xattrs == 0 || inode.kind == FileKind::Symlink {
        return Ok(Inherited::Nothing);
    }
    let Some(default) = space.txn.fetch::<Vec<u8>>(&keys::xattr(space.volume, parent, DEFAULT))? else {
        return Ok(Inherited::Nothing);
    };
    let mut entries = parse(&default)?;
    if entries.is_empty() {
        return Ok(Inherited::Nothing);
    }
    if inode.kind == FileKind::Directory {
        add(space, number, inode, DEFAULT, &default)?;
    }
    let shifts: Vec<Option<u16>> = entries.iter().map(|e| shift(&entries, e.tag)).collect();
    for (entry, shift) in entries.iter_mut().zip(shifts) {
        if let Some(shift) = shift {
            entry.permissions &= (inode.mode >> shift) & 7;
        }
    }
    inode.mode = (inode.mode & !0o777) | mode_of(&entries);
    if entries.iter().any(|e| ![USER_OBJ, GROUP_OBJ, OTHER].contains(&e.tag)) {
        add(space, number, inode, ACCESS, &format(&entries))?;
    }
    Ok(Inherited::DefaultAcl)
}

fn add(
    space: &mut Space<'_, '_>,
    number: InodeNumber,
    inode: &mut InodeRecord,
    name: &[u8],
    value: &[u8],
) -> Result<(), Fault> {
    inode.xattrs += 1;
    inode.xattr_bytes += u32::try_from(name.len() + value.len()).unwrap_or(u32::MAX);
    space.txn.put(keys::xattr(space.volume, number, name), &value.to_vec())?;
    Ok(())
}
