//! Requests to the metadata group to change the set: compare-and-set on (epoch, set version), repeated until the map
//! shows a newer set, which settles every request made at the older one (design 5.3).

use crate::actions::{Action, Report};
use crate::core::Context;
use crate::primary::Primary;
use crate::tuning::{CHANGE_RETRY, MAX_BACKOFF_DOUBLINGS};
use weft_proto::control::{ChangeSetRequest, SetChange};
use weft_types::{BootTime, DiskId};

/// Requests made at the current set version.
#[derive(Default)]
pub(crate) struct Changes {
    asked: Vec<Asked>,
}

struct Asked {
    change: SetChange,
    at: BootTime,
    times: u32,
}

impl Asked {
    /// What may be refused for long (the group may not shrink) is asked less and less often, so that a degraded group does
    /// not busy Raft. The others only get lost, and somebody waits for them.
    fn due(&self, now: BootTime) -> bool {
        let may_be_refused_for_long = matches!(
            self.change,
            SetChange::Remove { .. } | SetChange::BeginSync { .. } | SetChange::AcceptLoss { .. }
        );
        let doublings = if may_be_refused_for_long { self.times.min(MAX_BACKOFF_DOUBLINGS) } else { 0 };
        now.since(self.at) >= CHANGE_RETRY * (1 << doublings)
    }
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
        match self.changes.asked.iter_mut().find(|asked| asked.change == change) {
            Some(asked) if !asked.due(now) => return,
            Some(asked) => {
                asked.at = now;
                asked.times += 1;
            }
            None => {
                if let SetChange::Remove { disk } = change {
                    cx.report(Report::RemovalRequested { disk });
                }
                self.changes.asked.push(Asked { change: change.clone(), at: now, times: 0 });
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
        let promotion = self.changes.asked.iter().find(|asked| matches!(asked.change, SetChange::Promote { .. }));
        if let Some(change) = promotion.map(|asked| asked.change.clone()) {
            self.ask(cx, change);
        }
    }
}
