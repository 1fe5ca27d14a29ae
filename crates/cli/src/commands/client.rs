//! `weft client`: sessions of mounts.

use super::{Consent, Context, Decision};
use crate::admin::{Admin, unexpected};
use crate::failure::{Failure, Outcome};
use crate::output::Listing;
use clap::{Args, Subcommand};
use std::collections::BTreeMap;
use weft_proto::admin::{AdminReply, AdminRequest, SessionSummary};
use weft_types::SessionId;

#[derive(Subcommand)]
pub enum ClientCommand {
    /// List the sessions of mounts and image commands
    List,
    /// Fence a session: its mount answers EIO from then on, its locks become free
    Evict(EvictArguments),
}

#[derive(Args)]
pub struct EvictArguments {
    session: u64,
    #[command(flatten)]
    consent: Consent,
}

/// # Errors
/// As the cluster says.
pub fn run(context: Context<'_>, command: &ClientCommand) -> Outcome {
    let admin = Admin::connect(context.cluster)?;
    match command {
        ClientCommand::List => list(context, &admin),
        ClientCommand::Evict(arguments) => evict(context, &admin, arguments),
    }
}

fn sessions(admin: &Admin) -> Outcome<Vec<SessionSummary>> {
    match admin.ask(AdminRequest::ListSessions, "list the sessions")? {
        AdminReply::Sessions(sessions) => Ok(sessions),
        other => Err(unexpected(&other)),
    }
}

fn list(context: Context<'_>, admin: &Admin) -> Outcome {
    let names: BTreeMap<_, _> = admin.volumes()?.into_iter().map(|v| (v.record.id, v.record.name)).collect();
    context.audience.show(&sessions(admin)?, |sessions| {
        let mut table = Listing::new(&[">session", "host", "volume", "mounted at", "state"], "no clients");
        for session in sessions {
            table.row([
                session.session.to_string(),
                session.host.clone(),
                names.get(&session.volume).cloned().unwrap_or_else(|| session.volume.to_string()),
                session.mount_point.clone(),
                if session.struck { "fenced" } else { "live" }.to_owned(),
            ]);
        }
        table.finish()
    })
}

fn evict(context: Context<'_>, admin: &Admin, arguments: &EvictArguments) -> Outcome {
    let session = SessionId(arguments.session);
    let Some(found) = sessions(admin)?.into_iter().find(|s| s.session == session) else {
        return Err(Failure::input(format!("there is no session {session}: see `weft client list`")));
    };
    let what = format!("fences session {session} of {} at {}, which fails its I/O", found.host, found.mount_point);
    if arguments.consent.decide(&what)? == Decision::OnlySay {
        return Ok(());
    }
    match admin.ask(AdminRequest::EvictSession { session }, &format!("evict session {session}"))? {
        AdminReply::Done => context.audience.show(&found, |f| format!("session {} of {} is fenced", f.session, f.host)),
        other => Err(unexpected(&other)),
    }
}
