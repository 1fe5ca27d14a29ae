//! What follows for a group from a death, a return or a promotion: dead members leave, somebody leads.
//!
//! Run at the end of every command that touches a group, so that the rules hold whichever way it was reached.

use super::rules::{Liveness, level_count, may_remove};
use crate::mutants::{Mutant, planted};
use crate::placement;
use weft_types::DiskId;
use weft_types::map::{Member, MemberState, PgRecord};

/// Whether the present primary may go on at its epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reign {
    Keep,
    /// Its incarnation ended: even the same disk leads under a new epoch (design 5.2, 5.4).
    End,
}

pub(crate) fn settle(pg: &mut PgRecord, live: &Liveness, reign: Reign) {
    drop_dead(pg, live);
    elect(pg, live, reign);
    drop_surplus(pg);
}

/// Dead members leave the set as far as the minimum allows; otherwise they stay and writes wait (design 5.3).
fn drop_dead(pg: &mut PgRecord, live: &Liveness) {
    let dead: Vec<DiskId> = pg.members.iter().filter(|m| m.is_in_sync() && !live.is_live(m)).map(|m| m.disk).collect();
    for disk in dead {
        if may_remove(pg, disk).is_ok() {
            take_out(pg, disk);
        }
    }
    // What a dead member had of a resync stays on its disk (`complete_to`); it begins again when it is back.
    for member in &mut pg.members {
        if member.state == MemberState::Syncing && !live.is_live(member) {
            member.state = out_of(member.state);
        }
    }
}

fn elect(pg: &mut PgRecord, live: &Liveness, reign: Reign) {
    let syncing = |m: &Member| m.state == MemberState::Syncing && planted(Mutant::ElectSyncing);
    let able = |m: &Member| (m.is_level() || syncing(m)) && live.is_live(m);
    let can_lead = |disk: DiskId| pg.member(disk).is_some_and(able);
    let level_is_live = pg.members.iter().any(able);
    if reign == Reign::Keep
        && let Some(primary) = pg.primary_member()
        && primary.is_in_sync()
        && live.is_live(primary)
        // A lossy primary was elected after the wait for a lossless one; it yields when one comes back in time.
        && (primary.is_level() || !level_is_live)
    {
        return;
    }
    let moved_to = pg.pending_move.map(|m| m.to).filter(|disk| can_lead(*disk));
    let present = pg.primary.filter(|disk| can_lead(*disk));
    let best = pg.members.iter().filter(|m| able(m)).map(|m| m.disk).min_by_key(|d| placement::rank(pg.pg, *d));
    let next = moved_to.or(present).or(best);
    if next.is_none() && pg.primary.is_none() {
        return;
    }
    enthrone(pg, next);
}

/// Every change of primary has an epoch of its own (design 5.2).
pub(super) fn enthrone(pg: &mut PgRecord, primary: Option<DiskId>) {
    pg.primary = primary;
    pg.epoch = pg.epoch.next();
    pg.pending_move = None;
}

/// Once all replicas are level, members that were replaced are no members any more; their nodes delete the data.
fn drop_surplus(pg: &mut PgRecord) {
    if level_count(pg) >= usize::from(pg.replicas) {
        pg.members.retain(Member::is_in_sync);
    }
}

/// What a member is when it leaves. A copy that breaks off is no state that the group ever had, and remains none.
pub(super) const fn out_of(state: MemberState) -> MemberState {
    match state {
        MemberState::InSync { .. } | MemberState::Out => MemberState::Out,
        MemberState::Syncing | MemberState::Incomplete => MemberState::Incomplete,
    }
}

pub(super) fn take_out(pg: &mut PgRecord, disk: DiskId) {
    for member in pg.members.iter_mut().filter(|m| m.disk == disk) {
        member.state = out_of(member.state);
    }
}

pub(super) fn set_state(pg: &mut PgRecord, disk: DiskId, state: MemberState) {
    for member in pg.members.iter_mut().filter(|m| m.disk == disk) {
        member.state = state;
    }
}
