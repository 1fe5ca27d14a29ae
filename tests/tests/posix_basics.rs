//! What programs expect of a file system, one sentence a test, on one shared cluster.

use rustix::fs::{AtFlags, CWD, FallocateFlags, RenameFlags, SeekFrom as Whence, XattrFlags, symlinkat};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;
use weft_tests::cluster::{Cluster, pattern};

const O_DIRECT: i32 = 0o40000;
const O_SYNC: i32 = 0o4010000;
const DIRECTORY_ENTRIES: usize = 100_000;
const CLIENTS: usize = 8;

/// A fresh directory of its own for each subject.
fn room(cluster: &Cluster, name: &str) -> PathBuf {
    let path = cluster.mount().join(name);
    fs::create_dir(&path).unwrap();
    path
}

#[test]
fn the_mount_behaves_as_a_local_file_system() {
    let cluster = Cluster::start();
    type Subject = fn(&Path);
    let subjects: [(&str, Subject); 13] = [
        ("names", a_name_can_be_made_renamed_exchanged_and_removed),
        ("unlinked", an_open_file_outlives_its_name),
        ("sizes", truncation_cuts_and_growth_reads_as_zeros),
        ("links", links_count_and_point),
        ("attributes", mode_owner_and_times_are_kept),
        ("xattrs", extended_attributes_are_kept_and_listed),
        ("sparse", holes_take_no_space_and_are_found),
        ("fallocate", space_is_reserved_punched_and_zeroed),
        ("direct", direct_and_synchronous_io_read_what_was_written),
        ("append", appends_of_two_writers_do_not_overwrite_each_other),
        ("errors", refusals_carry_the_right_errno),
        ("random", random_writes_match_a_local_copy),
        ("statfs", free_space_is_true_and_names_have_255_bytes),
    ];
    for (name, subject) in subjects {
        let began = Instant::now();
        subject(&room(&cluster, name));
        eprintln!("{name}: {} ms", began.elapsed().as_millis());
    }
    cluster.check_memory();
    cluster.assert_replicas_identical();
}

#[test]
fn a_directory_of_100_000_entries_lists_each_of_them_once() {
    let cluster = Cluster::start();
    let directory = room(&cluster, "many");
    let began = Instant::now();
    // A kernel makes one entry of a directory at a time, so several clients do it. A symbolic link is one commit.
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let mount_point = cluster.files().join(format!("mnt-{client}"));
            let _ = cluster.ok(&["dev", "mount", mount_point.to_str().unwrap()]);
            scope.spawn(move || {
                // Relative to the open directory: its own name is not looked up each time.
                let many = File::open(mount_point.join("many")).unwrap();
                for number in (client..DIRECTORY_ENTRIES).step_by(CLIENTS) {
                    symlinkat("target", &many, format!("entry-{number:06}")).unwrap();
                }
            });
        }
    });
    eprintln!("made {DIRECTORY_ENTRIES} entries in {:.1} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
    let mut names: Vec<String> =
        fs::read_dir(&directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    eprintln!("listed them in {:.1} s", began.elapsed().as_secs_f64());
    names.sort_unstable();
    assert_eq!(names.len(), DIRECTORY_ENTRIES);
    assert!(names.iter().enumerate().all(|(number, name)| *name == format!("entry-{number:06}")));
    cluster.check_memory();
}

fn a_name_can_be_made_renamed_exchanged_and_removed(room: &Path) {
    let (a, b) = (room.join("a"), room.join("b"));
    fs::write(&a, b"a").unwrap();
    fs::rename(&a, &b).unwrap();
    assert!(!a.exists());
    fs::write(&a, b"new a").unwrap();
    assert_eq!(rustix::fs::renameat_with(CWD, &a, CWD, &b, RenameFlags::NOREPLACE), Err(rustix::io::Errno::EXIST));
    rustix::fs::renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
    assert_eq!((fs::read(&a).unwrap(), fs::read(&b).unwrap()), (b"a".to_vec(), b"new a".to_vec()));
    fs::rename(&a, &b).unwrap();
    assert_eq!(fs::read(&b).unwrap(), b"a");
    let deep = room.join("x/y/z");
    fs::create_dir_all(&deep).unwrap();
    fs::rename(room.join("x/y"), room.join("moved")).unwrap();
    assert!(room.join("moved/z").is_dir());
    fs::remove_file(&b).unwrap();
    fs::remove_dir_all(room.join("moved")).unwrap();
    let left: Vec<_> = fs::read_dir(room).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["x"]);
}

fn an_open_file_outlives_its_name(room: &Path) {
    let path = room.join("file");
    let mut file = OpenOptions::new().create_new(true).read(true).write(true).open(&path).unwrap();
    file.write_all(&pattern(1, 0, 1 << 20)).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    file.write_all_at(b"still here", 0).unwrap();
    let mut found = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut found).unwrap();
    assert_eq!((&found[..10], found.len()), (b"still here".as_slice(), 1 << 20));
    // Replaced by rename while open: the old contents stay readable through the old descriptor.
    fs::write(&path, b"old").unwrap();
    let old = File::open(&path).unwrap();
    fs::write(room.join("new"), b"new").unwrap();
    fs::rename(room.join("new"), &path).unwrap();
    let mut text = [0; 3];
    old.read_exact_at(&mut text, 0).unwrap();
    assert_eq!((&text, fs::read(&path).unwrap().as_slice()), (b"old", b"new".as_slice()));
}

fn truncation_cuts_and_growth_reads_as_zeros(room: &Path) {
    let path = room.join("file");
    // Across a chunk boundary, at no multiple of anything.
    let bytes = pattern(2, 0, 9 << 20);
    fs::write(&path, &bytes).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    for cut in [(8 << 20) + 5, (4 << 20) - 3, 4097, 1] {
        file.set_len(cut).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), cut);
        assert!(fs::read(&path).unwrap() == bytes[..cut as usize], "cut to {cut}");
    }
    file.set_len(5 << 20).unwrap();
    let grown = fs::read(&path).unwrap();
    assert!(grown[0] == bytes[0] && grown[1..].iter().all(|b| *b == 0), "old bytes came back");
    File::create(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
}

fn links_count_and_point(room: &Path) {
    let file = room.join("file");
    fs::write(&file, b"x").unwrap();
    fs::hard_link(&file, room.join("second")).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(&file).unwrap().ino(), fs::metadata(room.join("second")).unwrap().ino());
    fs::remove_file(&file).unwrap();
    assert_eq!(fs::metadata(room.join("second")).unwrap().nlink(), 1);
    symlink("second", room.join("soft")).unwrap();
    assert_eq!(fs::read_link(room.join("soft")).unwrap(), Path::new("second"));
    assert_eq!(fs::read(room.join("soft")).unwrap(), b"x");
    symlink("nowhere", room.join("dangling")).unwrap();
    assert!(fs::read(room.join("dangling")).is_err() && fs::symlink_metadata(room.join("dangling")).is_ok());
}

fn mode_owner_and_times_are_kept(room: &Path) {
    let path = room.join("file");
    fs::write(&path, b"x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::chown(&path, Some(1234), Some(5678)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_007, 123_456_789);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_times(fs::FileTimes::new().set_accessed(time).set_modified(time)).unwrap();
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.uid(), found.gid()), (1234, 5678));
    // chown clears set-user-id, as on a local file system; the other bits stay.
    assert_eq!(found.mode() & 0o777, 0o751);
    assert_eq!(found.modified().unwrap(), time);
    assert_eq!((found.mtime(), found.mtime_nsec()), (1_000_000_007, 123_456_789));
    file.write_all_at(b"y", 0).unwrap();
    drop(file);
    assert!(fs::metadata(&path).unwrap().modified().unwrap() > time, "a write changes the modification time");
}

fn extended_attributes_are_kept_and_listed(room: &Path) {
    let path = room.join("file");
    fs::write(&path, b"x").unwrap();
    rustix::fs::setxattr(&path, "user.small", b"value", XattrFlags::empty()).unwrap();
    let large = vec![7u8; 60_000];
    rustix::fs::setxattr(&path, "user.large", &large, XattrFlags::CREATE).unwrap();
    assert_eq!(rustix::fs::setxattr(&path, "user.large", b"", XattrFlags::CREATE), Err(rustix::io::Errno::EXIST));
    let mut buffer = vec![0u8; 65_536];
    let length = rustix::fs::getxattr(&path, "user.large", buffer.as_mut_slice()).unwrap();
    assert_eq!(buffer[..length], large);
    let mut names = vec![0u8; 65_536];
    let length = rustix::fs::listxattr(&path, names.as_mut_slice()).unwrap();
    let text = String::from_utf8_lossy(&names[..length]).into_owned();
    let mut listed: Vec<&str> = text.split_terminator('\0').filter(|n| n.starts_with("user.")).collect();
    listed.sort_unstable();
    assert_eq!(listed, ["user.large", "user.small"]);
    rustix::fs::removexattr(&path, "user.small").unwrap();
    assert_eq!(rustix::fs::getxattr(&path, "user.small", buffer.as_mut_slice()), Err(rustix::io::Errno::NODATA));
}

fn holes_take_no_space_and_are_found(room: &Path) {
    let path = room.join("file");
    let file = OpenOptions::new().create_new(true).read(true).write(true).open(&path).unwrap();
    let size = 10u64 << 30;
    file.set_len(size).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().blocks(), 0);
    let at = (5u64 << 30) + (1 << 20);
    file.write_all_at(&pattern(3, at, 64 << 10), at).unwrap();
    file.sync_all().unwrap();
    let found = fs::metadata(&path).unwrap();
    assert_eq!(found.len(), size);
    assert!((64 << 10..=1 << 20).contains(&(found.blocks() * 512)), "{} bytes allocated", found.blocks() * 512);
    assert_eq!(rustix::fs::seek(&file, Whence::Data(0)).unwrap(), at);
    assert_eq!(rustix::fs::seek(&file, Whence::Hole(at)).unwrap(), at + (64 << 10));
    assert_eq!(rustix::fs::seek(&file, Whence::Data(at + (64 << 10))), Err(rustix::io::Errno::NXIO));
    let mut zeros = vec![1u8; 1 << 20];
    file.read_exact_at(&mut zeros, 3 << 30).unwrap();
    assert!(zeros.iter().all(|b| *b == 0));
}

fn space_is_reserved_punched_and_zeroed(room: &Path) {
    let path = room.join("file");
    let bytes = pattern(4, 0, 6 << 20);
    fs::write(&path, &bytes).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    // Across a chunk boundary, with partial blocks at both ends.
    let (start, end) = ((3 << 20) + 100, (5 << 20) + 7);
    rustix::fs::fallocate(&file, punch, start, end - start).unwrap();
    let mut expected = bytes.clone();
    expected[start as usize..end as usize].fill(0);
    assert!(fs::read(&path).unwrap() == expected, "punched");
    rustix::fs::fallocate(&file, FallocateFlags::ZERO_RANGE, 10, 8192).unwrap();
    expected[10..8202].fill(0);
    assert!(fs::read(&path).unwrap() == expected, "zeroed");
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 8 << 20).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 8 << 20);
    rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 16 << 20).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 8 << 20);
    expected.resize(8 << 20, 0);
    assert!(fs::read(&path).unwrap() == expected, "reserved");
}

fn direct_and_synchronous_io_read_what_was_written(room: &Path) {
    let path = room.join("file");
    let open =
        |flags: i32| OpenOptions::new().create(true).read(true).write(true).custom_flags(flags).open(&path).unwrap();
    let direct = open(O_DIRECT);
    let layout = std::alloc::Layout::from_size_align(1 << 20, 4096).unwrap();
    let mut aligned = Aligned::new(layout);
    aligned.bytes().copy_from_slice(&pattern(5, 0, 1 << 20));
    direct.write_all_at(aligned.bytes(), 0).unwrap();
    direct.write_all_at(&aligned.bytes()[..4096], 1 << 20).unwrap();
    aligned.bytes().fill(0);
    direct.read_exact_at(aligned.bytes(), 0).unwrap();
    assert!(*aligned.bytes() == pattern(5, 0, 1 << 20));
    let synchronous = open(O_SYNC);
    synchronous.write_all_at(b"synchronous", 4090).unwrap();
    let mut text = [0; 11];
    File::open(&path).unwrap().read_exact_at(&mut text, 4090).unwrap();
    assert_eq!(&text, b"synchronous");
    assert_eq!(fs::metadata(&path).unwrap().len(), (1 << 20) + 4096);
}

/// A buffer aligned as O_DIRECT wants it, cut out of a larger one.
struct Aligned {
    storage: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn new(layout: std::alloc::Layout) -> Self {
        let storage = vec![0u8; layout.size() + layout.align()];
        let start = storage.as_ptr().align_offset(layout.align());
        Self { storage, start, length: layout.size() }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.length]
    }
}

fn appends_of_two_writers_do_not_overwrite_each_other(room: &Path) {
    let path = room.join("log");
    File::create(&path).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..4u8 {
            let path = &path;
            scope.spawn(move || {
                let mut file = OpenOptions::new().append(true).open(path).unwrap();
                for line in 0..100 {
                    file.write_all(format!("{writer} {line:04}\n").as_bytes()).unwrap();
                }
            });
        }
    });
    let text = fs::read_to_string(&path).unwrap();
    for writer in 0..4 {
        let lines: Vec<&str> = text.lines().filter(|l| l.starts_with(&format!("{writer} "))).collect();
        let expected: Vec<String> = (0..100).map(|line| format!("{writer} {line:04}")).collect();
        assert_eq!(lines, expected);
    }
}

fn refusals_carry_the_right_errno(room: &Path) {
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error().unwrap();
    fs::create_dir(room.join("d")).unwrap();
    fs::write(room.join("d/f"), b"").unwrap();
    assert_eq!(errno(fs::remove_dir(room.join("d"))), 39, "ENOTEMPTY");
    assert_eq!(errno(fs::create_dir(room.join("d"))), 17, "EEXIST");
    assert_eq!(errno(fs::read(room.join("none")).map(drop)), 2, "ENOENT");
    assert_eq!(errno(fs::read(room.join("d/f/g")).map(drop)), 20, "ENOTDIR");
    assert_eq!(errno(fs::write(room.join("d"), b"")), 21, "EISDIR");
    assert_eq!(errno(File::create(room.join("n".repeat(256))).map(drop)), 36, "ENAMETOOLONG");
    assert!(File::create(room.join("n".repeat(255))).is_ok());
    assert_eq!(errno(fs::rename(room.join("d"), room.join("d/inside"))), 22, "EINVAL");
    let removed = rustix::fs::unlinkat(CWD, room.join("d"), AtFlags::empty());
    assert!(matches!(removed, Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM)), "{removed:?}");
}

fn random_writes_match_a_local_copy(room: &Path) {
    const SIZE: usize = 12 << 20;
    let path = room.join("file");
    let file = OpenOptions::new().create_new(true).read(true).write(true).open(&path).unwrap();
    let mut model = vec![0u8; SIZE];
    let mut state = 99u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut size = 0;
    for round in 0..400u64 {
        match next(10) {
            0 => {
                let cut = next(SIZE);
                file.set_len(cut as u64).unwrap();
                if cut < size {
                    model[cut..].fill(0);
                }
                size = cut;
            }
            1 => {
                let (start, length) = (next(SIZE - 1), 1 + next(1 << 20));
                let end = (start + length).min(SIZE);
                rustix::fs::fallocate(
                    &file,
                    FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    start as u64,
                    (end - start) as u64,
                )
                .unwrap();
                model[start..end].fill(0);
            }
            _ => {
                let length = (1 + next(200_000)) & !7 | 8;
                let start = next(SIZE - length);
                let bytes = pattern(round, start as u64, length);
                file.write_all_at(&bytes, start as u64).unwrap();
                model[start..start + length].copy_from_slice(&bytes);
                size = size.max(start + length);
            }
        }
        if round % 20 == 0 {
            let found = fs::read(&path).unwrap();
            assert_eq!(found.len(), size, "size after round {round}");
            let at = found.iter().zip(&model).position(|(a, b)| a != b);
            assert_eq!(at, None, "contents after round {round}");
        }
    }
}

fn free_space_is_true_and_names_have_255_bytes(room: &Path) {
    let found = rustix::fs::statvfs(room).unwrap();
    assert_eq!(found.f_namemax, 255);
    let (total, free) = (found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize);
    assert!(total > 1 << 30 && free <= total && free > 0, "{total} {free}");
}
