//! Two mounts of one volume behave as one file system: what one host had acknowledged, another sees at once.
//! (docs/SEMANTICS.md, S3.)

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use weft_tests::cluster::{Cluster, pattern};

/// A record of an append: who, which, and bytes that tell both.
const RECORD: usize = 64;
const APPENDS: u32 = 150;
/// Session TTL, fence and collecting the size, on a busy machine.
const FENCE_PATIENCE: Duration = Duration::from_secs(60);

/// The same directory on both hosts.
struct Hosts {
    a: PathBuf,
    b: PathBuf,
}

impl Hosts {
    fn room(&self, name: &str) -> Self {
        fs::create_dir(self.a.join(name)).unwrap();
        Self { a: self.a.join(name), b: self.b.join(name) }
    }
}

fn writer(path: &Path) -> File {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).unwrap()
}

fn read_at(file: &File, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let read = file.read_at(&mut bytes, offset).unwrap();
    bytes.truncate(read);
    bytes
}

#[test]
fn two_mounts_see_the_same_file_system_at_once() {
    let cluster = Cluster::start();
    let b = cluster.mount().with_file_name("mnt-b");
    let _ = cluster.ok(&["dev", "mount", b.to_str().unwrap()]);
    let hosts = Hosts { a: cluster.mount().to_owned(), b };
    type Subject = fn(&Hosts);
    let subjects: [(&str, Subject); 9] = [
        ("data", data_and_size_are_seen_without_a_flush),
        ("names", names_and_attributes_are_seen),
        ("turns", two_hosts_make_a_file_longer_in_turn),
        ("appends", appends_of_two_hosts_are_whole_and_none_is_lost),
        ("truncated", a_truncation_elsewhere_is_known_when_it_returns),
        ("regrown", old_bytes_never_come_back),
        ("emptied", a_file_emptied_elsewhere_is_empty_for_who_has_it_open),
        ("unlinked", an_open_file_outlives_its_name_on_another_host),
        ("holes", holes_are_found_where_another_host_made_them),
    ];
    for (name, subject) in subjects {
        let began = Instant::now();
        subject(&hosts.room(name));
        eprintln!("{name}: {} ms", began.elapsed().as_millis());
    }
    cluster.check_memory();
    cluster.assert_replicas_identical();
}

#[test]
fn the_size_that_a_killed_host_knew_is_found_again() {
    let cluster = Cluster::start();
    let b = cluster.mount().with_file_name("mnt-b");
    let _ = cluster.ok(&["dev", "mount", b.to_str().unwrap()]);
    let (mine, theirs) = (cluster.mount().join("log"), b.join("log"));
    let mut file = OpenOptions::new().create(true).append(true).open(&theirs).unwrap();
    let mut written = 0;
    for round in 0..40u64 {
        file.write_all(&pattern(9, round * 5000, 5000)).unwrap();
        written += 5000;
    }
    let status = cluster.json(&["dev", "status"]);
    let mounts = status["mounts"].as_array().unwrap();
    let pid = mounts.iter().filter_map(|m| m["pid"].as_i64()).max().unwrap();
    let of_b = mounts.iter().find(|m| m.to_string().contains("mnt-b")).and_then(|m| m["pid"].as_i64()).unwrap_or(pid);
    let kill = std::process::Command::new("kill").arg("-9").arg(of_b.to_string()).status().unwrap();
    assert!(kill.success());
    let began = Instant::now();
    let size = fs::metadata(&mine).unwrap().len();
    let waited = began.elapsed();
    eprintln!("stat of a file whose size a dead host knew: {:.1} s", waited.as_secs_f64());
    assert_eq!(size, written, "an acknowledged append is lost");
    assert!(waited < FENCE_PATIENCE, "{waited:?}");
    for round in 0..40u64 {
        assert_eq!(read_at(&File::open(&mine).unwrap(), round * 5000, 5000), pattern(9, round * 5000, 5000));
    }
    // And the file goes on growing here.
    let mut file = OpenOptions::new().append(true).open(&mine).unwrap();
    file.write_all(b"more").unwrap();
    assert_eq!(fs::metadata(&mine).unwrap().len(), written + 4);
    let _ = std::process::Command::new("umount").arg("-l").arg(&b).status();
}

fn data_and_size_are_seen_without_a_flush(hosts: &Hosts) {
    let (a, b) = (writer(&hosts.a.join("f")), writer(&hosts.b.join("f")));
    for round in 0..30u64 {
        let (from, to) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let data = pattern(round, round * 4096, 4096);
        from.write_all_at(&data, round * 4096).unwrap();
        assert_eq!(to.metadata().unwrap().len(), (round + 1) * 4096, "round {round}");
        assert_eq!(read_at(to, round * 4096, 8192), data, "round {round}");
        assert_eq!(fs::metadata(hosts.b.join("f")).unwrap().mtime(), fs::metadata(hosts.a.join("f")).unwrap().mtime());
    }
    // Over what the other wrote.
    a.write_all_at(b"over", 4096).unwrap();
    assert_eq!(read_at(&b, 4096, 4), b"over");
    // A reader that never writes.
    let reader = File::open(hosts.b.join("f")).unwrap();
    a.write_all_at(b"tail", 200_000).unwrap();
    assert_eq!(read_at(&reader, 199_998, 100), b"\0\0tail");
    assert_eq!(reader.metadata().unwrap().len(), 200_004);
}

fn names_and_attributes_are_seen(hosts: &Hosts) {
    for round in 0..10 {
        let name = format!("n{round}");
        fs::write(hosts.a.join(&name), b"1").unwrap();
        assert_eq!(fs::read(hosts.b.join(&name)).unwrap(), b"1");
        fs::set_permissions(hosts.b.join(&name), fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(fs::metadata(hosts.a.join(&name)).unwrap().mode() & 0o777, 0o640);
        fs::rename(hosts.b.join(&name), hosts.b.join("moved")).unwrap();
        assert!(!hosts.a.join(&name).exists());
        assert_eq!(fs::read(hosts.a.join("moved")).unwrap(), b"1");
        fs::remove_file(hosts.a.join("moved")).unwrap();
        assert!(!hosts.b.join("moved").exists());
    }
    assert_eq!(fs::read_dir(&hosts.b).unwrap().count(), 0);
}

fn two_hosts_make_a_file_longer_in_turn(hosts: &Hosts) {
    let (a, b) = (writer(&hosts.a.join("f")), writer(&hosts.b.join("f")));
    let began = Instant::now();
    for round in 0..20u64 {
        let from = if round % 2 == 0 { &a } else { &b };
        from.write_all_at(&pattern(1, round * 10_000, 10_000), round * 10_000).unwrap();
    }
    eprintln!("the size moved 20 times in {} ms", began.elapsed().as_millis());
    assert_eq!(fs::read(hosts.a.join("f")).unwrap(), fs::read(hosts.b.join("f")).unwrap());
    assert_eq!(a.metadata().unwrap().len(), 200_000);
}

fn record(host: u8, number: u32) -> [u8; RECORD] {
    let mut record = [host; RECORD];
    record[..4].copy_from_slice(&number.to_le_bytes());
    record[RECORD - 4..].copy_from_slice(&number.to_le_bytes());
    record
}

fn appends_of_two_hosts_are_whole_and_none_is_lost(hosts: &Hosts) {
    let append = |path: PathBuf| OpenOptions::new().create(true).append(true).open(path).unwrap();
    std::thread::scope(|scope| {
        for (host, path) in [(1u8, hosts.a.join("log")), (2, hosts.b.join("log"))] {
            let mut file = append(path);
            scope.spawn(move || {
                for number in 0..APPENDS {
                    assert_eq!(file.write(&record(host, number)).unwrap(), RECORD);
                }
            });
        }
    });
    for path in [hosts.a.join("log"), hosts.b.join("log")] {
        let bytes = fs::read(path).unwrap();
        assert_eq!(bytes.len(), 2 * APPENDS as usize * RECORD);
        let mut next = [0, 0, 0];
        for found in bytes.chunks(RECORD) {
            let host = found[5];
            assert!(host == 1 || host == 2, "a torn record");
            assert_eq!(found, record(host, next[usize::from(host)]), "out of order or torn");
            next[usize::from(host)] += 1;
        }
    }
}

fn a_truncation_elsewhere_is_known_when_it_returns(hosts: &Hosts) {
    let (a, b) = (writer(&hosts.a.join("f")), writer(&hosts.b.join("f")));
    for round in 0..10u64 {
        // B wrote it, so B believes that it knows the size.
        b.write_all_at(&pattern(round, 0, 1 << 20), 0).unwrap();
        a.set_len(4096).unwrap();
        assert_eq!(read_at(&b, 8192, 4096), b"", "old bytes are read after the truncation returned");
        assert_eq!(b.metadata().unwrap().len(), 4096);
        assert_eq!(read_at(&b, 0, 8192), pattern(round, 0, 4096));
        // An append lands at the new end.
        let mut append = OpenOptions::new().append(true).open(hosts.b.join("f")).unwrap();
        append.write_all(b"end").unwrap();
        assert_eq!(read_at(&a, 4096, 100), b"end");
    }
}

fn old_bytes_never_come_back(hosts: &Hosts) {
    let (a, b) = (writer(&hosts.a.join("f")), writer(&hosts.b.join("f")));
    for round in 0..8u64 {
        let (one, other) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        one.write_all_at(&vec![0xaa; 1 << 20], 0).unwrap();
        other.set_len(4096).unwrap();
        one.set_len(6 << 20).unwrap();
        other.set_len(512 << 10).unwrap();
        for file in [one, other] {
            assert!(read_at(file, 8192, 65_536).iter().all(|byte| *byte == 0), "round {round}");
            assert_eq!(file.metadata().unwrap().len(), 512 << 10);
        }
    }
}

fn a_file_emptied_elsewhere_is_empty_for_who_has_it_open(hosts: &Hosts) {
    let b = writer(&hosts.b.join("f"));
    for round in 0..10u64 {
        b.write_all_at(&pattern(round, 0, 100_000), 0).unwrap();
        let a = OpenOptions::new().write(true).truncate(true).open(hosts.a.join("f")).unwrap();
        assert_eq!(read_at(&b, 0, 4096), b"", "round {round}");
        assert_eq!(b.metadata().unwrap().len(), 0);
        a.write_all_at(b"new", 0).unwrap();
        assert_eq!(read_at(&b, 0, 4096), b"new");
    }
}

fn an_open_file_outlives_its_name_on_another_host(hosts: &Hosts) {
    let data = pattern(5, 0, 1 << 20);
    fs::write(hosts.a.join("f"), &data).unwrap();
    let b = writer(&hosts.b.join("f"));
    fs::remove_file(hosts.a.join("f")).unwrap();
    assert!(!hosts.b.join("f").exists());
    assert_eq!(b.metadata().unwrap().nlink(), 0);
    assert_eq!(read_at(&b, 0, 1 << 20), data);
    b.write_all_at(b"still", 2 << 20).unwrap();
    assert_eq!(read_at(&b, 2 << 20, 10), b"still");
}

fn holes_are_found_where_another_host_made_them(hosts: &Hosts) {
    use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
    let (a, b) = (writer(&hosts.a.join("f")), writer(&hosts.b.join("f")));
    a.write_all_at(&vec![7; 1 << 20], 0).unwrap();
    b.write_all_at(&[8; 4096], 8 << 20).unwrap();
    fallocate(&b, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 64 << 10, 64 << 10).unwrap();
    assert_eq!(seek(&a, SeekFrom::Hole(0)), Ok(64 << 10));
    assert_eq!(seek(&a, SeekFrom::Data(64 << 10)), Ok(128 << 10));
    assert_eq!(seek(&a, SeekFrom::Data(2 << 20)), Ok(8 << 20));
    assert!(read_at(&a, 64 << 10, 64 << 10).iter().all(|byte| *byte == 0));
    let direct = OpenOptions::new().read(true).custom_flags(0o40000).open(hosts.a.join("f")).unwrap();
    assert_eq!(direct.metadata().unwrap().len(), (8 << 20) + 4096);
    a.sync_all().unwrap();
    let blocks = fs::metadata(hosts.a.join("f")).unwrap().blocks();
    assert!(blocks <= (1 << 20) / 512 + 64, "{blocks} blocks of 512 bytes");
}
