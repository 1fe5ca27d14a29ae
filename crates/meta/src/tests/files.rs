//! The namespace, rule by rule.

use super::world::{World, create};
use super::{Outcome, must};
use crate::command::Command;
use crate::read;
use crate::records::ReclaimWhat;
use weft_proto::namespace::{
    AttributeChange, Credentials, DirectoryEntry, Mutation, NamespaceReply, NewInode, Query, RenameMode, Room,
    TimeChange, XattrMode,
};
use weft_types::limits::{MAX_FILE_BYTES, MAX_LINKS};
use weft_types::{Attributes, ErrorKind, FileKind, InodeNumber, SessionId, Timestamp, TruncateGeneration, VolumeId};

const ROOT: InodeNumber = InodeNumber::ROOT;

fn mounted() -> (World, SessionId) {
    let mut w = World::with_group(3, 3);
    let s = w.session();
    (w, s)
}

fn unlink(parent: InodeNumber, name: &str) -> Mutation {
    Mutation::Unlink { parent, name: name.as_bytes().to_vec() }
}

fn rmdir(parent: InodeNumber, name: &str) -> Mutation {
    Mutation::RemoveDirectory { parent, name: name.as_bytes().to_vec() }
}

fn rename(from: (InodeNumber, &str), to: (InodeNumber, &str), mode: RenameMode) -> Mutation {
    Mutation::Rename {
        parent: from.0,
        name: from.1.as_bytes().to_vec(),
        new_parent: to.0,
        new_name: to.1.as_bytes().to_vec(),
        mode,
    }
}

fn stat(w: &World, inode: InodeNumber) -> Attributes {
    match w.query(Query::Attributes { inode }) {
        Ok(NamespaceReply::Record(record)) => record.attributes,
        other => panic!("{other:?}"),
    }
}

fn list(w: &World, inode: InodeNumber, after: u64, max_entries: u32) -> (Vec<DirectoryEntry>, bool) {
    match w.query(Query::ReadDirectory { inode, after, max_entries }) {
        Ok(NamespaceReply::Directory { entries, complete, .. }) => (entries, complete),
        other => panic!("{other:?}"),
    }
}

fn truncate(inode: InodeNumber, size_bytes: u64) -> Mutation {
    let change = AttributeChange { size_bytes: Some(size_bytes), ..AttributeChange::default() };
    Mutation::SetAttributes { inode, change }
}

fn commit(inode: InodeNumber, generation: u64, size_bytes: u64) -> Mutation {
    let generation = TruncateGeneration(generation);
    Mutation::CommitSize { inode, generation, size_bytes, modified: TimeChange::Now, room: Room::Keep }
}

pub(super) fn unlinked_while_open() -> Outcome {
    let (mut w, s) = mounted();
    let t = w.session();
    let f = w.make(s, ROOT, "f", NewInode::Regular).map_err(|e| e.to_string())?;
    must!(w.open(s, f, true).is_ok() && w.open(t, f, false).is_ok(), "cannot open");
    must!(w.mutate(s, unlink(ROOT, "f")).is_ok(), "cannot unlink");
    must!(w.mutate(s, commit(f, 0, 10)).is_ok(), "the file went while it was open");
    must!(w.mutate(s, Mutation::Close { inode: f }).is_ok(), "cannot close");
    must!(w.size(f) == 10, "the file went while another session has it open");
    must!(read::reclaims(&w.view, 9).is_ok_and(|r| r.is_empty()), "its data are deleted too early");
    // The other session ends without closing.
    w.run(Command::CloseSession { session: t });
    must!(w.query(Query::Attributes { inode: f }) == Err(ErrorKind::NotFound), "an orphan is left");
    must!(read::reclaims(&w.view, 9).is_ok_and(|r| r.len() == 1), "its data are not deleted");
    w.verdict()
}

/// A session that writes under the new generation waits for the cut; a deletion would wait for that session.
pub(super) fn nothing_takes_the_place_of_a_cut() -> Outcome {
    let (mut w, s) = mounted();
    let f = w.make(s, ROOT, "f", NewInode::Regular).map_err(|e| e.to_string())?;
    must!(w.open(s, f, true).is_ok(), "cannot open");
    must!(w.mutate(s, commit(f, 0, 1 << 20)).is_ok(), "cannot tell the size");
    must!(w.mutate(s, truncate(f, 4096)).is_ok(), "cannot cut");
    let zero = w.mutate(s, truncate(f, 0));
    must!(zero == Err(ErrorKind::WouldBlock), "a truncation to zero while a cut is under way: {zero:?}");
    let work = read::reclaims(&w.view, 9).map_err(|e| e.to_string())?;
    must!(work.len() == 1 && matches!(work[0].what, ReclaimWhat::Cut { .. }), "the cut is gone: {work:?}");
    let finished = Mutation::FinishTruncate { inode: f, generation: TruncateGeneration(1) };
    must!(w.mutate(s, finished).is_ok(), "cannot finish the cut");
    must!(w.mutate(s, truncate(f, 0)).is_ok(), "cannot empty the file afterwards");
    w.verdict()
}

pub(super) fn no_directory_below_itself() -> Outcome {
    let (mut w, s) = mounted();
    let mut make = |parent, name| w.make(s, parent, name, NewInode::Directory).map_err(|e| e.to_string());
    let a = make(ROOT, "a")?;
    let b = make(a, "b")?;
    make(b, "c")?;
    for (parent, name) in [(a, "x"), (b, "x")] {
        let reply = w.mutate(s, rename((ROOT, "a"), (parent, name), RenameMode::Replace));
        must!(matches!(reply, Err(ErrorKind::Invalid(_))), "a directory below itself: {reply:?}");
    }
    let reply = w.mutate(s, rename((ROOT, "a"), (b, "c"), RenameMode::Exchange));
    must!(matches!(reply, Err(ErrorKind::Invalid(_))), "exchanged with its own descendant: {reply:?}");
    let reply = w.mutate(s, rename((b, "c"), (ROOT, "a"), RenameMode::Replace));
    must!(reply == Err(ErrorKind::NotEmpty), "an ancestor was replaced: {reply:?}");
    w.verdict()
}

pub(super) fn cookies_are_never_reused() -> Outcome {
    let (mut w, s) = mounted();
    let mut seen = std::collections::BTreeSet::new();
    for i in 0..5 {
        w.make(s, ROOT, "f", NewInode::Regular).map_err(|e| e.to_string())?;
        let (entries, _) = list(&w, ROOT, 0, 10);
        must!(entries[0].cookie > 2, "a cookie of dot or dotdot");
        must!(seen.insert(entries[0].cookie), "the cookie of round {i} was used before");
        must!(w.mutate(s, unlink(ROOT, "f")).is_ok(), "cannot unlink");
    }
    w.verdict()
}

#[test]
fn the_time_of_a_write_is_told_late_and_moves_no_time_twice() {
    let (mut w, s) = mounted();
    let f = w.make(s, ROOT, "f", NewInode::Regular).unwrap();
    w.open(s, f, true).unwrap();
    let made = stat(&w, f).changed;
    let told = |seconds| {
        let written = Timestamp { seconds, nanoseconds: 7 };
        let (generation, modified, room) = (TruncateGeneration(0), TimeChange::To(written), Room::Keep);
        (written, Mutation::CommitSize { inode: f, generation, size_bytes: 1, modified, room })
    };
    // Whoever looked between the write and this command was shown these times by the writer's host.
    let (written, commit) = told(made.seconds + 50);
    w.mutate(s, commit).unwrap();
    assert_eq!((stat(&w, f).modified, stat(&w, f).changed), (written, written));
    let (earlier, commit) = told(made.seconds + 20);
    w.mutate(s, commit).unwrap();
    assert_eq!((stat(&w, f).modified, stat(&w, f).changed), (earlier, written), "ctime went back");
}
#[test]
fn an_unlinked_file_stays_while_a_session_has_it_open() {
    unlinked_while_open().unwrap();
}
#[test]
fn a_deletion_does_not_take_the_place_of_a_cut() {
    nothing_takes_the_place_of_a_cut().unwrap();
}

#[test]
fn a_directory_is_never_moved_below_itself() {
    no_directory_below_itself().unwrap();
}
#[test]
fn a_cookie_is_never_used_twice_in_a_directory() {
    cookies_are_never_reused().unwrap();
}

#[test]
fn errors_are_those_of_a_local_file_system() {
    let (mut w, s) = mounted();
    let d = w.make(s, ROOT, "d", NewInode::Directory).unwrap();
    let f = w.make(s, ROOT, "f", NewInode::Regular).unwrap();
    assert_eq!(w.make(s, ROOT, "f", NewInode::Directory), Err(ErrorKind::Exists));
    assert_eq!(w.make(s, f, "x", NewInode::Regular), Err(ErrorKind::NotDirectory));
    assert_eq!(w.make(s, InodeNumber(99), "x", NewInode::Regular), Err(ErrorKind::NotFound));
    assert_eq!(w.make(s, ROOT, &"x".repeat(256), NewInode::Regular), Err(ErrorKind::NameTooLong));
    assert!(w.make(s, ROOT, &"x".repeat(255), NewInode::Regular).is_ok());
    assert!(matches!(w.make(s, ROOT, "a/b", NewInode::Regular), Err(ErrorKind::Invalid(_))));
    assert!(matches!(w.make(s, ROOT, "..", NewInode::Regular), Err(ErrorKind::Invalid(_))));
    assert_eq!(w.mutate(s, unlink(ROOT, "d")), Err(ErrorKind::IsDirectory));
    assert_eq!(w.mutate(s, rmdir(ROOT, "f")), Err(ErrorKind::NotDirectory));
    assert_eq!(w.mutate(s, unlink(ROOT, "none")), Err(ErrorKind::NotFound));
    let g = w.make(s, d, "g", NewInode::Regular).unwrap();
    assert_eq!(w.mutate(s, rmdir(ROOT, "d")), Err(ErrorKind::NotEmpty));
    let link = |inode, name: &str| Mutation::Link { inode, parent: ROOT, name: name.as_bytes().to_vec() };
    assert_eq!(w.mutate(s, link(d, "l")), Err(ErrorKind::NotPermitted));
    assert_eq!(w.mutate(s, link(g, "f")), Err(ErrorKind::Exists));
    assert_eq!(w.mutate(s, rename((ROOT, "f"), (ROOT, "d"), RenameMode::Replace)), Err(ErrorKind::IsDirectory));
    assert_eq!(w.mutate(s, rename((ROOT, "d"), (ROOT, "f"), RenameMode::Replace)), Err(ErrorKind::NotDirectory));
    assert_eq!(w.mutate(s, rename((ROOT, "f"), (d, "g"), RenameMode::NoReplace)), Err(ErrorKind::Exists));
    assert_eq!(w.mutate(s, rename((ROOT, "f"), (d, "no"), RenameMode::Exchange)), Err(ErrorKind::NotFound));
    assert_eq!(w.mutate(s, truncate(d, 5)).unwrap_err(), ErrorKind::IsDirectory);
    assert_eq!(w.mutate(s, truncate(f, MAX_FILE_BYTES + 1)).unwrap_err(), ErrorKind::FileTooLarge);
    assert_eq!(w.open(s, d, true), Err(ErrorKind::IsDirectory));
    assert_eq!(w.open(s, InodeNumber(99), true), Err(ErrorKind::NotFound));
    let target = NewInode::Symlink { target: vec![b'x'; 4096] };
    assert_eq!(w.make(s, ROOT, "s", target), Err(ErrorKind::NameTooLong));
    let target = NewInode::Symlink { target: b"d/g".to_vec() };
    let l = w.make(s, ROOT, "s", target).unwrap();
    assert_eq!(w.query(Query::ReadLink { inode: l }), Ok(NamespaceReply::Target(b"d/g".to_vec())));
    assert_eq!(stat(&w, l).size_bytes, 3);
    assert!(matches!(w.query(Query::ReadLink { inode: f }), Err(ErrorKind::Invalid(_))));
    let fifo = w.make(s, ROOT, "p", NewInode::Device { kind: FileKind::Fifo, device: 0 }).unwrap();
    assert_eq!(stat(&w, fifo).kind, FileKind::Fifo);
}

#[test]
fn link_counts_and_times_follow_the_names() {
    let (mut w, s) = mounted();
    let d = w.make(s, ROOT, "d", NewInode::Directory).unwrap();
    assert_eq!((stat(&w, ROOT).links, stat(&w, d).links), (3, 2));
    let f = w.make(s, d, "f", NewInode::Regular).unwrap();
    let before = stat(&w, f);
    w.mutate(s, Mutation::Link { inode: f, parent: ROOT, name: b"g".to_vec() }).unwrap();
    let linked = stat(&w, f);
    assert_eq!(linked.links, 2);
    assert!(linked.changed > before.changed && linked.modified == before.modified);
    assert_eq!(stat(&w, ROOT).modified, linked.changed);
    // Both names are one inode: rename does nothing.
    w.mutate(s, rename((d, "f"), (ROOT, "g"), RenameMode::Replace)).unwrap();
    assert_eq!(stat(&w, f).links, 2);
    w.mutate(s, unlink(ROOT, "g")).unwrap();
    assert_eq!(stat(&w, f).links, 1);
    let e = w.make(s, d, "e", NewInode::Directory).unwrap();
    w.mutate(s, rename((d, "e"), (ROOT, "e"), RenameMode::Replace)).unwrap();
    assert_eq!((stat(&w, ROOT).links, stat(&w, d).links), (4, 2));
    assert!(matches!(
        w.query(Query::Lookup { parent: e, name: b"..".to_vec() }),
        Ok(NamespaceReply::Record(r)) if r.attributes.inode == ROOT
    ));
    w.mutate(s, rename((ROOT, "e"), (d, "f"), RenameMode::Exchange)).unwrap();
    assert_eq!((stat(&w, ROOT).links, stat(&w, d).links), (3, 3));
    assert_eq!(stat(&w, f).links, 1);
    // Replacing an empty directory.
    w.make(s, ROOT, "h", NewInode::Directory).unwrap();
    w.mutate(s, rename((d, "f"), (ROOT, "h"), RenameMode::Replace)).unwrap();
    assert_eq!((stat(&w, ROOT).links, stat(&w, d).links), (4, 2));
}

#[test]
fn a_name_in_a_removed_directory_is_not_found() {
    let (mut w, s) = mounted();
    let d = w.make(s, ROOT, "d", NewInode::Directory).unwrap();
    w.open(s, d, false).unwrap();
    w.mutate(s, rmdir(ROOT, "d")).unwrap();
    assert_eq!(w.make(s, d, "x", NewInode::Regular), Err(ErrorKind::NotFound));
    assert_eq!(stat(&w, d).links, 0);
    w.mutate(s, Mutation::Close { inode: d }).unwrap();
    assert_eq!(w.query(Query::Attributes { inode: d }), Err(ErrorKind::NotFound));
}

#[test]
fn links_are_bounded() {
    let (mut w, s) = mounted();
    let f = w.make(s, ROOT, "f", NewInode::Regular).unwrap();
    // The record is set up by hand: 65,000 links would be slow to make.
    let key = crate::keys::inode(VolumeId(1), f);
    let mut inode: crate::records::InodeRecord = crate::codec::fetch(&w.view, &key).unwrap().unwrap();
    inode.links = MAX_LINKS;
    w.view.write(vec![(key, Some(crate::codec::encode(&inode).unwrap()))]);
    let link = Mutation::Link { inode: f, parent: ROOT, name: b"l".to_vec() };
    assert_eq!(w.mutate(s, link), Err(ErrorKind::TooManyLinks));
}

#[test]
fn a_set_group_id_directory_hands_down_its_group() {
    let (mut w, s) = mounted();
    let d = w.make(s, ROOT, "d", NewInode::Directory).unwrap();
    let change = AttributeChange { mode: Some(0o2755), gid: Some(500), ..AttributeChange::default() };
    w.mutate(s, Mutation::SetAttributes { inode: d, change }).unwrap();
    let f = w.make(s, d, "f", NewInode::Regular).unwrap();
    let e = w.make(s, d, "e", NewInode::Directory).unwrap();
    assert_eq!((stat(&w, f).gid, stat(&w, f).mode & 0o2000), (500, 0));
    assert_eq!((stat(&w, e).gid, stat(&w, e).mode & 0o2000), (500, 0o2000));
    assert_eq!(stat(&w, f).uid, 1000);
}

#[test]
fn a_change_of_owner_takes_the_set_id_bits_away() {
    let (mut w, s) = mounted();
    let f = w.make(s, ROOT, "f", NewInode::Regular).unwrap();
    let mode = |mode| AttributeChange { mode: Some(mode), ..AttributeChange::default() };
    w.mutate(s, Mutation::SetAttributes { inode: f, change: mode(0o6755) }).unwrap();
    let change = AttributeChange { uid: Some(7), ..AttributeChange::default() };
    w.mutate(s, Mutation::SetAttributes { inode: f, change }).unwrap();
    assert_eq!(stat(&w, f).mode, 0o755);
    let to = Timestamp { seconds: 5, nanoseconds: 6 };
    let change = AttributeChange { modified: Some(TimeChange::To(to)), ..AttributeChange::default() };
    w.mutate(s, Mutation::SetAttributes { inode: f, change }).unwrap();
    assert_eq!(stat(&w, f).modified, to);
    assert_ne!(stat(&w, f).changed, to);
}

#[test]
fn a_shrink_is_a_cut_in_progress_until_it_is_finished() {
    let (mut w, s) = mounted();
    let f = w.make(s, ROOT, "f", NewInode::Regular).unwrap();
    w.open(s, f, true).unwrap();
    w.mutate(s, commit(f, 0, 1 << 20)).unwrap();
    let Ok(NamespaceReply::Changed { record, cut, .. }) = w.mutate(s, truncate(f, 4096)) else { panic!("not changed") };
    assert_eq!((cut, record.generation), (Some(4096), TruncateGeneration(1)));
    let items = read::reclaims(&w.view, 9).unwrap();
    assert!(matches!(items[0].what, ReclaimWhat::Cut { size_bytes: 4096, .. }), "{items:?}");
    let Ok(NamespaceReply::Changed { cut: None, .. }) = w.mutate(s, truncate(f, 1 << 20)) else { panic!("grow cuts") };
    assert_eq!(w.mutate(s, truncate(f, 512)), Err(ErrorKind::WouldBlock), "attack grow-shrink-grow");
    assert_eq!(w.size(f), 1 << 20, "a refused change leaves no trace");
    w.mutate(s, Mutation::FinishTruncate { inode: f, generation: TruncateGeneration(1) }).unwrap();
    assert!(read::reclaims(&w.view, 9).unwrap().is_empty());
    let Ok(NamespaceReply::Changed { record, cut, .. }) = w.mutate(s, truncate(f, 512)) else { panic!("not changed") };
    assert_eq!((cut, record.generation), (Some(512), TruncateGeneration(2)));
    let old = record.object;
    assert_eq!(w.mutate(s, truncate(f, 0)), Err(ErrorKind::WouldBlock), "the deletion took the place of the cut");
    w.mutate(s, Mutation::FinishTruncate { inode: f, generation: TruncateGeneration(2) }).unwrap();
    let Ok(NamespaceReply::Changed { record, cut, .. }) = w.mutate(s, truncate(f, 0)) else { panic!("not changed") };
    assert_eq!(cut, None);
    assert_ne!(record.object, old, "the object was not swapped");
    let items = read::reclaims(&w.view, 9).unwrap();
    assert_eq!((items.len(), items[0].object, items[0].what), (1, old, ReclaimWhat::Replaced { inode: f }));
    // A late word about the cut does not end the deletion of the whole object.
    w.run(Command::ReclaimDone { volume: VolumeId(1), object: old, generation: TruncateGeneration(2) });
    assert_eq!(read::reclaims(&w.view, 9).unwrap().len(), 1);
    w.run(Command::ReclaimDone { volume: VolumeId(1), object: old, generation: TruncateGeneration(0) });
    assert!(read::reclaims(&w.view, 9).unwrap().is_empty());
}

#[test]
fn a_size_set_while_another_session_may_have_grown_the_file_cuts() {
    let (mut w, s) = mounted();
    let t = w.session();
    let f = w.make(s, ROOT, "f", NewInode::Regular).unwrap();
    w.open(s, f, true).unwrap();
    // S has written 10 MiB and committed nothing; T sets 5 MiB, which looks like growth here.
    let Ok(NamespaceReply::Changed { cut, .. }) = w.mutate(t, truncate(f, 5 << 20)) else { panic!("not changed") };
    assert_eq!(cut, Some(5 << 20));
    assert_eq!(w.wanted, [s]);
}

#[test]
fn opening_with_truncation_swaps_the_object_once_there_may_be_data() {
    let (mut w, s) = mounted();
    let f = w.make(s, ROOT, "f", NewInode::Regular).unwrap();
    let open = Mutation::Open { inode: f, write: true, truncate: true };
    let Ok(NamespaceReply::Opened { record: first, size_cap: true, .. }) = w.mutate(s, open.clone()) else {
        panic!("open")
    };
    assert!(read::reclaims(&w.view, 9).unwrap().is_empty());
    w.mutate(s, commit(f, 0, 10)).unwrap();
    let Ok(NamespaceReply::Opened { record, .. }) = w.mutate(s, open) else { panic!("open") };
    assert_ne!(record.object, first.object);
    assert_eq!(record.attributes.size_bytes, 0);
    assert_eq!(read::reclaims(&w.view, 9).unwrap().len(), 1);
}

#[test]
fn only_the_holder_of_the_size_cap_grows_a_file() {
    let (mut w, s) = mounted();
    let t = w.session();
    let f = w.make(s, ROOT, "f", NewInode::Regular).unwrap();
    assert_eq!(w.open(s, f, true), Ok(true));
    assert_eq!(w.open(t, f, false), Ok(false));
    assert_eq!(w.open(t, f, true), Ok(false));
    assert!(matches!(w.mutate(t, commit(f, 0, 10)), Err(ErrorKind::Refused(_))));
    w.mutate(s, commit(f, 0, 10)).unwrap();
    w.mutate(s, commit(f, 0, 4)).unwrap();
    assert_eq!(w.size(f), 10, "a committed size never falls within a generation");
    assert!(w.mutate(t, commit(f, 0, 10)).is_ok(), "fsync of who wrote within the size");
    let holder = |w: &World| crate::namespace::size_holder(&w.view, VolumeId(1), f).unwrap();
    assert_eq!(holder(&w), Some(s));
    w.mutate(s, Mutation::Close { inode: f }).unwrap();
    assert_eq!(holder(&w), None);
    assert_eq!(w.open(t, f, true), Ok(true));
}

#[test]
fn extended_attributes_are_kept_counted_and_bounded() {
    let (mut w, s) = mounted();
    let f = w.make(s, ROOT, "f", NewInode::Regular).unwrap();
    let set = |name: &str, value: &[u8], mode| Mutation::SetXattr {
        inode: f,
        name: name.as_bytes().to_vec(),
        value: value.to_vec(),
        mode,
    };
    let remove = |name: &str| Mutation::RemoveXattr { inode: f, name: name.as_bytes().to_vec() };
    assert_eq!(w.mutate(s, set("user.a", b"1", XattrMode::Replace)), Err(ErrorKind::NoAttribute));
    w.mutate(s, set("user.a", b"1", XattrMode::Create)).unwrap();
    assert_eq!(w.mutate(s, set("user.a", b"1", XattrMode::Create)), Err(ErrorKind::Exists));
    w.mutate(s, set("user.b", b"", XattrMode::CreateOrReplace)).unwrap();
    w.mutate(s, set("user.a", b"22", XattrMode::Replace)).unwrap();
    let get = Query::GetXattr { inode: f, name: b"user.a".to_vec() };
    assert_eq!(w.query(get.clone()), Ok(NamespaceReply::Xattr(b"22".to_vec())));
    let names = NamespaceReply::XattrNames(vec![b"user.a".to_vec(), b"user.b".to_vec()]);
    assert_eq!(w.query(Query::ListXattrs { inode: f }), Ok(names));
    assert_eq!(w.mutate(s, set("user.c", &vec![0; 65_537], XattrMode::Create)), Err(ErrorKind::TooLarge));
    w.mutate(s, remove("user.a")).unwrap();
    assert_eq!(w.mutate(s, remove("user.a")), Err(ErrorKind::NoAttribute));
    assert_eq!(w.query(get), Err(ErrorKind::NoAttribute));
    let mut full = 0;
    while w.mutate(s, set(&format!("user.{full}"), &[7; 65_000], XattrMode::Create)).is_ok() {
        full += 1;
    }
    assert_eq!(full, 16, "one MiB");
    w.mutate(s, unlink(ROOT, "f")).unwrap();
    assert!(w.view.pairs().all(|(key, _)| key[0] != b'x'), "attributes outlive their file");
}

fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

#[test]
fn the_umask_counts_where_no_default_acl_does() {
    let (mut w, s) = mounted();
    let credentials = Credentials { uid: 1000, gid: 100, umask: 0o027 };
    let make = |w: &mut World, parent, name: &str, new| {
        let mutation = Mutation::Create { parent, name: name.into(), new, mode: 0o4777, credentials, open: false };
        match w.mutate(s, mutation) {
            Ok(NamespaceReply::Record(record)) => record.attributes,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(make(&mut w, ROOT, "f", NewInode::Regular).mode, 0o4750);
    assert_eq!(make(&mut w, ROOT, "l", NewInode::Symlink { target: b"f".into() }).mode & 0o777, 0o777);
    let directory = make(&mut w, ROOT, "d", NewInode::Directory);
    assert_eq!(directory.mode & 0o777, 0o750);
    let none = u32::MAX;
    let value = acl(&[(1, 7, none), (4, 7, none), (0x20, 5, none)]);
    let name = b"system.posix_acl_default".to_vec();
    let mode = XattrMode::CreateOrReplace;
    w.mutate(s, Mutation::SetXattr { inode: directory.inode, name, value, mode }).unwrap();
    assert_eq!(make(&mut w, directory.inode, "f", NewInode::Regular).mode & 0o777, 0o775);
}

#[test]
fn acls_follow_the_mode_and_are_inherited() {
    let (mut w, s) = mounted();
    let d = w.make(s, ROOT, "d", NewInode::Directory).unwrap();
    let none = u32::MAX;
    let full = acl(&[(1, 7, none), (2, 6, 42), (4, 5, none), (0x10, 7, none), (0x20, 1, none)]);
    let set = |inode, name: &str, value: Vec<u8>| Mutation::SetXattr {
        inode,
        name: format!("system.posix_acl_{name}").into_bytes(),
        value,
        mode: XattrMode::CreateOrReplace,
    };
    let get = |w: &World, inode, name: &str| {
        w.query(Query::GetXattr { inode, name: format!("system.posix_acl_{name}").into_bytes() })
    };
    w.mutate(s, set(d, "default", full.clone())).unwrap();
    let create_640 = create(d, "f", NewInode::Regular, 0o640);
    let Ok(NamespaceReply::Record(record)) = w.mutate(s, create_640) else { panic!("not made") };
    let f = record.attributes.inode;
    assert_eq!(stat(&w, f).mode, 0o640, "mask 7 limited to 4, other 1 limited to 0");
    let inherited = acl(&[(1, 6, none), (2, 6, 42), (4, 5, none), (0x10, 4, none), (0x20, 0, none)]);
    assert_eq!(get(&w, f, "access"), Ok(NamespaceReply::Xattr(inherited)));
    let e = w.make(s, d, "e", NewInode::Directory).unwrap();
    assert_eq!(get(&w, e, "default"), Ok(NamespaceReply::Xattr(full.clone())));
    let change = AttributeChange { mode: Some(0o600), ..AttributeChange::default() };
    w.mutate(s, Mutation::SetAttributes { inode: f, change }).unwrap();
    let masked = acl(&[(1, 6, none), (2, 6, 42), (4, 5, none), (0x10, 0, none), (0x20, 0, none)]);
    assert_eq!(get(&w, f, "access"), Ok(NamespaceReply::Xattr(masked)));
    w.mutate(s, set(f, "access", acl(&[(1, 7, none), (4, 5, none), (0x20, 4, none)]))).unwrap();
    assert_eq!(stat(&w, f).mode, 0o754);
    assert_eq!(get(&w, f, "access"), Err(ErrorKind::NoAttribute), "it says no more than the mode");
    assert!(matches!(w.mutate(s, set(f, "access", vec![1, 2])), Err(ErrorKind::Invalid(_))));
}

#[test]
fn a_hundred_thousand_names_in_one_directory_page_in_order() {
    let (mut w, s) = mounted();
    for i in 0..100_000u32 {
        let command = Command::Mutate {
            session: s,
            request: weft_types::RequestNumber(u64::from(i) + 1),
            low_water: weft_types::RequestNumber(u64::from(i) + 1),
            volume: VolumeId(1),
            mutation: Mutation::Create {
                parent: ROOT,
                name: format!("{i}").into_bytes(),
                new: NewInode::Regular,
                mode: 0o600,
                credentials: Credentials::default(),
                open: false,
            },
        };
        let at = Timestamp { seconds: 5, nanoseconds: 0 };
        let applied = crate::apply(&w.view, &crate::Stamped { at, command }).unwrap();
        assert!(applied.batch.len() < 10, "a create writes a handful of records");
        w.view.write(applied.batch);
    }
    let (mut after, mut count) = (0, 0u32);
    loop {
        let (entries, complete) = list(&w, ROOT, after, 1000);
        for entry in &entries {
            assert_eq!(entry.name, format!("{count}").into_bytes());
            count += 1;
            // What goes or comes while a listing is under way moves no other entry.
            if count % 1000 == 500 {
                w.mutate_as(
                    s,
                    weft_types::RequestNumber(200_000 + u64::from(count)),
                    weft_types::RequestNumber(1),
                    unlink(ROOT, &format!("{count}")),
                )
                .unwrap();
                w.mutate_as(
                    s,
                    weft_types::RequestNumber(300_000 + u64::from(count)),
                    weft_types::RequestNumber(1),
                    create(ROOT, &format!("{count}"), NewInode::Regular, 0o600),
                )
                .unwrap();
            }
            after = entry.cookie;
        }
        if complete || count >= 3000 {
            break;
        }
    }
    assert_eq!(count, 3000);
}

#[test]
fn usage_counts_inodes() {
    let (mut w, s) = mounted();
    w.make(s, ROOT, "d", NewInode::Directory).unwrap();
    w.make(s, ROOT, "f", NewInode::Regular).unwrap();
    w.mutate(s, unlink(ROOT, "f")).unwrap();
    assert_eq!(w.query(Query::VolumeUsage), Ok(NamespaceReply::Usage { volume: VolumeId(1), inodes: 2 }));
}
