//! Disks that must be refused, and a store on a real filesystem.

use super::model::{VOLUME, at, block_bytes, chunk, expected, fresh, identity, pg, small_chunks, write};
use crate::fault::{PowerLoss, SimDisk, VolatileDisk};
use crate::{Disk, DiskFile, Expected, Mutant, RealDisk, Store, StoreConfig, StoreError};
use weft_types::{BlockIndex, BlockRange, ClusterId, DiskId, LogPosition, NodeId};

fn open(disk: &SimDisk, expected: Expected) -> StoreError {
    Store::open(disk.clone(), expected, StoreConfig::small()).err().unwrap()
}

#[test]
fn a_disk_that_is_not_the_expected_one_is_refused() {
    let disk = SimDisk::new(16 << 20);
    assert!(matches!(open(&disk, expected()), StoreError::NotFormatted { .. }));
    drop(fresh(&disk, &StoreConfig::small()));
    let other_cluster = Expected { cluster: ClusterId(2), ..expected() };
    assert!(matches!(open(&disk, other_cluster), StoreError::ForeignCluster { .. }));
    let other_disk = Expected { disk: Some(DiskId(9)), ..expected() };
    assert!(matches!(open(&disk, other_disk), StoreError::ForeignDisk { .. }));
    let other_node = Expected { disk: None, node: Some(NodeId(9)), ..expected() };
    assert!(matches!(open(&disk, other_node), StoreError::OtherNode { .. }));
    for other in [other_cluster, other_disk, other_node] {
        let trusting = StoreConfig { mutant: Some(Mutant::AnyDisk), ..StoreConfig::small() };
        assert!(Store::open(disk.clone(), other, trusting).is_ok(), "the planted bug has no effect");
    }
    let again = Store::format(&disk, identity(), &StoreConfig::small()).err().unwrap();
    assert!(matches!(again, StoreError::NotEmpty { .. }));
}

#[test]
fn a_disk_is_opened_by_one_process_at_a_time() {
    let disk = SimDisk::new(16 << 20);
    let store = fresh(&disk, &StoreConfig::small());
    assert!(matches!(open(&disk, expected()), StoreError::Locked { .. }));
    drop(store);
    assert!(Store::open(disk, expected(), StoreConfig::small()).is_ok());
}

#[test]
fn interrupted_formatting_is_recognised_at_every_point() {
    let mut point = 1;
    loop {
        let disk = SimDisk::new(16 << 20);
        disk.power_off_after(point);
        let formatted = Store::format(&disk, identity(), &StoreConfig::small()).is_ok();
        disk.power_cycle(PowerLoss::Random { seed: point });
        match Store::open(disk, expected(), StoreConfig::small()) {
            Ok(_) => {}
            Err(StoreError::NotFormatted { .. } | StoreError::HalfFormatted { .. }) => assert!(!formatted),
            Err(other) => panic!("power off at {point}: {other}"),
        }
        if formatted {
            break;
        }
        point += 1;
    }
    assert!(point > 10);
}

#[test]
fn another_format_version_is_refused_with_both_versions_named() {
    let disk = SimDisk::new(16 << 20);
    drop(fresh(&disk, &StoreConfig::small()));
    let file = disk.open("superblock", crate::disk::OpenMode::Existing).unwrap();
    let mut bytes = crate::disk::read_file(&disk, "superblock").unwrap().unwrap();
    bytes[8] = 3;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..16]), &bytes[24..]);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    file.write_at(&bytes, 0).unwrap();
    let error = open(&disk, expected());
    assert!(matches!(error, StoreError::OtherVersion { found: 3, supported: 2, .. }), "{error}");
}

#[test]
fn a_store_on_a_real_filesystem_survives_reopening_with_and_without_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(dir.path()).unwrap();
    let config = StoreConfig::small();
    Store::format(&disk, identity(), &config).unwrap();
    let (mut store, _) = Store::open(disk.clone(), expected(), config.clone()).unwrap();
    assert!(matches!(Store::open(disk.clone(), expected(), config.clone()), Err(StoreError::Locked { .. })));
    store.register_volume(VOLUME, small_chunks()).unwrap();
    store.create_pg(pg(0)).unwrap();
    store.append(pg(0), &[write(LogPosition::ZERO, 1, chunk(1, 0), 2, 3, 10)]).unwrap();
    store.set_committed(pg(0), at(1, 1)).unwrap();
    store.checkpoint_now().unwrap();
    store.append(pg(0), &[write(at(1, 1), 1, chunk(1, 0), 4, 1, 50)]).unwrap();
    store.sync_now().unwrap();
    drop(store);
    let (mut store, report) = Store::open(disk, expected(), config).unwrap();
    assert_eq!(report.entries, 2);
    for _ in 0..2 {
        let (bytes, bad) = store.read_now(pg(0), chunk(1, 0), BlockRange::new(BlockIndex(2), 3)).unwrap();
        assert_eq!(bad, vec![]);
        let expected: Vec<u8> = [12, 13, 54].into_iter().flat_map(block_bytes).collect();
        assert!(bytes == expected);
        assert_eq!(store.allocated_blocks(pg(0), weft_types::ObjectId(1)).unwrap(), 3);
        store.set_committed(pg(0), at(1, 2)).unwrap();
        store.checkpoint_now().unwrap();
    }
}

#[test]
fn a_volatile_disk_forgets_what_was_not_synced_when_its_process_ends() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::small();
    let disk = || VolatileDisk::new(RealDisk::new(dir.path()).unwrap());
    Store::format(&disk(), identity(), &config).unwrap();
    let (mut store, _) = Store::open(disk(), expected(), config.clone()).unwrap();
    store.register_volume(VOLUME, small_chunks()).unwrap();
    store.create_pg(pg(0)).unwrap();
    store.append(pg(0), &[write(LogPosition::ZERO, 1, chunk(1, 0), 2, 3, 10)]).unwrap();
    store.set_committed(pg(0), at(1, 1)).unwrap();
    store.checkpoint_now().unwrap();
    store.append(pg(0), &[write(at(1, 1), 1, chunk(1, 0), 4, 1, 50)]).unwrap();
    store.sync_now().unwrap();
    store.append(pg(0), &[write(at(1, 2), 1, chunk(1, 0), 4, 1, 70)]).unwrap();
    assert_eq!(store.read_now(pg(0), chunk(1, 0), BlockRange::new(BlockIndex(4), 1)).unwrap().0, block_bytes(74));
    drop(store);
    let (store, _) = Store::open(disk(), expected(), config).unwrap();
    assert_eq!(store.log_end(pg(0)).unwrap(), at(1, 2));
    let (bytes, bad) = store.read_now(pg(0), chunk(1, 0), BlockRange::new(BlockIndex(2), 3)).unwrap();
    assert_eq!(bad, vec![]);
    let expected: Vec<u8> = [12, 13, 54].into_iter().flat_map(block_bytes).collect();
    assert!(bytes == expected);
}
