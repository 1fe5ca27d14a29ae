//! The simulated disk itself: what it says of space, and what a power loss leaves.

use crate::disk::{Disk as _, DiskFile as _, OpenMode};
use crate::fault::{PowerLoss, Random, SimDisk};
use std::io::ErrorKind;

const PAGE: u64 = 4096;

fn used(disk: &SimDisk) -> u64 {
    let usage = disk.usage().unwrap();
    usage.total_bytes - usage.free_bytes
}

#[test]
fn space_that_was_given_back_is_free_after_the_next_sync() {
    let disk = SimDisk::new(2 * PAGE);
    let file = disk.open("a", OpenMode::Create).unwrap();
    disk.sync_dir("").unwrap();
    file.write_at(&[7; 2 * PAGE as usize], 0).unwrap();
    file.sync_data().unwrap();
    file.punch(0, PAGE).unwrap();
    let other = disk.open("b", OpenMode::Create).unwrap();
    assert_eq!(other.write_at(&[1], 0).unwrap_err().kind(), ErrorKind::StorageFull, "what may come back has a place");
    file.sync_data().unwrap();
    other.write_at(&[1], 0).unwrap();
    drop((file, other));
    disk.power_cycle(PowerLoss::LoseAll);
    assert_eq!(used(&disk), PAGE, "a file whose name was lost takes no space");
}

/// Seed 3607 of the simulator: a disk that was full when its power went had more on it afterwards.
#[test]
fn a_power_loss_takes_no_space() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let disk = SimDisk::new(16 * PAGE);
        for _ in 0..random.below(40) {
            let path = ["a", "b", "c"][random.below(3) as usize];
            let (offset, length) = (random.below(6 * PAGE), 1 + random.below(3 * PAGE));
            let file = disk.open(path, OpenMode::Create).unwrap();
            let full = match random.below(8) {
                0..3 => file.write_at(&vec![7; length as usize], offset),
                3 => file.allocate(offset, length),
                4 => file.punch(offset, length),
                5 => file.set_len(offset),
                6 if random.chance(50) => disk.sync_dir(""),
                6 => disk.remove(path),
                _ => file.sync_data(),
            };
            assert!(full.is_ok() || full.is_err_and(|e| e.kind() == ErrorKind::StorageFull), "seed {seed}");
        }
        let before = used(&disk);
        assert!(before <= 16 * PAGE, "seed {seed}: {before} bytes on a disk that is smaller");
        disk.power_cycle(PowerLoss::Random { seed });
        assert!(used(&disk) <= before, "seed {seed}: {before} bytes became {}", used(&disk));
    }
}
