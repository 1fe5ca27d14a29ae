//! The namespace of a volume: directories, files, links, attributes, opens (design 7).
//!
//! Responsible for: proto `Mutation` and `Query`, with the errors and times a local Linux file system would give.
//! Guarantees: lookups and page reads cost one key each; counters are kept, nothing is counted by scanning; an inode
//! stays while a name or an open session has it, and goes, with its object queued for deletion, when neither does.
//! Must not know: permission checks (the client kernel does them with `default_permissions`), sessions' lapses.

mod acl;
mod attributes;
mod caps;
mod create;
mod notices;
mod opens;
mod query;
mod remove;
mod rename;
mod space;
mod xattrs;

pub(crate) use caps::pass_on;
pub(crate) use opens::{Ending, release};
pub use query::{query, size_holder, truncation_unknown_to};
pub(crate) use space::{Space, make_root};

use crate::locks;
use crate::txn::{Fault, Txn};
use weft_proto::namespace::{Mutation, NamespaceReply, OtherSessions, Room};
use weft_types::{RequestNumber, SessionId, VolumeId};

/// Applies one mutation. The caller remembers the reply and takes the writes back when it is refused.
pub(crate) fn mutate(
    txn: &mut Txn<'_>,
    session: SessionId,
    request: RequestNumber,
    volume: VolumeId,
    mutation: &Mutation,
) -> Result<NamespaceReply, Fault> {
    let mut space = Space::new(txn, volume);
    match mutation {
        Mutation::Create { parent, name, new, mode, credentials, open } => {
            let wish = create::Wish { name, new, mode: *mode, credentials: *credentials };
            let inode = create::create(&mut space, *parent, &wish)?;
            if *open {
                opens::open(&mut space, session, inode, opens::Access::Write, opens::Expectation::Grows)
            } else {
                Ok(NamespaceReply::Record(space.record(inode)?))
            }
        }
        Mutation::Link { inode, parent, name } => create::link(&mut space, *inode, *parent, name),
        Mutation::Unlink { parent, name } => remove::unlink(&mut space, *parent, name),
        Mutation::RemoveDirectory { parent, name } => remove::remove_directory(&mut space, *parent, name),
        Mutation::Rename { parent, name, new_parent, new_name, mode } => {
            let (from, to) =
                (rename::Place { parent: *parent, name }, rename::Place { parent: *new_parent, name: new_name });
            rename::rename(&mut space, from, to, *mode)
        }
        Mutation::SetAttributes { inode, change } => attributes::set(&mut space, session, *inode, change),
        Mutation::FinishTruncate { inode, generation } => {
            crate::reclaim::finish_cut(space.txn, volume, *inode, *generation)?;
            Ok(NamespaceReply::Done)
        }
        Mutation::CommitSize { inode, generation, size_bytes, modified, room } => {
            let (generation, size_bytes, modified) = (*generation, *size_bytes, Some(*modified));
            let known = attributes::KnownSize { generation, size_bytes, modified, room: *room };
            attributes::commit_size(&mut space, session, *inode, known)
        }
        Mutation::AcquireSizeCap { inode, end_bytes } => caps::acquire(&mut space, session, *inode, *end_bytes),
        Mutation::ReleaseSizeCap { inode, generation, size_bytes, modified } => {
            let (generation, size_bytes, modified) = (*generation, *size_bytes, *modified);
            let known = attributes::KnownSize { generation, size_bytes, modified, room: Room::GiveBack };
            attributes::release_cap(&mut space, session, *inode, known)
        }
        Mutation::AcknowledgeTruncate { inode, generation } => {
            notices::acknowledge(&mut space, session, *inode, *generation)?;
            Ok(NamespaceReply::Done)
        }
        Mutation::SetXattr { inode, name, value, mode } => xattrs::set(&mut space, *inode, name, value, *mode),
        Mutation::RemoveXattr { inode, name } => xattrs::remove(&mut space, *inode, name),
        Mutation::Open { inode, write, truncate } => {
            let emptied =
                if *truncate { attributes::empty(&mut space, session, *inode)? } else { OtherSessions::NothingToSay };
            let access = if *write { opens::Access::Write } else { opens::Access::Read };
            let expectation = if *truncate { opens::Expectation::Grows } else { opens::Expectation::KeepsSize };
            match opens::open(&mut space, session, *inode, access, expectation)? {
                NamespaceReply::Opened { record, size_cap, .. } => {
                    Ok(NamespaceReply::Opened { record, size_cap, others: emptied })
                }
                reply => Ok(reply),
            }
        }
        Mutation::Close { inode } => {
            opens::release(space.txn, volume, session, *inode, Ending::Clean)?;
            Ok(NamespaceReply::Done)
        }
        Mutation::Lock { inode, change } => {
            locks::change(space.txn, session, request, locks::Place { volume, inode: *inode }, change)
        }
    }
}
