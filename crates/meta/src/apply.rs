//! One command in, one batch and one reply out.

use crate::command::{Command, CommandReply, Stamped};
use crate::txn::{Fault, Txn};
use crate::view::{Batch, StateError, View};
use crate::{cluster, groups, nodes, reclaim, sessions, volumes};
use weft_types::{RequestNumber, SessionId};

/// What applying a command does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// To be written in one atomic step before the next command is applied.
    pub batch: Batch,
    pub reply: CommandReply,
    /// The map version rose: publish the map, give the leader new facts.
    pub map_changed: bool,
    /// Deletions, size recoveries or sessions changed: give the leader new facts.
    pub work_changed: bool,
    /// Sessions that stand in somebody's way: pass each to the leader as `LeaderEvent::SessionWanted`.
    pub wanted_sessions: Vec<SessionId>,
    /// Waits for locks that are over, granted or not: whoever asks after them is to be answered.
    pub settled_waits: Vec<(SessionId, RequestNumber)>,
}

/// Applies one committed command. Deterministic. A refused command writes nothing but its remembered reply.
///
/// # Errors
/// When the state cannot be read or decoded. Nothing was decided; the node must stop applying.
pub fn apply(view: &dyn View, stamped: &Stamped) -> Result<Applied, StateError> {
    let mut txn = Txn::new(view, stamped.at);
    let reply = match dispatch(&mut txn, &stamped.command) {
        Ok(reply) => reply,
        Err(Fault::State(error)) => return Err(error),
        Err(Fault::Refused(error)) => {
            txn.roll_back();
            CommandReply::Refused(error)
        }
        Err(Fault::SetRefused(refusal)) => {
            txn.roll_back();
            CommandReply::SetRefused(refusal)
        }
    };
    txn.finish(reply)
}

fn dispatch(txn: &mut Txn<'_>, command: &Command) -> Result<CommandReply, Fault> {
    match command {
        Command::Bootstrap { cluster, authority_certificate, authority_key, node } => {
            cluster::bootstrap(txn, *cluster, authority_certificate, authority_key, node)
        }
        Command::JoinNode { node, token } => cluster::join(txn, node, token.as_ref()),
        Command::ConsumeToken { token, role } => cluster::consume_token(txn, token, *role),
        Command::CreateToken { id, hash, role, name, expires_at_seconds } => {
            cluster::create_token(txn, id, hash, *role, name, *expires_at_seconds)
        }
        Command::RevokeToken { id } => cluster::revoke_token(txn, id),
        Command::SetVoters { voters } => cluster::set_voters(txn, voters),
        Command::Note { node, what } => cluster::note(txn, *node, what),
        Command::Nothing => Ok(CommandReply::Done),

        Command::RegisterNode(request) => nodes::register(txn, request),
        Command::SurrenderLease { node, incarnation } => nodes::down(txn, *node, *incarnation, nodes::Why::Surrendered),
        Command::NodeDead { node, incarnation } => nodes::down(txn, *node, *incarnation, nodes::Why::Lapsed),
        Command::RemoveNode { node } => nodes::remove(txn, *node),
        Command::AddDisk { disk, node, incarnation, capacity_bytes } => {
            nodes::add_disk(txn, *disk, *node, *incarnation, *capacity_bytes)
        }
        Command::DiskFailed { disk, incarnation } => nodes::disk_failed(txn, *disk, *incarnation),

        Command::ChangeSet(request) => groups::change_set(txn, request),
        Command::MovePrimary { pg, epoch, set_version, to } => {
            groups::move_primary(txn, *pg, *epoch, *set_version, *to)
        }
        Command::CompleteMove { pg, epoch, since } => groups::complete_move(txn, *pg, *epoch, *since),
        Command::ReplaceMember { pg, set_version, dead, spare } => {
            groups::replace_member(txn, *pg, *set_version, *dead, *spare)
        }
        Command::ElectLossy { pg, epoch, set_version } => groups::elect_lossy(txn, *pg, *epoch, *set_version),
        Command::ForceStale { pg, disk, loss_generation } => groups::force_stale(txn, *pg, *disk, *loss_generation),

        Command::CreateVolume { name, replicas, chunk_size, ack, pg_count } => {
            let wish =
                volumes::Wish { name, replicas: *replicas, chunk_size: *chunk_size, ack: *ack, pg_count: *pg_count };
            volumes::create(txn, &wish)
        }
        Command::DeleteVolume { name } => volumes::delete(txn, name),
        Command::PurgeVolume { volume, max_records } => volumes::purge(txn, *volume, *max_records),

        Command::OpenSession { owner, volume_name, host, mount_point } => {
            sessions::open(txn, *owner, volume_name, host, mount_point)
        }
        Command::StrikeSession { session } => sessions::strike(txn, *session),
        Command::FenceComplete { session, since } => sessions::fence_complete(txn, *session, *since),
        Command::CloseSession { session } => sessions::close(txn, *session),
        Command::Mutate { session, request, low_water, volume, mutation } => {
            sessions::mutate(txn, *session, *request, *low_water, *volume, mutation)
        }
        Command::ReclaimDone { volume, object, generation } => reclaim::done(txn, *volume, *object, *generation),
        Command::SizeRecovered { volume, inode, generation, end_bytes } => {
            reclaim::size_recovered(txn, *volume, *inode, *generation, *end_bytes)
        }
    }
}
