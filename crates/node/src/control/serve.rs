//! The control port: requests in, answers out.
//!
//! Guarantees: a request is handled only for a peer that may ask it; a connection's requests are bounded by the transport.

use super::node::Node;
use super::{access, requests};
use bytes::Bytes;
use std::cell::RefCell;
use std::rc::{Rc, Weak};
use tracing::Instrument as _;
use weft_proto::control::{ControlReply, ControlRequest};
use weft_proto::frame::Refusal;
use weft_transport::{Connection, Handler, Message, Replier, Service};

/// Serves for a node that may not be there yet, or any more.
#[derive(Default)]
pub(crate) struct Server {
    node: RefCell<Weak<Node>>,
}

impl Server {
    pub(crate) fn serve_for(&self, node: &Rc<Node>) {
        *self.node.borrow_mut() = Rc::downgrade(node);
    }
}

impl Handler for Server {
    fn on_request(&self, connection: &Connection, request: Message, replier: Replier) {
        let Some(node) = self.node.borrow().upgrade() else { return replier.refuse(&Refusal::Busy) };
        match request.service {
            Service::Control => control(node, connection, &request, replier),
            Service::Raft => raft(node, connection, request.payload, replier),
            _ => replier.refuse(&Refusal::NoSuchService),
        }
    }

    fn on_message(&self, connection: &Connection, message: Message) {
        tracing::debug!(peer = %connection.identity(), service = ?message.service, "a message without a question is ignored");
    }
}

fn control(node: Rc<Node>, connection: &Connection, request: &Message, replier: Replier) {
    let Ok(request) = request.decode::<ControlRequest>() else { return replier.refuse(&Refusal::Malformed) };
    let peer = connection.identity().clone();
    if let Err(why) = access::may_ask(&peer, &request, &node.maps.current()) {
        tracing::warn!(%peer, %why, "refused a request");
        return replier.reply(&ControlReply::Refused(why), ());
    }
    let (session, number) = (request.session(), request.number());
    let span = tracing::debug_span!("control", %peer, ?session, ?number);
    let answering = async move {
        // Without an answer the replier tells the caller that there will be none.
        if let Some(reply) = requests::handle(node, peer, request).await {
            replier.reply(&reply, ());
            tracing::debug!("answered");
        }
    };
    tokio::task::spawn_local(answering.instrument(span));
}

fn raft(node: Rc<Node>, connection: &Connection, message: Bytes, replier: Replier) {
    let from = match access::raft_peer(connection.identity(), &node.maps.current()) {
        Ok(from) => from,
        Err(why) => {
            tracing::warn!(peer = %connection.identity(), %why, "refused a Raft message");
            return replier.refuse(&Refusal::NoSuchService);
        }
    };
    tokio::task::spawn_local(async move {
        let answer = node.group.handle_message(from, &message).await;
        replier.reply(&(), Bytes::from(answer));
    });
}
