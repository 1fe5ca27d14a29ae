//! Where the cluster is: the directory that holds the identity with which this command speaks to it.
//!
//! Order: `--cluster`, `$WEFT_CLUSTER` (clap reads it), `./weft-data` of `weft dev`, `/etc/weft`.

use crate::failure::{Failure, Outcome};
use std::path::{Path, PathBuf};
use weft_client::identity::{CLUSTER_FILE, CREDENTIALS_FILE};

/// Subdirectory of a `weft dev` directory with the administrator's identity.
pub const DEV_ADMIN: &str = "admin";
/// What makes a directory an identity.
const IDENTITY_FILES: [&str; 2] = [CREDENTIALS_FILE, CLUSTER_FILE];
const DEV_DIRECTORY: &str = "weft-data";
const SYSTEM_DIRECTORY: &str = "/etc/weft";

/// The identity directory to use.
///
/// # Errors
/// When none of the places holds an identity; names them.
pub fn identity_directory(given: Option<&Path>) -> Outcome<PathBuf> {
    if let Some(directory) = given {
        return identity_in(directory).ok_or_else(|| {
            Failure::input(format!(
                "{} holds no cluster identity ({}): name the directory that `weft cluster init` or `weft dev` made",
                directory.display(),
                IDENTITY_FILES.join(", ")
            ))
        });
    }
    [DEV_DIRECTORY, SYSTEM_DIRECTORY].iter().find_map(|place| identity_in(Path::new(place))).ok_or_else(|| {
        Failure::input(format!(
            "no cluster found in ./{DEV_DIRECTORY} or {SYSTEM_DIRECTORY}: start one with `weft dev`, or name its identity \
             directory with --cluster or $WEFT_CLUSTER"
        ))
    })
}

/// Whether the directory is an identity.
#[must_use]
pub fn has_identity(directory: &Path) -> bool {
    IDENTITY_FILES.iter().all(|file| directory.join(file).is_file())
}

fn identity_in(directory: &Path) -> Option<PathBuf> {
    [directory.to_path_buf(), directory.join(DEV_ADMIN)].into_iter().find(|place| has_identity(place))
}
