//! Disks without space: an honest ENOSPC, nothing acknowledged lost, and a way back.

use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use weft_tests::cluster::{Cluster, pattern, wait_until};
use weft_tests::isolation::Isolation;
use weft_tests::program::{output, run, said};

/// Three disks share this file system: journals, ballast and reserve of each leave room for little data.
const FILESYSTEM_BYTES: u64 = 3 << 30;
const PIECE: usize = 1 << 20;
const RESERVED_BYTES: u64 = 48 << 20;
const ZEROED_BYTES: u64 = 16 << 20;
const ENOSPC: i32 = 28;

/// An ext4 of its own, so that it is really full and nothing else is. It goes with the files of the test.
fn mount_small_filesystem(image: &Path, mount_point: &Path) {
    File::create(image).unwrap().set_len(FILESYSTEM_BYTES).unwrap();
    let _ = run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(image));
    fs::create_dir(mount_point).unwrap();
    let _ = run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(mount_point));
}

#[test]
fn a_full_volume_says_so_loses_nothing_and_works_again_after_deletion() {
    let isolation = Isolation::enter();
    mount_small_filesystem(&isolation.files().join("small.img"), &isolation.files().join("small"));
    let image = isolation.files().join("image.raw");
    fs::write(&image, pattern(3, 0, 64 << 20)).unwrap();
    let cluster = Cluster::start_in(isolation, "small/data");
    let kept = cluster.mount().join("kept");
    let before = pattern(1, 0, 16 << 20);
    fs::write(&kept, &before).unwrap();
    File::open(&kept).unwrap().sync_all().unwrap();

    let filling = cluster.mount().join("filling");
    let written = fill(&filling);
    eprintln!("full after {} MiB", written / PIECE);
    assert!(written >= 16 * PIECE, "full before anything fitted");
    // Everything that was acknowledged is there.
    assert!(fs::read(&kept).unwrap() == before);
    let read_back = fs::read(&filling).unwrap();
    assert!(read_back.len() >= written);
    assert!(read_back[..written] == pattern(2, 0, written), "acknowledged data changed in a full volume");
    // What is there can be overwritten; what is not there finds no room.
    overwrite(&kept, &pattern(5, 0, before.len()));
    assert!(fs::read(&kept).unwrap() == pattern(5, 0, before.len()));
    overwrite(&kept, &before);
    // A full target: refused in a sentence, and nothing is left of it.
    let imported = output(&mut cluster.weft(&["image", "import", image.to_str().unwrap(), "vms/no.raw"]));
    assert!(!imported.status.success() && said(&imported).contains("full"), "{}", said(&imported));
    let names: Vec<_> = fs::read_dir(cluster.mount()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "something was left of the refused import: {names:?}");

    fs::remove_file(&filling).unwrap();
    let again = cluster.mount().join("again");
    wait_until("space after deletion", Duration::from_secs(90), || write_some(&again).is_ok());
    assert!(fs::read(&again).unwrap() == pattern(4, 0, 8 * PIECE));
    assert!(fs::read(&kept).unwrap() == before);
    cluster.wait_healthy();
    cluster.assert_replicas_identical();
    cluster.check_memory();
}

/// A file is reserved, everything else is filled up, nodes die, and then it is written.
#[test]
fn what_was_reserved_can_be_written_on_a_full_volume() {
    let isolation = Isolation::enter();
    mount_small_filesystem(&isolation.files().join("small.img"), &isolation.files().join("small"));
    let cluster = Cluster::start_in(isolation, "small/data");
    let reserved = cluster.mount().join("reserved");
    let size = RESERVED_BYTES as usize;
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&reserved).unwrap();
    let began = Instant::now();
    fallocate(&file, FallocateFlags::empty(), 0, RESERVED_BYTES).unwrap();
    eprintln!("reserved {} MiB in {:?}", size / PIECE, began.elapsed());
    assert_eq!(fs::metadata(&reserved).unwrap().len(), RESERVED_BYTES);
    file.sync_all().unwrap();
    assert_eq!(fs::metadata(&reserved).unwrap().blocks() * 512, RESERVED_BYTES);
    assert!(fs::read(&reserved).unwrap().iter().all(|byte| *byte == 0));
    // More than there is: refused, and nothing is taken for it.
    let more = File::create(cluster.mount().join("more")).unwrap();
    let refused = fallocate(&more, FallocateFlags::empty(), 0, FILESYSTEM_BYTES).unwrap_err();
    assert_eq!(refused, rustix::io::Errno::NOSPC);

    let zeroed = cluster.mount().join("zeroed");
    reserve_write_and_zero(&zeroed);

    let filling = cluster.mount().join("filling");
    let written = fill(&filling);
    eprintln!("full after {} MiB beside what is reserved", written / PIECE);
    zeros_kept_their_room(&zeroed);
    let half = size / 2;
    file.write_all_at(&pattern(6, 0, half), 0).unwrap();
    file.sync_all().unwrap();
    // Reserved again, which takes nothing; and it holds while a node is away.
    fallocate(&file, FallocateFlags::empty(), 0, RESERVED_BYTES).unwrap();
    cluster.kill_node(2);
    file.write_all_at(&pattern(6, half as u64, size - half), half as u64).unwrap();
    file.sync_all().unwrap();
    assert!(fs::read(&reserved).unwrap() == pattern(6, 0, size));
    assert_eq!(fs::metadata(&reserved).unwrap().blocks() * 512, RESERVED_BYTES);
    let still_full = write_some(&cluster.mount().join("beside")).unwrap_err();
    assert_eq!(still_full.raw_os_error(), Some(ENOSPC), "the volume was not full: {still_full}");
    // A member that comes back needs room for what it missed.
    fs::remove_file(&filling).unwrap();
    cluster.start_node(2);
    cluster.wait_healthy();
    assert!(fs::read(&reserved).unwrap() == pattern(6, 0, size));
    assert!(fs::read(&zeroed).unwrap() == pattern(8, 0, ZEROED_BYTES as usize));
    cluster.assert_replicas_identical();
    cluster.check_memory();
}

/// A file that has its room, half of it written and all of it made zeros.
fn reserve_write_and_zero(path: &Path) {
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path).unwrap();
    fallocate(&file, FallocateFlags::empty(), 0, ZEROED_BYTES).unwrap();
    file.write_all_at(&pattern(7, 0, ZEROED_BYTES as usize / 2), 0).unwrap();
    file.sync_all().unwrap();
    zero_and_check(path, &file);
}

/// Every byte of it can be written on a full volume, made zeros once more, and written again.
fn zeros_kept_their_room(path: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    for seed in [7, 8] {
        let bytes = pattern(seed, 0, ZEROED_BYTES as usize);
        zero_and_check(path, &file);
        file.write_all_at(&bytes, 0).unwrap();
        file.sync_all().unwrap();
        assert!(fs::read(path).unwrap() == bytes);
    }
}

fn zero_and_check(path: &Path, file: &File) {
    fallocate(file, FallocateFlags::ZERO_RANGE, 0, ZEROED_BYTES).unwrap();
    file.sync_all().unwrap();
    assert!(fs::read(path).unwrap().iter().all(|byte| *byte == 0));
    assert_eq!(fs::metadata(path).unwrap().len(), ZEROED_BYTES);
    assert_eq!(fs::metadata(path).unwrap().blocks() * 512, ZEROED_BYTES, "zeros keep their room");
}

fn overwrite(path: &Path, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.sync_all().unwrap();
}

/// Appends until there is no space, with an fsync a piece; bytes that were acknowledged by fsync.
fn fill(path: &Path) -> usize {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    let mut synced = 0;
    loop {
        let piece = pattern(2, synced as u64, PIECE);
        match file.write_all(&piece).and_then(|()| file.sync_data()) {
            Ok(()) => synced += PIECE,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(ENOSPC), "a full volume says ENOSPC, not {error}");
                return synced;
            }
        }
        assert!((synced as u64) < FILESYSTEM_BYTES, "it never gets full");
    }
}

fn write_some(path: &Path) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&pattern(4, 0, 8 * PIECE))?;
    file.sync_all()
}
