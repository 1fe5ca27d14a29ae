//! Metadata operations a second on a mount, by one thread, and what an idle cluster costs.

use super::weft::DevCluster;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What one loop does, and what design 10 saw GlusterFS do of it.
struct Job {
    name: &'static str,
    seen: f64,
    run: fn(&Path, u64) -> io::Result<()>,
}

/// In this order: later ones use the files that earlier ones made.
const JOBS: &[Job] = &[
    Job { name: "create", seen: 530.0, run: create },
    Job { name: "write+fsync", seen: 240.0, run: write_and_sync },
    Job { name: "stat", seen: 3400.0, run: stat },
    Job { name: "rename", seen: 460.0, run: rename },
    Job { name: "unlink", seen: 210.0, run: unlink },
];
/// The longest that idle processes are watched.
const IDLE: Duration = Duration::from_secs(60);
/// Entries of the directory that several clients fill.
const FILL_CLIENTS: usize = 4;

#[derive(Clone, Debug)]
pub struct Rate {
    name: &'static str,
    seen: f64,
    a_second: f64,
}

fn file(room: &Path, number: u64) -> PathBuf {
    room.join(format!("file-{number}"))
}

fn create(room: &Path, number: u64) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).open(file(room, number)).map(drop)
}

fn write_and_sync(room: &Path, number: u64) -> io::Result<()> {
    let mut file = File::create(room.join(format!("synced-{number}")))?;
    file.write_all(&[7; 4096])?;
    file.sync_all()
}

fn stat(room: &Path, number: u64) -> io::Result<()> {
    fs::metadata(file(room, number)).map(drop)
}

fn rename(room: &Path, number: u64) -> io::Result<()> {
    fs::rename(file(room, number), room.join(format!("renamed-{number}")))
}

fn unlink(room: &Path, number: u64) -> io::Result<()> {
    fs::remove_file(room.join(format!("renamed-{number}")))
}

/// Runs every job for `seconds` in a new directory of `mount`; `stat` goes round the files that were made.
pub fn run(mount: &Path, seconds: u32) -> Result<Vec<Rate>, String> {
    let room = mount.join("metadata");
    fs::create_dir(&room).map_err(|e| format!("could not make {}: {e}", room.display()))?;
    let limit = Duration::from_secs(seconds.into());
    let (mut made, mut rates) = (0, Vec::new());
    for job in JOBS {
        let began = Instant::now();
        let mut done = 0u64;
        while began.elapsed() < limit {
            let number = match job.name {
                "create" | "write+fsync" => done,
                _ if made == 0 => break,
                "stat" => done % made,
                _ if done == made => break,
                _ => done,
            };
            (job.run)(&room, number).map_err(|e| format!("{} of {number}: {e}", job.name))?;
            done += 1;
        }
        match job.name {
            "create" => made = done,
            // What was renamed is what can be unlinked.
            "rename" => made = done,
            _ => {}
        }
        let a_second = done as f64 / began.elapsed().as_secs_f64();
        println!("  {:12} {a_second:8.0} a second", job.name);
        rates.push(Rate { name: job.name, seen: job.seen, a_second });
    }
    Ok(rates)
}

/// Symbolic links a second into one directory, by several clients at once.
pub fn fill(cluster: &DevCluster, seconds: u32) -> Result<f64, String> {
    let mut mounts = Vec::new();
    for client in 0..FILL_CLIENTS {
        let mount = cluster.mount_point().with_file_name(format!("mnt-{client}"));
        crate::command::capture(cluster.weft(&["dev", "mount"]).arg(&mount))?;
        mounts.push(mount);
    }
    fs::create_dir(cluster.mount_point().join("many")).map_err(|e| e.to_string())?;
    let began = Instant::now();
    let limit = Duration::from_secs(seconds.into());
    let made = std::thread::scope(|scope| {
        let workers: Vec<_> = mounts
            .iter()
            .map(|mount| {
                scope.spawn(move || {
                    let mut made = 0u64;
                    while began.elapsed() < limit {
                        let name = mount.file_name().unwrap_or_default().to_string_lossy().into_owned();
                        symlink("target", mount.join(format!("many/{name}-{made}")))?;
                        made += 1;
                    }
                    Ok::<_, io::Error>(made)
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or(Ok(0))).sum::<io::Result<u64>>()
    });
    made.map(|made| made as f64 / began.elapsed().as_secs_f64()).map_err(|e| format!("filling a directory: {e}"))
}

/// Share of a core that each process uses while nothing happens.
pub fn idle(processes: &[(String, i32)]) -> Result<Vec<(String, f64)>, String> {
    let before = processes.iter().map(|(_, pid)| ticks(*pid)).collect::<Result<Vec<_>, _>>()?;
    std::thread::sleep(IDLE);
    let mut shares = Vec::new();
    for ((who, pid), before) in processes.iter().zip(before) {
        let used = ticks(*pid)?.saturating_sub(before);
        // USER_HZ is 100 on every Linux that Weft runs on.
        shares.push((who.clone(), used as f64 / 100.0 / IDLE.as_secs_f64()));
    }
    Ok(shares)
}

/// Processor time of a process in hundredths of a second.
fn ticks(pid: i32) -> Result<u64, String> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    // The second field is a name in parentheses and may hold anything; utime and stime are the 12th and 13th after it.
    let fields: Vec<&str> = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let field = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).ok_or(format!("{path} is malformed"));
    Ok(field(11)? + field(12)?)
}

pub fn table(ours: &[Rate], peer: Option<&[Rate]>) -> String {
    let mut text = format!("{:12} {:>8} {:>8} {:>7} {:>10}\n", "operation", "weft", "peer", "ratio", "seen once");
    for rate in ours {
        let theirs = peer.and_then(|rates| rates.iter().find(|r| r.name == rate.name)).map(|r| r.a_second);
        let shown = theirs.map_or_else(|| "-".to_owned(), |t| format!("{t:.0}"));
        let ratio = rate.a_second / theirs.unwrap_or(rate.seen);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:12} {:>8.0} {shown:>8} {ratio:>6.2}x {:>10.0}", rate.name, rate.a_second, rate.seen);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_time_of_this_process_can_be_read() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let before = ticks(pid).unwrap();
        let began = Instant::now();
        while ticks(pid).unwrap() == before {
            assert!(began.elapsed() < Duration::from_secs(30), "no processor time was counted");
        }
    }
}
