//! When a member takes no part in its group, because its disk has lost what it knew of a chunk (decision 0024).
//!
//! Nothing tells what the blocks of such a chunk have to be, so no repair of a block may believe another member. A resync
//! may: its source is level, and what the target has counts for nothing. Guarantees: whoever withdraws leaves enough level members
//! for writes to go on, as of its map. Must not know: how it is copied to afterwards.

use crate::core::Context;
use crate::mutants::Mutant;
use weft_types::error::NotServing;
use weft_types::{DataError, Member};

pub(crate) fn needs_copying(cx: &Context<'_>) -> bool {
    cx.view.is_damaged() && !cx.core.planted(Mutant::DamagedStays)
}

/// Whether this member has to be copied to, and others can do without it: they take it out of the set as one that is silent, and it
/// answers again when it is out.
pub(crate) fn withdraws(cx: &Context<'_>) -> bool {
    if !needs_copying(cx) {
        return false;
    }
    let Some(map) = &cx.core.map else { return false };
    let me = cx.core.config.disk;
    if !map.record.member(me).is_some_and(Member::is_in_sync) {
        return false;
    }
    if cx.core.planted(Mutant::WithdrawAlways) {
        return true;
    }
    let others = map.record.members.iter().filter(|member| member.disk != me && member.is_level());
    others.filter(|member| map.cluster.is_live(member)).count() >= usize::from(map.record.min_in_sync).max(1)
}

/// What a client is told when no member can give a block. Who is about to withdraw does not know that: what it has to be is what this
/// member has lost. The client asks again, and another one answers.
pub(crate) fn unreadable(cx: &Context<'_>) -> DataError {
    if withdraws(cx) && !cx.core.planted(Mutant::CorruptBeforeYield) {
        DataError::NotServing { reason: NotServing::Moving }
    } else {
        DataError::Corrupt
    }
}
