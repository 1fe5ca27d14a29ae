//! Random operations against a model, through one mount and through two at once.
//!
//! `WEFT_FSX_SECONDS` (for each test), `WEFT_FSX_SEED` and `WEFT_FSX_MOUNTS` are set by `cargo xtask fsx`.

use std::time::{Duration, Instant};
use weft_tests::cluster::Cluster;
use weft_tests::fsx::{Mapping, Plan, run};

/// What CI has time for.
const SECONDS: u64 = 20;
const SEED: u64 = 20_261;
/// One file grows old and its history long; then the next one.
const STEPS_PER_FILE: u64 = 2_000;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().expect("a number"))
}

fn exercise(cluster: &Cluster, mounts: u64) {
    let mut directories = vec![cluster.mount().to_owned()];
    for extra in 2..=mounts {
        let mount_point = cluster.mount().with_file_name(format!("mnt-{extra}"));
        let _ = cluster.ok(&["dev", "mount", mount_point.to_str().unwrap()]);
        directories.push(mount_point);
    }
    let deadline = Instant::now() + Duration::from_secs(number("WEFT_FSX_SECONDS", SECONDS));
    let mut seed = number("WEFT_FSX_SEED", SEED);
    let mut steps = 0;
    while Instant::now() < deadline {
        // Pages of a file that is open are not promised to be coherent between hosts; opening it anew shows what is there.
        let mapping = if mounts == 1 { Mapping::OfOpenHandle } else { Mapping::OpenedAnew };
        let plan = Plan { seed, directories: directories.clone(), mapping };
        let enough = |steps| steps >= STEPS_PER_FILE || Instant::now() >= deadline;
        steps += run(&plan, enough).unwrap_or_else(|failure| panic!("{failure}"));
        seed += 1;
    }
    eprintln!("fsx: {steps} steps through {mounts} mounts");
    assert!(steps > 0);
}

#[test]
fn random_operations_on_a_file_match_a_model_through_one_mount_and_two() {
    let cluster = Cluster::start();
    match number("WEFT_FSX_MOUNTS", 0) {
        0 => {
            exercise(&cluster, 1);
            exercise(&cluster, 2);
        }
        mounts => exercise(&cluster, mounts),
    }
    cluster.check_memory();
    cluster.assert_replicas_identical();
}
