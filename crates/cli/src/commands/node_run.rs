//! What makes and runs a node: `weft cluster init`, `weft node run`, and what `weft dev` does of both.

use super::cluster::InitArguments;
use super::node::{RunArguments, Setup};
use super::{Context, secret};
use crate::failure::{Failure, Outcome, While};
use crate::locate;
use std::fs;
use std::path::Path;
use std::process::Command;
use weft_client::Identity;
use weft_node::config::NodeConfig;
use weft_node::identity::{IdentityError, NodeIdentity};
use weft_node::layout::NodeLayout;
use weft_node::place::Place;
use weft_node::setup::{self, AdminIdentity};
use weft_node::supervisor::EXIT_NEEDS_A_PERSON;
use weft_node::worker::Parent;
use weft_node::{parent, preflight, worker};

/// What a node's directory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Membership {
    /// Nothing of a node is there.
    None,
    /// Making a cluster or joining one was broken off; nothing there is in use.
    Unfinished,
    Member,
}

/// # Errors
/// When what is there does not read.
pub fn membership(directory: &Path) -> Outcome<Membership> {
    match NodeIdentity::load(&NodeLayout::new(directory)) {
        Ok(_) => Ok(Membership::Member),
        Err(IdentityError::Absent(_)) => Ok(Membership::None),
        Err(IdentityError::Unfinished { .. }) => Ok(Membership::Unfinished),
        Err(error) => Err(Failure::failed(error.to_string())),
    }
}

/// `weft cluster init`
///
/// # Errors
/// When there is something already, or it cannot be made.
pub fn init(context: Context<'_>, arguments: &InitArguments) -> Outcome {
    refuse_existing_admin(&arguments.admin)?;
    let place = prepare(&arguments.dir, arguments.config.as_deref(), &arguments.setup)?;
    let identity = initialise(&place, &arguments.admin)?;
    let (dir, admin) = (arguments.dir.display(), arguments.admin.display());
    context.audience.show(&identity.cluster.to_string(), |cluster| {
        format!(
            "made cluster {cluster}; start its first node with `weft node run --dir {dir}`, and administer it with \
             `weft --cluster {admin}`"
        )
    })
}

/// Makes the cluster, and the administrator's identity in `admin`.
///
/// # Errors
/// When there is something already, or it cannot be made.
pub fn initialise(place: &Place, admin: &Path) -> Outcome<NodeIdentity> {
    let save = |made: &AdminIdentity| {
        let identity = Identity {
            cluster: made.cluster,
            control_addresses: made.control_addresses.clone(),
            credentials: made.credentials.clone(),
        };
        identity.save(admin).map_err(|error| error.to_string())
    };
    setup::initialise(place, save).map_err(|error| Failure::input(error.to_string()))
}

fn refuse_existing_admin(admin: &Path) -> Outcome {
    if locate::has_identity(admin) {
        return Err(Failure::input(format!(
            "{} holds the identity of a cluster already: name another directory with --admin",
            admin.display()
        )));
    }
    Ok(())
}

/// `weft node run`: the parent, or the worker that it starts.
///
/// # Errors
/// When the configuration or the directory is wrong, or the token is refused. Afterwards the process ends with the exit
/// status of the node itself.
pub fn run(arguments: &RunArguments) -> Outcome {
    let place = prepare(&arguments.dir, arguments.config.as_deref(), &arguments.setup)?;
    crate::start_log(&place.config.log).map_err(Failure::input)?;
    if let Some(token) = &arguments.join {
        let token = secret::token(token)?;
        setup::join(&place, &token).map_err(|error| Failure::input(error.to_string()))?;
    }
    let status = match arguments.worker_of {
        Some(parent) => worker::run(&place, Parent::Process(parent)),
        None => {
            // What is wrong with directory, disks or ports is said once, here, before a process is started.
            preflight::check(&place).map_err(|error| Failure::input(error.to_string()))?;
            let program = std::env::current_exe().doing("find the path of this program")?;
            parent::run(&place, || worker_command(&program, arguments))
        }
    };
    match status {
        0 => Ok(()),
        EXIT_NEEDS_A_PERSON if arguments.worker_of.is_some() => std::process::exit(EXIT_NEEDS_A_PERSON.into()),
        status => {
            let why = worker::take_last_words(&place).unwrap_or_else(|| "see its log".to_owned());
            Err(Failure::with_code(format!("the node ended with status {status}: {why}"), status))
        }
    }
}

fn worker_command(program: &Path, arguments: &RunArguments) -> Command {
    let mut command = Command::new(program);
    command.args(["node", "run", "--worker-of"]).arg(std::process::id().to_string());
    command.arg("--dir").arg(&arguments.dir);
    if let Some(config) = &arguments.config {
        command.arg("--config").arg(config);
    }
    command
}

/// Reads the configuration; writes it first when it is given by flags and there is none yet.
fn prepare(directory: &Path, config: Option<&Path>, setup: &Setup) -> Outcome<Place> {
    if let Some(wanted) = configuration_of(setup)? {
        let file = config.map_or_else(|| NodeLayout::new(directory).config_file(), Path::to_path_buf);
        if file.exists() {
            return Err(Failure::input(format!(
                "{} exists already: change it there, and leave --listen, --name, --disk and --domain out",
                file.display()
            )));
        }
        configure(directory, &wanted)?;
    }
    Place::open(directory, config).map_err(|error| Failure::input(error.to_string()))
}

fn configuration_of(setup: &Setup) -> Outcome<Option<NodeConfig>> {
    let Setup { listen, name, disk, domain } = setup;
    if listen.is_none() && name.is_none() && disk.is_empty() && domain.is_none() {
        return Ok(None);
    }
    let mut config = NodeConfig::default();
    if let Some(listen) = listen {
        config.listen = *listen;
    }
    if let Some(name) = name {
        super::check_name("node", name)?;
        config.name.clone_from(name);
    }
    if !disk.is_empty() {
        config.disks.clone_from(disk);
    }
    if let Some(domain) = domain {
        config.failure_domain = domain.split('/').map(str::to_owned).collect();
    }
    Ok(Some(config))
}

/// Writes `node.toml`.
///
/// # Errors
/// When it cannot be written.
pub fn configure(directory: &Path, config: &NodeConfig) -> Outcome {
    let file = NodeLayout::new(directory).config_file();
    let text = toml::to_string(config).doing(format!("write {}", file.display()))?;
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(&file, text))
        .map_err(|e| Failure::input(format!("could not write {}: {e}", file.display())))
}
