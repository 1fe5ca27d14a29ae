//! Rename: within and across directories, replacing, refusing to replace, exchanging.
//!
//! Guarantees: no directory becomes its own descendant; link counts of parents follow the directories that move.

use super::remove::{check_empty_directory, drop_name};
use super::space::{Space, check_name, touch};
use crate::mutants::{Mutant, planted};
use crate::records::{EntryRecord, InodeBody, InodeRecord};
use crate::txn::Fault;
use weft_proto::namespace::{NamespaceReply, RenameMode};
use weft_types::limits::MAX_DIRECTORY_DEPTH;
use weft_types::{ErrorKind, FileKind, InodeNumber};

#[derive(Clone, Copy)]
pub(super) struct Place<'m> {
    pub parent: InodeNumber,
    pub name: &'m [u8],
}

pub(super) fn rename(
    space: &mut Space<'_, '_>,
    from: Place<'_>,
    to: Place<'_>,
    mode: RenameMode,
) -> Result<NamespaceReply, Fault> {
    check_name(from.name)?;
    check_name(to.name)?;
    space.directory(from.parent)?;
    space.directory(to.parent)?;
    let source = space.entry(from.parent, from.name)?.ok_or(ErrorKind::NotFound)?;
    let target = space.entry(to.parent, to.name)?;
    match (mode, target) {
        (RenameMode::NoReplace, Some(_)) => return Err(ErrorKind::Exists.into()),
        (RenameMode::Exchange, None) => return Err(ErrorKind::NotFound.into()),
        _ => {}
    }
    let moved = space.load(source.inode)?;
    if moved.kind == FileKind::Directory && is_within(space, to.parent, source.inode)? {
        return Err(ErrorKind::Invalid("a directory cannot be moved into itself".to_owned()).into());
    }
    match target {
        // Two names of one inode: nothing to do, says POSIX.
        Some(target) if target.inode == source.inode => {}
        Some(target) if mode == RenameMode::Exchange => exchange(space, from, to, source, target)?,
        target => move_entry(space, from, to, source, target)?,
    }
    Ok(NamespaceReply::Done)
}

/// Whether `inode` is `ancestor` or lies below it: a walk up to the root.
fn is_within(space: &Space<'_, '_>, inode: InodeNumber, ancestor: InodeNumber) -> Result<bool, Fault> {
    if planted(Mutant::AllowCycles) {
        return Ok(false);
    }
    let mut at = inode;
    for _ in 0..MAX_DIRECTORY_DEPTH {
        if at == ancestor {
            return Ok(true);
        }
        if at == InodeNumber::ROOT {
            return Ok(false);
        }
        match space.load(at)?.body {
            InodeBody::Directory { parent, .. } => at = parent,
            _ => return Err(ErrorKind::NotDirectory.into()),
        }
    }
    Err(ErrorKind::Loop.into())
}

fn move_entry(
    space: &mut Space<'_, '_>,
    from: Place<'_>,
    to: Place<'_>,
    source: EntryRecord,
    target: Option<EntryRecord>,
) -> Result<(), Fault> {
    let is_directory = space.load(source.inode)?.kind == FileKind::Directory;
    if let Some(target) = target {
        replace(space, to, target, is_directory)?;
    }
    let mut old = space.load(from.parent)?;
    space.remove_entry((from.parent, &mut old), from.name, source)?;
    if is_directory {
        old.links = old.links.saturating_sub(1);
    }
    touch(&mut old, space.now());
    space.store(from.parent, &old)?;
    let mut new = space.load(to.parent)?;
    space.insert_entry((to.parent, &mut new), to.name, source.inode)?;
    if is_directory {
        new.links = new.links.saturating_add(1);
    }
    touch(&mut new, space.now());
    space.store(to.parent, &new)?;
    let mut moved = space.load(source.inode)?;
    settle_in(&mut moved, to.parent);
    moved.changed = space.now();
    space.store(source.inode, &moved)
}

/// Takes away what stands at the new name, if rename may replace it.
fn replace(space: &mut Space<'_, '_>, to: Place<'_>, target: EntryRecord, by_directory: bool) -> Result<(), Fault> {
    let mut old = space.load(target.inode)?;
    match (by_directory, old.kind == FileKind::Directory) {
        (true, false) => return Err(ErrorKind::NotDirectory.into()),
        (false, true) => return Err(ErrorKind::IsDirectory.into()),
        (true, true) => check_empty_directory(&old)?,
        (false, false) => {}
    }
    let mut parent = space.load(to.parent)?;
    space.remove_entry((to.parent, &mut parent), to.name, target)?;
    if by_directory {
        parent.links = parent.links.saturating_sub(1);
    }
    space.store(to.parent, &parent)?;
    drop_name(space, target.inode, &mut old)
}

/// The two names keep their places in their directories and swap what they name.
fn exchange(
    space: &mut Space<'_, '_>,
    from: Place<'_>,
    to: Place<'_>,
    source: EntryRecord,
    target: EntryRecord,
) -> Result<(), Fault> {
    let other = space.load(target.inode)?;
    if other.kind == FileKind::Directory && is_within(space, from.parent, target.inode)? {
        return Err(ErrorKind::Invalid("a directory cannot be moved into itself".to_owned()).into());
    }
    let moved = space.load(source.inode)?;
    let now = space.now();
    space.put_entry(from.parent, from.name, EntryRecord { inode: target.inode, cookie: source.cookie })?;
    space.put_entry(to.parent, to.name, EntryRecord { inode: source.inode, cookie: target.cookie })?;
    for (place, leaves, comes) in [(from, moved.kind, other.kind), (to, other.kind, moved.kind)] {
        let mut parent = space.load(place.parent)?;
        parent.links =
            parent.links + u32::from(comes == FileKind::Directory) - u32::from(leaves == FileKind::Directory);
        touch(&mut parent, now);
        space.store(place.parent, &parent)?;
    }
    for (number, parent) in [(source.inode, to.parent), (target.inode, from.parent)] {
        let mut inode = space.load(number)?;
        settle_in(&mut inode, parent);
        inode.changed = now;
        space.store(number, &inode)?;
    }
    Ok(())
}

fn settle_in(inode: &mut InodeRecord, new_parent: InodeNumber) {
    if let InodeBody::Directory { parent, .. } = &mut inode.body {
        *parent = new_parent;
    }
}
