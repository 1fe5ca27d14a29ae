//! Where the cluster is: the directory that holds the identity with which this command speaks to it.
//!
//! Order: `--cluster`, `$WEFT_CLUSTER` (clap reads it), `./weft-data` of `weft dev`, `/etc/weft`.

use crate::failure::{Failure, Outcome};
use std::path::{Path, PathBuf};

/// Subdirectory of a `weft dev` directory with the administrator's identity.
pub const DEV_ADMIN: &str = "admin";
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
                weft_transport::IDENTITY_FILES.join(", ")
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

fn identity_in(directory: &Path) -> Option<PathBuf> {
    [directory.to_path_buf(), directory.join(DEV_ADMIN)]
        .into_iter()
        .find(|place| weft_transport::IDENTITY_FILES.iter().all(|file| place.join(file).is_file()))
}
