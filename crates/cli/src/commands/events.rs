//! `weft events`: what happened lately, as the nodes noted it.

use super::Context;
use crate::admin::Admin;
use crate::failure::Outcome;
use crate::output::Listing;
use crate::units;
use clap::Args;
use weft_proto::admin::{AdminReply, AdminRequest, Event};

#[derive(Args)]
pub struct EventsArguments {
    /// At most this many of each node
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    max: u32,
    /// Only events with a number above this one (numbers are per node)
    #[arg(long, default_value_t = 0)]
    after: u64,
}

/// # Errors
/// When the cluster does not answer.
pub fn run(context: Context<'_>, arguments: &EventsArguments) -> Outcome {
    let admin = Admin::connect(context.cluster)?;
    let request = AdminRequest::Events { after: arguments.after, max: arguments.max };
    let mut events: Vec<Event> = Vec::new();
    for (_, reply) in admin.ask_live_nodes(&request)? {
        // A node that does not answer is reported by `weft cluster status`; its events are lost with it.
        if let Ok(AdminReply::Events(some)) = reply {
            events.extend(some);
        }
    }
    events.sort_by_key(|e| (e.at_seconds, e.node, e.number));
    events.dedup();
    context.audience.show(&events, |events| {
        let mut table = Listing::new(&["time (UTC)", ">node", ">number", "what"], "no events");
        for event in events {
            table.row([
                units::utc(event.at_seconds),
                event.node.to_string(),
                event.number.to_string(),
                event.what.clone(),
            ]);
        }
        table.finish()
    })
}
