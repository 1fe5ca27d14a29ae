//! Questions about the cluster: the map, volumes, sessions, tokens, events, and what the leader has to know.
//!
//! Guarantees: changes nothing; every answer is of one view.

use crate::codec::{fetch, fetch_all};
use crate::keys;
use crate::leader::{Debt, DebtKind, Facts, SessionFact};
use crate::mutants::{Mutant, planted};
use crate::records::{
    ClusterRecord, InodeRecord, NodeEntry, NoticeRecord, ReclaimItem, SessionRecord, SessionState, SizeRecovery,
    TokenRecord, VolumeUsageRecord,
};
use crate::view::{StateError, View};
use std::collections::BTreeSet;
use weft_proto::admin::{Event, SessionSummary, TokenSummary, VolumeSummary};
use weft_proto::namespace::Notice;
use weft_types::limits::{MAX_DEBTS_LISTED, MAX_EVENTS, MAX_NOTICES_PER_ANSWER, MAX_RECLAIMS_LISTED};
use weft_types::map::{ClusterMap, LiveSession, VolumeRecord};
use weft_types::{InodeNumber, MapVersion, ObjectId, SessionId, SessionOwner, VolumeId};

/// The cluster's identity and certificate authority; `None` before `Bootstrap`.
///
/// # Errors
/// When the state cannot be read.
pub fn cluster(view: &dyn View) -> Result<Option<ClusterRecord>, StateError> {
    fetch(view, keys::CLUSTER)
}

/// # Errors
/// When the state cannot be read.
pub fn map_version(view: &dyn View) -> Result<MapVersion, StateError> {
    Ok(MapVersion(fetch(view, keys::MAP_VERSION)?.unwrap_or(0)))
}

/// The map: all of it for a node, one volume's part for a client.
///
/// # Errors
/// When the state cannot be read.
pub fn cluster_map(view: &dyn View, volume: Option<VolumeId>) -> Result<ClusterMap, StateError> {
    let ours = |id: VolumeId| volume.is_none_or(|v| v == id);
    let nodes: Vec<NodeEntry> = fetch_all(view, keys::NODES, usize::MAX)?;
    let volumes: Vec<VolumeRecord> = fetch_all(view, keys::VOLUMES, usize::MAX)?;
    let pgs = match volume {
        Some(id) => fetch_all(view, &keys::groups_of(id), usize::MAX)?,
        None => fetch_all(view, keys::GROUPS, usize::MAX)?,
    };
    let sessions: Vec<SessionRecord> = fetch_all(view, keys::SESSIONS, usize::MAX)?;
    let live = sessions.iter().filter(|s| s.state == SessionState::Live && ours(s.volume));
    Ok(ClusterMap {
        cluster: cluster(view)?.map(|c| c.id).unwrap_or_default(),
        version: map_version(view)?,
        nodes: nodes.into_iter().map(|n| n.record).collect(),
        disks: fetch_all(view, keys::DISKS, usize::MAX)?,
        volumes: volumes.into_iter().filter(|v| ours(v.id)).collect(),
        pgs,
        live_sessions: live.map(|s| LiveSession { id: s.id, owner: s.owner }).collect(),
    })
}

/// # Errors
/// When the state cannot be read.
pub fn volumes(view: &dyn View) -> Result<Vec<VolumeSummary>, StateError> {
    let records: Vec<VolumeRecord> = fetch_all(view, keys::VOLUMES, usize::MAX)?;
    let summary = |record: VolumeRecord| {
        let usage: VolumeUsageRecord = fetch(view, &keys::usage(record.id))?.unwrap_or_default();
        Ok(VolumeSummary { record, inodes: usage.inodes })
    };
    records.into_iter().map(summary).collect()
}

/// A volume by its name.
///
/// # Errors
/// When the state cannot be read.
pub fn volume(view: &dyn View, name: &str) -> Result<Option<VolumeRecord>, StateError> {
    match fetch::<VolumeId>(view, &keys::volume_name(name))? {
        Some(id) => fetch(view, &keys::volume(id)),
        None => Ok(None),
    }
}

/// # Errors
/// When the state cannot be read.
pub fn sessions(view: &dyn View) -> Result<Vec<SessionSummary>, StateError> {
    let records: Vec<SessionRecord> = fetch_all(view, keys::SESSIONS, usize::MAX)?;
    let summary = |s: SessionRecord| SessionSummary {
        session: s.id,
        volume: s.volume,
        struck: s.state != SessionState::Live,
        host: s.host,
        mount_point: s.mount_point,
    };
    Ok(records.into_iter().map(summary).collect())
}

/// # Errors
/// When the state cannot be read.
pub fn session(view: &dyn View, session: SessionId) -> Result<Option<SessionRecord>, StateError> {
    fetch(view, &keys::session(session))
}

/// Whether a member may speak for a session: its owner, or anybody if there is no such session; the request is then
/// refused as one of a fenced session.
///
/// # Errors
/// When the state cannot be read.
pub fn speaks_for(view: &dyn View, owner: SessionOwner, session: SessionId) -> Result<bool, StateError> {
    let record = self::session(view, session)?;
    Ok(record.is_none_or(|record| record.owner == owner || planted(Mutant::AnyOwner)))
}

/// # Errors
/// When the state cannot be read.
pub fn tokens(view: &dyn View) -> Result<Vec<TokenSummary>, StateError> {
    let records: Vec<TokenRecord> = fetch_all(view, keys::TOKENS, usize::MAX)?;
    let summary = |t: TokenRecord| TokenSummary {
        id: t.id,
        role: t.role,
        name: t.name,
        expires_at_seconds: t.expires_at_seconds,
        used: t.used,
    };
    Ok(records.into_iter().map(summary).collect())
}

/// Notable facts with a number above `after`, oldest first, at most `max`.
///
/// # Errors
/// When the state cannot be read.
pub fn events(view: &dyn View, after: u64, max: u32) -> Result<Vec<Event>, StateError> {
    let end = keys::after_prefix(&keys::event(u64::MAX));
    let limit = (max as usize).min(usize::try_from(MAX_EVENTS).unwrap_or(usize::MAX));
    let pairs = view.scan(&keys::event(after.saturating_add(1)), &end, limit)?;
    pairs.iter().map(|(key, bytes)| crate::codec::decode(key, bytes)).collect()
}

/// First deletions in progress.
///
/// # Errors
/// When the state cannot be read.
pub fn reclaims(view: &dyn View, limit: usize) -> Result<Vec<ReclaimItem>, StateError> {
    fetch_all(view, keys::RECLAIMS, limit)
}

/// What a session has to be told with a number above `seen`, oldest first, and the highest number of it.
///
/// # Errors
/// When the state cannot be read.
pub fn notices(view: &dyn View, session: SessionId, seen: u64) -> Result<(u64, Vec<Notice>), StateError> {
    let mut records: Vec<NoticeRecord> = fetch_all(view, &keys::notices_of(session), usize::MAX)?;
    records.retain(|record| record.number > seen);
    records.sort_unstable_by_key(|record| record.number);
    records.truncate(MAX_NOTICES_PER_ANSWER);
    let mut notices = Vec::new();
    for record in &records {
        let inode = record.inode;
        if let Some((generation, _)) = record.truncated {
            notices.push(Notice::Truncated { inode, generation });
        }
        if record.granted.is_some() {
            notices.push(Notice::CapGranted { inode });
        }
        if record.recalled.is_some() {
            notices.push(Notice::Recall { inode });
        }
    }
    Ok((records.last().map_or(seen, |record| record.number), notices))
}

/// Who has a file's size cap, and who waits for it, longest first.
///
/// # Errors
/// When the state cannot be read.
pub fn size_line(
    view: &dyn View,
    volume: VolumeId,
    inode: InodeNumber,
) -> Result<(Option<SessionId>, Vec<SessionId>), StateError> {
    let record: Option<InodeRecord> = fetch(view, &keys::inode(volume, inode))?;
    Ok(record.map(|record| (record.size_cap, record.cap_queue)).unwrap_or_default())
}

/// Every object of a volume that somebody knows of: those of its inodes, and those that wait to be deleted. Reads all inodes.
///
/// # Errors
/// When the state cannot be read.
pub fn known_objects(view: &dyn View, volume: VolumeId) -> Result<BTreeSet<ObjectId>, StateError> {
    let inodes: Vec<InodeRecord> = fetch_all(view, &keys::inodes_of(volume), usize::MAX)?;
    let leaving = reclaims(view, usize::MAX)?.into_iter().filter(|item| item.volume == volume).map(|item| item.object);
    Ok(inodes.into_iter().map(|inode| inode.object).chain(leaving).collect())
}

/// What sessions owe to each other.
fn debts(view: &dyn View) -> Result<Vec<Debt>, StateError> {
    let records: Vec<NoticeRecord> = fetch_all(view, keys::NOTICES, MAX_DEBTS_LISTED)?;
    let mut debts = Vec::new();
    for record in records {
        let mut owe = |kind, number| {
            debts.push(Debt { session: record.session, volume: record.volume, inode: record.inode, kind, number });
        };
        if let Some(number) = record.recalled {
            owe(DebtKind::SizeCap, number);
        }
        if let Some((_, number)) = record.truncated {
            owe(DebtKind::Acknowledgement, number);
        }
    }
    Ok(debts)
}

/// What the leader has to know of this view.
///
/// # Errors
/// When the state cannot be read.
pub fn facts(view: &dyn View) -> Result<Facts, StateError> {
    let sessions: Vec<SessionRecord> = fetch_all(view, keys::SESSIONS, usize::MAX)?;
    let fact = |s: SessionRecord| SessionFact {
        session: s.id,
        volume: s.volume,
        struck_since: match s.state {
            SessionState::Live => None,
            SessionState::Struck { since } => Some(since),
        },
    };
    let size_recoveries: Vec<SizeRecovery> = fetch_all(view, keys::SIZE_RECOVERIES, MAX_RECLAIMS_LISTED)?;
    Ok(Facts {
        map: cluster_map(view, None)?,
        sessions: sessions.into_iter().map(fact).collect(),
        reclaims: reclaims(view, MAX_RECLAIMS_LISTED)?,
        size_recoveries,
        debts: debts(view)?,
    })
}
