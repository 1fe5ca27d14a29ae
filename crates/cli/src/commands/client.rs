//! `weft client`: sessions of mounts.

use super::{Consent, Context, Decision, secret};
use crate::admin::{Admin, unexpected};
use crate::failure::{Failure, Outcome, While};
use crate::locate;
use crate::output::Listing;
use clap::{Args, Subcommand};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use weft_client::Identity;
use weft_proto::admin::{AdminReply, AdminRequest, SessionSummary};
use weft_transport::join::JoinAs;
use weft_transport::token::Token;
use weft_types::SessionId;

#[derive(Subcommand)]
pub enum ClientCommand {
    /// Make this machine a client of a cluster
    Join(JoinArguments),
    /// List the sessions of mounts and image commands
    List,
    /// Fence a session: its mount answers EIO from then on, its locks become free
    Evict(EvictArguments),
}

#[derive(Args)]
pub struct JoinArguments {
    /// From `weft token create --role client`: the token, or @FILE to read it from a file, or - from standard input
    token: String,
    /// Directory for the identity
    #[arg(long, default_value = "/etc/weft")]
    dir: PathBuf,
    /// Local address to speak from
    #[arg(long)]
    bind: Option<IpAddr>,
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
    match command {
        ClientCommand::Join(arguments) => {
            join(&secret::token(&arguments.token)?, &arguments.dir, arguments.bind)?;
            let dir = arguments.dir.display().to_string();
            context
                .audience
                .show(&dir, |dir| format!("joined; `weft --cluster {dir} mount VOLUME DIR` mounts a volume"))
        }
        ClientCommand::List => list(context, &Admin::connect(context.cluster)?),
        ClientCommand::Evict(arguments) => evict(context, &Admin::connect(context.cluster)?, arguments),
    }
}

/// Exchanges a token for an identity of this machine.
///
/// # Errors
/// When there is an identity already, the token is none, or the cluster refuses it; then nothing is written.
pub fn join(token: &str, directory: &Path, bind: Option<IpAddr>) -> Outcome {
    if locate::has_identity(directory) {
        return Err(Failure::input(format!(
            "{} holds an identity already: use it, or name another directory with --dir",
            directory.display()
        )));
    }
    let token: Token = token.parse().map_err(|error| Failure::input(format!("could not join: {error}")))?;
    let local = bind.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let who = JoinAs { name: weft_client::options::host_name(), ..JoinAs::default() };
    let joined = weft_client::block_on(weft_transport::join::join(local, &token, &who))
        .doing("start the event loop")?
        .map_err(|error| Failure::failed(format!("could not join: {error}")))?;
    let identity = Identity {
        cluster: joined.cluster,
        control_addresses: joined.control_addresses,
        credentials: joined.credentials,
    };
    identity.save(directory).doing(format!("save the identity in {}", directory.display()))
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
