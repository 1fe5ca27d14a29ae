//! Requests to the metadata group to change the set: compare-and-set on (epoch, set version), repeated until the map
//! shows a newer set, which settles every request made at the older one (design 5.3).

use crate::actions::{Action, Report};
use crate::core::Context;
use crate::primary::Primary;
use crate::tuning::CHANGE_RETRY;
use weft_proto::control::{ChangeSetRequest, SetChange};
use weft_types::{BootTime, DiskId};

/// Requests made at the current set version.
#[derive(Default)]
pub(crate) struct Changes {
    asked: Vec<(SetChange, BootTime)>,
}

impl Changes {
    /// The set has a newer version: whatever was asked has been granted or can never be.
    pub fn clear(&mut self) {
        self.asked.clear();
    }
}

impl Primary {
    /// Asks for a change unless the same was asked a moment ago.
    pub fn ask(&mut self, cx: &mut Context<'_>, change: SetChange) {
        let now = cx.clock.now;
        match self.changes.asked.iter_mut().find(|(asked, _)| *asked == change) {
            Some((_, at)) if now.since(*at) < CHANGE_RETRY => return,
            Some((_, at)) => *at = now,
            None => {
                if let SetChange::Remove { disk } = change {
                    cx.report(Report::RemovalRequested { disk });
                }
                self.changes.asked.push((change.clone(), now));
            }
        }
        let config = cx.core.config;
        cx.act(Action::RequestChange(ChangeSetRequest {
            pg: config.pg,
            epoch: self.epoch,
            set_version: self.set_version,
            requester: config.disk,
            incarnation: config.incarnation,
            change,
        }));
    }

    pub fn ask_removal(&mut self, cx: &mut Context<'_>, disk: DiskId) {
        self.ask(cx, SetChange::Remove { disk });
    }

    /// A candidate counts until a newer set is known, so its promotion is asked for until then (design 5.7).
    pub fn changes_again(&mut self, cx: &mut Context<'_>) {
        let promotion = self.changes.asked.iter().find(|(c, _)| matches!(c, SetChange::Promote { .. }));
        if let Some((change, _)) = promotion.cloned() {
            self.ask(cx, change);
        }
    }
}
