//! Space of a volume as statfs shows it: what the disks have, divided by the number of copies.

use crate::client::Client;
use crate::shell::boot_time;
use std::time::Duration;
use weft_proto::admin::{AdminReply, AdminRequest};
use weft_proto::control::{ControlReply, ControlRequest};
use weft_proto::namespace::{NamespaceReply, Query};
use weft_types::ErrorKind;
use weft_types::map::DiskState;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VolumeSpace {
    /// Over one copy.
    pub total_bytes: u64,
    pub free_bytes: u64,
    pub inodes: u64,
}

/// statfs is called often (every `df`, every QEMU start) and changes slowly.
const SERVES_FOR: Duration = Duration::from_secs(1);

impl Client {
    /// # Errors
    /// When no leader answers.
    pub async fn space(&self) -> Result<VolumeSpace, ErrorKind> {
        let inner = &self.inner;
        let now = boot_time();
        if let Some((at, space)) = *inner.space.borrow()
            && now.since(at) < SERVES_FOR
        {
            return Ok(space);
        }
        let status = match inner.control.ask(ControlRequest::Admin(AdminRequest::ClusterStatus)).await? {
            ControlReply::Admin(reply) => match *reply {
                AdminReply::Cluster(status) => status,
                AdminReply::Failed(error) => return Err(error),
                other => return Err(ErrorKind::Io(format!("unexpected answer to a status request: {other:?}"))),
            },
            ControlReply::Refused(error) => return Err(error),
            other => return Err(ErrorKind::Io(format!("unexpected answer to a status request: {other:?}"))),
        };
        let inodes = match inner.query(Query::VolumeUsage).await? {
            NamespaceReply::Usage { inodes, .. } => inodes,
            other => return Err(crate::client::unexpected(&other)),
        };
        let copies = u64::from(inner.record.replicas.max(1));
        let active = || status.map.disks.iter().filter(|disk| disk.state == DiskState::Active);
        let total: u64 = active().map(|disk| disk.capacity_bytes).sum();
        let free: u64 = status
            .free_bytes
            .iter()
            .filter(|(disk, _)| active().any(|active| active.id == *disk))
            .map(|(_, bytes)| bytes)
            .sum();
        let space = VolumeSpace { total_bytes: total / copies, free_bytes: free.min(total) / copies, inodes };
        inner.space.replace(Some((now, space)));
        Ok(space)
    }
}
