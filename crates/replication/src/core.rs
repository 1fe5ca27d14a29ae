//! What every role of a replica shares: who it is, its map, its log's end, what it has written down, and the context
//! that a step carries around.

use crate::actions::{Action, Report, SavedState};
use crate::events::{GroupMap, ReadTicket, SaveTicket};
use crate::mutants::Mutant;
use crate::refused::Refused;
use crate::view::StoreView;
use crate::{Clock, ReplicaConfig};
use weft_proto::replication::{Envelope, Message};
use weft_types::{DiskId, Incarnation, LogPosition, MapVersion};

pub(crate) struct Core {
    pub config: ReplicaConfig,
    pub map: Option<GroupMap>,
    pub saved: SavedState,
    /// Last position that was given out or accepted. A primary's open batch is included.
    pub log_end: LogPosition,
    pub durable: LogPosition,
    /// Highest position that the store was told is committed.
    pub committed: LogPosition,
    pub refused: Refused,
    next_read: u64,
    next_save: u64,
    saved_to: u64,
    #[cfg(any(test, feature = "mutants"))]
    pub mutant: Option<Mutant>,
}

impl Core {
    pub fn new(config: ReplicaConfig, saved: SavedState, view: &dyn StoreView) -> Self {
        Self {
            config,
            map: None,
            saved,
            log_end: view.log_end(),
            durable: view.durable(),
            committed: view.committed(),
            refused: Refused::default(),
            next_read: 0,
            next_save: 0,
            saved_to: 0,
            #[cfg(any(test, feature = "mutants"))]
            mutant: None,
        }
    }

    pub fn map_version(&self) -> MapVersion {
        self.map.as_ref().map_or(MapVersion(0), |map| map.cluster.version)
    }

    /// Whether this bug is planted. Always false in production.
    #[cfg(any(test, feature = "mutants"))]
    pub fn planted(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    #[cfg(not(any(test, feature = "mutants")))]
    pub const fn planted(&self, _mutant: Mutant) -> bool {
        false
    }

    pub fn saved_ticket(&mut self, ticket: SaveTicket) {
        self.saved_to = self.saved_to.max(ticket.0);
    }

    /// Everything given to `SaveState` so far is durable.
    pub const fn state_is_durable(&self) -> bool {
        self.saved_to == self.next_save
    }
}

/// One step: the clock, the store, and where actions go.
pub(crate) struct Context<'a> {
    pub core: &'a mut Core,
    pub clock: Clock,
    pub view: &'a dyn StoreView,
    pub out: &'a mut Vec<Action>,
}

impl Context<'_> {
    pub fn act(&mut self, action: Action) {
        self.out.push(action);
    }

    pub fn report(&mut self, report: Report) {
        self.out.push(Action::Report(report));
    }

    pub fn send(&mut self, to: DiskId, to_incarnation: Incarnation, message: Message) {
        let config = &self.core.config;
        self.out.push(Action::Send(Envelope {
            pg: config.pg,
            from: config.disk,
            from_incarnation: config.incarnation,
            to,
            to_incarnation,
            message,
        }));
    }

    pub fn read_ticket(&mut self) -> ReadTicket {
        self.core.next_read += 1;
        ReadTicket(self.core.next_read)
    }

    /// Writes the saved state down; durable when `state_is_durable` says so.
    pub fn save(&mut self) -> SaveTicket {
        self.core.next_save += 1;
        let ticket = SaveTicket(self.core.next_save);
        let mut state = self.core.saved;
        if self.core.planted(Mutant::ForgetCompleteTo) {
            state.complete_to = None;
        }
        self.out.push(Action::SaveState { state, ticket });
        ticket
    }

    pub fn set_committed(&mut self, position: LogPosition) {
        if position > self.core.committed {
            self.core.committed = position;
            self.out.push(Action::SetCommitted(position));
        }
    }
}
