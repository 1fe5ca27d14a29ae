//! Compare-and-set changes of a group, each refused by name when a fact it names is old (design 5.3).

use super::rules::{Liveness, level_count, may_remove};
use super::settle::{Reign, enthrone, out_of, set_state, settle, take_out};
use super::{load, store};
use crate::command::{CommandReply, SetRefusal};
use crate::keys;
use crate::mutants::{Mutant, planted};
use crate::placement;
use crate::records::NodeEntry;
use crate::txn::{Fault, Txn};
use weft_proto::control::{ChangeSetRequest, SetChange};
use weft_types::map::{Member, MemberState, PendingMove, PgRecord, VolumeRecord, VolumeState};
use weft_types::{DiskId, Epoch, LossGeneration, MapVersion, PgId, SetVersion};

const LEVEL: MemberState = MemberState::InSync { lossy: false, behind: false };

pub(crate) fn change_set(txn: &mut Txn<'_>, request: &ChangeSetRequest) -> Result<CommandReply, Fault> {
    let before = load(txn, request.pg)?;
    let live = Liveness::load(txn)?;
    let mut pg = before.clone();
    check_requester(&pg, request, &live)?;
    match &request.change {
        SetChange::Levelled { disks } => levelled(&mut pg, request.requester, disks, &live)?,
        SetChange::Caught { disk } => caught(&mut pg, *disk, &live)?,
        SetChange::Remove { disk } => remove(&mut pg, request.requester, *disk)?,
        SetChange::BeginSync { disk } => begin_sync(&mut pg, *disk, &live)?,
        SetChange::Promote { disk } => promote(&mut pg, *disk, &live)?,
        SetChange::AcceptLoss { from } => accept_loss(&mut pg, request.requester, *from, &live)?,
        SetChange::Yield { to } => yield_to(txn, &mut pg, request.requester, *to, &live)?,
    }
    if !(matches!(request.change, SetChange::Promote { .. }) && planted(Mutant::PromoteBesideDead)) {
        settle(&mut pg, &live, Reign::Keep);
    }
    if matches!(request.change, SetChange::Levelled { .. }) {
        remember_learnt(txn, &before, request.requester)?;
    }
    store(txn, &before, pg)?;
    Ok(CommandReply::SetChanged { map_version: txn.pending_map_version()? })
}

/// Epoch, set version and incarnation are what the requester believes; the set version covers the other members'
/// incarnations, because a registration that changes one raises it (attack stale-set-request).
fn check_requester(pg: &PgRecord, request: &ChangeSetRequest, live: &Liveness) -> Result<(), SetRefusal> {
    if planted(Mutant::SkipCompareAndSet) {
        return Ok(());
    }
    if pg.epoch != request.epoch {
        return Err(SetRefusal::StaleEpoch { have: pg.epoch, got: request.epoch });
    }
    if pg.primary != Some(request.requester) {
        return Err(SetRefusal::NotPrimary);
    }
    let member = pg.member(request.requester).ok_or(SetRefusal::NotMember(request.requester))?;
    if member.incarnation != request.incarnation {
        return Err(SetRefusal::StaleIncarnation { have: member.incarnation, got: request.incarnation });
    }
    if !live.is_live(member) {
        return Err(SetRefusal::NotLive(request.requester));
    }
    if pg.set_version != request.set_version {
        return Err(SetRefusal::StaleSetVersion { have: pg.set_version, got: request.set_version });
    }
    // A primary that is being moved answers nothing more at its epoch, so it decides nothing more (design 4.3).
    if pg.pending_move.is_some() {
        return Err(SetRefusal::Moving);
    }
    Ok(())
}

fn live_member(pg: &PgRecord, disk: DiskId, live: &Liveness) -> Result<Member, SetRefusal> {
    let member = *pg.member(disk).ok_or(SetRefusal::NotMember(disk))?;
    if live.is_live(&member) { Ok(member) } else { Err(SetRefusal::NotLive(disk)) }
}

fn require_levelled(pg: &PgRecord) -> Result<(), SetRefusal> {
    if pg.levelled_epoch == pg.epoch { Ok(()) } else { Err(SetRefusal::NotLevelled) }
}

/// The end of peering (design 5.5): who was levelled is level, every other in-sync member is behind.
fn levelled(pg: &mut PgRecord, primary: DiskId, disks: &[DiskId], live: &Liveness) -> Result<(), SetRefusal> {
    if pg.levelled_epoch == pg.epoch {
        return Err(SetRefusal::AlreadyLevelled);
    }
    if !disks.contains(&primary) {
        return Err(SetRefusal::PrimaryNotLevelled);
    }
    if !pg.member(primary).is_some_and(Member::is_level) {
        return Err(SetRefusal::LossyPrimary);
    }
    for disk in disks {
        if !live_member(pg, *disk, live)?.is_in_sync() {
            return Err(SetRefusal::NotInSync(*disk));
        }
    }
    for member in &mut pg.members {
        if let MemberState::InSync { lossy, .. } = member.state {
            let levelled = disks.contains(&member.disk);
            let behind = !levelled && !planted(Mutant::ForgetBehind);
            member.state = MemberState::InSync { lossy: lossy && !levelled, behind };
        }
    }
    pg.levelled_epoch = pg.epoch;
    Ok(())
}

fn caught(pg: &mut PgRecord, disk: DiskId, live: &Liveness) -> Result<(), SetRefusal> {
    require_levelled(pg)?;
    let member = live_member(pg, disk, live)?;
    if !member.is_in_sync() {
        return Err(SetRefusal::NotInSync(disk));
    }
    if member.is_level() {
        return Err(SetRefusal::AlreadyLevel(disk));
    }
    set_state(pg, disk, LEVEL);
    Ok(())
}

fn remove(pg: &mut PgRecord, primary: DiskId, disk: DiskId) -> Result<(), SetRefusal> {
    if disk == primary {
        return Err(SetRefusal::RemovesItself);
    }
    match pg.member(disk).ok_or(SetRefusal::NotMember(disk))?.state {
        // A lossy or behind member does not count towards the minimum, so the minimum does not hold it: one that can no
        // longer be levelled from the journal has to leave, come back and be copied, or writes would wait for ever.
        MemberState::InSync { .. } if level_count(pg) > 0 && !pg.member(disk).is_some_and(Member::is_level) => {}
        MemberState::InSync { .. } => may_remove(pg, disk)?,
        // It counts for nothing, so nothing is lost by stopping.
        MemberState::Syncing => {}
        MemberState::Out | MemberState::Incomplete => return Err(SetRefusal::NotInSync(disk)),
    }
    take_out(pg, disk);
    Ok(())
}

fn begin_sync(pg: &mut PgRecord, disk: DiskId, live: &Liveness) -> Result<(), SetRefusal> {
    require_levelled(pg)?;
    if !live_member(pg, disk, live)?.state.is_out() {
        return Err(SetRefusal::NotOut(disk));
    }
    set_state(pg, disk, MemberState::Syncing);
    Ok(())
}

/// In sync from here on (design 5.7). `settle` lets a dead member go in the same step (attack min-dead-end).
fn promote(pg: &mut PgRecord, disk: DiskId, live: &Liveness) -> Result<(), SetRefusal> {
    require_levelled(pg)?;
    if live_member(pg, disk, live)?.state != MemberState::Syncing {
        return Err(SetRefusal::NotSyncing(disk));
    }
    set_state(pg, disk, LEVEL);
    Ok(())
}

/// The requester has made the longest lossy log its own (design 5.4). Whoever was not there is behind, a lossless member
/// that comes back too late included.
fn accept_loss(pg: &mut PgRecord, primary: DiskId, from: LossGeneration, live: &Liveness) -> Result<(), SetRefusal> {
    if pg.loss_generation != from {
        return Err(SetRefusal::StaleLossGeneration { have: pg.loss_generation, got: from });
    }
    if pg.members.iter().any(|m| m.is_level() && live.is_live(m)) {
        return Err(SetRefusal::LevelMemberLive);
    }
    for member in &mut pg.members {
        if let MemberState::InSync { lossy, .. } = member.state {
            member.state = if member.disk == primary { LEVEL } else { MemberState::InSync { lossy, behind: true } };
        }
    }
    pg.loss_generation = pg.loss_generation.next();
    Ok(())
}

/// The longest log wins (design 5.4), also when the journals no longer join it to the log of whoever leads. A level member has
/// all that was acknowledged, so it may lead at any time; a lossy one may not while a level one lives (decision 0007).
fn yield_to(txn: &mut Txn<'_>, pg: &mut PgRecord, primary: DiskId, to: DiskId, live: &Liveness) -> Result<(), Fault> {
    if to == primary {
        return Err(SetRefusal::RemovesItself.into());
    }
    let target = live_member(pg, to, live)?;
    if !target.is_in_sync() {
        return Err(SetRefusal::NotInSync(to).into());
    }
    let may_lead = (target.is_level() && !planted(Mutant::LevelNeverYields)) || planted(Mutant::YieldToAnybody);
    if !may_lead && pg.members.iter().any(|m| m.is_level() && live.is_live(m)) {
        return Err(SetRefusal::LevelMemberLive.into());
    }
    // Who serves gives way only when it knows (design 4.3); who has levelled nobody has served nobody.
    if pg.levelled_epoch == pg.epoch && !planted(Mutant::YieldAtOnce) {
        pg.pending_move = Some(PendingMove { to, since: txn.touch_map()? });
    } else {
        enthrone(pg, Some(to));
    }
    Ok(())
}

/// A node that has led and levelled a group knows its incarnation, so it cannot name an older one at its next
/// registration (attack empty-raft-store).
fn remember_learnt(txn: &mut Txn<'_>, pg: &PgRecord, requester: DiskId) -> Result<(), Fault> {
    let Some(node) = pg.member(requester).map(|m| m.node) else { return Ok(()) };
    if let Some(mut entry) = txn.fetch::<NodeEntry>(&keys::node(node))?
        && entry.registered_from != entry.record.incarnation
    {
        entry.registered_from = entry.record.incarnation;
        txn.put(keys::node(node), &entry)?;
    }
    Ok(())
}

pub(crate) fn move_primary(
    txn: &mut Txn<'_>,
    pg: PgId,
    epoch: Epoch,
    set_version: SetVersion,
    to: DiskId,
) -> Result<CommandReply, Fault> {
    let before = load(txn, pg)?;
    let live = Liveness::load(txn)?;
    check_facts(&before, epoch, set_version)?;
    if before.pending_move.is_some() {
        return Err(SetRefusal::Moving.into());
    }
    let target = live_member(&before, to, &live)?;
    if !target.is_level() {
        return Err(SetRefusal::NotInSync(to).into());
    }
    if before.primary == Some(to) {
        return Err(SetRefusal::AlreadyLevel(to).into());
    }
    let mut after = before.clone();
    let since = txn.touch_map()?;
    after.pending_move = Some(PendingMove { to, since });
    if planted(Mutant::MoveAtOnce) {
        enthrone(&mut after, Some(to));
    }
    store(txn, &before, after)?;
    Ok(CommandReply::SetChanged { map_version: since })
}

fn check_facts(pg: &PgRecord, epoch: Epoch, set_version: SetVersion) -> Result<(), SetRefusal> {
    if pg.epoch != epoch {
        return Err(SetRefusal::StaleEpoch { have: pg.epoch, got: epoch });
    }
    if pg.set_version != set_version {
        return Err(SetRefusal::StaleSetVersion { have: pg.set_version, got: set_version });
    }
    Ok(())
}

pub(crate) fn complete_move(
    txn: &mut Txn<'_>,
    pg: PgId,
    epoch: Epoch,
    since: MapVersion,
) -> Result<CommandReply, Fault> {
    let before = load(txn, pg)?;
    let live = Liveness::load(txn)?;
    if before.epoch != epoch || before.pending_move.map(|m| m.since) != Some(since) {
        return Err(SetRefusal::NoSuchMove.into());
    }
    let mut after = before.clone();
    // The old primary has stopped answering at its epoch, so even when nobody better is left it begins a new one.
    settle(&mut after, &live, Reign::End);
    store(txn, &before, after)?;
    Ok(CommandReply::SetChanged { map_version: txn.pending_map_version()? })
}

pub(crate) fn replace_member(
    txn: &mut Txn<'_>,
    pg: PgId,
    set_version: SetVersion,
    dead: DiskId,
    spare: DiskId,
) -> Result<CommandReply, Fault> {
    let before = load(txn, pg)?;
    let live = Liveness::load(txn)?;
    check_facts(&before, before.epoch, set_version)?;
    let volume: VolumeRecord = txn.require(&keys::volume(pg.volume))?;
    if volume.state != VolumeState::Active {
        return Err(SetRefusal::VolumeGone(volume.state).into());
    }
    let old = *before.member(dead).ok_or(SetRefusal::NotMember(dead))?;
    if live.is_live(&old) {
        return Err(SetRefusal::StillLive.into());
    }
    let node = live.node_of(spare).ok_or(SetRefusal::NotLive(spare))?;
    let incarnation = live.incarnation(node).ok_or(SetRefusal::NotLive(spare))?;
    // Two replicas on one node would die together; the dead member's own node may take its replacement.
    let taken = before.members.iter().any(|m| m.disk == spare || (m.node == node && m.disk != dead));
    if taken {
        return Err(SetRefusal::UnfitSpare(spare).into());
    }
    let mut after = before.clone();
    // A dead member that is out of the set makes room; one that the minimum keeps in it stays until the promotion.
    after.members.retain(|m| m.disk != dead || m.is_in_sync());
    after.members.push(Member { disk: spare, node, incarnation, state: MemberState::Incomplete });
    txn.note(node, format!("placement group {pg}: disk {spare} is to replace disk {dead}"))?;
    store(txn, &before, after)?;
    Ok(CommandReply::SetChanged { map_version: txn.pending_map_version()? })
}

pub(crate) fn elect_lossy(
    txn: &mut Txn<'_>,
    pg: PgId,
    epoch: Epoch,
    set_version: SetVersion,
) -> Result<CommandReply, Fault> {
    let before = load(txn, pg)?;
    let live = Liveness::load(txn)?;
    check_facts(&before, epoch, set_version)?;
    if before.members.iter().any(|m| m.is_level() && live.is_live(m)) {
        return Err(SetRefusal::LevelMemberLive.into());
    }
    let candidates = before.in_sync().filter(|m| live.is_live(m));
    // A lossy log that was level when its epoch began before one that never was.
    let order = |m: &&Member| {
        let behind = matches!(m.state, MemberState::InSync { behind: true, .. });
        (behind, placement::rank(pg, m.disk))
    };
    let next = candidates.min_by_key(order).map(|m| m.disk).ok_or(SetRefusal::NoCandidate)?;
    let mut after = before.clone();
    enthrone(&mut after, Some(next));
    store(txn, &before, after)?;
    Ok(CommandReply::SetChanged { map_version: txn.pending_map_version()? })
}

/// Design 5.9: an operator names the loss; everything that is not this disk is copied from it.
pub(crate) fn force_stale(
    txn: &mut Txn<'_>,
    pg: PgId,
    disk: DiskId,
    loss_generation: LossGeneration,
) -> Result<CommandReply, Fault> {
    let before = load(txn, pg)?;
    let live = Liveness::load(txn)?;
    if before.loss_generation != loss_generation {
        let refusal = SetRefusal::StaleLossGeneration { have: before.loss_generation, got: loss_generation };
        return Err(refusal.into());
    }
    let chosen = live_member(&before, disk, &live)?;
    if matches!(chosen.state, MemberState::Syncing | MemberState::Incomplete) && !planted(Mutant::ForceIncomplete) {
        return Err(SetRefusal::Incomplete(disk).into());
    }
    if before.in_sync().any(|m| live.is_live(m)) && !planted(Mutant::ForceOverLive) {
        return Err(SetRefusal::InSyncMemberLive.into());
    }
    let mut after = before.clone();
    for member in &mut after.members {
        member.state = if member.disk == disk { LEVEL } else { out_of(member.state) };
    }
    if !planted(Mutant::ForceWithoutLoss) {
        after.loss_generation = after.loss_generation.next();
    }
    enthrone(&mut after, Some(disk));
    store(txn, &before, after)?;
    Ok(CommandReply::SetChanged { map_version: txn.pending_map_version()? })
}
