//! `weft lock`: who holds which bytes of which file, and who waits.

use super::Context;
use crate::admin::{Admin, unexpected};
use crate::failure::{Failure, Outcome};
use crate::output::Listing;
use clap::{Args, Subcommand};
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};
use weft_proto::admin::{AdminReply, AdminRequest, LockState, LockSummary};
use weft_types::lock::MAX_LOCK_OFFSET;
use weft_types::{LockKind, LockRange};

#[derive(Subcommand)]
pub enum LockCommand {
    /// List locks that are held or waited for; `find MOUNT -inum N` tells the name of an inode
    List(ListArguments),
}

#[derive(Args)]
pub struct ListArguments {
    /// Only of this volume
    volume: Option<String>,
}

/// # Errors
/// As the cluster says.
pub fn run(context: Context<'_>, command: &LockCommand) -> Outcome {
    match command {
        LockCommand::List(arguments) => list(context, &Admin::connect(context.cluster)?, arguments),
    }
}

fn list(context: Context<'_>, admin: &Admin, arguments: &ListArguments) -> Outcome {
    let names: BTreeMap<_, _> = admin.volumes()?.into_iter().map(|v| (v.record.id, v.record.name)).collect();
    let volume = match &arguments.volume {
        None => None,
        Some(wanted) => match names.iter().find(|(_, name)| *name == wanted) {
            Some((id, _)) => Some(*id),
            None => {
                return Err(Failure::input(format!(
                    "volume '{wanted}' does not exist; `weft volume list` shows those that do"
                )));
            }
        },
    };
    let locks = match admin.ask(AdminRequest::ListLocks { volume }, "list the locks")? {
        AdminReply::Locks(locks) => locks,
        other => return Err(unexpected(&other)),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    context.audience.show(&locks, |locks| {
        let headings = ["volume", ">inode", "bytes", "kind", "state", "host", ">process", ">session", ">for"];
        let mut table = Listing::new(&headings, "no locks");
        for lock in locks {
            let volume = names.get(&lock.volume).cloned().unwrap_or_else(|| lock.volume.to_string());
            table.row(row(lock, volume, now));
        }
        table.finish()
    })
}

fn row(lock: &LockSummary, volume: String, now: i64) -> [String; 9] {
    let kind = match lock.kind {
        LockKind::Shared => "shared",
        LockKind::Exclusive => "exclusive",
    };
    let state = match lock.state {
        LockState::Held => "held",
        LockState::Waiting => "waiting",
    };
    [
        volume,
        lock.inode.to_string(),
        bytes(lock.range),
        kind.to_owned(),
        state.to_owned(),
        lock.host.clone(),
        lock.process_id.to_string(),
        lock.session.to_string(),
        format!("{} s", now.saturating_sub(lock.since_seconds).max(0)),
    ]
}

fn bytes(range: LockRange) -> String {
    match (range.first, range.last) {
        (0, MAX_LOCK_OFFSET) => "all".to_owned(),
        (first, MAX_LOCK_OFFSET) => format!("{first}-end"),
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_read_as_a_person_says_them() {
        let shown = |first, last| bytes(LockRange { first, last });
        assert_eq!(shown(0, MAX_LOCK_OFFSET), "all");
        assert_eq!(shown(100, 100), "100");
        assert_eq!(shown(0, 9), "0-9");
        assert_eq!(shown(5, MAX_LOCK_OFFSET), "5-end");
    }
}
