//! `cargo xtask compose-test`: `docker-compose.yml` for real, on this machine's container engine.
//!
//! Responsible for: an image without a registry (the program, its libraries and a static busybox), the compose file as it
//! is under a project name of its own, a node killed while the client writes, healing, digests. Guarantees: containers,
//! volumes, network and image are taken away, whatever happened. Must not know: how a cluster works inside.

use crate::command::{attempt, capture, cargo, is_installed, released_weft, run, target_directory, workspace};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PROJECT: &str = "weft-compose-test";
const SERVICES: [&str; 4] = ["node1", "node2", "node3", "client"];
/// What the compose file's scripts call.
const APPLETS: [&str; 13] =
    ["sh", "cat", "mv", "mkdir", "grep", "sleep", "kill", "dd", "sha256sum", "sync", "ls", "test", "["];
const PATIENCE: Duration = Duration::from_secs(180);

#[derive(Args)]
pub struct ComposeArguments {
    /// Use this `weft` instead of building one
    #[arg(long)]
    binary: Option<PathBuf>,
}

pub fn run_compose_test(arguments: &ComposeArguments) -> Result<(), String> {
    let missing = ["docker", "docker-compose"].into_iter().find(|program| !is_installed(program));
    if let Some(program) = missing {
        return Err(format!("{program} is not installed: install the packages docker.io and docker-compose"));
    }
    capture(Command::new("docker").arg("info"))
        .map_err(|why| format!("the container engine does not answer: {why}"))?;
    let binary = match &arguments.binary {
        Some(binary) => binary.clone(),
        None => {
            run(cargo().args(["build", "--release", "--package", "weft-cli"]))?;
            released_weft()
        }
    };
    let composition = Composition::start(&binary)?;
    composition.survives_the_death_of_a_node()?;
    println!("compose-test: the cluster of docker-compose.yml survived the death of a node with all data");
    Ok(())
}

struct Composition {
    directory: PathBuf,
}

impl Composition {
    fn start(binary: &Path) -> Result<Self, String> {
        let composition = Self { directory: target_directory().join("compose-test") };
        composition.take_away();
        fs::create_dir_all(&composition.directory).map_err(|e| e.to_string())?;
        composition.make_image(binary)?;
        let image = |service: &&str| format!("  {service}: {{ image: {PROJECT} }}\n");
        let services: String = SERVICES.iter().map(image).collect();
        fs::write(composition.overlay(), format!("services:\n{services}")).map_err(|e| e.to_string())?;
        run(composition.compose(&["up", "-d", "--no-build"]).stdout(Stdio::null()))?;
        Ok(composition)
    }

    fn overlay(&self) -> PathBuf {
        self.directory.join("overlay.yml")
    }

    fn compose(&self, words: &[&str]) -> Command {
        let mut command = Command::new("docker-compose");
        command.args(["-p", PROJECT, "-f"]).arg(workspace().join("docker-compose.yml"));
        command.arg("-f").arg(self.overlay()).args(words);
        command
    }

    /// A root file system with nothing but what is needed, as an image.
    fn make_image(&self, binary: &Path) -> Result<(), String> {
        let root = self.directory.join("root");
        let copy = |from: &Path, to: &str| {
            let target = root.join(to.trim_start_matches('/'));
            let parent = target.parent().unwrap_or(&root).to_path_buf();
            fs::create_dir_all(parent)
                .and_then(|()| fs::copy(from, &target))
                .map(drop)
                .map_err(|error| format!("could not copy {} to {}: {error}", from.display(), target.display()))
        };
        copy(binary, "/bin/weft")?;
        let listed = capture(Command::new("ldd").arg(binary))?;
        for library in libraries(&String::from_utf8_lossy(&listed.stdout)) {
            copy(Path::new(&library), &library)?;
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().map(Path::new).find(|path| path.is_file());
        copy(busybox.ok_or("busybox is not installed: install busybox-static")?, "/bin/busybox")?;
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).map_err(|e| e.to_string())?;
        }
        for directory in ["tmp", "etc", "mnt", "var/log", "var/lib"] {
            fs::create_dir_all(root.join(directory)).map_err(|e| e.to_string())?;
        }
        let archive = self.directory.join("root.tar");
        capture(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg("."))?;
        capture(
            Command::new("docker")
                .args(["import", "-c", "ENV PATH=/bin"])
                .arg(&archive)
                .arg(format!("{PROJECT}:latest")),
        )?;
        Ok(())
    }

    fn survives_the_death_of_a_node(&self) -> Result<(), String> {
        self.wait("the client's mount", "grep -q ' /mnt/vms fuse.weft ' /proc/mounts", PATIENCE)?;
        let write = |name: &str| {
            self.client(&format!("dd if=/dev/urandom of=/mnt/vms/{name} bs=1M count=16 conv=fsync 2>/dev/null; sync"))?;
            self.client(&format!("sha256sum /mnt/vms/{name}"))
        };
        let before = write("before")?;
        // SIGKILL to whatever the container runs.
        run(self.compose(&["kill", "-s", "KILL", "node2"]).stdout(Stdio::null()))?;
        let during = write("during")?;
        run(self.compose(&["start", "node2"]).stdout(Stdio::null()))?;
        let healed = "weft --cluster /handover/admin volume heal vms --json | grep -q '\"replicas_missing\": 0'";
        self.wait("all replicas to be in sync", healed, PATIENCE)?;
        // A checkpoint under way shows for a moment.
        self.wait("identical replicas", "weft --cluster /handover/admin volume digest vms >/dev/null", PATIENCE)?;
        for (name, was) in [("before", before), ("during", during)] {
            let is = self.client(&format!("sha256sum /mnt/vms/{name}"))?;
            if is != was {
                return Err(format!("{name} changed: {was} was written, {is} is read"));
            }
        }
        println!("{}", self.client("weft --cluster /handover/admin node list")?);
        Ok(())
    }

    fn client(&self, script: &str) -> Result<String, String> {
        let output = capture(&mut self.compose(&["exec", "-T", "client", "sh", "-ec", script]))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn wait(&self, what: &str, script: &str, patience: Duration) -> Result<(), String> {
        let began = Instant::now();
        while let Err(why) = self.client(script) {
            if began.elapsed() > patience {
                run(&mut self.compose(&["logs", "--tail", "20"]))?;
                return Err(format!("waited {} s for {what}, in vain: {why}", patience.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        eprintln!("{what}: after {:.1} s", began.elapsed().as_secs_f64());
        Ok(())
    }

    /// Undoes as much as there is.
    fn take_away(&self) {
        if self.overlay().exists() {
            attempt(&mut self.compose(&["down", "-v", "--remove-orphans", "-t", "10"]));
        }
        attempt(Command::new("docker").args(["rmi", "-f", PROJECT]));
        // What cannot be deleted shows up when it is made anew.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Drop for Composition {
    fn drop(&mut self) {
        self.take_away();
    }
}

/// Paths in the output of `ldd`: behind an arrow, or at the beginning for the loader.
fn libraries(listed: &str) -> Vec<String> {
    let path = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let found = words.iter().position(|word| *word == "=>").map_or_else(|| words.first(), |at| words.get(at + 1));
        found.filter(|word| word.starts_with('/')).map(|word| (*word).to_owned())
    };
    listed.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found_in_what_ldd_says() {
        let said = "\tlinux-vdso.so.1 (0x00007efd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007efd)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007efd)\n";
        assert_eq!(libraries(said), ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
