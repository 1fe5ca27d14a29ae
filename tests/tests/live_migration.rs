//! A running guest moves between two hosts, also while nodes die and hosts are cut off, and nothing is lost or stale.
//! (docs/SEMANTICS.md, S6.)
//!
//! The guest writes, fsyncs and reads back from its disk all the time, so a byte that the new host has not or has in an old
//! version is found by the guest itself. Its image is locked by QEMU, cache=none, aio=native.

use rustix::process::{Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use weft_tests::cluster::{Cluster, wait_until};
use weft_tests::guest::{Blueprint, Console, Move, Vm, field, image, prepare_memory};
use weft_tests::host::Host;
use weft_tests::program::{output, run, said};

/// To and fro.
const MOVES: u64 = 10;
/// What a guest does between two moves.
const ROUNDS_BETWEEN: u64 = 6;
const ROUND_PATIENCE: Duration = Duration::from_secs(60);
const END_PATIENCE: Duration = Duration::from_secs(120);
/// Shorter than a session's TTL: the mount keeps what it has.
const SHORT_CUT: Duration = Duration::from_secs(3);
/// A host without a connection has its part of a move still before it.
const LONG_ENOUGH_TO_MOVE: Duration = Duration::from_secs(1);
/// A dead host's image is had by another within the session's TTL and the fence; more on a busy machine.
const TAKEOVER_PATIENCE: Duration = Duration::from_secs(60);
/// Issue: no guest stands still for longer than this when a node dies (held in `guest_survives_a_node`).
const LONGEST_STALL: Duration = Duration::from_secs(4);
/// What a move itself takes on a busy machine: two QEMUs and their main loops. On a quiet one it is a tenth of that.
const MOVE: Duration = Duration::from_secs(2);
/// What the image file of a growing image grows by at least.
const GROWTH_BYTES: u64 = 4 << 20;
const EIO: i32 = 5;

/// Of an accident, as seen from the start of a move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Moment {
    /// So that the guest has to be brought to a stop over it.
    Before,
    During,
}

/// What a qcow2 image may have that lost its host: clusters that belong to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leaks {
    None,
    Expected,
}

struct Two {
    hosts: [Host; 2],
    cluster: Cluster,
}

impl Two {
    fn start() -> Self {
        let cluster = Cluster::start();
        prepare_memory(cluster.files());
        let hosts = [Host::first(&cluster), Host::another(&cluster, "mnt-b")];
        Self { hosts, cluster }
    }

    fn blueprint(&self, format: &'static str, seed: u64) -> Blueprint {
        Blueprint { directory: self.cluster.files().to_owned(), format, mode: "churn", rounds: 0, seed }
    }

    /// The image as each host sees it.
    fn paths(&self, name: &str) -> [PathBuf; 2] {
        self.hosts.each_ref().map(|host| host.mount().join(name))
    }

    /// A fresh image of a guest on the volume.
    fn image(&self, name: &str, format: &str) -> [PathBuf; 2] {
        let source = self.cluster.files().join("base.img");
        if !source.exists() {
            image::build(&source);
        }
        let paths = self.paths(name);
        let _ = run(Command::new("qemu-img").args(["convert", "-O", format]).args([&source, &paths[0]]));
        paths
    }

    /// Both hosts see the same image, its file system is clean, and all replicas of it are the same.
    fn assert_intact(&self, paths: &[PathBuf; 2], format: &str) {
        let _ = run(Command::new("qemu-img").args(["compare", "-f", format, "-F", format]).args(paths));
        self.check(&paths[0], format, Leaks::None);
        self.cluster.wait_healthy();
        self.cluster.assert_replicas_identical();
    }

    /// The image and the file system in it.
    fn check(&self, path: &Path, format: &str, leaks: Leaks) {
        if format == "qcow2" {
            let checked = output(Command::new("qemu-img").arg("check").arg(path));
            // 3 says: nothing but leaks.
            let fine = checked.status.success() || leaks == Leaks::Expected && checked.status.code() == Some(3);
            assert!(fine, "{}", said(&checked));
        }
        let raw = self.cluster.files().join("checked.img");
        let _ = run(Command::new("qemu-img").args(["convert", "-f", format, "-O", "raw"]).arg(path).arg(&raw));
        image::assert_clean(&raw);
        fs::remove_file(raw).unwrap();
    }
}

fn hash(path: &Path) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut file = fs::File::open(path).unwrap();
    let _ = std::io::copy(&mut file, &mut hasher).unwrap();
    hasher.finalize()
}

/// A guest that writes and reads all the time, and where it is.
struct Traveller<'a> {
    two: &'a Two,
    paths: [PathBuf; 2],
    blueprint: Blueprint,
    console: Console,
    vm: Vm,
    /// Number of the host that it is on.
    at: usize,
    format: &'static str,
    /// Of the image file, before the guest wrote.
    length: u64,
}

impl<'a> Traveller<'a> {
    fn boot(two: &'a Two, at: usize, format: &'static str, seed: u64) -> Self {
        let (paths, blueprint) = (two.image(&format!("guest-{seed}"), format), two.blueprint(format, seed));
        let (console, length) = (Console::default(), fs::metadata(&paths[0]).unwrap().len());
        let vm = blueprint.boot(&paths[at], &console);
        Self { two, paths, blueprint, console, vm, at, format, length }
    }

    fn live(&self) {
        self.console.wait_rounds(ROUNDS_BETWEEN, ROUND_PATIENCE);
    }

    fn other(&self) -> usize {
        1 - self.at
    }

    fn prepare(&mut self) -> Move {
        let other = self.other();
        self.blueprint.prepare_move(&mut self.vm, &self.paths[other], &self.console)
    }

    /// Moves to the other host; how long the guest stood still.
    fn travel(self) -> (Self, Duration) {
        self.travel_through(Moment::During, |_| (), |_| ())
    }

    /// The same with an accident, and what is done about it while the move goes on.
    fn travel_through(
        mut self,
        moment: Moment,
        accident: impl FnOnce(&Two),
        remedy: impl FnOnce(&Two) + Send,
    ) -> (Self, Duration) {
        self.live();
        let prepared = self.prepare();
        let (two, began) = (self.two, Instant::now());
        let vm = std::thread::scope(|scope| {
            if moment == Moment::During {
                prepared.begin(&mut self.vm);
            }
            accident(two);
            // Beside the move: a QEMU whose image grows waits for its host in the call, and answers nobody meanwhile.
            scope.spawn(|| remedy(two));
            if moment == Moment::Before {
                prepared.begin(&mut self.vm);
            }
            prepared.finish(self.vm, &self.console)
        });
        let moved = Self { at: 1 - self.at, vm, ..self };
        moved.live();
        let stall = moved.console.longest_stall(began);
        eprintln!("{}: stood still for {} ms", moved.format, stall.as_millis());
        (moved, stall)
    }

    /// Lets the guest come to its end, where it reads back all that it wrote, and looks at what it left.
    fn finish(mut self) {
        self.vm.tell_to_stop();
        let summary = self.vm.finish(&self.console, END_PATIENCE);
        eprintln!("{}: {summary}", self.format);
        assert_eq!(field(&summary, "rounds"), self.console.round());
        if self.format == "qcow2" {
            // Else the test would not show what it is for.
            let after = fs::metadata(&self.paths[0]).unwrap().len();
            assert!(
                after > self.length + GROWTH_BYTES,
                "the image file grew from {} to {after} bytes only",
                self.length
            );
        }
        self.two.assert_intact(&self.paths, self.format);
    }
}

/// How long a guest stood still in each of some moves.
#[derive(Default)]
struct Stalls(Vec<Duration>);

impl Stalls {
    /// A busy machine may miss a time now and then; nothing else may go wrong in any move.
    fn assert_most_below(mut self, limit: Duration, what: &str) {
        self.0.sort_unstable();
        let (median, longest) = (self.0[self.0.len() / 2], self.0[self.0.len() - 1]);
        eprintln!("{what}: longest stall {} ms, median {} ms", longest.as_millis(), median.as_millis());
        assert!(median < limit, "the guest stood still for {:?}", self.0);
    }
}

#[test]
fn a_guest_moves_to_and_fro_ten_times_and_nothing_is_lost_or_stale() {
    let two = Two::start();
    for (format, seed) in [("raw", 61), ("qcow2", 62)] {
        let mut traveller = Traveller::boot(&two, 0, format, seed);
        let mut stalls = Stalls::default();
        for _ in 0..MOVES {
            let stall;
            (traveller, stall) = traveller.travel();
            stalls.0.push(stall);
        }
        assert_eq!(traveller.at, 0, "to and fro");
        stalls.assert_most_below(LONGEST_STALL, &format!("{format}, {MOVES} moves"));
        traveller.finish();
    }
    two.cluster.check_memory();
}

#[test]
fn a_node_that_dies_in_the_middle_of_a_move_costs_a_stall_and_nothing_else() {
    let two = Two::start();
    let mut traveller = Traveller::boot(&two, 0, "qcow2", 63);
    let mut stalls = Stalls::default();
    let leader = two.cluster.leader();
    // The metadata leader, which knows of locks and sizes, both when the guest is still on its way out and later.
    for (node, moment) in [(leader, Moment::Before), (leader % 3 + 1, Moment::During), (0, Moment::During)] {
        let node = if node == 0 { two.cluster.leader() } else { node };
        let processes = two.cluster.processes_of_node(node);
        let kill = |_: &Two| processes.iter().for_each(|pid| kill_process(*pid, Signal::KILL).unwrap());
        let stall;
        (traveller, stall) = traveller.travel_through(moment, kill, |_| ());
        stalls.0.push(stall);
        two.cluster.start_node(node);
        two.cluster.wait_healthy();
    }
    stalls.assert_most_below(LONGEST_STALL + MOVE, "moves during which a node died");
    traveller.finish();
}

#[test]
fn a_host_that_is_cut_off_for_a_while_in_the_middle_of_a_move_finishes_it_later() {
    let two = Two::start();
    let mut traveller = Traveller::boot(&two, 0, "qcow2", 64);
    let mut stalls = Stalls::default();
    // The host that the guest leaves, before and after it begins to leave, and the one that it comes to.
    for (leaves, moment) in [(true, Moment::Before), (true, Moment::During), (false, Moment::During)] {
        let host = if leaves { traveller.at } else { traveller.other() };
        let cut = |two: &Two| two.hosts[host].cut_off();
        let reconnect = |two: &Two| {
            sleep(SHORT_CUT);
            two.hosts[host].reconnect();
        };
        let stall;
        (traveller, stall) = traveller.travel_through(moment, cut, reconnect);
        stalls.0.push(stall);
    }
    assert!(stalls.0.iter().any(|stall| *stall >= SHORT_CUT), "no move met its cut");
    let what = format!("moves during which a host was cut off for {SHORT_CUT:?}");
    stalls.assert_most_below(SHORT_CUT + LONGEST_STALL + MOVE, &what);
    traveller.finish();
}

/// Starts the guest of a lost host on another one; says how long that took, and lets it check what it finds.
fn take_over(two: &Two, image: &Path, format: &'static str, seed: u64, reported: u64) {
    let again = Blueprint { mode: "recheck", rounds: reported, ..two.blueprint(format, seed) };
    let (began, mut refused) = (Instant::now(), 0);
    let (vm, console) = loop {
        let console = Console::default();
        match again.try_boot(image, &console) {
            Ok(vm) => break (vm, console),
            Err(why) => {
                assert!(why.contains("lock"), "{why}");
                assert!(began.elapsed() < TAKEOVER_PATIENCE, "a lost host's image stays locked: {why}");
                refused += 1;
            }
        }
    };
    eprintln!("{format}: another host had the image after {:.1} s, {refused} refusals", began.elapsed().as_secs_f64());
    let summary = vm.finish(&console, END_PATIENCE);
    eprintln!("{format}: {summary}");
    assert!(field(&summary, "rounds") >= reported);
}

#[test]
fn the_guest_of_a_dead_host_is_started_on_another_and_never_runs_twice() {
    let two = Two::start();
    let traveller = Traveller::boot(&two, 1, "qcow2", 65);
    traveller.live();
    for path in &traveller.paths {
        let why = traveller.blueprint.try_boot(path, &Console::default()).err().expect("it runs already");
        assert!(why.contains("lock"), "{why}");
    }
    traveller.live();
    two.hosts[1].kill();
    let Traveller { paths, console, vm, .. } = traveller;
    vm.kill();
    two.hosts[1].clear();
    let reported = console.round();
    assert!(reported >= 2 * ROUNDS_BETWEEN);
    take_over(&two, &paths[0], "qcow2", 65, reported);
    two.check(&paths[0], "qcow2", Leaks::Expected);
    two.cluster.wait_healthy();
    two.cluster.assert_replicas_identical();
}

#[test]
fn a_host_that_is_cut_off_for_good_in_the_middle_of_a_move_writes_nothing_more() {
    let two = Two::start();
    let mut traveller = Traveller::boot(&two, 1, "raw", 66);
    traveller.live();
    let prepared = traveller.prepare();
    // The whole host: its storage, and the guest that is on its way.
    two.hosts[1].cut_off();
    prepared.begin(&mut traveller.vm);
    sleep(LONG_ENOUGH_TO_MOVE);
    prepared.abandon();
    let Traveller { paths, console, vm, .. } = traveller;
    take_over(&two, &paths[0], "raw", 66, console.round());
    two.check(&paths[0], "raw", Leaks::None);
    let before = hash(&paths[0]);

    two.hosts[1].reconnect();
    wait_until("the lost host to be told", TAKEOVER_PATIENCE, || {
        fs::metadata(&paths[1]).is_err_and(|error| error.raw_os_error() == Some(EIO))
    });
    // What it had under way, and what QEMU makes of the errors.
    sleep(LONG_ENOUGH_TO_MOVE);
    vm.kill();
    assert_eq!(hash(&paths[0]), before, "a late write landed");
    two.hosts[1].clear();
    two.cluster.wait_healthy();
    two.cluster.assert_replicas_identical();
}
