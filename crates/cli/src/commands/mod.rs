//! One file per command group: its arguments, and what it prints.

pub mod client;
pub mod cluster;
pub mod debug;
pub mod events;
pub mod heal;
pub mod image;
pub mod lock;
pub mod mount;
pub mod node;
pub mod node_run;
pub mod secret;
pub mod token;
pub mod volume;

use crate::failure::{Failure, Outcome};
use crate::output::Audience;
use std::path::Path;

/// What every command is given.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// `--cluster`
    pub cluster: Option<&'a Path>,
    pub audience: Audience,
}

/// Answer to "do you mean it?" for commands that destroy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::Args)]
pub struct Consent {
    /// Do it without asking
    #[arg(long)]
    pub yes: bool,
    /// Say what would be done, and do nothing
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
}

/// Whether to go on with something that destroys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    Proceed,
    OnlySay,
}

impl Consent {
    /// `what` completes "this ...", for example "deletes volume vms with its 12 files".
    ///
    /// # Errors
    /// When neither `--yes` nor `--dry-run` was given.
    pub fn decide(self, what: &str) -> Outcome<Decision> {
        match (self.yes, self.dry_run) {
            (true, _) => Ok(Decision::Proceed),
            (false, true) => {
                crate::output::say(&format!("would do: {what}"))?;
                Ok(Decision::OnlySay)
            }
            (false, false) => Err(Failure::input(format!(
                "this {what}: repeat the command with --yes to do it, or --dry-run to look"
            ))),
        }
    }
}

/// Names that go into tables, paths and certificates: the same rule on the command line as in the cluster.
///
/// # Errors
/// One sentence that says what is wrong with the name.
pub fn check_name(what: &str, name: &str) -> Result<(), Failure> {
    let limit = weft_types::limits::MAX_LABEL_BYTES;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let wrong = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > limit {
        format!("has {} bytes, and {limit} are allowed", name.len())
    } else if let Some(bad) = name.chars().find(|c| !allowed(*c)) {
        format!("contains `{}`: use letters, digits, `-`, `_` and `.`", bad.escape_default())
    } else if name.starts_with(['.', '-']) {
        "begins with `.` or `-`: begin with a letter or a digit".to_owned()
    } else {
        return Ok(());
    };
    Err(Failure::input(format!("the {what} name `{}` {wrong}", name.escape_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_empty_too_long_or_has_a_slash_is_refused_in_one_sentence() {
        assert!(check_name("volume", "vms-1.old").is_ok());
        for (bad, says) in
            [("", "is empty"), ("a/b", "contains `/`"), (".x", "begins with"), (&"x".repeat(64), "64 bytes")]
        {
            let sentence = check_name("volume", bad).unwrap_err().to_string();
            assert!(sentence.contains(says), "{sentence}");
        }
    }

    #[test]
    fn what_destroys_needs_consent() {
        assert!(Consent { yes: false, dry_run: false }.decide("deletes it").is_err());
        assert_eq!(Consent { yes: true, dry_run: false }.decide("deletes it").unwrap(), Decision::Proceed);
        assert_eq!(Consent { yes: false, dry_run: true }.decide("deletes it").unwrap(), Decision::OnlySay);
    }
}
