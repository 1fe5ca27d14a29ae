//! Locks across two mounts, as processes meet them (SEMANTICS S4).

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use weft_tests::cluster::{Cluster, is_mounted, wait_until};
use weft_tests::locker::Locker;
use weft_tests::program::run;

const PROGRAM: &str = env!("CARGO_BIN_EXE_lock-client");
/// Long enough to see that a wait goes on.
const A_WHILE: Duration = Duration::from_millis(700);
/// An answer that comes when somebody else has done something.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is promised: a dead client's lock is had by another host within this.
const TAKEOVER: Duration = Duration::from_secs(15);
/// A busy machine may miss a time; nothing else may go wrong in any round.
const TAKEOVER_ROUNDS: usize = 3;

struct Two {
    cluster: Cluster,
    other: PathBuf,
}

impl Two {
    fn start() -> Self {
        let cluster = Cluster::start();
        let other = cluster.data().with_file_name("mnt2");
        let mut two = Self { cluster, other };
        two.mount_other();
        two
    }

    fn mount_other(&mut self) {
        eprint!("{}", run(self.cluster.weft(&["dev", "mount"]).arg(&self.other)));
    }

    fn file(&self, name: &str) -> (PathBuf, PathBuf) {
        let path = self.cluster.mount().join(name);
        fs::write(&path, vec![0u8; 16 << 10]).unwrap();
        (path, self.other.join(name))
    }

    fn here(path: &Path) -> Locker {
        Locker::open(PROGRAM, path)
    }

    /// Process and session of the second mount.
    fn other_mount(&self) -> (Pid, u64) {
        let status = self.cluster.json(&["dev", "status"]);
        let mounts = status["mounts"].as_array().unwrap();
        let at = |point: &Value| point.as_str() == self.other.to_str();
        let mount = mounts.iter().find(|m| at(&m["mount_point"])).unwrap();
        let sessions = self.cluster.json(&["client", "list"]);
        let session = sessions.as_array().unwrap().iter().rfind(|s| at(&s["mount_point"])).unwrap();
        let pid = i32::try_from(mount["pid"].as_i64().unwrap()).unwrap();
        (Pid::from_raw(pid).unwrap(), session["session"].as_u64().unwrap())
    }

    fn locks(&self) -> Vec<Value> {
        self.cluster.json(&["lock", "list"]).as_array().unwrap().clone()
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        if is_mounted(&self.other) {
            let _ = std::process::Command::new("umount").arg("-l").arg(&self.other).output();
        }
    }
}

#[test]
fn locks_of_two_hosts_exclude_wait_and_end_as_on_one() {
    let two = Two::start();
    for space in ["posix", "ofd", "flock"] {
        exclusion_and_waiting(&two, space);
    }
    ranges_as_qemu_uses_them(&two);
    ends_of_locks(&two);
    deadlock_is_told(&two);
    killed_and_interrupted_waiters(&two);
    size_and_data_go_with_the_lock(&two);
    wait_until("no locks to be left", PATIENCE, || two.locks().is_empty());
}

fn exclusion_and_waiting(two: &Two, space: &str) {
    let (a, b) = two.file(&format!("exclusion-{space}"));
    let (mut first, mut second) = (Two::here(&a), Two::here(&b));
    let lock = |kind: &str, wait: &str| format!("{space} {kind} 0 0 {wait}");
    assert_eq!(first.ask(&lock("w", "try")), "ok");
    assert_eq!(second.ask(&lock("w", "try")), "again", "{space}: two writers");
    assert_eq!(second.ask(&lock("r", "try")), "again", "{space}: a reader beside a writer");
    second.begin(&lock("w", "wait"));
    assert_eq!(second.answer(A_WHILE), None, "{space}: did not wait");
    let waiting = two.locks().iter().filter(|lock| lock["state"] == "waiting").count();
    assert_eq!(waiting, 1, "{:?}", two.locks());
    let freed = Instant::now();
    assert_eq!(first.ask(&lock("u", "try")), "ok");
    assert_eq!(second.answer(PATIENCE).as_deref(), Some("ok"), "{space}: not woken");
    eprintln!("{space}: the waiter had the lock {} ms after it was freed", freed.elapsed().as_millis());
    assert_eq!(first.ask(&lock("r", "try")), "again");
    // Weaker: both read.
    assert_eq!(second.ask(&lock("r", "try")), "ok");
    assert_eq!(first.ask(&lock("r", "try")), "ok");
    assert_eq!(first.ask(&lock("w", "try")), "again", "{space}: a writer beside a reader");
    let held = two.locks();
    let pids: Vec<u64> = held.iter().filter_map(|lock| lock["process_id"].as_u64()).collect();
    assert!(pids.contains(&u64::from(first.pid())) && pids.contains(&u64::from(second.pid())), "{held:?}");
}

/// QEMU takes shared locks on single bytes and asks for exclusive ones with F_OFD_GETLK.
fn ranges_as_qemu_uses_them(two: &Two) {
    let (a, b) = two.file("ranges");
    let (mut first, mut second) = (Two::here(&a), Two::here(&b));
    assert_eq!(first.ask("ofd r 100 1 try"), "ok");
    assert_eq!(first.ask("ofd r 201 1 try"), "ok");
    assert_eq!(second.ask("test ofd w 100 1"), "held r 100 1");
    assert_eq!(second.ask("test ofd w 101 1"), "free");
    assert_eq!(second.ask("test ofd w 200 4"), "held r 201 1");
    assert_eq!(first.ask("test ofd w 100 1"), "free", "its own lock");
    assert_eq!(second.ask("ofd w 100 1 try"), "again");
    assert_eq!(second.ask("ofd w 101 1 try"), "ok");
    assert_eq!(first.ask("ofd u 100 1 try"), "ok");
    assert_eq!(second.ask("test ofd w 100 1"), "free");
    // Split in the middle.
    assert_eq!(first.ask("posix w 1000 100 try"), "ok");
    assert_eq!(first.ask("posix u 1040 20 try"), "ok");
    assert_eq!(second.ask("test posix r 1040 100"), "held w 1060 40");
    assert_eq!(second.ask("posix w 1040 20 try"), "ok");
}

fn ends_of_locks(two: &Two) {
    let (a, b) = two.file("ends");
    let mut second = Two::here(&b);
    // POSIX: any close by the process; OFD: not.
    let mut posix = Two::here(&a);
    assert_eq!(posix.ask("posix w 0 10 try"), "ok");
    let mut ofd = Two::here(&a);
    assert_eq!(ofd.ask("ofd w 20 10 try"), "ok");
    assert_eq!(ofd.ask("touch-close"), "ok");
    assert_eq!(second.ask("ofd w 20 10 try"), "again", "an OFD lock ended with another descriptor");
    assert_eq!(posix.ask("touch-close"), "ok");
    assert_eq!(second.ask("posix w 0 10 try"), "ok", "a POSIX lock outlived a close");
    // Death of the process.
    second.begin("ofd w 20 10 wait");
    assert_eq!(second.answer(A_WHILE), None);
    ofd.kill();
    assert_eq!(second.answer(PATIENCE).as_deref(), Some("ok"), "an OFD lock outlived its process");
    let mut flock = Two::here(&a);
    flock.begin("flock w 0 0 wait");
    assert_eq!(flock.answer(A_WHILE), None);
    second.kill();
    assert_eq!(flock.answer(PATIENCE).as_deref(), Some("ok"), "locks outlived their process");
}

fn deadlock_is_told(two: &Two) {
    let (a, b) = two.file("deadlock");
    let (mut first, mut second) = (Two::here(&a), Two::here(&b));
    assert_eq!(first.ask("posix w 0 1 try"), "ok");
    assert_eq!(second.ask("posix w 1 1 try"), "ok");
    first.begin("posix w 1 1 wait");
    assert_eq!(first.answer(A_WHILE), None);
    assert_eq!(second.ask("posix w 0 1 wait"), "deadlock");
    assert_eq!(second.ask("posix u 0 0 try"), "ok");
    assert_eq!(first.answer(PATIENCE).as_deref(), Some("ok"));
}

fn killed_and_interrupted_waiters(two: &Two) {
    let (a, b) = two.file("killed");
    let (mut first, mut second, mut third) = (Two::here(&a), Two::here(&b), Two::here(&b));
    assert_eq!(first.ask("posix w 0 0 try"), "ok");
    second.begin("posix w 0 0 wait");
    assert_eq!(second.answer(A_WHILE), None);
    third.begin("posix w 0 0 wait");
    assert_eq!(third.answer(A_WHILE), None);
    // It would sleep until the lock is free, if nobody looked.
    let gone_after = second.kill();
    eprintln!("a killed waiter was gone after {} ms", gone_after.as_millis());
    wait_until("its wait to be given up", PATIENCE, || {
        two.locks().iter().filter(|l| l["state"] == "waiting").count() == 1
    });
    // Stopped and continued: the call goes on.
    let pid = Pid::from_raw(i32::try_from(third.pid()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    kill_process(pid, Signal::CONT).unwrap();
    assert_eq!(third.answer(A_WHILE), None);
    assert_eq!(first.ask("posix u 0 0 try"), "ok");
    assert_eq!(third.answer(PATIENCE).as_deref(), Some("ok"));
}

fn size_and_data_go_with_the_lock(two: &Two) {
    let (a, b) = two.file("handover");
    let (mut first, mut second) = (Two::here(&a), Two::here(&b));
    for round in 0..10u64 {
        let (writer, reader) = if round % 2 == 0 { (&mut first, &mut second) } else { (&mut second, &mut first) };
        assert_eq!(writer.ask("ofd w 0 0 wait"), "ok");
        assert_eq!(writer.ask(&format!("write 4096 {}", round + 1)), "ok");
        reader.begin("ofd r 0 0 wait");
        assert_eq!(writer.ask("ofd u 0 0 try"), "ok");
        assert_eq!(reader.answer(PATIENCE).as_deref(), Some("ok"));
        assert_eq!(reader.ask("read 4096"), (round + 1).to_string(), "stale after the lock was handed over");
        assert_eq!(reader.ask("ofd u 0 0 try"), "ok");
    }
}

#[test]
fn locks_outlive_the_metadata_leader_and_waits_go_on() {
    let two = Two::start();
    let (a, b) = two.file("leader");
    let (mut first, mut second, mut third) = (Two::here(&a), Two::here(&b), Two::here(&b));
    assert_eq!(first.ask("ofd w 0 10 try"), "ok");
    second.begin("ofd w 0 10 wait");
    assert_eq!(second.answer(A_WHILE), None);
    let leader = two.cluster.leader();
    two.cluster.kill_node(leader);
    assert_eq!(third.ask("ofd w 5 1 try"), "again", "the lock died with the leader");
    assert_eq!(third.ask("ofd w 50 1 try"), "ok");
    assert_eq!(second.answer(A_WHILE), None, "the wait ended with the leader");
    assert_eq!(first.ask("ofd u 0 10 try"), "ok");
    assert_eq!(second.answer(PATIENCE).as_deref(), Some("ok"), "the waiter was forgotten with the leader");
    two.cluster.start_node(leader);
    two.cluster.wait_healthy();
}

#[test]
fn a_dead_mounts_locks_go_to_another_host_in_time_and_its_late_writes_never_land() {
    let mut two = Two::start();
    let mut taken = Duration::MAX;
    for round in 0..TAKEOVER_ROUNDS {
        taken = taken.min(takeover_from_a_killed_mount(&two, round));
        two.mount_other();
        if taken <= TAKEOVER {
            break;
        }
    }
    assert!(taken <= TAKEOVER, "another host had to wait {taken:?} for a dead client's lock");
    late_writes_of_a_stopped_mount(&two);
}

fn takeover_from_a_killed_mount(two: &Two, round: usize) -> Duration {
    let (a, b) = two.file(&format!("dead-{round}"));
    let (mut here, mut dead) = (Two::here(&a), Two::here(&b));
    assert_eq!(dead.ask("ofd w 0 0 try"), "ok");
    assert_eq!(dead.ask("write 0 7"), "ok");
    here.begin("ofd w 0 0 wait");
    assert_eq!(here.answer(A_WHILE), None);
    let (pid, _) = two.other_mount();
    kill_process(pid, Signal::KILL).unwrap();
    let killed = Instant::now();
    assert_eq!(here.answer(PATIENCE).as_deref(), Some("ok"), "the lock of a dead mount is held for ever");
    let taken = killed.elapsed();
    eprintln!("another host had the dead client's lock after {:.1} s", taken.as_secs_f64());
    assert_eq!(here.ask("read 0"), "7");
    drop(dead);
    let _ = run(std::process::Command::new("umount").arg("-l").arg(&two.other));
    taken
}

/// A host that sleeps is worse than a dead one: it wakes, and has writes to send.
fn late_writes_of_a_stopped_mount(two: &Two) {
    let (a, b) = two.file("late");
    let (mut here, mut late) = (Two::here(&a), Two::here(&b));
    assert_eq!(late.ask("ofd w 0 0 try"), "ok");
    assert_eq!(late.ask("write 0 1"), "ok");
    let (pid, session) = two.other_mount();
    stop(pid);
    late.begin("write 0 2");
    here.begin("ofd w 0 0 wait");
    // The operator need not wait for the lease.
    eprint!("{}", two.cluster.ok(&["client", "evict", &session.to_string(), "--yes"]));
    assert_eq!(here.answer(PATIENCE).as_deref(), Some("ok"));
    assert_eq!(here.ask("write 0 3"), "ok");
    kill_process(pid, Signal::CONT).unwrap();
    let answer = late.answer(PATIENCE).unwrap();
    assert_eq!(answer, "error 5", "a late write was acknowledged");
    assert_eq!(here.ask("read 0"), "3", "a late write landed");
    assert_eq!(late.ask("write 0 4"), "error 5", "a fenced mount goes on writing");
    assert_eq!(late.ask("ofd w 0 0 try"), "error 5");
    assert_eq!(here.ask("read 0"), "3");
    fenced_mount_is_quiet(pid);
}

/// The signal is only sent when `kill` returns: a thread that was about to take a request from the kernel still does, and
/// what it wrote then was no late write.
fn stop(pid: Pid) {
    kill_process(pid, Signal::STOP).unwrap();
    wait_until("every thread of the mount to stand still", PATIENCE, || {
        let threads = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).unwrap();
        threads.flatten().all(|thread| {
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
        })
    });
}

/// It once asked for the map in a loop.
fn fenced_mount_is_quiet(pid: Pid) {
    let ticks = || -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // utime and stime are fields 14 and 15; the state is the third.
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let (before, began) = (ticks(), Instant::now());
    std::thread::sleep(Duration::from_secs(3));
    // A tick is 10 ms.
    let busy = Duration::from_millis(10 * (ticks() - before));
    eprintln!("a fenced mount used {} ms of processor time in {:?}", busy.as_millis(), began.elapsed());
    assert!(busy < Duration::from_secs(1), "a fenced mount is busy: {busy:?} of 3 s");
}
