//! Mounts a cluster in memory, to measure the kernel interface and the client without network and disks:
//! `cargo run --release -p weft-fuse --example fake_mount -- /mnt/point`

use weft_client::fake::FakeCluster;
use weft_client::{Client, ConnectOptions};
use weft_fuse::{Connector, MountOptions, mount_with};
use weft_types::ChunkSize;

fn main() {
    let Some(mount_point) = std::env::args().nth(1) else {
        eprintln!("usage: fake_mount MOUNTPOINT");
        std::process::exit(2);
    };
    let cluster = FakeCluster::new("vms", ChunkSize::DEFAULT, 32);
    let connector: Connector = Box::new(move |options, volume, mount_point| {
        Box::pin(async move {
            let addresses = cluster.control_addresses();
            Client::connect_over(cluster.network(), addresses, &options, &volume, &mount_point).await
        })
    });
    let options = MountOptions::new(ConnectOptions::new("/unused"), "vms", mount_point);
    if let Err(error) = mount_with(options, connector).and_then(weft_fuse::Mounted::run_until_unmounted_or_signalled) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
