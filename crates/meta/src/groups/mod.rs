//! Placement groups: who is in the set, who leads, and who may change that (design 5.3 to 5.5, 5.9).
//!
//! Responsible for: loading and storing `PgRecord`s; `rules` holds what is allowed, `settle` what follows from a death or
//! a return, `requests` the compare-and-set changes asked for by primaries, leader and operator.
//! Guarantees: a change of members raises the set version, a change of primary the epoch; either raises the map version.

mod requests;
mod rules;
mod settle;

pub(crate) use requests::{change_set, complete_move, elect_lossy, force_stale, move_primary, replace_member};
pub use rules::{Liveness, level_count, may_remove};
pub(crate) use settle::{Reign, settle};

use crate::command::SetRefusal;
use crate::keys;
use crate::txn::{Fault, Txn};
use weft_types::PgId;
use weft_types::map::PgRecord;

pub(crate) fn load(txn: &Txn<'_>, pg: PgId) -> Result<PgRecord, Fault> {
    txn.fetch(&keys::group(pg))?.ok_or(Fault::SetRefused(SetRefusal::UnknownGroup))
}

/// Stores what a command made of a group. Nothing is written when nothing changed.
pub(crate) fn store(txn: &mut Txn<'_>, before: &PgRecord, mut after: PgRecord) -> Result<(), Fault> {
    if *before == after {
        return Ok(());
    }
    if before.members != after.members {
        // Whoever asks for a change names the members it knew, by this number (design 5.3).
        after.set_version = before.set_version.next();
    }
    let version = txn.touch_map()?;
    if before.epoch != after.epoch {
        after.epoch_since = version;
    }
    describe(txn, before, &after)?;
    txn.put(keys::group(after.pg), &after)?;
    Ok(())
}

/// Puts what an operator wants to know into the event list.
fn describe(txn: &mut Txn<'_>, before: &PgRecord, after: &PgRecord) -> Result<(), Fault> {
    for member in &after.members {
        let was = before.member(member.disk).map(|m| m.state);
        if was.is_some_and(|was| std::mem::discriminant(&was) != std::mem::discriminant(&member.state)) {
            let state = match member.state {
                weft_types::map::MemberState::InSync { .. } => "is in sync",
                weft_types::map::MemberState::Syncing => "is syncing",
                weft_types::map::MemberState::Out => "left the in-sync set",
                weft_types::map::MemberState::Incomplete => "is out of the in-sync set and incomplete",
            };
            txn.note(member.node, format!("placement group {}: disk {} {state}", after.pg, member.disk))?;
        }
    }
    if before.loss_generation != after.loss_generation {
        let node = after.primary_member().map(|m| m.node).unwrap_or_default();
        let what = format!(
            "placement group {}: unflushed writes may be lost, loss generation {} to {}",
            after.pg, before.loss_generation, after.loss_generation
        );
        txn.note(node, what)?;
    }
    if before.primary.is_some() && after.primary.is_none() {
        let node = before.primary_member().map(|m| m.node).unwrap_or_default();
        txn.note(node, format!("placement group {} has no primary", after.pg))?;
    }
    Ok(())
}
