//! The adapter under a real kernel, on a cluster in memory. Needs root and /dev/fuse; without them there is nothing to
//! test, and each test says so.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use weft_client::fake::FakeCluster;
use weft_client::{Client, ConnectOptions};
use weft_fuse::{Connector, MountOptions, Mounted, mount_with};
use weft_types::ChunkSize;

struct Mount {
    mounted: Option<Mounted>,
    directory: TempDir,
}

impl Mount {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn unmount(mut self) {
        self.mounted.take().unwrap().unmount().unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(mounted) = self.mounted.take() {
            // A test failed: do not leave a mount behind.
            let _ = mounted.unmount();
        }
    }
}

fn cluster() -> Option<FakeCluster> {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("not tested: mounting needs root and /dev/fuse");
        return None;
    }
    Some(FakeCluster::new("vms", ChunkSize::DEFAULT, 16))
}

fn mount(cluster: &FakeCluster) -> Mount {
    let directory = tempfile::tempdir().unwrap();
    let mounted = mount_at(cluster, directory.path()).unwrap();
    Mount { mounted: Some(mounted), directory }
}

fn mount_at(cluster: &FakeCluster, path: &Path) -> Result<Mounted, weft_fuse::MountError> {
    let cluster = cluster.clone();
    let connector: Connector = Box::new(move |options, volume, mount_point| {
        Box::pin(async move {
            let addresses = cluster.control_addresses();
            Client::connect_over(cluster.network(), addresses, &options, &volume, &mount_point).await
        })
    });
    mount_with(MountOptions::new(ConnectOptions::new("/unused"), "vms", path), connector)
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

fn fallocate(file: &File, mode: i32, offset: i64, length: i64) -> io::Result<()> {
    // SAFETY: a call on an open descriptor with plain integers.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn lseek(file: &File, offset: i64, whence: i32) -> io::Result<i64> {
    // SAFETY: as above.
    let at = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
    if at >= 0 { Ok(at) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn files_directories_and_links_behave_as_on_a_local_file_system() {
    let Some(cluster) = cluster() else { return };
    let mount = mount(&cluster);
    fs::create_dir(mount.path("d")).unwrap();
    fs::write(mount.path("d/a"), b"hello").unwrap();
    assert_eq!(fs::read(mount.path("d/a")).unwrap(), b"hello");
    assert_eq!(errno(fs::remove_dir(mount.path("d"))), libc::ENOTEMPTY);
    assert_eq!(errno(File::open(mount.path("none"))), libc::ENOENT);
    let new = OpenOptions::new().write(true).create_new(true).open(mount.path("d/a"));
    assert_eq!(errno(new), libc::EEXIST);

    fs::hard_link(mount.path("d/a"), mount.path("b")).unwrap();
    assert_eq!(fs::metadata(mount.path("b")).unwrap().nlink(), 2);
    symlink("d/a", mount.path("s")).unwrap();
    assert_eq!(fs::read_link(mount.path("s")).unwrap(), Path::new("d/a"));
    assert_eq!(fs::read(mount.path("s")).unwrap(), b"hello");

    fs::rename(mount.path("b"), mount.path("c")).unwrap();
    assert!(!mount.path("b").exists());
    let exchange = rustix::fs::renameat_with(
        rustix::fs::CWD,
        mount.path("c"),
        rustix::fs::CWD,
        mount.path("s"),
        rustix::fs::RenameFlags::EXCHANGE,
    );
    exchange.unwrap();
    assert!(fs::symlink_metadata(mount.path("c")).unwrap().is_symlink());
    let noreplace = rustix::fs::renameat_with(
        rustix::fs::CWD,
        mount.path("c"),
        rustix::fs::CWD,
        mount.path("s"),
        rustix::fs::RenameFlags::NOREPLACE,
    );
    assert_eq!(noreplace, Err(rustix::io::Errno::EXIST));

    fs::set_permissions(mount.path("s"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(fs::metadata(mount.path("s")).unwrap().mode() & 0o7777, 0o640);
    std::os::unix::fs::chown(mount.path("s"), Some(1000), Some(100)).unwrap();
    assert_eq!(
        (fs::metadata(mount.path("s")).unwrap().uid(), fs::metadata(mount.path("s")).unwrap().gid()),
        (1000, 100)
    );
    rustix::fs::mknodat(rustix::fs::CWD, mount.path("p"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(fs::symlink_metadata(mount.path("p")).unwrap().file_type().is_fifo());
    let time = std::time::UNIX_EPOCH + Duration::new(1_000, 250_000_000);
    File::options().write(true).open(mount.path("s")).unwrap().set_modified(time).unwrap();
    assert_eq!(fs::metadata(mount.path("s")).unwrap().modified().unwrap(), time);
    mount.unmount();
}

#[test]
fn data_reads_back_and_blocks_are_counted_truly() {
    let Some(cluster) = cluster() else { return };
    let mount = mount(&cluster);
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(mount.path("a")).unwrap();
    let data: Vec<u8> = (0..9_000_000u32).map(|n| (n / 7) as u8).collect();
    file.write_all(&data).unwrap();
    file.sync_all().unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut back = Vec::new();
    file.read_to_end(&mut back).unwrap();
    assert!(back == data);
    let meta = file.metadata().unwrap();
    assert_eq!((meta.len(), meta.blocks()), (9_000_000, 9_000_000u64.div_ceil(4096) * 8));

    fallocate(&file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 4096, 8192).unwrap();
    let mut hole = [1u8; 8192];
    file.read_exact_at(&mut hole, 4096).unwrap();
    assert!(hole.iter().all(|byte| *byte == 0));
    assert_eq!(lseek(&file, 0, libc::SEEK_HOLE).unwrap(), 4096);
    assert_eq!(lseek(&file, 4096, libc::SEEK_DATA).unwrap(), 12_288);
    assert_eq!(lseek(&file, 9_000_000, libc::SEEK_DATA).unwrap_err().raw_os_error(), Some(libc::ENXIO));

    // Holes within, and what follows the end, are there from now on: with zeros.
    fallocate(&file, 0, 0, 10_000_000).unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!((meta.len(), meta.blocks()), (10_000_000, 10_000_000u64.div_ceil(4096) * 8));
    assert_eq!(lseek(&file, 0, libc::SEEK_HOLE).unwrap(), 10_000_000);
    let mut whole = vec![1u8; 10_000_000];
    file.read_exact_at(&mut whole, 0).unwrap();
    assert!(whole[..4096] == data[..4096] && whole[12_288..9_000_000] == data[12_288..]);
    assert!(whole[4096..12_288].iter().chain(&whole[9_000_000..]).all(|byte| *byte == 0));
    fallocate(&file, libc::FALLOC_FL_KEEP_SIZE, 0, 20_000_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 10_000_000);
    assert_eq!(errno(fallocate(&file, 0, 0, 1 << 45)), libc::ENOSPC);
    file.set_len(5_000).unwrap();
    file.set_len(50_000).unwrap();
    let mut tail = vec![1u8; 45_000];
    file.read_exact_at(&mut tail, 5_000).unwrap();
    assert!(tail.iter().all(|byte| *byte == 0));
    drop(file);
    mount.unmount();
}

#[test]
fn an_unlinked_file_goes_on_while_it_is_open() {
    let Some(cluster) = cluster() else { return };
    let mount = mount(&cluster);
    let file = File::options().read(true).write(true).create_new(true).open(mount.path("a")).unwrap();
    fs::remove_file(mount.path("a")).unwrap();
    file.write_all_at(b"still here", 0).unwrap();
    let mut back = [0u8; 10];
    file.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(&back, b"still here");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    drop(file);
    mount.unmount();
}

#[test]
fn appends_and_synchronous_and_direct_writes_work() {
    let Some(cluster) = cluster() else { return };
    let mount = mount(&cluster);
    let mut log = File::options().append(true).create(true).open(mount.path("log")).unwrap();
    for n in 0..50 {
        writeln!(log, "line {n:03}").unwrap();
    }
    assert_eq!(fs::read_to_string(mount.path("log")).unwrap().lines().count(), 50);
    let synced = cluster.counts().synced_writes;
    let sync = File::options().write(true).custom_flags(libc::O_DSYNC).open(mount.path("log")).unwrap();
    sync.write_all_at(b"LINE", 0).unwrap();
    assert_eq!(cluster.counts().synced_writes, synced + 1);
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).custom_flags(libc::O_DIRECT);
    let direct = options.open(mount.path("direct")).unwrap();
    // Direct I/O wants an aligned buffer.
    let page = vec![7u8; 3 * 4096];
    let start = page.as_ptr().align_offset(4096);
    direct.write_all_at(&page[start..start + 4096], 8192).unwrap();
    assert_eq!(direct.metadata().unwrap().len(), 12_288);
    drop((log, sync, direct));
    mount.unmount();
}

#[test]
fn a_directory_of_many_entries_lists_every_one_once() {
    let Some(cluster) = cluster() else { return };
    let mount = mount(&cluster);
    for n in 0..3_000 {
        fs::create_dir(mount.path(&format!("entry-{n:05}"))).unwrap();
    }
    let mut names: Vec<String> =
        fs::read_dir(mount.directory.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names.len(), 3_000);
    assert_eq!((names[0].as_str(), names[2_999].as_str()), ("entry-00000", "entry-02999"));
    // Removing while reading skips nothing.
    for entry in fs::read_dir(mount.directory.path()).unwrap() {
        fs::remove_dir(entry.unwrap().path()).unwrap();
    }
    assert_eq!(fs::read_dir(mount.directory.path()).unwrap().count(), 0);
    mount.unmount();
}

#[test]
fn two_mounts_see_each_other_at_once() {
    let Some(cluster) = cluster() else { return };
    let (a, b) = (mount(&cluster), mount(&cluster));
    fs::write(a.path("f"), b"one").unwrap();
    assert_eq!(fs::read(b.path("f")).unwrap(), b"one");
    fs::rename(a.path("f"), a.path("g")).unwrap();
    assert!(!b.path("f").exists());
    assert_eq!(fs::metadata(b.path("g")).unwrap().len(), 3);
    fs::write(b.path("g"), b"longer than before").unwrap();
    assert_eq!(fs::metadata(a.path("g")).unwrap().len(), 18);
    assert_eq!(fs::read(a.path("g")).unwrap(), b"longer than before");
    a.unmount();
    b.unmount();
}

#[test]
fn extended_attributes_and_space_are_answered() {
    let Some(cluster) = cluster() else { return };
    let mount = mount(&cluster);
    let path = mount.path("a");
    fs::write(&path, b"x").unwrap();
    rustix::fs::setxattr(&path, "user.key", b"value", rustix::fs::XattrFlags::CREATE).unwrap();
    let mut value = [0u8; 64];
    assert_eq!(rustix::fs::getxattr(&path, "user.key", &mut value[..]).unwrap(), 5);
    assert_eq!(rustix::fs::getxattr(&path, "user.key", &mut value[..2]), Err(rustix::io::Errno::RANGE));
    assert_eq!(rustix::fs::getxattr(&path, "user.none", &mut value[..]), Err(rustix::io::Errno::NODATA));
    assert_eq!(rustix::fs::listxattr(&path, &mut value[..]).unwrap(), 9);
    let space = rustix::fs::statvfs(&path).unwrap();
    assert_eq!(space.f_blocks * space.f_frsize, 100 << 30);
    assert_eq!(space.f_bavail * space.f_frsize, 50 << 30);
    mount.unmount();
}

#[test]
fn no_space_reaches_the_application_as_enospc_and_a_fence_as_eio() {
    let Some(cluster) = cluster() else { return };
    let mount = mount(&cluster);
    let file = File::options().write(true).create(true).truncate(true).open(mount.path("a")).unwrap();
    file.write_all_at(&[1; 4096], 0).unwrap();
    cluster.set_faults(|faults| faults.no_space = true);
    assert_eq!(errno(file.write_at(&[1; 4096], 4096)), libc::ENOSPC);
    cluster.set_faults(|faults| faults.no_space = false);
    assert_eq!(file.metadata().unwrap().len(), 4096);
    cluster.strike(weft_types::SessionId(1));
    assert_eq!(errno(file.write_at(&[1; 4096], 0)), libc::EIO);
    assert_eq!(errno(file.sync_all()), libc::EIO);
    drop(file);
    mount.unmount();
}

#[test]
fn a_second_mount_on_the_same_place_is_refused_with_a_sentence() {
    let Some(cluster) = cluster() else { return };
    let mount = mount(&cluster);
    let error = mount_at(&cluster, mount.directory.path()).err().unwrap().to_string();
    assert!(error.contains("already has a fuse.weft file system mounted"), "{error}");
    mount.unmount();
}

#[test]
fn a_mount_tells_how_long_its_requests_took() {
    let Some(cluster) = cluster() else { return };
    let mount = mount(&cluster);
    fs::write(mount.path("a"), b"hello").unwrap();
    let mut value = vec![0u8; 4096];
    let length = rustix::fs::getxattr(mount.directory.path(), "weft.statistics", value.as_mut_slice()).unwrap();
    let text = String::from_utf8(value[..length].to_vec()).unwrap();
    assert!(text.contains("mount_write_count 1\n"), "{text}");
    assert!(text.contains("write_exchange_count 1\n"), "{text}");
    mount.unmount();
}
