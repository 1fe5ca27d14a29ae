//! Names and attributes as docs/SEMANTICS.md promises them (S1, S2): on one mount, and between two.

use rustix::fs::XattrFlags;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use weft_tests::cluster::Cluster;

/// A user that every Debian has, and that is not root.
const DAEMON: u32 = 1;
const PAGE_ENTRIES: usize = 3000;

/// What is shown in a directory of its own.
type Subject = fn(&Room);

/// The same directory through two mounts.
struct Room {
    here: PathBuf,
    there: PathBuf,
}

#[test]
fn names_and_attributes_are_those_of_a_local_file_system_on_every_host() {
    let cluster = Cluster::start();
    let other = cluster.mount().with_file_name("mnt-other");
    let _ = cluster.ok(&["dev", "mount", other.to_str().unwrap()]);
    let subjects: [(&str, Subject); 11] = [
        ("coherent", a_change_that_returned_is_seen_on_the_other_host),
        ("reading", a_listing_goes_on_while_names_come_and_go),
        ("umask", the_umask_counts_unless_the_directory_has_a_default_acl),
        ("acl", an_acl_follows_chmod_and_is_seen_on_the_other_host),
        ("setgid", a_set_group_id_directory_gives_its_group),
        ("setid", a_write_of_a_user_takes_the_set_id_bits_away),
        ("kinds", fifos_and_sockets_are_made_and_work),
        ("times", times_are_kept_to_the_nanosecond),
        ("rights", permissions_are_those_of_the_moment_and_root_has_all),
        ("reads", reading_leaves_the_access_time),
        ("suid", programs_gain_no_rights),
    ];
    for (name, subject) in subjects {
        fs::create_dir(cluster.mount().join(name)).unwrap();
        subject(&Room { here: cluster.mount().join(name), there: other.join(name) });
        eprintln!("{name}: kept");
    }
    cluster.check_memory();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// Runs a shell line as an ordinary user.
fn as_daemon(line: &str) -> bool {
    Command::new("sh").args(["-c", line]).uid(DAEMON).gid(DAEMON).status().unwrap().success()
}

fn run(program: &str, words: &[&str]) {
    assert!(Command::new(program).args(words).status().unwrap().success(), "{program} {words:?}");
}

fn a_change_that_returned_is_seen_on_the_other_host(room: &Room) {
    for round in 0..20 {
        let (a, b) = (format!("a-{round}"), format!("b-{round}"));
        assert!(!room.there.join(&a).exists());
        fs::write(room.here.join(&a), b"x").unwrap();
        assert_eq!(fs::metadata(room.there.join(&a)).unwrap().len(), 1);
        fs::set_permissions(room.here.join(&a), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(mode(&room.there.join(&a)), 0o600);
        fs::rename(room.there.join(&a), room.there.join(&b)).unwrap();
        assert!(!room.here.join(&a).exists() && room.here.join(&b).exists());
        fs::remove_file(room.here.join(&b)).unwrap();
        assert!(!room.there.join(&b).exists());
    }
}

fn a_listing_goes_on_while_names_come_and_go(room: &Room) {
    let name = |n: usize| format!("entry-{n:05}");
    for number in 0..PAGE_ENTRIES {
        symlink("x", room.here.join(name(number))).unwrap();
    }
    let mut seen = BTreeSet::new();
    let mut listing = fs::read_dir(&room.there).unwrap();
    let mut add = |entry: std::io::Result<fs::DirEntry>| {
        assert!(seen.insert(entry.unwrap().file_name().into_string().unwrap()), "a name came twice");
    };
    for entry in listing.by_ref().take(100) {
        add(entry);
    }
    // Odd names go, new ones come, while the listing stands still: every name that stays is listed exactly once.
    for number in (1..PAGE_ENTRIES).step_by(2) {
        fs::remove_file(room.here.join(name(number))).unwrap();
        if number % 10 == 1 {
            symlink("x", room.here.join(format!("new-{number}"))).unwrap();
        }
    }
    listing.for_each(add);
    for number in (0..PAGE_ENTRIES).step_by(2) {
        assert!(seen.contains(&name(number)), "{} was not listed", name(number));
    }
}

fn the_umask_counts_unless_the_directory_has_a_default_acl(room: &Room) {
    let at = room.here.display();
    run("sh", &["-c", &format!("umask 027; mkdir {at}/d; touch {at}/d/f; mkfifo {at}/d/p")]);
    assert_eq!(
        [mode(&room.here.join("d")), mode(&room.here.join("d/f")), mode(&room.here.join("d/p"))],
        [0o750, 0o640, 0o640]
    );
    run("setfacl", &["-d", "-m", "u::rwx,g::rwx,o::rx", &format!("{at}/d")]);
    run("sh", &["-c", &format!("umask 077; touch {at}/d/g; mkdir {at}/d/e")]);
    assert_eq!([mode(&room.here.join("d/g")), mode(&room.here.join("d/e"))], [0o664, 0o775]);
    // What is made in a subdirectory inherits it too.
    run("sh", &["-c", &format!("umask 077; touch {at}/d/e/h")]);
    assert_eq!(mode(&room.here.join("d/e/h")), 0o664);
}

fn an_acl_follows_chmod_and_is_seen_on_the_other_host(room: &Room) {
    let (here, there) = (room.here.join("f"), room.there.join("f"));
    fs::write(&here, b"secret").unwrap();
    fs::set_permissions(&here, fs::Permissions::from_mode(0o600)).unwrap();
    let read = format!("cat {} > /dev/null 2>&1", there.display());
    assert!(!as_daemon(&read));
    run("setfacl", &["-m", "u:daemon:r", here.to_str().unwrap()]);
    assert!(as_daemon(&read), "the entry counts on the other host at once");
    assert_eq!(mode(&there), 0o640, "the group bits are the mask");
    fs::set_permissions(&here, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!as_daemon(&read), "chmod closes the mask");
    let mut value = [0; 256];
    assert!(rustix::fs::getxattr(&there, "system.posix_acl_access", &mut value).is_ok());
    run("setfacl", &["-b", here.to_str().unwrap()]);
    assert!(rustix::fs::getxattr(&there, "system.posix_acl_access", &mut value).is_err());
    rustix::fs::setxattr(&here, "user.note", b"kept", XattrFlags::CREATE).unwrap();
    let length = rustix::fs::getxattr(&there, "user.note", &mut value).unwrap();
    assert_eq!(&value[..length], b"kept");
}

fn a_set_group_id_directory_gives_its_group(room: &Room) {
    let directory = room.here.join("d");
    fs::create_dir(&directory).unwrap();
    std::os::unix::fs::chown(&directory, None, Some(DAEMON)).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o2775)).unwrap();
    fs::create_dir(directory.join("sub")).unwrap();
    File::create(directory.join("file")).unwrap();
    let (sub, file) = (fs::metadata(directory.join("sub")).unwrap(), fs::metadata(directory.join("file")).unwrap());
    assert_eq!((sub.gid(), file.gid()), (DAEMON, DAEMON));
    assert_eq!((sub.mode() & 0o2000, file.mode() & 0o2000), (0o2000, 0));
}

fn a_write_of_a_user_takes_the_set_id_bits_away(room: &Room) {
    let path = room.here.join("program");
    let shown = path.display();
    for line in [format!("printf x >> {shown}"), format!("truncate -s 3 {shown}")] {
        fs::write(&path, b"#!").unwrap();
        std::os::unix::fs::chown(&path, Some(DAEMON), Some(DAEMON)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
        assert!(as_daemon(&line), "{line}");
        assert_eq!(mode(&room.there.join("program")), 0o777, "after {line}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
    std::os::unix::fs::chown(&path, Some(0), Some(0)).unwrap();
    assert_eq!(mode(&path), 0o755, "after chown");
    // Root may write without losing them.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
    OpenOptions::new().append(true).open(&path).and_then(|mut f| std::io::Write::write_all(&mut f, b"y")).unwrap();
    assert_eq!(mode(&path), 0o4755, "after a write of root");
}

fn fifos_and_sockets_are_made_and_work(room: &Room) {
    let fifo = room.here.join("fifo");
    run("mkfifo", &[fifo.to_str().unwrap()]);
    let writer = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::write(fifo, b"through").unwrap()
    });
    assert_eq!(fs::read(&fifo).unwrap(), b"through");
    writer.join().unwrap();
    let socket = room.here.join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::os::unix::net::UnixStream::connect(&socket).unwrap();
    drop(listener);
    run("mknod", &[room.here.join("device").to_str().unwrap(), "c", "1", "3"]);
    let device = fs::metadata(room.there.join("device")).unwrap();
    assert_eq!((device.rdev(), device.mode() & 0o170_000), (rustix::fs::makedev(1, 3), 0o020_000));
    // It names a device and does not open one: the mount is made with nodev.
    assert!(OpenOptions::new().write(true).custom_flags(0).open(room.here.join("device")).is_err());
}

fn times_are_kept_to_the_nanosecond(room: &Room) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};
    let (here, there) = (room.here.join("f"), room.there.join("f"));
    File::create(&here).unwrap();
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let set = |accessed, modified| {
        let times = Timestamps { last_access: accessed, last_modification: modified };
        utimensat(CWD, &here, &times, AtFlags::empty()).unwrap();
        fs::metadata(&there).unwrap()
    };
    let found = set(time(1_000_000_001, 123_456_789), time(-5, 999_999_999));
    assert_eq!((found.atime(), found.atime_nsec()), (1_000_000_001, 123_456_789));
    assert_eq!((found.mtime(), found.mtime_nsec()), (-5, 999_999_999));
    let changed = (found.ctime(), found.ctime_nsec());
    let found = set(time(0, UTIME_OMIT), time(0, UTIME_NOW));
    assert_eq!((found.atime(), found.atime_nsec()), (1_000_000_001, 123_456_789));
    assert!(found.mtime() > 1_700_000_000);
    assert!((found.ctime(), found.ctime_nsec()) > changed, "every change moves ctime");
    let far = set(time(1 << 33, 0), time(1 << 33, 1));
    assert_eq!((far.mtime(), far.mtime_nsec()), (1 << 33, 1));
}

fn permissions_are_those_of_the_moment_and_root_has_all(room: &Room) {
    let (here, there) = (room.here.join("f"), room.there.join("f"));
    fs::write(&here, b"x").unwrap();
    let read = format!("cat {} > /dev/null 2>&1", there.display());
    let write = format!("dd if=/dev/zero of={} bs=1 count=1 conv=notrunc 2> /dev/null", there.display());
    for round in 0..10 {
        for (bits, reads, writes) in [(0o604, true, false), (0o602, false, true), (0o600, false, false)] {
            fs::set_permissions(&here, fs::Permissions::from_mode(bits)).unwrap();
            assert_eq!((as_daemon(&read), as_daemon(&write)), (reads, writes), "{bits:o}, round {round}");
        }
    }
    fs::set_permissions(&here, fs::Permissions::from_mode(0o0)).unwrap();
    fs::write(&there, b"root").unwrap();
    assert_eq!(fs::read(&there).unwrap(), b"root");
}

fn reading_leaves_the_access_time(room: &Room) {
    let (here, there) = (room.here.join("f"), room.there.join("f"));
    fs::write(&here, b"read me").unwrap();
    let accessed = |path: &Path| {
        let found = fs::metadata(path).unwrap();
        (found.atime(), found.atime_nsec())
    };
    let before = accessed(&here);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(fs::read(&here).unwrap(), b"read me");
    assert_eq!(fs::read(&there).unwrap(), b"read me");
    assert_eq!((accessed(&here), accessed(&there)), (before, before));
}

fn programs_gain_no_rights(room: &Room) {
    let program = room.here.join("id");
    fs::copy("/usr/bin/id", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(mode(&program), 0o4755);
    let ran = Command::new(room.there.join("id")).arg("-u").uid(DAEMON).gid(DAEMON).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ran.stdout).trim(), DAEMON.to_string(), "it runs as who started it");
}
