//! The guest and its workload proven on a plain file, so that a failure elsewhere is the storage's and not the guest's.

use std::io::{Read, Seek, SeekFrom, Write};
use std::time::Duration;
use weft_tests::guest::{Aio, Machine, Workload, image};
use weft_tests::isolation::Isolation;

const PATIENCE: Duration = Duration::from_secs(240);

#[test]
fn the_guest_writes_and_verifies_and_a_damaged_byte_is_noticed() {
    // So that no QEMU outlives the test.
    let isolation = Isolation::enter();
    let disk = isolation.files().join("disk.img");
    image::build(&disk);
    let mut writing = Machine::boot(&disk, Aio::Native, Workload::Write { mebibytes: 32, seed: 5 });
    writing.wait_booted();
    let report = writing.finish_writing(PATIENCE);
    assert!(report.longest_gap > Duration::ZERO);
    image::assert_clean(&disk);
    let verify = Workload::Verify { mebibytes: 32, seed: 5 };
    let summary = Machine::boot(&disk, Aio::IoUring, verify).finish(PATIENCE);
    assert_eq!(summary, "verified_mib=32");

    damage_some_data(&disk);
    let noticed = std::panic::catch_unwind(|| Machine::boot(&disk, Aio::Native, verify).finish(PATIENCE));
    let why = *noticed.expect_err("the damage was not noticed").downcast::<String>().unwrap();
    assert!(why.contains("differs at byte"), "{why}");
}

/// Flips one byte of what the workload wrote: the first block of the image with high entropy past the binaries.
fn damage_some_data(disk: &std::path::Path) {
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(disk).unwrap();
    let length = file.metadata().unwrap().len();
    let mut block = vec![0u8; 64 << 10];
    let mut found = None;
    for at in (0..length).step_by(block.len()) {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.read_exact(&mut block).unwrap();
        let mut seen = [0u32; 256];
        block.iter().for_each(|byte| seen[usize::from(*byte)] += 1);
        // Random bytes: every value about 256 times. The workload's content is the only such data on the disk.
        if seen.iter().all(|count| (128..512).contains(count)) {
            found = Some(at + 100);
        }
    }
    let at = found.expect("the workload's data are on the disk");
    file.seek(SeekFrom::Start(at)).unwrap();
    let mut byte = [0u8];
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
    file.sync_all().unwrap();
}
