//! The replica: which role it plays, and where each event goes.

use crate::actions::{Action, SavedState};
use crate::backup::Backup;
use crate::core::{Context, Core};
use crate::events::{ClientRequest, Event, GroupMap, RequestToken};
#[cfg(any(test, feature = "mutants"))]
use crate::mutants::Mutant;
use crate::primary::Primary;
use crate::view::StoreView;
use crate::{Clock, ReplicaConfig};
use weft_proto::admin::HealProgress;
use weft_proto::replication::{Envelope, Message};
use weft_types::error::NotServing;
use weft_types::{DataError, DiskId, Epoch, LogPosition, PgRecord};

/// One member of one placement group.
pub struct Replica {
    core: Core,
    role: Role,
}

enum Role {
    Member(Backup),
    Primary(Box<Primary>),
    /// The disk failed or the node stops: everything is refused.
    Ended(DataError),
}

/// For status and events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    pub role: RoleStatus,
    pub promised: Epoch,
    pub log_end: LogPosition,
    pub complete_to: Option<LogPosition>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RoleStatus {
    Member,
    /// Leads, and this is why it does not serve fully.
    Primary {
        acknowledged: LogPosition,
        readable: LogPosition,
        trouble: Option<String>,
    },
    Ended,
}

impl Replica {
    /// A replica as its disk remembers it. It does nothing until the first `Event::Map`.
    #[must_use]
    pub fn new(config: ReplicaConfig, saved: SavedState, view: &dyn StoreView) -> Self {
        Self { core: Core::new(config, saved, view), role: Role::Member(Backup::default()) }
    }

    /// Plants a bug, for tests of the tests.
    #[cfg(any(test, feature = "mutants"))]
    pub fn plant(&mut self, mutant: Mutant) {
        self.core.mutant = Some(mutant);
    }

    /// Something happened. Carry out `out` before the next call.
    pub fn step(&mut self, event: Event, clock: Clock, view: &dyn StoreView, out: &mut Vec<Action>) {
        let mut cx = Context { core: &mut self.core, clock, view, out };
        match event {
            Event::Map(map) => self.on_map(map, clock, view, out),
            Event::Peer(envelope) => self.on_peer(envelope, clock, view, out),
            Event::Request { token, request } => match &mut self.role {
                Role::Primary(primary) => primary.on_request(&mut cx, token, request),
                Role::Member(_) => refuse(&mut cx, token, &request),
                Role::Ended(error) => cx.act(Action::Reply { token, result: Err(error.clone()) }),
            },
            Event::Durable(position) => {
                // What a store calls durable of a tail that was cut since is not ours to report.
                cx.core.durable = cx.core.durable.max(position.min(cx.view.log_end()));
                match &mut self.role {
                    Role::Primary(primary) => primary.on_durable(&mut cx),
                    Role::Member(backup) => backup.on_durable(),
                    Role::Ended(_) => {}
                }
            }
            Event::StateSaved(ticket) => {
                cx.core.saved_ticket(ticket);
                match &mut self.role {
                    Role::Primary(primary) => primary.on_state_saved(&mut cx),
                    Role::Member(backup) => backup.on_state_saved(&mut cx),
                    Role::Ended(_) => {}
                }
            }
            Event::BlocksRead { ticket, outcome } => match &mut self.role {
                Role::Primary(primary) => primary.on_blocks_read(&mut cx, ticket, outcome),
                Role::Member(backup) => backup.on_blocks_read(&mut cx, ticket, &outcome),
                Role::Ended(_) => {}
            },
            Event::PresenceRead { ticket, runs } => {
                if let Role::Primary(primary) = &mut self.role {
                    primary.on_presence_read(&mut cx, ticket, runs);
                }
            }
            Event::ObjectRead { ticket, generation, end_bytes, allocated_bytes } => {
                if let Role::Primary(primary) = &mut self.role {
                    primary.on_object_read(&mut cx, ticket, generation, end_bytes, allocated_bytes);
                }
            }
            Event::PeerDown(disk) | Event::PeerUp(disk) => {
                if let Role::Primary(primary) = &mut self.role {
                    primary.on_connection_reset(&mut cx, disk);
                }
            }
            Event::DiskFailed => self.end(DataError::DiskFailed, clock, view, out),
            Event::Stop => {
                self.end(DataError::NotServing { reason: NotServing::Stopping }, clock, view, out);
            }
            Event::ResyncRate { bytes_per_second } => {
                if let Role::Primary(primary) = &mut self.role {
                    primary.resync_rate(bytes_per_second);
                }
            }
            Event::Tick => match &mut self.role {
                Role::Primary(primary) => primary.on_tick(&mut cx),
                Role::Member(backup) => backup.on_tick(&mut cx),
                Role::Ended(_) => {}
            },
        }
    }

    /// Emits what the steps since the last call gathered: one append, one message per member. Carry out `out`, then wait.
    pub fn end_batch(&mut self, clock: Clock, view: &dyn StoreView, out: &mut Vec<Action>) {
        let mut cx = Context { core: &mut self.core, clock, view, out };
        match &mut self.role {
            Role::Primary(primary) => primary.end_batch(&mut cx),
            Role::Member(backup) => backup.end_batch(&mut cx),
            Role::Ended(_) => {}
        }
    }

    #[must_use]
    pub fn status(&self) -> Status {
        let role = match &self.role {
            Role::Member(_) => RoleStatus::Member,
            Role::Primary(primary) => RoleStatus::Primary {
                acknowledged: primary.acked,
                readable: primary.readable,
                trouble: primary.trouble(self.core.map.as_ref()),
            },
            Role::Ended(_) => RoleStatus::Ended,
        };
        Status {
            role,
            promised: self.core.saved.promised,
            log_end: self.core.log_end,
            complete_to: self.core.saved.complete_to,
        }
    }

    /// Progress of the resync that this replica leads, if one runs.
    #[must_use]
    pub fn heal_progress(&self, clock: Clock) -> Option<HealProgress> {
        match &self.role {
            Role::Primary(primary) => primary.heal_progress(self.core.config.pg, clock.now),
            Role::Member(_) | Role::Ended(_) => None,
        }
    }

    fn on_map(&mut self, map: GroupMap, clock: Clock, view: &dyn StoreView, out: &mut Vec<Action>) {
        if map.cluster.version < self.core.map_version() {
            return;
        }
        self.core.map = Some(map.clone());
        self.core.refused.keep(&map.cluster.live_sessions);
        let mut cx = Context { core: &mut self.core, clock, view, out };
        let leads = leads(&map.record, &cx);
        match &mut self.role {
            Role::Ended(_) => {}
            Role::Primary(primary) if leads && primary.epoch == map.record.epoch => primary.on_map(&mut cx, &map),
            Role::Primary(primary) if primary.epoch > map.record.epoch => {}
            Role::Primary(primary) => {
                primary.step_down(&mut cx);
                self.role = Role::Member(Backup::default());
                self.take_up(&map, clock, view, out);
            }
            Role::Member(_) => self.take_up(&map, clock, view, out),
        }
    }

    /// A member's share of a new map: it leads from now on, or learns where it stands.
    fn take_up(&mut self, map: &GroupMap, clock: Clock, view: &dyn StoreView, out: &mut Vec<Action>) {
        let mut cx = Context { core: &mut self.core, clock, view, out };
        if leads(&map.record, &cx) && map.record.epoch >= cx.core.saved.promised {
            let mut primary = Box::new(Primary::new(&mut cx, map));
            primary.begin(&mut cx, map);
            self.role = Role::Primary(primary);
        } else if let Role::Member(backup) = &mut self.role {
            backup.on_map(&mut cx, &map.record);
        }
    }

    fn on_peer(&mut self, envelope: Envelope, clock: Clock, view: &dyn StoreView, out: &mut Vec<Action>) {
        let mut cx = Context { core: &mut self.core, clock, view, out };
        if envelope.to != cx.core.config.disk || envelope.to_incarnation != cx.core.config.incarnation {
            return;
        }
        match &mut self.role {
            Role::Ended(_) => {}
            Role::Member(backup) => backup.on_message(&mut cx, envelope),
            Role::Primary(primary) => match envelope.message {
                // A later primary asks for our promise: we are deposed, whatever our map says.
                Message::Prepare { epoch, .. } if epoch > primary.epoch => {
                    primary.step_down(&mut cx);
                    let mut backup = Backup::default();
                    backup.on_message(&mut cx, envelope);
                    self.role = Role::Member(backup);
                }
                _ => primary.on_message(&mut cx, envelope),
            },
        }
    }

    fn end(&mut self, error: DataError, clock: Clock, view: &dyn StoreView, out: &mut Vec<Action>) {
        let mut cx = Context { core: &mut self.core, clock, view, out };
        if let Role::Primary(primary) = &mut self.role {
            primary.refuse_all(&mut cx, &error);
        }
        self.role = Role::Ended(error);
    }

    /// Disk of this replica.
    #[must_use]
    pub const fn disk(&self) -> DiskId {
        self.core.config.disk
    }
}

/// The map names this very run of this disk as primary (design 5.2: an epoch belongs to one primary incarnation).
fn leads(record: &PgRecord, cx: &Context<'_>) -> bool {
    let config = &cx.core.config;
    record.primary_member().is_some_and(|m| m.disk == config.disk && m.incarnation == config.incarnation)
}

fn refuse(cx: &mut Context<'_>, token: RequestToken, _request: &ClientRequest) {
    let known = cx.core.map_version();
    cx.act(Action::Reply { token, result: Err(DataError::NotPrimary { known }) });
}
