//! `weft node run`: the parent that keeps a worker running (see [`crate::supervisor`]), and gives back the lease of a
//! worker that died.

use crate::identity::{IdentityError, NodeIdentity, load_credentials};
use crate::place::Place;
use crate::supervisor::{EXIT_NEEDS_A_PERSON, SupervisorError, WorkerFacts, supervise};
use crate::worker::take_last_words;
use std::net::SocketAddr;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::{JoinSet, LocalSet};
use weft_proto::control::{ControlReply, ControlRequest};
use weft_transport::connection::NoService;
use weft_transport::{Endpoint, EndpointConfig, Hello, HelloRole, Service};

/// All nodes are asked at once; those that do not lead say so, and one of them takes over if the leader was ours.
const ASK_TIMEOUT: Duration = Duration::from_millis(600);
const PAUSE: Duration = Duration::from_millis(50);

/// Runs workers until one ends for good; gives the exit status of this process. Blocks; must not be called on a runtime.
/// `worker` makes the command that starts one.
#[must_use]
pub fn run(place: &Place, worker: impl FnMut() -> Command) -> u8 {
    // Those of an earlier run.
    drop(take_last_words(place));
    // What is wrong with the directory is said once, here, before a process is started.
    if let Err(error) = check(place) {
        tracing::error!(%error, "the node cannot start");
        return EXIT_NEEDS_A_PERSON;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the node cannot start");
            return 1;
        }
    };
    let supervised: Result<u8, SupervisorError> =
        LocalSet::new().block_on(&runtime, supervise(&place.layout, worker, |facts| surrender(place.clone(), facts)));
    supervised.unwrap_or_else(|error| {
        tracing::error!(%error, "the worker cannot be run");
        1
    })
}

fn check(place: &Place) -> Result<(), IdentityError> {
    let identity = NodeIdentity::load(&place.layout)?;
    load_credentials(&place.layout, &identity).map(drop)
}

/// Says in the dead worker's name that its lease is over, until the leader has committed it. The caller bounds the time.
pub(crate) async fn surrender(place: Place, facts: WorkerFacts) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    // Read anew: the worker keeps the addresses up to date.
    let identity = NodeIdentity::load(&place.layout).map_err(|error| text(&error))?;
    let credentials = load_credentials(&place.layout, &identity).map_err(|error| text(&error))?;
    let bind = SocketAddr::new(place.config.listen, 0);
    let endpoint = Endpoint::bind(EndpointConfig::new(bind), &credentials).map_err(|error| text(&error))?;
    let role = HelloRole::Node { node: facts.node, incarnation: facts.incarnation };
    let hello = Hello { cluster: identity.cluster, role };
    let request = Rc::new(ControlRequest::SurrenderLease { node: facts.node, incarnation: facts.incarnation });
    let own = place.config.control_address();
    let others: Vec<SocketAddr> = identity.control_addresses.into_iter().filter(|address| *address != own).collect();
    if others.is_empty() {
        return Err("there is no other node to tell".to_owned());
    }
    loop {
        let mut asked = JoinSet::new();
        for address in &others {
            let (endpoint, address, request) = (endpoint.clone(), *address, Rc::clone(&request));
            asked.spawn_local(async move { ask(&endpoint, address, hello, &request).await });
        }
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok(Some(ControlReply::Done)) => return Ok(()),
                Ok(Some(ControlReply::Refused(why))) => return Err(text(&why)),
                _ => {}
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask(endpoint: &Endpoint, address: SocketAddr, hello: Hello, request: &ControlRequest) -> Option<ControlReply> {
    let asking = async {
        let connection = endpoint.connect(address, hello, None, Rc::new(NoService)).await.ok()?;
        let answer = connection.call(Service::Control, request, (), ASK_TIMEOUT).await;
        connection.close("asked");
        answer.ok().map(|(reply, _)| reply)
    };
    tokio::time::timeout(ASK_TIMEOUT, asking).await.ok().flatten()
}
