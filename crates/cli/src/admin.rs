//! A connection to the cluster for administrative requests, as blocking calls.
//!
//! Turns what can go wrong (nobody answers, the request is refused, an answer of another kind) into one sentence.

use crate::failure::{Failure, Outcome, While};
use crate::locate;
use std::future::Future;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;
use weft_client::{AdminClient, ConnectOptions};
use weft_proto::admin::{AdminReply, AdminRequest, ClusterStatus, VolumeSummary};
use weft_types::map::NodeState;
use weft_types::{ErrorKind, NodeId};

/// How long a command waits for the metadata group before it says that nobody answers.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Admin {
    // Before the runtime: its sockets are given back while that still lives.
    client: AdminClient,
    tasks: LocalSet,
    runtime: Runtime,
}

impl Admin {
    /// Connects with the identity that `locate` finds.
    ///
    /// # Errors
    /// When there is no identity, or no node answers.
    pub fn connect(cluster: Option<&Path>) -> Outcome<Self> {
        Self::connect_with(&locate::identity_directory(cluster)?, PATIENCE)
    }

    /// # Errors
    /// When the identity does not read, or no node answers within `patience`.
    pub fn connect_with(identity: &Path, patience: Duration) -> Outcome<Self> {
        let runtime = single_thread_runtime()?;
        let mut options = ConnectOptions::new(identity);
        options.fail_after = Some(patience);
        let tasks = LocalSet::new();
        let connected = tasks.block_on(&runtime, AdminClient::connect(&options));
        let client = connected
            .map_err(|e| Failure::failed(format!("could not use the identity in {}: {e}", identity.display())))?;
        Ok(Self { client, tasks, runtime })
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.tasks.block_on(&self.runtime, future)
    }

    /// Asks the metadata leader.
    ///
    /// # Errors
    /// When it refuses or does not answer; the sentence begins with what was being `doing`.
    pub fn ask(&self, request: AdminRequest, doing: &str) -> Outcome<AdminReply> {
        self.block_on(self.client.request(request)).map_err(|kind| refused(&kind, doing))
    }

    /// Asks every node that should be up; the answers of those that did answer, and who did not.
    ///
    /// # Errors
    /// When no list of nodes is to be had.
    pub fn ask_live_nodes(&self, request: &AdminRequest) -> Outcome<Vec<(NodeId, Result<AdminReply, ErrorKind>)>> {
        let status = self.status()?;
        let live = status.map.nodes.iter().filter(|node| node.state == NodeState::Live);
        Ok(live
            .map(|node| {
                let asked = self.client.request_address(node.control_address, request.clone());
                (node.id, self.block_on(asked))
            })
            .collect())
    }

    /// # Errors
    /// As `ask`.
    pub fn status(&self) -> Outcome<ClusterStatus> {
        match self.ask(AdminRequest::ClusterStatus, "read the cluster's status")? {
            AdminReply::Cluster(status) => Ok(status),
            other => Err(unexpected(&other)),
        }
    }

    /// # Errors
    /// As `ask`.
    pub fn volumes(&self) -> Outcome<Vec<VolumeSummary>> {
        match self.ask(AdminRequest::ListVolumes, "list the volumes")? {
            AdminReply::Volumes(volumes) => Ok(volumes),
            other => Err(unexpected(&other)),
        }
    }

    /// # Errors
    /// When there is no volume of this name; names those there are.
    pub fn volume(&self, name: &str) -> Outcome<VolumeSummary> {
        let volumes = self.volumes()?;
        let names: Vec<&str> = volumes.iter().map(|v| v.record.name.as_str()).collect();
        let known =
            if names.is_empty() { "there are none yet".to_owned() } else { format!("there are: {}", names.join(", ")) };
        let missing = Failure::input(format!("there is no volume `{name}`; {known}"));
        volumes.into_iter().find(|v| v.record.name == name).ok_or(missing)
    }
}

/// An answer of a kind that does not belong to the question: the peer is of another make.
#[must_use]
pub fn unexpected(reply: &AdminReply) -> Failure {
    Failure::failed(format!(
        "the cluster gave an answer that this program does not expect ({reply:?}): use the same version of weft on both sides"
    ))
}

fn refused(kind: &ErrorKind, doing: &str) -> Failure {
    let sentence = format!("could not {doing}: {kind}");
    match kind {
        // The request was wrong, not the cluster: nothing was changed.
        ErrorKind::Invalid(_) | ErrorKind::NotFound | ErrorKind::Exists | ErrorKind::NameTooLong => {
            Failure::input(sentence)
        }
        ErrorKind::TimedOut { .. } | ErrorKind::Unavailable(_) => {
            Failure::failed(format!("{sentence}; check that a majority of the nodes runs"))
        }
        _ => Failure::failed(sentence),
    }
}

/// # Errors
/// When the kernel gives no event descriptor.
pub fn single_thread_runtime() -> Outcome<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().doing("start the event loop")
}
