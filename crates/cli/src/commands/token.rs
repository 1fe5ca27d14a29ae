//! `weft token`: one-time permissions to join the cluster.

use super::{Context, check_name};
use crate::admin::{Admin, unexpected};
use crate::failure::Outcome;
use crate::output::Listing;
use crate::units;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use std::time::Duration;
use weft_proto::admin::{AdminReply, AdminRequest, TokenRole};

#[derive(Subcommand)]
pub enum TokenCommand {
    /// Create a token with which one node or client may join, once
    Create(CreateArguments),
    /// List the tokens
    List,
    /// Make a token useless
    Revoke { id: String },
}

#[derive(Args)]
pub struct CreateArguments {
    /// What may join with it
    #[arg(long, value_enum)]
    role: Role,
    /// Whom it is for; a client is named so from then on, whatever it calls itself
    #[arg(long)]
    name: String,
    /// How long it is valid
    #[arg(long, default_value = "1h", value_parser = units::parse_duration)]
    valid: Duration,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    Node,
    Client,
}

#[derive(Serialize)]
struct Created {
    id: String,
    token: String,
}

/// # Errors
/// As the cluster says.
pub fn run(context: Context<'_>, command: &TokenCommand) -> Outcome {
    match command {
        TokenCommand::Create(arguments) => {
            check_name(if matches!(arguments.role, Role::Node) { "node" } else { "client" }, &arguments.name)?;
            let admin = Admin::connect(context.cluster)?;
            let role = match arguments.role {
                Role::Node => TokenRole::Node,
                Role::Client => TokenRole::Client,
            };
            let (id, token) = create(&admin, role, &arguments.name, arguments.valid)?;
            context.audience.show(&Created { id, token }, |created| created.token.clone())
        }
        TokenCommand::List => list(context),
        TokenCommand::Revoke { id } => {
            let admin = Admin::connect(context.cluster)?;
            match admin.ask(AdminRequest::RevokeToken { id: id.clone() }, &format!("revoke token `{id}`"))? {
                AdminReply::Done => context.audience.show(id, |id| format!("token {id} is useless now")),
                other => Err(unexpected(&other)),
            }
        }
    }
}

/// Id and text of a new token.
///
/// # Errors
/// As the cluster says.
pub fn create(admin: &Admin, role: TokenRole, name: &str, valid: Duration) -> Outcome<(String, String)> {
    let request = AdminRequest::CreateToken { role, valid_seconds: valid.as_secs(), name: name.to_owned() };
    match admin.ask(request, &format!("create a token for `{name}`"))? {
        AdminReply::Token { text, id } => Ok((id, text)),
        other => Err(unexpected(&other)),
    }
}

fn list(context: Context<'_>) -> Outcome {
    let admin = Admin::connect(context.cluster)?;
    let AdminReply::Tokens(tokens) = admin.ask(AdminRequest::ListTokens, "list the tokens")? else {
        return Err(crate::failure::Failure::failed(
            "the cluster gave no list of tokens: use the same version of weft",
        ));
    };
    context.audience.show(&tokens, |tokens| {
        let mut table = Listing::new(&["token", "role", "for", "expires (UTC)", "used"], "no tokens");
        for token in tokens {
            table.row([
                token.id.clone(),
                if token.role == TokenRole::Node { "node" } else { "client" }.to_owned(),
                token.name.clone(),
                units::utc(token.expires_at_seconds),
                if token.used { "yes" } else { "no" }.to_owned(),
            ]);
        }
        table.finish()
    })
}
