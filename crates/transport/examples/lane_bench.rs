//! Measures exchanges over loopback between single-thread runtimes, each in a thread of its own:
//! `cargo run --release -p weft-transport --example lane_bench [mtu [name]]`.
//!
//! Prints the time of a 4 KiB call to one peer and to three at once, and for several depths and sizes the rate, the
//! throughput and the CPU time of both ends for each call.

use bytes::Bytes;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::task::LocalSet;
use weft_transport::connection::NoService;
use weft_transport::{
    Authority, Channel, Connection, Credentials, Endpoint, EndpointConfig, Handler, Hello, HelloRole, Message,
    PeerIdentity, Replier, Service,
};
use weft_types::{ClusterId, Incarnation, NodeId};

const CLUSTER: ClusterId = ClusterId(1);
const TIMEOUT: Duration = Duration::from_secs(10);

struct Acknowledge;

impl Handler for Acknowledge {
    fn on_request(&self, _connection: &Connection, request: Message, replier: Replier) {
        let number: u64 = request.decode().unwrap_or_default();
        replier.reply(&number, ());
    }

    fn on_message(&self, _connection: &Connection, _message: Message) {}
}

fn hello(node: u64) -> Hello {
    Hello { cluster: CLUSTER, role: HelloRole::Node { node: NodeId(node), incarnation: Incarnation(1) } }
}

fn in_own_runtime<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    LocalSet::new().block_on(&runtime, future)
}

fn config(mtu: u16) -> EndpointConfig {
    EndpointConfig { mtu, ..EndpointConfig::new(SocketAddr::from(([127, 0, 0, 1], 0))) }
}

fn start_server(credentials: Credentials, node: u64, mtu: u16) -> SocketAddr {
    let (tell, hear) = mpsc::channel();
    std::thread::spawn(move || {
        in_own_runtime(async move {
            let endpoint = Endpoint::bind(config(mtu), &credentials).expect("bind");
            tell.send(endpoint.local_address().expect("address")).expect("parent");
            let _ = endpoint.serve(Rc::new(Cell::new(hello(node))), Rc::new(Acknowledge)).await;
        });
    });
    hear.recv().expect("server")
}

async fn one_at_a_time(peers: &[Connection], rounds: u32) -> Duration {
    let payload = Bytes::from(vec![5u8; 4096]);
    let started = Instant::now();
    for round in 0..u64::from(rounds) {
        let (tell, hear) = tokio::sync::oneshot::channel();
        let tell = Rc::new(Cell::new(Some(tell)));
        let left = Rc::new(Cell::new(peers.len()));
        for peer in peers {
            let (tell, left) = (Rc::clone(&tell), Rc::clone(&left));
            let on_reply = move |reply: Result<Message, _>| {
                reply.expect("reply");
                left.set(left.get() - 1);
                if left.get() == 0
                    && let Some(tell) = tell.take()
                {
                    let _ = tell.send(());
                }
            };
            peer.call_with(Channel::Small, Service::Data, &round, payload.clone(), TIMEOUT, on_reply).expect("queued");
        }
        hear.await.expect("answered");
    }
    started.elapsed() / rounds
}

/// Keeps `depth` calls of `bytes` in flight to each peer; returns calls a second over all.
async fn deep(peers: &[Connection], depth: usize, bytes: usize, rounds: u32) -> f64 {
    let payload = Bytes::from(vec![5u8; bytes]);
    let started = Instant::now();
    let mut tasks = Vec::new();
    for peer in peers {
        for _ in 0..depth {
            let (peer, payload) = (peer.clone(), payload.clone());
            tasks.push(tokio::task::spawn_local(async move {
                for round in 0..u64::from(rounds) {
                    let call = peer.call::<u64, u64>(Service::Data, &round, payload.clone(), TIMEOUT);
                    call.await.expect("reply");
                }
            }));
        }
    }
    let calls = tasks.len() as f64 * f64::from(rounds);
    for task in tasks {
        task.await.expect("task");
    }
    calls / started.elapsed().as_secs_f64()
}

/// CPU time of this process: what a call costs, whoever else uses the machine.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn main() {
    // A part of the name selects measurements, for profiling one alone.
    let only = std::env::args().nth(2).unwrap_or_default();
    let mtu = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(weft_transport::quic::DEFAULT_MTU);
    let authority = Authority::create(CLUSTER).expect("authority");
    let issue = |node| authority.issue(&PeerIdentity::node(CLUSTER, NodeId(node))).expect("credentials");
    let servers: Vec<_> = (1..=3).map(|node| start_server(issue(node), node, mtu)).collect();
    let mine = issue(9);
    in_own_runtime(async move {
        let endpoint = Endpoint::bind(config(mtu), &mine).expect("bind");
        let mut peers = Vec::new();
        for address in servers {
            peers.push(endpoint.connect(address, hello(9), None, Rc::new(NoService)).await.expect("connect"));
        }
        one_at_a_time(&peers, 500).await;
        println!("packets of {mtu} bytes");
        if only.is_empty() {
            // The best of several short runs: others use the machine too.
            let mut best = (Duration::MAX, Duration::MAX);
            for _ in 0..20 {
                best.0 = best.0.min(one_at_a_time(&peers[..1], 300).await);
                best.1 = best.1.min(one_at_a_time(&peers, 300).await);
            }
            println!("4 KiB to one peer          {:>8.1?}", best.0);
            println!("4 KiB to three at once     {:>8.1?}", best.1);
        }
        for (name, peers, depth, bytes, rounds) in [
            ("4 KiB, depth 1, one peer  ", &peers[..1], 1, 4096, 5000),
            ("4 KiB, depth 32, one peer ", &peers[..1], 32, 4096, 1000),
            ("4 KiB, depth 32, three    ", &peers, 32, 4096, 500),
            ("1 MiB, depth 8, one peer  ", &peers[..1], 8, 1 << 20, 100),
            ("1 MiB, depth 4, three     ", &peers, 4, 1 << 20, 60),
        ] {
            if !name.contains(&only) {
                continue;
            }
            let before = cpu_time();
            let calls_a_second = deep(peers, depth, bytes, rounds).await;
            let calls = (peers.len() * depth) as u32 * rounds;
            let gigabytes = calls_a_second * bytes as f64 / 1e9;
            let each = (cpu_time() - before) / calls;
            println!("{name} {calls_a_second:>8.0}/s  {gigabytes:>5.2} GB/s  {each:>8.1?} of both ends' CPU each");
        }
        println!("{:?}", peers[0].statistics());
    });
}
