//! PostgreSQL on the mount: what it acknowledged is there after SIGKILL of all of it, and after the death of its host and
//! of a node at once. (docs/SEMANTICS.md, S7.)
//!
//! Run by `cargo xtask workloads --only postgres`, which brings PostgreSQL and says in `WEFT_POSTGRES` where it is.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use weft_tests::cluster::{Cluster, wait_until};
use weft_tests::host::Host;
use weft_tests::postgres::Server;
use weft_tests::program::{output, run, said};

const WRITERS: usize = 4;
const PGBENCH_CLIENTS: u64 = 6;
/// pgbench has 100,000 accounts for each, 15 MB.
const SCALE: &str = "5";
/// How long each part works before something happens; `WEFT_POSTGRES_SECONDS` says otherwise.
const SECONDS: u64 = 20;
/// Rows that must have been acknowledged in a part, so that it says something.
const ROWS_AT_LEAST: u64 = 100;
/// An election, on a machine that does something else as well.
const LEADER_PATIENCE: Duration = Duration::from_secs(60);
/// On a machine that does something else as well.
const WORK_PATIENCE: Duration = Duration::from_secs(240);

fn seconds() -> u64 {
    std::env::var("WEFT_POSTGRES_SECONDS").ok().map_or(SECONDS, |text| text.parse().expect("a number"))
}

/// What one client wrote: its rows are numbered from 1 without a gap.
#[derive(Default)]
struct Ledger {
    acknowledged: AtomicU64,
}

/// Clients that insert numbered rows, one transaction each, and pgbench beside them.
struct Work {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
    pgbench: Child,
    at_start: u64,
}

struct Database {
    server: Server,
    ledgers: Vec<Arc<Ledger>>,
    parts: u32,
}

impl Database {
    fn create(server: Server) -> Self {
        let _ = server.query("create table rows(client int, n int, filler text, primary key(client, n))");
        let _ = run(server.program("pgbench").args(["--quiet", "-i", "-s", SCALE]).stderr(Stdio::null()));
        Self { server, ledgers: (0..WRITERS).map(|_| Arc::default()).collect(), parts: 0 }
    }

    fn acknowledged(&self) -> u64 {
        self.ledgers.iter().map(|ledger| ledger.acknowledged.load(Ordering::Relaxed)).sum()
    }

    /// `limit` makes pgbench end by itself.
    fn begin_work(&mut self, limit: Duration) -> Work {
        self.parts += 1;
        let stop = Arc::new(AtomicBool::new(false));
        let writer = |(client, ledger): (usize, &Arc<Ledger>)| {
            let words = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"];
            let mut psql = self.server.program("psql");
            psql.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(self.server.client_log());
            let (ledger, stop) = (Arc::clone(ledger), Arc::clone(&stop));
            let psql = psql.spawn().unwrap();
            std::thread::spawn(move || insert_rows(psql, client, &ledger, &stop))
        };
        let writers = self.ledgers.iter().enumerate().map(writer).collect();
        let mut pgbench = self.server.program("pgbench");
        // Without -n it would empty its history, which is held against what it was told.
        pgbench.args(["-n", "-j", "2", "-l", "-c", &PGBENCH_CLIENTS.to_string(), "-T", &limit.as_secs().to_string()]);
        pgbench.arg("--log-prefix").arg(self.server.beside().join(format!("transactions-{}", self.parts)));
        let pgbench = pgbench.stdout(Stdio::null()).stderr(self.server.client_log()).spawn().unwrap();
        Work { stop, writers, pgbench, at_start: self.acknowledged() }
    }

    fn wait_for_work(&self, work: &Work) {
        let began = Instant::now();
        wait_until("the clients to work", WORK_PATIENCE, || {
            let rows = self.acknowledged() - work.at_start;
            began.elapsed() >= Duration::from_secs(seconds()) && rows >= ROWS_AT_LEAST
        });
    }

    /// Transactions of which pgbench was told that they are committed, in all parts.
    fn noted_by_pgbench(&self) -> u64 {
        let files = fs::read_dir(self.server.beside()).unwrap().flatten();
        let notes = files.filter(|entry| entry.file_name().to_string_lossy().starts_with("transactions-"));
        notes.map(|entry| fs::read_to_string(entry.path()).unwrap().lines().count() as u64).sum()
    }

    /// Everything acknowledged is there, and beyond it at most the one transaction that each client had under way in each
    /// part that was cut short; indexes, heap and a full dump are good.
    fn check(&self, cut_short: u64) {
        let found = self.server.query("select client, count(*), max(n) from rows group by 1 order by 1");
        let mut clients = 0;
        for (line, (client, ledger)) in found.lines().zip(self.ledgers.iter().enumerate()) {
            let columns: Vec<u64> = line.split('|').map(|column| column.parse().unwrap()).collect();
            let acknowledged = ledger.acknowledged.load(Ordering::Relaxed);
            let &[of, count, last] = columns.as_slice() else { panic!("psql said {line}") };
            assert_eq!((of, count), (client as u64, last), "rows of client {client} are missing");
            assert!(last >= acknowledged, "{acknowledged} rows of client {client} were acknowledged, {last} are there");
            assert!(last <= acknowledged + 1, "client {client} has {last} rows and inserted {acknowledged} and one");
            // The one under way was committed: the client would not know, and goes on behind it.
            ledger.acknowledged.store(last, Ordering::Relaxed);
            clients += 1;
        }
        assert_eq!(clients, WRITERS, "clients without a row:\n{found}");

        let sums = "select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches), \
                    (select sum(tbalance) from pgbench_tellers), sum(delta), count(*) from pgbench_history";
        let sums = self.server.query(sums);
        let columns: Vec<i64> = sums.split('|').map(|column| column.parse().unwrap()).collect();
        assert!(columns[..4].iter().all(|sum| *sum == columns[0]), "pgbench's books do not balance: {sums}");
        let (committed, noted) = (columns[4].unsigned_abs(), self.noted_by_pgbench());
        assert!(committed >= noted, "{noted} transactions of pgbench were acknowledged, {committed} are there");
        assert!(
            committed <= noted + cut_short * PGBENCH_CLIENTS,
            "{committed} transactions, of which {noted} are noted"
        );
        eprintln!("all there: {} rows, {noted} transactions of pgbench ({committed} committed)", self.acknowledged());

        let words = ["--all", "--install-missing", "--heapallindexed", "--parent-check"];
        let checked = output(self.server.program("pg_amcheck").args(words));
        assert!(checked.status.success() && checked.stdout.is_empty(), "pg_amcheck: {}", said(&checked));
        let _ = run(self.server.program("pg_dump").args(["-f", "/dev/null"]));
    }
}

impl Work {
    /// Clients end when their server is gone.
    fn cut_short(mut self) {
        self.writers.into_iter().for_each(|writer| writer.join().unwrap());
        let status = self.pgbench.wait().unwrap();
        assert!(!status.success(), "pgbench noticed nothing");
    }

    /// Clients end in good order, and none met an error.
    fn ends(mut self) {
        assert!(self.pgbench.wait().unwrap().success(), "pgbench met an error");
        assert!(self.writers.iter().all(|writer| !writer.is_finished()), "a client met an error");
        self.stop.store(true, Ordering::Relaxed);
        self.writers.into_iter().for_each(|writer| writer.join().unwrap());
    }
}

fn insert_rows(mut psql: Child, client: usize, ledger: &Ledger, stop: &AtomicBool) {
    let mut input = psql.stdin.take().unwrap();
    let mut answers = BufReader::new(psql.stdout.take().unwrap()).lines();
    while !stop.load(Ordering::Relaxed) {
        let next = ledger.acknowledged.load(Ordering::Relaxed) + 1;
        // psql prints the number when the transaction is committed.
        let insert = format!("insert into rows values({client}, {next}, repeat('{next} ', 60)) returning n;\n");
        if input.write_all(insert.as_bytes()).is_err() {
            break;
        }
        match answers.next() {
            Some(Ok(said)) if said == next.to_string() => ledger.acknowledged.store(next, Ordering::Relaxed),
            Some(Ok(said)) => panic!("psql said {said}"),
            Some(Err(_)) | None => break,
        }
    }
    drop(input);
    psql.wait().unwrap();
}

#[test]
#[ignore = "run by `cargo xtask workloads --only postgres`"]
fn what_postgres_acknowledged_outlives_its_processes_its_host_and_a_node() {
    let programs =
        PathBuf::from(std::env::var_os("WEFT_POSTGRES").expect("`cargo xtask workloads` sets WEFT_POSTGRES"));
    let cluster = Cluster::start();
    // The user postgres has to get through it to the mount and to its socket.
    fs::set_permissions(cluster.files(), Permissions::from_mode(0o711)).unwrap();
    let first = Host::first(&cluster);
    let beside = cluster.files().join("postgres");
    let began = Instant::now();
    let mut server = Server::create(&programs, &first.mount().join("pgdata"), &beside);
    let _ = server.start(&[]);
    let mut database = Database::create(server);
    eprintln!("created in {:.1} s", began.elapsed().as_secs_f64());

    // All of postgres dies.
    let work = database.begin_work(WORK_PATIENCE);
    database.wait_for_work(&work);
    database.server.kill();
    work.cut_short();
    // From here on the write-ahead log is written with O_DSYNC.
    let recovery = database.server.start(&["wal_sync_method=open_datasync"]);
    eprintln!("after SIGKILL of postgres it answers in {:.1} s", recovery.as_secs_f64());
    database.check(1);

    // Its host dies, and a node with it; postgres is started on another host.
    let work = database.begin_work(WORK_PATIENCE);
    database.wait_for_work(&work);
    let victim = cluster.leader();
    let began = Instant::now();
    first.kill();
    cluster.kill_node(victim);
    database.server.kill();
    work.cut_short();
    first.clear();
    wait_until("another metadata leader", LEADER_PATIENCE, || {
        let status = cluster.try_json(&["dev", "status"]).unwrap_or_default();
        status["cluster"]["leader"].as_u64().is_some_and(|leader| leader != victim)
    });
    let second = Host::another(&cluster, "host-b");
    database.server.moves_to(&second.mount().join("pgdata"));
    let _ = database.server.start(&["wal_sync_method=open_datasync"]);
    eprintln!("after SIGKILL of its host and a node it answers in {:.1} s", began.elapsed().as_secs_f64());
    database.check(2);

    // The node returns while they work; nobody meets an error.
    let work = database.begin_work(Duration::from_secs(seconds()));
    cluster.start_node(victim);
    work.ends();
    database.check(2);
    database.server.stop();
    let _ = run(database.server.program("pg_checksums").arg("--check").arg("-D").arg(second.mount().join("pgdata")));
    cluster.wait_healthy();
    cluster.check_memory();
    cluster.assert_replicas_identical();
}
