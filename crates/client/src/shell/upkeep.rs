//! What a session does by itself: heartbeats, following the map, once a second telling sizes and times.

use super::boot_time;
use crate::client::Inner;
use crate::core::{Event, RouteTable};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;
use weft_proto::control::{ControlReply, ControlRequest};
use weft_types::ErrorKind;
use weft_types::limits::SESSION_HEARTBEAT_INTERVAL;
use weft_types::map::{ClusterMap, NodeState};

/// How long the leader may hold an answer to GetMap while nothing changes.
const MAP_POLL_WAIT: Duration = Duration::from_secs(20);
/// Deadline for a map that some node's answer made us want. Short: the leader may be what died.
const MAP_FETCH_DEADLINE: Duration = Duration::from_millis(250);
/// How often operations that hang are looked for, and when one does.
const STALL_CHECK_INTERVAL: Duration = Duration::from_millis(200);
const STALLED_AFTER: Duration = Duration::from_millis(300);
/// At most so often is a map asked for out of turn.
const MAP_FETCH_PAUSE: Duration = Duration::from_millis(20);
/// How often sizes and times are committed.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// Starts the tasks; each ends when the client is gone.
pub fn start(client: &Rc<Inner>) {
    tokio::task::spawn_local(heartbeats(Rc::downgrade(client)));
    tokio::task::spawn_local(follow_map(Rc::downgrade(client)));
    tokio::task::spawn_local(fetch_wanted_maps(Rc::downgrade(client)));
    tokio::task::spawn_local(watch(Rc::downgrade(client)));
    tokio::task::spawn_local(commit_sizes(Rc::downgrade(client)));
}

/// A fenced session takes no newer map and never lives again: it asks for nothing more. (A map that is newer than the one
/// it keeps would be answered at once, again and again.)
fn in_use(client: &Rc<Inner>) -> bool {
    client.is_open() && !client.engine.is_fenced()
}

async fn heartbeats(client: Weak<Inner>) {
    let mut every = tokio::time::interval(SESSION_HEARTBEAT_INTERVAL);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let Some(client) = client.upgrade().filter(in_use) else { return };
        let sent = boot_time();
        let request =
            ControlRequest::SessionHeartbeat { session: client.session, low_water: client.mutations.low_water() };
        match client.control.try_once(request, SESSION_HEARTBEAT_INTERVAL).await {
            Ok(ControlReply::SessionAlive { map_version }) => {
                client.clock.borrow_mut().answered(sent);
                if map_version > client.engine.with_routes(RouteTable::version) {
                    client.want_map();
                }
            }
            // The leader says so after a commit: it is for good (design 4.4).
            Ok(ControlReply::Refused(ErrorKind::Fenced | ErrorKind::NotFound | ErrorKind::Stale)) => client.struck(),
            Ok(other) => tracing::warn!(?other, "unexpected answer to a session heartbeat"),
            Err(why) => tracing::debug!(why, "session heartbeat was not answered"),
        }
    }
}

/// Holds a poll open at the leader, so that a new map arrives as soon as it is committed.
async fn follow_map(client: Weak<Inner>) {
    loop {
        let Some(client) = client.upgrade().filter(in_use) else { return };
        let have = client.engine.with_routes(RouteTable::version);
        let wait_ms = u32::try_from(MAP_POLL_WAIT.as_millis()).unwrap_or(u32::MAX);
        let request = ControlRequest::GetMap { volume: Some(client.volume), have, wait_ms };
        let poll = client.control.try_once(request, MAP_POLL_WAIT + Duration::from_secs(2));
        // A leader that vanished leaves the poll hanging; whoever finds the next leader ends it.
        let reply = tokio::select! {
            reply = poll => reply,
            () = client.control.leader_moved() => Err("the leader moved".into()),
        };
        match reply {
            Ok(ControlReply::Map(map)) if map.version > have => take_map(&client, *map),
            Ok(ControlReply::MapUnchanged) => {}
            Ok(_) | Err(_) => tokio::time::sleep(MAP_FETCH_PAUSE).await,
        }
    }
}

/// Holds a watch open at the leader: what others want of this session arrives at once.
async fn watch(client: Weak<Inner>) {
    let mut seen = 0;
    loop {
        let Some(client) = client.upgrade().filter(|c| c.is_open()) else { return };
        let wait_ms = u32::try_from(MAP_POLL_WAIT.as_millis()).unwrap_or(u32::MAX);
        let request = ControlRequest::Watch { session: client.session, seen, wait_ms };
        let poll = client.control.try_once(request, MAP_POLL_WAIT + Duration::from_secs(2));
        let reply = tokio::select! {
            reply = poll => reply,
            () = client.control.leader_moved() => Err("the leader moved".into()),
        };
        match reply {
            Ok(ControlReply::Notices { upto, notices }) => {
                // After a quiet time everything that is still owed is heard of again: nothing may be forgotten here.
                seen = if notices.is_empty() { 0 } else { seen.max(upto) };
                for notice in notices {
                    client.noticed(notice);
                }
            }
            Ok(_) | Err(_) => tokio::time::sleep(MAP_FETCH_PAUSE).await,
        }
    }
}

/// Fetches a map out of turn: some node routes by a newer one, or operations hang.
async fn fetch_wanted_maps(client: Weak<Inner>) {
    loop {
        let Some(client) = client.upgrade().filter(in_use) else { return };
        let wanted = tokio::time::timeout(STALL_CHECK_INTERVAL, client.engine.map_wanted()).await.is_ok();
        if !wanted && !client.engine.is_stalled(STALLED_AFTER) {
            continue;
        }
        let have = client.engine.with_routes(RouteTable::version);
        let request = ControlRequest::GetMap { volume: Some(client.volume), have, wait_ms: 0 };
        if let Ok(ControlReply::Map(map)) = client.control.try_once(request, MAP_FETCH_DEADLINE).await {
            take_map(&client, *map);
        }
        tokio::time::sleep(MAP_FETCH_PAUSE).await;
    }
}

pub fn take_map(client: &Rc<Inner>, map: ClusterMap) {
    if !client.is_open() {
        // The map after a clean end does not list the session, and that is no fence.
        return;
    }
    let present = || map.nodes.iter().filter(|n| n.state != NodeState::Removed);
    client.control.learned(present().map(|n| n.control_address).collect());
    let used: Vec<_> = present().flat_map(|n| [n.control_address, n.data_address]).collect();
    client.control.network().keep_only(&used);
    if let Some(routes) = RouteTable::new(client.volume, Arc::new(map)) {
        client.engine.step(Event::Map(routes));
    } else {
        tracing::warn!("the volume is not in the newest map: it was deleted");
    }
}

async fn commit_sizes(client: Weak<Inner>) {
    let mut every = tokio::time::interval(COMMIT_INTERVAL);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let Some(client) = client.upgrade().filter(|c| c.is_open()) else { return };
        client.tell_changes();
    }
}
